//! The curves of a run as a picture.
//!
//! In: the `metrics.jsonl` of a run, which anybody may have edited. Out: an SVG document with three
//! panels over the steps: training loss with its moving average, validation losses by name, and
//! learning rate. A resumed run repeats steps; the last line of a step counts. The same file always
//! gives the same document.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use plotters::coord::Shift;
use plotters::prelude::{
    ChartBuilder, Color, DrawingArea, IntoDrawingArea, LineSeries, PathElement, RGBColor,
    SVGBackend, SeriesLabelPosition, ShapeStyle, TRANSPARENT, WHITE,
};
use serde::Deserialize;

/// Width and height of the picture, in pixels.
const SIZE_PIXELS: (u32, u32) = (960, 960);
/// Steps in the moving average.
const WINDOW_STEPS: usize = 20;
/// Largest file that is read; a run of a million steps stays below it.
const MAX_FILE_BYTES: u64 = 1 << 28;
/// Most validation losses: more than that no legend can tell apart.
const MAX_NAMES: usize = 32;
/// Longest name of a validation loss.
const MAX_NAME_BYTES: usize = 64;
/// Most bad lines that a message lists.
const MAX_LISTED: usize = 20;

const FONT: &str = "sans-serif";
const GRID: RGBColor = RGBColor(0xdd, 0xdd, 0xdd);
const LOSS: RGBColor = RGBColor(0x33, 0x66, 0xaa);
const LEARNING_RATE: RGBColor = RGBColor(0x55, 0x55, 0x55);
/// Of the validation losses, in order of their names; used again from the start if they run out.
const PALETTE: [RGBColor; 8] = [
    RGBColor(0xd9, 0x48, 0x3b),
    RGBColor(0x2e, 0x8b, 0x57),
    RGBColor(0x8e, 0x5a, 0xb5),
    RGBColor(0xe0, 0x8e, 0x1b),
    RGBColor(0x1a, 0x9c, 0xb0),
    RGBColor(0xc2, 0x4f, 0x96),
    RGBColor(0x8a, 0x6d, 0x3b),
    RGBColor(0x6b, 0x8e, 0x23),
];

/// What is read of a line of `metrics.jsonl`.
#[derive(Debug, Deserialize)]
struct Line {
    step: u32,
    loss: f32,
    learning_rate: f32,
    #[serde(default)]
    validation_loss: BTreeMap<String, f32>,
}

/// Plots the run that `metrics` logs; returns an SVG document.
///
/// # Errors
/// A file that cannot be read or holds no step, with every line that is not a step's metrics.
pub fn plot(metrics: &Path) -> Result<String> {
    let lines = read(metrics)?;
    let (Some(first), Some(last)) = (lines.keys().next(), lines.keys().next_back()) else {
        bail!("`{}` has no step", metrics.display());
    };
    let steps = f64::from(*first) - 0.5..f64::from(*last) + 0.5;
    let panels = [loss_panel(&lines), validation_panel(&lines)?, learning_rate_panel(&lines)];
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE_PIXELS).into_drawing_area();
        root.fill(&WHITE)?;
        for (area, panel) in root.split_evenly((panels.len(), 1)).iter().zip(&panels) {
            panel.draw(area, steps.clone())?;
        }
        root.present()?;
    }
    Ok(svg)
}

/// The last line of every step.
fn read(path: &Path) -> Result<BTreeMap<u32, Line>> {
    let name = path.display();
    let cannot_read = || format!("cannot read `{name}`");
    let size_bytes = std::fs::metadata(path).with_context(cannot_read)?.len();
    ensure!(
        size_bytes <= MAX_FILE_BYTES,
        "`{name}` has {size_bytes} bytes, at most {MAX_FILE_BYTES} are plotted"
    );
    let bytes = std::fs::read(path).with_context(cannot_read)?;
    let (mut lines, mut problems) = (BTreeMap::new(), Vec::new());
    for (number, text) in (1usize..).zip(bytes.split(|&byte| byte == b'\n')) {
        if text.trim_ascii().is_empty() {
            continue;
        }
        match parse(text) {
            Ok(line) => {
                lines.insert(line.step, line);
            }
            Err(problem) => problems.push(format!("{name}:{number}: {problem}")),
        }
    }
    let count = problems.len();
    problems.truncate(MAX_LISTED);
    ensure!(count == 0, "{count} unusable lines of metrics:\n  {}", problems.join("\n  "));
    Ok(lines)
}

fn parse(text: &[u8]) -> Result<Line> {
    let line: Line = serde_json::from_slice(text)?;
    let losses = line.validation_loss.values();
    let finite = losses.chain([&line.loss, &line.learning_rate]).all(|value| value.is_finite());
    ensure!(finite, "a value is not finite");
    for name in line.validation_loss.keys() {
        ensure!(
            name.len() <= MAX_NAME_BYTES && !name.chars().any(char::is_control),
            "the name {name:?} of a validation loss is too long or has control characters"
        );
    }
    Ok(line)
}

