//! The architecture `NewModel`: gte-base-en-v1.5, gte-large-en-v1.5 and their kin.
//!
//! In goes a model directory whose `model_type` is `new`, out comes its graph, see the parent
//! module. Inference only (<https://arxiv.org/abs/2407.19669>; configuration and names as in
//! <https://huggingface.co/Alibaba-NLP/new-impl>): word and type embeddings, layer normalization,
//! then per layer self-attention with [rotary positions](super::rotary) and a gated feed-forward
//! block `down(gelu(gate(x)) · up(x))` with exact GELU, each with residual and normalization after
//! it. All tokens have type 0. Names of tensors may begin with `new.`.
//!
//! The file stores queries, keys and values as one matrix `qkv_proj [3 · hidden, hidden]`, and both
//! inner projections as `up_gate_proj [2 · inner, hidden]` without bias, up before gate; the graph
//! has a matrix for each. Of the positions it has at most [`MAX_TOKENS`], which is as far as the
//! runtime reads a description.

use std::path::Path;

use serde::Deserialize;
use t2lc_runtime::encode::MAX_TOKENS;

use super::blocks::{Blocks, Linear};
use super::config::{self, check_heads, check_names, check_sizes, read_json, unsupported};
use super::pooling::Pooling;
use super::rotary::{Angles, Rotary};
use super::tensors::WeightFile;
use crate::error::ExportError;
use crate::graph::{GraphBuilder, Value};
use crate::weights::WeightType;

const PREFIX: &str = "new.";

/// The fields of a Hugging Face `config.json` that decide the graph; defaults are those of the
/// reference.
#[derive(Debug, Deserialize)]
struct Config {
    hidden_act: String,
    #[serde(default = "layer_norm")]
    layer_norm_type: String,
    #[serde(default = "rope")]
    position_embedding_type: String,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    vocab_size: usize,
    max_position_embeddings: usize,
    type_vocab_size: usize,
    layer_norm_eps: f32,
    rope_theta: f64,
    rope_scaling: Option<RopeScaling>,
    #[serde(default = "packed")]
    pack_qkv: bool,
    #[serde(default)]
    logn_attention_scale: bool,
    #[serde(default)]
    logn_attention_clip1: bool,
}

#[derive(Debug, Deserialize)]
struct RopeScaling {
    #[serde(rename = "type")]
    kind: String,
    factor: Option<f64>,
    mixed_b: Option<f64>,
}

fn layer_norm() -> String {
    "layer_norm".to_owned()
}

fn rope() -> String {
    "rope".to_owned()
}

fn packed() -> bool {
    true
}

/// Builds the graph of a model directory.
///
/// # Errors
/// As [`super::build_encoder`].
pub(super) fn build(model_dir: &Path, weights: WeightType) -> Result<Vec<u8>, ExportError> {
    let config: Config = read_json(&model_dir.join(config::FILE))?;
    config.check()?;
    let factor = config.scaling_factor()?;
    let pooling = Pooling::read(model_dir, Pooling::Cls)?;
    let file = WeightFile::read(model_dir)?;
    let blocks = Blocks {
        graph: GraphBuilder::new(),
        tensors: file.tensors(PREFIX)?,
        weights,
        hidden: config.hidden_size,
        heads: config.num_attention_heads,
        epsilon: config.layer_norm_eps,
    };
    Gte { blocks, config, factor }.build(pooling)
}

