//! Task embeddings for training: a BERT encoder in candle, from its Hugging Face directory.
//!
//! Input: canonical descriptions. Output: per description `E` values, pooled as `1_Pooling` of the
//! directory says, L2-normalized and multiplied by √E, as the exported encoder computes them; or the
//! tokens, for an encoder that is trained as well.

use std::path::Path;

use anyhow::{Context, Result, anyhow};
use candle_core::{D, DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::bert::{BertModel, Config};
use t2lc_export::encoder::{Pooling, max_tokens};
use t2lc_runtime::describe::Description;
use t2lc_runtime::digest::{Digest, Hasher};
use tokenizers::Tokenizer;

use super::condition::Condition;
use crate::workers;

/// Longest description the encoder reads, as the runtime has it.
pub use t2lc_runtime::encode::MAX_TOKENS;

/// Most texts embedded at once.
const BATCH_TEXTS: usize = 64;

/// The text encoder.
#[derive(Debug)]
pub struct DescriptionEncoder {
    model: BertDebug,
    pooling: Pooling,
    tokenizer: Tokenizer,
    device: Device,
    /// Whether conditions are tokens.
    tokenizes: bool,
}

/// Candle's model lacks `Debug`.
struct BertDebug(BertModel);

impl std::fmt::Debug for BertDebug {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BertModel")
    }
}

/// Digest of everything that [`DescriptionEncoder::load`] reads.
///
/// # Errors
/// As [`DescriptionEncoder::load`].
pub fn encoder_digest(dir: &Path) -> Result<Digest> {
    let mut digest = Hasher::new();
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        digest.update_prefixed(&read(dir, name)?);
    }
    digest.update_prefixed(Pooling::read(dir, Pooling::Mean)?.to_string().as_bytes());
    Ok(digest.finish())
}

pub(super) fn read(dir: &Path, name: &str) -> Result<Vec<u8>> {
    let path = dir.join(name);
    std::fs::read(&path).with_context(|| format!("cannot read `{}`", path.display()))
}

impl DescriptionEncoder {
    /// Reads `config.json`, `model.safetensors`, `tokenizer.json` and, if there is one, `1_Pooling`.
    ///
    /// # Errors
    /// A missing or unreadable file.
    pub fn load(dir: &Path, device: &Device) -> Result<Self> {
        let read = |name: &str| read(dir, name);
        let (config, weights) = (read("config.json")?, read("model.safetensors")?);
        let tokenizer = read("tokenizer.json")?;
        let pooling = Pooling::read(dir, Pooling::Mean)?;
        let config: Config = serde_json::from_slice(&config)?;
        let weights = VarBuilder::from_buffered_safetensors(weights, DType::F32, device)?;
        let model = BertDebug(BertModel::load(weights, &config)?);
        let mut tokenizer = Tokenizer::from_bytes(tokenizer).map_err(|e| anyhow!(e))?;
        tokenizer.with_padding(None);
        let max_length = max_tokens(dir)?;
        let truncation = tokenizers::TruncationParams { max_length, ..Default::default() };
        tokenizer.with_truncation(Some(truncation)).map_err(|e| anyhow!(e))?;
        Ok(Self { model, pooling, tokenizer, device: device.clone(), tokenizes: false })
    }

    /// The encoder with conditions that are left as tokens.
    #[must_use]
    pub fn tokenizing(self) -> Self {
        Self { tokenizes: true, ..self }
    }

    /// Where the encoder computes.
    pub fn device(&self) -> &Device {
        &self.device
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
        self.embed_tokens(&self.tokens(description)?)
    }

    /// What the adapters for descriptions depend on, in the order of `texts`. Texts of as many tokens
    /// are embedded together.
    ///
    /// # Errors
    /// Text that is no description, or that the tokenizer cannot encode.
    pub fn conditions(&self, texts: &[&str]) -> Result<Vec<Condition>> {
        let tokens = |text: &&str| self.tokens(Description::new(text)?.as_str());
        let tokens = texts.iter().map(tokens).collect::<Result<Vec<_>>>()?;
        if self.tokenizes {
            return Ok(tokens.into_iter().map(Condition::Tokens).collect());
        }
        let mut order: Vec<usize> = (0..texts.len()).collect();
        order.sort_by_key(|&text| tokens[text].len());
        let as_long = |a: &usize, b: &usize| tokens[*a].len() == tokens[*b].len();
        let batches = order.chunk_by(as_long).flat_map(|equal| equal.chunks(BATCH_TEXTS));
        let batches: Vec<Vec<&[u32]>> =
            batches.map(|batch| batch.iter().map(|&text| &*tokens[text]).collect()).collect();
        let embedded = workers::map(&self.device, &batches, |batch| self.embed_batch(batch))?;
        let mut conditions: Vec<_> =
            order.into_iter().zip(embedded.into_iter().flatten()).collect();
        conditions.sort_by_key(|(text, _)| *text);
        Ok(conditions.into_iter().map(|(_, values)| Condition::Embedding(values)).collect())
    }

    /// The tokens of a text.
    ///
    /// # Errors
    /// Text the tokenizer cannot encode.
    pub fn tokens(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.tokenizer.encode(text, true).map_err(|e| anyhow!(e))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// As [`DescriptionEncoder::embed`], of tokens.
    ///
    /// # Errors
    /// A token that the encoder does not know.
    pub fn embed_tokens(&self, tokens: &[u32]) -> Result<Vec<f32>> {
        self.embed_batch(&[tokens])?.pop().context("no text, no embedding")
    }

    /// As [`DescriptionEncoder::embed_tokens`], of texts of as many tokens.
    fn embed_batch(&self, texts: &[&[u32]]) -> Result<Vec<Vec<f32>>> {
        let tokens = texts.first().map_or(0, |text| text.len());
        let ids = Tensor::from_vec(texts.concat(), (texts.len(), tokens), &self.device)?;
        let states = self.model.0.forward(&ids, &ids.zeros_like()?, None)?;
        (0..texts.len()).map(|text| self.pool(&states.get(text)?)).collect()
    }

    /// The embedding of a text with these hidden states, `[tokens, E]`.
    fn pool(&self, states: &Tensor) -> Result<Vec<f32>> {
        let pooled = match self.pooling {
            Pooling::Mean => states.mean(0)?,
            Pooling::Cls => states.get(0)?,
        };
        let length = pooled.sqr()?.sum_all()?.sqrt()?.to_scalar::<f32>()?;
        let scale = (pooled.dim(D::Minus1)? as f32).sqrt() / length.max(1e-12);
        Ok((pooled * f64::from(scale))?.to_vec1()?)
    }
}
