//! Vectors as points of a plane: principal component analysis.
//!
//! In: n vectors of one length. Out: n points in the unit of the vectors, around their mean: the
//! first coordinate is along the direction in which the vectors differ most, the second along the
//! one at a right angle to it in which they differ most of what is left (Jolliffe, "Principal
//! Component Analysis", 2002).
//!
//! Vectors may be far longer than there are vectors, so directions are found as eigenvectors of the
//! n × n products of the centred vectors: by iteration of a small subspace, within which a Jacobi
//! method separates the eigenvectors (Golub and Van Loan, "Matrix Computations", 2013, chapter 8).
//! The same vectors always give the same points; of the two ways to point an axis, the one that
//! makes its largest coordinate positive counts.

use anyhow::{Result, ensure};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

/// Most vectors, so that the matrix of their products stays below 32 MiB.
const MAX_VECTORS: usize = 2048;
/// Dimensions of the subspace: more than are asked for, so that two are found sooner.
const SUBSPACE: usize = 8;
/// Most iterations.
const MAX_ROUNDS: usize = 300;
/// Change of the eigenvalues, relative to the largest one, at which the iteration ends.
const TOLERANCE: f64 = 1e-13;
/// Sweeps over the small matrix; a handful suffices.
const SWEEPS: usize = 16;
/// Share of the squared lengths up to which a variance is rounding error.
const NO_VARIANCE: f64 = 1e-20;
/// Share of a vector's length up to which what is left of it is rounding error.
const NO_REST: f64 = 1e-10;

/// Vectors as points of a plane.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Projection {
    /// One point per vector, in their order.
    pub points: Vec<[f64; 2]>,
    /// Share of the variance along each axis, from 0 to 1; 0 where all vectors are equal.
    pub shares: [f64; 2],
}

impl Projection {
    /// Projects vectors.
    ///
    /// # Errors
    /// Too many vectors, vectors of different lengths, values that are not finite.
    pub(super) fn of(vectors: &[&[f32]]) -> Result<Self> {
        let (count, width) = (vectors.len(), vectors.first().map_or(0, |vector| vector.len()));
        ensure!(count <= MAX_VECTORS, "{count} vectors, at most {MAX_VECTORS} are projected");
        for (index, vector) in vectors.iter().enumerate() {
            let got = vector.len();
            ensure!(got == width, "vector {index} has {got} values, expected {width}");
            let finite = vector.iter().all(|value| value.is_finite());
            ensure!(finite, "vector {index} has values that are not finite");
        }
        let products = products(vectors, width);
        let variance: f64 = products.iter().enumerate().map(|(row, values)| values[row]).sum();
        let squares: f64 = vectors.iter().map(|vector| square(vector)).sum();
        let mut projection = Self { points: vec![[0.0; 2]; count], shares: [0.0; 2] };
        if variance <= squares * NO_VARIANCE {
            return Ok(projection);
        }
        for (number, (value, mut axis)) in leading(&products).into_iter().enumerate() {
            let value = value.max(0.0);
            upright(&mut axis);
            projection.shares[number] = value / variance;
            for (point, coordinate) in projection.points.iter_mut().zip(&axis) {
                point[number] = coordinate * value.sqrt();
            }
        }
        Ok(projection)
    }
}

/// The products of the vectors with each other, after their mean is subtracted: `[n][n]`.
fn products(vectors: &[&[f32]], width: usize) -> Vec<Vec<f64>> {
    let mut mean = vec![0.0; width];
    for vector in vectors {
        for (mean, value) in mean.iter_mut().zip(*vector) {
            *mean += f64::from(*value);
        }
    }
    for mean in &mut mean {
        *mean /= vectors.len() as f64;
    }
    let product = |left: &[f32], right: &[f32]| -> f64 {
        let pairs = left.iter().zip(right).zip(&mean);
        pairs.map(|((l, r), mean)| (f64::from(*l) - mean) * (f64::from(*r) - mean)).sum()
    };
    let row = |index: usize| -> Vec<f64> {
        vectors[..=index].iter().map(|&other| product(vectors[index], other)).collect()
    };
    let lower: Vec<Vec<f64>> = (0..vectors.len()).into_par_iter().map(row).collect();
    let entry = |row: usize, column: usize| lower[row.max(column)][row.min(column)];
    let full =
        |row: usize| -> Vec<f64> { (0..lower.len()).map(|column| entry(row, column)).collect() };
    (0..lower.len()).map(full).collect()
}

