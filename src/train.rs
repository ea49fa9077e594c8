//! Training: a hypernetwork on a frozen base, or towards given adapters, and the plain LoRAs that
//! it is measured against.
//!
//! In: a base, a text encoder, a task pack, for reconstruction a library of adapters. Out: a run's
//! directory with checkpoints and metrics. What is minimized is an [`run::Objective`]: [`sft::Sft`]
//! (supervised, Text-to-LoRA section 4) or [`reconstruct::Reconstruction`]; what supervised
//! training learns is a [`learner::Learner`]: a [`hypernet::Hypernet`] or a [`lora::PlainLora`].

pub mod arrow;
pub mod baseline;
pub mod batch;
pub mod condition;
pub mod data;
pub mod embed;
pub mod hypernet;
pub mod learner;
pub mod library;
pub mod lora;
pub mod nonsense;
pub mod optimizer;
pub mod plot;
pub mod reconstruct;
pub mod run;
pub mod sft;
pub mod start;
pub mod state;
pub mod tuned_encoder;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use anyhow::{Result, ensure};
use candle_core::Device;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use serde_json::json;
use t2lc_export::checkpoint::{Checkpoint, ENCODER_DIR, HypernetConfig, Variant};
use t2lc_runtime::base::BaseModel;
use t2lc_runtime::digest::Hasher;

use batch::BatchOptions;
use data::{ConditionKind, DataOptions, TrainingData};
use embed::DescriptionEncoder;
use hypernet::{Hypernet, Init};
use learner::Learner;
use library::Library;
use nonsense::{Nonsense, NonsenseOptions};
use reconstruct::{Reconstruction, ReconstructionOptions};
use run::{Finished, RunDirectory, RunOptions};
use sft::{Sft, StepSettings};
use start::Start;
use tuned_encoder::{EncodingHypernet, TunedEncoder};

use crate::base::chat::Chat;
use crate::base::decoder::Decoder;
use crate::base::describe::describe_base;
use crate::base::digest::base_digest;
use crate::base::peft::PeftAdapter;
use crate::taskpack::TaskPack;

/// Where the inputs of a run are.
#[derive(Debug, Clone)]
pub struct TrainPaths {
    /// GGUF file or Hugging Face directory of the base.
    pub base: PathBuf,
    /// Hugging Face directory of the text encoder.
    pub encoder: PathBuf,
    /// The tasks, in one place or several.
    pub packs: Vec<PathBuf>,
    /// PEFT directory of the adapter that every generated one starts from.
    pub warm_start: Option<PathBuf>,
    /// Directory of the bundle that training goes on from.
    pub start_from: Option<PathBuf>,
    /// Directory of PEFT adapters named by task, to be reconstructed.
    pub library: Option<PathBuf>,
    /// Directory of the run.
    pub run: PathBuf,
}

/// Sizes of the hypernetwork and of its adapters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, clap::Args)]
pub struct NetworkOptions {
    /// Form of the hypernetwork: Text-to-LoRA's L (a whole adapter per call of a head), M (one matrix)
    /// or S (one rank); or gated, which generates `lora_b` alone
    #[arg(long, default_value = "L")]
    pub variant: Variant,
    /// Size and place of the adapters.
    #[command(flatten)]
    #[serde(flatten)]
    pub adapter: AdapterOptions,
    /// Latent size of the trunk of L, M and S, a multiple of 4
    #[arg(long, default_value_t = 256)]
    pub latent_size: usize,
    /// Input size of the hypernetwork's heads
    #[arg(long, default_value_t = 256)]
    pub head_in_size: usize,
}

/// Size and place of the adapters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, clap::Args)]
pub struct AdapterOptions {
    /// Rank of the adapters
    #[arg(long, default_value_t = 4)]
    pub rank: usize,
    /// LoRA alpha; the adapters are scaled by alpha / rank
    #[arg(long, default_value_t = 8.0)]
    pub alpha: f32,
    /// Scale the adapters by alpha / √rank instead
    #[arg(long)]
    pub rslora: bool,
    /// Target modules; their order is the type index of the hypernetwork
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj"
    )]
    pub modules: Vec<String>,
}

