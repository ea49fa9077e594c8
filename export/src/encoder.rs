//! Builds `encoder.onnx`: a pretrained text encoder as one graph.
//!
//! In goes a directory as sentence-transformers writes it (`config.json`, `model.safetensors`,
//! optionally `1_Pooling/config.json`). Out comes a graph `input_ids`, `attention_mask` int64
//! `[batch, tokens]` → `task_embedding` f32 `[batch, hidden]`, of Euclidean length `√hidden`. All
//! sizes are read from the configuration, whose `model_type` decides the architecture:
//!
//! - `bert` (all-MiniLM, bge, e5, the first gte): mean of the tokens where no pooling is named;
//! - `new` (gte-base-en-v1.5, gte-large-en-v1.5): the first token where no pooling is named.
//!
//! The graph embeds the description as it is. Encoders that were trained with an instruction in
//! front of each text expect it from the caller: e5 wants `query: ` before the description, and
//! nothing here adds it.
//!
//! The caller truncates to at most [`max_tokens`]; beyond that the graph fails.

use std::path::Path;

use serde::Deserialize;
use t2lc_runtime::encode::MAX_TOKENS;

use crate::check::check_model;
use crate::error::ExportError;
use crate::weights::WeightType;

pub mod adopt;
mod bert;
mod blocks;
mod config;
mod gte;
mod pooling;
mod rotary;
mod source;
mod tensors;

pub use pooling::Pooling;
pub(crate) use source::EncoderFiles;
pub use source::EncoderSource;

/// The field of a Hugging Face `config.json` that names the architecture.
#[derive(Debug, Deserialize)]
struct Architecture {
    model_type: String,
}

/// The field that says how many tokens there are positions for.
#[derive(Debug, Deserialize)]
struct Positions {
    max_position_embeddings: usize,
}

/// Longest input of a model directory's encoder, in tokens: as many as it has positions for, and no
/// more than [`MAX_TOKENS`].
///
/// # Errors
/// A configuration that cannot be read or does not say.
pub fn max_tokens(model_dir: &Path) -> Result<usize, ExportError> {
    let Positions { max_position_embeddings } = config::read_json(&model_dir.join(config::FILE))?;
    Ok(max_position_embeddings.min(MAX_TOKENS))
}

/// Builds the encoder of a model directory.
///
/// # Errors
/// Unreadable files, a configuration other than described above, missing or wrongly shaped
/// tensors, weights that are not finite in the chosen type.
pub fn build_encoder(model_dir: &Path, weights: WeightType) -> Result<Vec<u8>, ExportError> {
    let Architecture { model_type } = config::read_json(&model_dir.join(config::FILE))?;
    let model = match model_type.as_str() {
        "bert" => bert::build(model_dir, weights)?,
        "new" => gte::build(model_dir, weights)?,
        _ => {
            let expected = "`bert` or `new`".to_owned();
            return Err(config::unsupported("model_type", expected, model_type));
        }
    };
    check_model(&model)?;
    Ok(model)
}

#[cfg(test)]
mod tests;
