//! From a sentence to llama.cpp: adapters that the default bundle makes with `exact`, in the real
//! library and in the hands of others who read such files.
//!
//! Goes in: a task description. What is judged: the logits of the base with the adapter, next to
//! those of our own decoder with the same file, and the files themselves.

#![cfg(all(feature = "train", feature = "llama", feature = "embedded-bundle"))]

mod support;

use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use candle_core::Device;
use gguf::{GGUFFile, GGUFMetadataValue};
use safetensors::{Dtype, SafeTensors};
use t2lc::base::adapter::LoraBatch;
use t2lc::base::chat::Chat;
use t2lc::base::gguf_adapter::load_gguf_adapter;
use t2lc::llama::{self, Llama, LlamaError, Model};
use t2lc_runtime::backend::exact::Exact;
use t2lc_runtime::base::BaseModel;
use t2lc_runtime::bundle::Bundle;
use t2lc_runtime::compile::{Adapter, CompileOptions, Compiler, Format, compile_once};
use t2lc_runtime::describe::Description;
use t2lc_runtime::gguf::{GgmlType, Gguf, Value};
use t2lc_runtime::quantize::Quantization;
use t2lc_runtime::verify::{verify_adapter, verify_against_base};

use support::difference::Difference;
use support::twin::{base, f32_twin, llama_ids};
use support::{decoder, parts};

const FRENCH: &str = "translate English to French";
const SENTIMENT: &str = "say whether a movie review is positive or negative";

// What the default bundle adapts in SmolLM2-135M.
const LAYERS: usize = 30;
const RANK: u64 = 8;
const MODULES: [Module; 7] = [
    Module { gguf: "attn_q", peft: "self_attn.q_proj", columns: 576, rows: 576, heads: Some(9) },
    Module { gguf: "attn_k", peft: "self_attn.k_proj", columns: 576, rows: 192, heads: Some(3) },
    Module { gguf: "attn_v", peft: "self_attn.v_proj", columns: 576, rows: 192, heads: None },
    Module { gguf: "attn_output", peft: "self_attn.o_proj", columns: 576, rows: 576, heads: None },
    Module { gguf: "ffn_gate", peft: "mlp.gate_proj", columns: 576, rows: 1536, heads: None },
    Module { gguf: "ffn_up", peft: "mlp.up_proj", columns: 576, rows: 1536, heads: None },
    Module { gguf: "ffn_down", peft: "mlp.down_proj", columns: 1536, rows: 576, heads: None },
];

/// A linear map of a layer.
#[derive(Clone, Copy)]
struct Module {
    gguf: &'static str,
    peft: &'static str,
    columns: u64,
    rows: u64,
    /// Heads whose rows llama.cpp interleaves.
    heads: Option<usize>,
}

/// An adapter moves some logit by at least this much, so that the comparisons are about something.
const EFFECT_LARGEST: f64 = 0.1;
/// llama.cpp with F32 weights and an f32 adapter, and our decoder: largest difference, in logits.
const EXACT_LARGEST: f64 = 2e-3;

static COMPILER: LazyLock<Compiler> = LazyLock::new(|| {
    let files = t2lc::default_bundle::files().expect("the bundle is built in");
    let bundle = Bundle::from_static(&files).expect("the bundle is sound");
    Compiler::new(bundle, &Exact::default()).expect("the backend takes the graphs")
});

/// A user message as the chat template puts it.
static PROMPT: LazyLock<Vec<u32>> = LazyLock::new(|| {
    let chat = Chat::open(&parts::base_gguf()).expect("the base has a chat template");
    chat.prompt("The weather was fine, but the hotel was not.").expect("a plain message")
});

fn stored_as(quantization: Quantization) -> CompileOptions {
    CompileOptions { quantization, ..CompileOptions::default() }
}

fn compile(description: &str, options: CompileOptions) -> Adapter {
    let description = Description::new(description).expect("a plain description");
    COMPILER.compile(&description, options).expect("the description compiles")
}

fn file(adapter: &Adapter) -> &[u8] {
    adapter.gguf_bytes().expect("a GGUF adapter")
}

