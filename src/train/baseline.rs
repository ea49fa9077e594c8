//! Plain LoRAs trained on the tasks themselves: what a hypernetwork is measured against.
//!
//! Task-specific ("oracle"): one adapter per task, on that task's own training examples.
//! Multi-task: one adapter for all training tasks, with or without the description in the prompt.
//! Both are PEFT directories that every other verb reads. The training is Text-to-LoRA's baseline
//! (its section 4) with the same sampler, loss and loop as the hypernetwork's.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result, ensure};
use candle_core::Device;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use serde_json::json;
use t2lc_runtime::base::BaseModel;
use t2lc_runtime::digest::Digest;

use super::AdapterOptions;
use super::arrow::Arrow;
use super::batch::BatchOptions;
use super::data::{ConditionKind, DataOptions, TrainingData};
use super::library::Library;
use super::lora::{LoraSize, PlainLora};
use super::run::{Finished, RunDirectory, RunOptions};
use super::sft::{Sft, StepSettings};
use crate::base::chat::Chat;
use crate::base::decoder::Decoder;
use crate::base::describe::describe_base;
use crate::base::digest::base_digest;
use crate::base::packed::{PackedBatch, PackedRow};
use crate::base::peft::PeftAdapter;
use crate::taskpack::{Task, TaskPack};

/// Runs of a library's adapters live in this directory of the library.
const RUNS: &str = ".runs";

/// Everything that decides the outcome of a plain LoRA, besides its data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, clap::Args)]
pub struct LoraOptions {
    /// Size and place of the adapters.
    #[command(flatten)]
    pub adapter: AdapterOptions,
    /// Which tasks and texts.
    #[command(flatten)]
    pub data: DataOptions,
    /// Size of a batch.
    #[command(flatten)]
    pub batch: BatchOptions,
    /// What shapes the loss.
    #[command(flatten)]
    pub loss: StepSettings,
    /// Settings of the loop.
    #[command(flatten)]
    pub run: RunOptions,
}

/// Trains plain LoRAs on a base.
#[derive(Debug)]
pub struct LoraTrainer<'a> {
    /// The tasks.
    pub pack: &'a TaskPack,
    /// Settings of every run.
    pub options: &'a LoraOptions,
    base: BaseModel,
    base_digest: Digest,
    chat: Chat,
    decoder: Decoder,
    device: Device,
}

impl<'a> LoraTrainer<'a> {
    /// Loads the base.
    ///
    /// # Errors
    /// A base that cannot be read or lacks a target module.
    pub fn open(base: &Path, pack: &'a TaskPack, options: &'a LoraOptions) -> Result<Self> {
        let device = Device::cuda_if_available(0)?;
        Ok(Self {
            pack,
            options,
            base: describe_base(base, &options.adapter.modules)?,
            base_digest: base_digest(base)?,
            chat: Chat::open(base)?,
            decoder: Decoder::open(base, &device)?,
            device,
        })
    }

    /// One adapter for all training tasks, in `output`; `None` when interrupted.
    ///
    /// # Errors
    /// Unusable data, an output of another run, a loss that is not finite.
    pub fn multi_task(
        &self,
        output: &Path,
        resume: bool,
        stop: &AtomicBool,
    ) -> Result<Option<PathBuf>> {
        let (kind, options) = (ConditionKind::Nothing, &self.options.data);
        let data = TrainingData::of_pack(self.pack, &self.chat, None, kind, options, &self.device)?;
        let mut run = output.as_os_str().to_owned();
        run.push(".run");
        self.train(&data, Path::new(&run), output, resume, stop)
    }

