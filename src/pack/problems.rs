//! Everything that is wrong with a pack's files, collected while reading on.
//!
//! In: a file, a line (from 1) where there is one, and what is wrong. Out: one text per problem, in
//! the order of reading. Hostile files must not fill the memory: the number of problems and their
//! length are bounded.

use std::path::Path;

/// Most problems that are listed; the rest is counted.
const MAX_LISTED: usize = 200;
/// Longest text of a problem, in characters.
const MAX_CHARS: usize = 400;

/// The problems so far.
#[derive(Debug, Default)]
pub(super) struct Problems {
    listed: Vec<String>,
    more: usize,
}

impl Problems {
    /// Adds a problem.
    pub(super) fn add(&mut self, path: &Path, line: Option<usize>, what: &str) {
        if self.listed.len() == MAX_LISTED {
            self.more += 1;
            return;
        }
        let line = line.map_or_else(String::new, |line| format!(":{line}"));
        // A text from the file must not look like lines of ours.
        let what: String = what.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let what: String = what.chars().take(MAX_CHARS).collect();
        self.listed.push(format!("{}{line}: {what}", path.display()));
    }

    /// Whether there was none.
    pub(super) fn is_empty(&self) -> bool {
        self.listed.is_empty()
    }

    /// The texts.
    pub(super) fn into_texts(mut self) -> Vec<String> {
        if self.more > 0 {
            self.listed.push(format!("and {} more problems", self.more));
        }
        self.listed
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{MAX_CHARS, MAX_LISTED, Problems};

    #[test]
    fn problems_are_bounded_and_of_one_line() {
        let mut problems = Problems::default();
        assert!(problems.is_empty());
        problems.add(Path::new("a"), Some(3), "x\ny");
        problems.add(Path::new("a"), None, &"é".repeat(2 * MAX_CHARS));
        for _ in 0..MAX_LISTED {
            problems.add(Path::new("b"), None, "wrong");
        }
        let texts = problems.into_texts();
        assert_eq!(texts[0], "a:3: x y");
        assert_eq!(texts[1].chars().count(), "a: ".len() + MAX_CHARS);
        assert_eq!(
            (texts.len(), texts[MAX_LISTED].as_str()),
            (MAX_LISTED + 1, "and 2 more problems")
        );
    }
}
