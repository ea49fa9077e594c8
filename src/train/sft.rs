//! Supervised training of a learner on a frozen base (Text-to-LoRA, section 4).
//!
//! One step: the learner turns one condition per row into an adapter; the frozen base, with each
//! row under its own adapter, predicts the answers; the loss's gradient with respect to the
//! adapters comes back from the base, and the learner's backward pass starts from it. The two
//! backward passes meet at the adapter, so the base's graph is freed before the learner's is walked,
//! and the base computes a few rows of similar length at a time, on one core each.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use candle_core::{DType, Tensor, Var};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::batch::{BatchOptions, BatchPart, Row, Sampler, TrainingBatch, embed_input, fill_row};
use super::data::{TaskData, TrainingData};
use super::hypernet::GeneratedModule;
use super::learner::{Learner, lora_batch};
use super::nonsense::Nonsense;
use super::run::{Objective, Step};
use crate::base::adapter::{LoraBatch, LoraPair};
use crate::base::decoder::Decoder;
use crate::base::fused::cross_entropy;
use crate::workers;

/// Tasks whose adapters validation holds at a time.
const VALIDATION_TASKS: usize = 8;

/// What shapes the loss.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, clap::Args)]
pub struct StepSettings {
    /// Label smoothing of the token loss
    #[arg(long, default_value_t = 0.0)]
    pub label_smoothing: f32,
    /// Weight of the mean square of the adapters' matrices in the loss
    #[arg(long, default_value_t = 1e-3)]
    pub adapter_decay: f32,
    /// Noise on token embeddings, uniform in ±alpha / √(tokens · width) (NEFTune)
    #[arg(long, default_value_t = 0.0)]
    pub neftune_alpha: f32,
    /// Share of the adapters' inputs dropped in training
    #[arg(long, default_value_t = 0.0)]
    pub lora_dropout: f32,
}

/// Supervised training as an objective.
#[derive(Debug)]
pub struct Sft<'a> {
    /// The frozen base.
    pub base: &'a Decoder,
    /// What is trained.
    pub learner: &'a dyn Learner,
    /// Tasks trained on and held out.
    pub data: &'a TrainingData,
    /// Texts that describe no task, where adapters depend on texts.
    pub nonsense: Option<&'a Nonsense>,
    /// Size of a batch.
    pub batch: &'a BatchOptions,
    /// What shapes the loss.
    pub settings: &'a StepSettings,
    /// Seed of the run.
    pub seed: u64,
}

impl Objective for Sft<'_> {
    fn parameters(&self) -> Vec<(String, Var)> {
        self.learner.parameters()
    }

    fn rate_share(&self, parameter: &str) -> f32 {
        self.learner.rate_share(parameter)
    }

    fn gradients(&self, batch: usize, rng: &mut ChaCha8Rng) -> Result<Step> {
        let TrainingData { training: tasks, epoch, encoder, .. } = self.data;
        let (encoder, options) = (encoder.as_ref(), self.batch);
        let sampler = Sampler { tasks, epoch, encoder, options, seed: self.seed };
        let mut batch = sampler.batch(batch, rng)?;
        if let Some(nonsense) = self.nonsense {
            batch.nonsense = nonsense.draw(rng);
        }
        let decay = self.nonsense.map_or(0.0, |nonsense| nonsense.decay);
        let (loss, gradients) =
            step_gradients(self.base, self.learner, &batch, self.settings, decay, rng)?;
        Ok(Step { loss, gradients, tokens: batch.tokens, tasks: batch.tasks })
    }

    /// Mean answer loss per group of held-out tasks, without smoothing, noise or dropout.
    fn validation(&self) -> Result<BTreeMap<String, f32>> {
        let (base, scale) = (self.base, self.learner.scale());
        let mut sums: BTreeMap<String, (f32, f32)> = BTreeMap::new();
        for tasks in self.data.validation.chunks(VALIDATION_TASKS) {
            let (mut generated, mut work) = (Vec::new(), Vec::new());
            for (group, task) in tasks {
                let batch = self.validation_batch(task)?;
                work.extend(batch.parts.into_iter().map(|part| (group, part, generated.len())));
                generated.push(self.learner.adapters(&batch.conditions, None)?);
                sums.entry(group.clone()).or_default().1 += 1.0;
            }
            let losses = workers::map(&base.device, &work, |(_, part, task)| {
                let adapters = lora_batch(&generated[*task], &part.adapters, scale)?;
                Ok(answer_loss(base, part, &adapters, 0.0, None)?.to_scalar::<f32>()?)
            })?;
            for ((group, ..), loss) in work.iter().zip(losses) {
                sums.entry((*group).clone()).or_default().0 += loss;
            }
        }
        Ok(sums.into_iter().map(|(group, (sum, count))| (group, sum / count)).collect())
    }

    fn save(&self, dir: &Path) -> Result<()> {
        self.learner.save(dir)
    }
}

