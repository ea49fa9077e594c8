//! What the files of a checkpoint in the reference's form do not say, and Python must be told.
//!
//! In: the configuration of the hypernetwork and the names that were written. Out: sentences for
//! people, the most likely cause of silently wrong adapters first.
//!
//! Source: the reference implementation of <https://arxiv.org/abs/2506.06105>. It iterates the set
//! that PEFT makes of `target_modules`, knows encoders and their poolings by name, and loads the
//! base to learn its shapes.

use super::Names;
use crate::checkpoint::{HypernetConfig, Variant};

/// Parts of the names of encoders for which the reference has a pooling.
const KNOWN_ENCODERS: [&str; 2] = ["gte-large-en-v1.5", "SFR"];

/// The notes; `folded` says whether biases went into means.
pub(super) fn notes(
    config: &HypernetConfig,
    names: &Names<'_>,
    model_dir: &str,
    folded: bool,
) -> Vec<String> {
    let modules = &config.base.modules;
    let listed: Vec<String> = modules.iter().map(|module| format!("'{}'", module.name)).collect();
    let mut notes = Vec::new();
    if modules.len() > 1 {
        let listed = listed.join(", ");
        notes.push(format!(
            "Python must number the modules in the order {listed}, but takes that of a set: set \
             PYTHONHASHSEED so that `print(list(set([{listed}])))` prints them in this order"
        ));
    }
    notes.push(encoder(config, names.encoder));
    if names.model_dir.is_none() {
        notes.push(format!(
            "`model_dir` is {model_dir:?}: Python must find the base under this name"
        ));
    }
    let wider = modules.iter().find(|module| module.out_features > module.in_features);
    if let (Variant::M, Some(module)) = (config.variant, wider) {
        notes.push(format!(
            "the reference cannot make a network of variant M for `{}`, which has more outputs \
             ({}) than inputs ({})",
            module.name, module.out_features, module.in_features
        ));
    }
    if folded {
        notes.push(
            "the biases of the heads are in `mean_recon_target`, to rounding: the reference has \
             none where a network generates z-scores"
                .to_owned(),
        );
    }
    notes
}

fn encoder(config: &HypernetConfig, name: &str) -> String {
    let size = config.task_embedding_size;
    if name.is_empty() {
        return format!(
            "`emb_model` is empty: the base itself must give embeddings of {size} values"
        );
    }
    let mut note = format!("{name:?} must be the text encoder of its training, of {size} values");
    if !KNOWN_ENCODERS.iter().any(|known| name.contains(known)) {
        note.push_str("; the reference has no pooling for it, which must be added to it first");
    }
    note
}
