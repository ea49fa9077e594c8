//! The base model as the rest of the system sees it: names and shapes, never weights.
//!
//! A [`BaseModel`] is written into checkpoints and bundles. It is all that `compile` needs to know
//! about the model the adapter is for: how many layers, which linear maps are adapted, how large
//! they are, and whether the rows of `lora_b` must be permuted to match llama.cpp's rotary layout.

use serde::{Deserialize, Serialize};

/// Stands for the fingerprint of a base of which only the sizes are known. Nothing can be compared
/// with it, and no base has it.
pub const UNKNOWN_FINGERPRINT: &str = "unknown";

/// One adapted linear map per layer, in Hugging Face terms: `y = W x`, `W [out_features, in_features]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TargetModule {
    /// Short Hugging Face name, for example `q_proj`.
    pub name: String,
    /// Columns of `W`, and of `lora_a [rank, in_features]`.
    pub in_features: usize,
    /// Rows of `W`, and of `lora_b [out_features, rank]`.
    pub out_features: usize,
    /// Number of attention heads whose rows llama.cpp stores interleaved (`NORM` rotary layout);
    /// `None` where the GGUF file keeps the Hugging Face row order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permute_heads: Option<usize>,
}

impl TargetModule {
    /// Name of the base weight in a GGUF file, for example `blk.3.attn_q.weight`; `None` for a
    /// module that is not one of the seven linear maps of a decoder layer.
    pub fn gguf_name(&self, layer: usize) -> Option<String> {
        let tensor = match self.name.as_str() {
            "q_proj" => "attn_q",
            "k_proj" => "attn_k",
            "v_proj" => "attn_v",
            "o_proj" => "attn_output",
            "gate_proj" => "ffn_gate",
            "up_proj" => "ffn_up",
            "down_proj" => "ffn_down",
            _ => return None,
        };
        Some(format!("blk.{layer}.{tensor}.weight"))
    }

    /// Path of the module inside a Hugging Face decoder, for example
    /// `model.layers.3.self_attn.q_proj`; `None` as for [`TargetModule::gguf_name`].
    pub fn hugging_face_path(&self, layer: usize) -> Option<String> {
        let parent = match self.name.as_str() {
            "q_proj" | "k_proj" | "v_proj" | "o_proj" => "self_attn",
            "gate_proj" | "up_proj" | "down_proj" => "mlp",
            _ => return None,
        };
        Some(format!("model.layers.{layer}.{parent}.{}", self.name))
    }

    /// The heads that rows are interleaved for, if the rows do not split into so many of even size.
    pub fn unsplittable_heads(&self) -> Option<usize> {
        let splits = |heads: &usize| {
            let halves = heads.checked_mul(2).filter(|halves| *halves > 0);
            halves.is_some_and(|halves| self.out_features.is_multiple_of(halves))
        };
        self.permute_heads.filter(|heads| !splits(heads))
    }
}

/// The model an adapter is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BaseModel {
    /// Human-readable name, for example `SmolLM2-135M-Instruct`.
    pub name: String,
    /// Value of `general.architecture` in the base's GGUF file, for example `llama`.
    pub architecture: String,
    /// Number of decoder layers.
    pub layers: usize,
    /// Whether the output head shares the token embedding's weight.
    pub tied_head: bool,
    /// Fingerprint of the norm vectors, `sha256:<hex>`, see [`crate::fingerprint`]; or
    /// [`UNKNOWN_FINGERPRINT`].
    pub fingerprint: String,
    /// Adapted modules. The order is the type index of the hypernetwork: never sort it.
    pub modules: Vec<TargetModule>,
}

#[cfg(test)]
mod tests {
    use super::TargetModule;

    #[test]
    fn names_follow_both_conventions() {
        let module = TargetModule {
            name: "down_proj".into(),
            in_features: 1536,
            out_features: 576,
            permute_heads: None,
        };
        assert_eq!(module.gguf_name(7).as_deref(), Some("blk.7.ffn_down.weight"));
        assert_eq!(module.hugging_face_path(7).as_deref(), Some("model.layers.7.mlp.down_proj"));
    }

    #[test]
    fn unknown_modules_have_no_tensor() {
        let module = TargetModule {
            name: "lm_head".into(),
            in_features: 1,
            out_features: 1,
            permute_heads: None,
        };
        assert_eq!(module.gguf_name(0), None);
    }
}
