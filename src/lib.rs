//! Compile a sentence into a LoRA adapter.
//!
//! ```text
//! train  ─►  export  ─►  compile
//!            describe ─► encode ─► generate ─► quantize ─► write
//! ```
//!
//! Three crates, one per verb, with dependencies in one direction:
//!
//! - `t2lc` (this one): the command line, and with the feature `train` the trainer and the
//!   evaluation, in candle;
//! - [`t2lc_export`]: checkpoint → ONNX graphs → bundle;
//! - [`t2lc_runtime`]: bundle → adapter.

#[cfg(feature = "train")]
pub mod base;
pub mod default_bundle;
#[cfg(feature = "train")]
pub mod evaluate;
pub mod taskpack;
#[cfg(feature = "train")]
pub mod train;

pub use t2lc_runtime as runtime;
