//! Tests of `base`: the fixtures' configurations, a small GGUF file, and what is refused.

use std::fs;
use std::path::Path;

use serde_json::{Value as Json, json};
use t2lc_runtime::base::{BaseModel, UNKNOWN_FINGERPRINT};
use t2lc_runtime::gguf::{GgmlType, Gguf, GgufWriter, Value};

use super::{BaseError, from_config, from_gguf, with_modules};

fn fixture(family: &str) -> Json {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/bases");
    serde_json::from_slice(&fs::read(root.join(family).join("config.json")).unwrap()).unwrap()
}

/// `(in, out, heads)` of a module.
fn shape(base: &BaseModel, name: &str) -> (usize, usize, Option<usize>) {
    let module = base.modules.iter().find(|module| module.name == name).unwrap();
    (module.in_features, module.out_features, module.permute_heads)
}

#[test]
fn every_family_of_the_fixtures_is_described() {
    let expected = [
        ("llama", "llama", 3, true, (32, 32, Some(4)), (32, 16, Some(2))),
        ("mistral", "llama", 3, false, (32, 48, Some(4)), (32, 24, Some(2))),
        ("qwen2", "qwen2", 3, true, (32, 32, None), (32, 16, None)),
        ("qwen3", "qwen3", 3, false, (32, 48, None), (32, 24, None)),
        ("gemma2", "gemma2", 4, true, (32, 48, None), (32, 24, None)),
        ("gemma3_text", "gemma3", 7, true, (32, 48, None), (32, 12, None)),
    ];
    for (family, architecture, layers, tied_head, query, key) in expected {
        let base = from_config(&fixture(family), "tiny").unwrap();
        assert_eq!((base.name.as_str(), base.architecture.as_str()), ("tiny", architecture));
        assert_eq!((base.layers, base.tied_head), (layers, tied_head), "{family}");
        assert_eq!(base.fingerprint, UNKNOWN_FINGERPRINT);
        assert_eq!((shape(&base, "q_proj"), shape(&base, "k_proj")), (query, key), "{family}");
        assert_eq!(shape(&base, "v_proj"), (key.0, key.1, None), "{family}");
        assert_eq!(shape(&base, "o_proj"), (query.1, 32, None), "{family}");
        let (_, feed_forward, _) = shape(&base, "up_proj");
        assert_eq!(shape(&base, "gate_proj"), (32, feed_forward, None), "{family}");
        assert_eq!(shape(&base, "down_proj"), (feed_forward, 32, None), "{family}");
    }
}

#[test]
fn configurations_of_published_bases_have_the_shapes_of_the_paper() {
    let mistral = json!({
        "model_type": "mistral", "hidden_size": 4096, "intermediate_size": 14336,
        "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8,
        "tie_word_embeddings": false, "head_dim": null,
    });
    let base = from_config(&mistral, "Mistral-7B-Instruct-v0.2").unwrap();
    assert_eq!(shape(&base, "q_proj"), (4096, 4096, Some(32)));
    assert_eq!(shape(&base, "k_proj"), (4096, 1024, Some(8)));
    assert_eq!(shape(&base, "v_proj"), (4096, 1024, None));
    let gemma = json!({
        "model_type": "gemma2", "hidden_size": 2304, "intermediate_size": 9216, "head_dim": 256,
        "num_attention_heads": 8, "num_hidden_layers": 26, "num_key_value_heads": 4,
    });
    let base = from_config(&gemma, "gemma-2-2b-it").unwrap();
    assert_eq!((base.layers, base.tied_head), (26, true));
    assert_eq!(shape(&base, "q_proj"), (2304, 2048, None));
    assert_eq!(shape(&base, "v_proj"), (2304, 1024, None));
}

#[test]
fn modules_are_picked_in_the_given_order() {
    let base = from_config(&fixture("llama"), "tiny").unwrap();
    let picked = with_modules(&base, &["v_proj".into(), "q_proj".into()]).unwrap();
    let names: Vec<_> = picked.modules.iter().map(|module| module.name.as_str()).collect();
    assert_eq!(names, ["v_proj", "q_proj"]);
    assert_eq!(picked.layers, base.layers);
    let error = with_modules(&base, &["lm_head".into()]).unwrap_err();
    assert!(matches!(error, BaseError::Module { .. }), "{error}");
}

