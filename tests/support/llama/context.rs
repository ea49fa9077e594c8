//! One running sequence of a model, and the adapters that it can run with.
//!
//! Goes in: token ids, an adapter with its scale. Comes out: logits `[tokens, vocabulary]` f32.
//! An adapter borrows its model; a context keeps the adapter that it uses alive, so the two may be
//! dropped in either order.

use super::c_api::{Batch, RawAdapter, RawContext};
use super::{Llama, Model, failure};
use std::ffi::{CString, c_char};
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::Arc;

/// A low-rank adapter, loaded for one model.
pub(crate) struct Adapter<'m> {
    // Shared with the contexts that use it, so that it may be dropped before them.
    handle: Arc<AdapterHandle<'m>>,
}

struct AdapterHandle<'m> {
    model: &'m Model,
    raw: NonNull<RawAdapter>,
}

// SAFETY: an adapter does not change after loading; it is freed under its model's lock.
unsafe impl Send for AdapterHandle<'_> {}
// SAFETY: as above.
unsafe impl Sync for AdapterHandle<'_> {}

impl<'m> Adapter<'m> {
    pub(super) fn new(model: &'m Model, raw: NonNull<RawAdapter>) -> Self {
        Self { handle: Arc::new(AdapterHandle { model, raw }) }
    }

    /// A scalar metadata value as llama.cpp prints it; `None` for arrays and absent keys.
    pub(crate) fn meta(&self, key: &str) -> Option<String> {
        let key = CString::new(key).expect("metadata keys have no NUL");
        let call = |buffer: *mut c_char, size| {
            // SAFETY: the adapter is alive, `key` ends in NUL, and `buffer` has `size` bytes.
            unsafe {
                (self.handle.model.api.llama_adapter_meta_val_str)(
                    self.handle.raw.as_ptr(),
                    key.as_ptr(),
                    buffer,
                    size,
                )
            }
        };
        let length = usize::try_from(call(ptr::null_mut(), 0)).ok()?;
        let mut bytes = vec![0_u8; length + 1]; // the value and a NUL
        call(bytes.as_mut_ptr().cast(), bytes.len());
        bytes.truncate(length);
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }
}

impl Drop for AdapterHandle<'_> {
    fn drop(&mut self) {
        let _writing = self.model.writing();
        // SAFETY: this is the last handle, so no context holds the adapter, and its model is
        // borrowed and therefore alive.
        unsafe { (self.model.api.llama_adapter_lora_free)(self.raw.as_ptr()) }
    }
}

/// A running state of a model: one sequence, at most one adapter.
pub(crate) struct Context<'m> {
    model: &'m Model,
    raw: NonNull<RawContext>,
    adapter: Option<Arc<AdapterHandle<'m>>>,
}

// SAFETY: a context is not tied to the thread that made it; every use needs `&mut`.
unsafe impl Send for Context<'_> {}

impl<'m> Context<'m> {
    pub(super) fn new(model: &'m Model, raw: NonNull<RawContext>) -> Self {
        Self { model, raw, adapter: None }
    }

