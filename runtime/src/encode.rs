//! Stage 2, encode: canonical description → task embedding.
//!
//! The description is split into tokens, at most the bundle's limit, and the encoder graph returns
//! `E` values of Euclidean length √E (pooling and normalization are in the graph).

use crate::backend::{Backend, BackendError, Graph, Tensor};
use crate::bundle::{Bundle, BundleError, ENCODER, TOKENIZER};
use crate::describe::Description;
use crate::tokenize::Tokenizer;

/// Tokens that an encoder is trained on; exported bundles use this limit.
pub const MAX_TOKENS: usize = 256;

/// Why a description could not be encoded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// The tokenizer file is unusable.
    #[error("`{TOKENIZER}` cannot be used: {reason}")]
    Tokenizer {
        /// What is wrong with it.
        reason: String,
    },
    /// The bundle lacks a file.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The graph fails.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The graph returns something else than `E` finite values.
    #[error("`{ENCODER}` returned {got}, expected {expected} finite values")]
    Output {
        /// Width of the embedding.
        expected: usize,
        /// What came back.
        got: String,
    },
}

/// A description as the hypernetwork sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskEmbedding {
    /// `E` values of Euclidean length √E.
    pub values: Vec<f32>,
    /// Tokens of the description, special tokens included.
    pub tokens: usize,
    /// Whether the description was cut to the encoder's limit.
    pub truncated: bool,
}

/// The text encoder of a bundle.
pub struct Encoder {
    tokenizer: Tokenizer,
    graph: Box<dyn Graph>,
    embedding_size: usize,
    max_tokens: usize,
}

impl Encoder {
    /// Loads tokenizer and graph.
    ///
    /// # Errors
    /// Files that the tokenizer or the backend refuses.
    pub fn load(bundle: &Bundle, backend: &dyn Backend) -> Result<Self, EncodeError> {
        let info = &bundle.manifest.encoder;
        let graph = backend.load_shared(ENCODER, bundle.file(ENCODER)?.clone())?;
        Self::from_parts(bundle.file(TOKENIZER)?, graph, info.embedding_size, info.max_tokens)
    }

    /// An encoder from a tokenizer file and a loaded graph.
    ///
    /// # Errors
    /// A tokenizer file that cannot be parsed.
    pub fn from_parts(
        tokenizer: &[u8],
        graph: Box<dyn Graph>,
        embedding_size: usize,
        max_tokens: usize,
    ) -> Result<Self, EncodeError> {
        let tokenizer =
            Tokenizer::from_bytes(tokenizer).map_err(|reason| EncodeError::Tokenizer { reason })?;
        Ok(Self { tokenizer, graph, embedding_size, max_tokens })
    }

    /// Embeds one description.
    ///
    /// # Errors
    /// A failure of the graph, or an embedding that is not `E` finite values.
    pub fn encode(&self, description: &Description) -> Result<TaskEmbedding, EncodeError> {
        let split = self
            .tokenizer
            .ids(description.as_str(), self.max_tokens)
            .map_err(|reason| EncodeError::Tokenizer { reason })?;
        let (tokens, truncated) = (split.tokens, split.truncated());
        let shape = vec![1, split.ids.len()];
        let mask = Tensor::I64 { shape: shape.clone(), values: vec![1; split.ids.len()] };
        let ids = Tensor::I64 { shape, values: split.ids };
        let inputs = [("input_ids", ids), ("attention_mask", mask)];
        let expected = self.embedding_size;
        match self.graph.run(&inputs, &["task_embedding"])?.pop() {
            Some(Tensor::F32 { values, .. })
                if values.len() == expected && values.iter().all(|v| v.is_finite()) =>
            {
                Ok(TaskEmbedding { values, tokens, truncated })
            }
            Some(Tensor::F32 { values, shape }) => {
                let finite = values.iter().filter(|v| v.is_finite()).count();
                let got = format!("{shape:?} with {finite} finite values");
                Err(EncodeError::Output { expected, got })
            }
            _ => Err(EncodeError::Output { expected, got: "no floats".into() }),
        }
    }
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Encoder")
            .field("embedding_size", &self.embedding_size)
            .finish_non_exhaustive()
    }
}