#[test]
fn unusable_configurations_are_refused_by_key() {
    let refused = |key: &str, value: Json| {
        let mut config = fixture("llama");
        config[key] = value;
        from_config(&config, "tiny").unwrap_err().to_string()
    };
    assert_eq!(
        refused("model_type", json!("phi3")),
        "base: model_type \"phi3\" is not supported, expected one of llama, mistral, qwen2, \
         qwen3, gemma2, gemma3_text"
    );
    assert_eq!(
        refused("hidden_size", Json::Null),
        "base: `hidden_size` is missing, expected a size"
    );
    for value in [json!(0), json!(-1), json!(1.5), json!("32"), json!(1_u64 << 63)] {
        let text = refused("num_hidden_layers", value.clone());
        assert!(text.starts_with(&format!("base: `num_hidden_layers` is {value}, ")), "{text}");
    }
    assert!(refused("tie_word_embeddings", json!(1)).contains("expected true or false"));
    let long = refused("model_type", json!(["x".repeat(1000)]));
    assert!(long.len() < 200, "{long}");
}

/// A llama of two layers, 8 wide, with 2 heads and 1 key head of 4, without `skipped`.
fn gguf(architecture: &str, skipped: &str, wide_layer: Option<usize>) -> Vec<u8> {
    let mut writer = GgufWriter::new();
    writer.metadata("general.architecture", Value::String(architecture.into())).unwrap();
    let numbers = [("block_count", 2), ("attention.head_count", 2), ("attention.head_count_kv", 1)];
    for (key, number) in numbers {
        writer.metadata(&format!("{architecture}.{key}"), Value::U32(number)).unwrap();
    }
    let mut add = |name: &str, dimensions: &[u64]| {
        if name != skipped {
            let count: u64 = dimensions.iter().product();
            let bytes = vec![0; usize::try_from(4 * count).unwrap()];
            writer.tensor(name, dimensions, GgmlType::F32, bytes).unwrap();
        }
    };
    for layer in 0..2 {
        let wide = if wide_layer == Some(layer) { 16 } else { 12 };
        for (tensor, inputs, outputs) in [
            ("attn_q", 8, 8),
            ("attn_k", 8, 4),
            ("attn_v", 8, 4),
            ("attn_output", 8, 8),
            ("ffn_gate", 8, wide),
            ("ffn_up", 8, wide),
            ("ffn_down", wide, 8),
        ] {
            add(&format!("blk.{layer}.{tensor}.weight"), &[inputs, outputs]);
        }
        add(&format!("blk.{layer}.attn_norm.weight"), &[8]);
    }
    add("output.weight", &[8, 5]);
    writer.finish().unwrap()
}

#[test]
fn a_gguf_file_is_described_with_its_fingerprint() {
    let bytes = gguf("llama", "", None);
    let base = from_gguf(&Gguf::parse(&bytes).unwrap(), "tiny").unwrap();
    assert_eq!((base.layers, base.tied_head, base.architecture.as_str()), (2, false, "llama"));
    assert!(base.fingerprint.starts_with("sha256:"));
    assert_eq!(shape(&base, "q_proj"), (8, 8, Some(2)));
    assert_eq!(shape(&base, "k_proj"), (8, 4, Some(1)));
    assert_eq!(shape(&base, "down_proj"), (12, 8, None));
    let bytes = gguf("qwen2", "output.weight", None);
    let base = from_gguf(&Gguf::parse(&bytes).unwrap(), "tiny").unwrap();
    assert!(base.tied_head);
    assert_eq!(shape(&base, "q_proj"), (8, 8, None));
}

#[test]
fn unusable_gguf_files_are_refused_by_tensor_or_key() {
    let refused =
        |bytes: &[u8]| from_gguf(&Gguf::parse(bytes).unwrap(), "tiny").unwrap_err().to_string();
    assert_eq!(
        refused(&gguf("llama", "blk.1.attn_k.weight", None)),
        "base: the file has no tensor `blk.1.attn_k.weight`"
    );
    assert_eq!(
        refused(&gguf("llama", "", Some(1))),
        "base: tensor `blk.1.ffn_gate.weight` has dimensions [8, 16], expected (8, 12), as in the \
         first layer"
    );
    assert!(refused(&gguf("phi3", "", None)).contains("architecture \"phi3\" is not supported"));
    let mut adapter = GgufWriter::new();
    adapter.metadata("general.architecture", Value::String("llama".into())).unwrap();
    let text = refused(&adapter.finish().unwrap());
    assert_eq!(text, "base: `llama.block_count` is missing, expected a size");
}
