//! Stores `f32` matrices in the tensor types that adapters use, as llama.cpp would.
//!
//! In: a row-major `f32` matrix `[rows, row_length]`. Out: the bytes of its rows one after the
//! other, no padding between them. For every [`Quantization`] the bytes are identical to those of
//! ggml's reference quantizers; `f16` and `bf16` round to nearest, ties to even.
//!
//! Infinity and NaN never leave this module: not as values, and not as `f16` scales that overflow.
//! The block formats are in `quantize/blocks.rs`.

mod blocks;

use std::fmt;
use std::str::FromStr;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use serde::{Deserialize, Serialize};

use crate::gguf::GgmlType;

/// How the values of an adapter's matrices are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Quantization {
    /// 32-bit floats, lossless.
    F32,
    /// IEEE 754 16-bit floats.
    F16,
    /// The upper half of 32-bit floats.
    Bf16,
    /// 8 bits and a scale per 32 values: 8.5 bits a value.
    Q8_0,
    /// 4 bits and a scale per 32 values: 4.5 bits a value.
    Q4_0,
    /// 4 bits, a scale and a minimum per 32 values: 5 bits a value.
    Q4_1,
    /// 5 bits and a scale per 32 values: 5.5 bits a value.
    Q5_0,
    /// 5 bits, a scale and a minimum per 32 values: 6 bits a value.
    Q5_1,
}

impl Quantization {
    /// Every quantization.
    pub const ALL: [Self; 8] = [
        Self::F32,
        Self::F16,
        Self::Bf16,
        Self::Q8_0,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
    ];

    /// The quantization that is stored as a tensor type; `None` for the types that none is.
    pub fn of(ggml_type: GgmlType) -> Option<Self> {
        Self::ALL.into_iter().find(|quantization| quantization.ggml_type() == ggml_type)
    }

    /// The tensor type in a GGUF file.
    pub const fn ggml_type(self) -> GgmlType {
        match self {
            Self::F32 => GgmlType::F32,
            Self::F16 => GgmlType::F16,
            Self::Bf16 => GgmlType::Bf16,
            Self::Q8_0 => GgmlType::Q8_0,
            Self::Q4_0 => GgmlType::Q4_0,
            Self::Q4_1 => GgmlType::Q4_1,
            Self::Q5_0 => GgmlType::Q5_0,
            Self::Q5_1 => GgmlType::Q5_1,
        }
    }

    /// Values per block; a row's length must be a multiple of it.
    pub const fn block_len(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::Bf16 => 1,
            Self::Q8_0 | Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 => blocks::BLOCK_LEN,
        }
    }

    /// Bytes per block.
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::Q8_0 => 34,
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
        }
    }

    /// This quantization where rows of `row_length` values are whole blocks, else `f16`. Rows of
    /// `lora_b` are as long as the rank, so that rank 8 and 16 always fall back.
    #[must_use]
    pub const fn for_row_length(self, row_length: usize) -> Self {
        if row_length.is_multiple_of(self.block_len()) { self } else { Self::F16 }
    }

    /// ggml's name, for example `q8_0`.
    pub const fn name(self) -> &'static str {
        self.ggml_type().name()
    }
}

impl fmt::Display for Quantization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Quantization {
    type Err = QuantizeError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|quantization| quantization.name() == name)
            .ok_or_else(|| QuantizeError::Name { got: name.to_owned() })
    }
}

/// Why values cannot be stored, or bytes not be read back.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the message of each variant names its fields")]
pub enum QuantizeError {
    /// A name that is no quantization.
    #[error(
        "unknown quantization `{got}`, expected one of `f32`, `f16`, `bf16`, `q8_0`, `q4_0`, \
         `q4_1`, `q5_0`, `q5_1`"
    )]
    Name { got: String },
    /// Rows that are no whole number of blocks.
    #[error(
        "tensor `{tensor}` has rows of {got} values, expected a positive multiple of {block_len} \
         for `{quantization}`"
    )]
    RowLength { tensor: String, quantization: Quantization, block_len: usize, got: usize },
    /// Values that are no whole number of rows.
    #[error(
        "tensor `{tensor}` has {got} values, expected a multiple of its row length {row_length}"
    )]
    ValueCount { tensor: String, row_length: usize, got: usize },
    /// A value that is NaN or infinite.
    #[error("tensor `{tensor}` has the value {got} at index {index}, expected a finite number")]
    NotFinite { tensor: String, index: usize, got: f32 },
    /// A value, or a scale of the block that starts there, that 16 bits hold only as infinity.
    #[error(
        "tensor `{tensor}` needs {got} at index {index}, which overflows the 16-bit floats of \
         `{quantization}`"
    )]
    Overflow { tensor: String, quantization: Quantization, index: usize, got: f32 },
    /// Bytes that are no whole number of blocks.
    #[error("{got_bytes} bytes of `{quantization}` are not a multiple of {block_bytes}")]
    ByteCount { quantization: Quantization, block_bytes: usize, got_bytes: usize },
}

