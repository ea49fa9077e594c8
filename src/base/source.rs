//! Where the weights of a base model come from: a GGUF file or a Hugging Face directory.
//!
//! In: a path. Out: a [`DecoderConfig`] and, one at a time, the weights as f32 tensors in one
//! form: rows of `q_proj` and `k_proj` in Hugging Face order, norms as they are multiplied (what
//! Gemma adds to them is added). Every weight's shape is checked against the configuration before
//! it is read.

pub mod gguf;
pub mod hugging_face;

use std::path::Path;

use anyhow::{Result, ensure};
use candle_core::{Device, Tensor};

use super::family::{DecoderConfig, Family};
use gguf::GgufSource;
use hugging_face::HuggingFaceSource;

/// A part of the decoder that has a weight, of one layer where it is in each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Token embedding `[vocabulary, hidden]`.
    Embedding,
    /// Norm before the head.
    OutputNorm,
    /// Head `[vocabulary, hidden]`, where it is not the embedding.
    Head,
    /// Norm before attention.
    AttentionNorm(usize),
    /// `q_proj`
    Query(usize),
    /// `k_proj`
    Key(usize),
    /// `v_proj`
    Value(usize),
    /// `o_proj`
    Output(usize),
    /// Norm of each query head.
    QueryNorm(usize),
    /// Norm of each key head.
    KeyNorm(usize),
    /// Norm after attention.
    PostAttentionNorm(usize),
    /// Norm before the feed-forward block.
    FeedForwardNorm(usize),
    /// `gate_proj`
    Gate(usize),
    /// `up_proj`
    Up(usize),
    /// `down_proj`
    Down(usize),
    /// Norm after the feed-forward block.
    PostFeedForwardNorm(usize),
}

impl Part {
    /// Every norm vector of a model.
    pub fn norms(config: &DecoderConfig) -> Vec<Self> {
        let traits = config.family.traits();
        let mut norms = vec![Self::OutputNorm];
        for layer in 0..config.windows.len() {
            norms.extend([Self::AttentionNorm(layer), Self::FeedForwardNorm(layer)]);
            if traits.query_key_norms {
                norms.extend([Self::QueryNorm(layer), Self::KeyNorm(layer)]);
            }
            if traits.post_norms {
                norms.extend([Self::PostAttentionNorm(layer), Self::PostFeedForwardNorm(layer)]);
            }
        }
        norms
    }

    /// Name in a GGUF file, without `.weight` or `.bias`.
    pub fn gguf_name(self) -> String {
        match self {
            Self::Embedding => "token_embd".to_owned(),
            Self::OutputNorm => "output_norm".to_owned(),
            Self::Head => "output".to_owned(),
            Self::AttentionNorm(layer) => format!("blk.{layer}.attn_norm"),
            Self::Query(layer) => format!("blk.{layer}.attn_q"),
            Self::Key(layer) => format!("blk.{layer}.attn_k"),
            Self::Value(layer) => format!("blk.{layer}.attn_v"),
            Self::Output(layer) => format!("blk.{layer}.attn_output"),
            Self::QueryNorm(layer) => format!("blk.{layer}.attn_q_norm"),
            Self::KeyNorm(layer) => format!("blk.{layer}.attn_k_norm"),
            Self::PostAttentionNorm(layer) => format!("blk.{layer}.post_attention_norm"),
            Self::FeedForwardNorm(layer) => format!("blk.{layer}.ffn_norm"),
            Self::Gate(layer) => format!("blk.{layer}.ffn_gate"),
            Self::Up(layer) => format!("blk.{layer}.ffn_up"),
            Self::Down(layer) => format!("blk.{layer}.ffn_down"),
            Self::PostFeedForwardNorm(layer) => format!("blk.{layer}.post_ffw_norm"),
        }
    }

