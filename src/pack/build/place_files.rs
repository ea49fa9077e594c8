//! Puts the adapters of a lock in place, from the store.
//!
//! In: a lock and the names of the adapters whose files are not right. Out: the files, each written
//! whole. What another process has meanwhile collected from the store, or what turns out to be
//! damaged there, is compiled again.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::{Job, expect_content};
use crate::pack::PackError;
use crate::pack::artifact;
use crate::pack::lock::{Lock, LockedAdapter};
use crate::pack::place::{join, symlink};
use crate::pack::plan::Planned;

/// How often what the store has lost is compiled again.
const ATTEMPTS: usize = 3;

/// Writes the files.
pub(super) fn place_files(
    job: &Job<'_>,
    lock: &Lock,
    names: &BTreeSet<&str>,
    out: &Path,
) -> Result<(), PackError> {
    let is_named = |adapter: &&LockedAdapter| names.contains(adapter.name.as_str());
    let mut pending: Vec<&LockedAdapter> = lock.adapters.iter().filter(is_named).collect();
    for _ in 0..ATTEMPTS {
        let mut lost = Vec::new();
        for adapter in pending {
            match job.store.get(&adapter.content)? {
                Some(bytes) => write(adapter, &bytes, out)?,
                None => lost.push(adapter),
            }
        }
        if lost.is_empty() {
            return Ok(());
        }
        compile_again(job, &lost)?;
        pending = lost;
    }
    let names = pending.iter().map(|adapter| adapter.name.clone()).collect();
    Err(PackError::Lost { names })
}

fn write(adapter: &LockedAdapter, bytes: &[u8], out: &Path) -> Result<(), PackError> {
    let path = join(out, &adapter.output);
    let parent = path.parent().unwrap_or(out);
    if let Some(link) = symlink(out, &adapter.output) {
        return Err(PackError::Symlink { output: adapter.output.clone(), link });
    }
    let failed = |source| PackError::Io { what: "create", path: parent.to_owned(), source };
    fs::create_dir_all(parent).map_err(failed)?;
    artifact::write(&path, adapter.format, bytes)
}

fn compile_again(job: &Job<'_>, lost: &[&LockedAdapter]) -> Result<(), PackError> {
    let is_lost = |planned: &&Planned| lost.iter().any(|adapter| adapter.name == planned.name);
    let adapters: Vec<&Planned> = job.plan.adapters.iter().filter(is_lost).collect();
    let records = job.compile_into_store(&adapters)?;
    for (planned, adapter) in adapters.into_iter().zip(lost) {
        if let Some(record) = records.get(&planned.recipe) {
            expect_content(Some(adapter), &LockedAdapter::of(planned, record))?;
        }
    }
    Ok(())
}
