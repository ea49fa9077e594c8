//! The parts of which every encoder here is put together.
//!
//! In go values of the graph under construction and names of tensors, out come values; hidden
//! states are f32 `[batch, tokens, hidden]`, queries, keys and values of the heads
//! `[batch, heads, tokens, hidden / heads]`. Linear weights `[out, in]` and the table of words have
//! the weight type asked for, all other constants are f32. Masked tokens get -1e9 before the
//! softmax.

use super::pooling::{Pooling, pool};
use super::tensors::{Tensors, WORDS};
use crate::error::ExportError;
use crate::graph::{Dim, ElementType, GraphBuilder, Value, signed};
use crate::weights::{Matrix, WeightType, gather_rows, store_linear};

const BATCH: Dim = Dim::Symbol("batch");
const TOKENS: Dim = Dim::Symbol("tokens");
/// Added to the attention scores of masked tokens: far below any score, and finite, so that a text
/// of nothing but masked tokens does not become NaN.
const MASKED_SCORE: f32 = -1e9;

/// A graph under construction and where its weights come from.
pub(super) struct Blocks<'a> {
    pub(super) graph: GraphBuilder,
    pub(super) tensors: Tensors<'a>,
    pub(super) weights: WeightType,
    pub(super) hidden: usize,
    pub(super) heads: usize,
    /// Epsilon of every layer normalization.
    pub(super) epsilon: f32,
}

/// A linear layer.
pub(super) struct Linear<'a> {
    /// Name of its constants, which end in `.weight` and `.bias`.
    pub(super) name: &'a str,
    /// `[outputs, inputs]`, row-major.
    pub(super) weight: &'a [f32],
    /// `[outputs]`
    pub(super) bias: Option<&'a [f32]>,
    pub(super) inputs: usize,
    pub(super) outputs: usize,
}

impl Blocks<'_> {
    /// Token ids int64 and mask f32, both `[batch, tokens]`.
    pub(super) fn inputs(&mut self) -> Result<(Value, Value), ExportError> {
        let ids = self.graph.input("input_ids", ElementType::I64, &[BATCH, TOKENS])?;
        let mask = self.graph.input("attention_mask", ElementType::I64, &[BATCH, TOKENS])?;
        Ok((ids, self.graph.cast(mask, ElementType::F32)?))
    }

    /// Word embeddings of the ids.
    pub(super) fn words(&mut self, ids: Value, vocabulary: usize) -> Result<Value, ExportError> {
        let values = self.tensors.read(WORDS, &[vocabulary, self.hidden])?;
        let table = Matrix { name: WORDS, values: &values, rows: vocabulary, columns: self.hidden };
        gather_rows(&mut self.graph, table, ids, self.weights)
    }

    /// Number of tokens of the ids, as an int64 vector of one element.
    pub(super) fn token_count(&mut self, ids: Value) -> Result<Value, ExportError> {
        let sizes = self.graph.shape_of(ids)?;
        let second = self.graph.indices(&[1])?;
        self.graph.gather(sizes, second)
    }

    /// The rows of a table `[positions, …]` that belong to the tokens: `[tokens, …]`.
    pub(super) fn per_token(&mut self, table: Value, count: Value) -> Result<Value, ExportError> {
        self.graph.slice_to(table, 0, count, TOKENS)
    }

    /// Mask `[batch, tokens]` of ones and zeros to what is added to the scores,
    /// `[batch, 1, 1, tokens]`.
    pub(super) fn mask_scores(&mut self, mask: Value) -> Result<Value, ExportError> {
        let mask = self.graph.unsqueeze(mask, 1)?;
        let mask = self.graph.unsqueeze(mask, 1)?;
        let (one, penalty) = (self.graph.scalar(1.0)?, self.graph.scalar(MASKED_SCORE)?);
        let masked = self.graph.sub(one, mask)?;
        self.graph.mul(masked, penalty)
    }

    /// Hidden states divided among the heads and reordered; the order before is batch, token, head,
    /// element.
    pub(super) fn split_heads(&mut self, x: Value, order: &[usize]) -> Result<Value, ExportError> {
        let (heads, size) = (signed("Reshape", self.heads)?, signed("Reshape", self.head_size())?);
        let split = self.graph.reshape(x, &[0, 0, heads, size])?;
        self.graph.transpose(split, order)
    }

    /// Scaled dot-product attention, heads joined again; keys are transposed,
    /// `[batch, heads, hidden / heads, tokens]`.
    pub(super) fn attend(
        &mut self,
        query: Value,
        key: Value,
        value: Value,
        mask: Value,
    ) -> Result<Value, ExportError> {
        let scale = self.graph.scalar((self.head_size() as f32).sqrt().recip())?;
        let scores = self.graph.matmul(query, key)?;
        let scores = self.graph.mul(scores, scale)?;
        let scores = self.graph.add(scores, mask)?;
        let shares = self.graph.softmax(scores)?;
        let context = self.graph.matmul(shares, value)?;
        let context = self.graph.transpose(context, &[0, 2, 1, 3])?;
        self.graph.reshape(context, &[0, 0, signed("Reshape", self.hidden)?])
    }

    /// A linear layer with bias whose tensors begin with `name`.
    pub(super) fn linear(
        &mut self,
        x: Value,
        name: &str,
        inputs: usize,
        outputs: usize,
    ) -> Result<Value, ExportError> {
        let weight = self.tensors.read(&format!("{name}.weight"), &[outputs, inputs])?;
        let bias = self.tensors.read(&format!("{name}.bias"), &[outputs])?;
        self.apply(x, &Linear { name, weight: &weight, bias: Some(&bias), inputs, outputs })
    }

    /// `x · Wᵀ + b`
    pub(super) fn apply(&mut self, x: Value, layer: &Linear<'_>) -> Result<Value, ExportError> {
        let name = format!("{}.weight", layer.name);
        let matrix = Matrix {
            name: &name,
            values: layer.weight,
            rows: layer.outputs,
            columns: layer.inputs,
        };
        let weight = store_linear(&mut self.graph, matrix, self.weights)?;
        let product = self.graph.matmul(x, weight)?;
        let Some(bias) = layer.bias else { return Ok(product) };
        let name = format!("{}.bias", layer.name);
        let bias = self.graph.initializer_f32(&name, &[layer.outputs], bias)?;
        self.graph.add(product, bias)
    }

    /// Layer normalization whose tensors begin with `name`.
    pub(super) fn norm(&mut self, x: Value, name: &str) -> Result<Value, ExportError> {
        let scale = self.vector(&format!("{name}.weight"))?;
        let bias = self.vector(&format!("{name}.bias"))?;
        self.graph.layer_norm(x, scale, bias, self.epsilon)
    }

    /// Pools the last hidden states and finishes the graph.
    pub(super) fn finish(
        mut self,
        x: Value,
        mask: Value,
        pooling: Pooling,
    ) -> Result<Vec<u8>, ExportError> {
        let embedding = pool(&mut self.graph, x, mask, pooling, self.hidden)?;
        self.graph.finish("encoder", &[("task_embedding".to_owned(), embedding)])
    }

    pub(super) fn head_size(&self) -> usize {
        self.hidden / self.heads
    }

    fn vector(&mut self, name: &str) -> Result<Value, ExportError> {
        let values = self.tensors.read(name, &[self.hidden])?;
        self.graph.initializer_f32(name, &[self.hidden], &values)
    }
}
