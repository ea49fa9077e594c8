//! Both engines of the evaluation compute the same: our decoder, and llama.cpp on a twin of the base
//! with F32 weights, under adapters in f32.
//!
//! What is judged: scores, answers, and log-likelihoods of choices. A log-probability is a logit less
//! the logarithm of a sum over all of them, so it differs by at most twice the largest difference of
//! a logit, which `tests/llama.rs` bounds by 2e-3 under an adapter. The choices here have at most 5
//! tokens with the end of turn. Answers are equal unless two logits are nearer to each other than
//! that; in these examples, none are.

#![cfg(all(feature = "train", feature = "llama", feature = "tract", feature = "embedded-bundle"))]
// The helpers of a test fail as a test does.
#![allow(clippy::unwrap_used)]

mod support;

use std::rc::Rc;

use candle_core::Device;
use t2lc::base::chat::Chat;
use t2lc::base::gguf_adapter::load_gguf_adapter;
use t2lc::base::peft::PeftAdapter;
use t2lc::evaluate::{
    AdapterData, CandleEngine, Compile, Contestant, Engine, EvaluateOptions, Evaluation,
    LlamaEngine, evaluate,
};
use t2lc::taskpack::{ExampleSplit, TaskPack, Wording};
use t2lc_runtime::backend::tract::Tract;
use t2lc_runtime::base::BaseModel;
use t2lc_runtime::bundle::Bundle;
use t2lc_runtime::compile::{Adapter, CompileOptions, Compiler, Format};
use t2lc_runtime::describe::Description;
use t2lc_runtime::quantize::Quantization;

use support::twin::f32_twin;
use support::{decoder, parts};

/// Largest difference of two log-likelihoods, in nats: 5 tokens, 2 · 2e-3 each.
const LIKELIHOOD_LARGEST: f64 = 2e-2;

const CAPITAL: &str = "name the capital of the country";

fn chat() -> Chat {
    Chat::open(&parts::base_gguf()).unwrap()
}

fn compiler() -> Compiler {
    let files = t2lc::default_bundle::files().unwrap();
    Compiler::new(Bundle::from_static(&files).unwrap(), &Tract).unwrap()
}

fn compile_as(compiler: &Compiler, text: &str, format: Format) -> Adapter {
    let quantization = Quantization::F32;
    let options = CompileOptions { format, quantization, ..CompileOptions::default() };
    compiler.compile(&Description::new(text).unwrap(), options).unwrap()
}

fn gguf(compiler: &Compiler, text: &str) -> AdapterData {
    let adapter = compile_as(compiler, text, Format::Gguf);
    let base = Rc::new(compiler.bundle().manifest.base.clone());
    AdapterData::Gguf { bytes: adapter.gguf_bytes().unwrap().into(), base }
}

fn peft(compiler: &Compiler, text: &str) -> AdapterData {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("peft");
    compile_as(compiler, text, Format::Peft).write_to(&path, false).unwrap();
    let base: &BaseModel = &compiler.bundle().manifest.base;
    let adapter = Rc::new(PeftAdapter::load(&path, base).unwrap());
    AdapterData::Peft { adapter, base: Rc::new(base.clone()) }
}

/// Six examples of a task with free answers and of one with choices.
fn scores<E: Engine>(engine: &E, chat: &Chat) -> Evaluation {
    let pack = TaskPack::load(&parts::fixture("taskpack")).unwrap();
    let compiler = compiler();
    let compile: Compile<'_> =
        Rc::new(move |text: &str| -> anyhow::Result<AdapterData> { Ok(gguf(&compiler, text)) });
    let mut contestants =
        [Contestant::base(), Contestant::prompted(), Contestant::compiled(compile)];
    let options = EvaluateOptions {
        base: "sha256:base".into(),
        examples: 6,
        seed: 1,
        split: ExampleSplit::Test,
        tasks: vec!["country_to_capital".into(), "word_connotation".into()],
        wording: Wording::Unseen,
        descriptions: 1,
        reference: "base".into(),
        earlier: None,
    };
    evaluate(engine, chat, &pack, &mut contestants, &options, &mut |_| {}).unwrap()
}

