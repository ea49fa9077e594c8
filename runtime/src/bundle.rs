//! A bundle: everything `compile` needs, as one directory or as bytes inside the program.
//!
//! In: a directory `NAME.t2lc/`, or the same files as bytes, as ranges of open files, or from the
//! caller's own reader. Out: the manifest and the files' bytes, every size and digest checked.
//! Nothing outside the directory is read.

mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::backend::{BackendKind, Provider, choose};
use crate::digest::Digest;
use crate::manifest::{ADOPTED_WEIGHTS, Manifest, SCHEMA};
use source::map;
pub use source::{BundleReader, FileRange};

/// Name of the manifest.
pub const MANIFEST: &str = "manifest.json";
/// The text encoder's graph.
pub const ENCODER: &str = "encoder.onnx";
/// The hypernetwork's graph.
pub const HYPERNET: &str = "hypernet.onnx";
/// The text encoder's tokenizer.
pub const TOKENIZER: &str = "tokenizer.json";
/// Mean embeddings of each training task's descriptions, and embeddings of texts that describe none.
pub const TASKS: &str = "tasks.safetensors";
/// The files every bundle has besides the manifest.
pub const FILES: [&str; 4] = [ENCODER, HYPERNET, TOKENIZER, TASKS];
/// Longest input of an encoder that is believed.
pub(crate) const MAX_ENCODER_TOKENS: usize = 8192;
/// Largest manifest that is read.
const MAX_MANIFEST_BYTES: u64 = 4 << 20;

/// Why a bundle cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BundleError {
    /// A file cannot be read.
    #[error("cannot read `{}`", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file that must be there is not.
    #[error("the bundle has no file `{file}`")]
    MissingFile {
        /// Its name.
        file: String,
    },
    /// The manifest is not JSON of the expected form.
    #[error("`{MANIFEST}` is not a bundle manifest")]
    Manifest(#[source] serde_json::Error),
    /// The manifest is of another version.
    #[error("`{MANIFEST}` has schema {got}, this version reads schema {SCHEMA}")]
    Schema {
        /// Schema found.
        got: u64,
    },
    /// The manifest contradicts itself.
    #[error("`{MANIFEST}`: {reason}")]
    Inconsistent {
        /// What is wrong.
        reason: String,
    },
    /// A file has another size than the manifest says: truncated, or replaced.
    #[error("`{file}` has {got} bytes, the manifest says {expected}")]
    Size {
        /// Its name.
        file: String,
        /// Bytes according to the manifest.
        expected: u64,
        /// Bytes found.
        got: u64,
    },
    /// A file has other content than the manifest says.
    #[error("`{file}` is {got}, the manifest says {expected}")]
    DigestMismatch {
        /// Its name.
        file: String,
        /// Digest according to the manifest.
        expected: Digest,
        /// Digest found.
        got: Digest,
    },
}

/// An opened bundle; all digests hold. Copies share the bytes.
#[derive(Debug, Clone)]
pub struct Bundle {
    /// What it is.
    pub manifest: Manifest,
    /// Digest of the manifest's bytes, and so of the whole bundle.
    pub digest: Digest,
    manifest_json: String,
    files: BTreeMap<String, Bytes>,
}

