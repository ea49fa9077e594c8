//! What can go wrong while a graph is built or checked.

use std::io;
use std::path::PathBuf;

use crate::checkpoint::{CheckpointError, HypernetConfig};

/// Error of the exporter. Variants carry the file, tensor, node or field they are about.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// A file cannot be read.
    #[error("cannot read `{}`", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Reason given by the operating system.
        source: io::Error,
    },
    /// A JSON file does not have the expected fields.
    #[error("`{}` is not a valid configuration", .path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Reason given by the parser.
        source: serde_json::Error,
    },
    /// A weight file is not in safetensors format.
    #[error("`{}` is not a valid safetensors file", .path.display())]
    Safetensors {
        /// The file.
        path: PathBuf,
        /// Reason given by the parser.
        source: safetensors::SafeTensorError,
    },
    /// A checkpoint is malformed.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Two networks without a mean.
    #[error("networks of different configurations have no mean: {expected:?} and {got:?}")]
    DifferentNetworks {
        /// Configuration of the first.
        expected: Box<HypernetConfig>,
        /// Configuration of the second.
        got: Box<HypernetConfig>,
    },
    /// A text encoder's configuration asks for something the exporter does not build.
    #[error("configuration field `{field}` is `{got}`, expected {expected}")]
    UnsupportedConfig {
        /// Name of the field.
        field: &'static str,
        /// What the exporter builds.
        expected: String,
        /// What the file asks for.
        got: String,
    },
    /// A weight file lacks a tensor.
    #[error("tensor `{name}` is missing")]
    TensorMissing {
        /// Name of the tensor.
        name: String,
    },
    /// A tensor has another shape than its configuration implies.
    #[error("tensor `{name}` has shape {got:?}, expected {expected:?}")]
    TensorShape {
        /// Name of the tensor.
        name: String,
        /// Shape that the configuration implies.
        expected: Vec<usize>,
        /// Shape in the file.
        got: Vec<usize>,
    },
    /// A tensor has an element type that is not read.
    #[error("tensor `{name}` has element type {got}, expected {expected}")]
    TensorType {
        /// Name of the tensor.
        name: String,
        /// Accepted element types.
        expected: &'static str,
        /// Element type found.
        got: String,
    },
    /// A tensor's number of elements or bytes does not fit its shape.
    #[error("tensor `{name}` has length {got}, its shape needs {expected}")]
    TensorLength {
        /// Name of the tensor.
        name: String,
        /// Length that the shape implies.
        expected: usize,
        /// Length found.
        got: usize,
    },
    /// A weight is NaN or infinite, or does not fit half precision.
    #[error("tensor `{name}`: element {index} is not finite in {element}")]
    NonFinite {
        /// Name of the tensor.
        name: String,
        /// Row-major position of the first such element.
        index: usize,
        /// Element type it should be stored in.
        element: &'static str,
    },
    /// Not the name of a weight type.
    #[error("unknown weight type `{got}`, expected one of `f32`, `f16`, `int8`")]
    UnknownWeightType {
        /// The text.
        got: String,
    },
    /// Not the name of a pooling.
    #[error("unknown pooling `{got}`, expected `mean` or `cls`")]
    UnknownPooling {
        /// The text.
        got: String,
    },
    /// An operation was given operands that do not fit.
    #[error("cannot build `{op}`: {reason}")]
    Graph {
        /// Operator.
        op: &'static str,
        /// What does not fit.
        reason: String,
    },
    /// Two values of a graph, or two initializers, have the same name, or a name is empty.
    #[error("value name `{name}` is empty or used twice")]
    DuplicateName {
        /// The name.
        name: String,
    },
    /// The bytes of a model are not a protobuf message.
    #[error("model is not a valid ONNX file")]
    Decode(#[from] prost::DecodeError),
    /// A model of far more parts than any has.
    #[error(transparent)]
    Swollen(#[from] t2lc_runtime::onnx::Swollen),
    /// A part of a model is not a protobuf message.
    #[error("model is not a valid ONNX file: no field begins at byte {at} of a message")]
    Field {
        /// Place in the message.
        at: usize,
    },
    /// A model is larger than one protobuf message may be.
    #[error("model has {bytes} bytes, the limit is {limit}; use a smaller weight type")]
    TooLarge {
        /// Size in bytes.
        bytes: usize,
        /// Largest accepted size in bytes.
        limit: usize,
    },
    /// A model uses an operator outside the allow-list.
    #[error("node `{node}` uses operator `{op}` of domain `{domain}`, which is not allowed")]
    OperatorNotAllowed {
        /// Name of the node.
        node: String,
        /// The operator.
        op: String,
        /// Its domain; empty for the standard operators.
        domain: String,
    },
    /// A node or graph output reads a value that nothing before it defines.
    #[error("`{reader}` reads `{value}` before it is defined")]
    Undefined {
        /// Node or graph output.
        reader: String,
        /// The value.
        value: String,
    },
    /// A model differs from the form every backend accepts.
    #[error("model {what} is {got}, expected {expected}")]
    Model {
        /// Part of the model.
        what: String,
        /// Accepted form.
        expected: String,
        /// What was found.
        got: String,
    },
    /// A bundle lacks a file.
    #[error(transparent)]
    Bundle(#[from] t2lc_runtime::bundle::BundleError),
    /// A description of the table or of the calibration is unusable.
    #[error(transparent)]
    Description(#[from] t2lc_runtime::describe::DescriptionError),
    /// The backend refuses the graph just built.
    #[error(transparent)]
    Backend(#[from] t2lc_runtime::backend::BackendError),
    /// The encoder just built does not run.
    #[error(transparent)]
    Encode(#[from] t2lc_runtime::encode::EncodeError),
    /// The table of training tasks cannot be made.
    #[error(transparent)]
    Nearest(#[from] t2lc_runtime::nearest::NearestError),
    /// The manifest cannot be written as JSON.
    #[error("the manifest cannot be written")]
    Manifest(#[source] serde_json::Error),
}
