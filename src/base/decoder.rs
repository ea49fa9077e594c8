//! The frozen base model: a Llama-family decoder read from its GGUF file, computed in f32.
//!
//! Input: a [`PackedBatch`] and, per row, an adapter. Output: the final hidden states
//! `[tokens, hidden]` after the last norm; [`Decoder::logits`] turns those that are needed into
//! logits. Gradients flow to the adapters only.
//!
//! llama.cpp stores the rows of `attn_q` and `attn_k` interleaved for its rotary layout; they are
//! put back into the Hugging Face order on loading, so that adapters are trained in that order.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use candle_core::quantized::gguf_file::Content;
use candle_core::{Device, Tensor};
use t2lc_runtime::base::{BaseModel, TargetModule};

use super::adapter::LoraBatch;
use super::fused::{RotaryTable, frozen_linear, masked_softmax, rms_norm, rope, swiglu};
use super::packed::PackedBatch;

/// Sizes of the decoder.
#[derive(Debug, Clone)]
pub struct DecoderConfig {
    /// Width of the residual stream.
    pub hidden: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of one head.
    pub head_size: usize,
    /// Frequency base of the rotary embedding.
    pub rope_base: f32,
    /// Epsilon of the norms.
    pub norm_eps: f32,
}

#[derive(Debug)]
struct Layer {
    attention_norm: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    o: Tensor,
    feed_forward_norm: Tensor,
    gate: Tensor,
    up: Tensor,
    down: Tensor,
}

/// The frozen base model.
#[derive(Debug)]
pub struct Decoder {
    /// Sizes.
    pub config: DecoderConfig,
    /// Where the weights are.
    pub device: Device,
    embedding: Tensor,
    layers: Vec<Layer>,
    norm: Tensor,
    head: Tensor,
}

/// Keys and values of the tokens computed so far, and which tokens they were.
#[derive(Debug, Default)]
pub struct KvCache {
    /// Per layer `[rows, kv_heads, tokens, head_size]`.
    layers: Vec<(Tensor, Tensor)>,
    batches: Vec<PackedBatch>,
}

