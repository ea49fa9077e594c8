//! Builds `encoder.onnx`: a BERT text encoder with mean pooling.
//!
//! In goes a directory as sentence-transformers writes it (`config.json`, `model.safetensors`,
//! optionally `1_Pooling/config.json`), for example `all-MiniLM-L6-v2`. Out comes a graph
//! `input_ids`, `attention_mask` int64 `[batch, tokens]` → `task_embedding` f32 `[batch, hidden]`.
//! All sizes are read from the configuration.
//!
//! Inference only (<https://arxiv.org/abs/1810.04805>): word and position embeddings, layer
//! normalization, then per layer self-attention and a feed-forward block with exact GELU, each with
//! residual and normalization after it. All tokens have type 0, so that row is added into the
//! position table. Masked tokens get -1e9 before the softmax. The last hidden states are averaged
//! over the unmasked tokens, divided by their Euclidean norm and multiplied by `√hidden`, the form
//! in which the hypernetwork was trained on them.
//!
//! The caller truncates to at most `max_position_embeddings` tokens; beyond that the graph fails.

use std::fs;
use std::path::Path;

use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::check::check_model;
use crate::error::ExportError;
use crate::graph::{Dim, ElementType, GraphBuilder, Value, signed};
use crate::weights::{Matrix, WeightType, gather_rows, store_linear};

const BATCH: Dim = Dim::Symbol("batch");
const TOKENS: Dim = Dim::Symbol("tokens");
/// Added to the attention scores of masked tokens: far below any score, and finite, so that a text
/// of nothing but masked tokens does not become NaN.
const MASKED_SCORE: f32 = -1e9;
/// Smallest number of tokens and smallest norm that are divided by.
const MIN_COUNT: f32 = 1e-9;
const MIN_NORM: f32 = 1e-12;

/// The fields of a Hugging Face `config.json` that decide the graph.
#[derive(Debug, Deserialize)]
struct BertConfig {
    model_type: String,
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

#[derive(Debug, Deserialize)]
struct PoolingConfig {
    pooling_mode_mean_tokens: bool,
}

fn absolute() -> String {
    "absolute".to_owned()
}

/// Builds the encoder of a model directory.
///
/// # Errors
/// Unreadable files, a configuration other than described above, missing or wrongly shaped
/// tensors, weights that are not finite in the chosen type.
pub fn build_encoder(model_dir: &Path, weights: WeightType) -> Result<Vec<u8>, ExportError> {
    let config: BertConfig = read_json(&model_dir.join("config.json"))?;
    check_config(&config)?;
    check_pooling(model_dir)?;
    let path = model_dir.join("model.safetensors");
    let bytes =
        fs::read(&path).map_err(|source| ExportError::Read { path: path.clone(), source })?;
    let file = SafeTensors::deserialize(&bytes)
        .map_err(|source| ExportError::Safetensors { path, source })?;
    let encoder = Encoder { graph: GraphBuilder::new(), file, config, weights };
    let model = encoder.build()?;
    check_model(&model)?;
    Ok(model)
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, ExportError> {
    let bytes =
        fs::read(path).map_err(|source| ExportError::Read { path: path.to_owned(), source })?;
    serde_json::from_slice(&bytes)
        .map_err(|source| ExportError::Json { path: path.to_owned(), source })
}

fn check_config(config: &BertConfig) -> Result<(), ExportError> {
    let names = [
        ("model_type", "bert", &config.model_type),
        ("hidden_act", "gelu", &config.hidden_act),
        ("position_embedding_type", "absolute", &config.position_embedding_type),
    ];
    for (field, expected, got) in names {
        if got != expected {
            return Err(unsupported(field, format!("`{expected}`"), got.clone()));
        }
    }
    let sizes = [
        ("hidden_size", config.hidden_size),
        ("num_hidden_layers", config.num_hidden_layers),
        ("num_attention_heads", config.num_attention_heads),
        ("intermediate_size", config.intermediate_size),
        ("vocab_size", config.vocab_size),
        ("max_position_embeddings", config.max_position_embeddings),
        ("type_vocab_size", config.type_vocab_size),
    ];
    for (field, size) in sizes {
        if size == 0 {
            return Err(unsupported(field, "at least 1".to_owned(), size.to_string()));
        }
    }
    let heads = config.num_attention_heads;
    if !config.hidden_size.is_multiple_of(heads) {
        let expected = format!("a divisor of {}", config.hidden_size);
        return Err(unsupported("num_attention_heads", expected, heads.to_string()));
    }
    Ok(())
}

fn check_pooling(model_dir: &Path) -> Result<(), ExportError> {
    let path = model_dir.join("1_Pooling").join("config.json");
    if path.exists() && !read_json::<PoolingConfig>(&path)?.pooling_mode_mean_tokens {
        let expected = "`true`".to_owned();
        return Err(unsupported("pooling_mode_mean_tokens", expected, "false".to_owned()));
    }
    Ok(())
}

fn unsupported(field: &'static str, expected: String, got: String) -> ExportError {
    ExportError::UnsupportedConfig { field, expected, got }
}

struct Encoder<'a> {
    graph: GraphBuilder,
    file: SafeTensors<'a>,
    config: BertConfig,
    weights: WeightType,
}

impl Encoder<'_> {
    fn build(mut self) -> Result<Vec<u8>, ExportError> {
        let ids = self.graph.input("input_ids", ElementType::I64, &[BATCH, TOKENS])?;
        let mask = self.graph.input("attention_mask", ElementType::I64, &[BATCH, TOKENS])?;
        let mask = self.graph.cast(mask, ElementType::F32)?;
        let mut x = self.embeddings(ids)?;
        let scores = self.mask_scores(mask)?;
        for layer in 0..self.config.num_hidden_layers {
            x = self.layer(x, scores, &format!("encoder.layer.{layer}"))?;
        }
        let embedding = self.pool(x, mask)?;
        self.graph.finish("encoder", &[("task_embedding".to_owned(), embedding)])
    }

