//! Text and lists that cross the interface: in as pointer and length, out as C strings.

use std::ffi::CString;
use std::slice;

use super::error::Failure;

/// Longest list of files that is looked at; a bundle has five.
const MAX_FILES: usize = 64;

/// `length` values at `pointer`; null stands for none of them.
///
/// # Safety
/// `pointer` is null, or `length` values can be read there as long as `'a`.
pub(super) unsafe fn list<'a, T>(
    pointer: *const T,
    length: usize,
    what: &str,
) -> Result<&'a [T], Failure> {
    if length == 0 {
        return Ok(&[]);
    }
    if pointer.is_null() {
        return Err(Failure::null(what));
    }
    if length > isize::MAX.unsigned_abs() / size_of::<T>().max(1) {
        return Err(Failure::argument("argument.length", format!("{what} has length {length}")));
    }
    // SAFETY: not null, not longer than memory, and readable as the caller promises.
    Ok(unsafe { slice::from_raw_parts(pointer, length) })
}

/// As [`list`], for files.
///
/// # Safety
/// As [`list`].
pub(super) unsafe fn files<'a, T>(pointer: *const T, count: usize) -> Result<&'a [T], Failure> {
    if count > MAX_FILES {
        let message = format!("{count} files, at most {MAX_FILES} are taken");
        return Err(Failure::argument("argument.length", message));
    }
    // SAFETY: as the caller promises.
    unsafe { list(pointer, count, "the list of files") }
}

/// UTF-8 at `pointer`.
///
/// # Safety
/// As [`list`].
pub(super) unsafe fn text<'a>(
    pointer: *const std::ffi::c_char,
    length: usize,
    what: &str,
) -> Result<&'a str, Failure> {
    // SAFETY: as the caller promises.
    let bytes = unsafe { list(pointer.cast::<u8>(), length, what) }?;
    str::from_utf8(bytes).map_err(|error| {
        Failure::argument("argument.utf8", format!("{what} is not UTF-8: {error}"))
    })
}

/// Text for C: NUL characters, which cannot be part of it, become spaces.
pub(super) fn c_text(text: &str) -> CString {
    CString::new(text.replace('\0', " ")).unwrap_or_default()
}