impl Decoder {
    /// Reads and dequantizes the weights of a GGUF file of architecture `llama`.
    ///
    /// # Errors
    /// An unreadable file, another architecture, a missing tensor.
    pub fn from_gguf(path: &Path, device: &Device) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("cannot open `{}`", path.display()))?;
        let mut reader = BufReader::new(file);
        let content = Content::read(&mut reader)
            .with_context(|| format!("`{}` is not a GGUF file", path.display()))?;
        let architecture =
            content.metadata.get("general.architecture").context("no architecture")?;
        let architecture = architecture.to_string()?.clone();
        ensure!(
            architecture == "llama",
            "base architecture `{architecture}` cannot be trained on yet, expected `llama`"
        );
        let number = |key: &str| -> Result<usize> {
            let key = format!("llama.{key}");
            let value = content.metadata.get(&key).with_context(|| format!("no `{key}`"))?;
            Ok(value.to_u32()? as usize)
        };
        let real = |key: &str| -> Result<f32> {
            let key = format!("llama.{key}");
            Ok(content.metadata.get(&key).with_context(|| format!("no `{key}`"))?.to_f32()?)
        };
        let (hidden, heads) = (number("embedding_length")?, number("attention.head_count")?);
        let config = DecoderConfig {
            hidden,
            heads,
            kv_heads: number("attention.head_count_kv")?,
            head_size: hidden / heads,
            rope_base: real("rope.freq_base").unwrap_or(10_000.0),
            norm_eps: real("attention.layer_norm_rms_epsilon")?,
        };
        let mut tensor = |name: &str| -> Result<Tensor> {
            let quantized = content
                .tensor(&mut reader, name, device)
                .with_context(|| format!("tensor `{name}`"))?;
            Ok(quantized.dequantize(device)?)
        };
        let layers = (0..number("block_count")?)
            .map(|i| {
                let mut part = |name: &str| tensor(&format!("blk.{i}.{name}.weight"));
                Ok(Layer {
                    attention_norm: part("attn_norm")?,
                    q: half_split_rows(&part("attn_q")?, config.heads)?,
                    k: half_split_rows(&part("attn_k")?, config.kv_heads)?,
                    v: part("attn_v")?,
                    o: part("attn_output")?,
                    feed_forward_norm: part("ffn_norm")?,
                    gate: part("ffn_gate")?,
                    up: part("ffn_up")?,
                    down: part("ffn_down")?,
                })
            })
            .collect::<Result<Vec<_>>>()?;
        let embedding = tensor("token_embd.weight")?;
        let norm = tensor("output_norm.weight")?;
        let tied = !content.tensor_infos.contains_key("output.weight");
        let head = if tied { embedding.clone() } else { tensor("output.weight")? };
        Ok(Self { config, device: device.clone(), embedding, layers, norm, head })
    }

    /// Number of layers.
    pub fn layers(&self) -> usize {
        self.layers.len()
    }

    /// Final hidden states `[rows · width, hidden]` of every token of the batch.
    ///
    /// With a cache, the batch continues the rows computed before, and is added to the cache.
    ///
    /// # Errors
    /// Adapters whose shapes do not fit the base.
    pub fn forward(
        &self,
        batch: &PackedBatch,
        adapters: Option<&LoraBatch>,
        mut cache: Option<&mut KvCache>,
    ) -> Result<Tensor> {
        let earlier = cache.as_ref().map_or(&[][..], |c| &c.batches);
        let mask = batch.visibility(earlier);
        let table =
            RotaryTable::new(&batch.positions, self.config.head_size, self.config.rope_base);
        let ids = Tensor::from_slice(&batch.ids, batch.ids.len(), &self.device)?;
        let shape = (batch.rows, batch.width, self.config.hidden);
        let mut x = self.embedding.index_select(&ids, 0)?.reshape(shape)?;
        for (index, layer) in self.layers.iter().enumerate() {
            let map = |module: &str, weight: &Tensor, x: &Tensor| -> Result<Tensor> {
                let y = frozen_linear(x, weight)?;
                match adapters.map(|a| a.delta(index, module, x)).transpose()?.flatten() {
                    Some(delta) => Ok((y + delta)?),
                    None => Ok(y),
                }
            };
            let eps = self.config.norm_eps;
            let normed = rms_norm(&x, &layer.attention_norm, eps)?;
            let q = rope(&map("q_proj", &layer.q, &normed)?, &table, self.config.heads)?;
            let k = rope(&map("k_proj", &layer.k, &normed)?, &table, self.config.kv_heads)?;
            let v = map("v_proj", &layer.v, &normed)?;
            let (mut k, mut v) = (self.split_heads(&k, batch)?, self.split_heads(&v, batch)?);
            if let Some(cache) = cache.as_deref_mut() {
                (k, v) = cache.append(index, &k, &v)?;
            }
            let attended = self.attend(&q, &k, &v, batch, &mask)?;
            x = (x + map("o_proj", &layer.o, &attended)?)?;
            let normed = rms_norm(&x, &layer.feed_forward_norm, eps)?;
            let gate = map("gate_proj", &layer.gate, &normed)?;
            let up = map("up_proj", &layer.up, &normed)?;
            x = (&x + map("down_proj", &layer.down, &swiglu(&gate, &up)?)?)?;
        }
        if let Some(cache) = cache {
            cache.batches.push(batch.clone());
        }
        Ok(rms_norm(&x, &self.norm, self.config.norm_eps)?.reshape(((), self.config.hidden))?)
    }

    /// Logits `[n, vocabulary]` of the hidden states at `tokens`, indices into `rows · width`.
    ///
    /// # Errors
    /// An index out of range.
    pub fn logits(&self, hidden: &Tensor, tokens: &[u32]) -> Result<Tensor> {
        let tokens = Tensor::from_slice(tokens, tokens.len(), &self.device)?;
        Ok(frozen_linear(&hidden.index_select(&tokens, 0)?, &self.head)?)
    }

    /// `[rows, width, kv_heads · head_size]` → `[rows, kv_heads, width, head_size]`.
    fn split_heads(&self, x: &Tensor, batch: &PackedBatch) -> Result<Tensor> {
        let DecoderConfig { kv_heads, head_size, .. } = self.config;
        let split = x.reshape((batch.rows, batch.width, kv_heads, head_size))?;
        Ok(split.transpose(1, 2)?.contiguous()?)
    }

    /// Attention of `q [rows, width, heads · head_size]` over cached and own keys; the query heads
    /// that share a key head are stacked into its rows, so keys and values are never repeated.
    fn attend(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        batch: &PackedBatch,
        mask: &std::sync::Arc<Vec<u8>>,
    ) -> Result<Tensor> {
        let DecoderConfig { heads, kv_heads, head_size, .. } = self.config;
        let (rows, width, group) = (batch.rows, batch.width, heads / kv_heads);
        let q = q
            .reshape((rows, width, kv_heads, group, head_size))?
            .permute((0, 2, 3, 1, 4))?
            .contiguous()?
            .reshape((rows, kv_heads, group * width, head_size))?;
        let scores = q.matmul(&k.t()?)?;
        let weights = masked_softmax(&scores, mask, width, (head_size as f32).sqrt().recip())?;
        let mixed = weights
            .matmul(v)?
            .reshape((rows, kv_heads, group, width, head_size))?
            .permute((0, 3, 1, 2, 4))?
            .contiguous()?;
        Ok(mixed.reshape((rows, width, heads * head_size))?)
    }
}

