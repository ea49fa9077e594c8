//! Tokenized tasks, with what their adapters are conditioned on.
//!
//! In: a task pack and the base's chat format. Out: [`TrainingData`], the tasks trained on and the
//! held-out ones that validation uses. A description or an input becomes a condition through the
//! text encoder; descriptions are embedded once, inputs when a batch draws them.

use anyhow::{Context, Result, bail, ensure};
use candle_core::Device;
use serde::{Deserialize, Serialize};

use super::batch::{TokenizedExample, tokenize};
use super::condition::Condition;
use super::embed::DescriptionEncoder;
use crate::base::chat::Chat;
use crate::taskpack::{ExampleSplit, Task, TaskPack, TaskSplit, Wording};
use crate::workers;

/// What an adapter depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ConditionKind {
    /// A description of the task (Text-to-LoRA).
    Description,
    /// The input itself: one adapter per example (Hyperdecoders).
    Input,
    /// Nothing: one adapter for all (plain LoRA).
    Nothing,
}

/// Examples of one task and what stands for the task.
#[derive(Debug, Clone)]
pub struct TaskData {
    /// Name of the task.
    pub id: String,
    /// Examples that fit the length limit.
    pub examples: Vec<TokenizedExample>,
    /// Conditions of the task as a whole; empty where each example has its own.
    pub conditions: Vec<Condition>,
}

/// Which tasks and texts, and how they are put to the base.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, clap::Args)]
pub struct DataOptions {
    /// Examples longer than this many tokens, answer included, are left out
    #[arg(long, default_value_t = 192)]
    pub max_tokens: usize,
    /// Descriptions used of each task; 0 uses all
    #[arg(long, default_value_t = 0)]
    pub descriptions: usize,
    /// How often an epoch has each task of the first --pack, of the second, …; 1 where none is given
    #[arg(long, value_delimiter = ',', value_name = "N,…")]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub draws: Vec<usize>,
    /// Put a description of the task before each input, in training and validation
    #[arg(long)]
    pub described: bool,
}

impl DataOptions {
    /// Refuses what a training without answers would ignore.
    ///
    /// # Errors
    /// Draws, descriptions in prompts, conditions other than descriptions.
    pub fn refuse_for_reconstruction(&self, condition: ConditionKind) -> Result<()> {
        let ignored = [
            (!self.draws.is_empty(), "--draws"),
            (self.described, "--described"),
            (condition != ConditionKind::Description, "--condition"),
        ];
        for (given, option) in ignored {
            ensure!(!given, "{option} has no meaning in reconstruction: leave it out");
        }
        Ok(())
    }
}

/// Everything training reads.
#[derive(Debug)]
pub struct TrainingData {
    /// Tasks trained on.
    pub training: Vec<TaskData>,
    /// The tasks of an epoch, as indices of `training`, each as often as it is drawn.
    pub epoch: Vec<usize>,
    /// Group (tier) and examples of each held-out task.
    pub validation: Vec<(String, TaskData)>,
    /// Embeds inputs, where examples have conditions of their own.
    pub encoder: Option<DescriptionEncoder>,
    /// Width of a condition; 0 without one.
    pub condition_size: usize,
}

