//! The verbs and their options. The doc comments are the manual.

pub(crate) mod backend;
#[cfg(feature = "train")]
pub(crate) mod baseline;
pub(crate) mod compile;
pub(crate) mod completions;
#[cfg(feature = "train")]
pub(crate) mod convert;
#[cfg(feature = "train")]
pub(crate) mod eval;
pub(crate) mod export;
pub(crate) mod failure;
pub(crate) mod freeze;
pub(crate) mod import;
pub(crate) mod inspect;
#[cfg(all(feature = "train", feature = "llama"))]
pub(crate) mod llama;
pub(crate) mod output;
pub(crate) mod pack;
pub(crate) mod store;
#[cfg(feature = "train")]
pub(crate) mod train;
#[cfg(all(feature = "train", feature = "llama"))]
pub(crate) mod trial;
pub(crate) mod verify;
pub(crate) mod write_back;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use t2lc_runtime::backend::Provider;
use t2lc_runtime::compile::Format;
use t2lc_runtime::quantize::Quantization;

/// Compile a sentence into a LoRA adapter for llama.cpp
#[derive(Debug, Parser)]
#[command(name = "t2lc", version, arg_required_else_help = true, propagate_version = true)]
pub(crate) struct Cli {
    /// The verb.
    #[command(subcommand)]
    pub(crate) command: Command,
    /// Print errors only
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Turn a task description into an adapter
    #[command(after_help = "Example: t2lc compile \"summarize legal text\" -o legal.gguf")]
    Compile(CompileArgs),
    /// Answer a prompt without and with the adapter for a description
    #[cfg(all(feature = "train", feature = "llama"))]
    #[command(after_help = "Example: t2lc try \"translate English to French\" --base base.gguf \
                            --prompt \"The weather is fine.\"")]
    Try(TryArgs),
    /// Answer a prompt without and with the adapter for a description (not in this build)
    #[cfg(not(all(feature = "train", feature = "llama")))]
    Try(Unavailable),
    /// Show what is in an adapter, a bundle, a checkpoint or a PEFT directory
    #[command(after_help = "Example: t2lc inspect legal.gguf --json")]
    Inspect(InspectArgs),
    /// Check an adapter or a bundle, and whether an adapter fits a base
    #[command(
        after_help = "Example: t2lc verify legal.gguf --base SmolLM2-135M-Instruct.Q4_1.gguf"
    )]
    Verify(VerifyArgs),
    /// Build many adapters from one file, reproducibly
    #[command(after_help = "Example: t2lc pack build --locked")]
    Pack {
        /// What to do
        #[command(subcommand)]
        command: pack::PackCommand,
    },
    /// Look after the store of compiled adapters
    #[command(after_help = "Example: t2lc store gc --keep-packs pack.lock --dry-run")]
    Store {
        /// What to do
        #[command(subcommand)]
        command: store::StoreCommand,
    },
    /// Read a checkpoint of the reference implementation of Text-to-LoRA
    #[command(after_help = "Example: t2lc import trained_t2l/mistral_7b_t2l \
                            --base-config Mistral-7B-Instruct-v0.2/config.json \
                            --encoder gte-large-en-v1.5 -o mistral.t2lc")]
    Import(import::ImportArgs),
    /// Freeze a checkpoint and a text encoder into a bundle
    #[command(after_help = "Example: t2lc export run/step-000500 --encoder all-MiniLM-L6-v2 \
                            --pack fixtures/taskpack -o my.t2lc")]
    Export(ExportArgs),
    /// Train a hypernetwork on a frozen base
    #[cfg(feature = "train")]
    #[command(after_help = "Example: t2lc train --base base.gguf --encoder all-MiniLM-L6-v2 \
                            --pack fixtures/taskpack -o run --steps 500")]
    Train(TrainArgs),
    /// Train a hypernetwork on a frozen base (not in this build)
    #[cfg(not(feature = "train"))]
    Train(Unavailable),
    /// Score a bundle on the held-out tasks of a task pack
    #[cfg(feature = "train")]
    #[command(after_help = "Example: t2lc eval --base base.gguf --pack fixtures/taskpack")]
    Eval(eval::EvalArgs),
    /// Score a bundle on the held-out tasks of a task pack (not in this build)
    #[cfg(not(feature = "train"))]
    Eval(Unavailable),
    /// Make the adapters that a hypernetwork is measured against
    #[cfg(feature = "train")]
    #[command(
        after_help = "Example: t2lc baseline lora --base base.gguf --pack fixtures/taskpack \
                            --tasks antonym,synonym -o oracles"
    )]
    Baseline {
        /// Which adapters
        #[command(subcommand)]
        command: baseline::BaselineCommand,
    },
    /// Make the adapters that a hypernetwork is measured against (not in this build)
    #[cfg(not(feature = "train"))]
    Baseline(Unavailable),
    /// Turn a PEFT adapter into a GGUF file for llama.cpp
    #[cfg(feature = "train")]
    #[command(
        after_help = "Example: t2lc convert oracles/antonym --base base.gguf -o antonym.gguf"
    )]
    Convert(ConvertArgs),
    /// Turn a PEFT adapter into a GGUF file for llama.cpp (not in this build)
    #[cfg(not(feature = "train"))]
    Convert(Unavailable),
    /// Print a completion script for a shell
    #[command(hide = true, after_help = "Example: t2lc completions bash")]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write one page per verb
    #[command(hide = true, after_help = "Example: t2lc man --dir man1")]
    Man {
        /// Directory for the pages
        #[arg(long)]
        dir: Option<PathBuf>,
    },
}

