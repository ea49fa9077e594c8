//! Checkpoint, encoder and descriptions → the files of a bundle.
//!
//! The table of training tasks and the threshold of `compile`'s warning (`familiarity.rs`) are
//! made with the very graph that goes into the bundle.

use std::collections::BTreeMap;

use t2lc_runtime::backend::Backend;
use t2lc_runtime::bundle::{ENCODER, HYPERNET, MANIFEST, TASKS, TOKENIZER};
use t2lc_runtime::digest::Digest;
use t2lc_runtime::encode::Encoder;
use t2lc_runtime::manifest::{
    EncoderInfo, FileEntry, HypernetInfo, Manifest, OriginInfo, SCHEMA, TrainingInfo,
};

use crate::checkpoint::Checkpoint;
use crate::encoder::{EncoderFiles, EncoderSource};
use crate::error::ExportError;
use crate::familiarity::task_table;
use crate::hypernet::build_hypernet;
use crate::weights::WeightType;

/// Choices and names that training does not know.
#[derive(Debug, Clone)]
pub struct FreezeOptions {
    /// Name of the bundle.
    pub name: String,
    /// Version of the bundle.
    pub version: String,
    /// Licence of the hypernetwork.
    pub licence: String,
    /// Name of the text encoder.
    pub encoder_name: String,
    /// Licence of the text encoder.
    pub encoder_licence: String,
    /// Weight type of an encoder that is built from a model directory.
    pub encoder_weights: WeightType,
    /// Weight type of the hypernetwork.
    pub hypernet_weights: WeightType,
}

/// Task descriptions by their part in training.
#[derive(Debug, Clone, Default)]
pub struct Descriptions {
    /// `(task, description)` pairs that training saw.
    pub training: Vec<(String, String)>,
    /// Descriptions it did not see.
    pub unseen: Vec<String>,
    /// Texts that describe no task, such as inputs.
    pub no_task: Vec<String>,
}

/// Where a hypernetwork comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Provenance {
    /// It was trained.
    Trained(TrainingInfo),
    /// It was imported.
    Imported(OriginInfo),
}

/// The files of a bundle, `(name, bytes)`, manifest first.
pub type BundleFiles = Vec<(&'static str, Vec<u8>)>;

/// Builds every file of a bundle.
///
/// # Errors
/// Unreadable or unusable encoder files, a graph that the backend refuses, weights that cannot be
/// stored, descriptions that cannot be encoded.
pub fn freeze(
    checkpoint: &Checkpoint,
    encoder: &EncoderSource,
    descriptions: &Descriptions,
    provenance: Provenance,
    options: &FreezeOptions,
    backend: &dyn Backend,
) -> Result<BundleFiles, ExportError> {
    let config = &checkpoint.config;
    let files = encoder.read(options.encoder_weights, config.task_embedding_size)?;
    let EncoderFiles { graph: encoder_graph, tokenizer, weights: encoder_weights, max_tokens } =
        files;
    let hypernet_graph = build_hypernet(checkpoint, options.hypernet_weights)?;
    let encoder = Encoder::from_parts(
        &tokenizer,
        backend.load(ENCODER, &encoder_graph)?,
        config.task_embedding_size,
        max_tokens,
    )?;
    let (table, familiarity) = task_table(&encoder, descriptions, config.task_embedding_size)?;
    let files = vec![
        (ENCODER, encoder_graph),
        (HYPERNET, hypernet_graph),
        (TOKENIZER, tokenizer),
        (TASKS, table.to_bytes()?),
    ];
    let entry = |(name, bytes): &(&str, Vec<u8>)| {
        let entry = FileEntry { size_bytes: bytes.len() as u64, sha256: Digest::of(bytes) };
        ((*name).to_owned(), entry)
    };
    let (training, origin) = match provenance {
        Provenance::Trained(training) => (Some(training), None),
        Provenance::Imported(origin) => (None, Some(origin)),
    };
    let manifest = Manifest {
        schema: SCHEMA,
        name: options.name.clone(),
        version: options.version.clone(),
        licence: options.licence.clone(),
        base: config.base.clone(),
        encoder: EncoderInfo {
            name: options.encoder_name.clone(),
            licence: options.encoder_licence.clone(),
            weights: encoder_weights,
            embedding_size: config.task_embedding_size,
            max_tokens,
        },
        hypernet: HypernetInfo {
            variant: config.variant.to_string(),
            weights: options.hypernet_weights.to_string(),
            rank: config.rank,
            scale: config.scale(),
        },
        training,
        origin,
        familiarity,
        files: files.iter().map(entry).collect::<BTreeMap<_, _>>(),
    };
    let mut text = serde_json::to_vec_pretty(&manifest).map_err(ExportError::Manifest)?;
    text.push(b'\n');
    let mut all = vec![(MANIFEST, text)];
    all.extend(files);
    Ok(all)
}
