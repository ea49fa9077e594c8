//! Element types of stored tensors, and their values as f32.

use std::fmt;

use half::{bf16, f16};

/// The element types that a storage can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ElementType {
    F32,
    F16,
    BF16,
    F64,
    /// Never a weight; known so that the tensor can be named.
    I64,
}

impl ElementType {
    /// The type of a storage class of the module `torch`.
    pub(super) fn of_class(name: &str) -> Option<Self> {
        match name {
            "FloatStorage" => Some(Self::F32),
            "HalfStorage" => Some(Self::F16),
            "BFloat16Storage" => Some(Self::BF16),
            "DoubleStorage" => Some(Self::F64),
            "LongStorage" => Some(Self::I64),
            _ => None,
        }
    }

    pub(super) fn is_float(self) -> bool {
        self != Self::I64
    }

    /// Bytes of one element.
    pub(super) fn bytes(self) -> usize {
        match self {
            Self::F16 | Self::BF16 => 2,
            Self::F32 => 4,
            Self::F64 | Self::I64 => 8,
        }
    }

    /// Little-endian elements as f32; f64 is rounded to nearest, the others are exact. Bytes after
    /// the last whole element are not read; a type that [`ElementType::is_float`] denies has no
    /// values.
    pub(super) fn decode(self, bytes: &[u8]) -> Vec<f32> {
        #[allow(clippy::cast_possible_truncation, reason = "rounding to f32 is what this is for")]
        let narrow = |word: &[u8; 8]| f64::from_le_bytes(*word) as f32;
        match self {
            Self::F32 => words(bytes, |word| f32::from_le_bytes(*word)),
            Self::F16 => words(bytes, |word| f16::from_le_bytes(*word).to_f32()),
            Self::BF16 => words(bytes, |word| bf16::from_le_bytes(*word).to_f32()),
            Self::F64 => words(bytes, narrow),
            Self::I64 => Vec::new(),
        }
    }
}

fn words<const N: usize>(bytes: &[u8], value: impl Fn(&[u8; N]) -> f32) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(value).collect()
}

impl fmt::Display for ElementType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
            Self::F64 => "f64",
            Self::I64 => "i64",
        })
    }
}
