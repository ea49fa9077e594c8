//! What a run needs to continue: `config.json` and `hypernet.safetensors` (the checkpoint that
//! `export` reads), `optimizer.safetensors` (both moments of every parameter) and `state.json`.
//!
//! A checkpoint is a directory `step-NNNNNN`, written under another name and renamed, so that a
//! directory of that name is always whole.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize};
use serde::{Deserialize, Serialize};

use super::TrainOptions;
use super::hypernet::Hypernet;
use super::optimizer::{AdamW, Moments};

/// Checkpoints kept on disk; older ones are removed.
const KEPT: usize = 2;

/// `state.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunState {
    /// Steps done.
    pub step: usize,
    /// Options of the run; a resumed run must have the same.
    pub options: TrainOptions,
    /// Digest of the task pack.
    pub data: String,
}

/// Writes `run/step-NNNNNN` and removes all but the latest checkpoints.
///
/// # Errors
/// Parameters that are not finite, or a directory that cannot be written.
pub fn save(run: &Path, net: &Hypernet, optimizer: &AdamW, state: &RunState) -> Result<PathBuf> {
    let name = format!("step-{:06}", state.step);
    let (partial, done) = (run.join(format!(".{name}")), run.join(&name));
    std::fs::create_dir_all(&partial)
        .with_context(|| format!("cannot create `{}`", partial.display()))?;
    net.to_checkpoint()?.save(&partial)?;
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
    std::fs::write(partial.join("optimizer.safetensors"), serialize(views, None)?)?;
    std::fs::write(partial.join("state.json"), serde_json::to_vec_pretty(state)?)?;
    if done.exists() {
        std::fs::remove_dir_all(&done)?;
    }
    std::fs::rename(&partial, &done)?;
    let mut all = checkpoints(run)?;
    while all.len() > KEPT {
        std::fs::remove_dir_all(all.remove(0))?;
    }
    Ok(done)
}

/// The latest checkpoint of a run, if it has any.
///
/// # Errors
/// A run directory that cannot be read.
pub fn latest(run: &Path) -> Result<Option<PathBuf>> {
    Ok(checkpoints(run)?.pop())
}

/// Reads optimizer and state back.
///
/// # Errors
/// Missing or damaged files.
pub fn load(checkpoint: &Path) -> Result<(AdamW, RunState)> {
    let read = |name: &str| {
        let path = checkpoint.join(name);
        std::fs::read(&path).with_context(|| format!("cannot read `{}`", path.display()))
    };
    let state: RunState = serde_json::from_slice(&read("state.json")?)?;
    let bytes = read("optimizer.safetensors")?;
    let file = SafeTensors::deserialize(&bytes)?;
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
        optimizer.moments.insert(name.to_owned(), moments);
    }
    Ok((optimizer, state))
}

fn checkpoints(run: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(run)? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("step-")) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}
