//! The store as a whole: what is in it, what of it is damaged, and what may go.
//!
//! In: a store, and which adapters to keep. Out: lists in the order of the digests. Only files that
//! the store itself would have written are looked at, and only those are removed; temporary files
//! of processes that were killed are removed once they are a day old.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use t2lc_runtime::digest::Digest;

use super::record::Damage;
use super::{
    BLOBS, MAX_BLOB_BYTES, MAX_RECORD_BYTES, RECIPES, Record, Store, StoreError, failed, read,
    remove,
};

/// How old a temporary file is that nobody is writing any more.
const ABANDONED: Duration = Duration::from_hours(24);

/// One adapter of the store.
#[derive(Debug, Clone, PartialEq)]
pub struct Listed {
    /// Digest it is stored under.
    pub content: Digest,
    /// Its size.
    pub size_bytes: u64,
    /// Recipes that gave it.
    pub recipes: Vec<Digest>,
}

/// A file that is not what its name says; it has been removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damaged {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

/// What stays when the rest goes.
#[derive(Debug, Clone)]
pub enum Kept {
    /// These adapters, and the records that lead to them.
    Contents(BTreeSet<Digest>),
    /// Everything that was stored or used within this time.
    UsedWithin(Duration),
}

/// What went, or would go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Collected {
    /// Adapters removed.
    pub blobs: usize,
    /// Records removed.
    pub records: usize,
    /// Abandoned temporary files removed.
    pub temporary: usize,
    /// Bytes of all of them.
    pub freed_bytes: u64,
    /// Adapters that stay.
    pub kept: usize,
}

/// One file of the store.
struct Entry {
    path: PathBuf,
    digest: Digest,
    size_bytes: u64,
    modified: SystemTime,
}

/// The files of one kind: named by digest, and temporary.
#[derive(Default)]
struct Entries {
    named: Vec<Entry>,
    temporary: Vec<(PathBuf, u64, SystemTime)>,
}

impl Store {
    /// Every adapter, in the order of the digests.
    ///
    /// # Errors
    /// If the system fails.
    pub fn list(&self) -> Result<Vec<Listed>, StoreError> {
        let mut recipes: BTreeMap<Digest, Vec<Digest>> = BTreeMap::new();
        for entry in self.entries(RECIPES)?.named {
            if let Some(bytes) = read(&entry.path, MAX_RECORD_BYTES)?
                && let Ok(Some(record)) = Record::from_bytes(&bytes, &entry.digest)
            {
                recipes.entry(record.content).or_default().push(entry.digest);
            }
        }
        let blobs = self.entries(BLOBS)?.named.into_iter();
        Ok(blobs
            .map(|blob| Listed {
                content: blob.digest,
                size_bytes: blob.size_bytes,
                recipes: recipes.remove(&blob.digest).unwrap_or_default(),
            })
            .collect())
    }

    /// Reads everything and removes what is damaged, so that it is made again.
    ///
    /// # Errors
    /// If the system fails.
    pub fn verify(&self) -> Result<Vec<Damaged>, StoreError> {
        let mut damaged = Vec::new();
        for entry in self.entries(BLOBS)?.named {
            let reason = match read(&entry.path, MAX_BLOB_BYTES)? {
                Some(bytes) if Digest::of(&bytes) == entry.digest => continue,
                Some(bytes) => format!("its content is {}", Digest::of(&bytes)),
                None => continue,
            };
            remove(&entry.path)?;
            damaged.push(Damaged { path: entry.path, reason });
        }
        for entry in self.entries(RECIPES)?.named {
            if let Some(bytes) = read(&entry.path, MAX_RECORD_BYTES)?
                && Record::from_bytes(&bytes, &entry.digest).is_err()
            {
                remove(&entry.path)?;
                let reason = "it is no record of this recipe".into();
                damaged.push(Damaged { path: entry.path, reason });
            }
        }
        Ok(damaged)
    }

