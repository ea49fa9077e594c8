//! ggml's 32-element block formats, bit for bit as its reference quantizers write them.
//!
//! In: 32 finite values. Out: one block of `q8_0`, `q4_0`, `q4_1`, `q5_0` or `q5_1`; and back.
//! All arithmetic is in `f32`, one rounding per operation and never fused, so that the bytes are
//! the same on every machine. Codes are computed with the `f32` scale before it is rounded to the
//! `f16` that the block stores.
//!
//! | format | bytes | layout | value |
//! |---|---|---|---|
//! | `q8_0` | 34 | f16 scale, 32 × i8 | code × scale |
//! | `q4_0` | 18 | f16 scale, 16 bytes | (code - 8) × scale |
//! | `q4_1` | 20 | f16 scale, f16 minimum, 16 bytes | code × scale + minimum |
//! | `q5_0` | 22 | f16 scale, u32 fifth bits, 16 bytes | (code - 16) × scale |
//! | `q5_1` | 24 | f16 scale, f16 minimum, u32 fifth bits, 16 bytes | code × scale + minimum |
//!
//! Byte `j` of the last part holds the low four bits of codes `j` (low nibble) and `j + 16` (high
//! nibble); bit `j` of the `u32` is the fifth bit of code `j`.
//!
//! Source: the `quantize_row_*_ref` and `dequantize_row_*` functions of ggml's `ggml-quants.c`.

use half::f16;

/// Elements per block of every format here.
pub(super) const BLOCK_LEN: usize = 32;
/// Bytes that hold the low four bits of a block's codes.
const NIBBLES_LEN: usize = BLOCK_LEN / 2;

/// The values of one block.
pub(super) type Block = [f32; BLOCK_LEN];

/// A scale or minimum that `f16` can only hold as infinity.
#[derive(Debug)]
pub(super) struct HalfOverflow(pub(super) f32);

/// Appends a block of `q8_0`.
pub(super) fn quantize_q8_0(block: &Block, out: &mut Vec<u8>) -> Result<(), HalfOverflow> {
    let scale = magnitude(block) / 127.0;
    let inverse = reciprocal(scale);
    out.extend(half_bytes(scale)?);
    out.extend_from_slice(&block.map(|value| rounded(value * inverse).cast_unsigned()));
    Ok(())
}

/// Appends a block of `q4_0`.
pub(super) fn quantize_q4_0(block: &Block, out: &mut Vec<u8>) -> Result<(), HalfOverflow> {
    let scale = largest(block) / -8.0;
    let inverse = reciprocal(scale);
    out.extend(half_bytes(scale)?);
    let (nibbles, _) = pack(&block.map(|value| truncated(value * inverse + 8.5, 15)));
    out.extend(nibbles);
    Ok(())
}

/// Appends a block of `q4_1`.
pub(super) fn quantize_q4_1(block: &Block, out: &mut Vec<u8>) -> Result<(), HalfOverflow> {
    let (min, max) = range(block);
    let scale = (max - min) / 15.0;
    let inverse = reciprocal(scale);
    out.extend(half_bytes(scale)?);
    out.extend(half_bytes(min)?);
    let (nibbles, _) = pack(&block.map(|value| truncated((value - min) * inverse + 0.5, 15)));
    out.extend(nibbles);
    Ok(())
}

/// Appends a block of `q5_0`.
pub(super) fn quantize_q5_0(block: &Block, out: &mut Vec<u8>) -> Result<(), HalfOverflow> {
    let scale = largest(block) / -16.0;
    let inverse = reciprocal(scale);
    out.extend(half_bytes(scale)?);
    let (nibbles, fifth_bits) = pack(&block.map(|value| truncated(value * inverse + 16.5, 31)));
    out.extend(fifth_bits.to_le_bytes());
    out.extend(nibbles);
    Ok(())
}

/// Appends a block of `q5_1`.
pub(super) fn quantize_q5_1(block: &Block, out: &mut Vec<u8>) -> Result<(), HalfOverflow> {
    let (min, max) = range(block);
    let scale = (max - min) / 31.0;
    let inverse = reciprocal(scale);
    out.extend(half_bytes(scale)?);
    out.extend(half_bytes(min)?);
    let (nibbles, fifth_bits) =
        pack(&block.map(|value| truncated((value - min) * inverse + 0.5, 31)));
    out.extend(fifth_bits.to_le_bytes());
    out.extend(nibbles);
    Ok(())
}

