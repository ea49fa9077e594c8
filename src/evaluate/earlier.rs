//! Scores of an earlier evaluation beside new ones, so that what does not change is scored once.
//!
//! In: the JSON of an [`Evaluation`] of the same base by the same engine on the same examples, which
//! anyone may have written, and a new evaluation. Out: one with every contestant of either; what both
//! have is the new one's. Means and differences are computed anew, paired by task.

use std::collections::HashSet;

use anyhow::{Context, Result, ensure};

use super::EvaluateOptions;
use super::engine::EngineKind;
use super::report::{Evaluation, TaskScore, TaskScores};
use crate::taskpack::Task;

/// Most contestants of a report, and most bytes of a name.
const MAX_NAMES: usize = 256;
const MAX_NAME_BYTES: usize = 200;

/// The report of an earlier evaluation, checked.
#[derive(Debug, Clone)]
pub struct Earlier(Evaluation);

/// Whether a contestant may be called so: names are heads of columns, on terminals as well.
pub fn is_name(name: &str) -> bool {
    let unfit = |c: char| c == '|' || c.is_control();
    !name.is_empty() && name.len() <= MAX_NAME_BYTES && !name.contains(unfit)
}

impl Earlier {
    /// Reads a report.
    ///
    /// # Errors
    /// What is no report; names that are none or that are there twice; a task without a score of
    /// each contestant in the report's order; scores outside 0 to 1.
    pub fn from_json(bytes: &[u8]) -> Result<Self> {
        let report: Evaluation = serde_json::from_slice(bytes)?;
        let names: Vec<&String> = report.overall.scores.iter().map(|mean| &mean.name).collect();
        ensure!(names.len() <= MAX_NAMES, "{} contestants, expected few", names.len());
        let mut seen = HashSet::new();
        for name in &names {
            ensure!(is_name(name), "{name:?} is not a name");
            ensure!(seen.insert(*name), "two contestants are called `{name}`");
        }
        let mut seen = HashSet::new();
        for TaskScores { id, scores, .. } in &report.tasks {
            ensure!(seen.insert(id), "the task {id:?} is there twice");
            let in_order = scores.iter().map(|score| &score.name).eq(names.iter().copied());
            ensure!(in_order, "the task {id:?} has other contestants than the report");
            for TaskScore { name, score, prompt_tokens } in scores {
                let possible = score.is_none_or(|score| (0.0..=1.0).contains(&score))
                    && prompt_tokens.is_none_or(|tokens| tokens.is_finite() && tokens >= 0.0);
                ensure!(possible, "no score of `{name}` on the task {id:?} can be so");
            }
        }
        Ok(Self(report))
    }

    /// Whether the report has a contestant of this name.
    pub fn has(&self, name: &str) -> bool {
        self.0.overall.scores.iter().any(|mean| mean.name == name)
    }

    /// Forgets contestants that are of something else this time.
    pub fn forget(&mut self, names: &[&str]) {
        let stays = |name: &String| !names.contains(&name.as_str());
        self.0.overall.scores.retain(|mean| stays(&mean.name));
        for task in &mut self.0.tasks {
            task.scores.retain(|score| stays(&score.name));
        }
    }

    /// Checks that the report is of what is about to be evaluated.
    ///
    /// # Errors
    /// Another base, engine or pack; other descriptions or random texts; a task that the report
    /// lacks or has other examples of.
    pub fn check(
        &self,
        pack: &str,
        engine: EngineKind,
        options: &EvaluateOptions,
        tasks: &[&Task],
    ) -> Result<()> {
        let was = &self.0;
        let wording = |wording| format!("{wording:?}").to_lowercase();
        let number = |number: usize| number.to_string();
        for (what, was, is) in [
            ("base", was.base.clone(), options.base.clone()),
            ("task pack", was.pack.clone(), pack.to_owned()),
            ("engine", was.engine.clone(), engine.name().to_owned()),
            ("split", was.split.clone(), options.split.name().to_owned()),
            ("wording", wording(was.wording), wording(options.wording)),
            ("number of descriptions", number(was.descriptions), number(options.descriptions)),
            ("seed", was.seed.to_string(), options.seed.to_string()),
        ] {
            ensure!(was == is, "earlier scores of another {what}: {was:?}, expected {is:?}");
        }
        for task in tasks {
            let id = &task.id;
            let was = was.tasks.iter().find(|was| was.id == *id);
            let was = was.with_context(|| format!("no earlier score of the task `{id}`"))?;
            let examples = task.examples_of(options.split).take(options.examples).count();
            ensure!(
                was.examples == examples,
                "earlier scores of {} examples of the task `{id}`, expected {examples}",
                was.examples,
            );
        }
        Ok(())
    }

