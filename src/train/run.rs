//! The loop that every training shares: schedule, accumulation, metrics, validation, checkpoints.
//!
//! In: an [`Objective`] and [`RunOptions`]. Out: in the run's directory, `metrics.jsonl` (a line a
//! step), the latest checkpoints `step-NNNNNN`, and `best`, the one with the lowest mean validation
//! loss. What a step computes depends on the options, the seed and the step alone, so a run that
//! was interrupted anywhere and resumed ends with the bytes of an uninterrupted one.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use candle_core::{Tensor, Var};
use indicatif::{ProgressBar, ProgressStyle};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::optimizer::{AdamW, Schedule, learning_rate};
use super::state::{self, Best, RunState};

/// File with a line of JSON per step.
pub const METRICS_FILE: &str = "metrics.jsonl";

/// What is minimized, and what is learned.
pub trait Objective {
    /// The parameters that the optimizer changes, by name.
    fn parameters(&self) -> Vec<(String, Var)>;

    /// The learning rate of a parameter, as a share of the run's.
    fn rate_share(&self, _parameter: &str) -> f32 {
        1.0
    }

    /// Loss and gradients of one batch. Everything random is drawn from `rng`.
    ///
    /// # Errors
    /// Batches that cannot be computed.
    fn gradients(&self, batch: usize, rng: &mut ChaCha8Rng) -> Result<Step>;

    /// Losses on held-out data, by name; lower is better.
    ///
    /// # Errors
    /// As [`Objective::gradients`].
    fn validation(&self) -> Result<BTreeMap<String, f32>>;

    /// Writes what was learned into an existing directory.
    ///
    /// # Errors
    /// Parameters that are not finite, or a directory that cannot be written.
    fn save(&self, dir: &Path) -> Result<()>;
}

/// What one batch gives.
#[derive(Debug)]
pub struct Step {
    /// Loss, regularization left out.
    pub loss: f32,
    /// Gradient of each parameter, by name.
    pub gradients: BTreeMap<String, Tensor>,
    /// Tokens computed.
    pub tokens: usize,
    /// Names of the tasks in the batch.
    pub tasks: Vec<String>,
}

/// Settings of the loop.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, clap::Args)]
pub struct RunOptions {
    /// Optimizer steps
    #[arg(long, default_value_t = 850)]
    pub steps: usize,
    /// Batches per optimizer step
    #[arg(long, default_value_t = 1)]
    pub accumulate: usize,
    /// Peak learning rate
    #[arg(long, default_value_t = 1e-3)]
    pub learning_rate: f32,
    /// Steps of linear warm-up
    #[arg(long, default_value_t = 40)]
    pub warmup_steps: usize,
    /// After the warm-up: linear or cosine decay to zero, or constant
    #[arg(long, value_enum, default_value_t = Schedule::Linear)]
    pub schedule: Schedule,
    /// Decoupled weight decay
    #[arg(long, default_value_t = 1e-2)]
    pub weight_decay: f32,
    /// Largest norm of the gradient
    #[arg(long, default_value_t = 1.0)]
    pub clip_norm: f32,
    /// Seed of initialization, sampling and dropout
    #[arg(long, default_value_t = 42)]
    pub seed: u64,
    /// Steps between checkpoints; 0 saves at the end only
    #[arg(long, default_value_t = 25)]
    pub checkpoint_every: usize,
    /// Steps between validations on held-out data; 0 validates at the end only
    #[arg(long, default_value_t = 50)]
    pub validate_every: usize,
    /// Stop after this many validations without a lower mean loss; 0 never stops early
    #[arg(long, default_value_t = 0)]
    pub patience: usize,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// The last checkpoint.
    pub last: PathBuf,
    /// The checkpoint with the lowest mean validation loss.
    pub best: Option<PathBuf>,
    /// Steps done.
    pub steps: usize,
    /// Whether it was asked to stop before its end.
    pub interrupted: bool,
}

/// One line of `metrics.jsonl`.
#[derive(Debug, Serialize)]
struct Metrics {
    step: usize,
    loss: f32,
    learning_rate: f32,
    gradient_norm: f32,
    tokens: usize,
    tokens_per_s: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    validation_loss: Option<BTreeMap<String, f32>>,
}

