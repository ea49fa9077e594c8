//! A text encoder that is trained together with the hypernetwork it feeds.
//!
//! In: the directory of a BERT encoder and the tokens of descriptions. Out: task embeddings
//! `[texts, E]`, as [`super::embed`] computes them, with gradients. What is learned are the layers'
//! linear maps and normalizations; word and position embeddings stay, as a description may have words
//! that training did not. Texts lie one behind the other without padding; only attention takes them
//! one by one. Candle's own BERT cannot be trained: its layer normalization has no backward pass.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use candle_core::{D, DType, Device, Tensor, Var};
use rand_chacha::ChaCha8Rng;
use t2lc_export::checkpoint::{ENCODER_DIR, NamedTensor};
use t2lc_export::encoder::Pooling;

use super::condition::Condition;
use super::embed::read;
use super::hypernet::{GeneratedModule, Hypernet};
use super::learner::Learner;

/// Prefix of the encoder's parameters among those of a run.
const PARAMETER_PREFIX: &str = "encoder.";
/// Prefix that names of tensors may have.
const MODEL_PREFIX: &str = "bert.";
const LEARNED_PREFIX: &str = "encoder.layer.";
const WEIGHTS_FILE: &str = "model.safetensors";
/// What is read besides the weights, and written unchanged.
const OTHER_FILES: [&str; 3] = ["config.json", "tokenizer.json", "1_Pooling/config.json"];

/// The fields of `config.json` that decide the computation.
#[derive(Debug, serde::Deserialize)]
struct Config {
    hidden_act: String,
    #[serde(default = "absolute")]
    position_embedding_type: String,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    layer_norm_eps: f64,
}

fn absolute() -> String {
    "absolute".to_owned()
}

/// The encoder with trainable layers.
#[derive(Debug)]
pub struct TunedEncoder {
    config: Config,
    pooling: Pooling,
    /// All tensors by name; those of `learned` as they stand.
    tensors: BTreeMap<String, Tensor>,
    learned: BTreeMap<String, Var>,
    /// The files that training leaves alone, by their path in the directory.
    files: Vec<(PathBuf, Vec<u8>)>,
}

impl TunedEncoder {
    /// Reads the directory of a BERT model.
    ///
    /// # Errors
    /// A missing or unreadable file, a model that is computed in another way.
    pub fn load(dir: &Path, device: &Device) -> Result<Self> {
        let config = read(dir, "config.json")?;
        let config: Config = serde_json::from_slice(&config)?;
        ensure!(
            config.hidden_act == "gelu" && config.position_embedding_type == "absolute",
            "an encoder with `{}` and {} positions cannot be trained, only with `gelu` and absolute",
            config.hidden_act,
            config.position_embedding_type,
        );
        let weights = candle_core::safetensors::load_buffer(&read(dir, WEIGHTS_FILE)?, device)?;
        let (mut tensors, mut learned) = (BTreeMap::new(), BTreeMap::new());
        for (name, tensor) in weights {
            let name = name.strip_prefix(MODEL_PREFIX).unwrap_or(&name).to_owned();
            // Some models hold their position ids.
            let dtype = if tensor.dtype().is_float() { DType::F32 } else { tensor.dtype() };
            let mut tensor = tensor.to_dtype(dtype)?;
            if name.starts_with(LEARNED_PREFIX) {
                let var = Var::from_tensor(&tensor)?;
                tensor = var.as_tensor().clone();
                learned.insert(name.clone(), var);
            }
            tensors.insert(name, tensor);
        }
        let optional = |name: &str| dir.join(name).exists();
        let files = OTHER_FILES.into_iter().filter(|name| optional(name));
        let files = files.map(|name| Ok((PathBuf::from(name), read(dir, name)?)));
        let files = files.collect::<Result<_>>()?;
        let pooling = Pooling::read(dir, Pooling::Mean)?;
        Ok(Self { config, pooling, tensors, learned, files })
    }

