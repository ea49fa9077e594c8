//! How far apart two results are.
//!
//! In: what a runtime computed and what is expected, as many finite f32 each, and the [`Measure`]
//! that makes sense for the operator. Out: the largest distance of any element.
//!
//! Where an operation is rounded once, the number of f32 between the two results says everything.
//! Where an engine adds terms in an order of its own, terms may cancel and leave a result that is
//! all rounding error, so errors are measured against the magnitude of what went in. Where an
//! engine computes a function by a formula with a bounded absolute error, they are measured against
//! the function's range.

/// One step of f32 at 1.
const UNIT: f64 = f64::from_bits((1023 - 23) << 52); // 2⁻²³

/// What a distance is counted in.
#[derive(Debug)]
pub(super) enum Measure {
    /// Steps from one f32 to the next; 0 means the same bits, sign of zero included.
    Steps,
    /// 2⁻²³ of the expected value, or of `floor` where that is larger.
    Relative {
        /// Smallest magnitude that errors are compared with.
        floor: f64,
    },
    /// 2⁻²³ of a magnitude that each element has of its own.
    Magnitudes(Vec<f64>),
}

impl Measure {
    /// Largest distance of two elements at the same place.
    ///
    /// # Panics
    /// If lengths differ, nothing is there, or a value is not finite.
    pub(super) fn largest(&self, got: &[f32], want: &[f32]) -> f64 {
        assert!(!want.is_empty() && got.len() == want.len(), "{} of {}", got.len(), want.len());
        assert!(got.iter().chain(want).all(|value| value.is_finite()));
        let pairs = got.iter().zip(want);
        match self {
            Self::Steps => {
                let steps = pairs.map(|(a, b)| (place(*a) - place(*b)).unsigned_abs());
                steps.max().unwrap_or(0) as f64
            }
            Self::Relative { floor } => pairs
                .map(|(a, b)| units(*a, *b, f64::from(*b).abs().max(*floor)))
                .fold(0.0, f64::max),
            Self::Magnitudes(magnitudes) => {
                assert_eq!(magnitudes.len(), want.len(), "one magnitude for each element");
                let measured = pairs.zip(magnitudes).map(|((a, b), size)| units(*a, *b, *size));
                measured.fold(0.0, f64::max)
            }
        }
    }

    /// The unit, in a word.
    pub(super) fn unit(&self) -> &'static str {
        match self {
            Self::Steps => "steps",
            Self::Relative { .. } => "relative",
            Self::Magnitudes(_) => "of magnitude",
        }
    }
}

fn units(got: f32, want: f32, magnitude: f64) -> f64 {
    assert!(magnitude > 0.0, "a magnitude of {magnitude}");
    (f64::from(got) - f64::from(want)).abs() / (magnitude * UNIT)
}

/// Numbers every f32 in rising order; −0 comes right before +0.
fn place(value: f32) -> i64 {
    let magnitude = i64::from(value.to_bits() & 0x7fff_ffff);
    if value.is_sign_negative() { -1 - magnitude } else { magnitude }
}

#[test]
#[allow(clippy::float_cmp, reason = "distances in steps are whole numbers")]
fn steps_count_every_float_and_both_zeros() {
    let steps = |a, b| Measure::Steps.largest(&[1.0, a], &[1.0, b]);
    assert_eq!(steps(0.5, 0.5), 0.0);
    assert_eq!(steps(1.0, 1.0_f32.next_up()), 1.0);
    assert_eq!(steps(0.0, -0.0), 1.0);
    assert_eq!(steps(f32::from_bits(2), -f32::from_bits(1)), 4.0);
}

#[test]
#[allow(clippy::float_cmp, reason = "the errors and magnitudes are powers of two")]
fn errors_are_told_in_units_of_the_magnitude() {
    let near = 4.0 + 2.0 * f32::EPSILON * 4.0;
    assert_eq!(Measure::Relative { floor: 1.0 }.largest(&[near], &[4.0]), 2.0);
    assert_eq!(Measure::Relative { floor: 16.0 }.largest(&[near], &[4.0]), 0.5);
    let measure = Measure::Magnitudes(vec![8.0, 1.0]);
    assert_eq!(measure.largest(&[near, 3.0], &[4.0, 3.0]), 1.0);
}
