//! The functions that IEEE 754 leaves open: `exp`, `erf`, the logistic function; and widening of
//! f16.
//!
//! Values go in and come out as f32. In between everything is f64: additions, multiplications, one
//! division and operations on bits, in a fixed order, so that the result is the same everywhere.
//! It is rounded to f32 once; its error before that is below 1e-13 of the value for `exp` and the
//! logistic function and below 1e-10 for `erf`, so that the f32 is nearly always the nearest one
//! and never further than one step from it. NaN gives [`f32::NAN`].
//!
//! - `exp(x) = 2ⁿ · exp(r)` with `n = round(x / ln 2)` and `|r| ≤ ln 2 / 2`, the latter by its
//!   Taylor polynomial of degree 12; the first term left out is below 2e-16.
//! - `erf` by its Maclaurin series `2/√π Σ (−1)ⁿ x²ⁿ⁺¹ / (n! (2n + 1))`
//!   (<https://dlmf.nist.gov/7.6.E1>). At `|x| = 4` the largest of its terms is 3e4, which costs
//!   1e-11 by cancellation, and the first term left out is below 1e-12. Beyond 4, `erf` is ±1 in
//!   f32.
//!
//! Sixteen values go through the formulas side by side, lane by lane, so that the compiler can use
//! vectors of any width; lanes never mix.

#![allow(clippy::inline_always, reason = "only inlined code is compiled for the CPU's vectors")]

use std::f64::consts::{FRAC_2_SQRT_PI, LN_2, LOG2_E};
use std::marker::PhantomData;

use pulp::{Arch, Simd, WithSimd};

const LANES: usize = 16;

/// Beyond these, `exp` is 0 or infinite in f32 and the logistic function 0 or 1.
const EXP_LIMIT: f64 = 110.0;
/// 1.5 · 2⁵²: a sum with it has no bits for fractions, so that it is rounded to an integer, which
/// is then found in the lowest bits.
const ROUNDER: f64 = 6_755_399_441_055_744.0;
/// Exponent of 1.0 as it is stored.
const EXPONENT_BIAS: u64 = 1023;
const MANTISSA_BITS: u32 = 52;
const EXP_COEFFICIENTS: [f64; 13] = exp_coefficients();

/// `erf` is within half a step of ±1 beyond this.
const ERF_LIMIT: f64 = 4.0;
const ERF_COEFFICIENTS: [f64; 61] = erf_coefficients();

/// `1 / n!`
const fn exp_coefficients() -> [f64; 13] {
    let mut coefficients = [1.0; 13];
    let mut n = 1;
    while n < coefficients.len() {
        coefficients[n] = coefficients[n - 1] / n as f64;
        n += 1;
    }
    coefficients
}

/// `(−1)ⁿ · 2/√π / (n! (2n + 1))`
const fn erf_coefficients() -> [f64; 61] {
    let mut coefficients = [0.0; 61];
    let mut factor = FRAC_2_SQRT_PI;
    let mut n = 0;
    while n < coefficients.len() {
        coefficients[n] = factor / (2 * n + 1) as f64;
        n += 1;
        factor = -factor / n as f64;
    }
    coefficients
}

/// Replaces every value by its exponential.
pub(super) fn exp_all(values: &mut [f32]) {
    Arch::new().dispatch(Apply(values, PhantomData::<Exp>));
}

/// Replaces every value by its error function.
pub(super) fn erf_all(values: &mut [f32]) {
    Arch::new().dispatch(Apply(values, PhantomData::<Erf>));
}

/// Replaces every value by its logistic function `1 / (1 + exp(−x))`.
pub(super) fn sigmoid_all(values: &mut [f32]) {
    Arch::new().dispatch(Apply(values, PhantomData::<Sigmoid>));
}

/// The values of little-endian f16 as f32.
pub(super) fn widen_halves(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|half| widen_half(u16::from_le_bytes(*half))).collect()
}

