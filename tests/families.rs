//! The decoder computes what the reference implementations compute, for every family it reads.
//!
//! Tiny random models in `fixtures/bases/` come with the logits that the transformers library
//! computes for them. Gemma 3 270M is held against the real llama.cpp, with F32 weights and a
//! sequence that is longer than its sliding window. Damaged files say what is wrong.

#![cfg(all(feature = "train", feature = "llama"))]
// The helpers of a test fail as a test does.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use safetensors::SafeTensors;
use serde_json::Value;
use t2lc::base::chat::Chat;
use t2lc::base::decoder::{Decoder, KvCache};
use t2lc::base::describe::describe_base;
use t2lc::base::packed::{PackedBatch, PackedRow};
use t2lc_export::base::{from_config, from_gguf};
use t2lc_runtime::base::UNKNOWN_FINGERPRINT;
use t2lc_runtime::gguf::Gguf;

use support::difference::Difference;
use support::twin::{gemma_f32_twin, llama_ids};
use support::{decoder, parts};

const FAMILIES: [&str; 6] = ["llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text"];
/// Largest difference from transformers, in units of the logits' spread.
const LARGEST_SPREADS: f64 = 2e-4;
/// Largest difference from llama.cpp with F32 weights, in units of the logits' spread: it computes
/// GELU through a table of f16 values, which have a precision of 5e-4.
const LLAMA_CPP_SPREADS: f64 = 1e-2;

fn open(family: &str) -> Decoder {
    let dir = parts::fixture(format!("bases/{family}"));
    Decoder::open(&dir, &Device::Cpu).expect("the fixture is a base")
}

/// Token ids of a fixture, and the logits after each.
fn reference(family: &str) -> (Vec<u32>, Vec<Vec<f32>>) {
    let path = parts::fixture(format!("bases/{family}/logits.safetensors"));
    let bytes = fs::read(path).expect("the reference can be read");
    let file = SafeTensors::deserialize(&bytes).expect("the reference is a safetensors file");
    let words = |name: &str| -> Vec<[u8; 4]> {
        let data = file.tensor(name).expect("the reference is complete").data();
        data.chunks_exact(4).map(|word| word.try_into().unwrap()).collect()
    };
    let ids: Vec<u32> = words("ids").into_iter().map(u32::from_le_bytes).collect();
    let logits: Vec<f32> = words("logits").into_iter().map(f32::from_le_bytes).collect();
    let rows = logits.chunks_exact(logits.len() / ids.len()).map(<[f32]>::to_vec).collect();
    (ids, rows)
}

fn assert_close(what: &str, got: &[Vec<f32>], want: &[Vec<f32>]) {
    let difference = Difference::between(got, want);
    assert!(difference.largest <= LARGEST_SPREADS * difference.spread, "{what}: {difference}");
}

#[test]
fn every_family_has_the_logits_of_transformers() {
    for family in FAMILIES {
        let (ids, logits) = reference(family);
        assert_close(family, &decoder::logits_of(&open(family), &ids, None), &logits);
    }
}

#[test]
fn packed_segments_have_the_logits_of_each_alone() {
    for family in FAMILIES {
        let (base, (ids, _)) = (open(family), reference(family));
        // Two continuations of one prefix, each longer than the windows.
        let (prefix, one, two) = (&ids[..6], &ids[6..16], &ids[13..24]);
        let mut row = PackedRow::with_prefix(prefix);
        let starts = [row.extend(one, 1, prefix.len()), row.extend(two, 2, prefix.len())];
        let hidden = base.forward(&PackedBatch::new(&[row]), None, None).unwrap();
        for (own, start) in [one, two].into_iter().zip(starts) {
            let places: Vec<u32> = (u32::try_from(start).unwrap()..).take(own.len()).collect();
            let packed = base.logits(&hidden, &places).unwrap().to_vec2::<f32>().unwrap();
            let alone = decoder::logits_of(&base, &[prefix, own].concat(), None);
            assert_close(family, &packed, &alone[prefix.len()..]);
        }
    }
}

