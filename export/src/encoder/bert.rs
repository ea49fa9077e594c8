//! BERT: all-MiniLM, bge, e5 and their kin.
//!
//! In goes a model directory whose `model_type` is `bert`, out comes its graph, see the parent
//! module. Inference only (<https://arxiv.org/abs/1810.04805>): word and position embeddings, layer
//! normalization, then per layer self-attention and a feed-forward block with exact GELU, each with
//! residual and normalization after it. All tokens have type 0, so that row is added into the
//! position table. Names of tensors may begin with `bert.`.

use std::path::Path;

use serde::Deserialize;

use super::blocks::Blocks;
use super::config::{self, check_heads, check_names, check_sizes, read_json};
use super::pooling::Pooling;
use super::tensors::WeightFile;
use crate::error::ExportError;
use crate::graph::{GraphBuilder, Value};
use crate::weights::WeightType;

const PREFIX: &str = "bert.";

/// The fields of a Hugging Face `config.json` that decide the graph.
#[derive(Debug, Deserialize)]
struct Config {
    hidden_act: String,
    #[serde(default = "absolute")]
    position_embedding_type: String,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    vocab_size: usize,
    max_position_embeddings: usize,
    type_vocab_size: usize,
    layer_norm_eps: f32,
}

fn absolute() -> String {
    "absolute".to_owned()
}

/// Builds the graph of a model directory.
///
/// # Errors
/// As [`super::build_encoder`].
pub(super) fn build(model_dir: &Path, weights: WeightType) -> Result<Vec<u8>, ExportError> {
    let config: Config = read_json(&model_dir.join(config::FILE))?;
    config.check()?;
    let pooling = Pooling::read(model_dir, Pooling::Mean)?;
    let file = WeightFile::read(model_dir)?;
    let blocks = Blocks {
        graph: GraphBuilder::new(),
        tensors: file.tensors(PREFIX)?,
        weights,
        hidden: config.hidden_size,
        heads: config.num_attention_heads,
        epsilon: config.layer_norm_eps,
    };
    Bert { blocks, config }.build(pooling)
}

impl Config {
    fn check(&self) -> Result<(), ExportError> {
        check_names(&[
            ("hidden_act", "gelu", &self.hidden_act),
            ("position_embedding_type", "absolute", &self.position_embedding_type),
        ])?;
        check_sizes(&[
            ("hidden_size", self.hidden_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("intermediate_size", self.intermediate_size),
            ("vocab_size", self.vocab_size),
            ("max_position_embeddings", self.max_position_embeddings),
            ("type_vocab_size", self.type_vocab_size),
        ])?;
        check_heads(self.hidden_size, self.num_attention_heads)
    }
}

struct Bert<'a> {
    blocks: Blocks<'a>,
    config: Config,
}

impl Bert<'_> {
    fn build(mut self, pooling: Pooling) -> Result<Vec<u8>, ExportError> {
        let (ids, mask) = self.blocks.inputs()?;
        let mut x = self.embeddings(ids)?;
        let scores = self.blocks.mask_scores(mask)?;
        for layer in 0..self.config.num_hidden_layers {
            x = self.layer(x, scores, &format!("encoder.layer.{layer}"))?;
        }
        self.blocks.finish(x, mask, pooling)
    }

    /// Word, position and type embeddings, normalized: `[batch, tokens, hidden]`.
    fn embeddings(&mut self, ids: Value) -> Result<Value, ExportError> {
        let (blocks, config) = (&mut self.blocks, &self.config);
        let (hidden, positions) = (config.hidden_size, config.max_position_embeddings);
        let words = blocks.words(ids, config.vocab_size)?;

        let name = "embeddings.token_type_embeddings.weight";
        let types = blocks.tensors.read(name, &[config.type_vocab_size, hidden])?;
        let name = "embeddings.position_embeddings.weight";
        let mut table = blocks.tensors.read(name, &[positions, hidden])?;
        for position in table.chunks_exact_mut(hidden) {
            position.iter_mut().zip(&types).for_each(|(value, offset)| *value += offset);
        }
        let table = blocks.graph.initializer_f32(name, &[positions, hidden], &table)?;
        let count = blocks.token_count(ids)?;
        let places = blocks.per_token(table, count)?;

        let sum = blocks.graph.add(words, places)?;
        blocks.norm(sum, "embeddings.LayerNorm")
    }

    fn layer(&mut self, x: Value, scores: Value, prefix: &str) -> Result<Value, ExportError> {
        let (hidden, wide) = (self.config.hidden_size, self.config.intermediate_size);
        let context = self.attention(x, scores, &format!("{prefix}.attention.self"))?;
        let blocks = &mut self.blocks;
        let context =
            blocks.linear(context, &format!("{prefix}.attention.output.dense"), hidden, hidden)?;
        let x = blocks.graph.add(context, x)?;
        let x = blocks.norm(x, &format!("{prefix}.attention.output.LayerNorm"))?;

        let inner = blocks.linear(x, &format!("{prefix}.intermediate.dense"), hidden, wide)?;
        let inner = blocks.graph.gelu(inner)?;
        let inner = blocks.linear(inner, &format!("{prefix}.output.dense"), wide, hidden)?;
        let x = blocks.graph.add(inner, x)?;
        blocks.norm(x, &format!("{prefix}.output.LayerNorm"))
    }

    /// Multi-head self-attention without its output projection: `[batch, tokens, hidden]`.
    fn attention(&mut self, x: Value, mask: Value, prefix: &str) -> Result<Value, ExportError> {
        let (blocks, hidden) = (&mut self.blocks, self.config.hidden_size);
        // [batch, tokens, hidden] to [batch, heads, tokens, head_size]; keys transposed.
        let query = blocks.linear(x, &format!("{prefix}.query"), hidden, hidden)?;
        let query = blocks.split_heads(query, &[0, 2, 1, 3])?;
        let key = blocks.linear(x, &format!("{prefix}.key"), hidden, hidden)?;
        let key = blocks.split_heads(key, &[0, 2, 3, 1])?;
        let value = blocks.linear(x, &format!("{prefix}.value"), hidden, hidden)?;
        let value = blocks.split_heads(value, &[0, 2, 1, 3])?;
        blocks.attend(query, key, value, mask)
    }
}
