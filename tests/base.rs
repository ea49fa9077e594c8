//! The base is the same model to the trainer as to llama.cpp: it reads the same tokens and computes
//! the same logits.
//!
//! Two comparisons of logits. On the published file llama.cpp rounds activations to 8 bits, in
//! blocks of 32, and the trainer does not: they agree roughly. On a twin of the file with F32
//! weights both compute in f32: they agree but for the order of additions.

#![cfg(all(feature = "train", feature = "llama"))]

mod support;

use std::fs;

use serde::Deserialize;
use t2lc::base::chat::{Chat, Message};
use t2lc::base::packed::{PackedBatch, PackedRow, shared_prefix};
use t2lc::llama::Model;
use t2lc::taskpack::TaskPack;

use support::difference::Difference;
use support::twin::{base, f32_twin, llama_ids};
use support::{decoder, parts};

/// Against 8-bit activations: largest and root mean square difference in units of the logits'
/// spread, and share of the tokens after which the same token is the most probable.
const ROUNDED_LARGEST_SPREADS: f64 = 1.0;
const ROUNDED_RMS_SPREADS: f64 = 0.2;
const ROUNDED_SAME_ARGMAX: f64 = 0.9;
/// Against F32 weights: largest difference, in logits.
const EXACT_LARGEST: f64 = 5e-4;
/// Between two ways to batch the same tokens in the decoder: largest difference, in logits.
const BATCHED_LARGEST: f64 = 1e-3;

/// A chat as llama-server evaluates it.
#[derive(Deserialize)]
struct Case {
    name: String,
    messages: Vec<Turn>,
    prompt: String,
    tokens: Vec<u32>,
}

#[derive(Deserialize)]
struct Turn {
    role: String,
    content: String,
}

fn cases() -> Vec<Case> {
    #[derive(Deserialize)]
    struct Prompts {
        cases: Vec<Case>,
    }
    let bytes = fs::read(parts::fixture("golden/chat/prompts.json")).expect("prompts.json");
    serde_json::from_slice::<Prompts>(&bytes).expect("chats with their prompts").cases
}

fn chat() -> Chat {
    Chat::open(&parts::base_gguf()).expect("the base has a tokenizer and a template")
}

#[test]
fn chats_become_the_prompts_and_tokens_of_llama_server() {
    let (chat, cases) = (chat(), cases());
    assert!(cases.len() > 10, "{} cases", cases.len());
    for Case { name, messages, prompt, tokens } in cases {
        let messages: Vec<Message<'_>> = messages
            .iter()
            .map(|turn| Message { role: &turn.role, content: &turn.content })
            .collect();
        assert_eq!(chat.render(&messages).unwrap(), prompt, "{name}");
        assert_eq!(chat.tokens(&prompt).unwrap(), tokens, "{name}");
        let theirs = base().tokenize(&prompt, true, true).unwrap();
        assert_eq!(theirs, llama_ids(&tokens), "{name}: llama.cpp");
    }
}

#[test]
fn task_pack_examples_become_the_tokens_of_llama_cpp() {
    let (chat, pack) = (chat(), TaskPack::load(&parts::fixture("taskpack")).unwrap());
    for task in pack.tasks.iter().step_by(6) {
        let example = &task.examples[0];
        let message = Message { role: "user", content: &example.input };
        let prompt = chat.render(&[message]).unwrap();
        assert_eq!(
            llama_ids(&chat.prompt(&example.input).unwrap()),
            base().tokenize(&prompt, true, true).unwrap(),
            "input of {}: {}",
            task.id,
            example.input
        );
        let output = chat.tokens(&example.output).unwrap();
        assert_eq!(
            llama_ids(&output),
            base().tokenize(&example.output, false, true).unwrap(),
            "output of {}: {}",
            task.id,
            example.output
        );
        assert_eq!(chat.text(&output).unwrap(), example.output, "output of {}", task.id);
    }
}

/// The decoder against llama.cpp, over the tokens of a short chat and of a longer one.
fn decoder_against(model: &Model) -> Difference {
    let mut context = model.context(256, 2).expect("a small context");
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for Case { tokens, .. } in
        cases().iter().filter(|case| ["plain", "several turns"].contains(&case.name.as_str()))
    {
        ours.extend(decoder::logits(tokens, None));
        theirs.extend(context.logits(&llama_ids(tokens)).expect("tokens of the base"));
    }
    Difference::between(&ours, &theirs)
}

#[test]
fn logits_are_near_those_of_llama_cpp_with_8_bit_activations() {
    let difference = decoder_against(base());
    let Difference { largest, rms, spread, same_argmax } = difference;
    assert!(largest <= ROUNDED_LARGEST_SPREADS * spread, "{difference}");
    assert!(rms <= ROUNDED_RMS_SPREADS * spread, "{difference}");
    assert!(same_argmax >= ROUNDED_SAME_ARGMAX, "{difference}");
}

#[test]
fn logits_equal_those_of_llama_cpp_with_f32_weights() {
    let difference = decoder_against(f32_twin());
    assert!(difference.largest <= EXACT_LARGEST, "{difference}");
}

#[test]
fn packed_examples_have_the_logits_of_each_alone() {
    let chat = chat();
    let inputs = ["big", "the capital of Norway", "They has eaten all of the apples."];
    let prompts: Vec<Vec<u32>> = inputs.iter().map(|input| chat.prompt(input).unwrap()).collect();
    let prefix = shared_prefix(&prompts);
    assert!(prefix > 20, "the prompts share {prefix} tokens");

    let row = PackedRow::with_prefix(&prompts[0][..prefix]);
    let mut rows = [row.clone(), row];
    // Row and segment of each prompt; the second row is padded.
    let places = [(0, 1), (0, 2), (1, 1)];
    let starts = prompts
        .iter()
        .zip(places)
        .map(|(prompt, (row, segment))| rows[row].extend(&prompt[prefix..], segment, prefix));
    let starts: Vec<usize> = starts.collect();
    let batch = PackedBatch::new(&rows);
    let hidden = decoder::decoder().forward(&batch, None, None).unwrap();

    for (((prompt, input), (row, _)), start) in prompts.iter().zip(inputs).zip(places).zip(starts) {
        let first = u32::try_from(row * batch.width + start).unwrap();
        let own: Vec<u32> = (first..).take(prompt.len() - prefix).collect();
        let packed = decoder::decoder().logits(&hidden, &own).unwrap().to_vec2::<f32>().unwrap();
        let alone = decoder::logits(prompt, None);
        let difference = Difference::between(&packed, &alone[prefix..]);
        assert!(difference.largest <= BATCHED_LARGEST, "`{input}`: {difference}");
    }
}
