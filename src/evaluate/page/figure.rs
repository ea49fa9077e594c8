//! What the pictures of the page share: a canvas, marks, axes and legends.
//!
//! In: pixels, from the upper left corner on. Out: an SVG document, with a transparent background.
//! It is inside the page, whose style sheet gives [`INK`] and [`RULE`] the colors of the reader's
//! scheme; all other colors are of medium brightness, so that they stand out on white and on black.

use std::ops::Range;

use anyhow::Result;
use plotters::coord::Shift;
use plotters::prelude::{
    Circle, Color, DrawingArea, FontStyle, IntoDrawingArea, PathElement, Polygon, RGBColor,
    Rectangle, SVGBackend, ShapeStyle, Text, TextStyle,
};
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// Right and down from the upper left corner, in pixels.
pub(super) type Point = (i32, i32);

/// Of text.
pub(super) const INK: RGBColor = RGBColor(0x22, 0x22, 0x22);
/// Of grid lines.
pub(super) const RULE: RGBColor = RGBColor(0xdd, 0xdd, 0xdd);
/// Of what is there for comparison.
pub(super) const FAINT: RGBColor = RGBColor(0x88, 0x88, 0x88);
/// From the middle of a mark to its edge, in pixels.
pub(super) const MARK_PIXELS: i32 = 5;
/// Height of a line of text, in pixels.
pub(super) const LINE_PIXELS: i32 = 22;

const FONT: &str = "sans-serif";
/// Becomes 12 pixels: the library divides sizes by 1.24.
const FONT_SIZE: f64 = 14.88;
/// Width of a letter, in pixels, rather too large than too small.
const LETTER_PIXELS: i32 = 7;
/// Width of a letter beyond ASCII.
const WIDE_LETTER_PIXELS: i32 = 12;
/// Between a mark and its name in a legend, in pixels.
const LEGEND_GAP_PIXELS: i32 = 10;
/// Between the entries of a legend.
const LEGEND_SPACE_PIXELS: i32 = 22;
const OPACITY: f64 = 0.9;
/// Most ticks of an axis, less one.
const TICKS: f64 = 8.0;
/// Distances between ticks with the decimals that their labels need.
const STEPS: [(f64, usize); 13] = [
    (0.005, 3),
    (0.01, 2),
    (0.02, 2),
    (0.05, 2),
    (0.1, 1),
    (0.2, 1),
    (0.5, 1),
    (1.0, 0),
    (2.0, 0),
    (5.0, 0),
    (10.0, 0),
    (20.0, 0),
    (50.0, 0),
];

/// One less than the shapes are, so that a pair of both comes back as late as possible.
const PALETTE: [RGBColor; 8] = [
    RGBColor(0x2f, 0x7d, 0xd1),
    RGBColor(0xd9, 0x64, 0x0f),
    RGBColor(0x1b, 0x9e, 0x77),
    RGBColor(0xc8, 0x4b, 0xa0),
    RGBColor(0x94, 0x80, 0x1c),
    RGBColor(0x80, 0x70, 0xd8),
    RGBColor(0xd0, 0x45, 0x45),
    RGBColor(0x35, 0x98, 0xb5),
];
const SHAPES: [Shape; 9] = [
    Shape::Disc,
    Shape::Triangle,
    Shape::Square,
    Shape::Cross,
    Shape::Diamond,
    Shape::Ring,
    Shape::Point,
    Shape::Plus,
    Shape::Frame,
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// A small disc.
    Speck,
    Disc,
    Ring,
    Square,
    /// A square without a filling.
    Frame,
    Triangle,
    /// A triangle that points down.
    Point,
    Diamond,
    Cross,
    Plus,
}

/// What stands for one value: a shape as well as a color, so that either alone tells it apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    shape: Shape,
    color: RGBColor,
}

impl Mark {
    /// Of what is there for comparison.
    pub(super) const SPECK: Self = Self { shape: Shape::Speck, color: FAINT };

