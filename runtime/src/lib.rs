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
//! use t2lc_runtime::backend::exact::Exact;
//! use t2lc_runtime::bundle::Bundle;
//! use t2lc_runtime::compile::{CompileOptions, Compiler};
//! use t2lc_runtime::describe::Description;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let bundle = Bundle::open(Path::new("smollm2-135m-instruct.t2lc"))?;
//! let compiler = Compiler::new(bundle, &Exact::default())?;
//! let description = Description::new("summarize legal text")?;
//! let adapter = compiler.compile(&description, CompileOptions::default())?;
//! adapter.write_to(Path::new("legal.gguf"), false)?;
//! println!("{}", adapter.content);
//! # Ok(())
//! # }
//! ```
//!
//! Every build has the backend [`backend::exact`], which gives the same bytes on every machine.
//! The features `tract` (pure Rust) and `ort` (ONNX Runtime, loaded at run time) add others for
//! graphs from elsewhere and for accelerators; [`bundle::Bundle::suited_backend`] knows which to take,
//! [`backend::open`] opens it.
//!
//! Tokenizers of the BERT form are read in every build, others with the feature `tokenizers`, which
//! is on unless default features are off. The feature `capi` adds the C interface of
//! `include/t2lc.h`, for apps in other languages.
//!
//! A compiled adapter says what it was made from; [`rebuild`] makes it again and compares.

pub mod atomic;
pub mod backend;
pub mod base;
pub mod bundle;
#[cfg(feature = "capi")]
pub mod capi;
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
pub mod progress;
pub mod quantize;
pub mod rebuild;
pub mod tokenize;
pub mod verify;
pub mod write;
