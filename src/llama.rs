//! The real llama.cpp: models, adapters and answers as the deployed program computes them.
//!
//! Goes in: the folder of its prebuilt libraries, a GGUF model, an adapter, token ids. Comes out:
//! logits `[tokens, vocabulary]` f32, log-likelihoods in nats, greedy continuations, and llama.cpp's
//! own error messages.
//!
//! Runs on the CPU, with an F32 key/value cache and without flash attention, so that the only
//! rounding is that of the weights and of llama.cpp's activations. A [`Model`] may be shared between
//! threads; contexts run side by side.
//!
//! The libraries are loaded at run time and must be of version 0.5.0-dev, whose C layouts this
//! module declares. That version is known from the package `@node-llama-cpp/linux-x64` 3.22.1, which
//! `tests/parts.sh` fetches, and runs on Linux on x86-64 alone.
//!
//! llama.cpp *aborts the process* on some malformed adapters (`GGML_ASSERT`). Every adapter is
//! therefore parsed and verified by [`t2lc_runtime::verify`] first: structure, metadata types, pairs,
//! ranks and values. Whether names and shapes fit the model is checked by llama.cpp itself, which
//! refuses what does not fit. Model files are not checked here: load those you trust.
//!
//! This is the only module of the crate with foreign functions.

#![allow(unsafe_code, reason = "llama.cpp has a C interface; nothing else here is unsafe")]

mod adapter;
mod c_api;
mod context;
mod error;
mod folder;
mod logits;
mod model;

use std::cell::{Cell, RefCell};
use std::ffi::{CStr, CString, c_char, c_void};
use std::fmt;
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::{Mutex, PoisonError};

pub use adapter::Adapter;
pub use c_api::VERSION;
pub use context::Context;
pub use error::LlamaError;
pub use folder::{FOLDER_VARIABLE, folder};
pub use logits::argmax;
pub use model::Model;

use c_api::Api;

thread_local! {
    // llama.cpp has one log for the process but writes on the calling thread, so a log for each
    // thread is what belongs to one caller.
    static LOG: RefCell<String> = const { RefCell::new(String::new()) };
    static KEPT_LAST: Cell<bool> = const { Cell::new(false) };
}

/// The libraries, once they are loaded.
struct Loaded {
    dir: PathBuf,
    api: Api,
}

/// The loaded library. Cheap to copy; never unloaded.
#[derive(Clone, Copy)]
pub struct Llama {
    api: &'static Api,
}

impl fmt::Debug for Llama {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Llama").finish_non_exhaustive()
    }
}

impl Llama {
    /// Loads the libraries in `dir` and the best CPU backend for this machine, once per process.
    ///
    /// # Errors
    /// A library that is missing, does not load or is of another version; a folder other than that
    /// of the first call that succeeded.
    pub fn load(dir: &Path) -> Result<Self, LlamaError> {
        static LOADED: Mutex<Option<&'static Loaded>> = Mutex::new(None);
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(first) = *loaded {
            if first.dir.as_path() != dir {
                let (loaded, asked) = (first.dir.clone(), dir.to_owned());
                return Err(LlamaError::OtherFolder { loaded, asked });
            }
            return Ok(Self { api: &first.api });
        }
        let path = c_path(dir).ok_or_else(|| LlamaError::Library {
            path: dir.to_owned(),
            reason: "the path has a NUL byte".into(),
        })?;
        let api = Api::open(dir)?;
        // SAFETY: the function needs no initialization; its text ends in NUL and is never freed.
        let version = unsafe { owned((api.llama_version)()) }.unwrap_or_default();
        if version != VERSION {
            return Err(LlamaError::Version { expected: VERSION, got: version });
        }
        // SAFETY: called once and before any other function of the library but its version; the
        // callback lives as long as the process and does not unwind; `path` ends in NUL.
        unsafe {
            (api.llama_log_set)(keep_log, ptr::null_mut());
            (api.ggml_backend_load_all_from_path)(path.as_ptr());
            (api.llama_backend_init)();
        }
        let first: &'static Loaded = Box::leak(Box::new(Loaded { dir: dir.to_owned(), api }));
        *loaded = Some(first);
        Ok(Self { api: &first.api })
    }

    /// Opens a base model, a GGUF file.
    ///
    /// # Errors
    /// llama.cpp's message, if it refuses the file.
    pub fn model(self, path: &Path) -> Result<Model, LlamaError> {
        Model::open(self.api, path)
    }
}

/// Takes llama.cpp's warnings and errors that this thread caused since the last call.
fn take_log() -> String {
    LOG.take()
}

/// What llama.cpp logged, as an error message.
fn failure() -> String {
    let log = take_log();
    if log.is_empty() { "llama.cpp said nothing".to_owned() } else { log.trim_end().to_owned() }
}

/// `None` for a path with a NUL byte.
fn c_path(path: &Path) -> Option<CString> {
    CString::new(path.as_os_str().as_encoded_bytes()).ok()
}

/// # Safety
/// `text` is null or ends in NUL.
unsafe fn owned(text: *const c_char) -> Option<String> {
    if text.is_null() {
        return None;
    }
    // SAFETY: not null, and the caller says that it ends in NUL.
    Some(unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
}

/// Keeps warnings, errors and their continuation lines; drops the rest.
unsafe extern "C" fn keep_log(level: i32, text: *const c_char, _: *mut c_void) {
    // A panic must not cross into C, so a log that cannot be written, at the end of a thread, is
    // dropped.
    let _ = KEPT_LAST.try_with(|kept_last| {
        let kept =
            if level == c_api::LOG_CONTINUE { kept_last.get() } else { level >= c_api::LOG_WARN };
        kept_last.set(kept);
        if kept {
            // SAFETY: llama.cpp passes a text that ends in NUL.
            let text = unsafe { owned(text) }.unwrap_or_default();
            let _ = LOG.try_with(|log| log.try_borrow_mut().map(|mut log| log.push_str(&text)));
        }
    });
}
