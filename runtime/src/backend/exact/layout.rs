//! Operators that move elements and compute none: `Reshape`, `Transpose`, `Slice`, `Unsqueeze`,
//! `Gather`, `Shape`.
//!
//! They take elements of any type; sizes, axes and indices are int64 tensors.

use std::sync::Arc;

use super::fault::{Fault, differs};
use super::reduce::resolve_axis;
use super::strides::{Offsets, strides};
use super::tensor::{Dense, Element, Elements, element_count};

/// Runs an expression on the elements, whatever their type.
macro_rules! rearranged {
    ($elements:expr, $values:ident => $result:expr) => {
        match $elements {
            Elements::F32($values) => Elements::F32(Arc::new($result)),
            Elements::F16(bytes) => {
                let ($values, _) = bytes.as_chunks::<2>();
                let result: Vec<[u8; 2]> = $result;
                Elements::F16(result.into_flattened().into())
            }
            Elements::I8($values) => Elements::I8(Vec::from($result).into()),
            Elements::I64($values) => Elements::I64(Arc::new($result)),
        }
    };
}

/// The same elements in the shape that `target` asks for, see [`reshaped`].
///
/// # Errors
/// As [`reshaped`].
pub(super) fn reshape(x: &Dense, target: &Dense) -> Result<Dense, Fault> {
    x.with_shape(reshaped(x.shape(), target)?)
}

/// The shape that `target` asks for: 0 copies the size at the same place, a single -1 takes what is
/// left.
///
/// # Errors
/// A target that does not have as many elements as `shape`, or is no vector.
pub(super) fn reshaped(shape: &[usize], target: &Dense) -> Result<Vec<usize>, Fault> {
    let sizes = target.integers()?;
    let fail = || differs("target of a reshape", format!("as large as {shape:?}"), show(sizes));
    if target.shape().len() != 1 {
        return Err(fail());
    }
    let mut result = Vec::new();
    let mut open = None;
    for (axis, size) in sizes.iter().enumerate() {
        result.push(match size {
            0 => *shape.get(axis).ok_or_else(fail)?,
            -1 if open.is_none() => {
                open = Some(axis);
                1
            }
            size => usize::try_from(*size).map_err(|_| fail())?,
        });
    }
    let count = element_count(shape, Element::I8)?;
    let known = element_count(&result, Element::I8)?;
    if let Some(axis) = open {
        result[axis] = count.checked_div(known).ok_or_else(fail)?;
    }
    if element_count(&result, Element::I8)? != count {
        return Err(fail());
    }
    Ok(result)
}

/// Dimension `i` of the result is dimension `order[i]` of `x`; without an order they are reversed.
///
/// # Errors
/// An order that is not a permutation of the dimensions.
pub(super) fn transpose(x: &Dense, order: Option<&[i64]>) -> Result<Dense, Fault> {
    let (shape, rank) = (x.shape(), x.shape().len());
    let order: Vec<usize> = match order {
        // A negative axis becomes one that no tensor has.
        Some(order) => order.iter().map(|a| usize::try_from(*a).unwrap_or(usize::MAX)).collect(),
        None => (0..rank).rev().collect(),
    };
    let mut sorted = order.clone();
    sorted.sort_unstable();
    if !sorted.into_iter().eq(0..rank) {
        let expected = format!("a permutation of {rank} dimensions");
        return Err(differs("order", expected, format!("{order:?}")));
    }
    let own = strides(shape);
    let result: Vec<usize> = order.iter().map(|axis| shape[*axis]).collect();
    let steps: Vec<usize> = order.iter().map(|axis| own[*axis]).collect();
    let elements = rearranged!(x.elements(), values => picked(values, &result, steps, 0));
    Dense::new(result, elements)
}