    /// Word, position and type embeddings, normalized: `[batch, tokens, hidden]`.
    fn embeddings(&mut self, ids: Value) -> Result<Value, ExportError> {
        let hidden = self.config.hidden_size;
        let (rows, positions) = (self.config.vocab_size, self.config.max_position_embeddings);
        let name = "embeddings.word_embeddings.weight";
        let values = self.read(name, &[rows, hidden])?;
        let table = Matrix { name, values: &values, rows, columns: hidden };
        let words = gather_rows(&mut self.graph, table, ids, self.weights)?;

        let name = "embeddings.token_type_embeddings.weight";
        let types = self.read(name, &[self.config.type_vocab_size, hidden])?;
        let name = "embeddings.position_embeddings.weight";
        let mut table = self.read(name, &[positions, hidden])?;
        for position in table.chunks_exact_mut(hidden) {
            position.iter_mut().zip(&types).for_each(|(value, offset)| *value += offset);
        }
        let table = self.graph.initializer_f32(name, &[positions, hidden], &table)?;
        let sizes = self.graph.shape_of(ids)?;
        let second = self.graph.indices(&[1])?;
        let tokens = self.graph.gather(sizes, second)?;
        let places = self.graph.slice_to(table, 0, tokens, TOKENS)?;

        let sum = self.graph.add(words, places)?;
        self.norm(sum, "embeddings.LayerNorm")
    }

    /// Mask `[batch, tokens]` of ones and zeros to what is added to the scores,
    /// `[batch, 1, 1, tokens]`.
    fn mask_scores(&mut self, mask: Value) -> Result<Value, ExportError> {
        let mask = self.graph.unsqueeze(mask, 1)?;
        let mask = self.graph.unsqueeze(mask, 1)?;
        let (one, penalty) = (self.graph.scalar(1.0)?, self.graph.scalar(MASKED_SCORE)?);
        let masked = self.graph.sub(one, mask)?;
        self.graph.mul(masked, penalty)
    }

    fn layer(&mut self, x: Value, scores: Value, prefix: &str) -> Result<Value, ExportError> {
        let (hidden, wide) = (self.config.hidden_size, self.config.intermediate_size);
        let context = self.attention(x, scores, &format!("{prefix}.attention.self"))?;
        let context =
            self.linear(context, &format!("{prefix}.attention.output.dense"), hidden, hidden)?;
        let x = self.graph.add(context, x)?;
        let x = self.norm(x, &format!("{prefix}.attention.output.LayerNorm"))?;

        let inner = self.linear(x, &format!("{prefix}.intermediate.dense"), hidden, wide)?;
        let inner = self.graph.gelu(inner)?;
        let inner = self.linear(inner, &format!("{prefix}.output.dense"), wide, hidden)?;
        let x = self.graph.add(inner, x)?;
        self.norm(x, &format!("{prefix}.output.LayerNorm"))
    }

