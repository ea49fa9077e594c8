//! Tasks to train and evaluate on: descriptions, and examples with their answers.
//!
//! In: a path. Out: a [`TaskPack`], its digest included. What the path holds decides how it is
//! read:
//!
//! - a directory with `tasks.json`: the task pack, one JSONL file per task named there;
//! - a directory with `task<number>_<name>.json` files, or one such file: Super-Natural
//!   Instructions, <https://arxiv.org/abs/2204.07705>;
//! - a directory with `<task>.jsonl` files: one task each, described on its first line or in
//!   `<task>.meta.json`.
//!
//! The last two may be mixed, may lie in a folder `tasks` of the directory, and take descriptions
//! from `<task>/metadata.yaml` as the reference implementation of
//! <https://arxiv.org/abs/2506.06105> keeps them.
//!
//! Every problem found is reported at once, each with its file and, where there is one, its line.
//! No file outside the path is read, none over 512 MiB, and no JSONL line over 1 MiB.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use t2lc_runtime::describe::Description;
use t2lc_runtime::digest::Digest;

mod collection;
mod discover;
mod index;
mod joined;
mod jsonl;
mod metadata;
mod natural_instructions;
mod problems;
mod source;
mod split;

use problems::Problems;

/// How the answers of a task are scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// The answer equals `output` or one of `refs`.
    ExactMatch,
    /// The likeliest of the choices is `output`.
    ChoiceAccuracy,
    /// Longest-common-subsequence F-measure against `output` and `refs`.
    RougeL,
}

/// What a task may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TaskSplit {
    /// Hypernetworks may be trained on it.
    Train,
    /// Never trained on.
    Heldout,
}

/// Which part of a task's examples an example belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExampleSplit {
    /// For training.
    Train,
    /// For tuning.
    Valid,
    /// For reporting.
    Test,
}

impl ExampleSplit {
    /// Its name in the files of a pack.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Valid => "valid",
            Self::Test => "test",
        }
    }
}

impl FromStr for ExampleSplit {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "train" => Ok(Self::Train),
            "valid" => Ok(Self::Valid),
            "test" => Ok(Self::Test),
            _ => Err(format!("unknown split `{text}`, expected train, valid or test")),
        }
    }
}

/// Which descriptions stand for a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "train", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum Wording {
    /// Those that no training sees.
    #[default]
    Unseen,
    /// Those that training may use: what was learned, not what carries over.
    Training,
}

/// One input and its answer.
#[derive(Debug, Clone, Deserialize)]
pub struct Example {
    /// Part of the task the example belongs to.
    pub split: ExampleSplit,
    /// The whole user message.
    pub input: String,
    /// The expected answer.
    pub output: String,
    /// The answers to choose from, where they differ per example.
    #[serde(default)]
    pub choices: Vec<String>,
    /// Further right answers.
    #[serde(default)]
    pub refs: Vec<String>,
}

/// One task with its descriptions and examples.
#[derive(Debug, Clone, Deserialize)]
pub struct Task {
    /// Unique name.
    pub id: String,
    /// Licence of the task's data.
    pub licence: String,
    /// Whether it may be trained on.
    pub split: TaskSplit,
    /// Distance of a held-out task from the training tasks: `sibling`, `near` or `far`.
    #[serde(default)]
    pub tier: Option<String>,
    /// How it is scored.
    pub metric: Metric,
    /// Wordings of the task.
    pub descriptions: Vec<String>,
    /// Indices of descriptions kept out of training.
    #[serde(default)]
    pub eval_description_ids: Vec<usize>,
    /// The answers to choose from, where all examples share them.
    #[serde(default)]
    pub labels: Vec<String>,
    /// Where a task pack keeps the examples, from its directory on; empty for other sources.
    file: PathBuf,
    /// Examples, in file order.
    #[serde(skip)]
    pub examples: Vec<Example>,
    /// Which of the paths that were read as one pack it came from, from 0.
    #[serde(skip)]
    pub source: usize,
}

impl Task {
    /// A task for training, without a tier, shared labels or descriptions kept out of training;
    /// the fields are there to change that.
    pub fn new(
        id: impl Into<String>,
        licence: impl Into<String>,
        metric: Metric,
        descriptions: Vec<String>,
        examples: Vec<Example>,
    ) -> Self {
        Self {
            id: id.into(),
            licence: licence.into(),
            split: TaskSplit::Train,
            tier: None,
            metric,
            descriptions,
            eval_description_ids: Vec::new(),
            labels: Vec::new(),
            file: PathBuf::new(),
            examples,
            source: 0,
        }
    }