    /// Name in a Hugging Face model, without `.weight` or `.bias`.
    pub fn hugging_face_name(self, family: Family) -> String {
        match self {
            Self::Embedding => "model.embed_tokens".to_owned(),
            Self::OutputNorm => "model.norm".to_owned(),
            Self::Head => "lm_head".to_owned(),
            Self::AttentionNorm(layer) => format!("model.layers.{layer}.input_layernorm"),
            Self::Query(layer) => format!("model.layers.{layer}.self_attn.q_proj"),
            Self::Key(layer) => format!("model.layers.{layer}.self_attn.k_proj"),
            Self::Value(layer) => format!("model.layers.{layer}.self_attn.v_proj"),
            Self::Output(layer) => format!("model.layers.{layer}.self_attn.o_proj"),
            Self::QueryNorm(layer) => format!("model.layers.{layer}.self_attn.q_norm"),
            Self::KeyNorm(layer) => format!("model.layers.{layer}.self_attn.k_norm"),
            // Without norms after the blocks, this name is that of the norm before feed-forward.
            Self::FeedForwardNorm(layer) if family.traits().post_norms => {
                format!("model.layers.{layer}.pre_feedforward_layernorm")
            }
            Self::FeedForwardNorm(layer) | Self::PostAttentionNorm(layer) => {
                format!("model.layers.{layer}.post_attention_layernorm")
            }
            Self::Gate(layer) => format!("model.layers.{layer}.mlp.gate_proj"),
            Self::Up(layer) => format!("model.layers.{layer}.mlp.up_proj"),
            Self::Down(layer) => format!("model.layers.{layer}.mlp.down_proj"),
            Self::PostFeedForwardNorm(layer) => {
                format!("model.layers.{layer}.post_feedforward_layernorm")
            }
        }
    }

    /// Shape of the weight: `[out, in]`, or `[n]` of a norm.
    pub fn shape(self, config: &DecoderConfig) -> Vec<usize> {
        let DecoderConfig { vocabulary, hidden, feed_forward, head_size, .. } = *config;
        // Products stay in range: `DecoderConfig::check` bounds the factors.
        let (queries, keys) = (config.heads * head_size, config.kv_heads * head_size);
        match self {
            Self::Embedding | Self::Head => vec![vocabulary, hidden],
            Self::Query(_) => vec![queries, hidden],
            Self::Key(_) | Self::Value(_) => vec![keys, hidden],
            Self::Output(_) => vec![hidden, queries],
            Self::Gate(_) | Self::Up(_) => vec![feed_forward, hidden],
            Self::Down(_) => vec![hidden, feed_forward],
            Self::QueryNorm(_) | Self::KeyNorm(_) => vec![head_size],
            Self::OutputNorm
            | Self::AttentionNorm(_)
            | Self::PostAttentionNorm(_)
            | Self::FeedForwardNorm(_)
            | Self::PostFeedForwardNorm(_) => vec![hidden],
        }
    }

    /// Whether the weight is a norm vector.
    pub fn is_norm(self) -> bool {
        matches!(
            self,
            Self::OutputNorm
                | Self::AttentionNorm(_)
                | Self::QueryNorm(_)
                | Self::KeyNorm(_)
                | Self::PostAttentionNorm(_)
                | Self::FeedForwardNorm(_)
                | Self::PostFeedForwardNorm(_)
        )
    }
}

/// The weights of one base model.
#[derive(Debug)]
pub enum Source {
    /// In a GGUF file.
    Gguf(Box<GgufSource>),
    /// In a Hugging Face directory.
    HuggingFace(HuggingFaceSource),
}

impl Source {
    /// Opens a GGUF file, or a directory with `config.json` and safetensors.
    ///
    /// # Errors
    /// An unreadable file, an unknown architecture, a configuration that is not supported.
    pub fn open(path: &Path) -> Result<Self> {
        if path.is_dir() {
            return Ok(Self::HuggingFace(HuggingFaceSource::open(path)?));
        }
        Ok(Self::Gguf(Box::new(GgufSource::open(path)?)))
    }

    /// What the decoder needs to know of the model.
    pub fn config(&self) -> &DecoderConfig {
        match self {
            Self::Gguf(source) => source.config(),
            Self::HuggingFace(source) => source.config(),
        }
    }

    /// The weight of a part, in f32.
    ///
    /// # Errors
    /// A tensor that is missing, of another shape or type, or not wholly in the file.
    pub fn weight(&mut self, part: Part, device: &Device) -> Result<Tensor> {
        match self {
            Self::Gguf(source) => source.weight(part, device),
            Self::HuggingFace(source) => source.weight(part, device),
        }
    }

    /// The bias of a linear map, `[out]` in f32.
    ///
    /// # Errors
    /// As [`Source::weight`].
    pub fn bias(&mut self, part: Part, device: &Device) -> Result<Tensor> {
        match self {
            Self::Gguf(source) => source.bias(part, device),
            Self::HuggingFace(source) => source.bias(part, device),
        }
    }
}

/// Refuses a tensor that is not of the shape the configuration asks for.
fn check_shape(name: &str, got: &[usize], expected: &[usize]) -> Result<()> {
    ensure!(got == expected, "tensor `{name}` has shape {got:?}, expected {expected:?}");
    Ok(())
}
