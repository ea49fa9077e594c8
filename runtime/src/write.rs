//! Stage 5, write: pairs → the bytes of an adapter file.
//!
//! GGUF v3 as llama.cpp loads it: tensors `blk.N.<tensor>.weight.lora_a`, then `…lora_b`, in layer
//! order; `adapter.lora.alpha` equals the rank, so llama.cpp's own factor is 1. A tensor whose rows
//! are not whole blocks of the wanted quantization is stored as f16. No time, host, user, path or
//! thread count goes into the file.
//!
//! A compiled adapter says all that it was made from, so that [`crate::rebuild`] can make it again:
//!
//! | key | value |
//! |---|---|
//! | `t2lc.recipe` | digest of everything below but the version |
//! | `t2lc.bundle` | digest of the bundle |
//! | `t2lc.backend` | id of the backend |
//! | `t2lc.pipeline` | version of the stages after it |
//! | `t2lc.description` | the canonical description, whole; `adapter.lora.task_name` is cut |
//! | `t2lc.quantization` | as asked for; tensors of short rows are f16 |
//! | `t2lc.scale` | strength, f32 |
//! | `t2lc.version` | version of t2lc |
//!
//! An adapter that no bundle made, for example one trained on its own, is a plain adapter: the same
//! file without these keys but the last.

use crate::base::BaseModel;
use crate::bundle::Bundle;
use crate::describe::Description;
use crate::digest::{Digest, Hasher};
use crate::fold::gguf_rows;
use crate::generate::LoraPair;
use crate::gguf::{GgufError, GgufWriter, Value};
use crate::quantize::{Quantization, QuantizeError, quantize};

/// Longest task name stored, in bytes; llama.cpp cuts longer ones itself.
const MAX_TASK_NAME_BYTES: usize = 1000;
/// This version of t2lc.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

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
    /// A pair whose module index the base does not have.
    #[error("a pair is for target module number {got}, the base has {modules}")]
    ModuleIndex {
        /// The index, from 0.
        got: usize,
        /// How many modules the base has.
        modules: usize,
    },
    /// A matrix of the wrong size.
    #[error("`{tensor}` has {got} values, expected {rows} rows of {row}")]
    Size {
        /// The tensor.
        tensor: String,
        /// Rows according to rank and base.
        rows: usize,
        /// Length of a row according to rank and base.
        row: usize,
        /// Values there are.
        got: usize,
    },
    /// Rows that do not split into the heads that llama.cpp interleaves.
    #[error("the {rows} rows of `{module}` do not split into {heads} heads of even size")]
    Heads {
        /// The module.
        module: String,
        /// Its rows.
        rows: usize,
        /// Its heads.
        heads: usize,
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
    /// Version of what comes after the backend: folding, quantizing, writing.
    pub pipeline: &'a str,
    /// Strength that was asked for.
    pub scale: f32,
    /// Version of t2lc that is named as the maker.
    pub version: &'a str,
}

/// What one file contains, whoever asks for it.
struct Contents<'a> {
    base: &'a BaseModel,
    rank: usize,
    quantization: Quantization,
    task: &'a str,
    licence: &'a str,
    /// `None` for a plain adapter.
    compiled: Option<&'a Provenance<'a>>,
}

/// The bytes of the GGUF file. The pairs must be folded and balanced.
///
/// # Errors
/// Values that cannot be quantized; an unknown module; matrices that are not of the base's shape.
pub fn gguf_adapter(
    pairs: &[LoraPair],
    quantization: Quantization,
    provenance: &Provenance<'_>,
) -> Result<Vec<u8>, WriteError> {
    let manifest = &provenance.bundle.manifest;
    let contents = Contents {
        base: &manifest.base,
        rank: manifest.hypernet.rank,
        quantization,
        task: provenance.description.as_str(),
        licence: &manifest.licence,
        compiled: Some(provenance),
    };
    contents.write(pairs)
}

/// The bytes of the GGUF file of an adapter that no bundle made; `name` is stored as the task's
/// name. The pairs must be folded and balanced.
///
/// # Errors
/// As [`gguf_adapter`].
pub fn plain_gguf_adapter(
    pairs: &[LoraPair],
    base: &BaseModel,
    rank: usize,
    quantization: Quantization,
    name: &str,
    licence: &str,
) -> Result<Vec<u8>, WriteError> {
    Contents { base, rank, quantization, task: name, licence, compiled: None }.write(pairs)
}

/// A tensor as it is stored: name, dimensions in ne order, type, bytes.
type Stored = (String, [u64; 2], Quantization, Vec<u8>);

