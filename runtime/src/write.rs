//! Stage 5, write: pairs → the bytes of an adapter file.
//!
//! GGUF v3 as llama.cpp loads it: tensors `blk.N.<tensor>.weight.lora_a`, then `…lora_b`, in layer
//! order; `adapter.lora.alpha` equals the rank, so llama.cpp's own factor is 1. A tensor whose rows
//! are not whole blocks of the wanted quantization is stored as f16. No time, host, user, path or
//! thread count goes into the file.

use crate::bundle::Bundle;
use crate::describe::Description;
use crate::digest::{Digest, Hasher};
use crate::fold::gguf_rows;
use crate::generate::LoraPair;
use crate::gguf::{GgufError, GgufWriter, Value};
use crate::quantize::{Quantization, QuantizeError, quantize};

/// Longest task name stored, in bytes; llama.cpp cuts longer ones itself.
const MAX_TASK_NAME_BYTES: usize = 1000;

/// Why an adapter could not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// Values that the quantizer refuses.
    #[error(transparent)]
    Quantize(#[from] QuantizeError),
    /// The format's writer refuses.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// A module that llama.cpp has no tensor for.
    #[error("target module `{module}` has no tensor in GGUF")]
    Module {
        /// The module.
        module: String,
    },
    /// The safetensors writer refuses.
    #[error(transparent)]
    Safetensors(#[from] safetensors::SafeTensorError),
    /// A quantization that the format does not have.
    #[error("a PEFT adapter cannot be `{quantization}`, only f32, f16 or bf16")]
    PeftQuantization {
        /// The quantization asked for.
        quantization: Quantization,
    },
}

/// What is known about an adapter besides its matrices.
#[derive(Debug, Clone, Copy)]
pub struct Provenance<'a> {
    /// The bundle it comes from.
    pub bundle: &'a Bundle,
    /// The description it was compiled from.
    pub description: &'a Description,
    /// Digest of everything that went in.
    pub recipe: Digest,
    /// Id of the backend.
    pub backend: &'a str,
}

/// The bytes of the GGUF file. The pairs must be folded and balanced.
///
/// # Errors
/// Values that cannot be quantized; an unknown module.
pub fn gguf_adapter(
    pairs: &[LoraPair],
    quantization: Quantization,
    provenance: &Provenance<'_>,
) -> Result<Vec<u8>, WriteError> {
    let manifest = &provenance.bundle.manifest;
    let rank = manifest.hypernet.rank;
    let mut tensors = Vec::with_capacity(2 * pairs.len());
    for pair in pairs {
        let module = &manifest.base.modules[pair.module];
        let base_tensor = module
            .gguf_name(pair.layer)
            .ok_or_else(|| WriteError::Module { module: module.name.clone() })?;
        let b = gguf_rows(&pair.b, rank, module);
        let sides = [
            ("lora_a", module.in_features, rank, &pair.a),
            ("lora_b", rank, module.out_features, &b),
        ];
        for (side, row, rows, values) in sides {
            let name = format!("{base_tensor}.{side}");
            let stored = quantization.for_row_length(row);
            let bytes = quantize(&name, stored, row, values)?;
            tensors.push((name, [row as u64, rows as u64], stored, bytes));
        }
    }
    let mut hasher = Hasher::new();
    for (name, dimensions, stored, bytes) in &tensors {
        hasher.update_prefixed(name.as_bytes());
        hasher.update_prefixed(stored.name().as_bytes());
        hasher.update(&dimensions[0].to_le_bytes());
        hasher.update(&dimensions[1].to_le_bytes());
        hasher.update_prefixed(bytes);
    }
    let mut writer = GgufWriter::new();
    for (key, value) in metadata(rank, quantization, provenance, hasher.finish()) {
        writer.metadata(key, value)?;
    }
    for (name, dimensions, stored, bytes) in tensors {
        writer.tensor(&name, &dimensions, stored.ggml_type(), bytes)?;
    }
    Ok(writer.finish()?)
}

fn metadata(
    rank: usize,
    quantization: Quantization,
    provenance: &Provenance<'_>,
    tensors: Digest,
) -> Vec<(&'static str, Value)> {
    let manifest = &provenance.bundle.manifest;
    let text = |s: &str| Value::String(s.to_owned());
    let mut pairs = vec![
        ("general.architecture", text(&manifest.base.architecture)),
        ("general.type", text("adapter")),
        ("adapter.type", text("lora")),
        ("adapter.lora.alpha", Value::F32(rank as f32)),
        ("adapter.lora.task_name", text(task_name(provenance.description.as_str()))),
        ("general.base_model.count", Value::U32(1)),
        ("general.base_model.0.name", text(&manifest.base.name)),
        ("general.license", text(&manifest.licence)),
    ];
    if !matches!(quantization, Quantization::F32 | Quantization::F16 | Quantization::Bf16) {
        pairs.push(("general.quantization_version", Value::U32(2)));
    }
    pairs.extend([
        ("t2lc.version", text(env!("CARGO_PKG_VERSION"))),
        ("t2lc.recipe", Value::String(provenance.recipe.to_string())),
        ("t2lc.tensors.sha256", Value::String(tensors.to_string())),
        ("t2lc.bundle", Value::String(provenance.bundle.digest.to_string())),
        ("t2lc.base.fingerprint", text(&manifest.base.fingerprint)),
        ("t2lc.backend", text(provenance.backend)),
    ]);
    pairs
}

/// The description, cut at a character boundary.
fn task_name(description: &str) -> &str {
    let mut end = description.len().min(MAX_TASK_NAME_BYTES);
    while !description.is_char_boundary(end) {
        end -= 1;
    }
    &description[..end]
}

/// Digest over names, types, dimensions and data of the tensors of a parsed adapter, as
/// `t2lc.tensors.sha256` records it.
pub fn tensors_digest(gguf: &crate::gguf::Gguf<'_>) -> Digest {
    let mut hasher = Hasher::new();
    for tensor in gguf.tensors() {
        hasher.update_prefixed(tensor.name.as_bytes());
        let stored = Quantization::ALL.into_iter().find(|q| q.ggml_type() == tensor.ggml_type);
        hasher
            .update_prefixed(stored.map_or(tensor.ggml_type.name(), Quantization::name).as_bytes());
        for dimension in &tensor.dimensions {
            hasher.update(&dimension.to_le_bytes());
        }
        hasher.update_prefixed(gguf.data(tensor));
    }
    hasher.finish()
}
