//! Distances between products ΔW = B A, of which only a few at a time are ever in memory.
//!
//! In: generated and target matrices of one module, rows being tasks times layers: A
//! `[rows, rank, in]`, Bᵀ `[rows, rank, out]`. Out: distances of the products `[out, in]`. The
//! difference of two products is one product of twice the rank, `[B̂, −B] [Â; A]`.

use anyhow::Result;
use candle_core::{DType, Tensor};

use crate::base::adapter::LoraPair;

/// Elements of ΔW in memory at a time (64 MiB), unless a single row has more.
const CHUNK_ELEMENTS: usize = 1 << 24;

/// A and Bᵀ `[tasks, layers, rank, ·]` as `[tasks · layers, rank, ·]`.
pub(super) fn flatten(a: &Tensor, b_transposed: &Tensor) -> Result<LoraPair> {
    let rows = |x: &Tensor| x.contiguous()?.flatten(0, 1);
    Ok(LoraPair { a: rows(a)?, b_transposed: rows(b_transposed)? })
}

/// Mean of |B̂Â − BA| over all rows and entries, and its gradient with respect to Â and B̂ᵀ.
pub(super) fn mean_absolute_difference(
    generated: &LoraPair,
    target: &LoraPair,
) -> Result<(f64, LoraPair)> {
    let (rows, _, inputs) = generated.a.dims3()?;
    let per_row = inputs.saturating_mul(generated.b_transposed.dim(2)?).max(1);
    mean_in_chunks(generated, target, (CHUNK_ELEMENTS / per_row).clamp(1, rows.max(1)))
}

fn mean_in_chunks(
    generated: &LoraPair,
    target: &LoraPair,
    chunk: usize,
) -> Result<(f64, LoraPair)> {
    let (rows, _, inputs) = generated.a.dims3()?;
    let count = (rows * inputs * generated.b_transposed.dim(2)?) as f64;
    let (mut sum, mut slopes_a, mut slopes_b) = (0.0, Vec::new(), Vec::new());
    for start in (0..rows).step_by(chunk) {
        let part = |pair: &LoraPair| -> Result<LoraPair> {
            let cut = |x: &Tensor| x.detach().narrow(0, start, chunk.min(rows - start));
            Ok(LoraPair { a: cut(&pair.a)?, b_transposed: cut(&pair.b_transposed)? })
        };
        let (generated, target) = (part(generated)?, part(target)?);
        let LoraPair { a, b_transposed } = difference(&generated, &target)?;
        let products = b_transposed.transpose(1, 2)?.matmul(&a)?;
        let total = products.abs()?.sum(2)?.to_dtype(DType::F64)?.sum_all()?;
        sum += total.to_scalar::<f64>()?;
        let slope = (products.sign()? / count)?;
        slopes_a.push(generated.b_transposed.matmul(&slope)?);
        slopes_b.push(generated.a.matmul(&slope.transpose(1, 2)?)?);
    }
    let slopes =
        LoraPair { a: Tensor::cat(&slopes_a, 0)?, b_transposed: Tensor::cat(&slopes_b, 0)? };
    Ok((sum / count, slopes))
}

/// Sum of the squared entries of B̂Â − BA and of BA over all rows, without the products.
pub(super) fn squared_norms(generated: &LoraPair, target: &LoraPair) -> Result<(f64, f64)> {
    // ‖BA‖² = Σ (BᵀB) ∘ (AAᵀ), in f64 because the terms of a small difference cancel.
    let squared = |pair: &LoraPair| -> Result<f64> {
        let gram = |x: &Tensor| -> Result<Tensor> {
            let x = x.detach().to_dtype(DType::F64)?;
            Ok(x.matmul(&x.transpose(1, 2)?)?)
        };
        let (of_a, of_b) = (gram(&pair.a)?, gram(&pair.b_transposed)?);
        Ok((of_a * of_b)?.sum_all()?.to_scalar::<f64>()?.max(0.0))
    };
    Ok((squared(&difference(generated, target)?)?, squared(target)?))
}

/// The pair of twice the rank whose product is the difference of the two products.
fn difference(generated: &LoraPair, target: &LoraPair) -> Result<LoraPair> {
    Ok(LoraPair {
        a: Tensor::cat(&[&generated.a, &target.a], 1)?,
        b_transposed: Tensor::cat(&[&generated.b_transposed, &target.b_transposed.neg()?], 1)?,
    })
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor, Var};

    use super::{mean_in_chunks, squared_norms};
    use crate::base::adapter::LoraPair;

    fn pair(seed: f32, rows: usize) -> LoraPair {
        let values = |width: usize| {
            let count = rows * 2 * width;
            let values: Vec<f32> = (0..count).map(|i| (i as f32 * seed + seed).sin()).collect();
            Tensor::from_vec(values, (rows, 2, width), &Device::Cpu).unwrap()
        };
        LoraPair { a: values(5), b_transposed: values(7) }
    }

    fn product(pair: &LoraPair) -> Tensor {
        pair.b_transposed.transpose(1, 2).unwrap().matmul(&pair.a).unwrap()
    }

    fn flat(x: &Tensor) -> Vec<f32> {
        x.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn loss_and_gradient_are_those_of_the_whole_products() {
        let (generated, target) = (pair(0.7, 5), pair(1.3, 5));
        let a = Var::from_tensor(&generated.a).unwrap();
        let b = Var::from_tensor(&generated.b_transposed).unwrap();
        let whole = LoraPair { a: a.as_tensor().clone(), b_transposed: b.as_tensor().clone() };
        let loss = (product(&whole) - product(&target)).unwrap().abs().unwrap();
        let loss = loss.mean_all().unwrap();
        let expected = loss.backward().unwrap();
        for chunk in [1, 2, 5] {
            let (mean, slopes) = mean_in_chunks(&generated, &target, chunk).unwrap();
            assert!((mean - f64::from(loss.to_scalar::<f32>().unwrap())).abs() < 1e-6);
            for (got, var) in [(&slopes.a, &a), (&slopes.b_transposed, &b)] {
                let want = flat(expected.get(var).unwrap());
                for (got, want) in flat(got).iter().zip(&want) {
                    assert!((got - want).abs() < 1e-6, "chunk {chunk}: {got}, expected {want}");
                }
            }
        }
    }

    #[test]
    fn norms_need_no_products() {
        let (generated, target) = (pair(0.7, 3), pair(1.3, 3));
        let sum = |x: Tensor| flat(&x.sqr().unwrap()).iter().map(|v| f64::from(*v)).sum::<f64>();
        let (difference, norm) = squared_norms(&generated, &target).unwrap();
        let expected = sum((product(&generated) - product(&target)).unwrap());
        assert!((difference / expected - 1.0).abs() < 1e-5);
        assert!((norm / sum(product(&target)) - 1.0).abs() < 1e-5);
        let (difference, norm) = squared_norms(&target, &target).unwrap();
        assert!(difference < 1e-9 * norm);
    }
}
