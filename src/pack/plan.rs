//! What a pack is to become: every adapter with the recipe that makes it.
//!
//! In: a manifest, the bundle and the backend's id. Out: a [`Plan`], sorted by name, so that the
//! order in `pack.toml` decides nothing. Nothing is compiled for it.

use t2lc_runtime::bundle::Bundle;
use t2lc_runtime::compile::{CompileOptions, Format, PIPELINE, recipe};
use t2lc_runtime::describe::Description;
use t2lc_runtime::digest::Digest;

use super::lock::LockedBundle;
use super::manifest::Manifest;
use crate::store::T2LC;

/// What is to be made, and with what.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
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
    pub adapters: Vec<Planned>,
}

/// One adapter of a plan.
#[derive(Debug, Clone, PartialEq)]
pub struct Planned {
    /// Its name.
    pub name: String,
    /// What it should do.
    pub description: Description,
    /// Its file or directory, below the output directory.
    pub output: String,
    /// Form, tensor type and strength.
    pub options: CompileOptions,
    /// Digest of everything that goes in.
    pub recipe: Digest,
}

/// One part of a build that is divided among machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    index: u64,
    count: u64,
}

impl Shard {
    /// Whether a recipe belongs to this part: every recipe belongs to exactly one.
    pub fn has(self, recipe: &Digest) -> bool {
        let number =
            recipe.as_bytes().iter().take(8).fold(0, |n, byte| (n << 8) | u64::from(*byte));
        number % self.count == self.index
    }
}

impl std::str::FromStr for Shard {
    type Err = String;

    /// `I/N` with I from 0 to N - 1.
    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.split_once('/').and_then(|(index, count)| {
            Some(Self { index: index.parse().ok()?, count: count.parse().ok()? })
        });
        let within = |shard: &Self| shard.index < shard.count && shard.count <= 65_536;
        let expected = "expected I/N with I from 0 to N - 1, for example 0/4";
        parsed.filter(within).ok_or_else(|| format!("`{text}` is no part of a build, {expected}"))
    }
}

impl Plan {
    /// The plan of a pack.
    pub fn new(manifest: &Manifest, bundle: &Bundle, backend: &str) -> Self {
        let planned = |entry: &super::manifest::AdapterEntry| {
            let options = CompileOptions {
                format: manifest.format,
                quantization: entry.quantization,
                scale: entry.scale,
            };
            Planned {
                name: entry.name.clone(),
                description: entry.description.clone(),
                output: entry.output.clone(),
                options,
                recipe: recipe(&bundle.digest, backend, &entry.description, options),
            }
        };
        let mut adapters: Vec<Planned> = manifest.adapters.iter().map(planned).collect();
        adapters.sort_by(|a, b| a.name.cmp(&b.name));
        let base = &bundle.manifest.base;
        Self {
            t2lc: T2LC.into(),
            pipeline: PIPELINE.into(),
            backend: backend.into(),
            out: manifest.out.clone(),
            bundle: LockedBundle {
                name: bundle.manifest.name.clone(),
                digest: bundle.digest,
                base: base.name.clone(),
                base_fingerprint: base.fingerprint.clone(),
            },
            adapters,
        }
    }
}

impl Planned {
    /// Form of the file.
    pub fn format(&self) -> Format {
        self.options.format
    }
}

#[cfg(test)]
mod tests {
    use t2lc_runtime::digest::Digest;

    use super::Shard;

    #[test]
    fn every_recipe_belongs_to_one_part() {
        let shards: Vec<Shard> = (0..3).map(|i| format!("{i}/3").parse().unwrap()).collect();
        let mut sizes = [0; 3];
        for number in 0..300u32 {
            let recipe = Digest::of(&number.to_le_bytes());
            let of: Vec<usize> = (0..3).filter(|i| shards[*i].has(&recipe)).collect();
            assert_eq!(of.len(), 1);
            sizes[of[0]] += 1;
        }
        assert!(sizes.iter().all(|size| *size > 60), "{sizes:?}");
        for text in ["", "1", "3/3", "0/0", "-1/3", "a/b", "0/100000"] {
            assert!(text.parse::<Shard>().is_err(), "{text}");
        }
    }
}
