//! The injected LoRA's gradient against finite differences, through tiny bases of three families.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{Device, Tensor, Var};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{StepSettings, answer_loss, step_gradients};
use crate::base::decoder::Decoder;
use crate::base::describe::describe_base;
use crate::train::batch::{BatchPart, Row, TokenizedExample, TrainingBatch};
use crate::train::condition::Condition;
use crate::train::learner::{Learner, lora_batch};
use crate::train::lora::{LoraSize, PlainLora};

const MODULES: [&str; 7] =
    ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

fn batch() -> TrainingBatch {
    let example = |prompt: &[u32], answer: &[u32]| TokenizedExample {
        prompt: prompt.to_vec(),
        answer: answer.to_vec(),
        input: String::new(),
    };
    let examples = [
        example(&[5, 9, 11, 3, 8, 21, 30], &[7, 2]),
        example(&[5, 9, 4], &[12, 13, 2]),
        example(&[6, 40, 41, 42, 43, 44], &[2]),
    ];
    let row = |examples| Row { task: "t".into(), examples, condition: Condition::nothing() };
    TrainingBatch::pack(vec![row(vec![&examples[0], &examples[1]]), row(vec![&examples[2]])])
        .unwrap()
}

/// A LoRA whose B is not zero, so that A has gradients.
fn lora(base: &Path) -> PlainLora {
    let modules = MODULES.map(String::from);
    let base = describe_base(base, &modules).unwrap();
    let size = LoraSize { rank: 2, alpha: 4.0, use_rslora: true };
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    let lora = PlainLora::new(base, size, &mut rng, &Device::Cpu).unwrap();
    for (name, var) in lora.parameters() {
        if name.starts_with("B.") {
            let values = (0..var.elem_count()).map(|_| rng.random_range(-0.3f32..0.3)).collect();
            var.set(&Tensor::from_vec(values, var.shape(), &Device::Cpu).unwrap()).unwrap();
        }
    }
    lora
}

fn nudge(var: &Var, index: usize, by: f32) {
    let mut values = var.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    values[index] += by;
    var.set(&Tensor::from_vec(values, var.shape(), &Device::Cpu).unwrap()).unwrap();
}

fn check(family: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/bases").join(family);
    let base = Decoder::open(&path, &Device::Cpu).unwrap();
    let (lora, batch) = (lora(&path), batch());
    let settings = StepSettings { label_smoothing: 0.1, ..StepSettings::default() };
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let (_, gradients) = step_gradients(&base, &lora, &batch, &settings, 0.0, &mut rng).unwrap();
    let loss = || -> f32 {
        let generated = lora.adapters(&batch.conditions, None).unwrap();
        let of_part = |part: &BatchPart| -> f32 {
            let adapters = lora_batch(&generated, &part.adapters, lora.scale()).unwrap();
            let loss = answer_loss(&base, part, &adapters, 0.1, None).unwrap();
            loss.to_scalar().unwrap()
        };
        batch.parts.iter().map(of_part).sum()
    };
    let mut worst: BTreeMap<String, f32> = BTreeMap::new();
    for (name, var) in lora.parameters() {
        let gradient = gradients[&name].flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let largest = gradient.iter().fold(0f32, |m, g| m.max(g.abs()));
        assert!(largest > 1e-4, "{family}: `{name}` has no gradient to speak of: {largest}");
        for _ in 0..6 {
            let index = rng.random_range(0..gradient.len());
            let step = 0.02;
            nudge(&var, index, step);
            let above = loss();
            nudge(&var, index, -2.0 * step);
            let below = loss();
            nudge(&var, index, step);
            let error = ((above - below) / (2.0 * step) - gradient[index]).abs() / largest;
            let entry = worst.entry(name.clone()).or_default();
            *entry = entry.max(error);
        }
    }
    for (name, error) in worst {
        assert!(error < 0.03, "{family}: gradient of `{name}` is off by {error} of its largest");
    }
}

#[test]
fn gradients_of_all_seven_modules_are_right_in_llama() {
    check("llama");
}

#[test]
fn gradients_of_all_seven_modules_are_right_in_qwen3() {
    check("qwen3");
}

#[test]
fn gradients_of_all_seven_modules_are_right_in_gemma2() {
    check("gemma2");
}

#[test]
fn what_describes_no_task_is_drawn_to_zero_and_costs_no_loss() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/bases/llama");
    let base = Decoder::open(&path, &Device::Cpu).unwrap();
    let (lora, mut batch, settings) = (lora(&path), batch(), StepSettings::default());
    let gradients = |batch: &TrainingBatch, decay| {
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        step_gradients(&base, &lora, batch, &settings, decay, &mut rng).unwrap()
    };
    let (loss, without) = gradients(&batch, 10.0);
    batch.nonsense = vec![Condition::nothing(); 3];
    let (same_loss, with) = gradients(&batch, 10.0);
    assert_eq!(loss.to_bits(), same_loss.to_bits());
    for (name, var) in lora.parameters() {
        let added = (&with[&name] - &without[&name]).unwrap();
        // A plain LoRA gives all texts the same matrices: the mean square is that of its own.
        let factor = if name.starts_with("B.") { 20.0 / var.elem_count() as f64 } else { 0.0 };
        let expected = (var.as_tensor() * factor).unwrap();
        let error = (added - expected).unwrap().abs().unwrap().max_all().unwrap();
        assert!(error.to_scalar::<f32>().unwrap() < 1e-5, "`{name}`");
    }
}
