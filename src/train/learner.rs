//! What supervised training learns: something that gives every row of a batch an adapter.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use candle_core::{Device, IndexOp, Tensor, Var};
use rand_chacha::ChaCha8Rng;

use super::condition::{Condition, stack_conditions};
use super::hypernet::{GeneratedModule, Hypernet};
use crate::base::adapter::{LoraBatch, LoraPair};

/// A source of adapters with trainable parameters.
pub trait Learner: std::fmt::Debug {
    /// The parameters that training changes, by name.
    fn parameters(&self) -> Vec<(String, Var)>;

    /// The learning rate of a parameter, as a share of the run's.
    fn rate_share(&self, _parameter: &str) -> f32 {
        1.0
    }

    /// One adapter per condition, with gradients. Dropout is applied where `noise` is given.
    ///
    /// # Errors
    /// A condition of the wrong kind or width.
    fn adapters(
        &self,
        conditions: &[Condition],
        noise: Option<&mut ChaCha8Rng>,
    ) -> Result<Vec<GeneratedModule>>;

    /// Factor on `B A x`.
    fn scale(&self) -> f64;

    /// Writes what was learned into an existing directory.
    ///
    /// # Errors
    /// Parameters that are not finite, or a directory that cannot be written.
    fn save(&self, dir: &Path) -> Result<()>;
}

impl Learner for Hypernet {
    fn parameters(&self) -> Vec<(String, Var)> {
        self.trainable().map(|(name, var)| (name.clone(), var.clone())).collect()
    }

    fn adapters(
        &self,
        conditions: &[Condition],
        noise: Option<&mut ChaCha8Rng>,
    ) -> Result<Vec<GeneratedModule>> {
        self.forward(&stack_conditions(conditions, &self.device()?)?, noise)
    }

    fn scale(&self) -> f64 {
        f64::from(self.config.scale())
    }

    fn save(&self, dir: &Path) -> Result<()> {
        Ok(self.to_checkpoint()?.save(dir)?)
    }
}

impl Hypernet {
    /// Where the parameters are.
    ///
    /// # Errors
    /// A network without parameters.
    pub fn device(&self) -> Result<Device> {
        let first = self.parameters.values().next();
        let first = first.ok_or_else(|| anyhow::anyhow!("a network without parameters"))?;
        Ok(first.device().clone())
    }
}

/// Splits the generated matrices of `tasks`, in any order and as often as they are named, into the
/// per-layer pairs that the decoder applies, without gradients.
///
/// # Errors
/// Matrices of the wrong rank, a task that is not there.
pub fn lora_batch(generated: &[GeneratedModule], tasks: &[u32], scale: f64) -> Result<LoraBatch> {
    let mut pairs = BTreeMap::new();
    for module in generated {
        let tasks = Tensor::new(tasks, module.a.device())?;
        let chosen = |matrices: &Tensor| matrices.detach().contiguous()?.index_select(&tasks, 0);
        let (a, b) = (chosen(&module.a)?, chosen(&module.b_transposed)?);
        let pair = |layer: usize| -> Result<LoraPair> {
            let of = |matrices: &Tensor| matrices.i((.., layer))?.contiguous();
            Ok(LoraPair { a: of(&a)?, b_transposed: of(&b)? })
        };
        let layers = a.dim(1)?;
        pairs.insert(module.name.clone(), (0..layers).map(pair).collect::<Result<_>>()?);
    }
    Ok(LoraBatch::new(pairs, scale))
}
