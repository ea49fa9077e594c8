//! Why a checkpoint cannot be written in the reference's form.

use crate::checkpoint::{CheckpointError, Variant};

/// Why a checkpoint cannot be written in the reference's form.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteBackError {
    /// The checkpoint is unusable.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A variant that the reference does not have.
    #[error("the reference has no variant `{got}`, only L, M and S")]
    Variant {
        /// The checkpoint's.
        got: Variant,
    },
    /// A name of the base that cannot be read back.
    #[error("`{name}` is no name or path of a base: `model_dir` cannot be written")]
    BaseName {
        /// The name, escaped.
        name: String,
    },
    /// An archive that would need the fields of 64-bit archives.
    #[error("`hypermod.pt` would have {got} {what}, at most {limit} can be written")]
    TooLarge {
        /// What there is too much of.
        what: &'static str,
        /// How much there is.
        got: u64,
        /// How much there may be.
        limit: u64,
    },
    /// A setting that JSON cannot express.
    #[error("`adapter_config.json` cannot be written")]
    Adapter(#[from] serde_json::Error),
}
