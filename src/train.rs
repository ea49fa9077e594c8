//! Supervised training of a hypernetwork on a frozen base (Text-to-LoRA, section 4).
//!
//! One step: draw a batch of tasks; the hypernetwork turns one description embedding per task into
//! an adapter; the frozen base, with each row under its own adapter, predicts the answers; the
//! loss's gradient with respect to the adapters comes back from the base, and the hypernetwork's
//! backward pass starts from it. The two backward passes meet at the adapter, so the base's graph
//! is freed before the hypernetwork's is walked.

pub mod batch;
pub mod embed;
pub mod hypernet;
pub mod optimizer;
pub mod state;

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use candle_core::backprop::GradStore;
use candle_core::{Device, IndexOp, Tensor, Var};
use indicatif::{ProgressBar, ProgressStyle};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use t2lc_export::checkpoint::{Checkpoint, HypernetConfig, Variant};
use t2lc_runtime::describe::Description;

use batch::{Sampler, TaskData, TrainingBatch, fill_row, tokenize};
use embed::DescriptionEncoder;
use hypernet::{GeneratedModule, Hypernet, stack_embeddings};
use optimizer::{AdamW, learning_rate};
use state::RunState;

use crate::base::adapter::{LoraBatch, LoraPair};
use crate::base::chat::Chat;
use crate::base::decoder::{Decoder, describe_base};
use crate::base::fused::cross_entropy;
use crate::taskpack::{ExampleSplit, Task, TaskPack, TaskSplit};

/// Where the inputs of a run are.
#[derive(Debug, Clone)]
pub struct TrainPaths {
    /// GGUF file of the base.
    pub base: PathBuf,
    /// Hugging Face directory of the text encoder.
    pub encoder: PathBuf,
    /// Directory of the task pack.
    pub pack: PathBuf,
    /// Directory of the run: checkpoints and `metrics.jsonl`.
    pub run: PathBuf,
}

/// Everything that decides the outcome of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, clap::Args)]
pub struct TrainOptions {
    /// Output space of the hypernetwork: L (whole adapter), M (one matrix) or S (one rank)
    #[arg(long, default_value = "L")]
    pub variant: Variant,
    /// Rank of the adapters
    #[arg(long, default_value_t = 8)]
    pub rank: usize,
    /// LoRA alpha; the adapters are scaled by alpha / rank
    #[arg(long, default_value_t = 16.0)]
    pub alpha: f32,
    /// Scale the adapters by alpha / √rank instead
    #[arg(long)]
    pub rslora: bool,
    /// Target modules; their order is the type index of the hypernetwork
    #[arg(long, value_delimiter = ',', default_value = "q_proj,v_proj")]
    pub modules: Vec<String>,
    /// Latent size of the hypernetwork, a multiple of 4
    #[arg(long, default_value_t = 256)]
    pub latent_size: usize,
    /// Input size of the hypernetwork's heads
    #[arg(long, default_value_t = 256)]
    pub head_in_size: usize,
    /// Optimizer steps
    #[arg(long, default_value_t = 500)]
    pub steps: usize,
    /// Tasks per step
    #[arg(long, default_value_t = 12)]
    pub tasks_per_batch: usize,
    /// Token budget of one task's examples in a step
    #[arg(long, default_value_t = 128)]
    pub row_tokens: usize,
    /// Most examples of one task in a step
    #[arg(long, default_value_t = 12)]
    pub max_examples: usize,
    /// Examples longer than this many tokens are left out
    #[arg(long, default_value_t = 192)]
    pub max_tokens: usize,
    /// Peak learning rate
    #[arg(long, default_value_t = 3e-4)]
    pub learning_rate: f32,
    /// Steps of linear warm-up
    #[arg(long, default_value_t = 30)]
    pub warmup_steps: usize,
    /// Decoupled weight decay
    #[arg(long, default_value_t = 1e-2)]
    pub weight_decay: f32,
    /// Largest norm of the gradient
    #[arg(long, default_value_t = 1.0)]
    pub clip_norm: f32,
    /// Label smoothing of the token loss
    #[arg(long, default_value_t = 0.0)]
    pub label_smoothing: f32,
    /// Weight of the mean square of generated adapters in the loss
    #[arg(long, default_value_t = 1e-3)]
    pub adapter_decay: f32,
    /// Seed of initialization, sampling and dropout
    #[arg(long, default_value_t = 42)]
    pub seed: u64,
    /// Steps between checkpoints
    #[arg(long, default_value_t = 25)]
    pub checkpoint_every: usize,
    /// Steps between validations on held-out tasks
    #[arg(long, default_value_t = 50)]
    pub validate_every: usize,
}

