//! Compares the files of a pack with its lock. Nothing is compiled, and the store is not read.
//!
//! In: a lock and the directory of the files. Out: one [`Finding`] per adapter, sorted by name.

use std::fmt;
use std::path::Path;

use serde::Serialize;
use t2lc_runtime::digest::Digest;

use super::PackError;
use super::artifact::{State, state};
use super::lock::{Lock, LockedAdapter};
use super::place::{join, symlink};

/// What lies where an adapter belongs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "found", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Found {
    /// The adapter that the lock names.
    Right,
    /// Nothing.
    Missing,
    /// Something of another size.
    Size {
        /// Bytes found.
        got: u64,
    },
    /// Something of the same size and other content.
    Content {
        /// Digest found.
        got: Digest,
    },
    /// Something that is not of the adapter's form, or is reached through a symbolic link.
    Kind,
}

/// One adapter and what lies where it belongs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Name of the adapter.
    pub name: String,
    /// Its file or directory, below the directory of the files.
    pub output: String,
    /// Digest according to the lock.
    pub content: Digest,
    /// Bytes according to the lock.
    pub size_bytes: u64,
    /// What lies there.
    #[serde(flatten)]
    pub found: Found,
}

impl Finding {
    /// Whether the adapter is there.
    pub fn is_right(&self) -> bool {
        self.found == Found::Right
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let output = &self.output;
        match &self.found {
            Found::Right => write!(f, "`{output}` is right"),
            Found::Missing => write!(f, "`{output}` is missing"),
            Found::Size { got } => {
                write!(f, "`{output}` has {got} bytes, the lock says {}", self.size_bytes)
            }
            Found::Content { got } => {
                write!(f, "`{output}` is {got}, the lock says {}", self.content)
            }
            Found::Kind => write!(f, "`{output}` is not a file or directory of the lock's form"),
        }
    }
}

/// Looks at every adapter of a lock.
///
/// # Errors
/// A file that is there and cannot be read.
pub fn check(lock: &Lock, directory: &Path) -> Result<Vec<Finding>, PackError> {
    lock.adapters.iter().map(|adapter| finding(adapter, directory)).collect()
}

fn finding(adapter: &LockedAdapter, directory: &Path) -> Result<Finding, PackError> {
    let LockedAdapter { name, output, format, content, size_bytes, .. } = adapter;
    let state = match symlink(directory, output) {
        Some(_) => State::Kind,
        None => state(&join(directory, output), *format, content, *size_bytes)?,
    };
    let found = match state {
        State::Right => Found::Right,
        State::Absent => Found::Missing,
        State::Size { got } => Found::Size { got },
        State::Content { got } => Found::Content { got },
        State::Kind => Found::Kind,
    };
    Ok(Finding {
        name: name.clone(),
        output: output.clone(),
        content: *content,
        size_bytes: *size_bytes,
        found,
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use t2lc_runtime::digest::Digest;

    use super::{Found, check};
    use crate::pack::lock::tests::sample;

    #[test]
    fn every_file_is_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        let mut lock = sample(&[("a", "1"), ("b", "2"), ("c", "3"), ("d", "4"), ("e", "5")]);
        for adapter in &mut lock.adapters {
            (adapter.content, adapter.size_bytes) = (Digest::of(b"bytes"), 5);
        }
        for (name, text) in [("a", "bytes"), ("b", "bite"), ("c", "bytez")] {
            fs::write(dir.path().join(format!("{name}.gguf")), text).unwrap();
        }
        fs::create_dir(dir.path().join("d.gguf")).unwrap();
        let found: Vec<Found> =
            check(&lock, dir.path()).unwrap().into_iter().map(|finding| finding.found).collect();
        let content = Found::Content { got: Digest::of(b"bytez") };
        let expected = [Found::Right, Found::Size { got: 4 }, content, Found::Kind, Found::Missing];
        assert_eq!(found, expected);
    }
}
