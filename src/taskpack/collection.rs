//! Tasks of one file each: Super-Natural Instructions, JSONL, or both together.
//!
//! In: a directory, or one file of Super-Natural Instructions. Out: the tasks by name. The digest
//! covers name and content of every file that was read.

use std::collections::BTreeMap;
use std::path::Path;

use super::discover::{Format, TaskFiles, discover, single};
use super::problems::Problems;
use super::source::{MAX_FILE_BYTES, Source};
use super::{TaskPack, TaskPackError, jsonl, metadata, natural_instructions};

/// What a path must hold.
const EXPECTED: &str = "no tasks: expected a directory with `tasks.json`, or with \
    `task<number>_<name>.json` files of Super-Natural Instructions or `<task>.jsonl` files, there \
    or in its folder `tasks`, or one such JSON file; tasks that share data with the benchmarks of \
    Text-to-LoRA are left out";

/// Reads the tasks of a directory.
pub(super) fn load(dir: &Path) -> Result<TaskPack, TaskPackError> {
    let mut problems = Problems::default();
    let tasks = discover(dir, &mut problems);
    read(dir, &tasks, problems)
}

/// Reads the task of a single file.
pub(super) fn load_file(path: &Path) -> Result<TaskPack, TaskPackError> {
    read(path, &single(path), Problems::default())
}

