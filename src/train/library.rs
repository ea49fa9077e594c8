//! A library of adapters for one base: one PEFT directory per task.
//!
//! In: a directory whose sub-directories are PEFT directories, named after their tasks. Out: the
//! adapters in the order of their names, and their element-wise mean. Plain files and hidden
//! entries are passed over.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use t2lc_runtime::base::BaseModel;

use crate::base::peft::{PeftAdapter, listed};
use crate::taskpack::{TaskPack, TaskSplit};

/// Most adapters that are read.
const MAX_ADAPTERS: usize = 4096;

/// Adapters for one base.
#[derive(Debug, Clone)]
pub struct Library {
    /// Task ids, which are the names of the sub-directories, and adapters; sorted by id.
    pub adapters: Vec<(String, PeftAdapter)>,
}

impl Library {
    /// Reads every sub-directory.
    ///
    /// # Errors
    /// A directory that cannot be read or has no sub-directories; or, all in one message, what
    /// [`PeftAdapter::load`] refuses.
    pub fn load(dir: &Path, base: &BaseModel) -> Result<Self> {
        let failed = || format!("cannot read the library `{}`", dir.display());
        let (mut ids, mut problems) = (Vec::new(), Vec::new());
        for entry in std::fs::read_dir(dir).with_context(failed)? {
            let entry = entry.with_context(failed)?;
            if !entry.path().is_dir() {
                continue;
            }
            match entry.file_name().into_string() {
                Ok(name) if name.starts_with('.') => {}
                Ok(name) => ids.push(name),
                Err(name) => problems.push(format!("the name {} is not UTF-8", name.display())),
            }
        }
        ensure!(
            ids.len() <= MAX_ADAPTERS,
            "the library `{}` has {} sub-directories, at most {MAX_ADAPTERS} are read",
            dir.display(),
            ids.len(),
        );
        ids.sort_unstable();
        let mut adapters = Vec::with_capacity(ids.len());
        for id in ids {
            match PeftAdapter::load(&dir.join(&id), base) {
                Ok(adapter) => adapters.push((id, adapter)),
                Err(error) => problems.push(format!("{error:#}")),
            }
        }
        ensure!(
            problems.is_empty(),
            "the library `{}` cannot be used:\n  {}",
            dir.display(),
            listed(&problems),
        );
        ensure!(
            !adapters.is_empty(),
            "the library `{}` is empty, expected one PEFT directory per task",
            dir.display(),
        );
        Ok(Self { adapters })
    }

    /// Leaves out the adapters of tasks that a pack holds out: nothing that is made of the library
    /// may know of them. Gives how many they were.
    pub fn leave_out_held_out(&mut self, pack: &TaskPack) -> usize {
        let count = self.adapters.len();
        let held_out: HashSet<&str> =
            pack.tasks_of(TaskSplit::Heldout).map(|task| task.id.as_str()).collect();
        self.adapters.retain(|(id, _)| !held_out.contains(id.as_str()));
        count - self.adapters.len()
    }

    /// The rank that all adapters share.
    ///
    /// # Errors
    /// No adapters, or adapters of different ranks.
    pub fn rank(&self) -> Result<usize> {
        let (first, adapter) = self.adapters.first().context("the library is empty")?;
        let others = self.adapters.iter().filter(|(_, other)| other.rank != adapter.rank);
        let others: Vec<String> =
            others.map(|(id, other)| format!("`{id}` has rank {}", other.rank)).collect();
        ensure!(
            others.is_empty(),
            "the adapters have different ranks: `{first}` has rank {}, but\n  {}",
            adapter.rank,
            listed(&others),
        );
        Ok(adapter.rank)
    }

    /// The element-wise mean of the A's and of the B's. It is not the adapter of the mean update:
    /// the product of two means is not the mean of the products.
    ///
    /// # Errors
    /// No adapters, or adapters of different ranks, scales or shapes.
    pub fn average(&self) -> Result<PeftAdapter> {
        let rank = self.rank()?;
        let (first, adapter) = self.adapters.first().context("the library is empty")?;
        let (alpha, use_rslora) = (adapter.alpha, adapter.use_rslora);
        let same = |other: &PeftAdapter| {
            other.alpha.to_bits() == alpha.to_bits() && other.use_rslora == use_rslora
        };
        let others = self.adapters.iter().filter(|(_, other)| !same(other));
        let others: Vec<String> =
            others.map(|(id, other)| format!("`{id}` has {}", other.scale())).collect();
        ensure!(
            others.is_empty(),
            "the adapters have different scales: `{first}` has {}, but\n  {}",
            adapter.scale(),
            listed(&others),
        );
        let mut matrices = BTreeMap::new();
        for (module, layer) in adapter.matrices.keys() {
            let (mut all_a, mut all_b) = (Vec::new(), Vec::new());
            for (id, other) in &self.adapters {
                let pair = other.pair(module, *layer).with_context(|| format!("task `{id}`"))?;
                all_a.push(pair.0);
                all_b.push(pair.1);
            }
            let at = || format!("`{module}` in layer {layer}");
            let pair = (mean(&all_a).with_context(at)?, mean(&all_b).with_context(at)?);
            matrices.insert((module.clone(), *layer), pair);
        }
        Ok(PeftAdapter { rank, alpha, use_rslora, matrices })
    }
}

