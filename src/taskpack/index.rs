//! The task pack: `tasks.json` and one JSONL file per task.
//!
//! In: a directory. `tasks.json` holds `{"tasks": [task]}`, a task having the serialized fields of
//! [`Task`] and `file`, the path of its examples from the directory on; each line of such a file is
//! an [`Example`] with its split. Out: the tasks in the order of the index. The digest, recorded in
//! bundles, is that of the index and of the example files one after the other.

use std::collections::BTreeSet;
use std::path::{Component, Path};

use serde::Deserialize;
use t2lc_runtime::digest::Hasher;

use super::problems::Problems;
use super::source::{MAX_FILE_BYTES, Source};
use super::{Example, Task, TaskPack, TaskPackError, check_descriptions};

/// Name of the index; a directory with such a file is a task pack.
pub(super) const FILE: &str = "tasks.json";

/// Reads `dir/tasks.json` and the files it names.
pub(super) fn load(dir: &Path) -> Result<TaskPack, TaskPackError> {
    #[derive(Deserialize)]
    struct Index {
        tasks: Vec<Task>,
    }
    let mut source = Source::open(dir)?;
    let mut problems = Problems::default();
    let index_path = dir.join(FILE);
    let Some(text) = source.read(&index_path, MAX_FILE_BYTES, &mut problems) else {
        return Err(problems.into());
    };
    let mut tasks = match serde_json::from_str(&text) {
        Ok(Index { tasks }) => tasks,
        Err(e) => {
            problems.add_json(&index_path, 1, &e);
            return Err(problems.into());
        }
    };
    let mut hasher = Hasher::new();
    hasher.update(text.as_bytes());
    let mut ids = BTreeSet::new();
    for task in &mut tasks {
        task.check(&index_path, &mut problems);
        check_descriptions(&task.descriptions, &index_path, None, &mut problems);
        if !is_file_name(&task.id) || !ids.insert(task.id.clone()) {
            let what = format!("task `{}`: the id is no file name, or there twice", task.id);
            problems.add(&index_path, None, &what);
        }
        if !task.file.components().all(|part| matches!(part, Component::Normal(_))) {
            let what =
                format!("task `{}`: file `{}` leaves the pack", task.id, task.file.display());
            problems.add(&index_path, None, &what);
            continue;
        }
        let path = dir.join(&task.file);
        if let Some(text) = source.read(&path, MAX_FILE_BYTES, &mut problems) {
            hasher.update(text.as_bytes());
            read_examples(task, &path, &text, &mut problems);
        }
    }
    problems.finish(TaskPack { tasks, digest: hasher.finish() })
}

/// Adapters and runs are put under the id of their task.
fn is_file_name(id: &str) -> bool {
    let separates = |c: char| matches!(c, '/' | '\\' | ':') || c.is_control();
    !matches!(id, "" | "." | "..") && !id.contains(separates)
}

fn read_examples(task: &mut Task, path: &Path, text: &str, problems: &mut Problems) {
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        if !problems.accept_line(path, number, line) {
            continue;
        }
        match serde_json::from_str::<Example>(line) {
            Err(e) => problems.add_json(path, number, &e),
            Ok(example) => {
                if let Some(what) = task.fault(&example) {
                    problems.add(path, Some(number), &what);
                }
                task.examples.push(example);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use t2lc_runtime::digest::Digest;

    use crate::taskpack::TaskPack;

    #[test]
    fn every_problem_is_reported_with_its_place() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(
            dir.path().join("tasks.json"),
            r#"{"tasks": [
              {"id": "a", "licence": "MIT", "split": "train", "metric": "exact_match",
               "descriptions": ["x"], "eval_description_ids": [3], "file": "a.jsonl"},
              {"id": "b", "licence": "MIT", "split": "heldout", "metric": "choice_accuracy",
               "descriptions": [], "labels": ["yes", "no"], "file": "../b.jsonl"},
              {"id": "../c", "licence": "MIT", "split": "train", "metric": "choice_accuracy",
               "descriptions": [" "], "labels": ["o"], "file": "c.jsonl"},
              {"id": "a", "licence": "MIT", "split": "train", "metric": "rouge_l",
               "descriptions": ["x"], "file": "c.jsonl"}]}"#,
        )
        .unwrap();
        let example = "{\"split\":\"train\",\"input\":\"i\",\"output\":\"o\"}\n";
        std::fs::write(dir.path().join("c.jsonl"), example).unwrap();
        let long = "x".repeat(1 << 20);
        std::fs::write(
            dir.path().join("a.jsonl"),
            format!(
                "{{\"split\":\"train\",\"input\":\"i\",\"output\":\"o\"}}\nnot json\n\n{long}\n\
                 {{\"split\":\"train\",\"input\":\"\",\"output\":\"o\"}}\n{long}x\n"
            ),
        )
        .unwrap();
        let problems = TaskPack::load(dir.path()).unwrap_err().problems.join("\n");
        for expected in [
            "evaluation description 3",
            "a.jsonl:2: expected",
            "a.jsonl:4: expected value (column 1)",
            "a.jsonl:5: empty input",
            "a.jsonl:6: a line of 1048577 bytes, at most 1048576",
            "leaves the pack",
            "no description",
            "without a tier",
            "task `../c`: the id is no file name",
            "task `a`: the id is no file name, or there twice",
            "description 0: the description is empty",
            "c.jsonl:1: fewer than two choices",
        ] {
            assert!(problems.contains(expected), "{expected:?} not in:\n{problems}");
        }
        std::fs::write(dir.path().join("tasks.json"), "{\"tasks\": [\n{}]}").unwrap();
        let problems = TaskPack::load(dir.path()).unwrap_err().problems;
        assert!(problems[0].contains("tasks.json:2: missing field"), "{problems:?}");
    }

    #[test]
    fn the_digest_is_that_of_the_files_one_after_the_other() {
        let dir = tempfile::tempdir().unwrap();
        let index = r#"{"tasks": [
            {"id": "z", "licence": "MIT", "split": "train", "metric": "rouge_l",
             "descriptions": ["x"], "file": "tasks/z.jsonl"},
            {"id": "a", "licence": "MIT", "split": "train", "metric": "rouge_l",
             "descriptions": ["x"], "file": "tasks/a.jsonl"}]}"#;
        let lines = ["z", "a"].map(|text| {
            format!("{{\"split\":\"train\",\"input\":\"{text}\",\"output\":\"{text}\"}}\r\n")
        });
        std::fs::create_dir(dir.path().join("tasks")).unwrap();
        std::fs::write(dir.path().join("tasks.json"), index).unwrap();
        std::fs::write(dir.path().join("tasks/z.jsonl"), &lines[0]).unwrap();
        std::fs::write(dir.path().join("tasks/a.jsonl"), &lines[1]).unwrap();
        let pack = TaskPack::load(dir.path()).unwrap();
        let all = format!("{index}{}{}", lines[0], lines[1]);
        assert_eq!(pack.digest, Digest::of(all.as_bytes()));
        let ids: Vec<&str> = pack.tasks.iter().map(|task| task.id.as_str()).collect();
        assert_eq!(ids, ["z", "a"]);
    }
}
