//! Reads a layout that is not trusted.
//!
//! In: a directory, and descriptors from its documents. Out: documents and blobs whose size and
//! digest are those of their descriptors, or problems that name the file. Nothing is reached
//! through a symbolic link, no file is named by anything but a digest, a document is not read
//! before its size is known to be bounded, and every other blob goes through a small buffer.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use t2lc_runtime::digest::{Digest, Hasher};

use super::document::{
    Descriptor, INDEX_FILE, Index, LAYOUT_FILE, LAYOUT_VERSION, LayoutFile, Manifest,
    SCHEMA_VERSION,
};
use crate::pack::PackError;
use crate::pack::artifact::weights_bytes;
use crate::pack::place::symlink;
use crate::pack::problems::Problems;

/// Largest `oci-layout` that is read.
const MAX_LAYOUT_BYTES: u64 = 64 << 10;
/// Largest index or manifest that is read; one of 10,000 PEFT adapters has about 7 MB.
const MAX_MANIFEST_BYTES: u64 = 64 << 20;

/// A layout and what is wrong with it.
pub(super) struct Layout<'a> {
    root: &'a Path,
    pub(super) problems: Problems,
    /// Whether a blob is what its name says, by digest and the size that a descriptor gives.
    blobs: BTreeMap<(Digest, u64), bool>,
}

impl<'a> Layout<'a> {
    pub(super) fn new(root: &'a Path) -> Self {
        Self { root, problems: Problems::default(), blobs: BTreeMap::new() }
    }

    /// Blobs that were looked at and are what their names say.
    pub(super) fn sound_blobs(&self) -> usize {
        self.blobs.values().filter(|right| **right).count()
    }

    /// Where a blob lies.
    pub(super) fn path(&self, blob: &Descriptor) -> PathBuf {
        self.root.join(blob.place())
    }

    /// Adds a problem of a blob.
    pub(super) fn complain(&mut self, blob: &Descriptor, what: &str) {
        self.problems.add(&self.root.join(blob.place()), None, what);
    }

    /// Checks the version, and gives the manifests that the index lists, each once.
    pub(super) fn manifests(&mut self) -> Result<Vec<Descriptor>, PackError> {
        let version = self.file(LAYOUT_FILE, MAX_LAYOUT_BYTES)?;
        let version =
            version.and_then(|bytes| self.parse::<LayoutFile>(LAYOUT_FILE, "layout file", &bytes));
        if let Some(LayoutFile { image_layout_version: got }) = version
            && got != LAYOUT_VERSION
        {
            let what = format!("layout version `{got}`, expected `{LAYOUT_VERSION}`");
            self.problems.add(&self.root.join(LAYOUT_FILE), None, &what);
        }
        let index = self.file(INDEX_FILE, MAX_MANIFEST_BYTES)?;
        let index = index.and_then(|bytes| self.parse::<Index>(INDEX_FILE, "index", &bytes));
        let Some(Index { schema_version, mut manifests, .. }) = index else {
            return Ok(Vec::new());
        };
        self.expect_schema(INDEX_FILE, schema_version);
        // Two tags may name one manifest.
        let mut seen = BTreeSet::new();
        manifests.retain(|entry| seen.insert((entry.digest, entry.size)));
        Ok(manifests)
    }

    /// A manifest, if it is what its descriptor says.
    pub(super) fn manifest(&mut self, blob: &Descriptor) -> Result<Option<Manifest>, PackError> {
        let Some(bytes) = self.document(blob, MAX_MANIFEST_BYTES)? else { return Ok(None) };
        let manifest: Option<Manifest> = self.parse(&blob.place(), "manifest", &bytes);
        if let Some(manifest) = &manifest {
            self.expect_schema(&blob.place(), manifest.schema_version);
        }
        Ok(manifest)
    }

    /// The bytes of a blob, if they are what its descriptor says.
    pub(super) fn document(
        &mut self,
        blob: &Descriptor,
        limit_bytes: u64,
    ) -> Result<Option<Vec<u8>>, PackError> {
        if blob.size > limit_bytes {
            let what = format!("it is to have {} bytes, at most {limit_bytes} are read", blob.size);
            self.complain(blob, &what);
            return Ok(None);
        }
        if self.has(blob)? { self.file(&blob.place(), limit_bytes) } else { Ok(None) }
    }