    /// Embeddings `[texts, E]` of Euclidean length √E, with gradients.
    ///
    /// # Errors
    /// A text without tokens, with one that the encoder does not know, or longer than it reads.
    pub fn embed(&self, texts: &[&[u32]]) -> Result<Tensor> {
        let spans: Vec<(usize, usize)> = texts
            .iter()
            .scan(0, |start, text| {
                *start += text.len();
                Some((*start - text.len(), text.len()))
            })
            .collect();
        ensure!(!texts.is_empty() && texts.iter().all(|t| !t.is_empty()), "a text without tokens");
        let mut states = self.embeddings(texts)?;
        for layer in 0..self.config.num_hidden_layers {
            states = self.layer(layer, &states, &spans)?;
        }
        let pooled = spans.into_iter().map(|(start, tokens)| match self.pooling {
            Pooling::Mean => states.narrow(0, start, tokens)?.mean(0),
            Pooling::Cls => states.narrow(0, start, 1)?.squeeze(0),
        });
        let pooled = Tensor::stack(&pooled.collect::<candle_core::Result<Vec<_>>>()?, 0)?;
        let length = (pooled.sqr()?.sum_keepdim(D::Minus1)? + 1e-24)?.sqrt()?;
        Ok((pooled.broadcast_div(&length)? * (pooled.dim(D::Minus1)? as f64).sqrt())?)
    }

    /// Embeddings of conditions, `[conditions, E]`, with gradients from those that describe a task.
    ///
    /// # Errors
    /// As [`TunedEncoder::embed`], and conditions that are embeddings already.
    pub fn embed_conditions(&self, conditions: &[Condition]) -> Result<Tensor> {
        let (mut texts, mut learned) = (Vec::with_capacity(conditions.len()), Vec::new());
        for condition in conditions {
            let (tokens, share) = match condition {
                Condition::Tokens(tokens) => (tokens, 1.0_f32),
                Condition::NoTask(tokens) => (tokens, 0.0),
                Condition::Embedding(_) => bail!("a trained encoder reads tokens, not embeddings"),
            };
            texts.push(tokens.as_slice());
            learned.push(share);
        }
        let embeddings = self.embed(&texts)?;
        let fixed = embeddings.detach();
        let learned = Tensor::from_vec(learned, (texts.len(), 1), fixed.device())?;
        // The same values; the difference, zero, carries the share of the gradient.
        Ok(((embeddings - &fixed)?.broadcast_mul(&learned)? + fixed)?)
    }

    /// Shapes of what is learned, by name.
    pub fn shapes(&self) -> BTreeMap<String, Vec<usize>> {
        self.learned.iter().map(|(name, var)| (name.clone(), var.dims().to_vec())).collect()
    }

    /// Sets what is learned.
    ///
    /// # Errors
    /// A tensor that is not learned, or has another shape.
    pub fn set(&self, tensors: BTreeMap<String, NamedTensor>) -> Result<()> {
        for (name, NamedTensor { shape, values }) in tensors {
            let var = self.learned.get(&name);
            let var = var.with_context(|| format!("the text encoder does not learn `{name}`"))?;
            var.set(&Tensor::from_vec(values, shape, var.device())?)?;
        }
        Ok(())
    }

    fn get(&self, name: &str) -> Result<&Tensor> {
        self.tensors.get(name).with_context(|| format!("the text encoder has no `{name}`"))
    }

    /// What enters the first layer, `[tokens, E]`; no gradient reaches beyond.
    fn embeddings(&self, texts: &[&[u32]]) -> Result<Tensor> {
        let row = |name: &str, ids: Vec<u32>| -> Result<Tensor> {
            let table = self.get(&format!("embeddings.{name}.weight"))?;
            let (rows, ids_len) = (table.dim(0)?, ids.len());
            if let Some(id) = ids.iter().find(|id| **id as usize >= rows) {
                bail!("the text encoder has {rows} {name}, none of them number {id}");
            }
            Ok(table.index_select(&Tensor::from_vec(ids, ids_len, table.device())?, 0)?)
        };
        let positions = texts.iter().flat_map(|text| (0_u32..).take(text.len())).collect();
        let types = vec![0; texts.iter().map(|text| text.len()).sum()];
        let sum = (row("word_embeddings", texts.concat())? + row("token_type_embeddings", types)?)?;
        self.layer_norm("embeddings.LayerNorm", &(sum + row("position_embeddings", positions)?)?)
    }

