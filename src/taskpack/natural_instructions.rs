//! A task of Super-Natural Instructions, <https://arxiv.org/abs/2204.07705>.
//!
//! In: one file `task<number>_<name>.json`, of which `Definition`, `Instances` and the licence are
//! used. Out: a task that is shown as the reference implementation of
//! <https://arxiv.org/abs/2506.06105> shows it:
//!
//! - the input is the first definition, a request to answer without explanation, an empty line and
//!   the instance's input;
//! - the answer is all outputs of the instance joined by `, `, and with more than one the request
//!   asks for such a list; they are not alternatives;
//! - 11 tasks are held out, which are those the reference validates on, and 10 are left out because
//!   they share data with its benchmarks.
//!
//! The split of an instance hangs on its input. An instance whose answer is blank is left out. The
//! answers of a task that has 2 to 8 short ones are its choices; one alone would always be right.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

use serde::Deserialize;
use serde::de::{Deserializer, SeqAccess, Visitor};

use super::problems::Problems;
use super::split::split_of;
use super::{Example, Metric, Task, TaskSplit, check_descriptions};

/// Tasks that the reference validates on and never trains on.
const HELDOUT: [u32; 11] = [35, 39, 202, 304, 362, 614, 701, 706, 710, 726, 1557];
/// Tasks that share data with the benchmarks of the reference.
const CONTAMINATED: [u32; 10] = [33, 34, 80, 81, 228, 380, 381, 1286, 1389, 1391];
/// Distance of the held-out tasks from those trained on.
const HELDOUT_TIER: &str = "near";
/// Follows the definition.
const REQUEST: &str = " Please complete the task without any explanation.";
/// Follows the request if an instance has several outputs.
const LIST_REQUEST: &str = "\nThe answer should be a comma-separated list of possible completions.";
/// Most answers that count as choices.
const MAX_LABELS: usize = 8;
/// Longest answer that counts as a choice.
const MAX_LABEL_BYTES: usize = 32;
/// Longest input and answer together, as for a line of JSONL.
const MAX_EXAMPLE_BYTES: usize = 1 << 20;
/// Most that the definition, repeated per instance, may take.
const MAX_REPEATED_BYTES: usize = 1 << 30;

