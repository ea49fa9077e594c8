//! Encoders of the architecture `NewModel` (gte-*-en-v1.5): in go token ids and mask
//! `[batch, tokens]`, out come task embeddings `[batch, 64]` of Euclidean length 8.
//!
//! The weights are small and random, in three layers. Candle has the architecture, written by
//! others, as the smaller variant of Stella: its hidden states, pooled here, are what `exact`,
//! tract and ONNX Runtime are compared with.

use std::collections::BTreeMap;
use std::fs;

use candle_core::{DType, Device};
use candle_nn::{Activation, VarBuilder};
use candle_transformers::models::stella_en_v5::{Config, Model, ModelVariant};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use t2lc_export::encoder::{Pooling, build_encoder};
use t2lc_export::weights::WeightType;
use t2lc_runtime::backend::exact::Exact;
use t2lc_runtime::backend::{Backend, Graph, Tensor};
use t2lc_runtime::encode::MAX_TOKENS;
use tempfile::TempDir;

use crate::{EVERY_WEIGHT_TYPE, backends, cosine, floats, relative_error};

const HIDDEN: usize = 64;
const HEADS: usize = 4;
const INNER: usize = 128;
const LAYERS: usize = 3;
const VOCABULARY: usize = 97;
const POSITIONS: usize = 512;
const THETA: f64 = 160_000.0;

/// Largest relative error of an embedding against that of `exact`.
const NEAR_EXACT: f32 = 2e-5;

/// Factors of NTK scaling; candle takes 0 where there is none.
const FACTORS: [f64; 2] = [2.0, 0.0];

/// Texts of 1 token to as many as the runtime reads.
fn texts() -> Vec<Vec<i64>> {
    let text = |tokens: usize| -> Vec<i64> {
        let ids = (0..tokens).map(|i| (i * 31 + tokens) % VOCABULARY);
        ids.map(|id| i64::try_from(id).unwrap()).collect()
    };
    [1, 5, 40, MAX_TOKENS].map(text).to_vec()
}

