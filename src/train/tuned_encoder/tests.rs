//! A tiny encoder: its gradients against finite differences, and its directory written and read.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor, Var};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tempfile::TempDir;

use super::TunedEncoder;
use crate::train::condition::Condition;

const HIDDEN: usize = 8;
const WIDE: usize = 12;
const CONFIG: &str = r#"{"hidden_act": "gelu", "num_hidden_layers": 2, "num_attention_heads": 2,
    "layer_norm_eps": 1e-12}"#;
/// Two texts of different lengths.
const TEXTS: [&[u32]; 2] = [&[1, 5, 2], &[1, 3, 4, 6, 2]];

/// A model directory with random weights.
fn model(config: &str) -> TempDir {
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    let mut tensors = HashMap::new();
    let mut add = |name: String, shape: &[usize]| {
        let values = (0..shape.iter().product()).map(|_| rng.random_range(-0.8f32..0.8)).collect();
        tensors.insert(name, Tensor::from_vec(values, shape, &Device::Cpu).unwrap());
    };
    for (table, rows) in [("word", 7), ("position", 6), ("token_type", 2)] {
        add(format!("embeddings.{table}_embeddings.weight"), &[rows, HIDDEN]);
    }
    let mut layers = vec![("embeddings.LayerNorm".to_owned(), None)];
    for layer in 0..2 {
        for (part, sizes) in [
            ("attention.self.query", Some([HIDDEN, HIDDEN])),
            ("attention.self.key", Some([HIDDEN, HIDDEN])),
            ("attention.self.value", Some([HIDDEN, HIDDEN])),
            ("attention.output.dense", Some([HIDDEN, HIDDEN])),
            ("attention.output.LayerNorm", None),
            ("intermediate.dense", Some([WIDE, HIDDEN])),
            ("output.dense", Some([HIDDEN, WIDE])),
            ("output.LayerNorm", None),
        ] {
            layers.push((format!("encoder.layer.{layer}.{part}"), sizes));
        }
    }
    for (name, sizes) in layers {
        let weight: &[usize] = sizes.as_ref().map_or(&[HIDDEN], |sizes| sizes);
        add(format!("{name}.weight"), weight);
        add(format!("{name}.bias"), &weight[..1]);
    }
    let dir = TempDir::new().unwrap();
    candle_core::safetensors::save(&tensors, dir.path().join("model.safetensors")).unwrap();
    fs::write(dir.path().join("config.json"), config).unwrap();
    dir
}

fn load(dir: &Path) -> TunedEncoder {
    TunedEncoder::load(dir, &Device::Cpu).unwrap()
}

/// Some number that depends on all values of the embeddings.
fn objective(encoder: &TunedEncoder) -> Tensor {
    let embeddings = encoder.embed(&TEXTS).unwrap();
    assert_eq!(embeddings.dims(), [2, HIDDEN]);
    let weights = Tensor::arange(0f32, 16.0, &Device::Cpu).unwrap().reshape((2, HIDDEN)).unwrap();
    ((embeddings * weights).unwrap() * 0.1).unwrap().sum_all().unwrap()
}

fn nudge(var: &Var, index: usize, by: f32) {
    let mut values = var.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    values[index] += by;
    var.set(&Tensor::from_vec(values, var.shape(), &Device::Cpu).unwrap()).unwrap();
}

#[test]
fn every_learned_tensor_has_the_gradient_of_finite_differences() {
    let encoder = load(model(CONFIG).path());
    let gradients = objective(&encoder).backward().unwrap();
    let value = || objective(&encoder).to_scalar::<f32>().unwrap();
    assert_eq!(encoder.learned.len(), 2 * 16);
    let (mut worst, step) = (0f32, 0.01);
    for (name, var) in &encoder.learned {
        let gradient = gradients.get(var).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let largest = gradient.iter().fold(0f32, |most, g| most.max(g.abs()));
        // A bias of the keys adds the same to all scores of a query.
        if !name.ends_with("key.bias") {
            assert!(largest > 1e-3, "`{name}` has no gradient to speak of: {largest}");
        }
        for index in [0, gradient.len() / 2, gradient.len() - 1] {
            nudge(var, index, step);
            let above = value();
            nudge(var, index, -2.0 * step);
            let below = value();
            nudge(var, index, step);
            let difference = (above - below) / (2.0 * step);
            worst = worst.max((difference - gradient[index]).abs() / largest.max(0.05));
        }
    }
    assert!(worst < 0.03, "a gradient is off by {worst} of its largest");
}

