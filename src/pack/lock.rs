//! `pack.lock`: what every adapter of a pack was made from, and what it became.
//!
//! Written by the program and committed. In: a [`Lock`]. Out: TOML text that is a function of the
//! lock alone, sorted by name, with `\n` line ends, without times, hosts or paths of a machine; and
//! back. A lock that is read is not trusted: names and outputs obey the rules of `pack.toml`.

mod read;

use std::fmt::Write as _;
use std::path::Path;

use serde::Serialize;
use t2lc_runtime::atomic::write_atomically;
use t2lc_runtime::compile::Format;
use t2lc_runtime::digest::Digest;
use t2lc_runtime::quantize::Quantization;

use super::PackError;
use super::plan::{Plan, Planned};
use crate::store::{NearTask, Record};

/// The only schema this version reads and writes.
pub const SCHEMA: u64 = 1;
/// Name that commands look for.
pub const FILE: &str = "pack.lock";
/// The first line.
const HEADER: &str =
    "# Written by `t2lc pack lock`. Do not edit: change pack.toml and lock again.\n";

/// What was made, and from what.
#[derive(Debug, Clone, PartialEq)]
pub struct Lock {
    /// Version of the program, which every adapter carries.
    pub t2lc: String,
    /// Version of the compile pipeline.
    pub pipeline: String,
    /// The backend's id.
    pub backend: String,
    /// Where the files go, below the pack's directory.
    pub out: String,
    /// The bundle.
    pub bundle: LockedBundle,
    /// The adapters, sorted by name.
    pub adapters: Vec<LockedAdapter>,
}

/// The bundle of a lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LockedBundle {
    /// Its name.
    pub name: String,
    /// Digest of its manifest, and so of all of it.
    pub digest: Digest,
    /// Name of the base.
    pub base: String,
    /// Fingerprint of the base.
    pub base_fingerprint: String,
}

/// One adapter of a lock.
#[derive(Debug, Clone, PartialEq)]
pub struct LockedAdapter {
    /// Its name.
    pub name: String,
    /// Its file or directory, below the output directory.
    pub output: String,
    /// Form of the file.
    pub format: Format,
    /// Tensor type.
    pub quantization: Quantization,
    /// Strength.
    pub scale: f32,
    /// What it does, canonical.
    pub description: String,
    /// Digest of everything that went in.
    pub recipe: Digest,
    /// Digest of the bytes that came out.
    pub content: Digest,
    /// Their number.
    pub size_bytes: u64,
    /// Whether the description is like those of training.
    pub familiar: bool,
    /// The nearest training tasks, nearest first.
    pub nearest: Vec<NearTask>,
}

impl LockedAdapter {
    /// A planned adapter and what came of it.
    pub fn of(planned: &Planned, record: &Record) -> Self {
        Self {
            name: planned.name.clone(),
            output: planned.output.clone(),
            format: planned.options.format,
            quantization: planned.options.quantization,
            scale: planned.options.scale,
            description: planned.description.as_str().to_owned(),
            recipe: planned.recipe,
            content: record.content,
            size_bytes: record.size_bytes,
            familiar: record.familiar,
            nearest: record.nearest.clone(),
        }
    }

    /// Digest of the description's canonical text.
    pub fn description_digest(&self) -> Digest {
        Digest::of(self.description.as_bytes())
    }
}

impl Lock {
    /// The lock of a plan; `adapters` in the order of the plan.
    pub fn of(plan: &Plan, adapters: Vec<LockedAdapter>) -> Self {
        Self {
            t2lc: plan.t2lc.clone(),
            pipeline: plan.pipeline.clone(),
            backend: plan.backend.clone(),
            out: plan.out.clone(),
            bundle: plan.bundle.clone(),
            adapters,
        }
    }

    /// The adapter of a name.
    pub fn adapter(&self, name: &str) -> Option<&LockedAdapter> {
        let found = self.adapters.binary_search_by(|adapter| adapter.name.as_str().cmp(name));
        found.ok().map(|index| &self.adapters[index])
    }

    /// Reads a lock, if there is one.
    ///
    /// # Errors
    /// A file that cannot be read, or all problems of the file.
    pub fn read(path: &Path) -> Result<Option<Self>, PackError> {
        read::read(path)
    }

    /// Writes the lock, unless the same one is there already; gives whether it was written.
    ///
    /// # Errors
    /// If the system fails; the old lock is whole then.
    pub fn write(&self, path: &Path) -> Result<bool, PackError> {
        let text = self.to_text();
        if std::fs::read(path).is_ok_and(|old| old == text.as_bytes()) {
            return Ok(false);
        }
        write_atomically(path, text.as_bytes(), true)?;
        Ok(true)
    }

    /// The text of the file.
    pub fn to_text(&self) -> String {
        let mut text = String::from(HEADER);
        let mut line = |key: &str, value: &str| {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{key} = {value}");
        };
        line("schema", &SCHEMA.to_string());
        line("t2lc", &quoted(&self.t2lc));
        line("pipeline", &quoted(&self.pipeline));
        line("backend", &quoted(&self.backend));
        line("out", &quoted(&self.out));
        text.push_str("\n[bundle]\n");
        let mut line = |key: &str, value: &str| {
            let _ = writeln!(text, "{key} = {}", quoted(value));
        };
        line("name", &self.bundle.name);
        line("digest", &self.bundle.digest.to_string());
        line("base", &self.bundle.base);
        line("base_fingerprint", &self.bundle.base_fingerprint);
        for adapter in &self.adapters {
            adapter.write_to(&mut text);
        }
        text
    }
}

impl LockedAdapter {
    fn write_to(&self, text: &mut String) {
        let near = |near: &NearTask| {
            format!("    {{ task = {}, cosine = {:.4} }},\n", quoted(&near.task), near.cosine)
        };
        let nearest = self.nearest.iter().map(near).collect::<Vec<_>>().concat();
        let nearest = if nearest.is_empty() { "[]".into() } else { format!("[\n{nearest}]") };
        let values = [
            ("name", quoted(&self.name)),
            ("output", quoted(&self.output)),
            ("format", quoted(self.format.name())),
            ("quantization", quoted(self.quantization.name())),
            // With a decimal point, and as many digits as tell it from its neighbours.
            ("scale", format!("{:?}", self.scale)),
            ("description", quoted(&self.description)),
            ("description_sha256", quoted(&self.description_digest().to_string())),
            ("recipe", quoted(&self.recipe.to_string())),
            ("content", quoted(&self.content.to_string())),
            ("size_bytes", self.size_bytes.to_string()),
            ("familiar", self.familiar.to_string()),
            ("nearest", nearest),
        ];
        text.push_str("\n[[adapter]]\n");
        for (key, value) in values {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{key} = {value}");
        }
    }
}

/// A TOML basic string on one line.
fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            c if c.is_control() => {
                let _ = write!(quoted, "\\u{:04X}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
pub(super) mod tests;
