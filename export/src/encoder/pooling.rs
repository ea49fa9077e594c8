//! Pooling: the hidden states of all tokens → one task embedding.
//!
//! In go hidden states f32 `[batch, tokens, width]` and a mask f32 `[batch, tokens]` of ones and
//! zeros, out comes f32 `[batch, width]`: the mean over the unmasked tokens, or the first token,
//! divided by its Euclidean norm and multiplied by `√width`, the form in which the hypernetwork is
//! trained on it. `1_Pooling/config.json`, a file of sentence-transformers (<https://sbert.net>),
//! says which of the two an encoder was trained with.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::str::FromStr;

use serde_json::Value as Json;

use super::config::{self, read_json, unsupported};
use crate::error::ExportError;
use crate::graph::{Dim, GraphBuilder, Value, signed};

/// Smallest number of tokens and smallest norm that are divided by.
const MIN_COUNT: f32 = 1e-9;
const MIN_NORM: f32 = 1e-12;

/// What fields that set a mode begin with, and the two modes that are built.
const MODE: &str = "pooling_mode_";
const MODE_MEAN: &str = "pooling_mode_mean_tokens";
const MODE_CLS: &str = "pooling_mode_cls_token";

/// How the hidden states of a text become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// Mean over the unmasked tokens.
    Mean,
    /// The first token, `[CLS]` in BERT's vocabulary.
    Cls,
}

impl Pooling {
    /// The pooling that a model directory asks for, or `default` where it does not say.
    ///
    /// # Errors
    /// An unreadable file, another mode than these two, several modes or none.
    pub fn read(model_dir: &Path, default: Self) -> Result<Self, ExportError> {
        let path = model_dir.join("1_Pooling").join(config::FILE);
        if !path.exists() {
            return Ok(default);
        }
        let fields: BTreeMap<String, Json> = read_json(&path)?;
        let modes: Vec<&str> = fields
            .iter()
            .filter(|(name, value)| name.starts_with(MODE) && value.as_bool() == Some(true))
            .map(|(name, _)| name.as_str())
            .collect();
        match modes.as_slice() {
            [MODE_MEAN] => Ok(Self::Mean),
            [MODE_CLS] => Ok(Self::Cls),
            several => {
                let expected = format!("one of `{MODE_MEAN}` and `{MODE_CLS}`");
                let got = if several.is_empty() { "none".to_owned() } else { several.join(", ") };
                Err(unsupported("pooling_mode", expected, got))
            }
        }
    }
}

impl fmt::Display for Pooling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mean => "mean",
            Self::Cls => "cls",
        })
    }
}

impl FromStr for Pooling {
    type Err = ExportError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Mean, Self::Cls]
            .into_iter()
            .find(|pooling| pooling.to_string() == text)
            .ok_or_else(|| ExportError::UnknownPooling { got: text.to_owned() })
    }
}

/// Adds the pooling to a graph, see the module documentation.
///
/// # Errors
/// [`ExportError::Graph`] if the shapes are others than described above.
pub(super) fn pool(
    graph: &mut GraphBuilder,
    hidden_states: Value,
    mask: Value,
    pooling: Pooling,
    width: usize,
) -> Result<Value, ExportError> {
    let pooled = match pooling {
        Pooling::Mean => mean(graph, hidden_states, mask)?,
        Pooling::Cls => first(graph, hidden_states, width)?,
    };
    let squares = graph.mul(pooled, pooled)?;
    let norm = graph.reduce_sum(squares, 1, true)?;
    let norm = graph.sqrt(norm)?;
    let least = graph.scalar(MIN_NORM)?;
    let norm = graph.max(norm, least)?;
    let unit = graph.div(pooled, norm)?;
    let length = graph.scalar((width as f32).sqrt())?;
    graph.mul(unit, length)
}

fn mean(graph: &mut GraphBuilder, states: Value, mask: Value) -> Result<Value, ExportError> {
    let mask = graph.unsqueeze(mask, 2)?;
    let kept = graph.mul(states, mask)?;
    let sum = graph.reduce_sum(kept, 1, false)?;
    let count = graph.reduce_sum(mask, 1, false)?;
    let least = graph.scalar(MIN_COUNT)?;
    let count = graph.max(count, least)?;
    graph.div(sum, count)
}

fn first(graph: &mut GraphBuilder, states: Value, width: usize) -> Result<Value, ExportError> {
    let one = graph.indices(&[1])?;
    let token = graph.slice_to(states, 1, one, Dim::Fixed(1))?;
    graph.reshape(token, &[0, signed("Reshape", width)?])
}