    /// Removes what is not kept; with `dry_run` only says what that would be.
    ///
    /// # Errors
    /// If the system fails.
    pub fn collect(&self, kept: &Kept, dry_run: bool) -> Result<Collected, StoreError> {
        let now = SystemTime::now();
        // A time that lies ahead is no age at all.
        let age = |modified: SystemTime| now.duration_since(modified).unwrap_or_default();
        // Records first: one that another process writes meanwhile comes after its bytes.
        let records = self.entries(RECIPES)?;
        let blobs = self.entries(BLOBS)?;
        let mut collected = Collected::default();
        let mut staying = BTreeSet::new();
        let mut doomed: Vec<PathBuf> = Vec::new();
        for blob in &blobs.named {
            let stays = match kept {
                Kept::Contents(contents) => contents.contains(&blob.digest),
                Kept::UsedWithin(limit) => age(blob.modified) <= *limit,
            };
            if stays {
                staying.insert(blob.digest);
                collected.kept += 1;
            } else {
                collected.blobs += 1;
                collected.freed_bytes += blob.size_bytes;
                doomed.push(blob.path.clone());
            }
        }
        for entry in &records.named {
            let bytes = read(&entry.path, MAX_RECORD_BYTES)?;
            let stays = match bytes.map(|bytes| Record::from_bytes(&bytes, &entry.digest)) {
                Some(Ok(Some(record))) => staying.contains(&record.content),
                // Another version knows what it is of.
                Some(Ok(None)) => true,
                Some(Err(Damage)) | None => false,
            };
            if !stays {
                collected.records += 1;
                collected.freed_bytes += entry.size_bytes;
                doomed.push(entry.path.clone());
            }
        }
        for (path, size_bytes, modified) in blobs.temporary.iter().chain(&records.temporary) {
            if age(*modified) > ABANDONED {
                collected.temporary += 1;
                collected.freed_bytes += size_bytes;
                doomed.push(path.clone());
            }
        }
        if !dry_run {
            doomed.iter().try_for_each(|path| remove(path))?;
        }
        Ok(collected)
    }

    fn entries(&self, kind: &str) -> Result<Entries, StoreError> {
        let top = self.root().join(kind).join("sha256");
        let mut entries = Entries::default();
        for (folder, prefix, is_dir) in names(&top)? {
            if is_dir && prefix.len() == 2 {
                for (path, rest, is_dir) in names(&folder)? {
                    if !is_dir {
                        entries.add(path, &prefix, &rest)?;
                    }
                }
            }
        }
        entries.named.sort_by_key(|entry| entry.digest);
        Ok(entries)
    }
}

impl Entries {
    fn add(&mut self, path: PathBuf, prefix: &str, rest: &str) -> Result<(), StoreError> {
        let found = match fs::symlink_metadata(&path) {
            Ok(found) if found.is_file() => found,
            Ok(_) => return Ok(()),
            // Another process may have removed it.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(source) => return Err(failed("look at", &path, source)),
        };
        let modified = found.modified().map_err(|source| failed("look at", &path, source))?;
        let size_bytes = found.len();
        if let Ok(digest) = format!("sha256:{prefix}{rest}").parse() {
            self.named.push(Entry { path, digest, size_bytes, modified });
        } else if rest.starts_with(".t2lc-") {
            self.temporary.push((path, size_bytes, modified));
        }
        Ok(())
    }
}

/// Path, name and whether it is a directory, of every entry with a name in UTF-8. A directory that
/// does not exist has none.
fn names(directory: &Path) -> Result<Vec<(PathBuf, String, bool)>, StoreError> {
    let unreadable = |source| failed("list", directory, source);
    let listed = match fs::read_dir(directory) {
        Ok(listed) => listed,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(unreadable(source)),
    };
    let mut names = Vec::new();
    for entry in listed {
        let entry = entry.map_err(unreadable)?;
        let is_dir = entry.file_type().map_err(unreadable)?.is_dir();
        if let Ok(name) = entry.file_name().into_string() {
            names.push((entry.path(), name, is_dir));
        }
    }
    Ok(names)
}