    /// The mark with a number; 72 are different.
    pub(super) fn number(index: usize) -> Self {
        let (shape, color) = (SHAPES[index % SHAPES.len()], PALETTE[index % PALETTE.len()]);
        Self { shape, color }
    }
}

/// Where the values of a picture are drawn.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Frame {
    pub left: i32,
    pub top: i32,
    pub right: i32,
    pub bottom: i32,
    /// Values at the left and at the right edge.
    pub across: Range<f64>,
    /// Values at the lower and at the upper edge.
    pub up: Range<f64>,
}

impl Frame {
    /// Where a pair of values is.
    pub(super) fn at(&self, across: f64, up: f64) -> Point {
        let share = |value: f64, range: &Range<f64>| (value - range.start) / span(range);
        let right = share(across, &self.across) * f64::from(self.right - self.left);
        let rise = share(up, &self.up) * f64::from(self.bottom - self.top);
        (self.left + whole(right), self.bottom - whole(rise))
    }
}

/// A picture while it is drawn.
pub(super) struct Canvas<'a> {
    area: DrawingArea<SVGBackend<'a>, Shift>,
}

/// An SVG document of this size, in pixels.
pub(super) fn picture(
    width: i32,
    height: i32,
    draw: impl FnOnce(&Canvas<'_>) -> Result<()>,
) -> Result<String> {
    let size = (u32::try_from(width)?, u32::try_from(height)?);
    let mut svg = String::new();
    {
        let canvas = Canvas { area: SVGBackend::with_string(&mut svg, size).into_drawing_area() };
        draw(&canvas)?;
        canvas.area.present()?;
    }
    Ok(svg)
}

impl Canvas<'_> {
    pub(super) fn line(&self, from: Point, to: Point, color: RGBColor) -> Result<()> {
        let style = ShapeStyle::from(color).stroke_width(1);
        Ok(self.area.draw(&PathElement::new(vec![from, to], style))?)
    }

    /// Text whose left or right end or center is at a point, half of its height above it.
    pub(super) fn text(&self, text: &str, at: Point, anchor: HPos) -> Result<()> {
        self.write(text, at, anchor, FontStyle::Normal)
    }

    /// Bold text that begins at a point.
    pub(super) fn heading(&self, text: &str, at: Point) -> Result<()> {
        self.write(text, at, HPos::Left, FontStyle::Bold)
    }

    fn write(&self, text: &str, at: Point, anchor: HPos, weight: FontStyle) -> Result<()> {
        let style = TextStyle::from((FONT, FONT_SIZE, weight));
        let style = style.color(&INK).pos(Pos::new(anchor, VPos::Center));
        Ok(self.area.draw(&Text::new(text.to_owned(), at, style))?)
    }

    /// A mark around a point.
    pub(super) fn mark(&self, (x, y): Point, Mark { shape, color }: Mark) -> Result<()> {
        const R: i32 = MARK_PIXELS;
        let filled = color.mix(OPACITY).filled();
        let drawn = color.mix(OPACITY).stroke_width(2);
        let around = |offsets: &[Point]| -> Vec<Point> {
            offsets.iter().map(|(right, down)| (x + right, y + down)).collect()
        };
        let polygon = |offsets: &[Point]| self.area.draw(&Polygon::new(around(offsets), filled));
        let path = |offsets: &[Point]| self.area.draw(&PathElement::new(around(offsets), drawn));
        match shape {
            Shape::Speck => {
                self.area.draw(&Circle::new((x, y), 2, color.mix(OPACITY / 2.0).filled()))?;
            }
            Shape::Disc => self.area.draw(&Circle::new((x, y), R, filled))?,
            Shape::Ring => self.area.draw(&Circle::new((x, y), R - 1, drawn))?,
            Shape::Square => {
                let corners = [(x - R + 1, y - R + 1), (x + R - 1, y + R - 1)];
                self.area.draw(&Rectangle::new(corners, filled))?;
            }
            Shape::Frame => path(&[
                (1 - R, 1 - R),
                (R - 1, 1 - R),
                (R - 1, R - 1),
                (1 - R, R - 1),
                (1 - R, 1 - R),
                (R - 1, 1 - R),
            ])?,
            Shape::Triangle => polygon(&[(0, -R), (R, R - 1), (-R, R - 1)])?,
            Shape::Point => polygon(&[(0, R), (R, 1 - R), (-R, 1 - R)])?,
            Shape::Diamond => polygon(&[(0, -R), (R, 0), (0, R), (-R, 0)])?,
            Shape::Cross => {
                path(&[(1 - R, 1 - R), (R - 1, R - 1)])?;
                path(&[(1 - R, R - 1), (R - 1, 1 - R)])?;
            }
            Shape::Plus => {
                path(&[(-R, 0), (R, 0)])?;
                path(&[(0, -R), (0, R)])?;
            }
        }
        Ok(())
    }

    /// Grid lines and values of the horizontal axis with its title below.
    pub(super) fn axis_across(&self, frame: &Frame, title: &str) -> Result<()> {
        for (value, label) in ticks(&frame.across) {
            let (x, _) = frame.at(value, frame.up.start);
            self.line((x, frame.top), (x, frame.bottom), RULE)?;
            self.text(&label, (x, frame.bottom + 12), HPos::Center)?;
        }
        let middle = i32::midpoint(frame.left, frame.right);
        self.text(title, (middle, frame.bottom + 12 + LINE_PIXELS), HPos::Center)
    }

    /// Grid lines and values of the vertical axis with its title above.
    pub(super) fn axis_up(&self, frame: &Frame, title: &str) -> Result<()> {
        for (value, label) in ticks(&frame.up) {
            let (_, y) = frame.at(frame.across.start, value);
            self.line((frame.left, y), (frame.right, y), RULE)?;
            self.text(&label, (frame.left - 8, y), HPos::Right)?;
        }
        self.text(title, (frame.left, frame.top - 14), HPos::Left)
    }

    /// Marks with their names, in lines from `top` on; they end above [`legend_bottom`].
    pub(super) fn legend(
        &self,
        entries: &[(Mark, String)],
        edges: (i32, i32),
        top: i32,
    ) -> Result<()> {
        for ((mark, name), (x, y)) in entries.iter().zip(legend_places(entries, edges, top)) {
            self.mark((x, y), *mark)?;
            self.text(name, (x + LEGEND_GAP_PIXELS, y), HPos::Left)?;
        }
        Ok(())
    }
}

