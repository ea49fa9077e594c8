//! Where the task encoder of a gated hypernetwork starts, and stays.
//!
//! In: embeddings of training descriptions, `[texts, E]`. Out: weight `[K, E]` and bias `[K]` of
//! the map `z = R Σ^(-1/4) (e − μ)`, with their mean `μ` and covariance `Σ`, an `R` of orthonormal
//! columns (or rows, if `K < E`) and a factor that makes the mean square of `z` one.
//!
//! Embeddings of sentences share most of their length, and a few directions have most of what is
//! left. Without the mean, and with every direction's deviation replaced by its root, two
//! descriptions of one task stay alike and those of different tasks become nearly orthogonal, so
//! that what one task's step changes leaves the others alone.

use anyhow::{Result, ensure};
use candle_core::{DType, Device, Tensor};
use rand_chacha::ChaCha8Rng;

use super::init::normal;

/// Added to the covariance's diagonal, in shares of its mean: directions that the texts hardly have
/// are noise.
const RIDGE: f64 = 1e-2;
/// Steps of an iteration that converges quadratically once it is close.
const ITERATIONS: usize = 30;

/// Weight `[width, E]` and bias `[width]` of the map for `embeddings`.
///
/// # Errors
/// Fewer than two embeddings, embeddings of different widths.
pub(super) fn task_encoder(
    embeddings: &[&[f32]],
    width: usize,
    rng: &mut ChaCha8Rng,
) -> Result<(Tensor, Tensor)> {
    ensure!(embeddings.len() > 1, "a task encoder needs at least two descriptions to start from");
    let texts = super::stack_embeddings(embeddings, &Device::Cpu)?.to_dtype(DType::F64)?;
    let inner = texts.dim(1)?;
    let mean = texts.mean_keepdim(0)?;
    let centered = texts.broadcast_sub(&mean)?;
    let covariance = (centered.t()?.matmul(&centered)? / embeddings.len() as f64)?;
    let identity = Tensor::eye(inner, DType::F64, &Device::Cpu)?;
    let trace = (&covariance * &identity)?.sum_all()?.to_scalar::<f64>()?;
    ensure!(trace > 0.0, "all descriptions have the same embedding");
    let ridge = (&identity * (RIDGE * trace / inner as f64))?;
    let (root, _) = roots(&(&covariance + ridge)?)?;
    let (_, inverse_fourth_root) = roots(&root)?;
    let directions = orthonormal(width, inner, rng)?;
    let weight = directions.matmul(&inverse_fourth_root)?;
    let spread = weight.matmul(&covariance)?.mul(&weight)?.sum_all()?.to_scalar::<f64>()?;
    let weight = (weight * (width as f64 / spread).sqrt())?;
    let bias = weight.matmul(&mean.t()?)?.neg()?.flatten_all()?;
    Ok((weight.to_dtype(DType::F32)?, bias.to_dtype(DType::F32)?))
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
fn roots(matrix: &Tensor) -> Result<(Tensor, Tensor)> {
    let size = matrix.dim(0)?;
    let norm = matrix.sqr()?.sum_all()?.sqrt()?.to_scalar::<f64>()?;
    let three = (Tensor::eye(size, DType::F64, &Device::Cpu)? * 3.0)?;
    let (mut root, mut inverse) = ((matrix / norm)?, Tensor::eye(size, DType::F64, &Device::Cpu)?);
    for _ in 0..ITERATIONS {
        let step = ((&three - inverse.matmul(&root)?)? * 0.5)?;
        root = root.matmul(&step)?;
        inverse = step.matmul(&inverse)?;
    }
    Ok(((root * norm.sqrt())?, (inverse / norm.sqrt())?))
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Tensor};
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::super::stack_embeddings;
    use super::{orthonormal, roots, task_encoder};

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
            pairs.for_each(|(got, want)| assert!((got - want).abs() < 1e-9, "{got}, not {want}"));
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
                assert!((got - want).abs() < 1e-9, "{rows}×{columns}: {got}, expected {want}");
            }
        }
    }

    #[test]
    fn what_texts_share_is_gone_and_each_direction_keeps_its_root() {
        // Deviations 4, 1 and 0.25 about a mean that is longer than all of them.
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let mut deviate = |size: f32| size * rng.random_range(-1.73_f32..1.73);
        let texts: Vec<[f32; 3]> = (0..4000)
            .map(|_| [9.0 + deviate(4.0), -7.0 + deviate(1.0), 5.0 + deviate(0.25)])
            .collect();
        let rows: Vec<&[f32]> = texts.iter().map(<[f32; 3]>::as_slice).collect();
        let mut rng = ChaCha8Rng::seed_from_u64(4);
        let (weight, bias) = task_encoder(&rows, 6, &mut rng).unwrap();
        assert_eq!((weight.dims(), bias.dims()), (&[6, 3][..], &[6][..]));
        let inputs = stack_embeddings(&rows, &Device::Cpu).unwrap();
        let projected = inputs.matmul(&weight.t().unwrap()).unwrap();
        let projected = projected.broadcast_add(&bias).unwrap();
        let square = projected.sqr().unwrap().mean_all().unwrap().to_scalar::<f32>().unwrap();
        assert!((square - 1.0).abs() < 1e-3, "mean square {square}");
        let mean = projected.mean(0).unwrap().abs().unwrap().max(0).unwrap();
        assert!(mean.to_scalar::<f32>().unwrap() < 1e-3);
        // Wᵀ W is Σ^(-1/2) up to a factor, of which the ridge takes most at the least deviation.
        let shape = values(&weight.t().unwrap().matmul(&weight).unwrap());
        assert!((shape[4] / shape[0] - 4.0).abs() < 0.3, "{shape:?}");
        assert!(shape[8] / shape[0] > 7.0, "{shape:?}");
        assert!(shape[1].abs() < 0.05 * shape[0], "{shape:?}");
    }

    #[test]
    fn texts_that_are_all_alike_are_refused() {
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        for rows in [vec![], vec![[1.0_f32, 2.0]], vec![[1.0, 2.0]; 3]] {
            let rows: Vec<&[f32]> = rows.iter().map(<[f32; 2]>::as_slice).collect();
            task_encoder(&rows, 4, &mut rng).unwrap_err();
        }
    }
}
