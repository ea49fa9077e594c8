//! A compiled adapter: its files, digests and what it is near to.

use std::ffi::{CString, c_char};
use std::path::Path;
use std::ptr;
use std::sync::Arc;

use super::error::{Failure, t2lc_error, t2lc_status};
use super::guard::{guard, look};
use super::registry::Registry;
use super::similarity::{self, t2lc_similarity};
use super::text::{c_text, text};
use crate::compile::Adapter;
use crate::error::Error;

/// A compiled adapter.
#[derive(Debug)]
pub struct t2lc_adapter {
    _private: [u8; 0],
}

static ADAPTERS: Registry<t2lc_adapter, Compiled> = Registry::new();

/// An adapter and its texts.
struct Compiled {
    adapter: Adapter,
    names: Vec<CString>,
    recipe: CString,
    content: CString,
}

/// A handle for an adapter.
pub(super) fn insert(adapter: Adapter) -> *mut t2lc_adapter {
    let names = adapter.files().iter().map(|(name, _)| c_text(name)).collect();
    let recipe = c_text(&adapter.recipe.to_string());
    let content = c_text(&adapter.content.to_string());
    ADAPTERS.insert(Compiled { adapter, names, recipe, content })
}

/// What `of` finds in an adapter; `otherwise` for a handle that is none.
fn of<T: Copy>(
    adapter: *const t2lc_adapter,
    otherwise: T,
    of: impl FnOnce(&Arc<Compiled>) -> T,
) -> T {
    look(otherwise, || ADAPTERS.get(adapter).map_or(otherwise, |compiled| of(&compiled)))
}

/// Number of files: 1 of a GGUF adapter, 2 of a PEFT adapter. 0 for a handle that is none.
#[unsafe(no_mangle)]
pub extern "C" fn t2lc_adapter_file_count(adapter: *const t2lc_adapter) -> usize {
    of(adapter, 0, |compiled| compiled.names.len())
}

/// Name of a file in a PEFT directory; "adapter.gguf" for GGUF. NULL beyond the last.
#[unsafe(no_mangle)]
pub extern "C" fn t2lc_adapter_file_name(
    adapter: *const t2lc_adapter,
    index: usize,
) -> *const c_char {
    of(adapter, ptr::null(), |compiled| {
        compiled.names.get(index).map_or(ptr::null(), |name| name.as_ptr())
    })
}

/// Bytes of a file, and their number in `*size`, which may be NULL. NULL and 0 beyond the last.
///
/// # Safety
/// `size` is null or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn t2lc_adapter_file_bytes(
    adapter: *const t2lc_adapter,
    index: usize,
    size: *mut usize,
) -> *const u8 {
    let (bytes, length) = of(adapter, (ptr::null(), 0), |compiled| {
        let files = compiled.adapter.files();
        files.get(index).map_or((ptr::null(), 0), |(_, bytes)| (bytes.as_ptr(), bytes.len()))
    });
    // SAFETY: as the caller promises.
    if let Some(size) = unsafe { size.as_mut() } {
        *size = length;
    }
    bytes
}

/// Digest of everything that went in, "sha256:…".
#[unsafe(no_mangle)]
pub extern "C" fn t2lc_adapter_recipe(adapter: *const t2lc_adapter) -> *const c_char {
    of(adapter, ptr::null(), |compiled| compiled.recipe.as_ptr())
}

/// Digest of the bytes that came out.
#[unsafe(no_mangle)]
pub extern "C" fn t2lc_adapter_content(adapter: *const t2lc_adapter) -> *const c_char {
    of(adapter, ptr::null(), |compiled| compiled.content.as_ptr())
}

/// Tokens of the description.
#[unsafe(no_mangle)]
pub extern "C" fn t2lc_adapter_tokens(adapter: *const t2lc_adapter) -> usize {
    of(adapter, 0, |compiled| compiled.adapter.tokens)
}

/// Whether the description was longer than the encoder reads.
#[unsafe(no_mangle)]
pub extern "C" fn t2lc_adapter_truncated(adapter: *const t2lc_adapter) -> bool {
    of(adapter, false, |compiled| compiled.adapter.truncated)
}

/// The nearest training tasks, as a handle of its own. NULL for a handle that is none.
#[unsafe(no_mangle)]
pub extern "C" fn t2lc_adapter_similarity(adapter: *const t2lc_adapter) -> *mut t2lc_similarity {
    of(adapter, ptr::null_mut(), |compiled| {
        similarity::insert(&compiled.adapter.nearest, compiled.adapter.familiar)
    })
}

/// Writes the GGUF file or the PEFT directory under a temporary name and renames it.
///
/// # Safety
/// Pointers are null or valid for their lengths.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn t2lc_adapter_write(
    adapter: *const t2lc_adapter,
    path: *const c_char,
    path_length: usize,
    overwrite: bool,
    error: *mut *mut t2lc_error,
) -> t2lc_status {
    let call = || {
        let compiled = ADAPTERS.get(adapter).ok_or_else(|| Failure::handle("an adapter"))?;
        // SAFETY: as the caller promises.
        let path = unsafe { text(path, path_length, "the path") }?;
        compiled.adapter.write_to(Path::new(path), overwrite).map_err(Error::from)?;
        Ok(())
    };
    // SAFETY: as the caller promises.
    unsafe { guard(error, call) }
}

/// Frees an adapter.
#[unsafe(no_mangle)]
pub extern "C" fn t2lc_adapter_free(adapter: *mut t2lc_adapter) {
    look((), || ADAPTERS.remove(adapter));
}
