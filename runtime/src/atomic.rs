//! Output files that exist whole or not at all.
//!
//! In: a path and the bytes that belong there, for a file or for a directory of files. Out: the
//! finished file or directory, on disk. Everything is written and synced under a temporary name
//! beside the target and then renamed; a reader never sees a part of it, and a failure leaves
//! neither a part nor a temporary file (a process that is killed leaves its `.t2lc-*` sibling).
//! Without `overwrite` nothing that exists is replaced, even
//! if it appears while the bytes are being written.
//!
//! A file replaces its target in one step. A directory cannot: its predecessor is moved aside
//! first, so that a crash between the two renames leaves no target, and the predecessor in a
//! hidden sibling directory.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Component, Path, PathBuf};

/// How the names of temporary siblings start.
const TEMPORARY_PREFIX: &str = ".t2lc-";
/// How often a directory is put in place where other processes put theirs.
const MAX_ATTEMPTS: usize = 100;
/// The step at which a directory may be gone that was there before.
const MOVE_ASIDE: &str = "move the existing directory aside";

/// Why an output is not in place.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the message of each variant names its fields")]
pub enum AtomicWriteError {
    /// A path that ends in `..` or is a root.
    #[error("output path `{}` has no file name", .path.display())]
    NoFileName { path: PathBuf },
    /// The directory that should contain the output is missing, or is no directory.
    #[error("output `{}` cannot be created: `{}` is not a directory", .path.display(), .parent.display())]
    NoParent { path: PathBuf, parent: PathBuf },
    /// The target exists and may not be replaced.
    #[error("output `{}` exists, and overwriting was not requested", .path.display())]
    AlreadyExists { path: PathBuf },
    /// The target of a file is a directory.
    #[error("output `{}` is a directory, expected a file", .path.display())]
    IsDirectory { path: PathBuf },
    /// The target of a file is a device, a pipe or a socket.
    #[error("output `{}` is neither a file nor a directory, and is not replaced", .path.display())]
    NotAFile { path: PathBuf },
    /// The target of a directory is something else.
    #[error("output `{}` is not a directory, expected one", .path.display())]
    NotADirectory { path: PathBuf },
    /// The target directory holds something that replacing it would delete.
    #[error("output directory `{}` contains `{name}`, which is not part of the output", .path.display())]
    ForeignEntry { path: PathBuf, name: String },
    /// A name in a directory that is not a plain file name, or occurs twice.
    #[error("output directory `{}` cannot have a file named `{name}`", .path.display())]
    FileName { path: PathBuf, name: String },
    /// The system does not allow it.
    #[error("output `{}` is not writable: cannot {stage}", .path.display())]
    NotWritable { path: PathBuf, stage: &'static str, source: io::Error },
    /// The output is in place, but a crash now may undo that, or something is left beside it.
    #[error("output `{}` is in place, but t2lc cannot {stage}", .path.display())]
    InPlace { path: PathBuf, stage: &'static str, source: io::Error },
    /// The output is not in place, and neither is the directory that was there before.
    #[error("output `{}` was not written: cannot {stage}; what was there is now `{}`", .path.display(), .left_at.display())]
    LeftAside { path: PathBuf, stage: &'static str, left_at: PathBuf, source: io::Error },
    /// Any other failure of the system, a full disk for example.
    #[error("output `{}` was not written: cannot {stage}", .path.display())]
    Io { path: PathBuf, stage: &'static str, source: io::Error },
}

/// Writes `bytes` to the file `path`, with the permissions of an ordinary new file. With
/// `overwrite` an existing file is replaced; a symbolic link is replaced itself, not what it
/// points to.
///
/// # Errors
/// If the path has no file name or no parent directory, names something that is not a regular
/// file, exists without `overwrite`, or if the system fails.
pub fn write_atomically(
    path: &Path,
    bytes: &[u8],
    overwrite: bool,
) -> Result<(), AtomicWriteError> {
    let target = Target::new(path)?;
    match fs::metadata(&target.place) {
        Ok(found) if found.is_dir() => {
            return Err(AtomicWriteError::IsDirectory { path: path.to_owned() });
        }
        Ok(found) if !found.is_file() => {
            return Err(AtomicWriteError::NotAFile { path: path.to_owned() });
        }
        _ => {}
    }
    if !overwrite && fs::symlink_metadata(&target.place).is_ok() {
        return Err(AtomicWriteError::AlreadyExists { path: path.to_owned() });
    }

    let mut builder = tempfile::Builder::new();
    builder.prefix(TEMPORARY_PREFIX);
    #[cfg(unix)]
    builder.permissions(mode(0o666));
    let mut file = builder
        .tempfile_in(&target.parent)
        .map_err(|source| target.failed("create a temporary file", source))?;
    file.write_all(bytes).map_err(|source| target.failed("write the bytes", source))?;
    file.as_file().sync_all().map_err(|source| target.failed("sync the file", source))?;
    let persisted =
        if overwrite { file.persist(&target.place) } else { file.persist_noclobber(&target.place) };
    persisted.map_err(|error| target.rename_failed("rename the temporary file", error.error))?;
    target.sync_parent()
}

/// Writes `files`, pairs of a plain file name and its bytes, as the directory `path`. With
/// `overwrite` an existing directory is replaced if it contains none but files of these names.
///
/// # Errors
/// If a name is not a plain file name or occurs twice, if the path has no file name or no parent
/// directory, names something that is not a directory, exists without `overwrite` or with other
/// entries, or if the system fails.
pub fn write_directory_atomically(
    path: &Path,
    files: &[(&str, &[u8])],
    overwrite: bool,
) -> Result<(), AtomicWriteError> {
    let target = Target::new(path)?;
    let names = plain_names(path, files)?;
    let exists = match fs::symlink_metadata(&target.place) {
        Err(source) if source.kind() == io::ErrorKind::NotFound => false,
        Err(source) => return Err(target.failed("look at the target", source)),
        Ok(found) if !found.is_dir() => {
            return Err(AtomicWriteError::NotADirectory { path: path.to_owned() });
        }
        Ok(_) if !overwrite => {
            return Err(AtomicWriteError::AlreadyExists { path: path.to_owned() });
        }
        Ok(_) => true,
    };
    if exists {
        target.refuse_foreign_entries(&target.place, &names)?;
    }

    let staged = target.temporary_directory()?;
    for (name, bytes) in files {
        write_new_file(&staged.path().join(name), bytes)
            .map_err(|source| target.failed("write a file of the directory", source))?;
    }
    sync_directory(staged.path()).map_err(|source| target.failed("sync the directory", source))?;
    target.put_directory(staged, &names, exists, overwrite)?;
    target.sync_parent()
}

/// Where an output goes.
struct Target<'a> {
    /// As the caller gave it, for messages.
    path: &'a Path,
    /// Directory that contains the output.
    parent: PathBuf,
    /// The output itself, without a trailing separator.
    place: PathBuf,
}

impl<'a> Target<'a> {
    fn new(path: &'a Path) -> Result<Self, AtomicWriteError> {
        let Some(name) = path.file_name() else {
            return Err(AtomicWriteError::NoFileName { path: path.to_owned() });
        };
        let parent = match path.parent() {
            Some(parent) if parent != Path::new("") => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        if !parent.is_dir() {
            return Err(AtomicWriteError::NoParent { path: path.to_owned(), parent });
        }
        let place = parent.join(name);
        Ok(Self { path, parent, place })
    }

    fn failed(&self, stage: &'static str, source: io::Error) -> AtomicWriteError {
        let path = self.path.to_owned();
        match source.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                AtomicWriteError::NotWritable { path, stage, source }
            }
            _ => AtomicWriteError::Io { path, stage, source },
        }
    }

    fn in_place(&self, stage: &'static str, source: io::Error) -> AtomicWriteError {
        AtomicWriteError::InPlace { path: self.path.to_owned(), stage, source }
    }

    /// As [`Target::failed`], for the rename that finds a target after all.
    fn rename_failed(&self, stage: &'static str, source: io::Error) -> AtomicWriteError {
        match source.kind() {
            io::ErrorKind::AlreadyExists | io::ErrorKind::DirectoryNotEmpty => {
                AtomicWriteError::AlreadyExists { path: self.path.to_owned() }
            }
            _ => self.failed(stage, source),
        }
    }

    fn sync_parent(&self) -> Result<(), AtomicWriteError> {
        sync_directory(&self.parent)
            .map_err(|source| self.in_place("sync the parent directory", source))
    }

    /// A new directory beside the target, with the permissions of an ordinary one.
    fn temporary_directory(&self) -> Result<tempfile::TempDir, AtomicWriteError> {
        let mut builder = tempfile::Builder::new();
        builder.prefix(TEMPORARY_PREFIX);
        #[cfg(unix)]
        builder.permissions(mode(0o777));
        builder
            .tempdir_in(&self.parent)
            .map_err(|source| self.failed("create a temporary directory", source))
    }

    /// Checks that removing the named files would empty the directory.
    fn refuse_foreign_entries(
        &self,
        directory: &Path,
        names: &BTreeSet<&str>,
    ) -> Result<(), AtomicWriteError> {
        let stage = "list the existing directory";
        let entries = fs::read_dir(directory).map_err(|source| self.failed(stage, source))?;
        for entry in entries {
            let entry = entry.map_err(|source| self.failed(stage, source))?;
            let kind = entry.file_type().map_err(|source| self.failed(stage, source))?;
            let name = entry.file_name();
            let known = name.to_str().is_some_and(|name| names.contains(name));
            if !known || !kind.is_file() {
                let name = name.to_string_lossy().into_owned();
                return Err(AtomicWriteError::ForeignEntry { path: self.path.to_owned(), name });
            }
        }
        Ok(())
    }

    /// Puts the finished directory in place. Where it may replace another, it does so as well if
    /// another process came first, or has moved the other aside.
    fn put_directory(
        &self,
        staged: tempfile::TempDir,
        names: &BTreeSet<&str>,
        mut exists: bool,
        overwrite: bool,
    ) -> Result<(), AtomicWriteError> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            let put = if exists {
                self.replace_directory(staged.path(), names)
            } else {
                self.place_directory(staged.path())
            };
            match put {
                Err(AtomicWriteError::AlreadyExists { .. })
                    if overwrite && attempts < MAX_ATTEMPTS =>
                {
                    exists = true;
                }
                Err(AtomicWriteError::Io { stage: MOVE_ASIDE, source, .. })
                    if source.kind() == io::ErrorKind::NotFound && attempts < MAX_ATTEMPTS =>
                {
                    exists = false;
                }
                Err(error) => return Err(error),
                Ok(aside) => {
                    // Nothing is left under the temporary name for the guard to remove.
                    let _ = staged.keep();
                    return match aside.map(fs::remove_dir_all) {
                        Some(Err(source)) => {
                            Err(self.in_place("remove the replaced directory", source))
                        }
                        _ => Ok(()),
                    };
                }
            }
        }
    }