impl Contents<'_> {
    fn write(&self, pairs: &[LoraPair]) -> Result<Vec<u8>, WriteError> {
        let mut tensors = Vec::with_capacity(2 * pairs.len());
        for pair in pairs {
            tensors.extend(self.stored(pair)?);
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
        for (key, value) in self.metadata(hasher.finish()) {
            writer.metadata(key, value)?;
        }
        for (name, dimensions, stored, bytes) in tensors {
            writer.tensor(&name, &dimensions, stored.ggml_type(), bytes)?;
        }
        Ok(writer.finish()?)
    }

    /// Both tensors of a pair, `lora_a` first.
    fn stored(&self, pair: &LoraPair) -> Result<[Stored; 2], WriteError> {
        let modules = self.base.modules.len();
        let module = self.base.modules.get(pair.module);
        let module = module.ok_or(WriteError::ModuleIndex { got: pair.module, modules })?;
        let base_tensor = module
            .gguf_name(pair.layer)
            .ok_or_else(|| WriteError::Module { module: module.name.clone() })?;
        let (rank, rows) = (self.rank, module.out_features);
        if let Some(heads) = module.unsplittable_heads() {
            return Err(WriteError::Heads { module: module.name.clone(), rows, heads });
        }
        let side = |side: &str, row: usize, rows: usize, got: usize| {
            let tensor = format!("{base_tensor}.{side}");
            match rows.checked_mul(row) {
                Some(expected) if expected == got => Ok(tensor),
                _ => Err(WriteError::Size { tensor, rows, row, got }),
            }
        };
        let store = |name: String, row: usize, rows: usize, values: &[f32]| {
            let stored = self.quantization.for_row_length(row);
            let bytes = quantize(&name, stored, row, values)?;
            Ok::<_, WriteError>((name, [row as u64, rows as u64], stored, bytes))
        };
        let a = side("lora_a", module.in_features, rank, pair.a.len())?;
        let b = side("lora_b", rank, rows, pair.b.len())?;
        let permuted = gguf_rows(&pair.b, rank, module);
        Ok([store(a, module.in_features, rank, &pair.a)?, store(b, rank, rows, &permuted)?])
    }

    fn metadata(&self, tensors: Digest) -> Vec<(&'static str, Value)> {
        let text = |s: &str| Value::String(s.to_owned());
        let mut pairs = vec![
            ("general.architecture", text(&self.base.architecture)),
            ("general.type", text("adapter")),
            ("adapter.type", text("lora")),
            ("adapter.lora.alpha", Value::F32(self.rank as f32)),
            ("adapter.lora.task_name", text(task_name(self.task))),
            ("general.base_model.count", Value::U32(1)),
            ("general.base_model.0.name", text(&self.base.name)),
            ("general.license", text(self.licence)),
        ];
        let floats = [Quantization::F32, Quantization::F16, Quantization::Bf16];
        if !floats.contains(&self.quantization) {
            pairs.push(("general.quantization_version", Value::U32(2)));
        }
        let version = self.compiled.map_or(VERSION, |compiled| compiled.version);
        pairs.push(("t2lc.version", text(version)));
        if let Some(compiled) = self.compiled {
            pairs.push(("t2lc.recipe", Value::String(compiled.recipe.to_string())));
        }
        pairs.push(("t2lc.tensors.sha256", Value::String(tensors.to_string())));
        if let Some(compiled) = self.compiled {
            pairs.push(("t2lc.bundle", Value::String(compiled.bundle.digest.to_string())));
        }
        pairs.push(("t2lc.base.fingerprint", text(&self.base.fingerprint)));
        if let Some(compiled) = self.compiled {
            pairs.push(("t2lc.backend", text(compiled.backend)));
            pairs.push(("t2lc.pipeline", text(compiled.pipeline)));
            pairs.push(("t2lc.description", text(compiled.description.as_str())));
            pairs.push(("t2lc.quantization", text(self.quantization.name())));
            pairs.push(("t2lc.scale", Value::F32(compiled.scale)));
        }
        pairs
    }
}

