//! Which training tasks a description is closest to.
//!
//! `tasks.safetensors` holds unit vectors, means of the embeddings of each task's training
//! descriptions, as `codes` i8 `[n, E]` with `scales` f32 `[n]`, and the task of each row in the
//! metadata key `t2lc`. A description whose nearest cosine is below the bundle's threshold is unlike
//! anything seen. Rows may also be of texts that describe no task: their task is [`NO_TASK`], and
//! what is nearer to one of them than to any task is unfamiliar as well, since an encoder may put
//! all such texts close to some task. Where no training description is known, as for a network
//! imported without them, the table has no rows.

use std::collections::HashMap;

use bytes::Bytes;
use safetensors::{Dtype, SafeTensorError, SafeTensors, View};
use serde::Serialize;

use crate::bundle::{Bundle, BundleError, TASKS};

/// The task of a row that describes none.
pub const NO_TASK: &str = "";

/// Why the table cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NearestError {
    /// The bundle lacks the file.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// Not a safetensors file, or without the tensors.
    #[error("`{TASKS}` cannot be used")]
    File(#[from] SafeTensorError),
    /// The tensors do not fit each other.
    #[error("`{TASKS}`: {reason}")]
    Layout {
        /// What is wrong.
        reason: String,
    },
}

/// A training task and how close its descriptions are.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Neighbor {
    /// The task's id.
    pub task: String,
    /// Cosine similarity, at most 1.
    pub cosine: f32,
}

/// What is near a description.
#[derive(Debug, Clone, PartialEq)]
pub struct Neighborhood {
    /// Training tasks, nearest first; none from a table without rows.
    pub tasks: Vec<Neighbor>,
    /// Cosine similarity to the nearest text that describes no task; -1 where the table has none.
    pub no_task: f32,
}

impl Neighborhood {
    /// Whether the nearest row is that of a training task, and no further than `warn_below`, a
    /// cosine. Where no description is known, nothing can be said against any.
    ///
    /// ```
    /// # use t2lc_runtime::nearest::{Neighbor, Neighborhood};
    /// let tasks = vec![Neighbor { task: "plural".into(), cosine: 0.8 }];
    /// let near = Neighborhood { tasks, no_task: 0.7 };
    /// assert!(near.is_familiar(0.5) && !near.is_familiar(0.9));
    /// assert!(!Neighborhood { no_task: 0.9, ..near }.is_familiar(0.5));
    /// ```
    pub fn is_familiar(&self, warn_below: f32) -> bool {
        let familiar = |n: &Neighbor| n.cosine >= warn_below && n.cosine >= self.no_task;
        self.tasks.first().is_none_or(familiar)
    }
}

/// Mean embeddings of training tasks, and embeddings of texts that describe none.
#[derive(Debug, Clone)]
pub struct TaskTable {
    /// Task id of each row.
    tasks: Vec<String>,
    /// i8 `[n, width]`, where the bundle has them: they may be the largest part of it that is not a
    /// network.
    codes: Bytes,
    scales: Vec<f32>,
    width: usize,
}

impl TaskTable {
    /// A table without rows, for embeddings of `width` values.
    pub fn empty(width: usize) -> Self {
        Self { tasks: Vec::new(), codes: Bytes::new(), scales: Vec::new(), width }
    }

    /// Quantizes embeddings of any length, `(task, embedding)` pairs; those of texts that describe
    /// no task have [`NO_TASK`].
    ///
    /// # Errors
    /// Embeddings of different widths, or none.
    pub fn from_embeddings(rows: &[(String, Vec<f32>)]) -> Result<Self, NearestError> {
        let width = rows.first().map_or(0, |(_, values)| values.len());
        if width == 0 || rows.iter().any(|(_, values)| values.len() != width) {
            let reason = "embeddings of different widths, or none".into();
            return Err(NearestError::Layout { reason });
        }
        let (mut codes, mut scales) = (Vec::with_capacity(rows.len() * width), Vec::new());
        for (_, values) in rows {
            let length = values.iter().map(|v| v * v).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
            let largest = values.iter().fold(0f32, |m, v| m.max((v / length).abs()));
            let scale = (largest / 127.0).max(f32::MIN_POSITIVE);
            // |v / length / scale| ≤ 127 by the choice of the scale.
            #[allow(clippy::cast_possible_truncation)]
            codes.extend(
                values.iter().map(|v| ((v / length / scale).round() as i8).cast_unsigned()),
            );
            scales.push(scale);
        }
        let tasks = rows.iter().map(|(task, _)| task.clone()).collect();
        Ok(Self { tasks, codes: codes.into(), scales, width })
    }

