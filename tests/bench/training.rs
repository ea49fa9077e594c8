//! Training steps of the hypernetwork, timed on fixed batches.
//!
//! In: a base and a task pack. Out: one line of JSON with the field names of `torch_training.py`,
//! which takes the same steps in PyTorch; `training.py` runs both. Batches: step `s` has the
//! training tasks `8 s` to `8 s + 7` in file order (wrapping) with the first four training examples
//! of each. Tokens are those of all prompts and answers: what a batch of padded examples computes,
//! padding left out. Here a prompt's beginning that a task's examples share is computed once, so
//! fewer are computed. Task embeddings are random, so no text encoder is needed. CPU, Linux.
//!
//! ```text
//! cargo bench --features train --bench training
//! ```

// The line of JSON.
#![allow(clippy::print_stdout)]

#[allow(dead_code)] // a bench needs few of the parts
#[path = "../support/parts.rs"]
mod parts;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use candle_core::Device;
use clap::Parser;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;
use t2lc::base::chat::Chat;
use t2lc::base::decoder::Decoder;
use t2lc::base::describe::describe_base;
use t2lc::taskpack::{Example, ExampleSplit, TaskPack, TaskSplit};
use t2lc::train::batch::{Row, TokenizedExample, TrainingBatch};
use t2lc::train::condition::Condition;
use t2lc::train::hypernet::{Hypernet, Init};
use t2lc::train::learner::Learner;
use t2lc::train::optimizer::AdamW;
use t2lc::train::sft::{StepSettings, step_gradients};
use t2lc_export::checkpoint::{HypernetConfig, Variant};

const TASKS_PER_STEP: usize = 8;
const EXAMPLES_PER_TASK: usize = 4;
const EMBEDDING_SIZE: usize = 384;
const LEARNING_RATE: f32 = 1e-4;
const WEIGHT_DECAY: f32 = 1e-2;
const CLIP_NORM: f32 = 1.0;
const SEED: u64 = 0;

/// The allocator of the command line.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Times training steps on fixed batches
#[derive(Debug, Parser)]
struct Args {
    /// Base model; by default the one that `tests/parts.sh` fetches
    #[arg(long)]
    base: Option<PathBuf>,
    /// Task pack; by default the repository's
    #[arg(long)]
    pack: Option<PathBuf>,
    /// Steps after the first, which warms up
    #[arg(long, default_value_t = 10)]
    steps: usize,
    /// `cargo bench` passes it
    #[arg(long, hide = true)]
    #[allow(dead_code)]
    bench: bool,
}

/// The first examples of one training task.
struct TaskExamples {
    id: String,
    examples: Vec<TokenizedExample>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    t2lc::workers::claim_cores();
    ensure!(args.steps > 0, "--steps must be at least 1");
    let base_path = args.base.unwrap_or_else(parts::base_gguf);
    let pack = TaskPack::load(&args.pack.unwrap_or_else(|| parts::fixture("taskpack")))?;
    let tasks = first_examples(&pack, &Chat::open(&base_path)?)?;
    let device = Device::Cpu;
    let base = Decoder::open(&base_path, &device)?;
    let config = HypernetConfig {
        schema: 1,
        variant: Variant::L,
        rank: 8,
        alpha: 16.0,
        use_rslora: false,
        latent_size: 256,
        head_in_size: 256,
        task_embedding_size: EMBEDDING_SIZE,
        base: describe_base(&base_path, &["q_proj".to_owned(), "v_proj".to_owned()])?,
    };
    let mut rng = ChaCha8Rng::seed_from_u64(SEED);
    let net = Hypernet::new(config, Init::FreshLora, &mut rng, &device)?;
    // The regularization of `train` is off, as it is in PyTorch's steps.
    let settings = StepSettings {
        label_smoothing: 0.0,
        adapter_decay: 0.0,
        neftune_alpha: 0.0,
        lora_dropout: 0.0,
    };
    let mut optimizer = AdamW::default();
    let (mut started, mut tokens, mut losses) = (Instant::now(), 0, Vec::new());
    for step in 0..=args.steps {
        if step == 1 {
            (started, tokens) = (Instant::now(), 0);
        }
        let rows = rows(&tasks, step, &mut rng);
        tokens += rows.iter().flat_map(|row| &row.examples).map(|e| length(e)).sum::<usize>();
        let batch = TrainingBatch::pack(rows)?;
        let (loss, gradients) = step_gradients(&base, &net, &batch, &settings, 0.0, &mut rng)?;
        let parameters = net.parameters();
        let (rate, decay) = (LEARNING_RATE, WEIGHT_DECAY);
        optimizer.update(&parameters, &gradients, step, &|_| rate, decay, CLIP_NORM)?;
        losses.push(loss);
    }
    let seconds = started.elapsed().as_secs_f64();
    let line = json!({
        "name": concat!("t2lc ", env!("CARGO_PKG_VERSION")),
        "tokens": tokens,
        "tokens_per_s": tokens as f64 / seconds,
        "s_per_step": seconds / args.steps as f64,
        "peak_mib": peak_mib()?,
        "first_loss": losses.first(),
        "loss": losses.last(),
    });
    println!("{line}");
    Ok(())
}

fn first_examples(pack: &TaskPack, chat: &Chat) -> Result<Vec<TaskExamples>> {
    let tokenized = |example: &Example| -> Result<TokenizedExample> {
        let (prompt, answer) = (chat.prompt(&example.input)?, chat.answer(&example.output)?);
        Ok(TokenizedExample { prompt, answer, input: String::new() })
    };
    let mut tasks = Vec::new();
    for task in pack.tasks_of(TaskSplit::Train) {
        let examples = task.examples_of(ExampleSplit::Train).take(EXAMPLES_PER_TASK);
        let examples = examples.map(tokenized).collect::<Result<_>>()?;
        tasks.push(TaskExamples { id: task.id.clone(), examples });
    }
    ensure!(!tasks.is_empty(), "the task pack has no training task");
    Ok(tasks)
}

/// The rows of a step, a task each, with random task embeddings.
fn rows<'t>(tasks: &'t [TaskExamples], step: usize, rng: &mut ChaCha8Rng) -> Vec<Row<'t>> {
    let row = |index: usize| {
        let TaskExamples { id, examples } = &tasks[index % tasks.len()];
        let embedding = (0..EMBEDDING_SIZE).map(|_| rng.random_range(-1.0..1.0)).collect();
        let condition = Condition::Embedding(embedding);
        Row { task: id.clone(), examples: examples.iter().collect(), condition }
    };
    (step * TASKS_PER_STEP..(step + 1) * TASKS_PER_STEP).map(row).collect()
}

fn length(example: &TokenizedExample) -> usize {
    example.prompt.len() + example.answer.len()
}

/// The most memory that the process has held so far.
fn peak_mib() -> Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status").context("no /proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()).context("no VmHWM")?;
    Ok(kib.parse::<f64>()? / 1024.0)
}
