//! Which files of a directory hold tasks, and what belongs to each.
//!
//! In: a directory. Looked through are the directory, a folder `tasks` in it, and in both the
//! folders with a `metadata.yaml`, which describe the task they are named after; the reference
//! implementation of <https://arxiv.org/abs/2506.06105> calls task 12 of Super-Natural Instructions
//! `lol_012`. Out: the data files by task, in the order of their names. Nothing is opened here.
//!
//! Files of no known form are left alone, as are descriptions of tasks without data.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::problems::Problems;
use super::{jsonl, metadata, natural_instructions};

/// Folder of a directory that may hold its tasks.
const TASKS_FOLDER: &str = "tasks";
/// What the reference puts before the number of a task of Super-Natural Instructions.
const REFERENCE_PREFIX: &str = "lol_";
/// Most directory entries that are looked at.
const MAX_ENTRIES: usize = 100_000;

/// How a data file is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// `task<number>_<name>.json`.
    NaturalInstructions {
        /// Number of the task.
        number: u32,
    },
    /// `<task>.jsonl`.
    JsonLines,
}

/// The files of one task.
#[derive(Debug)]
pub(super) struct TaskFiles {
    /// How `data` is read.
    pub(super) format: Format,
    /// The examples.
    pub(super) data: PathBuf,
    /// What describes a JSONL file, beside it.
    pub(super) side: Option<PathBuf>,
    /// The `metadata.yaml` of the task.
    pub(super) metadata: Option<PathBuf>,
}

/// The task and the form of a data file; none for other files.
pub(super) fn recognize(name: &str) -> Option<(&str, Format)> {
    if let Some(id) = name.strip_suffix(".jsonl") {
        return (!id.is_empty()).then_some((id, Format::JsonLines));
    }
    let id = name.strip_suffix(".json")?;
    let rest = id.strip_prefix("task")?;
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let (digits, rest) = rest.split_at(digits);
    let format = Format::NaturalInstructions { number: digits.parse().ok()? };
    (rest.is_empty() || rest.starts_with('_')).then_some((id, format))
}

/// Whether the file is a task that is never used.
fn is_left_out(format: Format) -> bool {
    matches!(format, Format::NaturalInstructions { number }
        if natural_instructions::is_contaminated(number))
}

/// The tasks of a directory.
pub(super) fn discover(dir: &Path, problems: &mut Problems) -> BTreeMap<String, TaskFiles> {
    let mut found = Found::default();
    found.directory(dir, true, problems);
    found.assign(problems)
}

/// The tasks of a single file: one, or none if it is of no known form or left out.
pub(super) fn single(path: &Path) -> BTreeMap<String, TaskFiles> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let task = recognize(name).filter(|(_, format)| {
        matches!(format, Format::NaturalInstructions { .. }) && !is_left_out(*format)
    });
    let files = |format| TaskFiles { format, data: path.to_owned(), side: None, metadata: None };
    task.into_iter().map(|(id, format)| (id.to_owned(), files(format))).collect()
}

#[derive(Debug, Default)]
struct Found {
    tasks: BTreeMap<String, TaskFiles>,
    /// By the data file that they describe.
    sides: BTreeMap<PathBuf, PathBuf>,
    /// By the folder's name.
    metadata: BTreeMap<String, PathBuf>,
    entries: usize,
}

impl Found {
    /// Takes in the files of `dir` and of the folders in it that describe a task.
    fn directory(&mut self, dir: &Path, is_root: bool, problems: &mut Problems) {
        for (name, path) in self.list(dir, problems) {
            if !path.is_dir() {
                self.file(&name, &path, None, problems);
                continue;
            }
            let metadata = path.join(metadata::FILE);
            if metadata.is_file() {
                for (name, path) in self.list(&path, problems) {
                    if !path.is_dir() {
                        self.file(&name, &path, Some(&metadata), problems);
                    }
                }
                if let Some(other) = self.metadata.insert(name, metadata) {
                    let what = format!("describes a task that `{}` describes", other.display());
                    problems.add(&path, None, &what);
                }
            } else if is_root && name == TASKS_FOLDER {
                self.directory(&path, false, problems);
            }
        }
    }

    fn file(
        &mut self,
        name: &str,
        path: &Path,
        metadata: Option<&PathBuf>,
        problems: &mut Problems,
    ) {
        if let Some(id) = jsonl::SIDE_SUFFIXES.iter().find_map(|end| name.strip_suffix(*end)) {
            let data = path.with_file_name(format!("{id}.jsonl"));
            if let Some(other) = self.sides.insert(data, path.to_owned()) {
                let what = format!("describes a task that `{}` describes", other.display());
                problems.add(path, None, &what);
            }
            return;
        }
        let Some((id, format)) = recognize(name).filter(|(_, format)| !is_left_out(*format)) else {
            return;
        };
        if let Some(other) = self.tasks.get(id) {
            let what = format!("task `{id}` is also in `{}`", other.data.display());
            problems.add(path, None, &what);
            return;
        }
        let (data, metadata) = (path.to_owned(), metadata.cloned());
        self.tasks.insert(id.to_owned(), TaskFiles { format, data, side: None, metadata });
    }