/// One line of a panel.
struct Series {
    name: String,
    style: ShapeStyle,
    /// Radius of the dot at each point; 0 draws none.
    dot_pixels: u32,
    /// Step and value.
    points: Vec<(f64, f64)>,
}

/// One of the pictures, which share their horizontal axis.
struct Panel {
    title: &'static str,
    series: Vec<Series>,
}

fn loss_panel(lines: &BTreeMap<u32, Line>) -> Panel {
    let points = points(lines, |line| Some(line.loss));
    let average = Series {
        name: format!("mean of {WINDOW_STEPS} steps"),
        style: ShapeStyle::from(LOSS).stroke_width(2),
        dot_pixels: 0,
        points: moving_average(&points),
    };
    let style = ShapeStyle::from(LOSS.mix(0.35));
    let raw = Series { name: "step".into(), style, dot_pixels: 0, points };
    Panel { title: "training loss", series: vec![raw, average] }
}

fn validation_panel(lines: &BTreeMap<u32, Line>) -> Result<Panel> {
    let names: BTreeSet<&String> =
        lines.values().flat_map(|line| line.validation_loss.keys()).collect();
    ensure!(
        names.len() <= MAX_NAMES,
        "the metrics name {} validation losses, at most {MAX_NAMES} are plotted",
        names.len()
    );
    let series = names.into_iter().zip(PALETTE.iter().cycle()).map(|(name, color)| Series {
        name: name.clone(),
        style: ShapeStyle::from(*color).stroke_width(2).filled(),
        dot_pixels: 3,
        points: points(lines, |line| line.validation_loss.get(name).copied()),
    });
    Ok(Panel { title: "validation loss", series: series.collect() })
}

fn learning_rate_panel(lines: &BTreeMap<u32, Line>) -> Panel {
    let series = Series {
        name: "learning rate".into(),
        style: ShapeStyle::from(LEARNING_RATE).stroke_width(2),
        dot_pixels: 0,
        points: points(lines, |line| Some(line.learning_rate)),
    };
    Panel { title: "learning rate", series: vec![series] }
}

/// Step and value of every line that has the value.
fn points(lines: &BTreeMap<u32, Line>, value: impl Fn(&Line) -> Option<f32>) -> Vec<(f64, f64)> {
    let point = |(step, line): (&u32, &Line)| Some((f64::from(*step), f64::from(value(line)?)));
    lines.iter().filter_map(point).collect()
}

/// Mean over the last steps; over fewer where there are not yet as many.
fn moving_average(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let mean = |end: usize| {
        let window = &points[(end + 1).saturating_sub(WINDOW_STEPS)..=end];
        let sum: f64 = window.iter().map(|(_, value)| value).sum();
        (points[end].0, sum / window.len() as f64)
    };
    (0..points.len()).map(mean).collect()
}

impl Panel {
    fn draw(&self, area: &DrawingArea<SVGBackend<'_>, Shift>, steps: Range<f64>) -> Result<()> {
        let mut chart = ChartBuilder::on(area)
            .caption(self.title, (FONT, 18))
            .margin(10)
            .x_label_area_size(36)
            .y_label_area_size(64)
            .build_cartesian_2d(steps, self.range())?;
        chart
            .configure_mesh()
            .x_desc("step")
            .x_labels(10)
            .y_labels(6)
            .bold_line_style(GRID)
            .light_line_style(TRANSPARENT)
            .x_label_formatter(&|step: &f64| step_label(*step))
            .y_label_formatter(&|value: &f64| value_label(*value))
            .draw()?;
        for Series { name, style, dot_pixels, points } in &self.series {
            let style = *style;
            let line = LineSeries::new(points.iter().copied(), style).point_size(*dot_pixels);
            chart
                .draw_series(line)?
                .label(name.as_str())
                .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 20, y)], style));
        }
        // A curve that is what the title says needs no legend.
        if self.series.iter().any(|series| series.name != self.title) {
            chart
                .configure_series_labels()
                .position(SeriesLabelPosition::UpperRight)
                .background_style(WHITE.mix(0.8))
                .border_style(GRID)
                .label_font((FONT, 14))
                .draw()?;
        }
        Ok(())
    }

    /// The values with some room around them; never empty, so that every value has a place.
    fn range(&self) -> Range<f64> {
        let values = || self.series.iter().flat_map(|series| &series.points).map(|point| point.1);
        let low = values().fold(f64::INFINITY, f64::min);
        let high = values().fold(f64::NEG_INFINITY, f64::max);
        if low > high {
            return 0.0..1.0;
        }
        let room = if high > low {
            (high - low) * 0.05
        } else if high.abs() > 0.0 {
            high.abs() * 0.1
        } else {
            1.0
        };
        low - room..high + room
    }
}

