//! The adapter as a PEFT directory: `adapter_model.safetensors` and `adapter_config.json`.
//!
//! Hugging Face row order, nothing permuted; `lora_alpha` equals the rank because the scale is
//! folded. vLLM, SGLang and llama.cpp's converter read this form.

use std::borrow::Cow;

use safetensors::{Dtype, View};
use serde_json::json;

use crate::base::BaseModel;
use crate::generate::LoraPair;
use crate::quantize::{Quantization, quantize};
use crate::write::WriteError;

/// File with the matrices.
pub const WEIGHTS: &str = "adapter_model.safetensors";
/// File with the settings.
pub const CONFIG: &str = "adapter_config.json";

struct Matrix {
    dtype: Dtype,
    shape: [usize; 2],
    bytes: Vec<u8>,
}

impl View for &Matrix {
    fn dtype(&self) -> Dtype {
        self.dtype
    }
    fn shape(&self) -> &[usize] {
        &self.shape
    }
    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.bytes)
    }
    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

/// The element type of safetensors for a quantization.
///
/// # Errors
/// A block quantization, which safetensors does not have.
pub(crate) fn peft_dtype(quantization: Quantization) -> Result<Dtype, WriteError> {
    match quantization {
        Quantization::F32 => Ok(Dtype::F32),
        Quantization::F16 => Ok(Dtype::F16),
        Quantization::Bf16 => Ok(Dtype::BF16),
        quantization => Err(WriteError::PeftQuantization { quantization }),
    }
}

/// Both files, `(name, bytes)`. The pairs must be folded and balanced.
///
/// # Errors
/// A block quantization, which safetensors does not have; values that are not finite.
pub fn peft_adapter(
    pairs: &[LoraPair],
    base: &BaseModel,
    rank: usize,
    quantization: Quantization,
) -> Result<Vec<(&'static str, Vec<u8>)>, WriteError> {
    let dtype = peft_dtype(quantization)?;
    let mut tensors = Vec::with_capacity(2 * pairs.len());
    for pair in pairs {
        let (got, modules) = (pair.module, base.modules.len());
        let module = base.modules.get(got).ok_or(WriteError::ModuleIndex { got, modules })?;
        let path = module
            .hugging_face_path(pair.layer)
            .ok_or_else(|| WriteError::Module { module: module.name.clone() })?;
        let sides = [
            ("lora_A", [rank, module.in_features], &pair.a),
            ("lora_B", [module.out_features, rank], &pair.b),
        ];
        for (side, shape, values) in sides {
            let name = format!("base_model.model.{path}.{side}.weight");
            let bytes = quantize(&name, quantization, shape[1], values)?;
            tensors.push((name, Matrix { dtype, shape, bytes }));
        }
    }
    let views = tensors.iter().map(|(name, matrix)| (name, matrix));
    let weights = safetensors::serialize(views, None)?;
    let modules: Vec<&str> = base.modules.iter().map(|m| m.name.as_str()).collect();
    let config = json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base.name,
        "r": rank,
        "lora_alpha": rank,
        "target_modules": modules,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "modules_to_save": null,
        "rank_pattern": {},
        "alpha_pattern": {},
        "use_rslora": false,
        "use_dora": false,
    });
    let mut config = format!("{config:#}").into_bytes();
    config.push(b'\n');
    Ok(vec![(WEIGHTS, weights), (CONFIG, config)])
}
