//! `t2lc baseline`: the adapters that a hypernetwork is measured against.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, Subcommand};
use t2lc::base::describe::describe_base;
use t2lc::taskpack::{ExampleSplit, TaskPack, TaskSplit};
use t2lc::train::baseline::{LoraTrainer, Routing, arrow_mixture};
use t2lc::train::data::ConditionKind;
use t2lc::train::library::Library;
use t2lc::workers::claim_cores;
use t2lc_runtime::base::BaseModel;

use super::TrainArgs;
use super::failure::{Failure, Outcome};
use super::output::{print_text, refuse_existing};
use super::train::{interrupted, run_conditioned, stop_on_interrupt, untrainable};

/// The adapters that a hypernetwork is measured against.
#[derive(Debug, Subcommand)]
pub(crate) enum BaselineCommand {
    /// One adapter per task, trained on that task
    Lora(LoraArgs),
    /// One adapter for all training tasks
    MultiTask(LoraArgs),
    /// The mean of a library's adapters
    Average(AverageArgs),
    /// A hypernetwork that generates an adapter for each input
    Hyperdecoder(TrainArgs),
    /// The mixture of a library that routing chooses for the inputs of a task
    Arrow(ArrowArgs),
}

/// Options of `baseline lora` and `baseline multi-task`.
#[derive(Debug, Args)]
pub(crate) struct LoraArgs {
    /// Base model: a GGUF file or a Hugging Face directory
    #[arg(long, value_name = "PATH")]
    base: PathBuf,
    /// Tasks: a task pack, Super-NaturalInstructions files, or a directory of JSONL; repeat it to
    /// take several
    #[arg(long, value_name = "DIR", required = true)]
    pack: Vec<PathBuf>,
    /// Tasks that get an adapter [default: all training tasks]
    #[arg(long, value_delimiter = ',', value_name = "ID")]
    tasks: Vec<String>,
    /// Directory of the adapters
    #[arg(short, long)]
    output: PathBuf,
    /// Keep adapters that exist, and continue the one in progress
    #[arg(long)]
    resume: bool,
    #[command(flatten)]
    options: t2lc::train::baseline::LoraOptions,
}

/// Options of `baseline average`.
#[derive(Debug, Args)]
pub(crate) struct AverageArgs {
    /// Base model: a GGUF file or a Hugging Face directory
    #[arg(long, value_name = "PATH")]
    base: PathBuf,
    /// Directory of PEFT adapters
    #[arg(long, value_name = "DIR")]
    library: PathBuf,
    /// Task pack; adapters of tasks that it holds out are left out
    #[arg(long, value_name = "DIR")]
    pack: Option<PathBuf>,
    /// Target modules of the adapters
    #[arg(long, value_delimiter = ',', default_value = "q_proj,v_proj")]
    modules: Vec<String>,
    /// PEFT directory to write
    #[arg(short, long)]
    output: PathBuf,
    /// Overwrite an existing output
    #[arg(long)]
    force: bool,
}

/// Options of `baseline arrow`.
#[derive(Debug, Args)]
pub(crate) struct ArrowArgs {
    /// Base model: a GGUF file or a Hugging Face directory
    #[arg(long, value_name = "PATH")]
    base: PathBuf,
    /// Directory of PEFT adapters; those of held-out tasks are left out
    #[arg(long, value_name = "DIR")]
    library: PathBuf,
    /// Tasks: a task pack, Super-NaturalInstructions files, or a directory of JSONL
    #[arg(long, value_name = "DIR")]
    pack: PathBuf,
    /// The task whose inputs are routed
    #[arg(long, value_name = "ID")]
    task: String,
    /// Inputs that are routed, the first ones of its training examples
    #[arg(long, default_value_t = 32)]
    inputs: usize,
    /// Adapters that a token is routed to
    #[arg(long, default_value_t = 4)]
    top_k: usize,
    /// Adapters that the mixture keeps, those of the largest mean weight
    #[arg(long, default_value_t = 4)]
    keep: usize,
    /// Target modules of the adapters
    #[arg(long, value_delimiter = ',', default_value = "q_proj,v_proj")]
    modules: Vec<String>,
    /// PEFT directory to write
    #[arg(short, long)]
    output: PathBuf,
    /// Overwrite an existing output
    #[arg(long)]
    force: bool,
}

/// Runs the verb; prints the directories of the adapters.
pub(crate) fn run(command: &BaselineCommand, quiet: bool) -> Outcome {
    match command {
        BaselineCommand::Lora(args) => lora(args),
        BaselineCommand::MultiTask(args) => multi_task(args),
        BaselineCommand::Average(args) => average(args),
        BaselineCommand::Hyperdecoder(args) => hyperdecoder(args, quiet),
        BaselineCommand::Arrow(args) => arrow(args),
    }
}

