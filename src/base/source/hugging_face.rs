//! A base model in a Hugging Face directory: `config.json` and safetensors in f32, f16 or bf16,
//! one file or several with `model.safetensors.index.json`.
//!
//! Weights are read one at a time; a file's header is checked against its length first. Both
//! spellings of the rotary settings are read: `rope_theta` with `rope_scaling`, and
//! `rope_parameters`. What the decoder cannot compute is refused, not ignored.
//!
//! Formats: <https://huggingface.co/docs/safetensors>, and the configuration classes of the
//! transformers library.

mod config;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use candle_core::{DType, Device, Tensor};
use safetensors::Dtype;
use safetensors::tensor::Metadata;
use serde_json::Value;

use super::{Part, check_shape};
use crate::base::family::DecoderConfig;

/// Longest header of a safetensors file, as the format's own library has it.
const MAX_HEADER_BYTES: u64 = 100_000_000;
/// Longest JSON file.
const MAX_JSON_BYTES: u64 = 64 << 20;

/// An open directory.
#[derive(Debug)]
pub struct HuggingFaceSource {
    config: DecoderConfig,
    files: Vec<WeightFile>,
    /// File of each tensor.
    places: BTreeMap<String, usize>,
}

#[derive(Debug)]
struct WeightFile {
    path: PathBuf,
    file: File,
    header: Metadata,
    data_start_bytes: u64,
}

impl HuggingFaceSource {
    /// Reads `config.json` and the headers of the weight files.
    ///
    /// # Errors
    /// A missing or truncated file, an unknown model type, a configuration that is not supported.
    pub fn open(dir: &Path) -> Result<Self> {
        let path = dir.join("config.json");
        let config = config::read(&read_json(&path)?)
            .map_err(|error| anyhow!("`{}`: {error:#}", path.display()))?;
        let (mut files, mut places) = (Vec::new(), BTreeMap::new());
        let single = dir.join("model.safetensors");
        if single.is_file() {
            let file = WeightFile::open(single)?;
            places.extend(file.header.tensors().into_keys().map(|name| (name, 0)));
            files.push(file);
        } else {
            let by_file = read_index(dir)?;
            for (index, (name, tensors)) in by_file.into_iter().enumerate() {
                files.push(WeightFile::open(dir.join(name))?);
                places.extend(tensors.into_iter().map(|tensor| (tensor, index)));
            }
        }
        Ok(Self { config, files, places })
    }

    /// What the decoder needs to know of the model.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// The weight of a part, as [`super::Source::weight`] gives it.
    ///
    /// # Errors
    /// A tensor that is missing, of another shape or type.
    pub fn weight(&mut self, part: Part, device: &Device) -> Result<Tensor> {
        let name = format!("{}.weight", part.hugging_face_name(self.config.family));
        let weight = self.tensor(&name, &part.shape(&self.config), device)?;
        let offset = self.config.family.traits().stored_norm_offset;
        if part.is_norm() && offset != 0.0 { Ok((weight + offset)?) } else { Ok(weight) }
    }

    pub(super) fn bias(&mut self, part: Part, device: &Device) -> Result<Tensor> {
        let name = format!("{}.bias", part.hugging_face_name(self.config.family));
        let shape = part.shape(&self.config);
        self.tensor(&name, &shape[..1], device)
    }

    fn tensor(&mut self, name: &str, shape: &[usize], device: &Device) -> Result<Tensor> {
        let place = self.places.get(name);
        let file = place.and_then(|&index| self.files.get_mut(index));
        file.with_context(|| format!("the base has no tensor `{name}`"))?
            .tensor(name, shape, device)
    }
}