/// The task in words, cut at a character boundary.
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
        let stored = Quantization::of(tensor.ggml_type);
        hasher
            .update_prefixed(stored.map_or(tensor.ggml_type.name(), Quantization::name).as_bytes());
        for dimension in &tensor.dimensions {
            hasher.update(&dimension.to_le_bytes());
        }
        hasher.update_prefixed(gguf.data(tensor));
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::{WriteError, plain_gguf_adapter};
    use crate::base::{BaseModel, TargetModule, UNKNOWN_FINGERPRINT};
    use crate::fingerprint::base_fingerprint;
    use crate::generate::LoraPair;
    use crate::gguf::{GgmlType, Gguf, GgufWriter, Value};
    use crate::quantize::Quantization;
    use crate::verify::{NOT_COMPARED, verify_adapter, verify_against_base};

    /// A base of one layer, 4 in and 8 out, as a file.
    fn base_file(architecture: &str) -> Vec<u8> {
        let mut file = GgufWriter::new();
        file.metadata("general.architecture", Value::String(architecture.into())).unwrap();
        file.tensor("blk.0.attn_q.weight", &[4, 8], GgmlType::F32, vec![0; 128]).unwrap();
        file.tensor("blk.0.attn_norm.weight", &[4], GgmlType::F32, vec![0; 16]).unwrap();
        file.finish().unwrap()
    }

    fn base(file: &[u8]) -> BaseModel {
        BaseModel {
            name: "tiny".into(),
            architecture: "llama".into(),
            layers: 1,
            tied_head: true,
            fingerprint: base_fingerprint(&Gguf::parse(file).unwrap()).unwrap().to_string(),
            modules: vec![TargetModule {
                name: "q_proj".into(),
                in_features: 4,
                out_features: 8,
                permute_heads: Some(2),
            }],
        }
    }

    fn pair() -> LoraPair {
        let a = (0..8_u8).map(f32::from).collect();
        let b = (0..16_u8).map(f32::from).collect();
        LoraPair { layer: 0, module: 0, a, b }
    }

    fn write(pair: LoraPair, base: &BaseModel) -> Result<Vec<u8>, WriteError> {
        plain_gguf_adapter(&[pair], base, 2, Quantization::F16, "sort a list", "MIT")
    }

    #[test]
    fn a_plain_adapter_verifies_and_says_what_it_lacks() {
        let file = base_file("llama");
        let bytes = write(pair(), &base(&file)).unwrap();
        assert_eq!(write(pair(), &base(&file)).unwrap(), bytes);
        let adapter = Gguf::parse(&bytes).unwrap();
        let text = |key: &str| adapter.get(key).and_then(Value::as_str);
        assert_eq!(text("adapter.lora.task_name"), Some("sort a list"));
        assert_eq!(text("general.license"), Some("MIT"));
        let compiled_only = ["recipe", "bundle", "backend", "pipeline", "description", "scale"];
        for key in compiled_only.map(|name| format!("t2lc.{name}")) {
            assert!(adapter.get(&key).is_none(), "{key}");
        }
        let found = verify_adapter(&adapter);
        assert_eq!(found.problems, Vec::<String>::new());
        assert!(found.checked.contains(&"t2lc.tensors.sha256".to_owned()));
        let absent = "absent: t2lc.recipe, t2lc.bundle, t2lc.backend";
        assert!(found.checked.contains(&absent.to_owned()), "{:?}", found.checked);
        let against = verify_against_base(&adapter, &Gguf::parse(&file).unwrap());
        assert_eq!(against.problems, Vec::<String>::new());
        let other = base_file("qwen2");
        assert!(!verify_against_base(&adapter, &Gguf::parse(&other).unwrap()).is_sound());
    }

    #[test]
    fn an_adapter_for_a_base_without_fingerprint_says_so() {
        let file = base_file("llama");
        let mut base = base(&file);
        UNKNOWN_FINGERPRINT.clone_into(&mut base.fingerprint);
        let bytes = write(pair(), &base).unwrap();
        let adapter = Gguf::parse(&bytes).unwrap();
        let found = verify_against_base(&adapter, &Gguf::parse(&file).unwrap());
        assert!(found.is_sound(), "{found:?}");
        assert!(found.checked.contains(&NOT_COMPARED.to_owned()), "{found:?}");
    }

    #[test]
    fn pairs_that_do_not_fit_the_base_are_refused() {
        let base = base(&base_file("llama"));
        let error = |change: fn(&mut LoraPair)| {
            let mut pair = pair();
            change(&mut pair);
            write(pair, &base).unwrap_err().to_string()
        };
        assert_eq!(
            error(|pair| pair.module = 3),
            "a pair is for target module number 3, the base has 1"
        );
        assert_eq!(
            error(|pair| pair.a.truncate(7)),
            "`blk.0.attn_q.weight.lora_a` has 7 values, expected 2 rows of 4"
        );
        assert_eq!(
            error(|pair| pair.b.truncate(7)),
            "`blk.0.attn_q.weight.lora_b` has 7 values, expected 8 rows of 2"
        );
        let mut odd = base.clone();
        odd.modules[0].permute_heads = Some(3);
        assert_eq!(
            write(pair(), &odd).unwrap_err().to_string(),
            "the 8 rows of `q_proj` do not split into 3 heads of even size"
        );
    }
}
