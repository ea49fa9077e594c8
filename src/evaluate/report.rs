//! The result of an evaluation: scores per task, means per tier, and both as Markdown.
//!
//! In: the scores of every task, from 0 to 1. Out: means over tasks with 95 % bootstrap intervals:
//! tasks are drawn with replacement 1000 times, the interval holds all but 25 of the means at
//! either end (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, section 13.3). The
//! draws depend on the seed and the number of tasks alone, so all conditions see the same ones.

use std::fmt::Write;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::condition::{Condition, PerCondition};
use super::{EvaluateOptions, split_name};

/// Bootstrap samples.
const RESAMPLES: usize = 1000;
/// Bootstrap means outside the interval, at either end: 2.5 %.
const OUTSIDE: usize = RESAMPLES / 40;
/// Tiers in the order of reports; unknown ones follow by name.
const TIERS: [&str; 3] = ["sibling", "near", "far"];
/// Name of the tier that holds all tasks.
const ALL_TIERS: &str = "all";

/// Scores of one task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskScores {
    /// Name of the task.
    pub id: String,
    /// Distance from the training tasks: `sibling`, `near` or `far`.
    pub tier: String,
    /// `exact_match`, `choice_accuracy` or `rouge_l`.
    pub metric: String,
    /// Number of examples scored.
    pub examples: usize,
    /// Mean over the examples, from 0 to 1.
    pub scores: PerCondition<f64>,
}

impl TaskScores {
    /// One line of text.
    pub(super) fn summary(&self) -> String {
        let Self { id, tier, metric, examples, scores } = self;
        let of = |c: Condition| format!("{} {:.1} %", c.name(), 100.0 * scores.get(c));
        let scores = Condition::ALL.map(of).join(", ");
        format!("{id} ({tier}, {metric}, {examples} examples): {scores}")
    }
}

/// A mean over tasks with its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The mean, from 0 to 1.
    pub mean: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end of the interval.
    pub high: f64,
}

impl Estimate {
    /// Mean and interval of `values`; all zero where there are none.
    pub fn bootstrap(values: &[f64], seed: u64) -> Self {
        if values.is_empty() {
            return Self { mean: 0.0, low: 0.0, high: 0.0 };
        }
        let count = values.len();
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut means: Vec<f64> = (0..RESAMPLES)
            .map(|_| {
                let drawn = (0..count).map(|_| values[rng.random_range(0..count)]);
                drawn.sum::<f64>() / count as f64
            })
            .collect();
        means.sort_by(f64::total_cmp);
        Self {
            mean: values.iter().sum::<f64>() / count as f64,
            low: means[OUTSIDE],
            high: means[RESAMPLES - 1 - OUTSIDE],
        }
    }

    /// Half of the interval's width.
    pub fn half_width(&self) -> f64 {
        (self.high - self.low) / 2.0
    }
}

/// Means over the tasks of a tier.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TierScores {
    /// Name of the tier.
    pub tier: String,
    /// Number of tasks.
    pub tasks: usize,
    /// Mean over the tasks, each weighing the same.
    pub scores: PerCondition<Estimate>,
}

impl TierScores {
    fn new<'t>(tier: &str, tasks: impl Iterator<Item = &'t TaskScores>, seed: u64) -> Self {
        let tasks: Vec<&TaskScores> = tasks.collect();
        let scores = PerCondition::from_fn(|condition| {
            let values: Vec<f64> = tasks.iter().map(|task| *task.scores.get(condition)).collect();
            Estimate::bootstrap(&values, seed)
        });
        Self { tier: tier.into(), tasks: tasks.len(), scores }
    }
}

/// The result of an evaluation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Digest of the task pack.
    pub pack: String,
    /// Split that the examples are from.
    pub split: String,
    /// Most examples of a task.
    pub examples: usize,
    /// Seed of the random texts and of the bootstrap.
    pub seed: u64,
    /// Every task, in the order of the pack.
    pub tasks: Vec<TaskScores>,
    /// Every tier that has tasks.
    pub tiers: Vec<TierScores>,
    /// All tasks together; the tier is called `all`.
    pub overall: TierScores,
}

impl Evaluation {
    /// Computes the means of `tasks`.
    pub(super) fn new(pack: String, options: &EvaluateOptions, tasks: Vec<TaskScores>) -> Self {
        let mut names: Vec<&str> = tasks.iter().map(|task| task.tier.as_str()).collect();
        let place = |name: &str| TIERS.iter().position(|tier| *tier == name);
        names.sort_by_key(|&name| (place(name).unwrap_or(TIERS.len()), name));
        names.dedup();
        let tier = |name: &str| {
            TierScores::new(name, tasks.iter().filter(|task| task.tier == name), options.seed)
        };
        Self {
            pack,
            split: split_name(options.split).into(),
            examples: options.examples,
            seed: options.seed,
            tiers: names.into_iter().map(tier).collect(),
            overall: TierScores::new(ALL_TIERS, tasks.iter(), options.seed),
            tasks,
        }
    }

