//! Shapes that broadcast, and where the elements of a row-major tensor lie.
//!
//! Shapes align at their last dimension; a size of 1 takes the other size
//! (<https://github.com/onnx/onnx/blob/main/docs/Broadcasting.md>). A stride is the distance in
//! elements between neighbours along an axis, 0 where an operand is repeated. Shapes are those of
//! tensors within the limits of [`super::tensor`], so nothing here overflows.

use super::fault::Fault;

/// Shape of the result of two operands.
///
/// # Errors
/// Two sizes that differ and are not 1.
pub(super) fn broadcast(left: &[usize], right: &[usize]) -> Result<Vec<usize>, Fault> {
    let rank = left.len().max(right.len());
    let pairs =
        (0..rank).map(|axis| match (aligned(left, rank, axis), aligned(right, rank, axis)) {
            (a, b) if a == b => Ok(a),
            (1, size) | (size, 1) => Ok(size),
            _ => Err(Fault::Shapes { left: left.to_vec(), right: right.to_vec() }),
        });
    pairs.collect()
}

fn aligned(shape: &[usize], rank: usize, axis: usize) -> usize {
    (axis + shape.len()).checked_sub(rank).map_or(1, |i| shape[i])
}

/// Row-major strides, at least 1 each.
pub(super) fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis].max(1);
    }
    strides
}

/// Strides of an operand of `shape` along the axes of `result`, to which it broadcasts.
pub(super) fn broadcast_strides(shape: &[usize], result: &[usize]) -> Vec<usize> {
    let own = strides(shape);
    (0..result.len())
        .map(|axis| match (axis + shape.len()).checked_sub(result.len()) {
            Some(i) if shape[i] != 1 => own[i],
            _ => 0,
        })
        .collect()
}

/// The offsets of `N` operands at every position of a shape, in row-major order.
#[derive(Debug)]
pub(super) struct Offsets<'a, const N: usize> {
    shape: &'a [usize],
    strides: [Vec<usize>; N],
    position: Vec<usize>,
    at: [usize; N],
    left: usize,
}

impl<'a, const N: usize> Offsets<'a, N> {
    /// Walks over `shape`; each operand's strides begin with one per axis of it.
    pub(super) fn new(shape: &'a [usize], strides: [Vec<usize>; N]) -> Self {
        let left = shape.iter().product();
        Self { shape, strides, position: vec![0; shape.len()], at: [0; N], left }
    }
}

impl<const N: usize> Iterator for Offsets<'_, N> {
    type Item = [usize; N];

    fn next(&mut self) -> Option<[usize; N]> {
        self.left = self.left.checked_sub(1)?;
        let current = self.at;
        for axis in (0..self.shape.len()).rev() {
            let last = self.position[axis] + 1 == self.shape[axis];
            for (offset, strides) in self.at.iter_mut().zip(&self.strides) {
                if last {
                    *offset -= strides[axis] * self.position[axis];
                } else {
                    *offset += strides[axis];
                }
            }
            if !last {
                self.position[axis] += 1;
                break;
            }
            self.position[axis] = 0;
        }
        Some(current)
    }
}

#[cfg(test)]
mod tests {
    use super::{Offsets, broadcast, broadcast_strides, strides};

    #[test]
    fn shapes_align_at_the_end() {
        assert_eq!(broadcast(&[2, 1, 3], &[4, 1]).unwrap(), [2, 4, 3]);
        assert_eq!(broadcast(&[], &[5]).unwrap(), [5]);
        assert_eq!(broadcast(&[0, 1], &[1, 3]).unwrap(), [0, 3]);
        assert!(broadcast(&[2, 3], &[2]).is_err());
    }

    #[test]
    fn repeated_axes_have_stride_0() {
        assert_eq!(strides(&[2, 3, 4]), [12, 4, 1]);
        assert_eq!(broadcast_strides(&[2, 1, 3], &[5, 2, 4, 3]), [0, 3, 0, 1]);
    }

    #[test]
    fn offsets_follow_row_major_order() {
        let walk = Offsets::new(&[2, 3], [vec![3, 1], vec![0, 1], vec![1, 2]]);
        let all: Vec<[usize; 3]> = walk.collect();
        let expected = [[0, 0, 0], [1, 1, 2], [2, 2, 4], [3, 0, 1], [4, 1, 3], [5, 2, 5]];
        assert_eq!(all, expected);
        assert_eq!(Offsets::new(&[], [vec![]]).collect::<Vec<_>>(), [[0]]);
        assert_eq!(Offsets::new(&[3, 0], [vec![1, 1]]).count(), 0);
    }
}
