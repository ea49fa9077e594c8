//! `t2lc export`: checkpoint → bundle.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::anyhow;
use t2lc::taskpack::{TaskPack, TaskSplit};
use t2lc_export::average::halfway;
use t2lc_export::checkpoint::{Checkpoint, CheckpointRecord, ENCODER_DIR, RunRecord, StartRecord};
use t2lc_export::descriptions::read_descriptions;
use t2lc_export::freeze::{Descriptions, Provenance};
use t2lc_export::thaw::thaw;
use t2lc_runtime::bundle::Bundle;
use t2lc_runtime::manifest::TrainingInfo;

use super::ExportArgs;
use super::failure::{Failure, Outcome};
use super::freeze::{FreezeArgs, Target};
use super::write_back::{self, ExportFormat};

/// Licence of a hypernetwork that was trained here, unless another is given.
const LICENCE: &str = "CC-BY-SA-4.0";
/// Inputs that stand for texts without a task, at most.
const INPUTS: usize = 300;

/// Runs the verb.
pub(crate) fn run(args: &ExportArgs, quiet: bool) -> Outcome {
    if args.format == ExportFormat::TextToLora {
        if args.average.is_some() {
            let error = anyhow!("--average is for bundles");
            return Err(Failure::environment("usage", error));
        }
        if args.checkpoint.join(ENCODER_DIR).is_dir() {
            let error = anyhow!("the checkpoint has a text encoder of its own");
            let hint =
                "the reference implementation reads a published one; export a bundle instead";
            return Err(input(error).hint(hint));
        }
        return write_back::run(args, quiet);
    }
    if args.model_dir.is_some() {
        let error = anyhow!("--model-dir is for --format text-to-lora");
        return Err(Failure::environment("usage", error));
    }
    let freeze = freeze_args(args)?;
    let mut checkpoint = Checkpoint::load(&args.checkpoint).map_err(input)?;
    let record = CheckpointRecord::load(&args.checkpoint, &checkpoint.config).map_err(input)?;
    if let Some(start) = &args.average {
        checkpoint = average(start, &record, &checkpoint)?;
    }
    let list = freeze.descriptions.as_deref();
    let (mut provenance, descriptions) = provenance(record, &args.pack, list)?;
    if let Provenance::Trained(training) = &mut provenance {
        training.averaged = args.average.is_some();
    }
    let licence = args.licence.clone().unwrap_or_else(|| match &provenance {
        Provenance::Trained(_) => LICENCE.to_owned(),
        Provenance::Imported(origin) => origin.licence.clone(),
    });
    let target = Target { path: &args.output, force: args.force, quiet };
    freeze.write_bundle(&checkpoint, &descriptions, provenance, &licence, &target)
}

/// The options, with the text encoder that was trained with the checkpoint, if one was.
fn freeze_args(args: &ExportArgs) -> Result<Cow<'_, FreezeArgs>, Failure> {
    let own = args.checkpoint.join(ENCODER_DIR);
    let error = match (own.is_dir(), args.freeze.has_encoder()) {
        (false, true) => return Ok(Cow::Borrowed(&args.freeze)),
        (true, false) => {
            return Ok(Cow::Owned(FreezeArgs {
                trained_encoder: Some(own),
                ..args.freeze.clone()
            }));
        }
        (false, false) => {
            anyhow!("a bundle needs a text encoder: --encoder <DIR> or --encoder-onnx <FILE>")
        }
        (true, true) => anyhow!(
            "the checkpoint's own text encoder goes into the bundle, `{}`: leave --encoder out",
            own.display()
        ),
    };
    Err(Failure::environment("usage", error))
}

fn input(error: impl Into<anyhow::Error>) -> Failure {
    Failure::input("export.input", error)
}

/// The mean of a checkpoint and of the bundle that its run started from.
fn average(
    start: &Path,
    record: &CheckpointRecord,
    checkpoint: &Checkpoint,
) -> Result<Checkpoint, Failure> {
    let bundle = Bundle::open(start).map_err(input)?;
    let started_from = match record {
        CheckpointRecord::Trained(RunRecord { start: Some(start), .. }) => Some(start.bundle),
        _ => None,
    };
    if started_from != Some(bundle.digest) {
        let error = anyhow!("the checkpoint's run did not start from `{}`", start.display());
        let hint =
            "only along one run do weights have a mean; --average takes what --start-from took";
        return Err(input(error).hint(hint));
    }
    if matches!(record, CheckpointRecord::Trained(run) if run.trains_encoder) {
        let error = anyhow!("the checkpoint's run trained the text encoder as well");
        let hint = "the mean of both hypernetworks would belong to neither encoder";
        return Err(input(error).hint(hint));
    }
    halfway(&thaw(&bundle).map_err(input)?, checkpoint).map_err(input)
}

