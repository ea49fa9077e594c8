//! Tests of `arithmetic`.

#![allow(clippy::disallowed_methods, reason = "the system's functions are what is compared with")]

use half::f16;

use super::{erf_all, exp_all, sigmoid_all, widen_half};

fn exp(x: f32) -> f32 {
    one(exp_all, x)
}

fn erf(x: f32) -> f32 {
    one(erf_all, x)
}

fn sigmoid(x: f32) -> f32 {
    one(sigmoid_all, x)
}

fn one(function: fn(&mut [f32]), x: f32) -> f32 {
    let mut values = [x];
    function(&mut values);
    values[0]
}

/// Steps between two floats of the same sign.
fn steps(a: f32, b: f32) -> u32 {
    a.to_bits().abs_diff(b.to_bits())
}

#[allow(clippy::cast_possible_truncation, reason = "the nearest f32 is what is expected")]
fn assert_near(got: f32, expected: f64, x: f32) {
    let expected = expected as f32;
    assert!(steps(got, expected) <= 1, "{got:e} instead of {expected:e} at {x}");
}

fn grid(from: i16, to: i16) -> impl Iterator<Item = f32> {
    (from..=to).map(|i| f32::from(i) / 256.0)
}

#[test]
fn known_values() {
    assert_near(exp(1.0), std::f64::consts::E, 1.0);
    assert_near(exp(-1.0), 0.367_879_441_171_442_33, -1.0);
    assert_near(exp(0.5), 1.648_721_270_700_128_2, 0.5);
    assert_near(exp(10.0), 22_026.465_794_806_718, 10.0);
    assert_near(erf(0.5), 0.520_499_877_813_046_5, 0.5);
    assert_near(erf(1.0), 0.842_700_792_949_714_9, 1.0);
    assert_near(erf(2.0), 0.995_322_265_018_952_7, 2.0);
    assert_near(erf(3.0), 0.999_977_909_503_001_4, 3.0);
    assert_near(sigmoid(1.0), 0.731_058_578_630_004_9, 1.0);
    assert_near(sigmoid(-2.0), 0.119_202_922_022_117_55, -2.0);
}

#[test]
fn exact_values() {
    let bits = [exp(0.0), exp(-0.0), sigmoid(0.0), erf(0.0), erf(-0.0), erf(4.0), erf(-5.0)];
    let expected = [1.0_f32, 1.0, 0.5, 0.0, -0.0, 1.0, -1.0];
    assert_eq!(bits.map(f32::to_bits), expected.map(f32::to_bits));
}

#[test]
fn the_exponential_agrees_with_the_system_library() {
    for x in grid(-22_000, 22_000) {
        assert_near(exp(x), f64::from(x).exp(), x);
    }
}

#[test]
fn the_logistic_function_agrees_with_the_system_library() {
    for x in grid(-22_000, 22_000) {
        assert_near(sigmoid(x), 1.0 / (1.0 + (-f64::from(x)).exp()), x);
    }
}

/// Derivative check: `erf(b) − erf(a)` is the integral of `2/√π exp(−x²)`, here by Simpson's rule.
#[test]
fn the_error_function_is_the_integral_of_the_bell_curve() {
    let bell = |x: f64| std::f64::consts::FRAC_2_SQRT_PI * (-x * x).exp();
    let mut sum = 0.0;
    for i in 0..4 * 256_u16 {
        let (from, to) = (f64::from(i) / 256.0, f64::from(i + 1) / 256.0);
        sum += (bell(from) + 4.0 * bell(from.midpoint(to)) + bell(to)) / (6.0 * 256.0);
        let x = f32::from(i + 1) / 256.0;
        assert_near(erf(x), sum, x);
    }
}

#[test]
fn the_error_function_is_odd_and_rises() {
    let mut before = -1.0;
    for x in grid(-1200, 1200) {
        let value = erf(x);
        assert!(value >= before, "falls at {x}");
        assert_eq!(value.to_bits(), (-erf(-x)).to_bits(), "not odd at {x}");
        before = value;
    }
    let tiny = f32::from_bits(3);
    assert_near(erf(tiny), f64::from(tiny) * std::f64::consts::FRAC_2_SQRT_PI, tiny);
}

#[test]
fn the_exponential_rises_and_inverts() {
    let mut before = 0.0;
    for x in grid(-20_000, 20_000) {
        let value = exp(x);
        assert!(value > before, "does not rise at {x}");
        assert!((value * exp(-x) - 1.0).abs() < 4.0 * f32::EPSILON, "at {x}");
        before = value;
    }
}

#[test]
fn ends_of_the_range() {
    let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    let (infinity, smallest) = (f32::INFINITY, f32::from_bits(1));
    let got = [exp(88.73), exp(1e30), exp(infinity), exp(-104.0), exp(-infinity), exp(-103.2)];
    let expected = [infinity, infinity, infinity, 0.0, 0.0, smallest];
    assert_eq!(bits(&got), bits(&expected));
    let got = [sigmoid(infinity), sigmoid(200.0), sigmoid(-infinity), sigmoid(-1e9)];
    assert_eq!(bits(&got), bits(&[1.0, 1.0, 0.0, 0.0]));
    assert_eq!(bits(&[erf(infinity), erf(-infinity)]), bits(&[1.0, -1.0]));
    assert!(exp(88.72).is_finite());
}

#[test]
fn every_nan_becomes_the_same() {
    for nan in [f32::NAN, -f32::NAN, f32::from_bits(0x7f80_0001), f32::from_bits(0xffff_ffff)] {
        for function in [exp_all, erf_all, sigmoid_all] {
            assert_eq!(one(function, nan).to_bits(), f32::NAN.to_bits());
        }
    }
}

#[test]
fn the_place_in_a_slice_does_not_matter() {
    let values: Vec<f32> = grid(-900, 900).take(37).collect();
    for function in [exp_all, erf_all, sigmoid_all] {
        let mut together = values.clone();
        function(&mut together);
        for (x, got) in values.iter().zip(together) {
            assert_eq!(got.to_bits(), one(function, *x).to_bits());
        }
    }
}

#[test]
fn halves_keep_their_value() {
    for bits in 0..=u16::MAX {
        let (got, expected) = (widen_half(bits), f16::from_bits(bits).to_f32_const());
        let same = got.to_bits() == expected.to_bits() || (got.is_nan() && expected.is_nan());
        assert!(same, "{bits:#06x}: {got:e} instead of {expected:e}");
    }
}
