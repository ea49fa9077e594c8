//! Linear weights `[inner, columns]`, left where the model has them and in the type it has.
//!
//! In goes a constant matrix, or the chain of nodes by which the exporter widens one:
//! `Cast` for f16, `Cast → Mul(scale) → Reshape` for int8 with one scale per column and group of
//! rows. Out comes a [`Weight`], whose bytes are those of the model: a mapped file is read while a
//! product is computed, and never copied as a whole. A product takes [`Rows`] of it, for
//! [`WIDTH`] columns at a time; their elements are the same to the bit as if the nodes had run one
//! by one.

#![allow(clippy::inline_always, reason = "only inlined code is compiled for the CPU's vectors")]

use std::ops::Range;

use bytes::Bytes;

use super::arithmetic::widen_half;
use super::elementwise::{Binary, binary, cast};
use super::fault::Fault;
use super::tensor::{Dense, Element, Elements, Raw};

/// Columns of a panel, which is what a product computes at a time.
pub(super) const WIDTH: usize = 16;

/// A constant as the model has it, and what makes f32 of it.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    raw: Raw,
    scale: Option<Dense>,
    shape: Vec<usize>,
}

impl Stored {
    /// A matrix of floats; gives back any other constant.
    pub(super) fn floats(raw: Raw) -> Result<Self, Raw> {
        if raw.element != Element::F32 || raw.shape.len() != 2 {
            return Err(raw);
        }
        let shape = raw.shape.clone();
        Ok(Self { raw, scale: None, shape })
    }

    /// `Cast` of a constant to f32; `None` if it is not in 8 or 16 bits.
    pub(super) fn cast(narrow: &Dense) -> Option<Self> {
        let bytes = match narrow.elements() {
            Elements::F16(bytes) | Elements::I8(bytes) => bytes.clone(),
            _ => return None,
        };
        let shape = narrow.shape().to_vec();
        let raw = Raw { shape: shape.clone(), element: narrow.element(), bytes };
        Some(Self { raw, scale: None, shape })
    }

    /// `Mul` of `[…, rows, columns]` int8 with `[…, 1, columns]` f32; `None` for another form.
    pub(super) fn scaled(&self, scale: &Dense) -> Option<Self> {
        let fits = match (self.raw.shape.as_slice(), scale.shape()) {
            ([groups @ .., _, columns], [same_groups @ .., 1, same_columns]) => {
                groups == same_groups && columns == same_columns
            }
            _ => false,
        };
        let applies = fits
            && scale.element() == Element::F32
            && self.raw.element == Element::I8
            && self.raw.shape == self.shape
            && self.scale.is_none();
        applies.then(|| Self { scale: Some(scale.clone()), ..self.clone() })
    }

    /// Shape of the f32 tensor.
    pub(super) fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// `Reshape`, to a shape of as many elements.
    pub(super) fn reshaped(&self, shape: Vec<usize>) -> Self {
        Self { shape, ..self.clone() }
    }

    /// The f32 tensor, computed as the nodes say.
    ///
    /// # Errors
    /// A tensor over the limits.
    pub(super) fn widen(&self) -> Result<Dense, Fault> {
        let wide = cast(&Dense::from_raw(&self.raw)?, Element::F32)?;
        let wide = match &self.scale {
            Some(scale) => binary(Binary::Mul, &wide, scale)?,
            None => wide,
        };
        wide.with_shape(self.shape.clone())
    }

    /// The weight, if this is a matrix and groups are rows of it.
    pub(super) fn weight(&self) -> Option<Weight> {
        let [inner, columns] = self.shape[..] else { return None };
        let (bytes, scale) = (self.raw.bytes.clone(), self.scale.clone());
        let cells = match (self.raw.element, scale) {
            (Element::F32, None) => Cells::F32(bytes),
            (Element::F16, None) => Cells::F16(bytes),
            (Element::I8, Some(scale)) => match self.raw.shape[..] {
                [.., group, width] if width == columns && group > 0 => {
                    Cells::I8 { bytes, scale, group }
                }
                _ => return None,
            },
            _ => return None,
        };
        Some(Weight { inner, columns, cells })
    }
}

/// A constant weight.
#[derive(Debug)]
pub(super) struct Weight {
    inner: usize,
    columns: usize,
    cells: Cells,
}

