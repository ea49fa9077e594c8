//! What a row of logits `[vocabulary]` says: the likeliest token, and how likely a token is.

/// The index of the largest logit, the lowest one on ties; `None` if there are no logits, too many
/// for token ids, or one that is not a number.
pub fn argmax(row: &[f32]) -> Option<i32> {
    let mut best = 0;
    for (index, logit) in row.iter().enumerate() {
        if logit.is_nan() {
            return None;
        }
        if *logit > row[best] {
            best = index;
        }
    }
    (!row.is_empty()).then(|| i32::try_from(best).ok()).flatten()
}

/// The log-probability of a token in nats; not a number where a logit is not one, minus infinity
/// for a token that the row does not have.
pub(super) fn log_probability(row: &[f32], token: i32) -> f64 {
    let Some(&logit) = usize::try_from(token).ok().and_then(|index| row.get(index)) else {
        return f64::NEG_INFINITY;
    };
    let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f64 = row.iter().map(|logit| f64::from(logit - largest).exp()).sum();
    f64::from(logit - largest) - total.ln()
}

#[cfg(test)]
mod tests {
    use super::{argmax, log_probability};

    #[test]
    fn the_first_of_the_largest_wins() {
        assert_eq!(argmax(&[0.0, 2.0, 2.0, 1.0]), Some(1));
        assert_eq!(argmax(&[f32::NEG_INFINITY]), Some(0));
        assert_eq!(argmax(&[]), None);
        assert_eq!(argmax(&[0.0, f32::NAN]), None);
    }

    #[test]
    fn probabilities_sum_to_1_however_large_the_logits_are() {
        let row = [1000.0, 999.0, -1000.0];
        let total: f64 = (0..3).map(|token| log_probability(&row, token).exp()).sum();
        assert!((total - 1.0).abs() < 1e-12, "{total}");
        let expected = -(1.0 + (-1.0_f64).exp()).ln();
        assert!((log_probability(&row, 0) - expected).abs() < 1e-12);
        assert!(log_probability(&row, 3).is_infinite() && log_probability(&row, -1).is_infinite());
        assert!(log_probability(&[0.0, f32::NAN], 0).is_nan());
    }
}