/// The lower end of a legend from `top` on, between two edges.
pub(super) fn legend_bottom(entries: &[(Mark, String)], edges: (i32, i32), top: i32) -> i32 {
    let last = legend_places(entries, edges, top).pop();
    last.map_or(top, |(_, y)| y + LINE_PIXELS / 2)
}

/// The middle of each mark of a legend.
fn legend_places(entries: &[(Mark, String)], edges: (i32, i32), top: i32) -> Vec<Point> {
    let (left, right) = (edges.0 + MARK_PIXELS, edges.1);
    let (mut x, mut y) = (left, top + LINE_PIXELS / 2);
    let place = |(_, name): &(Mark, String)| {
        let width = LEGEND_GAP_PIXELS + width_pixels(name);
        if x > left && x + width > right {
            (x, y) = (left, y + LINE_PIXELS);
        }
        let place = (x, y);
        x += width + LEGEND_SPACE_PIXELS;
        place
    };
    entries.iter().map(place).collect()
}

/// About how wide a text is drawn.
pub(super) fn width_pixels(text: &str) -> i32 {
    let wide = |c: char| if c.is_ascii() { LETTER_PIXELS } else { WIDE_LETTER_PIXELS };
    text.chars().fold(0, |width: i32, c| width.saturating_add(wide(c)))
}

/// A text that fits a picture: without control characters, and cut after so many characters.
pub(super) fn label(text: &str, max_chars: usize) -> String {
    let shown = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
    if text.chars().count() <= max_chars {
        return text.chars().map(shown).collect();
    }
    let kept = text.chars().take(max_chars.saturating_sub(1)).map(shown);
    kept.chain(std::iter::once('…')).collect()
}

