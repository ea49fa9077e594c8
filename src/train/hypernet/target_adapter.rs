//! A trained adapter as a hypernetwork would have to generate it.
//!
//! In: an adapter of any scale, and the sizes of a hypernetwork. Out: `lora_a [rank, in]` as it is
//! and `lora_b [out, rank]` times the ratio of the two scales, so that under the hypernetwork's own
//! scale both give the same ΔW. Every layer and module of the hypernetwork is there, and no other.

use anyhow::{Result, ensure};
use t2lc_export::checkpoint::HypernetConfig;

use crate::base::peft::PeftAdapter;

/// An adapter that fits a hypernetwork.
#[derive(Debug)]
pub struct TargetAdapter<'a> {
    adapter: &'a PeftAdapter,
    /// The adapter's scale over the hypernetwork's.
    ratio: f32,
}

impl<'a> TargetAdapter<'a> {
    /// Checks that the adapter has the hypernetwork's rank, layers, modules and sizes.
    ///
    /// # Errors
    /// Another rank, and what [`PeftAdapter::check`] refuses.
    pub fn new(adapter: &'a PeftAdapter, config: &HypernetConfig) -> Result<Self> {
        let (got, expected) = (adapter.rank, config.rank);
        ensure!(got == expected, "the adapter has rank {got}, expected the network's, {expected}");
        adapter.check(&config.base)?;
        #[allow(clippy::cast_possible_truncation, reason = "it scales f32 values")]
        let ratio = (adapter.scale() / f64::from(config.scale())) as f32;
        Ok(Self { adapter, ratio })
    }

    /// `lora_a [rank, in]`, row-major.
    ///
    /// # Errors
    /// A layer or module that the hypernetwork does not have.
    pub fn lora_a(&self, module: &str, layer: usize) -> Result<&'a [f32]> {
        Ok(self.adapter.pair(module, layer)?.0)
    }

    /// `lora_b [out, rank]`, row-major, under the hypernetwork's scale.
    ///
    /// # Errors
    /// As [`TargetAdapter::lora_a`].
    pub fn lora_b(&self, module: &str, layer: usize) -> Result<Vec<f32>> {
        Ok(self.adapter.pair(module, layer)?.1.iter().map(|value| value * self.ratio).collect())
    }
}
