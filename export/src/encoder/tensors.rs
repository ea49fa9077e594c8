//! The weights of a model directory.
//!
//! In goes `model.safetensors`, out come tensors by name: f32, row-major, of the shape that the
//! caller expects. F16 and BF16 are widened, which is exact. Where a model was saved with a head,
//! all names of its encoder have a prefix (`bert.`, `new.`): callers ask for the names without it.
//! Tensors that nobody asks for, such as buffers and heads, are ignored.

use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors};

use super::source::read_file;
use crate::error::ExportError;

/// The table of words, which every encoder has: where its name has a prefix, all names do.
pub(super) const WORDS: &str = "embeddings.word_embeddings.weight";

/// The bytes of the weight file.
pub(super) struct WeightFile {
    path: PathBuf,
    bytes: Vec<u8>,
}

impl WeightFile {
    pub(super) fn read(model_dir: &Path) -> Result<Self, ExportError> {
        let path = model_dir.join("model.safetensors");
        let bytes = read_file(&path)?;
        Ok(Self { path, bytes })
    }

    /// The tensors, whose names may have the prefix.
    pub(super) fn tensors(&self, prefix: &'static str) -> Result<Tensors<'_>, ExportError> {
        let file = SafeTensors::deserialize(&self.bytes)
            .map_err(|source| ExportError::Safetensors { path: self.path.clone(), source })?;
        let prefixed = file.tensor(&format!("{prefix}{WORDS}")).is_ok();
        Ok(Tensors { file, prefix: if prefixed { prefix } else { "" } })
    }
}

/// Tensors by name, without the prefix of the file.
pub(super) struct Tensors<'a> {
    file: SafeTensors<'a>,
    prefix: &'static str,
}

impl Tensors<'_> {
    /// The elements of a tensor.
    ///
    /// # Errors
    /// No such tensor, another shape, an element type other than F32, F16 and BF16.
    pub(super) fn read(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, ExportError> {
        let name = format!("{}{name}", self.prefix);
        let Ok(view) = self.file.tensor(&name) else {
            return Err(ExportError::TensorMissing { name });
        };
        if view.shape() != shape {
            let (expected, got) = (shape.to_vec(), view.shape().to_vec());
            return Err(ExportError::TensorShape { name, expected, got });
        }
        match view.dtype() {
            Dtype::F32 => Ok(words(view.data(), |word| f32::from_le_bytes(*word))),
            Dtype::F16 => Ok(words(view.data(), |word| f16::from_le_bytes(*word).to_f32())),
            Dtype::BF16 => Ok(words(view.data(), |word| bf16::from_le_bytes(*word).to_f32())),
            other => {
                let expected = "F32, F16 or BF16";
                Err(ExportError::TensorType { name, expected, got: other.to_string() })
            }
        }
    }
}

fn words<const N: usize>(bytes: &[u8], value: impl Fn(&[u8; N]) -> f32) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(value).collect()
}