/// Everything that decides the outcome of a run, besides its data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, clap::Args)]
pub struct TrainOptions {
    /// What an adapter depends on
    #[arg(long, value_enum, default_value_t = ConditionKind::Description)]
    pub condition: ConditionKind,
    /// Sizes of the hypernetwork.
    #[command(flatten)]
    pub network: NetworkOptions,
    /// Train the text encoder as well, with this share of the learning rate; 0 leaves it as it is
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    #[serde(default, skip_serializing_if = "is_zero")]
    pub tune_encoder: f32,
    /// Which tasks and texts.
    #[command(flatten)]
    pub data: DataOptions,
    /// Size of a batch.
    #[command(flatten)]
    pub batch: BatchOptions,
    /// What shapes the loss.
    #[command(flatten)]
    pub loss: StepSettings,
    /// How much texts that describe no task count.
    #[command(flatten)]
    pub nonsense: NonsenseOptions,
    /// How reconstruction compares.
    #[command(flatten)]
    pub reconstruction: ReconstructionOptions,
    /// Settings of the loop.
    #[command(flatten)]
    pub run: RunOptions,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde passes a reference
fn is_zero(share: &f32) -> bool {
    *share == 0.0
}

/// Trains a hypernetwork: on the answers of the pack's tasks, or towards the library's adapters
/// where one is given.
///
/// With `resume`, the run continues from its latest checkpoint. When `stop` is set, the step in
/// progress is finished and saved.
///
/// # Errors
/// Unusable inputs, a run directory that already holds a run (without `resume`), a resumed run
/// with other options or data, a loss that is not finite.
pub fn train(
    paths: &TrainPaths,
    options: &TrainOptions,
    resume: bool,
    stop: &AtomicBool,
) -> Result<Finished> {
    ensure!(
        options.condition != ConditionKind::Nothing,
        "a hypernetwork depends on something; one adapter for all tasks is `baseline multi-task`"
    );
    let device = Device::cuda_if_available(0)?;
    let pack = TaskPack::load_all(&paths.packs)?;
    let base = describe_base(&paths.base, &options.network.adapter.modules)?;
    let warm_start = paths.warm_start.as_deref();
    let warm_start = warm_start.map(|dir| PeftAdapter::load(dir, &base)).transpose()?;
    let start = paths.start_from.as_deref().map(Start::open).transpose()?;
    let mut library = paths.library.as_deref().map(|dir| Library::load(dir, &base)).transpose()?;
    if let Some(library) = &mut library {
        library.leave_out_held_out(&pack);
        ensure!(!library.adapters.is_empty(), "the library has adapters of held-out tasks only");
        options.data.refuse_for_reconstruction(options.condition)?;
    }
    let identity = json!({
        "options": options,
        "base": base_digest(&paths.base)?.to_string(),
        "data": pack.digest.to_string(),
        "encoder": embed::encoder_digest(&paths.encoder)?.to_string(),
        "warm_start": warm_start.as_ref().map(adapter_digest),
        "start_from": start.as_ref().map(|start| &start.record),
        "library": library.as_ref().map(library_digest),
    });
    let directory = RunDirectory::open(&paths.run, identity, resume)?;
    if let Some(finished) = directory.finished(&options.run) {
        return Ok(finished);
    }
    let inputs =
        Inputs { paths, options, pack: &pack, base, start: start.as_ref(), device: &device };
    match &library {
        Some(library) => inputs.reconstruct(library, &directory, stop),
        None => inputs.supervised(warm_start.as_ref(), &directory, stop),
    }
}

/// What both kinds of training read.
struct Inputs<'a> {
    paths: &'a TrainPaths,
    options: &'a TrainOptions,
    pack: &'a TaskPack,
    base: BaseModel,
    start: Option<&'a Start>,
    device: &'a Device,
}

