//! Cross-entropy of each row of logits, with label smoothing, without a second `[n, vocab]` tensor.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, D, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::slice_of;

#[derive(Clone)]
struct CrossEntropy {
    targets: Arc<Vec<u32>>,
    smoothing: f32,
}

/// Largest logit and `log Σ exp(logit)`.
fn log_sum_exp(row: &[f32]) -> f32 {
    let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    largest + row.iter().map(|x| (x - largest).exp()).sum::<f32>().ln()
}

impl CustomOp1 for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross-entropy"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let logits = slice_of(storage, layout, "cross-entropy")?;
        let (rows, vocab) = layout.shape().dims2()?;
        let losses = logits
            .par_chunks_exact(vocab)
            .zip(self.targets.par_iter())
            .map(|(row, &target)| {
                let mean = row.iter().sum::<f32>() / vocab as f32;
                let expected =
                    (1.0 - self.smoothing) * row[target as usize] + self.smoothing * mean;
                log_sum_exp(row) - expected
            })
            .collect();
        Ok((CpuStorage::F32(losses), Shape::from(rows)))
    }

    fn bwd(&self, logits: &Tensor, _loss: &Tensor, d_loss: &Tensor) -> Result<Option<Tensor>> {
        logits
            .apply_op2_no_bwd(&d_loss.contiguous()?, &CrossEntropyBackward(self.clone()))
            .map(Some)
    }
}

/// `d logit = d loss · (softmax − (1 − ε)·onehot − ε / vocab)`.
struct CrossEntropyBackward(CrossEntropy);

impl CustomOp2 for CrossEntropyBackward {
    fn name(&self) -> &'static str {
        "cross-entropy-backward"
    }

    fn cpu_fwd(
        &self,
        logits: &CpuStorage,
        logits_layout: &Layout,
        d_loss: &CpuStorage,
        d_loss_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let logits = slice_of(logits, logits_layout, "cross-entropy-backward")?;
        let d_loss = slice_of(d_loss, d_loss_layout, "cross-entropy-backward")?;
        let CrossEntropy { targets, smoothing } = &self.0;
        let vocab = logits_layout.shape().dims2()?.1;
        let mut gradient = vec![0f32; logits.len()];
        gradient
            .par_chunks_exact_mut(vocab)
            .zip(logits.par_chunks_exact(vocab))
            .zip(targets.par_iter().zip(d_loss))
            .for_each(|((gradient, row), (&target, d_loss))| {
                let total = log_sum_exp(row);
                let uniform = smoothing / vocab as f32;
                for (g, x) in gradient.iter_mut().zip(row) {
                    *g = d_loss * ((x - total).exp() - uniform);
                }
                gradient[target as usize] -= d_loss * (1.0 - smoothing);
            });
        Ok((CpuStorage::F32(gradient), logits_layout.shape().clone()))
    }
}

/// `logits [n, vocab]`, `targets [n]` → losses `[n]` in nats.
///
/// # Errors
/// Shapes that do not match, or a target outside the vocabulary.
pub fn cross_entropy(logits: &Tensor, targets: &Arc<Vec<u32>>, smoothing: f32) -> Result<Tensor> {
    let (rows, vocab) = logits.dims2()?;
    if targets.len() != rows || targets.iter().any(|&t| t as usize >= vocab) {
        candle_core::bail!("cross-entropy: {} targets for {rows} rows of {vocab}", targets.len());
    }
    if logits.device().is_cpu() {
        let op = CrossEntropy { targets: Arc::clone(targets), smoothing };
        return logits.contiguous()?.apply_op1(op);
    }
    composed(logits, targets, smoothing)
}

pub(super) fn composed(logits: &Tensor, targets: &Arc<Vec<u32>>, smoothing: f32) -> Result<Tensor> {
    let log_p = candle_nn::ops::log_softmax(logits, D::Minus1)?;
    let targets = Tensor::from_slice(targets, (targets.len(), 1), logits.device())?;
    let hit = log_p.gather(&targets, 1)?.squeeze(1)?;
    let mean = log_p.mean(D::Minus1)?;
    ((hit * -f64::from(1.0 - smoothing))? - (mean * f64::from(smoothing))?)?.contiguous()
}
