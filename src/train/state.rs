//! What a run needs to continue: what was learned (the objective's files), `optimizer.safetensors`
//! (both moments of every parameter) and `state.json`.
//!
//! A checkpoint is a directory `step-NNNNNN`, written under another name, synced and renamed, so
//! that a directory of that name is always whole. `best` is one without the optimizer.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize};
use serde::{Deserialize, Serialize};

use super::optimizer::{AdamW, Moments};
use super::run::{METRICS_FILE, Objective};

/// Name of the checkpoint with the lowest mean validation loss.
pub const BEST: &str = "best";
/// Checkpoints kept on disk; older ones are removed.
const KEPT: usize = 2;
const OPTIMIZER_FILE: &str = "optimizer.safetensors";
const STATE_FILE: &str = "state.json";

/// `state.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunState {
    /// Steps done.
    pub step: usize,
    /// The lowest mean validation loss so far.
    pub best: Option<Best>,
    /// Validations since then.
    pub stale: usize,
    /// Options and data of the run; a resumed run must have the same.
    pub identity: serde_json::Value,
}

/// When the validation loss was lowest.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// Steps done by then.
    pub step: usize,
    /// Mean of the validation losses.
    pub loss: f32,
}

impl RunState {
    /// The state before the first step.
    pub fn new(identity: serde_json::Value) -> Self {
        Self { step: 0, best: None, stale: 0, identity }
    }
}

/// Removes what a run without a checkpoint has left: its log and its best so far.
///
/// # Errors
/// A directory that cannot be written.
pub fn clear(run: &Path) -> Result<()> {
    let (log, best) = (run.join(METRICS_FILE), run.join(BEST));
    if log.is_file() {
        std::fs::remove_file(&log).with_context(|| format!("cannot remove `{}`", log.display()))?;
    }
    if best.join(STATE_FILE).is_file() {
        std::fs::remove_dir_all(&best)
            .with_context(|| format!("cannot remove `{}`", best.display()))?;
    }
    Ok(())
}

/// Writes `run/step-NNNNNN` and removes all but the latest checkpoints.
///
/// # Errors
/// Parameters that are not finite, or a directory that cannot be written.
pub fn save(
    run: &Path,
    objective: &dyn Objective,
    optimizer: &AdamW,
    state: &RunState,
) -> Result<PathBuf> {
    let name = format!("step-{:06}", state.step);
    let done = replace(run, &name, |partial| {
        objective.save(partial)?;
        save_optimizer(optimizer, &partial.join(OPTIMIZER_FILE))?;
        save_state(state, partial)
    })?;
    let mut all = checkpoints(run)?;
    while all.len() > KEPT {
        std::fs::remove_dir_all(all.remove(0))?;
    }
    Ok(done)
}

/// Writes `run/best`.
///
/// # Errors
/// As [`save`].
pub fn save_best(run: &Path, objective: &dyn Objective, state: &RunState) -> Result<PathBuf> {
    replace(run, BEST, |partial| {
        objective.save(partial)?;
        save_state(state, partial)
    })
}

fn save_state(state: &RunState, dir: &Path) -> Result<()> {
    Ok(std::fs::write(dir.join(STATE_FILE), serde_json::to_vec_pretty(state)?)?)
}

fn save_optimizer(optimizer: &AdamW, path: &Path) -> Result<()> {
    let mut tensors = BTreeMap::new();
    for (name, moments) in &optimizer.moments {
        for (kind, values) in [("mean", &moments.mean), ("square", &moments.square)] {
            let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            tensors.insert(format!("{kind}.{name}"), (values.len(), bytes));
        }
    }
    let views = tensors
        .iter()
        .map(|(name, (len, bytes))| Ok((name, TensorView::new(Dtype::F32, vec![*len], bytes)?)))
        .collect::<Result<Vec<_>>>()?;
    Ok(std::fs::write(path, serialize(views, None)?)?)
}

/// Fills a directory under another name, then gives it its own.
fn replace(run: &Path, name: &str, fill: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let (partial, done) = (run.join(format!(".{name}")), run.join(name));
    let failed = || format!("cannot write `{}`", done.display());
    if partial.exists() {
        std::fs::remove_dir_all(&partial).with_context(failed)?;
    }
    std::fs::create_dir_all(&partial).with_context(failed)?;
    fill(&partial).with_context(failed)?;
    for entry in std::fs::read_dir(&partial)? {
        File::open(entry?.path())?.sync_all()?;
    }
    if done.exists() {
        std::fs::remove_dir_all(&done).with_context(failed)?;
    }
    std::fs::rename(&partial, &done).with_context(failed)?;
    Ok(done)
}

/// The latest checkpoint of a run, if it has any.
///
/// # Errors
/// A run directory that cannot be read.
pub fn latest(run: &Path) -> Result<Option<PathBuf>> {
    Ok(checkpoints(run)?.pop())
}

/// Reads the state of a checkpoint.
///
/// # Errors
/// A missing or damaged file.
pub fn load_state(checkpoint: &Path) -> Result<RunState> {
    let path = checkpoint.join(STATE_FILE);
    let bytes =
        std::fs::read(&path).with_context(|| format!("cannot read `{}`", path.display()))?;
    serde_json::from_slice(&bytes)
        .with_context(|| format!("`{}` is not the state of a run", path.display()))
}

/// Reads the optimizer of a checkpoint.
///
/// # Errors
/// A missing or damaged file.
pub fn load_optimizer(checkpoint: &Path) -> Result<AdamW> {
    let path = checkpoint.join(OPTIMIZER_FILE);
    let bytes =
        std::fs::read(&path).with_context(|| format!("cannot read `{}`", path.display()))?;
    let file = SafeTensors::deserialize(&bytes)
        .with_context(|| format!("`{}` is damaged", path.display()))?;
    let values = |name: &str| -> Result<Vec<f32>> {
        let view = file.tensor(name)?;
        ensure!(view.dtype() == Dtype::F32, "`{name}` is {:?}, expected F32", view.dtype());
        let (chunks, _) = view.data().as_chunks::<4>();
        Ok(chunks.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
    };
    let mut optimizer = AdamW::default();
    for name in file.names().into_iter().filter_map(|name| name.strip_prefix("mean.")) {
        let moments = Moments {
            mean: values(&format!("mean.{name}"))?,
            square: values(&format!("square.{name}"))?,
        };
        ensure!(
            moments.mean.len() == moments.square.len(),
            "`{}`: the moments of `{name}` have {} and {} values",
            path.display(),
            moments.mean.len(),
            moments.square.len()
        );
        optimizer.moments.insert(name.to_owned(), moments);
    }
    Ok(optimizer)
}

/// The checkpoints of a run, the oldest first.
fn checkpoints(run: &Path) -> Result<Vec<PathBuf>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(run)? {
        let entry = entry?;
        let name = entry.file_name();
        let step = name.to_str().and_then(|name| name.strip_prefix("step-")?.parse::<u64>().ok());
        if let Some(step) = step {
            found.insert(step, entry.path());
        }
    }
    Ok(found.into_values().collect())
}
