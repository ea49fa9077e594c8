//! Checkpoints of the reference implementation of <https://arxiv.org/abs/2506.06105> (Text-to-LoRA,
//! by Sakana AI) → a [`Checkpoint`].
//!
//! In: the archive `hypermod.pt`, which `torch.save` wrote; `args.yaml` and `adapter_config.json`,
//! parsed; and a description of the base, for which a `config.json` is enough
//! ([`crate::base`]). Out: the same weights to the bit, f16 and bf16 widened and f64 rounded, under
//! a configuration whose every size is checked against them, in type-index order.
//!
//! Nothing of the archive is executed. `data.pkl` is a program for a stack machine, of which only
//! what a dict of tensors needs is carried out; see the module `pickle`. Every key of the dict is
//! used or refused.
//!
//! What the reference keeps and does not apply in a network's way of training is left out with a
//! note: mean and deviation of targets count for z-scores only. A network that was trained towards
//! products gives matrices that are too large by `√delta_w_scaling` each; their product is put
//! right by an alpha that is `delta_w_scaling` times smaller.

use std::collections::BTreeMap;
use std::io::{Read, Seek};

use serde_json::Value;
use t2lc_runtime::base::BaseModel;

use crate::checkpoint::{Checkpoint, DEVIATION_PREFIX, MEAN_PREFIX, NamedTensor};

mod element;
mod error;
mod layout;
mod origin;
mod pickle;
mod settings;
mod state_dict;
mod zip;

pub use error::{ArchiveError, ImportError, PickleError};
pub use layout::ModuleOrder;
pub use origin::{FORMAT, UNKNOWN_LICENCE};
pub use settings::{Arguments, Training};

pub(crate) use pickle::opcode;
pub(crate) use zip::{MAX_FILE_BYTES as MAX_ARCHIVE_BYTES, crc32};

use layout::{Recognized, recognize};
use settings::Settings;
use state_dict::StateDictFile;

/// Name of the archive inside a checkpoint of the reference.
pub const ARCHIVE_FILE: &str = "hypermod.pt";
/// Name of the settings of training beside it.
pub const ARGUMENTS_FILE: &str = "args.yaml";
/// Name of the settings of the adapters beside it.
pub const ADAPTER_FILE: &str = "adapter_config.json";

/// Prefix of what is added to the matrices, in both forms of a checkpoint.
const OFFSET_PREFIX: &str = "AB_offset";

/// What goes with an archive.
#[derive(Debug, Clone, Copy)]
pub struct Companions<'a> {
    /// `args.yaml`.
    pub arguments: &'a Arguments,
    /// `adapter_config.json`.
    pub adapter: &'a Value,
    /// The base with all its modules.
    pub base: &'a BaseModel,
    /// Which order of the modules is the type index.
    pub order: &'a ModuleOrder,
}

/// A checkpoint that was imported, and what was recognized.
#[derive(Debug, Clone, PartialEq)]
pub struct Imported {
    /// The network.
    pub checkpoint: Checkpoint,
    /// Modules in the order of the archive's heads; the order that is used is the configuration's.
    pub recovered_order: Vec<String>,
    /// What it was trained towards.
    pub training: Training,
    /// Number of weights that training changes: without offsets and statistics.
    pub parameters: usize,
    /// What is worth knowing, for people.
    pub notes: Vec<String>,
}

/// Imports a checkpoint.
///
/// # Errors
/// An archive that is damaged, or whose pickle asks for more than a dict of tensors; settings that
/// are missing, not supported or contradictory; tensors that are missing, unknown, of another shape
/// or not finite. Each error but that of a damaged archive lists everything of its kind.
pub fn import(
    archive: impl Read + Seek,
    companions: &Companions<'_>,
) -> Result<Imported, ImportError> {
    let Companions { arguments, adapter, base, order } = *companions;
    let settings = Settings::read(arguments, adapter)?;
    let file = StateDictFile::open(archive)?;
    // Names and shapes first: they are the likely fault, and no weight is read for it.
    let recognized = recognize(&file.shapes(), arguments, &settings, base, order)?;
    let Recognized { config, recovered, mut notes } = recognized;
    let mut tensors = file.read()?;
    apply_training(settings.training, &mut tensors, &mut notes)?;
    note_arguments(arguments, &mut notes);
    let trained = tensors.iter().filter(|(name, _)| !is_constant(name));
    let parameters = trained.map(|(_, tensor)| tensor.values.len()).sum();
    let checkpoint = Checkpoint::from_tensors(config, tensors)?;
    Ok(Imported {
        checkpoint,
        recovered_order: recovered,
        training: settings.training,
        parameters,
        notes,
    })
}

/// Keeps of the constants what the reference applies after this way of training.
fn apply_training(
    training: Training,
    tensors: &mut BTreeMap<String, NamedTensor>,
    notes: &mut Vec<String>,
) -> Result<(), ImportError> {
    let values = |tensor: &str, expected, got| {
        let (tensor, training) = (tensor.to_owned(), training.to_string());
        Err(ImportError::Values { tensor, training, expected, got })
    };
    if training == Training::ZScores {
        if is_zero(tensors, DEVIATION_PREFIX) {
            return values(DEVIATION_PREFIX, "the deviation of the targets", "missing or zero");
        }
    } else {
        if !(is_zero(tensors, MEAN_PREFIX) && is_zero(tensors, DEVIATION_PREFIX)) {
            notes.push(format!(
                "`{MEAN_PREFIX}` and `{DEVIATION_PREFIX}` are left out: the reference applies them \
                 to z-scores only"
            ));
        }
        tensors.retain(|name, _| !(is_of(name, MEAN_PREFIX) || is_of(name, DEVIATION_PREFIX)));
    }
    match training {
        Training::Answers | Training::ZScores => Ok(()),
        Training::Matrices | Training::Products { .. } if is_zero(tensors, OFFSET_PREFIX) => Ok(()),
        // The reference never makes one here, and has no rule for it.
        Training::Matrices | Training::Products { .. } => values(OFFSET_PREFIX, "zero", "not zero"),
    }
}

/// What in the arguments changes how the network is to be used.
fn note_arguments(arguments: &Arguments, notes: &mut Vec<String>) {
    if arguments.use_inp_as_desc == Some(true) {
        notes.push("it was trained on embeddings of whole inputs, not of descriptions".to_owned());
    }
    if arguments.emb_model.as_deref() == Some("") {
        notes.push("its text encoder is the base itself".to_owned());
    }
    if let Some(kind) = arguments.encoder_type.as_deref().filter(|kind| *kind != "linear") {
        notes.push(format!(
            "`encoder_type` {kind:?} is not what the weights are: the reference ignores it, too"
        ));
    }
}

/// Whether training leaves a tensor as it is.
fn is_constant(name: &str) -> bool {
    [OFFSET_PREFIX, MEAN_PREFIX, DEVIATION_PREFIX].iter().any(|prefix| is_of(name, prefix))
}

fn is_of(name: &str, prefix: &str) -> bool {
    name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('.'))
}

/// Whether all values of these tensors are zero, as they are where there are none.
fn is_zero(tensors: &BTreeMap<String, NamedTensor>, prefix: &str) -> bool {
    let mut some = tensors.iter().filter(|(name, _)| is_of(name, prefix));
    some.all(|(_, tensor)| tensor.values.iter().all(|value| *value == 0.0))
}

#[cfg(test)]
pub(crate) mod tests;
