//! llama.cpp as an engine: the program that runs compiled adapters, on the base's own weights.
//!
//! Prompts are computed one after the other, each only from where it differs from the one before.
//! GGUF adapters are loaded as they are, PEFT adapters as the F32 file that `convert` would write.
//! An answer ends at any token that llama.cpp takes for an end, not at the end of turn alone.

use std::cell::RefCell;
use std::num::NonZero;

use anyhow::{Context as _, Result};
use t2lc_runtime::quantize::Quantization;
use t2lc_runtime::write::plain_gguf_adapter;

use super::{AdapterData, Engine, EngineKind, KeepGoing};
use crate::llama::{Adapter, Context, Model};

/// Tokens of a context at least, so that one of these serves most tasks.
const CONTEXT_TOKENS: usize = 2048;
/// What the file of a PEFT adapter says of its licence; it is deleted once it is loaded.
const LICENCE: &str = "unknown";

/// Computes answers with a [`Model`].
#[derive(Debug)]
pub struct LlamaEngine<'m> {
    model: &'m Model,
    /// Made when the first prompt comes, and again for longer ones.
    context: RefCell<Option<Context<'m>>>,
    threads: i32,
}

impl<'m> LlamaEngine<'m> {
    /// The engine of a model, on all cores.
    pub fn new(model: &'m Model) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        Self { model, context: RefCell::new(None), threads: i32::try_from(cores).unwrap_or(1) }
    }

    /// Calls `run` with a context that has room for `tokens`, under the adapter.
    fn with_context<T>(
        &self,
        tokens: usize,
        adapter: Option<&Adapter<'m>>,
        run: impl FnOnce(&mut Context<'m>) -> Result<T>,
    ) -> Result<T> {
        let mut slot = self.context.borrow_mut();
        if slot.as_ref().is_none_or(|context| context.n_ctx() < tokens) {
            // The memory of the smaller one goes first.
            *slot = None;
            let tokens = u32::try_from(tokens.max(CONTEXT_TOKENS))?;
            *slot = Some(self.model.context(tokens, self.threads)?);
        }
        let context = slot.as_mut().context("a context was made")?;
        context.set_adapter(adapter.map(|adapter| (adapter, 1.0)))?;
        run(context)
    }
}

impl<'m> Engine for LlamaEngine<'m> {
    type Prepared = Adapter<'m>;

    fn kind(&self) -> EngineKind {
        EngineKind::LlamaCpp
    }

    fn prepare(&self, adapter: &AdapterData) -> Result<Option<Adapter<'m>>> {
        let adapter = match adapter {
            AdapterData::Gguf { bytes, .. } => self.model.adapter_from_bytes(bytes)?,
            AdapterData::Peft { adapter, base } => {
                let pairs = adapter.pairs(base)?;
                let (rank, quantization) = (adapter.rank, Quantization::F32);
                let bytes =
                    plain_gguf_adapter(&pairs, base, rank, quantization, "evaluated", LICENCE)?;
                self.model.adapter_from_bytes(&bytes)?
            }
            AdapterData::Delta(_) => return Ok(None),
        };
        Ok(Some(adapter))
    }

    fn answers(
        &self,
        prompts: &[Vec<u32>],
        adapter: Option<&Adapter<'m>>,
        max_new_tokens: usize,
        keep_going: KeepGoing<'_>,
    ) -> Result<Vec<Vec<u32>>> {
        let longest = longest(prompts.iter().map(Vec::len));
        self.with_context(longest.saturating_add(max_new_tokens), adapter, |context| {
            let mut answers = Vec::with_capacity(prompts.len());
            for (index, prompt) in prompts.iter().enumerate() {
                let mut failed = None;
                let mut going = |tokens: &[i32]| {
                    let goes = ours(tokens).and_then(|tokens| keep_going(index, &tokens));
                    goes.unwrap_or_else(|error| {
                        failed = Some(error);
                        false
                    })
                };
                let answer = context.greedy(&theirs(prompt)?, max_new_tokens, &mut going)?;
                if let Some(error) = failed {
                    return Err(error);
                }
                answers.push(ours(&answer)?);
            }
            Ok(answers)
        })
    }

    fn log_likelihoods(
        &self,
        prompts: &[Vec<u32>],
        choices: &[Vec<Vec<u32>>],
        adapter: Option<&Adapter<'m>>,
    ) -> Result<Vec<Vec<f64>>> {
        let lengths = prompts.iter().zip(choices).map(|(prompt, choices)| {
            prompt.len().saturating_add(longest(choices.iter().map(Vec::len)))
        });
        self.with_context(longest(lengths), adapter, |context| {
            let mut all = Vec::with_capacity(prompts.len());
            for (prompt, choices) in prompts.iter().zip(choices) {
                let choices = choices.iter().map(|choice| theirs(choice));
                let choices = choices.collect::<Result<Vec<_>>>()?;
                all.push(context.log_likelihoods(&theirs(prompt)?, &choices)?);
            }
            Ok(all)
        })
    }
}

fn longest(lengths: impl Iterator<Item = usize>) -> usize {
    lengths.max().unwrap_or(0)
}

/// Token ids as llama.cpp has them.
fn theirs(tokens: &[u32]) -> Result<Vec<i32>> {
    tokens.iter().map(|&id| Ok(i32::try_from(id)?)).collect()
}

/// Token ids as everything else has them.
fn ours(tokens: &[i32]) -> Result<Vec<u32>> {
    tokens.iter().map(|&id| Ok(u32::try_from(id)?)).collect()
}
