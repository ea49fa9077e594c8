//! A mean over tasks with its 95 % bootstrap interval.
//!
//! In: one value per task. Out: an [`Estimate`]. Tasks are drawn with replacement 1000 times, the
//! interval holds all but 25 of the means at either end (Efron and Tibshirani, "An Introduction to
//! the Bootstrap", 1993, section 13.3). The draws depend on the seed and the number of tasks alone,
//! so means over the same tasks are of the same draws. The interval of a paired difference is that
//! of the differences per task.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// Bootstrap samples.
const RESAMPLES: usize = 1000;
/// Bootstrap means outside the interval, at either end: 2.5 %.
const OUTSIDE: usize = RESAMPLES / 40;

/// A mean over tasks with its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The mean: a score from 0 to 1, or a difference of scores from -1 to 1.
    pub mean: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end of the interval.
    pub high: f64,
}

impl Estimate {
    /// Mean and interval of `values`; `None` where there are none.
    pub fn bootstrap(values: &[f64], seed: u64) -> Option<Self> {
        if values.is_empty() {
            return None;
        }
        let count = values.len();
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut means: Vec<f64> = (0..RESAMPLES)
            .map(|_| {
                let drawn = (0..count).map(|_| values[rng.random_range(0..count)]);
                drawn.sum::<f64>() / count as f64
            })
            .collect();
        means.sort_by(f64::total_cmp);
        Some(Self {
            mean: values.iter().sum::<f64>() / count as f64,
            low: means[OUTSIDE],
            high: means[RESAMPLES - 1 - OUTSIDE],
        })
    }

    /// Half of the interval's width.
    pub fn half_width(&self) -> f64 {
        (self.high - self.low) / 2.0
    }
}

#[cfg(test)]
mod tests {
    use super::Estimate;

    #[test]
    fn intervals_are_the_same_for_the_same_seed() {
        let values: Vec<f64> = (0..13).map(|i| f64::from(i * i) / 144.0).collect();
        let first = Estimate::bootstrap(&values, 7).unwrap();
        assert_eq!(Some(first), Estimate::bootstrap(&values, 7));
        assert_ne!(Some(first), Estimate::bootstrap(&values, 8));
        assert!(first.low < first.mean && first.mean < first.high);
        // The normal interval, ±1.96 standard errors, is ±0.176.
        assert!((0.13..0.21).contains(&first.half_width()), "{first:?}");
    }

    #[test]
    fn equal_values_leave_no_doubt() {
        let estimate = Estimate::bootstrap(&[0.25; 4], 0);
        assert_eq!(estimate, Some(Estimate { mean: 0.25, low: 0.25, high: 0.25 }));
        assert_eq!(Estimate::bootstrap(&[], 0), None);
    }
}
