//! Who is scored: a name, what is in its prompts, and where its adapters come from.
//!
//! In: adapters, or functions that make them. Out: a [`Contestant`], which the evaluation asks for
//! an adapter once per task or once per example. A task for which it has none is not scored.

use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;

use anyhow::{Context, Result};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use t2lc_runtime::digest::Digest;

use super::description_of;
use crate::base::adapter::Delta;
use crate::taskpack::{Example, Task};

/// Characters of the text that stands in for a description.
const RANDOM_TEXT_LEN: usize = 24;

/// Turns the raw text of a description into an adapter of one row.
pub type Compile<'a> = Rc<dyn Fn(&str) -> Result<Rc<dyn Delta>> + 'a>;
/// The adapter of a task, of one row; `None` where there is none.
pub type TaskAdapter<'a> = Box<dyn FnMut(&Task) -> Result<Option<Rc<dyn Delta>>> + 'a>;
/// The adapter of one example of a task, of one row.
pub type ExampleAdapter<'a> = Box<dyn FnMut(&Task, &Example) -> Result<Rc<dyn Delta>> + 'a>;

/// What a prompt holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PromptForm {
    /// The input alone.
    Plain,
    /// Evaluation description, blank line, input.
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
    /// Each example has an adapter of its own, so they are scored one by one.
    PerExample(ExampleAdapter<'a>),
}

impl fmt::Debug for AdapterSource<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::PerTask(_) => "PerTask",
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

    /// `compiled`: the adapter compiled from the evaluation description.
    pub fn compiled(compile: Compile<'a>) -> Self {
        Self::per_task("compiled", PromptForm::Plain, move |task| {
            compiled(&compile, description_of(task)?).map(Some)
        })
    }

    /// `random`: an adapter compiled from a random text. What it gains is not due to the
    /// description.
    pub fn random(compile: Compile<'a>, seed: u64) -> Self {
        Self::per_task("random", PromptForm::Plain, move |task| {
            compiled(&compile, &random_text(seed, &task.id)).map(Some)
        })
    }

    /// For each example the adapter compiled from its input (Hyperdecoders).
    pub fn per_input(name: impl Into<String>, compile: Compile<'a>) -> Self {
        let adapter = move |_: &Task, example: &Example| -> Result<Rc<dyn Delta>> {
            compiled(&compile, &example.input)
        };
        Self {
            name: name.into(),
            prompt: PromptForm::Plain,
            adapter: AdapterSource::PerExample(Box::new(adapter)),
        }
    }

    /// One adapter for all tasks.
    pub fn shared(name: impl Into<String>, prompt: PromptForm, adapter: Rc<dyn Delta>) -> Self {
        Self::per_task(name, prompt, move |_| Ok(Some(Rc::clone(&adapter))))
    }

    /// Adapters by the id of the task; other tasks have none.
    pub fn by_task(name: impl Into<String>, adapters: BTreeMap<String, Rc<dyn Delta>>) -> Self {
        Self::per_task(name, PromptForm::Plain, move |task| Ok(adapters.get(&task.id).cloned()))
    }

    /// An adapter per task, from any function.
    pub fn per_task(
        name: impl Into<String>,
        prompt: PromptForm,
        adapter: impl FnMut(&Task) -> Result<Option<Rc<dyn Delta>>> + 'a,
    ) -> Self {
        Self { name: name.into(), prompt, adapter: AdapterSource::PerTask(Box::new(adapter)) }
    }

    fn without_adapter(name: impl Into<String>, prompt: PromptForm) -> Self {
        Self { name: name.into(), prompt, adapter: AdapterSource::None }
    }
}

fn compiled(compile: &Compile<'_>, text: &str) -> Result<Rc<dyn Delta>> {
    compile(text).with_context(|| format!("cannot compile the description `{text}`"))
}

/// A text without meaning, the same for the same seed and task: lower-case letters, digits, spaces.
pub(super) fn random_text(seed: u64, task_id: &str) -> String {
    const ALPHABET: &[u8; 37] = b"abcdefghijklmnopqrstuvwxyz0123456789 ";
    let digest = Digest::of(task_id.as_bytes());
    let mut stream = [0; 8];
    stream.copy_from_slice(&digest.as_bytes()[..8]);
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(u64::from_le_bytes(stream));
    let mut draw = || char::from(ALPHABET[rng.random_range(0..ALPHABET.len())]);
    (0..RANDOM_TEXT_LEN).map(|_| draw()).collect()
}

#[cfg(test)]
mod tests {
    use super::random_text;

    #[test]
    fn random_texts_depend_on_seed_and_task() {
        let text = random_text(1, "a");
        assert_eq!(text, random_text(1, "a"));
        assert_ne!(text, random_text(2, "a"));
        assert_ne!(text, random_text(1, "b"));
        assert_eq!(text.len(), 24);
        assert!(text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b' '));
    }
}