impl TrainingData {
    /// Training tasks of the pack, and its held-out tasks for validation.
    ///
    /// # Errors
    /// A pack without training tasks, a task without an example that fits, an unusable encoder.
    pub fn of_pack(
        pack: &TaskPack,
        chat: &Chat,
        encoder: Option<DescriptionEncoder>,
        kind: ConditionKind,
        options: &DataOptions,
        device: &Device,
    ) -> Result<Self> {
        ensure!(
            kind == ConditionKind::Nothing || encoder.is_some(),
            "this training needs a text encoder"
        );
        let encoder = encoder.filter(|_| kind != ConditionKind::Nothing);
        let preparation = Preparation { chat, encoder: encoder.as_ref(), kind, options };
        let tasks: Vec<&Task> = pack.tasks_of(TaskSplit::Train).collect();
        ensure!(!tasks.is_empty(), "the task pack has no training task");
        let packs = pack.tasks.iter().map(|task| task.source + 1).max().unwrap_or(0);
        let epoch = epoch(&tasks, packs, &options.draws)?;
        let of =
            |tasks: &[&Task], split, wording| preparation.of_tasks(tasks, split, wording, device);
        let training = of(&tasks, ExampleSplit::Train, Wording::Training)?;
        let held_out: Vec<&Task> = pack.tasks_of(TaskSplit::Heldout).collect();
        let tiers: Vec<_> = held_out.iter().map(|t| t.tier.clone().unwrap_or_default()).collect();
        let held_out = of(&held_out, ExampleSplit::Valid, Wording::Unseen)?;
        let validation = tiers.into_iter().zip(held_out).collect();
        let condition_size = encoder.as_ref().map_or(Ok(0), DescriptionEncoder::width)?;
        Ok(Self { training, epoch, validation, encoder, condition_size })
    }

    /// What conditions are like, by task: its descriptions or, where each example has a condition of
    /// its own, that of its first one.
    ///
    /// # Errors
    /// An input that the encoder cannot read.
    pub fn conditions(&self) -> Result<Vec<Vec<Vec<f32>>>> {
        let of_task = |task: &TaskData| match (&self.encoder, task.examples.first()) {
            (Some(encoder), Some(first)) if task.conditions.is_empty() => {
                Ok(vec![encoder.embed(&first.input)?])
            }
            (encoder, _) => task
                .conditions
                .iter()
                .map(|condition| embedded(condition, encoder.as_ref()))
                .collect(),
        };
        self.training.iter().map(of_task).collect()
    }

    /// A single task, for an adapter of its own; validation is on its own validation examples.
    ///
    /// # Errors
    /// A task without an example that fits.
    pub fn of_task(task: &Task, chat: &Chat, options: &DataOptions) -> Result<Self> {
        let preparation =
            Preparation { chat, encoder: None, kind: ConditionKind::Nothing, options };
        let of = |split, wording| {
            let data = preparation.of_tasks(&[task], split, wording, &Device::Cpu)?.pop();
            data.context("one task has one task's data")
        };
        Ok(Self {
            training: vec![of(ExampleSplit::Train, Wording::Training)?],
            epoch: vec![0],
            validation: vec![("valid".into(), of(ExampleSplit::Valid, Wording::Unseen)?)],
            encoder: None,
            condition_size: 0,
        })
    }
}

/// The embedding of a condition.
fn embedded(condition: &Condition, encoder: Option<&DescriptionEncoder>) -> Result<Vec<f32>> {
    match (condition, encoder) {
        (Condition::Embedding(values), _) => Ok(values.clone()),
        (Condition::Tokens(tokens) | Condition::NoTask(tokens), Some(encoder)) => {
            encoder.embed_tokens(tokens)
        }
        (Condition::Tokens(_) | Condition::NoTask(_), None) => bail!("tokens need an encoder"),
    }
}

/// The indices of `tasks`, each as often as `draws` has it for the one of the packs that the task is
/// of.
fn epoch(tasks: &[&Task], packs: usize, draws: &[usize]) -> Result<Vec<usize>> {
    ensure!(draws.len() <= packs, "--draws has {} numbers for {packs} task packs", draws.len());
    let of = |task: &Task| draws.get(task.source).copied().unwrap_or(1);
    let places = tasks.iter().enumerate();
    let epoch: Vec<usize> = places.flat_map(|(i, task)| std::iter::repeat_n(i, of(task))).collect();
    ensure!(!epoch.is_empty(), "--draws leaves no task to train on");
    Ok(epoch)
}