/// One line of `metrics.jsonl`.
#[derive(Debug, Serialize)]
struct Metrics {
    step: usize,
    loss: f32,
    learning_rate: f32,
    gradient_norm: f32,
    tokens: usize,
    tokens_per_s: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    validation_loss: Option<BTreeMap<String, f32>>,
}

/// Trains a hypernetwork; returns the directory of the final checkpoint.
///
/// With `resume`, the run continues from its latest checkpoint.
///
/// # Errors
/// Unusable inputs, a run directory that already holds a run (without `resume`), a resumed run
/// with other options or data.
pub fn train(paths: &TrainPaths, options: &TrainOptions, resume: bool) -> Result<PathBuf> {
    let device = Device::cuda_if_available(0)?;
    std::fs::create_dir_all(&paths.run)
        .with_context(|| format!("cannot create `{}`", paths.run.display()))?;
    let previous = state::latest(&paths.run)?;
    if previous.is_some() && !resume {
        bail!("`{}` already holds a run; continue it with --resume", paths.run.display());
    }
    let pack = TaskPack::load(&paths.pack)?;
    let chat = Chat::from_gguf(&paths.base)?;
    let data = Data::prepare(&pack, &chat, &paths.encoder, options, &device)?;
    let base = Decoder::from_gguf(&paths.base, &device)?;
    let (net, mut optimizer, first_step) = if let Some(checkpoint) = &previous {
        let net = Hypernet::from_checkpoint(&Checkpoint::load(checkpoint)?, &device)?;
        let (optimizer, state) = state::load(checkpoint)?;
        ensure!(state.options == *options, "the run was started with other options");
        ensure!(state.data == pack.digest.to_string(), "the task pack has changed");
        (net, optimizer, state.step)
    } else {
        let config = HypernetConfig {
            schema: 1,
            variant: options.variant,
            rank: options.rank,
            alpha: options.alpha,
            use_rslora: options.rslora,
            latent_size: options.latent_size,
            head_in_size: options.head_in_size,
            task_embedding_size: data.embedding_size,
            base: describe_base(&paths.base, &options.modules)?,
        };
        let mut rng = ChaCha8Rng::seed_from_u64(options.seed);
        (Hypernet::new(config, &mut rng, &device)?, AdamW::default(), 0)
    };
    let sampler = Sampler {
        tasks: &data.training,
        tasks_per_batch: options.tasks_per_batch,
        row_tokens: options.row_tokens,
        max_examples: options.max_examples,
        seed: options.seed,
    };
    let mut log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(paths.run.join("metrics.jsonl"))
        .context("cannot open metrics.jsonl")?;
    let bar = progress_bar(first_step, options.steps);
    let save = |step: usize, optimizer: &AdamW| {
        let (options, data) = (options.clone(), pack.digest.to_string());
        state::save(&paths.run, &net, optimizer, &RunState { step, options, data })
    };
    for step in first_step..options.steps {
        let started = Instant::now();
        let rate = learning_rate(options.learning_rate, step, options.steps, options.warmup_steps);
        let mut rng = sampler.rng(step);
        let batch = sampler.batch(step, &mut rng)?;
        let (loss, gradients) = step_gradients(&base, &net, &batch, options, &mut rng)?;
        ensure!(loss.is_finite(), "the loss is {loss} at step {step}");
        let norm = optimizer.update(
            net.trainable(),
            &gradients,
            step,
            rate,
            options.weight_decay,
            options.clip_norm,
        )?;
        let tokens_per_s = batch.tokens as f64 / started.elapsed().as_secs_f64();
        let done = step + 1;
        let validate = done % options.validate_every == 0 || done == options.steps;
        let validation_loss =
            validate.then(|| data.validation_loss(&base, &net, options)).transpose()?;
        let metrics = Metrics {
            step: done,
            loss,
            learning_rate: rate,
            gradient_norm: norm,
            tokens: batch.tokens,
            tokens_per_s,
            validation_loss,
        };
        writeln!(log, "{}", serde_json::to_string(&metrics)?)?;
        bar.set_message(format!("loss {loss:.3}, {tokens_per_s:.0} tokens/s"));
        bar.inc(1);
        if done % options.checkpoint_every == 0 && done != options.steps {
            save(done, &optimizer)?;
        }
    }
    bar.finish();
    save(options.steps, &optimizer)
}