    /// Reads the table of a bundle.
    ///
    /// # Errors
    /// A file that is not such a table.
    pub fn load(bundle: &Bundle) -> Result<Self, NearestError> {
        let table = Self::from_bytes(bundle.file(TASKS)?)?;
        let expected = bundle.manifest.encoder.embedding_size;
        if table.width != expected {
            let reason = format!("embeddings have {} values, expected {expected}", table.width);
            return Err(NearestError::Layout { reason });
        }
        Ok(table)
    }

    /// Reads the bytes of `tasks.safetensors`.
    ///
    /// # Errors
    /// A file that is not such a table.
    pub fn from_bytes(bytes: &Bytes) -> Result<Self, NearestError> {
        let layout = |reason: String| NearestError::Layout { reason };
        let (_, metadata) = SafeTensors::read_metadata(bytes)?;
        let names = metadata.metadata().as_ref().and_then(|m| m.get("t2lc"));
        let names = names.ok_or_else(|| layout("no task names".into()))?;
        let tasks: Vec<String> =
            serde_json::from_str(names).map_err(|e| layout(format!("task names: {e}")))?;
        let file = SafeTensors::deserialize(bytes)?;
        let (codes, scales) = (file.tensor("codes")?, file.tensor("scales")?);
        let (&[rows, width], Dtype::I8) = (codes.shape(), codes.dtype()) else {
            return Err(layout(format!("codes are {:?} {:?}", codes.dtype(), codes.shape())));
        };
        if scales.dtype() != Dtype::F32 || scales.shape() != [rows] || tasks.len() != rows {
            let (scales, names) = (scales.shape(), tasks.len());
            return Err(layout(format!("{rows} rows, scales {scales:?}, {names} names")));
        }
        if width == 0 {
            return Err(layout("embeddings have no values".into()));
        }
        let (words, _) = scales.data().as_chunks::<4>();
        let scales: Vec<f32> = words.iter().map(|word| f32::from_le_bytes(*word)).collect();
        if let Some(scale) = scales.iter().find(|scale| !scale.is_finite() || **scale < 0.0) {
            return Err(layout(format!("a row is scaled by {scale}")));
        }
        Ok(Self { tasks, codes: bytes.slice_ref(codes.data()), scales, width })
    }

    /// The bytes of `tasks.safetensors`.
    ///
    /// # Errors
    /// Never for a table that was loaded or made here; the format's writer may refuse.
    pub fn to_bytes(&self) -> Result<Vec<u8>, NearestError> {
        let codes = self.codes.to_vec();
        let scales: Vec<u8> = self.scales.iter().flat_map(|scale| scale.to_le_bytes()).collect();
        let names = serde_json::to_string(&self.tasks)
            .map_err(|e| NearestError::Layout { reason: e.to_string() })?;
        let tensors = [
            (
                "codes",
                Part { dtype: Dtype::I8, shape: vec![self.tasks.len(), self.width], bytes: codes },
            ),
            ("scales", Part { dtype: Dtype::F32, shape: vec![self.tasks.len()], bytes: scales }),
        ];
        // One metadata key only: more would be written in random order.
        let metadata = HashMap::from([("t2lc".to_owned(), names)]);
        Ok(safetensors::serialize(tensors, Some(metadata))?)
    }

    /// The `count` nearest tasks, each with its nearest row's cosine, and how near a text without
    /// a task is.
    pub fn nearest(&self, embedding: &[f32], count: usize) -> Neighborhood {
        let length = embedding.iter().map(|v| v * v).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
        let mut best: HashMap<&str, f32> = HashMap::new();
        let rows = self.codes.chunks_exact(self.width).zip(&self.scales).zip(&self.tasks);
        for ((codes, scale), task) in rows {
            // Rounded codes may be a little longer than what they stand for.
            let cosine = (dot(codes, embedding) * scale / length).clamp(-1.0, 1.0);
            // Sums that overflowed have no direction.
            let cosine = if cosine.is_nan() { -1.0 } else { cosine };
            let entry = best.entry(task).or_insert(cosine);
            *entry = entry.max(cosine);
        }
        let no_task = best.remove(NO_TASK).unwrap_or(-1.0);
        let mut tasks: Vec<Neighbor> =
            best.into_iter().map(|(task, cosine)| Neighbor { task: task.into(), cosine }).collect();
        tasks.sort_by(|a, b| b.cosine.total_cmp(&a.cosine).then_with(|| a.task.cmp(&b.task)));
        tasks.truncate(count);
        Neighborhood { tasks, no_task }
    }
}