    /// Descriptions that training may use.
    pub fn training_descriptions(&self) -> impl Iterator<Item = &str> {
        self.descriptions
            .iter()
            .enumerate()
            .filter(|(i, _)| !self.eval_description_ids.contains(i))
            .map(|(_, text)| text.as_str())
    }

    /// Descriptions that no training sees, those kept out on purpose first. Of a held-out task that
    /// is every description; a training task that keeps none out counts as having all of them.
    pub fn unseen_descriptions(&self) -> impl Iterator<Item = &str> {
        let kept_out = self.eval_description_ids.iter();
        let others = (0..self.descriptions.len()).filter(|i| {
            let unseen = self.split == TaskSplit::Heldout || self.eval_description_ids.is_empty();
            unseen && !self.eval_description_ids.contains(i)
        });
        let indices = kept_out.copied().chain(others);
        indices.filter_map(|i| self.descriptions.get(i)).map(String::as_str)
    }

    /// Descriptions of one kind.
    pub fn worded(&self, wording: Wording) -> Box<dyn Iterator<Item = &str> + '_> {
        match wording {
            Wording::Unseen => Box::new(self.unseen_descriptions()),
            Wording::Training => Box::new(self.training_descriptions()),
        }
    }

    /// Examples of one split.
    pub fn examples_of(&self, split: ExampleSplit) -> impl Iterator<Item = &Example> {
        self.examples.iter().filter(move |e| e.split == split)
    }

    /// The answers an example chooses from; empty for free answers.
    pub fn choices<'a>(&'a self, example: &'a Example) -> &'a [String] {
        if example.choices.is_empty() { &self.labels } else { &example.choices }
    }

    /// Why an example cannot be scored, if so.
    fn fault(&self, example: &Example) -> Option<String> {
        if example.input.is_empty() || example.output.is_empty() {
            return Some("empty input or output".into());
        }
        if self.metric != Metric::ChoiceAccuracy {
            return None;
        }
        let choices = self.choices(example);
        // With one choice everybody is right.
        if choices.iter().all(|choice| Some(choice) == choices.first()) {
            return Some("fewer than two choices".into());
        }
        let lacks_answer = !choices.contains(&example.output);
        lacks_answer.then(|| format!("answer `{}` is not among the choices", example.output))
    }

    /// Reports what is wrong with the task itself.
    fn check(&self, path: &Path, problems: &mut Problems) {
        let mut problem =
            |what: String| problems.add(path, None, &format!("task `{}`: {what}", self.id));
        if self.descriptions.is_empty() {
            problem("no description".into());
        }
        for &id in &self.eval_description_ids {
            if id >= self.descriptions.len() {
                problem(format!("evaluation description {id} of {}", self.descriptions.len()));
            }
        }
        if self.split == TaskSplit::Heldout && self.tier.is_none() {
            problem("a held-out task without a tier".into());
        }
    }
}

/// Reports the texts that no task can be described with.
fn check_descriptions(texts: &[String], path: &Path, line: Option<usize>, problems: &mut Problems) {
    for (index, text) in texts.iter().enumerate() {
        if let Err(e) = Description::new(text) {
            problems.add(path, line, &format!("description {index}: {e}"));
        }
    }
}

/// A directory of tasks.
#[derive(Debug)]
pub struct TaskPack {
    /// Tasks, in file order; those of other sources by name.
    pub tasks: Vec<Task>,
    /// Of a task pack, the digest of `tasks.json` and of every example file, in task order. Of
    /// other sources, the digest of name and content of every file that was read, by name.
    pub digest: Digest,
}

/// Everything that is wrong with a task pack.
#[derive(Debug, thiserror::Error)]
#[error("the task pack cannot be used:\n  {}", .problems.join("\n  "))]
pub struct TaskPackError {
    /// `file:line: what is wrong`, in file order.
    pub problems: Vec<String>,
}

impl TaskPack {
    /// Reads the tasks that `path` holds; the module says in which forms.
    ///
    /// # Errors
    /// All problems at once: no tasks, unreadable or too large files, lines that are not examples,
    /// paths that leave the directory, tasks without a description or with one that cannot be
    /// used, description indices out of range, choices that lack the answer.
    pub fn load(path: &Path) -> Result<Self, TaskPackError> {
        match std::fs::metadata(path) {
            Err(e) => Err(TaskPackError { problems: vec![format!("{}: {e}", path.display())] }),
            Ok(found) if !found.is_dir() => collection::load_file(path),
            Ok(_) if path.join(index::FILE).symlink_metadata().is_ok() => index::load(path),
            Ok(_) => collection::load(path),
        }
    }

