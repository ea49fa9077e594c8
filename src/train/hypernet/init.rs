//! The parameters a hypernetwork starts from.
//!
//! In: sizes, an [`Init`] and random numbers. Out: every expected tensor. Outside the heads all
//! kinds are alike, PyTorch's defaults: linear maps uniform in ±1/√fan-in, embeddings standard
//! normal, norms 1 and 0. The heads decide what the first adapters are (Text-to-LoRA, appendix E);
//! of a gated hypernetwork, which has no biases, `AB_offset` does.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use t2lc_export::checkpoint::{HypernetConfig, NamedTensor, Variant};

use super::target_adapter::TargetAdapter;
use crate::base::peft::PeftAdapter;

/// What the first adapters are.
#[derive(Debug, Clone, Copy)]
pub enum Init<'a> {
    /// Bias-HyperInit, for training on a base: head weights are zero, head biases (if gated, the
    /// offset of each layer) a fresh LoRA. Gated and L start at the base model; M and S start next
    /// to it, because A and B share one bias.
    FreshLora,
    /// For training on from an adapter: heads are zero and `AB_offset` is the adapter, with its
    /// scale folded into B, so that every task and layer starts at it.
    Offset(&'a PeftAdapter),
    /// For reconstruction: head weights are random, head biases zero. Zero weights would give all
    /// tasks one gradient, and targets have no fresh LoRA in common.
    Reconstruct,
}

/// All expected tensors of `config`.
pub(super) fn initial_values(
    config: &HypernetConfig,
    init: Init<'_>,
    rng: &mut ChaCha8Rng,
) -> Result<BTreeMap<String, NamedTensor>> {
    let shapes: BTreeMap<String, Vec<usize>> = config.expected_tensors().into_iter().collect();
    let mut tensors = BTreeMap::new();
    for (name, shape) in &shapes {
        let values = match name.split_once('.') {
            Some(("heads", rest)) => head_values(config, init, rest, shape, rng)?,
            Some(("AB_offset", rest)) => offset_values(config, init, rest, shape, rng),
            Some(("gates", _)) => gate_values(config, shape.iter().product(), rng),
            _ => default_values(&shapes, name, shape, rng),
        };
        tensors.insert(name.clone(), NamedTensor { shape: shape.clone(), values });
    }
    if let Init::Offset(adapter) = init {
        let (target, layers) = (TargetAdapter::new(adapter, config)?, config.base.layers);
        for module in &config.base.modules {
            let name = &module.name;
            let (mut a, mut b) = (Vec::new(), Vec::new());
            for layer in 0..layers {
                a.extend_from_slice(target.lora_a(name, layer)?);
                b.extend(target.lora_b(name, layer)?);
            }
            let shape = vec![layers, config.rank, module.in_features];
            tensors.insert(format!("AB_offset.A.{name}"), NamedTensor { shape, values: a });
            let shape = vec![layers, module.out_features, config.rank];
            tensors.insert(format!("AB_offset.B.{name}"), NamedTensor { shape, values: b });
        }
    }
    Ok(tensors)
}

/// Values of `AB_offset.<rest>`: a gated hypernetwork has its fresh LoRA there, one for each layer.
fn offset_values(
    config: &HypernetConfig,
    init: Init<'_>,
    rest: &str,
    shape: &[usize],
    rng: &mut ChaCha8Rng,
) -> Vec<f32> {
    let count = shape.iter().product();
    match init {
        Init::FreshLora if config.variant == Variant::Gated && rest.starts_with("A.") => {
            uniform(count, shape.last().copied().unwrap_or(1), rng)
        }
        _ => vec![0.0; count],
    }
}

/// Gates: ±1/√features at random, so that two layers' gates are nearly orthogonal and what enters a
/// head has about the length one.
fn gate_values(config: &HypernetConfig, count: usize, rng: &mut ChaCha8Rng) -> Vec<f32> {
    let size = (config.head_in_size as f32).sqrt().recip();
    (0..count).map(|_| if rng.random::<bool>() { size } else { -size }).collect()
}

/// Values of `heads.<rest>`.
fn head_values(
    config: &HypernetConfig,
    init: Init<'_>,
    rest: &str,
    shape: &[usize],
    rng: &mut ChaCha8Rng,
) -> Result<Vec<f32>> {
    let count = shape.iter().product();
    match (init, rest.rsplit_once('.')) {
        (Init::Reconstruct, Some((_, "weight"))) => {
            Ok(uniform(count, shape.get(1).copied().unwrap_or(1), rng))
        }
        (Init::FreshLora, Some((module, "bias"))) => fresh_lora_bias(config, module, count, rng),
        _ => Ok(vec![0.0; count]),
    }
}

/// The bias that makes a head emit a freshly initialized LoRA: for L A's rows, then zeros for B.
///
/// In M and S a head emits rows of `max(in, out)` values, cut to `in` for A and to `out` for B. A
/// row of the bias is a row of a fresh A, with zeros beyond `in` where `out > in`; S has one row
/// for all ranks. Spread over A and B (and over the ranks), ΔW starts as small as it can.
fn fresh_lora_bias(
    config: &HypernetConfig,
    module: &str,
    count: usize,
    rng: &mut ChaCha8Rng,
) -> Result<Vec<f32>> {
    let target = config.base.modules.iter().find(|m| m.name == module);
    let target = target.with_context(|| format!("head of unknown module `{module}`"))?;
    let inputs = target.in_features;
    let fresh = uniform(config.rank * inputs, inputs, rng);
    let spread = match config.variant {
        Variant::M => 2f32.sqrt(),
        Variant::S => (2.0 * config.rank as f32).sqrt(),
        _ => return Ok(fresh.into_iter().chain(std::iter::repeat(0.0)).take(count).collect()),
    };
    let padding = inputs.max(target.out_features) - inputs;
    let padded = fresh.chunks_exact(inputs).flat_map(|row| {
        let row = row.iter().map(move |x| x / spread);
        row.chain(std::iter::repeat_n(0.0, padding))
    });
    Ok(padded.take(count).collect())
}

/// PyTorch's defaults.
fn default_values(
    shapes: &BTreeMap<String, Vec<usize>>,
    name: &str,
    shape: &[usize],
    rng: &mut ChaCha8Rng,
) -> Vec<f32> {
    let count: usize = shape.iter().product();
    let embedding = name.starts_with("out_emb.")
        || matches!(
            name,
            "layer_depth_encoder.0.weight" | "layer_type_encoder.0.weight" | "pos_emb.0.weight"
        );
    if embedding {
        return (0..count).map(|_| normal(rng)).collect();
    }
    let prefix = name.rsplit_once('.').map_or("", |(prefix, _)| prefix);
    let weight = shapes.get(&format!("{prefix}.weight")).map_or(shape, Vec::as_slice);
    match weight {
        // A weight of one dimension is a norm's.
        [_] => vec![if name.ends_with(".weight") { 1.0 } else { 0.0 }; count],
        _ => uniform(count, weight.get(1).copied().unwrap_or(1), rng),
    }
}

pub(in crate::train) fn uniform(count: usize, fan_in: usize, rng: &mut ChaCha8Rng) -> Vec<f32> {
    let bound = (fan_in as f32).sqrt().recip();
    (0..count).map(|_| rng.random_range(-bound..bound)).collect()
}

/// Standard normal by Box and Muller.
pub(super) fn normal(rng: &mut ChaCha8Rng) -> f32 {
    let radius = (-2.0 * (1.0 - rng.random::<f32>()).ln()).sqrt();
    radius * (std::f32::consts::TAU * rng.random::<f32>()).cos()
}
