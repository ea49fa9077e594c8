//! What changes a linear map of the frozen decoder: one pair of matrices per row, layer and module,
//! or anything else that adds to the map's output.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use candle_core::{Result, Tensor};
use rand::Rng;
use rand_chacha::ChaCha8Rng;

/// Something that adds to the outputs of the decoder's linear maps.
pub trait Delta: std::fmt::Debug {
    /// What is added to `W x` for `x [rows, tokens, in]`: `[rows, tokens, out]`, or `None` where the
    /// module of that layer is left alone.
    ///
    /// # Errors
    /// Shapes that do not match.
    fn delta(&self, layer: usize, module: &str, x: &Tensor) -> Result<Option<Tensor>>;
}

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
    dropout: Option<Rc<Dropout>>,
}

/// Drops inputs of the adapters in training.
#[derive(Debug)]
struct Dropout {
    rate: f32,
    noise: RefCell<ChaCha8Rng>,
}

impl LoraBatch {
    /// Adapters without dropout.
    pub fn new(pairs: BTreeMap<String, Vec<LoraPair>>, scale: f64) -> Self {
        Self { pairs, scale, dropout: None }
    }

    /// The same adapters with inputs dropped at `rate`; the others are scaled by `1 / (1 - rate)`.
    #[must_use]
    pub fn with_dropout(mut self, rate: f32, noise: ChaCha8Rng) -> Self {
        self.dropout = (rate > 0.0).then(|| Rc::new(Dropout { rate, noise: noise.into() }));
        self
    }
}

impl Delta for LoraBatch {
    /// `scale · drop(x) Aᵀ Bᵀ`.
    fn delta(&self, layer: usize, module: &str, x: &Tensor) -> Result<Option<Tensor>> {
        let Some(pair) = self.pairs.get(module).and_then(|layers| layers.get(layer)) else {
            return Ok(None);
        };
        let dropped = self.dropout.as_ref().map(|dropout| dropout.apply(x)).transpose()?;
        // Scaling the narrow product is cheaper than scaling the wide one.
        let narrow = (dropped.as_ref().unwrap_or(x).matmul(&pair.a.t()?)? * self.scale)?;
        narrow.matmul(&pair.b_transposed).map(Some)
    }
}

impl Dropout {
    fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let keep = 1.0 / (1.0 - self.rate);
        let mut noise = self.noise.borrow_mut();
        let mask: Vec<f32> = (0..x.elem_count())
            .map(|_| if noise.random::<f32>() < self.rate { 0.0 } else { keep })
            .collect();
        x * Tensor::from_vec(mask, x.shape(), x.device())?
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use candle_core::{Device, Tensor};
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::{Delta, LoraBatch, LoraPair};

    fn identity() -> LoraBatch {
        let eye = Tensor::eye(4, candle_core::DType::F32, &Device::Cpu).unwrap();
        let eye = eye.unsqueeze(0).unwrap();
        let pair = LoraPair { a: eye.clone(), b_transposed: eye };
        LoraBatch::new(BTreeMap::from([("q_proj".to_owned(), vec![pair])]), 2.0)
    }

    #[test]
    fn other_modules_and_layers_are_left_alone() {
        let x = Tensor::ones((1, 3, 4), candle_core::DType::F32, &Device::Cpu).unwrap();
        assert!(identity().delta(0, "v_proj", &x).unwrap().is_none());
        assert!(identity().delta(1, "q_proj", &x).unwrap().is_none());
        let y = identity().delta(0, "q_proj", &x).unwrap().unwrap();
        assert_eq!(y.flatten_all().unwrap().to_vec1::<f32>().unwrap(), [2.0; 12]);
    }

    #[test]
    fn dropout_keeps_the_mean_and_depends_on_its_seed_alone() {
        let x = Tensor::ones((1, 5000, 4), candle_core::DType::F32, &Device::Cpu).unwrap();
        let values = |seed| {
            let dropped = identity().with_dropout(0.25, ChaCha8Rng::seed_from_u64(seed));
            let y = dropped.delta(0, "q_proj", &x).unwrap().unwrap();
            y.flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        let (first, mean) = (values(1), values(1).iter().sum::<f32>() / 20_000.0);
        assert_eq!(first, values(1));
        assert_ne!(first, values(2));
        assert!((mean - 2.0).abs() < 0.05, "{mean}");
        let zeros = first.iter().filter(|v| v.abs() < 1e-6).count();
        assert!((4500..5500).contains(&zeros), "{zeros}");
    }
}
