//! Cases of the operators that combine the elements of an axis: sums, softmax, layer normalization.

use super::distance::Measure;
use super::sketch::{Axis, BATCH, Case, MANY_TOKENS, Sketch, TINY, TOKENS, count, fixed};

/// What the encoder adds to the scores of masked tokens.
const MASKED_SCORE: f32 = -1e9;

pub(super) fn cases() -> Vec<Case> {
    let sum_axes = [BATCH, MANY_TOKENS, fixed(48)];
    let mask_axes = [BATCH, MANY_TOKENS, fixed(1)];
    let texts = [BATCH, TOKENS, fixed(384)];
    vec![
        reduce_sum("over tokens", &sum_axes, 1, false),
        reduce_sum("over tokens, kept", &sum_axes, 1, true),
        reduce_sum("of a mask", &mask_axes, 1, false),
        reduce_sum("over the last axis", &sum_axes, 2, false),
        reduce_sum("of squares, kept", &[BATCH, fixed(384)], 1, true),
        softmax("few tokens", &[BATCH, fixed(3), TOKENS, TOKENS], false),
        softmax("many tokens", &[BATCH, fixed(3), MANY_TOKENS, MANY_TOKENS], false),
        softmax("masked tokens", &[BATCH, fixed(3), MANY_TOKENS, MANY_TOKENS], true),
        layer_norm("hypernetwork", &[BATCH, fixed(5), fixed(48)], 1e-5, Spread::Wide),
        layer_norm("shared head", &[BATCH, fixed(2), fixed(5), fixed(48)], 1e-5, ORDINARY),
        layer_norm("encoder", &texts, 1e-12, ORDINARY),
        layer_norm("encoder, wide", &texts, 1e-12, Spread::Wide),
        layer_norm("far from zero", &texts, 1e-12, Spread::Even { center: 10.0, most: 1.0 }),
        layer_norm("large", &texts, 1e-12, Spread::Even { center: 0.0, most: 1e3 }),
        layer_norm("small", &texts, 1e-5, Spread::Even { center: 0.0, most: 1e-3 }),
    ]
}

/// The sum of `n` terms has the magnitude `√n Σ |x|`, for the reason that products have theirs.
fn reduce_sum(form: &'static str, axes: &[Axis], along: usize, keep: bool) -> Case {
    let mut sketch = Sketch::new("ReduceSum", form);
    let values = sketch.numbers.wide(count(axes), (-30, 30));
    let (size, inner) = (axes[along].1, count(&axes[along + 1..]));
    let blocks = values.chunks_exact(size * inner);
    let magnitudes = blocks.flat_map(|block| {
        (0..inner).map(move |place| {
            let terms = block.iter().skip(place).step_by(inner);
            terms.map(|term| f64::from(*term).abs()).sum::<f64>() * (size as f64).sqrt()
        })
    });
    let measure = Measure::Magnitudes(magnitudes.collect());
    let x = sketch.floats("x", axes, values);
    let y = sketch.graph.reduce_sum(x, along, keep).unwrap();
    sketch.case(measure, y)
}

/// Scores of up to ±1024, so that some shares are nearly 1 and some vanish. Where tokens are
/// masked, a third of them are, and all of the first row.
fn softmax(form: &'static str, axes: &[Axis], masked: bool) -> Case {
    let mut sketch = Sketch::new("Softmax", form);
    let mut values = sketch.numbers.wide(count(axes), (-10, 9));
    if masked {
        let width = axes[axes.len() - 1].1;
        for (place, value) in values.iter_mut().enumerate() {
            if place < width || sketch.numbers.below(3) == 0 {
                *value += MASKED_SCORE;
            }
        }
    }
    let x = sketch.floats("x", axes, values);
    let y = sketch.graph.softmax(x).unwrap();
    sketch.case(Measure::Relative { floor: TINY }, y)
}

/// Values of a layer normalization.
#[derive(Debug, Clone, Copy)]
enum Spread {
    /// Around a center, evenly.
    Even {
        /// The center.
        center: f32,
        /// Largest distance from it.
        most: f64,
    },
    /// Of any magnitude.
    Wide,
}

const ORDINARY: Spread = Spread::Even { center: 0.0, most: 1.0 };

/// The first row is zeros. The magnitude of `(x − mean) · factor · scale + bias` is
/// `(|x| + mean|x|) · factor · |scale| + |bias|`: that the difference may cancel is part of the
/// formula, and so is how near two engines can be.
fn layer_norm(form: &'static str, axes: &[Axis], epsilon: f32, spread: Spread) -> Case {
    let mut sketch = Sketch::new("LayerNormalization", form);
    let width = axes[axes.len() - 1].1;
    let mut values: Vec<f32> = match spread {
        Spread::Even { center, most } => {
            let values = sketch.numbers.even(count(axes), most);
            values.into_iter().map(|value| value + center).collect()
        }
        Spread::Wide => sketch.numbers.wide(count(axes), (-12, 8)),
    };
    values[..width].fill(0.0);
    let scale = sketch.numbers.even(width, 2.0);
    let bias = sketch.numbers.even(width, 1.0);
    let rows = values.chunks_exact(width);
    let magnitudes = rows.flat_map(|row| row_magnitudes(row, &scale, &bias, epsilon));
    let measure = Measure::Magnitudes(magnitudes.collect());
    let x = sketch.floats("x", axes, values);
    let (scale, bias) = (sketch.constant(&[width], &scale), sketch.constant(&[width], &bias));
    let y = sketch.graph.layer_norm(x, scale, bias, epsilon).unwrap();
    sketch.case(measure, y)
}

fn row_magnitudes(row: &[f32], scale: &[f32], bias: &[f32], epsilon: f32) -> Vec<f64> {
    let count = row.len() as f64;
    let values = || row.iter().copied().map(f64::from);
    let mean = values().sum::<f64>() / count;
    let size = values().map(f64::abs).sum::<f64>() / count;
    let variance = values().map(|value| (value - mean).powi(2)).sum::<f64>() / count;
    let factor = (variance + f64::from(epsilon)).sqrt().recip();
    let parameters = scale.iter().zip(bias);
    values()
        .zip(parameters)
        .map(|(value, (scale, bias))| {
            let scale = f64::from(*scale).abs() * factor;
            (value.abs() + size) * scale + f64::from(*bias).abs()
        })
        .collect()
}
