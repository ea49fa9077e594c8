//! A base model in the form that checkpoints and bundles carry: names, shapes, a fingerprint.
//!
//! In: a GGUF file or a Hugging Face directory, and the names of the modules to adapt. Out: a
//! [`BaseModel`] with the modules in the given order. Both forms of one model give the same
//! description: the fingerprint of a directory is computed from its norm vectors under their GGUF
//! names, with the values that a conversion to GGUF stores.

use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use candle_core::Device;
use t2lc_runtime::base::{BaseModel, TargetModule};
use t2lc_runtime::fingerprint::base_fingerprint;
use t2lc_runtime::gguf::{GgmlType, Gguf, GgufWriter};

use super::family::DecoderConfig;
use super::source::hugging_face::HuggingFaceSource;
use super::source::{Part, Source};

/// Describes a base: names and shapes of the `modules`, in the given order.
///
/// # Errors
/// A path that holds no readable base model, or a name that is not a module of its layers.
pub fn describe_base(path: &Path, modules: &[String]) -> Result<BaseModel> {
    let describe = || -> Result<BaseModel> {
        let mut source = Source::open(path)?;
        let config = source.config().clone();
        let modules =
            modules.iter().map(|name| target(name, &config)).collect::<Result<Vec<_>>>()?;
        let fingerprint = match &mut source {
            Source::Gguf(_) => file_fingerprint(path)?,
            Source::HuggingFace(source) => directory_fingerprint(source, &config)?,
        };
        Ok(BaseModel {
            name: base_name(path),
            architecture: config.family.traits().gguf_architecture.to_owned(),
            layers: config.windows.len(),
            tied_head: config.tied_head,
            fingerprint,
            modules,
        })
    };
    describe().map_err(|error| anyhow!("cannot read the base `{}`: {error:#}", path.display()))
}

fn target(name: &str, config: &DecoderConfig) -> Result<TargetModule> {
    let part = match name {
        "q_proj" => Part::Query(0),
        "k_proj" => Part::Key(0),
        "v_proj" => Part::Value(0),
        "o_proj" => Part::Output(0),
        "gate_proj" => Part::Gate(0),
        "up_proj" => Part::Up(0),
        "down_proj" => Part::Down(0),
        _ => bail!("unknown module `{name}`"),
    };
    let [out_features, in_features] = part.shape(config)[..] else {
        bail!("`{name}` is not a linear map");
    };
    let heads = match part {
        Part::Query(_) => Some(config.heads),
        Part::Key(_) => Some(config.kv_heads),
        _ => None,
    };
    let interleaved = config.family.traits().interleaved_in_gguf;
    let permute_heads = heads.filter(|_| interleaved);
    Ok(TargetModule { name: name.to_owned(), in_features, out_features, permute_heads })
}

fn file_fingerprint(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).context("cannot read the file")?;
    let gguf = Gguf::parse(&bytes).context("not a usable GGUF file")?;
    Ok(base_fingerprint(&gguf)?.to_string())
}

/// The fingerprint that the directory's model has as a GGUF file.
fn directory_fingerprint(source: &mut HuggingFaceSource, config: &DecoderConfig) -> Result<String> {
    let mut writer = GgufWriter::new();
    for part in Part::norms(config) {
        let values = source.weight(part, &Device::Cpu)?.to_vec1::<f32>()?;
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let name = format!("{}.weight", part.gguf_name());
        writer.tensor(&name, &[u64::try_from(values.len())?], GgmlType::F32, bytes)?;
    }
    let file = writer.finish()?;
    Ok(base_fingerprint(&Gguf::parse(&file)?)?.to_string())
}

/// `SmolLM2-135M-Instruct.Q4_1.gguf` and its other quantizations are one base; a directory has
/// the name of its model.
fn base_name(path: &Path) -> String {
    let whole = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    if path.is_dir() {
        return whole.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    }
    let stem = path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
    stem.split_once('.').map_or(stem.as_str(), |(name, _)| name).to_owned()
}
