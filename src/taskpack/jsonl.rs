//! A task in one JSONL file, named after the task.
//!
//! In: lines `{"input", "output"}`, optionally with `refs`, `choices` and `split` (`train`, `valid`
//! or `test`; without it, the input decides), and what describes the task: on the first line, or
//! in a file `<task>.meta.json` or `<task>.descriptions.json` beside it,
//!
//! ```json
//! {"descriptions": ["..."], "eval_description_ids": [0], "licence": "MIT", "metric": "rouge_l",
//!  "labels": ["yes", "no"], "split": "heldout", "tier": "near"}
//! ```
//!
//! where only `descriptions` is needed. Out: a [`Task`]. Without a metric, it is the choice
//! accuracy if there are labels or every line has choices, otherwise ROUGE-L.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::problems::{MAX_LINE_BYTES, Problems};
use super::split::split_of;
use super::{Example, ExampleSplit, Metric, Task, TaskSplit, check_descriptions};

/// Ends of the names of files that describe the task of the JSONL file beside them.
pub(super) const SIDE_SUFFIXES: [&str; 2] = [".meta.json", ".descriptions.json"];
/// Largest such file that is read.
pub(super) const MAX_SIDE_BYTES: u64 = 1 << 20;
/// Keys of [`Header`]; a first line with one of them and without an example is a header.
const HEADER_KEYS: [&str; 7] =
    ["descriptions", "eval_description_ids", "labels", "licence", "metric", "split", "tier"];

/// What describes a task. A misspelt key is refused: descriptions that should be kept out of
/// training must not slip into it.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Header {
    descriptions: Vec<String>,
    eval_description_ids: Vec<usize>,
    licence: Option<String>,
    metric: Option<Metric>,
    labels: Vec<String>,
    split: Option<TaskSplit>,
    tier: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Line {
    input: String,
    output: String,
    #[serde(default)]
    choices: Vec<String>,
    #[serde(default)]
    refs: Vec<String>,
    #[serde(default)]
    split: Option<ExampleSplit>,
}

/// The task in `text`. `side` is the file beside it, path and text; `described` are descriptions
/// from elsewhere, used if there are no others.
pub(super) fn task(
    id: &str,
    path: &Path,
    text: &str,
    side: Option<(&Path, &str)>,
    described: Vec<String>,
    problems: &mut Problems,
) -> Task {
    let mut header = None;
    if let Some((side_path, side_text)) = side {
        header = read_header(side_path, None, side_text, problems);
    }
    let mut examples = Vec::new();
    let mut lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()).peekable();
    if let Some(&(number, line)) = lines.peek()
        && line.len() <= MAX_LINE_BYTES
        && is_header(line)
    {
        lines.next();
        if side.is_some() {
            problems.add(path, Some(number), "describes a task that the file beside it describes");
        }
        if problems.accept_line(path, number, line) {
            header = read_header(path, Some(number), line, problems);
        }
    }
    for (number, line) in lines {
        if problems.accept_line(path, number, line) {
            match serde_json::from_str::<Line>(line) {
                Ok(line) => examples.push((number, line.into())),
                Err(e) => problems.add_json(path, number, &e),
            }
        }
    }
    build(id, path, header.unwrap_or_default(), examples, described, problems)
}

/// Whether a line describes the task instead of being an example.
fn is_header(line: &str) -> bool {
    serde_json::from_str::<Map<String, Value>>(line).is_ok_and(|map| {
        let example = map.contains_key("input") || map.contains_key("output");
        !example && HEADER_KEYS.iter().any(|key| map.contains_key(*key))
    })
}

fn read_header(
    path: &Path,
    line: Option<usize>,
    text: &str,
    problems: &mut Problems,
) -> Option<Header> {
    match serde_json::from_str::<Header>(text) {
        Ok(header) => {
            check_descriptions(&header.descriptions, path, line, problems);
            Some(header)
        }
        Err(e) => {
            problems.add_json(path, line.unwrap_or(1), &e);
            None
        }
    }
}

impl From<Line> for Example {
    fn from(line: Line) -> Self {
        let split = line.split.unwrap_or_else(|| split_of(&line.input));
        let Line { input, output, choices, refs, .. } = line;
        Self { split, input, output, choices, refs }
    }
}

