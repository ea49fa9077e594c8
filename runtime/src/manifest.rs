//! `manifest.json`: what a bundle is, what it is for, and the digest of every other file in it.
//!
//! The digest of the manifest's bytes identifies the whole bundle.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::base::BaseModel;
use crate::digest::Digest;

/// The only schema this version reads and writes.
pub const SCHEMA: u32 = 1;

/// [`EncoderInfo::weights`] of a graph that was adopted from an ONNX file.
pub const ADOPTED_WEIGHTS: &str = "onnx";

/// Size and digest of one file of a bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Size in bytes, checked before the digest.
    pub size_bytes: u64,
    /// Digest of the content.
    pub sha256: Digest,
}

/// The text encoder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EncoderInfo {
    /// Name of the model, for example `all-MiniLM-L6-v2`.
    pub name: String,
    /// Licence of its weights.
    pub licence: String,
    /// Weight type of the graph: `f32`, `f16` or `int8`, or [`ADOPTED_WEIGHTS`], whatever these are.
    pub weights: String,
    /// Width `E` of the task embedding.
    pub embedding_size: usize,
    /// Tokens read; longer descriptions are cut.
    pub max_tokens: usize,
}

/// The hypernetwork.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HypernetInfo {
    /// `gated`, `L`, `M` or `S`.
    pub variant: String,
    /// Weight type of the graph: `f32`, `f16` or `int8`.
    pub weights: String,
    /// Rank of the adapters.
    pub rank: usize,
    /// Factor on `B A`; folded into the matrices on compiling.
    pub scale: f32,
}

/// How the hypernetwork was trained.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainingInfo {
    /// Digest of the task pack.
    pub data: Digest,
    /// Licences of the training data.
    pub data_licences: Vec<String>,
    /// Optimizer steps.
    pub steps: usize,
    /// Seed of the run.
    pub seed: u64,
    /// Digest of the bundle that the run went on from; its steps are not counted here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_from: Option<Digest>,
    /// Whether the weights are the mean of that bundle's and the run's.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub averaged: bool,
}

/// Where a hypernetwork comes from that was not trained here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OriginInfo {
    /// Form of the checkpoint that was imported, for example `text-to-lora`.
    pub format: String,
    /// Name of the file that held its weights.
    pub file: String,
    /// Digest of that file.
    pub sha256: Digest,
    /// Licence of the weights as given on import, or `unknown`.
    pub licence: String,
    /// `L`, `M` or `S`.
    pub variant: String,
    /// How the order of the modules was found: `head order`, `reverse of head order` or `given`.
    pub module_order: String,
    /// Modules in that order; the position is the type index.
    pub modules: Vec<String>,
}

/// When a description counts as unlike anything seen in training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FamiliarityInfo {
    /// Cosine to the nearest training task below which `compile` warns; -1 if nothing is
    /// known that it could be measured on. Where a text that describes no task is nearer, it
    /// warns as well.
    pub warn_below: f32,
    /// Share of descriptions kept out of training that would be warned about.
    pub warned_descriptions: f32,
    /// Share of random texts that would be warned about.
    pub warned_random: f32,
}

/// `manifest.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Format version, [`SCHEMA`].
    pub schema: u32,
    /// Name of the bundle.
    pub name: String,
    /// Version of the bundle.
    pub version: String,
    /// Licence of the hypernetwork's weights.
    pub licence: String,
    /// The model the adapters are for.
    pub base: BaseModel,
    /// The text encoder.
    pub encoder: EncoderInfo,
    /// The hypernetwork.
    pub hypernet: HypernetInfo,
    /// How it was trained; nothing if it was imported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub training: Option<TrainingInfo>,
    /// Where it comes from, if it was imported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<OriginInfo>,
    /// The in-domain threshold.
    pub familiarity: FamiliarityInfo,
    /// Every other file of the bundle.
    pub files: BTreeMap<String, FileEntry>,
}