fn progress_bar(first_step: usize, steps: usize) -> ProgressBar {
    let bar = ProgressBar::new(steps as u64).with_position(first_step as u64);
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} steps, {eta} left, {msg}");
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// Tokenized tasks and embedded descriptions.
struct Data {
    training: Vec<TaskData>,
    /// Tier and examples of each held-out task.
    validation: Vec<(String, TaskData)>,
    embedding_size: usize,
}

impl Data {
    fn prepare(
        pack: &TaskPack,
        chat: &Chat,
        encoder: &Path,
        options: &TrainOptions,
        device: &Device,
    ) -> Result<Self> {
        let encoder = DescriptionEncoder::load(encoder, device)?;
        let prepare = |task: &Task, split, texts: Vec<&str>| -> Result<TaskData> {
            let embed = |text: &str| encoder.embed(Description::new(text)?.as_str());
            let examples = tokenize(task, split, chat, options.max_tokens)?;
            ensure!(!examples.is_empty(), "task `{}` has no example that fits", task.id);
            let embeddings = texts.into_iter().map(embed).collect::<Result<_>>()?;
            Ok(TaskData { examples, embeddings })
        };
        let training: Vec<TaskData> = pack
            .tasks_of(TaskSplit::Train)
            .map(|t| prepare(t, ExampleSplit::Train, t.training_descriptions().collect()))
            .collect::<Result<_>>()?;
        let validation = pack
            .tasks_of(TaskSplit::Heldout)
            .map(|task| {
                let texts = task.evaluation_description().into_iter().collect();
                let tier = task.tier.clone().unwrap_or_default();
                Ok((tier, prepare(task, ExampleSplit::Valid, texts)?))
            })
            .collect::<Result<_>>()?;
        let first = training.first().context("the task pack has no training task")?;
        let embedding_size = first.embeddings.first().context("a task without description")?.len();
        Ok(Self { training, validation, embedding_size })
    }

    /// Mean answer loss per tier of held-out tasks, without smoothing or dropout.
    fn validation_loss(
        &self,
        base: &Decoder,
        net: &Hypernet,
        options: &TrainOptions,
    ) -> Result<BTreeMap<String, f32>> {
        let mut sums: BTreeMap<String, (f32, f32)> = BTreeMap::new();
        for (tier, task) in &self.validation {
            let examples = fill_row(task.examples.iter(), options.row_tokens);
            let batch = TrainingBatch::pack(&[(examples, task.embeddings[0].clone())])?;
            let adapters = generate(net, &batch, &base.device)?;
            let loss = answer_loss(base, &batch, &adapters, 0.0)?.to_scalar::<f32>()?;
            let sum = sums.entry(tier.clone()).or_default();
            *sum = (sum.0 + loss, sum.1 + 1.0);
        }
        Ok(sums.into_iter().map(|(tier, (sum, count))| (tier, sum / count)).collect())
    }
}