/// One text or a list of texts; both occur.
#[derive(Debug, Default)]
struct Texts(Vec<String>);

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrMore;
        impl<'de> Visitor<'de> for OneOrMore {
            type Value = Texts;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list of strings")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Texts, E> {
                Ok(Texts(vec![text.to_owned()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Texts, A::Error> {
                let mut texts = Vec::new();
                while let Some(text) = list.next_element()? {
                    texts.push(text);
                }
                Ok(Texts(texts))
            }
        }
        deserializer.deserialize_any(OneOrMore)
    }
}

#[derive(Debug, Deserialize)]
struct TaskFile {
    #[serde(rename = "Definition")]
    definitions: Texts,
    #[serde(rename = "Instances")]
    instances: Vec<Instance>,
    #[serde(rename = "Instance License", default)]
    instance_licences: Texts,
    #[serde(rename = "License", default)]
    licences: Texts,
}

#[derive(Debug, Deserialize)]
struct Instance {
    input: String,
    output: Texts,
}

/// Whether the task is never used.
pub(super) fn is_contaminated(number: u32) -> bool {
    CONTAMINATED.contains(&number)
}

/// The task in `text`. `described` are descriptions from elsewhere; without any, the definitions
/// describe the task.
pub(super) fn task(
    id: &str,
    number: u32,
    path: &Path,
    text: &str,
    described: Vec<String>,
    problems: &mut Problems,
) -> Option<Task> {
    let file: TaskFile = match serde_json::from_str(text) {
        Ok(file) => file,
        Err(e) => {
            problems.add_json(path, 1, &e);
            return None;
        }
    };
    let texts = file.definitions.0.iter().map(|text| text.trim().to_owned());
    let definitions: Vec<String> = texts.filter(|text| !text.is_empty()).collect();
    let Some(definition) = definitions.first() else {
        problems.add(path, None, "`Definition` is empty");
        return None;
    };
    if definition.len().saturating_mul(file.instances.len()) > MAX_REPEATED_BYTES {
        let (bytes, count) = (definition.len(), file.instances.len());
        let what = format!("`Definition` has {bytes} bytes, too many to repeat {count} times");
        problems.add(path, None, &what);
        return None;
    }
    let examples = examples(definition, &file.instances, path, problems);
    let licences = [file.instance_licences.0, file.licences.0].concat();
    let licence = if licences.is_empty() { "unknown".to_owned() } else { licences.join(", ") };
    let descriptions = if described.is_empty() {
        check_descriptions(&definitions, path, None, problems);
        definitions
    } else {
        described
    };
    let labels = labels(&examples);
    let metric = if labels.is_empty() { Metric::RougeL } else { Metric::ChoiceAccuracy };
    let mut task = Task::new(id, licence, metric, descriptions, examples);
    task.labels = labels;
    if HELDOUT.contains(&number) {
        task.split = TaskSplit::Heldout;
        task.tier = Some(HELDOUT_TIER.into());
    }
    Some(task)
}

fn examples(
    definition: &str,
    instances: &[Instance],
    path: &Path,
    problems: &mut Problems,
) -> Vec<Example> {
    let mut examples = Vec::new();
    for (index, instance) in instances.iter().enumerate() {
        let outputs = &instance.output.0;
        if outputs.iter().all(|text| text.trim().is_empty()) {
            continue;
        }
        let list = if outputs.len() > 1 { LIST_REQUEST } else { "" };
        let input = format!("{definition}{REQUEST}{list}\n\n{}", instance.input.trim());
        let output = outputs.join(", ");
        let size = input.len().saturating_add(output.len());
        if size > MAX_EXAMPLE_BYTES {
            let what = format!("instance {index} has {size} bytes, at most {MAX_EXAMPLE_BYTES}");
            problems.add(path, None, &what);
            continue;
        }
        let split = split_of(&instance.input);
        examples.push(Example { split, input, output, choices: Vec::new(), refs: Vec::new() });
    }
    if examples.is_empty() {
        problems.add(path, None, "no instance with an answer");
    }
    examples
}

/// The answers of all examples if they are few, short and more than one; otherwise none.
fn labels(examples: &[Example]) -> Vec<String> {
    let mut labels = BTreeSet::new();
    for example in examples {
        labels.insert(example.output.as_str());
        if example.output.len() > MAX_LABEL_BYTES || labels.len() > MAX_LABELS {
            return Vec::new();
        }
    }
    if labels.len() < 2 { Vec::new() } else { labels.into_iter().map(str::to_owned).collect() }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::{Value, json};

    use super::super::TaskPackError;
    use super::{Metric, Problems, Task, TaskSplit, task};

    const LONG_ANSWER: &str = "an answer that is too long for a choice";

    fn read(number: u32, text: &str) -> Result<Option<Task>, TaskPackError> {
        let mut problems = Problems::default();
        let task = task("t", number, Path::new("t.json"), text, Vec::new(), &mut problems);
        problems.finish(task)
    }

    fn instances(outputs: &[&str]) -> Value {
        let of = |(i, output): (usize, &&str)| {
            let (id, input) = (format!("task001-{i}"), format!("input {i}"));
            json!({"id": id, "input": input, "output": [output]})
        };
        outputs.iter().enumerate().map(of).collect()
    }

    #[test]
    fn a_task_is_shown_as_the_reference_shows_it() {
        let file = json!({
            "Contributors": ["someone"],
            "Definition": ["Say what follows. ", " ", "Continue."],
            "Input_language": ["English"],
            "Positive Examples": [{"input": "a", "output": "b", "explanation": ""}],
            "Instances": [
                {"id": "task001-1", "input": " one\n", "output": [LONG_ANSWER]},
                {"id": "task001-2", "input": "two", "output": ["x", "y"]},
                {"input": "three", "output": "z"},
                {"id": "task001-4", "input": "four", "output": [" "]},
            ],
            "Instance License": ["MIT", "CC-BY-4.0"],
        });
        let task = read(1, &file.to_string()).unwrap().unwrap();
        assert_eq!(task.descriptions, ["Say what follows.", "Continue."]);
        assert_eq!(task.licence, "MIT, CC-BY-4.0");
        assert_eq!((task.split, task.tier.as_deref()), (TaskSplit::Train, None));
        assert_eq!(task.metric, Metric::RougeL);
        let shown: Vec<_> = task.examples.iter().map(|e| (&*e.input, &*e.output)).collect();
        let request = "Say what follows. Please complete the task without any explanation.";
        let list = "\nThe answer should be a comma-separated list of possible completions.";
        let expected = [
            (format!("{request}\n\none"), LONG_ANSWER),
            (format!("{request}{list}\n\ntwo"), "x, y"),
            (format!("{request}\n\nthree"), "z"),
        ];
        assert_eq!(shown, expected.each_ref().map(|(input, output)| (input.as_str(), *output)));
        assert!(task.examples.iter().all(|e| e.refs.is_empty() && e.choices.is_empty()));
    }

    #[test]
    fn few_short_answers_are_choices() {
        let metric_of = |outputs: &[&str]| {
            let file = json!({"Definition": "Answer.", "Instances": instances(outputs)});
            let task = read(1, &file.to_string()).unwrap().unwrap();
            assert!(task.examples.iter().all(|e| task.fault(e).is_none()));
            (task.metric, task.labels.len())
        };
        assert_eq!(metric_of(&["yes", "no", "yes"]), (Metric::ChoiceAccuracy, 2));
        assert_eq!(metric_of(&["1", "2", "3", "4", "5", "6", "7", "8"]).1, 8);
        assert_eq!(metric_of(&["1", "2", "3", "4", "5", "6", "7", "8", "9"]).1, 0);
        assert_eq!(metric_of(&["yes", "yes"]), (Metric::RougeL, 0));
        assert_eq!(metric_of(&["yes", LONG_ANSWER]), (Metric::RougeL, 0));
    }

    #[test]
    fn the_tasks_that_the_reference_validates_on_are_held_out() {
        let file = json!({"Definition": "Answer.", "Instances": instances(&["x"])}).to_string();
        let task = read(1557, &file).unwrap().unwrap();
        assert_eq!((task.split, task.tier.as_deref()), (TaskSplit::Heldout, Some("near")));
        assert!(super::is_contaminated(33) && !super::is_contaminated(35));
    }

    #[test]
    fn what_is_no_task_is_reported_with_its_line() {
        let problem = |text: &str| read(1, text).unwrap_err().problems.join("\n");
        let typed = problem("{\"Definition\": [\"x\"],\n\"Instances\": [\n{\"input\": 3}]}");
        assert!(typed.starts_with("t.json:3: invalid type: integer `3`"), "{typed}");
        let typed = problem("{\"Definition\":\n{}}");
        assert!(typed.contains("expected a string or a list of strings"), "{typed}");
        assert!(typed.starts_with("t.json:2: "), "{typed}");
        assert!(problem("{\"Definition\": [\"x\"]}").contains("missing field `Instances`"));
        assert!(problem("{\"Definition\": [\"x\"], \"Instances\": []}").contains("no instance"));
        let blank = json!({"Definition": [" "], "Instances": instances(&["x"])}).to_string();
        assert!(problem(&blank).contains("`Definition` is empty"));
        assert!(problem(&"[".repeat(100_000)).starts_with("t.json:1: "));
    }

    #[test]
    fn sizes_that_multiply_are_refused() {
        let definition = "x".repeat(2 << 20);
        let outputs = vec!["y"; 600];
        let file = json!({"Definition": definition, "Instances": instances(&outputs)}).to_string();
        let problem = read(1, &file).unwrap_err().to_string();
        assert!(problem.contains("too many to repeat 600 times"), "{problem}");
        let file = json!({"Definition": definition, "Instances": instances(&["y"])}).to_string();
        let problem = read(1, &file).unwrap_err().to_string();
        assert!(problem.contains("instance 0 has 2097"), "{problem}");
        assert!(problem.contains("description 0: the description has"), "{problem}");
    }
}
