//! What stands between a caller in C and this library: no panic passes, every failure becomes a
//! status and, if the caller wants one, an error.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

use super::error::{Failure, T2LC_OK, t2lc_error, t2lc_status};

/// Runs a call that can fail.
///
/// # Safety
/// `out_error` is null or writable.
pub(super) unsafe fn guard(
    out_error: *mut *mut t2lc_error,
    call: impl FnOnce() -> Result<(), Failure>,
) -> t2lc_status {
    // What a call changes before it panics is its own: objects of others are not written to.
    let result = catch_unwind(AssertUnwindSafe(call));
    let Err(failure) = result.unwrap_or_else(|_| Err(Failure::panic())) else { return T2LC_OK };
    let status = failure.status;
    if !out_error.is_null() {
        let error = look(ptr::null_mut(), || failure.into_handle());
        // SAFETY: writable, as the caller promises.
        unsafe { out_error.write(error) };
    }
    status
}

/// Runs a call that only looks at something; `otherwise` is what a panic gives.
pub(super) fn look<T>(otherwise: T, call: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or(otherwise)
}

/// Where the caller wants a handle. Never a reference: a callback may look at the same variable.
pub(super) struct Output<H>(*mut *mut H);

impl<H> Output<H> {
    /// Makes the output null.
    ///
    /// # Safety
    /// `output` is null, or writable for the whole call.
    pub(super) unsafe fn new(output: *mut *mut H) -> Result<Self, Failure> {
        if output.is_null() {
            return Err(Failure::null("the output"));
        }
        // SAFETY: writable, as the caller promises.
        unsafe { output.write(ptr::null_mut()) };
        Ok(Self(output))
    }

    /// Stores the handle.
    pub(super) fn put(self, handle: *mut H) {
        // SAFETY: writable, as was promised to `new`.
        unsafe { self.0.write(handle) };
    }
}

#[cfg(test)]
mod tests {
    use std::ptr;

    use super::super::error::{T2LC_ERROR_INTERNAL, t2lc_error_free, t2lc_error_status};
    use super::{guard, look};

    #[test]
    fn a_panic_is_an_error() {
        let mut error = ptr::null_mut();
        let status = unsafe { guard(&raw mut error, || panic!("a fault")) };
        assert_eq!(status, T2LC_ERROR_INTERNAL);
        assert_eq!(t2lc_error_status(error), T2LC_ERROR_INTERNAL);
        t2lc_error_free(error);
        assert_eq!(look(7, || panic!("a fault")), 7);
    }
}
