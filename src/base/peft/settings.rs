//! `adapter_config.json` of a plain adapter.
//!
//! In: the parsed file of any program. Out: rank, alpha and `use_rslora`, and what keeps the adapter
//! from being a plain one; and the bytes of the file for an adapter. The target modules are not
//! read: the tensors say which they are.
//!
//! Source: PEFT's `LoraConfig`.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};
use t2lc_runtime::base::BaseModel;

use super::{MAX_RANK, PeftAdapter};

/// Settings that change what the matrices mean; each must be missing or say "not used".
const REFUSED_SETTINGS: [&str; 9] = [
    "use_dora",
    "use_qalora",
    "lora_bias",
    "modules_to_save",
    "rank_pattern",
    "alpha_pattern",
    "layer_replication",
    "trainable_token_indices",
    "alora_invocation_tokens",
];

impl PeftAdapter {
    /// The settings alone; a rank of 0 where the file has none that can be used.
    pub(super) fn without_matrices(config: &Value, problems: &mut Vec<String>) -> Self {
        let mut refuse = |key: &str, expected: &str| {
            let got = config.get(key).unwrap_or(&Value::Null);
            problems.push(format!("`{key}` is {got}, expected {expected}"));
        };
        let text = |key: &str| config.get(key).filter(|value| !value.is_null());
        if text("peft_type").is_some_and(|kind| kind != "LORA") {
            refuse("peft_type", "\"LORA\"");
        }
        if text("bias").is_some_and(|bias| bias != "none") {
            refuse("bias", "\"none\"");
        }
        for key in REFUSED_SETTINGS {
            if config.get(key).is_some_and(is_used) {
                refuse(key, "it not to be used");
            }
        }
        let rank = config.get("r").and_then(Value::as_u64).and_then(|r| usize::try_from(r).ok());
        let rank = rank.filter(|rank| (1..=MAX_RANK).contains(rank)).unwrap_or_else(|| {
            refuse("r", &format!("a rank of 1 to {MAX_RANK}"));
            0
        });
        let alpha = config.get("lora_alpha").and_then(|value| f32::deserialize(value).ok());
        let alpha = alpha.filter(|alpha| alpha.is_finite()).unwrap_or_else(|| {
            refuse("lora_alpha", "a finite number");
            0.0
        });
        let use_rslora = match text("use_rslora") {
            None => false,
            Some(Value::Bool(used)) => *used,
            Some(_) => {
                refuse("use_rslora", "true or false");
                false
            }
        };
        Self { rank, alpha, use_rslora, matrices: BTreeMap::new() }
    }

    /// The bytes of the configuration.
    pub(super) fn config(&self, base: &BaseModel) -> Vec<u8> {
        let modules: Vec<&str> = base.modules.iter().map(|m| m.name.as_str()).collect();
        // PEFT's field is an integer, which some readers insist on.
        let alpha = match self.alpha.to_string().parse::<i64>() {
            Ok(whole) => json!(whole),
            Err(_) => json!(f64::from(self.alpha)),
        };
        let config = json!({
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base.name,
            "r": self.rank,
            "lora_alpha": alpha,
            "target_modules": modules,
            "lora_dropout": 0.0,
            "bias": "none",
            "fan_in_fan_out": false,
            "inference_mode": true,
            "modules_to_save": null,
            "rank_pattern": {},
            "alpha_pattern": {},
            "use_rslora": self.use_rslora,
            "use_dora": false,
        });
        format!("{config:#}\n").into_bytes()
    }
}

/// Whether a setting is anything but the many ways to say no.
fn is_used(setting: &Value) -> bool {
    match setting {
        Value::Null | Value::Bool(false) => false,
        Value::Array(items) => !items.is_empty(),
        Value::Object(entries) => !entries.is_empty(),
        _ => true,
    }
}
