//! Several paths as one pack.
//!
//! In: paths, each a pack or a collection of tasks. Out: a pack with the tasks of all, which know the
//! path that they came from, or everything that is wrong with any. Ids are unlike each other, and
//! what one path keeps out of training does not come back with another.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;

use t2lc_runtime::describe::Description;
use t2lc_runtime::digest::Hasher;

use super::problems::Problems;
use super::{Task, TaskPack, TaskPackError, TaskSplit};

impl TaskPack {
    /// Reads several paths as one pack: the tasks of the first, then those of the next. The digest
    /// of more than one is that of their digests, a line each.
    ///
    /// # Errors
    /// The problems of all paths at once, as in [`TaskPack::load`], tasks that two paths name alike,
    /// and training descriptions that another path keeps out of training.
    pub fn load_all(paths: &[PathBuf]) -> Result<Self, TaskPackError> {
        if let [path] = paths {
            return Self::load(path);
        }
        let (mut tasks, mut digests) = (Vec::new(), Hasher::new());
        let (mut ids, mut problems) = (BTreeSet::new(), Problems::default());
        for (source, path) in paths.iter().enumerate() {
            match Self::load(path) {
                Ok(pack) => {
                    digests.update(format!("{}\n", pack.digest).as_bytes());
                    for task in &pack.tasks {
                        if !ids.insert(task.id.clone()) {
                            let what = format!("task `{}` is in an earlier pack as well", task.id);
                            problems.add(path, None, &what);
                        }
                    }
                    tasks.extend(pack.tasks.into_iter().map(|task| Task { source, ..task }));
                }
                Err(error) => problems.add_all(error),
            }
        }
        let pack = Self { tasks, digest: digests.finish() };
        for (task, text, kept_by) in pack.leaks() {
            let path = &paths[task.source];
            let what = format!(
                "task `{}` is described as {text:?}, which task `{}` keeps out of training",
                task.id, kept_by.id
            );
            problems.add(path, None, &what);
        }
        problems.finish(pack)
    }

    /// Training descriptions that are kept out of training elsewhere: as another wording of a
    /// training task, or as one of a task that is held out.
    fn leaks(&self) -> Vec<(&Task, &str, &Task)> {
        let canonical = |text: &str| Description::new(text).ok().map(|d| d.as_str().to_owned());
        let mut kept_out: HashMap<String, Vec<&Task>> = HashMap::new();
        for task in &self.tasks {
            let keeps = task.split == TaskSplit::Heldout || !task.eval_description_ids.is_empty();
            for text in task.unseen_descriptions().filter(|_| keeps).filter_map(canonical) {
                kept_out.entry(text).or_default().push(task);
            }
        }
        let mut leaks = Vec::new();
        for task in self.tasks_of(TaskSplit::Train) {
            for text in task.training_descriptions() {
                let keepers = canonical(text).and_then(|text| kept_out.get(&text));
                let mut keepers = keepers.into_iter().flatten();
                let by = keepers.find(|by| by.source != task.source);
                leaks.extend(by.map(|by| (task, text, *by)));
            }
        }
        leaks
    }
}

#[cfg(test)]
mod tests {
    use super::TaskPack;

    #[test]
    fn a_description_that_one_pack_keeps_out_is_not_trained_on_from_another() {
        let dir = tempfile::tempdir().unwrap();
        let packs = ["kept", "other"].map(|name| dir.path().join(name));
        for pack in &packs {
            std::fs::create_dir_all(pack).unwrap();
        }
        let example = r#"{"input": "a", "output": "b"}"#;
        let index = serde_json::json!({"version": 1, "tasks": [{
            "id": "spell", "licence": "MIT", "split": "train", "metric": "exact_match",
            "descriptions": ["Spell it.", "Letter by letter, please."],
            "eval_description_ids": [1], "file": "spell.jsonl",
        }]});
        std::fs::write(packs[0].join("tasks.json"), index.to_string()).unwrap();
        let line = r#"{"split": "train", "input": "a", "output": "b"}"#;
        std::fs::write(packs[0].join("spell.jsonl"), line).unwrap();
        let described = |text: &str| {
            let head = serde_json::json!({"descriptions": [text]});
            std::fs::write(packs[1].join("again.jsonl"), format!("{head}\n{example}\n")).unwrap();
            TaskPack::load_all(&packs)
        };
        assert_eq!(described("Spell it.").unwrap().tasks.len(), 2);
        let error = described(" Letter by letter, please.").unwrap_err().to_string();
        assert!(error.contains("which task `spell` keeps out of training"), "{error}");
    }
}
