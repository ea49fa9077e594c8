//! `t2lc pack`: many adapters from one file, reproducibly.

mod build;
mod diff;
mod export;
mod init;
mod locked;
mod serve_args;
mod stored;
mod verify;

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use t2lc::pack::PackError;
use t2lc::pack::manifest;
use t2lc::pack::plan::Shard;
use t2lc_runtime::backend::{BackendKind, Provider};
use t2lc_runtime::error::Error;

use super::failure::{Failure, Outcome};
use stored::StoreArgs;

/// What to do with a pack.
#[derive(Debug, Subcommand)]
pub(crate) enum PackCommand {
    /// Write a small pack.toml to start from
    #[command(after_help = "Example: t2lc pack init")]
    Init(InitArgs),
    /// Write pack.lock: what every adapter is made from, and the digest of what it becomes
    #[command(after_help = "Example: t2lc pack lock")]
    Lock(LockArgs),
    /// Put the files of a pack in place; only what is missing or has changed is made
    #[command(after_help = "Example: t2lc pack build --locked")]
    Build(BuildArgs),
    /// Compile into the store only, the whole pack or one part of it
    #[command(after_help = "Example: t2lc pack compile --shard 0/4")]
    Compile(CompileArgs),
    /// Put the files in place from the store alone; names everything that is missing
    #[command(after_help = "Example: t2lc pack assemble")]
    Assemble(AssembleArgs),
    /// Check the files of a pack against its lock, or an OCI image layout against its own
    #[command(after_help = "Example: t2lc pack verify adapters --json")]
    Verify(VerifyArgs),
    /// Compare two locks: what came, went or changed, why, and how far the weights moved
    #[command(after_help = "Example: t2lc pack diff old.lock pack.lock --format markdown")]
    Diff(DiffArgs),
    /// Write a pack as an OCI image layout for registries, with a statement of its origin
    #[command(after_help = export::AFTER_HELP)]
    Export(export::ExportArgs),
    /// Print how to start llama-server with all adapters of a pack, and how to ask for one
    #[command(after_help = "Example: t2lc pack serve-args --base base.gguf")]
    ServeArgs(serve_args::ServeArgs),
}

/// Options of `pack init`.
#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// Where to write it
    #[arg(value_name = "FILE", default_value = manifest::FILE)]
    file: PathBuf,
    /// Overwrite an existing file
    #[arg(long)]
    force: bool,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

/// What every verb that may compile needs.
#[derive(Debug, Args)]
pub(crate) struct SourceArgs {
    /// The pack; its lock lies beside it
    #[arg(short, long, value_name = "FILE", default_value = manifest::FILE)]
    file: PathBuf,
    /// Bundle directory [default: the pack's model, or the one built in]
    #[arg(long, value_name = "DIR")]
    bundle: Option<PathBuf>,
    /// What runs the networks: exact, tract or ort; only exact gives the same bytes on any machine
    #[arg(long, default_value_t = BackendKind::Exact)]
    backend: BackendKind,
    /// Execution provider of the ort backend: auto, cpu, cuda, coreml, xnnpack, nnapi, qnn, directml
    #[arg(long, default_value_t = Provider::Auto)]
    provider: Provider,
    #[command(flatten)]
    stores: StoreArgs,
    /// Adapters that are compiled at once [default: one per core]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    jobs: Option<u16>,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

/// Options of `pack lock`.
#[derive(Debug, Args)]
pub(crate) struct LockArgs {
    #[command(flatten)]
    source: SourceArgs,
}

/// Options of `pack build`.
#[derive(Debug, Args)]
pub(crate) struct BuildArgs {
    #[command(flatten)]
    source: SourceArgs,
    /// Directory of the files [default: the one that the pack names]
    #[arg(short, long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Refuse a lock that is missing or stale, and never change it
    #[arg(long)]
    locked: bool,
    /// As --locked, and compile nothing: what the store lacks is an error
    #[arg(long)]
    frozen: bool,
    /// Replace outputs that this pack did not write
    #[arg(long)]
    force: bool,
}

/// Options of `pack compile`.
#[derive(Debug, Args)]
pub(crate) struct CompileArgs {
    #[command(flatten)]
    source: SourceArgs,
    /// Part of the pack, I of N from 0; every adapter belongs to exactly one
    #[arg(long, value_name = "I/N")]
    shard: Option<Shard>,
}

/// Options of `pack assemble`.
#[derive(Debug, Args)]
pub(crate) struct AssembleArgs {
    #[command(flatten)]
    source: SourceArgs,
    /// Directory of the files [default: the one that the pack names]
    #[arg(short, long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Replace outputs that this pack did not write
    #[arg(long)]
    force: bool,
}

/// Options of `pack verify`.
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// Directory of the files, or an OCI image layout [default: the one that the lock names]
    #[arg(value_name = "DIR")]
    directory: Option<PathBuf>,
    /// The lock; a layout has its own, and must have this one if it is given [default: pack.lock]
    #[arg(long, value_name = "FILE")]
    lock: Option<PathBuf>,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

/// Form of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum DiffFormat {
    /// Lines for a terminal
    Text,
    /// A page for a review
    Markdown,
    /// One JSON object
    Json,
}

