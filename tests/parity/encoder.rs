//! The text encoder all-MiniLM-L6-v2: in go token ids and mask `[batch, tokens]`, out come task
//! embeddings `[batch, 384]` of Euclidean length √384.

use std::fs;
use std::sync::{LazyLock, OnceLock};

use candle_core::Device;
use t2lc::taskpack::TaskPack;
use t2lc::train::condition::Condition;
use t2lc::train::embed::DescriptionEncoder;
use t2lc::train::tuned_encoder::TunedEncoder;
use t2lc_export::encoder::adopt::adopt_encoder;
use t2lc_export::encoder::{Pooling, build_encoder};
use t2lc_export::weights::WeightType;
use t2lc_runtime::backend::exact::Exact;
use t2lc_runtime::backend::tract::Tract;
use t2lc_runtime::backend::{Backend, Graph, Tensor};
use t2lc_runtime::bundle::ENCODER;
use t2lc_runtime::encode::MAX_TOKENS;
use tokenizers::{Tokenizer, TruncationParams};

use crate::support::parts;
use crate::{EVERY_WEIGHT_TYPE, backends, bundle, cosine, floats, ort, relative_error};

const EMBEDDING_SIZE: usize = 384;

/// Largest relative error of an embedding against that of `exact`.
const NEAR_EXACT: f32 = 1e-5;

/// Descriptions of 5 to more than [`MAX_TOKENS`] tokens, and one of every task of the pack.
static DESCRIPTIONS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let mut texts = [
        "Summarize.",
        "Count words.",
        "Fix the spelling.",
        "Translate English to French.",
        "Answer multiple-choice science questions with a single letter.",
        "Classify the sentiment of a movie review as positive or negative.",
        "Übersetze den Satz ins Englische – naïve café, 東京, 😀.",
        "Convert Roman numerals (I, IV, XLII, MCMXCIV) to decimal numbers.",
        "Extract every e-mail address, phone number and date, and return them as a JSON object \
         with the keys `email`, `phone` and `date`.",
        "Solve grade-school arithmetic word problems step by step. Show each intermediate result \
         on a line of its own, then give the final number after `####`.",
        "You are given a clause from a contract. Say in plain English what it obliges each party \
         to do, in at most two sentences, without legal terms and without adding anything that \
         the clause does not say. If the clause obliges nobody, say so.",
    ]
    .map(str::to_owned)
    .to_vec();
    let label = "Label each support ticket with one of billing, shipping, returns or other. ";
    texts.push(label.repeat(30));
    let pack = TaskPack::load(&parts::fixture("taskpack")).unwrap();
    texts.extend(pack.tasks.into_iter().map(|mut task| task.descriptions.swap_remove(0)));
    texts
});

/// Token ids of [`DESCRIPTIONS`].
static TOKENS: LazyLock<Vec<Vec<i64>>> = LazyLock::new(|| {
    let mut tokenizer = Tokenizer::from_file(parts::encoder_dir().join("tokenizer.json")).unwrap();
    tokenizer.with_padding(None);
    let truncation = TruncationParams { max_length: MAX_TOKENS, ..TruncationParams::default() };
    tokenizer.with_truncation(Some(truncation)).unwrap();
    let ids = |text: &String| -> Vec<i64> {
        let encoding = tokenizer.encode(text.as_str(), true).unwrap();
        encoding.get_ids().iter().copied().map(i64::from).collect()
    };
    DESCRIPTIONS.iter().map(ids).collect()
});

/// Candle's embeddings of [`DESCRIPTIONS`].
static REFERENCE: LazyLock<Vec<Vec<f32>>> = LazyLock::new(|| {
    let encoder = DescriptionEncoder::load(&parts::encoder_dir(), &Device::Cpu).unwrap();
    DESCRIPTIONS.iter().map(|text| encoder.embed(text).unwrap()).collect()
});

/// The encoder graph with these weights, built once.
fn encoder_onnx(weights: WeightType) -> &'static [u8] {
    static GRAPHS: [OnceLock<Vec<u8>>; 3] = [const { OnceLock::new() }; 3];
    let index = EVERY_WEIGHT_TYPE.iter().position(|each| *each == weights).unwrap();
    GRAPHS[index].get_or_init(|| build_encoder(&parts::encoder_dir(), weights).unwrap())
}

/// Embeds a batch whose rows are padded with zeros to `width` tokens.
fn embed_padded(graph: &dyn Graph, rows: &[&[i64]], width: usize) -> Vec<Vec<f32>> {
    let padded = |fill: &dyn Fn(i64) -> i64| {
        let values = rows.iter().flat_map(|row| {
            let padding = std::iter::repeat_n(0, width - row.len());
            row.iter().map(|id| fill(*id)).chain(padding)
        });
        Tensor::I64 { shape: vec![rows.len(), width], values: values.collect() }
    };
    let inputs = [("input_ids", padded(&|id| id)), ("attention_mask", padded(&|_| 1))];
    let outputs = graph.run(&inputs, &["task_embedding"]).unwrap();
    let (shape, values) = floats(&outputs[0]);
    assert_eq!(shape, [rows.len(), EMBEDDING_SIZE]);
    values.chunks_exact(EMBEDDING_SIZE).map(<[f32]>::to_vec).collect()
}

