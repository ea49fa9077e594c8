//! What a base looks like, without its weights: layers, linear maps, how llama.cpp stores them.
//!
//! In: the parsed `config.json` of a Hugging Face model, or a parsed GGUF file. Out: a
//! [`BaseModel`] with all seven linear maps of a decoder layer; [`with_modules`] keeps those that
//! are adapted, in type-index order. Both forms of one model give the same sizes. Only a GGUF file
//! has the norm vectors that a fingerprint is made of: a `config.json` gives
//! [`UNKNOWN_FINGERPRINT`].
//!
//! Sources: the configuration classes of transformers for keys and defaults; llama.cpp's converter
//! for the architectures whose `q_proj` and `k_proj` rows it interleaves.

use serde_json::Value as Json;
use t2lc_runtime::base::{BaseModel, TargetModule, UNKNOWN_FINGERPRINT};
use t2lc_runtime::fingerprint::{FingerprintError, base_fingerprint};
use t2lc_runtime::gguf::{Gguf, Value};

/// The linear maps of a decoder layer.
const MODULES: [&str; 7] =
    ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];
/// Sizes above this come from broken files.
const MAX_SIZE: usize = 1 << 20;
/// Most characters of a value in a message.
const MAX_SHOWN: usize = 100;

/// Why a base cannot be described.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BaseError {
    /// A key that must be there is not, or has no usable value.
    #[error("base: `{key}` is {got}, expected {expected}")]
    Key {
        /// The key.
        key: String,
        /// What a description needs.
        expected: &'static str,
        /// What was found.
        got: String,
    },
    /// A model of another kind, whose tensors or row order may differ.
    #[error("base: {what} {got:?} is not supported, expected one of {}", .known.join(", "))]
    Family {
        /// The key that names it.
        what: &'static str,
        /// The kinds there are.
        known: Vec<&'static str>,
        /// What was found.
        got: String,
    },
    /// A GGUF file lacks a weight, for example because its attention weights are fused.
    #[error("base: the file has no tensor `{tensor}`")]
    Tensor {
        /// The weight.
        tensor: String,
    },
    /// A weight of another shape than in the first layer.
    #[error("base: tensor `{tensor}` has dimensions {got:?}, expected {expected}")]
    Shape {
        /// The weight.
        tensor: String,
        /// What a description needs.
        expected: String,
        /// What was found.
        got: Vec<u64>,
    },
    /// A name that is none of the seven linear maps.
    #[error("base: its layers have no module `{module}`, expected one of {}", MODULES.join(", "))]
    Module {
        /// The name.
        module: String,
    },
    /// A GGUF file without norm vectors.
    #[error("base: the file has no fingerprint")]
    Fingerprint(#[from] FingerprintError),
}

/// What a family of models fixes.
struct Family {
    /// `model_type` in `config.json`.
    model_type: &'static str,
    /// `general.architecture` in GGUF files.
    architecture: &'static str,
    /// llama.cpp stores the rows of `q_proj` and `k_proj` interleaved.
    interleaved: bool,
    /// Whether the head is tied where `config.json` does not say.
    tied_by_default: bool,
    /// Size of a head where `config.json` does not say; `None` for hidden size by heads.
    head_size: Option<usize>,
}

/// Of two with the same architecture the first describes its GGUF files.
static FAMILIES: [Family; 6] = [
    Family {
        model_type: "llama",
        architecture: "llama",
        interleaved: true,
        tied_by_default: false,
        head_size: None,
    },
    Family {
        model_type: "mistral",
        architecture: "llama",
        interleaved: true,
        tied_by_default: false,
        head_size: None,
    },
    Family {
        model_type: "qwen2",
        architecture: "qwen2",
        interleaved: false,
        tied_by_default: false,
        head_size: None,
    },
    Family {
        model_type: "qwen3",
        architecture: "qwen3",
        interleaved: false,
        tied_by_default: false,
        head_size: Some(128),
    },
    Family {
        model_type: "gemma2",
        architecture: "gemma2",
        interleaved: false,
        tied_by_default: true,
        head_size: Some(256),
    },
    Family {
        model_type: "gemma3_text",
        architecture: "gemma3",
        interleaved: false,
        tied_by_default: true,
        head_size: Some(256),
    },
];

