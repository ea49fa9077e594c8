//! Adapter packs: many adapters from one file that people write, reproducibly.
//!
//! ```text
//! pack.toml ─► plan ─► pack.lock ─► files
//!              what should be made   what was made, by digest
//! ```
//!
//! - [`manifest`]: `pack.toml`, written by people, and the files that it includes;
//! - [`plan`]: every adapter with the recipe that makes it;
//! - [`lock`]: `pack.lock`, written by the program and committed: recipe, content, size;
//! - [`stale`]: what differs between a plan and a lock, or two locks, and which input is to blame;
//! - [`build`]: compiles what the [store](crate::store) lacks and puts the files in place;
//! - [`check`]: compares the files with the lock;
//! - [`diff`] and [`delta`]: two locks side by side, and how far the weights moved;
//! - [`oci`]: a pack as an OCI image layout for registries, with a statement of its origin;
//! - [`serve`]: how llama-server loads all adapters of a lock.

mod artifact;
pub mod build;
pub mod check;
pub mod delta;
pub mod diff;
mod document;
pub mod lock;
pub mod manifest;
pub mod oci;
mod place;
pub mod plan;
mod problems;
pub mod serve;
pub mod stale;
mod statement;

use std::path::PathBuf;

use t2lc_runtime::atomic::AtomicWriteError;
use t2lc_runtime::digest::Digest;

use crate::store::StoreError;
use stale::Change;

/// Why a pack cannot be used or built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PackError {
    /// `pack.toml`, or a file it names, is not what it should be; everything wrong at once.
    #[error("`{}` is not a usable pack:\n  {}", .path.display(), .problems.join("\n  "))]
    Manifest {
        /// The file.
        path: PathBuf,
        /// One text per problem, with file, line and reason.
        problems: Vec<String>,
    },
    /// `pack.lock` is not what the program writes.
    #[error("`{}` is not a usable lock:\n  {}", .path.display(), .problems.join("\n  "))]
    Lock {
        /// The file.
        path: PathBuf,
        /// One text per problem, with file, line and reason.
        problems: Vec<String>,
    },
    /// There is no `pack.lock`, and none may be written.
    #[error("there is no `{}`", .path.display())]
    NoLock {
        /// Where it should be.
        path: PathBuf,
    },
    /// The lock does not belong to the pack any more.
    #[error("`{}` is stale:\n  {}", .path.display(), lines(.changes))]
    Stale {
        /// The lock.
        path: PathBuf,
        /// What has changed.
        changes: Vec<Change>,
    },
    /// Adapters that only a compilation could give, where none is allowed.
    #[error("{} adapters are not in the store: {}", .names.len(), quoted(.names))]
    Missing {
        /// Names of the adapters.
        names: Vec<String>,
    },
    /// Adapters that could not be compiled.
    #[error("{} adapters cannot be compiled:\n  {}", .failures.len(), .failures.join("\n  "))]
    Compile {
        /// Name and reason of each.
        failures: Vec<String>,
    },
    /// Equal inputs gave other bytes than the lock says.
    #[error(
        "`{name}` came out as {got}, the lock says {expected}, although no input has changed: \
         the lock was edited, or this CPU computes otherwise with this backend"
    )]
    Content {
        /// Name of the adapter.
        name: String,
        /// Digest according to the lock.
        expected: Digest,
        /// Digest of what was compiled.
        got: Digest,
    },
    /// Bytes of the lock's digest that cannot be told apart into two files.
    #[error("`{name}` is as locked, but no PEFT adapter: its weights do not say where they end")]
    NotPeft {
        /// Name of the adapter.
        name: String,
    },
    /// An OCI layout that is not what it says, or not what the lock says.
    #[error("`{}` is not a sound pack:\n  {}", .path.display(), .problems.join("\n  "))]
    Layout {
        /// The directory.
        path: PathBuf,
        /// One text per problem, with file and reason.
        problems: Vec<String>,
    },
    /// Outputs that exist and were not written by this pack.
    #[error("{} outputs exist and are not of this pack: {}", .paths.len(), quoted(.paths))]
    Foreign {
        /// The files or directories.
        paths: Vec<String>,
    },
    /// An output whose way leads through a symbolic link.
    #[error("output `{output}` leads through the symbolic link `{}`", .link.display())]
    Symlink {
        /// The output, as the pack names it.
        output: String,
        /// The link.
        link: PathBuf,
    },
    /// The store loses what is put into it.
    #[error("the store loses what is put into it: {}", quoted(.names))]
    Lost {
        /// Names of the adapters.
        names: Vec<String>,
    },
    /// The bundle or the backend cannot be used.
    #[error(transparent)]
    Runtime(#[from] t2lc_runtime::error::Error),
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file cannot be put in place.
    #[error(transparent)]
    Output(#[from] AtomicWriteError),
    /// A file or directory cannot be read or made.
    #[error("cannot {what} `{}`", .path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

fn lines(changes: &[Change]) -> String {
    changes.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n  ")
}

fn quoted(names: &[String]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}