/// Scalar product of i8 codes and values in eight running sums, which fill a vector register.
fn dot(codes: &[u8], embedding: &[f32]) -> f32 {
    const LANES: usize = 8;
    let (codes, rest) = codes.as_chunks::<LANES>();
    let (values, values_rest) = embedding.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for (codes, values) in codes.iter().zip(values) {
        for ((sum, code), value) in sums.iter_mut().zip(codes).zip(values) {
            *sum += f32::from(code.cast_signed()) * value;
        }
    }
    let rest =
        rest.iter().zip(values_rest).map(|(code, value)| f32::from(code.cast_signed()) * value);
    sums.into_iter().chain(rest).sum()
}

/// One tensor as the safetensors writer takes it.
struct Part {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl View for Part {
    fn dtype(&self) -> Dtype {
        self.dtype
    }
    fn shape(&self) -> &[usize] {
        &self.shape
    }
    fn data(&self) -> std::borrow::Cow<'_, [u8]> {
        (&self.bytes).into()
    }
    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::{Bytes, NO_TASK, TaskTable};

    fn table(rows: &[(&str, [f32; 2])]) -> TaskTable {
        let rows: Vec<_> = rows.iter().map(|(t, v)| ((*t).to_owned(), v.to_vec())).collect();
        let bytes = TaskTable::from_embeddings(&rows).unwrap().to_bytes().unwrap();
        TaskTable::from_bytes(&bytes.into()).unwrap()
    }

    #[test]
    fn the_nearest_task_comes_first_and_once() {
        let table = table(&[("a", [1.0, 0.0]), ("b", [0.0, 2.0]), ("a", [3.0, 3.0])]);
        let near = table.nearest(&[0.1, 5.0], 5);
        assert!(near.no_task <= -1.0 && near.is_familiar(0.9));
        let nearest = near.tasks;
        assert_eq!(nearest.len(), 2);
        assert_eq!(nearest[0].task, "b");
        assert!((nearest[0].cosine - 1.0).abs() < 1e-2);
        assert!((nearest[1].cosine - 0.72).abs() < 1e-2);
    }

    #[test]
    fn what_is_nearest_to_a_text_without_a_task_is_unfamiliar() {
        let table = table(&[("a", [1.0, 0.0]), (NO_TASK, [1.0, 1.0]), (NO_TASK, [-1.0, 0.0])]);
        let near = table.nearest(&[1.0, 0.9], 5);
        assert_eq!(near.tasks.len(), 1);
        assert!(near.tasks[0].cosine > 0.7 && near.no_task > 0.99);
        assert!(!near.is_familiar(0.5));
        assert!(table.nearest(&[1.0, 0.1], 5).is_familiar(0.5));
    }

    #[test]
    fn an_embedding_too_long_to_have_a_direction_is_near_nothing() {
        let near = table(&[("a", [1.0, 0.0])]).nearest(&[3e38, 3e38], 5);
        assert!(near.tasks[0].cosine <= 1.0 && !near.is_familiar(0.9), "{near:?}");
    }

    #[test]
    fn a_table_without_rows_has_a_width_and_no_neighbours() {
        let bytes = TaskTable::empty(2).to_bytes().unwrap().into();
        let table = TaskTable::from_bytes(&bytes).unwrap();
        let near = table.nearest(&[0.1, 5.0], 5);
        assert!(table.width == 2 && near.tasks.is_empty() && near.is_familiar(0.9));
        let none = TaskTable::empty(0).to_bytes().unwrap().into();
        assert!(TaskTable::from_bytes(&none).is_err());
    }

    #[test]
    fn damaged_tables_are_refused() {
        let table = TaskTable::from_embeddings(&[("a".into(), vec![1.0, 0.0])]).unwrap();
        let bytes = Bytes::from(table.to_bytes().unwrap());
        for end in 0..bytes.len() {
            assert!(TaskTable::from_bytes(&bytes.slice(..end)).is_err());
        }
        assert!(TaskTable::from_embeddings(&[]).is_err());
    }
}