fn lora(args: &LoraArgs) -> Outcome {
    if !args.options.data.draws.is_empty() {
        let what = anyhow::anyhow!("an adapter of one task draws from that task alone");
        return Err(Failure::environment("baseline.usage", what).hint("leave out --draws"));
    }
    claim_cores();
    let pack = TaskPack::load_all(&args.pack).map_err(|e| Failure::input("baseline.pack", e))?;
    let training = || pack.tasks_of(TaskSplit::Train).map(|task| task.id.clone()).collect();
    let ids = if args.tasks.is_empty() { training() } else { args.tasks.clone() };
    let stop = stop_on_interrupt()?;
    let trainer = LoraTrainer::open(&args.base, &pack, &args.options).map_err(untrainable)?;
    let made = trainer.task_specific(&ids, &args.output, args.resume, &stop);
    let made = made.map_err(untrainable)?;
    for adapter in &made {
        print_text(&format!("{}\n", adapter.display()))?;
    }
    if made.len() < ids.len() {
        return Err(interrupted(&format!("after {} of {} tasks", made.len(), ids.len())));
    }
    Ok(())
}

fn multi_task(args: &LoraArgs) -> Outcome {
    if !args.tasks.is_empty() {
        let what = anyhow::anyhow!("a multi-task adapter is trained on all training tasks");
        return Err(Failure::environment("baseline.usage", what).hint("leave out --tasks"));
    }
    refuse_existing(&args.output, args.resume)?;
    claim_cores();
    let pack = TaskPack::load_all(&args.pack).map_err(|e| Failure::input("baseline.pack", e))?;
    let stop = stop_on_interrupt()?;
    let trainer = LoraTrainer::open(&args.base, &pack, &args.options).map_err(untrainable)?;
    match trainer.multi_task(&args.output, args.resume, &stop).map_err(untrainable)? {
        Some(adapter) => print_path(&adapter),
        None => Err(interrupted("before the end")),
    }
}

fn average(args: &AverageArgs) -> Outcome {
    refuse_existing(&args.output, args.force)?;
    let base = described(&args.base, &args.modules)?;
    let mut library = loaded(&args.library, &base)?;
    if let Some(pack) = &args.pack {
        let pack = TaskPack::load(pack).map_err(|e| Failure::input("baseline.pack", e))?;
        library.leave_out_held_out(&pack);
    }
    let average = library.average().map_err(|e| Failure::input("baseline.library", e))?;
    average.save(&args.output, &base)?;
    print_path(&args.output)
}

fn hyperdecoder(args: &TrainArgs, quiet: bool) -> Outcome {
    if args.reconstruct.is_some() {
        let what = anyhow::anyhow!("a library has no adapters for single inputs");
        return Err(Failure::environment("baseline.usage", what).hint("leave out --reconstruct"));
    }
    if args.options.condition == ConditionKind::Nothing {
        let what = anyhow::anyhow!("a hyperdecoder reads the input");
        return Err(Failure::environment("baseline.usage", what).hint("leave out --condition"));
    }
    run_conditioned(args, ConditionKind::Input, quiet)
}

fn arrow(args: &ArrowArgs) -> Outcome {
    let pack = TaskPack::load(&args.pack).map_err(|e| Failure::input("baseline.pack", e))?;
    refuse_existing(&args.output, args.force)?;
    let task = pack.tasks.iter().find(|task| task.id == args.task);
    let task = task
        .with_context(|| format!("the task pack has no task `{}`", args.task))
        .map_err(|e| Failure::input("baseline.task", e))?;
    let base = described(&args.base, &args.modules)?;
    let mut library = loaded(&args.library, &base)?;
    library.leave_out_held_out(&pack);
    let inputs = task.examples_of(ExampleSplit::Train).take(args.inputs);
    let inputs = inputs.map(|example| example.input.as_str());
    let mixture = arrow_mixture(
        &args.base,
        &base,
        &library,
        Routing { top_k: args.top_k, keep: args.keep },
        inputs,
    )?;
    mixture.save(&args.output, &base)?;
    print_path(&args.output)
}

fn described(base: &Path, modules: &[String]) -> Result<BaseModel, Failure> {
    describe_base(base, modules).map_err(|e| Failure::input("baseline.base", e))
}

fn loaded(library: &Path, base: &BaseModel) -> Result<Library, Failure> {
    Library::load(library, base).map_err(|e| Failure::input("baseline.library", e))
}

fn print_path(path: &Path) -> Outcome {
    print_text(&format!("{}\n", path.display()))?;
    Ok(())
}
