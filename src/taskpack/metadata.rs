//! Descriptions of a task from a `metadata.yaml` of the reference implementation of
//! <https://arxiv.org/abs/2506.06105>.
//!
//! In: the text of such a file, a map of which only the list `descriptions` is used; the prompt
//! templates in it say what the example loaders here do already. Out: the first 128 descriptions,
//! as many as the reference trains with.

use std::fmt;
use std::path::Path;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, SeqAccess, Visitor};

use super::check_descriptions;
use super::problems::Problems;

/// Name of the file, in a folder named after the task.
pub(super) const FILE: &str = "metadata.yaml";
/// Largest such file that is read; an alias can repeat a text once per description.
pub(super) const MAX_FILE_BYTES: u64 = 1 << 20;
/// Most descriptions of a task.
const MAX_DESCRIPTIONS: usize = 128;

/// The descriptions in `text`; none, if it has no such list.
pub(super) fn descriptions(text: &str, path: &Path, problems: &mut Problems) -> Vec<String> {
    #[derive(Deserialize)]
    struct Metadata {
        #[serde(default, deserialize_with = "first_texts")]
        descriptions: Vec<String>,
    }
    match yaml_serde::from_str(text) {
        Ok(Metadata { descriptions }) => {
            check_descriptions(&descriptions, path, None, problems);
            descriptions
        }
        Err(e) => {
            let line = e.location().map(|place| place.line());
            problems.add(path, line, &e.to_string());
            Vec::new()
        }
    }
}

/// Keeps only the texts that are used, however many the file has.
fn first_texts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    struct FirstTexts;
    impl<'de> Visitor<'de> for FirstTexts {
        type Value = Vec<String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of descriptions")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<String>, A::Error> {
            let mut texts = Vec::new();
            while texts.len() < MAX_DESCRIPTIONS {
                match list.next_element()? {
                    Some(text) => texts.push(text),
                    None => return Ok(texts),
                }
            }
            while list.next_element::<IgnoredAny>()?.is_some() {}
            Ok(texts)
        }
    }
    deserializer.deserialize_seq(FirstTexts)
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;
    use std::path::Path;

    use super::super::TaskPackError;
    use super::{Problems, descriptions};

    fn read(text: &str) -> Result<Vec<String>, TaskPackError> {
        let mut problems = Problems::default();
        let texts = descriptions(text, Path::new("metadata.yaml"), &mut problems);
        problems.finish(texts)
    }

    #[test]
    fn the_first_128_descriptions_are_read_and_the_rest_is_ignored() {
        let mut text = "ds_kwargs:\n  path: some/data\n  split: train\ndescriptions:\n".to_owned();
        for number in 0..200 {
            writeln!(text, "- \"Answer question {number}: yes or no?\"").unwrap();
        }
        text += "system_message: ''\nuser_prompt_template: '{task_def}\n\n  {problem}'\n";
        let texts = read(&text).unwrap();
        assert_eq!(texts.len(), 128);
        assert_eq!(texts[127], "Answer question 127: yes or no?");
        assert!(read("system_message: ''\n").unwrap().is_empty());
    }

    #[test]
    fn what_is_no_list_of_descriptions_is_reported() {
        let no_list = read("a: 1\ndescriptions: text\n").unwrap_err().to_string();
        assert!(no_list.contains("a list of descriptions"), "{no_list}");
        let broken = read("a: 1\ndescriptions: [\"x\n").unwrap_err().to_string();
        assert!(broken.contains("metadata.yaml:"), "{broken}");
        let long = format!("descriptions: [fine, '', {}]", "x".repeat(5000));
        let long = read(&long).unwrap_err().problems;
        assert_eq!(long.len(), 2);
        assert!(long[0].contains("description 1: the description is empty"), "{long:?}");
        assert!(long[1].contains("description 2: the description has 5000 bytes"), "{long:?}");
    }

    #[test]
    fn aliases_cannot_fill_the_memory() {
        let text = format!("descriptions: [&a {}{}]", "x".repeat(4000), ", *a".repeat(100_000));
        // Whether the parser refuses it or not, no more than 128 copies are made.
        let kept = read(&text).map_or(0, |texts| texts.len());
        assert!(kept <= 128, "{kept}");
        assert!(read(&"[".repeat(1_000)).is_err());
    }
}
