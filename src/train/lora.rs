//! A plain LoRA as a learner: the same adapter for every row.
//!
//! Parameters per target module: A `[layers, rank, in]`, uniform in ±1/√in, and Bᵀ
//! `[layers, rank, out]`, zero, so that training starts from the base. Saved as a PEFT directory.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use candle_core::{Device, IndexOp, Tensor, Var};
use rand_chacha::ChaCha8Rng;
use t2lc_runtime::base::BaseModel;

use super::condition::Condition;
use super::hypernet::GeneratedModule;
use super::hypernet::init::uniform;
use super::learner::Learner;
use crate::base::peft::PeftAdapter;

/// A trainable LoRA.
#[derive(Debug)]
pub struct PlainLora {
    base: BaseModel,
    rank: usize,
    alpha: f32,
    use_rslora: bool,
    /// Per module, A and Bᵀ.
    matrices: Vec<(Var, Var)>,
}

/// Size of an adapter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LoraSize {
    /// Rank.
    pub rank: usize,
    /// LoRA alpha.
    pub alpha: f32,
    /// Whether the scale is alpha / √rank instead of alpha / rank.
    pub use_rslora: bool,
}

impl PlainLora {
    /// A fresh LoRA.
    ///
    /// # Errors
    /// Only if the device refuses the memory.
    pub fn new(
        base: BaseModel,
        size: LoraSize,
        rng: &mut ChaCha8Rng,
        device: &Device,
    ) -> Result<Self> {
        let LoraSize { rank, alpha, use_rslora } = size;
        let (layers, mut matrices) = (base.layers, Vec::new());
        for module in &base.modules {
            let (inputs, outputs) = (module.in_features, module.out_features);
            let a = uniform(layers * rank * inputs, inputs, rng);
            let a = Tensor::from_vec(a, (layers, rank, inputs), device)?;
            let b = Tensor::zeros((layers, rank, outputs), a.dtype(), device)?;
            matrices.push((Var::from_tensor(&a)?, Var::from_tensor(&b)?));
        }
        Ok(Self { base, rank, alpha, use_rslora, matrices })
    }

    /// Continues from a PEFT directory.
    ///
    /// # Errors
    /// A directory that is no adapter for the base.
    pub fn load(dir: &Path, base: BaseModel, device: &Device) -> Result<Self> {
        let adapter = PeftAdapter::load(dir, &base)?;
        let batch = adapter.batch(&base, device)?;
        let mut matrices = Vec::new();
        for module in &base.modules {
            let pairs = batch.pairs.get(&module.name).context("a module without matrices")?;
            let a = pairs.iter().map(|pair| pair.a.i(0)).collect::<Result<Vec<_>, _>>()?;
            let b =
                pairs.iter().map(|pair| pair.b_transposed.i(0)).collect::<Result<Vec<_>, _>>()?;
            matrices.push((
                Var::from_tensor(&Tensor::stack(&a, 0)?)?,
                Var::from_tensor(&Tensor::stack(&b, 0)?)?,
            ));
        }
        let PeftAdapter { rank, alpha, use_rslora, .. } = adapter;
        Ok(Self { base, rank, alpha, use_rslora, matrices })
    }

    /// The adapter as it stands.
    ///
    /// # Errors
    /// Only if the values cannot be read back from the device.
    pub fn to_peft(&self) -> Result<PeftAdapter> {
        let mut matrices = BTreeMap::new();
        for (module, (a, b_transposed)) in self.base.modules.iter().zip(&self.matrices) {
            for layer in 0..self.base.layers {
                let a = a.i(layer)?.flatten_all()?.to_vec1()?;
                let b = b_transposed.i(layer)?.t()?.contiguous()?.flatten_all()?.to_vec1()?;
                matrices.insert((module.name.clone(), layer), (a, b));
            }
        }
        let Self { rank, alpha, use_rslora, .. } = *self;
        Ok(PeftAdapter { rank, alpha, use_rslora, matrices })
    }
}

impl Learner for PlainLora {
    fn parameters(&self) -> Vec<(String, Var)> {
        let named = self.base.modules.iter().zip(&self.matrices);
        named
            .flat_map(|(module, (a, b))| {
                let name = &module.name;
                [(format!("A.{name}"), a.clone()), (format!("B.{name}"), b.clone())]
            })
            .collect()
    }

    fn adapters(
        &self,
        conditions: &[Condition],
        _noise: Option<&mut ChaCha8Rng>,
    ) -> Result<Vec<GeneratedModule>> {
        let for_all = |matrix: &Var| -> Result<Tensor> {
            let (layers, rank, width) = matrix.dims3()?;
            Ok(matrix.unsqueeze(0)?.broadcast_as((conditions.len(), layers, rank, width))?)
        };
        let named = self.base.modules.iter().zip(&self.matrices);
        named
            .map(|(module, (a, b))| {
                let name = module.name.clone();
                Ok(GeneratedModule { name, a: for_all(a)?, b_transposed: for_all(b)? })
            })
            .collect()
    }

    fn scale(&self) -> f64 {
        let rank = self.rank as f64;
        f64::from(self.alpha) / if self.use_rslora { rank.sqrt() } else { rank }
    }

    fn save(&self, dir: &Path) -> Result<()> {
        self.to_peft()?.save(dir, &self.base)
    }
}