/// Describes the model of a Hugging Face `config.json`; its fingerprint is unknown.
///
/// # Errors
/// A model type that is not supported, a size that is missing or unusable.
pub fn from_config(config: &Json, name: &str) -> Result<BaseModel, BaseError> {
    let family = family("model_type", text(config, "model_type")?, |family| family.model_type)?;
    let hidden = required(config, "hidden_size")?;
    let heads = required(config, "num_attention_heads")?;
    let kv_heads = size(config, "num_key_value_heads")?.unwrap_or(heads);
    let head_size = match size(config, "head_dim")?.or(family.head_size) {
        Some(size) => size,
        None => hidden / heads,
    };
    let feed_forward = required(config, "intermediate_size")?;
    let tied_head = match get(config, "tie_word_embeddings") {
        None => family.tied_by_default,
        Some(Json::Bool(tied)) => *tied,
        Some(got) => return Err(key("tie_word_embeddings", "true or false", brief(got))),
    };
    // Factors are bounded; what is too large for a 32-bit machine is refused with the sizes.
    let (queries, keys) = (heads.saturating_mul(head_size), kv_heads.saturating_mul(head_size));
    let shapes = [
        (hidden, queries),
        (hidden, keys),
        (hidden, keys),
        (queries, hidden),
        (hidden, feed_forward),
        (hidden, feed_forward),
        (feed_forward, hidden),
    ];
    let modules = MODULES.into_iter().zip(shapes).map(|(name, (in_features, out_features))| {
        let permute_heads = permuted(family, name, heads, kv_heads);
        TargetModule { name: name.to_owned(), in_features, out_features, permute_heads }
    });
    Ok(BaseModel {
        name: name.to_owned(),
        architecture: family.architecture.to_owned(),
        layers: required(config, "num_hidden_layers")?,
        tied_head,
        fingerprint: UNKNOWN_FINGERPRINT.to_owned(),
        modules: modules.collect(),
    })
}

/// Describes the model of a GGUF file; sizes are those of its tensors.
///
/// # Errors
/// An architecture that is not supported, a weight that is missing or not of one shape in all
/// layers, a file without fingerprint.
pub fn from_gguf(gguf: &Gguf<'_>, name: &str) -> Result<BaseModel, BaseError> {
    let architecture = gguf.get("general.architecture").and_then(Value::as_str).unwrap_or_default();
    let family = family("architecture", architecture, |family| family.architecture)?;
    let number = |name: &str| -> Result<Option<usize>, BaseError> {
        let name = format!("{}.{name}", family.architecture);
        let Some(value) = gguf.get(&name) else { return Ok(None) };
        let number = value.as_u64().and_then(|number| usize::try_from(number).ok());
        let number = number.filter(|number| (1..=MAX_SIZE).contains(number));
        let unusable = || key(&name, "a size", format!("another {}", value.type_name()));
        number.ok_or_else(unusable).map(Some)
    };
    let missing = |name: &str| key(&format!("{architecture}.{name}"), "a size", "missing".into());
    let layers = number("block_count")?.ok_or_else(|| missing("block_count"))?;
    let heads_name = "attention.head_count";
    let heads = number(heads_name)?.ok_or_else(|| missing(heads_name))?;
    let kv_heads = number("attention.head_count_kv")?.unwrap_or(heads);
    let mut modules = Vec::with_capacity(MODULES.len());
    for name in MODULES {
        let permute_heads = permuted(family, name, heads, kv_heads);
        let name = name.to_owned();
        let mut module = TargetModule { name, in_features: 0, out_features: 0, permute_heads };
        for layer in 0..layers {
            (module.in_features, module.out_features) = linear(gguf, &module, layer)?;
        }
        modules.push(module);
    }
    Ok(BaseModel {
        name: name.to_owned(),
        architecture: family.architecture.to_owned(),
        layers,
        tied_head: gguf.tensor("output.weight").is_none(),
        fingerprint: base_fingerprint(gguf)?.to_string(),
        modules,
    })
}

