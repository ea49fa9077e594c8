//! What a base is, to the byte.
//!
//! In: a GGUF file or a Hugging Face directory. Out: a digest that differs wherever answers could.
//! The fingerprint of a base is no such thing: quantizations share it, and so do models that were
//! fine-tuned with their norms frozen.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use t2lc_runtime::digest::{Digest, Hasher};

/// Endings of the files of a directory that weights, tokenizer and chat template are read from.
const READ: [&str; 3] = ["json", "jinja", "safetensors"];

/// The sha256 of a GGUF file; of a directory, the digest of the names and digests of the files that a
/// base is read from, in the order of their names.
///
/// # Errors
/// A file or directory that cannot be read.
pub fn base_digest(path: &Path) -> Result<Digest> {
    if !path.is_dir() {
        return file_digest(path);
    }
    let mut files = files_of(path).with_context(|| cannot_read(path))?;
    files.sort();
    let mut digest = Hasher::new();
    for file in files {
        let name = file.file_name().unwrap_or_default();
        digest.update_prefixed(name.as_encoded_bytes());
        digest.update(file_digest(&file)?.as_bytes());
    }
    Ok(digest.finish())
}

fn files_of(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let is_read = path.extension().is_some_and(|ending| READ.iter().any(|e| ending == *e));
        if is_read && path.is_file() {
            files.push(path);
        }
    }
    Ok(files)
}

fn file_digest(path: &Path) -> Result<Digest> {
    let mut digest = Hasher::new();
    let read = File::open(path).and_then(|file| digest.update_from(file));
    read.with_context(|| cannot_read(path))?;
    Ok(digest.finish())
}

fn cannot_read(path: &Path) -> String {
    format!("cannot read `{}`", path.display())
}

#[cfg(test)]
mod tests {
    use super::base_digest;
    use t2lc_runtime::digest::Digest;

    #[test]
    fn every_file_that_a_base_is_read_from_counts() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        let digest = || base_digest(dir.path()).unwrap();
        write("model.safetensors", "weights");
        write("README.md", "a model");
        let weights = digest();
        write("README.md", "another");
        assert_eq!(digest(), weights, "nothing is read from it");
        write("model.safetensors", "Weights");
        let others = digest();
        assert_ne!(others, weights);
        write("chat_template.jinja", "");
        assert_ne!(digest(), others, "an empty file is not a missing one");
        std::fs::remove_file(dir.path().join("chat_template.jinja")).unwrap();
        assert_eq!(digest(), others);

        let file = dir.path().join("model.safetensors");
        assert_eq!(base_digest(&file).unwrap(), Digest::of(b"Weights"));
        let error = base_digest(&dir.path().join("base.gguf")).unwrap_err();
        assert!(error.to_string().contains("base.gguf"), "{error}");
    }
}
