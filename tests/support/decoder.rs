//! Our own decoder with the weights of the base, to hold against llama.cpp.
//!
//! Goes in: token ids, and an adapter if any. Comes out: logits `[tokens, vocabulary]` f32, after
//! each token of one sequence that starts at position 0.

use std::sync::OnceLock;

use candle_core::Device;
use t2lc::base::adapter::{Delta, LoraBatch};
use t2lc::base::decoder::Decoder;
use t2lc::base::packed::{PackedBatch, PackedRow};

use super::parts;

/// The base, its weights dequantized to f32; read once per process.
pub(crate) fn decoder() -> &'static Decoder {
    static DECODER: OnceLock<Decoder> = OnceLock::new();
    DECODER.get_or_init(|| {
        Decoder::open(&parts::base_gguf(), &Device::Cpu).expect("the decoder reads the base")
    })
}

/// Logits after each of `tokens`; the adapter has one row.
///
/// # Panics
/// If the adapter does not fit the base.
pub(crate) fn logits(tokens: &[u32], adapter: Option<&LoraBatch>) -> Vec<Vec<f32>> {
    logits_of(decoder(), tokens, adapter)
}

/// As [`logits`], of any decoder.
///
/// # Panics
/// If the adapter does not fit the base.
pub(crate) fn logits_of(
    decoder: &Decoder,
    tokens: &[u32],
    adapter: Option<&LoraBatch>,
) -> Vec<Vec<f32>> {
    let batch = PackedBatch::new(&[PackedRow::with_prefix(tokens)]);
    let adapter = adapter.map(|adapter| adapter as &dyn Delta);
    let hidden = decoder.forward(&batch, adapter, None).expect("the decoder runs");
    let all: Vec<u32> = (0..).take(tokens.len()).collect();
    let logits = decoder.logits(&hidden, &all).expect("the hidden states are those of `tokens`");
    logits.to_vec2().expect("logits are a matrix of f32")
}
