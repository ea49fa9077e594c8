//! Compiles many adapters side by side, each into the store as soon as it is there.
//!
//! In: planned adapters, a bundle, a backend. Out: their records. The graphs are loaded once; every
//! worker holds one adapter at a time, so memory does not grow with the number of adapters. There
//! are more workers than may compute at once: the others wait for the disk or the shared store.

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use t2lc_runtime::backend::{Backend, BackendError};
use t2lc_runtime::bundle::Bundle;
use t2lc_runtime::compile::Compiler;
use t2lc_runtime::digest::Digest;
use t2lc_runtime::error::Error;

use crate::pack::PackError;
use crate::pack::plan::Planned;
use crate::store::{Record, Store};

/// Workers for each one that may compute. A store syncs what it writes; with one worker each, half of
/// the time went into that.
const WORKERS_PER_JOB: usize = 4;

/// What compiles, should anything have to be compiled.
#[derive(Clone, Copy)]
pub struct Engine<'a> {
    /// The bundle.
    pub bundle: &'a Bundle,
    /// Opens the backend, with as many threads for one run as it is told.
    pub open: &'a dyn Fn(usize) -> Result<Box<dyn Backend>, BackendError>,
    /// Adapters that are compiled at once, at least 1.
    pub jobs: usize,
}

impl fmt::Debug for Engine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("jobs", &self.jobs).finish_non_exhaustive()
    }
}

/// How far a build is.
#[derive(Debug, Clone, Copy)]
pub struct Progress<'a> {
    /// The adapter that was just compiled.
    pub name: &'a str,
    /// Adapters compiled so far, at least 1.
    pub done: usize,
    /// Adapters to compile.
    pub total: usize,
    /// Time since the first one was started.
    pub elapsed: Duration,
}

impl Progress<'_> {
    /// Time that the rest will take if it goes on like this.
    pub fn left(&self) -> Duration {
        let left = self.total.saturating_sub(self.done) as f64 / self.done.max(1) as f64;
        self.elapsed.mul_f64(left)
    }
}

/// Lets so many workers compute at once.
struct Permits {
    free: Mutex<usize>,
    returned: Condvar,
}

impl Permits {
    fn new(count: usize) -> Self {
        Self { free: Mutex::new(count), returned: Condvar::new() }
    }

    /// Waits for a permit, which is given back when it is dropped.
    fn wait(&self) -> Permit<'_> {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let free = self.returned.wait_while(free, |free| *free == 0);
        *free.unwrap_or_else(PoisonError::into_inner) -= 1;
        Permit(self)
    }
}

struct Permit<'a>(&'a Permits);

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        *self.0.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.returned.notify_one();
    }
}

/// What the workers have together.
#[derive(Default)]
struct Done {
    records: BTreeMap<Digest, Record>,
    /// Position, name and reason of what could not be compiled.
    failures: Vec<(usize, String)>,
    fatal: Option<PackError>,
}

/// Compiles adapters of different recipes into the store; gives a record for each recipe.
pub(super) fn compile_all(
    engine: Engine<'_>,
    adapters: &[&Planned],
    store: &Store,
    progress: &(dyn Fn(Progress<'_>) + Sync),
) -> Result<BTreeMap<Digest, Record>, PackError> {
    let total = adapters.len();
    if total == 0 {
        return Ok(BTreeMap::new());
    }
    let jobs = engine.jobs.max(1);
    let workers = jobs.saturating_mul(WORKERS_PER_JOB).min(total);
    // A single adapter has all threads for itself; several have one each.
    let backend = (engine.open)(if total == 1 { jobs } else { 1 }).map_err(Error::from)?;
    let compiler = Compiler::new(engine.bundle.clone(), backend.as_ref())?;
    let (next, stop, permits) = (AtomicUsize::new(0), AtomicBool::new(false), Permits::new(jobs));
    let done = Mutex::new(Done::default());
    let started = Instant::now();
    let work = || {
        while !stop.load(Ordering::Relaxed) {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(planned) = adapters.get(index) else { return };
            let outcome = compile_one(&compiler, &permits, planned, store);
            let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
            match outcome {
                Ok(record) => {
                    done.records.insert(planned.recipe, record);
                }
                Err(PackError::Runtime(error)) => {
                    let failure = format!("`{}`: {}", planned.name, chain(&error));
                    done.failures.push((index, failure));
                }
                // A full disk is not a fault of this adapter: the next one would fail as well.
                Err(fatal) => {
                    stop.store(true, Ordering::Relaxed);
                    done.fatal.get_or_insert(fatal);
                    return;
                }
            }
            let count = done.records.len() + done.failures.len();
            progress(Progress {
                name: &planned.name,
                done: count,
                total,
                elapsed: started.elapsed(),
            });
        }
    };
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(work);
        }
    });
    let Done { records, mut failures, fatal } =
        done.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let Some(fatal) = fatal {
        return Err(fatal);
    }
    if !failures.is_empty() {
        failures.sort();
        let failures = failures.into_iter().map(|(_, failure)| failure).collect();
        return Err(PackError::Compile { failures });
    }
    Ok(records)
}

fn compile_one(
    compiler: &Compiler,
    permits: &Permits,
    planned: &Planned,
    store: &Store,
) -> Result<Record, PackError> {
    let permit = permits.wait();
    let adapter = compiler.compile(&planned.description, planned.options)?;
    drop(permit);
    let record = Record::of(&adapter);
    // The bytes come first: a record without bytes is one that nobody can use.
    store.put_as(&adapter.content, &adapter.content_bytes())?;
    store.record(&planned.recipe, &record)?;
    Ok(record)
}

/// An error and its causes on one line, without repetitions.
fn chain(error: &dyn StdError) -> String {
    let mut texts = vec![error.to_string()];
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if texts.last() != Some(&text) {
            texts.push(text);
        }
        cause = error.source();
    }
    texts.join(": ")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Progress;

    #[test]
    fn the_rest_takes_as_long_as_what_is_done() {
        let elapsed = Duration::from_secs(10);
        let left = |done, total| Progress { name: "a", done, total, elapsed }.left();
        assert_eq!(left(5, 10), elapsed);
        assert_eq!(left(1, 4), 3 * elapsed);
        assert_eq!(left(4, 4), Duration::ZERO);
    }
}