#[test]
fn a_cache_continues_a_sequence() {
    for family in FAMILIES {
        let (base, (ids, logits)) = (open(family), reference(family));
        let (first, rest) = ids.split_at(15);
        let mut cache = KvCache::default();
        let start = PackedBatch::new(&[PackedRow::with_prefix(first)]);
        base.forward(&start, None, Some(&mut cache)).unwrap();
        let mut row = PackedRow::default();
        row.extend(rest, 0, first.len());
        let batch = PackedBatch::new(&[row]);
        let x = base.embed(&batch).unwrap();
        let hidden = base.forward_embedded(x, &batch, None, Some(&mut cache)).unwrap();
        let all: Vec<u32> = (0..).take(rest.len()).collect();
        let got = base.logits(&hidden, &all).unwrap().to_vec2::<f32>().unwrap();
        assert_close(family, &got, &logits[first.len()..]);
    }
}

/// A copy of the Qwen2 fixture, changed before it is opened; the error that it gives.
fn refused(change: impl Fn(&Path)) -> String {
    let (dir, source) = (tempfile::tempdir().unwrap(), parts::fixture("bases/qwen2"));
    for file in ["config.json", "model.safetensors"] {
        fs::copy(source.join(file), dir.path().join(file)).unwrap();
    }
    change(dir.path());
    Decoder::open(dir.path(), &Device::Cpu).expect_err("the base is damaged").to_string()
}

fn change_config(dir: &Path, key: &str, value: &Value) {
    let path = dir.join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config[key] = value.clone();
    fs::write(path, config.to_string()).unwrap();
}

#[test]
fn damaged_bases_say_what_is_wrong() {
    let truncated = refused(|dir| {
        let path = dir.join("model.safetensors");
        let bytes = fs::read(&path).unwrap();
        fs::write(path, &bytes[..bytes.len() - 7]).unwrap();
    });
    assert!(truncated.contains("model.safetensors"), "{truncated}");
    assert!(truncated.contains("truncated"), "{truncated}");

    let missing = refused(|dir| change_config(dir, "tie_word_embeddings", &false.into()));
    assert!(missing.ends_with("the base has no tensor `lm_head.weight`"), "{missing}");

    let shape = refused(|dir| change_config(dir, "intermediate_size", &41.into()));
    assert!(
        shape.ends_with(
            "tensor `model.layers.0.mlp.gate_proj.weight` has shape [40, 32], expected [41, 32]"
        ),
        "{shape}"
    );

    let unknown = refused(|dir| change_config(dir, "model_type", &"phi3".into()));
    assert!(unknown.contains("model_type `phi3` is not supported"), "{unknown}");
    let lost = refused(|dir| fs::remove_file(dir.join("model.safetensors")).unwrap());
    assert!(lost.contains("neither model.safetensors nor"), "{lost}");
}

#[test]
fn half_precision_and_shards_are_read() {
    let (dir, source) = (tempfile::tempdir().unwrap(), parts::fixture("bases/qwen2"));
    fs::copy(source.join("config.json"), dir.path().join("config.json")).unwrap();
    let weights = candle_core::safetensors::load(source.join("model.safetensors"), &Device::Cpu);
    let mut map = serde_json::Map::new();
    let mut shards: [HashMap<String, Tensor>; 2] = Default::default();
    for (index, (name, weight)) in weights.unwrap().into_iter().enumerate() {
        let dtype = [DType::BF16, DType::F32][index % 2];
        map.insert(name.clone(), format!("{}.safetensors", index % 2).into());
        shards[index % 2].insert(name, weight.to_dtype(dtype).unwrap());
    }
    for (index, shard) in shards.iter().enumerate() {
        let path = dir.path().join(format!("{index}.safetensors"));
        candle_core::safetensors::save(shard, path).unwrap();
    }
    let index = serde_json::json!({ "weight_map": map }).to_string();
    fs::write(dir.path().join("model.safetensors.index.json"), index).unwrap();

    let (ids, logits) = reference("qwen2");
    let base = Decoder::open(dir.path(), &Device::Cpu).unwrap();
    let difference = Difference::between(&decoder::logits_of(&base, &ids, None), &logits);
    // bf16 keeps 8 bits.
    assert!(difference.rms < 0.1 * difference.spread, "{difference}");
    assert!(difference.largest > 0.0, "{difference}");
}

