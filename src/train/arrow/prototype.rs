//! The prototype of an adapter: the direction of the input that its update amplifies most.
//!
//! In: `lora_a [rank, in]` and `lora_b [out, rank]`. Out: the top right-singular vector of `B A`,
//! `[in]`, of unit length and arbitrary sign; all zeros where `B A` is zero.
//!
//! `B A`, `[out, in]`, is never formed. With `G = Bᵀ B` and `H = A Aᵀ`, both `[rank, rank]`, and
//! `R = √G`: if `z` is an eigenvector of the symmetric `R H R`, then `Aᵀ R z` is one of
//! `Aᵀ G A = (B A)ᵀ (B A)`, with the same eigenvalue. Both eigenproblems are solved in f64 by
//! cyclic Jacobi rotations (Golub and Van Loan, Matrix Computations, section 8.5), which need no
//! gap between the eigenvalues.

/// Sweeps after which the rotations stop; far fewer are ever needed.
const MAX_SWEEPS: usize = 60;

/// The top right-singular vector of `B A`.
pub(super) fn prototype(a: &[f32], b: &[f32], rank: usize) -> Vec<f32> {
    let inputs = a.len() / rank.max(1);
    let mut gram_b = vec![0.0; rank * rank];
    for row in b.chunks_exact(rank.max(1)) {
        for (i, left) in row.iter().enumerate() {
            for (j, right) in row.iter().enumerate() {
                gram_b[i * rank + j] += f64::from(*left) * f64::from(*right);
            }
        }
    }
    let rows: Vec<&[f32]> = a.chunks_exact(inputs.max(1)).collect();
    let gram_a: Vec<f64> =
        rows.iter().flat_map(|left| rows.iter().map(move |right| dot(left, right))).collect();
    let root = square_root(gram_b, rank);
    let symmetric = product(&product(&root, &gram_a, rank), &root, rank);
    let (values, vectors) = symmetric_eigen(symmetric, rank);
    let top = (0..rank).fold(0, |top, i| if values[i] > values[top] { i } else { top });
    let mut direction = vec![0.0_f64; inputs];
    for (i, row) in rows.iter().enumerate() {
        let weight: f64 = (0..rank).map(|j| root[i * rank + j] * vectors[j * rank + top]).sum();
        for (sum, value) in direction.iter_mut().zip(*row) {
            *sum += weight * f64::from(*value);
        }
    }
    let length = direction.iter().map(|value| value * value).sum::<f64>().sqrt();
    if !(length.is_finite() && length > 0.0) {
        return vec![0.0; inputs];
    }
    direction.into_iter().map(|value| rounded(value / length)).collect()
}

#[allow(clippy::cast_possible_truncation, reason = "rounding to f32 is what this is for")]
fn rounded(value: f64) -> f32 {
    value as f32
}

fn dot(left: &[f32], right: &[f32]) -> f64 {
    left.iter().zip(right).map(|(l, r)| f64::from(*l) * f64::from(*r)).sum()
}

/// The product of two matrices `[size, size]`.
fn product(left: &[f64], right: &[f64], size: usize) -> Vec<f64> {
    let entry = |i: usize, j: usize| -> f64 {
        (0..size).map(|k| left[i * size + k] * right[k * size + j]).sum()
    };
    (0..size).flat_map(|i| (0..size).map(move |j| (i, j))).map(|(i, j)| entry(i, j)).collect()
}

/// The symmetric square root of a positive semi-definite matrix.
fn square_root(matrix: Vec<f64>, size: usize) -> Vec<f64> {
    let (values, vectors) = symmetric_eigen(matrix, size);
    let mut root = vec![0.0; size * size];
    for (k, value) in values.iter().enumerate() {
        // Rounding can leave a zero slightly negative.
        let value = value.max(0.0).sqrt();
        for i in 0..size {
            for j in 0..size {
                root[i * size + j] += value * vectors[i * size + k] * vectors[j * size + k];
            }
        }
    }
    root
}

/// Eigenvalues, in no order, and eigenvectors as the columns of a matrix.
fn symmetric_eigen(mut matrix: Vec<f64>, size: usize) -> (Vec<f64>, Vec<f64>) {
    let mut vectors = vec![0.0; size * size];
    for i in 0..size {
        vectors[i * size + i] = 1.0;
    }
    for _ in 0..MAX_SWEEPS {
        let (mut off, mut all) = (0.0_f64, 0.0_f64);
        for (index, value) in matrix.iter().enumerate() {
            let square = value * value;
            all += square;
            off += if index / size == index % size { 0.0 } else { square };
        }
        if off <= f64::EPSILON * f64::EPSILON * all {
            break;
        }
        for p in 0..size {
            for q in p + 1..size {
                rotate(&mut matrix, &mut vectors, size, (p, q));
            }
        }
    }
    ((0..size).map(|i| matrix[i * size + i]).collect(), vectors)
}