impl Inputs<'_> {
    fn supervised(
        &self,
        warm_start: Option<&PeftAdapter>,
        directory: &RunDirectory,
        stop: &AtomicBool,
    ) -> Result<Finished> {
        let Self { paths, options, device, .. } = *self;
        let chat = Chat::open(&paths.base)?;
        let mut encoder = DescriptionEncoder::load(&paths.encoder, device)?;
        let tuned = self.tuned_encoder(directory, &encoder)?;
        if tuned.is_some() {
            encoder = encoder.tokenizing();
        }
        let (kind, encoder) = (options.condition, Some(encoder));
        let data = TrainingData::of_pack(self.pack, &chat, encoder, kind, &options.data, device)?;
        let seed = options.run.seed;
        let nonsense = match (options.condition, &data.encoder) {
            (ConditionKind::Description, Some(encoder)) => {
                Nonsense::of_pack(self.pack, encoder, &options.nonsense, seed)?
            }
            _ => None,
        };
        let init = warm_start.map_or(Init::FreshLora, Init::Offset);
        let conditions = || data.conditions();
        let net = self.hypernet(directory, init, data.condition_size, conditions)?;
        let base = Decoder::open(&paths.base, device)?;
        let (batch, settings, nonsense) = (&options.batch, &options.loss, nonsense.as_ref());
        let tuned = tuned.map(|encoder| EncodingHypernet {
            encoder,
            net: &net,
            rate_share: options.tune_encoder,
        });
        let learner: &dyn Learner = tuned.as_ref().map_or(&net, |tuned| tuned);
        let sft = Sft { base: &base, learner, data: &data, nonsense, batch, settings, seed };
        directory.run(&sft, &options.run, stop)
    }

    /// The encoder that is trained as well, or was before and goes with the checkpoints: the last
    /// checkpoint's or, at first, that of the bundle that the run starts from, or the given one.
    fn tuned_encoder(
        &self,
        directory: &RunDirectory,
        given: &DescriptionEncoder,
    ) -> Result<Option<TunedEncoder>> {
        let TrainOptions { tune_encoder: share, condition, .. } = self.options;
        ensure!(*share >= 0.0, "the encoder cannot be trained at {share} times the learning rate");
        let dir = &self.paths.encoder;
        let own = directory.checkpoint().map(|checkpoint| checkpoint.join(ENCODER_DIR));
        let encoder = match (own, self.start) {
            (Some(own), _) if own.is_dir() => Some(TunedEncoder::load(&own, self.device)?),
            (None, Some(start)) => start.trained_encoder(given, dir)?,
            _ => None,
        };
        let encoder = match encoder {
            None if *share > 0.0 => TunedEncoder::load(dir, self.device)?,
            None => return Ok(None),
            Some(encoder) => encoder,
        };
        ensure!(
            *condition == ConditionKind::Description,
            "an encoder that is trained, or was, is for descriptions"
        );
        Ok(Some(encoder))
    }

    fn reconstruct(
        &self,
        library: &Library,
        directory: &RunDirectory,
        stop: &AtomicBool,
    ) -> Result<Finished> {
        ensure!(self.options.tune_encoder == 0.0, "reconstruction trains no text encoder");
        let encoder = DescriptionEncoder::load(&self.paths.encoder, self.device)?;
        let embeddings =
            reconstruct::embed_tasks(self.pack, library, &encoder, self.options.data.descriptions)?;
        let conditions = || Ok(embeddings.clone());
        let net = self.hypernet(directory, Init::Reconstruct, encoder.width()?, conditions)?;
        let seed = self.options.run.seed;
        let objective =
            Reconstruction::new(net, library, embeddings, &self.options.reconstruction, seed)?;
        directory.run(&objective, &self.options.run, stop)
    }

    /// The checkpoint's network, or a fresh one, where it asks for the tasks' conditions.
    fn hypernet(
        &self,
        directory: &RunDirectory,
        init: Init<'_>,
        task_embedding_size: usize,
        conditions: impl FnOnce() -> Result<Vec<Vec<Vec<f32>>>>,
    ) -> Result<Hypernet> {
        if let Some(checkpoint) = directory.checkpoint() {
            return Hypernet::from_checkpoint(&Checkpoint::load(checkpoint)?, self.device);
        }
        let NetworkOptions { variant, adapter, latent_size, head_in_size } = &self.options.network;
        let config = HypernetConfig {
            schema: 1,
            variant: *variant,
            rank: adapter.rank,
            alpha: adapter.alpha,
            use_rslora: adapter.rslora,
            // A gated one has no trunk.
            latent_size: if *variant == Variant::Gated { *head_in_size } else { *latent_size },
            head_in_size: *head_in_size,
            task_embedding_size,
            base: self.base.clone(),
        };
        if let Some(Start { checkpoint, .. }) = self.start {
            let there = &checkpoint.config;
            ensure!(
                there.base.fingerprint == config.base.fingerprint,
                "the bundle that the run starts from is for the base {}, the base given is {}",
                there.base.fingerprint,
                config.base.fingerprint,
            );
            ensure!(
                same_form(there, &config),
                "the bundle that the run starts from has another form: it takes {}, and embeddings of {} \
                 numbers",
                options_of(there),
                there.task_embedding_size,
            );
            return Hypernet::from_checkpoint(checkpoint, self.device);
        }
        let mut rng = ChaCha8Rng::seed_from_u64(self.options.run.seed);
        let mut net = Hypernet::new(config, init, &mut rng, self.device)?;
        if net.config.variant == Variant::Gated {
            net.spread(&conditions()?, &mut rng)?;
        }
        Ok(net)
    }
}

