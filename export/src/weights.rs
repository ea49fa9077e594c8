//! How weights are stored in a graph: f32, f16 or int8.
//!
//! Linear weights come in as `W [out, in]` and are stored transposed, `[in, out]`, so that a plain
//! `MatMul` applies them; embedding tables keep `[rows, width]`, and only the rows that are looked
//! up are widened. Biases, norms and other vectors are f32 always, the caller stores them directly.
//!
//! - f16: round to nearest even, then `Cast`. A value beyond ±65504 is refused.
//! - int8: symmetric, one scale per table row, or per 64 inputs of an output channel:
//!   `scale = max|w| / 127`, `q = w / scale` rounded half away from zero and clamped to ±127,
//!   `w ≈ q · scale` as `Cast · Mul`. A group of zeros, or so small that its scale would underflow,
//!   has scale 1 and `q = 0`. Groups bound an error by the largest weight nearby instead of the whole
//!   channel's; the parity tests hold the encoder to a cosine of 0.999 to f32.
//!
//! `DequantizeLinear` is not used: runtimes have had per-channel faults in it.

use std::fmt;
use std::str::FromStr;

use half::f16;
use serde::{Deserialize, Serialize};

use crate::error::ExportError;
use crate::graph::{ElementType, GraphBuilder, Value, signed};

/// Largest magnitude of a quantized weight.
const INT8_MAX: f32 = 127.0;

/// Inputs of an output channel that share a scale, where their number is a multiple of it.
const GROUP: usize = 64;

/// Element type of the large weights in a graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WeightType {
    /// 32-bit float, 4 bytes a weight.
    F32,
    /// Half precision, 2 bytes a weight.
    F16,
    /// Symmetric 8-bit integers with a scale per row or group, 1 byte a weight.
    Int8,
}

impl fmt::Display for WeightType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Int8 => "int8",
        })
    }
}

impl FromStr for WeightType {
    type Err = ExportError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::F32, Self::F16, Self::Int8]
            .into_iter()
            .find(|weight_type| weight_type.to_string() == text)
            .ok_or_else(|| ExportError::UnknownWeightType { got: text.to_owned() })
    }
}

/// A named row-major matrix.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a> {
    /// Name its initializers get.
    pub name: &'a str,
    /// Elements, `rows * columns` of them.
    pub values: &'a [f32],
    /// Number of rows: output channels, or entries of a table.
    pub rows: usize,
    /// Number of columns: input channels, or the width of an entry.
    pub columns: usize,
}

/// A matrix in 8 bits: element `[r, c]` is `values[r * columns + c] * scales[r]`.
#[derive(Debug, Clone, PartialEq)]
pub struct QuantizedRows {
    /// Quantized elements, row-major.
    pub values: Vec<i8>,
    /// One positive scale per row.
    pub scales: Vec<f32>,
}

/// Stores `W [out, in]`; the result is an f32 value `[in, out]` for
/// [`GraphBuilder::matmul`].
///
/// # Errors
/// A length that does not fit, a weight that is not finite in the element type, a name in use.
pub fn store_linear(
    graph: &mut GraphBuilder,
    matrix: Matrix<'_>,
    weights: WeightType,
) -> Result<Value, ExportError> {
    matrix.check()?;
    let Matrix { name, values, rows, columns } = matrix;
    let shape = [columns, rows];
    match weights {
        WeightType::F32 => graph.initializer_f32(name, &shape, &transposed(values, rows, columns)),
        WeightType::F16 => {
            let halves = transposed(&matrix.to_f16()?, rows, columns);
            let stored = graph.initializer_f16(name, &shape, &halves)?;
            graph.cast(stored, ElementType::F32)
        }
        WeightType::Int8 => {
            let group = if columns % GROUP == 0 { GROUP } else { columns };
            let groups = columns / group;
            let quantized =
                quantize_rows(Matrix { rows: rows * groups, columns: group, ..matrix })?;
            let bytes = transposed(&quantized.values, rows, columns);
            let stored = graph.initializer_i8(name, &[groups, group, rows], &bytes)?;
            let scales = transposed(&quantized.scales, rows, groups);
            let scale_name = format!("{name}.scale");
            let scale = graph.initializer_f32(&scale_name, &[groups, 1, rows], &scales)?;
            let wide = graph.cast(stored, ElementType::F32)?;
            let grouped = graph.mul(wide, scale)?;
            graph.reshape(grouped, &[signed("Reshape", columns)?, signed("Reshape", rows)?])
        }
    }
}