/// The element-wise mean of vectors of one length.
fn mean(vectors: &[&[f32]]) -> Result<Vec<f32>> {
    let len = vectors.first().map_or(0, |vector| vector.len());
    ensure!(vectors.iter().all(|vector| vector.len() == len), "matrices of different sizes");
    let count = vectors.len() as f64;
    let sums = (0..len).map(|i| vectors.iter().map(|vector| f64::from(vector[i])).sum::<f64>());
    Ok(sums.map(|sum| rounded(sum / count)).collect())
}

#[allow(clippy::cast_possible_truncation, reason = "rounding to f32 is what this is for")]
fn rounded(value: f64) -> f32 {
    value as f32
}

#[cfg(test)]
mod tests {
    use t2lc_runtime::digest::Digest;

    use super::Library;
    use crate::base::peft::tests::{adapter, base};
    use crate::taskpack::{Metric, Task, TaskPack, TaskSplit};

    #[test]
    fn adapters_come_in_the_order_of_their_names() {
        let home = tempfile::tempdir().unwrap();
        for (id, seed) in [("sort", 1), ("add", 2), ("copy", 3)] {
            adapter(seed).save(&home.path().join(id), &base()).unwrap();
        }
        std::fs::write(home.path().join("README.md"), "notes").unwrap();
        std::fs::create_dir(home.path().join(".t2lc-partial")).unwrap();
        let library = Library::load(home.path(), &base()).unwrap();
        let expected = [("add", 2), ("copy", 3), ("sort", 1)];
        assert_eq!(library.adapters, expected.map(|(id, seed)| (id.to_owned(), adapter(seed))));
    }

    #[test]
    fn every_faulty_adapter_is_named() {
        let home = tempfile::tempdir().unwrap();
        let error = Library::load(home.path(), &base()).unwrap_err().to_string();
        assert!(error.ends_with("is empty, expected one PEFT directory per task"), "{error}");
        for id in ["good", "torn", "void"] {
            adapter(1).save(&home.path().join(id), &base()).unwrap();
        }
        std::fs::write(home.path().join("torn/adapter_model.safetensors"), "torn").unwrap();
        std::fs::remove_file(home.path().join("void/adapter_config.json")).unwrap();
        let error = Library::load(home.path(), &base()).unwrap_err().to_string();
        for expected in ["torn/adapter_model.safetensors", "void/adapter_config.json"] {
            assert!(error.contains(expected), "{expected} not in {error}");
        }
        assert!(!error.contains("good"), "{error}");
    }

    #[test]
    fn adapters_of_held_out_tasks_are_left_out() {
        let task = |id: &str, split| {
            let mut task = Task::new(id, "MIT", Metric::ExactMatch, vec!["Do.".into()], vec![]);
            task.split = split;
            task
        };
        let tasks = vec![task("one", TaskSplit::Train), task("two", TaskSplit::Heldout)];
        let pack = TaskPack { tasks, digest: Digest::of(b"") };
        let of = |id: &str| (id.to_owned(), adapter(1));
        let mut library = Library { adapters: vec![of("one"), of("own"), of("two")] };
        assert_eq!(library.leave_out_held_out(&pack), 1);
        let left: Vec<&str> = library.adapters.iter().map(|(id, _)| id.as_str()).collect();
        assert_eq!(left, ["one", "own"]);
    }

    #[test]
    fn the_average_of_two_is_half_of_both() {
        let (one, two) = (adapter(1), adapter(2));
        let adapters = vec![("one".to_owned(), one.clone()), ("two".to_owned(), two.clone())];
        let average = Library { adapters }.average().unwrap();
        assert_eq!((average.rank, average.matrices.len()), (2, 4));
        assert!((average.scale() - 1.5).abs() < 1e-12);
        for (key, (a, b)) in &average.matrices {
            let halves = |got: &[f32], left: &[f32], right: &[f32]| {
                let pairs = left.iter().zip(right);
                let both = got.iter().zip(pairs);
                both.fold(0_f32, |most, (got, (l, r))| {
                    most.max((got - f32::midpoint(*l, *r)).abs())
                })
            };
            assert!(halves(a, &one.matrices[key].0, &two.matrices[key].0) < 1e-7, "{key:?}");
            assert!(halves(b, &one.matrices[key].1, &two.matrices[key].1) < 1e-7, "{key:?}");
        }
    }

    #[test]
    fn adapters_that_cannot_be_averaged_are_named() {
        let named = |other| Library {
            adapters: vec![("one".to_owned(), adapter(1)), ("two".to_owned(), other)],
        };
        let mut other = adapter(2);
        other.alpha = 6.0;
        let error = named(other).average().unwrap_err().to_string();
        assert!(error.contains("`one` has 1.5, but\n  `two` has 3"), "{error}");
        let mut other = adapter(2);
        other.rank = 4;
        let error = named(other).average().unwrap_err().to_string();
        assert!(error.contains("`one` has rank 2, but\n  `two` has rank 4"), "{error}");
    }
}
