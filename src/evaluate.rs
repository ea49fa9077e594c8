//! How well adapters solve the tasks of a pack, beside the base alone and each other.
//!
//! In: an [`Engine`] that computes the base, its chat format, a task pack and a list of
//! [`Contestant`]s. Out: an [`Evaluation`], the mean score of every contestant on every chosen task,
//! from 0 to 1. Scoring rules are in `evaluate/score.rs`.
//!
//! Free answers are decoded greedily and end at the end of turn, or after
//! `min(64, longest expected answer of the task + 8)` tokens; what there is by then is scored.
//! Choices are compared by the sum of the log-probabilities of their tokens and the end of turn.
//!
//! Everything but the adapters is a function of the base, the engine, the pack and the options.

mod choices;
mod contestant;
mod earlier;
mod engine;
mod estimate;
mod exam;
mod greedy;
mod markdown;
mod page;
mod report;
mod score;
mod shots;
mod task_point;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tiny_model;

use anyhow::{Context, Result, ensure};

use crate::base::chat::Chat;
use crate::taskpack::{ExampleSplit, Metric, Task, TaskPack, TaskSplit, Wording};

pub use contestant::{
    AdapterSource, Compile, Contestant, DescriptionAdapter, ExampleAdapter, PromptForm, TaskAdapter,
};
pub use earlier::{Earlier, is_name};
#[cfg(feature = "llama")]
pub use engine::llama::LlamaEngine;
pub use engine::{AdapterData, Engine, EngineKind, KeepGoing, candle::CandleEngine};
pub use estimate::Estimate;
pub use page::html;
pub use report::{Evaluation, MeanScore, TaskScore, TaskScores, TierScores};
pub use task_point::{TaskPoint, task_points};

use exam::{Exam, Marks};
use report::TRAIN_TIER;

/// What is evaluated.
#[derive(Debug, Clone)]
pub struct EvaluateOptions {
    /// Which base it is, for the report.
    pub base: String,
    /// Examples per task, the first ones in file order; a task may have fewer.
    pub examples: usize,
    /// Seed of the bootstrap.
    pub seed: u64,
    /// Which examples: `valid` while tuning, `test` for what is reported.
    pub split: ExampleSplit,
    /// Ids of the tasks, in the order of the report; none for the held-out ones.
    pub tasks: Vec<String>,
    /// Which descriptions stand for a task.
    pub wording: Wording,
    /// Descriptions of each task that a score is the mean over; a task may have fewer.
    pub descriptions: usize,
    /// Name of the contestant that the others are compared with.
    pub reference: String,
    /// Scores that join the report.
    pub earlier: Option<Earlier>,
}

/// Scores every contestant on every chosen task of a pack.
///
/// Adapters are asked for task by task, in the order of the contestants. `progress` gets one line
/// of text per finished task.
///
/// # Errors
/// Tasks that [`chosen_tasks`] refuses, contestants of the same name, no contestant of the
/// reference's name, a task without examples in the split, shots together with the split that they
/// are from, earlier scores of something else, an adapter that cannot be made or does not fit the base.
pub fn evaluate<E: Engine>(
    engine: &E,
    chat: &Chat,
    pack: &TaskPack,
    contestants: &mut [Contestant<'_>],
    options: &EvaluateOptions,
    progress: &mut dyn FnMut(&str),
) -> Result<Evaluation> {
    check(contestants, options)?;
    let tasks = chosen_tasks(pack, &options.tasks)?;
    let digest = pack.digest.to_string();
    if let Some(earlier) = &options.earlier {
        earlier.check(&digest, engine.kind(), options, &tasks)?;
    }
    let mut scored = Vec::with_capacity(tasks.len());
    for (number, &task) in (1..).zip(&tasks) {
        let of_task = evaluate_task(engine, chat, task, contestants, options)
            .with_context(|| format!("cannot evaluate task `{}`", task.id))?;
        progress(&format!("{number}/{} {}", tasks.len(), of_task.summary()));
        scored.push(of_task);
    }
    let names: Vec<String> = contestants.iter().map(|c| c.name.clone()).collect();
    let evaluation = Evaluation::new(digest, engine.kind(), &names, options, scored);
    Ok(match &options.earlier {
        Some(earlier) => earlier.beside(evaluation),
        None => evaluation,
    })
}

/// The tasks of a pack with these ids, in their order; the held-out ones if there are no ids.
///
/// # Errors
/// Ids that the pack does not have, all of them in one message; an id that is there twice; no ids
/// and no held-out task.
pub fn chosen_tasks<'p>(pack: &'p TaskPack, ids: &[String]) -> Result<Vec<&'p Task>> {
    if ids.is_empty() {
        let tasks: Vec<&Task> = pack.tasks_of(TaskSplit::Heldout).collect();
        ensure!(!tasks.is_empty(), "the task pack has no held-out task");
        return Ok(tasks);
    }
    let (mut tasks, mut unknown) = (Vec::with_capacity(ids.len()), Vec::new());
    for (index, id) in ids.iter().enumerate() {
        ensure!(!ids[..index].contains(id), "task `{id}` is asked for twice");
        match pack.tasks.iter().find(|task| task.id == *id) {
            Some(task) => tasks.push(task),
            None => unknown.push(format!("`{id}`")),
        }
    }
    ensure!(unknown.is_empty(), "the task pack has no task {}", unknown.join(", "));
    Ok(tasks)
}

