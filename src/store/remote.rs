//! A store elsewhere that many machines share: the same files under the same names.
//!
//! In: keys such as `blobs/sha256/ab/cdef…`, and bytes. Out: the bytes, or nothing where there is no
//! such key. What comes back is not trusted: the store checks it against its digest. With the
//! feature `remote` a [`Remote`] can be a local directory, with `aws`, `gcp` and `azure` a bucket.

use std::fmt;
use std::io;

/// Another place for the files of a store. Writing the same key twice is harmless: a key has one
/// content.
pub trait Remote: fmt::Debug + Send + Sync {
    /// The bytes of a key, at most `limit_bytes`; larger ones count as none.
    ///
    /// # Errors
    /// If the place cannot be reached or refuses.
    fn read(&self, key: &str, limit_bytes: u64) -> io::Result<Option<Vec<u8>>>;

    /// Number of bytes of a key.
    ///
    /// # Errors
    /// As [`Remote::read`].
    fn size_bytes(&self, key: &str) -> io::Result<Option<u64>>;

    /// Writes a key, whole or not at all.
    ///
    /// # Errors
    /// As [`Remote::read`].
    fn write(&self, key: &str, bytes: &[u8]) -> io::Result<()>;

    /// Removes a key that may be gone already.
    ///
    /// # Errors
    /// As [`Remote::read`].
    fn remove(&self, key: &str) -> io::Result<()>;
}

/// Opens the place of a URL: `file:///…`, `s3://bucket/…`, `gs://bucket/…` or `az://container/…`.
///
/// Credentials and endpoints come from the environment, under the names that the clouds' own tools
/// use (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT`, `GOOGLE_APPLICATION_CREDENTIALS`,
/// `AZURE_STORAGE_ACCOUNT_NAME` and so on).
///
/// # Errors
/// A URL that is malformed or of a kind that this build has no client for.
#[cfg(feature = "remote")]
pub fn open(url: &str) -> io::Result<std::sync::Arc<dyn Remote>> {
    Ok(std::sync::Arc::new(bucket::Bucket::open(url)?))
}

/// Refuses every URL: this build has no client for any.
///
/// # Errors
/// Always.
#[cfg(not(feature = "remote"))]
pub fn open(_url: &str) -> io::Result<std::sync::Arc<dyn Remote>> {
    Err(io::Error::new(
        io::ErrorKind::Unsupported,
        "this build has no remote stores; build with --features remote, and aws, gcp or azure",
    ))
}

#[cfg(feature = "remote")]
mod bucket;
