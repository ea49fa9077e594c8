//! Tests of `encoder`.

use std::fs;
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use safetensors::tensor::TensorView;

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
    fn new(test: &str, config: &str, tensors: &[(String, Vec<usize>)]) -> Self {
        let name = format!("t2lc-encoder-{test}-{}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("config.json"), config).unwrap();
        let bytes: Vec<Vec<u8>> = tensors
            .iter()
            .map(|(_, shape)| {
                let value = |i: usize| (i as f32 * 0.37).sin().to_le_bytes();
                (0..shape.iter().product::<usize>()).flat_map(value).collect()
            })
            .collect();
        let views = tensors.iter().zip(&bytes).map(|((name, shape), bytes)| {
            (name, TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap())
        });
        let file = safetensors::serialize(views, None).unwrap();
        fs::write(dir.join("model.safetensors"), file).unwrap();
        Self(dir)
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
    fs::create_dir(dir.path().join("1_Pooling")).unwrap();
    let pooling = dir.path().join("1_Pooling").join("config.json");
    fs::write(pooling, r#"{"pooling_mode_mean_tokens": false}"#).unwrap();
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
