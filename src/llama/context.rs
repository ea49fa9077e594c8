//! One running sequence of a model, under at most one adapter.
//!
//! Goes in: token ids, an adapter with its scale. Comes out: logits `[tokens, vocabulary]` f32,
//! greedy continuations, log-likelihoods of given ones in nats.
//!
//! The cache keeps the last sequence: of the next one, only what follows their common prefix is
//! computed. Another adapter empties it. A context keeps the adapter that it uses alive, so the two
//! may be dropped in either order.

use std::ptr::{self, NonNull};
use std::slice;
use std::sync::Arc;

use super::adapter::{Adapter, AdapterHandle};
use super::c_api::{Batch, RawContext};
use super::error::LlamaError;
use super::logits::{argmax, log_probability};
use super::model::Model;
use super::{failure, take_log};

/// A running state of a model: one sequence, at most one adapter.
#[derive(Debug)]
pub struct Context<'m> {
    model: &'m Model,
    raw: NonNull<RawContext>,
    /// Most tokens of one computation.
    batch_tokens: usize,
    /// With its scale.
    adapter: Option<(Arc<AdapterHandle<'m>>, f32)>,
    /// The tokens in the cache.
    cached: Vec<i32>,
}

// SAFETY: a context is not tied to the thread that made it; every use needs `&mut`.
unsafe impl Send for Context<'_> {}

impl<'m> Context<'m> {
    pub(super) fn new(model: &'m Model, raw: NonNull<RawContext>, batch_tokens: usize) -> Self {
        Self { model, raw, batch_tokens, adapter: None, cached: Vec::new() }
    }