/// Options of `pack diff`.
#[derive(Debug, Args)]
pub(crate) struct DiffArgs {
    /// The lock before
    old: PathBuf,
    /// The lock after
    new: PathBuf,
    /// Form of the output
    #[arg(long, value_enum, default_value_t = DiffFormat::Text)]
    format: DiffFormat,
    /// Directory with the files of the old lock; the store is asked as well
    #[arg(long, value_name = "DIR")]
    old_dir: Option<PathBuf>,
    /// Directory with the files of the new lock; the store is asked as well
    #[arg(long, value_name = "DIR")]
    new_dir: Option<PathBuf>,
    #[command(flatten)]
    stores: StoreArgs,
    /// The same as --format json
    #[arg(long, conflicts_with = "format")]
    json: bool,
}

impl PackCommand {
    /// Whether errors go to stdout as JSON as well.
    pub(crate) fn wants_json(&self) -> bool {
        match self {
            Self::Init(args) => args.json,
            Self::Lock(args) => args.source.json,
            Self::Build(args) => args.source.json,
            Self::Compile(args) => args.source.json,
            Self::Assemble(args) => args.source.json,
            Self::Verify(args) => args.json,
            Self::Diff(args) => args.json || args.format == DiffFormat::Json,
            Self::Export(args) => args.json,
            Self::ServeArgs(args) => args.json,
        }
    }
}

/// Runs the verb.
pub(crate) fn run(command: &PackCommand, quiet: bool) -> Outcome {
    match command {
        PackCommand::Init(args) => init::run(args, quiet),
        PackCommand::Lock(args) => build::lock(args, quiet),
        PackCommand::Build(args) => build::build(args, quiet),
        PackCommand::Compile(args) => build::compile(args, quiet),
        PackCommand::Assemble(args) => build::assemble(args, quiet),
        PackCommand::Verify(args) => verify::run(args),
        PackCommand::Diff(args) => diff::run(args),
        PackCommand::Export(args) => export::run(args, quiet),
        PackCommand::ServeArgs(args) => serve_args::run(args, quiet),
    }
}

impl From<PackError> for Failure {
    fn from(error: PackError) -> Self {
        match error {
            PackError::Runtime(error) => error.into(),
            PackError::Output(error) => Error::from(error).into(),
            PackError::Store(error) => Self::environment("store.failed", error),
            error @ PackError::Manifest { .. } => Self::input("pack.manifest", error),
            error @ PackError::Lock { .. } => Self::input("pack.lock", error)
                .hint("restore it, or remove it and run `t2lc pack lock`"),
            error @ PackError::NoLock { .. } => {
                Self::input("pack.no_lock", error).hint("run `t2lc pack lock` and commit the lock")
            }
            error @ PackError::Stale { .. } => Self::input("pack.stale", error)
                .hint("run `t2lc pack lock` with the same --backend and --bundle"),
            error @ PackError::Missing { .. } => Self::input("pack.missing", error)
                .hint("compile them into the store with `t2lc pack compile`"),
            error @ PackError::Compile { .. } => Self::input("pack.compile", error),
            error @ PackError::Content { .. } => Self::input("pack.content", error)
                .hint("use --backend exact, which gives the same bytes on any machine"),
            error @ PackError::NotPeft { .. } => Self::input("pack.content", error),
            error @ PackError::Layout { .. } => Self::input("pack.layout", error)
                .hint("copy it again, or write it anew with `t2lc pack export`"),
            error @ PackError::Foreign { .. } => {
                Self::input("pack.foreign", error).hint("use --force to replace them")
            }
            error @ PackError::Symlink { .. } => Self::input("pack.symlink", error),
            error => Self::environment("pack.failed", error),
        }
    }
}