    /// Names and paths in a directory, sorted, without hidden files.
    fn list(&mut self, dir: &Path, problems: &mut Problems) -> Vec<(String, PathBuf)> {
        let mut listed = Vec::new();
        let entries = match std::fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(e) => {
                problems.add(dir, None, &e.to_string());
                return listed;
            }
        };
        for entry in entries {
            self.entries += 1;
            if self.entries > MAX_ENTRIES {
                let what = format!("more than {MAX_ENTRIES} files and folders in all");
                problems.add(dir, None, &what);
                break;
            }
            match entry.map(|entry| (entry.file_name().into_string(), entry.path())) {
                Ok((Ok(name), path)) if !name.starts_with('.') => listed.push((name, path)),
                Ok((Ok(_), _)) => {}
                Ok((Err(_), path)) => problems.add(&path, None, "the name is not UTF-8"),
                Err(e) => problems.add(dir, None, &e.to_string()),
            }
        }
        listed.sort();
        listed
    }

    /// Gives each task what describes it.
    fn assign(mut self, problems: &mut Problems) -> BTreeMap<String, TaskFiles> {
        let number_of = |name: &str| name.strip_prefix(REFERENCE_PREFIX)?.parse::<u32>().ok();
        let by_number: BTreeMap<u32, &PathBuf> = self
            .metadata
            .iter()
            .filter_map(|(name, path)| Some((number_of(name)?, path)))
            .collect();
        for (id, files) in &mut self.tasks {
            files.side = self.sides.remove(&files.data);
            if files.metadata.is_none() {
                let by_format = match files.format {
                    Format::NaturalInstructions { number } => by_number.get(&number).copied(),
                    Format::JsonLines => None,
                };
                files.metadata = self.metadata.get(id).or(by_format).cloned();
            }
        }
        for (data, side) in &self.sides {
            problems.add(side, None, &format!("describes `{}`, which is no task", data.display()));
        }
        self.tasks
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::super::TaskPackError;
    use super::{Format, Problems, discover, recognize, single};

    fn write(dir: &Path, names: &[&str]) {
        for name in names {
            let path = dir.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
    }

    #[test]
    fn names_decide() {
        let numbered = |number| Format::NaturalInstructions { number };
        let id = "task002_quoref_answer_generation";
        assert_eq!(recognize(&format!("{id}.json")), Some((id, numbered(2))));
        assert_eq!(recognize("task1557.json"), Some(("task1557", numbered(1557))));
        assert_eq!(recognize("a.b.jsonl"), Some(("a.b", Format::JsonLines)));
        for other in [".jsonl", "task.json", "task1x.json", "task_1.json", "README.md", "x.json"] {
            assert_eq!(recognize(other), None, "{other}");
        }
        assert_eq!(recognize("task99999999999.json"), None);
        assert_eq!(single(Path::new("data/task001_a.json")).len(), 1);
        assert!(single(Path::new("data/task380_a.json")).is_empty());
        assert!(single(Path::new("data/a.jsonl")).is_empty());
    }

    #[test]
    fn every_task_gets_what_describes_it() {
        let dir = tempfile::tempdir().unwrap();
        let names = [
            "README.md",
            "task001_a.json",
            "task033_contaminated.json",
            "lol_001/metadata.yaml",
            "task002_b.json",
            "tasks/task002_b/metadata.yaml",
            "tasks/c.jsonl",
            "tasks/c.meta.json",
            "tasks/c/metadata.yaml",
            "d/metadata.yaml",
            "d/data.jsonl",
            "arc_easy/metadata.yaml",
            "other/e.jsonl",
            ".hidden.jsonl",
        ];
        write(dir.path(), &names);
        let mut problems = Problems::default();
        let tasks = discover(dir.path(), &mut problems);
        problems.finish(()).unwrap();
        let below = |path: &Path| {
            path.strip_prefix(dir.path()).unwrap().to_str().unwrap().replace('\\', "/")
        };
        let found: Vec<_> = tasks
            .iter()
            .map(|(id, files)| {
                let metadata = files.metadata.as_deref().map(below).unwrap_or_default();
                (id.as_str(), below(&files.data), metadata, files.side.is_some())
            })
            .collect();
        let expected = [
            ("c", "tasks/c.jsonl", "tasks/c/metadata.yaml", true),
            ("data", "d/data.jsonl", "d/metadata.yaml", false),
            ("task001_a", "task001_a.json", "lol_001/metadata.yaml", false),
            ("task002_b", "task002_b.json", "tasks/task002_b/metadata.yaml", false),
        ]
        .map(|(id, data, metadata, side)| (id, data.to_owned(), metadata.to_owned(), side));
        assert_eq!(found, expected);
    }

    #[test]
    fn what_is_ambiguous_or_of_no_use_is_reported() {
        let dir = tempfile::tempdir().unwrap();
        let names = [
            "a.jsonl",
            "a.meta.json",
            "a.descriptions.json",
            "tasks/a.jsonl",
            "b.meta.json",
            "c/metadata.yaml",
            "tasks/c/metadata.yaml",
        ];
        write(dir.path(), &names);
        let mut problems = Problems::default();
        assert_eq!(discover(dir.path(), &mut problems).len(), 1);
        let listed = TaskPackError::from(problems).problems.join("\n");
        for expected in
            ["task `a` is also in", "which is no task", "a.descriptions.json` describes"]
        {
            assert!(listed.contains(expected), "{expected:?} not in:\n{listed}");
        }
        assert_eq!(listed.matches("describes a task that `").count(), 2, "{listed}");
    }
}
