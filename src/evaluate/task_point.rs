//! Where tasks are: the embeddings of their descriptions, and the adapters generated from these.
//!
//! In: a bundle and tasks. Out: a [`TaskPoint`] per evaluated task and, for comparison, per
//! training task of the pack.
//!
//! An adapter has millions of values, and different matrices A and B make the same change
//! `ΔW = scale · B A`. So a point keeps a sketch of the changes: for every layer and module the
//! `8 × 8` products `uᵀ ΔW v / 8` with vectors `u` and `v` of random signs, which are the same for
//! all adapters. It depends on ΔW alone, is linear in it, and keeps distances on average:
//! `E |sketch|² = |ΔW|²` (Woodruff, "Sketching as a Tool for Numerical Linear Algebra",
//! <https://arxiv.org/abs/1411.4357>).

use anyhow::{Context, Result};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use t2lc_runtime::backend::Backend;
use t2lc_runtime::base::BaseModel;
use t2lc_runtime::bundle::Bundle;
use t2lc_runtime::describe::Description;
use t2lc_runtime::encode::Encoder;
use t2lc_runtime::generate::{Generator, LoraPair};
use t2lc_runtime::nearest::{Neighbor, TaskTable};

use super::report::TRAIN_TIER;
use crate::taskpack::{Task, TaskPack, TaskSplit, Wording};

/// Vectors on either side of a weight change.
const PROBES: usize = 8;
/// Seed of their signs.
const SEED: u64 = 0;

/// One description of a task, as a bundle sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskPoint {
    /// Name of the task.
    pub id: String,
    /// Distance from the training tasks: `sibling`, `near` or `far`, or `train` for one of them.
    pub tier: String,
    /// The description.
    pub description: String,
    /// Its embedding: `E` values of Euclidean length √E.
    pub embedding: Vec<f32>,
    /// Sketch of the adapter generated from it, 64 values per layer and module.
    pub adapter: Vec<f32>,
    /// The nearest training task, which may be the task itself; `None` for a point that is there
    /// for comparison.
    pub nearest: Option<Neighbor>,
    /// Whether it is there for comparison: a training task with a description of training.
    pub training: bool,
}

/// The points of `tasks`, by their first description of this wording, then those of the training
/// tasks of the pack, by their first description of training. `progress` gets one line of text per
/// point.
///
/// # Errors
/// A task without a description, a bundle that the backend refuses, a graph that fails.
pub fn task_points(
    bundle: &Bundle,
    backend: &dyn Backend,
    pack: &TaskPack,
    tasks: &[&Task],
    wording: Wording,
    progress: &mut dyn FnMut(&str),
) -> Result<Vec<TaskPoint>> {
    let subjects = subjects(pack, tasks, wording)?;
    let encoder = Encoder::load(bundle, backend)?;
    let generator = Generator::load(bundle, backend)?;
    let table = TaskTable::load(bundle)?;
    let hypernet = &bundle.manifest.hypernet;
    let mut points = Vec::with_capacity(subjects.len());
    for (number, subject) in (1..).zip(&subjects) {
        let Subject { task, description, training } = *subject;
        let cannot = || format!("cannot place the task `{}`", task.id);
        let text = Description::new(description).with_context(cannot)?;
        let embedding = encoder.encode(&text).with_context(cannot)?;
        let pairs = generator.generate(&embedding).with_context(cannot)?;
        let near = (!training).then(|| table.nearest(&embedding.values, 1));
        let nearest = near.and_then(|near| near.tasks.into_iter().next());
        points.push(TaskPoint {
            id: task.id.clone(),
            tier: tier(task).to_owned(),
            description: description.to_owned(),
            adapter: sketch(&pairs, &bundle.manifest.base, hypernet.rank, hypernet.scale),
            embedding: embedding.values,
            nearest,
            training,
        });
        progress(&format!("map {number}/{} {}", subjects.len(), task.id));
    }
    Ok(points)
}

/// What a point is made of.
#[derive(Debug, Clone, Copy)]
struct Subject<'t> {
    task: &'t Task,
    description: &'t str,
    training: bool,
}