fn check(contestants: &[Contestant<'_>], options: &EvaluateOptions) -> Result<()> {
    ensure!(options.examples > 0, "no examples per task were asked for, expected at least 1");
    ensure!(options.descriptions > 0, "no description was asked for, expected at least 1");
    for (index, Contestant { name, prompt, .. }) in contestants.iter().enumerate() {
        let taken = contestants[..index].iter().any(|other| other.name == *name);
        ensure!(!taken, "two contestants are called `{name}`");
        if let PromptForm::Shots(shots) = prompt {
            ensure!(*shots > 0, "contestant `{name}` has 0 shots, expected at least 1");
            ensure!(
                options.split != ExampleSplit::Train,
                "contestant `{name}` has the answers of the split `train` in its prompt, expected \
                 to be scored on another split"
            );
        }
    }
    let names: Vec<&str> = contestants.iter().map(|c| c.name.as_str()).collect();
    let earlier = options.earlier.as_ref();
    ensure!(
        names.contains(&options.reference.as_str())
            || earlier.is_some_and(|earlier| earlier.has(&options.reference)),
        "no contestant is called `{}`, expected one of {}",
        options.reference,
        names.join(", ")
    );
    Ok(())
}

fn evaluate_task<E: Engine>(
    engine: &E,
    chat: &Chat,
    task: &Task,
    contestants: &mut [Contestant<'_>],
    options: &EvaluateOptions,
) -> Result<TaskScores> {
    let exam = Exam::new(engine, chat, task, options)?;
    let mut scores = Vec::with_capacity(contestants.len());
    for contestant in contestants {
        let marks = exam.score(contestant);
        let name = contestant.name.clone();
        let marks = marks.with_context(|| format!("cannot score contestant `{name}`"))?;
        let (score, prompt_tokens) = marks
            .map_or((None, None), |Marks { score, prompt_tokens }| {
                (Some(score), Some(prompt_tokens))
            });
        scores.push(TaskScore { name, score, prompt_tokens });
    }
    let tier = match task.split {
        TaskSplit::Train => TRAIN_TIER.into(),
        TaskSplit::Heldout => task.tier.clone().unwrap_or_default(),
    };
    Ok(TaskScores {
        id: task.id.clone(),
        tier,
        metric: metric_name(task.metric).into(),
        examples: exam.examples.len(),
        scores,
    })
}

/// The descriptions that stand for a task in the evaluation.
fn descriptions_of<'t>(task: &'t Task, options: &EvaluateOptions) -> Result<Vec<&'t str>> {
    let all_seen = task.split == TaskSplit::Train && task.eval_description_ids.is_empty();
    ensure!(
        options.wording == Wording::Training || !all_seen,
        "training may see every description of `{}`, so none of them is unseen",
        task.id
    );
    let texts: Vec<&str> = task.worded(options.wording).take(options.descriptions).collect();
    ensure!(!texts.is_empty(), "the task has no description");
    Ok(texts)
}

/// The pack's name of a metric.
fn metric_name(metric: Metric) -> &'static str {
    match metric {
        Metric::ExactMatch => "exact_match",
        Metric::ChoiceAccuracy => "choice_accuracy",
        Metric::RougeL => "rouge_l",
    }
}
