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
//!
//! A store may have a [`remote::Remote`] behind it, which many machines share: what is stored goes
//! to both, and what is missing here is fetched from there.

mod collect;
mod record;
pub mod remote;

pub use collect::{Collected, Damaged, Kept, Listed};
pub(crate) use record::T2LC;
pub use record::{NearTask, Record};

use std::ffi::OsString;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use t2lc_runtime::atomic::{AtomicWriteError, write_atomically};
use t2lc_runtime::digest::Digest;

use record::Damage;
use remote::Remote;

/// Variable that names the store's directory.
pub const VARIABLE: &str = "T2LC_STORE";
/// Variable that names the URL of a remote store.
pub const REMOTE_VARIABLE: &str = "T2LC_REMOTE";
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
    /// The remote store cannot be opened or does not answer.
    #[error("cannot {what} the remote store")]
    Remote {
        /// What was tried.
        what: &'static str,
        /// What it said.
        source: io::Error,
    },
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
    remote: Option<Arc<dyn Remote>>,
    /// Whether nothing may be written or removed, here or there.
    read_only: bool,
}

impl Store {
    /// The store in a directory, which need not exist.
    pub fn new(root: PathBuf) -> Self {
        Self { root, remote: None, read_only: false }
    }

    /// The same store, in which looking something up leaves no trace: damage stays, and what is
    /// fetched is not kept.
    #[must_use]
    pub fn read_only(self) -> Self {
        Self { read_only: true, ..self }
    }

    /// The same store with a remote one behind it.
    #[must_use]
    pub fn with_remote(self, remote: Arc<dyn Remote>) -> Self {
        Self { remote: Some(remote), ..self }
    }

