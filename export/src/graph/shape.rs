//! Shapes with symbolic dimensions, and the rules by which operations combine them.

use std::fmt;

use super::invalid;
use crate::error::ExportError;

/// Size of one dimension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dim {
    /// Known when the graph is built.
    Fixed(usize),
    /// Chosen by the caller of the graph; equal names are equal sizes.
    Symbol(&'static str),
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(size) => write!(f, "{size}"),
            Self::Symbol(name) => f.write_str(name),
        }
    }
}

pub(super) fn show(shape: &[Dim]) -> String {
    let sizes: Vec<String> = shape.iter().map(ToString::to_string).collect();
    format!("[{}]", sizes.join(", "))
}

/// Shapes aligned at their last dimension; a size of 1 takes the other size.
pub(super) fn broadcast(op: &'static str, a: &[Dim], b: &[Dim]) -> Result<Vec<Dim>, ExportError> {
    let rank = a.len().max(b.len());
    let aligned = |shape: &[Dim], i: usize| {
        (i + shape.len()).checked_sub(rank).map_or(Dim::Fixed(1), |j| shape[j])
    };
    let pairs = (0..rank).map(|i| match (aligned(a, i), aligned(b, i)) {
        (Dim::Fixed(1), size) | (size, Dim::Fixed(1)) => Ok(size),
        (left, right) if left == right => Ok(left),
        _ => Err(invalid(op, format!("{} does not broadcast with {}", show(a), show(b)))),
    });
    pairs.collect()
}

pub(super) fn reshaped(shape: &[Dim], target: &[i64]) -> Result<Vec<Dim>, ExportError> {
    let error = || invalid("Reshape", format!("{} to {target:?}", show(shape)));
    // A copied dimension cancels on both sides, so only the others are counted.
    let mut left = 1_usize;
    for (i, dim) in shape.iter().enumerate() {
        match dim {
            _ if target.get(i) == Some(&0) => {}
            Dim::Fixed(size) => left = left.checked_mul(*size).ok_or_else(error)?,
            Dim::Symbol(_) => return Err(error()),
        }
    }
    let mut right = 1_usize;
    let mut unknown = None;
    let mut result = Vec::with_capacity(target.len());
    for (i, size) in target.iter().enumerate() {
        result.push(match size {
            0 => *shape.get(i).ok_or_else(error)?,
            -1 if unknown.is_none() => {
                unknown = Some(i);
                Dim::Fixed(1)
            }
            _ => {
                let size = usize::try_from(*size).map_err(|_| error())?;
                right = right.checked_mul(size).ok_or_else(error)?;
                Dim::Fixed(size)
            }
        });
    }
    if let Some(i) = unknown {
        let size = left.checked_div(right).ok_or_else(error)?;
        right = right.checked_mul(size).ok_or_else(error)?;
        result[i] = Dim::Fixed(size);
    }
    if left != right {
        return Err(error());
    }
    Ok(result)
}