/// Row-major elements, little-endian.
#[derive(Debug)]
enum Cells {
    F32(Bytes),
    F16(Bytes),
    I8 {
        bytes: Bytes,
        /// `[inner / group, columns]`, in whatever shape.
        scale: Dense,
        /// Rows that share a scale; a divisor of their number.
        group: usize,
    },
}

impl Weight {
    /// What a product reads.
    ///
    /// # Errors
    /// None in practice: scales are floats.
    pub(super) fn rows(&self) -> Result<Rows<'_>, Fault> {
        let cells = match &self.cells {
            Cells::F32(bytes) => View::F32(bytes.as_chunks().0),
            Cells::F16(bytes) => View::F16(bytes.as_chunks().0),
            Cells::I8 { bytes, scale, group } => {
                View::I8 { bytes, scales: scale.floats()?, group: *group }
            }
        };
        Ok(Rows { inner: self.inner, columns: self.columns, cells })
    }
}

/// The rows of a weight `[inner, columns]`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rows<'a> {
    inner: usize,
    columns: usize,
    cells: View<'a>,
}

/// Row-major elements: computed ones, or those of the model, little-endian.
#[derive(Debug, Clone, Copy)]
enum View<'a> {
    Computed(&'a [f32]),
    F32(&'a [[u8; 4]]),
    F16(&'a [[u8; 2]]),
    I8 { bytes: &'a [u8], scales: &'a [f32], group: usize },
}

impl<'a> Rows<'a> {
    /// The rows of `inner · columns` floats.
    pub(super) fn new(values: &'a [f32], inner: usize, columns: usize) -> Self {
        Self { inner, columns, cells: View::Computed(values) }
    }

    /// Number of rows.
    pub(super) fn inner(&self) -> usize {
        self.inner
    }

    /// Number of columns.
    pub(super) fn columns(&self) -> usize {
        self.columns
    }

    /// Fills `wide` with some rows of a panel; beyond the last column stays what is there.
    #[inline(always)]
    pub(super) fn widen(&self, panel: usize, rows: Range<usize>, wide: &mut [[f32; WIDTH]]) {
        let (columns, first) = (self.columns, panel * WIDTH);
        let place = rows.start * columns + first;
        match self.cells {
            View::Computed(values) => {
                widen_rows(&values[place..], columns, first, wide, |wide, values, _| {
                    wide.copy_from_slice(values);
                });
            }
            View::F32(words) => {
                widen_rows(&words[place..], columns, first, wide, |wide, words, _| {
                    for (wide, word) in wide.iter_mut().zip(words) {
                        *wide = f32::from_le_bytes(*word);
                    }
                });
            }
            View::F16(halves) => {
                widen_rows(&halves[place..], columns, first, wide, |wide, halves, _| {
                    for (wide, half) in wide.iter_mut().zip(halves) {
                        *wide = widen_half(u16::from_le_bytes(*half));
                    }
                });
            }
            View::I8 { bytes, scales, group } => {
                let mut row = rows.start;
                while row < rows.end {
                    // One group, as far as it reaches.
                    let index = row / group;
                    let end = ((index + 1) * group).min(rows.end);
                    let wide = &mut wide[row - rows.start..end - rows.start];
                    let scales = &scales[index * columns + first..];
                    let bytes = &bytes[row * columns + first..];
                    widen_rows(bytes, columns, first, wide, |wide, bytes, width| {
                        let scales = &scales[..width];
                        for ((wide, byte), scale) in wide.iter_mut().zip(bytes).zip(scales) {
                            *wide = f32::from(byte.cast_signed()) * scale;
                        }
                    });
                    row = end;
                }
            }
        }
    }
}

/// Widens rows that are `columns` elements apart, the first one at the start of `values`.
///
/// The loop over rows ends where a row is not there, which it always is: the compiler then cannot
/// count the rows, and has each of them done in vectors instead of gathering and scattering the
/// same column of many rows.
#[inline(always)]
fn widen_rows<T>(
    values: &[T],
    columns: usize,
    first: usize,
    wide: &mut [[f32; WIDTH]],
    widen: impl Fn(&mut [f32], &[T], usize),
) {
    let width = WIDTH.min(columns - first);
    for (wide, row) in wide.iter_mut().zip(values.chunks(columns)) {
        if let (WIDTH, Some(row)) = (width, row.first_chunk::<WIDTH>()) {
            widen(wide, row, WIDTH);
        } else if let Some(row) = row.get(..width) {
            widen(&mut wide[..width], row, width);
        } else {
            break;
        }
    }
}
