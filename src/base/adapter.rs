//! Adapters as the frozen decoder applies them: one pair of matrices per row, layer and module.

use std::collections::BTreeMap;

use candle_core::{Result, Tensor};

/// `lora_a` and the transpose of `lora_b` of one layer and module, for every row of a batch.
#[derive(Debug, Clone)]
pub struct LoraPair {
    /// `[rows, rank, in]`
    pub a: Tensor,
    /// `[rows, rank, out]`, that is `lora_b` transposed.
    pub b_transposed: Tensor,
}

/// The adapters of a batch: row `i` of the batch is computed with matrices `i`.
#[derive(Debug, Clone)]
pub struct LoraBatch {
    /// Per module name, one pair per layer.
    pub pairs: BTreeMap<String, Vec<LoraPair>>,
    /// Factor on `B A x`.
    pub scale: f64,
}

impl LoraBatch {
    /// `scale · x Aᵀ Bᵀ` for `x [rows, tokens, in]`, or `None` where the module is not adapted.
    ///
    /// # Errors
    /// Shapes that do not match.
    pub fn delta(&self, layer: usize, module: &str, x: &Tensor) -> Result<Option<Tensor>> {
        let Some(pair) = self.pairs.get(module).and_then(|layers| layers.get(layer)) else {
            return Ok(None);
        };
        // Scaling the narrow product is cheaper than scaling the wide one.
        let narrow = (x.matmul(&pair.a.t()?)? * self.scale)?;
        narrow.matmul(&pair.b_transposed).map(Some)
    }
}
