//! An evaluation as one HTML page that needs nothing else.
//!
//! In: an [`Evaluation`] and, where a bundle was scored, its tasks as [`TaskPoint`]s. Out: the text
//! of an HTML document: what was scored, three pictures as SVG, and the tables of the Markdown
//! report. There is no script in it and it loads nothing, so it can be mailed or archived. Names
//! and descriptions come from task packs, which anybody may have written: all are escaped. The same
//! input gives the same bytes.

mod familiarity;
mod figure;
mod labels;
mod maps;
mod projection;
mod scores;
mod tables;
#[cfg(test)]
mod tests;

use anyhow::{Context, Result};

use super::{Evaluation, TaskPoint};
use crate::taskpack::Wording;
use figure::{Mark, label};

/// Most tasks on a map; training tasks beyond it are left out.
const MAX_POINTS: usize = 1000;
/// Most characters of a tier's name in a legend.
const MAX_TIER: usize = 24;

/// Colors of either scheme, and a layout that fits a phone: what is too wide scrolls by itself. The
/// last rules recolor the text and the grid lines of pictures.
const STYLE: &str = "
:root{color-scheme:light dark;--ink:#1b1d21;--soft:#5a616c;--rule:#dcdee2;--back:#ffffff;\
--band:#f4f5f7}
@media (prefers-color-scheme:dark){:root{--ink:#e6e7ea;--soft:#a3a9b4;--rule:#3b4048;\
--back:#15171a;--band:#1e2125}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:60rem;padding:1rem;background:var(--back);color:var(--ink);\
font:16px/1.5 system-ui,sans-serif}
h1{font-size:1.6rem;line-height:1.2}
h2{font-size:1.2rem;margin:2.5rem 0 .5rem}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.2rem 1rem;margin:0}
dt{color:var(--soft)}
dd{margin:0;overflow-wrap:anywhere}
p{max-width:42rem}
figure{margin:0}
figcaption,.note{color:var(--soft);font-size:.9rem;max-width:42rem}
.wide{overflow-x:auto}
.wide svg{display:block;min-width:40rem}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,20rem),1fr));gap:1rem}
svg{display:block;max-width:100%;height:auto}
table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums}
caption{text-align:left;color:var(--soft);padding-bottom:.3rem}
th,td{padding:.25rem .7rem;border-bottom:1px solid var(--rule);text-align:left;\
font-weight:400;vertical-align:top}
thead th{font-weight:600}
tbody tr:nth-child(even){background:var(--band)}
th.n,td.n{text-align:right;white-space:nowrap}
svg text{fill:var(--ink);font-family:inherit}
svg [stroke=\"#DDDDDD\"]{stroke:var(--rule)}
";

/// The page of an evaluation.
///
/// `maps` may be empty, and then the page has no maps; points of tasks that were not evaluated are
/// left out unless they are of training tasks.
///
/// # Errors
/// More tasks than a picture has room for, points with vectors of different lengths or with values
/// that are not finite.
pub fn html(evaluation: &Evaluation, maps: &[TaskPoint]) -> Result<String> {
    let tiers = Tiers::of(evaluation);
    let sections = [
        summary(evaluation),
        section("Tiers", &tables::tiers(evaluation)),
        section("Differences", &tables::differences(evaluation)),
        section("Score per task", &score_figure(evaluation)?),
        section("Gain and familiarity", &familiarity_figure(evaluation, &tiers, maps)?),
        section("Maps", &map_figure(evaluation, &tiers, maps)?),
        section("Tasks", &tables::tasks(evaluation)),
        section("Nearest training tasks", &tables::nearest(evaluation, maps)),
    ];
    Ok(format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>Evaluation of adapters</title>\n<style>{STYLE}</style>\n</head>\n<body>\n\
         <h1>Evaluation of adapters</h1>\n{}</body>\n</html>\n",
        sections.concat()
    ))
}

/// The marks of the tiers that have tasks.
struct Tiers {
    names: Vec<String>,
    entries: Vec<(Mark, String)>,
}

impl Tiers {
    fn of(evaluation: &Evaluation) -> Self {
        let names: Vec<String> = evaluation.tiers.iter().map(|tier| tier.tier.clone()).collect();
        let entry = |(index, name): (usize, &String)| (Mark::number(index), label(name, MAX_TIER));
        let entries = names.iter().enumerate().map(entry).collect();
        Self { names, entries }
    }

    /// The mark of a tier; that of training tasks for a tier without tasks.
    fn mark(&self, name: &str) -> Mark {
        self.names.iter().position(|tier| tier == name).map_or(Mark::SPECK, Mark::number)
    }

    /// Every mark with its name.
    fn entries(&self) -> &[(Mark, String)] {
        &self.entries
    }