    fn layer(&self, index: usize, x: &Tensor, spans: &[(usize, usize)]) -> Result<Tensor> {
        let name = |part: &str| format!("{LEARNED_PREFIX}{index}.{part}");
        let linear = |part: &str, x: &Tensor| self.linear(&name(part), x);
        let (q, k, v) = (
            linear("attention.self.query", x)?,
            linear("attention.self.key", x)?,
            linear("attention.self.value", x)?,
        );
        let attended = spans.iter().map(|&(start, tokens)| {
            let heads = |x: &Tensor| -> Result<Tensor> {
                let heads = self.config.num_attention_heads;
                let x = x.narrow(0, start, tokens)?.reshape((tokens, heads, ()))?;
                Ok(x.transpose(0, 1)?.contiguous()?)
            };
            let (q, k, v) = (heads(&q)?, heads(&k)?, heads(&v)?);
            let scores = (q.matmul(&k.t()?)? / (q.dim(D::Minus1)? as f64).sqrt())?;
            let shares = candle_nn::ops::softmax(&scores, D::Minus1)?;
            Ok(shares.matmul(&v)?.transpose(0, 1)?.flatten_from(1)?)
        });
        let attended = Tensor::cat(&attended.collect::<Result<Vec<_>>>()?, 0)?;
        let attended = (linear("attention.output.dense", &attended)? + x)?;
        let x = self.layer_norm(&name("attention.output.LayerNorm"), &attended)?;
        let inner = linear("intermediate.dense", &x)?.gelu_erf()?;
        let output = (linear("output.dense", &inner)? + x)?;
        self.layer_norm(&name("output.LayerNorm"), &output)
    }

    fn linear(&self, name: &str, x: &Tensor) -> Result<Tensor> {
        let weight = self.get(&format!("{name}.weight"))?;
        Ok(x.matmul(&weight.t()?)?.broadcast_add(self.get(&format!("{name}.bias"))?)?)
    }

    fn layer_norm(&self, name: &str, x: &Tensor) -> Result<Tensor> {
        let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
        let normed = centred.broadcast_div(&(variance + self.config.layer_norm_eps)?.sqrt()?)?;
        let (scale, shift) =
            (self.get(&format!("{name}.weight"))?, self.get(&format!("{name}.bias"))?);
        Ok(normed.broadcast_mul(scale)?.broadcast_add(shift)?)
    }

    /// Writes the encoder as a directory that [`TunedEncoder::load`] and `export` read.
    ///
    /// # Errors
    /// A directory that cannot be written.
    pub fn save(&self, dir: &Path) -> Result<()> {
        for (name, bytes) in &self.files {
            let path = dir.join(name);
            std::fs::create_dir_all(path.parent().unwrap_or(dir))?;
            std::fs::write(path, bytes)?;
        }
        let tensors = self.tensors.iter().map(|(name, tensor)| (name.clone(), tensor.clone()));
        candle_core::safetensors::save(&tensors.collect(), dir.join(WEIGHTS_FILE))?;
        Ok(())
    }
}

/// A hypernetwork and the encoder that embeds its descriptions, trained as one.
#[derive(Debug)]
pub struct EncodingHypernet<'a> {
    /// Embeds the tokens of descriptions.
    pub encoder: TunedEncoder,
    /// Turns the embeddings into adapters.
    pub net: &'a Hypernet,
    /// The encoder's learning rate, as a share of the hypernetwork's; at 0 it stays as it is.
    pub rate_share: f32,
}

impl Learner for EncodingHypernet<'_> {
    fn parameters(&self) -> Vec<(String, Var)> {
        let learned = self.encoder.learned.iter().filter(|_| self.rate_share > 0.0);
        let named = learned.map(|(name, var)| (format!("{PARAMETER_PREFIX}{name}"), var.clone()));
        self.net.parameters().into_iter().chain(named).collect()
    }

    fn rate_share(&self, parameter: &str) -> f32 {
        if parameter.starts_with(PARAMETER_PREFIX) { self.rate_share } else { 1.0 }
    }

    fn adapters(
        &self,
        conditions: &[Condition],
        noise: Option<&mut ChaCha8Rng>,
    ) -> Result<Vec<GeneratedModule>> {
        let embeddings = self.encoder.embed_conditions(conditions)?;
        let fixed = self.rate_share == 0.0;
        self.net.forward(&if fixed { embeddings.detach() } else { embeddings }, noise)
    }

    fn scale(&self) -> f64 {
        self.net.scale()
    }

    fn save(&self, dir: &Path) -> Result<()> {
        self.net.save(dir)?;
        let encoder = dir.join(ENCODER_DIR);
        std::fs::create_dir_all(&encoder)?;
        self.encoder.save(&encoder)
    }
}

#[cfg(test)]
mod tests;
