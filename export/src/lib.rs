//! Freezes a trained hypernetwork and a text encoder into the bundle that `t2lc-runtime` loads.
//!
//! [`checkpoint`] is what training writes; [`import`] makes one of a checkpoint of the reference
//! implementation, with [`base`] to describe a base without its weights; [`write_back`] does the
//! reverse. [`encoder`] and [`hypernet`] build the two ONNX graphs with [`graph::GraphBuilder`],
//! whose operations are the ones that ONNX Runtime and tract both compute right ([`check`] enforces
//! it). [`freeze`] puts graphs, tokenizer and the table of training tasks ([`descriptions`]
//! reads those of an imported network) into a bundle directory; [`thaw`] takes the network out of one
//! again, and [`average`] is halfway along a run that started there. Equal inputs give equal bytes.

pub mod average;
pub mod base;
mod centres;
pub mod check;
pub mod checkpoint;
pub mod descriptions;
mod embed;
pub mod encoder;
pub mod error;
mod familiarity;
pub mod freeze;
pub mod graph;
pub mod hypernet;
pub mod import;
pub mod thaw;
pub mod weights;
pub mod write_back;