#[test]
fn both_engines_give_equal_scores() {
    let chat = chat();
    let ours = scores(&CandleEngine::new(decoder::decoder(), &chat.ends), &chat);
    let theirs = scores(&LlamaEngine::new(f32_twin()), &chat);
    assert_eq!((ours.engine.as_str(), theirs.engine.as_str()), ("candle", "llama.cpp"));
    assert_eq!(ours.tasks, theirs.tasks);
    let compiled = |task: usize| ours.tasks[task].score("compiled").unwrap();
    // Else the scores would be equal because all answers are wrong.
    assert!(compiled(0) + compiled(1) > 0.0, "{:#?}", ours.tasks);
}

#[test]
fn both_engines_give_equal_answers_and_likelihoods_under_every_form_of_an_adapter() {
    let (chat, compiler) = (chat(), compiler());
    let candle = CandleEngine::new(decoder::decoder(), &chat.ends);
    let llama = LlamaEngine::new(f32_twin());
    let prompts = ["Norway", "Japan", "What do people in Peru speak?"];
    let prompts = prompts.map(|text| chat.prompt(text).unwrap()).to_vec();
    let choices = ["Oslo", "Tokyo", "Spanish"].map(|text| chat.answer(text).unwrap()).to_vec();
    assert!(choices.iter().all(|choice| choice.len() <= 5), "{choices:?}");
    let choices = vec![choices; prompts.len()];

    let mut likelihoods_of_forms = Vec::new();
    let (gguf, peft) = (gguf(&compiler, CAPITAL), peft(&compiler, CAPITAL));
    for (form, adapter) in [("none", None), ("GGUF", Some(&gguf)), ("PEFT", Some(&peft))] {
        let ours = adapter.map(|adapter| candle.prepare(adapter).unwrap().unwrap());
        let theirs = adapter.map(|adapter| llama.prepare(adapter).unwrap().unwrap());
        let (ours, theirs) = (ours.as_ref(), theirs.as_ref());

        let answers = candle.answers(&prompts, ours, 6, &mut |_, _| Ok(true)).unwrap();
        let same = llama.answers(&prompts, theirs, 6, &mut |_, _| Ok(true)).unwrap();
        assert_eq!(same, answers, "{form}");
        let first = llama.answers(&prompts, theirs, 6, &mut |index, _| Ok(index == 1)).unwrap();
        let expected = [&answers[0][..1], &answers[1], &answers[2][..1]];
        assert_eq!(first, expected, "{form}");

        let ours = candle.log_likelihoods(&prompts, &choices, ours).unwrap().concat();
        let theirs = llama.log_likelihoods(&prompts, &choices, theirs).unwrap().concat();
        for (ours, theirs) in ours.iter().zip(&theirs) {
            let difference = (ours - theirs).abs();
            assert!(difference <= LIKELIHOOD_LARGEST, "{form}: {ours} and {theirs}");
        }
        likelihoods_of_forms.push(theirs);
    }
    let largest = |left: &[f64], right: &[f64]| {
        left.iter().zip(right).fold(0_f64, |most, (l, r)| most.max((l - r).abs()))
    };
    let [plain, gguf, peft] = &likelihoods_of_forms[..] else { panic!("three forms") };
    assert!(largest(gguf, plain) > 10.0 * LIKELIHOOD_LARGEST, "the adapter changes little");
    assert!(largest(gguf, peft) <= LIKELIHOOD_LARGEST, "the forms of the adapter differ");
}

#[test]
fn what_fails_in_a_callback_ends_the_answers() {
    let prompts = [chat().prompt("Norway").unwrap()];
    let mut failing = |_: usize, _: &[u32]| -> anyhow::Result<bool> { anyhow::bail!("no more") };
    let error = LlamaEngine::new(f32_twin()).answers(&prompts, None, 6, &mut failing).unwrap_err();
    assert_eq!(error.to_string(), "no more");
}

#[test]
fn what_only_our_decoder_can_apply_is_not_run_in_llama_cpp() {
    let AdapterData::Gguf { bytes, base } = gguf(&compiler(), CAPITAL) else { panic!("a file") };
    let delta = Rc::new(load_gguf_adapter(&bytes, &base, &Device::Cpu).unwrap());
    let delta = AdapterData::Delta(delta);
    assert!(LlamaEngine::new(f32_twin()).prepare(&delta).unwrap().is_none());
    let chat = chat();
    let candle = CandleEngine::new(decoder::decoder(), &chat.ends);
    assert!(candle.prepare(&delta).unwrap().is_some());
}
