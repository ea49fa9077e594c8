//! `t2lc export`: checkpoint → bundle.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::anyhow;
use t2lc::taskpack::{TaskPack, TaskSplit};
use t2lc_export::checkpoint::{Checkpoint, CheckpointRecord, RunRecord};
use t2lc_export::descriptions::read_descriptions;
use t2lc_export::freeze::{Descriptions, FreezeOptions, Provenance, freeze};
use t2lc_export::import::UNKNOWN_LICENCE;
use t2lc_runtime::atomic::write_directory_atomically;
use t2lc_runtime::backend::exact::Exact;
use t2lc_runtime::error::Error;
use t2lc_runtime::manifest::TrainingInfo;

use super::ExportArgs;
use super::failure::{Failure, Outcome};
use super::output::{human_bytes, say};

/// Licence of a hypernetwork that was trained here, unless another is given.
const LICENCE: &str = "CC-BY-SA-4.0";

/// Runs the verb.
pub(crate) fn run(args: &ExportArgs, quiet: bool) -> Outcome {
    let checkpoint = Checkpoint::load(&args.checkpoint).map_err(input)?;
    let record = CheckpointRecord::load(&args.checkpoint, &checkpoint.config).map_err(input)?;
    let (pack, list) = (args.pack.as_deref(), args.descriptions.as_deref());
    let (provenance, descriptions) = provenance(record, pack, list)?;
    let base_name = checkpoint.config.base.name.to_lowercase();
    let licence = args.licence.as_deref().unwrap_or(match &provenance {
        Provenance::Trained(_) => LICENCE,
        Provenance::Imported(origin) => origin.licence.as_str(),
    });
    let options = FreezeOptions {
        name: args.name.clone().unwrap_or(base_name),
        version: args.bundle_version.clone(),
        licence: licence.to_owned(),
        encoder_name: args.encoder_name.clone(),
        encoder_licence: args.encoder_licence.clone(),
        encoder_weights: args.encoder_weights,
        hypernet_weights: args.hypernet_weights,
    };
    let notes = notes(&provenance, &options.licence);
    // A bundle's table and threshold come out of its encoder: the same on every machine.
    let backend = Exact::default();
    let files = freeze(&checkpoint, &args.encoder, &descriptions, provenance, &options, &backend)
        .map_err(input)?;
    let borrowed: Vec<(&str, &[u8])> = files.iter().map(|(n, b)| (*n, b.as_slice())).collect();
    write_directory_atomically(&args.output, &borrowed, args.force).map_err(Error::from)?;
    for note in notes {
        say(quiet, &format!("note: {note}"));
    }
    let output = args.output.display();
    for (name, bytes) in &files {
        say(quiet, &format!("{output}/{name}: {}", human_bytes(bytes.len())));
    }
    Ok(())
}

fn input(error: impl Into<anyhow::Error>) -> Failure {
    Failure::input("export.input", error)
}

/// What the manifest says of the checkpoint, and the descriptions that are known of its training.
fn provenance(
    record: CheckpointRecord,
    pack: Option<&Path>,
    list: Option<&Path>,
) -> Result<(Provenance, Descriptions), Failure> {
    match (record, pack, list) {
        (CheckpointRecord::Trained(run), Some(pack), None) => {
            let pack = TaskPack::load(pack).map_err(input)?;
            let training = training(run, &pack).map_err(input)?;
            Ok((Provenance::Trained(training), descriptions(&pack)))
        }
        (CheckpointRecord::Trained(_), _, _) => {
            let error = anyhow!("the checkpoint was trained on a task pack, which is not given");
            Err(input(error).hint("name it with --pack; --descriptions is for imported ones"))
        }
        (CheckpointRecord::Imported(_), Some(_), _) => {
            let error = anyhow!("the checkpoint was imported: it was not trained on a task pack");
            Err(input(error).hint("leave out --pack; --descriptions takes what it was trained on"))
        }
        (CheckpointRecord::Imported(origin), None, list) => {
            let training = list.map(read_descriptions).transpose().map_err(input)?;
            let training = training.unwrap_or_default();
            let descriptions = Descriptions { training, unseen: Vec::new() };
            Ok((Provenance::Imported(origin), descriptions))
        }
    }
}

/// What the manifest says of a run that was on this pack.
fn training(run: RunRecord, pack: &TaskPack) -> anyhow::Result<TrainingInfo> {
    let RunRecord { data, steps, seed } = run;
    let got = pack.digest;
    anyhow::ensure!(got == data, "the task pack is {got}, the checkpoint was trained on {data}");
    Ok(TrainingInfo { data, data_licences: licences(pack), steps, seed })
}

/// What is not known of an imported network, and matters for its use.
fn notes(provenance: &Provenance, licence: &str) -> Vec<&'static str> {
    if matches!(provenance, Provenance::Trained(_)) {
        return Vec::new();
    }
    let mut notes = vec![
        "no description is known that training did not see, so `compile` will not warn about \
         unfamiliar ones",
    ];
    if licence == UNKNOWN_LICENCE {
        notes.push("the licence of the imported weights is unknown; --licence names it");
    }
    notes
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
