//! What an adapter says of how it was compiled: keys of a GGUF file → the inputs of a compile.
//!
//! The file is not trusted: every value is parsed as strictly as the command line's.

use std::fmt::Display;
use std::str::FromStr;

use super::{RebuildError, shown};
use crate::backend::{self, BackendKind, Provider};
use crate::compile::{CompileOptions, Format, PIPELINE};
use crate::describe::Description;
use crate::digest::Digest;
use crate::gguf::Gguf;

/// The pipeline version of adapters that do not name theirs.
const UNNAMED_PIPELINE: &str = "1";

/// The inputs of a compile, as the adapter names them.
#[derive(Debug, Clone, PartialEq)]
pub struct Origin {
    /// The description, canonical and whole.
    pub description: Description,
    /// Quantization and scale; the format is GGUF.
    pub options: CompileOptions,
    /// Digest of the bundle.
    pub bundle: Digest,
    /// Id of the backend.
    pub backend: String,
    /// Version of t2lc.
    pub version: String,
}

impl Origin {
    /// Reads the keys of a parsed adapter.
    ///
    /// # Errors
    /// [`RebuildError::NotCompiled`] without `t2lc.recipe`; [`RebuildError::OtherPipeline`] if the
    /// file has other rules than this program; [`RebuildError::Record`] with the key whose value is
    /// missing, of another type or out of range.
    pub fn read(adapter: &Gguf<'_>) -> Result<Self, RebuildError> {
        if adapter.get("t2lc.recipe").is_none() {
            return Err(RebuildError::NotCompiled);
        }
        let version = text(adapter, "t2lc.version")?;
        let pipeline = match adapter.get("t2lc.pipeline") {
            Some(_) => text(adapter, "t2lc.pipeline")?,
            None => UNNAMED_PIPELINE,
        };
        if pipeline != PIPELINE {
            return Err(RebuildError::OtherPipeline {
                version: version.to_owned(),
                expected: pipeline.to_owned(),
                got: PIPELINE,
            });
        }
        Ok(Self {
            description: description(adapter)?,
            options: CompileOptions {
                format: Format::Gguf,
                quantization: parsed(adapter, "t2lc.quantization")?,
                scale: scale(adapter)?,
            },
            bundle: parsed(adapter, "t2lc.bundle")?,
            backend: text(adapter, "t2lc.backend")?.to_owned(),
            version: version.to_owned(),
        })
    }

    /// The backend to open for a rebuild.
    ///
    /// # Errors
    /// [`RebuildError::UnknownBackend`].
    pub fn backend_kind(&self) -> Result<(BackendKind, Provider), RebuildError> {
        let known = backend::of_id(&self.backend);
        known.ok_or_else(|| RebuildError::UnknownBackend { id: self.backend.clone() })
    }
}

fn description(adapter: &Gguf<'_>) -> Result<Description, RebuildError> {
    let key = "t2lc.description";
    let recorded = text(adapter, key)?;
    let canonical = Description::new(recorded).map_err(|error| unusable(key, &error))?;
    if canonical.as_str() != recorded {
        return Err(unusable(key, &"it is not in canonical form"));
    }
    Ok(canonical)
}

fn scale(adapter: &Gguf<'_>) -> Result<f32, RebuildError> {
    let key = "t2lc.scale";
    let value = adapter.get(key).ok_or_else(|| missing(key))?;
    let scale = value.as_f32().filter(|scale| scale.is_finite());
    scale.ok_or_else(|| unusable(key, &"it is not a finite 32-bit float"))
}

fn text<'a>(adapter: &'a Gguf<'_>, key: &'static str) -> Result<&'a str, RebuildError> {
    let value = adapter.get(key).ok_or_else(|| missing(key))?;
    let not_text = || unusable(key, &format!("it is of type {}", value.type_name()));
    value.as_str().ok_or_else(not_text)
}

fn parsed<T>(adapter: &Gguf<'_>, key: &'static str) -> Result<T, RebuildError>
where
    T: FromStr,
    T::Err: Display,
{
    text(adapter, key)?.parse::<T>().map_err(|error| unusable(key, &error))
}

fn missing(key: &'static str) -> RebuildError {
    unusable(key, &"it is missing")
}

fn unusable(key: &'static str, reason: &dyn Display) -> RebuildError {
    RebuildError::Record { key, reason: shown(&reason.to_string()) }
}
