//! Texts → task embeddings, with the very graph that goes into the bundle.
//!
//! Texts are divided among the cores; each embedding is computed as if it were the only one.

use std::num::NonZero;
use std::panic::resume_unwind;
use std::thread;

use t2lc_runtime::describe::Description;
use t2lc_runtime::encode::Encoder;

use crate::error::ExportError;

/// The task embeddings of some texts, in their order.
///
/// # Errors
/// The first text that is no description or that the encoder cannot read.
pub(crate) fn embed_all(encoder: &Encoder, texts: &[&str]) -> Result<Vec<Vec<f32>>, ExportError> {
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    let embed = |text: &&str| Ok(encoder.encode(&Description::new(text)?)?.values);
    let all = |part: &[&str]| part.iter().map(embed).collect::<Result<Vec<_>, ExportError>>();
    let size = texts.len().div_ceil(cores).max(1);
    let parts: Result<Vec<_>, ExportError> = thread::scope(|scope| {
        let parts: Vec<_> = texts.chunks(size).map(|part| scope.spawn(move || all(part))).collect();
        parts.into_iter().map(|part| part.join().unwrap_or_else(|e| resume_unwind(e))).collect()
    });
    Ok(parts?.concat())
}
