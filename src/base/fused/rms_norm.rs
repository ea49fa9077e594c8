//! Root-mean-square normalization: `y = x / sqrt(mean(x²) + eps) · w` over the last dimension.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, D, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::{rows_per_block, slice_of};

#[derive(Clone)]
struct RmsNorm {
    weight: Vec<f32>,
    eps: f32,
}

fn inverse_rms(row: &[f32], eps: f32) -> f32 {
    let squares: f32 = row.iter().map(|x| x * x).sum();
    1.0 / (squares / row.len() as f32 + eps).sqrt()
}

impl CustomOp1 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = slice_of(storage, layout, "rms-norm")?;
        let width = self.weight.len();
        let block = rows_per_block(width) * width;
        let mut y = vec![0f32; x.len()];
        y.par_chunks_mut(block).zip(x.par_chunks(block)).for_each(|(y, x)| {
            for (y, x) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
                let scale = inverse_rms(x, self.eps);
                for ((y, x), w) in y.iter_mut().zip(x).zip(&self.weight) {
                    *y = x * scale * w;
                }
            }
        });
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        x.apply_op2_no_bwd(&dy.contiguous()?, &RmsNormBackward(self.clone())).map(Some)
    }
}

/// `dx = s·(w·dy) − x·s³/n·Σ(w·dy·x)` with `s` the inverse root mean square.
struct RmsNormBackward(RmsNorm);

impl CustomOp2 for RmsNormBackward {
    fn name(&self) -> &'static str {
        "rms-norm-backward"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        dy: &CpuStorage,
        dy_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let RmsNorm { weight, eps } = &self.0;
        let x = slice_of(x, x_layout, "rms-norm-backward")?;
        let dy = slice_of(dy, dy_layout, "rms-norm-backward")?;
        let width = weight.len();
        let block = rows_per_block(width) * width;
        let mut dx = vec![0f32; x.len()];
        dx.par_chunks_mut(block).zip(x.par_chunks(block)).zip(dy.par_chunks(block)).for_each(
            |((dx, x), dy)| {
                let rows = dx.chunks_exact_mut(width).zip(x.chunks_exact(width));
                for ((dx, x), dy) in rows.zip(dy.chunks_exact(width)) {
                    let scale = inverse_rms(x, *eps);
                    let dot: f32 = x.iter().zip(dy).zip(weight).map(|((x, d), w)| x * d * w).sum();
                    let pull = dot * scale * scale * scale / width as f32;
                    for (((dx, x), dy), w) in dx.iter_mut().zip(x).zip(dy).zip(weight) {
                        *dx = scale * w * dy - pull * x;
                    }
                }
            },
        );
        Ok((CpuStorage::F32(dx), x_layout.shape().clone()))
    }
}

/// `x [.., n]`, `weight [n]` → `[.., n]`; gradients reach `x` only.
///
/// # Errors
/// Shapes that do not match.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
    let x = x.contiguous()?;
    if x.device().is_cpu() && x.dim(D::Minus1)? == weight.elem_count() {
        return x.apply_op1(RmsNorm { weight: weight.to_vec1()?, eps });
    }
    composed(&x, weight, eps)
}

pub(super) fn composed(x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
    let mean = x.sqr()?.mean_keepdim(D::Minus1)?;
    x.broadcast_div(&(mean + f64::from(eps))?.sqrt()?)?.broadcast_mul(weight)
}