impl Sft<'_> {
    /// The first examples of a held-out task that fit a row; a row each where each example stands
    /// for itself.
    fn validation_batch(&self, task: &TaskData) -> Result<TrainingBatch> {
        let examples = fill_row(task.examples.iter(), self.batch.row_tokens);
        let row = |examples, condition| Row { task: task.id.clone(), examples, condition };
        if let Some(condition) = task.conditions.first() {
            return TrainingBatch::pack(vec![row(examples, condition.clone())]);
        }
        let rows = examples.into_iter().map(|example| {
            let condition = embed_input(self.data.encoder.as_ref(), &[example])?;
            Ok(row(vec![example], condition))
        });
        TrainingBatch::pack(rows.collect::<Result<_>>()?)
    }
}

/// Weighted cross-entropy of the answers of a part.
fn answer_loss(
    base: &Decoder,
    part: &BatchPart,
    adapters: &LoraBatch,
    smoothing: f32,
    noise: Option<&Tensor>,
) -> Result<Tensor> {
    let mut embedded = base.embed(&part.packed)?;
    if let Some(noise) = noise {
        embedded = (embedded + noise)?;
    }
    let hidden = base.forward_embedded(embedded, &part.packed, Some(adapters), None)?;
    let logits = base.logits(&hidden, &part.predict_at)?;
    let losses = cross_entropy(&logits, &Arc::new(part.targets.clone()), smoothing)?;
    let weights = Tensor::from_slice(&part.weights, part.weights.len(), &base.device)?;
    Ok((losses * weights)?.sum_all()?)
}

/// Loss of a batch and the gradient of every parameter of the learner, by name. The mean square of
/// `lora_b` for what describes no task has the weight `nonsense_decay` in it.
///
/// # Errors
/// Conditions or adapters whose shapes do not fit.
pub fn step_gradients(
    base: &Decoder,
    learner: &dyn Learner,
    batch: &TrainingBatch,
    settings: &StepSettings,
    nonsense_decay: f32,
    rng: &mut ChaCha8Rng,
) -> Result<(f32, BTreeMap<String, Tensor>)> {
    let conditions = [batch.conditions.as_slice(), &batch.nonsense].concat();
    let (generated, scale) = (learner.adapters(&conditions, Some(rng))?, learner.scale());
    // Each part has random numbers of its own, so that parts can be computed in any order.
    let parts: Vec<(&BatchPart, ChaCha8Rng)> =
        batch.parts.iter().map(|part| (part, ChaCha8Rng::from_rng(rng))).collect();
    let of_parts = workers::map(&base.device, &parts, |(part, rng)| {
        let adapters = lora_batch(&generated, &part.adapters, scale)?;
        part_gradients(base, part, adapters, settings, &mut rng.clone())
    })?;
    let mut loss = 0.0;
    let mut gradients = AdapterGradients::default();
    for (of_part, found) in of_parts {
        loss += of_part;
        for (name, (a, b)) in found {
            let (of_a, of_b) = gradients.entry(name).or_default();
            of_a.push(a);
            of_b.push(b);
        }
    }
    let tasks: Vec<u32> = batch.parts.iter().flat_map(|part| &part.adapters).copied().collect();
    let mut objective = pull(&generated, &tasks, &gradients, settings.adapter_decay)?;
    drop(gradients);
    if !batch.nonsense.is_empty() {
        let kept = nonsense_loss(&generated, batch.conditions.len())?;
        objective = (objective + kept * f64::from(nonsense_decay))?;
    }
    let gradients = objective.backward()?;
    let named = learner.parameters().into_iter();
    let named = named.filter_map(|(name, var)| Some((name, gradients.get(&var)?.clone())));
    Ok((loss, named.collect()))
}

/// Gradients with respect to A and Bᵀ, `[rows, layers, rank, width]`: per module, one of each per
/// part.
type AdapterGradients = BTreeMap<String, (Vec<Tensor>, Vec<Tensor>)>;

/// Gradients with respect to A and Bᵀ of a part's rows, by module.
type PartGradients = BTreeMap<String, (Tensor, Tensor)>;

