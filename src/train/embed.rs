//! Task embeddings for training: all-MiniLM-L6-v2 in candle, from its Hugging Face directory.
//!
//! Input: canonical descriptions. Output: per description `E` values, mean-pooled, L2-normalized
//! and multiplied by √E, as the exported encoder computes them.

use std::path::Path;

use anyhow::{Context, Result, anyhow};
use candle_core::{D, DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::bert::{BertModel, Config};
use tokenizers::Tokenizer;

/// Longest description the encoder reads, as the runtime has it.
pub use t2lc_runtime::encode::MAX_TOKENS;

/// The text encoder.
#[derive(Debug)]
pub struct DescriptionEncoder {
    model: BertDebug,
    tokenizer: Tokenizer,
    device: Device,
}

/// Candle's model lacks `Debug`.
struct BertDebug(BertModel);

impl std::fmt::Debug for BertDebug {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BertModel")
    }
}

impl DescriptionEncoder {
    /// Reads `config.json`, `model.safetensors` and `tokenizer.json`.
    ///
    /// # Errors
    /// A missing or unreadable file.
    pub fn load(dir: &Path, device: &Device) -> Result<Self> {
        let read = |name: &str| {
            let path = dir.join(name);
            std::fs::read(&path).with_context(|| format!("cannot read `{}`", path.display()))
        };
        let config: Config = serde_json::from_slice(&read("config.json")?)?;
        let weights =
            VarBuilder::from_buffered_safetensors(read("model.safetensors")?, DType::F32, device)?;
        let model = BertDebug(BertModel::load(weights, &config)?);
        let mut tokenizer =
            Tokenizer::from_bytes(read("tokenizer.json")?).map_err(|e| anyhow!(e))?;
        tokenizer.with_padding(None);
        let truncation =
            tokenizers::TruncationParams { max_length: MAX_TOKENS, ..Default::default() };
        tokenizer.with_truncation(Some(truncation)).map_err(|e| anyhow!(e))?;
        Ok(Self { model, tokenizer, device: device.clone() })
    }

    /// Number of values of an embedding.
    ///
    /// # Errors
    /// As [`DescriptionEncoder::embed`].
    pub fn width(&self) -> Result<usize> {
        Ok(self.embed("width")?.len())
    }

    /// Embedding of one description, `E` values of Euclidean length √E.
    ///
    /// # Errors
    /// Text the tokenizer cannot encode.
    pub fn embed(&self, description: &str) -> Result<Vec<f32>> {
        let encoding = self.tokenizer.encode(description, true).map_err(|e| anyhow!(e))?;
        let ids = Tensor::new(encoding.get_ids(), &self.device)?.unsqueeze(0)?;
        let states = self.model.0.forward(&ids, &ids.zeros_like()?, None)?;
        let mean = states.squeeze(0)?.mean(0)?;
        let length = mean.sqr()?.sum_all()?.sqrt()?.to_scalar::<f32>()?;
        let scale = (mean.dim(D::Minus1)? as f32).sqrt() / length.max(1e-12);
        Ok((mean * f64::from(scale))?.to_vec1()?)
    }
}
