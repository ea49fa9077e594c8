//! A decoder of two layers with random weights and a tokenizer of letters, for tests.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use t2lc_runtime::gguf::{ArrayValue, GgmlType, GgufWriter, Value};

use crate::base::adapter::{LoraBatch, LoraPair};
use crate::base::chat::Chat;
use crate::base::decoder::Decoder;
use crate::base::packed::{PackedBatch, PackedRow};

const HIDDEN: u32 = 16;
const HEADS: u32 = 4;
const KV_HEADS: u32 = 2;
const LAYERS: u32 = 2;
const FEED_FORWARD: u32 = 24;

/// The base and its chat format.
pub(super) struct TinyModel {
    pub decoder: Decoder,
    pub chat: Chat,
}

impl TinyModel {
    /// The same model every time; its chat format knows the first message only.
    pub(super) fn new() -> Self {
        Self::with_template("{{ messages[0].content }}:")
    }

    /// The same model with another chat template.
    pub(super) fn with_template(template: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tiny.gguf");
        std::fs::write(&path, file(template)).unwrap();
        let decoder = Decoder::open(&path, &Device::Cpu).unwrap();
        Self { decoder, chat: Chat::open(&path).unwrap() }
    }
}

/// The end of turn, the letters, what the prompts of tests need, and one merge.
fn vocabulary() -> Vec<String> {
    let mut tokens = vec!["<|end|>".to_owned()];
    tokens.extend(('a'..='z').map(String::from));
    tokens.extend(["Ġ", "Ċ", ":", "th"].map(String::from));
    tokens
}

fn file(template: &str) -> Vec<u8> {
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    let mut file = GgufWriter::new();
    let strings = |values: Vec<String>| Value::Array(ArrayValue::String(values));
    let metadata = [
        ("general.architecture", Value::String("llama".into())),
        ("llama.embedding_length", Value::U32(HIDDEN)),
        ("llama.attention.head_count", Value::U32(HEADS)),
        ("llama.attention.head_count_kv", Value::U32(KV_HEADS)),
        ("llama.block_count", Value::U32(LAYERS)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
        ("tokenizer.ggml.model", Value::String("gpt2".into())),
        ("tokenizer.ggml.pre", Value::String("smollm".into())),
        ("tokenizer.ggml.tokens", strings(vocabulary())),
        ("tokenizer.ggml.merges", strings(vec!["t h".into()])),
        ("tokenizer.ggml.eos_token_id", Value::U32(0)),
        ("tokenizer.chat_template", Value::String(template.into())),
    ];
    for (key, value) in metadata {
        file.metadata(key, value).unwrap();
    }
    let mut tensor = |name: &str, dimensions: &[u32]| {
        let dimensions: Vec<u64> = dimensions.iter().map(|&size| u64::from(size)).collect();
        let count: u64 = dimensions.iter().product();
        let bytes: Vec<u8> =
            (0..count).flat_map(|_| rng.random_range(-0.6_f32..0.6).to_le_bytes()).collect();
        file.tensor(name, &dimensions, GgmlType::F32, bytes).unwrap();
    };
    let kv = KV_HEADS * HIDDEN / HEADS;
    for layer in 0..LAYERS {
        let parts: [(&str, &[u32]); 9] = [
            ("attn_norm", &[HIDDEN]),
            ("attn_q", &[HIDDEN, HIDDEN]),
            ("attn_k", &[HIDDEN, kv]),
            ("attn_v", &[HIDDEN, kv]),
            ("attn_output", &[HIDDEN, HIDDEN]),
            ("ffn_norm", &[HIDDEN]),
            ("ffn_gate", &[HIDDEN, FEED_FORWARD]),
            ("ffn_up", &[HIDDEN, FEED_FORWARD]),
            ("ffn_down", &[FEED_FORWARD, HIDDEN]),
        ];
        for (name, dimensions) in parts {
            tensor(&format!("blk.{layer}.{name}.weight"), dimensions);
        }
    }
    let vocabulary_len = u32::try_from(vocabulary().len()).unwrap();
    tensor("token_embd.weight", &[HIDDEN, vocabulary_len]);
    tensor("output.weight", &[HIDDEN, vocabulary_len]);
    tensor("output_norm.weight", &[HIDDEN]);
    file.finish().unwrap()
}

/// An adapter of `q_proj` with rank 2, one row, entries between `-size` and `size`.
pub(super) fn adapter(size: f32) -> LoraBatch {
    let mut rng = ChaCha8Rng::seed_from_u64(12);
    let mut matrix = || {
        let shape = (1, 2, HIDDEN as usize);
        let values: Vec<f32> =
            (0..2 * HIDDEN).map(|_| size * rng.random_range(-1.0_f32..1.0)).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    };
    let layers = (0..LAYERS).map(|_| LoraPair { a: matrix(), b_transposed: matrix() }).collect();
    LoraBatch::new(BTreeMap::from([("q_proj".to_owned(), layers)]), 0.5)
}

/// Logits after every token of one sequence that is computed on its own.
pub(super) fn logits_alone(
    model: &TinyModel,
    adapter: &LoraBatch,
    tokens: &[u32],
) -> Vec<Vec<f32>> {
    let batch = PackedBatch::new(&[PackedRow::with_prefix(tokens)]);
    let hidden = model.decoder.forward(&batch, Some(adapter), None).unwrap();
    let all: Vec<u32> = (0..).take(tokens.len()).collect();
    model.decoder.logits(&hidden, &all).unwrap().to_vec2().unwrap()
}
