//! Reconstruction: a hypernetwork learns to generate the adapters of a library.
//!
//! In: a hypernetwork, a library of adapters and the embeddings of each adapter's descriptions.
//! Out: an [`Objective`]. No base takes part: a step draws tasks and descriptions, generates the
//! adapters `[tasks, layers, rank, ·]` and compares them with the library's. The loss is a mean
//! absolute difference, of the matrices or of the products ΔW; every module weighs equally.
//! Text-to-LoRA (arXiv 2506.06105), section 3.2.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor, Var};
use rand::SeedableRng;
use rand::seq::{SliceRandom, index};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use t2lc_export::checkpoint::Variant;
use t2lc_runtime::describe::Description;

mod delta_w;
mod targets;

use super::embed::DescriptionEncoder;
use super::hypernet::{Hypernet, stack_embeddings};
use super::library::Library;
use super::run::{Objective, Step};
use crate::base::peft::PeftAdapter;
use crate::taskpack::TaskPack;
use delta_w::{flatten, mean_absolute_difference, squared_norms};
use targets::{ModuleTargets, Targets};

/// Factor on the loss in ΔW: products of matrices are so small that gradients of them would be lost
/// in the optimizer's epsilon.
const DELTA_W_UNITS: f64 = 1e4;

/// Tasks that validation generates at a time.
const VALIDATION_TASKS: usize = 8;

/// In which space generated adapters and targets are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum ReconstructionSpace {
    /// A and B, each entry by its deviation over the library; mean and deviation become part of the
    /// hypernetwork.
    ZScores,
    /// A and B as they are.
    Factors,
    /// The products ΔW, which many pairs of A and B share.
    DeltaW,
}

/// What a step draws and how it is compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, clap::Args)]
pub struct ReconstructionOptions {
    /// What reconstruction compares with the library
    #[arg(long = "reconstruction-space", value_enum, default_value_t = ReconstructionSpace::ZScores)]
    pub space: ReconstructionSpace,
    /// Tasks per step of reconstruction; 0 takes all of them
    #[arg(long, default_value_t = 16)]
    pub tasks_per_step: usize,
    /// Descriptions of each task per step of reconstruction
    #[arg(long, default_value_t = 1)]
    pub descriptions_per_task: usize,
    /// Reconstruct without dropping activations, which repeats the library more exactly
    #[arg(long)]
    pub no_dropout: bool,
}

/// Embeds the training descriptions of each adapter's task, the first `limit` of them (0: all).
///
/// # Errors
/// Adapters whose task the pack does not have, all at once; a task without descriptions.
pub fn embed_tasks(
    pack: &TaskPack,
    library: &Library,
    encoder: &DescriptionEncoder,
    limit: usize,
) -> Result<Vec<Vec<Vec<f32>>>> {
    let limit = if limit == 0 { usize::MAX } else { limit };
    let find = |id: &str| pack.tasks.iter().find(|task| task.id == id);
    let names = library.adapters.iter().map(|(name, _)| name.as_str());
    let unknown: Vec<&str> = names.filter(|name| find(name).is_none()).collect();
    ensure!(unknown.is_empty(), "the task pack has no task `{}`", unknown.join("`, `"));
    let embed = |text: &str| encoder.embed(Description::new(text)?.as_str());
    let of_task = |(name, _): &(String, PeftAdapter)| -> Result<Vec<Vec<f32>>> {
        let task = find(name).with_context(|| format!("the task pack has no task `{name}`"))?;
        task.training_descriptions().take(limit).map(embed).collect()
    };
    library.adapters.iter().map(of_task).collect()
}

/// Reconstruction of a library as an objective.
#[derive(Debug)]
pub struct Reconstruction {
    net: Hypernet,
    targets: Targets,
    /// Per task, per description, `E` values.
    embeddings: Vec<Vec<Vec<f32>>>,
    options: ReconstructionOptions,
    /// Seed of the order of tasks.
    seed: u64,
    device: Device,
}

