//! From a plan to a lock and files, with no more work than what has changed needs.
//!
//! In: a manifest, an engine, a store, and what may be done. Out: the lock and the files, and a
//! [`Report`] of what happened to each adapter.
//!
//! What the lock has under the same recipe is taken as it stands; what the store has is taken from
//! there; the rest is compiled into the store. Then the lock is written, and after it the files
//! that differ from it, each whole. A build that is interrupted leaves old files and the old lock
//! whole, and the next one finds in the store what was compiled.

mod compile;
mod place_files;

pub use compile::{Engine, Progress};

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Serialize;
use t2lc_runtime::digest::Digest;

use super::PackError;
use super::artifact::{State, state};
use super::lock::{Lock, LockedAdapter};
use super::manifest::Manifest;
use super::place::{join, symlink};
use super::plan::{Plan, Planned, Shard};
use super::stale::{Change, Kind, since_lock};
use crate::store::Store;
use compile::compile_all;
use place_files::place_files;

/// What may be done.
#[derive(Debug, Clone, Copy, Default)]
#[allow(clippy::struct_excessive_bools, reason = "independent permissions")]
pub struct Rules {
    /// The lock must be there and up to date, and what is compiled must have its digests.
    pub locked: bool,
    /// Nothing may be compiled.
    pub frozen: bool,
    /// Outputs that this pack did not write may be replaced.
    pub force: bool,
    /// Nothing may be written at all.
    pub dry_run: bool,
}

/// A pack and everything that it is built with.
pub struct Job<'a> {
    /// The pack.
    pub manifest: &'a Manifest,
    /// The plan of the pack.
    pub plan: &'a Plan,
    /// What compiles.
    pub engine: Engine<'a>,
    /// Where compiled adapters are kept.
    pub store: &'a Store,
    /// What may be done.
    pub rules: Rules,
    /// Hears of every adapter that was compiled.
    pub progress: &'a (dyn Fn(Progress<'_>) + Sync),
}

impl std::fmt::Debug for Job<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Job").field("rules", &self.rules).finish_non_exhaustive()
    }
}

/// What happened to an adapter, or would.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Nothing: the file, or without files the lock, has it.
    Unchanged,
    /// It was taken from the store.
    Restored,
    /// It was compiled.
    Compiled,
}

/// One adapter of a report.
#[derive(Debug, Clone, Serialize)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Its file or directory, below the output directory.
    pub output: String,
    /// What happened to it.
    pub action: Action,
    /// Digest of what went in.
    pub recipe: Digest,
    /// Digest of what came out; unknown before it is compiled.
    pub content: Option<Digest>,
    /// Its bytes.
    pub size_bytes: Option<u64>,
    /// Whether the description is like those of training.
    pub familiar: Option<bool>,
}

/// What a build did.
#[derive(Debug, Clone)]
pub struct Report {
    /// The adapters, sorted by name.
    pub entries: Vec<Entry>,
    /// What had changed since the lock was written.
    pub changes: Vec<Change>,
    /// Whether the lock was written, or would be.
    pub lock_written: bool,
    /// Files of adapters that the pack no longer has; they are not touched.
    pub orphans: Vec<String>,
}

impl Report {
    /// Number of adapters with which this happened.
    pub fn count(&self, action: Action) -> usize {
        self.entries.iter().filter(|entry| entry.action == action).count()
    }
}

/// An adapter on its way.
struct Slot<'a> {
    planned: &'a Planned,
    known: Option<LockedAdapter>,
    action: Action,
    /// Whether the file has to be written.
    write: bool,
}