    /// Renames the finished directory to a target that does not exist. Should one have appeared,
    /// the rename fails, unless it is an empty directory, which has nothing to lose.
    fn place_directory(&self, staged: &Path) -> Result<Option<PathBuf>, AtomicWriteError> {
        fs::rename(staged, &self.place)
            .map_err(|source| self.rename_failed("rename the temporary directory", source))?;
        Ok(None)
    }

    /// Moves the existing directory aside and places the finished one; gives where the old one is.
    fn replace_directory(
        &self,
        staged: &Path,
        names: &BTreeSet<&str>,
    ) -> Result<Option<PathBuf>, AtomicWriteError> {
        let aside = self.temporary_directory()?;
        let old = aside.path().join("replaced");
        fs::rename(&self.place, &old).map_err(|source| self.failed(MOVE_ASIDE, source))?;
        // From here on the guard would delete the only copy of the old directory.
        let aside = aside.keep();
        // An entry may have arrived since the first look, which no longer can.
        let placed =
            self.refuse_foreign_entries(&old, names).and_then(|()| self.place_directory(staged));
        let Err(error) = placed else { return Ok(Some(aside)) };
        match fs::rename(&old, &self.place) {
            // The directory is where it was; an empty one under a temporary name does no harm.
            Ok(()) => drop(fs::remove_dir(&aside)),
            // Another process has put its own there, which replaces the old one as this one would.
            Err(_) if matches!(error, AtomicWriteError::AlreadyExists { .. }) => {
                drop(fs::remove_dir_all(&aside));
            }
            Err(source) => {
                return Err(AtomicWriteError::LeftAside {
                    path: self.path.to_owned(),
                    stage: "move the existing directory back",
                    left_at: old,
                    source,
                });
            }
        }
        Err(error)
    }
}

