//! A run on a quadratic: exact resume, best checkpoint, early stop, accumulation, failures.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use anyhow::Result;
use candle_core::{Device, Tensor, Var};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use serde_json::json;

use super::{Finished, Objective, RunDirectory, RunOptions, Step};
use crate::train::optimizer::Schedule;

/// Brings `x` towards noisy points around a centre; validation is the distance from `held_out`.
struct Quadratic {
    x: Var,
    held_out: f32,
    fails_at: Option<usize>,
}

impl Quadratic {
    fn new(checkpoint: Option<&Path>, held_out: f32) -> Self {
        let start = checkpoint.map_or(8.0, |dir| {
            let text = std::fs::read_to_string(dir.join("x.json")).unwrap();
            serde_json::from_str::<f32>(&text).unwrap()
        });
        Self { x: Var::new(&[start], &Device::Cpu).unwrap(), held_out, fails_at: None }
    }

    fn value(&self) -> f32 {
        self.x.to_vec1::<f32>().unwrap()[0]
    }
}

impl Objective for Quadratic {
    fn parameters(&self) -> Vec<(String, Var)> {
        vec![("x".into(), self.x.clone())]
    }

    fn gradients(&self, batch: usize, rng: &mut ChaCha8Rng) -> Result<Step> {
        let distance = self.value() - rng.random_range(-0.5..0.5);
        let loss = if self.fails_at == Some(batch) { f32::NAN } else { distance * distance };
        let gradient = Tensor::new(&[2.0 * distance], &Device::Cpu)?;
        let gradients = BTreeMap::from([("x".into(), gradient)]);
        Ok(Step { loss, gradients, tokens: 3, tasks: vec!["points".into()] })
    }

    fn validation(&self) -> Result<BTreeMap<String, f32>> {
        Ok(BTreeMap::from([("far".into(), (self.value() - self.held_out).abs())]))
    }

    fn save(&self, dir: &Path) -> Result<()> {
        Ok(std::fs::write(dir.join("x.json"), serde_json::to_string(&self.value())?)?)
    }
}

fn options() -> RunOptions {
    RunOptions {
        steps: 12,
        accumulate: 2,
        learning_rate: 1.0,
        warmup_steps: 2,
        schedule: Schedule::Constant,
        weight_decay: 0.0,
        clip_norm: 1.0,
        seed: 3,
        checkpoint_every: 5,
        validate_every: 1,
        patience: 0,
    }
}

fn run(dir: &Path, held_out: f32, options: &RunOptions, resume: bool) -> Result<Finished> {
    let directory = RunDirectory::open(dir, json!({"held_out": held_out}), resume)?;
    let objective = Quadratic::new(directory.checkpoint(), held_out);
    directory.run(&objective, options, &AtomicBool::new(false))
}

fn lines(dir: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(dir.join(super::METRICS_FILE)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_run_that_is_stopped_and_resumed_has_the_losses_of_one_that_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, halves) = (dir.path().join("whole"), dir.path().join("halves"));
    let end = run(&whole, 0.0, &options(), false).unwrap();
    assert_eq!((end.steps, end.interrupted), (12, false));

    let directory = RunDirectory::open(&halves, json!({"held_out": 0.0}), false).unwrap();
    let stopped =
        directory.run(&Quadratic::new(None, 0.0), &options(), &AtomicBool::new(true)).unwrap();
    assert_eq!((stopped.steps, stopped.interrupted), (1, true));
    let resumed = run(&halves, 0.0, &options(), true).unwrap();
    assert_eq!(resumed.steps, 12);
    let losses = |dir| lines(dir).into_iter().map(|line| line["loss"].clone()).collect::<Vec<_>>();
    assert_eq!(losses(&whole), losses(&halves));
    for file in ["x.json", "optimizer.safetensors", "state.json"] {
        let read = |end: &Finished| std::fs::read(end.last.join(file)).unwrap();
        assert_eq!(read(&end), read(&resumed), "{file}");
    }
    // A finished run has nothing left to do.
    assert_eq!(run(&halves, 0.0, &options(), true).unwrap(), resumed);
}

#[test]
fn a_run_that_ends_as_it_is_stopped_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let options = RunOptions { steps: 1, checkpoint_every: 0, validate_every: 0, ..options() };
    let directory = RunDirectory::open(dir.path(), json!({}), false).unwrap();
    let end = directory.run(&Quadratic::new(None, 0.0), &options, &AtomicBool::new(true)).unwrap();
    assert_eq!((end.steps, end.interrupted), (1, false));
    assert!(end.best.is_some(), "the end is validated");
}

#[test]
fn what_a_run_without_a_checkpoint_left_goes() {
    let dir = tempfile::tempdir().unwrap();
    let options = RunOptions { checkpoint_every: 0, ..options() };
    let directory = RunDirectory::open(dir.path(), json!({}), false).unwrap();
    let objective = Quadratic { fails_at: Some(14), ..Quadratic::new(None, 0.0) };
    directory.run(&objective, &options, &AtomicBool::new(false)).unwrap_err();
    assert_eq!((lines(dir.path()).len(), dir.path().join("best").is_dir()), (7, true));
    let end = run(dir.path(), 1.0, &options, false).unwrap();
    assert_eq!((lines(dir.path()).len(), end.steps), (12, 12));
    run(dir.path(), 1.0, &options, true).unwrap();
    assert_eq!(lines(dir.path()).len(), 12, "a run with a checkpoint keeps its log");
}

#[test]
fn the_best_checkpoint_is_kept_and_patience_ends_the_run() {
    let dir = tempfile::tempdir().unwrap();
    let options = RunOptions { patience: 2, ..options() };
    // The optimum on held-out data, 6, is passed on the way to 0.
    let end = run(dir.path(), 6.0, &options, false).unwrap();
    assert!(end.steps < 12, "{}", end.steps);
    let best = std::fs::read(end.best.unwrap().join("x.json")).unwrap();
    let best: f32 = serde_json::from_slice(&best).unwrap();
    assert!((best - 6.0).abs() <= 0.6, "{best}");
    let losses: Vec<f64> =
        lines(dir.path()).iter().map(|l| l["validation_loss"]["far"].as_f64().unwrap()).collect();
    let lowest = losses.iter().copied().fold(f64::INFINITY, f64::min);
    assert!((f64::from((best - 6.0).abs()) - lowest).abs() < 1e-6);
    assert!(losses[losses.len() - 2..].iter().all(|loss| *loss >= lowest));
}

#[test]
fn a_loss_that_is_no_number_names_step_task_and_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let directory = RunDirectory::open(dir.path(), json!({}), false).unwrap();
    let objective = Quadratic { fails_at: Some(14), ..Quadratic::new(None, 0.0) };
    let error = directory.run(&objective, &options(), &AtomicBool::new(false)).unwrap_err();
    let text = format!("{error:#}");
    for expected in ["step 8 failed", "step-000005", "the loss is NaN", "points"] {
        assert!(text.contains(expected), "{expected:?} not in {text}");
    }
}

#[test]
fn a_run_of_other_data_is_not_resumed() {
    let dir = tempfile::tempdir().unwrap();
    run(dir.path(), 0.0, &options(), false).unwrap();
    let error = run(dir.path(), 1.0, &options(), true).unwrap_err().to_string();
    assert!(error.contains("`held_out` was 0.0, is 1.0"), "{error}");
    let error = run(dir.path(), 0.0, &options(), false).unwrap_err().to_string();
    assert!(error.contains("--resume"), "{error}");
}