/// Stores an embedding table and looks up the rows `ids`, of any shape: f32 `[ids…, columns]`.
///
/// # Errors
/// As [`store_linear`]; also if `ids` is not int64.
pub fn gather_rows(
    graph: &mut GraphBuilder,
    table: Matrix<'_>,
    ids: Value,
    weights: WeightType,
) -> Result<Value, ExportError> {
    table.check()?;
    let shape = [table.rows, table.columns];
    match weights {
        WeightType::F32 => {
            let stored = graph.initializer_f32(table.name, &shape, table.values)?;
            graph.gather(stored, ids)
        }
        WeightType::F16 => {
            let stored = graph.initializer_f16(table.name, &shape, &table.to_f16()?)?;
            let rows = graph.gather(stored, ids)?;
            graph.cast(rows, ElementType::F32)
        }
        WeightType::Int8 => {
            let quantized = quantize_rows(table)?;
            let stored = graph.initializer_i8(table.name, &shape, &quantized.values)?;
            let scale_name = format!("{}.scale", table.name);
            let scales = graph.initializer_f32(&scale_name, &[table.rows, 1], &quantized.scales)?;
            let rows = graph.gather(stored, ids)?;
            let scale = graph.gather(scales, ids)?;
            let wide = graph.cast(rows, ElementType::F32)?;
            graph.mul(wide, scale)
        }
    }
}

/// Quantizes each row on its own, as the module documentation says.
///
/// # Errors
/// A length that does not fit, NaN or infinity.
pub fn quantize_rows(matrix: Matrix<'_>) -> Result<QuantizedRows, ExportError> {
    matrix.check()?;
    let mut values = Vec::with_capacity(matrix.values.len());
    let mut scales = Vec::with_capacity(matrix.rows);
    for row in matrix.values.chunks_exact(matrix.columns) {
        let largest = row.iter().fold(0.0_f32, |max, weight| max.max(weight.abs()));
        let scale = largest / INT8_MAX;
        if scale.is_normal() {
            values.extend(row.iter().map(|weight| round_to_i8(weight / scale)));
            scales.push(scale);
        } else {
            values.resize(values.len() + row.len(), 0);
            scales.push(1.0);
        }
    }
    Ok(QuantizedRows { values, scales })
}

#[allow(clippy::cast_possible_truncation, reason = "integral and clamped to ±127")]
fn round_to_i8(value: f32) -> i8 {
    value.round().clamp(-INT8_MAX, INT8_MAX) as i8
}

/// `[rows, columns]` to `[columns, rows]`; the length is `rows * columns`.
fn transposed<T: Copy>(values: &[T], rows: usize, columns: usize) -> Vec<T> {
    let mut result = Vec::with_capacity(values.len());
    for column in 0..columns {
        result.extend((0..rows).map(|row| values[row * columns + column]));
    }
    result
}

impl Matrix<'_> {
    fn check(&self) -> Result<(), ExportError> {
        let expected = self.rows.saturating_mul(self.columns);
        if expected == 0 || self.values.len() != expected {
            return Err(ExportError::TensorLength {
                name: self.name.to_owned(),
                expected,
                got: self.values.len(),
            });
        }
        match self.values.iter().position(|weight| !weight.is_finite()) {
            Some(index) => Err(self.non_finite(index, "f32")),
            None => Ok(()),
        }
    }

    fn to_f16(self) -> Result<Vec<f16>, ExportError> {
        let halves: Vec<f16> = self.values.iter().map(|weight| f16::from_f32(*weight)).collect();
        match halves.iter().position(|half| !half.is_finite()) {
            Some(index) => Err(self.non_finite(index, "f16")),
            None => Ok(halves),
        }
    }

    fn non_finite(&self, index: usize, element: &'static str) -> ExportError {
        ExportError::NonFinite { name: self.name.to_owned(), index, element }
    }
}

