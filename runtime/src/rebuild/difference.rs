//! Two parsed adapters → where they differ by more than is allowed.
//!
//! Tensors are compared where the new adapter has one of the same name, shape and type, so that the
//! work is bounded by the new adapter and not by the file.

use std::fmt;

use super::tolerance::{relative_error, tolerance};
use super::{Demand, shown};
use crate::gguf::{GgmlType, Gguf, TensorInfo};
use crate::quantize::{Quantization, dequantize};

/// Key that follows from the tensors: it differs with them.
const TENSORS_KEY: &str = "t2lc.tensors.sha256";

/// Something that a recorded adapter and the rebuilt one do not have in common.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Difference {
    /// A key with another value, or that one of them lacks.
    Key {
        /// The key.
        key: String,
    },
    /// A tensor of another shape or type, or that one of them lacks.
    Form {
        /// The tensor.
        tensor: String,
    },
    /// A tensor of the same form with other content.
    Values {
        /// The tensor.
        tensor: String,
        /// Dequantized values that differ in some bit; 0 if only codes of equal values do.
        differing: usize,
        /// Values of the tensor.
        values: usize,
        /// Frobenius norm of the difference over that of the rebuilt tensor.
        error: f64,
        /// Largest such error that is allowed; 0 where every byte must be the same.
        allowed: f64,
    },
    /// Equal keys and tensors in another order, with other padding or with bytes after them.
    Layout,
}

impl Difference {
    /// Whether it is one of rounding; an error that is not a number is none.
    fn is_tolerated(&self) -> bool {
        matches!(self, Self::Values { error, allowed, .. } if *allowed > 0.0 && error <= allowed)
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key { key } => write!(f, "`{}` is not that of the rebuilt adapter", shown(key)),
            Self::Form { tensor } => {
                let tensor = shown(tensor);
                write!(f, "`{tensor}` has no counterpart of the same shape and type when rebuilt")
            }
            Self::Values { tensor, differing, values, error, allowed } => {
                let tensor = shown(tensor);
                write!(
                    f,
                    "`{tensor}` differs from the rebuilt one in {differing} of {values} values, \
                     relative error {error:.1e}"
                )?;
                if *allowed > 0.0 { write!(f, ", allowed {allowed:.1e}") } else { Ok(()) }
            }
            Self::Layout => {
                f.write_str("keys and tensors are those of the rebuilt adapter, other bytes differ")
            }
        }
    }
}

/// What a comparison found.
pub(super) struct Comparison {
    pub(super) differences: Vec<Difference>,
    /// Largest relative error of a tensor, allowed or not.
    pub(super) largest_error: f64,
}

/// Compares keys by value and tensors as `demand` says; their order does not matter.
pub(super) fn compare(recorded: &Gguf<'_>, rebuilt: &Gguf<'_>, demand: Demand) -> Comparison {
    let mut differences = keys(recorded, rebuilt, demand);
    let mut largest_error = 0.0_f64;
    for new in rebuilt.tensors() {
        let old = recorded.tensor(&new.name).filter(|old| form(old) == form(new));
        let Some(old) = old else {
            differences.push(Difference::Form { tensor: new.name.clone() });
            continue;
        };
        let found = values(new, recorded.data(old), rebuilt.data(new), demand);
        if let Some(Difference::Values { error, .. }) = &found {
            // A NaN is no number's maximum, and as far off as a value can be.
            largest_error = largest_error.max(if error.is_nan() { f64::INFINITY } else { *error });
        }
        differences.extend(found.filter(|found| !found.is_tolerated()));
    }
    let extra = recorded.tensors().iter().filter(|old| rebuilt.tensor(&old.name).is_none());
    differences.extend(extra.map(|old| Difference::Form { tensor: old.name.clone() }));
    Comparison { differences, largest_error }
}

/// Shape and type.
fn form(tensor: &TensorInfo) -> (&[u64], GgmlType) {
    (tensor.dimensions.as_slice(), tensor.ggml_type)
}

fn keys(recorded: &Gguf<'_>, rebuilt: &Gguf<'_>, demand: Demand) -> Vec<Difference> {
    let changed = rebuilt.metadata().iter().filter(|(key, value)| {
        let follows = demand == Demand::Tolerance && key == TENSORS_KEY;
        !follows && recorded.get(key) != Some(value)
    });
    let extra = recorded.metadata().iter().filter(|(key, _)| rebuilt.get(key).is_none());
    changed.chain(extra).map(|(key, _)| Difference::Key { key: key.clone() }).collect()
}

/// How two tensors of one form differ; `None` if they are the same bytes.
fn values(tensor: &TensorInfo, old: &[u8], new: &[u8], demand: Demand) -> Option<Difference> {
    if old == new {
        return None;
    }
    let name = tensor.name.clone();
    let stored = Quantization::of(tensor.ggml_type);
    // The new adapter has only types that can be read, and both have as many bytes.
    let read = |bytes: &[u8]| stored.and_then(|stored| dequantize(stored, bytes).ok());
    let (Some(old), Some(new)) = (read(old), read(new)) else {
        return Some(Difference::Form { tensor: name });
    };
    let allowed = match demand {
        Demand::Bytes => 0.0,
        Demand::Tolerance => stored.map_or(0.0, tolerance),
    };
    let differing = old.iter().zip(&new).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
    Some(Difference::Values {
        tensor: name,
        differing,
        values: new.len(),
        error: relative_error(&old, &new),
        allowed,
    })
}
