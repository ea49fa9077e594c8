//! Where a checkpoint comes from: `state.json`, which training writes, or `origin.json`, which
//! import writes. One that is frozen must have exactly one of them.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use t2lc_runtime::digest::Digest;
use t2lc_runtime::manifest::OriginInfo;

use super::config::HypernetConfig;
use super::error::CheckpointError;
use super::read_limited;

/// Name of the file that training writes.
pub const STATE_FILE: &str = "state.json";
/// Name of the file that import writes.
pub const ORIGIN_FILE: &str = "origin.json";

/// Where a checkpoint comes from.
#[derive(Debug, Clone, PartialEq)]
pub enum CheckpointRecord {
    /// It was trained.
    Trained(RunRecord),
    /// It was imported.
    Imported(OriginInfo),
}

/// The part of `state.json` that a bundle keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunRecord {
    /// Digest of the task pack.
    pub data: Digest,
    /// Optimizer steps.
    pub steps: usize,
    /// Seed of the run.
    pub seed: u64,
    /// What the run went on from.
    pub start: Option<StartRecord>,
    /// Whether the run trained the text encoder as well.
    pub trains_encoder: bool,
}

/// The bundle that a run went on from, as `state.json` has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartRecord {
    /// Its digest.
    pub bundle: Digest,
    /// Licences of what it was trained on.
    pub data_licences: Vec<String>,
}

/// `state.json`, as far as it is read.
#[derive(Deserialize)]
struct State {
    step: usize,
    identity: Identity,
}

#[derive(Deserialize)]
struct Identity {
    data: Digest,
    options: Options,
    #[serde(default)]
    start_from: Option<StartRecord>,
}

#[derive(Deserialize)]
struct Options {
    run: RunOptions,
    #[serde(default)]
    tune_encoder: f32,
}

#[derive(Deserialize)]
struct RunOptions {
    seed: u64,
}

impl CheckpointRecord {
    /// Reads the record beside the weights of this configuration.
    ///
    /// # Errors
    /// Neither file or both, one that cannot be read, an origin that is of other weights.
    pub fn load(dir: &Path, config: &HypernetConfig) -> Result<Self, CheckpointError> {
        match (dir.join(STATE_FILE).exists(), dir.join(ORIGIN_FILE).exists()) {
            (true, false) => {
                let State { step, identity } = read_json(&dir.join(STATE_FILE))?;
                let Identity { data, options, start_from: start } = identity;
                Ok(Self::Trained(RunRecord {
                    data,
                    steps: step,
                    seed: options.run.seed,
                    start,
                    trains_encoder: options.tune_encoder > 0.0,
                }))
            }
            (false, true) => load_origin(dir, config).map(Self::Imported),
            (false, false) => Err(CheckpointError::NoRecord { dir: dir.to_owned() }),
            (true, true) => Err(CheckpointError::TwoRecords { dir: dir.to_owned() }),
        }
    }
}

/// Reads the `origin.json` beside the weights of this configuration.
///
/// # Errors
/// A file that cannot be read, or is of other weights.
pub fn load_origin(dir: &Path, config: &HypernetConfig) -> Result<OriginInfo, CheckpointError> {
    let origin: OriginInfo = read_json(&dir.join(ORIGIN_FILE))?;
    let differs = |field, expected: String, got: String| {
        Err(CheckpointError::OtherOrigin { field, expected, got })
    };
    let variant = config.variant.to_string();
    if origin.variant != variant {
        return differs("variant", variant, origin.variant);
    }
    let modules = config.module_names();
    if origin.modules != modules {
        return differs("modules", format!("{modules:?}"), format!("{:?}", origin.modules));
    }
    Ok(origin)
}

/// The bytes of `origin.json`.
///
/// # Errors
/// None in practice; the format's writer may refuse.
pub fn origin_bytes(origin: &OriginInfo) -> Result<Vec<u8>, CheckpointError> {
    let json = |source| CheckpointError::Config { path: ORIGIN_FILE.into(), source };
    let mut text = serde_json::to_string_pretty(origin).map_err(json)?;
    text.push('\n');
    Ok(text.into_bytes())
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, CheckpointError> {
    serde_json::from_slice(&read_limited(path)?)
        .map_err(|source| CheckpointError::Config { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests;
