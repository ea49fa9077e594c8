//! `config.json` of a Hugging Face model as a [`DecoderConfig`].

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::base::family::{
    Activation, DecoderConfig, Family, RopeScaling, check_layers, check_sizes, frequencies,
    periodic_windows,
};

/// Reads and checks a configuration.
pub(super) fn read(json: &Value) -> Result<DecoderConfig> {
    let model_type = json.get("model_type").and_then(Value::as_str).context("no `model_type`")?;
    let family = Family::of_model_type(model_type)?;
    let traits = family.traits();
    let keys = Keys(json);
    refuse_unsupported(&keys, family)?;

    let (hidden, heads) = (keys.required("hidden_size")?, keys.required("num_attention_heads")?);
    ensure!(heads > 0, "`num_attention_heads` is 0");
    let kv_heads = keys.size("num_key_value_heads")?.unwrap_or(heads);
    let head_size = match keys.size("head_dim")? {
        Some(size) => size,
        None if family == Family::Qwen3 => 128,
        None if traits.post_norms => 256,
        None => hidden / heads,
    };
    check_sizes(heads, kv_heads, head_size)?;
    let layers = check_layers(keys.required("num_hidden_layers")?)?;

    let attention_bias = keys.flag("attention_bias")?.unwrap_or(false);
    let score_scale = match keys.real("query_pre_attn_scalar")? {
        Some(scalar) if traits.post_norms => scalar,
        None if traits.post_norms => 256.0,
        _ => head_size as f32,
    };
    let soft_cap = |key: &str| if traits.post_norms { keys.real(key) } else { Ok(None) };
    let (global, local) = rope(&keys, family)?;
    let config = DecoderConfig {
        family,
        vocabulary: keys.required("vocab_size")?,
        hidden,
        feed_forward: keys.required("intermediate_size")?,
        heads,
        kv_heads,
        head_size,
        norm_eps: keys.real("rms_norm_eps")?.unwrap_or(1e-6),
        query_key_value_bias: attention_bias || family == Family::Qwen2,
        output_bias: attention_bias && family != Family::Qwen2,
        tied_head: keys.flag("tie_word_embeddings")?.unwrap_or(traits.tied_by_default),
        attention_scale: score_scale.sqrt().recip(),
        attention_soft_cap: soft_cap("attn_logit_softcapping")?,
        logit_soft_cap: soft_cap("final_logit_softcapping")?,
        windows: windows(&keys, family, layers)?,
        global_frequencies: frequencies(head_size, global.base, global.scaling),
        local_frequencies: frequencies(head_size, local.base, local.scaling),
    };
    config.check()?;
    Ok(config)
}

/// The values of a JSON object; `null` counts as absent.
struct Keys<'j>(&'j Value);

impl<'j> Keys<'j> {
    fn get(&self, key: &str) -> Option<&'j Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    fn size(&self, key: &str) -> Result<Option<usize>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let size = value.as_u64().and_then(|size| usize::try_from(size).ok());
        Ok(Some(size.with_context(|| format!("`{key}` is {value}, expected a size"))?))
    }

    fn required(&self, key: &str) -> Result<usize> {
        self.size(key)?.with_context(|| format!("no `{key}`"))
    }

    #[allow(clippy::cast_possible_truncation, reason = "settings are f32 in every implementation")]
    fn real(&self, key: &str) -> Result<Option<f32>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let real = value.as_f64().map(|real| real as f32).filter(|real| real.is_finite());
        Ok(Some(real.with_context(|| format!("`{key}` is {value}, expected a number"))?))
    }

    fn flag(&self, key: &str) -> Result<Option<bool>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let flag = value.as_bool();
        Ok(Some(flag.with_context(|| format!("`{key}` is {value}, expected true or false"))?))
    }

    fn text(&self, key: &str) -> Option<&'j str> {
        self.get(key).and_then(Value::as_str)
    }
}

fn refuse_unsupported(keys: &Keys<'_>, family: Family) -> Result<()> {
    for key in ["mlp_bias", "use_bidirectional_attention"] {
        ensure!(!keys.flag(key)?.unwrap_or(false), "`{key}` is not supported");
    }
    let rotated = keys.real("partial_rotary_factor")?.unwrap_or(1.0);
    ensure!((rotated - 1.0).abs() < 1e-6, "`partial_rotary_factor` {rotated} is not supported");
    // Gemma 2 has an old `hidden_act` beside the `hidden_activation` that counts.
    let activation = keys.text("hidden_activation").or_else(|| keys.text("hidden_act"));
    let expected = match family.traits().activation {
        Activation::Silu => ["silu", "swish"],
        Activation::GeluTanh => ["gelu_pytorch_tanh", "gelu_new"],
    };
    let activation = activation.unwrap_or(expected[0]);
    ensure!(
        expected.contains(&activation),
        "activation `{activation}` is not supported, expected `{}`",
        expected[0]
    );
    Ok(())
}

/// Base and scaling of one kind of layer.
#[derive(Clone, Copy)]
struct Rope {
    base: f32,
    scaling: RopeScaling,
}

/// Of global layers and of those with a window.
fn rope(keys: &Keys<'_>, family: Family) -> Result<(Rope, Rope)> {
    let default_base = match family {
        Family::Gemma3 => 1e6,
        _ => 1e4,
    };
    if let Some(parameters) = keys.get("rope_parameters") {
        let Some(global) = parameters.get("full_attention") else {
            let rope = one_rope(&Keys(parameters), default_base)?;
            ensure!(family != Family::Gemma3, "`rope_parameters` lacks `full_attention`");
            return Ok((rope, rope));
        };
        let local = parameters.get("sliding_attention");
        let local = local.context("`rope_parameters` lacks `sliding_attention`")?;
        return Ok((one_rope(&Keys(global), default_base)?, one_rope(&Keys(local), 1e4)?));
    }
    let base = keys.real("rope_theta")?.unwrap_or(default_base);
    let scaling = keys.get("rope_scaling").map_or(Ok(RopeScaling::None), |s| scaling(&Keys(s)))?;
    let global = Rope { base, scaling };
    if family != Family::Gemma3 {
        return Ok((global, global));
    }
    let local_base = keys.real("rope_local_base_freq")?.unwrap_or(1e4);
    Ok((global, Rope { base: local_base, scaling: RopeScaling::None }))
}

