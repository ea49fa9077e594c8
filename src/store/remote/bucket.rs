//! Object storage as a [`Remote`], through the `object_store` crate.
//!
//! That crate is asynchronous and this program is not: every call waits for its answer on a runtime
//! of one thread, which any number of callers share. Requests that fail in passing are repeated by
//! the crate.

use std::future::Future;
use std::io;

use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt, parse_url_opts};
use tokio::runtime::{Builder, Runtime};
use url::Url;

use super::Remote;

/// How the names of variables with options begin.
const OPTION_PREFIXES: [&str; 3] = ["AWS_", "GOOGLE_", "AZURE_"];

/// A bucket, or a directory, and the path inside it.
#[derive(Debug)]
pub(super) struct Bucket {
    objects: Box<dyn ObjectStore>,
    prefix: Path,
    runtime: Runtime,
}

impl Bucket {
    /// Opens the place that a URL names; options come from the environment, under the names that
    /// the clouds' own tools use. The library would also take names such as `TOKEN`.
    pub(super) fn open(url: &str) -> io::Result<Self> {
        let invalid = |error: &dyn std::fmt::Display| {
            io::Error::new(io::ErrorKind::InvalidInput, format!("`{url}`: {error}"))
        };
        let parsed = Url::parse(url).map_err(|error| invalid(&error))?;
        // Variables that are not text are no options of anybody's.
        let options = std::env::vars_os().filter_map(|(name, value)| {
            let name = name.into_string().ok()?;
            let ours = OPTION_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
            Some((ours.then_some(name)?, value.into_string().ok()?))
        });
        let (objects, prefix) =
            parse_url_opts(&parsed, options).map_err(|error| invalid(&error))?;
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        Ok(Self { objects, prefix, runtime })
    }

    fn path(&self, key: &str) -> Path {
        key.split('/').fold(self.prefix.clone(), Path::join)
    }

    /// Waits for an answer; what is not there is `None`.
    fn wait<T>(
        &self,
        answer: impl Future<Output = object_store::Result<T>>,
    ) -> io::Result<Option<T>> {
        match self.runtime.block_on(answer) {
            Ok(found) => Ok(Some(found)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl Remote for Bucket {
    fn read(&self, key: &str, limit_bytes: u64) -> io::Result<Option<Vec<u8>>> {
        let path = self.path(key);
        let bytes = self.wait(async {
            let found = self.objects.get(&path).await?;
            // The size is known before the bytes come.
            if found.meta.size > limit_bytes {
                return Ok(None);
            }
            Ok(Some(found.bytes().await?))
        })?;
        Ok(bytes.flatten().map(Vec::from))
    }

    fn size_bytes(&self, key: &str) -> io::Result<Option<u64>> {
        let path = self.path(key);
        Ok(self.wait(self.objects.head(&path))?.map(|found| found.size))
    }

    fn write(&self, key: &str, bytes: &[u8]) -> io::Result<()> {
        let path = self.path(key);
        self.wait(self.objects.put(&path, bytes.to_vec().into()))?;
        Ok(())
    }

    fn remove(&self, key: &str) -> io::Result<()> {
        let path = self.path(key);
        self.wait(self.objects.delete(&path))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Bucket, Remote};

    #[test]
    fn a_directory_is_a_bucket() {
        let dir = tempfile::tempdir().unwrap();
        let bucket = Bucket::open(&format!("file://{}/a b", dir.path().display())).unwrap();
        assert_eq!(bucket.read("x/y", 9).unwrap(), None);
        assert_eq!(bucket.size_bytes("x/y").unwrap(), None);
        bucket.write("x/y", b"bytes").unwrap();
        assert_eq!(bucket.read("x/y", 5).unwrap().as_deref(), Some(&b"bytes"[..]));
        assert_eq!(bucket.read("x/y", 4).unwrap(), None);
        assert_eq!(bucket.size_bytes("x/y").unwrap(), Some(5));
        assert!(dir.path().join("a b/x/y").is_file());
        bucket.remove("x/y").unwrap();
        bucket.remove("x/y").unwrap();
        assert_eq!(bucket.size_bytes("x/y").unwrap(), None);
    }

    #[test]
    fn a_url_that_leads_nowhere_is_refused() {
        for url in ["adapters", "ftp://host/adapters", "file://host/adapters"] {
            let error = Bucket::open(url).unwrap_err().to_string();
            assert!(error.contains(url), "{error}");
        }
    }
}