impl KvCache {
    fn append(&mut self, layer: usize, k: &Tensor, v: &Tensor) -> Result<(Tensor, Tensor)> {
        let joined = match self.layers.get(layer) {
            Some((old_k, old_v)) => (Tensor::cat(&[old_k, k], 2)?, Tensor::cat(&[old_v, v], 2)?),
            None => (k.clone(), v.clone()),
        };
        if layer < self.layers.len() {
            self.layers[layer] = joined.clone();
        } else {
            self.layers.push(joined.clone());
        }
        Ok(joined)
    }
}

/// Interleaved rows `(x₁⁰, x₂⁰, x₁¹, x₂¹, …)` of each head → halves `(x₁…, x₂…)`.
fn half_split_rows(weight: &Tensor, heads: usize) -> Result<Tensor> {
    let (rows, columns) = weight.dims2()?;
    ensure!(rows % (2 * heads) == 0, "{rows} rows do not split into {heads} heads of even size");
    let split = weight.reshape((heads, rows / heads / 2, 2, columns))?;
    Ok(split.transpose(1, 2)?.contiguous()?.reshape((rows, columns))?)
}

/// Describes the base in a GGUF file: names and shapes of the `modules`, in the given order.
///
/// # Errors
/// A file that is not a readable base model, or that lacks a target module.
pub fn describe_base(path: &Path, modules: &[String]) -> Result<BaseModel> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    let gguf = t2lc_runtime::gguf::Gguf::parse(&bytes)
        .with_context(|| format!("`{}` is not a usable GGUF file", path.display()))?;
    let text = |key: &str| gguf.get(key).and_then(|v| v.as_str()).map(str::to_owned);
    let architecture = text("general.architecture").context("no `general.architecture`")?;
    let number = |key: &str| {
        let key = format!("{architecture}.{key}");
        let value = gguf.get(&key).and_then(t2lc_runtime::gguf::Value::as_u64);
        value.and_then(|v| usize::try_from(v).ok()).with_context(|| format!("no `{key}`"))
    };
    let heads = number("attention.head_count")?;
    let kv_heads = number("attention.head_count_kv").unwrap_or(heads);
    let targets = modules.iter().map(|name| {
        let mut module = TargetModule {
            name: name.clone(),
            in_features: 0,
            out_features: 0,
            permute_heads: match (architecture.as_str(), name.as_str()) {
                ("llama", "q_proj") => Some(heads),
                ("llama", "k_proj") => Some(kv_heads),
                _ => None,
            },
        };
        let tensor = module.gguf_name(0).with_context(|| format!("unknown module `{name}`"))?;
        let info = gguf.tensor(&tensor).with_context(|| format!("the base has no `{tensor}`"))?;
        let [inputs, outputs] = info.dimensions[..] else {
            bail!("`{tensor}` has {} dimensions, expected 2", info.dimensions.len());
        };
        module.in_features = usize::try_from(inputs)?;
        module.out_features = usize::try_from(outputs)?;
        Ok(module)
    });
    let stem = path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
    // `SmolLM2-135M-Instruct.Q4_1` and its other quantizations are one base.
    let name = stem.split_once('.').map_or(stem.as_str(), |(name, _)| name).to_owned();
    Ok(BaseModel {
        name,
        layers: number("block_count")?,
        tied_head: gguf.tensor("output.weight").is_none(),
        fingerprint: t2lc_runtime::fingerprint::base_fingerprint(&gguf)?.to_string(),
        modules: targets.collect::<Result<_>>()?,
        architecture,
    })
}