    /// Multi-head self-attention without its output projection: `[batch, tokens, hidden]`.
    fn attention(&mut self, x: Value, mask: Value, prefix: &str) -> Result<Value, ExportError> {
        let (hidden, heads) = (self.config.hidden_size, self.config.num_attention_heads);
        let head_size = hidden / heads;
        // [batch, tokens, hidden] to [batch, heads, tokens, head_size]; keys transposed.
        let query = self.linear(x, &format!("{prefix}.query"), hidden, hidden)?;
        let query = self.split_heads(query, &[0, 2, 1, 3])?;
        let key = self.linear(x, &format!("{prefix}.key"), hidden, hidden)?;
        let key = self.split_heads(key, &[0, 2, 3, 1])?;
        let value = self.linear(x, &format!("{prefix}.value"), hidden, hidden)?;
        let value = self.split_heads(value, &[0, 2, 1, 3])?;

        let scale = self.graph.scalar((head_size as f32).sqrt().recip())?;
        let scores = self.graph.matmul(query, key)?;
        let scores = self.graph.mul(scores, scale)?;
        let scores = self.graph.add(scores, mask)?;
        let shares = self.graph.softmax(scores)?;
        let context = self.graph.matmul(shares, value)?;
        let context = self.graph.transpose(context, &[0, 2, 1, 3])?;
        self.graph.reshape(context, &[0, 0, signed("Reshape", hidden)?])
    }

    fn split_heads(&mut self, x: Value, order: &[usize]) -> Result<Value, ExportError> {
        let (hidden, heads) = (self.config.hidden_size, self.config.num_attention_heads);
        let split = self
            .graph
            .reshape(x, &[0, 0, signed("Reshape", heads)?, signed("Reshape", hidden / heads)?])?;
        self.graph.transpose(split, order)
    }

    /// Mean over unmasked tokens, scaled to length `√hidden`: `[batch, hidden]`.
    fn pool(&mut self, x: Value, mask: Value) -> Result<Value, ExportError> {
        let graph = &mut self.graph;
        let mask = graph.unsqueeze(mask, 2)?;
        let kept = graph.mul(x, mask)?;
        let sum = graph.reduce_sum(kept, 1, false)?;
        let count = graph.reduce_sum(mask, 1, false)?;
        let least = graph.scalar(MIN_COUNT)?;
        let count = graph.max(count, least)?;
        let mean = graph.div(sum, count)?;

        let squares = graph.mul(mean, mean)?;
        let norm = graph.reduce_sum(squares, 1, true)?;
        let norm = graph.sqrt(norm)?;
        let least = graph.scalar(MIN_NORM)?;
        let norm = graph.max(norm, least)?;
        let unit = graph.div(mean, norm)?;
        let length = graph.scalar((self.config.hidden_size as f32).sqrt())?;
        graph.mul(unit, length)
    }

    fn linear(
        &mut self,
        x: Value,
        prefix: &str,
        inputs: usize,
        outputs: usize,
    ) -> Result<Value, ExportError> {
        let name = format!("{prefix}.weight");
        let values = self.read(&name, &[outputs, inputs])?;
        let matrix = Matrix { name: &name, values: &values, rows: outputs, columns: inputs };
        let weight = store_linear(&mut self.graph, matrix, self.weights)?;
        let product = self.graph.matmul(x, weight)?;
        let bias = self.vector(&format!("{prefix}.bias"), outputs)?;
        self.graph.add(product, bias)
    }

    fn norm(&mut self, x: Value, prefix: &str) -> Result<Value, ExportError> {
        let scale = self.vector(&format!("{prefix}.weight"), self.config.hidden_size)?;
        let bias = self.vector(&format!("{prefix}.bias"), self.config.hidden_size)?;
        self.graph.layer_norm(x, scale, bias, self.config.layer_norm_eps)
    }

    fn vector(&mut self, name: &str, size: usize) -> Result<Value, ExportError> {
        let values = self.read(name, &[size])?;
        self.graph.initializer_f32(name, &[size], &values)
    }

    fn read(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, ExportError> {
        let view = self
            .file
            .tensor(name)
            .map_err(|_| ExportError::TensorMissing { name: name.to_owned() })?;
        if view.shape() != shape {
            return Err(ExportError::TensorShape {
                name: name.to_owned(),
                expected: shape.to_vec(),
                got: view.shape().to_vec(),
            });
        }
        if view.dtype() != Dtype::F32 {
            return Err(ExportError::TensorType {
                name: name.to_owned(),
                expected: "F32",
                got: view.dtype().to_string(),
            });
        }
        let (words, _) = view.data().as_chunks::<4>();
        Ok(words.iter().map(|word| f32::from_le_bytes(*word)).collect())
    }
}

#[cfg(test)]
mod tests;
