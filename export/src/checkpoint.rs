//! A trained hypernetwork on disk: what training writes and export reads.
//!
//! A checkpoint is a directory with `config.json` ([`HypernetConfig`]) and `hypernet.safetensors`
//! (f32, row-major, linear weights `[out, in]`); beside them a [`CheckpointRecord`] says where they
//! come from. Tensor names are those of the reference implementation of
//! <https://arxiv.org/abs/2506.06105>, in its form with leading dropout (`mixer.1`, `mixer.4`);
//! `mixer.0` and `mixer.3`, the paper's form, are read as aliases.
//!
//! Sizes: latent `W` splits into task `W/2`, depth `W/4` and type `W/4`. The order of
//! `base.modules` is the type index, so it is written explicitly, in `config.json` and again in
//! the tensor file, and never sorted. The same checkpoint always gives the same bytes.
//!
//! A [`Checkpoint`] that was loaded or made by [`Checkpoint::from_tensors`] has exactly the tensors
//! of [`HypernetConfig::expected_tensors`], all finite; and, if it generates z-scores of adapters,
//! those of [`HypernetConfig::statistic_tensors`]: a matrix is then what the head gives times
//! (deviation + [`DEVIATION_EPSILON`]) plus mean.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::path::Path;

use safetensors::{Dtype, SafeTensors, View};
use serde::Deserialize;

mod config;
mod error;
mod record;

pub use config::{
    DEVIATION_EPSILON, DEVIATION_PREFIX, HypernetConfig, MEAN_PREFIX, SCHEMA, Variant,
};
pub use error::{CheckpointError, ShapeMismatch};
pub use record::{
    CheckpointRecord, ORIGIN_FILE, RunRecord, STATE_FILE, StartRecord, load_origin, origin_bytes,
};

pub(crate) use error::faults;

use config::checked_elements;

/// Name of the configuration file inside a checkpoint.
pub const CONFIG_FILE: &str = "config.json";
/// Name of the tensor file inside a checkpoint.
pub const TENSORS_FILE: &str = "hypernet.safetensors";
/// Name of the folder of a checkpoint with the text encoder, where that was trained as well.
pub const ENCODER_DIR: &str = "encoder";

/// The only metadata key of the tensor file: the JSON list of modules in order. A second key would
/// make the bytes depend on hash order.
const METADATA_KEY: &str = "t2lc";
const MAX_CONFIG_BYTES: u64 = 1 << 20;

/// A row-major f32 tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct NamedTensor {
    /// Shape; empty for a scalar.
    pub shape: Vec<usize>,
    /// Elements, as many as the shape's product.
    pub values: Vec<f32>,
}

/// A hypernetwork: its sizes and all its weights.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    /// Sizes and base model.
    pub config: HypernetConfig,
    /// Weights by name.
    pub tensors: BTreeMap<String, NamedTensor>,
}

impl Checkpoint {
    /// Reads `config.json` and `hypernet.safetensors` from a directory.
    ///
    /// # Errors
    /// Unreadable or malformed files, and everything [`Checkpoint::from_tensors`] refuses.
    pub fn load(dir: &Path) -> Result<Self, CheckpointError> {
        let config = load_config(&dir.join(CONFIG_FILE))?;
        let path = dir.join(TENSORS_FILE);
        let bytes = fs::read(&path)
            .map_err(|source| CheckpointError::Read { path: path.clone(), source })?;
        let malformed = |source| CheckpointError::Safetensors { path: path.clone(), source };
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(malformed)?;
        if let Some(text) = header.metadata().as_ref().and_then(|map| map.get(METADATA_KEY)) {
            let got: Vec<String> = serde_json::from_str(text)
                .map_err(|source| CheckpointError::Config { path: path.clone(), source })?;
            let expected = config.module_names();
            if got != expected {
                return Err(CheckpointError::ModuleOrder { expected, got });
            }
        }
        let file = SafeTensors::deserialize(&bytes).map_err(malformed)?;
        // Names and shapes first: they are the likely fault, and no weight is copied for it.
        let views: BTreeMap<String, _> = file.tensors().into_iter().collect();
        let views = without_aliases(views);
        check_layout(&config, views.iter().map(|(name, view)| (name.as_str(), view.shape())))?;
        let mut tensors = BTreeMap::new();
        for (name, view) in views {
            if view.dtype() != Dtype::F32 {
                return Err(CheckpointError::Dtype { name, got: view.dtype().to_string() });
            }
            let (words, _) = view.data().as_chunks::<4>();
            let values = words.iter().map(|word| f32::from_le_bytes(*word)).collect();
            tensors.insert(name, NamedTensor { shape: view.shape().to_vec(), values });
        }
        Self::from_tensors(config, tensors)
    }

