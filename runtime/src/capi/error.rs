//! Status numbers, and errors as objects.

use std::error::Error as StdError;
use std::ffi::{CString, c_char};
use std::ptr;

use super::guard::look;
use super::registry::Registry;
use super::text::c_text;
use crate::encode::EncodeError;
use crate::error::Error;
use crate::generate::GenerateError;

/// What a call came to. The numbers are stable.
pub type t2lc_status = i32;

/// Success.
pub const T2LC_OK: t2lc_status = 0;
/// A null pointer, a handle that was freed, text that is not UTF-8, an option that does not exist.
pub const T2LC_ERROR_ARGUMENT: t2lc_status = 1;
/// The text is not a description.
pub const T2LC_ERROR_DESCRIPTION: t2lc_status = 2;
/// The bundle cannot be used.
pub const T2LC_ERROR_BUNDLE: t2lc_status = 3;
/// The backend is not in this build, cannot be loaded, or fails.
pub const T2LC_ERROR_BACKEND: t2lc_status = 4;
/// No adapter can be made of the description.
pub const T2LC_ERROR_COMPILE: t2lc_status = 5;
/// The output cannot be written.
pub const T2LC_ERROR_OUTPUT: t2lc_status = 6;
/// The progress callback said stop.
pub const T2LC_ERROR_CANCELLED: t2lc_status = 7;
/// A fault of the library; the call had no effect.
pub const T2LC_ERROR_INTERNAL: t2lc_status = 8;

/// Why a call failed.
#[derive(Debug)]
pub struct t2lc_error {
    _private: [u8; 0],
}

static ERRORS: Registry<t2lc_error, Told> = Registry::new();

/// An error as the caller sees it.
struct Told {
    status: t2lc_status,
    code: CString,
    message: CString,
}

/// Why a call fails.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) status: t2lc_status,
    code: &'static str,
    message: String,
}

impl Failure {
    pub(super) fn argument(code: &'static str, message: String) -> Self {
        Self { status: T2LC_ERROR_ARGUMENT, code, message }
    }

    pub(super) fn null(what: &str) -> Self {
        Self::argument("argument.null", format!("{what} is NULL"))
    }

    pub(super) fn handle(what: &str) -> Self {
        Self::argument("argument.handle", format!("not a live handle of {what}"))
    }

    pub(super) fn panic() -> Self {
        let message = "a fault of the library; please report it".into();
        Self { status: T2LC_ERROR_INTERNAL, code: "internal.panic", message }
    }

    pub(super) fn into_handle(self) -> *mut t2lc_error {
        let one_line = self.message.replace(['\n', '\r'], " ");
        let (code, message) = (c_text(self.code), c_text(&one_line));
        ERRORS.insert(Told { status: self.status, code, message })
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let status = match &error {
            Error::Description(_) => T2LC_ERROR_DESCRIPTION,
            Error::Bundle(_)
            | Error::Encode(EncodeError::Bundle(_) | EncodeError::Tokenizer { .. })
            | Error::Generate(GenerateError::Bundle(_))
            | Error::Nearest(_) => T2LC_ERROR_BUNDLE,
            Error::Backend(_)
            | Error::Encode(EncodeError::Backend(_))
            | Error::Generate(GenerateError::Backend(_)) => T2LC_ERROR_BACKEND,
            Error::Output(_) => T2LC_ERROR_OUTPUT,
            Error::Cancelled => T2LC_ERROR_CANCELLED,
            Error::Scale { .. } => T2LC_ERROR_ARGUMENT,
            Error::Encode(_) | Error::Generate(_) | Error::Write(_) => T2LC_ERROR_COMPILE,
        };
        let mut message = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            message = format!("{message}: {error}");
            cause = error.source();
        }
        Self { status, code: error.code(), message }
    }
}

/// `T2LC_ERROR_*`. `T2LC_ERROR_ARGUMENT` for a handle that is none.
#[unsafe(no_mangle)]
pub extern "C" fn t2lc_error_status(error: *const t2lc_error) -> t2lc_status {
    look(T2LC_ERROR_INTERNAL, || ERRORS.get(error).map_or(T2LC_ERROR_ARGUMENT, |e| e.status))
}

/// A stable name, "stage.problem", for example "bundle.digest". NULL for a handle that is none.
#[unsafe(no_mangle)]
pub extern "C" fn t2lc_error_code(error: *const t2lc_error) -> *const c_char {
    look(ptr::null(), || ERRORS.get(error).map_or(ptr::null(), |e| e.code.as_ptr()))
}

/// One line for people, with its causes. NULL for a handle that is none.
#[unsafe(no_mangle)]
pub extern "C" fn t2lc_error_message(error: *const t2lc_error) -> *const c_char {
    look(ptr::null(), || ERRORS.get(error).map_or(ptr::null(), |e| e.message.as_ptr()))
}

/// Frees an error.
#[unsafe(no_mangle)]
pub extern "C" fn t2lc_error_free(error: *mut t2lc_error) {
    look((), || ERRORS.remove(error));
}