/// Values of a `q8_0` block.
pub(super) fn dequantize_q8_0(block: &[u8; 34]) -> Block {
    let [s0, s1, codes @ ..] = block;
    let scale = half_value([*s0, *s1]);
    codes.map(|code| f32::from(code.cast_signed()) * scale)
}

/// Values of a `q4_0` block.
pub(super) fn dequantize_q4_0(block: &[u8; 18]) -> Block {
    let [s0, s1, nibbles @ ..] = block;
    let scale = half_value([*s0, *s1]);
    unpack(nibbles, 0).map(|code| (f32::from(code) - 8.0) * scale)
}

/// Values of a `q4_1` block.
pub(super) fn dequantize_q4_1(block: &[u8; 20]) -> Block {
    let [s0, s1, m0, m1, nibbles @ ..] = block;
    let (scale, min) = (half_value([*s0, *s1]), half_value([*m0, *m1]));
    unpack(nibbles, 0).map(|code| f32::from(code) * scale + min)
}

/// Values of a `q5_0` block.
pub(super) fn dequantize_q5_0(block: &[u8; 22]) -> Block {
    let [s0, s1, h0, h1, h2, h3, nibbles @ ..] = block;
    let scale = half_value([*s0, *s1]);
    let fifth_bits = u32::from_le_bytes([*h0, *h1, *h2, *h3]);
    unpack(nibbles, fifth_bits).map(|code| (f32::from(code) - 16.0) * scale)
}

/// Values of a `q5_1` block.
pub(super) fn dequantize_q5_1(block: &[u8; 24]) -> Block {
    let [s0, s1, m0, m1, h0, h1, h2, h3, nibbles @ ..] = block;
    let (scale, min) = (half_value([*s0, *s1]), half_value([*m0, *m1]));
    let fifth_bits = u32::from_le_bytes([*h0, *h1, *h2, *h3]);
    unpack(nibbles, fifth_bits).map(|code| f32::from(code) * scale + min)
}

/// The largest magnitude; eight at a time, which fills a vector register.
fn magnitude(block: &Block) -> f32 {
    let mut largest = [0.0_f32; 8];
    for values in block.as_chunks::<8>().0 {
        for (largest, value) in largest.iter_mut().zip(values) {
            *largest = largest.max(value.abs());
        }
    }
    largest.into_iter().fold(0.0, f32::max)
}

/// The value of the largest magnitude, with its sign; the first of equals.
fn largest(block: &Block) -> f32 {
    let mut largest = 0.0_f32;
    for &value in block {
        if largest.abs() < value.abs() {
            largest = value;
        }
    }
    largest
}

/// Smallest and largest value; the first of equals, so that the sign of a zero is defined.
fn range(block: &Block) -> (f32, f32) {
    let (mut min, mut max) = (f32::MAX, f32::MIN);
    for &value in block {
        if value < min {
            min = value;
        }
        if value > max {
            max = value;
        }
    }
    (min, max)
}

/// `1 / scale`; 0 for a zero scale, and for one so small that the reciprocal overflows: there the
/// reference converts infinity to an integer, which C leaves undefined, and the stored scale is 0.
fn reciprocal(scale: f32) -> f32 {
    let reciprocal = 1.0 / scale;
    if reciprocal.is_finite() { reciprocal } else { 0.0 }
}

/// The largest float below a half.
const BELOW_HALF: f32 = 0.499_999_97;

/// Nearest integer, halves away from zero. Callers pass at most 127 in magnitude.
///
/// Adding a half before cutting would round the float below a half up to 1, since the sum does; with
/// the float below it, halves still reach the next integer. [`f32::round`] is a call on most CPUs.
#[allow(clippy::cast_possible_truncation, reason = "at most 127 in magnitude")]
fn rounded(value: f32) -> i8 {
    (value + BELOW_HALF.copysign(value)) as i32 as i8
}

/// Integer part, at most `max`. Callers pass nothing negative.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the cast saturates")]
fn truncated(value: f32, max: u8) -> u8 {
    (value as u8).min(max)
}

/// Low four bits as nibbles, fifth bits as a word.
fn pack(codes: &[u8; BLOCK_LEN]) -> ([u8; NIBBLES_LEN], u32) {
    let mut nibbles = [0; NIBBLES_LEN];
    for (index, nibble) in nibbles.iter_mut().enumerate() {
        *nibble = (codes[index] & 0x0f) | ((codes[index + NIBBLES_LEN] & 0x0f) << 4);
    }
    let fifth_bits = codes
        .iter()
        .enumerate()
        .fold(0, |bits, (index, &code)| bits | (u32::from((code >> 4) & 1) << index));
    (nibbles, fifth_bits)
}

