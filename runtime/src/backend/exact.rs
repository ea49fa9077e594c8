//! The exact backend: an interpreter whose output is the same to the bit on every CPU.
//!
//! It runs the operators that the exporter writes and no others (operator set 18,
//! <https://onnx.ai/onnx/operators/>). What makes the result portable is that the order of every
//! rounding is written down and nothing is left to the compiler, the CPU or the number of threads:
//!
//! - Every operation is IEEE 754, rounded to nearest even, with subnormal numbers kept. A product
//!   and the sum it goes into are rounded one after the other: a fused multiply-add, which rounds
//!   once, is never used, and Rust never makes one out of `a * b + c`.
//! - Matrix product: an element is the sum over `k = 0, 1, …` of `a[k] · b[k]`, one term after the
//!   other, starting at 0. Vectors lie across output columns, so their width does not matter.
//! - Sum over the last axis, also in normalization and softmax: eight running sums that start at 0,
//!   element `i` goes to sum `i mod 8`, and in the end
//!   `((s0 + s1) + (s2 + s3)) + ((s4 + s5) + (s6 + s7))`.
//!   Sum over another axis: one term after the other, starting at 0.
//! - Layer normalization: mean = sum / n; c = x − mean; variance = sum of c · c / n;
//!   `((c · (1 / √(variance + ε))) · scale) + bias`.
//! - Softmax: `e = exp(x − max)`, then `e / sum(e)`.
//! - Weights in 8 bits are `f32(q) · scale`, rounded to f32 before they are multiplied with
//!   anything; weights in 16 bits are widened, which is exact.
//! - `exp`, `erf` and the logistic function are computed by `arithmetic` in f64 and rounded to f32
//!   once; the system's mathematical library is not used.
//! - Maximum: the left operand if it is greater or NaN, otherwise the right one.
//! - Every NaN in an output is [`f32::NAN`]: which NaN an operation returns differs between CPUs,
//!   whether it returns one does not.
//!
//! A change to any of these rules is a new [`Backend::id`]. They hold where the platform computes
//! f32 and f64 in registers of that size; x86 without SSE2 does not and is refused. A caller that
//! switches its CPU to flush subnormal numbers to zero gives up the guarantee.

mod arithmetic;
mod elementwise;
mod fault;
mod graph;
mod layout;
mod matmul;
mod operator;
mod reduce;
mod run;
mod strides;
mod tensor;
mod weight;

use std::num::NonZero;
use std::thread;

use bytes::Bytes;

use super::{Backend, BackendError, Graph};
use fault::{Fault, differs};
use run::ExactGraph;

/// Version of the arithmetic; part of the recipe digest.
const ID: &str = "exact/1";

/// Threads that [`Exact::default`] uses at most: short texts have no work for more.
const MAX_DEFAULT_THREADS: usize = 8;

/// The `exact` backend. The number of threads changes how long a run takes, never its result.
#[derive(Debug, Clone, Copy)]
pub struct Exact {
    threads: usize,
}

impl Exact {
    /// A backend that divides large matrix products among up to `threads` threads; 0 is taken as 1.
    pub fn new(threads: usize) -> Self {
        Self { threads: threads.max(1) }
    }
}

impl Default for Exact {
    /// As many threads as the system offers, at most 8.
    fn default() -> Self {
        let threads = thread::available_parallelism().map_or(1, NonZero::get);
        Self::new(threads.min(MAX_DEFAULT_THREADS))
    }
}

impl Backend for Exact {
    fn load_shared(&self, name: &str, onnx: Bytes) -> Result<Box<dyn Graph>, BackendError> {
        let plan = check_platform().and_then(|()| graph::load(onnx, self.threads));
        let plan = plan.map_err(|fault| BackendError::Load {
            backend: self.id(),
            graph: name.into(),
            reason: fault.to_string(),
        })?;
        Ok(Box::new(ExactGraph::new(name, plan, self.threads)))
    }

    fn id(&self) -> String {
        ID.into()
    }
}

/// Refuses platforms whose floats carry more bits than f32 and f64 have.
fn check_platform() -> Result<(), Fault> {
    if cfg!(all(target_arch = "x86", not(target_feature = "sse2"))) {
        return Err(differs("float unit", "SSE2", "x87"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
