//! The result of an evaluation: scores per task, means per tier, differences per tier.
//!
//! In: the scores of every task, from 0 to 1. Out: per contestant, the mean over the tasks that it
//! has a score for, and the mean difference to the reference over the tasks that both have a score
//! for. Lists of contestants are in the order in which they were given.

use serde::{Deserialize, Serialize};

use super::engine::EngineKind;
use super::estimate::Estimate;
use super::{EvaluateOptions, markdown};
use crate::taskpack::Wording;

/// Name of the tier that holds training tasks.
pub(super) const TRAIN_TIER: &str = "train";
/// Tiers in the order of reports; unknown ones follow by name.
const TIERS: [&str; 4] = [TRAIN_TIER, "sibling", "near", "far"];
/// Name of the tier that holds all tasks.
const ALL_TIERS: &str = "all";

/// The score of one contestant on one task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskScore {
    /// Name of the contestant.
    pub name: String,
    /// Mean over the examples, from 0 to 1; `None` where the contestant has no adapter that the
    /// engine can run, or no shots.
    pub score: Option<f64>,
    /// Mean number of tokens of a prompt, which every request pays for; `None` without a score.
    #[serde(default)]
    pub prompt_tokens: Option<f64>,
}

/// Scores of one task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskScores {
    /// Name of the task.
    pub id: String,
    /// Distance from the training tasks: `sibling`, `near` or `far`, or `train` for one of them.
    pub tier: String,
    /// `exact_match`, `choice_accuracy` or `rouge_l`.
    pub metric: String,
    /// Number of examples scored.
    pub examples: usize,
    /// Every contestant.
    pub scores: Vec<TaskScore>,
}

impl TaskScores {
    /// The score of a contestant, if it has one.
    pub fn score(&self, name: &str) -> Option<f64> {
        self.scores.iter().find(|score| score.name == name)?.score
    }

    /// One line of text.
    pub(super) fn summary(&self) -> String {
        let Self { id, tier, metric, examples, scores } = self;
        let of = |TaskScore { name, score, .. }: &TaskScore| match score {
            Some(score) => format!("{name} {:.1} %", 100.0 * score),
            None => format!("{name} {}", markdown::MISSING),
        };
        let scores: Vec<String> = scores.iter().map(of).collect();
        format!("{id} ({tier}, {metric}, {examples} examples): {}", scores.join(", "))
    }
}

/// What is known of one contestant over the tasks of a tier.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MeanScore {
    /// Name of the contestant.
    pub name: String,
    /// Number of tasks that count.
    pub tasks: usize,
    /// Mean over these tasks, each weighing the same; `None` where there are none.
    pub estimate: Option<Estimate>,
}

impl MeanScore {
    fn of(name: &str, values: impl Iterator<Item = Option<f64>>, seed: u64) -> Self {
        let values: Vec<f64> = values.flatten().collect();
        Self {
            name: name.into(),
            tasks: values.len(),
            estimate: Estimate::bootstrap(&values, seed),
        }
    }
}

/// Means over the tasks of a tier.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TierScores {
    /// Name of the tier.
    pub tier: String,
    /// Number of tasks.
    pub tasks: usize,
    /// Mean score of every contestant over the tasks that it has a score for.
    pub scores: Vec<MeanScore>,
    /// Mean of score minus the reference's score, for every contestant but the reference, over the
    /// tasks that both have a score for.
    pub differences: Vec<MeanScore>,
}

/// What means are computed of.
struct Summary<'a> {
    /// Contestants, in the order of the report.
    names: &'a [String],
    /// The contestant that the others are compared with.
    reference: &'a str,
    seed: u64,
}

impl Summary<'_> {
    fn tier<'t>(&self, tier: &str, tasks: impl Iterator<Item = &'t TaskScores>) -> TierScores {
        let tasks: Vec<&TaskScores> = tasks.collect();
        let score = |name: &String| {
            let values = tasks.iter().map(|task| task.score(name));
            MeanScore::of(name, values, self.seed)
        };
        let difference = |name: &String| {
            let of = |task: &&TaskScores| Some(task.score(name)? - task.score(self.reference)?);
            MeanScore::of(name, tasks.iter().map(of), self.seed)
        };
        let others = self.names.iter().filter(|name| *name != self.reference);
        TierScores {
            tier: tier.into(),
            tasks: tasks.len(),
            scores: self.names.iter().map(score).collect(),
            differences: others.map(difference).collect(),
        }
    }
}