impl WeightFile {
    fn open(path: PathBuf) -> Result<Self> {
        let shown = path.display();
        let mut file = File::open(&path).with_context(|| format!("cannot open `{shown}`"))?;
        let length_bytes = file.metadata().with_context(|| format!("cannot read `{shown}`"))?.len();
        ensure!(
            length_bytes >= 8,
            "`{shown}` has {length_bytes} bytes, too few for a safetensors file"
        );
        let mut size = [0; 8];
        file.read_exact(&mut size).with_context(|| format!("cannot read `{shown}`"))?;
        let header_bytes = u64::from_le_bytes(size);
        ensure!(
            header_bytes <= MAX_HEADER_BYTES.min(length_bytes - 8),
            "`{shown}` is not a safetensors file, or truncated: a header of {header_bytes} bytes \
             in {length_bytes}"
        );
        let mut header = vec![0; usize::try_from(header_bytes)?];
        file.read_exact(&mut header).with_context(|| format!("cannot read `{shown}`"))?;
        let header: Metadata = serde_json::from_slice(&header)
            .map_err(|error| anyhow!("`{shown}` has an invalid header: {error}"))?;
        let data_start_bytes = 8 + header_bytes;
        let expected = u64::try_from(header.data_len())?.checked_add(data_start_bytes);
        ensure!(
            expected == Some(length_bytes),
            "`{shown}` has {length_bytes} bytes, expected {}: it is truncated or damaged",
            expected.unwrap_or(u64::MAX)
        );
        Ok(Self { path, file, header, data_start_bytes })
    }

    fn tensor(&mut self, name: &str, shape: &[usize], device: &Device) -> Result<Tensor> {
        let shown = self.path.display();
        let info = self
            .header
            .info(name)
            .with_context(|| format!("`{shown}` has no tensor `{name}`, as its index says"))?;
        check_shape(name, &info.shape, shape)?;
        let dtype = match info.dtype {
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            other => bail!("tensor `{name}` has type {other:?}, expected F32, F16 or BF16"),
        };
        // The header was checked: offsets are within the file and fit shape and type.
        let (start, end) = info.data_offsets;
        let mut bytes = vec![0; end - start];
        self.file
            .seek(SeekFrom::Start(self.data_start_bytes + u64::try_from(start)?))
            .and_then(|_| self.file.read_exact(&mut bytes))
            .with_context(|| format!("cannot read tensor `{name}` of `{shown}`"))?;
        let stored = Tensor::from_raw_buffer(&bytes, dtype, shape, device)?;
        Ok(stored.to_dtype(DType::F32)?)
    }
}

/// Tensors of each file that the index names.
fn read_index(dir: &Path) -> Result<BTreeMap<String, Vec<String>>> {
    let path = dir.join("model.safetensors.index.json");
    ensure!(
        path.is_file(),
        "`{}` has neither model.safetensors nor model.safetensors.index.json",
        dir.display()
    );
    let index = read_json(&path)?;
    let map = index.get("weight_map").and_then(Value::as_object);
    let map = map.with_context(|| format!("`{}` has no `weight_map`", path.display()))?;
    let mut by_file: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (tensor, file) in map {
        let file = file.as_str().unwrap_or_default();
        // A name with a folder in it could lead out of the directory.
        let mut parts = Path::new(file).components();
        let plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None));
        ensure!(plain, "`{}` puts `{tensor}` in `{file}`, not a file name", path.display());
        by_file.entry(file.to_owned()).or_default().push(tensor.clone());
    }
    Ok(by_file)
}

/// Parses a JSON file of reasonable size.
///
/// # Errors
/// A file that is missing, too long, or no JSON.
pub(crate) fn read_json(path: &Path) -> Result<Value> {
    let shown = path.display();
    let length_bytes = fs::metadata(path).with_context(|| format!("cannot read `{shown}`"))?.len();
    ensure!(
        length_bytes <= MAX_JSON_BYTES,
        "`{shown}` has {length_bytes} bytes, expected at most {MAX_JSON_BYTES}"
    );
    let bytes = fs::read(path).with_context(|| format!("cannot read `{shown}`"))?;
    serde_json::from_slice(&bytes).with_context(|| format!("`{shown}` is not JSON"))
}
