//! Compiles an adapter anew from what its file says of itself, and compares.
//!
//! In: the bytes of a GGUF adapter, the bundle and the backend it says it was compiled with. Out: a
//! [`Rebuilt`] with every difference between the recorded adapter and the new one. That shows that
//! the file is what its bundle makes of its description, and not only that it agrees with itself.
//!
//! How much the two must have in common depends on the backend ([`Demand`]): with
//! [`crate::backend::exact`] they are the same bytes on every machine. Other backends round
//! differently on other CPUs; there the metadata must be equal, the recipe digest included, and
//! each tensor must be near ([`tolerance()`]). What is smaller than that cannot be told from
//! another CPU.
//!
//! One decision has no middle: the power of two that balances a pair of matrices. Where its two
//! candidates are as good as equal, another CPU may take the other one, and the pair is reported.
//!
//! The version of t2lc is taken over from the file: what decides the bytes is the pipeline version.

mod difference;
mod origin;
mod tolerance;

use crate::backend::{Backend, BackendKind};
use crate::bundle::Bundle;
use crate::compile::compile_once_as;
use crate::digest::Digest;
use crate::error::Error;
use crate::gguf::{Gguf, GgufError};
use difference::compare;

pub use difference::Difference;
pub use origin::Origin;
pub use tolerance::tolerance;

/// Most characters of a text from a file that an error repeats.
const MAX_SHOWN_CHARS: usize = 100;

/// Why an adapter cannot be rebuilt, which says nothing about its tensors.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RebuildError {
    /// The bytes are not a GGUF file.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// An adapter of another program, or one that was not compiled from a description.
    #[error("the adapter has no `t2lc.recipe`: t2lc did not compile it from a description")]
    NotCompiled,
    /// A key that is missing or has no usable value.
    #[error("`{key}` of the adapter cannot be used: {reason}")]
    Record {
        /// The key.
        key: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// An adapter of another bundle.
    #[error("the adapter was compiled with the bundle {expected}, this bundle is {got}")]
    OtherBundle {
        /// The bundle according to the file.
        expected: Digest,
        /// The bundle given.
        got: Digest,
    },
    /// An adapter whose tensors were folded, quantized and written by other rules.
    #[error(
        "the adapter was compiled by t2lc {} with pipeline {}, this version has pipeline {got}",
        shown(.version), shown(.expected)
    )]
    OtherPipeline {
        /// Version of t2lc according to the file.
        version: String,
        /// Pipeline version according to the file.
        expected: String,
        /// Pipeline version of this program.
        got: &'static str,
    },
    /// A backend that this version has never heard of.
    #[error("the adapter was compiled with the backend `{}`, which is unknown", shown(.id))]
    UnknownBackend {
        /// Its id according to the file.
        id: String,
    },
    /// A backend that computes differently than the one that made the adapter.
    #[error(
        "the adapter was compiled with the backend `{}`, this one is `{got}`",
        shown(.expected)
    )]
    OtherBackend {
        /// Its id according to the file.
        expected: String,
        /// Id of the backend given.
        got: String,
    },
    /// The description does not compile.
    #[error(transparent)]
    Compile(#[from] Error),
}

/// A text from a file as a message may repeat it: short, and without control characters.
fn shown(text: &str) -> String {
    text.chars().take(MAX_SHOWN_CHARS).flat_map(char::escape_debug).collect()
}

/// What a rebuilt adapter must have in common with the recorded one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Demand {
    /// Every byte.
    Bytes,
    /// All metadata but the digest of the tensors, and each tensor within the [`tolerance()`] of
    /// its type.
    Tolerance,
}

impl Demand {
    /// What can be asked of a backend on another machine.
    pub fn of(backend: BackendKind) -> Self {
        match backend {
            BackendKind::Exact => Self::Bytes,
            BackendKind::Tract | BackendKind::Ort => Self::Tolerance,
        }
    }

    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bytes => "bytes",
            Self::Tolerance => "tolerance",
        }
    }
}

/// What came of compiling an adapter anew.
#[derive(Debug, Clone, PartialEq)]
pub struct Rebuilt {
    /// Id of the backend, recorded and used.
    pub backend: String,
    /// What was demanded.
    pub demand: Demand,
    /// Digest of everything that went into the new adapter.
    pub recipe: Digest,
    /// Digest of the new adapter's bytes.
    pub content: Digest,
    /// Whether all bytes are the same, whatever was demanded.
    pub identical: bool,
    /// Largest relative Frobenius norm by which a tensor differs, tolerated or not; 0 if none does.
    pub largest_error: f64,
    /// What is not as demanded: metadata first, then tensors in the new adapter's order.
    pub differences: Vec<Difference>,
}

impl Rebuilt {
    /// Whether the new adapter is the recorded one, as far as can be demanded.
    pub fn is_same(&self) -> bool {
        self.differences.is_empty()
    }
}

/// Compiles the adapter in `adapter`, the bytes of a GGUF file, anew and compares.
///
/// # Errors
/// A file that does not say how it was compiled, or that another bundle, pipeline or backend made;
/// a description that does not compile.
pub fn rebuild(
    adapter: &[u8],
    bundle: &Bundle,
    backend: &dyn Backend,
) -> Result<Rebuilt, RebuildError> {
    let recorded = Gguf::parse(adapter)?;
    let origin = Origin::read(&recorded)?;
    if origin.bundle != bundle.digest {
        return Err(RebuildError::OtherBundle { expected: origin.bundle, got: bundle.digest });
    }
    let (kind, _) = origin.backend_kind()?;
    let id = backend.id();
    if origin.backend != id {
        return Err(RebuildError::OtherBackend { expected: origin.backend, got: id });
    }
    let Origin { description, options, version, .. } = origin;
    let compiled = compile_once_as(bundle, backend, &description, options, &version)?;
    // The options ask for GGUF, so that there are bytes; without them the parser would refuse.
    let bytes = compiled.gguf_bytes().unwrap_or_default();
    let demand = Demand::of(kind);
    let identical = bytes == adapter;
    let compared = compare(&recorded, &Gguf::parse(bytes)?, demand);
    let mut differences = compared.differences;
    if demand == Demand::Bytes && differences.is_empty() && !identical {
        differences.push(Difference::Layout);
    }
    Ok(Rebuilt {
        backend: id,
        demand,
        recipe: compiled.recipe,
        content: compiled.content,
        identical,
        largest_error: compared.largest_error,
        differences,
    })
}

#[cfg(test)]
mod tests;
