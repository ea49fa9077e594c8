//! What an adapter depends on, as training holds it.

use anyhow::{Result, bail};
use candle_core::{Device, Tensor};

use super::hypernet::stack_embeddings;

/// What the adapter of a row depends on.
#[derive(Debug, Clone, PartialEq)]
pub enum Condition {
    /// A task embedding, `E` values; none for an adapter that depends on nothing.
    Embedding(Vec<f32>),
    /// The tokens of a description, for an encoder that is trained as well and so embeds it anew in
    /// each step.
    Tokens(Vec<u32>),
    /// The tokens of a text that describes no task: embedded like a description, but the encoder
    /// does not learn from it. If it did, it would draw all such texts to one place, and short
    /// descriptions with them.
    NoTask(Vec<u32>),
}

impl Condition {
    /// The condition of an adapter that depends on nothing.
    pub fn nothing() -> Self {
        Self::Embedding(Vec::new())
    }
}

/// The embeddings `[conditions, E]`.
///
/// # Errors
/// Embeddings of different widths, or conditions that are not embedded yet.
pub fn stack_conditions(conditions: &[Condition], device: &Device) -> Result<Tensor> {
    let mut rows = Vec::with_capacity(conditions.len());
    for condition in conditions {
        match condition {
            Condition::Embedding(values) => rows.push(values.as_slice()),
            Condition::Tokens(_) | Condition::NoTask(_) => {
                bail!("this learner reads embeddings, not tokens")
            }
        }
    }
    stack_embeddings(&rows, device)
}
