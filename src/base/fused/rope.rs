//! Rotary position embedding in the Hugging Face layout: the halves of each head are rotated
//! against each other, `(x₁, x₂) → (x₁·cos − x₂·sin, x₂·cos + x₁·sin)`.
//!
//! A rotation's transpose is its inverse, so the backward pass is the same rotation with `−sin`.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::{rows_per_block, slice_of};

/// `cos` and `sin` of every token of a batch, `[tokens, head_size / 2]` each.
#[derive(Debug, Clone)]
pub struct RotaryTable {
    half: usize,
    cos: Arc<Vec<f32>>,
    sin: Arc<Vec<f32>>,
}

impl RotaryTable {
    /// Table for tokens at the given positions; the angle of pair `i` is
    /// `position · base^(−2i / head_size)`.
    pub fn new(positions: &[u32], head_size: usize, base: f32) -> Self {
        let frequencies: Vec<f32> =
            (0..head_size / 2).map(|i| base.powf(-2.0 * i as f32 / head_size as f32)).collect();
        Self::with_frequencies(positions, &frequencies)
    }

    /// Table for tokens at the given positions; the angle of pair `i` is
    /// `position · frequencies[i]`.
    pub fn with_frequencies(positions: &[u32], frequencies: &[f32]) -> Self {
        let half = frequencies.len();
        let angles = positions
            .iter()
            .flat_map(|&position| frequencies.iter().map(move |f| position as f32 * f));
        let (sin, cos) = angles.map(f32::sin_cos).unzip();
        Self { half, cos: Arc::new(cos), sin: Arc::new(sin) }
    }
}

struct Rope {
    table: RotaryTable,
    heads: usize,
    sign: f32,
}

impl CustomOp1 for Rope {
    fn name(&self) -> &'static str {
        "rope"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = slice_of(storage, layout, "rope")?;
        let half = self.table.half;
        let width = self.heads * 2 * half;
        let rows = rows_per_block(width);
        let mut y = vec![0f32; x.len()];
        y.par_chunks_mut(rows * width)
            .zip(x.par_chunks(rows * width))
            .zip(self.table.cos.par_chunks(rows * half))
            .zip(self.table.sin.par_chunks(rows * half))
            .for_each(|(((y, x), cos), sin)| {
                let tokens = y.chunks_exact_mut(width).zip(x.chunks_exact(width));
                let tables = cos.chunks_exact(half).zip(sin.chunks_exact(half));
                for ((y, x), (cos, sin)) in tokens.zip(tables) {
                    let heads = y.chunks_exact_mut(2 * half).zip(x.chunks_exact(2 * half));
                    for (y, x) in heads {
                        let (x1, x2) = x.split_at(half);
                        let (y1, y2) = y.split_at_mut(half);
                        for i in 0..half {
                            let sin = sin[i] * self.sign;
                            y1[i] = x1[i] * cos[i] - x2[i] * sin;
                            y2[i] = x2[i] * cos[i] + x1[i] * sin;
                        }
                    }
                }
            });
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, _x: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let inverse = Rope { table: self.table.clone(), heads: self.heads, sign: -self.sign };
        dy.contiguous()?.apply_op1_no_bwd(&inverse).map(Some)
    }
}

/// Rotates `x [.., heads · head_size]`, one row per token of `table`.
///
/// # Errors
/// Shapes that do not match.
pub fn rope(x: &Tensor, table: &RotaryTable, heads: usize) -> Result<Tensor> {
    let x = x.contiguous()?;
    if x.device().is_cpu() {
        return x.apply_op1(Rope { table: table.clone(), heads, sign: 1.0 });
    }
    composed(&x, table, heads)
}

pub(super) fn composed(x: &Tensor, table: &RotaryTable, heads: usize) -> Result<Tensor> {
    let half = table.half;
    let factors =
        |values: &Vec<f32>| Tensor::from_slice(values, (values.len() / half, 1, half), x.device());
    let (cos, sin) = (factors(&table.cos)?, factors(&table.sin)?);
    let split = x.reshape(((), heads, 2 * half))?;
    let (x1, x2) = (split.narrow(2, 0, half)?, split.narrow(2, half, half)?);
    let y1 = (x1.broadcast_mul(&cos)? - x2.broadcast_mul(&sin)?)?;
    let y2 = (x2.broadcast_mul(&cos)? + x1.broadcast_mul(&sin)?)?;
    Tensor::cat(&[y1, y2], 2)?.reshape(x.shape())
}
