//! Fused operations of the frozen decoder, each with its own backward pass.
//!
//! The base model is frozen, so a backward pass needs gradients of activations only. Candle's own
//! operations would also compute the gradient of every frozen weight and keep each intermediate
//! tensor alive; the operations here do neither. On a device without a fused kernel (anything but
//! the CPU) the same functions are composed from candle's tensor operations, which also serve as
//! the oracle in the tests.
//!
//! All tensors are f32 and contiguous after [`candle_core::Tensor::contiguous`].

mod attention;
mod cross_entropy;
mod geglu;
mod linear;
mod rms_norm;
mod rope;
mod softmax;
mod swiglu;

pub use attention::{Heads, packed_attention};
pub use cross_entropy::cross_entropy;
pub use geglu::geglu;
pub use linear::frozen_linear;
pub use rms_norm::rms_norm;
pub use rope::{RotaryTable, rope};
pub use softmax::masked_softmax;
pub use swiglu::swiglu;

use candle_core::{CpuStorage, Error, Layout, Result};

/// The f32 slice behind a contiguous CPU tensor.
fn slice_of<'a>(storage: &'a CpuStorage, layout: &Layout, op: &'static str) -> Result<&'a [f32]> {
    let (start, end) = layout.contiguous_offsets().ok_or(Error::RequiresContiguous { op })?;
    Ok(&storage.as_slice::<f32>()?[start..end])
}

/// Rows are handed to threads in blocks of about this many values, enough to pay for the hand-over.
const PARALLEL_BLOCK: usize = 16 * 1024;

/// Number of rows of `width` values in one parallel block.
fn rows_per_block(width: usize) -> usize {
    (PARALLEL_BLOCK / width.max(1)).max(1)
}

#[cfg(test)]
mod tests;
