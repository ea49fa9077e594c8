//! What the integration tests share: the real parts on disk and the real llama.cpp.
//!
//! Nothing here skips: a part that is missing is a failure that says how to fetch it.

// Every test binary compiles this module and uses a part of it.
#![allow(dead_code)]

pub mod llama;
pub mod parts;