/// Whole steps only: a short run has room for ticks between them.
fn step_label(step: f64) -> String {
    if (step - step.round()).abs() < 1e-6 { format!("{step:.0}") } else { String::new() }
}

fn value_label(value: f64) -> String {
    match value.abs() {
        0.01..10_000.0 => format!("{}", (value * 1e3).round() / 1e3),
        size if size < 1e-12 => "0".into(),
        _ => format!("{value:.2e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::{LEARNING_RATE, LOSS, PALETTE, RGBColor, plot, value_label};

    fn plotted(metrics: &str) -> anyhow::Result<String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        std::fs::write(&path, metrics).unwrap();
        plot(&path)
    }

    /// Points of every polyline of a color: first the curves, then their samples in the legend.
    fn polylines(svg: &str, RGBColor(red, green, blue): RGBColor) -> Vec<usize> {
        let stroke = format!("stroke=\"#{red:02X}{green:02X}{blue:02X}\"");
        let lines = svg.lines().filter(|l| l.starts_with("<polyline") && l.contains(&stroke));
        let points = |line: &str| line.split("points=\"").nth(1).unwrap().matches(',').count();
        lines.map(points).collect()
    }

    const RUN: &str = r#"{"step":1,"loss":4.5,"learning_rate":1e-4,"gradient_norm":3.0,"tokens":9}
{"step":2,"loss":3.5,"learning_rate":2e-4,"validation_loss":{"near":3.0,"<far>":3.25}}

{"step":3,"loss":3.75,"learning_rate":1e-4}
{"step":4,"loss":2.5,"learning_rate":5e-5,"validation_loss":{"near":2.0,"<far>":2.5}}
{"step":5,"loss":2.0,"learning_rate":0.0,"validation_loss":{"near":1.75}}
"#;

    #[test]
    fn every_curve_is_drawn_and_named() {
        let svg = plotted(RUN).unwrap();
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"), "{svg}");
        for text in ["training loss", "mean of 20 steps", "validation loss", "learning rate"] {
            assert!(svg.contains(text), "{text}");
        }
        // Names come from the file, so they are escaped.
        assert!(svg.contains("near") && svg.contains("&lt;far&gt;") && !svg.contains("<far>"));
        assert_eq!(polylines(&svg, LOSS), [5, 5, 2, 2]);
        assert_eq!(polylines(&svg, PALETTE[0]), [2, 2]);
        assert_eq!(polylines(&svg, PALETTE[1]), [3, 2]);
        assert_eq!(polylines(&svg, LEARNING_RATE), [5]);
    }

    #[test]
    fn the_last_line_of_a_repeated_step_counts() {
        let lines: Vec<&str> = RUN.lines().collect();
        let resumed = [&lines[..2], &[r#"{"step":2,"loss":9.0,"learning_rate":1.0}"#], &lines[1..]];
        assert_eq!(plotted(&resumed.concat().join("\n")).unwrap(), plotted(RUN).unwrap());
    }

    #[test]
    fn every_bad_line_is_named() {
        let bad = "{\"step\":2,\"loss\":3\n{\"step\":3,\"loss\":null,\"learning_rate\":1}\n\
                   {\"step\":4,\"loss\":1e99,\"learning_rate\":1}\n\
                   {\"step\":5,\"loss\":1,\"learning_rate\":1,\"validation_loss\":{\"a\\u0000\":1}}\n";
        let error = plotted(&format!("{RUN}{bad}")).unwrap_err().to_string();
        assert!(error.contains("4 unusable lines"), "{error}");
        for line in ["jsonl:7:", "jsonl:8:", "jsonl:9: a value is not finite", "jsonl:10:"] {
            assert!(error.contains(line), "{line} not in:\n{error}");
        }
        assert!(plotted("\n").unwrap_err().to_string().contains("no step"));
    }

    #[test]
    fn runs_of_any_length_and_scale_are_drawn() {
        let one = r#"{"step":7,"loss":0,"learning_rate":0}"#;
        assert_eq!(polylines(&plotted(one).unwrap(), LOSS), [1, 1, 2, 2]);
        let wide = r#"{"step":0,"loss":-3e38,"learning_rate":1e-40}
                      {"step":4294967295,"loss":3e38,"learning_rate":2e-40}"#;
        assert_eq!(polylines(&plotted(wide).unwrap(), LOSS), [2, 2, 2, 2]);
    }

    #[test]
    fn labels_are_short() {
        let labels = [0.0, 2.5, -0.25, 3e-4, 1e7].map(value_label);
        assert_eq!(labels, ["0", "2.5", "-0.25", "3.00e-4", "1.00e7"]);
    }
}