#[test]
fn directories_are_described_like_gguf_files() {
    let modules = ["q_proj".to_owned(), "k_proj".to_owned(), "down_proj".to_owned()];
    let base = describe_base(&parts::fixture("bases/gemma2"), &modules).unwrap();
    assert_eq!((base.architecture.as_str(), base.layers), ("gemma2", 4));
    assert!(base.tied_head && base.fingerprint.starts_with("sha256:"));
    let shapes: Vec<_> = base.modules.iter().map(|m| (m.in_features, m.out_features)).collect();
    assert_eq!(shapes, [(32, 48), (32, 24), (40, 32)]);
    let llama = describe_base(&parts::fixture("bases/llama"), &modules).unwrap();
    assert_eq!(llama.modules[1].permute_heads, Some(2));
    let gemma = describe_base(&parts::gemma_gguf(), &modules).unwrap();
    assert_eq!((gemma.architecture.as_str(), gemma.layers, gemma.tied_head), ("gemma3", 18, true));
    assert_eq!((gemma.modules[0].in_features, gemma.modules[0].out_features), (640, 1024));
}

#[test]
fn a_configuration_alone_describes_what_the_whole_directory_does() {
    let modules = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];
    let modules = modules.map(str::to_owned);
    for family in FAMILIES {
        let dir = parts::fixture(format!("bases/{family}"));
        let whole = describe_base(&dir, &modules).unwrap();
        let config = fs::read(dir.join("config.json")).unwrap();
        let mut alone = from_config(&serde_json::from_slice(&config).unwrap(), family).unwrap();
        assert_eq!(alone.fingerprint, UNKNOWN_FINGERPRINT);
        alone.fingerprint.clone_from(&whole.fingerprint);
        assert_eq!(alone, whole);
    }
    let path = parts::gemma_gguf();
    let bytes = fs::read(&path).unwrap();
    let whole = describe_base(&path, &modules).unwrap();
    assert_eq!(from_gguf(&Gguf::parse(&bytes).unwrap(), &whole.name).unwrap(), whole);
}

/// Longer than Gemma's window of 512 tokens.
fn long_text() -> String {
    let line = "The ship left the harbour at dawn, and 12 gulls followed it out to sea.\n";
    line.repeat(32)
}

#[test]
fn gemma_reads_the_tokens_of_llama_cpp() {
    let chat = Chat::open(&parts::gemma_gguf()).unwrap();
    let model = gemma_f32_twin();
    let texts = [
        "big",
        "  two spaces,\ttabs\n\n\nand 3 lines  ",
        "Übergröße, 東京, naïve — “quotes” 🦀 \u{1F9EA}\u{200D}",
        "<table><b>1+1=2</b></table>",
        &long_text(),
    ];
    for text in texts {
        let prompt = chat.prompt(text).unwrap();
        let rendered = format!("{text}\n\nAnswer:");
        assert_eq!(llama_ids(&prompt), model.tokenize(&rendered, true, true).unwrap(), "{text}");
        let answer = chat.answer(text).unwrap();
        let mut expected = model.tokenize(&format!(" {text}"), false, true).unwrap();
        expected.push(model.eos());
        assert_eq!(llama_ids(&answer), expected, "{text}");
        assert_eq!(chat.text(&chat.tokens(text).unwrap()).unwrap(), text);
    }
}

#[test]
fn gemma_has_the_logits_of_llama_cpp() {
    let chat = Chat::open(&parts::gemma_gguf()).unwrap();
    let base = Decoder::open(&parts::gemma_gguf(), &Device::Cpu).unwrap();
    let tokens = chat.prompt(&long_text()).unwrap();
    assert!(tokens.len() > 540, "{} tokens are within the window", tokens.len());
    let mut context = gemma_f32_twin().context(1024, 2).unwrap();
    let theirs = context.logits(&llama_ids(&tokens)).unwrap();
    let batch = PackedBatch::new(&[PackedRow::with_prefix(&tokens)]);
    let hidden = base.forward(&batch, None, None).unwrap();
    // The vocabulary is large: some places within the window and some beyond it.
    let places: Vec<u32> = (0..).take(tokens.len()).filter(|at| at % 37 == 5).collect();
    let ours = base.logits(&hidden, &places).unwrap().to_vec2::<f32>().unwrap();
    let theirs: Vec<Vec<f32>> =
        places.iter().map(|&at| theirs[usize::try_from(at).unwrap()].clone()).collect();
    let difference = Difference::between(&ours, &theirs);
    assert!(difference.largest <= LLAMA_CPP_SPREADS * difference.spread, "{difference}");
    assert!(difference.same_argmax >= 1.0, "{difference}");
}
