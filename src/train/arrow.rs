//! Arrow: routes every token to the adapters of a library, without training a router.
//!
//! In: a [`Library`] and, at every adapted linear map, its input `x [rows, tokens, in]`. Out:
//! `Σ wᵢ · scaleᵢ · Bᵢ Aᵢ x`, `[rows, tokens, out]`. Adapter `i` has, per module and layer, a
//! prototype: the direction of the input that its update amplifies most. A token's `top_k` adapters
//! are those with the largest `|x · prototypeᵢ|`, and `w` is the softmax of these values; all other
//! adapters have the weight 0.
//!
//! For evaluation only: the weights are computed on the CPU, and no gradient flows through them.
//!
//! The weights can be recorded over a set of prompts and fixed into one plain adapter, see
//! [`MeanWeights`].
//!
//! Source: Ostapenko et al. 2024, <https://arxiv.org/abs/2405.11157>, section 3.2.

mod mixture;
mod prototype;

pub use mixture::MeanWeights;

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, ensure};
use candle_core::{Device, Tensor};
use rayon::prelude::*;
use t2lc_runtime::base::{BaseModel, TargetModule};

use super::library::Library;
use crate::base::adapter::Delta;
use crate::base::peft::transpose;

/// The adapters of a library behind token-level routing.
#[derive(Debug)]
pub struct Arrow {
    /// Task ids in the order of the library.
    ids: Vec<String>,
    top_k: usize,
    rank: usize,
    /// Per module name, one per layer.
    modules: BTreeMap<String, Vec<Experts>>,
    /// `None` while nothing is recorded.
    recording: Mutex<Option<Recording>>,
}

/// All adapters of one module and layer; `N` adapters of rank `r`.
#[derive(Debug)]
struct Experts {
    /// `[N, in]`, of unit length.
    prototypes: Tensor,
    /// `[N · r, in]`
    a: Tensor,
    /// `[N · r, out]`, the scales folded in.
    b_transposed: Tensor,
}

/// What is recorded of one module and layer.
#[derive(Debug, Clone, Default)]
struct Sums {
    /// Sum of the weights of every adapter.
    weights: Vec<f64>,
    tokens: usize,
}

type Recording = BTreeMap<(String, usize), Sums>;

impl Arrow {
    /// Computes the prototypes of a library; every token is routed to `top_k` adapters.
    ///
    /// # Errors
    /// An empty library, adapters that do not fit the base or have different ranks, and a `top_k`
    /// that is 0 or more than there are adapters.
    pub fn new(library: &Library, base: &BaseModel, top_k: usize, device: &Device) -> Result<Self> {
        let (rank, count) = (library.rank()?, library.adapters.len());
        ensure!((1..=count).contains(&top_k), "top {top_k} of {count} adapters, expected 1 to all");
        for (id, adapter) in &library.adapters {
            adapter.check(base).with_context(|| format!("task `{id}`"))?;
        }
        let mut modules = BTreeMap::new();
        for module in &base.modules {
            let layers = (0..base.layers)
                .into_par_iter()
                .map(|layer| Experts::new(library, module, layer, device))
                .collect::<Result<Vec<_>>>()?;
            modules.insert(module.name.clone(), layers);
        }
        let ids = library.adapters.iter().map(|(id, _)| id.clone()).collect();
        Ok(Self { ids, top_k, rank, modules, recording: Mutex::new(None) })
    }

    /// Starts to record the routing weights, from nothing.
    ///
    /// Every token that is computed counts, padding included: record prompts one row at a time.
    pub fn start_recording(&self) {
        *self.recording() = Some(Recording::new());
    }

    /// Stops recording; the mean weights over all tokens that were computed since the start.
    ///
    /// # Errors
    /// If nothing was started, or if a module of a layer has computed no token.
    pub fn finish_recording(&self) -> Result<MeanWeights> {
        let recording = self.recording().take();
        let mut recording = recording.context("the routing weights are not being recorded")?;
        let mut weights = BTreeMap::new();
        for (module, layers) in &self.modules {
            for layer in 0..layers.len() {
                let key = (module.clone(), layer);
                let sums = recording.remove(&key);
                let sums = sums.filter(|sums| sums.tokens > 0).with_context(|| {
                    format!("no token was routed at `{module}` of layer {layer}")
                })?;
                let tokens = sums.tokens as f64;
                let means = sums.weights.iter().map(|sum| sum / tokens).collect();
                weights.insert(key, means);
            }
        }
        Ok(MeanWeights { ids: self.ids.clone(), weights })
    }