    /// Tasks of one split.
    pub fn tasks_of(&self, split: TaskSplit) -> impl Iterator<Item = &Task> {
        self.tasks.iter().filter(move |t| t.split == split)
    }

    /// Inputs of training examples that could pass for descriptions although they describe no task:
    /// of three words or more, as a single word may well name a task, and neither too long nor
    /// with control characters.
    pub fn inputs_like_descriptions(&self) -> impl Iterator<Item = &str> {
        const MIN_WORDS: usize = 3;
        self.tasks_of(TaskSplit::Train)
            .flat_map(|task| task.examples_of(ExampleSplit::Train))
            .map(|example| example.input.as_str())
            .filter(|input| input.split_whitespace().count() >= MIN_WORDS)
            .filter(|input| Description::new(input).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::{Digest, Metric, Task, TaskPack, TaskSplit};

    #[test]
    fn a_path_without_tasks_says_what_is_expected() {
        let dir = tempfile::tempdir().unwrap();
        let missing = TaskPack::load(&dir.path().join("missing")).unwrap_err();
        assert!(missing.to_string().contains("missing: "), "{missing}");
        let empty = TaskPack::load(dir.path()).unwrap_err().to_string();
        for expected in ["tasks.json", "task<number>_<name>.json", "<task>.jsonl"] {
            assert!(empty.contains(expected), "{expected:?} not in:\n{empty}");
        }
        let other = dir.path().join("tasks.csv");
        std::fs::write(&other, "a,b\n").unwrap();
        let other = TaskPack::load(&other).unwrap_err().to_string();
        assert!(other.contains("tasks.csv: no tasks"), "{other}");
    }

    #[test]
    fn the_index_decides_over_other_files() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("tasks.json"), r#"{"tasks": []}"#).unwrap();
        std::fs::write(dir.path().join("stray.jsonl"), "not json\n").unwrap();
        assert!(TaskPack::load(dir.path()).unwrap().tasks.is_empty());
    }

    #[test]
    fn several_paths_make_one_pack() {
        let pack = |tasks: &[&str]| {
            let dir = tempfile::tempdir().unwrap();
            for id in tasks {
                let text =
                    "{\"descriptions\": [\"Do it.\"]}\n{\"input\": \"i\", \"output\": \"o\"}\n";
                std::fs::write(dir.path().join(format!("{id}.jsonl")), text).unwrap();
            }
            dir
        };
        let (first, second, broken) = (pack(&["b", "c"]), pack(&["a"]), pack(&["c"]));
        let load = |dirs: &[&tempfile::TempDir]| {
            let paths: Vec<_> = dirs.iter().map(|dir| dir.path().to_owned()).collect();
            TaskPack::load_all(&paths)
        };
        let both = load(&[&first, &second]).unwrap();
        let ids: Vec<&str> = both.tasks.iter().map(|task| task.id.as_str()).collect();
        assert_eq!(ids, ["b", "c", "a"]);
        let sources: Vec<usize> = both.tasks.iter().map(|task| task.source).collect();
        assert_eq!(sources, [0, 0, 1]);
        let alone = load(&[&first]).unwrap();
        assert_eq!(alone.digest, TaskPack::load(first.path()).unwrap().digest);
        let lines = format!("{}\n{}\n", alone.digest, load(&[&second]).unwrap().digest);
        assert_eq!(both.digest, Digest::of(lines.as_bytes()));
        assert_ne!(load(&[&second, &first]).unwrap().digest, both.digest);

        std::fs::write(broken.path().join("d.jsonl"), "{").unwrap();
        let problems = load(&[&broken, &second, &second]).unwrap_err().problems;
        assert!(problems[0].contains("d.jsonl:1"), "{problems:?}");
        assert!(problems.last().unwrap().contains("`a` is in an earlier pack"), "{problems:?}");
    }

    #[test]
    fn a_task_made_by_hand_is_for_training() {
        let task = Task::new("say", "MIT", Metric::RougeL, vec!["say more".into()], Vec::new());
        assert_eq!(task.split, TaskSplit::Train);
        assert_eq!(task.unseen_descriptions().next(), Some("say more"));
        assert_eq!(task.training_descriptions().count(), 1);
    }
}
