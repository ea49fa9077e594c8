//! The frozen base model: one decoder for every family of [`super::family`], computed in f32.
//!
//! Input: a [`PackedBatch`] and, per row, an adapter. Output: the final hidden states
//! `[tokens, hidden]` after the last norm; [`Decoder::logits`] turns those that are needed into
//! logits. Gradients flow to the adapters only, and nothing below the first adapted module is
//! recorded for them.
//!
//! Families differ in data: a weight that a family lacks is `None`, a constant that it does not
//! use is left out of its [`DecoderConfig`]. A layer is `x + attention(norm(x))`, then
//! `x + feed_forward(norm(x))`; with post norms each addend is normalized once more.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, anyhow};
use candle_core::{Device, Tensor};

use super::adapter::Delta;
use super::family::{Activation, DecoderConfig};
use super::fused::{
    Heads, RotaryTable, frozen_linear, geglu, masked_softmax, packed_attention, rms_norm, rope,
    swiglu,
};
use super::packed::PackedBatch;
use super::source::{Part, Source};

/// A linear map of the base.
#[derive(Debug)]
struct Linear {
    /// Name that adapters know it by.
    module: &'static str,
    /// `[out, in]`
    weight: Tensor,
    /// `[out]`
    bias: Option<Tensor>,
}

#[derive(Debug)]
struct Layer {
    attention_norm: Tensor,
    query: Linear,
    key: Linear,
    value: Linear,
    query_key_norms: Option<(Tensor, Tensor)>,
    output: Linear,
    post_attention_norm: Option<Tensor>,
    feed_forward_norm: Tensor,
    gate: Linear,
    up: Linear,
    down: Linear,
    post_feed_forward_norm: Option<Tensor>,
}

/// The frozen base model.
#[derive(Debug)]
pub struct Decoder {
    /// Sizes and constants.
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

/// What the layers of one kind, global or with a window, share in a forward pass.
struct Scope {
    /// `[rows, width, keys]` of 0 and 1.
    mask: Arc<Vec<u8>>,
    table: RotaryTable,
}

/// A forward pass on its way through the layers.
struct Pass<'p> {
    batch: &'p PackedBatch,
    adapters: Option<&'p dyn Delta>,
    global: Scope,
    local: Option<Scope>,
}

impl Decoder {
    /// Reads the weights of a GGUF file or a Hugging Face directory into f32.
    ///
    /// # Errors
    /// An unreadable file, an unsupported architecture, a tensor that is missing or of another
    /// shape than the configuration asks for.
    pub fn open(path: &Path, device: &Device) -> Result<Self> {
        let decoder = Source::open(path).and_then(|source| Self::load(source, device));
        decoder.map_err(|error| anyhow!("cannot read the base `{}`: {error:#}", path.display()))
    }

    fn load(mut source: Source, device: &Device) -> Result<Self> {
        let config = source.config().clone();
        let layers = (0..config.windows.len())
            .map(|index| Layer::load(&mut source, &config, index, device))
            .collect::<Result<Vec<_>>>()?;
        let embedding = source.weight(Part::Embedding, device)?;
        let norm = source.weight(Part::OutputNorm, device)?;
        let head =
            if config.tied_head { embedding.clone() } else { source.weight(Part::Head, device)? };
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
        adapters: Option<&dyn Delta>,
        cache: Option<&mut KvCache>,
    ) -> Result<Tensor> {
        self.forward_embedded(self.embed(batch)?, batch, adapters, cache)
    }

    /// Embeddings `[rows, width, hidden]` of the batch's tokens, as the first layer sees them.
    ///
    /// # Errors
    /// A token outside the vocabulary.
    pub fn embed(&self, batch: &PackedBatch) -> Result<Tensor> {
        let ids = Tensor::from_slice(&batch.ids, batch.ids.len(), &self.device)?;
        let shape = (batch.rows, batch.width, self.config.hidden);
        let x = self.embedding.index_select(&ids, 0)?.reshape(shape)?;
        if self.config.family.traits().scales_embedding {
            let scale = (self.config.hidden as f32).sqrt();
            return Ok((x * f64::from(scale))?);
        }
        Ok(x)
    }

    /// As [`Decoder::forward`], from embeddings `x` that may differ from those of
    /// [`Decoder::embed`].
    ///
    /// # Errors
    /// As [`Decoder::forward`].
    pub fn forward_embedded(
        &self,
        mut x: Tensor,
        batch: &PackedBatch,
        adapters: Option<&dyn Delta>,
        mut cache: Option<&mut KvCache>,
    ) -> Result<Tensor> {
        let earlier = cache.as_ref().map_or(&[][..], |cache| &cache.batches);
        let (global, local) = self.scopes(batch, earlier);
        let pass = Pass { batch, adapters, global, local };
        for (index, layer) in self.layers.iter().enumerate() {
            x = self.attention(layer, index, &x, &pass, cache.as_deref_mut())?;
            x = self.feed_forward(layer, index, &x, &pass)?;
        }
        if let Some(cache) = cache {
            cache.batches.push(batch.clone());
        }
        Ok(rms_norm(&x, &self.norm, self.config.norm_eps)?.reshape(((), self.config.hidden))?)
    }

