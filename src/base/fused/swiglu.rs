//! The gated activation of the feed-forward block: `silu(gate) · up`.

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::{PARALLEL_BLOCK, slice_of};

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

struct SwiGlu;

impl CustomOp2 for SwiGlu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn cpu_fwd(
        &self,
        gate: &CpuStorage,
        gate_layout: &Layout,
        up: &CpuStorage,
        up_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let gate = slice_of(gate, gate_layout, "swiglu")?;
        let up = slice_of(up, up_layout, "swiglu")?;
        let mut y = vec![0f32; gate.len()];
        y.par_chunks_mut(PARALLEL_BLOCK)
            .zip(gate.par_chunks(PARALLEL_BLOCK))
            .zip(up.par_chunks(PARALLEL_BLOCK))
            .for_each(|((y, gate), up)| {
                for ((y, g), u) in y.iter_mut().zip(gate).zip(up) {
                    *y = g * sigmoid(*g) * u;
                }
            });
        Ok((CpuStorage::F32(y), gate_layout.shape().clone()))
    }

    fn bwd(
        &self,
        gate: &Tensor,
        up: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        // Both gradients come out of one pass, stacked along a new first dimension.
        let both = gate.apply_op3_no_bwd(up, &dy.contiguous()?, &SwiGluBackward)?;
        Ok((Some(both.get(0)?), Some(both.get(1)?)))
    }
}

struct SwiGluBackward;

impl CustomOp3 for SwiGluBackward {
    fn name(&self) -> &'static str {
        "swiglu-backward"
    }

    fn cpu_fwd(
        &self,
        gate: &CpuStorage,
        gate_layout: &Layout,
        up: &CpuStorage,
        up_layout: &Layout,
        dy: &CpuStorage,
        dy_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let gate = slice_of(gate, gate_layout, "swiglu-backward")?;
        let up = slice_of(up, up_layout, "swiglu-backward")?;
        let dy = slice_of(dy, dy_layout, "swiglu-backward")?;
        let mut both = vec![0f32; 2 * gate.len()];
        let (d_gate, d_up) = both.split_at_mut(gate.len());
        d_gate
            .par_chunks_mut(PARALLEL_BLOCK)
            .zip(d_up.par_chunks_mut(PARALLEL_BLOCK))
            .zip(gate.par_chunks(PARALLEL_BLOCK))
            .zip(up.par_chunks(PARALLEL_BLOCK))
            .zip(dy.par_chunks(PARALLEL_BLOCK))
            .for_each(|((((d_gate, d_up), gate), up), dy)| {
                for i in 0..gate.len() {
                    let s = sigmoid(gate[i]);
                    d_gate[i] = dy[i] * up[i] * s * (1.0 + gate[i] * (1.0 - s));
                    d_up[i] = dy[i] * gate[i] * s;
                }
            });
        let mut shape = vec![2];
        shape.extend_from_slice(gate_layout.shape().dims());
        Ok((CpuStorage::F32(both), Shape::from(shape)))
    }
}

/// `gate [..]`, `up [..]` of one shape → `silu(gate) · up`.
///
/// # Errors
/// Shapes that do not match.
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    if gate.device().is_cpu() && gate.shape() == up.shape() {
        return gate.contiguous()?.apply_op2(&up.contiguous()?, SwiGlu);
    }
    composed(gate, up)
}

pub(super) fn composed(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    gate.silu()? * up
}
