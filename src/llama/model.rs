//! A base model in llama.cpp: weights, vocabulary and chat template.
//!
//! In: a GGUF file. Out: contexts and adapters, which borrow the model, and conversions between text
//! and token ids.

use std::ffi::c_char;
use std::fmt;
use std::path::Path;
use std::ptr::{self, NonNull};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::c_api::{self, Api, RawModel, RawVocab};
use super::context::Context;
use super::error::LlamaError;
use super::{c_path, failure, take_log};

/// Tokens that are computed at once, which bounds the memory for logits; llama.cpp rounds the size
/// of a context up to a multiple of this.
const BATCH_TOKENS: u32 = 256;

/// A base model.
pub struct Model {
    pub(super) api: &'static Api,
    pub(super) raw: NonNull<RawModel>,
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

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Model").finish_non_exhaustive()
    }
}

impl Model {
    pub(super) fn open(api: &'static Api, path: &Path) -> Result<Self, LlamaError> {
        let refused = |message: String| LlamaError::Model { path: path.to_owned(), message };
        let c_path = c_path(path).ok_or_else(|| refused("the path has a NUL byte".into()))?;
        take_log();
        // SAFETY: `c_path` ends in NUL and outlives the call; the parameters are the library's
        // own defaults, on the CPU.
        let raw = unsafe {
            let mut params = (api.llama_model_default_params)();
            params.n_gpu_layers = 0;
            (api.llama_model_load_from_file)(c_path.as_ptr(), params)
        };
        let raw = NonNull::new(raw).ok_or_else(|| refused(failure()))?;
        // SAFETY: `raw` is a live model; the vocabulary is a part of it.
        let vocab = unsafe { (api.llama_model_get_vocab)(raw.as_ptr()) };
        Ok(Self { api, raw, vocab, adapters: RwLock::new(()) })
    }

    /// A context for `n_ctx` tokens (rounded up to 256s) with any number of rows of logits. Beside
    /// the cache it takes about `256 · n_vocab · 4` bytes.
    ///
    /// # Errors
    /// llama.cpp's message, if it cannot make it.
    pub fn context(&self, n_ctx: u32, n_threads: i32) -> Result<Context<'_>, LlamaError> {
        let failed = |message: String| LlamaError::Context { tokens: n_ctx, message };
        let padded = n_ctx.max(1).checked_next_multiple_of(BATCH_TOKENS);
        let padded = padded.ok_or_else(|| failed("that is too many".into()))?;
        take_log();
        let reading = self.reading();
        // SAFETY: the model is alive; the parameters are the library's defaults with plain values
        // changed.
        let raw = unsafe {
            let mut params = (self.api.llama_context_default_params)();
            params.n_ctx = padded;
            params.n_batch = BATCH_TOKENS;
            params.n_ubatch = BATCH_TOKENS;
            // 0: as many outputs as a batch has tokens. The default is one per sequence.
            params.n_outputs_max = 0;
            params.n_outputs_max_per_seq = 0;
            params.n_threads = n_threads;
            params.n_threads_batch = n_threads;
            params.flash_attn_type = c_api::FLASH_ATTENTION_DISABLED;
            params.type_k = c_api::TYPE_F32;
            params.type_v = c_api::TYPE_F32;
            // Layers with a window keep all tokens, so that the end of a sequence can be removed.
            params.swa_full = true;
            (self.api.llama_init_from_model)(self.raw.as_ptr(), params)
        };
        drop(reading);
        let raw = NonNull::new(raw).ok_or_else(|| failed(failure()))?;
        Ok(Context::new(self, raw, BATCH_TOKENS as usize))
    }

    /// Token ids of `text`. `add_special` puts the tokens in front that the model's file asks for
    /// (BOS); `parse_special` reads `<|…|>` in the text as control tokens.
    ///
    /// # Errors
    /// A text of 2 GiB or more, or one that llama.cpp refuses.
    pub fn tokenize(
        &self,
        text: &str,
        add_special: bool,
        parse_special: bool,
    ) -> Result<Vec<i32>, LlamaError> {
        let failed = || LlamaError::Conversion { what: format!("a text of {} bytes", text.len()) };
        let text_bytes = i32::try_from(text.len()).map_err(|_| failed())?;
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
        filled(call).ok_or_else(failed)
    }

    /// Text of `tokens`, piece by piece as llama-server puts its answers together; control tokens
    /// are left out unless `special`.
    ///
    /// # Errors
    /// A token outside the vocabulary.
    pub fn detokenize(&self, tokens: &[i32], special: bool) -> Result<String, LlamaError> {
        let mut bytes: Vec<u8> = Vec::new();
        self.check(tokens)?;
        for &token in tokens {
            let piece = filled(|piece: *mut u8, n_max| {
                let piece: *mut c_char = piece.cast();
                // SAFETY: the id is in the vocabulary and `piece` has room for `n_max` bytes.
                unsafe {
                    (self.api.llama_token_to_piece)(self.vocab, token, piece, n_max, 0, special)
                }
            });
            let failed = || LlamaError::Conversion { what: format!("token {token}") };
            bytes.extend(piece.ok_or_else(failed)?);
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Size of the vocabulary, the length of a row of logits.
    pub fn n_vocab(&self) -> usize {
        // SAFETY: the vocabulary lives as long as the model.
        let n_tokens = unsafe { (self.api.llama_vocab_n_tokens)(self.vocab) };
        // A size is not negative; no token is in a vocabulary of none.
        usize::try_from(n_tokens).unwrap_or(0)
    }

    /// The end-of-sequence token; -1 if there is none.
    pub fn eos(&self) -> i32 {
        // SAFETY: as in `n_vocab`.
        unsafe { (self.api.llama_vocab_eos)(self.vocab) }
    }

    /// Does the token end an answer (end of sequence, end of turn)?
    ///
    /// # Errors
    /// A token outside the vocabulary.
    pub fn is_eog(&self, token: i32) -> Result<bool, LlamaError> {
        self.check(&[token])?;
        // SAFETY: as in `n_vocab`, and the id is in the vocabulary.
        Ok(unsafe { (self.api.llama_vocab_is_eog)(self.vocab, token) })
    }

    /// Refuses tokens outside the vocabulary: llama.cpp throws a C++ exception on some of them.
    pub(super) fn check(&self, tokens: &[i32]) -> Result<(), LlamaError> {
        let vocabulary = self.n_vocab();
        let unknown = |id: &i32| !usize::try_from(*id).is_ok_and(|index| index < vocabulary);
        match tokens.iter().copied().find(unknown) {
            Some(got) => Err(LlamaError::Token { got, vocabulary }),
            None => Ok(()),
        }
    }

    pub(super) fn reading(&self) -> RwLockReadGuard<'_, ()> {
        self.adapters.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn writing(&self) -> RwLockWriteGuard<'_, ()> {
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
/// small; `None` if it does not keep to that.
fn filled<T: Clone + Default>(call: impl Fn(*mut T, i32) -> i32) -> Option<Vec<T>> {
    let needed = call(ptr::null_mut(), 0).checked_neg()?;
    let mut items = vec![T::default(); usize::try_from(needed).ok()?];
    (call(items.as_mut_ptr(), needed) == needed).then_some(items)
}
