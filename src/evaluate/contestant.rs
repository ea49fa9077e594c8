//! Who is scored: a name, what is in its prompts, and where its adapters come from.
//!
//! In: adapters, or functions that make them. Out: a [`Contestant`], which the evaluation asks for
//! an adapter once per task or once per example. A task for which it has none, or one that the
//! engine cannot run, is not scored.

use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;

use anyhow::{Context, Result};
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use t2lc_runtime::describe::DescriptionError;
use t2lc_runtime::digest::Digest;

use super::engine::AdapterData;
use crate::taskpack::{Example, Task, Wording};

/// Characters of the text that stands in for a description.
const RANDOM_TEXT_LEN: usize = 24;

/// Turns the raw text of a description into an adapter.
pub type Compile<'a> = Rc<dyn Fn(&str) -> Result<AdapterData> + 'a>;
/// The adapter of a task; `None` where there is none.
pub type TaskAdapter<'a> = Box<dyn FnMut(&Task) -> Result<Option<AdapterData>> + 'a>;
/// The adapter for one description of a task, numbered from 0.
pub type DescriptionAdapter<'a> = Box<dyn FnMut(&Task, usize, &str) -> Result<AdapterData> + 'a>;
/// The adapter of one example of a task; `None` where there is none.
pub type ExampleAdapter<'a> = Box<dyn FnMut(&Task, &Example) -> Result<Option<AdapterData>> + 'a>;

/// What a prompt holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PromptForm {
    /// The input alone.
    Plain,
    /// Description, blank line, input.
    Described,
    /// The first so many training examples of the task with their answers, then the input. A task
    /// may have fewer; one that has none is not scored.
    Shots(usize),
}

/// Where adapters come from.
pub enum AdapterSource<'a> {
    /// The base alone.
    None,
    /// One adapter for all examples of a task.
    PerTask(TaskAdapter<'a>),
    /// One adapter for each description of a task; the score is the mean over them.
    PerDescription(DescriptionAdapter<'a>),
    /// Each example has an adapter of its own, so they are scored one by one.
    PerExample(ExampleAdapter<'a>),
}

impl fmt::Debug for AdapterSource<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::PerTask(_) => "PerTask",
            Self::PerDescription(_) => "PerDescription",
            Self::PerExample(_) => "PerExample",
        })
    }
}

/// One column of the report.
#[derive(Debug)]
pub struct Contestant<'a> {
    /// Name in the report, unlike all others.
    pub name: String,
    /// What is in its prompts.
    pub prompt: PromptForm,
    /// Where its adapters come from.
    pub adapter: AdapterSource<'a>,
}

impl<'a> Contestant<'a> {
    /// `base`: no adapter, the input alone.
    pub fn base() -> Self {
        Self::without_adapter("base", PromptForm::Plain)
    }

    /// `prompted`: no adapter, the description in the prompt.
    pub fn prompted() -> Self {
        Self::without_adapter("prompted", PromptForm::Described)
    }

    /// `<shots>-shot`: no adapter, training examples in the prompt.
    pub fn shots(shots: usize) -> Self {
        Self::without_adapter(format!("{shots}-shot"), PromptForm::Shots(shots))
    }

    /// `compiled`: the adapter compiled from the task's own description.
    pub fn compiled(compile: Compile<'a>) -> Self {
        Self::per_description("compiled", move |_, _, text| compiled(&compile, text))
    }

    /// `other`: the adapter compiled from the description of another one of `tasks`, of the same
    /// wording, drawn by `seed`.
    pub fn other(compile: Compile<'a>, tasks: &[&Task], wording: Wording, seed: u64) -> Self {
        let others = descriptions_of_others(tasks, wording, seed);
        Self::per_description("other", move |task, number, text| {
            let texts = others.get(&task.id).filter(|texts| !texts.is_empty());
            compiled(&compile, texts.map_or(text, |texts| &texts[number % texts.len()]))
        })
    }

    /// `random`: adapters compiled from random texts. What they gain is not due to the
    /// description.
    pub fn random(compile: Compile<'a>, seed: u64) -> Self {
        Self::per_description("random", move |task, number, _| {
            compiled(&compile, &random_text(seed, &task.id, number))
        })
    }

    /// For each example the adapter compiled from its input (Hyperdecoders). An input that is no
    /// description, too long for one for example, has none.
    pub fn per_input(name: impl Into<String>, compile: Compile<'a>) -> Self {
        let adapter = move |_: &Task, example: &Example| match compiled(&compile, &example.input) {
            Err(error) if error.downcast_ref::<DescriptionError>().is_some() => Ok(None),
            made => made.map(Some),
        };
        Self {
            name: name.into(),
            prompt: PromptForm::Plain,
            adapter: AdapterSource::PerExample(Box::new(adapter)),
        }
    }