    /// The same store with the remote one of the given URL behind it, else that of `T2LC_REMOTE`,
    /// else as it is. An empty variable counts as unset.
    ///
    /// # Errors
    /// A URL that names no store which this build can reach.
    pub fn locate_remote(self, given: Option<&str>) -> Result<Self, StoreError> {
        let variable = std::env::var(REMOTE_VARIABLE).ok().filter(|value| !value.is_empty());
        let Some(url) = given.map(str::to_owned).or(variable) else { return Ok(self) };
        let remote = remote::open(&url).map_err(|source| failed_remote("open", source))?;
        Ok(self.with_remote(remote))
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
    /// If the system or the remote store fails, here and below.
    pub fn put(&self, bytes: &[u8]) -> Result<Digest, StoreError> {
        let content = Digest::of(bytes);
        self.put_as(&content, bytes)?;
        Ok(content)
    }

    /// As [`Store::put`], for bytes whose digest is known: it is not computed again. Bytes of another
    /// digest would be removed when they are read.
    ///
    /// # Errors
    /// As [`Store::put`].
    pub fn put_as(&self, content: &Digest, bytes: &[u8]) -> Result<(), StoreError> {
        let size_bytes = bytes.len() as u64;
        if size_bytes > MAX_BLOB_BYTES {
            return Err(StoreError::TooLarge { bytes: size_bytes });
        }
        if self.get_here(content)?.is_none() {
            self.write(&self.place(BLOBS, content), bytes)?;
        }
        if let Some(remote) = &self.remote {
            let (remote, key) = (remote.as_ref(), key(BLOBS, content));
            let there = remote.size_bytes(&key).map_err(|e| failed_remote("ask", e))?;
            if there != Some(size_bytes) {
                upload(remote, &key, bytes)?;
            }
        }
        Ok(())
    }

    /// The bytes of a digest. Bytes that do not have it are removed, and are none.
    ///
    /// # Errors
    /// As [`Store::put`].
    pub fn get(&self, content: &Digest) -> Result<Option<Vec<u8>>, StoreError> {
        if let Some(bytes) = self.get_here(content)? {
            return Ok(Some(bytes));
        }
        let matches = |bytes: &[u8]| {
            if Digest::of(bytes) == *content { Ok(Some(())) } else { Err(Damage) }
        };
        let Some((bytes, ())) = self.fetch(&key(BLOBS, content), MAX_BLOB_BYTES, matches)? else {
            return Ok(None);
        };
        self.write(&self.place(BLOBS, content), &bytes)?;
        Ok(Some(bytes))
    }

    /// Whether there are so many bytes under a digest; their content is not looked at.
    ///
    /// # Errors
    /// As [`Store::put`].
    pub fn contains(&self, content: &Digest, size_bytes: u64) -> Result<bool, StoreError> {
        let found = fs::symlink_metadata(self.place(BLOBS, content));
        if found.is_ok_and(|found| found.is_file() && found.len() == size_bytes) {
            return Ok(true);
        }
        let Some(remote) = &self.remote else { return Ok(false) };
        let found = remote.size_bytes(&key(BLOBS, content));
        Ok(found.map_err(|source| failed_remote("ask", source))? == Some(size_bytes))
    }

    /// Remembers what a recipe gave.
    ///
    /// # Errors
    /// As [`Store::put`].
    pub fn record(&self, recipe: &Digest, record: &Record) -> Result<(), StoreError> {
        let text = record.to_text(recipe);
        // A record that is here only would never get there: nobody would compile the recipe again.
        if let Some(remote) = &self.remote {
            upload(remote.as_ref(), &key(RECIPES, recipe), text.as_bytes())?;
        }
        self.write(&self.place(RECIPES, recipe), text.as_bytes())
    }

    /// Gives the remote store what it lacks of something that was found.
    ///
    /// # Errors
    /// As [`Store::put`].
    pub fn share(&self, recipe: &Digest, record: &Record) -> Result<(), StoreError> {
        let Some(remote) = self.remote.as_deref() else { return Ok(()) };
        let blob = key(BLOBS, &record.content);
        let there = remote.size_bytes(&blob).map_err(|e| failed_remote("ask", e))?;
        if there != Some(record.size_bytes) {
            let Some(bytes) = self.get_here(&record.content)? else { return Ok(()) };
            upload(remote, &blob, &bytes)?;
        }
        let (key, text) = (key(RECIPES, recipe), record.to_text(recipe));
        let there = remote.read(&key, MAX_RECORD_BYTES).map_err(|e| failed_remote("read", e))?;
        if there.as_deref() == Some(text.as_bytes()) {
            return Ok(());
        }
        upload(remote, &key, text.as_bytes())
    }

    /// What a recipe gave to this version of the program, if its bytes are still there. A record
    /// that is damaged is removed; one of another version, whatever its form, is passed over.
    ///
    /// # Errors
    /// As [`Store::put`].
    pub fn look_up(&self, recipe: &Digest) -> Result<Option<Record>, StoreError> {
        let path = self.place(RECIPES, recipe);
        let mut found = None;
        if let Some(bytes) = read(&path, MAX_RECORD_BYTES)? {
            match Record::from_bytes(&bytes, recipe) {
                Ok(record) => found = record,
                Err(Damage) => self.discard(&path)?,
            }
        }
        if let Some(record) = found
            && self.is_usable(&record)?
        {
            // Collecting goes by the age of the bytes.
            self.touch(&path);
            self.touch(&self.place(BLOBS, &record.content));
            return Ok(Some(record));
        }
        let parse = |bytes: &[u8]| Record::from_bytes(bytes, recipe);
        let fetched = self.fetch(&key(RECIPES, recipe), MAX_RECORD_BYTES, parse)?;
        let Some((bytes, record)) = fetched else { return Ok(None) };
        if !self.is_usable(&record)? {
            return Ok(None);
        }
        self.write(&path, &bytes)?;
        Ok(Some(record))
    }

    fn is_usable(&self, record: &Record) -> Result<bool, StoreError> {
        Ok(record.is_current() && self.contains(&record.content, record.size_bytes)?)
    }

    /// As [`Store::get`], without the remote store.
    fn get_here(&self, content: &Digest) -> Result<Option<Vec<u8>>, StoreError> {
        let path = self.place(BLOBS, content);
        let Some(bytes) = read(&path, MAX_BLOB_BYTES)? else { return Ok(None) };
        if Digest::of(&bytes) == *content {
            self.touch(&path);
            return Ok(Some(bytes));
        }
        self.discard(&path)?;
        Ok(None)
    }

    /// Bytes of the remote store and what they mean; damaged ones are removed there.
    fn fetch<T>(
        &self,
        key: &str,
        limit_bytes: u64,
        meaning: impl FnOnce(&[u8]) -> Result<Option<T>, Damage>,
    ) -> Result<Option<(Vec<u8>, T)>, StoreError> {
        let Some(remote) = &self.remote else { return Ok(None) };
        let read = remote.read(key, limit_bytes).map_err(|e| failed_remote("read", e))?;
        let Some(bytes) = read else { return Ok(None) };
        match meaning(&bytes) {
            Ok(meaning) => Ok(meaning.map(|meaning| (bytes, meaning))),
            Err(Damage) if self.read_only => Ok(None),
            Err(Damage) => {
                remote.remove(key).map_err(|e| failed_remote("remove damaged bytes from", e))?;
                Ok(None)
            }
        }
    }

    fn place(&self, kind: &str, digest: &Digest) -> PathBuf {
        self.root.join(key(kind, digest))
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
        if self.read_only {
            return Ok(());
        }
        let parent = path.parent().unwrap_or(&self.root);
        fs::create_dir_all(parent).map_err(|source| failed("create", parent, source))?;
        Ok(write_atomically(path, bytes, true)?)
    }

    /// Removes a damaged file.
    fn discard(&self, path: &Path) -> Result<(), StoreError> {
        if self.read_only { Ok(()) } else { remove(path) }
    }

    /// Marks a file as used today. A store that may only be read keeps its old times.
    fn touch(&self, path: &Path) {
        let file = (!self.read_only).then(|| fs::File::options().append(true).open(path));
        if let Some(Ok(file)) = file {
            // The age only decides what is collected first.
            let _ = file.set_modified(SystemTime::now());
        }
    }
}

/// `KIND/sha256/ab/cdef…`
fn key(kind: &str, digest: &Digest) -> String {
    let hex = digest.to_hex();
    format!("{kind}/sha256/{}/{}", &hex[..2], &hex[2..])
}

fn upload(remote: &dyn Remote, key: &str, bytes: &[u8]) -> Result<(), StoreError> {
    remote.write(key, bytes).map_err(|source| failed_remote("write to", source))
}

fn failed_remote(what: &'static str, source: io::Error) -> StoreError {
    StoreError::Remote { what, source }
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

fn failed(what: &'static str, path: &Path, source: io::Error) -> StoreError {
    StoreError::Io { what, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests;
