//! `pack.toml`: which adapters a pack has, as people write it.
//!
//! ```toml
//! schema = 1
//! include = ["more.toml"]           # further [[adapter]] tables, below this file's directory
//!
//! [pack]                            # all of it optional
//! name = "support-desk"
//! model = "models/base.t2lc"        # bundle directory; without it, the one built in
//! out = "adapters"                  # where the files go
//! format = "gguf"
//! quantization = "q8_0"
//! scale = 1.0
//!
//! [[adapter]]
//! name = "legal"
//! description = "summarize legal text"
//!
//! [[adapter]]
//! name = "mail"
//! description_file = "mail.txt"     # below the directory of the file that names it
//! quantization = "f16"
//! scale = 0.5
//! output = "desk/mail.gguf"
//! ```
//!
//! In: such a file, not trusted. Out: a [`Manifest`], every description canonical and every output
//! confined, or all problems at once with file, line and reason. No path is absolute, leads out of
//! the pack's directory or through a symbolic link; sizes, counts and the depth of includes are
//! bounded. Line ends do not matter.

mod reading;

use std::path::{Path, PathBuf};

use t2lc_runtime::compile::Format;
use t2lc_runtime::describe::Description;
use t2lc_runtime::quantize::Quantization;

use super::PackError;
use super::document::read_limited;
use super::place::join;
use reading::{MAX_FILE_BYTES, Reading, Settings};

/// The only schema this version reads.
pub const SCHEMA: u64 = 1;
/// Name that commands look for.
pub const FILE: &str = "pack.toml";
/// Where the files go unless the pack says otherwise.
pub const DEFAULT_OUT: &str = "adapters";
/// Most adapters of a pack.
pub(super) const MAX_ADAPTERS: usize = 10_000;

/// What is to be made.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    /// The file.
    pub path: PathBuf,
    /// Name of the pack.
    pub name: Option<String>,
    /// Bundle directory; `None` for the one built in.
    pub model: Option<PathBuf>,
    /// Where the files go, below the pack's directory.
    pub out: String,
    /// Form of the files.
    pub format: Format,
    /// The adapters, in the order of reading.
    pub adapters: Vec<AdapterEntry>,
}

/// One adapter of a pack.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterEntry {
    /// Its name, unique in any letter case.
    pub name: String,
    /// What it should do.
    pub description: Description,
    /// Its file or directory, below the pack's output directory.
    pub output: String,
    /// Tensor type.
    pub quantization: Quantization,
    /// Strength.
    pub scale: f32,
}

impl Manifest {
    /// Reads a pack. Outputs are checked below `out`, else below the directory the pack names.
    ///
    /// # Errors
    /// A file that cannot be read, or all problems of the files.
    pub fn read(path: &Path, out: Option<&Path>) -> Result<Self, PackError> {
        let bytes = read_limited(path, MAX_FILE_BYTES).map_err(|source| PackError::Io {
            what: "read",
            path: path.to_owned(),
            source,
        })?;
        let mut reading = Reading::new(directory(path));
        let settings = reading.root(path, bytes);
        while let Some(include) = reading.open.pop_front() {
            reading.included(&include, &settings);
        }
        let out_dir = out.map_or_else(|| join(&reading.directory, &settings.out), Path::to_owned);
        reading.check_outputs(path, &out_dir);
        if !reading.problems.is_empty() {
            let problems = reading.problems.into_texts();
            return Err(PackError::Manifest { path: path.to_owned(), problems });
        }
        let Settings { name, model, out, format, .. } = settings;
        let adapters = reading.adapters.into_iter().map(|(entry, _)| entry).collect();
        Ok(Self { path: path.to_owned(), name, model, out, format, adapters })
    }

    /// The pack's directory.
    pub fn directory(&self) -> PathBuf {
        directory(&self.path)
    }

    /// The lock beside the file: `pack.lock` for `pack.toml`.
    pub fn lock_path(&self) -> PathBuf {
        self.path.with_extension("lock")
    }

    /// Where the files go: the given directory, else the one that the pack names.
    pub fn out_dir(&self, given: Option<&Path>) -> PathBuf {
        given.map_or_else(|| join(&self.directory(), &self.out), Path::to_owned)
    }
}

/// The directory of a file; `.` where the path has none.
fn directory(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

#[cfg(test)]
mod tests;
