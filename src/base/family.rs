//! What the supported model families have in common and where they differ, as data.
//!
//! In: sizes and constants that a source ([`super::source`]) read from a GGUF header or a
//! `config.json`. Out: a [`DecoderConfig`], all that the one decoder needs to know. Nothing
//! downstream asks for the family's name; it looks at the fields.
//!
//! Sources: the papers of Llama 3, Mistral 7B, Qwen2, Qwen3, Gemma 2 and Gemma 3; the layer
//! patterns and defaults where a GGUF file leaves them out are llama.cpp's.

use std::f32::consts::PI;

use anyhow::{Result, bail, ensure};

/// More layers than any model has; larger numbers come from broken files.
const MAX_LAYERS: usize = 1024;
/// Widths and vocabularies above this come from broken files.
const MAX_SIZE: usize = 1 << 24;

/// A family of decoders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Llama 2 and 3, `SmolLM2`, and Mistral in a GGUF file.
    Llama,
    /// Mistral in a Hugging Face directory.
    Mistral,
    /// Qwen2 and Qwen2.5.
    Qwen2,
    /// Qwen3, dense.
    Qwen3,
    /// Gemma 2.
    Gemma2,
    /// Gemma 3, text.
    Gemma3,
}

/// The function that gates the feed-forward block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x · sigmoid(x)`
    Silu,
    /// GELU in its tanh approximation.
    GeluTanh,
}

/// What a family fixes, whatever the model's size.
#[allow(clippy::struct_excessive_bools, reason = "each is a yes or no of its own")]
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Traits {
    /// Value of `general.architecture` in GGUF files.
    pub gguf_architecture: &'static str,
    /// Value of `model_type` in `config.json`.
    pub model_type: &'static str,
    /// Queries and keys are normalized per head before the rotation.
    pub query_key_norms: bool,
    /// The outputs of attention and feed-forward are normalized before they are added.
    pub post_norms: bool,
    /// Gate of the feed-forward block.
    pub activation: Activation,
    /// Added to norm weights as Hugging Face stores them; a GGUF file has it added already.
    pub stored_norm_offset: f64,
    /// Embeddings are multiplied by `sqrt(hidden)`.
    pub scales_embedding: bool,
    /// llama.cpp stores the rows of `q_proj` and `k_proj` interleaved.
    pub interleaved_in_gguf: bool,
    /// Whether the head is tied where `config.json` does not say.
    pub tied_by_default: bool,
}

const LLAMA: Traits = Traits {
    gguf_architecture: "llama",
    model_type: "llama",
    query_key_norms: false,
    post_norms: false,
    activation: Activation::Silu,
    stored_norm_offset: 0.0,
    scales_embedding: false,
    interleaved_in_gguf: true,
    tied_by_default: false,
};

const GEMMA2: Traits = Traits {
    gguf_architecture: "gemma2",
    model_type: "gemma2",
    query_key_norms: false,
    post_norms: true,
    activation: Activation::GeluTanh,
    stored_norm_offset: 1.0,
    scales_embedding: true,
    interleaved_in_gguf: false,
    tied_by_default: true,
};

impl Family {
    /// Every family.
    pub const ALL: [Self; 6] =
        [Self::Llama, Self::Mistral, Self::Qwen2, Self::Qwen3, Self::Gemma2, Self::Gemma3];

    /// What the family fixes.
    pub const fn traits(self) -> Traits {
        match self {
            Self::Llama => LLAMA,
            Self::Mistral => Traits { model_type: "mistral", ..LLAMA },
            Self::Qwen2 => Traits {
                gguf_architecture: "qwen2",
                model_type: "qwen2",
                interleaved_in_gguf: false,
                ..LLAMA
            },
            Self::Qwen3 => Traits {
                gguf_architecture: "qwen3",
                model_type: "qwen3",
                query_key_norms: true,
                interleaved_in_gguf: false,
                ..LLAMA
            },
            Self::Gemma2 => GEMMA2,
            Self::Gemma3 => Traits {
                gguf_architecture: "gemma3",
                model_type: "gemma3_text",
                query_key_norms: true,
                ..GEMMA2
            },
        }
    }