#[test]
fn texts_are_embedded_alike_alone_and_together() {
    let encoder = load(model(CONFIG).path());
    let together = encoder.embed(&TEXTS).unwrap().to_vec2::<f32>().unwrap();
    for (text, together) in TEXTS.iter().zip(together) {
        let alone = encoder.embed(&[text]).unwrap().to_vec2::<f32>().unwrap().remove(0);
        let squares: f32 = alone.iter().map(|value| value * value).sum();
        assert!((squares / HIDDEN as f32 - 1.0).abs() < 1e-5);
        for (a, b) in alone.iter().zip(together) {
            assert!((a - b).abs() < 1e-5);
        }
    }
}

#[test]
fn texts_without_a_task_are_embedded_and_not_learned_from() {
    let encoder = load(model(CONFIG).path());
    let [task, other] = TEXTS.map(<[u32]>::to_vec);
    let embed = |conditions: &[Condition]| encoder.embed_conditions(conditions).unwrap();
    let both = embed(&[Condition::NoTask(other.clone()), Condition::Tokens(task.clone())]);
    let expected = encoder.embed(&[&other, &task]).unwrap();
    assert_eq!(both.to_vec2::<f32>().unwrap(), expected.to_vec2::<f32>().unwrap());

    let weights = Tensor::arange(0f32, 8.0, &Device::Cpu).unwrap();
    let gradients = |embeddings: Tensor| {
        embeddings.broadcast_mul(&weights).unwrap().sum_all().unwrap().backward().unwrap()
    };
    let (of_both, of_task) = (gradients(both), gradients(embed(&[Condition::Tokens(task)])));
    for (name, var) in &encoder.learned {
        let of =
            |found: &GradStore| found.get(var).unwrap().flatten_all().unwrap().to_vec1::<f32>();
        for (both, task) in of(&of_both).unwrap().into_iter().zip(of(&of_task).unwrap()) {
            assert!((both - task).abs() < 1e-4, "`{name}`: {both}, {task}");
        }
    }
    let embedding = Condition::Embedding(vec![0.0; HIDDEN]);
    assert!(encoder.embed_conditions(&[embedding]).is_err());
}

#[test]
fn what_is_written_reads_as_the_same_encoder() {
    let (source, copy) = (model(CONFIG), TempDir::new().unwrap());
    let encoder = load(source.path());
    nudge(&encoder.learned["encoder.layer.1.output.dense.weight"], 3, 0.5);
    encoder.save(copy.path()).unwrap();
    let embed = |encoder: &TunedEncoder| encoder.embed(&TEXTS).unwrap().to_vec2::<f32>().unwrap();
    assert_eq!(embed(&load(copy.path())), embed(&encoder));
    assert_ne!(embed(&load(source.path())), embed(&encoder));
    let config = fs::read_to_string(copy.path().join("config.json")).unwrap();
    assert_eq!(config, CONFIG);
}

#[test]
fn what_cannot_be_embedded_is_refused() {
    let encoder = load(model(CONFIG).path());
    let error = |texts: &[&[u32]]| encoder.embed(texts).unwrap_err().to_string();
    assert!(error(&[&[1, 2], &[]]).contains("without tokens"));
    assert!(error(&[&[1, 7]]).contains("number 7"), "{}", error(&[&[1, 7]]));
    assert!(error(&[&[1; 7]]).contains("number 6"), "{}", error(&[&[1; 7]]));
    let other = model(&CONFIG.replace("\"gelu\"", "\"relu\""));
    let error = TunedEncoder::load(other.path(), &Device::Cpu).unwrap_err().to_string();
    assert!(error.contains("relu"), "{error}");
}
