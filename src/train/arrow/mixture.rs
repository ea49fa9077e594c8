//! One plain adapter instead of a routed library, so that it can be written to a file.
//!
//! In: routing weights recorded over a set of prompts, averaged per module and layer. Out: a
//! [`PeftAdapter`] whose update is `Σ wᵢ · scaleᵢ · Bᵢ Aᵢ` for the adapters that are kept: the rows
//! of their A's below each other, and the columns of their B's, times mean weight and scale, beside
//! each other. The rank is the library's rank times the number of kept adapters; the scale is 1.
//!
//! This is not token-level routing: all tokens get the same weights, those of the mean token of the
//! prompts. What adapters that are not kept would have added is lost, nothing takes its place.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use t2lc_runtime::base::BaseModel;

use crate::base::peft::{MAX_RANK, PeftAdapter};
use crate::train::library::Library;

/// Mean routing weights of every adapter of a library.
#[derive(Debug, Clone, PartialEq)]
pub struct MeanWeights {
    /// Task ids in the order of the library.
    pub ids: Vec<String>,
    /// By module name and layer, one weight per id; they sum to 1.
    pub weights: BTreeMap<(String, usize), Vec<f64>>,
}

impl MeanWeights {
    /// The ids with the sum of their weights over all modules and layers, largest first; in the
    /// order of the library where sums are equal.
    pub fn ranking(&self) -> Vec<(&str, f64)> {
        let ranking = self.order().into_iter();
        ranking.map(|index| (self.ids[index].as_str(), self.total(index))).collect()
    }

    /// The adapter with the weights fixed, made of the `keep` adapters that rank first. Which they
    /// are is decided once for all modules and layers, so that all pairs have one rank.
    ///
    /// # Errors
    /// Another library than the one the weights are of, a `keep` of 0 or more than there are
    /// adapters, adapters that do not fit the base or have different ranks, and a rank that is too
    /// large for an adapter.
    pub fn mixture(&self, library: &Library, base: &BaseModel, keep: usize) -> Result<PeftAdapter> {
        let ids: Vec<&str> = library.adapters.iter().map(|(id, _)| id.as_str()).collect();
        ensure!(self.ids == ids, "the weights are of another library than the adapters");
        let count = ids.len();
        ensure!((1..=count).contains(&keep), "{keep} of {count} adapters kept, expected 1 to all");
        let each = library.rank()?;
        let rank = each.checked_mul(keep).filter(|rank| *rank <= MAX_RANK);
        let rank = rank.with_context(|| {
            format!("{keep} adapters of rank {each} are together above rank {MAX_RANK}")
        })?;
        let mut kept = self.order();
        kept.truncate(keep);
        kept.sort_unstable();
        for &index in &kept {
            let (id, adapter) = &library.adapters[index];
            adapter.check(base).with_context(|| format!("task `{id}`"))?;
        }
        let mut matrices = BTreeMap::new();
        for module in &base.modules {
            for layer in 0..base.layers {
                let key = (module.name.clone(), layer);
                let weights = self.weights.get(&key).filter(|weights| weights.len() == count);
                let weights = weights.with_context(|| {
                    format!("no weights of {count} adapters for `{}` of layer {layer}", module.name)
                })?;
                let (mut a, mut parts) = (Vec::new(), Vec::with_capacity(keep));
                for &index in &kept {
                    let adapter = &library.adapters[index].1;
                    let pair = adapter.pair(&module.name, layer)?;
                    a.extend_from_slice(pair.0);
                    #[allow(clippy::cast_possible_truncation, reason = "the matrices are f32 too")]
                    let factor = (weights[index] * adapter.scale()) as f32;
                    parts.push((factor, pair.1));
                }
                let mut b = Vec::with_capacity(module.out_features * rank);
                for row in 0..module.out_features {
                    for (factor, part) in &parts {
                        let columns = &part[row * each..(row + 1) * each];
                        b.extend(columns.iter().map(|value| value * factor));
                    }
                }
                matrices.insert(key, (a, b));
            }
        }
        let adapter = PeftAdapter { rank, alpha: rank as f32, use_rslora: false, matrices };
        adapter.check(base)?;
        Ok(adapter)
    }

    /// Sum of an adapter's weights over all modules and layers.
    fn total(&self, index: usize) -> f64 {
        self.weights.values().filter_map(|weights| weights.get(index)).sum()
    }

    /// Indices of the adapters, those of largest total first.
    fn order(&self) -> Vec<usize> {
        let mut order: Vec<(usize, f64)> =
            (0..self.ids.len()).map(|index| (index, self.total(index))).collect();
        // A stable sort keeps equal ones in order.
        order.sort_by(|left, right| right.1.total_cmp(&left.1));
        order.into_iter().map(|(index, _)| index).collect()
    }
}