/// The evaluated tasks, then the training tasks, without those that are already there with the same
/// description.
fn subjects<'t>(
    pack: &'t TaskPack,
    tasks: &[&'t Task],
    wording: Wording,
) -> Result<Vec<Subject<'t>>> {
    let mut subjects: Vec<Subject<'t>> = Vec::with_capacity(tasks.len());
    for &task in tasks {
        let description = task.worded(wording).next();
        let description =
            description.with_context(|| format!("task `{}` has no description", task.id))?;
        subjects.push(Subject { task, description, training: false });
    }
    for task in pack.tasks_of(TaskSplit::Train) {
        let Some(description) = task.training_descriptions().next() else { continue };
        let is_there = |s: &Subject<'t>| s.task.id == task.id && s.description == description;
        if !subjects.iter().any(is_there) {
            subjects.push(Subject { task, description, training: true });
        }
    }
    Ok(subjects)
}

fn tier(task: &Task) -> &str {
    match task.split {
        TaskSplit::Train => TRAIN_TIER,
        TaskSplit::Heldout => task.tier.as_deref().unwrap_or_default(),
    }
}

/// The sketch of an adapter of this rank; `scale` is the factor on `B A`.
#[allow(clippy::cast_possible_truncation, reason = "the sketch has the precision of the adapter")]
fn sketch(pairs: &[LoraPair], base: &BaseModel, rank: usize, scale: f32) -> Vec<f32> {
    let factor = f64::from(scale) / PROBES as f64;
    let mut sketch = Vec::with_capacity(pairs.len() * PROBES * PROBES);
    for pair in pairs {
        let module = &base.modules[pair.module];
        let mut rng = ChaCha8Rng::seed_from_u64(SEED);
        rng.set_stream((pair.layer * base.modules.len() + pair.module) as u64);
        let mut signs = |count: usize| -> Vec<f64> {
            (0..count).map(|_| if rng.random::<bool>() { 1.0 } else { -1.0 }).collect()
        };
        let right: Vec<Vec<f64>> =
            (0..PROBES).map(|_| times(&pair.a, &signs(module.in_features))).collect();
        let left: Vec<Vec<f64>> = (0..PROBES)
            .map(|_| times_from_left(&signs(module.out_features), &pair.b, rank))
            .collect();
        for left in &left {
            for right in &right {
                let product: f64 = left.iter().zip(right).map(|(l, r)| l * r).sum();
                sketch.push((factor * product) as f32);
            }
        }
    }
    sketch
}

/// `A v` for `a [rank, in]` and `v [in]`.
fn times(a: &[f32], vector: &[f64]) -> Vec<f64> {
    let product =
        |row: &[f32]| -> f64 { row.iter().zip(vector).map(|(a, v)| f64::from(*a) * v).sum() };
    a.chunks_exact(vector.len().max(1)).map(product).collect()
}

