//! The adapters of a lock as files with titles, each a layer of the pack's manifest.
//!
//! In: a lock, and where the bytes may lie. Out: one descriptor per file, in the order of the lock,
//! and the bytes of one adapter at a time to whoever wants them. A GGUF adapter is one file, titled
//! with its output; a PEFT adapter is two, the weights and then the settings, as its content digest
//! covers them. Bytes that do not have the lock's size and digest are as good as none.

use std::path::Path;

use t2lc_runtime::compile::Format;
use t2lc_runtime::peft::{CONFIG, WEIGHTS};

use super::document::{Descriptor, TITLE};
use crate::pack::PackError;
use crate::pack::artifact::{load, split_peft};
use crate::pack::lock::{Lock, LockedAdapter};
use crate::pack::place::{join, symlink};
use crate::store::Store;

/// Media type of a GGUF adapter.
const GGUF_TYPE: &str = "application/vnd.t2lc.adapter.v1.gguf";
/// Media type of the weights of a PEFT adapter.
const WEIGHTS_TYPE: &str = "application/vnd.t2lc.adapter.v1.safetensors";
/// Media type of the settings of a PEFT adapter.
const CONFIG_TYPE: &str = "application/vnd.t2lc.adapter.v1.peft-config+json";

/// Annotation of a layer: the adapter that the file belongs to.
const NAME: &str = "t2lc.name";
/// Annotation of a layer: the digest of everything that went into the adapter.
const RECIPE: &str = "t2lc.recipe";

/// Where the bytes of adapters may lie.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// Directory of the pack's files, asked first.
    pub directory: &'a Path,
    /// The store.
    pub store: &'a Store,
}

impl Source<'_> {
    /// The bytes of an adapter, if they are what the lock says.
    fn bytes(&self, adapter: &LockedAdapter) -> Result<Option<Vec<u8>>, PackError> {
        let LockedAdapter { output, format, content, size_bytes, .. } = adapter;
        if symlink(self.directory, output).is_none() {
            let path = join(self.directory, output);
            if let Some(bytes) = load(&path, *format, content, *size_bytes) {
                return Ok(Some(bytes));
            }
        }
        let stored = self.store.get(content)?;
        Ok(stored.filter(|bytes| bytes.len() as u64 == *size_bytes))
    }
}

/// Title and media type of each file of an adapter, in the order of its content.
pub(super) fn files(adapter: &LockedAdapter) -> Vec<(String, &'static str)> {
    let output = &adapter.output;
    match adapter.format {
        Format::Peft => vec![
            (format!("{output}/{WEIGHTS}"), WEIGHTS_TYPE),
            (format!("{output}/{CONFIG}"), CONFIG_TYPE),
        ],
        // The other form there is: one file.
        _ => vec![(output.clone(), GGUF_TYPE)],
    }
}

/// The descriptors of all files; `keep` gets each with its bytes.
///
/// # Errors
/// All adapters that are neither in the directory nor in the store; whatever `keep` says.
pub(super) fn layers(
    lock: &Lock,
    source: Source<'_>,
    mut keep: impl FnMut(&Descriptor, &[u8]) -> Result<(), PackError>,
) -> Result<Vec<Descriptor>, PackError> {
    let (mut layers, mut missing) = (Vec::new(), Vec::new());
    for adapter in &lock.adapters {
        let Some(bytes) = source.bytes(adapter)? else {
            missing.push(adapter.name.clone());
            continue;
        };
        // Once one is missing, nothing but the names of all the others is wanted.
        if !missing.is_empty() {
            continue;
        }
        for ((title, media_type), part) in files(adapter).iter().zip(parts(adapter, &bytes)?) {
            let layer = Descriptor::of(media_type, part)
                .annotated(TITLE, title)
                .annotated(NAME, &adapter.name)
                .annotated(RECIPE, adapter.recipe);
            keep(&layer, part)?;
            layers.push(layer);
        }
    }
    if missing.is_empty() { Ok(layers) } else { Err(PackError::Missing { names: missing }) }
}

/// The bytes of each file of an adapter.
fn parts<'a>(adapter: &LockedAdapter, bytes: &'a [u8]) -> Result<Vec<&'a [u8]>, PackError> {
    match adapter.format {
        Format::Peft => {
            let damaged = || PackError::NotPeft { name: adapter.name.clone() };
            let (weights, config) = split_peft(bytes).ok_or_else(damaged)?;
            Ok(vec![weights, config])
        }
        _ => Ok(vec![bytes]),
    }
}
