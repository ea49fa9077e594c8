//! `t2lc pack lock`, `build`, `compile` and `assemble`: everything that may compile.

use std::num::NonZero;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use t2lc::pack::build::{Action, Engine, Job, Progress, Report, Rules};
use t2lc::pack::manifest::Manifest;
use t2lc::pack::plan::Plan;
use t2lc::pack::stale::{Change, Kind};
use t2lc_runtime::backend::exact::Exact;
use t2lc_runtime::backend::{self, Backend, BackendError, BackendKind, Provider};
use t2lc_runtime::error::Error;

use super::super::compile::open_bundle;
use super::super::failure::{Failure, Outcome};
use super::super::output::{print_json, say};
use super::{AssembleArgs, BuildArgs, CompileArgs, LockArgs, SourceArgs};

/// Time between two messages about progress.
const BETWEEN_MESSAGES: Duration = Duration::from_secs(1);

/// Runs `pack lock`.
pub(super) fn lock(args: &LockArgs, quiet: bool) -> Outcome {
    let rules = Rules { dry_run: args.source.dry_run, ..Rules::default() };
    run(&args.source, None, rules, quiet, "locked", |job, _| Ok(job.lock()?))
}

/// Runs `pack build`.
pub(super) fn build(args: &BuildArgs, quiet: bool) -> Outcome {
    let rules = Rules {
        locked: args.locked || args.frozen,
        frozen: args.frozen,
        force: args.force,
        dry_run: args.source.dry_run,
    };
    let out = args.out.as_deref();
    run(&args.source, out, rules, quiet, "built", |job, out| Ok(job.build(out)?))
}

/// Runs `pack assemble`.
pub(super) fn assemble(args: &AssembleArgs, quiet: bool) -> Outcome {
    let dry_run = args.source.dry_run;
    let rules = Rules { frozen: true, force: args.force, dry_run, locked: false };
    let out = args.out.as_deref();
    run(&args.source, out, rules, quiet, "assembled", |job, out| Ok(job.build(out)?))
}

/// Runs `pack compile`.
pub(super) fn compile(args: &CompileArgs, quiet: bool) -> Outcome {
    let rules = Rules { dry_run: args.source.dry_run, ..Rules::default() };
    run(&args.source, None, rules, quiet, "compiled", |job, _| Ok(job.compile(args.shard)?))
}

/// Opens everything, does the work and says what was done.
fn run(
    source: &SourceArgs,
    out: Option<&Path>,
    rules: Rules,
    quiet: bool,
    done: &str,
    work: impl FnOnce(&Job<'_>, &Path) -> Result<Report, Failure>,
) -> Outcome {
    let started = Instant::now();
    let manifest = Manifest::read(&source.file, out)?;
    let bundle = open_bundle(source.bundle.as_deref().or(manifest.model.as_deref()))?;
    let store = source.stores.open()?;
    let store = if rules.dry_run { store.read_only() } else { store };
    let open = |threads| open_backend(source.backend, source.provider, threads);
    let id = open(1).map_err(Error::from)?.id();
    let plan = Plan::new(&manifest, &bundle, &id);
    let messages = Messages { quiet, last: Mutex::new(None) };
    let progress = |progress: Progress<'_>| messages.hear(progress);
    let engine = Engine { bundle: &bundle, open: &open, jobs: jobs(source.jobs) };
    let job =
        Job { manifest: &manifest, plan: &plan, engine, store: &store, rules, progress: &progress };
    let out_dir = manifest.out_dir(out);
    let report = work(&job, &out_dir)?;
    if source.json {
        print_json(&json!({
            "schema": 1,
            "pack": source.file.display().to_string(),
            "lock": manifest.lock_path().display().to_string(),
            "out": out_dir.display().to_string(),
            "bundle": plan.bundle,
            "backend": id,
            "dry_run": rules.dry_run,
            "lock_written": report.lock_written,
            "counts": {
                "compiled": report.count(Action::Compiled),
                "restored": report.count(Action::Restored),
                "unchanged": report.count(Action::Unchanged),
            },
            "adapters": report.entries,
            "changes": report.changes.iter().map(change_json).collect::<Vec<_>>(),
            "orphans": report.orphans,
        }))?;
    }
    describe(&report, rules.dry_run, done, started.elapsed(), quiet);
    Ok(())
}

fn describe(report: &Report, dry_run: bool, done: &str, elapsed: Duration, quiet: bool) {
    if dry_run {
        for change in &report.changes {
            say(quiet, &change.to_string());
        }
        for entry in report.entries.iter().filter(|entry| entry.action != Action::Unchanged) {
            let what = if entry.action == Action::Compiled { "compile" } else { "restore" };
            say(quiet, &format!("would {what} `{}`", entry.name));
        }
    }
    for entry in report.entries.iter().filter(|entry| entry.familiar == Some(false)) {
        let name = &entry.name;
        let unlike = "the description is unlike anything seen in training";
        say(quiet, &format!("warning: `{name}`: {unlike}; the adapter may not help"));
    }
    for orphan in &report.orphans {
        say(quiet, &format!("warning: `{orphan}` is no longer of the pack; remove it yourself"));
    }
    let done = if dry_run { format!("nothing {done}") } else { done.to_owned() };
    let (total, seconds) = (report.entries.len(), elapsed.as_secs_f64());
    let [compiled, restored, unchanged] =
        [Action::Compiled, Action::Restored, Action::Unchanged].map(|action| report.count(action));
    say(
        quiet,
        &format!(
            "{done}: {total} adapters, {compiled} compiled, {restored} from the store, \
             {unchanged} unchanged, in {seconds:.2} s"
        ),
    );
}

fn change_json(change: &Change) -> Value {
    match &change.kind {
        Kind::Added => json!({"name": change.name, "change": "added", "inputs": []}),
        Kind::Removed => json!({"name": change.name, "change": "removed", "inputs": []}),
        Kind::Changed(inputs) => {
            json!({"name": change.name, "change": "changed", "inputs": inputs})
        }
    }
}

/// The backend, with as many threads for one run as asked for where it has a say.
fn open_backend(
    kind: BackendKind,
    provider: Provider,
    threads: usize,
) -> Result<Box<dyn Backend>, BackendError> {
    match (kind, provider) {
        (BackendKind::Exact, Provider::Auto | Provider::Cpu) => Ok(Box::new(Exact::new(threads))),
        (kind, provider) => backend::open(kind, provider),
    }
}

fn jobs(asked: Option<u16>) -> usize {
    let cores = || std::thread::available_parallelism().map_or(1, NonZero::get);
    asked.map_or_else(cores, usize::from)
}

/// Says how far a build is, not too often.
struct Messages {
    quiet: bool,
    last: Mutex<Option<Instant>>,
}

impl Messages {
    fn hear(&self, progress: Progress<'_>) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let soon = last.is_some_and(|last| last.elapsed() < BETWEEN_MESSAGES);
        if soon && progress.done < progress.total {
            return;
        }
        *last = Some(Instant::now());
        let Progress { name, done, total, .. } = progress;
        let left = match progress.left().as_secs() {
            0 => String::new(),
            seconds @ 1..120 => format!(", about {seconds} s left"),
            seconds => format!(", about {} min left", seconds.div_ceil(60)),
        };
        say(self.quiet, &format!("compiled {name} ({done} of {total}{left})"));
    }
}