impl Config {
    fn check(&self) -> Result<(), ExportError> {
        check_names(&[
            ("hidden_act", "gelu", &self.hidden_act),
            ("layer_norm_type", "layer_norm", &self.layer_norm_type),
            ("position_embedding_type", "rope", &self.position_embedding_type),
        ])?;
        for (field, expected, got) in [
            ("pack_qkv", true, self.pack_qkv),
            ("logn_attention_scale", false, self.logn_attention_scale),
            ("logn_attention_clip1", false, self.logn_attention_clip1),
        ] {
            if got != expected {
                return Err(unsupported(field, format!("`{expected}`"), got.to_string()));
            }
        }
        check_sizes(&[
            ("hidden_size", self.hidden_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("intermediate_size", self.intermediate_size),
            ("vocab_size", self.vocab_size),
            ("max_position_embeddings", self.max_position_embeddings),
        ])?;
        let (hidden, heads) = (self.hidden_size, self.num_attention_heads);
        check_heads(hidden, heads)?;
        if !(hidden / heads).is_multiple_of(2) {
            let expected = format!("such that {hidden} divides into heads of even size");
            return Err(unsupported("num_attention_heads", expected, heads.to_string()));
        }
        if !(self.rope_theta.is_finite() && self.rope_theta > 0.0) {
            let expected = "a positive number".to_owned();
            return Err(unsupported("rope_theta", expected, self.rope_theta.to_string()));
        }
        Ok(())
    }

    /// Factor of NTK scaling, 1 where there is none. The reference scales all positions as soon as
    /// the factor is over 1, however short a text is.
    fn scaling_factor(&self) -> Result<f64, ExportError> {
        let Some(scaling) = &self.rope_scaling else { return Ok(1.0) };
        check_names(&[("rope_scaling.type", "ntk", &scaling.kind)])?;
        if let Some(mixed) = scaling.mixed_b {
            let expected = "`null`".to_owned();
            return Err(unsupported("rope_scaling.mixed_b", expected, mixed.to_string()));
        }
        match scaling.factor {
            Some(factor) if factor.is_finite() && factor >= 1.0 => Ok(factor),
            other => {
                let got = other.map_or_else(|| "null".to_owned(), |factor| factor.to_string());
                Err(unsupported("rope_scaling.factor", "at least 1".to_owned(), got))
            }
        }
    }
}

struct Gte<'a> {
    blocks: Blocks<'a>,
    config: Config,
    /// Factor of NTK scaling.
    factor: f64,
}