/// Stores a row-major matrix `values [rows, row_length]`; `tensor_name` is for error messages.
///
/// # Errors
/// If rows are not whole blocks (see [`Quantization::for_row_length`]), if the last row is
/// incomplete, if a value is NaN or infinite, or if a value or a block's scale overflows 16 bits.
pub fn quantize(
    tensor_name: &str,
    quantization: Quantization,
    row_length: usize,
    values: &[f32],
) -> Result<Vec<u8>, QuantizeError> {
    let block_len = quantization.block_len();
    let tensor = || tensor_name.to_owned();
    if row_length == 0 || !row_length.is_multiple_of(block_len) {
        let got = row_length;
        return Err(QuantizeError::RowLength { tensor: tensor(), quantization, block_len, got });
    }
    if !values.len().is_multiple_of(row_length) {
        return Err(QuantizeError::ValueCount { tensor: tensor(), row_length, got: values.len() });
    }
    if let Some(index) = values.iter().position(|value| !value.is_finite()) {
        return Err(QuantizeError::NotFinite { tensor: tensor(), index, got: values[index] });
    }
    let mut out = Vec::with_capacity(values.len() / block_len * quantization.block_bytes());
    let stored = match quantization {
        Quantization::F32 => {
            out.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            Ok(())
        }
        Quantization::F16 => each_value::<f16>(values, &mut out, f16::INFINITY.to_bits()),
        Quantization::Bf16 => each_value::<bf16>(values, &mut out, bf16::INFINITY.to_bits()),
        Quantization::Q8_0 => each_block(values, &mut out, blocks::quantize_q8_0),
        Quantization::Q4_0 => each_block(values, &mut out, blocks::quantize_q4_0),
        Quantization::Q4_1 => each_block(values, &mut out, blocks::quantize_q4_1),
        Quantization::Q5_0 => each_block(values, &mut out, blocks::quantize_q5_0),
        Quantization::Q5_1 => each_block(values, &mut out, blocks::quantize_q5_1),
    };
    match stored {
        Ok(()) => Ok(out),
        Err((index, got)) => {
            Err(QuantizeError::Overflow { tensor: tensor(), quantization, index, got })
        }
    }
}

/// The values that `bytes` stand for, block after block. The bytes are not trusted: scales and
/// values of NaN or infinity are passed on, for the caller to judge.
///
/// # Errors
/// If `bytes` is not a whole number of blocks.
pub fn dequantize(quantization: Quantization, bytes: &[u8]) -> Result<Vec<f32>, QuantizeError> {
    let block_bytes = quantization.block_bytes();
    if !bytes.len().is_multiple_of(block_bytes) {
        let got_bytes = bytes.len();
        return Err(QuantizeError::ByteCount { quantization, block_bytes, got_bytes });
    }
    Ok(match quantization {
        Quantization::F32 => from_blocks(bytes, |block| [f32::from_le_bytes(*block)]),
        Quantization::F16 => from_blocks(bytes, |block| [f16::from_le_bytes(*block).to_f32()]),
        Quantization::Bf16 => from_blocks(bytes, |block| [bf16::from_le_bytes(*block).to_f32()]),
        Quantization::Q8_0 => from_blocks(bytes, blocks::dequantize_q8_0),
        Quantization::Q4_0 => from_blocks(bytes, blocks::dequantize_q4_0),
        Quantization::Q4_1 => from_blocks(bytes, blocks::dequantize_q4_1),
        Quantization::Q5_0 => from_blocks(bytes, blocks::dequantize_q5_0),
        Quantization::Q5_1 => from_blocks(bytes, blocks::dequantize_q5_1),
    })
}

/// Index and content of what overflowed.
type Overflow = (usize, f32);

/// Stores finite values in 16 bits; those of `infinity` are set where one overflows.
fn each_value<T: Copy + Default>(
    values: &[f32],
    out: &mut Vec<u8>,
    infinity: u16,
) -> Result<(), Overflow>
where
    [T]: HalfFloatSliceExt,
{
    let mut halves = vec![T::default(); values.len()];
    halves.convert_from_f32_slice(values);
    let bits = halves.reinterpret_cast();
    if let Some(index) = bits.iter().position(|bits| bits & infinity == infinity) {
        return Err((index, values[index]));
    }
    out.extend(bits.iter().flat_map(|bits| bits.to_le_bytes()));
    Ok(())
}

fn each_block(
    values: &[f32],
    out: &mut Vec<u8>,
    store: fn(&blocks::Block, &mut Vec<u8>) -> Result<(), blocks::HalfOverflow>,
) -> Result<(), Overflow> {
    let (whole, _) = values.as_chunks::<{ blocks::BLOCK_LEN }>();
    for (index, block) in whole.iter().enumerate() {
        store(block, out).map_err(|overflow| (index * blocks::BLOCK_LEN, overflow.0))?;
    }
    Ok(())
}

fn from_blocks<const BYTES: usize, const LEN: usize>(
    bytes: &[u8],
    load: impl Fn(&[u8; BYTES]) -> [f32; LEN],
) -> Vec<f32> {
    bytes.as_chunks::<BYTES>().0.iter().flat_map(load).collect()
}

#[cfg(test)]
mod tests;
