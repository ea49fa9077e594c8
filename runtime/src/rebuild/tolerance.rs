//! How far two tensors of one recipe may be apart: a bound for each quantization.

use std::f64::consts::SQRT_2;

use crate::quantize::Quantization;

/// Relative Frobenius norm by which f32 matrices of one recipe may differ. CPUs stay around 1e-6;
/// accelerators that multiply in 19 bits (TF32) come near 1e-3.
const RELATIVE_TOLERANCE: f64 = 1e-3;

/// Largest relative Frobenius norm by which two tensors of one recipe may differ, if a backend
/// computed them on different machines: 1e-3 in `f32`, 6.7e-3 in `q8_0`, 2.7e-2 in `q4_0`.
///
/// Let r be what is allowed before quantization, and s a quantization step. A value that moves by d
/// falls on another side of a rounding boundary with probability |d| / s and then jumps by s, so
/// that the mean square of the jump is at most d² + s·|d|. By Cauchy–Schwarz that is, over a tensor
/// of root mean square x whose steps are at most c·x in the root mean square,
///
/// ```text
/// relative error² ≤ r² + c·r
/// ```
///
/// For block types c follows from the largest value of a block of 32, which is at most √32 times
/// its root mean square (and the range of its values at most √64 times): it is the worst case, and
/// for values of a normal distribution more than twice the truth, which covers what the shifts of
/// the steps themselves add. For all block types the bound is below half a step in the root mean
/// square.
pub fn tolerance(quantization: Quantization) -> f64 {
    let r = RELATIVE_TOLERANCE;
    (r * r + r * largest_step(quantization)).sqrt()
}

/// Most that a quantization step can be in the root mean square, relative to the values'.
fn largest_step(quantization: Quantization) -> f64 {
    let sqrt_32 = 4.0 * SQRT_2;
    match quantization {
        Quantization::F32 => f64::from(f32::EPSILON),
        Quantization::F16 => 1.0 / 1024.0,
        Quantization::Bf16 => 1.0 / 128.0,
        Quantization::Q8_0 => sqrt_32 / 127.0,
        Quantization::Q4_0 => sqrt_32 / 8.0,
        Quantization::Q4_1 => 8.0 / 15.0,
        Quantization::Q5_0 => sqrt_32 / 16.0,
        Quantization::Q5_1 => 8.0 / 31.0,
    }
}

/// Frobenius norm of the difference over that of `rebuilt`, for slices of one length. 0 for equal
/// values; infinite or NaN where `rebuilt` is 0 or `recorded` is not finite.
pub(super) fn relative_error(recorded: &[f32], rebuilt: &[f32]) -> f64 {
    let (mut apart, mut size) = (0.0, 0.0);
    for (recorded, rebuilt) in recorded.iter().zip(rebuilt) {
        let (recorded, rebuilt) = (f64::from(*recorded), f64::from(*rebuilt));
        apart += (recorded - rebuilt) * (recorded - rebuilt);
        size += rebuilt * rebuilt;
    }
    if apart == 0.0 { 0.0 } else { (apart / size).sqrt() }
}

#[cfg(test)]
mod tests {
    use super::{RELATIVE_TOLERANCE, largest_step, relative_error, tolerance};
    use crate::quantize::{Quantization, dequantize, quantize};

    /// Numbers between -1 and 1 that look random.
    fn numbers(seed: u64, count: usize) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            // Marsaglia's xorshift64.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / 8_388_608.0 - 1.0
        };
        (0..count).map(|_| next()).collect()
    }

    /// The relative error between two quantized matrices that were `relative` apart before.
    fn quantized_error(quantization: Quantization, relative: f64) -> f64 {
        let (values, noise) = (numbers(1, 1 << 15), numbers(2, 1 << 15));
        let norm = |values: &[f32]| values.iter().map(|v| f64::from(v * v)).sum::<f64>().sqrt();
        let factor = relative * norm(&values) / norm(&noise);
        #[allow(clippy::cast_possible_truncation, reason = "a factor of noise")]
        let moved: Vec<f32> =
            values.iter().zip(&noise).map(|(v, n)| v + n * factor as f32).collect();
        let [values, moved] = [values, moved].map(|values| {
            let bytes = quantize("values", quantization, 32, &values).unwrap();
            dequantize(quantization, &bytes).unwrap()
        });
        relative_error(&moved, &values)
    }

    #[test]
    fn what_rounding_explains_is_tolerated_and_more_is_not() {
        for quantization in Quantization::ALL {
            let allowed = tolerance(quantization);
            let near = quantized_error(quantization, 0.9 * RELATIVE_TOLERANCE);
            assert!(near > 0.0 && near <= allowed, "{quantization}: {near:.1e} {allowed:.1e}");
            let far = quantized_error(quantization, 100.0 * RELATIVE_TOLERANCE);
            assert!(far > allowed, "{quantization}: {far:.1e} {allowed:.1e}");
        }
    }

    #[test]
    fn no_block_type_may_be_half_a_step_off() {
        for quantization in Quantization::ALL.into_iter().filter(|it| it.block_len() > 1) {
            let half = largest_step(quantization) / 2.0;
            assert!(tolerance(quantization) < half, "{quantization}");
        }
        assert!((tolerance(Quantization::F32) - RELATIVE_TOLERANCE).abs() < 1e-6);
    }

    #[test]
    fn relative_errors_are_zero_only_for_equal_values() {
        let (same, other) =
            (relative_error(&[0.0, -3.0], &[0.0, -3.0]), relative_error(&[0.0, 0.0], &[0.0, 4.0]));
        assert_eq!((same, other), (0.0, 1.0));
        assert!(relative_error(&[1.0], &[0.0]).is_infinite());
        assert!(relative_error(&[f32::NAN], &[1.0]).is_nan());
    }
}
