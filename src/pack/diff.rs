//! Two locks side by side: which adapters came, went or changed, which input is to blame, how far
//! the weights moved and what the descriptions are near to.
//!
//! In: two locks, and for the weights a way to get an adapter's bytes. Out: a [`PackDiff`], every
//! list sorted by name.

use std::path::{Path, PathBuf};

use serde::Serialize;
use t2lc_runtime::digest::Digest;

use super::artifact::load;
use super::delta::relative_change;
use super::lock::{Lock, LockedAdapter};
use super::place::{join, symlink};
use super::stale::{Difference, Kind, between_locks};
use crate::store::{NearTask, Store};

/// What an adapter is on one side.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Version {
    /// Digest of the bytes.
    pub content: Digest,
    /// Their number.
    pub size_bytes: u64,
    /// The description.
    pub description: String,
    /// Whether the description is like those of training.
    pub familiar: bool,
    /// The nearest training tasks, nearest first.
    pub nearest: Vec<NearTask>,
}

impl Version {
    fn of(adapter: &LockedAdapter) -> Self {
        Self {
            content: adapter.content,
            size_bytes: adapter.size_bytes,
            description: adapter.description.clone(),
            familiar: adapter.familiar,
            nearest: adapter.nearest.clone(),
        }
    }
}

/// An adapter that only one lock has.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OneSided {
    /// Its name.
    pub name: String,
    /// What it is.
    #[serde(flatten)]
    pub version: Version,
}

/// An adapter that both locks have, and that is not the same.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Changed {
    /// Its name.
    pub name: String,
    /// The inputs that differ; none if equal inputs gave other bytes.
    pub inputs: Vec<Difference>,
    /// What it was.
    pub old: Version,
    /// What it is.
    pub new: Version,
    /// `‖ΔW_new − ΔW_old‖_F / ‖ΔW_old‖_F`; `None` where the bytes are not at hand.
    pub relative_change: Option<f64>,
    /// Why there is no relative change.
    pub unknown: Option<String>,
}

/// Two locks side by side.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PackDiff {
    /// Adapters of the new lock alone.
    pub added: Vec<OneSided>,
    /// Adapters of the old lock alone.
    pub removed: Vec<OneSided>,
    /// Adapters that differ.
    pub changed: Vec<Changed>,
    /// Adapters that do not.
    pub unchanged: usize,
}

impl PackDiff {
    /// Whether the locks say the same of every adapter.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.changed.is_empty()
    }
}

/// Where the bytes of adapters may lie.
#[derive(Debug, Clone, Default)]
pub struct Places {
    /// The store.
    pub store: Option<Store>,
    /// Files of the old lock.
    pub old: Option<PathBuf>,
    /// Files of the new lock.
    pub new: Option<PathBuf>,
}

/// Compares two locks.
pub fn diff(old: &Lock, new: &Lock, places: &Places) -> PackDiff {
    let found = between_locks(old, new);
    let inputs = |name: &str| {
        let change = found.iter().find(|change| change.name == name);
        match change.map(|change| &change.kind) {
            Some(Kind::Changed(differences)) => differences.clone(),
            _ => Vec::new(),
        }
    };
    let alone = |lock: &Lock, other: &Lock| -> Vec<OneSided> {
        let alone = lock.adapters.iter().filter(|adapter| other.adapter(&adapter.name).is_none());
        alone.map(|a| OneSided { name: a.name.clone(), version: Version::of(a) }).collect()
    };
    let (mut changed, mut unchanged) = (Vec::new(), 0);
    for adapter in &new.adapters {
        let Some(before) = old.adapter(&adapter.name) else { continue };
        let inputs = inputs(&adapter.name);
        if inputs.is_empty() && before.content == adapter.content {
            unchanged += 1;
            continue;
        }
        let moved = moved(before, adapter, places);
        changed.push(Changed {
            name: adapter.name.clone(),
            inputs,
            old: Version::of(before),
            new: Version::of(adapter),
            relative_change: moved.as_ref().ok().copied(),
            unknown: moved.err(),
        });
    }
    PackDiff { added: alone(new, old), removed: alone(old, new), changed, unchanged }
}

fn moved(old: &LockedAdapter, new: &LockedAdapter, places: &Places) -> Result<f64, String> {
    if old.content == new.content {
        return Ok(0.0);
    }
    let missing = |which: &str| format!("the {which} adapter is not at hand");
    let before = bytes(old, places, places.old.as_deref()).ok_or_else(|| missing("old"))?;
    let after = bytes(new, places, places.new.as_deref()).ok_or_else(|| missing("new"))?;
    relative_change((old.format, &before), (new.format, &after)).map_err(|e| e.to_string())
}

/// The bytes of an adapter, from a directory or from the store, if they are what the lock says.
fn bytes(adapter: &LockedAdapter, places: &Places, directory: Option<&Path>) -> Option<Vec<u8>> {
    let of_directory = |directory: &Path| {
        if symlink(directory, &adapter.output).is_some() {
            return None;
        }
        let path = join(directory, &adapter.output);
        load(&path, adapter.format, &adapter.content, adapter.size_bytes)
    };
    let of_store = |store: &Store| store.get(&adapter.content).ok().flatten();
    directory.and_then(of_directory).or_else(|| places.store.as_ref().and_then(of_store))
}

#[cfg(test)]
mod tests {
    use t2lc_runtime::digest::Digest;

    use super::{Places, diff};
    use crate::pack::lock::tests::sample;
    use crate::pack::stale::Input;

    #[test]
    fn adapters_come_go_and_change() {
        let old = sample(&[("a", "x"), ("b", "y"), ("c", "z")]);
        let new = sample(&[("a", "x2"), ("c", "z"), ("d", "w")]);
        let found = diff(&old, &new, &Places::default());
        let names = |side: &[super::OneSided]| -> Vec<String> {
            side.iter().map(|adapter| adapter.name.clone()).collect()
        };
        assert_eq!(
            (names(&found.added), names(&found.removed)),
            (vec!["d".into()], vec!["b".into()])
        );
        assert_eq!((found.changed.len(), found.unchanged), (1, 1));
        let changed = &found.changed[0];
        assert_eq!((changed.name.as_str(), changed.inputs[0].input), ("a", Input::Description));
        assert_eq!(changed.relative_change, None);
        assert_eq!(changed.unknown.as_deref(), Some("the old adapter is not at hand"));
        assert!(diff(&old, &old, &Places::default()).is_empty());
    }

    #[test]
    fn equal_inputs_with_other_bytes_are_a_change() {
        let old = sample(&[("a", "x")]);
        let mut new = old.clone();
        new.adapters[0].content = Digest::of(b"other");
        let found = diff(&old, &new, &Places::default());
        assert!(found.changed[0].inputs.is_empty());
        let mut same = old.clone();
        same.adapters[0].scale = 0.2;
        let found = diff(&old, &same, &Places::default());
        assert_eq!(found.changed[0].relative_change, Some(0.0));
    }
}
