//! The picture of the score per task: one row per task, by tier, with one mark per contestant.
//!
//! In: an [`Evaluation`]. Out: an SVG document. Contestants that a task has no score for are not in
//! its row. Marks of one row are at different heights, so that equal scores are seen.

use anyhow::{Context, Result, ensure};
use plotters::style::text_anchor::HPos;

use super::figure::{Canvas, Frame, LINE_PIXELS, Mark, Point, RULE, label, legend_bottom, picture};
use crate::evaluate::{Evaluation, TaskScores};

const WIDTH_PIXELS: i32 = 860;
/// Left and right edge of the legend and of the rows.
const EDGES_PIXELS: (i32, i32) = (12, WIDTH_PIXELS - 24);
/// Left edge of the scores; names of tasks are before it.
const SCORES_PIXELS: i32 = 250;
/// Below the last row, for the axis.
const AXIS_PIXELS: i32 = 52;
/// Most height that the marks of one row are spread over.
const SPREAD_PIXELS: i32 = 10;
/// Most characters of a name.
const MAX_NAME: usize = 32;
/// Most tasks of a picture.
const MAX_TASKS: usize = 4096;

/// One line of the picture.
enum Row<'a> {
    Tier(&'a str),
    Task(&'a TaskScores),
}

/// Draws the scores.
///
/// # Errors
/// More tasks than a picture has room for.
pub(super) fn svg(evaluation: &Evaluation) -> Result<String> {
    let count = evaluation.tasks.len();
    ensure!(count <= MAX_TASKS, "{count} tasks, at most {MAX_TASKS} fit a picture");
    let mut rows = Vec::new();
    for tier in &evaluation.tiers {
        rows.push(Row::Tier(&tier.tier));
        rows.extend(evaluation.tasks.iter().filter(|t| t.tier == tier.tier).map(Row::Task));
    }
    let names: Vec<&str> = evaluation.overall.scores.iter().map(|s| s.name.as_str()).collect();
    let entry = |(index, name): (usize, &&str)| (Mark::number(index), label(name, MAX_NAME));
    let entries: Vec<(Mark, String)> = names.iter().enumerate().map(entry).collect();
    let top = legend_bottom(&entries, EDGES_PIXELS, 6) + 10;
    let row_count = i32::try_from(rows.len()).context("rows of a picture")?;
    let bottom = top + row_count * LINE_PIXELS;
    let frame = Frame {
        left: SCORES_PIXELS,
        top,
        right: EDGES_PIXELS.1,
        bottom,
        across: 0.0..100.0,
        up: 0.0..1.0,
    };
    picture(WIDTH_PIXELS, bottom + AXIS_PIXELS, |canvas| {
        canvas.legend(&entries, EDGES_PIXELS, 6)?;
        canvas.axis_across(&frame, "score in %")?;
        for (number, row) in (0..).zip(&rows) {
            let y = top + number * LINE_PIXELS + LINE_PIXELS / 2;
            match row {
                Row::Tier(name) => canvas.heading(&label(name, MAX_NAME), (EDGES_PIXELS.0, y))?,
                Row::Task(task) => draw_task(canvas, &frame, task, &names, y)?,
            }
        }
        Ok(())
    })
}

fn draw_task(
    canvas: &Canvas<'_>,
    frame: &Frame,
    task: &TaskScores,
    names: &[&str],
    y: i32,
) -> Result<()> {
    canvas.line((frame.left, y), (frame.right, y), RULE)?;
    canvas.text(&label(&task.id, MAX_NAME), (SCORES_PIXELS - 12, y), HPos::Right)?;
    for (index, name) in names.iter().enumerate() {
        if let Some(score) = task.score(name) {
            let (x, _): Point = frame.at(100.0 * score, 0.0);
            canvas.mark((x, y + offset(index, names.len())?), Mark::number(index))?;
        }
    }
    Ok(())
}

/// How far below the middle of a row the mark of one of `count` contestants is.
fn offset(index: usize, count: usize) -> Result<i32> {
    let (index, steps) = (i32::try_from(index)?, i32::try_from(count.saturating_sub(1))?);
    if steps == 0 {
        return Ok(0);
    }
    let spread = SPREAD_PIXELS.min(steps.saturating_mul(3));
    Ok(spread.saturating_mul(index) / steps - spread / 2)
}

#[cfg(test)]
mod tests {
    use super::{LINE_PIXELS, SPREAD_PIXELS, offset, svg};
    use crate::evaluate::report::tests::{evaluation, task};

    #[test]
    fn the_marks_of_a_row_stay_in_it() {
        for count in 1..40 {
            let offsets: Vec<i32> = (0..count).map(|i| offset(i, count).unwrap()).collect();
            assert!(offsets.is_sorted() && offsets.iter().all(|o| 2 * o.abs() <= SPREAD_PIXELS));
        }
        assert_eq!([0, 1, 2].map(|index| offset(index, 3).unwrap()), [-3, 0, 3]);
        const { assert!(SPREAD_PIXELS < LINE_PIXELS) };
    }

    #[test]
    fn every_score_has_a_mark_and_every_task_a_row() {
        let tasks = vec![
            task("slug", "near", &[("base", Some(0.0)), ("compiled", Some(0.5))]),
            task("title", "far", &[("base", Some(1.0)), ("compiled", None)]),
        ];
        let drawn = svg(&evaluation("base", tasks)).unwrap();
        // Of both contestants one is in the legend.
        assert_eq!(drawn.matches("<circle").count(), 3);
        assert_eq!(drawn.matches("<polygon").count(), 2);
        for text in ["slug", "title", "near", "far", "base", "compiled", "score in %"] {
            assert!(drawn.contains(text), "{text}");
        }
        let near = drawn.find("near").unwrap();
        assert!(near < drawn.find("slug").unwrap());
        assert!(drawn.find("slug").unwrap() < drawn.find("\nfar").unwrap());
    }
}