    /// One adapter for all tasks.
    pub fn shared(name: impl Into<String>, prompt: PromptForm, adapter: AdapterData) -> Self {
        Self::per_task(name, prompt, move |_| Ok(Some(adapter.clone())))
    }

    /// Adapters by the id of the task; other tasks have none.
    pub fn by_task(name: impl Into<String>, adapters: BTreeMap<String, AdapterData>) -> Self {
        Self::per_task(name, PromptForm::Plain, move |task| Ok(adapters.get(&task.id).cloned()))
    }

    /// An adapter per task, from any function.
    pub fn per_task(
        name: impl Into<String>,
        prompt: PromptForm,
        adapter: impl FnMut(&Task) -> Result<Option<AdapterData>> + 'a,
    ) -> Self {
        Self { name: name.into(), prompt, adapter: AdapterSource::PerTask(Box::new(adapter)) }
    }

    /// Adapters by task and description, from any function.
    pub fn per_description(
        name: impl Into<String>,
        adapter: impl FnMut(&Task, usize, &str) -> Result<AdapterData> + 'a,
    ) -> Self {
        Self {
            name: name.into(),
            prompt: PromptForm::Plain,
            adapter: AdapterSource::PerDescription(Box::new(adapter)),
        }
    }

    /// Whether the score depends on the wording of the description.
    pub(super) fn is_described(&self) -> bool {
        self.prompt == PromptForm::Described
            || matches!(self.adapter, AdapterSource::PerDescription(_))
    }

    fn without_adapter(name: impl Into<String>, prompt: PromptForm) -> Self {
        Self { name: name.into(), prompt, adapter: AdapterSource::None }
    }
}

fn compiled(compile: &Compile<'_>, text: &str) -> Result<AdapterData> {
    compile(text).with_context(|| format!("cannot compile the description `{text}`"))
}

/// For each task the descriptions of another one: the tasks in a random order, each with the
/// descriptions of the next.
fn descriptions_of_others(
    tasks: &[&Task],
    wording: Wording,
    seed: u64,
) -> BTreeMap<String, Vec<String>> {
    let mut order = tasks.to_vec();
    order.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    let next = order.iter().cycle().skip(1);
    let texts = |task: &Task| task.worded(wording).map(str::to_owned).collect();
    order.iter().zip(next).map(|(task, other)| (task.id.clone(), texts(other))).collect()
}

/// A text without meaning, the same for the same seed, task and number: lower-case letters, digits,
/// spaces.
pub(super) fn random_text(seed: u64, task_id: &str, number: usize) -> String {
    const ALPHABET: &[u8; 37] = b"abcdefghijklmnopqrstuvwxyz0123456789 ";
    let digest = Digest::of(task_id.as_bytes());
    let mut stream = [0; 8];
    stream.copy_from_slice(&digest.as_bytes()[..8]);
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(u64::from_le_bytes(stream).wrapping_add(number as u64));
    let mut draw = || char::from(ALPHABET[rng.random_range(0..ALPHABET.len())]);
    (0..RANDOM_TEXT_LEN).map(|_| draw()).collect()
}

#[cfg(test)]
mod tests {
    use super::{Wording, descriptions_of_others, random_text};
    use crate::taskpack::{Metric, Task};

    #[test]
    fn random_texts_depend_on_seed_task_and_number() {
        let text = random_text(1, "a", 0);
        assert_eq!(text, random_text(1, "a", 0));
        for other in [random_text(2, "a", 0), random_text(1, "b", 0), random_text(1, "a", 1)] {
            assert_ne!(text, other);
        }
        assert_eq!(text.len(), 24);
        assert!(text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b' '));
    }

    #[test]
    fn every_task_gets_the_descriptions_of_another_and_none_is_used_twice() {
        let tasks = ["a", "b", "c", "d"]
            .map(|id| Task::new(id, "MIT", Metric::ExactMatch, vec![id.into()], Vec::new()));
        let tasks: Vec<&Task> = tasks.iter().collect();
        let others = descriptions_of_others(&tasks, Wording::Unseen, 7);
        assert_eq!(others.len(), 4);
        let mut texts = Vec::new();
        for (id, text) in &others {
            assert!(!text.contains(id));
            texts.extend(text);
        }
        texts.sort();
        assert_eq!(texts, ["a", "b", "c", "d"]);
    }
}
