//! Turns a task description and a bundle into a LoRA adapter.
//!
//! ```text
//! describe ─► encode ─► generate ─► quantize ─► write
//! ```
//!
//! One file per stage. A [`bundle::Bundle`] is everything a compile needs; a [`backend::Backend`]
//! runs its two ONNX graphs; a [`compile::Compiler`] puts the stages together:
//!
//! ```no_run
//! use std::path::Path;
//! use t2lc_runtime::backend::{self, BackendKind, Provider};
//! use t2lc_runtime::bundle::Bundle;
//! use t2lc_runtime::compile::{CompileOptions, Compiler};
//! use t2lc_runtime::describe::Description;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let bundle = Bundle::open(Path::new("smollm2-135m-instruct.t2lc"))?;
//! let backend = backend::open(BackendKind::Tract, Provider::Auto)?;
//! let compiler = Compiler::new(bundle, backend.as_ref())?;
//! let description = Description::new("summarize legal text")?;
//! let adapter = compiler.compile(&description, CompileOptions::default())?;
//! adapter.write_to(Path::new("legal.gguf"), false)?;
//! println!("{}", adapter.content);
//! # Ok(())
//! # }
//! ```
//!
//! The default features contain no backend: an embedder chooses `tract` (pure Rust) or `ort`
//! (ONNX Runtime, loaded at run time).

pub mod atomic;
pub mod backend;
pub mod base;
pub mod bundle;
pub mod compile;
pub mod describe;
pub mod digest;
pub mod encode;
pub mod error;
pub mod fingerprint;
pub mod fold;
pub mod generate;
pub mod gguf;
pub mod manifest;
pub mod nearest;
pub mod onnx;
pub mod peft;
pub mod quantize;
pub mod verify;
pub mod write;