    /// Applies an adapter with a scale (1 is as compiled), or none.
    ///
    /// # Panics
    /// If the adapter was loaded for another model.
    pub(crate) fn set_adapter(&mut self, adapter: Option<(&Adapter<'m>, f32)>) {
        let mut pointers = Vec::new();
        let mut scales = Vec::new();
        let mut handle = None;
        if let Some((adapter, scale)) = adapter {
            let same = ptr::eq(adapter.handle.model, self.model);
            assert!(same, "the adapter was loaded for another model");
            pointers.push(adapter.handle.raw.as_ptr());
            scales.push(scale);
            handle = Some(Arc::clone(&adapter.handle));
        }
        // SAFETY: both arrays have `pointers.len()` items, which the call copies; the adapter
        // outlives its use because `self.adapter` keeps it.
        let status = unsafe {
            (self.model.api.llama_set_adapters_lora)(
                self.raw.as_ptr(),
                pointers.as_mut_ptr(),
                pointers.len(),
                scales.as_mut_ptr(),
            )
        };
        assert_eq!(status, 0, "llama_set_adapters_lora");
        // Only now may the previous adapter go.
        self.adapter = handle;
    }

    /// Logits after each of `tokens`, from an empty cache: `[tokens, vocabulary]`.
    ///
    /// # Panics
    /// If there are no tokens, too many for the context, or ids outside the vocabulary.
    pub(crate) fn logits(&mut self, tokens: &[i32]) -> Vec<Vec<f32>> {
        self.clear();
        self.decode(tokens, true);
        (0..tokens.len()).map(|index| self.row(index).to_vec()).collect()
    }

    /// The most probable continuation of `tokens`, from an empty cache: at most `max_new` ids,
    /// without the one that ends the answer.
    ///
    /// # Panics
    /// As [`Context::logits`], and if the continuation does not fit the context.
    pub(crate) fn greedy(&mut self, tokens: &[i32], max_new: usize) -> Vec<i32> {
        let room = self.n_ctx().saturating_sub(tokens.len());
        assert!(max_new <= room, "{max_new} new tokens in a context with room for {room}");
        let mut answer = Vec::new();
        self.clear();
        let mut last = tokens.len().saturating_sub(1);
        self.decode(tokens, false);
        while answer.len() < max_new {
            let best = argmax(self.row(last));
            if self.model.is_eog(best) {
                break;
            }
            answer.push(best);
            if answer.len() < max_new {
                self.decode(&[best], false);
                last = 0;
            }
        }
        answer
    }

    /// Tokens that the context has room for.
    pub(crate) fn n_ctx(&self) -> usize {
        // SAFETY: the context is alive.
        let n_ctx = unsafe { (self.model.api.llama_n_ctx)(self.raw.as_ptr()) };
        usize::try_from(n_ctx).expect("`usize` has at least 32 bits")
    }

    fn clear(&mut self) {
        // SAFETY: the memory belongs to the live context.
        unsafe {
            let memory = (self.model.api.llama_get_memory)(self.raw.as_ptr());
            (self.model.api.llama_memory_clear)(memory, true);
        }
    }

    /// Runs `tokens` after those before; logits of all of them, or of the last.
    fn decode(&mut self, tokens: &[i32], all_logits: bool) {
        assert!(!tokens.is_empty(), "there is nothing to decode");
        assert!(tokens.len() <= self.n_ctx(), "{} tokens do not fit", tokens.len());
        let mut tokens = tokens.to_vec();
        let mut wanted = vec![1_i8; tokens.len()];
        let batch = Batch {
            n_tokens: i32::try_from(tokens.len()).expect("the tokens fit the context"),
            token: tokens.as_mut_ptr(),
            embd: ptr::null_mut(),
            pos: ptr::null_mut(),
            n_seq_id: ptr::null_mut(),
            seq_id: ptr::null_mut(),
            logits: if all_logits { wanted.as_mut_ptr() } else { ptr::null_mut() },
        };
        Llama::take_log();
        let _reading = self.model.reading();
        // SAFETY: the arrays have `n_tokens` items and outlive the call; llama.cpp checks the ids.
        let status = unsafe { (self.model.api.llama_decode)(self.raw.as_ptr(), batch) };
        assert_eq!(status, 0, "llama_decode: {}", failure());
    }

    /// Logits after the token at `index` of the last batch.
    fn row(&mut self, index: usize) -> &[f32] {
        let index = i32::try_from(index).expect("the tokens fit the context");
        // SAFETY: the context is alive; an index without logits gives null.
        let row = unsafe { (self.model.api.llama_get_logits_ith)(self.raw.as_ptr(), index) };
        assert!(!row.is_null(), "no logits at {index}: {}", failure());
        // SAFETY: a row has `n_vocab` items and stays until the next decode, which needs `&mut`.
        unsafe { slice::from_raw_parts(row, self.model.n_vocab()) }
    }
}

impl Drop for Context<'_> {
    fn drop(&mut self) {
        // SAFETY: nothing borrows from the context any more; adapter and model go after it.
        unsafe { (self.model.api.llama_free)(self.raw.as_ptr()) }
    }
}

/// The index of the largest logit, the lowest one on ties.
///
/// # Panics
/// If a logit is not a number.
pub(crate) fn argmax(row: &[f32]) -> i32 {
    let mut best = 0;
    for (index, logit) in row.iter().enumerate() {
        assert!(!logit.is_nan(), "logit {index} is not a number");
        if *logit > row[best] {
            best = index;
        }
    }
    i32::try_from(best).expect("token ids are `i32`")
}
