//! A file of the descriptions that a hypernetwork was trained on, for one that was imported.
//!
//! One `task<TAB>description` per line, UTF-8; a task may have many lines, and blank lines are
//! skipped. Out: the pairs in the order of the file, or everything that is wrong with it.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use t2lc_runtime::describe::Description;

/// Largest file that is read, far above any in use.
const MAX_BYTES: u64 = 64 << 20;
/// Most problems that an error lists: the wrong file has one in each line.
const MAX_LISTED: usize = 10;

/// Why a file of descriptions cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DescriptionsError {
    /// The file cannot be read, or is not UTF-8.
    #[error("cannot read `{}`", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Reason given by the operating system.
        source: io::Error,
    },
    /// The file is larger than any such file.
    #[error("`{}` has more than {MAX_BYTES} bytes", .path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// Nothing but blank lines.
    #[error("`{}` has no description", .path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// Lines that are not a task, a tab and a description.
    #[error("the descriptions in `{}` cannot be used:{}", .path.display(), listed(.problems))]
    Lines {
        /// The file.
        path: PathBuf,
        /// What is wrong, each with its line.
        problems: Vec<String>,
    },
}

/// Reads `(task, description)` pairs.
///
/// # Errors
/// A file that cannot be read, is too large or has no descriptions, and every line that has none.
pub fn read_descriptions(path: &Path) -> Result<Vec<(String, String)>, DescriptionsError> {
    let read = |source| DescriptionsError::Read { path: path.to_owned(), source };
    let mut text = String::new();
    let file = File::open(path).map_err(read)?;
    let length = file.take(MAX_BYTES + 1).read_to_string(&mut text).map_err(read)?;
    if length as u64 > MAX_BYTES {
        return Err(DescriptionsError::TooLarge { path: path.to_owned() });
    }
    let (mut pairs, mut problems) = (Vec::new(), Vec::new());
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        match pair(line) {
            Ok(pair) => pairs.push(pair),
            Err(reason) => problems.push(format!("line {}: {reason}", index + 1)),
        }
    }
    if !problems.is_empty() {
        return Err(DescriptionsError::Lines { path: path.to_owned(), problems });
    }
    if pairs.is_empty() {
        return Err(DescriptionsError::Empty { path: path.to_owned() });
    }
    Ok(pairs)
}

/// The task and the canonical description of one line.
fn pair(line: &str) -> Result<(String, String), String> {
    let Some((task, description)) = line.split_once('\t') else {
        return Err("no tab between task and description".to_owned());
    };
    let task = task.trim();
    if task.is_empty() || task.contains(char::is_control) {
        return Err("the task has no usable name".to_owned());
    }
    let description = Description::new(description).map_err(|error| error.to_string())?;
    Ok((task.to_owned(), description.as_str().to_owned()))
}

/// The first problems, each on a line of its own, and how many there are besides.
fn listed(problems: &[String]) -> String {
    let mut lines: Vec<String> =
        problems.iter().take(MAX_LISTED).map(|problem| format!("\n  {problem}")).collect();
    if let Some(more) = problems.len().checked_sub(MAX_LISTED).filter(|more| *more > 0) {
        lines.push(format!("\n  and {more} more"));
    }
    lines.concat()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{DescriptionsError, read_descriptions};
    use crate::checkpoint::tests::scratch;

    fn read(name: &str, text: &[u8]) -> Result<Vec<(String, String)>, DescriptionsError> {
        let path = scratch(&format!("descriptions-{name}"));
        fs::write(&path, text).unwrap();
        let read = read_descriptions(&path);
        fs::remove_file(path).unwrap();
        read
    }

    #[test]
    fn every_line_is_a_task_and_a_description() {
        let text = b"lol_022\tAnswer yes or no. \r\n\n lol_022 \tSay\tyes.\nlol_1448\tCount.";
        let pairs = read("sound", text).unwrap();
        let expected =
            [("lol_022", "Answer yes or no."), ("lol_022", "Say\tyes."), ("lol_1448", "Count.")];
        assert_eq!(pairs, expected.map(|(task, text)| (task.to_owned(), text.to_owned())));
    }

    #[test]
    fn every_bad_line_is_listed() {
        let error = read("bad", b"a\tb\nno tab\n\tno task\nno text\t \na\tring \x07\n");
        let Err(DescriptionsError::Lines { problems, .. }) = error else {
            panic!("an error of the lines");
        };
        let expected = [
            "line 2: no tab between task and description",
            "line 3: the task has no usable name",
            "line 4: the description is empty",
            "line 5: the description contains the control character U+0007",
        ];
        assert_eq!(problems, expected);
        let text = read("wrong", "{}\n".repeat(30).as_bytes()).unwrap_err().to_string();
        assert!(text.ends_with("\n  and 20 more") && text.lines().count() == 12, "{text}");
    }

    #[test]
    fn files_without_descriptions_are_refused() {
        assert!(matches!(read("empty", b" \n\n"), Err(DescriptionsError::Empty { .. })));
        assert!(matches!(read("bytes", b"a\t\xff"), Err(DescriptionsError::Read { .. })));
    }
}