/// What the manifest says of the checkpoint, and the descriptions that are known of its training.
fn provenance(
    record: CheckpointRecord,
    packs: &[PathBuf],
    list: Option<&Path>,
) -> Result<(Provenance, Descriptions), Failure> {
    match (record, packs, list) {
        (CheckpointRecord::Trained(run), [_, ..], None) => {
            let pack = TaskPack::load_all(packs).map_err(input)?;
            let training = training(run, &pack).map_err(input)?;
            Ok((Provenance::Trained(training), descriptions(&pack)))
        }
        (CheckpointRecord::Trained(_), _, _) => {
            let error = anyhow!("the checkpoint was trained on a task pack, which is not given");
            Err(input(error).hint("name it with --pack; --descriptions is for imported ones"))
        }
        (CheckpointRecord::Imported(_), [_, ..], _) => {
            let error = anyhow!("the checkpoint was imported: it was not trained on a task pack");
            Err(input(error).hint("leave out --pack; --descriptions takes what it was trained on"))
        }
        (CheckpointRecord::Imported(origin), [], list) => {
            Ok((Provenance::Imported(origin), known_descriptions(list)?))
        }
    }
}

/// What is known of the descriptions that an imported network was trained on.
pub(crate) fn known_descriptions(list: Option<&Path>) -> Result<Descriptions, Failure> {
    let training = list.map(read_descriptions).transpose().map_err(input)?;
    Ok(Descriptions { training: training.unwrap_or_default(), ..Descriptions::default() })
}

/// What the manifest says of a run that was on this pack.
fn training(run: RunRecord, pack: &TaskPack) -> anyhow::Result<TrainingInfo> {
    let RunRecord { data, steps, seed, start, .. } = run;
    let got = pack.digest;
    anyhow::ensure!(got == data, "the task pack is {got}, the checkpoint was trained on {data}");
    let data_licences = licences(pack, start.as_ref());
    let started_from = start.map(|start| start.bundle);
    Ok(TrainingInfo { data, data_licences, steps, seed, started_from, averaged: false })
}

/// Distinct licences of the data that was trained on, and of what the run started from.
fn licences(pack: &TaskPack, start: Option<&StartRecord>) -> Vec<String> {
    let own = pack.tasks_of(TaskSplit::Train).map(|task| task.licence.as_str());
    let inherited = start.into_iter().flat_map(|start| &start.data_licences).map(String::as_str);
    let distinct: BTreeSet<&str> = own.chain(inherited).collect();
    distinct.into_iter().map(str::to_owned).collect()
}

/// What training saw, what it did not, and inputs. Unseen are descriptions of held-out tasks, or
/// wordings kept out of training where the pack holds no task out: known tasks in other words are
/// too easy to tell from nonsense to set a threshold by.
fn descriptions(pack: &TaskPack) -> Descriptions {
    let (mut training, mut other_wordings) = (Vec::new(), Vec::new());
    for task in pack.tasks_of(TaskSplit::Train) {
        let seen: Vec<&str> = task.training_descriptions().collect();
        let unseen = task.descriptions.iter().filter(|text| !seen.contains(&text.as_str()));
        other_wordings.extend(unseen.cloned());
        training.extend(seen.into_iter().map(|text| (task.id.clone(), text.to_owned())));
    }
    let held_out = pack.tasks_of(TaskSplit::Heldout);
    let held_out: Vec<String> = held_out.flat_map(|task| task.descriptions.clone()).collect();
    let unseen = if held_out.is_empty() { other_wordings } else { held_out };
    let inputs: Vec<&str> = pack.inputs_like_descriptions().collect();
    let every = inputs.len().div_ceil(INPUTS).max(1);
    let no_task = inputs.into_iter().step_by(every).map(str::to_owned).collect();
    Descriptions { training, unseen, no_task }
}