/// The result of an evaluation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Digest of the base's files: its quantizations share the fingerprint.
    pub base: String,
    /// Digest of the task pack.
    pub pack: String,
    /// What computed the answers: `candle` or `llama.cpp`.
    pub engine: String,
    /// Split that the examples are from.
    pub split: String,
    /// Most examples of a task.
    pub examples: usize,
    /// Which descriptions stood for a task.
    pub wording: Wording,
    /// Most descriptions of a task.
    pub descriptions: usize,
    /// Seed of the random texts and of the bootstrap.
    pub seed: u64,
    /// Name of the contestant that the others are compared with.
    pub reference: String,
    /// Every task, in the order of the evaluation.
    pub tasks: Vec<TaskScores>,
    /// Every tier that has tasks.
    pub tiers: Vec<TierScores>,
    /// All tasks together; the tier is called `all`.
    pub overall: TierScores,
}

impl Evaluation {
    /// Computes the means of `tasks` for the contestants `names`.
    pub(super) fn new(
        pack: String,
        engine: EngineKind,
        names: &[String],
        options: &EvaluateOptions,
        tasks: Vec<TaskScores>,
    ) -> Self {
        let nothing = TierScores {
            tier: ALL_TIERS.into(),
            tasks: 0,
            scores: Vec::new(),
            differences: Vec::new(),
        };
        let unscored = Self {
            base: options.base.clone(),
            pack,
            engine: engine.name().into(),
            split: options.split.name().into(),
            examples: options.examples,
            wording: options.wording,
            descriptions: options.descriptions,
            seed: options.seed,
            reference: options.reference.clone(),
            tasks: Vec::new(),
            tiers: Vec::new(),
            overall: nothing,
        };
        unscored.of_tasks(names, tasks)
    }

    /// The same evaluation of other `tasks` and contestants.
    pub(super) fn of_tasks(self, names: &[String], tasks: Vec<TaskScores>) -> Self {
        let mut tiers: Vec<&str> = tasks.iter().map(|task| task.tier.as_str()).collect();
        let place = |name: &str| TIERS.iter().position(|tier| *tier == name);
        tiers.sort_by_key(|&name| (place(name).unwrap_or(TIERS.len()), name));
        tiers.dedup();
        let summary = Summary { names, reference: &self.reference, seed: self.seed };
        let tier = |name: &str| summary.tier(name, tasks.iter().filter(|task| task.tier == name));
        let tiers = tiers.into_iter().map(tier).collect();
        let overall = summary.tier(ALL_TIERS, tasks.iter());
        Self { tasks, tiers, overall, ..self }
    }

    /// Mean number of prompt tokens of every contestant, over the tasks that it has a score for.
    pub(super) fn prompt_tokens(&self) -> Vec<Option<f64>> {
        let names = self.overall.scores.iter().map(|mean| mean.name.as_str());
        let of = |name: &str| {
            let scores = self.tasks.iter().flat_map(|task| &task.scores);
            let tokens = scores.filter(|score| score.name == name);
            let tokens: Vec<f64> = tokens.filter_map(|score| score.prompt_tokens).collect();
            (!tokens.is_empty()).then(|| tokens.iter().sum::<f64>() / tokens.len() as f64)
        };
        names.map(of).collect()
    }