    /// The family of a GGUF file.
    ///
    /// # Errors
    /// An architecture that the decoder does not know.
    pub fn of_gguf(architecture: &str) -> Result<Self> {
        Self::find(architecture, "base architecture", |traits| traits.gguf_architecture)
    }

    /// The family of a Hugging Face directory.
    ///
    /// # Errors
    /// A model type that the decoder does not know.
    pub fn of_model_type(model_type: &str) -> Result<Self> {
        Self::find(model_type, "model_type", |traits| traits.model_type)
    }

    fn find(name: &str, what: &str, of: impl Fn(&Traits) -> &'static str) -> Result<Self> {
        if let Some(family) = Self::ALL.into_iter().find(|family| of(&family.traits()) == name) {
            return Ok(family);
        }
        let mut known: Vec<&str> = Self::ALL.iter().map(|family| of(&family.traits())).collect();
        known.dedup();
        bail!("{what} `{name}` is not supported, expected one of {}", known.join(", "))
    }
}

/// Sizes and constants of one model.
#[derive(Debug, Clone, PartialEq)]
pub struct DecoderConfig {
    /// The family, whose [`Traits`] hold for the model.
    pub family: Family,
    /// Rows of the embedding.
    pub vocabulary: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width inside the feed-forward block.
    pub feed_forward: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of one head; `heads · head_size` need not be `hidden`.
    pub head_size: usize,
    /// Epsilon of the norms.
    pub norm_eps: f32,
    /// `q_proj`, `k_proj` and `v_proj` have biases.
    pub query_key_value_bias: bool,
    /// `o_proj` has a bias.
    pub output_bias: bool,
    /// The head is the token embedding.
    pub tied_head: bool,
    /// Factor on attention scores.
    pub attention_scale: f32,
    /// Attention scores `s` become `cap · tanh(s / cap)`.
    pub attention_soft_cap: Option<f32>,
    /// Logits `x` become `cap · tanh(x / cap)`.
    pub logit_soft_cap: Option<f32>,
    /// Per layer: how many positions a token sees, its own included; `None` for all.
    pub windows: Vec<Option<usize>>,
    /// Angle per position of each of the `head_size / 2` pairs, layers without a window.
    pub global_frequencies: Vec<f32>,
    /// The same for layers with a window.
    pub local_frequencies: Vec<f32>,
}

impl DecoderConfig {
    /// Refuses sizes that no model has or that do not go together.
    ///
    /// # Errors
    /// The first size that is wrong, with its value.
    pub fn check(&self) -> Result<()> {
        check_sizes(self.heads, self.kv_heads, self.head_size)?;
        let sizes = [
            ("vocabulary", self.vocabulary),
            ("hidden size", self.hidden),
            ("feed-forward size", self.feed_forward),
        ];
        for (name, size) in sizes {
            ensure!((1..=MAX_SIZE).contains(&size), "{name} is {size}, expected 1 to {MAX_SIZE}");
        }
        let layers = self.windows.len();
        ensure!((1..=MAX_LAYERS).contains(&layers), "{layers} layers, expected 1 to {MAX_LAYERS}");
        ensure!(!self.windows.contains(&Some(0)), "a sliding window of 0 tokens sees nothing");
        let positive = |value: f32| value > 0.0 && value.is_finite();
        for (name, value) in
            [("norm eps", self.norm_eps), ("attention scale", self.attention_scale)]
        {
            ensure!(positive(value), "{name} is {value}, expected a positive number");
        }
        for cap in [self.attention_soft_cap, self.logit_soft_cap].into_iter().flatten() {
            ensure!(positive(cap), "a soft cap is {cap}, expected a positive number");
        }
        for frequencies in [&self.global_frequencies, &self.local_frequencies] {
            let (got, expected) = (frequencies.len(), self.head_size / 2);
            ensure!(got == expected, "{got} rotary frequencies, expected {expected}");
            ensure!(frequencies.iter().all(|f| f.is_finite()), "rotary frequencies are not finite");
        }
        Ok(())
    }
}