    /// Applies an adapter with a scale (1 is as compiled), or none.
    ///
    /// # Errors
    /// An adapter that was loaded for another model, or that llama.cpp refuses.
    pub fn set_adapter(&mut self, adapter: Option<(&Adapter<'m>, f32)>) -> Result<(), LlamaError> {
        let same = match (&adapter, &self.adapter) {
            (None, None) => true,
            (Some((new, scale)), Some((old, old_scale))) => {
                Arc::ptr_eq(&new.handle, old) && scale.to_bits() == old_scale.to_bits()
            }
            _ => false,
        };
        if same {
            return Ok(());
        }
        let mut pointers = Vec::new();
        let mut scales = Vec::new();
        let mut used = None;
        if let Some((adapter, scale)) = adapter {
            if !ptr::eq(adapter.handle.model, self.model) {
                return Err(LlamaError::OtherModel);
            }
            pointers.push(adapter.handle.raw.as_ptr());
            scales.push(scale);
            used = Some((Arc::clone(&adapter.handle), scale));
        }
        take_log();
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
        if status != 0 {
            return Err(LlamaError::Adapter { message: failure() });
        }
        self.clear();
        // Only now may the previous adapter go.
        self.adapter = used;
        Ok(())
    }

    /// Logits after each of `tokens`, all of them computed anew: `[tokens, vocabulary]`.
    ///
    /// # Errors
    /// No tokens, too many for the context, ids outside the vocabulary, a failing computation.
    pub fn logits(&mut self, tokens: &[i32]) -> Result<Vec<Vec<f32>>, LlamaError> {
        let mut rows = Vec::with_capacity(tokens.len());
        self.run(tokens, 0, &mut |_, row| rows.push(row.to_vec()))?;
        Ok(rows)
    }

    /// The most probable continuation of `prompt`: at most `max_new` ids, without the one that ends
    /// the answer. It also ends after the first tokens that `keep_going` does not want continued.
    ///
    /// # Errors
    /// As [`Context::logits`], and a continuation that might not fit the context.
    pub fn greedy(
        &mut self,
        prompt: &[i32],
        max_new: usize,
        keep_going: &mut dyn FnMut(&[i32]) -> bool,
    ) -> Result<Vec<i32>, LlamaError> {
        let (got, limit) = (prompt.len().saturating_add(max_new), self.n_ctx());
        if got > limit {
            return Err(LlamaError::TooManyTokens { got, limit });
        }
        let mut sequence = prompt.to_vec();
        while sequence.len() < got {
            let mut best = None;
            let last = sequence.len().saturating_sub(1);
            self.run(&sequence, last, &mut |_, row| best = argmax(row))?;
            let best = best.ok_or(LlamaError::NotANumber)?;
            if self.model.is_eog(best)? {
                break;
            }
            sequence.push(best);
            if !keep_going(&sequence[prompt.len()..]) {
                break;
            }
        }
        Ok(sequence.split_off(prompt.len()))
    }

    /// For each of the `answers`, the sum of the log-probabilities of its tokens after `prompt`, in
    /// nats. The prompt is computed once.
    ///
    /// # Errors
    /// As [`Context::logits`].
    pub fn log_likelihoods(
        &mut self,
        prompt: &[i32],
        answers: &[Vec<i32>],
    ) -> Result<Vec<f64>, LlamaError> {
        // The last token of the prompt predicts the first one of every answer.
        let from = prompt.len().checked_sub(1).ok_or(LlamaError::NoTokens)?;
        let mut sums = Vec::with_capacity(answers.len());
        for answer in answers {
            self.model.check(answer)?;
            let mut sum = 0.0;
            // The last token of an answer predicts nothing.
            if let Some((_, inputs)) = answer.split_last() {
                let sequence = [prompt, inputs].concat();
                self.run(&sequence, from, &mut |index, row| {
                    sum += log_probability(row, answer[index - from]);
                })?;
            }
            if sum.is_nan() {
                return Err(LlamaError::NotANumber);
            }
            sums.push(sum);
        }
        Ok(sums)
    }

    /// Tokens that the context has room for.
    pub fn n_ctx(&self) -> usize {
        // SAFETY: the context is alive.
        let n_ctx = unsafe { (self.model.api.llama_n_ctx)(self.raw.as_ptr()) };
        usize::try_from(n_ctx).unwrap_or(usize::MAX)
    }

    /// Makes `tokens` the sequence in the cache. `each` gets the logits after every token from the
    /// index `from` on, with the token's index.
    fn run(
        &mut self,
        tokens: &[i32],
        from: usize,
        each: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<(), LlamaError> {
        let limit = self.n_ctx();
        if tokens.is_empty() {
            return Err(LlamaError::NoTokens);
        }
        if tokens.len() > limit {
            return Err(LlamaError::TooManyTokens { got: tokens.len(), limit });
        }
        let mut start = self.rewind(tokens, from.min(tokens.len() - 1));
        self.model.check(&tokens[start..])?;
        for chunk in tokens[start..].chunks(self.batch_tokens) {
            let wanted = from.saturating_sub(start);
            if let Err(error) = self.decode(chunk, wanted) {
                // What is in the cache is not known any more.
                self.clear();
                return Err(error);
            }
            self.cached.extend_from_slice(chunk);
            for index in wanted..chunk.len() {
                each(start + index, self.row(index)?);
            }
            start += chunk.len();
        }
        Ok(())
    }

    /// Leaves the common prefix of `tokens` and the sequence in the cache, at most the first `most`
    /// tokens; how many these are.
    fn rewind(&mut self, tokens: &[i32], most: usize) -> usize {
        let equal = self.cached.iter().zip(tokens).take_while(|(old, new)| old == new).count();
        let keep = equal.min(most);
        let all = keep == self.cached.len();
        if keep > 0 && (all || self.cut(keep)) {
            self.cached.truncate(keep);
            return keep;
        }
        self.clear();
        0
    }

    /// Removes all but the first `keep` tokens; false where the model's cache cannot do that.
    fn cut(&mut self, keep: usize) -> bool {
        let Ok(keep) = i32::try_from(keep) else { return false };
        // SAFETY: the memory belongs to the live context; the sequence is number 0, and a negative
        // end is the sequence's own.
        unsafe {
            let memory = (self.model.api.llama_get_memory)(self.raw.as_ptr());
            (self.model.api.llama_memory_seq_rm)(memory, 0, keep, -1)
        }
    }

    /// Empties the cache.
    fn clear(&mut self) {
        self.cached.clear();
        // SAFETY: the memory belongs to the live context.
        unsafe {
            let memory = (self.model.api.llama_get_memory)(self.raw.as_ptr());
            (self.model.api.llama_memory_clear)(memory, true);
        }
    }

    /// Runs `tokens` after those in the cache; there are logits from the index `wanted` on.
    fn decode(&mut self, tokens: &[i32], wanted: usize) -> Result<(), LlamaError> {
        let too_many = || LlamaError::TooManyTokens { got: tokens.len(), limit: self.batch_tokens };
        let n_tokens = i32::try_from(tokens.len()).map_err(|_| too_many())?;
        let mut wanted: Vec<i8> =
            (0..tokens.len()).map(|index| i8::from(index >= wanted)).collect();
        let mut tokens = tokens.to_vec();
        let batch = Batch {
            n_tokens,
            token: tokens.as_mut_ptr(),
            embd: ptr::null_mut(),
            pos: ptr::null_mut(),
            n_seq_id: ptr::null_mut(),
            seq_id: ptr::null_mut(),
            logits: wanted.as_mut_ptr(),
        };
        take_log();
        let reading = self.model.reading();
        // SAFETY: the arrays have `n_tokens` items and outlive the call; the ids are in the
        // vocabulary.
        let status = unsafe { (self.model.api.llama_decode)(self.raw.as_ptr(), batch) };
        drop(reading);
        if status == 0 { Ok(()) } else { Err(LlamaError::Decode { status, message: failure() }) }
    }

    /// Logits after the token at `index` of the last batch.
    fn row(&mut self, index: usize) -> Result<&[f32], LlamaError> {
        let missing = |message: String| LlamaError::Decode { status: 0, message };
        let index = i32::try_from(index).map_err(|_| missing("no such token".into()))?;
        // SAFETY: the context is alive; an index without logits gives null.
        let row = unsafe { (self.model.api.llama_get_logits_ith)(self.raw.as_ptr(), index) };
        if row.is_null() {
            return Err(missing(failure()));
        }
        // SAFETY: a row has `n_vocab` items and stays until the next decode, which needs `&mut`.
        Ok(unsafe { slice::from_raw_parts(row, self.model.n_vocab()) })
    }
}

impl Drop for Context<'_> {
    fn drop(&mut self) {
        // SAFETY: nothing borrows from the context any more; adapter and model go after it.
        unsafe { (self.model.api.llama_free)(self.raw.as_ptr()) }
    }
}
