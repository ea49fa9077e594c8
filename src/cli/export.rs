//! `t2lc export`: checkpoint → bundle.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::anyhow;
use t2lc::taskpack::{TaskPack, TaskSplit};
use t2lc_export::checkpoint::{Checkpoint, CheckpointRecord, RunRecord};
use t2lc_export::descriptions::read_descriptions;
use t2lc_export::encoder::EncoderSource;
use t2lc_export::error::ExportError;
use t2lc_export::freeze::{Descriptions, FreezeOptions, Provenance, freeze};
use t2lc_export::import::UNKNOWN_LICENCE;
use t2lc_runtime::atomic::write_directory_atomically;
use t2lc_runtime::backend::{self, BackendKind, Provider};
use t2lc_runtime::encode::EncodeError;
use t2lc_runtime::error::Error;
use t2lc_runtime::manifest::TrainingInfo;

use super::ExportArgs;
use super::failure::{Failure, Outcome};
use super::output::{human_bytes, say};
use super::write_back::{self, ExportFormat};

/// Licence of a hypernetwork that was trained here, unless another is given.
const LICENCE: &str = "CC-BY-SA-4.0";
/// The text encoder of hypernetworks that are trained here, unless another is named.
const ENCODER_NAME: &str = "all-MiniLM-L6-v2";
/// Its licence.
const ENCODER_LICENCE: &str = "Apache-2.0";

/// Runs the verb.
pub(crate) fn run(args: &ExportArgs, quiet: bool) -> Outcome {
    if args.format == ExportFormat::TextToLora {
        return write_back::run(args, quiet);
    }
    let checkpoint = Checkpoint::load(&args.checkpoint).map_err(input)?;
    let record = CheckpointRecord::load(&args.checkpoint, &checkpoint.config).map_err(input)?;
    let (pack, list) = (args.pack.as_deref(), args.descriptions.as_deref());
    let (provenance, descriptions) = provenance(record, pack, list)?;
    let base_name = checkpoint.config.base.name.to_lowercase();
    let licence = args.licence.as_deref().unwrap_or(match &provenance {
        Provenance::Trained(_) => LICENCE,
        Provenance::Imported(origin) => origin.licence.as_str(),
    });
    let encoder = encoder(args)?;
    let (encoder_name, encoder_licence) = encoder_identity(args, &encoder, &provenance);
    let options = FreezeOptions {
        name: args.name.clone().unwrap_or(base_name),
        version: args.bundle_version.clone(),
        licence: licence.to_owned(),
        encoder_name,
        encoder_licence,
        encoder_weights: args.encoder_weights,
        hypernet_weights: args.hypernet_weights,
    };
    // A bundle's table and threshold come out of its encoder: unless told otherwise, the same on
    // every machine.
    let backend = backend::open(args.backend, Provider::Cpu).map_err(Error::from)?;
    let mut notes: Vec<String> =
        notes(&provenance, &options.licence).into_iter().map(str::to_owned).collect();
    notes.extend(encoder_notes(args, &options, &backend.id()));
    let files =
        freeze(&checkpoint, &encoder, &descriptions, provenance, &options, backend.as_ref())
            .map_err(|error| refused(error, args))?;
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

/// Where the text encoder comes from.
fn encoder(args: &ExportArgs) -> Result<EncoderSource, Failure> {
    match (&args.encoder, &args.encoder_onnx) {
        (Some(folder), None) => Ok(EncoderSource::Directory(folder.clone())),
        (None, Some(graph)) => {
            EncoderSource::onnx(graph, args.tokenizer.as_deref(), args.pooling).map_err(input)
        }
        // The options exclude each other, and one of them is required.
        _ => Err(Failure::environment("usage", anyhow!("give --encoder or --encoder-onnx"))),
    }
}

/// Name and licence of the text encoder. Training here is with one encoder unless told otherwise;
/// of others, no more is known than where they lie.
fn encoder_identity(
    args: &ExportArgs,
    encoder: &EncoderSource,
    provenance: &Provenance,
) -> (String, String) {
    let is_usual =
        matches!((encoder, provenance), (EncoderSource::Directory(_), Provenance::Trained(_)));
    let name = args.encoder_name.clone().unwrap_or_else(|| {
        let name = if is_usual { Some(ENCODER_NAME.to_owned()) } else { encoder.name() };
        name.unwrap_or_else(|| "unnamed".to_owned())
    });
    let licence = if is_usual && name == ENCODER_NAME { ENCODER_LICENCE } else { UNKNOWN_LICENCE };
    (name, args.encoder_licence.clone().unwrap_or_else(|| licence.to_owned()))
}

/// What is not known of a text encoder, and what its backend means for the bundle.
fn encoder_notes(args: &ExportArgs, options: &FreezeOptions, backend_id: &str) -> Vec<String> {
    let mut notes = Vec::new();
    if options.encoder_licence == UNKNOWN_LICENCE {
        notes.push(format!(
            "the licence of the text encoder `{}` is unknown; --encoder-licence names it, \
             --encoder-name the encoder",
            options.encoder_name.escape_debug()
        ));
    }
    if args.backend != BackendKind::Exact {
        notes.push(format!("computed with {backend_id}: another CPU may give other bytes"));
        if args.encoder_onnx.is_some() {
            let kind = args.backend;
            notes.push(format!("`compile` runs it with --backend {kind}, as here"));
        }
    }
    notes
}

/// The failure of freezing, with advice where it is the backend that refuses a graph.
fn refused(error: ExportError, args: &ExportArgs) -> Failure {
    let by_backend =
        matches!(error, ExportError::Backend(_) | ExportError::Encode(EncodeError::Backend(_)));
    let failure = input(error);
    if by_backend && args.backend == BackendKind::Exact && args.encoder_onnx.is_some() {
        return failure.hint(
            "exact has only the operators of encoders that t2lc builds; for others use --backend \
             ort or --backend tract, here and for `compile`",
        );
    }
    failure
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
