//! A trained hypernetwork on disk: what training writes and export reads.
//!
//! A checkpoint is a directory with `config.json` ([`HypernetConfig`]) and `hypernet.safetensors`
//! (f32, row-major, linear weights `[out, in]`). Tensor names are those of the
//! reference implementation of <https://arxiv.org/abs/2506.06105>, in its form with leading dropout
//! (`mixer.1`, `mixer.4`); `mixer.0` and `mixer.3`, the paper's form, are read as aliases.
//!
//! Sizes: latent `W` splits into task `W/2`, depth `W/4` and type `W/4`. The order of
//! `base.modules` is the type index, so it is written explicitly, in `config.json` and again in
//! the tensor file, and never sorted. The same checkpoint always gives the same bytes.
//!
//! A [`Checkpoint`] that was loaded or made by [`Checkpoint::from_tensors`] has exactly the tensors
//! of [`HypernetConfig::expected_tensors`], all finite.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::path::Path;

use safetensors::{Dtype, SafeTensors, View};
use serde::Deserialize;

mod config;
mod error;

pub use config::{HypernetConfig, SCHEMA, Variant};
pub use error::{CheckpointError, ShapeMismatch};

use config::checked_elements;

/// Name of the configuration file inside a checkpoint.
pub const CONFIG_FILE: &str = "config.json";
/// Name of the tensor file inside a checkpoint.
pub const TENSORS_FILE: &str = "hypernet.safetensors";

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
    /// become zeros, and so do the heads' biases if no head has one.
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

    /// Writes both files, creating the directory; existing files are replaced one at a time, each
    /// only once its successor is complete.
    ///
    /// # Errors
    /// What [`Checkpoint::check`] refuses, and files that cannot be written.
    pub fn save(&self, dir: &Path) -> Result<(), CheckpointError> {
        self.check()?;
        fs::create_dir_all(dir)
            .map_err(|source| CheckpointError::Write { path: dir.to_owned(), source })?;
        let path = dir.join(TENSORS_FILE);
        let json = |source| CheckpointError::Config { path: dir.join(CONFIG_FILE), source };
        let modules = serde_json::to_string(&self.config.module_names()).map_err(json)?;
        let metadata = HashMap::from([(METADATA_KEY.to_owned(), modules)]);
        let views = self.tensors.iter().map(|(name, tensor)| (name, LittleEndian(tensor)));
        let bytes = safetensors::serialize(views, Some(metadata))
            .map_err(|source| CheckpointError::Safetensors { path: path.clone(), source })?;
        write_whole(&path, &bytes)?;
        let mut text = serde_json::to_string_pretty(&self.config).map_err(json)?;
        text.push('\n');
        write_whole(&dir.join(CONFIG_FILE), text.as_bytes())
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
    let read = |source| CheckpointError::Read { path: path.to_owned(), source };
    if fs::metadata(path).map_err(read)?.len() > MAX_CONFIG_BYTES {
        let reason = format!("larger than {MAX_CONFIG_BYTES} bytes");
        return Err(read(io::Error::new(io::ErrorKind::InvalidData, reason)));
    }
    let text = fs::read(path).map_err(read)?;
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
fn without_aliases<T>(mut tensors: BTreeMap<String, T>) -> BTreeMap<String, T> {
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

fn check_layout<'a>(
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
    for (name, expected) in config.expected_tensors() {
        match found.remove(name.as_str()) {
            Some(got) if got == expected => {}
            Some(got) => wrong_shape.push(ShapeMismatch { name, expected, got: got.to_vec() }),
            None if name.starts_with("AB_offset.") => {}
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
pub(crate) mod tests {
    use std::fs;
    use std::path::PathBuf;

    use t2lc_runtime::base::{BaseModel, TargetModule};

    use super::{Checkpoint, CheckpointError, HypernetConfig, NamedTensor, SCHEMA, Variant};

    fn module(name: &str, in_features: usize, out_features: usize) -> TargetModule {
        TargetModule { name: name.into(), in_features, out_features, permute_heads: None }
    }

    /// Sizes of the golden files: latent 8, head 5, embedding 12, rank 2, 3 layers.
    pub(crate) fn tiny_config(variant: Variant) -> HypernetConfig {
        HypernetConfig {
            schema: SCHEMA,
            variant,
            rank: 2,
            alpha: 4.0,
            use_rslora: true,
            latent_size: 8,
            head_in_size: 5,
            task_embedding_size: 12,
            base: BaseModel {
                name: "toy".into(),
                architecture: "llama".into(),
                layers: 3,
                tied_head: true,
                fingerprint: "sha256:00".into(),
                modules: vec![module("q_proj", 16, 16), module("v_proj", 16, 8)],
            },
        }
    }

    /// A checkpoint of [`tiny_config`] with distinct small weights.
    pub(crate) fn tiny(variant: Variant) -> Checkpoint {
        let config = tiny_config(variant);
        let mut state = 1_u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 16) as f32 / 65_536.0 - 0.5
        };
        let tensors = config
            .expected_tensors()
            .into_iter()
            .map(|(name, shape)| {
                let values = (0..shape.iter().product::<usize>()).map(|_| next()).collect();
                (name, NamedTensor { shape, values })
            })
            .collect();
        Checkpoint::from_tensors(config, tensors).unwrap()
    }

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("t2lc-{name}-{}", std::process::id()));
        fs::remove_dir_all(&dir).ok();
        dir
    }

    #[test]
    fn names_and_shapes_are_those_of_the_reference() {
        let expected = tiny_config(Variant::S).expected_tensors();
        assert_eq!(expected.len(), 49);
        let shape = |name: &str| {
            expected.iter().find(|(n, _)| n == name).map(|(_, shape)| shape.clone()).unwrap()
        };
        assert_eq!(shape("AB_offset.B.v_proj"), [3, 8, 2]);
        assert_eq!(shape("task_encoder.mlp.0.weight"), [4, 12]);
        assert_eq!(shape("mixer.1.weight"), [32, 8]);
        assert_eq!(shape("mlp3.4.weight"), [5, 32]);
        assert_eq!(shape("heads.v_proj.weight"), [16, 5]);
    }

    #[test]
    fn scale_follows_rslora() {
        let mut config = tiny_config(Variant::L);
        assert!((config.scale() - 4.0 / 2.0_f32.sqrt()).abs() < 1e-6);
        config.use_rslora = false;
        assert!((config.scale() - 2.0).abs() < 1e-6);
    }

    #[test]
    fn saved_bytes_are_reproducible_and_load_back() {
        let checkpoint = tiny(Variant::M);
        let (first, second) = (scratch("save-1"), scratch("save-2"));
        checkpoint.save(&first).unwrap();
        checkpoint.save(&second).unwrap();
        for file in [super::CONFIG_FILE, super::TENSORS_FILE] {
            assert_eq!(fs::read(first.join(file)).unwrap(), fs::read(second.join(file)).unwrap());
        }
        assert_eq!(Checkpoint::load(&first).unwrap(), checkpoint);

        let mut swapped = checkpoint;
        swapped.config.base.modules.swap(0, 1);
        let text = serde_json::to_string(&swapped.config).unwrap();
        fs::write(first.join(super::CONFIG_FILE), text).unwrap();
        assert!(matches!(Checkpoint::load(&first), Err(CheckpointError::ModuleOrder { .. })));
        fs::remove_dir_all(first).unwrap();
        fs::remove_dir_all(second).unwrap();
    }

    #[test]
    fn one_error_lists_every_fault() {
        let Checkpoint { config, mut tensors } = tiny(Variant::L);
        tensors.remove("mlp1.mlp.0.weight");
        let moved = tensors.remove("heads.v_proj.bias").unwrap();
        tensors.insert("pos_emb.0.weight".into(), moved.clone());
        tensors.insert("mixer.4.bias".into(), moved);
        let error = Checkpoint::from_tensors(config, tensors).unwrap_err();
        let text = error.to_string();
        let CheckpointError::Layout { missing, unexpected, wrong_shape } = error else {
            panic!("{text}");
        };
        assert_eq!(missing, ["mlp1.mlp.0.weight", "heads.v_proj.bias"]);
        assert_eq!(unexpected, ["pos_emb.0.weight"]);
        assert_eq!(wrong_shape.len(), 1);
        assert_eq!(wrong_shape[0].name, "mixer.4.bias");
        assert!(text.contains("missing: `mlp1.mlp.0.weight`, `heads.v_proj.bias`; unexpected"));
    }

    #[test]
    fn aliases_and_optional_tensors_are_filled_in() {
        let checkpoint = tiny(Variant::L);
        let mut tensors = checkpoint.tensors.clone();
        for (alias, name) in [("mixer.0", "mixer.1"), ("mixer.3", "mixer.4")] {
            for part in ["weight", "bias"] {
                let tensor = tensors.remove(&format!("{name}.{part}")).unwrap();
                tensors.insert(format!("{alias}.{part}"), tensor);
            }
        }
        tensors.retain(|name, _| {
            !name.starts_with("AB_offset.")
                && name != "heads.q_proj.bias"
                && name != "heads.v_proj.bias"
        });
        let loaded = Checkpoint::from_tensors(checkpoint.config.clone(), tensors).unwrap();
        assert_eq!(loaded.tensors["mixer.4.bias"], checkpoint.tensors["mixer.4.bias"]);
        assert!(loaded.tensors["heads.q_proj.bias"].values.iter().all(|value| *value == 0.0));
        assert_eq!(loaded.tensors["AB_offset.B.v_proj"].shape, [3, 8, 2]);
    }

    #[test]
    fn nan_and_short_tensors_are_refused_by_name() {
        let Checkpoint { config, mut tensors } = tiny(Variant::S);
        tensors.get_mut("mlp3.0.bias").unwrap().values[3] = f32::NAN;
        let error = Checkpoint::from_tensors(config.clone(), tensors.clone()).unwrap_err();
        assert_eq!(error.to_string(), "tensor `mlp3.0.bias` holds NaN or infinity at element 3");
        tensors.get_mut("mlp3.0.bias").unwrap().values.pop();
        let error = Checkpoint::from_tensors(config, tensors).unwrap_err();
        assert!(matches!(error, CheckpointError::Length { got: 7, .. }));
    }

    #[test]
    fn unusable_sizes_are_refused() {
        let refused = |change: fn(&mut HypernetConfig)| {
            let mut config = tiny_config(Variant::L);
            change(&mut config);
            config.validate().unwrap_err()
        };
        assert!(matches!(refused(|c| c.schema = 2), CheckpointError::Schema { got: 2, .. }));
        let changes: [fn(&mut HypernetConfig); 8] = [
            |c| c.rank = 0,
            |c| c.latent_size = 6,
            |c| c.latent_size = usize::MAX,
            |c| c.alpha = f32::NAN,
            |c| c.base.modules.clear(),
            |c| c.base.modules[1].name = "q_proj".into(),
            |c| c.base.modules[1].name = "a.b".into(),
            |c| c.base.layers = 1 << 24,
        ];
        for change in changes {
            assert!(matches!(refused(change), CheckpointError::Field { .. }));
        }
    }
}