impl Command {
    /// Whether errors go to stdout as JSON as well.
    pub(crate) fn wants_json(&self) -> bool {
        match self {
            Self::Compile(args) => args.json,
            Self::Import(args) => args.json,
            Self::Inspect(args) => args.json,
            Self::Pack { command } => command.wants_json(),
            Self::Store { command } => command.wants_json(),
            Self::Verify(args) => args.json,
            #[cfg(feature = "train")]
            Self::Eval(args) => args.json,
            #[cfg(all(feature = "train", feature = "llama"))]
            Self::Try(args) => args.json,
            _ => false,
        }
    }
}

/// Takes anything, so that a build without the trainer or llama.cpp can say what it lacks.
#[cfg(not(all(feature = "train", feature = "llama")))]
#[derive(Debug, Args)]
pub(crate) struct Unavailable {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    rest: Vec<String>,
}

/// Options of `compile`.
#[derive(Debug, Args)]
#[allow(clippy::struct_excessive_bools)] // independent switches of a command line
pub(crate) struct CompileArgs {
    /// What the adapter should do, in a sentence; `-` reads it from stdin
    #[arg(required_unless_present = "file", conflicts_with = "file")]
    pub(crate) description: Option<String>,
    /// Read the description from a file
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Where to write the adapter; `-` is stdout
    #[arg(short, long)]
    pub(crate) output: PathBuf,
    /// Bundle directory [default: the one built in]
    #[arg(long, value_name = "DIR")]
    pub(crate) bundle: Option<PathBuf>,
    /// Form of the output: gguf or peft
    #[arg(long, default_value_t = Format::Gguf)]
    pub(crate) format: Format,
    /// Tensor type: f32, f16, bf16, q8_0, q4_0, q4_1, q5_0 or q5_1 [default: q8_0, for peft f32]
    #[arg(long, value_name = "TYPE")]
    pub(crate) quant: Option<Quantization>,
    /// What runs the networks: auto, exact, tract or ort
    #[arg(long, default_value_t = backend::BackendChoice::Auto)]
    pub(crate) backend: backend::BackendChoice,
    /// Execution provider of the ort backend: auto, cpu, cuda, coreml, xnnpack, nnapi, qnn, directml
    #[arg(long, default_value_t = Provider::Auto)]
    pub(crate) provider: Provider,
    /// Strength of the adapter; 1 is as trained
    #[arg(long, default_value_t = 1.0, allow_hyphen_values = true)]
    pub(crate) scale: f32,
    /// Overwrite an existing output
    #[arg(long)]
    pub(crate) force: bool,
    /// Refuse a description that is unlike anything seen in training
    #[arg(long)]
    pub(crate) strict: bool,
    /// Print the result as JSON on stdout
    #[arg(long)]
    pub(crate) json: bool,
}

/// Options of `try`.
#[cfg(all(feature = "train", feature = "llama"))]
#[derive(Debug, Args)]
pub(crate) struct TryArgs {
    /// What the adapter should do, in a sentence
    pub(crate) description: String,
    /// The base that the bundle was made for
    #[arg(long, value_name = "GGUF")]
    pub(crate) base: PathBuf,
    /// What the base is asked, with and without the adapter
    #[arg(long, value_name = "TEXT")]
    pub(crate) prompt: String,
    /// Bundle directory [default: the one built in]
    #[arg(long, value_name = "DIR")]
    pub(crate) bundle: Option<PathBuf>,
    /// Directory of llama.cpp's libraries [default: what T2LC_LLAMA says]
    #[arg(long, value_name = "DIR")]
    pub(crate) llama: Option<PathBuf>,
    /// Most tokens of an answer
    #[arg(long, value_name = "N", default_value_t = 64,
          value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) max_tokens: u32,
    /// Print the answers as JSON on stdout
    #[arg(long)]
    pub(crate) json: bool,
}

/// Options of `inspect`.
#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// An adapter or base (GGUF file), a bundle, a checkpoint or a PEFT directory
    pub(crate) path: PathBuf,
    /// Print as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Options of `verify`.
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// An adapter (GGUF file) or a bundle directory
    pub(crate) path: PathBuf,
    /// The base the adapter is to be applied to
    #[arg(long, value_name = "GGUF")]
    pub(crate) base: Option<PathBuf>,
    /// Compile the adapter anew from what it says of itself, and compare
    #[arg(long)]
    pub(crate) rebuild: bool,
    /// Bundle directory for --rebuild [default: the one built in]
    #[arg(long, value_name = "DIR", requires = "rebuild")]
    pub(crate) bundle: Option<PathBuf>,
    /// Print as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Options of `export`.
