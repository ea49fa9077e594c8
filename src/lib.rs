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
//!   evaluation, in candle; with the feature `llama` the real llama.cpp as well;
//! - [`t2lc_export`]: checkpoint → ONNX graphs → bundle;
//! - [`t2lc_runtime`]: bundle → adapter.

#[cfg(feature = "train")]
pub mod base;
pub mod default_bundle;
#[cfg(feature = "train")]
pub mod evaluate;
#[cfg(feature = "llama")]
pub mod llama;
pub mod pack;
pub mod store;
pub mod taskpack;
#[cfg(feature = "train")]
pub mod train;
#[cfg(feature = "train")]
pub mod workers;

pub use t2lc_runtime as runtime;