    /// Masks and angles of the global layers and, if there are any, of those with a window.
    fn scopes(&self, batch: &PackedBatch, earlier: &[PackedBatch]) -> (Scope, Option<Scope>) {
        let config = &self.config;
        let positions = &batch.positions;
        let table = |frequencies: &[f32]| RotaryTable::with_frequencies(positions, frequencies);
        let mask = batch.visibility(earlier);
        // All layers with a window have the same one.
        let local = config.windows.iter().flatten().next().map(|&window| Scope {
            mask: if batch.exceeds(window) {
                batch.visibility_within(earlier, Some(window))
            } else {
                Arc::clone(&mask)
            },
            table: table(&config.local_frequencies),
        });
        (Scope { mask, table: table(&config.global_frequencies) }, local)
    }

    /// `x + attention(norm(x))`
    #[allow(clippy::many_single_char_names)] // x, q, k, v and y are what everybody calls them
    fn attention(
        &self,
        layer: &Layer,
        index: usize,
        x: &Tensor,
        pass: &Pass<'_>,
        cache: Option<&mut KvCache>,
    ) -> Result<Tensor> {
        let DecoderConfig { heads, kv_heads, norm_eps, .. } = self.config;
        let scope = match self.config.windows[index] {
            Some(_) => pass.local.as_ref().unwrap_or(&pass.global),
            None => &pass.global,
        };
        let normed = rms_norm(x, &layer.attention_norm, norm_eps)?;
        let mut q = pass.apply(&layer.query, index, &normed)?;
        let mut k = pass.apply(&layer.key, index, &normed)?;
        let v = pass.apply(&layer.value, index, &normed)?;
        if let Some((query_norm, key_norm)) = &layer.query_key_norms {
            q = self.norm_heads(&q, query_norm, heads)?;
            k = self.norm_heads(&k, key_norm, kv_heads)?;
        }
        let q = rope(&q, &scope.table, heads)?;
        let k = rope(&k, &scope.table, kv_heads)?;
        let attended = if cache.is_none() && self.attends_in_place() {
            let DecoderConfig { head_size: size, attention_scale: scale, .. } = self.config;
            let shape = Heads { queries: heads, keys: kv_heads, size, scale };
            packed_attention(&q, &k, &v, &scope.mask, shape)?
        } else {
            let (mut k, mut v) =
                (self.split_heads(&k, pass.batch)?, self.split_heads(&v, pass.batch)?);
            if let Some(cache) = cache {
                (k, v) = cache.append(index, &k, &v)?;
            }
            self.attend(&q, &k, &v, pass.batch, &scope.mask)?
        };
        let y = pass.apply(&layer.output, index, &attended)?;
        Ok(match &layer.post_attention_norm {
            Some(norm) => (x + rms_norm(&y, norm, norm_eps)?)?,
            None => (x + y)?,
        })
    }

    /// `x + feed_forward(norm(x))`
    fn feed_forward(
        &self,
        layer: &Layer,
        index: usize,
        x: &Tensor,
        pass: &Pass<'_>,
    ) -> Result<Tensor> {
        let eps = self.config.norm_eps;
        let normed = rms_norm(x, &layer.feed_forward_norm, eps)?;
        let gate = pass.apply(&layer.gate, index, &normed)?;
        let up = pass.apply(&layer.up, index, &normed)?;
        let gated = match self.config.family.traits().activation {
            Activation::Silu => swiglu(&gate, &up)?,
            Activation::GeluTanh => geglu(&gate, &up)?,
        };
        let y = pass.apply(&layer.down, index, &gated)?;
        Ok(match &layer.post_feed_forward_norm {
            Some(norm) => (x + rms_norm(&y, norm, eps)?)?,
            None => (x + y)?,
        })
    }

    /// Logits `[n, vocabulary]` of the hidden states at `tokens`, indices into `rows · width`.
    ///
    /// # Errors
    /// An index out of range.
    pub fn logits(&self, hidden: &Tensor, tokens: &[u32]) -> Result<Tensor> {
        let tokens = Tensor::from_slice(tokens, tokens.len(), &self.device)?;
        let logits = frozen_linear(&hidden.index_select(&tokens, 0)?, &self.head)?;
        match self.config.logit_soft_cap {
            Some(cap) => soft_cap(&logits, 1.0, cap),
            None => Ok(logits),
        }
    }