    fn recording(&self) -> MutexGuard<'_, Option<Recording>> {
        // A panic elsewhere leaves sums that are merely incomplete.
        self.recording.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds weights `[tokens, N]` to the recording, if there is one.
    fn record(&self, layer: usize, module: &str, weights: &[f32]) {
        if let Some(recording) = self.recording().as_mut() {
            let count = self.ids.len();
            let sums = recording.entry((module.to_owned(), layer)).or_default();
            sums.weights.resize(count, 0.0);
            for token in weights.chunks_exact(count) {
                for (sum, weight) in sums.weights.iter_mut().zip(token) {
                    *sum += f64::from(*weight);
                }
                sums.tokens += 1;
            }
        }
    }
}

impl Delta for Arrow {
    fn delta(&self, layer: usize, module: &str, x: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let Some(experts) = self.modules.get(module).and_then(|layers| layers.get(layer)) else {
            return Ok(None);
        };
        let (rows, tokens, inputs) = x.dims3()?;
        let (all, count) = (rows * tokens, self.ids.len());
        let x = x.reshape((all, inputs))?;
        let likeness = x.matmul(&experts.prototypes.t()?)?.abs()?.to_vec2::<f32>()?;
        let weights: Vec<f32> =
            likeness.iter().flat_map(|token| routing_weights(token, self.top_k)).collect();
        self.record(layer, module, &weights);
        let weights = Tensor::from_vec(weights, (all, count, 1), x.device())?;
        // One narrow product for all adapters; weighing it is cheaper than weighing their outputs.
        let narrow = x.matmul(&experts.a.t()?)?.reshape((all, count, self.rank))?;
        let weighed = narrow.broadcast_mul(&weights)?.reshape((all, count * self.rank))?;
        let delta = weighed.matmul(&experts.b_transposed)?;
        let outputs = delta.dim(1)?;
        delta.reshape((rows, tokens, outputs)).map(Some)
    }
}

impl Experts {
    fn new(
        library: &Library,
        module: &TargetModule,
        layer: usize,
        device: &Device,
    ) -> Result<Self> {
        let count = library.adapters.len();
        let (mut prototypes, mut all_a, mut all_b) = (Vec::new(), Vec::new(), Vec::new());
        for (_, adapter) in &library.adapters {
            let (a, b) = adapter.pair(&module.name, layer)?;
            // The scale stretches the update in all directions alike.
            prototypes.extend(prototype::prototype(a, b, adapter.rank));
            all_a.extend_from_slice(a);
            #[allow(clippy::cast_possible_truncation, reason = "the matrices are f32 too")]
            let scale = adapter.scale() as f32;
            all_b.extend(transpose(b, adapter.rank).into_iter().map(|value| value * scale));
        }
        let narrow = all_a.len() / module.in_features.max(1);
        Ok(Self {
            prototypes: Tensor::from_vec(prototypes, (count, module.in_features), device)?,
            a: Tensor::from_vec(all_a, (narrow, module.in_features), device)?,
            b_transposed: Tensor::from_vec(all_b, (narrow, module.out_features), device)?,
        })
    }
}

/// The weights of all adapters for one token: the softmax over the `top_k` of largest likeness, the
/// earlier one where two are equal, and 0 for the others.
fn routing_weights(likeness: &[f32], top_k: usize) -> Vec<f32> {
    let mut order: Vec<usize> = (0..likeness.len()).collect();
    let nearer =
        |i: &usize, j: &usize| likeness[*j].total_cmp(&likeness[*i]).then_with(|| i.cmp(j));
    if top_k < order.len() {
        order.select_nth_unstable_by(top_k, nearer);
        order.truncate(top_k);
    }
    let largest = order.iter().fold(f32::NEG_INFINITY, |most, &i| most.max(likeness[i]));
    let mut weights = vec![0.0; likeness.len()];
    let mut sum = 0.0;
    for &i in &order {
        weights[i] = (likeness[i] - largest).exp();
        sum += weights[i];
    }
    for &i in &order {
        weights[i] /= sum;
    }
    weights
}

#[cfg(test)]
mod tests;
