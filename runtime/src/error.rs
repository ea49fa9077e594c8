//! Everything that can go wrong between a description and an adapter, by stage.

use crate::atomic::AtomicWriteError;
use crate::backend::BackendError;
use crate::bundle::BundleError;
use crate::describe::DescriptionError;
use crate::encode::EncodeError;
use crate::generate::GenerateError;
use crate::nearest::NearestError;
use crate::write::WriteError;

/// An error of the compile pipeline.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The text is not a description.
    #[error(transparent)]
    Description(#[from] DescriptionError),
    /// The bundle cannot be used.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The backend cannot be used.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The description cannot be encoded.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// No adapter can be generated.
    #[error(transparent)]
    Generate(#[from] GenerateError),
    /// The table of training tasks cannot be used.
    #[error(transparent)]
    Nearest(#[from] NearestError),
    /// The adapter cannot be written as the format.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The output cannot be written.
    #[error(transparent)]
    Output(#[from] AtomicWriteError),
    /// Whoever watched said stop.
    #[error("cancelled")]
    Cancelled,
    /// A strength that is not a number.
    #[error("scale {got} is not a finite number")]
    Scale {
        /// The scale asked for.
        got: f32,
    },
}

impl Error {
    /// A stable name for programs, `stage.problem`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Description(DescriptionError::Empty) => "describe.empty",
            Self::Description(DescriptionError::TooLong { .. }) => "describe.too_long",
            Self::Description(_) => "describe.invalid",
            Self::Bundle(e)
            | Self::Encode(EncodeError::Bundle(e))
            | Self::Generate(GenerateError::Bundle(e))
            | Self::Nearest(NearestError::Bundle(e)) => bundle_code(e),
            Self::Backend(e)
            | Self::Encode(EncodeError::Backend(e))
            | Self::Generate(GenerateError::Backend(e)) => backend_code(e),
            Self::Encode(EncodeError::Tokenizer { .. }) => "bundle.tokenizer",
            Self::Encode(_) => "encode.failed",
            Self::Generate(GenerateError::NotFinite { .. }) => "generate.not_finite",
            Self::Generate(_) => "generate.failed",
            Self::Nearest(_) => "bundle.tasks",
            Self::Write(WriteError::PeftQuantization { .. }) => "write.quantization",
            Self::Write(WriteError::Quantize(_)) => "quantize.failed",
            Self::Write(_) => "write.failed",
            Self::Output(AtomicWriteError::AlreadyExists { .. }) => "output.exists",
            Self::Output(_) => "output.failed",
            Self::Cancelled => "compile.cancelled",
            Self::Scale { .. } => "options.scale",
        }
    }
}

fn bundle_code(error: &BundleError) -> &'static str {
    match error {
        BundleError::Read { .. } | BundleError::MissingFile { .. } => "bundle.missing",
        BundleError::Schema { .. } => "bundle.schema",
        BundleError::Size { .. } => "bundle.size",
        BundleError::DigestMismatch { .. } => "bundle.digest",
        BundleError::Manifest(_) | BundleError::Inconsistent { .. } => "bundle.manifest",
    }
}

fn backend_code(error: &BackendError) -> &'static str {
    match error {
        BackendError::NotBuilt { .. } => "backend.not_built",
        BackendError::NoProvider { .. } | BackendError::Provider { .. } => "backend.provider",
        BackendError::Library { .. } => "backend.library",
        BackendError::Load { .. } => "backend.load",
        _ => "backend.run",
    }
}
