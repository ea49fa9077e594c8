//! Linear weights `[inner, columns]`, kept in the type they are stored in.
//!
//! In goes a constant matrix, or the chain of nodes by which the exporter widens one:
//! `Cast` for f16, `Cast → Mul(scale) → Reshape` for int8 with one scale per column and group of
//! rows. Out comes a [`Weight`]: panels of [`WIDTH`] columns, each holding its rows one after the
//! other, the last one filled up with zeros. A panel is widened piece by piece while it is used;
//! its elements are the same to the bit as if the nodes had run one by one.

#![allow(clippy::inline_always, reason = "only inlined code is compiled for the CPU's vectors")]

use std::ops::Range;

use super::arithmetic::widen_half;
use super::elementwise::{Binary, binary, cast};
use super::fault::{Fault, differs};
use super::tensor::{Dense, Element, Elements, element_count};

/// Columns of a panel.
pub(super) const WIDTH: usize = 16;

/// A constant in 8 or 16 bits, and what widens it to f32.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    narrow: Dense,
    scale: Option<Dense>,
    shape: Vec<usize>,
}

impl Stored {
    /// `Cast` of a constant to f32; `None` if it is not in 8 or 16 bits.
    pub(super) fn new(narrow: &Dense) -> Option<Self> {
        matches!(narrow.element(), Element::F16 | Element::I8).then(|| Self {
            narrow: narrow.clone(),
            scale: None,
            shape: narrow.shape().to_vec(),
        })
    }

    /// `Mul` of `[…, rows, columns]` int8 with `[…, 1, columns]` f32; `None` for another form.
    pub(super) fn scaled(&self, scale: &Dense) -> Option<Self> {
        let fits = match (self.narrow.shape(), scale.shape()) {
            ([groups @ .., _, columns], [same_groups @ .., 1, same_columns]) => {
                groups == same_groups && columns == same_columns
            }
            _ => false,
        };
        let applies = fits
            && scale.element() == Element::F32
            && self.narrow.element() == Element::I8
            && self.narrow.shape() == self.shape
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
        let wide = cast(&self.narrow, Element::F32)?;
        let wide = match &self.scale {
            Some(scale) => binary(Binary::Mul, &wide, scale)?,
            None => wide,
        };
        wide.with_shape(self.shape.clone())
    }

    /// The weight, if this is a matrix and groups are rows of it.
    ///
    /// # Errors
    /// A weight over the limits.
    pub(super) fn pack(&self) -> Result<Option<Weight>, Fault> {
        let [inner, columns] = self.shape[..] else { return Ok(None) };
        match (self.narrow.elements(), &self.scale) {
            (Elements::F16(values), _) => {
                check_size(inner, columns, Element::F16)?;
                Ok(Some(Weight { inner, columns, cells: Cells::F16(panels(values, columns)) }))
            }
            (Elements::I8(values), Some(scale)) => match self.narrow.shape() {
                [.., group, width] if *width == columns && *group > 0 => {
                    check_size(inner, columns, Element::I8)?;
                    check_size(inner / group, columns, Element::F32)?;
                    let scales = panels(scale.floats()?, columns);
                    let values = panels(values, columns);
                    let cells = Cells::I8 { values, scales, group: *group };
                    Ok(Some(Weight { inner, columns, cells }))
                }
                _ => Ok(None),
            },
            _ => Ok(None),
        }
    }
}

/// A weight in panels.
#[derive(Debug)]
pub(super) struct Weight {
    inner: usize,
    columns: usize,
    cells: Cells,
}

/// Row `k` of panel `p` is entry `p · inner + k`.
#[derive(Debug)]
enum Cells {
    F32(Vec<[f32; WIDTH]>),
    F16(Vec<[u16; WIDTH]>),
    I8 {
        values: Vec<[i8; WIDTH]>,
        /// The scales of rows `g · group..` of panel `p` are entry `p · inner / group + g`.
        scales: Vec<[f32; WIDTH]>,
        /// Rows that share a scale; a divisor of their number.
        group: usize,
    },
}

