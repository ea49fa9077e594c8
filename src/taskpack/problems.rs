//! Everything that is wrong with a source of tasks, collected while reading on.
//!
//! In: a file, a line (from 1) where there is one, and what is wrong. Out: a [`TaskPackError`] with
//! one text per problem, in the order of reading. A file that is wrong on every line must not fill
//! the memory: a file is heard a limited number of times, and long texts are cut.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::TaskPackError;

/// Most problems of one file that are listed; the rest is counted.
const MAX_PER_FILE: usize = 1000;
/// Longest text of a problem, in characters.
const MAX_CHARS: usize = 600;
/// Longest JSONL line that is read.
pub(super) const MAX_LINE_BYTES: usize = 1 << 20;

/// The problems so far.
#[derive(Debug, Default)]
pub(super) struct Problems {
    listed: Vec<String>,
    per_file: BTreeMap<PathBuf, usize>,
}

impl Problems {
    /// Adds a problem.
    pub(super) fn add(&mut self, path: &Path, line: Option<usize>, what: &str) {
        let count = self.per_file.entry(path.to_owned()).or_default();
        *count += 1;
        if *count <= MAX_PER_FILE {
            let line = line.map_or_else(String::new, |line| format!(":{line}"));
            let what: String = what.chars().take(MAX_CHARS).collect();
            self.listed.push(format!("{}{line}: {what}", path.display()));
        }
    }

    /// Adds a JSON error. A text that starts at a later line of its file says at which.
    pub(super) fn add_json(&mut self, path: &Path, first_line: usize, error: &serde_json::Error) {
        let text = error.to_string();
        let place = format!(" at line {} column {}", error.line(), error.column());
        let what = text.strip_suffix(&place).unwrap_or(&text);
        let line = first_line.saturating_add(error.line().saturating_sub(1));
        self.add(path, Some(line), &format!("{what} (column {})", error.column()));
    }

    /// Adds what another source found.
    pub(super) fn add_all(&mut self, error: TaskPackError) {
        self.listed.extend(error.problems);
    }

    /// Whether a JSONL line is short enough to read; if not, that is a problem.
    pub(super) fn accept_line(&mut self, path: &Path, line: usize, text: &str) -> bool {
        let accept = text.len() <= MAX_LINE_BYTES;
        if !accept {
            let what = format!("a line of {} bytes, at most {MAX_LINE_BYTES}", text.len());
            self.add(path, Some(line), &what);
        }
        accept
    }

    /// The value, if there was no problem.
    pub(super) fn finish<T>(self, value: T) -> Result<T, TaskPackError> {
        if self.listed.is_empty() { Ok(value) } else { Err(self.into()) }
    }
}

impl From<Problems> for TaskPackError {
    fn from(problems: Problems) -> Self {
        let mut listed = problems.listed;
        for (path, count) in problems.per_file {
            if count > MAX_PER_FILE {
                listed.push(format!("{}: {} more problems", path.display(), count - MAX_PER_FILE));
            }
        }
        Self { problems: listed }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{MAX_CHARS, MAX_PER_FILE, Problems, TaskPackError};

    #[test]
    fn a_file_wrong_everywhere_is_cut_short_and_others_are_still_heard() {
        let mut problems = Problems::default();
        for line in 1..=MAX_PER_FILE + 7 {
            problems.add(Path::new("a"), Some(line), "wrong");
        }
        problems.add(Path::new("b"), None, &"é".repeat(2 * MAX_CHARS));
        let listed = TaskPackError::from(problems).problems;
        assert_eq!(listed.len(), MAX_PER_FILE + 2);
        assert_eq!(listed[0], "a:1: wrong");
        assert_eq!(listed[MAX_PER_FILE].chars().count(), "b: ".len() + MAX_CHARS);
        assert_eq!(listed[MAX_PER_FILE + 1], "a: 7 more problems");
    }

    #[test]
    fn json_errors_have_the_line_of_the_file() {
        let mut problems = Problems::default();
        let error = serde_json::from_str::<Vec<u8>>("[1,\n x]").unwrap_err();
        problems.add_json(Path::new("a"), 5, &error);
        let listed = problems.finish(()).unwrap_err().problems;
        assert_eq!(listed, ["a:6: expected value (column 2)"]);
        assert!(Problems::default().finish(()).is_ok());
    }
}
