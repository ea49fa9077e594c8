//! `t2lc eval`: the scores of a bundle and of other adapters on the tasks of a pack, with controls.

mod adapters;
mod contestants;
mod page;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, anyhow, ensure};
use candle_core::Device;
use clap::Args;
use t2lc::base::chat::Chat;
use t2lc::base::decoder::Decoder;
use t2lc::base::digest::base_digest;
#[cfg(feature = "llama")]
use t2lc::evaluate::LlamaEngine;
use t2lc::evaluate::{
    CandleEngine, Contestant, Earlier, Engine, EngineKind, EvaluateOptions, Evaluation,
    chosen_tasks, evaluate, is_name,
};
use t2lc::taskpack::TaskPack;

use super::failure::{Failure, Outcome};
use super::output::{print_json, print_text, refuse_existing, say};

/// Size of a report that is read, at most.
const MAX_REPORT_BYTES: u64 = 1 << 26;

/// Options of `eval`.
#[derive(Debug, Args)]
pub(crate) struct EvalArgs {
    /// Base model: a GGUF file or a Hugging Face directory
    #[arg(long, value_name = "PATH")]
    base: PathBuf,
    /// Tasks: a task pack, Super-NaturalInstructions files, or a directory of JSONL
    #[arg(long, value_name = "DIR")]
    pack: PathBuf,
    /// What computes the answers: candle or llama.cpp, which needs a GGUF file
    #[arg(long, default_value_t = t2lc::evaluate::EngineKind::Candle)]
    engine: t2lc::evaluate::EngineKind,
    /// Directory of llama.cpp's libraries [default: what T2LC_LLAMA says]
    #[arg(long, value_name = "DIR")]
    llama: Option<PathBuf>,
    /// Bundle directory [default: the one built in]
    #[arg(long, value_name = "DIR", conflicts_with = "no_bundle")]
    bundle: Option<PathBuf>,
    /// Leave out the bundle: no `compiled`, no `other` and no `random`
    #[arg(long)]
    no_bundle: bool,
    /// Tasks to score on, training tasks as well [default: the held-out ones]
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    tasks: Vec<String>,
    /// Part of the examples to score on: valid for tuning, test for reporting
    #[arg(long, default_value = "test")]
    split: t2lc::taskpack::ExampleSplit,
    /// Examples per task, the first ones in file order
    #[arg(long, default_value_t = 40)]
    examples: usize,
    /// Descriptions that stand for a task: those that no training sees, or those of training
    #[arg(long, value_enum, default_value_t)]
    wording: t2lc::taskpack::Wording,
    /// Descriptions of each task that scores are the mean over
    #[arg(long, value_name = "N", default_value_t = 1)]
    descriptions: usize,
    /// Add `N-shot`: the base with the first N training examples of the task in the prompt
    #[arg(long, value_name = "N")]
    shots: Option<usize>,
    /// Add `oracle`, each task's own adapter, and `average` and `arrow` of the adapters of all but
    /// held-out tasks: directory of PEFT adapters named by task
    #[arg(long, value_name = "DIR")]
    library: Option<PathBuf>,
    /// Adapters that `arrow` mixes for a token; 0 leaves it out
    #[arg(long, value_name = "K", default_value_t = 4)]
    arrow_top_k: usize,
    /// Add one adapter for all tasks (PEFT directory or GGUF file); can be repeated
    #[arg(long, value_name = "NAME=PATH")]
    adapter: Vec<NamedPath>,
    /// The same, with the description in the prompt; can be repeated
    #[arg(long, value_name = "NAME=PATH")]
    adapter_described: Vec<NamedPath>,
    /// Add a bundle that compiles the input of each example; can be repeated
    #[arg(long, value_name = "NAME=DIR")]
    per_input: Vec<NamedPath>,
    /// Add the contestants of an earlier evaluation of the same examples, without scoring them
    /// again: its report as --json printed it
    #[arg(long, value_name = "JSON")]
    earlier: Option<PathBuf>,
    /// Compare the others with this one [default: compiled, or base without a bundle]
    #[arg(long, value_name = "NAME")]
    reference: Option<String>,
    /// Seed of the random descriptions and of the bootstrap
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// Also write tables and pictures as an HTML page
    #[arg(long, value_name = "PAGE")]
    html: Option<PathBuf>,
    /// Overwrite an existing page
    #[arg(long, requires = "html")]
    force: bool,
    /// Print as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

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
        if !is_name(name) {
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
        refuse_existing(path, args.force)?;
    }
    if args.llama.is_some() && args.engine == EngineKind::Candle {
        let error = anyhow!("--llama is for --engine llama.cpp");
        return Err(Failure::environment("usage", error));
    }
    let opened = Opened::of(args)?;
    let device = Device::cuda_if_available(0).context("no device")?;
    let pack = TaskPack::load(&args.pack).map_err(|e| Failure::input("eval.pack", e))?;
    let tasks = chosen_tasks(&pack, &args.tasks).map_err(|e| Failure::input("eval.tasks", e))?;
    let mut earlier = args.earlier.as_deref().map(read_earlier).transpose()?;
    if let Some(earlier) = earlier.as_mut().filter(|_| !args.no_bundle) {
        // Those were of the bundle of then.
        earlier.forget(&["compiled", "other", "random"]);
    }
    let contestants = contestants::all(args, earlier.as_ref(), &pack, &tasks, &device, quiet)?;
    let options = EvaluateOptions {
        base: base_digest(&args.base).map_err(|e| Failure::input("eval.base", e))?.to_string(),
        examples: args.examples,
        seed: args.seed,
        split: args.split,
        tasks: args.tasks.clone(),
        wording: args.wording,
        descriptions: args.descriptions,
        reference: reference(args, &contestants, earlier.as_ref())?,
        earlier,
    };
    if let Some(earlier) = &options.earlier {
        let checked = earlier.check(&pack.digest.to_string(), args.engine, &options, &tasks);
        checked.map_err(|error| Failure::input("eval.earlier", error))?;
    }
    let mut exam = Exam { chat: Chat::open(&args.base)?, pack: &pack, contestants, options };
    let evaluation = match opened {
        Opened::Candle => {
            let decoder = Decoder::open(&args.base, &device)?;
            let ends = exam.chat.ends.clone();
            exam.hold(&CandleEngine::new(&decoder, &ends), quiet)?
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

/// The report of an earlier evaluation.
fn read_earlier(path: &Path) -> Result<Earlier, Failure> {
    let read = || -> anyhow::Result<Earlier> {
        let mut bytes = Vec::new();
        File::open(path)?.take(MAX_REPORT_BYTES + 1).read_to_end(&mut bytes)?;
        ensure!(bytes.len() as u64 <= MAX_REPORT_BYTES, "larger than {MAX_REPORT_BYTES} bytes");
        Earlier::from_json(&bytes)
    };
    let what = || format!("cannot read `{}` as the report of an evaluation", path.display());
    read().with_context(what).map_err(|error| Failure::input("eval.earlier", error))
}

/// The contestant that the others are compared with.
fn reference(
    args: &EvalArgs,
    contestants: &[Contestant<'_>],
    earlier: Option<&Earlier>,
) -> Result<String, Failure> {
    let name = match &args.reference {
        Some(name) => name.as_str(),
        None if args.no_bundle => "base",
        None => "compiled",
    };
    let scored = contestants.iter().any(|contestant| contestant.name == name);
    if scored || earlier.is_some_and(|earlier| earlier.has(name)) {
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