    /// Adds the contestants that `new` does not have, before its own. The tasks are those that were
    /// checked.
    pub(super) fn beside(&self, new: Evaluation) -> Evaluation {
        let own: Vec<String> = new.overall.scores.iter().map(|mean| mean.name.clone()).collect();
        let mut names: Vec<String> =
            self.0.overall.scores.iter().map(|mean| mean.name.clone()).collect();
        names.retain(|name| !own.contains(name));
        let joined = |task: &TaskScores| {
            let was = self.0.tasks.iter().filter(|was| was.id == task.id);
            let was = was.flat_map(|was| &was.scores).filter(|was| names.contains(&was.name));
            TaskScores { scores: was.chain(&task.scores).cloned().collect(), ..task.clone() }
        };
        let tasks = new.tasks.iter().map(joined).collect();
        let names: Vec<String> = names.iter().chain(&own).cloned().collect();
        new.of_tasks(&names, tasks)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::Earlier;
    use crate::evaluate::report::tests::{evaluation, options, task};
    use crate::evaluate::{EngineKind, EvaluateOptions};
    use crate::taskpack::{Example, ExampleSplit, Metric, Task, Wording};

    fn report() -> Value {
        let scores = [("base", Some(0.25)), ("compiled", Some(0.0)), ("oracle", None)];
        let other = [("base", Some(0.5)), ("compiled", Some(0.0)), ("oracle", Some(1.0))];
        let tasks = vec![task("y", "far", &scores), task("x", "near", &other)];
        serde_json::to_value(evaluation("compiled", tasks)).unwrap()
    }

    fn read(report: &Value) -> anyhow::Result<Earlier> {
        Earlier::from_json(report.to_string().as_bytes())
    }

    #[test]
    fn earlier_contestants_are_compared_with_new_scores_on_the_same_tasks() {
        let new = [("compiled", Some(0.75)), ("random", Some(0.5))];
        let new = evaluation("compiled", vec![task("x", "near", &new)]);
        let earlier = read(&report()).unwrap();
        assert!(earlier.has("oracle") && !earlier.has("random"));
        let both = earlier.beside(new);
        let names: Vec<&str> = both.tasks[0].scores.iter().map(|s| s.name.as_str()).collect();
        assert_eq!(names, ["base", "oracle", "compiled", "random"]);
        assert_eq!(both.tasks.len(), 1);
        let score = |name| both.tasks[0].score(name);
        assert_eq!((score("compiled"), score("oracle")), (Some(0.75), Some(1.0)));
        let differences = both.overall.differences.iter();
        let differences: Vec<_> =
            differences.map(|d| (d.name.as_str(), d.estimate.unwrap().mean)).collect();
        assert_eq!(differences, [("base", -0.25), ("oracle", 0.25), ("random", -0.25)]);
    }

    #[test]
    fn scores_of_another_bundle_are_forgotten() {
        let mut earlier = read(&report()).unwrap();
        earlier.forget(&["compiled", "random"]);
        assert!(earlier.has("base") && !earlier.has("compiled"));
        let new = evaluation("own", vec![task("x", "near", &[("own", Some(0.75))])]);
        let both = earlier.beside(new);
        let names: Vec<&str> = both.tasks[0].scores.iter().map(|s| s.name.as_str()).collect();
        assert_eq!(names, ["base", "oracle", "own"]);
    }

    #[test]
    fn reports_that_contradict_themselves_are_refused() {
        let refused = |pointer: &str, value: Value| {
            let mut report = report();
            *report.pointer_mut(pointer).unwrap() = value;
            read(&report).unwrap_err().to_string()
        };
        let said = refused("/overall/scores/0/name", json!("a|b"));
        assert_eq!(said, "\"a|b\" is not a name");
        let said = refused("/overall/scores/0/name", json!("compiled"));
        assert_eq!(said, "two contestants are called `compiled`");
        assert_eq!(refused("/tasks/0/id", json!("x")), "the task \"x\" is there twice");
        let said = refused("/tasks/1/scores/2/name", json!("base"));
        assert_eq!(said, "the task \"x\" has other contestants than the report");
        let said = refused("/tasks/1/scores/0/score", json!(1e12));
        assert_eq!(said, "no score of `base` on the task \"x\" can be so");
        let said = refused("/tasks/1/scores/0/prompt_tokens", json!(-1.0));
        assert_eq!(said, "no score of `base` on the task \"x\" can be so");
    }

    /// A task with examples as [`task`] counts them.
    fn with_examples(id: &str, count: usize) -> Task {
        let example = Example {
            split: ExampleSplit::Test,
            input: "in".into(),
            output: "out".into(),
            refs: vec![],
            choices: vec![],
        };
        Task::new(id, "MIT", Metric::ExactMatch, vec![], vec![example; count])
    }

    #[test]
    fn scores_of_something_else_are_refused() {
        let earlier = read(&report()).unwrap();
        let check = |pack: &str, engine, options: &EvaluateOptions, task: &Task| {
            earlier.check(pack, engine, options, &[task]).map_err(|error| error.to_string())
        };
        let (same, task) = (options("compiled"), with_examples("x", 60));
        let (pack, candle) = ("sha256:00", EngineKind::Candle);
        assert_eq!(check(pack, candle, &same, &task), Ok(()));
        let refused = |found: Result<(), String>, text: &str| {
            let error = found.unwrap_err();
            assert!(error.contains(text), "{error}");
        };
        refused(check("sha256:01", candle, &same, &task), "another task pack: \"sha256:00\"");
        refused(check(pack, EngineKind::LlamaCpp, &same, &task), "another engine");
        let other = EvaluateOptions { base: "sha256:01".into(), ..same.clone() };
        refused(check(pack, candle, &other, &task), "another base");
        let other = EvaluateOptions { split: ExampleSplit::Valid, ..same.clone() };
        refused(check(pack, candle, &other, &task), "another split");
        let other = EvaluateOptions { wording: Wording::Training, ..same.clone() };
        refused(check(pack, candle, &other, &task), "another wording: \"unseen\"");
        let other = EvaluateOptions { descriptions: 2, ..same.clone() };
        refused(check(pack, candle, &other, &task), "another number of descriptions: \"1\"");
        let other = EvaluateOptions { seed: 2, ..same.clone() };
        refused(check(pack, candle, &other, &task), "another seed");
        refused(check(pack, candle, &same, &with_examples("z", 60)), "of the task `z`");
        let few = with_examples("x", 49);
        refused(check(pack, candle, &same, &few), "50 examples of the task `x`, expected 49");
    }
}
