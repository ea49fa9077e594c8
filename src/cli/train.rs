//! `t2lc train`: task pack → checkpoint.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::anyhow;
use t2lc::train::data::ConditionKind;
use t2lc::train::run::{Finished, METRICS_FILE};
use t2lc::train::{TrainOptions, TrainPaths, plot, train};
use t2lc::workers::claim_cores;
use t2lc_runtime::atomic::write_atomically;
use t2lc_runtime::error::Error;

use super::TrainArgs;
use super::failure::{Failure, Outcome};
use super::output::{print_text, say};

/// Runs the verb; prints the directory of the best checkpoint, one line per seed.
pub(crate) fn run(args: &TrainArgs, quiet: bool) -> Outcome {
    run_conditioned(args, args.options.condition, quiet)
}

/// As [`run`], with adapters that depend on `condition`.
pub(super) fn run_conditioned(args: &TrainArgs, condition: ConditionKind, quiet: bool) -> Outcome {
    // Reconstruction computes no base, and so has no rows to divide.
    if args.reconstruct.is_none() {
        claim_cores();
    }
    let stop = stop_on_interrupt()?;
    for seed in if args.seeds.is_empty() { vec![None] } else { seeds(args) } {
        let mut options = TrainOptions { condition, ..args.options.clone() };
        let run = match seed {
            Some(seed) => {
                options.run.seed = seed;
                args.output.join(format!("seed-{seed}"))
            }
            None => args.output.clone(),
        };
        let paths = TrainPaths {
            base: args.base.clone(),
            encoder: args.encoder.clone(),
            packs: args.pack.clone(),
            warm_start: args.warm_start.clone(),
            start_from: args.start_from.clone(),
            library: args.reconstruct.clone(),
            run: run.clone(),
        };
        let finished = train(&paths, &options, args.resume, &stop).map_err(untrainable)?;
        report(&finished, quiet)?;
        if let Some(path) = &args.plot {
            write_plot(&run, &numbered(path, seed))?;
        }
        if finished.interrupted {
            return Err(interrupted(&format!("after step {}", finished.steps)));
        }
    }
    Ok(())
}

fn seeds(args: &TrainArgs) -> Vec<Option<u64>> {
    args.seeds.iter().copied().map(Some).collect()
}

/// What a training refuses is its input, unless the system refused first.
pub(super) fn untrainable(error: anyhow::Error) -> Failure {
    let of_input = [ErrorKind::NotFound, ErrorKind::InvalidData, ErrorKind::UnexpectedEof];
    let system = |cause: &(dyn std::error::Error + 'static)| {
        let io = cause.downcast_ref::<std::io::Error>();
        io.is_some_and(|io| !of_input.contains(&io.kind()))
    };
    if error.chain().any(system) {
        Failure::environment("train.system", error)
    } else {
        Failure::input("train.input", error)
    }
}

/// What is left is not what was asked for.
pub(super) fn interrupted(place: &str) -> Failure {
    Failure::environment("train.interrupted", anyhow!("stopped {place}"))
        .hint("continue with --resume")
}

fn report(finished: &Finished, quiet: bool) -> Outcome {
    let Finished { last, best, steps, interrupted } = finished;
    if !*interrupted {
        say(quiet, &format!("trained {steps} steps; the last checkpoint is {}", last.display()));
    }
    print_text(&format!("{}\n", best.as_ref().unwrap_or(last).display()))?;
    Ok(())
}

fn write_plot(run: &Path, path: &Path) -> Outcome {
    let svg = plot::plot(&run.join(METRICS_FILE))?;
    write_atomically(path, svg.as_bytes(), true).map_err(|e| Error::from(e).into())
}

/// `plot.svg` → `plot-7.svg` for seed 7.
fn numbered(path: &Path, seed: Option<u64>) -> PathBuf {
    let Some(seed) = seed else { return path.to_owned() };
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let extension = path.extension().map(|e| format!(".{}", e.to_string_lossy()));
    path.with_file_name(format!("{stem}-{seed}{}", extension.unwrap_or_default()))
}

/// Set by the first ctrl-C; the second ends the program as usual.
pub(crate) fn stop_on_interrupt() -> Result<Arc<AtomicBool>, Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&stop);
    ctrlc::set_handler(move || {
        if asked.swap(true, Ordering::SeqCst) {
            std::process::exit(130);
        }
        say(false, "finishing the step; ctrl-C again ends at once");
    })
    .map_err(|e| Failure::environment("train.signal", e))?;
    Ok(stop)
}
