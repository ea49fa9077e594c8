//! The tensors of a checkpoint as the reference's state dict has them.
//!
//! In: a sound checkpoint. Out: all its tensors, f32 and row-major, in the order in which PyTorch
//! lists the parameters of the reference's network: what training leaves as it is first, sorted by
//! module as a dict of parameters is; then the trunk; then what is per module, in the order of the
//! type index, by which readers find it.
//!
//! The reference always has offsets, means and deviations, of zeros where there are none; and heads
//! without biases where the network generates z-scores (see `fold`).

use std::borrow::Cow;

use super::fold::Means;
use crate::checkpoint::Checkpoint;
use crate::import::Training;

/// A tensor of the state dict.
pub(super) struct Entry<'a> {
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
    /// As many as the product of the shape.
    pub(super) values: Cow<'a, [f32]>,
}

/// All tensors, in the order of the reference; `means` replace those of the checkpoint.
pub(super) fn entries(
    checkpoint: &Checkpoint,
    training: Training,
    mut means: Means,
) -> Vec<Entry<'_>> {
    let config = &checkpoint.config;
    let (mut constant, trained): (Vec<_>, Vec<_>) =
        config.expected_tensors().into_iter().partition(|(name, _)| name.starts_with("AB_offset."));
    constant.extend(config.statistic_tensors());
    // Offsets, means, deviations; of each A before B; of each the modules by name.
    constant.sort_unstable();
    let z_scores = training == Training::ZScores;
    let kept = |name: &str| !(z_scores && is_head_bias(name));
    let entry = |(name, shape): (String, Vec<usize>)| {
        let values = match (means.remove(&name), checkpoint.tensors.get(&name)) {
            (Some(mean), _) => Cow::Owned(mean),
            (None, Some(tensor)) => Cow::Borrowed(tensor.values.as_slice()),
            // Only what is all zeros may be missing from a sound checkpoint.
            (None, None) => Cow::Owned(vec![0.0; shape.iter().product()]),
        };
        Entry { name, shape, values }
    };
    let names = constant.into_iter().chain(trained).filter(|(name, _)| kept(name));
    names.map(entry).collect()
}

fn is_head_bias(name: &str) -> bool {
    name.strip_prefix("heads.").and_then(|rest| rest.strip_suffix(".bias")).is_some()
}
