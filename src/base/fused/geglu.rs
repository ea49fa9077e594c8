//! The gated activation of Gemma's feed-forward block: `gelu(gate) · up`, GELU in its tanh
//! approximation, `gelu(x) = x/2 · (1 + tanh(√(2/π)·(x + 0.044715·x³)))`.

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::{PARALLEL_BLOCK, slice_of};

/// `√(2/π)`
const SLOPE: f32 = 0.797_884_6;
const CUBIC: f32 = 0.044_715;

/// `(1 + tanh(…)) / 2`, the share of `x` that passes.
fn share(x: f32) -> f32 {
    0.5 * (1.0 + (SLOPE * (x + CUBIC * x * x * x)).tanh())
}

/// Derivative of `x · share(x)`.
fn slope(x: f32, share: f32) -> f32 {
    // With t = tanh(u): t' = (1 − t²)·u', and 1 − t² = 4·share·(1 − share).
    share + 2.0 * x * share * (1.0 - share) * SLOPE * (1.0 + 3.0 * CUBIC * x * x)
}

struct GeGlu;

impl CustomOp2 for GeGlu {
    fn name(&self) -> &'static str {
        "geglu"
    }

    fn cpu_fwd(
        &self,
        gate: &CpuStorage,
        gate_layout: &Layout,
        up: &CpuStorage,
        up_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let gate = slice_of(gate, gate_layout, "geglu")?;
        let up = slice_of(up, up_layout, "geglu")?;
        let mut y = vec![0f32; gate.len()];
        y.par_chunks_mut(PARALLEL_BLOCK)
            .zip(gate.par_chunks(PARALLEL_BLOCK))
            .zip(up.par_chunks(PARALLEL_BLOCK))
            .for_each(|((y, gate), up)| {
                for ((y, g), u) in y.iter_mut().zip(gate).zip(up) {
                    *y = g * share(*g) * u;
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
        let both = gate.apply_op3_no_bwd(up, &dy.contiguous()?, &GeGluBackward)?;
        Ok((Some(both.get(0)?), Some(both.get(1)?)))
    }
}

struct GeGluBackward;

impl CustomOp3 for GeGluBackward {
    fn name(&self) -> &'static str {
        "geglu-backward"
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
        let gate = slice_of(gate, gate_layout, "geglu-backward")?;
        let up = slice_of(up, up_layout, "geglu-backward")?;
        let dy = slice_of(dy, dy_layout, "geglu-backward")?;
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
                    let share = share(gate[i]);
                    d_gate[i] = dy[i] * up[i] * slope(gate[i], share);
                    d_up[i] = dy[i] * gate[i] * share;
                }
            });
        let mut shape = vec![2];
        shape.extend_from_slice(gate_layout.shape().dims());
        Ok((CpuStorage::F32(both), Shape::from(shape)))
    }
}

/// `gate [..]`, `up [..]` of one shape → `gelu(gate) · up`.
///
/// # Errors
/// Shapes that do not match.
pub fn geglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    if gate.device().is_cpu() && gate.shape() == up.shape() {
        return gate.contiguous()?.apply_op2(&up.contiguous()?, GeGlu);
    }
    gate.gelu()? * up
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Result, Tensor, Var};

    use super::{geglu, share, slope};

    #[test]
    fn the_value_is_that_of_the_composition() -> Result<()> {
        let gate = Tensor::randn(0f32, 2.0, (5, 6), &Device::Cpu)?;
        let up = Tensor::randn(0f32, 1.0, (5, 6), &Device::Cpu)?;
        let difference = (geglu(&gate, &up)? - (gate.gelu()? * &up)?)?;
        let largest = difference.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?;
        assert!(largest < 1e-5, "{largest}");
        Ok(())
    }

    #[test]
    fn the_gradients_are_the_slopes() -> Result<()> {
        for x in [-3.0_f32, -0.7, 0.0, 0.4, 2.5] {
            let step = 1e-2;
            let rise = (x + step) * share(x + step) - (x - step) * share(x - step);
            assert!((slope(x, share(x)) - rise / (2.0 * step)).abs() < 1e-3, "{x}");
            let gate = Var::new(&[x], &Device::Cpu)?;
            let up = Var::new(&[3.0_f32], &Device::Cpu)?;
            let gradients = geglu(gate.as_tensor(), up.as_tensor())?.sum_all()?.backward()?;
            let of = |of: &Var| gradients.get(of.as_tensor()).unwrap().to_vec1::<f32>();
            assert!((of(&gate)?[0] - 3.0 * slope(x, share(x))).abs() < 1e-5, "{x}");
            assert!((of(&up)?[0] - x * share(x)).abs() < 1e-5, "{x}");
        }
        Ok(())
    }
}
