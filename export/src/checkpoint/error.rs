//! What can be wrong with a checkpoint.

use std::fmt;
use std::io;
use std::path::PathBuf;

use safetensors::SafeTensorError;

/// A tensor whose shape contradicts the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShapeMismatch {
    /// Name of the tensor.
    pub name: String,
    /// Shape that the configuration implies.
    pub expected: Vec<usize>,
    /// Shape found.
    pub got: Vec<usize>,
}

impl fmt::Display for ShapeMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` {:?} instead of {:?}", self.name, self.got, self.expected)
    }
}

/// Why a checkpoint cannot be read, used or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// A file cannot be read.
    #[error("cannot read `{}`", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Reason given by the operating system.
        source: io::Error,
    },
    /// A file or directory cannot be written.
    #[error("cannot write `{}`", .path.display())]
    Write {
        /// The file or directory.
        path: PathBuf,
        /// Reason given by the operating system.
        source: io::Error,
    },
    /// JSON that does not have the expected fields.
    #[error("`{}` holds an invalid checkpoint configuration", .path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// Reason given by the parser.
        source: serde_json::Error,
    },
    /// The tensor file is not in safetensors format.
    #[error("`{}` is not a valid safetensors file", .path.display())]
    Safetensors {
        /// The file.
        path: PathBuf,
        /// Reason given by the parser.
        source: SafeTensorError,
    },
    /// Written by another version of the trainer.
    #[error("checkpoint schema is {got}, expected {expected}; use the version that trained it")]
    Schema {
        /// Schema this version reads.
        expected: u32,
        /// Schema found.
        got: u32,
    },
    /// A configuration value is out of range.
    #[error("checkpoint field `{field}`: {reason}")]
    Field {
        /// Name of the field.
        field: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// Tensors do not match the configuration; lists every fault.
    #[error(
        "checkpoint tensors do not fit `config.json`{}",
        faults(.missing, .unexpected, .wrong_shape)
    )]
    Layout {
        /// Tensors that are not there.
        missing: Vec<String>,
        /// Tensors that should not be there.
        unexpected: Vec<String>,
        /// Tensors of another shape.
        wrong_shape: Vec<ShapeMismatch>,
    },
    /// A tensor is not stored as f32.
    #[error("tensor `{name}` has element type {got}, expected F32")]
    Dtype {
        /// Name of the tensor.
        name: String,
        /// Element type found.
        got: String,
    },
    /// A tensor's number of values does not fit its shape.
    #[error("tensor `{name}` has {got} values, which does not fit its shape {shape:?}")]
    Length {
        /// Name of the tensor.
        name: String,
        /// Its shape.
        shape: Vec<usize>,
        /// Number of values found.
        got: usize,
    },
    /// A weight is NaN or infinite.
    #[error("tensor `{name}` holds NaN or infinity at element {index}")]
    NonFinite {
        /// Name of the tensor.
        name: String,
        /// Row-major position of the first such element.
        index: usize,
    },
    /// Nothing says where the checkpoint comes from.
    #[error(
        "`{}` has neither `state.json`, which training writes, nor `origin.json`, which import \
         writes",
        .dir.display()
    )]
    NoRecord {
        /// The checkpoint.
        dir: PathBuf,
    },
    /// Two files say where the checkpoint comes from.
    #[error("`{}` has both `state.json` and `origin.json`: it cannot be of both", .dir.display())]
    TwoRecords {
        /// The checkpoint.
        dir: PathBuf,
    },
    /// `origin.json` is about other weights.
    #[error("`origin.json` has {field} {got}, `config.json` has {expected}")]
    OtherOrigin {
        /// Name of the field.
        field: &'static str,
        /// Its value in the configuration.
        expected: String,
        /// Its value in the file.
        got: String,
    },
    /// The two files disagree on the type index.
    #[error("tensor file has module order {got:?}, `config.json` has {expected:?}")]
    ModuleOrder {
        /// Order in the configuration.
        expected: Vec<String>,
        /// Order in the tensor file.
        got: Vec<String>,
    },
}

/// Every fault of a layout, each list behind a semicolon.
pub(crate) fn faults(
    missing: &[String],
    unexpected: &[String],
    wrong_shape: &[ShapeMismatch],
) -> String {
    let quoted = |names: &[String]| names.iter().map(|name| format!("`{name}`")).collect();
    let lists: [(&str, Vec<String>); 3] = [
        ("missing", quoted(missing)),
        ("unexpected", quoted(unexpected)),
        ("wrong shape", wrong_shape.iter().map(ToString::to_string).collect()),
    ];
    let named = lists.iter().filter(|(_, list)| !list.is_empty());
    let parts = named.map(|(title, list)| format!("; {title}: {}", list.join(", ")));
    parts.collect::<Vec<_>>().concat()
}