fn one_rope(keys: &Keys<'_>, default_base: f32) -> Result<Rope> {
    let base = keys.real("rope_theta")?.unwrap_or(default_base);
    Ok(Rope { base, scaling: scaling(keys)? })
}

fn scaling(keys: &Keys<'_>) -> Result<RopeScaling> {
    let real = |key: &str| -> Result<f32> {
        let value = keys.real(key)?.filter(|&value| value > 0.0);
        value.with_context(|| format!("the rotary scaling has no positive `{key}`"))
    };
    match keys.text("rope_type").or_else(|| keys.text("type")).unwrap_or("default") {
        "default" => Ok(RopeScaling::None),
        "linear" => Ok(RopeScaling::Linear { factor: real("factor")? }),
        "llama3" => {
            let (low, high) = (real("low_freq_factor")?, real("high_freq_factor")?);
            ensure!(low < high, "`low_freq_factor` {low} is not below `high_freq_factor` {high}");
            let original_context = real("original_max_position_embeddings")?;
            Ok(RopeScaling::Llama3 { factor: real("factor")?, low, high, original_context })
        }
        other => bail!(
            "the rotary scaling `{other}` is not supported, expected `default`, `linear` or \
             `llama3`"
        ),
    }
}

/// Per layer the window, from `layer_types` or from the pattern of the family.
fn windows(keys: &Keys<'_>, family: Family, layers: usize) -> Result<Vec<Option<usize>>> {
    let default = if family.traits().post_norms { Some(4096) } else { None };
    let window = keys.size("sliding_window")?.or(default);
    // Qwen names a window even where it is not used.
    let qwen = matches!(family, Family::Qwen2 | Family::Qwen3);
    let unused = qwen && !keys.flag("use_sliding_window")?.unwrap_or(false);
    let Some(window) = window.filter(|_| !unused && family != Family::Llama) else {
        return Ok(vec![None; layers]);
    };
    if let Some(types) = keys.get("layer_types") {
        let types = types.as_array().context("`layer_types` is not a list")?;
        ensure!(types.len() == layers, "{} `layer_types` for {layers} layers", types.len());
        return types
            .iter()
            .map(|kind| match kind.as_str() {
                Some("full_attention") => Ok(None),
                Some("sliding_attention") => Ok(Some(window)),
                _ => bail!("layer type {kind} is not supported"),
            })
            .collect();
    }
    let pattern = keys.size("sliding_window_pattern")?.or(keys.size("_sliding_window_pattern")?);
    Ok(match family {
        Family::Gemma2 => periodic_windows(layers, 2, window),
        Family::Gemma3 => periodic_windows(layers, pattern.unwrap_or(6), window),
        Family::Qwen2 | Family::Qwen3 => {
            let global = keys.size("max_window_layers")?.unwrap_or(28);
            (0..layers).map(|layer| (layer >= global).then_some(window)).collect()
        }
        Family::Llama | Family::Mistral => vec![Some(window); layers],
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::read;

    fn gemma_3() -> Value {
        json!({
            "model_type": "gemma3_text", "vocab_size": 9, "hidden_size": 8, "head_dim": 6,
            "intermediate_size": 10, "num_attention_heads": 4, "num_key_value_heads": 1,
            "num_hidden_layers": 7, "query_pre_attn_scalar": 16, "sliding_window": 5,
            "rope_theta": 1e6, "rope_local_base_freq": 1e4, "sliding_window_pattern": 6,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0}
        })
    }

    #[test]
    fn the_old_and_the_new_spelling_of_gemma_3_mean_the_same() {
        let mut new = gemma_3();
        let object = new.as_object_mut().unwrap();
        for key in ["rope_theta", "rope_local_base_freq", "rope_scaling"] {
            object.remove(key);
        }
        object.insert(
            "rope_parameters".into(),
            json!({
                "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}
            }),
        );
        let config = read(&gemma_3()).unwrap();
        assert_eq!(read(&new).unwrap(), config);
        assert!(config.tied_head);
        assert!((config.attention_scale - 0.25).abs() < 1e-6);
        assert_eq!(config.windows[4..], [Some(5), None, Some(5)]);
        assert!((config.global_frequencies[0] - 0.125).abs() < 1e-6);
        assert!((config.local_frequencies[0] - 1.0).abs() < 1e-6);
    }

    #[test]
    fn what_cannot_be_computed_is_refused() {
        let refused = |key: &str, value: Value| {
            let mut config = gemma_3();
            config[key] = value;
            read(&config).unwrap_err().to_string()
        };
        assert!(refused("rope_scaling", json!({"type": "yarn"})).contains("`yarn`"));
        assert!(refused("model_type", json!("mamba")).contains("`mamba` is not supported"));
        assert!(refused("hidden_size", json!("wide")).contains("`hidden_size` is \"wide\""));
        assert!(refused("num_key_value_heads", json!(3)).contains("3 key heads"));
        assert!(refused("hidden_activation", json!("relu")).contains("`relu`"));
        assert!(refused("num_hidden_layers", json!(1u64 << 40)).contains("layers"));
    }
}
