//! Where the task encoder of a gated hypernetwork starts, and stays.
//!
//! In: embeddings of training descriptions by task. Out: weight `[K, E]` and bias `[K]` of the map
//! `z = R T^(3/4) (T + W)^(-1) (e − μ)`, with the covariance `T` of the tasks' mean embeddings, their
//! mean `μ`, the mean covariance `W` of a task's wordings, an `R` of orthonormal columns (or rows, if
//! `K < E`) and a factor that makes the mean square of `z` one.
//!
//! `T (T + W)^(-1) (e − μ)` is where a task of this wording is expected to be: directions in which
//! wordings differ more than tasks are left out. `T^(-1/4)` replaces the deviation between tasks by
//! its root, in each direction, as a few directions have most of it. Wordings of a task are to stay
//! alike, and different tasks to become nearly orthogonal.

use anyhow::{Result, bail};
use candle_core::{DType, Device, Tensor};
use rand_chacha::ChaCha8Rng;

use super::init::normal;
use super::stack_embeddings;

/// Added to the diagonal of `T`, in shares of its mean: in some directions no task differs.
const RIDGE: f64 = 1e-2;
/// Least deviation between tasks, as a share of the embeddings' length: below it is rounding.
const LEAST_SHARE: f64 = 1e-8;
/// Steps of an iteration that converges quadratically once it is close, at most.
const ITERATIONS: usize = 100;
/// Distance from the identity, per row, at which one more step is enough.
const CLOSE: f64 = 1e-8;

/// Weight `[width, E]` and bias `[width]` of the map for the descriptions of `tasks`; `None` if
/// there are not two tasks that differ.
///
/// # Errors
/// Embeddings of different widths.
pub(super) fn task_encoder(
    tasks: &[Vec<Vec<f32>>],
    width: usize,
    rng: &mut ChaCha8Rng,
) -> Result<Option<(Tensor, Tensor)>> {
    let (mut means, mut deviations) = (Vec::new(), Vec::new());
    for wordings in tasks.iter().filter(|wordings| !wordings.is_empty()) {
        let rows: Vec<&[f32]> = wordings.iter().map(Vec::as_slice).collect();
        let wordings = stack_embeddings(&rows, &Device::Cpu)?.to_dtype(DType::F64)?;
        let mean = wordings.mean_keepdim(0)?;
        deviations.push(wordings.broadcast_sub(&mean)?);
        means.push(mean);
    }
    if means.len() < 2 {
        return Ok(None);
    }
    let (means, deviations) = (Tensor::cat(&means, 0)?, Tensor::cat(&deviations, 0)?);
    let inner = means.dim(1)?;
    let mean = means.mean_keepdim(0)?;
    let between = covariance(&means.broadcast_sub(&mean)?, means.dim(0)?)?;
    let freedom = deviations.dim(0)? - means.dim(0)?;
    let within = covariance(&deviations, freedom.max(1))?;
    let identity = Tensor::eye(inner, DType::F64, &Device::Cpu)?;
    let trace = (&between * &identity)?.sum_all()?.to_scalar::<f64>()?;
    let length = means.sqr()?.sum_all()?.to_scalar::<f64>()? / means.dim(0)? as f64;
    if trace <= LEAST_SHARE * length {
        return Ok(None);
    }
    let between = (between + (identity * (RIDGE * trace / inner as f64))?)?;
    let all = (&between + within)?;
    let (root, _) = roots(&between)?;
    let (fourth_root, _) = roots(&root)?;
    let (_, inverse_root) = roots(&all)?;
    let expected = root.matmul(&fourth_root)?.matmul(&inverse_root)?.matmul(&inverse_root)?;
    let weight = orthonormal(width, inner, rng)?.matmul(&expected)?;
    let square = weight.matmul(&all)?.mul(&weight)?.sum_all()?.to_scalar::<f64>()?;
    let weight = (weight * (width as f64 / square).sqrt())?;
    let bias = weight.matmul(&mean.t()?)?.neg()?.flatten_all()?;
    Ok(Some((weight.to_dtype(DType::F32)?, bias.to_dtype(DType::F32)?)))
}

/// `xᵀ x / freedom` of rows without their mean.
fn covariance(rows: &Tensor, freedom: usize) -> Result<Tensor> {
    Ok((rows.t()?.matmul(rows)? / freedom as f64)?)
}

/// `[rows, columns]` with orthonormal columns or, where they are more than the rows, rows.
fn orthonormal(rows: usize, columns: usize, rng: &mut ChaCha8Rng) -> Result<Tensor> {
    let values: Vec<f64> = (0..rows * columns).map(|_| f64::from(normal(rng))).collect();
    let drawn = Tensor::from_vec(values, (rows, columns), &Device::Cpu)?;
    let tall = if rows < columns { drawn.t()?.contiguous()? } else { drawn };
    let (_, inverse_root) = roots(&tall.t()?.matmul(&tall)?)?;
    let tall = tall.matmul(&inverse_root)?;
    Ok(if rows < columns { tall.t()?.contiguous()? } else { tall })
}