impl Reconstruction {
    /// Makes `net` learn `library`; `embeddings` holds the description embeddings of each adapter,
    /// in the library's order. For z-scores, `net` gets the library's mean and deviation.
    ///
    /// # Errors
    /// An empty library; an adapter that does not fit `net`; a task without descriptions, or with
    /// an embedding of the wrong width; z-scores for a hypernetwork with an `AB_offset`; a gated one.
    pub fn new(
        mut net: Hypernet,
        library: &Library,
        embeddings: Vec<Vec<Vec<f32>>>,
        options: &ReconstructionOptions,
        seed: u64,
    ) -> Result<Self> {
        let (adapters, width) = (&library.adapters, net.config.task_embedding_size);
        ensure!(!adapters.is_empty(), "the library has no adapter");
        ensure!(
            net.config.variant != Variant::Gated,
            "a gated hypernetwork has one lora_a for all tasks and cannot repeat those of a library"
        );
        ensure!(options.descriptions_per_task > 0, "a step needs a description of each task");
        ensure!(
            embeddings.len() == adapters.len(),
            "{} adapters, but descriptions of {} tasks",
            adapters.len(),
            embeddings.len()
        );
        for ((task, _), descriptions) in adapters.iter().zip(&embeddings) {
            ensure!(!descriptions.is_empty(), "task `{task}` has no description");
            let fits = descriptions.iter().all(|embedding| embedding.len() == width);
            ensure!(fits, "an embedding of task `{task}` does not have {width} values");
        }
        let device = net.device()?;
        let targets = Targets::stack(library, &net.config, &device)?;
        if options.space == ReconstructionSpace::ZScores {
            for (name, var) in &net.parameters {
                let offset = name.starts_with("AB_offset.");
                let zero = !offset || var.abs()?.max_all()?.to_scalar::<f32>()? == 0.0;
                ensure!(
                    zero,
                    "z-scores cannot be learned next to an adapter, as a warm start or training on \
                     answers leaves it: `{name}` is not zero"
                );
            }
            net.parameters.extend(targets.statistics()?);
        }
        Ok(Self { net, targets, embeddings, options: options.clone(), seed, device })
    }

    /// The hypernetwork.
    pub fn net(&self) -> &Hypernet {
        &self.net
    }

    /// Indices of the tasks of a step: a new random order per epoch, from seed and step alone.
    fn tasks_at(&self, step: usize) -> Vec<usize> {
        let count = self.embeddings.len();
        let batch = match self.options.tasks_per_step {
            0 => count,
            some => some.min(count),
        };
        let task_at = |index: usize| {
            let (epoch, place) = (index / count, index % count);
            let mut order: Vec<usize> = (0..count).collect();
            let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
            rng.set_stream(u64::MAX - epoch as u64);
            order.shuffle(&mut rng);
            order[place]
        };
        if batch == count {
            return (0..count).collect();
        }
        (step * batch..(step + 1) * batch).map(task_at).collect()
    }

    /// Tensor of task indices, for looking up targets.
    fn indices(&self, tasks: &[usize]) -> Result<Tensor> {
        let tasks = tasks.iter().map(|&task| u32::try_from(task)).collect::<Result<Vec<_>, _>>()?;
        Ok(Tensor::new(tasks, &self.device)?)
    }

    /// Loss, and a scalar that has the loss's gradient with respect to the hypernetwork.
    fn loss(
        &self,
        tasks: &Tensor,
        embeddings: &Tensor,
        noise: Option<&mut ChaCha8Rng>,
    ) -> Result<(f32, Tensor)> {
        let z_scores = self.options.space == ReconstructionSpace::ZScores;
        let generated = if z_scores {
            self.net.forward_heads(embeddings, noise)?
        } else {
            self.net.forward(embeddings, noise)?
        };
        let share = 1.0 / self.targets.modules.len() as f64;
        let mut objective = Tensor::zeros((), DType::F32, &self.device)?;
        let mut loss = 0.0;
        for (module, target) in generated.iter().zip(&self.targets.modules) {
            let ModuleTargets { a, b_transposed, .. } = target;
            if self.options.space == ReconstructionSpace::DeltaW {
                let factor = DELTA_W_UNITS * f64::from(self.net.config.scale()) * share;
                let target = flatten(&a.of(tasks)?, &b_transposed.of(tasks)?)?;
                let pair = flatten(&module.a, &module.b_transposed)?;
                let (mean, slope) = mean_absolute_difference(&pair, &target)?;
                // Σ ∂loss/∂A · A has the loss's gradient with respect to what A came from.
                let pull_a = (pair.a * slope.a)?.sum_all()?;
                let pull_b = (pair.b_transposed * slope.b_transposed)?.sum_all()?;
                objective = (objective + ((pull_a + pull_b)? * factor)?)?;
                loss += mean * factor;
            } else {
                for (matrix, target) in [(&module.a, a), (&module.b_transposed, b_transposed)] {
                    let target =
                        if z_scores { target.z_scores(tasks)? } else { target.of(tasks)? };
                    let mean = ((matrix - target)?.abs()?.mean_all()? * (share / 2.0))?;
                    loss += f64::from(mean.to_scalar::<f32>()?);
                    objective = (objective + mean)?;
                }
            }
        }
        Ok((single(loss), objective))
    }
}

