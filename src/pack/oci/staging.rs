//! A layout that is there whole or not at all, written file by file.
//!
//! In: a target, then one file after the other. Out: the finished directory, on disk. Everything
//! goes into a hidden sibling of the target, is synced and then renamed; a failure leaves neither a
//! part nor the sibling (a process that is killed leaves its `.t2lc-*` sibling). No more than one
//! file is in memory, which is why `t2lc_runtime::atomic`, which takes all files at once, does not
//! do here. A directory is replaced only if it holds nothing but a layout; it is moved aside first,
//! so that a crash between two renames leaves it in a hidden sibling.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use t2lc_runtime::atomic::AtomicWriteError;
use t2lc_runtime::digest::Digest;
use tempfile::TempDir;

use super::document::{BLOBS, INDEX_FILE, LAYOUT_FILE};
use crate::pack::PackError;

/// How the names of temporary directories start.
const TEMPORARY_PREFIX: &str = ".t2lc-";

/// A layout being written.
#[derive(Debug)]
pub(super) struct Staging {
    /// The target, without a trailing separator.
    target: PathBuf,
    /// Directory that contains the target.
    parent: PathBuf,
    /// Where the layout is written.
    directory: TempDir,
    /// Whether there is a layout to replace.
    replaces: bool,
}

impl Staging {
    /// Starts a layout. With `force` an existing one is replaced in the end.
    pub(super) fn new(target: &Path, force: bool) -> Result<Self, PackError> {
        let Some(name) = target.file_name() else {
            return Err(AtomicWriteError::NoFileName { path: target.to_owned() }.into());
        };
        let (parent, target) = match target.parent() {
            Some(parent) if parent != Path::new("") => (parent, parent.join(name)),
            _ => (Path::new("."), PathBuf::from(name)),
        };
        let parent = parent.to_owned();
        if !parent.is_dir() {
            return Err(AtomicWriteError::NoParent { path: target, parent }.into());
        }
        let replaces = match fs::symlink_metadata(&target) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(source) => return Err(failed("look at", &target, source)),
            Ok(found) if !found.is_dir() => {
                return Err(AtomicWriteError::NotADirectory { path: target }.into());
            }
            Ok(_) if !force => return Err(AtomicWriteError::AlreadyExists { path: target }.into()),
            Ok(_) => true,
        };
        if replaces {
            refuse_foreign_entries(&target, &target)?;
        }
        let directory = temporary(&parent)?;
        let blobs = directory.path().join(BLOBS);
        fs::create_dir_all(&blobs).map_err(|source| failed("create", &blobs, source))?;
        Ok(Self { target, parent, directory, replaces })
    }

    /// Writes a file that is not there yet.
    pub(super) fn write(&self, name: &str, bytes: &[u8]) -> Result<(), PackError> {
        let path = self.directory.path().join(name);
        let written = File::create_new(&path).and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        });
        written.map_err(|source| failed("write", &path, source))
    }

    /// Puts the layout in place.
    pub(super) fn commit(self) -> Result<(), PackError> {
        let blobs = self.directory.path().join(BLOBS);
        for directory in blobs.ancestors().take(3) {
            sync(directory);
        }
        let Self { target, parent, directory, replaces } = self;
        if replaces {
            replace(&target, &parent, directory)?;
        } else {
            place(directory, &target)?;
        }
        sync(&parent);
        Ok(())
    }
}

/// Renames the finished layout to a target that does not exist.
fn place(directory: TempDir, target: &Path) -> Result<(), PackError> {
    fs::rename(directory.path(), target).map_err(|source| match source.kind() {
        // It appeared meanwhile.
        io::ErrorKind::AlreadyExists | io::ErrorKind::DirectoryNotEmpty => {
            PackError::from(AtomicWriteError::AlreadyExists { path: target.to_owned() })
        }
        _ => failed("create", target, source),
    })?;
    // Nothing is left under the temporary name, which somebody else may take now.
    let _ = directory.keep();
    Ok(())
}

/// Moves the existing layout aside, places the finished one, then removes the old one.
fn replace(target: &Path, parent: &Path, directory: TempDir) -> Result<(), PackError> {
    let aside = temporary(parent)?;
    let old = aside.path().join("replaced");
    fs::rename(target, &old).map_err(|source| failed("move aside", target, source))?;
    // An entry may have arrived since the first look, which no longer can.
    let placed = refuse_foreign_entries(&old, target).and_then(|()| place(directory, target));
    if placed.is_err()
        && let Err(source) = fs::rename(&old, target)
    {
        // The only copy of the old layout stays where it is.
        let _ = aside.keep();
        return Err(failed("move back", &old, source));
    }
    placed
}

/// A new directory, with the permissions of an ordinary one, that goes when it is no longer needed.
fn temporary(parent: &Path) -> Result<TempDir, PackError> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(TEMPORARY_PREFIX);
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o777));
    builder.tempdir_in(parent).map_err(|source| failed("create a directory in", parent, source))
}

/// Checks that a directory holds nothing but a layout, so that replacing it loses nothing else.
fn refuse_foreign_entries(directory: &Path, target: &Path) -> Result<(), PackError> {
    let found = foreign_entry(directory).map_err(|source| failed("list", directory, source))?;
    match found {
        Some(name) => Err(AtomicWriteError::ForeignEntry { path: target.to_owned(), name }.into()),
        None => Ok(()),
    }
}

/// The first entry that no layout of ours has.
fn foreign_entry(directory: &Path) -> io::Result<Option<String>> {
    let mut open = vec![(directory.to_owned(), String::new())];
    while let Some((directory, below)) = open.pop() {
        for entry in fs::read_dir(&directory)? {
            let entry = entry?;
            let name = format!("{below}{}", entry.file_name().to_string_lossy());
            let kind = entry.file_type()?;
            let is_blob = || {
                let hex = name.strip_prefix(BLOBS).and_then(|rest| rest.strip_prefix('/'));
                hex.is_some_and(|hex| format!("sha256:{hex}").parse::<Digest>().is_ok())
            };
            if kind.is_dir() && (name == BLOBS || BLOBS.starts_with(&format!("{name}/"))) {
                open.push((entry.path(), format!("{name}/")));
            } else if !kind.is_file() || !(name == LAYOUT_FILE || name == INDEX_FILE || is_blob()) {
                return Ok(Some(name));
            }
        }
    }
    Ok(None)
}

/// Makes the names in a directory durable. A system that cannot do so is no failure.
fn sync(directory: &Path) {
    let _ = File::open(directory).and_then(|directory| directory.sync_all());
}

fn failed(what: &'static str, path: &Path, source: io::Error) -> PackError {
    PackError::Io { what, path: path.to_owned(), source }
}