    /// Whether a blob is what its descriptor says: size first, then digest.
    pub(super) fn has(&mut self, blob: &Descriptor) -> Result<bool, PackError> {
        let key = (blob.digest, blob.size);
        if let Some(right) = self.blobs.get(&key) {
            return Ok(*right);
        }
        let right = match self.open(&blob.place())? {
            None => false,
            Some((_, got)) if got != blob.size => {
                let expected = blob.size;
                self.complain(blob, &format!("it has {got} bytes, expected {expected}"));
                false
            }
            Some((file, _)) => {
                let mut hasher = Hasher::new();
                self.hash(&mut hasher, file, blob)?;
                let got = hasher.finish();
                if got != blob.digest {
                    self.complain(blob, &format!("its content is {got}"));
                }
                got == blob.digest
            }
        };
        self.blobs.insert(key, right);
        Ok(right)
    }

    /// Whether a blob is the weights of a PEFT adapter and nothing more. One that is not what its
    /// descriptor says has been complained about.
    pub(super) fn is_weights(&mut self, blob: &Descriptor) -> Result<bool, PackError> {
        if !self.has(blob)? {
            return Ok(true);
        }
        let Some((file, _)) = self.open(&blob.place())? else { return Ok(true) };
        Ok(weights_bytes(file) == Some(blob.size))
    }

    /// The digest of several blobs together, if all of them are what their descriptors say.
    pub(super) fn digest_of(&mut self, blobs: &[&Descriptor]) -> Result<Option<Digest>, PackError> {
        let mut hasher = Hasher::new();
        for blob in blobs {
            if !self.has(blob)? {
                return Ok(None);
            }
            let Some((file, _)) = self.open(&blob.place())? else { return Ok(None) };
            self.hash(&mut hasher, file, blob)?;
        }
        Ok(Some(hasher.finish()))
    }

    fn hash(&self, hasher: &mut Hasher, file: File, blob: &Descriptor) -> Result<(), PackError> {
        // One byte more than expected, so that a file that grows meanwhile is never right.
        let read = hasher.update_from(file.take(blob.size.saturating_add(1)));
        read.map_err(|source| unreadable(&self.path(blob), source))
    }

    /// The bytes of a file of the layout, if it is there and not too large.
    fn file(&mut self, name: &str, limit_bytes: u64) -> Result<Option<Vec<u8>>, PackError> {
        let path = self.root.join(name);
        let Some((file, size_bytes)) = self.open(name)? else { return Ok(None) };
        if size_bytes > limit_bytes {
            let what = format!("it has {size_bytes} bytes, at most {limit_bytes} are read");
            self.problems.add(&path, None, &what);
            return Ok(None);
        }
        let mut bytes = Vec::new();
        let read = file.take(limit_bytes).read_to_end(&mut bytes);
        read.map_err(|source| unreadable(&path, source))?;
        Ok(Some(bytes))
    }

    /// Opens a regular file, and gives its size in bytes.
    fn open(&mut self, name: &str) -> Result<Option<(File, u64)>, PackError> {
        let path = self.root.join(name);
        if let Some(link) = symlink(self.root, name) {
            self.problems.add(&link, None, "it is a symbolic link, which is not followed");
            return Ok(None);
        }
        let wrong = match fs::symlink_metadata(&path) {
            Ok(found) if found.is_file() => {
                let file = File::open(&path).map_err(|source| unreadable(&path, source))?;
                return Ok(Some((file, found.len())));
            }
            Ok(_) => "it is not a regular file",
            Err(error) => match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => "it is missing",
                _ => return Err(unreadable(&path, error)),
            },
        };
        self.problems.add(&path, None, wrong);
        Ok(None)
    }

    fn parse<T: DeserializeOwned>(&mut self, name: &str, what: &str, bytes: &[u8]) -> Option<T> {
        let parsed = serde_json::from_slice(bytes);
        let complain = |error: serde_json::Error| {
            self.problems.add(&self.root.join(name), None, &format!("it is no {what}: {error}"));
        };
        parsed.map_err(complain).ok()
    }

    fn expect_schema(&mut self, name: &str, got: u32) {
        if got != SCHEMA_VERSION {
            let what = format!("schema version {got}, expected {SCHEMA_VERSION}");
            self.problems.add(&self.root.join(name), None, &what);
        }
    }
}

fn unreadable(path: &Path, source: io::Error) -> PackError {
    PackError::Io { what: "read", path: path.to_owned(), source }
}
