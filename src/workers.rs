//! Pieces of work side by side, each on one core from beginning to end.
//!
//! In: items and a function. Out: the results in the order of the items. A small product that is
//! divided among cores waits longer for its slowest part than it computes, so training divides its
//! rows among the cores instead, and every product stays on one of them.
//! Results do not depend on the number of cores.

use std::ffi::OsStr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError};

use anyhow::{Context, Result};
use candle_core::Device;
use rayon::{ThreadPool, ThreadPoolBuilder};

/// What candle reads to learn how many threads its element-wise operations have.
const CANDLE_THREADS: &str = "CANDLE_NUM_THREADS";
/// What candle and rayon read to learn how many threads everything else has.
const RAYON_THREADS: &str = "RAYON_NUM_THREADS";
/// How many milliseconds the allocator keeps memory that is free; -1 is for ever.
const PURGE_DELAY: &str = "MIMALLOC_PURGE_DELAY";

/// Pools of one thread: whatever is divided inside them stays on that thread.
static WORKERS: LazyLock<Vec<ThreadPool>> = LazyLock::new(|| {
    let worker = |index: usize| {
        let builder = ThreadPoolBuilder::new().num_threads(1);
        builder.thread_name(move |_| format!("worker-{index}")).build().ok()
    };
    (0..rayon::current_num_threads()).map_while(worker).collect()
});

/// Starts the program again, in its own place and with the same arguments, so that candle leaves
/// the cores to the workers: it reads only from the environment how many threads it may have. Does
/// nothing where the environment says it already, and on systems without `exec`; the workers stay
/// idle then unless the environment says 1.
pub fn claim_cores() {
    #[cfg(unix)]
    if std::env::var_os(CANDLE_THREADS).is_none()
        && let Ok(program) = std::env::current_exe()
    {
        use std::os::unix::process::CommandExt;
        let mut arguments = std::env::args_os();
        let mut command = std::process::Command::new(&program);
        command.arg0(arguments.next().unwrap_or_else(|| program.into()));
        command.args(arguments).env(CANDLE_THREADS, "1");
        // Without it, candle counts the cores anew for every product.
        if std::env::var_os(RAYON_THREADS).is_none() {
            command.env(RAYON_THREADS, rayon::current_num_threads().to_string());
        }
        // Buffers of the same sizes come back every step; giving them back to the system in between
        // costs a fifth of the time and saves nothing at the peak.
        if std::env::var_os(PURGE_DELAY).is_none() {
            command.env(PURGE_DELAY, "-1");
        }
        // Comes back only if it fails; then everything works, only slower.
        let _ = command.exec();
    }
}

/// Computes `of` for every item, the first ones first, on as many cores as there are. A single item
/// has all cores for itself; another device than the CPU takes one item at a time.
///
/// # Errors
/// The first error in the order of the items.
pub fn map<T: Sync, R: Send>(
    device: &Device,
    items: &[T],
    of: impl Fn(&T) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    if items.len() < 2 || !device.is_cpu() || divides_elements() || WORKERS.len() < 2 {
        return items.iter().map(of).collect();
    }
    let next = AtomicUsize::new(0);
    let results: Vec<Mutex<Option<Result<R>>>> = items.iter().map(|_| Mutex::new(None)).collect();
    let work = || {
        while let Some(index) =
            Some(next.fetch_add(1, Ordering::Relaxed)).filter(|i| *i < items.len())
        {
            let result = of(&items[index]);
            *results[index].lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
        }
    };
    spread(&WORKERS, &work);
    let results = results.into_iter().map(|result| {
        let result = result.into_inner().unwrap_or_else(PoisonError::into_inner);
        result.context("a worker stopped early")?
    });
    results.collect()
}

/// Runs `work` once in each pool and waits for all.
fn spread(pools: &[ThreadPool], work: &(impl Fn() + Sync)) {
    if let Some((first, others)) = pools.split_first() {
        first.in_place_scope(|scope| {
            scope.spawn(|_| work());
            spread(others, work);
        });
    }
}

/// Whether candle divides element-wise operations among threads of its own. They serve one caller
/// at a time and spin in between, so workers beside them would wait for each other.
fn divides_elements() -> bool {
    std::env::var_os(CANDLE_THREADS).as_deref() != Some(OsStr::new("1"))
}

#[cfg(test)]
mod tests {
    use anyhow::{Result, ensure};
    use candle_core::Device;

    use super::{WORKERS, map, spread};

    #[test]
    fn results_are_in_the_order_of_the_items() {
        let items: Vec<u64> = (0..100).collect();
        let doubled = map(&Device::Cpu, &items, |item| Ok(item * 2)).unwrap();
        assert!(doubled.iter().enumerate().all(|(index, value)| *value == 2 * index as u64));
    }

    #[test]
    fn the_first_error_is_reported() {
        let of = |item: &u32| -> Result<u32> {
            ensure!(*item % 3 != 2, "item {item}");
            Ok(*item)
        };
        assert_eq!(map(&Device::Cpu, &[0, 1, 5, 2], of).unwrap_err().to_string(), "item 5");
    }

    #[test]
    fn work_is_spread_over_every_worker() {
        let threads = std::sync::Mutex::new(std::collections::BTreeSet::new());
        spread(&WORKERS, &|| {
            let name = std::thread::current().name().map(str::to_owned);
            threads.lock().unwrap().insert(name);
        });
        assert_eq!(threads.into_inner().unwrap().len(), WORKERS.len());
    }
}