    /// Makes a checkpoint from weights, for example the trainer's.
    ///
    /// `mixer.0` and `mixer.3` are renamed to `mixer.1` and `mixer.4`. Missing `AB_offset` tensors
    /// become zeros unless gated, and so do the heads' biases if no head has one. Mean and deviation
    /// of targets are dropped if they are all zero, which is how the reference says that there are
    /// none.
    ///
    /// # Errors
    /// An unusable configuration; [`CheckpointError::Layout`] with all missing, unexpected and
    /// wrongly shaped tensors; a tensor whose length does not fit its shape; NaN or infinity.
    pub fn from_tensors(
        config: HypernetConfig,
        tensors: BTreeMap<String, NamedTensor>,
    ) -> Result<Self, CheckpointError> {
        config.validate()?;
        let mut tensors = without_aliases(tensors);
        check_layout(&config, shapes(&tensors))?;
        let statistics = config.statistic_tensors();
        let is_zero = |name: &String| {
            tensors.get(name).is_none_or(|tensor| tensor.values.iter().all(|value| *value == 0.0))
        };
        if statistics.iter().all(|(name, _)| is_zero(name)) {
            for (name, _) in &statistics {
                tensors.remove(name);
            }
        }
        for (name, shape) in config.expected_tensors() {
            tensors.entry(name).or_insert_with(|| {
                let values = vec![0.0; shape.iter().product()];
                NamedTensor { shape, values }
            });
        }
        let checkpoint = Self { config, tensors };
        checkpoint.check()?;
        Ok(checkpoint)
    }

    /// Checks what [`Checkpoint::from_tensors`] guarantees, for a checkpoint whose fields were
    /// changed since.
    ///
    /// # Errors
    /// As [`Checkpoint::from_tensors`].
    pub fn check(&self) -> Result<(), CheckpointError> {
        self.config.validate()?;
        check_layout(&self.config, shapes(&self.tensors))?;
        for (name, tensor) in &self.tensors {
            let expected = checked_elements(&tensor.shape);
            if expected != Some(tensor.values.len()) {
                return Err(CheckpointError::Length {
                    name: name.clone(),
                    shape: tensor.shape.clone(),
                    got: tensor.values.len(),
                });
            }
            if let Some(index) = tensor.values.iter().position(|value| !value.is_finite()) {
                return Err(CheckpointError::NonFinite { name: name.clone(), index });
            }
        }
        Ok(())
    }

    /// The tensor of this name.
    ///
    /// # Errors
    /// [`CheckpointError::Layout`] that lists the name as missing.
    pub fn tensor(&self, name: &str) -> Result<&NamedTensor, CheckpointError> {
        self.tensors.get(name).ok_or_else(|| CheckpointError::Layout {
            missing: vec![name.to_owned()],
            unexpected: Vec::new(),
            wrong_shape: Vec::new(),
        })
    }

    /// The bytes of both files, `(name, bytes)`: [`CONFIG_FILE`], then [`TENSORS_FILE`].
    ///
    /// # Errors
    /// What [`Checkpoint::check`] refuses.
    pub fn to_files(&self) -> Result<[(&'static str, Vec<u8>); 2], CheckpointError> {
        self.check()?;
        let json = |source| CheckpointError::Config { path: CONFIG_FILE.into(), source };
        let refused = |source| CheckpointError::Safetensors { path: TENSORS_FILE.into(), source };
        let modules = serde_json::to_string(&self.config.module_names()).map_err(json)?;
        let metadata = HashMap::from([(METADATA_KEY.to_owned(), modules)]);
        let views = self.tensors.iter().map(|(name, tensor)| (name, LittleEndian(tensor)));
        let bytes = safetensors::serialize(views, Some(metadata)).map_err(refused)?;
        let mut text = serde_json::to_string_pretty(&self.config).map_err(json)?;
        text.push('\n');
        Ok([(CONFIG_FILE, text.into_bytes()), (TENSORS_FILE, bytes)])
    }

    /// Writes both files, creating the directory; existing files are replaced one at a time, each
    /// only once its successor is complete.
    ///
    /// # Errors
    /// What [`Checkpoint::check`] refuses, and files that cannot be written.
    pub fn save(&self, dir: &Path) -> Result<(), CheckpointError> {
        let [config, tensors] = self.to_files()?;
        fs::create_dir_all(dir)
            .map_err(|source| CheckpointError::Write { path: dir.to_owned(), source })?;
        for (name, bytes) in [tensors, config] {
            write_whole(&dir.join(name), &bytes)?;
        }
        Ok(())
    }
}

/// A tensor as the safetensors writer wants it.
struct LittleEndian<'a>(&'a NamedTensor);

