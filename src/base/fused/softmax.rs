//! Softmax over attention scores with a visibility mask shared by the heads of a row.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, D, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::{rows_per_block, slice_of};

struct MaskedSoftmax {
    /// `[rows, queries, keys]`, 1 where the query sees the key.
    mask: Arc<Vec<u8>>,
    queries: usize,
    scale: f32,
}

impl CustomOp1 for MaskedSoftmax {
    fn name(&self) -> &'static str {
        "masked-softmax"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let scores = slice_of(storage, layout, "masked-softmax")?;
        let (_, heads, stacked, keys) = layout.shape().dims4()?;
        let rows = rows_per_block(keys);
        let mut probabilities = vec![0f32; scores.len()];
        probabilities
            .par_chunks_mut(rows * keys)
            .zip(scores.par_chunks(rows * keys))
            .enumerate()
            .for_each(|(block, (p, s))| {
                let lines = p.chunks_exact_mut(keys).zip(s.chunks_exact(keys));
                for (i, (p, s)) in lines.enumerate() {
                    let line = block * rows + i;
                    let row = line / (heads * stacked);
                    let query = line % stacked % self.queries;
                    let start = (row * self.queries + query) * keys;
                    softmax_line(p, s, &self.mask[start..start + keys], self.scale);
                }
            });
        Ok((CpuStorage::F32(probabilities), layout.shape().clone()))
    }

    fn bwd(&self, _scores: &Tensor, p: &Tensor, dp: &Tensor) -> Result<Option<Tensor>> {
        p.apply_op2_no_bwd(&dp.contiguous()?, &SoftmaxBackward { scale: self.scale }).map(Some)
    }
}

/// `softmax(scale · scores)` of stacked lines `[n · queries, keys]` under `mask [queries, keys]`.
pub(super) fn softmax_lines(scores: &[f32], mask: &[u8], keys: usize, scale: f32) -> Vec<f32> {
    let mut probabilities = vec![0f32; scores.len()];
    let rows = rows_per_block(keys);
    let queries = mask.len() / keys.max(1);
    probabilities
        .par_chunks_mut(rows * keys)
        .zip(scores.par_chunks(rows * keys))
        .enumerate()
        .for_each(|(block, (p, s))| {
            let lines = p.chunks_exact_mut(keys).zip(s.chunks_exact(keys));
            for (i, (p, s)) in lines.enumerate() {
                let start = (block * rows + i) % queries * keys;
                softmax_line(p, s, &mask[start..start + keys], scale);
            }
        });
    probabilities
}

/// `ds` from `p` and `dp`, lines of `keys` values.
pub(super) fn softmax_backward_lines(p: &[f32], dp: &[f32], keys: usize, scale: f32) -> Vec<f32> {
    let block = rows_per_block(keys) * keys;
    let mut ds = vec![0f32; p.len()];
    ds.par_chunks_mut(block).zip(p.par_chunks(block)).zip(dp.par_chunks(block)).for_each(
        |((ds, p), dp)| {
            let lines = ds.chunks_exact_mut(keys).zip(p.chunks_exact(keys));
            for ((ds, p), dp) in lines.zip(dp.chunks_exact(keys)) {
                let dot: f32 = p.iter().zip(dp).map(|(p, d)| p * d).sum();
                for ((ds, p), dp) in ds.iter_mut().zip(p).zip(dp) {
                    *ds = scale * p * (dp - dot);
                }
            }
        },
    );
    ds
}

fn softmax_line(p: &mut [f32], scores: &[f32], mask: &[u8], scale: f32) {
    let mut largest = f32::NEG_INFINITY;
    for (s, &visible) in scores.iter().zip(mask) {
        if visible != 0 {
            largest = largest.max(s * scale);
        }
    }
    if largest == f32::NEG_INFINITY {
        return; // a padding token sees nothing: all zeros
    }
    let mut sum = 0f32;
    for ((p, s), &visible) in p.iter_mut().zip(scores).zip(mask) {
        if visible != 0 {
            *p = (s * scale - largest).exp();
            sum += *p;
        }
    }
    for p in p {
        *p /= sum;
    }
}

/// `ds = scale · p · (dp − Σ p·dp)`; masked entries have `p = 0` and so no gradient.
struct SoftmaxBackward {
    scale: f32,
}

impl CustomOp2 for SoftmaxBackward {
    fn name(&self) -> &'static str {
        "masked-softmax-backward"
    }

    fn cpu_fwd(
        &self,
        p: &CpuStorage,
        p_layout: &Layout,
        dp: &CpuStorage,
        dp_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let p = slice_of(p, p_layout, "masked-softmax-backward")?;
        let dp = slice_of(dp, dp_layout, "masked-softmax-backward")?;
        let keys = p_layout.shape().dims4()?.3;
        let ds = softmax_backward_lines(p, dp, keys, self.scale);
        Ok((CpuStorage::F32(ds), p_layout.shape().clone()))
    }
}

/// `softmax(scale · scores)` over the keys that `mask` shows.
///
/// `scores [rows, kv_heads, heads_per_kv · queries, keys]`, `mask [rows, queries, keys]` of 0 and 1.
/// A query that sees no key gets zeros.
///
/// # Errors
/// Shapes that do not match.
pub fn masked_softmax(
    scores: &Tensor,
    mask: &Arc<Vec<u8>>,
    queries: usize,
    scale: f32,
) -> Result<Tensor> {
    let scores = scores.contiguous()?;
    if scores.device().is_cpu() {
        return scores.apply_op1(MaskedSoftmax { mask: Arc::clone(mask), queries, scale });
    }
    composed(&scores, mask, queries, scale)
}

pub(super) fn composed(
    scores: &Tensor,
    mask: &Arc<Vec<u8>>,
    queries: usize,
    scale: f32,
) -> Result<Tensor> {
    let (rows, heads, stacked, keys) = scores.dims4()?;
    // A large finite penalty keeps padding rows finite; multiplying by the mask zeroes them.
    let visible: Vec<f32> = mask.iter().map(|&m| f32::from(m)).collect();
    let visible = Tensor::from_vec(visible, (rows, 1, queries, keys), scores.device())?
        .repeat((1, heads, stacked / queries, 1))?;
    let penalty = ((&visible - 1.0)? * 1e9)?;
    let shifted = ((scores * f64::from(scale))? + penalty)?;
    candle_nn::ops::softmax(&shifted, D::Minus1)? * visible
}
