//! An evaluation as Markdown tables, one column per contestant, numbers in percent.
//!
//! In: an [`Evaluation`]. Out: the tables of tiers, of tasks and of differences. `–` stands for a
//! score that does not exist; a number in parentheses is how many tasks of the tier count, where
//! that is not all of them.

use std::fmt::Write;

use super::estimate::Estimate;
use super::report::{Evaluation, MeanScore, TierScores};

/// Stands for a score that does not exist.
pub(super) const MISSING: &str = "–";
/// Explains tables with missing scores.
const NOTE: &str = "–: no score, as there is no adapter or no training example for the task, or \
                    the engine cannot run the adapter. (n): over the n tasks of the tier that have \
                    one.";

/// All tables of an evaluation.
pub(super) fn tables(evaluation: &Evaluation) -> String {
    let mut text = scores(evaluation) + "\n" + &tasks(evaluation);
    let overall = &evaluation.overall;
    if !overall.differences.is_empty() {
        text.push('\n');
        text.push_str(&differences(evaluation));
    }
    if overall.scores.iter().any(|mean| mean.tasks < overall.tasks) {
        text.extend(["\n", NOTE, "\n"]);
    }
    text
}

fn scores(evaluation: &Evaluation) -> String {
    let cell = |estimate: &Estimate| {
        format!("{:.1} ± {:.1}", 100.0 * estimate.mean, 100.0 * estimate.half_width())
    };
    let header = [&["tier", "tasks"][..], &names(&evaluation.overall.scores)[..]].concat();
    let rows = tiers(evaluation).map(|tier| tier_row(tier, &tier.scores, cell));
    table(&header, 1, rows.chain(prompt_tokens_row(evaluation)))
}

/// The last row of the table of scores, if prompts were counted.
pub(super) fn prompt_tokens_row(evaluation: &Evaluation) -> Option<Vec<String>> {
    let tokens = evaluation.prompt_tokens();
    tokens.iter().any(Option::is_some).then(|| {
        let cell = |tokens: Option<f64>| tokens.map_or(MISSING.into(), |mean| format!("{mean:.0}"));
        let mut row = vec!["tokens of a prompt".to_owned(), evaluation.overall.tasks.to_string()];
        row.extend(tokens.into_iter().map(cell));
        row
    })
}

fn tasks(evaluation: &Evaluation) -> String {
    let columns = ["task", "tier", "metric", "examples"];
    let header = [&columns[..], &names(&evaluation.overall.scores)[..]].concat();
    let rows = evaluation.tasks.iter().map(|task| {
        let mut row = vec![
            task.id.clone(),
            task.tier.clone(),
            task.metric.clone(),
            task.examples.to_string(),
        ];
        row.extend(task.scores.iter().map(|score| match score.score {
            Some(score) => format!("{:.1}", 100.0 * score),
            None => MISSING.into(),
        }));
        row
    });
    table(&header, 3, rows)
}

fn differences(evaluation: &Evaluation) -> String {
    let cell = |Estimate { mean, low, high }: &Estimate| {
        format!("{:+.1} [{:+.1}, {:+.1}]", 100.0 * mean, 100.0 * low, 100.0 * high)
    };
    let title = format!("difference to {}", evaluation.reference);
    let columns = [title.as_str(), "tasks"];
    let header = [&columns[..], &names(&evaluation.overall.differences)[..]].concat();
    let rows = tiers(evaluation).map(|tier| tier_row(tier, &tier.differences, cell));
    table(&header, 1, rows)
}

pub(super) fn tiers(evaluation: &Evaluation) -> impl Iterator<Item = &TierScores> {
    evaluation.tiers.iter().chain(std::iter::once(&evaluation.overall))
}

pub(super) fn names(means: &[MeanScore]) -> Vec<&str> {
    means.iter().map(|mean| mean.name.as_str()).collect()
}

pub(super) fn tier_row(
    tier: &TierScores,
    means: &[MeanScore],
    cell: impl Fn(&Estimate) -> String,
) -> Vec<String> {
    let mut row = vec![tier.tier.clone(), tier.tasks.to_string()];
    row.extend(means.iter().map(|mean| match &mean.estimate {
        None => MISSING.into(),
        Some(estimate) if mean.tasks == tier.tasks => cell(estimate),
        Some(estimate) => format!("{} ({})", cell(estimate), mean.tasks),
    }));
    row
}

