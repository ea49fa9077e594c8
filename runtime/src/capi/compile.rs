//! Compiles descriptions, or only tells what they are near to.

use std::ffi::c_char;
use std::ops::ControlFlow;

use super::adapter::{insert, t2lc_adapter};
use super::error::{Failure, t2lc_error, t2lc_status};
use super::guard::{Output, guard};
use super::open::{opened, t2lc_compiler};
use super::options::{
    T2LC_STAGE_ENCODE, T2LC_STAGE_GENERATE, T2LC_STAGE_QUANTIZE, T2LC_STAGE_WRITE, read,
    t2lc_compile_options,
};
use super::similarity::{self, t2lc_similarity};
use super::text::text;
use crate::describe::Description;
use crate::error::Error;
use crate::progress::{Progress, Stage};

/// Compiles one description; options may be NULL.
///
/// # Safety
/// Pointers are null or valid for their lengths; the callback does not unwind.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn t2lc_compile(
    compiler: *const t2lc_compiler,
    description: *const c_char,
    description_length: usize,
    options: *const t2lc_compile_options,
    adapter: *mut *mut t2lc_adapter,
    error: *mut *mut t2lc_error,
) -> t2lc_status {
    let call = || {
        // SAFETY: as the caller promises, here and below.
        let out = unsafe { Output::new(adapter) }?;
        let open = opened(compiler)?;
        let options = unsafe { read(options) }?;
        let description = unsafe { described(description, description_length) }?;
        let mut watch = |progress: Progress| {
            let stage = match progress.stage {
                Stage::Encode => T2LC_STAGE_ENCODE,
                Stage::Generate => T2LC_STAGE_GENERATE,
                Stage::Quantize => T2LC_STAGE_QUANTIZE,
                Stage::Write => T2LC_STAGE_WRITE,
            };
            let Some(callback) = options.progress else { return ControlFlow::Continue(()) };
            let go_on = unsafe { callback(stage, progress.done, progress.total, options.context) };
            if go_on { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        };
        let wanted = options.compile_options()?;
        out.put(insert(open.compiler.compile_watched(&description, wanted, &mut watch)?));
        Ok(())
    };
    // SAFETY: as the caller promises.
    unsafe { guard(error, call) }
}

/// The count training tasks that a description is nearest to, without compiling it.
///
/// # Safety
/// Pointers are null or valid for their lengths.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn t2lc_nearest(
    compiler: *const t2lc_compiler,
    description: *const c_char,
    description_length: usize,
    count: usize,
    similarity: *mut *mut t2lc_similarity,
    error: *mut *mut t2lc_error,
) -> t2lc_status {
    let call = || {
        // SAFETY: as the caller promises, here and below.
        let out = unsafe { Output::new(similarity) }?;
        let open = opened(compiler)?;
        let description = unsafe { described(description, description_length) }?;
        let found = open.compiler.nearest(&description, count)?;
        out.put(similarity::insert(&found.nearest, found.familiar));
        Ok(())
    };
    // SAFETY: as the caller promises.
    unsafe { guard(error, call) }
}

/// # Safety
/// `pointer` is null or readable for `length`.
unsafe fn described(pointer: *const c_char, length: usize) -> Result<Description, Failure> {
    // SAFETY: as the caller promises.
    let text = unsafe { text(pointer, length, "the description") }?;
    Ok(Description::new(text).map_err(Error::from)?)
}
