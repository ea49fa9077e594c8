//! What stands between a caller in C and this library: no panic passes, every failure becomes a
//! status and, if the caller wants one, an error.

use std::panic::{AssertUnwindSafe, catch_unwind};

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
    // SAFETY: the caller promises so.
    if let Some(out_error) = unsafe { out_error.as_mut() } {
        *out_error = failure.into_handle();
    }
    status
}

/// Runs a call that only looks at something; `otherwise` is what a panic gives.
pub(super) fn look<T>(otherwise: T, call: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or(otherwise)
}

/// Makes the output null and gives it back to be filled.
///
/// # Safety
/// `output` is null or writable.
pub(super) unsafe fn output<'a, H>(output: *mut *mut H) -> Result<&'a mut *mut H, Failure> {
    // SAFETY: the caller promises so.
    let output = unsafe { output.as_mut() };
    let output = output.ok_or_else(|| Failure::null("the output"))?;
    *output = std::ptr::null_mut();
    Ok(output)
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