/// The f32 of the same value as the f16 with these bits; NaN stays NaN.
#[inline(always)]
pub(super) fn widen_half(bits: u16) -> f32 {
    /// Difference of the exponents' biases, in place.
    const REBIAS: u32 = (127 - 15) << 23;
    const EXPONENT: u32 = 0x1f << 23;
    let bits = u32::from(bits);
    let magnitude = (bits & 0x7fff) << 13;
    let exponent = magnitude & EXPONENT;
    // Infinity and NaN have the largest exponent in both formats.
    let rebias = if exponent == EXPONENT { 2 * REBIAS } else { REBIAS };
    let normal = f32::from_bits(magnitude + rebias);
    // Subnormal: as the mantissa of 2⁻¹⁴, which is then taken away; both steps are exact.
    let smallest = REBIAS + (1 << 23);
    let subnormal = f32::from_bits((magnitude & 0x007f_ffff) + smallest) - f32::from_bits(smallest);
    let value = if exponent == 0 { subnormal } else { normal };
    f32::from_bits(value.to_bits() | ((bits & 0x8000) << 16))
}

trait Function {
    fn apply(values: &mut [f32; LANES]);
}

struct Apply<'a, F>(&'a mut [f32], PhantomData<F>);

impl<F: Function> WithSimd for Apply<'_, F> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        let (blocks, rest) = self.0.as_chunks_mut::<LANES>();
        for block in blocks {
            F::apply(block);
        }
        if !rest.is_empty() {
            let mut block = [0.0; LANES];
            block[..rest.len()].copy_from_slice(rest);
            F::apply(&mut block);
            rest.copy_from_slice(&block[..rest.len()]);
        }
    }
}

struct Exp;

impl Function for Exp {
    #[inline(always)]
    fn apply(values: &mut [f32; LANES]) {
        for value in values {
            let result = exp(f64::from(*value));
            *value = finish(*value, result);
        }
    }
}

struct Sigmoid;

impl Function for Sigmoid {
    #[inline(always)]
    fn apply(values: &mut [f32; LANES]) {
        for value in values {
            let result = 1.0 / (1.0 + exp(-f64::from(*value)));
            *value = finish(*value, result);
        }
    }
}

struct Erf;

impl Function for Erf {
    #[inline(always)]
    fn apply(values: &mut [f32; LANES]) {
        let mut wide = [0.0_f64; LANES];
        let mut squares = [0.0_f64; LANES];
        for ((wide, square), value) in wide.iter_mut().zip(&mut squares).zip(&*values) {
            *wide = f64::from(*value).clamp(-ERF_LIMIT, ERF_LIMIT);
            *square = *wide * *wide;
        }
        let mut sums = [0.0_f64; LANES];
        for coefficient in ERF_COEFFICIENTS.iter().rev() {
            for (sum, square) in sums.iter_mut().zip(&squares) {
                *sum = *sum * square + coefficient;
            }
        }
        for ((value, wide), sum) in values.iter_mut().zip(&wide).zip(&sums) {
            *value = finish(*value, wide * sum);
        }
    }
}

/// `exp(x)` for `|x|` up to [`EXP_LIMIT`], which takes the place of larger arguments.
#[inline(always)]
fn exp(x: f64) -> f64 {
    let x = x.clamp(-EXP_LIMIT, EXP_LIMIT);
    let rounded = x * LOG2_E + ROUNDER;
    let n = rounded - ROUNDER;
    let r = x - n * LN_2;
    let mut sum = 0.0;
    for coefficient in EXP_COEFFICIENTS.iter().rev() {
        sum = sum * r + coefficient;
    }
    // The shift leaves the lowest bits of n + bias as the exponent of 2ⁿ.
    let power = f64::from_bits(rounded.to_bits().wrapping_add(EXPONENT_BIAS) << MANTISSA_BITS);
    sum * power
}

/// The result for the argument `x`, as f32.
#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "rounding to f32 is what this is for")]
fn finish(x: f32, result: f64) -> f32 {
    if x.is_nan() { f32::NAN } else { result as f32 }
}

#[cfg(test)]
mod tests;
