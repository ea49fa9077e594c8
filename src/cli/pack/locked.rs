//! A lock that must be there, and the directory of its files.

use std::path::{Path, PathBuf};

use t2lc::pack::PackError;
use t2lc::pack::lock::Lock;

/// Reads a lock; none is an error.
pub(super) fn read(path: &Path) -> Result<Lock, PackError> {
    Lock::read(path)?.ok_or_else(|| PackError::NoLock { path: path.to_owned() })
}

/// The given directory, or the one that a lock at `path` names.
pub(super) fn directory(path: &Path, lock: &Lock, given: Option<&Path>) -> PathBuf {
    let beside = || path.parent().unwrap_or(path).join(&lock.out);
    given.map_or_else(beside, Path::to_owned)
}
