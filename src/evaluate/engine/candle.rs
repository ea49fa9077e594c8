//! Our own decoder as an engine: examples are packed into batches, so that what their prompts share
//! is computed once.

use std::rc::Rc;

use anyhow::Result;

use super::{AdapterData, Engine, EngineKind, KeepGoing};
use crate::base::adapter::Delta;
use crate::base::decoder::Decoder;
use crate::base::gguf_adapter::load_gguf_adapter;
use crate::evaluate::choices::log_likelihoods;
use crate::evaluate::greedy::Greedy;

/// Most tokens of one forward pass, about; attention is quadratic in the length of a row.
const ROW_TOKENS: usize = 1200;

/// Computes answers with [`Decoder`].
#[derive(Debug, Clone, Copy)]
pub struct CandleEngine<'a> {
    decoder: &'a Decoder,
    /// The tokens that end an answer.
    ends: &'a [u32],
}

impl<'a> CandleEngine<'a> {
    /// The engine of a base whose answers end with one of `ends`.
    pub fn new(decoder: &'a Decoder, ends: &'a [u32]) -> Self {
        Self { decoder, ends }
    }
}

impl Engine for CandleEngine<'_> {
    type Prepared = Rc<dyn Delta>;

    fn kind(&self) -> EngineKind {
        EngineKind::Candle
    }

    fn prepare(&self, adapter: &AdapterData) -> Result<Option<Rc<dyn Delta>>> {
        let device = &self.decoder.device;
        let prepared: Rc<dyn Delta> = match adapter {
            AdapterData::Gguf { bytes, base } => Rc::new(load_gguf_adapter(bytes, base, device)?),
            AdapterData::Peft { adapter, base } => Rc::new(adapter.batch(base, device)?),
            AdapterData::Delta(delta) => Rc::clone(delta),
        };
        Ok(Some(prepared))
    }

    fn answers(
        &self,
        prompts: &[Vec<u32>],
        adapter: Option<&Rc<dyn Delta>>,
        max_new_tokens: usize,
        keep_going: KeepGoing<'_>,
    ) -> Result<Vec<Vec<u32>>> {
        let greedy = Greedy {
            decoder: self.decoder,
            adapter: adapter.map(Rc::as_ref),
            ends: self.ends,
            max_new_tokens,
            row_tokens: ROW_TOKENS,
        };
        greedy.answers(prompts, keep_going)
    }

    fn log_likelihoods(
        &self,
        prompts: &[Vec<u32>],
        choices: &[Vec<Vec<u32>>],
        adapter: Option<&Rc<dyn Delta>>,
    ) -> Result<Vec<Vec<f64>>> {
        log_likelihoods(self.decoder, adapter.map(Rc::as_ref), prompts, choices, ROW_TOKENS)
    }
}
