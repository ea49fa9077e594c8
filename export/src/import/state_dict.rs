//! The state dict inside an archive: names and shapes first, values when they are wanted.
//!
//! In: an archive of `torch.save` with `data.pkl` and one entry per storage. Out: the shapes of all
//! tensors in the order of the file, then the tensors as row-major f32. A tensor is a part of a
//! storage, with any strides; several may share one, which is read once.
//!
//! Invariants of an opened file: every tensor has floats, lies inside its storage, and has no more
//! elements than that, so that a small file cannot ask for large tensors; every storage that a
//! tensor is in has the size that its record says.

use std::collections::BTreeMap;
use std::io::{Read, Seek};

use super::element::ElementType;
use super::error::{ArchiveError, ImportError};
use super::pickle::{self, StateDict, Storage, View};
use super::zip::Archive;
use crate::checkpoint::NamedTensor;

/// Largest pickle that is read; that of a hypernetwork has a few kilobytes.
const MAX_PICKLE_BYTES: u64 = 1 << 20;
/// Largest `byteorder` that is read.
const MAX_BYTE_ORDER_BYTES: u64 = 16;

/// An opened state dict.
pub(super) struct StateDictFile<R> {
    archive: Archive<R>,
    /// Folder of all entries.
    root: String,
    storages: Vec<Storage>,
    tensors: Vec<(String, View)>,
}

impl<R: Read + Seek> StateDictFile<R> {
    /// Reads the directory and the pickle, and checks the place of every tensor.
    pub(super) fn open(reader: R) -> Result<Self, ImportError> {
        let mut archive = Archive::open(reader)?;
        let root = archive.root()?;
        // Older archives do not say.
        let entry = format!("{root}/byteorder");
        if archive.size(&entry).is_some() {
            let order = archive.read(&entry, MAX_BYTE_ORDER_BYTES)?;
            if order != b"little" {
                return Err(ImportError::ByteOrder { got: order.escape_ascii().to_string() });
            }
        }
        let pickle = archive.read(&format!("{root}/data.pkl"), MAX_PICKLE_BYTES)?;
        let StateDict { storages, tensors } = pickle::read(&pickle)?;
        let file = Self { archive, root, storages, tensors };
        for (name, view) in &file.tensors {
            file.check(name, view)?;
        }
        Ok(file)
    }

    /// Names and shapes in the order of the file.
    pub(super) fn shapes(&self) -> Vec<(&str, &[usize])> {
        self.tensors.iter().map(|(name, view)| (name.as_str(), view.shape.as_slice())).collect()
    }

    /// Reads every tensor.
    pub(super) fn read(mut self) -> Result<BTreeMap<String, NamedTensor>, ImportError> {
        let mut by_storage: BTreeMap<&str, Vec<&(String, View)>> = BTreeMap::new();
        for tensor in &self.tensors {
            by_storage.entry(&self.storages[tensor.1.storage].key).or_default().push(tensor);
        }
        let mut tensors = BTreeMap::new();
        for (key, parts) in by_storage {
            // The archive bounds the size by that of the file.
            let bytes = self.archive.read(&entry_of(&self.root, key), u64::MAX)?;
            for (name, view) in parts {
                let values = gather(view, self.storages[view.storage].element, &bytes);
                tensors.insert(name.clone(), NamedTensor { shape: view.shape.clone(), values });
            }
        }
        Ok(tensors)
    }

    fn check(&self, name: &str, view: &View) -> Result<(), ImportError> {
        let tensor = name.to_owned();
        let Storage { key, element, elements } = &self.storages[view.storage];
        if !element.is_float() {
            return Err(ImportError::ElementType { tensor, got: element.to_string() });
        }
        let entry = entry_of(&self.root, key);
        let Some(got) = self.archive.size(&entry) else {
            return Err(ArchiveError::Missing { entry }.into());
        };
        let expected = (*elements as u64).saturating_mul(element.bytes() as u64);
        if expected != got {
            let key = key.clone();
            return Err(ImportError::StorageSize { key, tensor, expected, got });
        }
        if !is_part(view, *elements) {
            let View { shape, strides, offset, .. } = view.clone();
            return Err(ImportError::View { tensor, shape, strides, offset, elements: *elements });
        }
        Ok(())
    }
}

fn entry_of(root: &str, key: &str) -> String {
    format!("{root}/data/{key}")
}

/// Whether every element of the view is one of the storage, and the view has no more than that.
fn is_part(view: &View, elements: usize) -> bool {
    let count = view.shape.iter().try_fold(1_usize, |count, size| count.checked_mul(*size));
    let last =
        view.shape.iter().zip(&view.strides).try_fold(view.offset, |last, (size, stride)| {
            last.checked_add(size.saturating_sub(1).checked_mul(*stride)?)
        });
    let (Some(count), Some(last)) = (count, last) else { return false };
    view.shape.len() == view.strides.len() && count <= elements && (count == 0 || last < elements)
}

/// The elements of a view that [`is_part`] of the storage.
fn gather(view: &View, element: ElementType, storage: &[u8]) -> Vec<f32> {
    let count: usize = view.shape.iter().product();
    if count == 0 {
        return Vec::new();
    }
    if is_contiguous(view) {
        let (start, end) = (view.offset, view.offset + count);
        return element.decode(&storage[start * element.bytes()..end * element.bytes()]);
    }
    let all = element.decode(storage);
    positions(view).into_iter().map(|position| all[position]).collect()
}

/// Whether the elements follow each other in row-major order.
fn is_contiguous(view: &View) -> bool {
    let mut expected = 1;
    view.shape.iter().zip(&view.strides).rev().all(|(size, stride)| {
        // The stride of an axis with one entry is never used.
        let follows = *size == 1 || *stride == expected;
        expected *= size;
        follows
    })
}

/// Where the elements are, in row-major order.
fn positions(view: &View) -> Vec<usize> {
    let mut positions = vec![view.offset];
    for (size, stride) in view.shape.iter().zip(&view.strides) {
        let steps = |start: usize| (0..*size).map(move |step| start + step * stride);
        positions = positions.into_iter().flat_map(steps).collect();
    }
    positions
}
