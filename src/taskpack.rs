//! The task pack: `tasks.json` and one JSONL file per task.
//!
//! Every problem found is reported at once, each with its file and line.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::Deserialize;

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
    file: PathBuf,
    /// Examples, in file order.
    #[serde(skip)]
    pub examples: Vec<Example>,
}

impl Task {
    /// Descriptions that training may use.
    pub fn training_descriptions(&self) -> impl Iterator<Item = &str> {
        self.descriptions
            .iter()
            .enumerate()
            .filter(|(i, _)| !self.eval_description_ids.contains(i))
            .map(|(_, text)| text.as_str())
    }

    /// The description that evaluation uses: the first one kept out of training.
    pub fn evaluation_description(&self) -> Option<&str> {
        let index = self.eval_description_ids.first().copied().unwrap_or(0);
        self.descriptions.get(index).map(String::as_str)
    }

    /// Examples of one split.
    pub fn examples_of(&self, split: ExampleSplit) -> impl Iterator<Item = &Example> {
        self.examples.iter().filter(move |e| e.split == split)
    }

    /// The answers an example chooses from; empty for free answers.
    pub fn choices<'a>(&'a self, example: &'a Example) -> &'a [String] {
        if example.choices.is_empty() { &self.labels } else { &example.choices }
    }
}

/// A directory of tasks.
#[derive(Debug)]
pub struct TaskPack {
    /// Tasks, in file order.
    pub tasks: Vec<Task>,
    /// Digest of `tasks.json` and of every example file, in task order.
    pub digest: t2lc_runtime::digest::Digest,
}

/// Everything that is wrong with a task pack.
#[derive(Debug, thiserror::Error)]
#[error("the task pack cannot be used:\n  {}", .problems.join("\n  "))]
pub struct TaskPackError {
    /// `file:line: what is wrong`, in file order.
    pub problems: Vec<String>,
}

impl TaskPack {
    /// Reads `dir/tasks.json` and the files it names.
    ///
    /// # Errors
    /// All problems at once: unreadable files, lines that are not examples, paths that leave the
    /// directory, description indices out of range, choices that lack the answer.
    pub fn load(dir: &Path) -> Result<Self, TaskPackError> {
        #[derive(Deserialize)]
        struct Index {
            tasks: Vec<Task>,
        }
        let index_path = dir.join("tasks.json");
        let fail = |what: String| TaskPackError { problems: vec![what] };
        let bytes = std::fs::read(&index_path)
            .map_err(|e| fail(format!("{}: {e}", index_path.display())))?;
        let Index { mut tasks } = serde_json::from_slice(&bytes)
            .map_err(|e| fail(format!("{}:{}: {e}", index_path.display(), e.line())))?;
        let mut hasher = t2lc_runtime::digest::Hasher::new();
        hasher.update(&bytes);
        let mut problems = Vec::new();
        for task in &mut tasks {
            check_task(task, &index_path, &mut problems);
            let confined =
                task.file.components().all(|c| matches!(c, std::path::Component::Normal(_)));
            if !confined {
                let (index, file) = (index_path.display(), task.file.display());
                problems
                    .push(format!("{index}: task `{}`: file `{file}` leaves the pack", task.id));
                continue;
            }
            match std::fs::read_to_string(dir.join(&task.file)) {
                Ok(text) => {
                    hasher.update(text.as_bytes());
                    read_examples(task, &dir.join(&task.file), &text, &mut problems);
                }
                Err(e) => problems.push(format!("{}: {e}", dir.join(&task.file).display())),
            }
        }
        if problems.is_empty() {
            Ok(Self { tasks, digest: hasher.finish() })
        } else {
            Err(TaskPackError { problems })
        }
    }

    /// Tasks of one split.
    pub fn tasks_of(&self, split: TaskSplit) -> impl Iterator<Item = &Task> {
        self.tasks.iter().filter(move |t| t.split == split)
    }
}

fn check_task(task: &Task, index: &Path, problems: &mut Vec<String>) {
    let mut problem =
        |what: String| problems.push(format!("{}: task `{}`: {what}", index.display(), task.id));
    if task.descriptions.is_empty() {
        problem("no description".into());
    }
    for &id in &task.eval_description_ids {
        if id >= task.descriptions.len() {
            problem(format!("evaluation description {id} of {}", task.descriptions.len()));
        }
    }
    if task.split == TaskSplit::Heldout && task.tier.is_none() {
        problem("a held-out task without a tier".into());
    }
}

fn read_examples(task: &mut Task, path: &Path, text: &str, problems: &mut Vec<String>) {
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let mut problem =
            |what: String| problems.push(format!("{}:{}: {what}", path.display(), number + 1));
        match serde_json::from_str::<Example>(line) {
            Err(e) => problem(e.to_string()),
            Ok(example) if example.input.is_empty() || example.output.is_empty() => {
                problem("empty input or output".into());
            }
            Ok(example) => {
                let choices = task.choices(&example);
                if task.metric == Metric::ChoiceAccuracy && !choices.contains(&example.output) {
                    problem(format!("answer `{}` is not among the choices", example.output));
                }
                task.examples.push(example);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::TaskPack;

    #[test]
    fn every_problem_is_reported_with_its_place() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(
            dir.path().join("tasks.json"),
            r#"{"tasks": [
              {"id": "a", "licence": "MIT", "split": "train", "metric": "exact_match",
               "descriptions": ["x"], "eval_description_ids": [3], "file": "a.jsonl"},
              {"id": "b", "licence": "MIT", "split": "heldout", "metric": "choice_accuracy",
               "descriptions": [], "labels": ["yes", "no"], "file": "../b.jsonl"}]}"#,
        )
        .unwrap();
        std::fs::write(
            dir.path().join("a.jsonl"),
            "{\"split\":\"train\",\"input\":\"i\",\"output\":\"o\"}\nnot json\n",
        )
        .unwrap();
        let problems = TaskPack::load(dir.path()).unwrap_err().problems.join("\n");
        for expected in
            ["evaluation description 3", "a.jsonl:2:", "leaves the pack", "without a tier"]
        {
            assert!(problems.contains(expected), "{expected:?} not in:\n{problems}");
        }
    }
}
