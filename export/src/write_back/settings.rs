//! `args.yaml` and `adapter_config.json` of a checkpoint in the reference's form.
//!
//! In: the configuration of a hypernetwork, what it generates, and what things are called. Out: the
//! bytes of both files, keys sorted as Python writes them. `args.yaml` has what the reference's
//! loader asks for, and of the rest what says what kind of run this is; `adapter_config.json` what
//! PEFT needs to wrap the base. `target_modules` are in the order of the type index in both.
//!
//! Values of `args.yaml` are JSON, which YAML includes, but for `\U` and eight digits in texts.
//!
//! Source: the reference implementation of <https://arxiv.org/abs/2506.06105> and PEFT's
//! `LoraConfig`.

use serde_json::{Value, json};

use super::Names;
use super::error::WriteBackError;
use crate::checkpoint::{HypernetConfig, Variant};
use crate::import::Training;

/// What the reference trains with; it changes nothing outside of training.
const DROPOUT: f64 = 0.05;

/// The bytes of `args.yaml`.
pub(super) fn arguments(
    config: &HypernetConfig,
    training: Training,
    names: &Names<'_>,
    model_dir: &str,
) -> Vec<u8> {
    let z_scores = training == Training::ZScores;
    let task = if z_scores { "recon" } else { "sft" };
    let (shared, by_ranks) = (config.variant != Variant::L, config.variant == Variant::S);
    let quoted_modules: Vec<String> = modules(config).map(quoted).collect();
    let run_dir = format!("train_outputs/{task}/hyper_lora/{}", names.run);
    let settings = [
        ("autoreg_gen", by_ranks.to_string()),
        ("delta_w_scaling", "10000".to_owned()),
        ("emb_model", quoted(names.encoder)),
        ("encoder_type", quoted("linear")),
        ("exp_setup", quoted("hyper_lora")),
        ("factorized", z_scores.to_string()),
        ("head_in_size", config.head_in_size.to_string()),
        ("hypernet_latent_size", config.latent_size.to_string()),
        ("learnable_AB_offset", "false".to_owned()),
        ("learnable_pos_emb", by_ranks.to_string()),
        ("model_dir", quoted(model_dir)),
        ("mt_lora_path", "null".to_owned()),
        ("pred_z_score", z_scores.to_string()),
        ("run_name", quoted(names.run)),
        ("save_dir", quoted(&run_dir)),
        ("shared_AB_head", shared.to_string()),
        ("target_modules", format!("[{}]", quoted_modules.join(", "))),
        // Counts for networks that know tasks by number only.
        ("train_ds_names", "[]".to_owned()),
        ("training_task", quoted(task)),
        ("use_hypernet", "true".to_owned()),
        ("use_one_hot_task_emb", "false".to_owned()),
    ];
    let lines = settings.into_iter().map(|(key, value)| format!("{key}: {value}\n"));
    lines.collect::<Vec<_>>().concat().into_bytes()
}

/// The bytes of `adapter_config.json`.
pub(super) fn adapter(config: &HypernetConfig, model_dir: &str) -> Result<Vec<u8>, WriteBackError> {
    // Python reads a whole number as one, and the shortest text of any other.
    let alpha: Value = serde_json::from_str(&config.alpha.to_string())?;
    let modules: Vec<&str> = modules(config).collect();
    let settings = json!({
        "alpha_pattern": {},
        "auto_mapping": null,
        "base_model_name_or_path": model_dir,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "layers_to_transform": null,
        "lora_alpha": alpha,
        "lora_dropout": DROPOUT,
        "modules_to_save": null,
        "peft_type": "LORA",
        "r": config.rank,
        "rank_pattern": {},
        "target_modules": modules,
        "task_type": "CAUSAL_LM",
        "use_dora": false,
        "use_rslora": config.use_rslora,
    });
    let mut text = serde_json::to_string_pretty(&settings)?;
    text.push('\n');
    Ok(text.into_bytes())
}

/// Modules in the order of the type index.
fn modules(config: &HypernetConfig) -> impl Iterator<Item = &str> {
    config.base.modules.iter().map(|module| module.name.as_str())
}

/// A text in double quotes, of ASCII only: what YAML takes for a line break or does not take at all
/// depends on its version.
fn quoted(text: &str) -> String {
    let escaped: String = text.chars().map(escaped).collect();
    format!("\"{escaped}\"")
}

fn escaped(c: char) -> String {
    match (c, u32::from(c)) {
        ('"' | '\\', _) => format!("\\{c}"),
        (' '..='~', _) => c.to_string(),
        (_, code @ ..=0xFFFF) => format!("\\u{code:04x}"),
        (_, code) => format!("\\U{code:08x}"),
    }
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn every_text_is_quoted_in_ascii() {
        assert_eq!(quoted("Alibaba-NLP/gte"), r#""Alibaba-NLP/gte""#);
        assert_eq!(quoted("a \"b\"\\\n"), r#""a \"b\"\\\u000a""#);
        assert_eq!(quoted("é\u{2028}🦀"), r#""\u00e9\u2028\U0001f980""#);
        assert_eq!(quoted(""), r#""""#);
    }
}
