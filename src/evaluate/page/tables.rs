//! The tables of an evaluation in HTML, one column per contestant, numbers in percent.
//!
//! In: an [`Evaluation`]. Out: the tables that the Markdown report has, with the same numbers, and
//! one of the nearest training tasks. An empty text stands for a table without rows or columns.

use super::escape;
use crate::evaluate::estimate::Estimate;
use crate::evaluate::markdown::{self, MISSING};
use crate::evaluate::{Evaluation, TaskPoint};

/// Means per tier, with half the width of the 95 % interval.
pub(super) fn tiers(evaluation: &Evaluation) -> String {
    let cell = |estimate: &Estimate| {
        format!("{:.1} ± {:.1}", 100.0 * estimate.mean, 100.0 * estimate.half_width())
    };
    let overall = &evaluation.overall;
    let header = [&["tier", "tasks"][..], &markdown::names(&overall.scores)[..]].concat();
    let rows = markdown::tiers(evaluation).map(|tier| markdown::tier_row(tier, &tier.scores, cell));
    let rows = rows.chain(markdown::prompt_tokens_row(evaluation));
    let mut text = table("Mean score in %, with the 95 % interval", &header, 1, rows);
    if overall.scores.iter().any(|mean| mean.tasks < overall.tasks) {
        text.push_str(
            "<p class=\"note\">–: no score, as there is no adapter or no training example for the \
             task, or the engine cannot run the adapter. (n): over the n tasks of the tier that \
             have one.</p>\n",
        );
    }
    text
}

/// Mean differences per tier to the reference, with the 95 % interval.
pub(super) fn differences(evaluation: &Evaluation) -> String {
    let overall = &evaluation.overall;
    if overall.differences.is_empty() {
        return String::new();
    }
    let cell = |Estimate { mean, low, high }: &Estimate| {
        format!("{:+.1} [{:+.1}, {:+.1}]", 100.0 * mean, 100.0 * low, 100.0 * high)
    };
    let header = [&["tier", "tasks"][..], &markdown::names(&overall.differences)[..]].concat();
    let rows =
        markdown::tiers(evaluation).map(|tier| markdown::tier_row(tier, &tier.differences, cell));
    let caption = format!(
        "Mean difference to {} in percentage points, with its 95 % interval",
        evaluation.reference
    );
    table(&caption, &header, 1, rows)
}

/// The score of every contestant on every task.
pub(super) fn tasks(evaluation: &Evaluation) -> String {
    let columns = ["task", "tier", "metric", "examples"];
    let header = [&columns[..], &markdown::names(&evaluation.overall.scores)[..]].concat();
    let rows = evaluation.tasks.iter().map(|task| {
        let examples = task.examples.to_string();
        let mut row = vec![task.id.clone(), task.tier.clone(), task.metric.clone(), examples];
        row.extend(task.scores.iter().map(|score| match score.score {
            Some(score) => format!("{:.1}", 100.0 * score),
            None => MISSING.into(),
        }));
        row
    });
    table("Score in %", &header, 3, rows)
}

/// What the evaluated tasks are closest to.
pub(super) fn nearest(evaluation: &Evaluation, maps: &[TaskPoint]) -> String {
    let rows: Vec<Vec<String>> = evaluation
        .tasks
        .iter()
        .filter_map(|task| {
            let point = maps.iter().find(|point| !point.training && point.id == task.id)?;
            let nearest = point.nearest.as_ref()?;
            let cosine = format!("{:.3}", nearest.cosine);
            let description = point.description.clone();
            Some(vec![task.id.clone(), description, nearest.task.clone(), cosine])
        })
        .collect();
    if rows.is_empty() {
        return String::new();
    }
    let header = ["task", "first description", "nearest training task", "cosine"];
    table("Cosine similarity to the nearest training task", &header, 3, rows.into_iter())
}

/// A table whose first `texts` columns hold text and the others numbers, aligned to the right. The
/// first column names the row.
fn table(
    caption: &str,
    header: &[&str],
    texts: usize,
    rows: impl Iterator<Item = Vec<String>>,
) -> String {
    let class = |column: usize| if column < texts { "" } else { " class=\"n\"" };
    let head = |(column, name): (usize, &&str)| {
        format!("<th scope=\"col\"{}>{}</th>", class(column), escape(name))
    };
    let cell = |(column, text): (usize, &String)| match column {
        0 => format!("<th scope=\"row\">{}</th>", escape(text)),
        _ => format!("<td{}>{}</td>", class(column), escape(text)),
    };
    let row = |row: Vec<String>| {
        format!("<tr>{}</tr>\n", row.iter().enumerate().map(cell).collect::<String>())
    };
    format!(
        "<div class=\"wide\">\n<table>\n<caption>{}</caption>\n<thead><tr>{}</tr></thead>\n\
         <tbody>\n{}</tbody>\n</table>\n</div>\n",
        escape(caption),
        header.iter().enumerate().map(head).collect::<String>(),
        rows.map(row).collect::<String>()
    )
}