    /// Normalizes each head of `x [rows, width, heads · head_size]`.
    fn norm_heads(&self, x: &Tensor, weight: &Tensor, heads: usize) -> Result<Tensor> {
        let (rows, width, all) = x.dims3()?;
        let split = x.reshape((rows, width, heads, self.config.head_size))?;
        Ok(rms_norm(&split, weight, self.config.norm_eps)?.reshape((rows, width, all))?)
    }

    /// `[rows, width, kv_heads · head_size]` → `[rows, kv_heads, width, head_size]`.
    fn split_heads(&self, x: &Tensor, batch: &PackedBatch) -> Result<Tensor> {
        let DecoderConfig { kv_heads, head_size, .. } = self.config;
        let split = x.reshape((batch.rows, batch.width, kv_heads, head_size))?;
        Ok(split.transpose(1, 2)?.contiguous()?)
    }

    /// Whether attention without a cache is one operation.
    fn attends_in_place(&self) -> bool {
        self.device.is_cpu() && self.config.attention_soft_cap.is_none()
    }

    /// Attention of `q [rows, width, heads · head_size]` over cached and own keys; the query heads
    /// that share a key head are stacked into its rows, so keys and values are never repeated.
    fn attend(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        batch: &PackedBatch,
        mask: &Arc<Vec<u8>>,
    ) -> Result<Tensor> {
        let DecoderConfig { heads, kv_heads, head_size, .. } = self.config;
        let (rows, width, group) = (batch.rows, batch.width, heads / kv_heads);
        let q = q
            .reshape((rows, width, kv_heads, group, head_size))?
            .permute((0, 2, 3, 1, 4))?
            .contiguous()?
            .reshape((rows, kv_heads, group * width, head_size))?;
        let scores = q.matmul(&k.t()?)?;
        let scale = self.config.attention_scale;
        let weights = match self.config.attention_soft_cap {
            Some(cap) => masked_softmax(&soft_cap(&scores, scale, cap)?, mask, width, 1.0)?,
            None => masked_softmax(&scores, mask, width, scale)?,
        };
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

impl Layer {
    fn load(
        source: &mut Source,
        config: &DecoderConfig,
        index: usize,
        device: &Device,
    ) -> Result<Self> {
        let traits = config.family.traits();
        let mut linear = |module, part, biased: bool| -> Result<Linear> {
            let weight = source.weight(part, device)?;
            let bias = biased.then(|| source.bias(part, device)).transpose()?;
            Ok(Linear { module, weight, bias })
        };
        let biased = config.query_key_value_bias;
        let query = linear("q_proj", Part::Query(index), biased)?;
        let key = linear("k_proj", Part::Key(index), biased)?;
        let value = linear("v_proj", Part::Value(index), biased)?;
        let output = linear("o_proj", Part::Output(index), config.output_bias)?;
        let gate = linear("gate_proj", Part::Gate(index), false)?;
        let up = linear("up_proj", Part::Up(index), false)?;
        let down = linear("down_proj", Part::Down(index), false)?;
        let mut norm = |part| source.weight(part, device);
        let query_key_norms = if traits.query_key_norms {
            Some((norm(Part::QueryNorm(index))?, norm(Part::KeyNorm(index))?))
        } else {
            None
        };
        let mut post = |part| traits.post_norms.then(|| norm(part)).transpose();
        let post_attention_norm = post(Part::PostAttentionNorm(index))?;
        let post_feed_forward_norm = post(Part::PostFeedForwardNorm(index))?;
        Ok(Self {
            attention_norm: norm(Part::AttentionNorm(index))?,
            query,
            key,
            value,
            query_key_norms,
            output,
            post_attention_norm,
            feed_forward_norm: norm(Part::FeedForwardNorm(index))?,
            gate,
            up,
            down,
            post_feed_forward_norm,
        })
    }
}

impl Pass<'_> {
    /// A linear map of a layer with what the adapters add to it.
    fn apply(&self, linear: &Linear, layer: usize, x: &Tensor) -> Result<Tensor> {
        let mut y = frozen_linear(x, &linear.weight)?;
        if let Some(bias) = &linear.bias {
            y = y.broadcast_add(bias)?;
        }
        let delta = self.adapters.map(|adapters| adapters.delta(layer, linear.module, x));
        match delta.transpose()?.flatten() {
            Some(delta) => Ok((y + delta)?),
            None => Ok(y),
        }
    }
}

/// `cap · tanh(scale · x / cap)`
fn soft_cap(x: &Tensor, scale: f32, cap: f32) -> Result<Tensor> {
    Ok(((x * f64::from(scale / cap))?.tanh()? * f64::from(cap))?)
}