#[cfg(test)]
mod tests {
    use super::{Matrix, WeightType, gather_rows, quantize_rows, store_linear};
    use crate::error::ExportError;
    use crate::graph::{Dim, ElementType, GraphBuilder};

    fn matrix(values: &[f32], rows: usize) -> Matrix<'_> {
        Matrix { name: "w", values, rows, columns: values.len() / rows }
    }

    #[test]
    fn each_row_has_its_own_scale_and_ties_round_away() {
        let values = [127.0, -2.5, 2.5, 0.49, 1.0, -0.4, 0.25, 0.0];
        let quantized = quantize_rows(matrix(&values, 2)).unwrap();
        assert_eq!(quantized.scales, [1.0, 1.0 / 127.0]);
        assert_eq!(quantized.values, [127, -3, 3, 0, 127, -51, 32, 0]);
    }

    #[test]
    fn rows_of_zeros_or_nearly_so_become_zeros() {
        let values = [0.0, -0.0, f32::MIN_POSITIVE, -1e-40];
        let quantized = quantize_rows(matrix(&values, 2)).unwrap();
        assert_eq!(quantized.scales, [1.0, 1.0]);
        assert_eq!(quantized.values, [0; 4]);
    }

    #[test]
    fn the_error_is_at_most_half_a_step() {
        let values: Vec<f32> = (0..600_u16).map(|i| (f32::from(i) * 0.7).sin() * 3.0).collect();
        let quantized = quantize_rows(matrix(&values, 6)).unwrap();
        for (i, (weight, q)) in values.iter().zip(&quantized.values).enumerate() {
            let scale = quantized.scales[i / 100];
            assert!((weight - f32::from(*q) * scale).abs() <= scale * 0.500_01);
        }
    }

    #[test]
    fn weights_that_are_not_finite_are_refused() {
        for weights in [WeightType::F32, WeightType::F16, WeightType::Int8] {
            let mut graph = GraphBuilder::new();
            let error = store_linear(&mut graph, matrix(&[1.0, f32::NAN], 1), weights);
            assert!(matches!(error, Err(ExportError::NonFinite { index: 1, .. })));
        }
        let mut graph = GraphBuilder::new();
        let error = store_linear(&mut graph, matrix(&[1.0, 7e4], 1), WeightType::F16);
        assert!(matches!(error, Err(ExportError::NonFinite { index: 1, element: "f16", .. })));
        assert!(quantize_rows(Matrix { name: "w", values: &[], rows: 0, columns: 0 }).is_err());
    }

    #[test]
    fn stored_weights_are_f32_and_transposed() {
        for weights in [WeightType::F32, WeightType::F16, WeightType::Int8] {
            let mut graph = GraphBuilder::new();
            let linear = store_linear(&mut graph, matrix(&[0.5; 6], 2), weights).unwrap();
            assert_eq!(graph.shape(linear).unwrap(), [Dim::Fixed(3), Dim::Fixed(2)]);
            let ids = [Dim::Symbol("batch"), Dim::Symbol("tokens")];
            let ids = graph.input("ids", ElementType::I64, &ids).unwrap();
            let table = Matrix { name: "table", ..matrix(&[0.5; 6], 2) };
            let rows = gather_rows(&mut graph, table, ids, weights).unwrap();
            let expected = [Dim::Symbol("batch"), Dim::Symbol("tokens"), Dim::Fixed(3)];
            assert_eq!(graph.shape(rows).unwrap(), expected);
        }
    }

    #[test]
    fn names_round_trip() {
        for name in ["f32", "f16", "int8"] {
            let parsed: WeightType = name.parse().unwrap();
            assert_eq!(parsed.to_string(), name);
            assert_eq!(serde_json::to_string(&parsed).unwrap(), format!("\"{name}\""));
        }
        assert!("int4".parse::<WeightType>().is_err());
    }
}