#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// Checkpoint directory that training or import wrote
    pub(crate) checkpoint: PathBuf,
    #[command(flatten)]
    pub(crate) freeze: freeze::FreezeArgs,
    /// Task pack the checkpoint was trained on; several in the order of training
    #[arg(long, value_name = "DIR", conflicts_with = "descriptions")]
    pub(crate) pack: Vec<PathBuf>,
    /// Freeze the mean of the checkpoint's weights and of those of the bundle that its run started from
    #[arg(long, value_name = "BUNDLE")]
    pub(crate) average: Option<PathBuf>,
    /// Directory to write
    #[arg(short, long)]
    pub(crate) output: PathBuf,
    /// Form of the output: bundle, or text-to-lora for a checkpoint of the reference implementation,
    /// which has no gated variant
    #[arg(long, default_value_t)]
    pub(crate) format: write_back::ExportFormat,
    /// Where the reference finds the base: a path or a hub name [default: the base's name]
    #[arg(long, value_name = "NAME", requires = "format")]
    pub(crate) model_dir: Option<String>,
    /// Licence of the hypernetwork [default: CC-BY-SA-4.0; of an imported one, that given on import]
    #[arg(long)]
    pub(crate) licence: Option<String>,
    /// Overwrite an existing output
    #[arg(long)]
    pub(crate) force: bool,
}

/// Options of `train` and of the baseline that is trained like it.
#[cfg(feature = "train")]
#[derive(Debug, Args)]
pub(crate) struct TrainArgs {
    /// Base model: a GGUF file or a Hugging Face directory
    #[arg(long, value_name = "PATH")]
    pub(crate) base: PathBuf,
    /// Hugging Face directory of the text encoder
    #[arg(long, value_name = "DIR")]
    pub(crate) encoder: PathBuf,
    /// Tasks: a task pack, Super-NaturalInstructions files, or a directory of JSONL; repeat it to
    /// train on several
    #[arg(long, value_name = "DIR", required = true)]
    pub(crate) pack: Vec<PathBuf>,
    /// Directory of the run
    #[arg(short, long)]
    pub(crate) output: PathBuf,
    /// Continue the run from its latest checkpoint
    #[arg(long)]
    pub(crate) resume: bool,
    /// Adapter that every generated one starts from, for example a multi-task one (PEFT directory)
    #[arg(long, value_name = "DIR")]
    pub(crate) warm_start: Option<PathBuf>,
    /// Bundle whose hypernetwork (gated or L) is trained on, instead of a fresh one; form and sizes
    /// must be those of the bundle. Give the tasks that it knows as well, or they are forgotten
    #[arg(long, value_name = "DIR", conflicts_with_all = ["warm_start", "reconstruct"])]
    pub(crate) start_from: Option<PathBuf>,
    /// Train towards the PEFT adapters in this directory, named by task, instead of on answers; those
    /// of held-out tasks are left out
    #[arg(long, value_name = "DIR", conflicts_with = "warm_start")]
    pub(crate) reconstruct: Option<PathBuf>,
    /// Train once per seed, each in a directory `seed-N` of the output
    #[arg(long, value_delimiter = ',', value_name = "N", conflicts_with = "seed")]
    pub(crate) seeds: Vec<u64>,
    /// Draw losses and learning rate into this SVG file at the end
    #[arg(long, value_name = "SVG")]
    pub(crate) plot: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) options: t2lc::train::TrainOptions,
}

/// Options of `convert`.
#[cfg(feature = "train")]
#[derive(Debug, Args)]
pub(crate) struct ConvertArgs {
    /// PEFT directory
    pub(crate) adapter: PathBuf,
    /// Base model: a GGUF file or a Hugging Face directory
    #[arg(long, value_name = "PATH")]
    pub(crate) base: PathBuf,
    /// GGUF file to write
    #[arg(short, long)]
    pub(crate) output: PathBuf,
    /// Tensor type: f32, f16, bf16, q8_0, q4_0, q4_1, q5_0 or q5_1
    #[arg(long, default_value_t = Quantization::Q8_0, value_name = "TYPE")]
    pub(crate) quant: Quantization,
    /// Licence of the adapter
    #[arg(long, default_value = "CC-BY-SA-4.0")]
    pub(crate) licence: String,
    /// Overwrite an existing file
    #[arg(long)]
    pub(crate) force: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::Cli;

    #[test]
    fn every_option_has_help_and_every_verb_an_example() {
        let mut cli = Cli::command();
        cli.build();
        for verb in cli.get_subcommands().filter(|verb| verb.get_name() != "help") {
            let name = verb.get_name();
            assert!(verb.get_about().is_some(), "`{name}` has no help");
            let needs_train = matches!(name, "train" | "eval" | "baseline" | "convert");
            let missing = needs_train && cfg!(not(feature = "train"))
                || name == "try" && cfg!(not(all(feature = "train", feature = "llama")));
            assert!(missing || verb.get_after_help().is_some(), "`{name}` has no example");
            for arg in verb.get_arguments().filter(|arg| !arg.is_hide_set()) {
                assert!(arg.get_help().is_some(), "`{name} {}` has no help", arg.get_id());
            }
        }
        cli.debug_assert();
    }
}