/// Loss of a part and, per module, its gradients with respect to A and Bᵀ,
/// `[rows of the part, layers, rank, width]`. Everything the backward pass needed is freed on
/// return.
fn part_gradients(
    base: &Decoder,
    part: &BatchPart,
    mut adapters: LoraBatch,
    settings: &StepSettings,
    rng: &mut ChaCha8Rng,
) -> Result<(f32, PartGradients)> {
    // The adapters become leaves: the base's backward pass ends at them.
    let mut leaves: BTreeMap<String, Vec<(Var, Var)>> = BTreeMap::new();
    for (name, pairs) in &mut adapters.pairs {
        for pair in pairs {
            let (a, b) = (Var::from_tensor(&pair.a)?, Var::from_tensor(&pair.b_transposed)?);
            *pair = LoraPair { a: a.as_tensor().clone(), b_transposed: b.as_tensor().clone() };
            leaves.entry(name.clone()).or_default().push((a, b));
        }
    }
    let noise = (settings.neftune_alpha > 0.0)
        .then(|| embedding_noise(base, part, settings.neftune_alpha, rng))
        .transpose()?;
    if settings.lora_dropout > 0.0 {
        adapters = adapters.with_dropout(settings.lora_dropout, ChaCha8Rng::from_rng(rng));
    }
    let loss = answer_loss(base, part, &adapters, settings.label_smoothing, noise.as_ref())?;
    let gradients = loss.backward()?;
    // What candle returns remembers the activations it was computed from: undetached, it would keep
    // them in memory and have the learner's backward pass walk through the base once more.
    let gradient =
        |var: &Var| gradients.get(var).map(Tensor::detach).context("an adapter got no gradient");
    let of_module = |(name, pairs): (String, Vec<(Var, Var)>)| {
        let a = pairs.iter().map(|(a, _)| gradient(a)).collect::<Result<Vec<_>>>()?;
        let b = pairs.iter().map(|(_, b)| gradient(b)).collect::<Result<Vec<_>>>()?;
        Ok((name, (Tensor::stack(&a, 1)?, Tensor::stack(&b, 1)?)))
    };
    let found = leaves.into_iter().map(of_module).collect::<Result<_>>()?;
    Ok((loss.to_scalar()?, found))
}

/// `Σ ∂loss/∂A · A` over all rows and the same for B: it has the loss's gradient with respect to
/// whatever the matrices were computed from. `tasks` are those of the rows of all parts. The mean
/// squares of the matrices are added with weight `decay`.
fn pull(
    generated: &[GeneratedModule],
    tasks: &[u32],
    gradients: &AdapterGradients,
    decay: f32,
) -> Result<Tensor> {
    let first = generated.first().context("an adapter without modules")?;
    let mut objective = Tensor::zeros((), DType::F32, first.a.device())?;
    let tasks = Tensor::new(tasks, first.a.device())?;
    for module in generated {
        let (of_a, of_b) = gradients.get(&module.name).context("a module without gradients")?;
        for (matrix, gradients) in [(&module.a, of_a), (&module.b_transposed, of_b)] {
            let of_rows = matrix.contiguous()?.index_select(&tasks, 0)?;
            let pull = (of_rows * Tensor::cat(gradients, 0)?)?.sum_all()?;
            let decay = (matrix.sqr()?.mean_all()? * f64::from(decay))?;
            objective = (objective + (pull + decay)?)?;
        }
    }
    Ok(objective)
}

/// Sum over modules of the mean square of `lora_b` for the conditions from number `first` on.
fn nonsense_loss(generated: &[GeneratedModule], first: usize) -> Result<Tensor> {
    let square = |module: &GeneratedModule| -> Result<Tensor> {
        let b = &module.b_transposed;
        Ok(b.narrow(0, first, b.dim(0)? - first)?.sqr()?.mean_all()?)
    };
    let squares = generated.iter().map(square).collect::<Result<Vec<_>>>()?;
    Ok(Tensor::stack(&squares, 0)?.sum_all()?)
}

/// NEFTune (Jain et al., 2023): uniform in ±alpha / √(tokens · width) per row.
fn embedding_noise(
    base: &Decoder,
    part: &BatchPart,
    alpha: f32,
    rng: &mut ChaCha8Rng,
) -> Result<Tensor> {
    let (rows, tokens, hidden) = (part.packed.rows, part.packed.width, base.config.hidden);
    let bound = alpha / ((tokens * hidden) as f32).sqrt();
    let noise: Vec<f32> =
        (0..rows * tokens * hidden).map(|_| rng.random_range(-bound..bound)).collect();
    Ok(Tensor::from_vec(noise, (rows, tokens, hidden), &base.device)?)
}

#[cfg(test)]
mod tests;
