//! Reading configuration files, and the checks that all architectures share.
//!
//! In goes a JSON file, out come its fields; an unsupported value is an error that names its field.

use std::path::Path;

use serde::de::DeserializeOwned;

use super::source::read_file;
use crate::error::ExportError;

/// Largest head; rotary positions take its square.
const MAX_HEAD_SIZE: usize = 1024;
/// The file of a model directory that describes the architecture.
pub(super) const FILE: &str = "config.json";

pub(super) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, ExportError> {
    let bytes = read_file(path)?;
    serde_json::from_slice(&bytes)
        .map_err(|source| ExportError::Json { path: path.to_owned(), source })
}

/// Checks that each field, `(name, expected, got)`, has the one value that is built.
pub(super) fn check_names(fields: &[(&'static str, &str, &str)]) -> Result<(), ExportError> {
    for &(field, expected, got) in fields {
        if got != expected {
            return Err(unsupported(field, format!("`{expected}`"), got.to_owned()));
        }
    }
    Ok(())
}

/// Checks that no size is 0.
pub(super) fn check_sizes(sizes: &[(&'static str, usize)]) -> Result<(), ExportError> {
    for &(field, size) in sizes {
        if size == 0 {
            return Err(unsupported(field, "at least 1".to_owned(), size.to_string()));
        }
    }
    Ok(())
}

/// Checks that the hidden size divides into heads; both are at least 1.
pub(super) fn check_heads(hidden: usize, heads: usize) -> Result<(), ExportError> {
    if hidden / heads > MAX_HEAD_SIZE {
        let expected = format!("such that heads of {hidden} have at most {MAX_HEAD_SIZE}");
        return Err(unsupported("num_attention_heads", expected, heads.to_string()));
    }
    if hidden.is_multiple_of(heads) {
        return Ok(());
    }
    let expected = format!("a divisor of {hidden}");
    Err(unsupported("num_attention_heads", expected, heads.to_string()))
}

pub(super) fn unsupported(field: &'static str, expected: String, got: String) -> ExportError {
    ExportError::UnsupportedConfig { field, expected, got }
}