/// Adapters of a batch, without gradients.
fn generate(net: &Hypernet, batch: &TrainingBatch, device: &Device) -> Result<LoraBatch> {
    let rows: Vec<&[f32]> = batch.embeddings.iter().map(Vec::as_slice).collect();
    let generated = net.forward(&stack_embeddings(&rows, device)?, None)?;
    lora_batch(&generated, f64::from(net.config.scale()))
}

/// Splits generated matrices into the per-layer pairs that the decoder applies.
///
/// # Errors
/// Matrices of the wrong rank.
pub fn lora_batch(generated: &[GeneratedModule], scale: f64) -> Result<LoraBatch> {
    let mut pairs = BTreeMap::new();
    for module in generated {
        let layers = module.a.dim(1)?;
        let pair = |layer: usize| -> Result<LoraPair> {
            let of =
                |t: &Tensor| -> Result<Tensor> { Ok(t.detach().i((.., layer))?.contiguous()?) };
            Ok(LoraPair { a: of(&module.a)?, b_transposed: of(&module.b_transposed)? })
        };
        pairs.insert(module.name.clone(), (0..layers).map(pair).collect::<Result<_>>()?);
    }
    Ok(LoraBatch { pairs, scale })
}

/// Weighted cross-entropy of the answers.
fn answer_loss(
    base: &Decoder,
    batch: &TrainingBatch,
    adapters: &LoraBatch,
    smoothing: f32,
) -> Result<Tensor> {
    let hidden = base.forward(&batch.packed, Some(adapters), None)?;
    let logits = base.logits(&hidden, &batch.predict_at)?;
    let losses = cross_entropy(&logits, &Arc::new(batch.targets.clone()), smoothing)?;
    let weights = Tensor::from_slice(&batch.weights, batch.weights.len(), &base.device)?;
    Ok((losses * weights)?.sum_all()?)
}

/// Loss of a batch and the gradient of every parameter of the hypernetwork.
fn step_gradients(
    base: &Decoder,
    net: &Hypernet,
    batch: &TrainingBatch,
    options: &TrainOptions,
    rng: &mut ChaCha8Rng,
) -> Result<(f32, GradStore)> {
    let rows: Vec<&[f32]> = batch.embeddings.iter().map(Vec::as_slice).collect();
    let generated = net.forward(&stack_embeddings(&rows, &base.device)?, Some(rng))?;
    // The adapters become leaves: the base's backward pass ends at them.
    let mut adapters = lora_batch(&generated, f64::from(net.config.scale()))?;
    let mut leaves: BTreeMap<String, Vec<(Var, Var)>> = BTreeMap::new();
    for (name, pairs) in &mut adapters.pairs {
        for pair in pairs {
            let (a, b) = (Var::from_tensor(&pair.a)?, Var::from_tensor(&pair.b_transposed)?);
            *pair = LoraPair { a: a.as_tensor().clone(), b_transposed: b.as_tensor().clone() };
            leaves.entry(name.clone()).or_default().push((a, b));
        }
    }
    let loss = answer_loss(base, batch, &adapters, options.label_smoothing)?;
    let gradients = loss.backward()?;
    let gradient = |var: &Var| gradients.get(var).cloned().context("an adapter got no gradient");
    // Σ ∂loss/∂A · A has the loss's gradient with respect to the hypernetwork's parameters.
    let mut objective = Tensor::zeros((), candle_core::DType::F32, &base.device)?;
    for module in &generated {
        let pairs = leaves.get(&module.name).context("a module without leaves")?;
        let of_a = pairs.iter().map(|(a, _)| gradient(a)).collect::<Result<Vec<_>>>()?;
        let of_b = pairs.iter().map(|(_, b)| gradient(b)).collect::<Result<Vec<_>>>()?;
        for (matrix, gradients) in [(&module.a, of_a), (&module.b_transposed, of_b)] {
            let pull = (matrix * Tensor::stack(&gradients, 1)?)?.sum_all()?;
            let decay = (matrix.sqr()?.mean_all()? * f64::from(options.adapter_decay))?;
            objective = (objective + (pull + decay)?)?;
        }
    }
    Ok((loss.to_scalar()?, objective.backward()?))
}
