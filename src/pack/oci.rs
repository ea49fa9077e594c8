//! A pack as an OCI image layout: the form in which registries and their clients carry it.
//!
//! ```text
//! index.json ─┬─► manifest of the pack ─┬─► config: the lock
//!             │            ▲            └─► layers: the files of the adapters
//!             │            │ subject
//!             └─► manifest of the statement ──► layer: where the adapters come from
//! ```
//!
//! In: a lock, and where the bytes of its adapters lie. Out: a directory that is a function of
//! these bytes, the lock and the tag alone; and back, whether such a directory is sound. A blob is
//! named by its digest, so equal files are there once. The config is the lock's text as the program
//! writes it: the bytes of `pack.lock`, whatever line ends a version control system gives them.
//! Nothing is signed here: that is for cosign and its like, with the statement or on the registry.
//!
//! - `document`: the documents as JSON;
//! - `files`: adapters as layers;
//! - `staging`: the directory while it is written;
//! - `layout` and `check`: reading one that is not trusted.
//!
//! Source: <https://github.com/opencontainers/image-spec/tree/v1.1.1>; `manifest.md` has the
//! guidelines for artifacts and for `subject`.

mod check;
mod document;
mod files;
mod layout;
mod staging;

pub use check::{Checked, check_layout};
pub use files::Source;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::str::FromStr;

use t2lc_runtime::digest::Digest;

use super::PackError;
use super::lock::Lock;
use super::statement;
use document::{
    Descriptor, EMPTY, EMPTY_TYPE, INDEX_FILE, Index, LAYOUT_FILE, LAYOUT_VERSION, LayoutFile,
    MANIFEST_TYPE, Manifest, REF_NAME, to_json,
};
use files::layers;
use staging::Staging;

/// Type of the artifact.
const PACK_TYPE: &str = "application/vnd.t2lc.pack.v1";
/// Media type of its config.
const LOCK_TYPE: &str = "application/vnd.t2lc.pack.lock.v1+toml";
/// Annotation of a layer that is a statement.
const PREDICATE: &str = "in-toto.io/predicate-type";

/// The tag unless another one is asked for.
pub const DEFAULT_TAG: &str = "latest";
/// Longest tag that registries take, in bytes.
const MAX_TAG_BYTES: usize = 128;
/// Largest manifest that every registry should take, in bytes.
pub const PORTABLE_MANIFEST_BYTES: u64 = 4_000_000;

/// The name of a pack in its layout, one that registries and clients take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tag(String);

impl FromStr for Tag {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_plain =
            |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric());
        // Two dashes are one separator.
        let plain = text.replace("--", "-").split(['-', '.', '_']).all(is_plain);
        if !plain || text.len() > MAX_TAG_BYTES {
            let expected = "letters and digits, with single `-`, `.` or `_` between them";
            return Err(format!("`{text}` is no tag: 1 to {MAX_TAG_BYTES} bytes of {expected}"));
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exported {
    /// Digest of the pack's manifest.
    pub manifest: Digest,
    /// Its bytes.
    pub manifest_bytes: u64,
    /// Files of the adapters.
    pub files: usize,
    /// Blobs of the layout: files that differ, the lock, the statement and the manifests.
    pub blobs: usize,
    /// Their bytes.
    pub size_bytes: u64,
    /// The statement.
    pub statement: Vec<u8>,
}

/// Writes a pack as a layout. With `force` an existing layout is replaced.
///
/// # Errors
/// Adapters that are missing, a target that exists or has no place, a system that fails; nothing
/// is left of the layout then.
pub fn export(
    lock: &Lock,
    source: Source<'_>,
    target: &Path,
    tag: &Tag,
    force: bool,
) -> Result<Exported, PackError> {
    let staging = Staging::new(target, force)?;
    let mut blobs = Blobs { staging: &staging, sizes: BTreeMap::new() };
    let layers = layers(lock, source, |layer, bytes| blobs.add(layer, bytes))?;
    let (files, statement) = (layers.len(), about(lock, &layers));

    let config = blobs.put(LOCK_TYPE, lock.to_text().as_bytes())?;
    let manifest = Manifest::new(PACK_TYPE, config, layers)
        .annotated("t2lc.base", &lock.bundle.base)
        .annotated("t2lc.base_fingerprint", &lock.bundle.base_fingerprint)
        .annotated("t2lc.bundle", lock.bundle.digest);
    let pack = blobs.put(MANIFEST_TYPE, &to_json(&manifest))?;

    let layer = blobs.put(statement::MEDIA_TYPE, &statement)?;
    let layer = layer.annotated(PREDICATE, statement::PREDICATE_TYPE);
    let empty = blobs.put(EMPTY_TYPE, EMPTY)?;
    let mut manifest = Manifest::new(statement::MEDIA_TYPE, empty, vec![layer]);
    manifest.subject = Some(pack.clone());
    let referrer = blobs.put(MANIFEST_TYPE, &to_json(&manifest))?;

    let typed = |descriptor: &Descriptor, artifact_type: &str| Descriptor {
        artifact_type: Some(artifact_type.into()),
        ..descriptor.clone()
    };
    let index = Index::new(vec![
        typed(&pack, PACK_TYPE).annotated(REF_NAME, tag),
        typed(&referrer, statement::MEDIA_TYPE),
    ]);
    let version = LayoutFile { image_layout_version: LAYOUT_VERSION.into() };
    staging.write(INDEX_FILE, &to_json(&index))?;
    staging.write(LAYOUT_FILE, &to_json(&version))?;
    let (count, size_bytes): (usize, u64) = (blobs.sizes.len(), blobs.sizes.values().sum());
    staging.commit()?;
    Ok(Exported {
        manifest: pack.digest,
        manifest_bytes: pack.size,
        files,
        blobs: count,
        size_bytes,
        statement,
    })
}

/// The statement of [`export`] alone; the bytes of all adapters are looked at for it.
///
/// # Errors
/// Adapters that are missing.
pub fn export_statement(lock: &Lock, source: Source<'_>) -> Result<Vec<u8>, PackError> {
    let layers = layers(lock, source, |_, _| Ok(()))?;
    Ok(about(lock, &layers))
}

fn about(lock: &Lock, layers: &[Descriptor]) -> Vec<u8> {
    let files = layers.iter().filter_map(|layer| Some((layer.title()?, &layer.digest)));
    statement::statement(lock, files)
}

/// Whether a directory says that it is a layout.
pub fn is_layout(directory: &Path) -> bool {
    [LAYOUT_FILE, INDEX_FILE].iter().all(|name| directory.join(name).symlink_metadata().is_ok())
}

/// The blobs of a layout being written, each once.
struct Blobs<'a> {
    staging: &'a Staging,
    /// Size of each in bytes.
    sizes: BTreeMap<Digest, u64>,
}

impl Blobs<'_> {
    fn add(&mut self, descriptor: &Descriptor, bytes: &[u8]) -> Result<(), PackError> {
        if self.sizes.insert(descriptor.digest, descriptor.size).is_none() {
            self.staging.write(&descriptor.place(), bytes)?;
        }
        Ok(())
    }

    fn put(&mut self, media_type: &str, bytes: &[u8]) -> Result<Descriptor, PackError> {
        let descriptor = Descriptor::of(media_type, bytes);
        self.add(&descriptor, bytes)?;
        Ok(descriptor)
    }
}

#[cfg(test)]
mod tests;
