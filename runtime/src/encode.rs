//! Stage 2, encode: canonical description → task embedding.
//!
//! The description is split into WordPiece tokens, at most the bundle's limit, and the encoder
//! graph returns `E` values of Euclidean length √E (pooling and normalization are in the graph).

use tokenizers::Tokenizer;

use crate::backend::{Backend, BackendError, Graph, Tensor};
use crate::bundle::{Bundle, BundleError, ENCODER, TOKENIZER};
use crate::describe::Description;

/// Tokens that an encoder is trained on; exported bundles use this limit.
pub const MAX_TOKENS: usize = 256;

/// Why a description could not be encoded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// The tokenizer file is unusable.
    #[error("`{TOKENIZER}` cannot be used: {reason}")]
    Tokenizer {
        /// What the tokenizer library said.
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
    /// Files that the tokenizer library or the backend refuses.
    pub fn load(bundle: &Bundle, backend: &dyn Backend) -> Result<Self, EncodeError> {
        let info = &bundle.manifest.encoder;
        let graph = backend.load(ENCODER, bundle.file(ENCODER)?)?;
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
        let fail = |e: tokenizers::Error| EncodeError::Tokenizer { reason: e.to_string() };
        let mut tokenizer = Tokenizer::from_bytes(tokenizer).map_err(fail)?;
        // Padding and truncation are decided here, not by settings left in the file.
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(fail)?;
        Ok(Self { tokenizer, graph, embedding_size, max_tokens })
    }

    /// Embeds one description.
    ///
    /// # Errors
    /// A failure of the graph, or an embedding that is not `E` finite values.
    pub fn encode(&self, description: &Description) -> Result<TaskEmbedding, EncodeError> {
        let fail = |e: tokenizers::Error| EncodeError::Tokenizer { reason: e.to_string() };
        let mut encoding = self.tokenizer.encode(description.as_str(), true).map_err(fail)?;
        let tokens = encoding.len();
        let truncated = tokens > self.max_tokens;
        if truncated {
            // Cut before the special tokens, so that the end marker stays.
            let short = tokenizers::TruncationParams {
                max_length: self.max_tokens,
                ..tokenizers::TruncationParams::default()
            };
            let mut cutting = self.tokenizer.clone();
            cutting.with_truncation(Some(short)).map_err(fail)?;
            encoding = cutting.encode(description.as_str(), true).map_err(fail)?;
        }
        let ids: Vec<i64> = encoding.get_ids().iter().copied().map(i64::from).collect();
        let shape = vec![1, ids.len()];
        let mask = Tensor::I64 { shape: shape.clone(), values: vec![1; ids.len()] };
        let ids = Tensor::I64 { shape, values: ids };
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