/// Values at most `spread` from `middle`, the same in every run.
fn random(state: &mut u32, count: usize, middle: f32, spread: f32) -> Vec<f32> {
    let mut next = || {
        // Marsaglia's xorshift.
        *state ^= *state << 13;
        *state ^= *state >> 17;
        *state ^= *state << 5;
        (*state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| middle + spread * next()).collect()
}

/// `model.safetensors`.
fn weights() -> Vec<u8> {
    let mut state = 2_463_534_242;
    let mut tensors = BTreeMap::new();
    let mut add = |name: String, shape: &[usize], middle, spread| {
        let values = random(&mut state, shape.iter().product(), middle, spread);
        let bytes: Vec<u8> = values.into_iter().flat_map(f32::to_le_bytes).collect();
        tensors.insert(format!("new.{name}"), (shape.to_vec(), bytes));
    };
    let mut norms = vec!["embeddings.LayerNorm".to_owned()];
    add("embeddings.word_embeddings.weight".to_owned(), &[VOCABULARY, HIDDEN], 0.0, 1.0);
    add("embeddings.token_type_embeddings.weight".to_owned(), &[2, HIDDEN], 0.0, 0.5);
    for layer in 0..LAYERS {
        let name = format!("encoder.layer.{layer}");
        for (part, rows, columns) in [
            ("attention.qkv_proj", 3 * HIDDEN, HIDDEN),
            ("attention.o_proj", HIDDEN, HIDDEN),
            ("mlp.down_proj", HIDDEN, INNER),
        ] {
            add(format!("{name}.{part}.weight"), &[rows, columns], 0.0, 0.25);
            add(format!("{name}.{part}.bias"), &[rows], 0.0, 0.25);
        }
        add(format!("{name}.mlp.up_gate_proj.weight"), &[2 * INNER, HIDDEN], 0.0, 0.25);
        norms.extend([format!("{name}.attn_ln"), format!("{name}.mlp_ln")]);
    }
    for name in norms {
        add(format!("{name}.weight"), &[HIDDEN], 1.0, 0.25);
        add(format!("{name}.bias"), &[HIDDEN], 0.0, 0.25);
    }
    let views = tensors.iter().map(|(name, (shape, bytes))| {
        (name, TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap())
    });
    safetensors::serialize(views, None).unwrap()
}

/// A model directory.
fn model_dir(factor: f64, pooling: Pooling) -> TempDir {
    let scaling = if factor == 0.0 {
        "null".to_owned()
    } else {
        format!(r#"{{"factor": {factor:?}, "type": "ntk"}}"#)
    };
    let config = format!(
        r#"{{"model_type": "new", "hidden_act": "gelu", "hidden_size": {HIDDEN},
        "num_hidden_layers": {LAYERS}, "num_attention_heads": {HEADS},
        "intermediate_size": {INNER}, "vocab_size": {VOCABULARY}, "type_vocab_size": 2,
        "max_position_embeddings": {POSITIONS}, "layer_norm_eps": 1e-12,
        "layer_norm_type": "layer_norm", "position_embedding_type": "rope",
        "rope_theta": {THETA}, "rope_scaling": {scaling}, "pack_qkv": true}}"#
    );
    let mode = match pooling {
        Pooling::Mean => "pooling_mode_mean_tokens",
        Pooling::Cls => "pooling_mode_cls_token",
    };
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("config.json"), config).unwrap();
    fs::write(dir.path().join("model.safetensors"), weights()).unwrap();
    fs::create_dir(dir.path().join("1_Pooling")).unwrap();
    let pooling = dir.path().join("1_Pooling").join("config.json");
    fs::write(pooling, format!(r#"{{"{mode}": true}}"#)).unwrap();
    dir
}

/// What candle computes for [`texts`]: the hidden states of all tokens.
fn candle_states(factor: f64) -> Vec<Vec<Vec<f32>>> {
    let config = Config {
        variant: ModelVariant::Small,
        vocab_size: VOCABULARY,
        hidden_size: HIDDEN,
        intermediate_size: INNER,
        num_hidden_layers: LAYERS,
        num_attention_heads: HEADS,
        max_position_embeddings: POSITIONS,
        rope_theta: THETA,
        norm_eps: 1e-12,
        activation_fn: Activation::Gelu,
        type_vocab_size: 2,
        scaling_factor: factor,
        ..Config::default()
    };
    let device = Device::Cpu;
    let builder = VarBuilder::from_buffered_safetensors(weights(), DType::F32, &device).unwrap();
    let mut model = Model::new(&config, builder).unwrap();
    let mut states = |text: &Vec<i64>| {
        let ids: Vec<u32> = text.iter().map(|id| u32::try_from(*id).unwrap()).collect();
        let ids = candle_core::Tensor::from_vec(ids, (1, text.len()), &device).unwrap();
        let mask = ids.ones_like().unwrap();
        let states = model.forward(&ids, &mask).unwrap();
        states.squeeze(0).unwrap().to_vec2::<f32>().unwrap()
    };
    texts().iter().map(&mut states).collect()
}

/// Not scaled to any length.
fn pooled(states: &[Vec<f32>], pooling: Pooling) -> Vec<f32> {
    match pooling {
        Pooling::Mean => (0..HIDDEN).map(|i| states.iter().map(|state| state[i]).sum()).collect(),
        Pooling::Cls => states[0].clone(),
    }
}

/// Embeds a batch whose rows are padded with zeros to `width` tokens.
fn embed_padded(graph: &dyn Graph, rows: &[Vec<i64>], width: usize) -> Vec<Vec<f32>> {
    let padded = |fill: fn(i64) -> i64| {
        let values = rows.iter().flat_map(|row| {
            let padding = std::iter::repeat_n(0, width - row.len());
            row.iter().map(move |id| fill(*id)).chain(padding)
        });
        Tensor::I64 { shape: vec![rows.len(), width], values: values.collect() }
    };
    let inputs = [("input_ids", padded(|id| id)), ("attention_mask", padded(|_| 1))];
    let outputs = graph.run(&inputs, &["task_embedding"]).unwrap();
    let (shape, values) = floats(&outputs[0]);
    assert_eq!(shape, [rows.len(), HIDDEN]);
    values.chunks_exact(HIDDEN).map(<[f32]>::to_vec).collect()
}

fn embed(graph: &dyn Graph, text: &[i64]) -> Vec<f32> {
    embed_padded(graph, &[text.to_vec()], text.len()).remove(0)
}

/// Least cosine to candle with full weights.
fn least_cosine(weights: WeightType) -> f64 {
    match weights {
        WeightType::F32 => 0.999_99,
        WeightType::F16 => 0.999_9,
        WeightType::Int8 => 0.99,
    }
}

#[test]
#[allow(clippy::print_stdout, reason = "what was measured, for people with --nocapture")]
fn graphs_of_every_weight_type_match_candle_on_every_backend() {
    for factor in FACTORS {
        let states = candle_states(factor);
        for pooling in [Pooling::Mean, Pooling::Cls] {
            let dir = model_dir(factor, pooling);
            for weights in EVERY_WEIGHT_TYPE {
                let onnx = build_encoder(dir.path(), weights).unwrap();
                let mut least = f64::INFINITY;
                let mut most = 0_f32;
                let graphs =
                    backends().map(|backend| (backend.id(), backend.load("gte", &onnx).unwrap()));
                for (text, states) in texts().iter().zip(&states) {
                    let what = format!("{weights} {pooling} {factor}, {} tokens", text.len());
                    let want = pooled(states, pooling);
                    let exact = embed(graphs[0].1.as_ref(), text);
                    for (id, graph) in &graphs {
                        let got = embed(graph.as_ref(), text);
                        let length = length_of(&got);
                        assert!((length - 1.0).abs() < 1e-4, "{what}: {length} times √hidden");
                        let near = cosine(&got, &want);
                        assert!(near >= least_cosine(weights), "{what} {id}: cosine {near}");
                        let error = relative_error(&got, &exact);
                        assert!(error <= NEAR_EXACT, "{what} {id}: {error} off exact");
                        (least, most) = (least.min(near), most.max(error));
                    }
                }
                println!("{weights} {pooling} {factor}: cosine {least:.7}, {most:.1e} off exact");
            }
        }
    }
}

/// Euclidean length in units of `√hidden`.
fn length_of(embedding: &[f32]) -> f64 {
    let squares: f64 = embedding.iter().map(|value| f64::from(*value).powi(2)).sum();
    (squares / HIDDEN as f64).sqrt()
}

#[test]
fn padding_does_not_change_an_embedding() {
    let rows = texts()[..3].to_vec();
    for pooling in [Pooling::Mean, Pooling::Cls] {
        let dir = model_dir(FACTORS[0], pooling);
        let onnx = build_encoder(dir.path(), WeightType::F32).unwrap();
        for backend in backends() {
            let graph = backend.load("gte", &onnx).unwrap();
            let together = embed_padded(graph.as_ref(), &rows, rows[2].len() + 9);
            for (row, together) in rows.iter().zip(&together) {
                let error = relative_error(together, &embed(graph.as_ref(), row));
                assert!(error <= NEAR_EXACT, "{} {pooling}: {error}", backend.id());
            }
        }
    }
}

#[test]
fn scaling_of_positions_and_pooling_show() {
    let text = &texts()[2];
    let embedding = |factor, pooling| {
        let onnx = build_encoder(model_dir(factor, pooling).path(), WeightType::F32).unwrap();
        embed(Exact::default().load("gte", &onnx).unwrap().as_ref(), text)
    };
    let base = embedding(2.0, Pooling::Mean);
    for (factor, pooling) in [(0.0, Pooling::Mean), (2.0, Pooling::Cls)] {
        assert!(relative_error(&embedding(factor, pooling), &base) > 1e-3, "{factor} {pooling}");
    }
}
