//! Tiny networks learn small libraries, and say how well.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use t2lc_export::checkpoint::{Checkpoint, HypernetConfig, Variant};
use t2lc_runtime::base::{BaseModel, TargetModule};

use super::{Reconstruction, ReconstructionOptions, ReconstructionSpace};
use crate::base::peft::PeftAdapter;
use crate::train::hypernet::{Hypernet, Init, stack_embeddings};
use crate::train::library::Library;
use crate::train::optimizer::AdamW;
use crate::train::run::{Objective, batch_rng};

const MODULES: [(&str, usize, usize); 3] =
    [("q_proj", 12, 12), ("v_proj", 12, 8), ("up_proj", 8, 14)];
const LAYERS: usize = 2;
const WIDTH: usize = 8;
const STEPS: usize = 300;

fn config(variant: Variant) -> HypernetConfig {
    let modules = MODULES.map(|(name, in_features, out_features)| TargetModule {
        name: name.into(),
        in_features,
        out_features,
        permute_heads: None,
    });
    HypernetConfig {
        schema: 1,
        variant,
        rank: 2,
        alpha: 16.0,
        use_rslora: false,
        latent_size: 16,
        head_in_size: 32,
        task_embedding_size: WIDTH,
        base: BaseModel {
            name: "toy".into(),
            architecture: "llama".into(),
            layers: LAYERS,
            tied_head: true,
            fingerprint: "sha256:0".into(),
            modules: modules.into(),
        },
    }
}

/// Random adapters of other scales than the network's, 8.
fn library(tasks: usize) -> Library {
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    let mut adapters = Vec::new();
    for task in 0..tasks {
        let mut matrices = BTreeMap::new();
        for (name, inputs, outputs) in MODULES {
            for layer in 0..LAYERS {
                let mut values = |count: usize, width: usize| -> Vec<f32> {
                    let bound = (width as f32).sqrt().recip();
                    (0..count).map(|_| rng.random_range(-bound..bound)).collect()
                };
                let pair = (values(2 * inputs, inputs), values(2 * outputs, outputs));
                matrices.insert((name.to_owned(), layer), pair);
            }
        }
        let alpha = 8.0 * (task + 1) as f32;
        let adapter = PeftAdapter { rank: 2, alpha, use_rslora: false, matrices };
        adapters.push((format!("task {task}"), adapter));
    }
    Library { adapters }
}

/// Two similar embeddings of each task.
fn embeddings(tasks: usize) -> Vec<Vec<Vec<f32>>> {
    let mut rng = ChaCha8Rng::seed_from_u64(12);
    let mut task = || -> Vec<Vec<f32>> {
        let first: Vec<f32> = (0..WIDTH).map(|_| rng.random_range(-1.5..1.5)).collect();
        let second = first.iter().map(|value| value + rng.random_range(-0.05_f32..0.05)).collect();
        vec![first, second]
    };
    (0..tasks).map(|_| task()).collect()
}

fn options(space: ReconstructionSpace) -> ReconstructionOptions {
    ReconstructionOptions { space, tasks_per_step: 0, descriptions_per_task: 2, no_dropout: true }
}

fn objective(variant: Variant, tasks: usize, options: &ReconstructionOptions) -> Reconstruction {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let init = Init::Reconstruct;
    let net = Hypernet::new(config(variant), init, &mut rng, &Device::Cpu).unwrap();
    Reconstruction::new(net, &library(tasks), embeddings(tasks), options, 7).unwrap()
}

fn train(objective: &Reconstruction) {
    let mut optimizer = AdamW::default();
    for step in 0..STEPS {
        let gradients = objective.gradients(step, &mut batch_rng(7, step)).unwrap().gradients;
        let warm = ((step + 1) as f32 / 30.0).min(1.0);
        let rate = 1e-2 * warm * (STEPS - step) as f32 / STEPS as f32;
        optimizer.update(&objective.parameters(), &gradients, step, &|_| rate, 0.0, 1.0).unwrap();
    }
}

#[test]
fn a_tiny_network_learns_its_library() {
    for (variant, space) in [
        (Variant::L, ReconstructionSpace::ZScores),
        (Variant::M, ReconstructionSpace::ZScores),
        (Variant::L, ReconstructionSpace::Factors),
        (Variant::L, ReconstructionSpace::DeltaW),
    ] {
        let objective = objective(variant, 3, &options(space));
        let before = objective.validation().unwrap();
        train(&objective);
        let after = objective.validation().unwrap();
        assert!(before["delta_w"] > 0.3, "{variant} {space:?}: {before:?} is too good to start");
        assert!(after["delta_w"] < 0.05, "{variant} {space:?}: {before:?}, then {after:?}");
        if space != ReconstructionSpace::DeltaW {
            assert!(after["l1"] < 0.05 * before["l1"].max(0.1), "{variant} {space:?}: {after:?}");
        }
    }
}

