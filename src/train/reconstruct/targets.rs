//! The adapters of a library as tensors that generated ones are compared with.
//!
//! In: a library and the sizes of a hypernetwork. Out: per module, in type-index order, A
//! `[tasks, layers, rank, in]` and Bᵀ `[tasks, layers, rank, out]` of all tasks under the
//! hypernetwork's scale, and of each entry the mean and the unbiased deviation over the tasks.
//! With one task, or where all tasks agree, the deviation is 0 and the z-score is 0.

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor, Var};
use t2lc_export::checkpoint::{DEVIATION_EPSILON, DEVIATION_PREFIX, HypernetConfig, MEAN_PREFIX};

use crate::base::peft::transpose;
use crate::train::hypernet::TargetAdapter;
use crate::train::library::Library;

/// Every adapter of a library.
#[derive(Debug)]
pub(super) struct Targets {
    /// Task ids, in the library's order.
    pub(super) tasks: Vec<String>,
    /// In type-index order.
    pub(super) modules: Vec<ModuleTargets>,
}

/// Targets of one module.
#[derive(Debug)]
pub(super) struct ModuleTargets {
    pub(super) name: String,
    pub(super) a: MatrixTargets,
    pub(super) b_transposed: MatrixTargets,
}

/// Targets of one matrix of one module.
#[derive(Debug)]
pub(super) struct MatrixTargets {
    /// `[tasks, layers, rank, width]`
    values: Tensor,
    /// `[layers, rank, width]`
    mean: Tensor,
    /// `[layers, rank, width]`
    deviation: Tensor,
}

impl Targets {
    /// Checks and stacks the adapters.
    pub(super) fn stack(
        library: &Library,
        config: &HypernetConfig,
        device: &Device,
    ) -> Result<Self> {
        let mut adapters = Vec::with_capacity(library.adapters.len());
        for (task, adapter) in &library.adapters {
            let target = TargetAdapter::new(adapter, config);
            adapters.push(target.with_context(|| format!("adapter of task `{task}`"))?);
        }
        let (rank, layers, count) = (config.rank, config.base.layers, adapters.len());
        let mut modules = Vec::with_capacity(config.base.modules.len());
        for module in &config.base.modules {
            let (inputs, outputs) = (module.in_features, module.out_features);
            let (mut a, mut b_transposed) = (Vec::new(), Vec::new());
            for adapter in &adapters {
                for layer in 0..layers {
                    a.extend_from_slice(adapter.lora_a(&module.name, layer)?);
                    b_transposed.extend(transpose(&adapter.lora_b(&module.name, layer)?, rank));
                }
            }
            let matrix = |values: Vec<f32>, width: usize| {
                MatrixTargets::new(Tensor::from_vec(values, (count, layers, rank, width), device)?)
            };
            modules.push(ModuleTargets {
                name: module.name.clone(),
                a: matrix(a, inputs)?,
                b_transposed: matrix(b_transposed, outputs)?,
            });
        }
        let tasks = library.adapters.iter().map(|(task, _)| task.clone()).collect();
        Ok(Self { tasks, modules })
    }

    /// Mean and deviation under the names and in the shapes that a checkpoint has them.
    pub(super) fn statistics(&self) -> Result<Vec<(String, Var)>> {
        let mut found = Vec::new();
        for ModuleTargets { name, a, b_transposed } in &self.modules {
            for (prefix, of_a, of_b) in [
                (MEAN_PREFIX, &a.mean, &b_transposed.mean),
                (DEVIATION_PREFIX, &a.deviation, &b_transposed.deviation),
            ] {
                let of_b = of_b.transpose(1, 2)?.contiguous()?;
                found.push((format!("{prefix}.A.{name}"), Var::from_tensor(of_a)?));
                found.push((format!("{prefix}.B.{name}"), Var::from_tensor(&of_b)?));
            }
        }
        Ok(found)
    }
}

impl MatrixTargets {
    fn new(values: Tensor) -> Result<Self> {
        let count = values.dim(0)?;
        // In f64 and a task at a time: where tasks agree the deviation comes out as 0, and only
        // one task's matrices are held twice.
        let task = |index: usize| values.get(index)?.to_dtype(DType::F64);
        let mut sum = task(0)?.zeros_like()?;
        for index in 0..count {
            sum = (sum + task(index)?)?;
        }
        let mean = (sum / count as f64)?;
        let mut squares = mean.zeros_like()?;
        for index in 0..count {
            squares = (squares + (task(index)? - &mean)?.sqr()?)?;
        }
        let deviation = (squares / count.saturating_sub(1).max(1) as f64)?.sqrt()?;
        let (mean, deviation) = (mean.to_dtype(DType::F32)?, deviation.to_dtype(DType::F32)?);
        Ok(Self { values, mean, deviation })
    }

    /// The matrices of `tasks`, u32 `[rows]`: `[rows, layers, rank, width]`.
    pub(super) fn of(&self, tasks: &Tensor) -> Result<Tensor> {
        Ok(self.values.index_select(tasks, 0)?)
    }

    /// As [`MatrixTargets::of`], each entry by its deviation from the mean.
    pub(super) fn z_scores(&self, tasks: &Tensor) -> Result<Tensor> {
        let deviation = (&self.deviation + f64::from(DEVIATION_EPSILON))?;
        Ok(self.of(tasks)?.broadcast_sub(&self.mean)?.broadcast_div(&deviation)?)
    }
}