struct Preparation<'a> {
    chat: &'a Chat,
    encoder: Option<&'a DescriptionEncoder>,
    kind: ConditionKind,
    options: &'a DataOptions,
}

impl Preparation<'_> {
    /// The data of several tasks, in their order.
    fn of_tasks(
        &self,
        tasks: &[&Task],
        split: ExampleSplit,
        wording: Wording,
        device: &Device,
    ) -> Result<Vec<TaskData>> {
        let limit = match (wording, self.options.descriptions) {
            (Wording::Unseen, _) => 1,
            (Wording::Training, 0) => usize::MAX,
            (Wording::Training, some) => some,
        };
        let mut texts: Vec<Vec<&str>> = Vec::with_capacity(tasks.len());
        for task in tasks {
            texts.push(task.worded(wording).take(limit).collect());
        }
        let tasks: Vec<_> = tasks.iter().copied().zip(&texts).collect();
        let examples =
            workers::map(device, &tasks, |(task, texts)| self.examples(task, split, texts))?;
        let conditions = self.conditions(&tasks)?;
        let data = tasks.iter().zip(examples).zip(conditions);
        let data = data.map(|(((task, _), examples), conditions)| TaskData {
            id: task.id.clone(),
            examples,
            conditions,
        });
        Ok(data.collect())
    }

    /// The examples of a split that are short enough; an error without any.
    fn examples(
        &self,
        task: &Task,
        split: ExampleSplit,
        texts: &[&str],
    ) -> Result<Vec<TokenizedExample>> {
        let described = if self.options.described { texts } else { &[] };
        let max_tokens = self.options.max_tokens;
        let examples = tokenize(task, split, self.chat, max_tokens, described)?;
        let count = task.examples_of(split).count();
        ensure!(
            !examples.is_empty(),
            "task `{}` has {count} examples in the split `{}`, none of at most {max_tokens} tokens",
            task.id,
            split.name(),
        );
        Ok(examples)
    }

    /// The conditions of each of the tasks, given with its descriptions.
    fn conditions(&self, tasks: &[(&Task, &Vec<&str>)]) -> Result<Vec<Vec<Condition>>> {
        let (ConditionKind::Description, Some(encoder)) = (self.kind, self.encoder) else {
            let of_all = match self.kind {
                ConditionKind::Input => Vec::new(),
                _ => vec![Condition::nothing()],
            };
            return Ok(vec![of_all; tasks.len()]);
        };
        for (task, texts) in tasks {
            ensure!(!texts.is_empty(), "task `{}` has no description", task.id);
        }
        let texts: Vec<&str> = tasks.iter().flat_map(|(_, texts)| texts.iter().copied()).collect();
        let mut all = encoder.conditions(&texts)?.into_iter();
        Ok(tasks.iter().map(|(_, texts)| all.by_ref().take(texts.len()).collect()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::epoch;
    use crate::taskpack::{Metric, Task};

    #[test]
    fn tasks_of_a_pack_are_drawn_as_often_as_asked() {
        let task = |source| {
            let mut task = Task::new("t", "MIT", Metric::RougeL, vec![], vec![]);
            task.source = source;
            task
        };
        let (a, b, c) = (task(0), task(1), task(1));
        let tasks = [&a, &b, &c];
        assert_eq!(epoch(&tasks, 2, &[]).unwrap(), [0, 1, 2]);
        assert_eq!(epoch(&tasks, 2, &[3]).unwrap(), [0, 0, 0, 1, 2]);
        assert_eq!(epoch(&tasks, 2, &[0, 2]).unwrap(), [1, 1, 2, 2]);
        assert_eq!(epoch(&tasks, 3, &[1, 0, 2]).unwrap(), [0]);
        let error = epoch(&tasks, 2, &[1, 1, 1]).unwrap_err().to_string();
        assert!(error.contains("3 numbers for 2 task packs"), "{error}");
        assert!(epoch(&tasks, 2, &[0, 0]).is_err());
    }
}