#[test]
fn what_is_saved_generates_the_library() {
    let objective = objective(Variant::L, 3, &options(ReconstructionSpace::ZScores));
    train(&objective);
    let dir = tempfile::tempdir().unwrap();
    objective.save(dir.path()).unwrap();
    let checkpoint = Checkpoint::load(dir.path()).unwrap();
    assert!(checkpoint.tensors.contains_key("std_recon_target.B.up_proj"));
    let net = Hypernet::from_checkpoint(&checkpoint, &Device::Cpu).unwrap();
    let (library, embeddings) = (library(3), embeddings(3));
    let rows: Vec<&[f32]> = embeddings.iter().map(|task| task[0].as_slice()).collect();
    let tasks = stack_embeddings(&rows, &Device::Cpu).unwrap();
    let flat = |x: &Tensor| -> Vec<f32> { x.flatten_all().unwrap().to_vec1().unwrap() };
    for module in net.forward(&tasks, None).unwrap() {
        for (index, (_, adapter)) in library.adapters.iter().enumerate() {
            for layer in 0..LAYERS {
                let (a, b) = adapter.pair(&module.name, layer).unwrap();
                let width = a.len() / 2;
                let of = |x: &Tensor| x.get(index).unwrap().get(layer).unwrap();
                let product = of(&module.b_transposed).t().unwrap().matmul(&of(&module.a)).unwrap();
                let product = (product * f64::from(net.config.scale())).unwrap();
                let a = Tensor::from_slice(a, (2, width), &Device::Cpu).unwrap();
                let b = Tensor::from_slice(b, (b.len() / 2, 2), &Device::Cpu).unwrap();
                let want = (b.matmul(&a).unwrap() * adapter.scale()).unwrap();
                let norm = |values: &[f32]| values.iter().map(|v| v * v).sum::<f32>().sqrt();
                let (want, got) = (flat(&want), flat(&product));
                let off: Vec<f32> = got.iter().zip(&want).map(|(g, w)| g - w).collect();
                let error = norm(&off) / norm(&want);
                assert!(error < 0.1, "{} of task {index}, layer {layer}: {error}", module.name);
            }
        }
    }
}

#[test]
fn an_adapter_alone_is_its_own_mean() {
    let objective = objective(Variant::S, 1, &options(ReconstructionSpace::ZScores));
    let losses = objective.validation().unwrap();
    assert!(losses["l1"] < 1e-6 && losses["delta_w"] < 1e-5, "{losses:?}");
    let step = objective.gradients(0, &mut batch_rng(7, 0)).unwrap();
    assert!(step.loss.is_finite() && step.loss > 0.0);
    objective.net().to_checkpoint().unwrap();
}

#[test]
fn steps_depend_on_their_number_alone_and_an_epoch_sees_every_task() {
    let options = ReconstructionOptions {
        tasks_per_step: 2,
        descriptions_per_task: 9,
        no_dropout: false,
        ..options(ReconstructionSpace::Factors)
    };
    let objective = objective(Variant::L, 6, &options);
    let step = |number: usize| {
        let step = objective.gradients(number, &mut batch_rng(7, number)).unwrap();
        (step.loss.to_bits(), step.tasks)
    };
    assert_eq!(step(4), step(4));
    assert_ne!(step(4), step(5));
    let mut epoch: Vec<String> = (3..6).flat_map(|number| step(number).1).collect();
    epoch.sort();
    assert_eq!(epoch, (0..6).map(|task| format!("task {task}")).collect::<Vec<_>>());
}

#[test]
fn what_cannot_be_learned_is_refused() {
    let options = options(ReconstructionSpace::ZScores);
    let refused_by = |config, library: &Library, embeddings: Vec<Vec<Vec<f32>>>, init: Init<'_>| {
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let net = Hypernet::new(config, init, &mut rng, &Device::Cpu).unwrap();
        let refused = Reconstruction::new(net, library, embeddings, &options, 7);
        format!("{:#}", refused.unwrap_err())
    };
    let refused = |library: &Library, embeddings, init: Init<'_>| {
        refused_by(config(Variant::L), library, embeddings, init)
    };
    let text = refused(&Library { adapters: Vec::new() }, Vec::new(), Init::Reconstruct);
    assert!(text.contains("no adapter"), "{text}");
    let text = refused(&library(2), embeddings(3), Init::Reconstruct);
    assert!(text.contains("descriptions of 3 tasks"), "{text}");
    let text = refused(&library(1), vec![vec![vec![0.0; 3]]], Init::Reconstruct);
    assert!(text.contains("`task 0` does not have 8 values"), "{text}");
    let mut damaged = library(2);
    damaged.adapters[1].1.matrices.remove(&("v_proj".to_owned(), 1));
    let text = refused(&damaged, embeddings(2), Init::Reconstruct);
    assert!(text.contains("`task 1`") && text.contains("v_proj"), "{text}");
    let offset = library(1);
    let text = refused(&library(2), embeddings(2), Init::Offset(&offset.adapters[0].1));
    assert!(text.contains("AB_offset"), "{text}");
    let gated = HypernetConfig { latent_size: 32, ..config(Variant::Gated) };
    let text = refused_by(gated, &library(2), embeddings(2), Init::FreshLora);
    assert!(text.contains("one lora_a for all tasks"), "{text}");
}
