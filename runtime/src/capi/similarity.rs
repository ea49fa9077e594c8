//! The training tasks that a description is nearest to.

use std::ffi::{CString, c_char};
use std::ptr;

use super::guard::look;
use super::registry::Registry;
use super::text::c_text;
use crate::nearest::Neighbor;

/// The training tasks that a description is nearest to.
#[derive(Debug)]
pub struct t2lc_similarity {
    _private: [u8; 0],
}

static SIMILARITIES: Registry<t2lc_similarity, Near> = Registry::new();

struct Near {
    tasks: Vec<(CString, f32)>,
    familiar: bool,
}

/// A handle for what is near.
pub(super) fn insert(nearest: &[Neighbor], familiar: bool) -> *mut t2lc_similarity {
    let tasks = nearest.iter().map(|near| (c_text(&near.task), near.cosine)).collect();
    SIMILARITIES.insert(Near { tasks, familiar })
}

fn of<T: Copy>(similarity: *const t2lc_similarity, otherwise: T, of: impl FnOnce(&Near) -> T) -> T {
    look(otherwise, || SIMILARITIES.get(similarity).map_or(otherwise, |near| of(&near)))
}

/// Number of tasks, nearest first.
#[unsafe(no_mangle)]
pub extern "C" fn t2lc_similarity_count(similarity: *const t2lc_similarity) -> usize {
    of(similarity, 0, |near| near.tasks.len())
}

/// Id of a task; NULL beyond the last.
#[unsafe(no_mangle)]
pub extern "C" fn t2lc_similarity_task(
    similarity: *const t2lc_similarity,
    index: usize,
) -> *const c_char {
    of(similarity, ptr::null(), |near| {
        near.tasks.get(index).map_or(ptr::null(), |(task, _)| task.as_ptr())
    })
}

/// Cosine to the nearest mean of a task's descriptions, at most 1; NaN beyond the last.
#[unsafe(no_mangle)]
pub extern "C" fn t2lc_similarity_cosine(similarity: *const t2lc_similarity, index: usize) -> f32 {
    of(similarity, f32::NAN, |near| near.tasks.get(index).map_or(f32::NAN, |(_, cosine)| *cosine))
}

/// Whether the description is as close to a training task as unseen real ones are, and no closer to
/// a text that describes none; true where no training description is known.
#[unsafe(no_mangle)]
pub extern "C" fn t2lc_similarity_familiar(similarity: *const t2lc_similarity) -> bool {
    of(similarity, false, |near| near.familiar)
}

/// Frees a similarity.
#[unsafe(no_mangle)]
pub extern "C" fn t2lc_similarity_free(similarity: *mut t2lc_similarity) {
    look((), || SIMILARITIES.remove(similarity));
}
