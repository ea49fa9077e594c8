//! `t2lc eval`: the scores of a bundle and of other adapters on the tasks of a pack, with controls.

mod adapters;
mod contestants;

use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, anyhow};
use candle_core::Device;
use t2lc::base::chat::Chat;
use t2lc::base::decoder::Decoder;
use t2lc::evaluate::{Contestant, EvaluateOptions, chosen_tasks, evaluate};
use t2lc::taskpack::TaskPack;

use super::EvalArgs;
use super::failure::{Failure, Outcome};
use super::output::{print_json, print_text, say};

/// A name in the report and where its adapter or bundle is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NamedPath {
    name: String,
    path: PathBuf,
}

impl FromStr for NamedPath {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, path) = text.split_once('=').ok_or("expected NAME=PATH")?;
        // The name is the head of a column.
        if name.is_empty() || name.contains(|c: char| c == '|' || c.is_control()) {
            return Err(format!("`{name}` is not a name"));
        }
        if path.is_empty() {
            return Err("the path is empty".into());
        }
        Ok(Self { name: name.into(), path: path.into() })
    }
}

/// Runs the verb. Adapters are compiled as `compile` does it, quantization included.
pub(crate) fn run(args: &EvalArgs, quiet: bool) -> Outcome {
    let device = Device::cuda_if_available(0).context("no device")?;
    let pack = TaskPack::load(&args.pack).map_err(|e| Failure::input("eval.pack", e))?;
    let tasks = chosen_tasks(&pack, &args.tasks).map_err(|e| Failure::input("eval.tasks", e))?;
    let mut contestants = contestants::all(args, &pack, &tasks, &device, quiet)?;
    let options = EvaluateOptions {
        examples: args.examples,
        seed: args.seed,
        split: args.split,
        tasks: args.tasks.clone(),
        wording: args.wording,
        descriptions: args.descriptions,
        reference: reference(args, &contestants)?,
    };
    let chat = Chat::open(&args.base)?;
    let decoder = Decoder::open(&args.base, &device)?;
    let mut progress = |line: &str| say(quiet, line);
    let evaluation = evaluate(&decoder, &chat, &pack, &mut contestants, &options, &mut progress)?;
    if args.json {
        print_json(&serde_json::to_value(&evaluation).context("scores as JSON")?)?;
    } else {
        print_text(&evaluation.markdown())?;
    }
    Ok(())
}

/// The contestant that the others are compared with.
fn reference(args: &EvalArgs, contestants: &[Contestant<'_>]) -> Result<String, Failure> {
    let name = match &args.reference {
        Some(name) => name.as_str(),
        None if args.no_bundle => "base",
        None => "compiled",
    };
    if contestants.iter().any(|contestant| contestant.name == name) {
        return Ok(name.into());
    }
    let names: Vec<&str> = contestants.iter().map(|c| c.name.as_str()).collect();
    let error = anyhow!("nothing that is scored is called `{name}`");
    Err(Failure::input("eval.reference", error)
        .hint(format!("use --reference with one of {}", names.join(", "))))
}

#[cfg(test)]
mod tests {
    use super::NamedPath;

    #[test]
    fn a_named_path_has_both_parts() {
        let parse = str::parse::<NamedPath>;
        let expected = NamedPath { name: "multi task".into(), path: "runs/a=b".into() };
        assert_eq!(parse("multi task=runs/a=b"), Ok(expected));
        assert_eq!(parse("runs/a"), Err("expected NAME=PATH".to_owned()));
        assert_eq!(parse("=runs/a"), Err("`` is not a name".to_owned()));
        assert_eq!(parse("a|b=runs/a"), Err("`a|b` is not a name".to_owned()));
        assert_eq!(parse("a="), Err("the path is empty".to_owned()));
    }
}