/// Where a run is and what it continues from.
#[derive(Debug)]
pub struct RunDirectory {
    path: PathBuf,
    /// Settings and data of the run; a resumed run must have the same.
    identity: serde_json::Value,
    previous: Option<(PathBuf, RunState)>,
}

impl RunDirectory {
    /// Creates the directory, or finds the latest checkpoint in it. What a run has left that came
    /// to no checkpoint goes.
    ///
    /// # Errors
    /// A directory that already holds a run (without `resume`), or one of other options or data.
    pub fn open(path: &Path, identity: serde_json::Value, resume: bool) -> Result<Self> {
        std::fs::create_dir_all(path)
            .with_context(|| format!("cannot create `{}`", path.display()))?;
        let latest = state::latest(path)?;
        if latest.is_some() && !resume {
            bail!("`{}` already holds a run; continue it with --resume", path.display());
        }
        if latest.is_none() {
            state::clear(path)?;
        }
        // Numbers may change in the last digit when they are written and read.
        let identity_read: serde_json::Value = serde_json::from_str(&identity.to_string())?;
        let previous = latest.map(|checkpoint| -> Result<_> {
            let state = state::load_state(&checkpoint)?;
            if let Some(key) = first_difference(&state.identity, &identity_read) {
                bail!("`{}` was started with other options or data: {key}", path.display());
            }
            Ok((checkpoint, state))
        });
        Ok(Self { path: path.to_owned(), identity, previous: previous.transpose()? })
    }

    /// The checkpoint that the run continues from.
    pub fn checkpoint(&self) -> Option<&Path> {
        self.previous.as_ref().map(|(checkpoint, _)| checkpoint.as_path())
    }

    /// Whether the run has nothing left to do, and how it ended if so.
    pub fn finished(&self, options: &RunOptions) -> Option<Finished> {
        let (last, state) = self.previous.as_ref()?;
        let stopped = options.patience > 0 && state.stale >= options.patience;
        (state.step >= options.steps || stopped).then(|| Finished {
            last: last.clone(),
            best: self.best(),
            steps: state.step,
            interrupted: false,
        })
    }

    fn best(&self) -> Option<PathBuf> {
        Some(self.path.join(state::BEST)).filter(|best| best.is_dir())
    }

    /// Runs to the end, or until `stop` is set; then the step in progress is finished and saved.
    ///
    /// # Errors
    /// What the objective refuses; a loss that is not finite; a directory that cannot be written.
    pub fn run(
        &self,
        objective: &dyn Objective,
        options: &RunOptions,
        stop: &AtomicBool,
    ) -> Result<Finished> {
        if let Some(finished) = self.finished(options) {
            return Ok(finished);
        }
        let mut progress = Progress { state: RunState::new(self.identity.clone()), saved: None };
        let mut optimizer = AdamW::default();
        if let Some((checkpoint, state)) = &self.previous {
            optimizer = state::load_optimizer(checkpoint)?;
            progress = Progress { state: state.clone(), saved: Some(checkpoint.clone()) };
        }
        let path = self.path.join(METRICS_FILE);
        let mut log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .with_context(|| format!("cannot open `{}`", path.display()))?;
        let bar = progress_bar(progress.state.step, options.steps);
        let mut interrupted = false;
        while progress.state.step < options.steps {
            let metrics = self.step(objective, options, &mut optimizer, &mut progress)?;
            writeln!(log, "{}", serde_json::to_string(&metrics)?)?;
            bar.set_message(format!(
                "loss {:.3}, {:.0} tokens/s",
                metrics.loss, metrics.tokens_per_s
            ));
            bar.inc(1);
            let stale = options.patience > 0 && progress.state.stale >= options.patience;
            let done = progress.state.step == options.steps || stale;
            interrupted = !done && stop.load(Ordering::SeqCst);
            if done || interrupted || is_due(progress.state.step, options.checkpoint_every) {
                progress.saved =
                    Some(state::save(&self.path, objective, &optimizer, &progress.state)?);
            }
            if interrupted || stale {
                break;
            }
        }
        bar.finish();
        let last = progress.saved.context("a run of no steps leaves no checkpoint")?;
        Ok(Finished { last, best: self.best(), steps: progress.state.step, interrupted })
    }

