//! Operators that treat every element on its own: arithmetic with broadcasting, roots and special
//! functions, conversions.
//!
//! Operands and results are f32, each operation is rounded once. Only the order of operands decides
//! a tie: the maximum is the left operand if it is greater or NaN, otherwise the right one.

use std::iter::repeat_n;

use super::arithmetic::{erf_all, sigmoid_all, widen_halves};
use super::fault::{Fault, differs};
use super::strides::{Offsets, broadcast, broadcast_strides};
use super::tensor::{Dense, Element, Elements, element_count};

/// Operators of two operands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Binary {
    /// `a + b`
    Add,
    /// `a − b`
    Sub,
    /// `a · b`
    Mul,
    /// `a / b`
    Div,
    /// The greater one; NaN if one of them is.
    Max,
}

/// Operators of one operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unary {
    /// Square root, correctly rounded.
    Sqrt,
    /// Error function.
    Erf,
    /// Logistic function.
    Sigmoid,
}

/// Applies an operator to two tensors that broadcast.
///
/// # Errors
/// Shapes that do not fit, other elements than f32, a result over the limits.
pub(super) fn binary(operator: Binary, left: &Dense, right: &Dense) -> Result<Dense, Fault> {
    let shape = broadcast(left.shape(), right.shape())?;
    let pair = Pair {
        count: element_count(&shape, Element::F32)?,
        shape: &shape,
        left: (left.shape(), left.floats()?),
        right: (right.shape(), right.floats()?),
    };
    let values = match operator {
        Binary::Add => pair.combine(|a, b| a + b),
        Binary::Sub => pair.combine(|a, b| a - b),
        Binary::Mul => pair.combine(|a, b| a * b),
        Binary::Div => pair.combine(|a, b| a / b),
        Binary::Max => pair.combine(|a, b| if a > b || a.is_nan() { a } else { b }),
    };
    Dense::f32(shape, values)
}

/// Two operands, as shape and elements, and the shape of their result.
struct Pair<'a> {
    count: usize,
    shape: &'a [usize],
    left: (&'a [usize], &'a [f32]),
    right: (&'a [usize], &'a [f32]),
}

impl Pair<'_> {
    fn combine(&self, operator: impl Fn(f32, f32) -> f32) -> Vec<f32> {
        let ((left_shape, a), (right_shape, b)) = (self.left, self.right);
        if left_shape == right_shape {
            return a.iter().zip(b).map(|(a, b)| operator(*a, *b)).collect();
        }
        if let ([b], true) = (b, left_shape == self.shape) {
            return a.iter().map(|a| operator(*a, *b)).collect();
        }
        let mut values = Vec::with_capacity(self.count);
        let Some((&run, outer)) = self.shape.split_last().filter(|_| self.count > 0) else {
            return values;
        };
        let left_strides = broadcast_strides(left_shape, self.shape);
        let right_strides = broadcast_strides(right_shape, self.shape);
        let repeated = (left_strides[outer.len()] == 0, right_strides[outer.len()] == 0);
        for [i, j] in Offsets::new(outer, [left_strides, right_strides]) {
            match repeated {
                (true, true) => values.extend(repeat_n(operator(a[i], b[j]), run)),
                (true, false) => {
                    let a = a[i];
                    values.extend(b[j..j + run].iter().map(|b| operator(a, *b)));
                }
                (false, true) => {
                    let b = b[j];
                    values.extend(a[i..i + run].iter().map(|a| operator(*a, b)));
                }
                (false, false) => {
                    let pairs = a[i..i + run].iter().zip(&b[j..j + run]);
                    values.extend(pairs.map(|(a, b)| operator(*a, *b)));
                }
            }
        }
        values
    }
}

/// Applies an operator to every element.
///
/// # Errors
/// Other elements than f32.
pub(super) fn unary(operator: Unary, x: &Dense) -> Result<Dense, Fault> {
    let mut values = x.floats()?.to_vec();
    match operator {
        Unary::Sqrt => values.iter_mut().for_each(|value| *value = value.sqrt()),
        Unary::Erf => erf_all(&mut values),
        Unary::Sigmoid => sigmoid_all(&mut values),
    }
    Dense::f32(x.shape().to_vec(), values)
}

/// Converts to f32, or to the type the elements have already.
///
/// # Errors
/// Another type, a result over the limits.
pub(super) fn cast(x: &Dense, to: Element) -> Result<Dense, Fault> {
    if x.element() == to {
        return Ok(x.clone());
    }
    if to != Element::F32 {
        return Err(differs("type of the result", Element::F32, to));
    }
    element_count(x.shape(), Element::F32)?;
    let values = match x.elements() {
        Elements::F32(values) => values.to_vec(),
        Elements::F16(bytes) => widen_halves(bytes),
        Elements::I8(bytes) => bytes.iter().map(|byte| f32::from(byte.cast_signed())).collect(),
        Elements::I64(values) => values.iter().map(|number| *number as f32).collect(),
    };
    Dense::f32(x.shape().to_vec(), values)
}