/// The parts `starts[i]..ends[i]` of the axes `axes[i]`; negative bounds count from the end, bounds
/// beyond it are moved there.
///
/// # Errors
/// Lists of different lengths, no such axis, an axis named twice.
pub(super) fn slice(
    x: &Dense,
    starts: &Dense,
    ends: &Dense,
    along: &Dense,
) -> Result<Dense, Fault> {
    let (starts, ends, along) = (starts.integers()?, ends.integers()?, along.integers()?);
    if starts.len() != along.len() || ends.len() != along.len() {
        let got = format!("{} and {}", starts.len(), ends.len());
        return Err(differs("number of starts and ends", along.len(), got));
    }
    let own = strides(x.shape());
    let mut result = x.shape().to_vec();
    let mut seen = vec![false; result.len()];
    let mut first = 0_usize;
    for ((start, end), axis) in starts.iter().zip(ends).zip(along) {
        let axis = resolve_axis(*axis, result.len())?;
        if std::mem::replace(&mut seen[axis], true) {
            return Err(differs("axes", "different ones", show(along)));
        }
        let size = result[axis];
        let (start, end) = (bound(*start, size), bound(*end, size));
        result[axis] = end.saturating_sub(start);
        // Beyond the end only where nothing is left to pick.
        first = first.saturating_add(start * own[axis]);
    }
    let elements = rearranged!(x.elements(), values => picked(values, &result, own, first));
    Dense::new(result, elements)
}

/// Inserts axes of size 1, so that they are at `axes` in the result.
///
/// # Errors
/// No such axis in the result, an axis named twice.
pub(super) fn unsqueeze(x: &Dense, axes: &Dense) -> Result<Dense, Fault> {
    let axes = axes.integers()?;
    let rank = x.shape().len() + axes.len();
    let resolved = axes.iter().map(|axis| resolve_axis(*axis, rank));
    let mut resolved = resolved.collect::<Result<Vec<usize>, Fault>>()?;
    resolved.sort_unstable();
    if resolved.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(differs("axes", "different ones", show(axes)));
    }
    let mut shape = x.shape().to_vec();
    for axis in resolved {
        // In rising order every axis is within what is there by then.
        shape.insert(axis, 1);
    }
    x.with_shape(shape)
}

/// Rows of `table` at `indices`; negative ones count from the end: `[indices…, table[1..]…]`.
///
/// # Errors
/// A table without rows, an index outside of it, a result over the limits.
pub(super) fn gather(table: &Dense, indices: &Dense) -> Result<Dense, Fault> {
    let Some((&rows, row_shape)) = table.shape().split_first() else {
        return Err(differs("table", "of one dimension or more", "a scalar"));
    };
    let width: usize = row_shape.iter().product();
    let mut shape = indices.shape().to_vec();
    shape.extend(row_shape);
    let count = element_count(&shape, table.element())?;
    // Indices count as axes do: from the front, or from the end if negative.
    let places = indices
        .integers()?
        .iter()
        .map(|index| resolve_axis(*index, rows).map_err(|_| Fault::Index { index: *index, rows }));
    let places = places.collect::<Result<Vec<usize>, Fault>>()?;
    let elements = rearranged!(table.elements(), values => {
        let mut result = Vec::with_capacity(count);
        for place in places {
            result.extend_from_slice(&values[place * width..(place + 1) * width]);
        }
        result
    });
    Dense::new(shape, elements)
}

/// The sizes of `x`, int64.
///
/// # Errors
/// None in practice: sizes are below 2³¹.
pub(super) fn shape_of(x: &Dense) -> Result<Dense, Fault> {
    let sizes = x
        .shape()
        .iter()
        .map(|size| i64::try_from(*size).map_err(|_| differs("size", "below 2^63", *size)));
    let sizes = sizes.collect::<Result<Vec<i64>, Fault>>()?;
    Dense::i64(vec![sizes.len()], sizes)
}

/// The elements at every position of `shape`, whose axes have the strides `steps`; the first one is
/// at `first`.
fn picked<T: Copy>(values: &[T], shape: &[usize], steps: Vec<usize>, first: usize) -> Vec<T> {
    let count: usize = shape.iter().product();
    let mut result = Vec::with_capacity(count);
    let (Some((&run, outer)), Some(&step)) = (shape.split_last(), steps.last()) else {
        return values.to_vec(); // a scalar
    };
    if count == 0 {
        return result;
    }
    for [offset] in Offsets::new(outer, [steps]) {
        let place = first + offset;
        if step == 1 {
            result.extend_from_slice(&values[place..place + run]);
        } else {
            result.extend(values[place..].iter().step_by(step).take(run));
        }
    }
    result
}

/// A bound of a slice within `0..=size`.
fn bound(index: i64, size: usize) -> usize {
    let distance = usize::try_from(index.unsigned_abs()).unwrap_or(usize::MAX);
    if index < 0 { size.saturating_sub(distance) } else { distance.min(size) }
}

fn show(numbers: &[i64]) -> String {
    format!("{numbers:?}")
}