/// Whether two networks differ in nothing but the base's name and how their scale is written.
fn same_form(there: &HypernetConfig, asked: &HypernetConfig) -> bool {
    let base = BaseModel { name: there.base.name.clone(), ..asked.base.clone() };
    let HypernetConfig { alpha, use_rslora, .. } = *there;
    let scales_agree = (there.scale() - asked.scale()).abs() <= 1e-6 * asked.scale().abs();
    scales_agree && *there == HypernetConfig { base, alpha, use_rslora, ..asked.clone() }
}

/// The options that ask for a network of this form.
fn options_of(config: &HypernetConfig) -> String {
    let HypernetConfig { variant, rank, alpha, head_in_size, latent_size, base, .. } = config;
    let modules: Vec<&str> = base.modules.iter().map(|module| module.name.as_str()).collect();
    let modules = modules.join(",");
    let latent = match variant {
        Variant::Gated => String::new(),
        _ => format!(" --latent-size {latent_size}"),
    };
    format!(
        "--variant {variant} --rank {rank} --alpha {alpha} --head-in-size {head_in_size}{latent} \
         --modules {modules}"
    )
}

/// Digest of an adapter's matrices and scale.
fn adapter_digest(adapter: &PeftAdapter) -> String {
    let mut hasher = Hasher::new();
    hasher.update(&adapter.scale().to_le_bytes());
    for ((module, layer), (a, b)) in &adapter.matrices {
        hasher.update_prefixed(format!("{module}.{layer}").as_bytes());
        for value in a.iter().chain(b) {
            hasher.update(&value.to_le_bytes());
        }
    }
    hasher.finish().to_string()
}

/// Digest of each adapter of a library, by task.
fn library_digest(library: &Library) -> BTreeMap<&str, String> {
    let adapters = library.adapters.iter();
    adapters.map(|(task, adapter)| (task.as_str(), adapter_digest(adapter))).collect()
}