/// Square root of a symmetric positive matrix, and the inverse of that root, by the coupled
/// iteration of Newton and Schulz (Higham, Functions of Matrices, 2008, section 6.7).
///
/// # Errors
/// A matrix that is too nearly singular.
fn roots(matrix: &Tensor) -> Result<(Tensor, Tensor)> {
    let size = matrix.dim(0)?;
    let norm = matrix.sqr()?.sum_all()?.sqrt()?.to_scalar::<f64>()?;
    let identity = Tensor::eye(size, DType::F64, &Device::Cpu)?;
    let (mut root, mut inverse) = ((matrix / norm)?, identity.clone());
    for _ in 0..ITERATIONS {
        // The product tends to the identity.
        let rest = (&identity - inverse.matmul(&root)?)?;
        let distance = rest.sqr()?.sum_all()?.sqrt()?.to_scalar::<f64>()?;
        let step = (&identity + (rest * 0.5)?)?;
        root = root.matmul(&step)?;
        inverse = step.matmul(&inverse)?;
        if distance < CLOSE * size as f64 {
            return Ok(((root * norm.sqrt())?, (inverse / norm.sqrt())?));
        }
    }
    bail!("a matrix of {size} rows is too nearly singular to have its root taken");
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Tensor};
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::{orthonormal, roots, stack_embeddings, task_encoder};

    fn values(tensor: &Tensor) -> Vec<f64> {
        tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn roots_multiply_to_the_matrix_and_to_one() {
        let matrix = [[4.0, 1.0, 0.0], [1.0, 3.0, -0.5], [0.0, -0.5, 0.01 + 0.25]];
        let matrix = Tensor::new(&matrix, &Device::Cpu).unwrap();
        let (root, inverse) = roots(&matrix).unwrap();
        let near = |got: &Tensor, want: &Tensor| {
            let pairs = values(got).into_iter().zip(values(want));
            pairs.for_each(|(got, want)| assert!((got - want).abs() < 1e-8, "{got}, not {want}"));
        };
        near(&root.matmul(&root).unwrap(), &matrix);
        near(&root.matmul(&inverse).unwrap(), &Tensor::eye(3, DType::F64, &Device::Cpu).unwrap());
    }

    #[test]
    fn directions_are_orthonormal_whichever_are_fewer() {
        for (rows, columns) in [(7, 3), (3, 7), (5, 5)] {
            let drawn = orthonormal(rows, columns, &mut ChaCha8Rng::seed_from_u64(2)).unwrap();
            assert_eq!(drawn.dims(), [rows, columns]);
            let turned = drawn.t().unwrap().contiguous().unwrap();
            let gram = if rows < columns { drawn.matmul(&turned) } else { turned.matmul(&drawn) };
            for (place, got) in values(&gram.unwrap()).into_iter().enumerate() {
                let want = if place % (rows.min(columns) + 1) == 0 { 1.0 } else { 0.0 };
                assert!((got - want).abs() < 1e-8, "{rows}×{columns}: {got}, expected {want}");
            }
        }
    }

    /// Tasks whose means deviate by 4, 1 and 0.25 from a mean that is longer than all of them, with
    /// wordings that deviate by `noise` from the task's.
    fn tasks(noise: [f32; 3]) -> Vec<Vec<[f32; 3]>> {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let mut about = |[a, b, c]: [f32; 3], [x, y, z]: [f32; 3]| {
            let mut deviate = |size: f32| size * rng.random_range(-1.732_f32..1.732);
            [a + deviate(x), b + deviate(y), c + deviate(z)]
        };
        let task = |_| {
            let mean = about([9.0, -7.0, 5.0], [4.0, 1.0, 0.25]);
            (0..10).map(|_| about(mean, noise)).collect()
        };
        (0..2000).map(task).collect()
    }

    fn encoder(tasks: &[Vec<[f32; 3]>]) -> (Tensor, Tensor) {
        let rows: Vec<Vec<Vec<f32>>> = tasks
            .iter()
            .map(|wordings| wordings.iter().map(|text| text.to_vec()).collect())
            .collect();
        task_encoder(&rows, 6, &mut ChaCha8Rng::seed_from_u64(4)).unwrap().unwrap()
    }

    #[test]
    fn what_tasks_share_is_gone_and_what_is_left_has_a_mean_square_of_one() {
        let tasks = tasks([1.0, 0.5, 0.5]);
        let (weight, bias) = encoder(&tasks);
        assert_eq!((weight.dims(), bias.dims()), (&[6, 3][..], &[6][..]));
        let texts: Vec<&[f32]> = tasks.iter().flatten().map(<[f32; 3]>::as_slice).collect();
        let inputs = stack_embeddings(&texts, &Device::Cpu).unwrap();
        let projected = inputs.matmul(&weight.t().unwrap()).unwrap();
        let projected = projected.broadcast_add(&bias).unwrap();
        let square = projected.sqr().unwrap().mean_all().unwrap().to_scalar::<f32>().unwrap();
        assert!((square - 1.0).abs() < 0.05, "mean square {square}");
        let mean = projected.mean(0).unwrap().abs().unwrap().max(0).unwrap();
        assert!(mean.to_scalar::<f32>().unwrap() < 1e-3);
    }

    #[test]
    fn each_direction_keeps_the_root_of_its_deviation_and_wordings_are_left_out() {
        // Wᵀ W is the square of what is done to a deviation in each direction.
        let done = |noise| {
            let (weight, _) = encoder(&tasks(noise));
            let squares = values(&weight.t().unwrap().matmul(&weight).unwrap());
            assert!(squares[1].abs() < 0.05 * squares[0], "{squares:?}");
            (squares[4] / squares[0]).sqrt()
        };
        // (4 / 1)^½, and half of it where wordings vary as much as tasks do.
        assert!((done([0.0; 3]) - 2.0).abs() < 0.1, "{}", done([0.0; 3]));
        assert!((done([0.0, 1.0, 0.0]) - 1.0).abs() < 0.1, "{}", done([0.0, 1.0, 0.0]));
    }

    #[test]
    fn tasks_that_are_all_alike_need_no_projection() {
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let one = || vec![1.0, 2.0];
        let wordings = vec![one(), vec![3.0, 4.0]];
        for tasks in [vec![], vec![wordings], vec![vec![one()], vec![one()], vec![]]] {
            assert!(task_encoder(&tasks, 4, &mut rng).unwrap().is_none());
        }
    }
}
