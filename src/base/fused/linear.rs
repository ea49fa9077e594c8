//! `y = x Wᵀ` with a frozen `W`: the backward pass is `dx = dy W`, and `dW` is never computed.

use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, Layout, MetalStorage, Result, Shape, Storage, Tensor, bail,
};

struct FrozenLinear {
    /// `[out, in]`
    weight: Tensor,
}

impl FrozenLinear {
    fn multiply<S: BackendStorage>(
        &self,
        x: &S,
        layout: &Layout,
        weight: &S,
    ) -> Result<(S, Shape)> {
        let (rows, inner) = layout.shape().dims2()?;
        let (out, _) = self.weight.dims2()?;
        let transposed = self.weight.layout().transpose(0, 1)?;
        let y = x.matmul(weight, (1, rows, out, inner), layout, &transposed)?;
        Ok((y, Shape::from((rows, out))))
    }
}

impl CustomOp1 for FrozenLinear {
    fn name(&self) -> &'static str {
        "frozen-linear"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        match &*self.weight.storage_and_layout().0 {
            Storage::Cpu(weight) => self.multiply(x, layout, weight),
            _ => bail!("frozen-linear: the weight is not on the device of its input"),
        }
    }

    fn cuda_fwd(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        match &*self.weight.storage_and_layout().0 {
            Storage::Cuda(weight) => self.multiply(x, layout, weight),
            _ => bail!("frozen-linear: the weight is not on the device of its input"),
        }
    }

    fn metal_fwd(&self, x: &MetalStorage, layout: &Layout) -> Result<(MetalStorage, Shape)> {
        match &*self.weight.storage_and_layout().0 {
            Storage::Metal(weight) => self.multiply(x, layout, weight),
            _ => bail!("frozen-linear: the weight is not on the device of its input"),
        }
    }

    fn bwd(&self, _x: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        dy.contiguous()?.matmul(&self.weight).map(Some)
    }
}

/// `x [.., in] · weight [out, in]ᵀ → [.., out]`; gradients reach `x` only.
///
/// # Errors
/// Shapes that do not match, or tensors on different devices.
pub fn frozen_linear(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let (out, inner) = weight.dims2()?;
    let mut shape = x.dims().to_vec();
    match shape.last_mut() {
        Some(last) if *last == inner => *last = out,
        _ => bail!("frozen-linear: input {:?}, weight [{out}, {inner}]", x.dims()),
    }
    x.contiguous()?
        .reshape(((), inner))?
        .apply_op1(FrozenLinear { weight: weight.clone() })?
        .reshape(shape)
}