    /// Two tables: tiers by condition, with half the width of the 95 % interval, and tasks by
    /// condition. Scores are in percent.
    pub fn markdown(&self) -> String {
        let conditions = Condition::ALL.map(Condition::name).join(" | ");
        let mut text = format!("| tier | tasks | {conditions} |\n|---|--:|--:|--:|--:|--:|\n");
        for tier in self.tiers.iter().chain(std::iter::once(&self.overall)) {
            let cell = |condition| {
                let estimate = tier.scores.get(condition);
                format!("{:.1} ± {:.1}", 100.0 * estimate.mean, 100.0 * estimate.half_width())
            };
            let cells = Condition::ALL.map(cell).join(" | ");
            // Writing to a string cannot fail.
            let _ = writeln!(text, "| {} | {} | {cells} |", tier.tier, tier.tasks);
        }
        let _ = write!(
            text,
            "\n| task | tier | metric | examples | {conditions} |\n\
             |---|---|---|--:|--:|--:|--:|--:|\n"
        );
        for TaskScores { id, tier, metric, examples, scores } in &self.tasks {
            let cell = |condition| format!("{:.1}", 100.0 * scores.get(condition));
            let cells = Condition::ALL.map(cell).join(" | ");
            let _ = writeln!(text, "| {id} | {tier} | {metric} | {examples} | {cells} |");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::{Estimate, Evaluation, PerCondition, TaskScores};
    use crate::evaluate::EvaluateOptions;
    use crate::taskpack::ExampleSplit;

    fn task(id: &str, tier: &str, [base, prompted, compiled, random]: [f64; 4]) -> TaskScores {
        TaskScores {
            id: id.into(),
            tier: tier.into(),
            metric: "exact_match".into(),
            examples: 50,
            scores: PerCondition { base, prompted, compiled, random },
        }
    }

    fn evaluation(tasks: Vec<TaskScores>) -> Evaluation {
        let options = EvaluateOptions { examples: 50, seed: 1, split: ExampleSplit::Test };
        Evaluation::new("sha256:00".into(), &options, tasks)
    }

    #[test]
    fn intervals_are_the_same_for_the_same_seed() {
        let values: Vec<f64> = (0..13).map(|i| f64::from(i * i) / 144.0).collect();
        let first = Estimate::bootstrap(&values, 7);
        assert_eq!(first, Estimate::bootstrap(&values, 7));
        assert_ne!(first, Estimate::bootstrap(&values, 8));
        assert!(first.low < first.mean && first.mean < first.high);
        // The normal interval, ±1.96 standard errors, is ±0.176.
        assert!((0.13..0.21).contains(&first.half_width()), "{first:?}");
    }

    #[test]
    fn equal_values_leave_no_doubt() {
        let estimate = Estimate::bootstrap(&[0.25; 4], 0);
        assert_eq!(estimate, Estimate { mean: 0.25, low: 0.25, high: 0.25 });
        assert_eq!(Estimate::bootstrap(&[], 0), Estimate { mean: 0.0, low: 0.0, high: 0.0 });
    }

    #[test]
    fn the_same_tasks_are_drawn_for_every_condition() {
        let scores = |x: f64| [x, 1.0 - x, x, x / 2.0];
        let tasks = (0..9).map(|i| task("t", "near", scores(f64::from(i) / 8.0))).collect();
        let overall = evaluation(tasks).overall.scores;
        assert_eq!(overall.base, overall.compiled);
        assert!((overall.base.low / 2.0 - overall.random.low).abs() < 1e-12);
    }

    #[test]
    fn the_tables_name_every_tier_and_task() {
        let tasks = vec![
            task("slug", "near", [0.0, 0.125, 0.5, 0.02]),
            task("letter", "sibling", [0.1, 0.2, 0.75, 0.1]),
            task("title", "near", [0.0, 0.125, 0.5, 0.02]),
        ];
        let mut evaluation = evaluation(tasks);
        let exact = |mean| Estimate { mean, low: mean - 0.1, high: mean + 0.15 };
        evaluation.overall.scores = PerCondition {
            base: exact(0.1),
            prompted: exact(0.2),
            compiled: exact(0.3),
            random: exact(0.4),
        };
        let expected = "\
| tier | tasks | base | prompted | compiled | random |
|---|--:|--:|--:|--:|--:|
| sibling | 1 | 10.0 ± 0.0 | 20.0 ± 0.0 | 75.0 ± 0.0 | 10.0 ± 0.0 |
| near | 2 | 0.0 ± 0.0 | 12.5 ± 0.0 | 50.0 ± 0.0 | 2.0 ± 0.0 |
| all | 3 | 10.0 ± 12.5 | 20.0 ± 12.5 | 30.0 ± 12.5 | 40.0 ± 12.5 |

| task | tier | metric | examples | base | prompted | compiled | random |
|---|---|---|--:|--:|--:|--:|--:|
| slug | near | exact_match | 50 | 0.0 | 12.5 | 50.0 | 2.0 |
| letter | sibling | exact_match | 50 | 10.0 | 20.0 | 75.0 | 10.0 |
| title | near | exact_match | 50 | 0.0 | 12.5 | 50.0 | 2.0 |
";
        assert_eq!(evaluation.markdown(), expected);
    }

    #[test]
    fn a_task_fits_one_line() {
        let line = task("slug", "near", [0.0, 0.125, 0.5, 0.02]).summary();
        let expected = "slug (near, exact_match, 50 examples): \
                        base 0.0 %, prompted 12.5 %, compiled 50.0 %, random 2.0 %";
        assert_eq!(line, expected);
    }
}
