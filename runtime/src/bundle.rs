//! A bundle: everything `compile` needs, as one directory or as bytes inside the program.
//!
//! In: a directory `NAME.t2lc/`, or the same files as static bytes. Out: the manifest and the
//! files' bytes, every size and digest checked. Nothing outside the directory is read.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::digest::Digest;
use crate::manifest::{Manifest, SCHEMA};

/// Name of the manifest.
pub const MANIFEST: &str = "manifest.json";
/// The text encoder's graph.
pub const ENCODER: &str = "encoder.onnx";
/// The hypernetwork's graph.
pub const HYPERNET: &str = "hypernet.onnx";
/// The text encoder's tokenizer.
pub const TOKENIZER: &str = "tokenizer.json";
/// Embeddings of the training descriptions.
pub const TASKS: &str = "tasks.safetensors";
/// The files every bundle has besides the manifest.
pub const FILES: [&str; 4] = [ENCODER, HYPERNET, TOKENIZER, TASKS];
/// Longest input of an encoder that is believed.
const MAX_ENCODER_TOKENS: usize = 8192;
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
        source: std::io::Error,
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

/// An opened bundle; all digests hold.
#[derive(Debug, Clone)]
pub struct Bundle {
    /// What it is.
    pub manifest: Manifest,
    /// Digest of the manifest's bytes, and so of the whole bundle.
    pub digest: Digest,
    files: BTreeMap<String, Cow<'static, [u8]>>,
}

impl Bundle {
    /// Opens a bundle directory.
    ///
    /// # Errors
    /// A missing or unreadable file, an unknown schema, a wrong size or digest; the file is named.
    pub fn open(dir: &Path) -> Result<Self, BundleError> {
        let read = |name: &str, limit: u64| -> Result<Cow<'static, [u8]>, BundleError> {
            let path = dir.join(name);
            let fail = |source| BundleError::Read { path: path.clone(), source };
            let got = std::fs::metadata(&path).map_err(fail)?.len();
            if got > limit && name == MANIFEST {
                let reason = format!("{got} bytes, at most {limit} are read");
                return Err(BundleError::Inconsistent { reason });
            }
            if got > limit {
                return Err(BundleError::Size { file: name.into(), expected: limit, got });
            }
            std::fs::read(&path).map(Cow::Owned).map_err(fail)
        };
        let manifest = read(MANIFEST, MAX_MANIFEST_BYTES)?;
        Self::assemble(&manifest, |name, size_bytes| read(name, size_bytes))
    }

    /// Opens a bundle whose files are part of the program: `(name, bytes)` pairs.
    ///
    /// # Errors
    /// As [`Bundle::open`].
    pub fn from_static(files: &[(&str, &'static [u8])]) -> Result<Self, BundleError> {
        let find = |name: &str| -> Result<&'static [u8], BundleError> {
            let found = files.iter().find(|(n, _)| *n == name);
            found.map(|(_, bytes)| *bytes).ok_or(BundleError::MissingFile { file: name.into() })
        };
        Self::assemble(find(MANIFEST)?, |name, _| find(name).map(Cow::Borrowed))
    }

    fn assemble(
        manifest_bytes: &[u8],
        read: impl Fn(&str, u64) -> Result<Cow<'static, [u8]>, BundleError>,
    ) -> Result<Self, BundleError> {
        let manifest = parse_manifest(manifest_bytes)?;
        let mut files = BTreeMap::new();
        for name in FILES {
            let entry = manifest
                .files
                .get(name)
                .ok_or_else(|| BundleError::MissingFile { file: name.into() })?;
            let bytes = read(name, entry.size_bytes)?;
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
        Ok(Self { manifest, digest: Digest::of(manifest_bytes), files })
    }

    /// Bytes of both graphs together, which [`crate::backend::choose`] decides by.
    pub fn graph_bytes(&self) -> u64 {
        let graphs = [ENCODER, HYPERNET].into_iter().filter_map(|name| self.files.get(name));
        graphs.map(|bytes| bytes.len() as u64).sum()
    }

    /// Bytes of one of [`FILES`].
    ///
    /// # Errors
    /// Another name.
    pub fn file(&self, name: &str) -> Result<&[u8], BundleError> {
        let bytes = self.files.get(name);
        bytes.map(AsRef::as_ref).ok_or_else(|| BundleError::MissingFile { file: name.into() })
    }
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
    // Two special tokens and one of the description are the least an encoder can read.
    if !(3..=MAX_ENCODER_TOKENS).contains(&manifest.encoder.max_tokens) {
        return Err(inconsistent(format!("encoder of {} tokens", manifest.encoder.max_tokens)));
    }
    if !manifest.hypernet.scale.is_finite() {
        return Err(inconsistent(format!("scale {}", manifest.hypernet.scale)));
    }
    for module in &manifest.base.modules {
        let divides = |heads: usize| {
            let pairs = heads.checked_mul(2).filter(|pairs| *pairs > 0);
            pairs.is_some_and(|pairs| module.out_features % pairs == 0)
        };
        if module.gguf_name(0).is_none() {
            return Err(inconsistent(format!("unknown target module `{}`", module.name)));
        }
        if let Some(heads) = module.permute_heads.filter(|heads| !divides(*heads)) {
            let (name, out) = (&module.name, module.out_features);
            return Err(inconsistent(format!("`{name}`: {out} rows, {heads} heads")));
        }
    }
    Ok(manifest)
}