/// The same base with the named modules only, in the given order.
///
/// # Errors
/// A name that the base does not have.
pub fn with_modules(base: &BaseModel, names: &[String]) -> Result<BaseModel, BaseError> {
    let find = |name: &String| {
        let found = base.modules.iter().find(|module| module.name == *name);
        found.cloned().ok_or_else(|| BaseError::Module { module: name.clone() })
    };
    let modules = names.iter().map(find).collect::<Result<_, _>>()?;
    Ok(BaseModel { modules, ..base.clone() })
}

fn family(
    what: &'static str,
    name: &str,
    of: fn(&Family) -> &'static str,
) -> Result<&'static Family, BaseError> {
    FAMILIES.iter().find(|family| of(family) == name).ok_or_else(|| {
        let mut known: Vec<&str> = FAMILIES.iter().map(of).collect();
        known.dedup();
        BaseError::Family { what, known, got: name.to_owned() }
    })
}

/// The heads by which llama.cpp interleaves the rows of a module.
fn permuted(family: &Family, module: &str, heads: usize, kv_heads: usize) -> Option<usize> {
    let heads = match module {
        "q_proj" => heads,
        "k_proj" => kv_heads,
        _ => return None,
    };
    family.interleaved.then_some(heads)
}

/// `(in, out)` of one weight, which must be those of the first layer once these are known.
fn linear(
    gguf: &Gguf<'_>,
    module: &TargetModule,
    layer: usize,
) -> Result<(usize, usize), BaseError> {
    // The seven names all have a tensor.
    let tensor = module.gguf_name(layer).unwrap_or_default();
    let Some(info) = gguf.tensor(&tensor) else { return Err(BaseError::Tensor { tensor }) };
    let size = |axis: usize| info.dimensions.get(axis).and_then(|size| usize::try_from(*size).ok());
    let known = (module.in_features, module.out_features);
    match (size(0), size(1), info.dimensions.len()) {
        (Some(inputs), Some(outputs), 2) if layer == 0 || (inputs, outputs) == known => {
            Ok((inputs, outputs))
        }
        _ => {
            let expected = match layer {
                0 => "two".to_owned(),
                _ => format!("{known:?}, as in the first layer"),
            };
            Err(BaseError::Shape { tensor, expected, got: info.dimensions.clone() })
        }
    }
}

/// The value of a key; `null` counts as absent.
fn get<'j>(config: &'j Json, name: &str) -> Option<&'j Json> {
    config.get(name).filter(|value| !value.is_null())
}

fn text<'j>(config: &'j Json, name: &str) -> Result<&'j str, BaseError> {
    let Some(value) = get(config, name) else {
        return Err(key(name, "a text", "missing".into()));
    };
    value.as_str().ok_or_else(|| key(name, "a text", brief(value)))
}

fn size(config: &Json, name: &str) -> Result<Option<usize>, BaseError> {
    let Some(value) = get(config, name) else { return Ok(None) };
    let size = value.as_u64().and_then(|size| usize::try_from(size).ok());
    let size = size.filter(|size| (1..=MAX_SIZE).contains(size));
    size.ok_or_else(|| key(name, "a size from 1 to 1048576", brief(value))).map(Some)
}

fn required(config: &Json, name: &str) -> Result<usize, BaseError> {
    size(config, name)?.ok_or_else(|| key(name, "a size", "missing".into()))
}

/// A value as a message shows it: escaped, and cut where it is long.
pub(crate) fn brief(value: &Json) -> String {
    let text = value.to_string();
    match text.char_indices().nth(MAX_SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

fn key(key: &str, expected: &'static str, got: String) -> BaseError {
    BaseError::Key { key: key.to_owned(), expected, got }
}

#[cfg(test)]
mod tests;
