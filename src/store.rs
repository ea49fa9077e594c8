//! The store: adapters on disk, found by the digest of their bytes or of their recipe.
//!
//! ```text
//! blobs/sha256/ab/cdef…    the bytes whose sha256 is abcdef…
//! recipes/sha256/ab/cdef…  what the recipe abcdef… gave: content digest, size, nearest tasks
//! ```
//!
//! In: bytes and records. Out: the same, or nothing: whatever is read is checked, and what does not
//! agree with its digest is removed, so that it is made again. Every file appears under its name
//! whole (temporary file and rename), and storing the same thing twice changes nothing, so any
//! number of processes may share a store without locks. Stores merge by copying their files.

mod collect;
mod record;

pub use collect::{Collected, Damaged, Kept, Listed};
pub(crate) use record::T2LC;
pub use record::{NearTask, Record};

use std::ffi::OsString;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use t2lc_runtime::atomic::{AtomicWriteError, write_atomically};
use t2lc_runtime::digest::Digest;

/// Variable that names the store's directory.
pub const VARIABLE: &str = "T2LC_STORE";
/// Subdirectory of the adapters.
const BLOBS: &str = "blobs";
/// Subdirectory of the records.
const RECIPES: &str = "recipes";
/// Largest blob that is read.
const MAX_BLOB_BYTES: u64 = 4 << 30;
/// Largest record that is read.
const MAX_RECORD_BYTES: u64 = 1 << 20;

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The environment names no place for it.
    #[error("no directory for the store: neither {VARIABLE}, XDG_CACHE_HOME nor HOME is set")]
    NoDirectory,
    /// A file or directory of the store cannot be read or changed.
    #[error("cannot {what} `{}`", .path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write to the store")]
    Write(#[from] AtomicWriteError),
    /// Bytes that no reader would take back.
    #[error("an adapter of {bytes} bytes is too large for the store, at most {MAX_BLOB_BYTES}")]
    TooLarge {
        /// Their number.
        bytes: u64,
    },
}

/// A directory of adapters. Nothing is created before something is stored.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

impl Store {
    /// The store in a directory, which need not exist.
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// The store of the given directory, else of `T2LC_STORE`, else `t2lc/store` in the user's
    /// cache directory. An empty variable counts as unset.
    ///
    /// # Errors
    /// If no place is given and the environment has none.
    pub fn locate(given: Option<&Path>) -> Result<Self, StoreError> {
        given
            .map(Path::to_owned)
            .or_else(|| default_root(|name| std::env::var_os(name)))
            .map(Self::new)
            .ok_or(StoreError::NoDirectory)
    }

    /// Its directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Stores bytes under their digest; damaged bytes of that name are replaced.
    ///
    /// # Errors
    /// If the system fails.
    pub fn put(&self, bytes: &[u8]) -> Result<Digest, StoreError> {
        let size_bytes = bytes.len() as u64;
        if size_bytes > MAX_BLOB_BYTES {
            return Err(StoreError::TooLarge { bytes: size_bytes });
        }
        let content = Digest::of(bytes);
        if self.get(&content)?.is_none() {
            self.write(&self.place(BLOBS, &content), bytes)?;
        }
        Ok(content)
    }

    /// The bytes of a digest. Bytes that do not have it are removed, and are none.
    ///
    /// # Errors
    /// If the system fails.
    pub fn get(&self, content: &Digest) -> Result<Option<Vec<u8>>, StoreError> {
        let path = self.place(BLOBS, content);
        let Some(bytes) = read(&path, MAX_BLOB_BYTES)? else { return Ok(None) };
        if Digest::of(&bytes) == *content {
            touch(&path);
            return Ok(Some(bytes));
        }
        remove(&path)?;
        Ok(None)
    }

    /// Whether there are so many bytes under a digest; their content is not looked at.
    pub fn contains(&self, content: &Digest, size_bytes: u64) -> bool {
        let found = fs::symlink_metadata(self.place(BLOBS, content));
        found.is_ok_and(|found| found.is_file() && found.len() == size_bytes)
    }

    /// Remembers what a recipe gave.
    ///
    /// # Errors
    /// If the system fails.
    pub fn record(&self, recipe: &Digest, record: &Record) -> Result<(), StoreError> {
        self.write(&self.place(RECIPES, recipe), record.to_text(recipe).as_bytes())
    }

    /// What a recipe gave to this version of the program, if its bytes are still there. A record
    /// that is damaged is removed; one of another version is passed over.
    ///
    /// # Errors
    /// If the system fails.
    pub fn look_up(&self, recipe: &Digest) -> Result<Option<Record>, StoreError> {
        let path = self.place(RECIPES, recipe);
        let Some(bytes) = read(&path, MAX_RECORD_BYTES)? else { return Ok(None) };
        let Some(record) = Record::from_bytes(&bytes, recipe) else {
            remove(&path)?;
            return Ok(None);
        };
        let usable = record.is_current() && self.contains(&record.content, record.size_bytes);
        if usable {
            touch(&path);
        }
        Ok(usable.then_some(record))
    }

    /// `KIND/sha256/ab/cdef…`
    fn place(&self, kind: &str, digest: &Digest) -> PathBuf {
        let hex = digest.to_hex();
        self.root.join(kind).join("sha256").join(&hex[..2]).join(&hex[2..])
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
        let parent = path.parent().unwrap_or(&self.root);
        fs::create_dir_all(parent).map_err(|source| failed("create", parent, source))?;
        Ok(write_atomically(path, bytes, true)?)
    }
}

fn default_root(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set(VARIABLE).or_else(|| {
        let cache = set("XDG_CACHE_HOME")
            .or_else(|| set("HOME").map(|home| home.join(".cache")))
            .or_else(|| set("LOCALAPPDATA"))?;
        Some(cache.join("t2lc").join("store"))
    })
}

/// A file's bytes, or `None` if there is no such regular file or it is larger than any we wrote.
fn read(path: &Path, limit_bytes: u64) -> Result<Option<Vec<u8>>, StoreError> {
    let opened = match fs::symlink_metadata(path) {
        Ok(found) if !found.is_file() || found.len() > limit_bytes => return Ok(None),
        Ok(_) => fs::File::open(path),
        Err(error) => Err(error),
    };
    let mut bytes = Vec::new();
    match opened.and_then(|file| file.take(limit_bytes).read_to_end(&mut bytes)) {
        Ok(_) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(failed("read", path, source)),
    }
}

/// Removes a file that may be gone already.
fn remove(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path, error)),
        _ => Ok(()),
    }
}

/// Marks a file as used today. A store that may only be read keeps its old times.
fn touch(path: &Path) {
    if let Ok(file) = fs::File::options().append(true).open(path) {
        // The age only decides what is collected first.
        let _ = file.set_modified(SystemTime::now());
    }
}

fn failed(what: &'static str, path: &Path, source: io::Error) -> StoreError {
    StoreError::Io { what, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests;