impl Bundle {
    /// Opens a bundle directory; the files are mapped and must stay as they are while it is in use.
    ///
    /// # Errors
    /// A missing or unreadable file, an unknown schema, a wrong size or digest; the file is named.
    pub fn open(dir: &Path) -> Result<Self, BundleError> {
        Self::assemble(|name, limit| {
            let path = dir.join(name);
            let fail = |source| BundleError::Read { path: path.clone(), source };
            // To open a pipe would wait for its writer.
            if !fs::metadata(&path).map_err(fail)?.is_file() {
                return Err(fail(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "it is not a regular file",
                )));
            }
            let file = File::open(&path).map_err(fail)?;
            let got = file.metadata().map_err(fail)?.len();
            check_size(name, limit, got)?;
            map(&file, 0, got).map_err(fail)
        })
    }

    /// Opens a bundle whose files are part of the program: `(name, bytes)` pairs.
    ///
    /// # Errors
    /// As [`Bundle::open`].
    pub fn from_static(files: &[(&str, &'static [u8])]) -> Result<Self, BundleError> {
        Self::assemble(|name, _| {
            let found = files.iter().find(|(n, _)| *n == name);
            found.map(|(_, bytes)| Bytes::from_static(bytes)).ok_or_else(|| missing(name))
        })
    }

    /// Opens a bundle whose files are in memory: `(name, bytes)` pairs, of which those that belong to
    /// a bundle are copied.
    ///
    /// # Errors
    /// As [`Bundle::open`].
    pub fn from_bytes(files: &[(&str, &[u8])]) -> Result<Self, BundleError> {
        Self::assemble(|name, limit| {
            let (_, bytes) = files.iter().find(|(n, _)| *n == name).ok_or_else(|| missing(name))?;
            check_size(name, limit, bytes.len() as u64)?;
            Ok(Bytes::copy_from_slice(bytes))
        })
    }

    /// Opens a bundle whose files are ranges of open files, which are mapped as by [`Bundle::open`].
    ///
    /// # Errors
    /// As [`Bundle::open`], and a range beyond the end of its file.
    pub fn from_ranges(files: &[FileRange<'_>]) -> Result<Self, BundleError> {
        Self::assemble(|name, limit| {
            let range = files.iter().find(|range| range.name == name);
            let range = range.ok_or_else(|| missing(name))?;
            check_size(name, limit, range.size_bytes)?;
            map(range.file, range.offset, range.size_bytes)
                .map_err(|source| BundleError::Read { path: name.into(), source })
        })
    }

    /// Opens a bundle through a reader, which is asked for every file once.
    ///
    /// # Errors
    /// As [`Bundle::open`].
    pub fn from_reader(reader: &mut dyn BundleReader) -> Result<Self, BundleError> {
        Self::assemble(|name, limit| {
            let size_bytes = reader.size_bytes(name).ok_or_else(|| missing(name))?;
            check_size(name, limit, size_bytes)?;
            let fail = |source| BundleError::Read { path: name.into(), source };
            let size =
                usize::try_from(size_bytes).map_err(|_| fail(io::ErrorKind::OutOfMemory.into()))?;
            let mut bytes = Vec::new();
            bytes.try_reserve_exact(size).map_err(|_| fail(io::ErrorKind::OutOfMemory.into()))?;
            bytes.resize(size, 0);
            reader.read(name, &mut bytes).map_err(fail)?;
            Ok(Bytes::from(bytes))
        })
    }

    /// `get` gives a file by name that has no more bytes than it is told.
    fn assemble(
        mut get: impl FnMut(&str, u64) -> Result<Bytes, BundleError>,
    ) -> Result<Self, BundleError> {
        let manifest_bytes = get(MANIFEST, MAX_MANIFEST_BYTES)?;
        let manifest = parse_manifest(&manifest_bytes)?;
        let mut files = BTreeMap::new();
        for name in FILES {
            let entry = manifest.files.get(name).ok_or_else(|| missing(name))?;
            let bytes = get(name, entry.size_bytes)?;
            let (expected, got) = (entry.size_bytes, bytes.len() as u64);
            if expected != got {
                return Err(BundleError::Size { file: name.into(), expected, got });
            }
            let (expected, got) = (entry.sha256, Digest::of(&bytes));
            if expected != got {
                return Err(BundleError::DigestMismatch { file: name.into(), expected, got });
            }
            files.insert(name.to_owned(), bytes);
        }
        let digest = Digest::of(&manifest_bytes);
        let manifest_json = String::from_utf8_lossy(&manifest_bytes).into_owned();
        Ok(Self { manifest, digest, manifest_json, files })
    }

    /// The text of `manifest.json`.
    pub fn manifest_json(&self) -> &str {
        &self.manifest_json
    }

    /// The backend for this bundle, where nobody names one.
    pub fn suited_backend(&self, provider: Provider) -> BackendKind {
        choose(self.manifest.encoder.weights == ADOPTED_WEIGHTS, provider)
    }

    /// Bytes of one of [`FILES`]; copies of them share the memory.
    ///
    /// # Errors
    /// Another name.
    pub fn file(&self, name: &str) -> Result<&Bytes, BundleError> {
        self.files.get(name).ok_or_else(|| missing(name))
    }
}

fn missing(name: &str) -> BundleError {
    BundleError::MissingFile { file: name.into() }
}

/// Refuses a file that is larger than it may be, before any of it is held.
fn check_size(name: &str, limit: u64, got: u64) -> Result<(), BundleError> {
    if got <= limit {
        return Ok(());
    }
    if name == MANIFEST {
        let reason = format!("{got} bytes, at most {limit} are read");
        return Err(BundleError::Inconsistent { reason });
    }
    Err(BundleError::Size { file: name.into(), expected: limit, got })
}

fn parse_manifest(bytes: &[u8]) -> Result<Manifest, BundleError> {
    // The schema is read first: another version may have other fields.
    let raw: serde_json::Value = serde_json::from_slice(bytes).map_err(BundleError::Manifest)?;
    match raw.get("schema").and_then(serde_json::Value::as_u64) {
        Some(schema) if schema == u64::from(SCHEMA) => {}
        Some(got) => return Err(BundleError::Schema { got }),
        None => return Err(BundleError::Inconsistent { reason: "no `schema`".into() }),
    }
    let manifest: Manifest = serde_json::from_value(raw).map_err(BundleError::Manifest)?;
    let inconsistent = |reason: String| BundleError::Inconsistent { reason };
    if let Some(name) = manifest.files.keys().find(|name| !FILES.contains(&name.as_str())) {
        return Err(inconsistent(format!("unknown file `{name}`")));
    }
    let (layers, rank) = (manifest.base.layers, manifest.hypernet.rank);
    if layers == 0 || layers > 4096 || rank == 0 || rank > 4096 {
        return Err(inconsistent(format!("{layers} layers of rank {rank}")));
    }
    if manifest.base.modules.is_empty() {
        return Err(inconsistent("no target modules".into()));
    }
    match (&manifest.training, &manifest.origin) {
        (Some(_), None) | (None, Some(_)) => {}
        (None, None) => return Err(inconsistent("neither `training` nor `origin`".into())),
        (Some(_), Some(_)) => return Err(inconsistent("both `training` and `origin`".into())),
    }
    // Two special tokens and one of the description are the least an encoder can read.
    if !(3..=MAX_ENCODER_TOKENS).contains(&manifest.encoder.max_tokens) {
        return Err(inconsistent(format!("encoder of {} tokens", manifest.encoder.max_tokens)));
    }
    if !manifest.hypernet.scale.is_finite() {
        return Err(inconsistent(format!("scale {}", manifest.hypernet.scale)));
    }
    let mut names = BTreeSet::new();
    for module in &manifest.base.modules {
        if module.gguf_name(0).is_none() {
            return Err(inconsistent(format!("unknown target module `{}`", module.name)));
        }
        if !names.insert(&module.name) {
            return Err(inconsistent(format!("target module `{}` twice", module.name)));
        }
        if let Some(heads) = module.unsplittable_heads() {
            let (name, out) = (&module.name, module.out_features);
            return Err(inconsistent(format!("`{name}`: {out} rows, {heads} heads")));
        }
    }
    Ok(manifest)
}