impl Objective for Reconstruction {
    fn parameters(&self) -> Vec<(String, Var)> {
        self.net.trainable().map(|(name, var)| (name.clone(), var.clone())).collect()
    }

    /// A step computes no tokens.
    fn gradients(&self, batch: usize, rng: &mut ChaCha8Rng) -> Result<Step> {
        let tasks = self.tasks_at(batch);
        let (mut rows, mut texts) = (Vec::new(), Vec::new());
        for &task in &tasks {
            let all = &self.embeddings[task];
            let count = self.options.descriptions_per_task.min(all.len());
            for description in index::sample(rng, all.len(), count) {
                rows.push(task);
                texts.push(all[description].as_slice());
            }
        }
        let embeddings = stack_embeddings(&texts, &self.device)?;
        let noise = (!self.options.no_dropout).then_some(rng);
        let (loss, objective) = self.loss(&self.indices(&rows)?, &embeddings, noise)?;
        let found = objective.backward()?;
        let gradients = self.net.trainable().filter_map(|(name, var)| {
            let gradient = found.get(var)?;
            Some((name.clone(), gradient.clone()))
        });
        let gradients = gradients.collect();
        let tasks = tasks.into_iter().map(|task| self.targets.tasks[task].clone()).collect();
        Ok(Step { loss, gradients, tokens: 0, tasks })
    }

    /// How far the adapters of each task's first description are off the library: `l1`, the mean
    /// absolute difference of A's and B's entries as they are, and `delta_w`, the Frobenius norm
    /// of the difference of all ΔW over that of the targets (over 1, if the targets are zero).
    fn validation(&self) -> Result<BTreeMap<String, f32>> {
        let all: Vec<usize> = (0..self.embeddings.len()).collect();
        let (mut l1, mut difference, mut norm) = (0.0, 0.0, 0.0);
        for tasks in all.chunks(VALIDATION_TASKS) {
            let texts: Vec<&[f32]> =
                tasks.iter().map(|&task| self.embeddings[task][0].as_slice()).collect();
            let generated = self.net.forward(&stack_embeddings(&texts, &self.device)?, None)?;
            let rows = self.indices(tasks)?;
            for (module, target) in generated.iter().zip(&self.targets.modules) {
                let (a, b) = (target.a.of(&rows)?, target.b_transposed.of(&rows)?);
                for (matrix, target) in [(&module.a, &a), (&module.b_transposed, &b)] {
                    let mean = (matrix - target)?.abs()?.mean_all()?.to_scalar::<f32>()?;
                    l1 += f64::from(mean) * tasks.len() as f64 / 2.0;
                }
                let pair = flatten(&module.a, &module.b_transposed)?;
                let (of_difference, of_target) = squared_norms(&pair, &flatten(&a, &b)?)?;
                difference += of_difference;
                norm += of_target;
            }
        }
        l1 /= (all.len() * self.targets.modules.len()) as f64;
        let norm = if norm > 0.0 { norm } else { 1.0 };
        let delta_w = (difference / norm).sqrt();
        Ok(BTreeMap::from([("l1".into(), single(l1)), ("delta_w".into(), single(delta_w))]))
    }

    fn save(&self, dir: &Path) -> Result<()> {
        self.net.to_checkpoint()?.save(dir).context("cannot save the hypernetwork")
    }
}

#[allow(clippy::cast_possible_truncation, reason = "losses are reported as f32")]
fn single(value: f64) -> f32 {
    value as f32
}

#[cfg(test)]
mod tests;