/// Refuses attention sizes that do not go together; for use before anything is computed from them.
///
/// # Errors
/// The size that is wrong, with its value.
pub fn check_sizes(heads: usize, kv_heads: usize, head_size: usize) -> Result<()> {
    ensure!((1..=MAX_SIZE).contains(&heads), "{heads} attention heads");
    ensure!(
        kv_heads > 0 && heads.is_multiple_of(kv_heads),
        "{kv_heads} key heads do not divide {heads} query heads"
    );
    ensure!(
        head_size > 0 && head_size <= MAX_SIZE && head_size.is_multiple_of(2),
        "a head of {head_size} values, expected an even number"
    );
    Ok(())
}

/// Refuses a number of layers that no model has; for use before a list of them is made.
///
/// # Errors
/// Zero or more than a thousand.
pub fn check_layers(layers: usize) -> Result<usize> {
    ensure!((1..=MAX_LAYERS).contains(&layers), "{layers} layers, expected 1 to {MAX_LAYERS}");
    Ok(layers)
}

/// Per layer the window, where of every `period` layers all but the last have one.
pub fn periodic_windows(layers: usize, period: usize, window: usize) -> Vec<Option<usize>> {
    (0..layers).map(|i| (!(i + 1).is_multiple_of(period.max(1))).then_some(window)).collect()
}

/// How rotary frequencies are stretched for long contexts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// All divided by a factor.
    Linear {
        /// The factor.
        factor: f32,
    },
    /// Llama 3: long waves divided by a factor, short ones kept, smoothly in between.
    Llama3 {
        /// The factor.
        factor: f32,
        /// Waves longer than `original_context / low` are divided.
        low: f32,
        /// Waves shorter than `original_context / high` are kept.
        high: f32,
        /// Tokens of the context before it was stretched.
        original_context: f32,
    },
}

/// Angle per position of the `head_size / 2` pairs: `base^(−2i / head_size)`, stretched.
pub fn frequencies(head_size: usize, base: f32, scaling: RopeScaling) -> Vec<f32> {
    let plain = (0..head_size / 2).map(|i| base.powf(-2.0 * i as f32 / head_size as f32));
    let stretched = plain.map(|frequency| match scaling {
        RopeScaling::None => frequency,
        RopeScaling::Linear { factor } => frequency / factor,
        RopeScaling::Llama3 { factor, low, high, original_context } => {
            // Turns that the pair makes within the original context.
            let turns = original_context * frequency / (2.0 * PI);
            let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
            (1.0 - kept) * frequency / factor + kept * frequency
        }
    });
    stretched.collect()
}

#[cfg(test)]
mod tests {
    use super::{Family, RopeScaling, frequencies, periodic_windows};

    #[test]
    fn unknown_families_are_named_with_those_that_are_known() {
        assert_eq!(Family::of_gguf("gemma3").unwrap(), Family::Gemma3);
        assert_eq!(Family::of_gguf("llama").unwrap(), Family::Llama);
        assert_eq!(Family::of_model_type("mistral").unwrap(), Family::Mistral);
        assert_eq!(
            Family::of_gguf("phi3").unwrap_err().to_string(),
            "base architecture `phi3` is not supported, expected one of llama, qwen2, qwen3, \
             gemma2, gemma3"
        );
    }

    #[test]
    fn every_sixth_layer_of_gemma_3_is_global() {
        let windows = periodic_windows(7, 6, 512);
        assert_eq!(windows.iter().filter(|window| window.is_none()).count(), 1);
        assert_eq!((windows[5], windows[6]), (None, Some(512)));
    }

    #[test]
    fn llama_3_stretches_long_waves_only() {
        let plain = frequencies(64, 500_000.0, RopeScaling::None);
        let scaling =
            RopeScaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original_context: 8192.0 };
        let scaled = frequencies(64, 500_000.0, scaling);
        assert!((scaled[0] - plain[0]).abs() < 1e-9);
        assert!((scaled[31] * 8.0 / plain[31] - 1.0).abs() < 1e-6);
        assert!(scaled.iter().zip(&plain).any(|(s, p)| s < p && *s > p / 7.9));
    }
}
