//! `t2lc export --format text-to-lora`: checkpoint → a checkpoint of the reference implementation
//! of Text-to-LoRA.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use anyhow::anyhow;
use t2lc_export::checkpoint::Checkpoint;
use t2lc_export::write_back::{Names, WrittenBack, write_back};
use t2lc_runtime::atomic::write_directory_atomically;
use t2lc_runtime::error::Error;

use super::ExportArgs;
use super::failure::{Failure, Outcome};
use super::output::{human_bytes, say};

/// Where the reference cuts a path to find the settings of a snapshot of training.
const SNAPSHOT_MARK: &str = "checkpoint";

/// What an export writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum ExportFormat {
    /// A bundle.
    #[default]
    Bundle,
    /// A checkpoint of the reference implementation.
    TextToLora,
}

impl fmt::Display for ExportFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bundle => "bundle",
            Self::TextToLora => "text-to-lora",
        })
    }
}

impl FromStr for ExportFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "bundle" => Ok(Self::Bundle),
            "text-to-lora" => Ok(Self::TextToLora),
            _ => Err(format!("unknown format `{text}`, expected bundle or text-to-lora")),
        }
    }
}

/// Runs the verb for this format.
pub(crate) fn run(args: &ExportArgs, quiet: bool) -> Outcome {
    if let Some(option) = for_bundles(args) {
        let error = anyhow!("{option} is for bundles, not for --format text-to-lora");
        return Err(Failure::environment("usage", error).hint(format!("leave out {option}")));
    }
    let Some(encoder) = args.freeze.encoder_name.as_deref() else {
        let error = anyhow!("--format text-to-lora needs the name of the text encoder");
        return Err(Failure::environment("usage", error)
            .hint("name the one that it was trained with, as the reference does: --encoder-name"));
    };
    let input = |error: anyhow::Error| Failure::input("export.input", error);
    let checkpoint = Checkpoint::load(&args.checkpoint).map_err(|error| input(error.into()))?;
    let base_name = checkpoint.config.base.name.to_lowercase();
    let run = args.freeze.name.as_deref().unwrap_or(&base_name);
    let names = Names { run, encoder, model_dir: args.model_dir.as_deref() };
    let written = write_back(&checkpoint, &names).map_err(|error| input(error.into()))?;
    let WrittenBack { files, mut notes } = written;
    notes.extend(path_note(&args.output));
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

/// An option that says nothing here.
fn for_bundles(args: &ExportArgs) -> Option<&'static str> {
    let given = [("--pack", !args.pack.is_empty()), ("--licence", args.licence.is_some())];
    let given = given.into_iter().find_map(|(option, is_given)| is_given.then_some(option));
    args.freeze.for_bundles().or(given)
}

/// A note on a path in which the reference would not find all files.
fn path_note(output: &Path) -> Option<String> {
    output.to_string_lossy().contains(SNAPSHOT_MARK).then(|| {
        format!(
            "the reference looks for the settings in what comes before `{SNAPSHOT_MARK}` in a \
             path: call the directory otherwise"
        )
    })
}
