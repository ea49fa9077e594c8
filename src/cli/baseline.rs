//! `t2lc baseline`: the adapters that a hypernetwork is measured against.

use std::path::Path;

use anyhow::Context;
use t2lc::base::describe::describe_base;
use t2lc::taskpack::{ExampleSplit, TaskPack, TaskSplit};
use t2lc::train::baseline::{LoraTrainer, Routing, arrow_mixture};
use t2lc::train::data::ConditionKind;
use t2lc::train::library::Library;

use super::failure::{Failure, Outcome};
use super::output::{print_text, say};
use super::train::{run_conditioned, stop_on_interrupt};
use super::{ArrowArgs, AverageArgs, BaselineCommand, LoraArgs, TrainArgs};

/// Runs the verb; prints the directories of the adapters.
pub(crate) fn run(command: &BaselineCommand, quiet: bool) -> Outcome {
    match command {
        BaselineCommand::Lora(args) => lora(args, quiet),
        BaselineCommand::MultiTask(args) => multi_task(args, quiet),
        BaselineCommand::Average(args) => average(args),
        BaselineCommand::Hyperdecoder(args) => hyperdecoder(args, quiet),
        BaselineCommand::Arrow(args) => arrow(args),
    }
}

fn lora(args: &LoraArgs, quiet: bool) -> Outcome {
    let pack = TaskPack::load(&args.pack).map_err(|e| Failure::input("baseline.pack", e))?;
    let training = || pack.tasks_of(TaskSplit::Train).map(|task| task.id.clone()).collect();
    let ids = if args.tasks.is_empty() { training() } else { args.tasks.clone() };
    let stop = stop_on_interrupt()?;
    let trainer = LoraTrainer::open(&args.base, &pack, &args.options)?;
    let made = trainer.task_specific(&ids, &args.output, args.resume, &stop)?;
    if made.len() < ids.len() {
        say(quiet, &format!("stopped after {} of {} tasks", made.len(), ids.len()));
    }
    for adapter in &made {
        print_text(&format!("{}\n", adapter.display()))?;
    }
    Ok(())
}

fn multi_task(args: &LoraArgs, quiet: bool) -> Outcome {
    if !args.tasks.is_empty() {
        let what = anyhow::anyhow!("a multi-task adapter is trained on all training tasks");
        return Err(Failure::environment("baseline.usage", what).hint("leave out --tasks"));
    }
    let pack = TaskPack::load(&args.pack).map_err(|e| Failure::input("baseline.pack", e))?;
    let stop = stop_on_interrupt()?;
    let trainer = LoraTrainer::open(&args.base, &pack, &args.options)?;
    match trainer.multi_task(&args.output, args.resume, &stop)? {
        Some(adapter) => print_text(&format!("{}\n", adapter.display()))?,
        None => say(quiet, "stopped; continue with --resume"),
    }
    Ok(())
}

fn average(args: &AverageArgs) -> Outcome {
    let base = describe_base(&args.base, &args.modules)?;
    Library::load(&args.library, &base)?.average()?.save(&args.output, &base)?;
    print_path(&args.output)
}

fn hyperdecoder(args: &TrainArgs, quiet: bool) -> Outcome {
    if args.reconstruct.is_some() {
        let what = anyhow::anyhow!("a library has no adapters for single inputs");
        return Err(Failure::environment("baseline.usage", what).hint("leave out --reconstruct"));
    }
    run_conditioned(args, ConditionKind::Input, quiet)
}

fn arrow(args: &ArrowArgs) -> Outcome {
    let pack = TaskPack::load(&args.pack).map_err(|e| Failure::input("baseline.pack", e))?;
    let task = pack.tasks.iter().find(|task| task.id == args.task);
    let task = task.with_context(|| format!("the task pack has no task `{}`", args.task))?;
    let base = describe_base(&args.base, &args.modules)?;
    let library = Library::load(&args.library, &base)?;
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

fn print_path(path: &Path) -> Outcome {
    print_text(&format!("{}\n", path.display()))?;
    Ok(())
}