/// The two largest eigenvalues of a symmetric matrix that has no negative ones, with eigenvectors
/// of length 1, or 0 where the eigenvalue is 0; fewer of a matrix with fewer rows.
fn leading(matrix: &[Vec<f64>]) -> Vec<(f64, Vec<f64>)> {
    let size = matrix.len();
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let mut start = || -> Vec<f64> { (0..size).map(|_| rng.random_range(-1.0f64..1.0)).collect() };
    let mut basis: Vec<Vec<f64>> = (0..SUBSPACE.min(size)).map(|_| start()).collect();
    orthonormalize(&mut basis);
    let mut found: Vec<(f64, Vec<f64>)> = Vec::new();
    for _ in 0..MAX_ROUNDS {
        let image =
            |vector: &Vec<f64>| -> Vec<f64> { matrix.iter().map(|row| dot(row, vector)).collect() };
        let images: Vec<Vec<f64>> = basis.iter().map(image).collect();
        let within =
            |left: &Vec<f64>| -> Vec<f64> { images.iter().map(|image| dot(left, image)).collect() };
        let separated = eigenpairs(basis.iter().map(within).collect());
        let next: Vec<(f64, Vec<f64>)> = separated
            .iter()
            .take(2)
            .map(|(value, weights)| (*value, combined(&basis, weights)))
            .collect();
        basis = separated.iter().map(|(_, weights)| combined(&images, weights)).collect();
        orthonormalize(&mut basis);
        let change: f64 = next.iter().zip(&found).map(|(new, old)| (new.0 - old.0).abs()).sum();
        let settled = !found.is_empty() && change <= TOLERANCE * next[0].0.abs();
        found = next;
        if settled {
            break;
        }
    }
    found
}

/// Makes vectors orthogonal to those before them and gives them length 1; what is left of a vector
/// that depends on them becomes 0.
fn orthonormalize(basis: &mut [Vec<f64>]) {
    for index in 0..basis.len() {
        let (done, rest) = basis.split_at_mut(index);
        let vector = &mut rest[0];
        let before = dot(vector, vector).sqrt();
        // Once more for what rounding left behind.
        for _ in 0..2 {
            for other in &*done {
                let overlap = dot(vector, other);
                for (value, other) in vector.iter_mut().zip(other) {
                    *value -= overlap * other;
                }
            }
        }
        let after = dot(vector, vector).sqrt();
        let factor = if after > before * NO_REST { 1.0 / after } else { 0.0 };
        for value in vector {
            *value *= factor;
        }
    }
}

/// All eigenvalues of a small symmetric matrix with eigenvectors of length 1, largest first: the
/// cyclic Jacobi method.
fn eigenpairs(mut matrix: Vec<Vec<f64>>) -> Vec<(f64, Vec<f64>)> {
    let size = matrix.len();
    let unit = |row: usize| -> Vec<f64> {
        (0..size).map(|column| f64::from(u8::from(row == column))).collect()
    };
    let mut vectors: Vec<Vec<f64>> = (0..size).map(unit).collect();
    for _ in 0..SWEEPS {
        for row in 0..size {
            for column in row + 1..size {
                annihilate(&mut matrix, &mut vectors, row, column);
            }
        }
    }
    let values = matrix.iter().enumerate().map(|(row, values)| values[row]);
    let mut pairs: Vec<(f64, Vec<f64>)> = values.zip(vectors).collect();
    pairs.sort_by(|left, right| right.0.total_cmp(&left.0));
    pairs
}

/// Turns the plane of two coordinates so that the matrix has 0 between them; the rows of `vectors`
/// turn along.
fn annihilate(matrix: &mut [Vec<f64>], vectors: &mut [Vec<f64>], first: usize, second: usize) {
    let between = matrix[first][second];
    if between == 0.0 {
        return;
    }
    let ratio = (matrix[second][second] - matrix[first][first]) / (2.0 * between);
    let tangent = ratio.signum() / (ratio.abs() + (ratio * ratio + 1.0).sqrt());
    let cosine = 1.0 / (tangent * tangent + 1.0).sqrt();
    let turn = (cosine, tangent * cosine);
    for row in matrix.iter_mut() {
        (row[first], row[second]) = turned(turn, row[first], row[second]);
    }
    turn_rows(matrix, first, second, turn);
    turn_rows(vectors, first, second, turn);
}

/// Turns two rows, of which `first` comes before `second`.
fn turn_rows(rows: &mut [Vec<f64>], first: usize, second: usize, turn: (f64, f64)) {
    let (upper, lower) = rows.split_at_mut(second);
    for (left, right) in upper[first].iter_mut().zip(&mut lower[0]) {
        (*left, *right) = turned(turn, *left, *right);
    }
}

fn turned((cosine, sine): (f64, f64), left: f64, right: f64) -> (f64, f64) {
    (cosine * left - sine * right, sine * left + cosine * right)
}

/// The sum of vectors with these weights.
fn combined(vectors: &[Vec<f64>], weights: &[f64]) -> Vec<f64> {
    let mut sum = vec![0.0; vectors.first().map_or(0, Vec::len)];
    for (vector, weight) in vectors.iter().zip(weights) {
        for (sum, value) in sum.iter_mut().zip(vector) {
            *sum += weight * value;
        }
    }
    sum
}

/// Points an axis so that its largest coordinate is positive; of equally large ones the first
/// counts, and they are equal up to rounding.
fn upright(axis: &mut [f64]) {
    let largest = axis.iter().fold(0.0, |largest: f64, value| largest.max(value.abs()));
    let decisive = axis.iter().find(|value| value.abs() >= largest * (1.0 - 1e-9));
    if decisive.is_some_and(|value| *value < 0.0) {
        for value in axis {
            *value = -*value;
        }
    }
}

fn dot(left: &[f64], right: &[f64]) -> f64 {
    left.iter().zip(right).map(|(left, right)| left * right).sum()
}

fn square(vector: &[f32]) -> f64 {
    vector.iter().map(|value| f64::from(*value) * f64::from(*value)).sum()
}

#[cfg(test)]
mod tests;
