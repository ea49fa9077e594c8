//! What the integration tests share: the real parts on disk, bases in the real llama.cpp, and our decoder.
//!
//! Nothing here skips: a part that is missing is a failure that says how to fetch it.

// Every test binary compiles this module for itself and uses a part of it.
#![allow(dead_code)]

#[cfg(feature = "train")]
pub(crate) mod decoder;
#[cfg(feature = "llama")]
pub(crate) mod difference;
#[cfg(feature = "train")]
pub(crate) mod pack;
pub(crate) mod parts;
#[cfg(all(feature = "train", feature = "llama"))]
pub(crate) mod twin;