impl Job<'_> {
    /// Writes the lock.
    ///
    /// # Errors
    /// Adapters that cannot be compiled; a store or a lock that cannot be read or written.
    pub fn lock(&self) -> Result<Report, PackError> {
        self.run(None)
    }

    /// Writes the lock, unless it has to be there, and the files.
    ///
    /// # Errors
    /// As [`Job::lock`]; also a lock that is stale, an adapter that is missing, an output that is
    /// not ours, where the rules forbid it.
    pub fn build(&self, out: &Path) -> Result<Report, PackError> {
        self.run(Some(out))
    }

    /// Compiles into the store what it lacks, of one part or of all; neither lock nor files.
    ///
    /// # Errors
    /// Adapters that cannot be compiled; a store that cannot be read or written.
    pub fn compile(&self, shard: Option<Shard>) -> Result<Report, PackError> {
        let mut slots = Vec::new();
        for planned in &self.plan.adapters {
            if shard.is_none_or(|shard| shard.has(&planned.recipe)) {
                let found = self.store.look_up(&planned.recipe)?;
                if let Some(record) = found.as_ref().filter(|_| !self.rules.dry_run) {
                    self.store.share(&planned.recipe, record)?;
                }
                let known = found.map(|record| LockedAdapter::of(planned, &record));
                let action = if known.is_some() { Action::Unchanged } else { Action::Compiled };
                slots.push(Slot { planned, known, action, write: false });
            }
        }
        if !self.rules.dry_run {
            self.compile_slots(&mut slots)?;
        }
        let entries = slots.iter().map(Slot::entry).collect();
        Ok(Report { entries, changes: Vec::new(), lock_written: false, orphans: Vec::new() })
    }

    fn run(&self, out: Option<&Path>) -> Result<Report, PackError> {
        let path = self.manifest.lock_path();
        let prior = Lock::read(&path)?;
        let changes = match &prior {
            Some(prior) => since_lock(prior, self.plan),
            None if self.rules.locked => return Err(PackError::NoLock { path }),
            None => added(self.plan),
        };
        if self.rules.locked && !changes.is_empty() {
            return Err(PackError::Stale { path, changes });
        }
        let mut slots = self.slots(prior.as_ref(), out)?;
        let orphans = orphans(prior.as_ref(), self.plan, out);
        if self.rules.frozen {
            refuse_compiling(slots.iter().filter(|slot| slot.action == Action::Compiled))?;
        }
        if self.rules.dry_run {
            let entries = slots.iter().map(Slot::entry).collect();
            let lock_written = !changes.is_empty();
            return Ok(Report { entries, changes, lock_written, orphans });
        }
        self.compile_slots(&mut slots)?;
        let entries = slots.iter().map(Slot::entry).collect();
        let to_write: BTreeSet<&str> =
            slots.iter().filter(|slot| slot.write).map(|slot| slot.planned.name.as_str()).collect();
        let adapters = slots.iter().filter_map(|slot| slot.known.clone()).collect();
        let lock = Lock::of(self.plan, adapters);
        let lock_written = !self.rules.locked && lock.write(&path)?;
        if let Some(out) = out {
            place_files(self, &lock, &to_write, out)?;
        }
        Ok(Report { entries, changes, lock_written, orphans })
    }

    /// What is known of every adapter, and what has to happen to it.
    fn slots(&self, prior: Option<&Lock>, out: Option<&Path>) -> Result<Vec<Slot<'_>>, PackError> {
        // Another version writes other bytes for the same recipe.
        let trusted = prior.filter(|prior| prior.t2lc == self.plan.t2lc);
        let by_recipe: BTreeMap<Digest, &LockedAdapter> = trusted
            .into_iter()
            .flat_map(|prior| &prior.adapters)
            .map(|adapter| (adapter.recipe, adapter))
            .collect();
        // Its own entry comes before that of another adapter with the same recipe.
        let locked = |planned: &Planned| {
            let own = trusted.and_then(|prior| prior.adapter(&planned.name));
            let own = own.filter(|own| own.recipe == planned.recipe);
            own.or_else(|| by_recipe.get(&planned.recipe).copied())
        };
        let (mut slots, mut foreign) = (Vec::new(), Vec::new());
        for planned in &self.plan.adapters {
            let of_lock = locked(planned).map(|locked| LockedAdapter {
                name: planned.name.clone(),
                output: planned.output.clone(),
                ..locked.clone()
            });
            let mut action = Action::Unchanged;
            let known = if of_lock.is_some() {
                of_lock
            } else {
                action = Action::Restored;
                let found = self.store.look_up(&planned.recipe)?;
                found.map(|record| LockedAdapter::of(planned, &record))
            };
            let mut write = false;
            if let Some(out) = out {
                let found = output_state(planned, known.as_ref(), out)?;
                write = found != State::Right;
                action = if write { Action::Restored } else { Action::Unchanged };
                let may_write = found == State::Absent || self.rules.force;
                if write && !may_write && !self.is_ours(planned, prior, out)? {
                    foreign.push(join(out, &planned.output).display().to_string());
                }
            }
            let lost = match &known {
                Some(known) => write && !self.store.contains(&known.content, known.size_bytes)?,
                None => true,
            };
            if lost {
                action = Action::Compiled;
            }
            slots.push(Slot { planned, known, action, write });
        }
        if !foreign.is_empty() {
            return Err(PackError::Foreign { paths: foreign });
        }
        Ok(slots)
    }

    /// Whether what lies where an adapter belongs may be replaced: the lock has that output, and it
    /// is in the pack's own directory or still what the lock says.
    fn is_ours(
        &self,
        planned: &Planned,
        prior: Option<&Lock>,
        out: &Path,
    ) -> Result<bool, PackError> {
        let same = |locked: &&LockedAdapter| locked.output.eq_ignore_ascii_case(&planned.output);
        let Some(locked) = prior.and_then(|prior| prior.adapters.iter().find(same)) else {
            return Ok(false);
        };
        if out == self.manifest.out_dir(None) {
            return Ok(true);
        }
        let found = state(
            &join(out, &planned.output),
            planned.format(),
            &locked.content,
            locked.size_bytes,
        );
        Ok(found? == State::Right)
    }

    /// Compiles what has to be, each recipe once.
    fn compile_slots(&self, slots: &mut [Slot<'_>]) -> Result<(), PackError> {
        let wanted = slots.iter().filter(|slot| slot.action == Action::Compiled);
        let adapters: Vec<&Planned> = wanted.map(|slot| slot.planned).collect();
        let records = self.compile_into_store(&adapters)?;
        for slot in slots.iter_mut().filter(|slot| slot.action == Action::Compiled) {
            let Some(record) = records.get(&slot.planned.recipe) else { continue };
            let made = LockedAdapter::of(slot.planned, record);
            if self.rules.locked {
                expect_content(slot.known.as_ref(), &made)?;
            }
            slot.known = Some(made);
        }
        Ok(())
    }

    /// Compiles adapters, each recipe once; refused where nothing may be compiled.
    fn compile_into_store(
        &self,
        adapters: &[&Planned],
    ) -> Result<BTreeMap<Digest, crate::store::Record>, PackError> {
        if self.rules.frozen && !adapters.is_empty() {
            let names = adapters.iter().map(|planned| planned.name.clone()).collect();
            return Err(PackError::Missing { names });
        }
        let mut seen = BTreeSet::new();
        let once: Vec<&Planned> =
            adapters.iter().copied().filter(|planned| seen.insert(planned.recipe)).collect();
        compile_all(self.engine, &once, self.store, self.progress)
    }
}