/// A table whose first `texts` columns hold text and the others numbers, aligned to the right.
fn table(header: &[&str], texts: usize, rows: impl Iterator<Item = Vec<String>>) -> String {
    let align = |column: usize| if column < texts { "---" } else { "--:" };
    let aligned: Vec<&str> = (0..header.len()).map(align).collect();
    let mut text = format!("| {} |\n|{}|\n", header.join(" | "), aligned.join("|"));
    for row in rows {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "| {} |", row.join(" | "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::{evaluation, task};
    use super::Estimate;

    #[test]
    fn the_tables_name_every_tier_task_and_contestant() {
        let scores =
            |base: f64, compiled: f64| [("base", Some(base)), ("compiled", Some(compiled))];
        let tasks = vec![
            task("slug", "near", &scores(0.0, 0.5)),
            task("letter", "sibling", &scores(0.125, 0.75)),
            task("title", "near", &scores(0.0, 0.5)),
        ];
        let mut evaluation = evaluation("compiled", tasks);
        let exact = |mean| Some(Estimate { mean, low: mean - 0.1, high: mean + 0.15 });
        evaluation.overall.scores[0].estimate = exact(0.1);
        evaluation.overall.scores[1].estimate = exact(0.6);
        evaluation.overall.differences[0].estimate = exact(-0.05);
        for (task, tokens) in evaluation.tasks.iter_mut().zip([10.0, 20.5, 60.0]) {
            task.scores[0].prompt_tokens = Some(tokens);
        }
        let expected = "\
| tier | tasks | base | compiled |
|---|--:|--:|--:|
| sibling | 1 | 12.5 ± 0.0 | 75.0 ± 0.0 |
| near | 2 | 0.0 ± 0.0 | 50.0 ± 0.0 |
| all | 3 | 10.0 ± 12.5 | 60.0 ± 12.5 |
| tokens of a prompt | 3 | 30 | – |

| task | tier | metric | examples | base | compiled |
|---|---|---|--:|--:|--:|
| slug | near | exact_match | 50 | 0.0 | 50.0 |
| letter | sibling | exact_match | 50 | 12.5 | 75.0 |
| title | near | exact_match | 50 | 0.0 | 50.0 |

| difference to compiled | tasks | base |
|---|--:|--:|
| sibling | 1 | -62.5 [-62.5, -62.5] |
| near | 2 | -50.0 [-50.0, -50.0] |
| all | 3 | -5.0 [-15.0, +10.0] |
";
        assert_eq!(evaluation.markdown(), expected);
    }

    #[test]
    fn missing_scores_are_dashes_and_counted() {
        let tasks = vec![
            task("seen", "train", &[("base", Some(0.25)), ("oracle", Some(1.0))]),
            task("other", "train", &[("base", Some(0.25)), ("oracle", None)]),
            task("new", "far", &[("base", Some(0.25)), ("oracle", None)]),
        ];
        let expected = "\
| tier | tasks | base | oracle |
|---|--:|--:|--:|
| train | 2 | 25.0 ± 0.0 | 100.0 ± 0.0 (1) |
| far | 1 | 25.0 ± 0.0 | – |
| all | 3 | 25.0 ± 0.0 | 100.0 ± 0.0 (1) |

| task | tier | metric | examples | base | oracle |
|---|---|---|--:|--:|--:|
| seen | train | exact_match | 50 | 25.0 | 100.0 |
| other | train | exact_match | 50 | 25.0 | – |
| new | far | exact_match | 50 | 25.0 | – |

| difference to base | tasks | oracle |
|---|--:|--:|
| train | 2 | +75.0 [+75.0, +75.0] (1) |
| far | 1 | – |
| all | 3 | +75.0 [+75.0, +75.0] (1) |

–: no score, as there is no adapter or no training example for the task, or the engine cannot \
run the adapter. (n): over the n tasks of the tier that have one.
";
        assert_eq!(evaluation("base", tasks).markdown(), expected);
    }

    #[test]
    fn a_lone_contestant_is_compared_with_nobody() {
        let text = evaluation("base", vec![task("t", "far", &[("base", Some(0.5))])]).markdown();
        assert!(!text.contains("difference"), "{text}");
    }
}