    fn step(
        &self,
        objective: &dyn Objective,
        options: &RunOptions,
        optimizer: &mut AdamW,
        progress: &mut Progress,
    ) -> Result<Metrics> {
        let started = Instant::now();
        let step = progress.state.step;
        let rate = learning_rate(options, step);
        let accumulated = accumulate(objective, options, step).with_context(|| {
            let saved = progress.saved.as_ref().map_or("none".into(), |p| p.display().to_string());
            format!("step {} failed; last good checkpoint: {saved}", step + 1)
        })?;
        let gradient_norm = optimizer.update(
            &objective.parameters(),
            &accumulated.gradients,
            step,
            &|parameter| rate * objective.rate_share(parameter),
            options.weight_decay,
            options.clip_norm,
        )?;
        let tokens_per_s = accumulated.tokens as f64 / started.elapsed().as_secs_f64();
        progress.state.step += 1;
        let done = progress.state.step;
        let validate = is_due(done, options.validate_every) || done == options.steps;
        let validation_loss = validate.then(|| objective.validation()).transpose()?;
        if let Some(losses) = validation_loss.as_ref().filter(|losses| !losses.is_empty()) {
            let mean = losses.values().sum::<f32>() / losses.len() as f32;
            let better = progress.state.best.as_ref().is_none_or(|best| mean < best.loss);
            progress.state.stale = if better { 0 } else { progress.state.stale + 1 };
            if better {
                progress.state.best = Some(Best { step: done, loss: mean });
                state::save_best(&self.path, objective, &progress.state)?;
            }
        }
        Ok(Metrics {
            step: done,
            loss: accumulated.loss,
            learning_rate: rate,
            gradient_norm,
            tokens: accumulated.tokens,
            tokens_per_s,
            validation_loss,
        })
    }
}

/// Whether something that is done every so many steps is done after this one; 0 is never.
fn is_due(step: usize, every: usize) -> bool {
    every > 0 && step.is_multiple_of(every)
}

struct Progress {
    state: RunState,
    saved: Option<PathBuf>,
}

/// Means of loss and gradients over the batches of a step.
fn accumulate(objective: &dyn Objective, options: &RunOptions, step: usize) -> Result<Step> {
    let batches = options.accumulate.max(1);
    let mut total: Option<Step> = None;
    for batch in step * batches..(step + 1) * batches {
        let mut rng = batch_rng(options.seed, batch);
        let one = objective.gradients(batch, &mut rng)?;
        ensure!(
            one.loss.is_finite(),
            "the loss is {} on a batch of the tasks {}",
            one.loss,
            one.tasks.join(", ")
        );
        let Some(sum) = &mut total else {
            total = Some(one);
            continue;
        };
        sum.loss += one.loss;
        sum.tokens += one.tokens;
        sum.tasks.extend(one.tasks);
        for (name, gradient) in one.gradients {
            let together = match sum.gradients.remove(&name) {
                Some(earlier) => (earlier + gradient)?,
                None => gradient,
            };
            sum.gradients.insert(name, together);
        }
    }
    let mut total = total.context("a step without batches")?;
    if batches > 1 {
        let share = 1.0 / batches as f64;
        total.loss /= batches as f32;
        for gradient in total.gradients.values_mut() {
            *gradient = (&*gradient * share)?;
        }
    }
    Ok(total)
}

/// The random numbers of a batch: which examples, and their dropout.
pub fn batch_rng(seed: u64, batch: usize) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(batch as u64 + 1);
    rng
}

/// The first key of two JSON objects that differs, with both values.
fn first_difference(before: &serde_json::Value, now: &serde_json::Value) -> Option<String> {
    let (Some(was), Some(is)) = (before.as_object(), now.as_object()) else {
        return (before != now).then(|| format!("{before}, now {now}"));
    };
    let null = serde_json::Value::Null;
    was.keys().chain(is.keys()).find_map(|key| {
        let (was, is) = (was.get(key).unwrap_or(&null), is.get(key).unwrap_or(&null));
        (was != is).then(|| format!("`{key}` was {was}, is {is}"))
    })
}

fn progress_bar(first_step: usize, steps: usize) -> ProgressBar {
    let bar = ProgressBar::new(steps as u64).with_position(first_step as u64);
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} steps, {eta} left, {msg}");
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

#[cfg(test)]
mod tests;
