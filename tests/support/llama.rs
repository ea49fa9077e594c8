//! The real llama.cpp as the judge of what t2lc writes: a small safe interface over its prebuilt
//! libraries. Goes in: a GGUF model, an adapter, token ids. Comes out: logits
//! `[tokens, vocabulary]` f32, greedy continuations, and llama.cpp's own error messages.
//!
//! Runs on the CPU, with an F32 key/value cache and without flash attention, so that the only
//! rounding is that of the weights and of llama.cpp's activations. Models may be shared between
//! test threads (`OnceLock<Model>`); contexts run side by side. llama.cpp *aborts the process* on
//! some malformed adapters (`GGML_ASSERT`): a test of those runs itself as a child process.

#![allow(unsafe_code)]

mod c_api;
mod context;

pub(crate) use context::{Adapter, Context, argmax};

use c_api::{Api, RawModel, RawVocab};
use std::cell::{Cell, RefCell};
use std::ffi::{CStr, CString, c_char, c_void};
use std::path::{Path, PathBuf};
use std::ptr::{self, NonNull};
use std::sync::{OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

thread_local! {
    // llama.cpp has one log for the process but writes on the calling thread, so a log for each
    // thread is what belongs to one test.
    static LOG: RefCell<String> = const { RefCell::new(String::new()) };
    static KEPT_LAST: Cell<bool> = const { Cell::new(false) };
}

/// The loaded library. Cheap to copy; never unloaded.
#[derive(Clone, Copy)]
pub(crate) struct Llama {
    api: &'static Api,
}

impl Llama {
    /// Loads the libraries in `dir` and the best CPU backend for this machine, once per process.
    ///
    /// # Panics
    /// If a library is missing or of another version, or if `dir` differs from the first call's.
    pub(crate) fn load(dir: &Path) -> Self {
        static LOADED: OnceLock<(PathBuf, Api)> = OnceLock::new();
        let (first_dir, api) = LOADED.get_or_init(|| {
            let api = Api::open(dir);
            let path = c_path(dir);
            // SAFETY: called once and before any other function of the library; the callback
            // lives as long as the process and does not unwind; `path` ends in NUL.
            let version = unsafe {
                (api.llama_log_set)(keep_log, ptr::null_mut());
                (api.ggml_backend_load_all_from_path)(path.as_ptr());
                (api.llama_backend_init)();
                CStr::from_ptr((api.llama_version)())
            };
            assert_eq!(version.to_str(), Ok(c_api::VERSION), "llama.cpp version");
            (dir.to_owned(), api)
        });
        assert_eq!(first_dir, dir, "llama.cpp was loaded from another folder");
        Self { api }
    }

    /// Takes llama.cpp's warnings and errors that this thread caused since the last call.
    pub(crate) fn take_log() -> String {
        LOG.take()
    }

    /// Opens a base model.
    ///
    /// # Errors
    /// llama.cpp's message, if it refuses the file.
    pub(crate) fn model(self, path: &Path) -> Result<Model, String> {
        Self::take_log();
        let c_path = c_path(path);
        // SAFETY: `c_path` ends in NUL and outlives the call; the parameters are the library's
        // own defaults, on the CPU.
        let raw = unsafe {
            let mut params = (self.api.llama_model_default_params)();
            params.n_gpu_layers = 0;
            (self.api.llama_model_load_from_file)(c_path.as_ptr(), params)
        };
        let raw = NonNull::new(raw).ok_or_else(failure)?;
        // SAFETY: `raw` is a live model; the vocabulary is a part of it.
        let vocab = unsafe { (self.api.llama_model_get_vocab)(raw.as_ptr()) };
        Ok(Model { api: self.api, raw, vocab, adapters: RwLock::new(()) })
    }
}

/// A base model: weights and vocabulary.
pub(crate) struct Model {
    api: &'static Api,
    raw: NonNull<RawModel>,
    vocab: *const RawVocab,
    /// The model lists its adapters without a lock: loading and freeing one is a write, and what
    /// reads the list (making a context, decoding) is a read.
    adapters: RwLock<()>,
}

// SAFETY: weights and vocabulary do not change after loading, and `adapters` guards the one list
// that does.
unsafe impl Send for Model {}
// SAFETY: as above.
unsafe impl Sync for Model {}

impl Model {
    /// A context for `n_ctx` tokens (rounded up to 256s) that gives the logits of each.
    /// Takes about `n_ctx · n_vocab · 4` bytes.
    ///
    /// # Panics
    /// If llama.cpp cannot make it.
    pub(crate) fn context(&self, n_ctx: u32, n_threads: i32) -> Context<'_> {
        // llama.cpp would round the context up, but not the batch.
        let n_ctx = n_ctx.max(1).next_multiple_of(256);
        let _reading = self.reading();
        // SAFETY: the model is alive; the parameters are the library's defaults with plain values
        // changed.
        let raw = unsafe {
            let mut params = (self.api.llama_context_default_params)();
            params.n_ctx = n_ctx;
            params.n_batch = n_ctx;
            params.n_ubatch = n_ctx;
            // 0: as many outputs as a batch has tokens. The default is one per sequence.
            params.n_outputs_max = 0;
            params.n_outputs_max_per_seq = 0;
            params.n_threads = n_threads;
            params.n_threads_batch = n_threads;
            params.flash_attn_type = c_api::FLASH_ATTENTION_DISABLED;
            params.type_k = c_api::TYPE_F32;
            params.type_v = c_api::TYPE_F32;
            (self.api.llama_init_from_model)(self.raw.as_ptr(), params)
        };
        let raw = NonNull::new(raw).unwrap_or_else(|| panic!("no context: {}", failure()));
        Context::new(self, raw)
    }

    /// Loads a low-rank adapter for this model.
    ///
    /// # Errors
    /// llama.cpp's message, if it refuses the file.
    pub(crate) fn adapter(&self, path: &Path) -> Result<Adapter<'_>, String> {
        Llama::take_log();
        let c_path = c_path(path);
        let _writing = self.writing();
        // SAFETY: the model is alive and nothing reads its list of adapters meanwhile; `c_path`
        // ends in NUL.
        let raw = unsafe { (self.api.llama_adapter_lora_init)(self.raw.as_ptr(), c_path.as_ptr()) };
        let raw = NonNull::new(raw).ok_or_else(failure)?;
        Ok(Adapter::new(self, raw))
    }

    /// Token ids of `text`. `add_special` puts the tokens in front that the model's file asks for
    /// (BOS); `parse_special` reads `<|…|>` in the text as control tokens.
    pub(crate) fn tokenize(&self, text: &str, add_special: bool, parse_special: bool) -> Vec<i32> {
        let text_bytes = i32::try_from(text.len()).expect("test texts are short");
        let call = |tokens: *mut i32, n_max| {
            // SAFETY: the text has `text_bytes` bytes and `tokens` has room for `n_max` ids.
            unsafe {
                (self.api.llama_tokenize)(
                    self.vocab,
                    text.as_ptr().cast(),
                    text_bytes,
                    tokens,
                    n_max,
                    add_special,
                    parse_special,
                )
            }
        };
        filled(call)
    }

    /// Text of `tokens`, piece by piece as llama-server puts its answers together; control tokens
    /// are left out unless `special`.
    pub(crate) fn detokenize(&self, tokens: &[i32], special: bool) -> String {
        let mut bytes: Vec<u8> = Vec::new();
        for &token in tokens {
            self.check(token);
            bytes.extend(filled(|piece: *mut u8, n_max| {
                // SAFETY: the id is in the vocabulary and `piece` has room for `n_max` bytes.
                unsafe {
                    let piece = piece.cast();
                    (self.api.llama_token_to_piece)(self.vocab, token, piece, n_max, 0, special)
                }
            }));
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// A token as the vocabulary spells it (`Ġthe`, `<|im_end|>`).
    pub(crate) fn token_text(&self, token: i32) -> String {
        self.check(token);
        // SAFETY: the id is in the vocabulary; the text belongs to the model.
        unsafe { owned((self.api.llama_vocab_get_text)(self.vocab, token)) }.unwrap_or_default()
    }

    /// Size of the vocabulary, the length of a row of logits.
    pub(crate) fn n_vocab(&self) -> usize {
        // SAFETY: the vocabulary lives as long as the model.
        let n_tokens = unsafe { (self.api.llama_vocab_n_tokens)(self.vocab) };
        usize::try_from(n_tokens).expect("a vocabulary has a size")
    }

    /// The beginning-of-sequence token; -1 if there is none.
    pub(crate) fn bos(&self) -> i32 {
        // SAFETY: as in `n_vocab`.
        unsafe { (self.api.llama_vocab_bos)(self.vocab) }
    }

    /// The end-of-sequence token; -1 if there is none.
    pub(crate) fn eos(&self) -> i32 {
        // SAFETY: as in `n_vocab`.
        unsafe { (self.api.llama_vocab_eos)(self.vocab) }
    }

    /// Does tokenizing with `add_special` put BOS in front?
    pub(crate) fn adds_bos(&self) -> bool {
        // SAFETY: as in `n_vocab`.
        unsafe { (self.api.llama_vocab_get_add_bos)(self.vocab) }
    }

    /// Does the token end an answer (end of sequence, end of turn)?
    pub(crate) fn is_eog(&self, token: i32) -> bool {
        self.check(token);
        // SAFETY: as in `n_vocab`, and the id is in the vocabulary.
        unsafe { (self.api.llama_vocab_is_eog)(self.vocab, token) }
    }

    /// The chat template (Jinja) in the model's file.
    pub(crate) fn chat_template(&self) -> Option<String> {
        // SAFETY: the model is alive; a null name asks for the default template.
        unsafe { owned((self.api.llama_model_chat_template)(self.raw.as_ptr(), ptr::null())) }
    }

    /// llama.cpp throws a C++ exception on some ids outside the vocabulary.
    fn check(&self, token: i32) {
        assert!(
            usize::try_from(token).is_ok_and(|index| index < self.n_vocab()),
            "token {token} is not in the vocabulary of {}",
            self.n_vocab()
        );
    }

    fn reading(&self) -> RwLockReadGuard<'_, ()> {
        self.adapters.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn writing(&self) -> RwLockWriteGuard<'_, ()> {
        self.adapters.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        // SAFETY: contexts and adapters borrow the model, so none is left.
        unsafe { (self.api.llama_model_free)(self.raw.as_ptr()) }
    }
}