    /// An adapter for every task of `ids`, in `library/<id>`; those that exist are kept. Returns
    /// the ones made, fewer when interrupted.
    ///
    /// # Errors
    /// An unknown task, and as [`LoraTrainer::multi_task`].
    pub fn task_specific(
        &self,
        ids: &[String],
        library: &Path,
        resume: bool,
        stop: &AtomicBool,
    ) -> Result<Vec<PathBuf>> {
        let find = |id: &String| -> Result<&Task> {
            let task = self.pack.tasks.iter().find(|task| task.id == *id);
            task.with_context(|| format!("the task pack has no task `{id}`"))
        };
        let tasks = ids.iter().map(find).collect::<Result<Vec<_>>>()?;
        let mut made = Vec::new();
        for task in tasks {
            let output = library.join(&task.id);
            let run = library.join(RUNS).join(&task.id);
            if output.join(t2lc_runtime::peft::WEIGHTS).exists() {
                ensure!(resume, "`{}` exists; keep it with --resume", output.display());
                // What comes beside it must be made in the same way.
                if run.is_dir() {
                    RunDirectory::open(&run, self.identity(&[&task.id]), resume)?;
                }
                made.push(output);
                continue;
            }
            let data = TrainingData::of_task(task, &self.chat, &self.options.data)?;
            match self.train(&data, &run, &output, resume, stop)? {
                Some(adapter) => made.push(adapter),
                None => break,
            }
        }
        Ok(made)
    }

    /// What decides the adapter of these tasks.
    fn identity(&self, tasks: &[&str]) -> serde_json::Value {
        json!({
            "options": self.options,
            "base": self.base_digest.to_string(),
            "data": self.pack.digest.to_string(),
            "tasks": tasks,
        })
    }

    /// Runs to the end and leaves the best adapter in `output`.
    fn train(
        &self,
        data: &TrainingData,
        run: &Path,
        output: &Path,
        resume: bool,
        stop: &AtomicBool,
    ) -> Result<Option<PathBuf>> {
        let tasks: Vec<&str> = data.training.iter().map(|task| task.id.as_str()).collect();
        let directory = RunDirectory::open(run, self.identity(&tasks), resume)?;
        let (base, device) = (self.base.clone(), &self.device);
        let lora = if let Some(checkpoint) = directory.checkpoint() {
            PlainLora::load(checkpoint, base, device)?
        } else {
            let AdapterOptions { rank, alpha, rslora, .. } = self.options.adapter;
            let size = LoraSize { rank, alpha, use_rslora: rslora };
            let mut rng = ChaCha8Rng::seed_from_u64(self.options.run.seed);
            PlainLora::new(base, size, &mut rng, device)?
        };
        let LoraOptions { batch, loss: settings, run: options, .. } = self.options;
        let seed = options.seed;
        let (base, nonsense) = (&self.decoder, None);
        let sft = Sft { base, learner: &lora, data, nonsense, batch, settings, seed };
        let Finished { last, best, interrupted, .. } = directory.run(&sft, options, stop)?;
        if interrupted {
            return Ok(None);
        }
        let chosen = best.unwrap_or(last);
        PeftAdapter::load(&chosen, &self.base)?.save(output, &self.base)?;
        Ok(Some(output.to_owned()))
    }
}

/// How a library is mixed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Routing {
    /// Adapters that a token is routed to.
    pub top_k: usize,
    /// Adapters that the mixture keeps.
    pub keep: usize,
}

/// One adapter that mixes a library as Arrow routes the given inputs on average.
///
/// # Errors
/// A base that cannot be read, no inputs, adapters of different ranks.
pub fn arrow_mixture<'t>(
    path: &Path,
    base: &BaseModel,
    library: &Library,
    routing: Routing,
    inputs: impl Iterator<Item = &'t str>,
) -> Result<PeftAdapter> {
    let device = Device::cuda_if_available(0)?;
    let (chat, decoder) = (Chat::open(path)?, Decoder::open(path, &device)?);
    let arrow = Arrow::new(library, base, routing.top_k, &device)?;
    arrow.start_recording();
    for input in inputs {
        let batch = PackedBatch::new(&[PackedRow::with_prefix(&chat.prompt(input)?)]);
        decoder.forward(&batch, Some(&arrow), None)?;
    }
    arrow.finish_recording()?.mixture(library, base, routing.keep)
}