/// Round values within a range, with their labels.
fn ticks(range: &Range<f64>) -> Vec<(f64, String)> {
    let fits = |(step, _): &(f64, usize)| span(range) / step <= TICKS;
    let (step, decimals) = STEPS.into_iter().find(fits).unwrap_or(STEPS[STEPS.len() - 1]);
    let first = whole((range.start / step - 1e-9).ceil());
    let last = whole((range.end / step + 1e-9).floor());
    let tick = |number: i32| {
        let value = f64::from(number) * step;
        (value, format!("{value:.decimals$}"))
    };
    (first..=last).map(tick).collect()
}

fn span(range: &Range<f64>) -> f64 {
    range.end - range.start
}

/// The nearest whole number.
#[allow(clippy::cast_possible_truncation, reason = "no picture has 2³¹ pixels or ticks")]
fn whole(value: f64) -> i32 {
    value.round() as i32
}

#[cfg(test)]
mod tests {
    use super::{Frame, Mark, label, legend_bottom, legend_places, picture, ticks};

    fn labels(start: f64, end: f64) -> Vec<String> {
        ticks(&(start..end)).into_iter().map(|(_, label)| label).collect()
    }

    #[test]
    fn ticks_are_round_and_few() {
        assert_eq!(labels(0.0, 100.0), ["0", "20", "40", "60", "80", "100"]);
        assert_eq!(labels(-0.25, 0.3), ["-0.2", "-0.1", "0.0", "0.1", "0.2", "0.3"]);
        assert_eq!(labels(0.61, 0.63), ["0.610", "0.615", "0.620", "0.625", "0.630"]);
        assert_eq!(labels(-7.0, 7.0), ["-6", "-4", "-2", "0", "2", "4", "6"]);
    }

    #[test]
    fn values_at_the_edges_are_at_the_edges() {
        let (left, top, right, bottom) = (10, 20, 110, 220);
        let frame = Frame { left, top, right, bottom, across: -1.0..1.0, up: 0.0..4.0 };
        assert_eq!(frame.at(-1.0, 0.0), (10, 220));
        assert_eq!(frame.at(1.0, 4.0), (110, 20));
        assert_eq!(frame.at(0.0, 1.0), (60, 170));
    }

    #[test]
    fn the_first_marks_are_all_different() {
        let marks: Vec<Mark> = (0..72).map(Mark::number).collect();
        for (index, mark) in marks.iter().enumerate() {
            assert!(!marks[..index].contains(mark), "{index}");
            let svg = picture(20, 20, |canvas| canvas.mark((10, 10), *mark)).unwrap();
            let tags = ["<circle", "<rect", "<polygon", "<polyline"];
            assert!(tags.iter().any(|tag| svg.contains(tag)), "{svg}");
        }
        assert_eq!(Mark::number(72), marks[0]);
    }

    #[test]
    fn a_legend_that_is_too_wide_has_more_lines() {
        let entries: Vec<_> =
            (0..3).map(|index| (Mark::number(index), "twelve chars".to_owned())).collect();
        let wide = legend_places(&entries, (0, 400), 0);
        assert!(wide[0].0 < wide[1].0 && wide[1].0 < wide[2].0);
        assert!(wide.iter().all(|place| place.1 == 11));
        assert_eq!(legend_bottom(&entries, (0, 400), 0), 22);
        assert_eq!(legend_places(&entries, (0, 100), 0), [(5, 11), (5, 33), (5, 55)]);
        assert_eq!(legend_bottom(&entries, (0, 100), 0), 66);
        assert_eq!(legend_bottom(&[], (0, 100), 7), 7);
    }

    #[test]
    fn labels_are_cut_and_have_no_control_characters() {
        assert_eq!(label("größer", 6), "größer");
        assert_eq!(label("größer", 5), "größ…");
        assert_eq!(label("a\u{0}b\nc", 9), "a\u{fffd}b\u{fffd}c");
    }
}
