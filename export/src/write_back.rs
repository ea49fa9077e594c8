//! A [`Checkpoint`] → a checkpoint in the form of the reference implementation of
//! <https://arxiv.org/abs/2506.06105> (Text-to-LoRA, by Sakana AI), for its tools in Python.
//!
//! In: a checkpoint, and what Python calls its run, its text encoder and its base. Out: the files
//! that [`crate::import`] reads: `hypermod.pt` as `torch.save` writes a state dict of f32 tensors,
//! `args.yaml` with the settings that the reference's loader asks for, `adapter_config.json` with
//! those of PEFT; and notes on what the files cannot say. Equal inputs give equal bytes.
//!
//! Tensor names, shapes and values are those of the checkpoint. What the reference has beside them
//! depends on what the network generates:
//!
//! | checkpoint | `training_task` | `factorized`, `pred_z_score` | statistics | biases of heads |
//! |---|---|---|---|---|
//! | without mean and deviation | `sft` | false, false | zeros | as they are |
//! | with both | `recon` | true, true | as they are | in the mean (see `fold`) |
//!
//! A network that was trained towards matrices or products comes back as one that was trained on
//! answers: what import folded into alpha stays there, and the reference then adds `AB_offset` and
//! nothing else. Either form generates the matrices that the checkpoint does, and importing the
//! files gives the checkpoint again; but for z-scores with biases, where both are so to rounding.
//!
//! The type index of a module is its place in `base.modules`: heads and `out_emb` are written in
//! this order, by which import and careful readers find it. The reference itself goes by the order
//! of a Python set, which `PYTHONHASHSEED` decides; one of the notes says which order it must be.
//!
//! `tests/write_back.py`, run by hand with PyTorch, loads what comes out and compares it.

use serde_json::Value;

use crate::checkpoint::{Checkpoint, Variant};
use crate::import::{ADAPTER_FILE, ARCHIVE_FILE, ARGUMENTS_FILE, Arguments, Training};

mod archive;
mod error;
mod fold;
mod notes;
mod pickle;
mod settings;
mod state_dict;

pub use error::WriteBackError;

use archive::ArchiveWriter;
use fold::Means;
use state_dict::Entry;

/// Folder of all entries: `torch.save` takes the name of the file.
const ROOT: &str = "hypermod";

/// What things are called in Python.
#[derive(Debug, Clone, Copy)]
pub struct Names<'a> {
    /// The run, `run_name`.
    pub run: &'a str,
    /// The text encoder that the network was trained with, `emb_model`: a name on the hub or a
    /// path; empty for the base itself.
    pub encoder: &'a str,
    /// Where the base is, `model_dir`: a name on the hub or a path. The base's name if not given.
    pub model_dir: Option<&'a str>,
}

/// A checkpoint in the reference's form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrittenBack {
    /// Names and bytes: [`ARCHIVE_FILE`], [`ARGUMENTS_FILE`], [`ADAPTER_FILE`].
    pub files: [(&'static str, Vec<u8>); 3],
    /// What the files do not say and Python must be told, for people.
    pub notes: Vec<String>,
}

/// Writes a checkpoint in the reference's form.
///
/// # Errors
/// A checkpoint that [`Checkpoint::check`] refuses, a gated one, one that is too large, and a name
/// of the base that is none.
pub fn write_back(
    checkpoint: &Checkpoint,
    names: &Names<'_>,
) -> Result<WrittenBack, WriteBackError> {
    checkpoint.check()?;
    let config = &checkpoint.config;
    if config.variant == Variant::Gated {
        return Err(WriteBackError::Variant { got: config.variant });
    }
    let model_dir = names.model_dir.unwrap_or(&config.base.name);
    check_model_dir(model_dir)?;
    let training = training(checkpoint);
    let z_scores = training == Training::ZScores;
    let means = if z_scores { fold::means(checkpoint)? } else { Means::new() };
    let folded = !means.is_empty();
    let archive = archive(&state_dict::entries(checkpoint, training, means))?;
    let arguments = settings::arguments(config, training, names, model_dir);
    let adapter = settings::adapter(config, model_dir)?;
    let notes = notes::notes(config, names, model_dir, folded);
    let files = [(ARCHIVE_FILE, archive), (ARGUMENTS_FILE, arguments), (ADAPTER_FILE, adapter)];
    Ok(WrittenBack { files, notes })
}

/// How the reference must take the network: [`Training::Answers`] or [`Training::ZScores`].
fn training(checkpoint: &Checkpoint) -> Training {
    let statistics = checkpoint.config.statistic_tensors();
    if statistics.iter().any(|(name, _)| checkpoint.tensors.contains_key(name)) {
        return Training::ZScores;
    }
    Training::Answers
}

/// Refuses what import would not take for the name of a base.
fn check_model_dir(model_dir: &str) -> Result<(), WriteBackError> {
    let model_dir = Some(model_dir.to_owned());
    let arguments = Arguments { model_dir, ..Arguments::default() };
    if arguments.base_name(&Value::Null).is_some() {
        return Ok(());
    }
    let name = arguments.model_dir.unwrap_or_default().escape_debug().to_string();
    Err(WriteBackError::BaseName { name })
}

/// The archive of a state dict.
fn archive(entries: &[Entry<'_>]) -> Result<Vec<u8>, WriteBackError> {
    let weights = entries.iter().map(|entry| entry.values.len() as u64);
    let mut archive = ArchiveWriter::for_data(weights.sum::<u64>().saturating_mul(4))?;
    archive.add(&format!("{ROOT}/data.pkl"), &pickle::pickle(entries))?;
    archive.add(&format!("{ROOT}/byteorder"), b"little")?;
    for (key, entry) in entries.iter().enumerate() {
        let bytes: Vec<u8> = entry.values.iter().flat_map(|value| value.to_le_bytes()).collect();
        archive.add(&format!("{ROOT}/data/{key}"), &bytes)?;
    }
    archive.add(&format!("{ROOT}/version"), b"3\n")?;
    archive.finish()
}

#[cfg(test)]
mod tests;