    /// Three tables with one column per contestant, in percent: tiers, with half the width of the
    /// 95 % interval, and the tokens of a prompt; tasks; and per tier the difference to the
    /// reference, with its interval.
    pub fn markdown(&self) -> String {
        markdown::tables(self)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::{Evaluation, TaskScore, TaskScores};
    use crate::evaluate::{EngineKind, EvaluateOptions};
    use crate::taskpack::{ExampleSplit, Wording};

    /// A task with the scores of contestants.
    pub(in crate::evaluate) fn task(
        id: &str,
        tier: &str,
        scores: &[(&str, Option<f64>)],
    ) -> TaskScores {
        let score = |&(name, score): &(&str, Option<f64>)| TaskScore {
            name: name.into(),
            score,
            prompt_tokens: None,
        };
        TaskScores {
            id: id.into(),
            tier: tier.into(),
            metric: "exact_match".into(),
            examples: 50,
            scores: scores.iter().map(score).collect(),
        }
    }

    /// Options of an evaluation whose tasks have as many examples as those of [`task`].
    pub(in crate::evaluate) fn options(reference: &str) -> EvaluateOptions {
        EvaluateOptions {
            base: "sha256:base".into(),
            examples: 50,
            seed: 1,
            split: ExampleSplit::Test,
            tasks: Vec::new(),
            wording: Wording::Unseen,
            descriptions: 1,
            reference: reference.into(),
            earlier: None,
        }
    }

    /// The evaluation of tasks that all have the same contestants.
    pub(in crate::evaluate) fn evaluation(reference: &str, tasks: Vec<TaskScores>) -> Evaluation {
        let names: Vec<String> = tasks[0].scores.iter().map(|score| score.name.clone()).collect();
        let pack = "sha256:00".to_owned();
        Evaluation::new(pack, EngineKind::Candle, &names, &options(reference), tasks)
    }

    #[test]
    fn the_same_tasks_are_drawn_for_every_contestant() {
        let of =
            |x: f64| task("t", "near", &[("a", Some(x)), ("b", Some(x)), ("half", Some(x / 2.0))]);
        let tasks = (0..9).map(|i| of(f64::from(i) / 8.0)).collect();
        let overall = evaluation("a", tasks).overall;
        let [a, b, half] = &overall.scores[..] else { panic!("not three contestants") };
        assert_eq!(a.estimate, b.estimate);
        let (a, half) = (a.estimate.unwrap(), half.estimate.unwrap());
        assert!((a.low / 2.0 - half.low).abs() < 1e-12);
    }

    #[test]
    fn paired_differences_see_what_separate_intervals_hide() {
        // The tasks differ much, the contestants differ by 0.1 on every task.
        let of = |x: f64| task("t", "near", &[("a", Some(x)), ("better", Some(x + 0.1))]);
        let tasks = (0..9).map(|i| of(f64::from(i) / 10.0)).collect();
        let overall = evaluation("a", tasks).overall;
        assert!(overall.scores[1].estimate.unwrap().low < overall.scores[0].estimate.unwrap().high);
        let [better] = &overall.differences[..] else { panic!("the reference is compared") };
        assert_eq!((better.name.as_str(), better.tasks), ("better", 9));
        let difference = better.estimate.unwrap();
        assert!((difference.mean - 0.1).abs() < 1e-9);
        assert!(difference.low > 0.099 && difference.high < 0.101, "{difference:?}");
    }

    #[test]
    fn means_and_differences_are_over_the_tasks_that_have_scores() {
        let tasks = vec![
            task("x", "near", &[("a", Some(0.5)), ("b", Some(1.0))]),
            task("y", "near", &[("a", Some(0.1)), ("b", None)]),
            task("z", "far", &[("a", Some(0.1)), ("b", None)]),
        ];
        let evaluation = evaluation("a", tasks);
        let b = &evaluation.overall.scores[1];
        assert_eq!((b.tasks, b.estimate.map(|e| e.mean)), (1, Some(1.0)));
        let difference = &evaluation.overall.differences[0];
        assert_eq!((difference.tasks, difference.estimate.map(|e| e.mean)), (1, Some(0.5)));
        let far = evaluation.tiers.last().unwrap();
        assert_eq!((far.tier.as_str(), far.scores[1].tasks), ("far", 0));
        assert_eq!(far.scores[1].estimate, None);
        assert_eq!(far.differences[0].estimate, None);
    }

    #[test]
    fn contestants_keep_their_order_in_json() {
        let tasks = vec![task("x", "near", &[("z", Some(0.5)), ("a", None)])];
        let json = serde_json::to_value(evaluation("z", tasks)).unwrap();
        let expected = serde_json::json!([{"name": "z", "score": 0.5, "prompt_tokens": null},
                               {"name": "a", "score": null, "prompt_tokens": null}]);
        assert_eq!(json["tasks"][0]["scores"], expected);
    }

    #[test]
    fn a_task_fits_one_line() {
        let scores = [("base", Some(0.0)), ("prompted", Some(0.125)), ("oracle", None)];
        let line = task("slug", "near", &scores).summary();
        let expected = "slug (near, exact_match, 50 examples): base 0.0 %, prompted 12.5 %, \
                        oracle –";
        assert_eq!(line, expected);
    }
}