impl View for LittleEndian<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.0.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Owned(self.0.values.iter().flat_map(|value| value.to_le_bytes()).collect())
    }

    fn data_len(&self) -> usize {
        self.0.values.len() * 4
    }
}

fn load_config(path: &Path) -> Result<HypernetConfig, CheckpointError> {
    #[derive(Deserialize)]
    struct SchemaOnly {
        schema: u32,
    }
    let text = read_limited(path)?;
    let json = |source| CheckpointError::Config { path: path.to_owned(), source };
    // The schema alone first: another layout would fail on its fields with a misleading error.
    let SchemaOnly { schema } = serde_json::from_slice(&text).map_err(json)?;
    if schema != SCHEMA {
        return Err(CheckpointError::Schema { expected: SCHEMA, got: schema });
    }
    let config: HypernetConfig = serde_json::from_slice(&text).map_err(json)?;
    config.validate()?;
    Ok(config)
}

/// The bytes of a JSON file of a checkpoint, none of which is large.
fn read_limited(path: &Path) -> Result<Vec<u8>, CheckpointError> {
    let read = |source| CheckpointError::Read { path: path.to_owned(), source };
    if fs::metadata(path).map_err(read)?.len() > MAX_CONFIG_BYTES {
        let reason = format!("larger than {MAX_CONFIG_BYTES} bytes");
        return Err(read(io::Error::new(io::ErrorKind::InvalidData, reason)));
    }
    fs::read(path).map_err(read)
}

fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), CheckpointError> {
    let partial = path.with_extension("partial");
    fs::write(&partial, bytes)
        .and_then(|()| fs::rename(&partial, path))
        .map_err(|source| CheckpointError::Write { path: path.to_owned(), source })
}

fn shapes(tensors: &BTreeMap<String, NamedTensor>) -> impl Iterator<Item = (&str, &[usize])> {
    tensors.iter().map(|(name, tensor)| (name.as_str(), tensor.shape.as_slice()))
}

/// Renames `mixer.0` and `mixer.3` unless the names they stand for are taken.
pub(crate) fn without_aliases<T>(mut tensors: BTreeMap<String, T>) -> BTreeMap<String, T> {
    for (alias, name) in [("mixer.0", "mixer.1"), ("mixer.3", "mixer.4")] {
        for part in ["weight", "bias"] {
            let full = format!("{name}.{part}");
            if !tensors.contains_key(&full)
                && let Some(tensor) = tensors.remove(&format!("{alias}.{part}"))
            {
                tensors.insert(full, tensor);
            }
        }
    }
    tensors
}

/// Compares names and shapes with those of a configuration, whose sizes must have been validated.
pub(crate) fn check_layout<'a>(
    config: &HypernetConfig,
    found: impl Iterator<Item = (&'a str, &'a [usize])>,
) -> Result<(), CheckpointError> {
    let mut found: BTreeMap<&str, &[usize]> = found.collect();
    let is_head_bias = |name: &str| {
        name.strip_prefix("heads.").and_then(|rest| rest.strip_suffix(".bias")).is_some()
    };
    let any_head_bias = found.keys().any(|name| is_head_bias(name));
    let mut missing = Vec::new();
    let mut wrong_shape = Vec::new();
    let mut statistics = config.statistic_tensors();
    if !statistics.iter().any(|(name, _)| found.contains_key(name.as_str())) {
        statistics.clear();
    }
    for (name, expected) in config.expected_tensors().into_iter().chain(statistics) {
        match found.remove(name.as_str()) {
            Some(got) if got == expected => {}
            Some(got) => wrong_shape.push(ShapeMismatch { name, expected, got: got.to_vec() }),
            // Of a gated hypernetwork they are learned, of the others nearly always zero.
            None if name.starts_with("AB_offset.") && config.variant != Variant::Gated => {}
            None if is_head_bias(&name) && !any_head_bias => {}
            None => missing.push(name),
        }
    }
    let unexpected: Vec<String> = found.into_keys().map(str::to_owned).collect();
    if missing.is_empty() && unexpected.is_empty() && wrong_shape.is_empty() {
        return Ok(());
    }
    Err(CheckpointError::Layout { missing, unexpected, wrong_shape })
}

#[cfg(test)]
pub(crate) mod tests;
