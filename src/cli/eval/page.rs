//! `--html`: the evaluation as a page, with maps where a bundle was scored.

use std::path::Path;

use t2lc::evaluate::{Evaluation, html, task_points};
use t2lc::taskpack::{Task, TaskPack};
use t2lc_runtime::atomic::write_atomically;
use t2lc_runtime::backend::exact::Exact;
use t2lc_runtime::error::Error;

use super::super::compile::open_bundle;
use super::{EvalArgs, Outcome, say};

/// Writes the page.
pub(super) fn write(
    path: &Path,
    args: &EvalArgs,
    evaluation: &Evaluation,
    pack: &TaskPack,
    tasks: &[&Task],
    quiet: bool,
) -> Outcome {
    let points = if args.no_bundle {
        Vec::new()
    } else {
        let bundle = open_bundle(args.bundle.as_deref())?;
        let mut progress = |line: &str| say(quiet, line);
        task_points(&bundle, &Exact::default(), pack, tasks, args.wording, &mut progress)?
    };
    let page = html(evaluation, &points)?;
    write_atomically(path, page.as_bytes(), args.force).map_err(Error::from)?;
    Ok(())
}
