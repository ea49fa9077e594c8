//! Operators that combine the elements of an axis: sums, layer normalization, softmax.
//!
//! Their order of additions is part of the backend's rules. Along the last axis there are
//! [`LANES`] running sums that start at 0: element `i` is added to sum `i mod 8`, and in the end
//! `((s0 + s1) + (s2 + s3)) + ((s4 + s5) + (s6 + s7))`. Along any other axis, terms are added to 0
//! one after the other.

use super::arithmetic::exp_all;
use super::fault::{Fault, differs};
use super::tensor::{Dense, Element, element_count};

/// Running sums of the last axis.
const LANES: usize = 8;

/// Sum of `term(value)` in eight lanes.
fn lane_sum(values: &[f32], term: impl Fn(f32) -> f32) -> f32 {
    let mut sums = [0.0_f32; LANES];
    let (blocks, rest) = values.as_chunks::<LANES>();
    for block in blocks {
        for (sum, value) in sums.iter_mut().zip(block) {
            *sum += term(*value);
        }
    }
    for (sum, value) in sums.iter_mut().zip(rest) {
        *sum += term(*value);
    }
    ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]))
}

/// Normalizes the last axis, of size `n`, with `scale [n]` and `bias [n]`: mean, deviations from
/// it, mean of their squares, `((deviation · (1 / √(variance + ε))) · scale) + bias`
/// (<https://onnx.ai/onnx/operators/onnx__LayerNormalization.html>).
///
/// # Errors
/// Shapes that do not fit, an axis other than the last one.
pub(super) fn layer_norm(
    x: &Dense,
    scale: &Dense,
    bias: &Dense,
    axis: i64,
    epsilon: f32,
) -> Result<Dense, Fault> {
    let width = last_axis(x, axis)?;
    for operand in [scale, bias] {
        if operand.shape() != [width] {
            let (left, right) = (x.shape().to_vec(), operand.shape().to_vec());
            return Err(Fault::Shapes { left, right });
        }
    }
    let (scale, bias) = (scale.floats()?, bias.floats()?);
    let mut values = x.floats()?.to_vec();
    let count = width as f32;
    for row in values.chunks_exact_mut(width.max(1)) {
        let mean = lane_sum(row, |value| value) / count;
        for value in &mut *row {
            *value -= mean;
        }
        let variance = lane_sum(row, |value| value * value) / count;
        let factor = 1.0 / (variance + epsilon).sqrt();
        for ((value, scale), bias) in row.iter_mut().zip(scale).zip(bias) {
            *value = ((*value * factor) * scale) + bias;
        }
    }
    Dense::f32(x.shape().to_vec(), values)
}

/// Softmax over the last axis: `e = exp(x − max)`, then `e / sum(e)`.
///
/// # Errors
/// An axis other than the last one.
pub(super) fn softmax(x: &Dense, axis: i64) -> Result<Dense, Fault> {
    let width = last_axis(x, axis)?.max(1);
    let mut values = x.floats()?.to_vec();
    for row in values.chunks_exact_mut(width) {
        let greater = |max: f32, value: &f32| {
            if *value > max || value.is_nan() { *value } else { max }
        };
        let max = row.iter().fold(f32::NEG_INFINITY, greater);
        for value in row {
            *value -= max;
        }
    }
    exp_all(&mut values);
    for row in values.chunks_exact_mut(width) {
        let sum = lane_sum(row, |value| value);
        for value in row {
            *value /= sum;
        }
    }
    Dense::f32(x.shape().to_vec(), values)
}

/// Sum over the one axis that `axes` names; it stays with size 1 if `keep`.
///
/// # Errors
/// No such axis, or not exactly one.
pub(super) fn reduce_sum(x: &Dense, along: &Dense, keep: bool) -> Result<Dense, Fault> {
    let values = x.floats()?;
    let (shape, rank) = (x.shape(), x.shape().len());
    let axis = match along.integers()? {
        [axis] => resolve_axis(*axis, rank)?,
        several => return Err(differs("axes", "one axis", format!("{several:?}"))),
    };
    let mut result = shape.to_vec();
    result[axis] = 1;
    let count = element_count(&result, Element::F32)?;
    if !keep {
        result.remove(axis);
    }
    let size = shape[axis];
    if size == 0 {
        return Dense::f32(result, vec![0.0; count]);
    }
    let inner = shape[axis + 1..].iter().product::<usize>();
    let sums: Vec<f32> = if axis + 1 == rank {
        values.chunks_exact(size).map(|row| lane_sum(row, |value| value)).collect()
    } else {
        let mut sums = vec![0.0; count];
        let blocks = values.chunks_exact((size * inner).max(1));
        for (sums, block) in sums.chunks_exact_mut(inner.max(1)).zip(blocks) {
            for row in block.chunks_exact(inner) {
                for (sum, value) in sums.iter_mut().zip(row) {
                    *sum += value;
                }
            }
        }
        sums
    };
    Dense::f32(result, sums)
}

/// An axis counted from the front; negative ones count from the end.
///
/// # Errors
/// No such axis.
pub(super) fn resolve_axis(axis: i64, rank: usize) -> Result<usize, Fault> {
    let from_end = usize::try_from(axis.unsigned_abs()).ok();
    let resolved = if axis < 0 {
        from_end.and_then(|distance| rank.checked_sub(distance))
    } else {
        from_end.filter(|axis| *axis < rank)
    };
    resolved.ok_or_else(|| differs("axis", format!("one of {rank} dimensions"), axis))
}

/// Size of the last axis, if `axis` is that one.
fn last_axis(x: &Dense, axis: i64) -> Result<usize, Fault> {
    let shape = x.shape();
    let resolved = resolve_axis(axis, shape.len())?;
    if resolved + 1 != shape.len() {
        return Err(differs("axis", "the last one", axis));
    }
    Ok(shape[resolved])
}