/// Inverse of [`pack`].
fn unpack(nibbles: &[u8; NIBBLES_LEN], fifth_bits: u32) -> [u8; BLOCK_LEN] {
    std::array::from_fn(|index| {
        let low = match index.checked_sub(NIBBLES_LEN) {
            None => nibbles[index] & 0x0f,
            Some(index) => nibbles[index] >> 4,
        };
        if (fifth_bits >> index) & 1 == 1 { low | 0x10 } else { low }
    })
}

fn half_bytes(value: f32) -> Result<[u8; 2], HalfOverflow> {
    let half = f16::from_f32(value);
    if half.is_finite() { Ok(half.to_le_bytes()) } else { Err(HalfOverflow(value)) }
}

fn half_value(bytes: [u8; 2]) -> f32 {
    f16::from_le_bytes(bytes).to_f32()
}

#[cfg(test)]
mod tests {
    use super::{
        BLOCK_LEN, dequantize_q4_0, dequantize_q5_1, pack, quantize_q4_0, quantize_q5_1,
        quantize_q8_0, rounded, unpack,
    };

    #[test]
    fn codes_survive_packing() {
        let codes: [u8; BLOCK_LEN] =
            std::array::from_fn(|index| u8::try_from((index * 7) % 32).unwrap());
        let (nibbles, fifth_bits) = pack(&codes);
        assert_eq!(unpack(&nibbles, fifth_bits), codes);
        let mut only_last = [0; BLOCK_LEN];
        only_last[31] = 0x1f;
        assert_eq!(
            pack(&only_last),
            ([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xf0], 1 << 31)
        );
    }

    #[test]
    fn halves_round_away_from_zero() {
        let mut block = [0.0; BLOCK_LEN];
        block[0] = 127.0;
        block[1] = 0.5;
        block[2] = -0.5;
        block[3] = 2.5;
        let mut out = Vec::new();
        quantize_q8_0(&block, &mut out).unwrap();
        assert_eq!(out[..6], [0x00, 0x3c, 127, 1, 0xff, 3]);
    }

    #[test]
    fn the_first_of_equal_magnitudes_sets_the_sign() {
        let mut block = [0.0; BLOCK_LEN];
        block[4] = 8.0;
        block[5] = -8.0;
        let mut out = Vec::new();
        quantize_q4_0(&block, &mut out).unwrap();
        let values = dequantize_q4_0(&out.try_into().unwrap());
        assert_eq!((values[4], values[5], values[6]), (8.0, -7.0, 0.0));
    }

    #[test]
    fn constant_and_vanishing_blocks_are_defined() {
        let mut out = Vec::new();
        quantize_q5_1(&[0.25; BLOCK_LEN], &mut out).unwrap();
        let values = dequantize_q5_1(&out.try_into().unwrap());
        assert_eq!(values.map(f32::to_bits), [0.25_f32.to_bits(); BLOCK_LEN]);
        let mut out = Vec::new();
        quantize_q8_0(&[1e-40; BLOCK_LEN], &mut out).unwrap();
        assert_eq!(out, [0; 34]);
    }

    #[test]
    #[allow(clippy::cast_possible_truncation, reason = "at most 127 in magnitude")]
    fn rounding_is_that_of_the_standard_library() {
        // All around every half, and one float in 997 up to 127.5.
        let halves = (0..255_u16).flat_map(|n| {
            let bits = (f32::from(n) / 2.0).to_bits();
            bits.saturating_sub(3)..bits + 4
        });
        for bits in halves.chain((0..=127.49_f32.to_bits()).step_by(997)) {
            let value = f32::from_bits(bits);
            for value in [value, -value] {
                assert_eq!(rounded(value), value.round() as i8, "{value}");
            }
        }
    }

    #[test]
    fn a_scale_beyond_f16_is_refused() {
        let overflow = quantize_q8_0(&[1e9; BLOCK_LEN], &mut Vec::new()).unwrap_err();
        assert!(overflow.0 > 65504.0);
        let mut extremes = [f32::MAX; BLOCK_LEN];
        extremes[0] = f32::MIN;
        assert!(quantize_q5_1(&extremes, &mut Vec::new()).unwrap_err().0.is_infinite());
    }
}
