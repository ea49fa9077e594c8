//! A map of tasks: which are close to each other.
//!
//! In: tasks with a vector each. Out: an SVG document with their projection to a plane. Both axes
//! have the same scale, so that distances mean the same in all directions. Evaluated tasks have the
//! mark of their tier, and their name where there is room; training tasks are small dots.

use anyhow::Result;
use plotters::style::text_anchor::HPos;

use super::Tiers;
use super::figure::{Frame, Mark, Point, RULE, label, picture};
use super::labels::Labels;
use super::projection::Projection;
use crate::evaluate::TaskPoint;

const SIZE_PIXELS: i32 = 480;
/// Below the frame, for the note.
const NOTE_PIXELS: i32 = 28;
/// Share of the frame's width that is left free at each side.
const ROOM: f64 = 0.06;
/// Most characters of a name.
const MAX_NAME: usize = 24;

/// Draws the map of tasks by one of their vectors.
///
/// # Errors
/// Vectors of different lengths or with values that are not finite.
pub(super) fn svg(
    points: &[&TaskPoint],
    vectors: &[&[f32]],
    tiers: &Tiers,
    note: &str,
) -> Result<String> {
    let Projection { points: projected, shares: [first, second] } = Projection::of(vectors)?;
    let (across, up) = square(&projected);
    let edge = SIZE_PIXELS - 1;
    let frame = Frame { left: 1, top: 1, right: edge, bottom: edge, across, up };
    let places: Vec<Point> = projected.iter().map(|[x, y]| frame.at(*x, *y)).collect();
    let evaluated = || points.iter().zip(&places).filter(|(point, _)| !point.training);
    let training = points.iter().zip(&places).filter(|(point, _)| point.training);
    let mut labels = Labels::new(&frame, evaluated().map(|(_, place)| *place));
    picture(SIZE_PIXELS, SIZE_PIXELS + NOTE_PIXELS, |canvas| {
        let corners = [(1, 1), (edge, 1), (edge, edge), (1, edge), (1, 1)];
        for two in corners.windows(2) {
            canvas.line(two[0], two[1], RULE)?;
        }
        for (_, place) in training {
            canvas.mark(*place, Mark::SPECK)?;
        }
        for (point, place) in evaluated() {
            canvas.mark(*place, tiers.mark(&point.tier))?;
        }
        for (point, place) in evaluated() {
            let name = label(&point.id, MAX_NAME);
            if let Some(left) = labels.place(*place, &name) {
                canvas.text(&name, left, HPos::Left)?;
            }
        }
        let (first, second) = (100.0 * first, 100.0 * second);
        let note = format!("{note}: {first:.0} % of the variance across, {second:.0} % up");
        canvas.text(&note, (4, SIZE_PIXELS + NOTE_PIXELS / 2), HPos::Left)
    })
}

/// Two ranges of the same size that hold all points in their middle.
fn square(points: &[[f64; 2]]) -> (std::ops::Range<f64>, std::ops::Range<f64>) {
    let bounds = |axis: usize| -> (f64, f64) {
        let values = || points.iter().map(|point| point[axis]);
        let (low, high) = (values().reduce(f64::min), values().reduce(f64::max));
        (low.unwrap_or(0.0), high.unwrap_or(0.0))
    };
    let (across, up) = (bounds(0), bounds(1));
    let widest = (across.1 - across.0).max(up.1 - up.0);
    // Points without a spread are in the middle of any range.
    let half = if widest > 0.0 { widest * (0.5 + ROOM) } else { 1.0 };
    let around = |(low, high): (f64, f64)| {
        let middle = f64::midpoint(low, high);
        middle - half..middle + half
    };
    (around(across), around(up))
}

#[cfg(test)]
mod tests {
    use super::square;

    #[test]
    fn both_axes_have_the_same_scale() {
        let (across, up) = square(&[[0.0, 3.0], [10.0, 4.0], [4.0, 5.0]]);
        assert!((across.end - across.start - 11.2).abs() < 1e-9, "{across:?}");
        assert!((up.end - up.start - 11.2).abs() < 1e-9, "{up:?}");
        assert!((up.start + up.end - 8.0).abs() < 1e-9, "{up:?}");
        assert_eq!(square(&[]), (-1.0..1.0, -1.0..1.0));
        assert_eq!(square(&[[2.0, 2.0]; 3]), (1.0..3.0, 1.0..3.0));
    }
}
