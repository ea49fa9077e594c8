//! What can be wrong with a checkpoint of the reference implementation.

mod archive;
mod pickle;

pub use archive::ArchiveError;
pub use pickle::PickleError;

use crate::base::BaseError;
use crate::checkpoint::{CheckpointError, ShapeMismatch, Variant, faults};

/// Why a checkpoint of the reference implementation cannot be imported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// The archive cannot be read.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The pickle inside is not that of a state dict.
    #[error("`data.pkl` is not the pickle of a plain state dict")]
    Pickle(#[from] PickleError),
    /// Written on a machine of the other kind.
    #[error("the archive's byte order is `{got}`, expected `little`")]
    ByteOrder {
        /// The byte order, escaped.
        got: String,
    },
    /// A storage whose size is not that of its elements.
    #[error("storage `{key}` of tensor `{tensor}` has {got} bytes, its record says {expected}")]
    StorageSize {
        /// Its key.
        key: String,
        /// A tensor in it.
        tensor: String,
        /// Bytes of its elements.
        expected: u64,
        /// Bytes in the archive.
        got: u64,
    },
    /// A tensor of integers.
    #[error("tensor `{tensor}` has element type {got}, expected f32, f16, bf16 or f64")]
    ElementType {
        /// The tensor.
        tensor: String,
        /// Its element type.
        got: String,
    },
    /// A tensor that is not inside its storage.
    #[error(
        "tensor `{tensor}` [{shape:?}, strides {strides:?}, from element {offset}] is not a part \
         of its storage of {elements} elements"
    )]
    View {
        /// The tensor.
        tensor: String,
        /// Its shape.
        shape: Vec<usize>,
        /// Elements from one entry of each axis to the next.
        strides: Vec<usize>,
        /// Its first element.
        offset: usize,
        /// Elements of the storage.
        elements: usize,
    },
    /// Settings that are missing, unknown, or contradict the tensors; lists all of them.
    #[error("the settings cannot be used:\n  {}", .problems.join("\n  "))]
    Settings {
        /// What is wrong, each with its file.
        problems: Vec<String>,
    },
    /// No module is generated.
    #[error("no tensor is named `heads.<module>.weight`: this is not a hypernetwork")]
    NoHeads,
    /// A form of the network that cannot be expressed.
    #[error("the tensors are those of variant {variant}, which is not supported; L, M and S are")]
    Variant {
        /// Its name.
        variant: &'static str,
    },
    /// An order that is none of the checkpoint's modules.
    #[error("module order {got:?} is not an order of the checkpoint's modules {expected:?}")]
    ModuleOrder {
        /// Modules in the recovered order.
        expected: Vec<String>,
        /// The order asked for.
        got: Vec<String>,
    },
    /// The two places that tell the order disagree.
    #[error(
        "the heads are in the order {heads:?}, but `out_emb` in the order {embeddings:?}: \
         the order of the modules cannot be told"
    )]
    AmbiguousOrder {
        /// Order of `heads`.
        heads: Vec<String>,
        /// Order of `out_emb`.
        embeddings: Vec<String>,
    },
    /// A base with another number of layers.
    #[error("the checkpoint is for {got} layers, the base `{base}` has {expected}")]
    Layers {
        /// The base.
        base: String,
        /// Its layers.
        expected: usize,
        /// Layers in the checkpoint.
        got: usize,
    },
    /// Tensors that the network does not have, lacks, or has in another shape; lists every fault.
    #[error(
        "the tensors are not those of a variant {variant} for the base `{base}`{}",
        faults(.missing, .unexpected, .wrong_shape)
    )]
    Layout {
        /// Variant that was recognized.
        variant: Variant,
        /// The base.
        base: String,
        /// Tensors that are not there.
        missing: Vec<String>,
        /// Tensors that should not be there.
        unexpected: Vec<String>,
        /// Tensors of another shape.
        wrong_shape: Vec<ShapeMismatch>,
    },
    /// A tensor with values where the way of training leaves none, or without where it needs some.
    #[error(
        "`{tensor}` is {got}, but the network was trained as {training}, where it is {expected}"
    )]
    Values {
        /// The tensor, or the start of its name.
        tensor: String,
        /// How the network was trained.
        training: String,
        /// What such a network has.
        expected: &'static str,
        /// What was found.
        got: &'static str,
    },
    /// The base cannot be described.
    #[error(transparent)]
    Base(#[from] BaseError),
    /// The checkpoint that comes out is refused.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
}