/// Calls a function of the kind that answers with the negative size needed when a buffer is too
/// small.
fn filled<T: Clone + Default>(call: impl Fn(*mut T, i32) -> i32) -> Vec<T> {
    let needed = call(ptr::null_mut(), 0).checked_neg().expect("the result has a size");
    let mut items = vec![T::default(); usize::try_from(needed).expect("a size is not negative")];
    assert_eq!(call(items.as_mut_ptr(), needed), needed, "the size changed between two calls");
    items
}

/// What llama.cpp logged, as an error message.
fn failure() -> String {
    let log = Llama::take_log();
    if log.is_empty() { "llama.cpp said nothing".to_owned() } else { log.trim_end().to_owned() }
}

fn c_path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_encoded_bytes()).expect("paths have no NUL")
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
    let kept =
        if level == c_api::LOG_CONTINUE { KEPT_LAST.get() } else { level >= c_api::LOG_WARN };
    KEPT_LAST.set(kept);
    if kept {
        // SAFETY: llama.cpp passes a text that ends in NUL.
        let text = unsafe { owned(text) }.unwrap_or_default();
        // A panic must not cross into C, so a log that cannot be written is dropped.
        let _ = LOG.try_with(|log| log.try_borrow_mut().map(|mut log| log.push_str(&text)));
    }
}
