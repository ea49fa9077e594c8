//! The frozen base model: its weights, its tokenizer and chat format, and its forward pass.
//!
//! In: a base model's file. Out: a [`decoder::Decoder`] that computes packed batches, each row
//! under an adapter of its own, with gradients for the adapters and for nothing else; and a
//! [`chat::Chat`] that turns messages into the tokens the deployed model would see.

pub mod adapter;
pub mod chat;
pub mod decoder;
pub mod describe;
pub mod digest;
pub mod family;
pub mod fused;
pub mod gguf_adapter;
pub mod packed;
pub mod peft;
pub mod source;