fn build(
    id: &str,
    path: &Path,
    header: Header,
    examples: Vec<(usize, Example)>,
    described: Vec<String>,
    problems: &mut Problems,
) -> Task {
    let descriptions = if header.descriptions.is_empty() { described } else { header.descriptions };
    let chosen = !header.labels.is_empty()
        || (!examples.is_empty() && examples.iter().all(|(_, e)| !e.choices.is_empty()));
    let deduced = if chosen { Metric::ChoiceAccuracy } else { Metric::RougeL };
    let licence = header.licence.unwrap_or_else(|| "unknown".into());
    let metric = header.metric.unwrap_or(deduced);
    let mut task = Task::new(id, licence, metric, descriptions, Vec::new());
    task.eval_description_ids = header.eval_description_ids;
    task.labels = header.labels;
    task.split = header.split.unwrap_or(TaskSplit::Train);
    task.tier = header.tier;
    task.check(path, problems);
    if task.descriptions.is_empty() {
        let what = format!(
            "put {{\"descriptions\": [\"...\"]}} on the first line or into `{id}.meta.json` beside \
             the file, or a list `descriptions` into `{id}/metadata.yaml`"
        );
        problems.add(path, None, &what);
    }
    if examples.is_empty() {
        problems.add(path, None, "no example");
    }
    for (number, example) in examples {
        if let Some(what) = task.fault(&example) {
            problems.add(path, Some(number), &what);
        }
        task.examples.push(example);
    }
    task
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::TaskPackError;
    use super::{ExampleSplit, Metric, Problems, Task, TaskSplit, split_of, task};

    fn read(text: &str, side: Option<&str>, described: &[&str]) -> Result<Task, TaskPackError> {
        let mut problems = Problems::default();
        let described = described.iter().map(|text| (*text).to_owned()).collect();
        let side = side.map(|side| (Path::new("t.meta.json"), side));
        let task = task("t", Path::new("t.jsonl"), text, side, described, &mut problems);
        problems.finish(task)
    }

    const LINES: &str = "{\"input\": \"i\", \"output\": \"o\", \"refs\": [\"p\"]}\n\n\
                         {\"input\": \"j\", \"output\": \"o\", \"split\": \"test\", \"note\": 1}\n";

    #[test]
    fn a_task_is_described_on_its_first_line_or_beside_it_or_elsewhere() {
        let header = r#"{"descriptions": ["one", "two"], "eval_description_ids": [1],
            "licence": "MIT", "metric": "exact_match", "split": "heldout", "tier": "far"}"#;
        let line = header.replace('\n', " ");
        for task in [
            read(&format!("{line}\n{LINES}"), None, &["elsewhere"]).unwrap(),
            read(LINES, Some(header), &[]).unwrap(),
        ] {
            assert_eq!((task.id.as_str(), task.licence.as_str()), ("t", "MIT"));
            assert_eq!((task.metric, task.split), (Metric::ExactMatch, TaskSplit::Heldout));
            assert_eq!(task.tier.as_deref(), Some("far"));
            assert_eq!(task.training_descriptions().collect::<Vec<_>>(), ["one"]);
            assert_eq!(task.unseen_descriptions().next(), Some("two"));
            assert_eq!(task.examples.len(), 2);
            assert_eq!(task.examples[0].refs, ["p"]);
            assert_eq!(task.examples[0].split, split_of("i"));
            assert_eq!(task.examples[1].split, ExampleSplit::Test);
        }
        let task = read(LINES, None, &["elsewhere"]).unwrap();
        assert_eq!(task.descriptions, ["elsewhere"]);
        assert_eq!((task.licence.as_str(), task.split), ("unknown", TaskSplit::Train));
    }

    #[test]
    fn the_metric_follows_from_the_data_unless_it_is_given() {
        let choices = "{\"input\": \"i\", \"output\": \"o\", \"choices\": [\"o\", \"p\"]}\n";
        assert_eq!(read(LINES, None, &["d"]).unwrap().metric, Metric::RougeL);
        assert_eq!(read(choices, None, &["d"]).unwrap().metric, Metric::ChoiceAccuracy);
        let mixed = format!("{choices}{LINES}");
        assert_eq!(read(&mixed, None, &["d"]).unwrap().metric, Metric::RougeL);
        let labelled = read(LINES, Some(r#"{"labels": ["o", "p"]}"#), &["d"]).unwrap();
        assert_eq!((labelled.metric, labelled.labels.len()), (Metric::ChoiceAccuracy, 2));
        let given = read(choices, Some(r#"{"metric": "exact_match"}"#), &["d"]).unwrap();
        assert_eq!(given.metric, Metric::ExactMatch);
    }

    #[test]
    fn problems_come_together_with_their_lines() {
        let long = "x".repeat((1 << 20) + 1);
        let text = format!(
            "{{\"labels\": [\"a\", \"c\"], \"eval_description_ids\": [2], \"split\": \"heldout\"}}\n\
             {{\"input\": \"i\", \"output\": \"b\"}}\n\
             {{\"input\": \"i\"}}\n\
             {{\"input\": \"\", \"output\": \"a\"}}\n\
             {{\"input\": \"i\", \"output\": \"a\", \"split\": \"dev\"}}\n\
             {long}\n[1]\n"
        );
        let problems = read(&text, None, &[]).unwrap_err().problems.join("\n");
        for expected in [
            "task `t`: no description",
            "t.jsonl: put {\"descriptions\": [\"...\"]} on the first line or into `t.meta.json`",
            "evaluation description 2 of 0",
            "a held-out task without a tier",
            "t.jsonl:2: answer `b` is not among the choices",
            "t.jsonl:3: missing field `output`",
            "t.jsonl:4: empty input or output",
            "t.jsonl:5: unknown variant `dev`",
            "t.jsonl:6: a line of 1048577 bytes",
            "t.jsonl:7: ",
        ] {
            assert!(problems.contains(expected), "{expected:?} not in:\n{problems}");
        }
    }

    #[test]
    fn descriptions_are_given_once_and_spelt_right() {
        let twice = format!("{{\"descriptions\": [\"d\"]}}\n{LINES}");
        let twice = read(&twice, Some(r#"{"descriptions": ["e"]}"#), &[]).unwrap_err();
        assert!(twice.problems[0].starts_with("t.jsonl:1: describes a task"), "{twice}");
        let misspelt = "{\"descriptions\": [\"d\"],\n\"eval_description_id\": [0]}";
        let misspelt = read(LINES, Some(misspelt), &[]).unwrap_err();
        assert!(misspelt.problems[0].starts_with("t.meta.json:2: unknown field"), "{misspelt}");
        let blank = read(LINES, Some(r#"{"descriptions": ["d", " "]}"#), &[]).unwrap_err();
        assert!(blank.problems[0].contains("description 1: the description is empty"), "{blank}");
        let nothing = read("\n", None, &["d"]).unwrap_err();
        assert_eq!(nothing.problems, ["t.jsonl: no example"]);
    }
}
