//! The C interface, `include/t2lc.h`: a bundle and a description become an adapter, from any
//! language.
//!
//! ```text
//! t2lc_open_* ─► t2lc_compiler ─► t2lc_compile ─► t2lc_adapter ─► its files
//!                       └───────► t2lc_nearest ─► t2lc_similarity
//! ```
//!
//! A handle is a number from a registry, never an address: one that was freed is refused, not
//! followed. Every function runs behind a guard, so that no panic leaves the library. The rules
//! for callers stand at the top of the header, which `cbindgen` writes from this module.

#![allow(unsafe_code, reason = "pointers of the caller")]
#![allow(non_camel_case_types, reason = "the names of the header")]

pub mod adapter;
pub mod compile;
mod error;
mod guard;
pub mod open;
pub mod options;
mod registry;
pub mod similarity;
mod text;

use std::ffi::c_char;

pub use adapter::*;
pub use compile::*;
pub use error::*;
pub use open::*;
pub use options::*;
pub use similarity::*;

/// Version of this interface; functions and fields are only ever added while it stays.
pub const T2LC_ABI_VERSION: u32 = 1;

/// `T2LC_ABI_VERSION` of the library.
#[unsafe(no_mangle)]
pub extern "C" fn t2lc_abi_version() -> u32 {
    T2LC_ABI_VERSION
}

/// Version of the library, for example "0.1.0".
#[unsafe(no_mangle)]
pub extern "C" fn t2lc_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

#[cfg(test)]
mod tests;