    /// A picture of the marks alone.
    fn legend(&self, with_training: bool) -> Result<String> {
        const EDGES_PIXELS: (i32, i32) = (0, 860);
        let mut entries = self.entries.clone();
        if with_training {
            entries.push((Mark::SPECK, "a training task".into()));
        }
        let height = figure::legend_bottom(&entries, EDGES_PIXELS, 2) + 2;
        figure::picture(EDGES_PIXELS.1, height, |canvas| canvas.legend(&entries, EDGES_PIXELS, 2))
    }
}

/// A part of the page with a heading; nothing if it is empty.
fn section(heading: &str, content: &str) -> String {
    if content.is_empty() {
        return String::new();
    }
    format!("<section>\n<h2>{heading}</h2>\n{content}</section>\n")
}

fn summary(evaluation: &Evaluation) -> String {
    let wording = match evaluation.wording {
        Wording::Unseen => "that no training sees",
        Wording::Training => "that training may use",
    };
    let counts = [
        ("Tasks", evaluation.tasks.len().to_string()),
        ("Examples", format!("up to {} per task, {}", evaluation.examples, evaluation.split)),
        ("Descriptions", format!("up to {} per task, {wording}", evaluation.descriptions)),
        ("Task pack", evaluation.pack.clone()),
        ("Engine", evaluation.engine.clone()),
        ("Reference", evaluation.reference.clone()),
        ("Seed", evaluation.seed.to_string()),
    ];
    let row =
        |(name, value): &(&str, String)| format!("<dt>{name}</dt><dd>{}</dd>\n", escape(value));
    format!("<dl>\n{}</dl>\n", counts.iter().map(row).collect::<String>())
}

fn score_figure(evaluation: &Evaluation) -> Result<String> {
    let svg = scores::svg(evaluation).context("cannot draw the scores")?;
    Ok(captioned(
        &plot("wide", "Scores of every task, one mark per contestant", &svg),
        "Mean score over the examples of a task. Marks of one row are at different heights only so \
         that equal scores are seen.",
    ))
}

fn familiarity_figure(
    evaluation: &Evaluation,
    tiers: &Tiers,
    maps: &[TaskPoint],
) -> Result<String> {
    let svg = familiarity::svg(evaluation, tiers, maps).context("cannot draw the gains")?;
    let Some(svg) = svg else { return Ok(String::new()) };
    Ok(captioned(
        &plot("wide", "Gain of every task by its similarity to the training tasks", &svg),
        "How much better than the base alone the compiled adapter is, by the similarity of the \
         task's first description to the nearest training task. The score is the mean over all \
         descriptions.",
    ))
}

fn map_figure(evaluation: &Evaluation, tiers: &Tiers, maps: &[TaskPoint]) -> Result<String> {
    let is_evaluated = |point: &&TaskPoint| evaluation.tasks.iter().any(|task| task.id == point.id);
    let evaluated = maps.iter().filter(|point| !point.training).filter(is_evaluated);
    let training = maps.iter().filter(|point| point.training);
    let points: Vec<&TaskPoint> = evaluated.chain(training).take(MAX_POINTS).collect();
    if points.iter().all(|point| point.training) {
        return Ok(String::new());
    }
    let embeddings: Vec<&[f32]> = points.iter().map(|point| point.embedding.as_slice()).collect();
    let adapters: Vec<&[f32]> = points.iter().map(|point| point.adapter.as_slice()).collect();
    let descriptions = maps::svg(&points, &embeddings, tiers, "descriptions")
        .context("cannot draw the map of descriptions")?;
    let adapters = maps::svg(&points, &adapters, tiers, "adapters")
        .context("cannot draw the map of adapters")?;
    let pair = format!(
        "<div class=\"pair\">\n{}{}</div>\n",
        plot("map", "Map of the descriptions", &descriptions),
        plot("map", "Map of the adapters", &adapters)
    );
    let legend = tiers.legend(points.iter().any(|point| point.training))?;
    Ok(captioned(
        &(plot("wide", "Marks of the tiers", &legend) + &pair),
        "Principal components of the embeddings of descriptions, and of the weight changes that \
         the adapters generated from them make. Close means alike.",
    ))
}

/// A picture with a text for those who cannot see it.
fn plot(class: &str, description: &str, svg: &str) -> String {
    format!("<div class=\"{class}\" role=\"img\" aria-label=\"{description}\">\n{svg}</div>\n")
}

fn captioned(content: &str, caption: &str) -> String {
    format!("<figure>\n{content}<figcaption>{caption}</figcaption>\n</figure>\n")
}

/// A text as HTML shows it, within elements and within quotes; control characters are replaced.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c if c.is_control() => escaped.push(char::REPLACEMENT_CHARACTER),
            c => escaped.push(c),
        }
    }
    escaped
}
