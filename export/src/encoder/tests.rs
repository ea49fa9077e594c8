//! Tests of `encoder`: what all architectures share, and BERT.

mod gte;
mod pooling;
mod reference;

use std::fs;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use t2lc_runtime::backend::exact::Exact;
use t2lc_runtime::backend::{Backend, Tensor};

use super::build_encoder;
use crate::error::ExportError;
use crate::weights::WeightType;

const CONFIG: &str = r#"{"model_type": "bert", "hidden_act": "gelu", "hidden_size": 8,
    "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12,
    "vocab_size": 11, "max_position_embeddings": 6, "type_vocab_size": 2,
    "layer_norm_eps": 1e-12, "pad_token_id": 0}"#;

fn shapes() -> Vec<(String, Vec<usize>)> {
    let mut list = vec![
        ("embeddings.word_embeddings.weight".to_owned(), vec![11, 8]),
        ("embeddings.position_embeddings.weight".to_owned(), vec![6, 8]),
        ("embeddings.token_type_embeddings.weight".to_owned(), vec![2, 8]),
    ];
    let mut norms = vec!["embeddings.LayerNorm".to_owned()];
    for layer in 0..2 {
        let prefix = format!("encoder.layer.{layer}");
        for (name, rows, columns) in [
            ("attention.self.query", 8, 8),
            ("attention.self.key", 8, 8),
            ("attention.self.value", 8, 8),
            ("attention.output.dense", 8, 8),
            ("intermediate.dense", 12, 8),
            ("output.dense", 8, 12),
        ] {
            list.push((format!("{prefix}.{name}.weight"), vec![rows, columns]));
            list.push((format!("{prefix}.{name}.bias"), vec![rows]));
        }
        norms.push(format!("{prefix}.attention.output.LayerNorm"));
        norms.push(format!("{prefix}.output.LayerNorm"));
    }
    for norm in norms {
        list.push((format!("{norm}.weight"), vec![8]));
        list.push((format!("{norm}.bias"), vec![8]));
    }
    list
}

/// A model directory of its own for one test.
struct ModelDir(PathBuf);

impl ModelDir {
    /// Tensors of these shapes, with some values.
    fn new(test: &str, config: &str, tensors: &[(String, Vec<usize>)]) -> Self {
        let values = |shape: &[usize]| -> Vec<f32> {
            (0..shape.iter().product::<usize>()).map(|i| (i as f32 * 0.37).sin()).collect()
        };
        let tensors: Vec<_> = tensors
            .iter()
            .map(|(name, shape)| (name.clone(), shape.clone(), values(shape)))
            .collect();
        Self::with_values(test, config, Dtype::F32, &tensors)
    }