fn embed(graph: &dyn Graph, ids: &[i64]) -> Vec<f32> {
    embed_padded(graph, &[ids], ids.len()).remove(0)
}

/// Checks some of the descriptions against candle: the cosine, and the length √E.
fn assert_near_candle(backend: &dyn Backend, weights: WeightType, bound: f64) {
    let graph = backend.load("encoder", encoder_onnx(weights)).unwrap();
    for (text, ids) in TOKENS.iter().enumerate() {
        let got = embed(graph.as_ref(), ids);
        let what = format!("{} {weights} `{:.30}`", backend.id(), DESCRIPTIONS[text]);
        let squares: f64 = got.iter().map(|value| f64::from(*value).powi(2)).sum();
        let length = (squares / EMBEDDING_SIZE as f64).sqrt();
        assert!((length - 1.0).abs() < 1e-4, "{what}: length {length} times √E");
        let near = cosine(&got, &REFERENCE[text]);
        assert!(near >= bound, "{what}: cosine {near} to candle");
    }
}

#[test]
fn the_default_bundle_has_this_encoder_to_the_byte() {
    let built = encoder_onnx(WeightType::Int8);
    assert!(built == bundle().file(ENCODER).unwrap(), "the encoder of the default bundle differs");
}

#[test]
fn descriptions_cover_the_range_of_lengths() {
    let lengths: Vec<usize> = TOKENS.iter().map(Vec::len).collect();
    assert_eq!(lengths.iter().min(), Some(&5));
    assert_eq!(lengths.iter().max(), Some(&MAX_TOKENS));
}

#[test]
fn descriptions_embedded_together_have_the_same_bits() {
    let encoder = DescriptionEncoder::load(&parts::encoder_dir(), &Device::Cpu).unwrap();
    let texts: Vec<&str> = DESCRIPTIONS.iter().map(String::as_str).collect();
    let together = encoder.conditions(&texts).unwrap();
    for ((text, together), alone) in texts.iter().zip(together).zip(REFERENCE.iter()) {
        assert_eq!(together, Condition::Embedding(alone.clone()), "{text:.30}");
    }
}

#[test]
fn encoder_of_f32_weights_matches_candle_in_exact() {
    assert_near_candle(&Exact::default(), WeightType::F32, 0.9999);
}

#[test]
fn encoder_of_f32_weights_matches_candle_in_tract() {
    assert_near_candle(&Tract, WeightType::F32, 0.9999);
}

#[test]
fn encoder_of_f32_weights_matches_candle_in_ort() {
    assert_near_candle(&ort(), WeightType::F32, 0.9999);
}

#[test]
fn encoder_of_f16_weights_matches_candle() {
    assert_near_candle(&Exact::default(), WeightType::F16, 0.9999);
    assert_near_candle(&Tract, WeightType::F16, 0.9999);
    assert_near_candle(&ort(), WeightType::F16, 0.9999);
}

#[test]
fn encoder_of_int8_weights_is_near_candle() {
    assert_near_candle(&Exact::default(), WeightType::Int8, 0.999);
    assert_near_candle(&Tract, WeightType::Int8, 0.999);
    assert_near_candle(&ort(), WeightType::Int8, 0.999);
}

/// Checks tract and ONNX Runtime against `exact` on all of the descriptions; prints the errors.
#[allow(clippy::print_stdout, reason = "what was measured, for people with --nocapture")]
fn assert_near_exact(what: &str, onnx: &[u8]) {
    let [exact, tract, ort] = backends().map(|backend| backend.load("encoder", onnx).unwrap());
    let mut largest = [0_f32; 2];
    for (text, ids) in TOKENS.iter().enumerate() {
        let want = embed(exact.as_ref(), ids);
        for (most, (name, graph)) in largest.iter_mut().zip([("tract", &tract), ("ort", &ort)]) {
            let error = relative_error(&embed(graph.as_ref(), ids), &want);
            assert!(
                error <= NEAR_EXACT,
                "{what} in {name}, `{:.30}`: {error} off exact",
                DESCRIPTIONS[text]
            );
            *most = most.max(error);
        }
    }
    let [tract, ort] = largest;
    println!("{what}: off exact by at most {tract:.1e} in tract, {ort:.1e} in ort");
}

#[test]
fn runtimes_compute_what_exact_computes_with_every_weight_type() {
    for weights in EVERY_WEIGHT_TYPE {
        assert_near_exact(&format!("encoder of {weights} weights"), encoder_onnx(weights));
    }
}