/// The rotation of axes `p` and `q` that makes entry `(p, q)` zero.
fn rotate(matrix: &mut [f64], vectors: &mut [f64], size: usize, (p, q): (usize, usize)) {
    let between = matrix[p * size + q];
    if between == 0.0 {
        return;
    }
    let theta = (matrix[q * size + q] - matrix[p * size + p]) / (2.0 * between);
    let tangent = theta.signum() / (theta.abs() + theta.hypot(1.0));
    let cos = tangent.hypot(1.0).recip();
    let sin = tangent * cos;
    let turn = |first: f64, second: f64| (cos * first - sin * second, sin * first + cos * second);
    for k in 0..size {
        let (row, column) = (k * size + p, k * size + q);
        (matrix[row], matrix[column]) = turn(matrix[row], matrix[column]);
        (vectors[row], vectors[column]) = turn(vectors[row], vectors[column]);
    }
    for k in 0..size {
        let (upper, lower) = (p * size + k, q * size + k);
        (matrix[upper], matrix[lower]) = turn(matrix[upper], matrix[lower]);
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::{prototype, symmetric_eigen};

    #[test]
    fn a_known_decomposition_is_found_through_mixed_factors() {
        // B A = 3 u1 v1ᵀ + 1 u2 v2ᵀ with orthonormal u and v; the factors mix both terms.
        let (v1, v2) = ([0.6_f32, 0.8, 0.0], [-0.8_f32, 0.6, 0.0]);
        let a: Vec<f32> = v1.iter().zip(v2).map(|(one, two)| one - 2.0 * two).chain(v2).collect();
        let b = [3.0, 6.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0];
        let got = prototype(&a, &b, 2);
        let along: f32 = got.iter().zip(v1).map(|(g, v)| g * v).sum();
        assert!((along.abs() - 1.0).abs() < 1e-6, "{got:?}");
    }

    #[test]
    fn no_direction_is_amplified_more() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let (rank, inputs, outputs) = (4, 9, 7);
        let mut matrix = |count: usize| -> Vec<f32> {
            (0..count).map(|_| rng.random_range(-1.0_f32..1.0)).collect()
        };
        let (a, b) = (matrix(rank * inputs), matrix(outputs * rank));
        let times = |rows: &[f32], x: &[f64]| -> Vec<f64> {
            let row = |row: &[f32]| row.iter().zip(x).map(|(m, x)| f64::from(*m) * x).sum::<f64>();
            rows.chunks_exact(x.len()).map(row).collect()
        };
        let length = |x: &[f64]| x.iter().map(|value| value * value).sum::<f64>().sqrt();
        let gain = |x: &[f32]| {
            let x: Vec<f64> = x.iter().copied().map(f64::from).collect();
            length(&times(&b, &times(&a, &x))) / length(&x)
        };
        let top = prototype(&a, &b, rank);
        let squares: f32 = top.iter().map(|value| value * value).sum();
        assert!((squares - 1.0).abs() < 1e-5, "{squares}");
        let most = gain(&top);
        for _ in 0..200 {
            // Near the prototype too, where a wrong vector would be beaten.
            for size in [0.01, 0.3, 3.0] {
                let near: Vec<f32> =
                    top.iter().zip(matrix(inputs)).map(|(t, noise)| t + size * noise).collect();
                assert!(gain(&near) <= most + 1e-6);
            }
        }
    }

    #[test]
    fn an_update_of_zero_has_no_direction() {
        assert_eq!(prototype(&[1.0, 2.0, 3.0, 4.0], &[0.0; 6], 2), [0.0; 2]);
        assert_eq!(prototype(&[0.0; 4], &[1.0; 6], 2), [0.0; 2]);
    }

    #[test]
    fn equal_eigenvalues_are_no_difficulty() {
        // Rows sum to 4; orthogonal to (1, 1, 1) everything has the eigenvalue 1.
        let matrix = vec![2.0, 1.0, 1.0, 1.0, 2.0, 1.0, 1.0, 1.0, 2.0];
        let (mut values, vectors) = symmetric_eigen(matrix.clone(), 3);
        for (column, value) in values.iter().enumerate() {
            for (index, row) in matrix.chunks_exact(3).enumerate() {
                let image: f64 = (0..3).map(|k| row[k] * vectors[k * 3 + column]).sum();
                assert!((image - value * vectors[index * 3 + column]).abs() < 1e-12);
            }
        }
        values.sort_by(f64::total_cmp);
        for (got, expected) in values.iter().zip([1.0, 1.0, 4.0]) {
            assert!((got - expected).abs() < 1e-12, "{values:?}");
        }
    }
}