/// Loads an adapter into llama.cpp, which reads the whole file.
fn load(model: &'static Model, adapter: &Adapter) -> Result<llama::Adapter<'static>, LlamaError> {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("adapter.gguf");
    adapter.write_to(&path, false).expect("the adapter is written");
    model.adapter(&path)
}

/// The same file as our decoder applies it to a base.
fn load_into_decoder(adapter: &Adapter, base: &BaseModel) -> LoraBatch {
    load_gguf_adapter(file(adapter), base, &Device::Cpu).expect("the adapter fits the base")
}

#[test]
fn every_quantization_works_and_scale_zero_does_nothing() {
    let tokens = llama_ids(&PROMPT);
    let mut context = base().context(256, 2).unwrap();
    let plain = context.logits(&tokens).unwrap();
    for quantization in Quantization::ALL {
        let adapter = load(base(), &compile(FRENCH, stored_as(quantization))).unwrap();
        assert_eq!(adapter.meta("general.architecture").as_deref(), Some("llama"));
        assert_eq!(adapter.meta("adapter.lora.task_name").as_deref(), Some(FRENCH));
        context.set_adapter(Some((&adapter, 0.0))).unwrap();
        let unchanged = context.logits(&tokens).unwrap() == plain;
        assert!(unchanged, "{quantization}: scale 0 changes the logits");
        context.set_adapter(Some((&adapter, 1.0))).unwrap();
        let effect = Difference::between(&context.logits(&tokens).unwrap(), &plain);
        assert!(effect.largest > EFFECT_LARGEST, "{quantization}: {effect}");
    }
}

/// Largest share of an adapter's effect, root mean square, that llama.cpp's kernels may lose: they
/// round what they multiply the adapter with to 16 bits, or to 8 in blocks of 32.
fn rounding_share(quantization: Quantization) -> f64 {
    match quantization {
        Quantization::F32 => 1e-3,
        Quantization::F16 => 5e-3,
        Quantization::Bf16 => 2e-2,
        _ => 5e-2,
    }
}

#[test]
fn logits_equal_those_of_our_decoder_with_the_same_file() {
    let tokens = llama_ids(&PROMPT);
    let mut context = f32_twin().context(256, 2).unwrap();
    let plain = context.logits(&tokens).unwrap();
    for quantization in Quantization::ALL {
        let adapter = compile(FRENCH, stored_as(quantization));
        let ours = load_into_decoder(&adapter, &COMPILER.bundle().manifest.base);
        let ours = decoder::logits(&PROMPT, Some(&ours));
        context.set_adapter(Some((&load(f32_twin(), &adapter).unwrap(), 1.0))).unwrap();
        let theirs = context.logits(&tokens).unwrap();

        let effect = Difference::between(&theirs, &plain);
        assert!(effect.largest > EFFECT_LARGEST, "{quantization}: {effect}");
        let difference = Difference::between(&ours, &theirs);
        let (share, allowed) = (difference.rms / effect.rms, rounding_share(quantization));
        assert!(
            share <= allowed,
            "{quantization}: {share:.2e} of the effect, at most {allowed:.2e}; {difference}"
        );
        let exact = quantization != Quantization::F32 || difference.largest <= EXACT_LARGEST;
        assert!(exact, "{quantization}: {difference}");
    }
}

#[test]
fn an_adapter_with_rows_in_another_order_is_another_adapter() {
    // Shows that the comparison above would notice rows of `q_proj` that are not interleaved.
    let adapter = compile(FRENCH, stored_as(Quantization::F32));
    let base = &COMPILER.bundle().manifest.base;
    let mut without_heads = base.clone();
    for module in &mut without_heads.modules {
        module.permute_heads = None;
    }
    let [right, wrong] = [base, &without_heads]
        .map(|base| decoder::logits(&PROMPT, Some(&load_into_decoder(&adapter, base))));
    let difference = Difference::between(&wrong, &right);
    assert!(difference.largest > 100.0 * EXACT_LARGEST, "{difference}");
}

#[test]
fn the_scale_of_a_compile_is_that_of_llama_cpp() {
    let tokens = llama_ids(&PROMPT);
    let mut context = f32_twin().context(256, 2).unwrap();
    let plain = context.logits(&tokens).unwrap();
    let mut logits = |compiled: f32, applied: f32| {
        let options = CompileOptions { scale: compiled, ..stored_as(Quantization::F32) };
        let adapter = load(f32_twin(), &compile(SENTIMENT, options)).unwrap();
        context.set_adapter(Some((&adapter, applied))).unwrap();
        context.logits(&tokens).unwrap()
    };
    assert!(logits(0.0, 1.0) == plain, "an adapter of scale 0 changes the logits");
    let (half, whole) = (logits(0.5, 1.0), logits(1.0, 1.0));
    let difference = Difference::between(&half, &logits(1.0, 0.5));
    assert!(difference.largest <= EXACT_LARGEST, "{difference}");
    let difference = Difference::between(&half, &whole);
    assert!(difference.largest > 10.0 * EXACT_LARGEST, "{difference}");
}

#[test]
fn adapters_are_exchanged_while_the_model_stays() {
    let tokens = llama_ids(&PROMPT);
    let mut context = base().context(256, 2).unwrap();
    let plain = context.logits(&tokens).unwrap();
    let [french, sentiment] = [FRENCH, SENTIMENT]
        .map(|text| load(base(), &compile(text, CompileOptions::default())).unwrap());
    context.set_adapter(Some((&french, 1.0))).unwrap();
    let first = context.logits(&tokens).unwrap();
    context.set_adapter(Some((&sentiment, 1.0))).unwrap();
    let second = context.logits(&tokens).unwrap();
    let difference = Difference::between(&second, &first);
    assert!(difference.largest > EFFECT_LARGEST, "{difference}");

    context.set_adapter(Some((&french, 1.0))).unwrap();
    assert!(context.logits(&tokens).unwrap() == first, "the first adapter is not what it was");
    drop((french, sentiment));
    context.set_adapter(None).unwrap();
    assert!(context.logits(&tokens).unwrap() == plain, "the base is not what it was");
}

#[test]
fn another_base_is_refused_by_llama_cpp_and_explained_by_verify() {
    let adapter = compile(FRENCH, CompileOptions::default());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("french.gguf");
    adapter.write_to(&path, false).unwrap();
    let llama = Llama::load(&parts::llama_cpp_dir()).unwrap();
    let gemma = llama.model(&parts::gemma_gguf()).unwrap();
    let refusal = gemma.adapter(&path).unwrap_err().to_string();
    assert!(refusal.contains("model arch and LoRA arch mismatch"), "{refusal}");

    let parsed = Gguf::parse(file(&adapter)).unwrap();
    assert_eq!(verify_adapter(&parsed).problems, Vec::<String>::new());
    let bytes = fs::read(parts::gemma_gguf()).unwrap();
    let problems = verify_against_base(&parsed, &Gguf::parse(&bytes).unwrap()).problems;
    assert_eq!(
        problems[0],
        "the adapter is for architecture `llama` (base `SmolLM2-135M-Instruct`), but this base is \
         `gemma3` (`Gemma 3 270m`)"
    );
    let explains = |text: &str| problems.iter().any(|problem| problem.contains(text));
    let shape = "`blk.0.attn_q.weight.lora_a` has 576 in features, the base's \
                 `blk.0.attn_q.weight` has 640";
    assert!(explains(shape), "{problems:#?}");
    assert!(explains("the base's fingerprint is sha256:"), "{problems:#?}");

    let bytes = fs::read(parts::base_gguf()).unwrap();
    let right = verify_against_base(&parsed, &Gguf::parse(&bytes).unwrap());
    assert_eq!(right.problems, Vec::<String>::new());
}

#[test]
fn what_llama_cpp_must_not_see_is_refused_before() {
    let adapter = compile(FRENCH, CompileOptions::default());
    let mut bytes = file(&adapter).to_vec();
    // Inside the last matrix.
    let index = bytes.len() - 1000;
    bytes[index] ^= 1;
    let refusal = base().adapter_from_bytes(&bytes).unwrap_err();
    assert!(matches!(refusal, LlamaError::UnsoundAdapter { .. }), "{refusal}");
    assert!(refusal.to_string().contains("the file says sha256:"), "{refusal}");
    assert!(base().adapter_from_bytes(file(&adapter)).is_ok());

    let refusal = Llama::load(Path::new("elsewhere")).unwrap_err();
    assert!(matches!(refusal, LlamaError::OtherFolder { .. }), "{refusal}");
    let llama = Llama::load(&parts::llama_cpp_dir()).unwrap();
    let refusal = llama.model(Path::new("missing.gguf")).unwrap_err();
    assert!(matches!(refusal, LlamaError::Model { .. }), "{refusal}");
}

#[test]
fn what_does_not_fit_a_context_is_an_error() {
    let mut context = base().context(1, 2).unwrap();
    assert_eq!(context.n_ctx(), 256);
    let refusal = context.logits(&[0; 257]).unwrap_err();
    assert!(matches!(refusal, LlamaError::TooManyTokens { got: 257, limit: 256 }), "{refusal}");
    let refusal = context.greedy(&[0; 250], 7, &mut |_| true).unwrap_err();
    assert!(matches!(refusal, LlamaError::TooManyTokens { got: 257, limit: 256 }), "{refusal}");
    let vocabulary = i32::try_from(base().n_vocab()).unwrap();
    for token in [-1, vocabulary] {
        let refusal = context.logits(&[0, token]).unwrap_err();
        assert!(matches!(refusal, LlamaError::Token { got, .. } if got == token), "{refusal}");
    }
    assert!(matches!(context.logits(&[]), Err(LlamaError::NoTokens)));
}

/// Longer than what llama.cpp computes at once.
#[test]
fn the_cache_changes_nothing_but_the_order_of_additions() {
    let long: Vec<i32> = llama_ids(&PROMPT).into_iter().cycle().take(300).collect();
    let (prompt, answers) = (&long[..280], [long[280..290].to_vec(), long[285..].to_vec()]);
    let mut context = f32_twin().context(512, 2).unwrap();
    let sums = context.log_likelihoods(prompt, &answers).unwrap();
    for (answer, sum) in answers.iter().zip(sums) {
        let rows = context.logits(&[prompt, answer].concat()).unwrap();
        let log_p = |(row, &token): (&Vec<f32>, &i32)| {
            let total: f64 = row.iter().map(|&logit| f64::from(logit).exp()).sum();
            f64::from(row[usize::try_from(token).unwrap()]) - total.ln()
        };
        let expected: f64 = rows[prompt.len() - 1..].iter().zip(answer).map(log_p).sum();
        assert!((sum - expected).abs() < 1e-2, "{sum}, alone {expected}");
    }
    // Answers to prompts with a common prefix are those of a fresh context.
    let mut answer_of = |tokens: &[i32]| context.greedy(tokens, 8, &mut |_| true).unwrap();
    let second = [answer_of(prompt), answer_of(&long[..270])];
    for (tokens, second) in [prompt, &long[..270]].into_iter().zip(second) {
        let mut fresh = f32_twin().context(512, 2).unwrap();
        assert_eq!(fresh.greedy(tokens, 8, &mut |_| true).unwrap(), second);
    }
}

/// A value as the foreign reader has it.
fn foreign(value: &Value) -> GGUFMetadataValue {
    match value {
        Value::String(text) => GGUFMetadataValue::String(text.clone()),
        Value::F32(number) => GGUFMetadataValue::Float32(*number),
        Value::U32(number) => GGUFMetadataValue::Uint32(*number),
        other => panic!("adapters have no metadata of type {}", other.type_name()),
    }
}

#[test]
fn a_foreign_reader_finds_the_same_metadata_and_tensors() {
    let sides = |layer: usize| {
        MODULES.into_iter().flat_map(move |module| {
            let name = format!("blk.{layer}.{}.weight", module.gguf);
            [
                (format!("{name}.lora_a"), vec![module.columns, RANK]),
                (format!("{name}.lora_b"), vec![RANK, module.rows]),
            ]
        })
    };
    let expected: Vec<(String, Vec<u64>)> = (0..LAYERS).flat_map(sides).collect();
    // The reader is older than bf16 in GGUF.
    for quantization in Quantization::ALL.into_iter().filter(|it| *it != Quantization::Bf16) {
        let adapter = compile(FRENCH, stored_as(quantization));
        let ours = Gguf::parse(file(&adapter)).unwrap();
        let theirs = GGUFFile::read(file(&adapter)).unwrap().expect("the file is whole");
        assert_eq!(theirs.header.version, 3);
        let metadata: Vec<_> =
            theirs.header.metadata.iter().map(|entry| (entry.key.as_str(), &entry.value)).collect();
        let same: Vec<_> =
            ours.metadata().iter().map(|(key, value)| (key.as_str(), foreign(value))).collect();
        let same: Vec<_> = same.iter().map(|(key, value)| (*key, value)).collect();
        assert_eq!(metadata, same, "{quantization}");

        let shapes: Vec<(String, Vec<u64>)> =
            theirs.tensors.iter().map(|it| (it.name.clone(), it.dimensions.clone())).collect();
        assert_eq!(shapes, expected, "{quantization}");
        for (theirs, ours) in theirs.tensors.iter().zip(ours.tensors()) {
            let place = (theirs.name.as_str(), theirs.tensor_type as u32, theirs.offset);
            assert_eq!(place, (ours.name.as_str(), ours.ggml_type.id(), ours.offset_bytes));
        }
    }
}

#[test]
fn the_peft_directory_has_the_same_matrices_in_hugging_face_order() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("french");
    let peft = CompileOptions { format: Format::Peft, ..stored_as(Quantization::F32) };
    compile(FRENCH, peft).write_to(&path, false).unwrap();
    let weights = fs::read(path.join("adapter_model.safetensors")).unwrap();
    let weights = SafeTensors::deserialize(&weights).unwrap();
    let adapter = compile(FRENCH, stored_as(Quantization::F32));
    let gguf = Gguf::parse(file(&adapter)).unwrap();
    let tensors = 2 * MODULES.len() * LAYERS;
    assert_eq!((weights.len(), gguf.tensors().len()), (tensors, tensors));

    for (layer, module) in (0..LAYERS).flat_map(|layer| MODULES.map(|module| (layer, module))) {
        for (side, peft_side, heads) in [("a", "A", None), ("b", "B", module.heads)] {
            let name = format!("model.layers.{layer}.{}.lora_{peft_side}.weight", module.peft);
            let matrix = weights.tensor(&format!("base_model.model.{name}")).unwrap();
            let stored = format!("blk.{layer}.{}.weight.lora_{side}", module.gguf);
            let stored = gguf.tensor(&stored).unwrap();
            let [columns, rows] =
                [0, 1].map(|axis| usize::try_from(stored.dimensions[axis]).unwrap());
            assert_eq!((matrix.dtype(), matrix.shape()), (Dtype::F32, &[rows, columns][..]));
            let bytes: Vec<&[u8]> = gguf.data(stored).chunks_exact(4 * columns).collect();
            let expected: Vec<&[u8]> =
                (0..rows).map(|row| bytes[interleaved(row, rows, heads)]).collect();
            assert!(matrix.data() == expected.concat(), "{name}");
        }
    }

    let config = fs::read(path.join("adapter_config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_slice(&config).unwrap();
    // Alpha is the rank: the scale is in the matrices, as in the GGUF file.
    assert_eq!(config["r"], RANK);
    assert_eq!(config["lora_alpha"], RANK);
    let names = MODULES.map(|module| module.peft.rsplit('.').next());
    assert_eq!(config["target_modules"], serde_json::json!(names));
}

/// Where the GGUF file has a row of the Hugging Face order: row `half · j + i` of a head is its row
/// `2 · i + j`.
fn interleaved(row: usize, rows: usize, heads: Option<usize>) -> usize {
    let Some(heads) = heads else { return row };
    let half = rows / heads / 2;
    let (head, inside) = (row / (2 * half), row % (2 * half));
    2 * half * head + 2 * (inside % half) + inside / half
}

#[test]
fn equal_descriptions_give_equal_bytes() {
    let first = compile(FRENCH, CompileOptions::default());
    let again = Description::new("  translate English to French\r\n").unwrap();
    let (bundle, options) = (COMPILER.bundle(), CompileOptions::default());
    let again = compile_once(bundle, &Exact::default(), &again, options).unwrap();
    assert!(file(&first) == file(&again), "the bytes differ");
    assert_eq!((first.recipe, first.content), (again.recipe, again.content));
    let other = compile(SENTIMENT, CompileOptions::default());
    assert_ne!((first.recipe, first.content), (other.recipe, other.content));
}

#[test]
fn matrices_with_rows_shorter_than_a_block_are_stored_as_f16() {
    for quantization in Quantization::ALL {
        let adapter = compile(FRENCH, stored_as(quantization));
        for tensor in Gguf::parse(file(&adapter)).unwrap().tensors() {
            let short = tensor.name.ends_with(".lora_b") && quantization.block_len() > 1;
            let expected = if short { GgmlType::F16 } else { quantization.ggml_type() };
            assert_eq!(tensor.ggml_type, expected, "{quantization}: `{}`", tensor.name);
        }
    }
}