/// The names, each a single ordinary path component and there once.
fn plain_names<'a>(
    path: &Path,
    files: &[(&'a str, &[u8])],
) -> Result<BTreeSet<&'a str>, AtomicWriteError> {
    let mut names = BTreeSet::new();
    for &(name, _) in files {
        let mut components = Path::new(name).components();
        let plain = match (components.next(), components.next()) {
            (Some(Component::Normal(only)), None) => only == name,
            _ => false,
        };
        if !plain || name.contains('\0') || !names.insert(name) {
            let (path, name) = (path.to_owned(), name.to_owned());
            return Err(AtomicWriteError::FileName { path, name });
        }
    }
    Ok(names)
}

fn write_new_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create_new(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Makes the names in a directory durable. File systems that cannot sync a directory, and
/// directories that may be written but not opened, are not failures: the output is in place.
#[cfg(unix)]
fn sync_directory(directory: &Path) -> io::Result<()> {
    match File::open(directory).and_then(|directory| directory.sync_all()) {
        Err(error)
            if !matches!(
                error.kind(),
                io::ErrorKind::InvalidInput
                    | io::ErrorKind::Unsupported
                    | io::ErrorKind::PermissionDenied
            ) =>
        {
            Err(error)
        }
        _ => Ok(()),
    }
}

/// Only Unix has a way to sync a directory.
#[cfg(not(unix))]
#[allow(clippy::unnecessary_wraps, reason = "the signature of the other platforms")]
fn sync_directory(_directory: &Path) -> io::Result<()> {
    Ok(())
}

/// Permissions that the system reduces by the umask when it creates a file or a directory.
#[cfg(unix)]
fn mode(bits: u32) -> fs::Permissions {
    use std::os::unix::fs::PermissionsExt;
    fs::Permissions::from_mode(bits)
}

#[cfg(test)]
mod tests;
