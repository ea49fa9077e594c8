//! How far apart two computations of the same logits are.
//!
//! Goes in: two sets of rows `[tokens, vocabulary]`, the second being what is
//! expected. Comes out: a [`Difference`], whose text is meant for the message of an assertion.

use std::fmt;

use t2lc::llama::argmax;

/// Differences over all tokens and the whole vocabulary, in logits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Difference {
    /// Largest absolute difference.
    pub(crate) largest: f64,
    /// Root mean square difference.
    pub(crate) rms: f64,
    /// What is expected varies this much: its root mean square deviation from the mean of its row.
    pub(crate) spread: f64,
    /// Share of the rows whose largest logit is at the same token.
    pub(crate) same_argmax: f64,
}

impl Difference {
    /// Compares `got` with `want`.
    ///
    /// # Panics
    /// If the shapes differ, if there is nothing to compare, or if a logit is not finite.
    pub(crate) fn between(got: &[Vec<f32>], want: &[Vec<f32>]) -> Self {
        assert_eq!(got.len(), want.len(), "rows of logits");
        assert!(!want.is_empty(), "there are no logits");
        let (mut largest, mut squares, mut deviations) = (0_f64, 0_f64, 0_f64);
        let (mut values, mut same) = (0_usize, 0_usize);
        for (got, want) in got.iter().zip(want) {
            assert_eq!(got.len(), want.len(), "logits in a row");
            let mean = want.iter().copied().map(f64::from).sum::<f64>() / want.len() as f64;
            for (&got, &want) in got.iter().zip(want) {
                assert!(got.is_finite() && want.is_finite(), "the logits {got} and {want}");
                let (got, want) = (f64::from(got), f64::from(want));
                largest = largest.max((got - want).abs());
                squares += (got - want).powi(2);
                deviations += (want - mean).powi(2);
            }
            values += want.len();
            same += usize::from(argmax(got) == argmax(want));
        }
        Self {
            largest,
            rms: (squares / values as f64).sqrt(),
            spread: (deviations / values as f64).sqrt(),
            same_argmax: same as f64 / want.len() as f64,
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { largest, rms, spread, same_argmax } = self;
        write!(
            f,
            "logits differ by at most {largest:.3e}, by {rms:.3e} root mean square, spread \
             {spread:.3}; {:.1} % of the rows have the same largest logit",
            100.0 * same_argmax
        )
    }
}
