//! The picture of what compiled adapters gain, by how familiar the description is.
//!
//! In: an [`Evaluation`] and where its tasks are. Out: an SVG document with one mark per task:
//! across, the cosine similarity of its description to the nearest training task; up, the score of
//! `compiled` minus that of `base`, in percentage points.

use anyhow::Result;
use plotters::style::text_anchor::HPos;

use super::Tiers;
use super::figure::{FAINT, Frame, Mark, Point, label, legend_bottom, picture};
use super::labels::Labels;
use crate::evaluate::{Evaluation, TaskPoint, TaskScores};

const WIDTH_PIXELS: i32 = 860;
const HEIGHT_PIXELS: i32 = 460;
const EDGES_PIXELS: (i32, i32) = (12, WIDTH_PIXELS - 24);
/// Most characters of a name.
const MAX_NAME: usize = 24;
/// Least width of the axis of cosines.
const MIN_COSINES: f64 = 0.1;
/// Least height of the axis of differences, in percentage points.
const MIN_GAINS: f64 = 10.0;

/// One task of the picture.
struct Gain<'a> {
    id: &'a str,
    mark: Mark,
    /// To the nearest training task.
    cosine: f64,
    /// In percentage points.
    points: f64,
}

/// Draws the gains; `None` where no task has both scores and a nearest training task.
///
/// # Errors
/// A picture that cannot be drawn.
pub(super) fn svg(
    evaluation: &Evaluation,
    tiers: &Tiers,
    maps: &[TaskPoint],
) -> Result<Option<String>> {
    let tasks = evaluation.tasks.iter();
    let gains: Vec<Gain<'_>> = tasks.filter_map(|task| gain(task, tiers, maps)).collect();
    if gains.is_empty() {
        return Ok(None);
    }
    let entries = tiers.entries();
    let across = range(gains.iter().map(|gain| gain.cosine), MIN_COSINES);
    let up = range(gains.iter().map(|gain| gain.points).chain([0.0]), MIN_GAINS);
    let frame = Frame {
        left: 60,
        top: legend_bottom(entries, EDGES_PIXELS, 6) + 32,
        right: EDGES_PIXELS.1,
        bottom: HEIGHT_PIXELS - 52,
        across,
        up,
    };
    let places: Vec<Point> = gains.iter().map(|gain| frame.at(gain.cosine, gain.points)).collect();
    let mut labels = Labels::new(&frame, places.iter().copied());
    picture(WIDTH_PIXELS, HEIGHT_PIXELS, |canvas| {
        canvas.legend(entries, EDGES_PIXELS, 6)?;
        canvas.axis_across(&frame, "cosine similarity to the nearest training task")?;
        canvas.axis_up(&frame, "compiled minus base, in percentage points")?;
        let (_, zero) = frame.at(0.0, 0.0);
        canvas.line((frame.left, zero), (frame.right, zero), FAINT)?;
        for (gain, place) in gains.iter().zip(&places) {
            canvas.mark(*place, gain.mark)?;
            let name = label(gain.id, MAX_NAME);
            if let Some(left) = labels.place(*place, &name) {
                canvas.text(&name, left, HPos::Left)?;
            }
        }
        Ok(())
    })
    .map(Some)
}

fn gain<'a>(task: &'a TaskScores, tiers: &Tiers, maps: &[TaskPoint]) -> Option<Gain<'a>> {
    let point = maps.iter().find(|point| !point.training && point.id == task.id)?;
    let cosine = f64::from(point.nearest.as_ref()?.cosine);
    let points = 100.0 * (task.score("compiled")? - task.score("base")?);
    let mark = tiers.mark(&task.tier);
    (cosine.is_finite() && points.is_finite()).then_some(Gain {
        id: &task.id,
        mark,
        cosine,
        points,
    })
}

/// The values with some room around them, at least so much in all.
fn range(values: impl Iterator<Item = f64>, least: f64) -> std::ops::Range<f64> {
    let bounds = (f64::INFINITY, f64::NEG_INFINITY);
    let (low, high) = values.fold(bounds, |(low, high), value| (low.min(value), high.max(value)));
    let room = ((high - low) * 0.06).max((least - (high - low)) / 2.0);
    low - room..high + room
}

#[cfg(test)]
mod tests {
    use super::range;

    #[test]
    fn a_range_holds_its_values_and_is_never_empty() {
        assert_eq!(range([3.0, 1.0].into_iter(), 10.0), -3.0..7.0);
        assert_eq!(range([0.5].into_iter(), 1.0), 0.0..1.0);
        let wide = range([0.0, 100.0].into_iter(), 10.0);
        assert!((wide.start + 6.0).abs() < 1e-9 && (wide.end - 106.0).abs() < 1e-9, "{wide:?}");
    }
}