#[test]
fn runtimes_compute_what_exact_computes_with_the_bundled_encoder() {
    assert_near_exact("bundled encoder", bundle().file(ENCODER).unwrap());
}

#[test]
fn encoder_is_near_one_that_somebody_else_exported() {
    let path = parts::third_party_encoder_dir().join("model.onnx");
    let other = ort().load("third party", &fs::read(path).unwrap()).unwrap();
    let ours = ort().load("encoder", encoder_onnx(WeightType::Int8)).unwrap();
    for (text, ids) in TOKENS.iter().enumerate() {
        let input = |values| Tensor::I64 { shape: vec![1, ids.len()], values };
        let inputs = [
            ("input_ids", input(ids.clone())),
            ("attention_mask", input(vec![1; ids.len()])),
            ("token_type_ids", input(vec![0; ids.len()])),
        ];
        let outputs = other.run(&inputs, &["last_hidden_state"]).unwrap();
        let (shape, states) = floats(&outputs[0]);
        assert_eq!(shape, [1, ids.len(), EMBEDDING_SIZE]);
        // The sum points where the mean does.
        let sum = |column| -> f32 { states.iter().skip(column).step_by(EMBEDDING_SIZE).sum() };
        let pooled: Vec<f32> = (0..EMBEDDING_SIZE).map(sum).collect();

        let what = &DESCRIPTIONS[text];
        let near = cosine(&pooled, &REFERENCE[text]);
        assert!(near >= 0.99, "`{what:.30}`: cosine {near} to candle");
        let near = cosine(&pooled, &embed(ours.as_ref(), ids));
        assert!(near >= 0.998, "`{what:.30}`: cosine {near} to our int8 weights");
    }
}

#[test]
fn an_adopted_encoder_is_near_candle() {
    let path = parts::third_party_encoder_dir().join("model.onnx");
    let other = fs::read(path).unwrap();
    let adopted = adopt_encoder(&other, Pooling::Mean, EMBEDDING_SIZE).unwrap();
    let backends: [Box<dyn Backend>; 2] = [Box::new(Tract), Box::new(ort())];
    for backend in backends {
        let graph = backend.load(ENCODER, &adopted).unwrap();
        for (text, ids) in TOKENS.iter().enumerate() {
            let got = embed(graph.as_ref(), ids);
            let what = format!("{} `{:.30}`", backend.id(), DESCRIPTIONS[text]);
            let squares: f64 = got.iter().map(|value| f64::from(*value).powi(2)).sum();
            let length = (squares / EMBEDDING_SIZE as f64).sqrt();
            assert!((length - 1.0).abs() < 1e-4, "{what}: length {length} times √E");
            let near = cosine(&got, &REFERENCE[text]);
            assert!(near >= 0.99, "{what}: cosine {near} to candle");
        }
        // The mask reaches both the foreign part and ours.
        let (short, long) = (TOKENS[3].as_slice(), TOKENS[8].as_slice());
        let together = embed_padded(graph.as_ref(), &[short, long], long.len() + 9);
        let near = cosine(&together[0], &embed(graph.as_ref(), short));
        assert!(near >= 0.9999, "{}: cosine {near} to the unpadded text", backend.id());
    }
}

#[test]
fn the_encoder_that_is_trained_embeds_as_the_other() {
    let encoder = TunedEncoder::load(&parts::encoder_dir(), &Device::Cpu).unwrap();
    let texts: Vec<Vec<u32>> = TOKENS[..12]
        .iter()
        .map(|ids| ids.iter().map(|id| u32::try_from(*id).unwrap()).collect())
        .collect();
    let texts: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
    let got = encoder.embed(&texts).unwrap().to_vec2::<f32>().unwrap();
    for (got, expected) in got.iter().zip(REFERENCE.iter()) {
        let error = relative_error(got, expected);
        assert!(error <= 1e-5, "{error}");
    }
}

#[test]
fn padding_does_not_change_an_embedding() {
    let (short, long) = (TOKENS[3].as_slice(), TOKENS[8].as_slice());
    assert!(short.len() < long.len());
    for backend in backends() {
        let graph = backend.load("encoder", encoder_onnx(WeightType::F32)).unwrap();
        let alone = [embed(graph.as_ref(), short), embed(graph.as_ref(), long)];
        let together = embed_padded(graph.as_ref(), &[short, long], long.len() + 9);
        for (alone, together) in alone.iter().zip(&together) {
            let error = relative_error(together, alone);
            assert!(error <= 1e-5, "{}: {error}", backend.id());
        }
    }
}

#[test]
fn encoder_bytes_are_the_same_each_time() {
    for weights in EVERY_WEIGHT_TYPE {
        let again = build_encoder(&parts::encoder_dir(), weights).unwrap();
        assert!(again == encoder_onnx(weights), "{weights}");
    }
}
