//! `t2lc eval`: the scores of a bundle and of other adapters on the tasks of a pack, with controls.

mod adapters;
mod contestants;
mod page;

use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, anyhow};
use candle_core::Device;
use t2lc::base::chat::Chat;
use t2lc::base::decoder::Decoder;
#[cfg(feature = "llama")]
use t2lc::evaluate::LlamaEngine;
use t2lc::evaluate::{
    CandleEngine, Contestant, Engine, EngineKind, EvaluateOptions, Evaluation, chosen_tasks,
    evaluate,
};
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

/// What computes the answers, before the base is in memory where that takes long.
enum Opened {
    Candle,
    #[cfg(feature = "llama")]
    LlamaCpp(t2lc::llama::Model),
}

impl Opened {
    /// Checks first what is quick to check.
    fn of(args: &EvalArgs) -> Result<Self, Failure> {
        match args.engine {
            #[cfg(feature = "llama")]
            EngineKind::LlamaCpp => {
                super::llama::open_model(args.llama.as_deref(), &args.base).map(Self::LlamaCpp)
            }
            #[cfg(not(feature = "llama"))]
            EngineKind::LlamaCpp => Err(Failure::without_llama()),
            _ => Ok(Self::Candle),
        }
    }
}

/// Everything that is evaluated.
struct Exam<'a> {
    chat: Chat,
    pack: &'a TaskPack,
    contestants: Vec<Contestant<'static>>,
    options: EvaluateOptions,
}

impl Exam<'_> {
    fn hold<E: Engine>(&mut self, engine: &E, quiet: bool) -> anyhow::Result<Evaluation> {
        let Self { chat, pack, contestants, options } = self;
        evaluate(engine, chat, pack, contestants, options, &mut |line: &str| say(quiet, line))
    }
}

/// Runs the verb. Adapters are compiled as `compile` does it, quantization included.
pub(crate) fn run(args: &EvalArgs, quiet: bool) -> Outcome {
    if let Some(path) = &args.html {
        page::check(path, args.force)?;
    }
    let opened = Opened::of(args)?;
    let device = Device::cuda_if_available(0).context("no device")?;
    let pack = TaskPack::load(&args.pack).map_err(|e| Failure::input("eval.pack", e))?;
    let tasks = chosen_tasks(&pack, &args.tasks).map_err(|e| Failure::input("eval.tasks", e))?;
    let contestants = contestants::all(args, &pack, &tasks, &device, quiet)?;
    let options = EvaluateOptions {
        examples: args.examples,
        seed: args.seed,
        split: args.split,
        tasks: args.tasks.clone(),
        wording: args.wording,
        descriptions: args.descriptions,
        reference: reference(args, &contestants)?,
    };
    let mut exam = Exam { chat: Chat::open(&args.base)?, pack: &pack, contestants, options };
    let evaluation = match opened {
        Opened::Candle => {
            let decoder = Decoder::open(&args.base, &device)?;
            let end_of_turn = exam.chat.end_of_turn;
            exam.hold(&CandleEngine::new(&decoder, end_of_turn), quiet)?
        }
        #[cfg(feature = "llama")]
        Opened::LlamaCpp(model) => {
            let engine = LlamaEngine::new(&model);
            exam.hold(&engine, quiet)?
        }
    };
    if args.json {
        print_json(&serde_json::to_value(&evaluation).context("scores as JSON")?)?;
    } else {
        print_text(&evaluation.markdown())?;
    }
    if let Some(path) = &args.html {
        page::write(path, args, &evaluation, &pack, &tasks, quiet)?;
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
