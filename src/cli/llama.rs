//! llama.cpp for the verbs that run it: where it is, and which models it gets.

use std::path::Path;

use anyhow::anyhow;
use t2lc::llama::{Llama, Model, folder};

use super::failure::Failure;

/// Loads the libraries in `dir`, or where the environment says.
pub(crate) fn load(dir: Option<&Path>) -> Result<Llama, Failure> {
    Ok(Llama::load(&folder(dir)?)?)
}

/// Opens a base with the libraries in `dir`, or where the environment says.
pub(crate) fn open_model(dir: Option<&Path>, base: &Path) -> Result<Model, Failure> {
    let llama = load(dir)?;
    expect_file(base)?;
    Ok(llama.model(base)?)
}

/// Refuses the directories that the trainer takes as well.
pub(crate) fn expect_file(base: &Path) -> Result<(), Failure> {
    if base.is_dir() {
        let error = anyhow!("`{}` is a directory, llama.cpp reads GGUF files", base.display());
        return Err(Failure::input("llama.model", error));
    }
    Ok(())
}