fn read(
    path: &Path,
    found: &BTreeMap<String, TaskFiles>,
    mut problems: Problems,
) -> Result<TaskPack, TaskPackError> {
    if found.is_empty() {
        problems.add(path, None, EXPECTED);
        return Err(problems.into());
    }
    let mut source = Source::open(path)?;
    let mut tasks = Vec::with_capacity(found.len());
    for (id, files) in found {
        let mut read_file = |path: Option<&Path>, limit_bytes| {
            path.and_then(|path| source.read(path, limit_bytes, &mut problems))
        };
        let yaml = read_file(files.metadata.as_deref(), metadata::MAX_FILE_BYTES);
        let side = read_file(files.side.as_deref(), jsonl::MAX_SIDE_BYTES);
        let Some(text) = read_file(Some(files.data.as_path()), MAX_FILE_BYTES) else { continue };
        let described = match (&files.metadata, yaml) {
            (Some(path), Some(yaml)) => metadata::descriptions(&yaml, path, &mut problems),
            _ => Vec::new(),
        };
        let data = &files.data;
        match files.format {
            Format::NaturalInstructions { number } => {
                let (text, problems) = (&text, &mut problems);
                let task = natural_instructions::task(id, number, data, text, described, problems);
                tasks.extend(task);
            }
            Format::JsonLines => {
                let side = files.side.as_deref().zip(side.as_deref());
                tasks.push(jsonl::task(id, data, &text, side, described, &mut problems));
            }
        }
    }
    problems.finish(TaskPack { tasks, digest: source.digest() })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use serde_json::json;

    use crate::taskpack::{Metric, TaskPack, TaskSplit};

    fn write(dir: &Path, name: &str, text: &str) {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn instructions(definition: &str) -> String {
        let instance = |i: usize| json!({"id": format!("x-{i}"), "input": "i", "output": ["o"]});
        let instances: Vec<_> = (0..20).map(instance).collect();
        json!({"Definition": [definition], "Instances": instances}).to_string()
    }

    /// Everything that may stand side by side.
    fn write_all(dir: &Path) {
        write(dir, "task001_a.json", &instructions("Define a."));
        write(dir, "task039_b.json", &instructions("Define b."));
        write(dir, "task1286_c.json", "contaminated, so not even read");
        write(dir, "tasks/lol_001/metadata.yaml", "descriptions:\n- one\n- two\n");
        write(dir, "tasks/d.jsonl", "{\"input\": \"i\", \"output\": \"o\"}\n");
        write(dir, "tasks/d.meta.json", "{\"descriptions\": [\"Describe d.\"]}");
        write(dir, "tasks/e.jsonl", "{\"input\": \"i\", \"output\": \"o\"}\n");
        write(dir, "tasks/e/metadata.yaml", "descriptions: [Describe e.]\n");
    }

    #[test]
    fn sources_of_all_kinds_make_one_pack() {
        let dir = tempfile::tempdir().unwrap();
        write_all(dir.path());
        let pack = TaskPack::load(dir.path()).unwrap();
        let tasks: Vec<_> =
            pack.tasks.iter().map(|task| (task.id.as_str(), task.descriptions.join("|"))).collect();
        let expected = [
            ("d", "Describe d."),
            ("e", "Describe e."),
            ("task001_a", "one|two"),
            ("task039_b", "Define b."),
        ]
        .map(|(id, text)| (id, text.to_owned()));
        assert_eq!(tasks, expected);
        assert!(pack.tasks[2].examples[0].input.starts_with("Define a. Please"));
        let heldout: Vec<&str> =
            pack.tasks_of(TaskSplit::Heldout).map(|task| task.id.as_str()).collect();
        assert_eq!(heldout, ["task039_b"]);
    }

    #[test]
    fn the_digest_follows_every_file_that_is_read_and_no_other() {
        let digest = |name: &str, text: &str| {
            let dir = tempfile::tempdir().unwrap();
            write_all(dir.path());
            if !name.is_empty() {
                write(dir.path(), name, text);
            }
            TaskPack::load(dir.path()).unwrap().digest
        };
        let first = digest("", "");
        assert_eq!(digest("README.md", "changed"), first);
        assert_eq!(digest("task1286_c.json", "changed"), first);
        assert_eq!(digest("tasks/lol_777/metadata.yaml", "changed"), first);
        for (name, text) in [
            ("task001_a.json", instructions("Define it.")),
            ("tasks/lol_001/metadata.yaml", "descriptions: [three]\n".to_owned()),
            ("tasks/d.meta.json", "{\"descriptions\": [\"d\"]}".to_owned()),
            ("tasks/e.jsonl", "{\"input\": \"j\", \"output\": \"o\"}\n".to_owned()),
        ] {
            assert_ne!(digest(name, &text), first, "{name}");
        }
    }

    #[test]
    fn one_file_is_enough() {
        let dir = tempfile::tempdir().unwrap();
        write_all(dir.path());
        let path = dir.path().join("task001_a.json");
        let pack = TaskPack::load(&path).unwrap();
        assert_eq!(pack.tasks.len(), 1);
        assert_eq!(
            (pack.tasks[0].id.as_str(), pack.tasks[0].metric),
            ("task001_a", Metric::RougeL)
        );
        let moved = tempfile::tempdir().unwrap();
        fs::copy(&path, moved.path().join("task001_a.json")).unwrap();
        let again = TaskPack::load(&moved.path().join("task001_a.json")).unwrap();
        assert_eq!(again.digest, pack.digest);
        let left_out = TaskPack::load(&dir.path().join("task1286_c.json")).unwrap_err();
        assert!(left_out.to_string().contains("are left out"), "{left_out}");
    }

    #[test]
    fn problems_of_all_files_come_at_once() {
        let dir = tempfile::tempdir().unwrap();
        write_all(dir.path());
        write(dir.path(), "task001_a.json", "{\"Definition\": [\"x\"],\n\"Instances\": 3}");
        write(dir.path(), "tasks/lol_001/metadata.yaml", "descriptions:\n- one\n- [\n");
        write(dir.path(), "tasks/d.jsonl", "{\"input\": \"i\", \"output\": \"o\"}\n{\n");
        write(dir.path(), "tasks/f.jsonl", "{\"input\": \"i\", \"output\": \"o\"}\n");
        fs::write(dir.path().join("tasks/g.jsonl"), b"\n\xff").unwrap();
        write(dir.path(), "tasks/d.meta.json", "{\"descriptions\": \"one\"}");
        let problems = TaskPack::load(dir.path()).unwrap_err().problems.join("\n");
        for expected in [
            "task001_a.json:2: invalid type: integer `3`, expected a sequence",
            "metadata.yaml:",
            "d.jsonl:2: EOF while parsing",
            "d.meta.json:1: invalid type: string \"one\", expected a sequence",
            "task `f`: no description",
            "into `f/metadata.yaml`",
            "g.jsonl:2: not UTF-8",
        ] {
            assert!(problems.contains(expected), "{expected:?} not in:\n{problems}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_task_that_is_a_link_to_elsewhere_is_not_read() {
        let (outside, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        write_all(outside.path());
        let target = outside.path().join("task001_a.json");
        let link = dir.path().join("task001_a.json");
        std::os::unix::fs::symlink(target, &link).unwrap();
        let problems = TaskPack::load(dir.path()).unwrap_err().problems;
        assert!(problems[0].contains("is a link that leaves"), "{problems:?}");
        // Who names the link itself means the file.
        assert_eq!(TaskPack::load(&link).unwrap().tasks.len(), 1);
    }
}