    fn with_values(
        test: &str,
        config: &str,
        dtype: Dtype,
        tensors: &[(String, Vec<usize>, Vec<f32>)],
    ) -> Self {
        let name = format!("t2lc-encoder-{test}-{}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("config.json"), config).unwrap();
        let encode = |value: &f32| match dtype {
            Dtype::F16 => f16::from_f32(*value).to_le_bytes().to_vec(),
            Dtype::BF16 => bf16::from_f32(*value).to_le_bytes().to_vec(),
            Dtype::F64 => f64::from(*value).to_le_bytes().to_vec(),
            _ => value.to_le_bytes().to_vec(),
        };
        let bytes: Vec<Vec<u8>> =
            tensors.iter().map(|(_, _, values)| values.iter().flat_map(encode).collect()).collect();
        let views = tensors.iter().zip(&bytes).map(|((name, shape, _), bytes)| {
            (name, TensorView::new(dtype, shape.clone(), bytes).unwrap())
        });
        let file = safetensors::serialize(views, None).unwrap();
        fs::write(dir.join("model.safetensors"), file).unwrap();
        Self(dir)
    }

    /// The same directory with `1_Pooling/config.json`.
    fn with_pooling(self, json: &str) -> Self {
        let dir = self.path().join("1_Pooling");
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("config.json"), json).unwrap();
        self
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for ModelDir {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

/// Task embeddings of a batch; rows shorter than the longest are padded and masked.
fn embed(model: &[u8], rows: &[&[i64]]) -> Vec<Vec<f32>> {
    let tokens = rows.iter().map(|row| row.len()).max().unwrap();
    let padded = |fill: fn(i64) -> i64| {
        let row = |row: &&[i64]| -> Vec<i64> {
            let mut row: Vec<i64> = row.iter().map(|id| fill(*id)).collect();
            row.resize(tokens, 0);
            row
        };
        Tensor::I64 { shape: vec![rows.len(), tokens], values: rows.iter().flat_map(row).collect() }
    };
    let inputs = [("input_ids", padded(|id| id)), ("attention_mask", padded(|_| 1))];
    let graph = Exact::default().load("encoder", model).unwrap();
    match graph.run(&inputs, &["task_embedding"]).unwrap().remove(0) {
        Tensor::F32 { shape, values } => {
            assert_eq!((shape.len(), shape[0]), (2, rows.len()));
            values.chunks_exact(shape[1]).map(<[f32]>::to_vec).collect()
        }
        Tensor::I64 { .. } => panic!("an embedding of integers"),
    }
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).fold(0.0, |most, (a, b)| most.max((a - b).abs()))
}

#[test]
fn the_bytes_are_the_same_each_time() {
    let dir = ModelDir::new("repeat", CONFIG, &shapes());
    for weights in [WeightType::F32, WeightType::F16, WeightType::Int8] {
        let first = build_encoder(dir.path(), weights).unwrap();
        assert_eq!(first, build_encoder(dir.path(), weights).unwrap());
    }
}

#[test]
fn other_architectures_are_refused() {
    for (from, to, expected) in [
        ("\"bert\"", "\"roberta\"", "model_type"),
        ("\"gelu\"", "\"gelu_new\"", "hidden_act"),
        ("\"pad_token_id\": 0", "\"position_embedding_type\": \"x\"", "position_embedding_type"),
        ("_heads\": 2", "_heads\": 3", "num_attention_heads"),
        ("_heads\": 2", "_heads\": 0", "num_attention_heads"),
    ] {
        let dir = ModelDir::new("config", &CONFIG.replace(from, to), &shapes());
        let error = build_encoder(dir.path(), WeightType::F32).unwrap_err();
        assert!(matches!(error, ExportError::UnsupportedConfig { field, .. } if field == expected));
    }
    let dir = ModelDir::new("pooling", CONFIG, &shapes());
    let dir = dir.with_pooling(r#"{"pooling_mode_mean_tokens": false}"#);
    let error = build_encoder(dir.path(), WeightType::F32).unwrap_err();
    assert!(matches!(error, ExportError::UnsupportedConfig { .. }));
}

#[test]
fn tensors_that_do_not_fit_are_named() {
    let mut tensors = shapes();
    let missing = tensors.pop().unwrap().0;
    let dir = ModelDir::new("missing", CONFIG, &tensors);
    let error = build_encoder(dir.path(), WeightType::F32).unwrap_err();
    assert!(matches!(error, ExportError::TensorMissing { name } if name == missing));
    tensors[0].1 = vec![11, 9];
    let dir = ModelDir::new("shape", CONFIG, &tensors);
    let error = build_encoder(dir.path(), WeightType::F32).unwrap_err();
    assert!(matches!(error, ExportError::TensorShape { .. }));
}

#[test]
fn half_precision_weights_are_widened_exactly() {
    // Values that all three types hold.
    let values = |shape: &[usize]| -> Vec<f32> {
        let count = shape.iter().product::<usize>();
        (0..count).map(|i| ((i * 7 % 33) as f32 - 16.0) / 8.0).collect()
    };
    let tensors: Vec<_> = shapes()
        .into_iter()
        .map(|(name, shape)| {
            let values = values(&shape);
            (name, shape, values)
        })
        .collect();
    let build = |test: &str, dtype| {
        let dir = ModelDir::with_values(test, CONFIG, dtype, &tensors);
        build_encoder(dir.path(), WeightType::F32)
    };
    let wide = build("f32", Dtype::F32).unwrap();
    assert_eq!(build("f16", Dtype::F16).unwrap(), wide);
    assert_eq!(build("bf16", Dtype::BF16).unwrap(), wide);
    let error = build("f64", Dtype::F64).unwrap_err();
    let expected = "F32, F16 or BF16";
    assert!(matches!(error, ExportError::TensorType { expected: e, .. } if e == expected));
}

#[test]
fn names_may_have_the_prefix_of_a_model_with_a_head() {
    let dir = ModelDir::new("plain", CONFIG, &shapes());
    let plain = build_encoder(dir.path(), WeightType::F32).unwrap();
    let mut tensors = shapes();
    for (name, _) in &mut tensors {
        *name = format!("bert.{name}");
    }
    tensors.push(("bert.embeddings.position_ids".to_owned(), vec![1, 6]));
    tensors.push(("cls.predictions.bias".to_owned(), vec![11]));
    let dir = ModelDir::new("prefixed", CONFIG, &tensors);
    assert_eq!(build_encoder(dir.path(), WeightType::F32).unwrap(), plain);

    let position = tensors.iter().position(|(name, _)| name.ends_with("query.bias")).unwrap();
    let missing = tensors.remove(position).0;
    let dir = ModelDir::new("prefixed-missing", CONFIG, &tensors);
    let error = build_encoder(dir.path(), WeightType::F32).unwrap_err();
    assert!(matches!(error, ExportError::TensorMissing { name } if name == missing));
}

#[test]
fn the_pooling_of_the_directory_is_built() {
    let dir = ModelDir::new("default", CONFIG, &shapes());
    let default = build_encoder(dir.path(), WeightType::F32).unwrap();
    let dir = dir.with_pooling(r#"{"pooling_mode_mean_tokens": true}"#);
    assert_eq!(build_encoder(dir.path(), WeightType::F32).unwrap(), default);
    let dir = dir.with_pooling(r#"{"pooling_mode_cls_token": true}"#);
    let first = build_encoder(dir.path(), WeightType::F32).unwrap();
    let text: &[i64] = &[3, 7, 1, 10];
    // Of a single token both are the same; of several they are not.
    let [mean, cls] = [&default, &first].map(|model| embed(model, &[text]).remove(0));
    assert!(largest_difference(&mean, &cls) > 1e-3);
    let [mean, cls] = [&default, &first].map(|model| embed(model, &[&text[..1]]).remove(0));
    assert!(largest_difference(&mean, &cls) < 1e-5);
}