impl Weight {
    /// Packs a matrix of floats.
    ///
    /// # Errors
    /// A number of values other than `inner · columns`, a weight over the limits.
    pub(super) fn new(values: &[f32], inner: usize, columns: usize) -> Result<Self, Fault> {
        check_size(inner, columns, Element::F32)?;
        if values.len() != inner * columns {
            return Err(differs("number of weights", inner * columns, values.len()));
        }
        Ok(Self { inner, columns, cells: Cells::F32(panels(values, columns)) })
    }

    /// Number of rows.
    pub(super) fn inner(&self) -> usize {
        self.inner
    }

    /// Number of columns, without the filling.
    pub(super) fn columns(&self) -> usize {
        self.columns
    }

    /// Memory it takes.
    pub(super) fn size_bytes(&self) -> usize {
        match &self.cells {
            Cells::F32(values) => size_of_val(values.as_slice()),
            Cells::F16(values) => size_of_val(values.as_slice()),
            Cells::I8 { values, scales, .. } => {
                size_of_val(values.as_slice()) + size_of_val(scales.as_slice())
            }
        }
    }

    /// Rows of a panel as f32; `buffer`, of at least as many rows, is used where they have to be
    /// widened.
    #[inline(always)]
    pub(super) fn rows<'a>(
        &'a self,
        panel: usize,
        rows: Range<usize>,
        buffer: &'a mut [[f32; WIDTH]],
    ) -> &'a [[f32; WIDTH]] {
        let first = panel * self.inner;
        let place = first + rows.start..first + rows.end;
        match &self.cells {
            Cells::F32(values) => &values[place],
            Cells::F16(values) => {
                let wide = &mut buffer[..rows.len()];
                for (wide, halves) in wide.iter_mut().zip(&values[place]) {
                    for (wide, half) in wide.iter_mut().zip(halves) {
                        *wide = widen_half(*half);
                    }
                }
                wide
            }
            Cells::I8 { values, scales, group } => {
                let wide = &mut buffer[..rows.len()];
                let scales = &scales[panel * (self.inner / group)..];
                let mut row = rows.start;
                while row < rows.end {
                    // One group, as far as it reaches.
                    let index = row / group;
                    let end = ((index + 1) * group).min(rows.end);
                    let part = &mut wide[row - rows.start..end - rows.start];
                    let bytes = &values[first + row..first + end];
                    for (wide, bytes) in part.iter_mut().zip(bytes) {
                        scale_row(wide, bytes, &scales[index]);
                    }
                    row = end;
                }
                wide
            }
        }
    }
}

#[inline(always)]
fn scale_row(wide: &mut [f32; WIDTH], bytes: &[i8; WIDTH], scales: &[f32; WIDTH]) {
    for ((wide, byte), scale) in wide.iter_mut().zip(bytes).zip(scales) {
        *wide = f32::from(*byte) * scale;
    }
}

/// Checks the size of the panels, filling included, before they are made.
fn check_size(inner: usize, columns: usize, element: Element) -> Result<(), Fault> {
    element_count(&[columns.div_ceil(WIDTH), inner, WIDTH], element)?;
    Ok(())
}

/// A row-major matrix in panels.
fn panels<T: Copy + Default>(values: &[T], columns: usize) -> Vec<[T; WIDTH]> {
    if columns == 0 {
        return Vec::new();
    }
    let rows = values.len() / columns;
    let mut panels = Vec::with_capacity(columns.div_ceil(WIDTH) * rows);
    for start in (0..columns).step_by(WIDTH) {
        let width = WIDTH.min(columns - start);
        for row in values.chunks_exact(columns) {
            let mut cells = [T::default(); WIDTH];
            cells[..width].copy_from_slice(&row[start..start + width]);
            panels.push(cells);
        }
    }
    panels
}
