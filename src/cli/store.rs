//! `t2lc store`: what is in the store of compiled adapters, and what of it may go.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::anyhow;
use clap::{ArgGroup, Args, Subcommand};
use serde_json::json;
use t2lc::pack::PackError;
use t2lc::pack::lock::Lock;
use t2lc::store::{Kept, Store};

use super::failure::{Failure, Outcome};
use super::output::{human_bytes, print_json, print_text, say};

/// What to do with the store.
#[derive(Debug, Subcommand)]
pub(crate) enum StoreCommand {
    /// List the adapters in the store
    #[command(after_help = "Example: t2lc store list --json")]
    List(StoreArgs),
    /// Read everything, and remove what is damaged
    #[command(after_help = "Example: t2lc store verify")]
    Verify(StoreArgs),
    /// Remove adapters that no pack needs, or that were not used for long
    #[command(after_help = "Example: t2lc store gc --keep-packs pack.lock --dry-run")]
    Gc(GcArgs),
}

/// Options of every verb.
#[derive(Debug, Args)]
pub(crate) struct StoreArgs {
    /// Directory of the store [default: what T2LC_STORE says, or t2lc/store in the user's cache]
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

/// Options of `store gc`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("keep").required(true))]
pub(crate) struct GcArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// Keep the adapters that these locks name, and nothing else
    #[arg(long, value_name = "LOCK", num_args = 1.., group = "keep")]
    keep_packs: Vec<PathBuf>,
    /// Keep what was stored or used within so many days, and nothing else
    #[arg(long, value_name = "N", group = "keep",
          value_parser = clap::value_parser!(u64).range(0..=36_500))]
    older_than_days: Option<u64>,
    /// Say what would be removed, and remove nothing
    #[arg(long)]
    dry_run: bool,
}

impl StoreCommand {
    /// Whether errors go to stdout as JSON as well.
    pub(crate) fn wants_json(&self) -> bool {
        match self {
            Self::List(args) | Self::Verify(args) => args.json,
            Self::Gc(args) => args.store.json,
        }
    }
}

/// Runs the verb.
pub(crate) fn run(command: &StoreCommand, quiet: bool) -> Outcome {
    match command {
        StoreCommand::List(args) => list(args, quiet),
        StoreCommand::Verify(args) => verify(args, quiet),
        StoreCommand::Gc(args) => collect(args, quiet),
    }
}

fn open(args: &StoreArgs) -> Result<Store, Failure> {
    Ok(Store::locate(args.store.as_deref()).map_err(PackError::from)?)
}

fn size(bytes: u64) -> String {
    human_bytes(usize::try_from(bytes).unwrap_or(usize::MAX))
}

fn list(args: &StoreArgs, quiet: bool) -> Outcome {
    let store = open(args)?;
    let listed = store.list().map_err(PackError::from)?;
    let total: u64 = listed.iter().map(|adapter| adapter.size_bytes).sum();
    let root = store.root().display();
    if args.json {
        let adapters: Vec<_> = listed
            .iter()
            .map(
                |a| json!({"content": a.content, "size_bytes": a.size_bytes, "recipes": a.recipes}),
            )
            .collect();
        let root = root.to_string();
        print_json(&json!({
            "schema": 1, "store": root, "size_bytes": total, "adapters": adapters,
        }))?;
    } else {
        let lines = listed.iter().map(|a| format!("{} {}\n", a.content, a.size_bytes));
        print_text(&lines.collect::<Vec<_>>().concat())?;
    }
    say(quiet, &format!("{root}: {} adapters, {}", listed.len(), size(total)));
    Ok(())
}

fn verify(args: &StoreArgs, quiet: bool) -> Outcome {
    let store = open(args)?;
    let damaged = store.verify().map_err(PackError::from)?;
    let root = store.root().display();
    if args.json {
        let damaged: Vec<_> = damaged
            .iter()
            .map(|d| json!({"path": d.path.display().to_string(), "reason": d.reason}))
            .collect();
        print_json(&json!({
            "schema": 1, "store": root.to_string(), "sound": damaged.is_empty(),
            "removed": damaged,
        }))?;
    }
    if damaged.is_empty() {
        say(quiet, &format!("{root}: sound"));
        return Ok(());
    }
    let lines: Vec<String> =
        damaged.iter().map(|d| format!("`{}`: {}", d.path.display(), d.reason)).collect();
    let error = anyhow!("damaged files were removed:\n  {}", lines.join("\n  "));
    Err(Failure::input("store.damaged", error)
        .hint("the next build makes them again")
        .answered(args.json))
}

fn collect(args: &GcArgs, quiet: bool) -> Outcome {
    let store = open(&args.store)?;
    let kept = if let Some(days) = args.older_than_days {
        Kept::UsedWithin(Duration::from_hours(24 * days))
    } else {
        let mut contents = BTreeSet::new();
        for path in &args.keep_packs {
            // A lock that is not there must not cost its adapters.
            let missing = || PackError::NoLock { path: path.clone() };
            let lock = Lock::read(path)?.ok_or_else(missing)?;
            contents.extend(lock.adapters.iter().map(|adapter| adapter.content));
        }
        Kept::Contents(contents)
    };
    let collected = store.collect(&kept, args.dry_run).map_err(PackError::from)?;
    if args.store.json {
        print_json(&json!({
            "schema": 1,
            "store": store.root().display().to_string(),
            "dry_run": args.dry_run,
            "removed": {
                "adapters": collected.blobs,
                "records": collected.records,
                "temporary": collected.temporary,
            },
            "freed_bytes": collected.freed_bytes,
            "kept": collected.kept,
        }))?;
    }
    let done = if args.dry_run { "would remove" } else { "removed" };
    let (blobs, freed, kept) = (collected.blobs, size(collected.freed_bytes), collected.kept);
    say(quiet, &format!("{done} {blobs} adapters ({freed}), kept {kept}"));
    Ok(())
}
