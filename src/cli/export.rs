//! `t2lc export`: checkpoint → bundle.

use std::collections::BTreeSet;

use anyhow::Context;
use serde::Deserialize;
use t2lc::taskpack::{TaskPack, TaskSplit};
use t2lc_export::checkpoint::Checkpoint;
use t2lc_export::freeze::{Descriptions, FreezeOptions, freeze};
use t2lc_runtime::atomic::write_directory_atomically;
use t2lc_runtime::backend::exact::Exact;
use t2lc_runtime::digest::Digest;
use t2lc_runtime::error::Error;
use t2lc_runtime::manifest::TrainingInfo;

use super::ExportArgs;
use super::failure::{Failure, Outcome};
use super::output::{human_bytes, say};

/// The part of `state.json` that goes into the manifest.
#[derive(Deserialize)]
struct RunRecord {
    step: usize,
    identity: Identity,
}

#[derive(Deserialize)]
struct Identity {
    data: Digest,
    options: RunOptions,
}

#[derive(Deserialize)]
struct RunOptions {
    run: SeedOption,
}

#[derive(Deserialize)]
struct SeedOption {
    seed: u64,
}

/// Runs the verb.
pub(crate) fn run(args: &ExportArgs, quiet: bool) -> Outcome {
    let input = |error: anyhow::Error| Failure::input("export.input", error);
    let checkpoint = Checkpoint::load(&args.checkpoint).map_err(|e| input(e.into()))?;
    let path = args.checkpoint.join("state.json");
    let record: RunRecord = std::fs::read(&path)
        .map_err(anyhow::Error::from)
        .and_then(|bytes| Ok(serde_json::from_slice(&bytes)?))
        .with_context(|| format!("cannot read `{}`", path.display()))
        .map_err(input)?;
    let pack = TaskPack::load(&args.pack).map_err(|e| input(e.into()))?;
    let data = record.identity.data;
    if pack.digest != data {
        let (got, expected) = (pack.digest, data);
        let error =
            anyhow::anyhow!("the task pack is {got}, the checkpoint was trained on {expected}");
        return Err(input(error));
    }
    let training = TrainingInfo {
        data,
        data_licences: licences(&pack),
        steps: record.step,
        seed: record.identity.options.run.seed,
    };
    let base_name = checkpoint.config.base.name.to_lowercase();
    let options = FreezeOptions {
        name: args.name.clone().unwrap_or(base_name),
        version: args.bundle_version.clone(),
        licence: args.licence.clone(),
        encoder_name: args.encoder_name.clone(),
        encoder_licence: args.encoder_licence.clone(),
        encoder_weights: args.encoder_weights,
        hypernet_weights: args.hypernet_weights,
    };
    // A bundle's table and threshold come out of its encoder: the same on every machine.
    let backend = Exact::default();
    let descriptions = descriptions(&pack);
    let files = freeze(&checkpoint, &args.encoder, &descriptions, training, &options, &backend)
        .map_err(|e| input(e.into()))?;
    let borrowed: Vec<(&str, &[u8])> = files.iter().map(|(n, b)| (*n, b.as_slice())).collect();
    write_directory_atomically(&args.output, &borrowed, args.force).map_err(Error::from)?;
    let output = args.output.display();
    for (name, bytes) in &files {
        say(quiet, &format!("{output}/{name}: {}", human_bytes(bytes.len())));
    }
    Ok(())
}

/// Distinct licences of the data that was trained on.
fn licences(pack: &TaskPack) -> Vec<String> {
    let distinct: BTreeSet<&str> =
        pack.tasks_of(TaskSplit::Train).map(|task| task.licence.as_str()).collect();
    distinct.into_iter().map(str::to_owned).collect()
}

/// What training saw, and what it did not: the wordings kept out of training and the held-out tasks.
fn descriptions(pack: &TaskPack) -> Descriptions {
    let mut descriptions = Descriptions::default();
    for task in &pack.tasks {
        let seen: Vec<&str> = match task.split {
            TaskSplit::Train => task.training_descriptions().collect(),
            TaskSplit::Heldout => Vec::new(),
        };
        let unseen = task.descriptions.iter().filter(|text| !seen.contains(&text.as_str()));
        descriptions.unseen.extend(unseen.cloned());
        descriptions
            .training
            .extend(seen.into_iter().map(|text| (task.id.clone(), text.to_owned())));
    }
    descriptions
}
