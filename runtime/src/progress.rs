//! How far a compile is, for those who wait for it and may want to stop it.
//!
//! A watcher hears of every stage when it begins and when it is done, and of every pair of matrices
//! that is made ready. What it returns says whether to go on.

use std::ops::ControlFlow;

use crate::error::Error;

/// A stage that takes time, in the order of the compile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stage {
    /// Description → task embedding.
    Encode,
    /// Task embedding → matrices.
    Generate,
    /// Matrices, ready to be quantized: the scale folded in, A and B balanced.
    Quantize,
    /// Matrices → quantized tensors → file.
    Write,
}

/// A point of a compile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The stage.
    pub stage: Stage,
    /// Parts of it that are done.
    pub done: u64,
    /// Parts it has.
    pub total: u64,
}

/// Hears of every point, and says whether to go on.
pub type Watch<'a> = &'a mut dyn FnMut(Progress) -> ControlFlow<()>;

/// The watcher of nobody.
pub(crate) fn unwatched(_: Progress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// Reports a point.
pub(crate) fn report(
    watch: Watch<'_>,
    stage: Stage,
    done: usize,
    total: usize,
) -> Result<(), Error> {
    let progress = Progress { stage, done: done as u64, total: total as u64 };
    match watch(progress) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(Error::Cancelled),
    }
}