impl Slot<'_> {
    fn entry(&self) -> Entry {
        let known = self.known.as_ref();
        Entry {
            name: self.planned.name.clone(),
            output: self.planned.output.clone(),
            action: self.action,
            recipe: self.planned.recipe,
            content: known.map(|known| known.content),
            size_bytes: known.map(|known| known.size_bytes),
            familiar: known.map(|known| known.familiar),
        }
    }
}

/// What lies where an adapter belongs; of one that is not known yet, only
/// whether there is something.
fn output_state(
    planned: &Planned,
    known: Option<&LockedAdapter>,
    out: &Path,
) -> Result<State, PackError> {
    if let Some(link) = symlink(out, &planned.output) {
        return Err(PackError::Symlink { output: planned.output.clone(), link });
    }
    let path = join(out, &planned.output);
    match known {
        Some(known) => state(&path, planned.format(), &known.content, known.size_bytes),
        None if path.symlink_metadata().is_ok() => Ok(State::Kind),
        None => Ok(State::Absent),
    }
}

/// Names everything that would have to be compiled.
fn refuse_compiling<'a>(wanted: impl Iterator<Item = &'a Slot<'a>>) -> Result<(), PackError> {
    let names: Vec<String> = wanted.map(|slot| slot.planned.name.clone()).collect();
    if names.is_empty() { Ok(()) } else { Err(PackError::Missing { names }) }
}

/// Refuses other bytes than expected.
fn expect_content(expected: Option<&LockedAdapter>, got: &LockedAdapter) -> Result<(), PackError> {
    match expected {
        Some(expected) if expected.content != got.content => Err(PackError::Content {
            name: got.name.clone(),
            expected: expected.content,
            got: got.content,
        }),
        _ => Ok(()),
    }
}

/// The changes where there was no lock.
fn added(plan: &Plan) -> Vec<Change> {
    let added = |planned: &Planned| Change { name: planned.name.clone(), kind: Kind::Added };
    plan.adapters.iter().map(added).collect()
}

/// Outputs of the old lock that the plan does not have, and that are there.
fn orphans(prior: Option<&Lock>, plan: &Plan, out: Option<&Path>) -> Vec<String> {
    let (Some(prior), Some(out)) = (prior, out) else { return Vec::new() };
    let planned: BTreeSet<String> =
        plan.adapters.iter().map(|planned| planned.output.to_ascii_lowercase()).collect();
    let gone = prior.adapters.iter().filter(|adapter| {
        !planned.contains(&adapter.output.to_ascii_lowercase())
            && join(out, &adapter.output).symlink_metadata().is_ok()
    });
    gone.map(|adapter| adapter.output.clone()).collect()
}