impl Gte<'_> {
    fn build(mut self, pooling: Pooling) -> Result<Vec<u8>, ExportError> {
        let (ids, mask) = self.blocks.inputs()?;
        let mut x = self.embeddings(ids)?;
        let angles = Angles {
            head_size: self.blocks.head_size(),
            positions: self.config.max_position_embeddings.min(MAX_TOKENS),
            theta: self.config.rope_theta,
            factor: self.factor,
        };
        let rotary = Rotary::store(&mut self.blocks, ids, angles)?;
        let scores = self.blocks.mask_scores(mask)?;
        for layer in 0..self.config.num_hidden_layers {
            x = self.layer(x, scores, rotary, &format!("encoder.layer.{layer}"))?;
        }
        self.blocks.finish(x, mask, pooling)
    }

    /// Word and type embeddings, normalized: `[batch, tokens, hidden]`.
    fn embeddings(&mut self, ids: Value) -> Result<Value, ExportError> {
        let (blocks, config) = (&mut self.blocks, &self.config);
        let hidden = config.hidden_size;
        let mut x = blocks.words(ids, config.vocab_size)?;
        if config.type_vocab_size > 0 {
            let name = "embeddings.token_type_embeddings.weight";
            let types = blocks.tensors.read(name, &[config.type_vocab_size, hidden])?;
            let first = blocks.graph.initializer_f32(name, &[hidden], &types[..hidden])?;
            x = blocks.graph.add(x, first)?;
        }
        blocks.norm(x, "embeddings.LayerNorm")
    }

    fn layer(
        &mut self,
        x: Value,
        scores: Value,
        rotary: Rotary,
        prefix: &str,
    ) -> Result<Value, ExportError> {
        let context = self.attention(x, scores, rotary, &format!("{prefix}.attention"))?;
        let x = self.blocks.graph.add(x, context)?;
        let x = self.blocks.norm(x, &format!("{prefix}.attn_ln"))?;
        let inner = self.feed_forward(x, &format!("{prefix}.mlp"))?;
        let x = self.blocks.graph.add(x, inner)?;
        self.blocks.norm(x, &format!("{prefix}.mlp_ln"))
    }

    /// Multi-head self-attention: `[batch, tokens, hidden]`.
    fn attention(
        &mut self,
        x: Value,
        mask: Value,
        rotary: Rotary,
        prefix: &str,
    ) -> Result<Value, ExportError> {
        let (blocks, hidden) = (&mut self.blocks, self.config.hidden_size);
        let name = format!("{prefix}.qkv_proj");
        let stacked = [hidden.saturating_mul(3), hidden];
        let weight = blocks.tensors.read(&format!("{name}.weight"), &stacked)?;
        let bias = blocks.tensors.read(&format!("{name}.bias"), &stacked[..1])?;
        let part = |layer, place| Part { name: &name, layer, place, rows: hidden, columns: hidden };
        let query = part("q", 0).apply(blocks, x, &weight, Some(&bias))?;
        let key = part("k", 1).apply(blocks, x, &weight, Some(&bias))?;
        let value = part("v", 2).apply(blocks, x, &weight, Some(&bias))?;

        // [batch, tokens, hidden] to [batch, heads, tokens, head_size]; keys transposed at last.
        let query = blocks.split_heads(query, &[0, 2, 1, 3])?;
        let query = rotary.apply(&mut blocks.graph, query)?;
        let key = blocks.split_heads(key, &[0, 2, 1, 3])?;
        let key = rotary.apply(&mut blocks.graph, key)?;
        let key = blocks.graph.transpose(key, &[0, 1, 3, 2])?;
        let value = blocks.split_heads(value, &[0, 2, 1, 3])?;
        let context = blocks.attend(query, key, value, mask)?;
        blocks.linear(context, &format!("{prefix}.o_proj"), hidden, hidden)
    }

    /// `down(gelu(gate(x)) · up(x))`: `[batch, tokens, hidden]`.
    fn feed_forward(&mut self, x: Value, prefix: &str) -> Result<Value, ExportError> {
        let (hidden, wide) = (self.config.hidden_size, self.config.intermediate_size);
        let blocks = &mut self.blocks;
        let name = format!("{prefix}.up_gate_proj");
        let stacked = [wide.saturating_mul(2), hidden];
        let weight = blocks.tensors.read(&format!("{name}.weight"), &stacked)?;
        let part = |layer, place| Part { name: &name, layer, place, rows: wide, columns: hidden };
        let up = part("up", 0).apply(blocks, x, &weight, None)?;
        let gate = part("gate", 1).apply(blocks, x, &weight, None)?;
        let gate = blocks.graph.gelu(gate)?;
        let inner = blocks.graph.mul(gate, up)?;
        blocks.linear(inner, &format!("{prefix}.down_proj"), wide, hidden)
    }
}

/// One of several linear layers whose rows are stacked in one matrix.
struct Part<'a> {
    /// Name of the matrix.
    name: &'a str,
    /// Name of the layer among its rows.
    layer: &'a str,
    /// How many layers are before it.
    place: usize,
    rows: usize,
    columns: usize,
}

impl Part<'_> {
    /// Applies the layer to `x`; `weight` and `bias` are those of the whole stack.
    fn apply(
        &self,
        blocks: &mut Blocks<'_>,
        x: Value,
        weight: &[f32],
        bias: Option<&[f32]>,
    ) -> Result<Value, ExportError> {
        let rows = self.place * self.rows..(self.place + 1) * self.rows;
        let layer = Linear {
            name: &format!("{}.{}", self.name, self.layer),
            weight: &weight[rows.start * self.columns..rows.end * self.columns],
            bias: bias.map(|bias| &bias[rows]),
            inputs: self.columns,
            outputs: self.rows,
        };
        blocks.apply(x, &layer)
    }
}
