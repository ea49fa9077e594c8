//! The mean of a checkpoint and of what its run started from.
//!
//! In: two checkpoints of one configuration, the later one trained on from the earlier. Out: the
//! network halfway between them. What a run learns on other data it partly pays for in what was
//! learned before, and halfway most of the gain is there for little of the price
//! (Wortsman et al., <https://arxiv.org/abs/2109.01903>). Only along a run do weights mean the same
//! on both ends; networks of separate runs have no useful mean.

use crate::checkpoint::{Checkpoint, NamedTensor};
use crate::error::ExportError;

/// The network halfway between two.
///
/// # Errors
/// Networks of different configurations, or that do not have the same tensors.
pub fn halfway(start: &Checkpoint, end: &Checkpoint) -> Result<Checkpoint, ExportError> {
    if start.config != end.config {
        return Err(ExportError::DifferentNetworks {
            expected: Box::new(start.config.clone()),
            got: Box::new(end.config.clone()),
        });
    }
    let mean = |(name, end): (&String, &NamedTensor)| {
        let pairs = start.tensor(name)?.values.iter().zip(&end.values);
        let values = pairs.map(|(start, end)| 0.5 * start + 0.5 * end).collect();
        Ok((name.clone(), NamedTensor { shape: end.shape.clone(), values }))
    };
    let tensors = end.tensors.iter().map(mean).collect::<Result<_, ExportError>>()?;
    Ok(Checkpoint::from_tensors(end.config.clone(), tensors)?)
}

#[cfg(test)]
mod tests {
    use super::halfway;
    use crate::checkpoint::tests::tiny;
    use crate::checkpoint::{Checkpoint, Variant};
    use crate::error::ExportError;

    fn scaled(checkpoint: &Checkpoint, factor: f32) -> Checkpoint {
        let mut scaled = checkpoint.clone();
        let values = scaled.tensors.values_mut().flat_map(|tensor| &mut tensor.values);
        values.for_each(|value| *value *= factor);
        scaled
    }

    #[test]
    fn every_weight_is_the_mean() {
        let one = tiny(Variant::L);
        assert_eq!(halfway(&scaled(&one, 4.0), &scaled(&one, -2.0)).unwrap(), one);
        assert_eq!(halfway(&one, &one).unwrap(), one);
    }

    #[test]
    fn other_networks_are_refused() {
        let (one, mut other) = (tiny(Variant::L), tiny(Variant::L));
        other.config.alpha *= 2.0;
        let error = halfway(&one, &other).unwrap_err();
        assert!(matches!(error, ExportError::DifferentNetworks { .. }), "{error}");
    }
}