/// `uᵀ B` for `u [out]` and `b [out, rank]`.
fn times_from_left(vector: &[f64], b: &[f32], rank: usize) -> Vec<f64> {
    let mut sums = vec![0.0; rank];
    for (row, u) in b.chunks_exact(rank.max(1)).zip(vector) {
        for (sum, b) in sums.iter_mut().zip(row) {
            *sum += u * f64::from(*b);
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;
    use t2lc_runtime::base::{BaseModel, TargetModule};
    use t2lc_runtime::digest::Digest;
    use t2lc_runtime::generate::LoraPair;

    use super::{sketch, subjects, tier};
    use crate::taskpack::{Metric, Task, TaskPack, TaskSplit, Wording};

    const RANK: usize = 2;
    const IN: usize = 5;
    const OUT: usize = 7;

    fn base(layers: usize) -> BaseModel {
        let module = TargetModule {
            name: "q_proj".into(),
            in_features: IN,
            out_features: OUT,
            permute_heads: None,
        };
        BaseModel {
            name: "tiny".into(),
            architecture: "llama".into(),
            layers,
            tied_head: true,
            fingerprint: "sha256:00".into(),
            modules: vec![module],
        }
    }

    fn adapter(layers: usize, seed: u64) -> Vec<LoraPair> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut values = |count: usize| -> Vec<f32> {
            (0..count).map(|_| rng.random_range(-1.0..1.0)).collect()
        };
        (0..layers)
            .map(|layer| LoraPair { layer, module: 0, a: values(RANK * IN), b: values(OUT * RANK) })
            .collect()
    }

    fn close(left: &[f32], right: &[f32]) -> bool {
        left.len() == right.len() && left.iter().zip(right).all(|(l, r)| (l - r).abs() < 1e-4)
    }

    #[test]
    fn a_sketch_depends_on_the_product_of_the_matrices_alone() {
        let pairs = adapter(3, 1);
        let mut others = pairs.clone();
        for pair in &mut others {
            // B M⁻¹ and M A for M = [[2, 2], [0, 1]].
            for column in 0..IN {
                pair.a[column] = 2.0 * (pair.a[column] + pair.a[IN + column]);
            }
            for row in pair.b.chunks_exact_mut(RANK) {
                row[0] /= 2.0;
                row[1] -= 2.0 * row[0];
            }
        }
        assert!(!close(&pairs[0].a, &others[0].a) && !close(&pairs[0].b, &others[0].b));
        let expected = sketch(&pairs, &base(3), RANK, 0.5);
        assert_eq!(expected.len(), 3 * 64);
        assert!(close(&sketch(&others, &base(3), RANK, 0.5), &expected));
        assert!(!close(&sketch(&adapter(3, 2), &base(3), RANK, 0.5), &expected));
        let doubled: Vec<f32> = expected.iter().map(|value| 2.0 * value).collect();
        assert!(close(&sketch(&pairs, &base(3), RANK, 1.0), &doubled));
    }

    #[test]
    fn the_length_of_a_sketch_is_about_that_of_the_change() {
        let pairs = adapter(300, 3);
        let mut expected = 0.0;
        for pair in &pairs {
            for b in pair.b.chunks_exact(RANK) {
                for column in 0..IN {
                    let change = b[0] * pair.a[column] + b[1] * pair.a[IN + column];
                    expected += f64::from(change * change);
                }
            }
        }
        let sketch = sketch(&pairs, &base(300), RANK, 1.0);
        let got: f64 = sketch.iter().map(|value| f64::from(value * value)).sum();
        assert!((got / expected - 1.0).abs() < 0.25, "{got} instead of {expected}");
    }

    #[test]
    fn layers_have_signs_of_their_own() {
        let pair = adapter(1, 4).remove(0);
        let second = LoraPair { layer: 1, ..pair.clone() };
        let sketch = sketch(&[pair, second], &base(2), RANK, 1.0);
        assert!(!close(&sketch[..64], &sketch[64..]));
    }

    #[test]
    fn evaluated_tasks_come_first_and_training_tasks_once_per_description() {
        let task = |id: &str, descriptions: [&str; 2]| {
            let descriptions = descriptions.map(str::to_owned).to_vec();
            Task::new(id, "MIT", Metric::ExactMatch, descriptions, Vec::new())
        };
        let mut tasks =
            vec![task("a", ["a 0", "a 1"]), task("b", ["b 0", "b 1"]), task("c", ["c 0", "c 1"])];
        tasks[0].eval_description_ids = vec![1];
        tasks[2].split = TaskSplit::Heldout;
        tasks[2].tier = Some("far".into());
        let pack = TaskPack { tasks, digest: Digest::of(b"") };
        let chosen = [&pack.tasks[2], &pack.tasks[0]];
        let texts = |wording| -> Vec<(&str, bool)> {
            let subjects = subjects(&pack, &chosen, wording).unwrap();
            subjects.iter().map(|subject| (subject.description, subject.training)).collect()
        };
        let unseen = [("c 0", false), ("a 1", false), ("a 0", true), ("b 0", true)];
        assert_eq!(texts(Wording::Unseen), unseen);
        assert_eq!(texts(Wording::Training), [("c 0", false), ("a 0", false), ("b 0", true)]);
        assert_eq!((tier(&pack.tasks[0]), tier(&pack.tasks[2])), ("train", "far"));
    }
}
