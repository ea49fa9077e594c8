//! How far an adapter's weights have moved: `‖ΔW_new − ΔW_old‖_F / ‖ΔW_old‖_F` over all tensors.
//!
//! In: two adapter files, not trusted. Out: the ratio, computed in f64 from A `[rank, in]` and
//! B `[out, rank]` without forming ΔW `[out, in]`: with `⟨·,·⟩` the sum of the products of all
//! elements, `⟨B₁A₁, B₂A₂⟩ = ⟨B₁ᵀB₂, A₁A₂ᵀ⟩`, two matrices of rank × rank. A target that only one
//! side has counts as zero on the other.

use std::collections::BTreeMap;

use safetensors::{Dtype, SafeTensors};
use t2lc_runtime::compile::Format;
use t2lc_runtime::gguf::Gguf;
use t2lc_runtime::quantize::{Quantization, dequantize};

use super::artifact::split_peft;

/// Largest rank that is believed, that of a bundle's manifest; two matrices take its square.
const MAX_RANK: usize = 4096;

/// Why two adapters cannot be compared.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeltaError {
    /// A file that is no adapter of its form.
    #[error("not a {format} adapter: {reason}")]
    Adapter {
        /// The form.
        format: Format,
        /// What is wrong.
        reason: String,
    },
    /// Matrices that do not fit each other.
    #[error("the matrices of `{target}` do not fit: {reason}")]
    Shape {
        /// The weight that is adapted.
        target: String,
        /// What is wrong.
        reason: String,
    },
    /// An old adapter that changes nothing has no relative change.
    #[error("the old adapter changes nothing")]
    Zero,
    /// Values that are not finite, or whose squares are not.
    #[error("the change is not finite")]
    NotFinite,
}

/// A matrix, row-major.
struct Matrix {
    rows: usize,
    columns: usize,
    values: Vec<f32>,
}

/// A and B of one weight; `ΔW = factor · B A`.
struct Pair {
    a: Matrix,
    b: Matrix,
    factor: f64,
}

/// The adapted weights by name.
type Pairs = BTreeMap<String, Pair>;

/// `‖ΔW_new − ΔW_old‖_F / ‖ΔW_old‖_F` of two adapters.
///
/// # Errors
/// Files that are no adapters of their form, matrices that do not fit, an old adapter of zeros.
pub fn relative_change(
    (old_format, old): (Format, &[u8]),
    (new_format, new): (Format, &[u8]),
) -> Result<f64, DeltaError> {
    let (old, new) = (pairs(old_format, old)?, pairs(new_format, new)?);
    let (mut squared_old, mut squared_new, mut cross) = (0.0, 0.0, 0.0);
    for (target, pair) in &old {
        squared_old += product(target, pair, pair)?;
        if let Some(other) = new.get(target) {
            cross += product(target, pair, other)?;
        }
    }
    for (target, pair) in &new {
        squared_new += product(target, pair, pair)?;
    }
    if squared_old == 0.0 {
        return Err(DeltaError::Zero);
    }
    // Rounding may leave equal adapters a little below zero.
    let squared = (squared_new - 2.0 * cross + squared_old).max(0.0);
    let change = (squared / squared_old).sqrt();
    if change.is_finite() { Ok(change) } else { Err(DeltaError::NotFinite) }
}

/// `⟨B₁A₁, B₂A₂⟩`.
fn product(target: &str, one: &Pair, two: &Pair) -> Result<f64, DeltaError> {
    if one.a.columns != two.a.columns || one.b.rows != two.b.rows {
        let size = |pair: &Pair| format!("{} × {}", pair.b.rows, pair.a.columns);
        let reason = format!("{} and {}", size(one), size(two));
        return Err(DeltaError::Shape { target: target.into(), reason });
    }
    let (rank_one, rank_two) = (one.a.rows, two.a.rows);
    let mut of_b = vec![0.0_f64; rank_one * rank_two];
    let rows = one.b.values.chunks_exact(rank_one).zip(two.b.values.chunks_exact(rank_two));
    for (row_one, row_two) in rows {
        for (value, sums) in row_one.iter().zip(of_b.chunks_exact_mut(rank_two)) {
            for (other, sum) in row_two.iter().zip(sums) {
                *sum += f64::from(*value) * f64::from(*other);
            }
        }
    }
    let mut total = 0.0;
    for (row, sums) in one.a.values.chunks_exact(one.a.columns).zip(of_b.chunks_exact(rank_two)) {
        for (other, of_b) in two.a.values.chunks_exact(two.a.columns).zip(sums) {
            let dot: f64 = row.iter().zip(other).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum();
            total += of_b * dot;
        }
    }
    Ok(total * one.factor * two.factor)
}

/// The pairs of an adapter file, every matrix in the order of the file.
fn pairs(format: Format, bytes: &[u8]) -> Result<Pairs, DeltaError> {
    let fail = |reason: String| DeltaError::Adapter { format, reason };
    let (matrices, alpha) = match format {
        Format::Peft => (peft_matrices(bytes).map_err(fail)?, None),
        _ => gguf_matrices(bytes).map_err(fail)?,
    };
    let mut sides: BTreeMap<String, [Option<Matrix>; 2]> = BTreeMap::new();
    for (name, matrix) in matrices {
        let name = name.strip_suffix(".weight").filter(|_| format == Format::Peft).unwrap_or(&name);
        let split = name.rsplit_once('.').and_then(|(target, side)| match side {
            "lora_a" | "lora_A" => Some((target, 0)),
            "lora_b" | "lora_B" => Some((target, 1)),
            _ => None,
        });
        let (target, side) = split.ok_or_else(|| fail(format!("`{name}` is no LoRA matrix")))?;
        sides.entry(target.to_owned()).or_default()[side] = Some(matrix);
    }
    let mut pairs = Pairs::new();
    for (target, sides) in sides {
        let shape = |reason: String| DeltaError::Shape { target: target.clone(), reason };
        let [Some(a), Some(b)] = sides else {
            return Err(shape("one of the two is missing".into()));
        };
        if a.rows != b.columns || a.rows == 0 || a.columns == 0 {
            return Err(shape(format!("lora_a has rank {}, lora_b {}", a.rows, b.columns)));
        }
        if a.rows > MAX_RANK {
            return Err(shape(format!("rank {}, at most {MAX_RANK} is read", a.rows)));
        }
        let factor = alpha.map_or(1.0, |alpha| f64::from(alpha) / a.rows as f64);
        pairs.insert(target, Pair { a, b, factor });
    }
    Ok(pairs)
}

type Named = Vec<(String, Matrix)>;

fn gguf_matrices(bytes: &[u8]) -> Result<(Named, Option<f32>), String> {
    let gguf = Gguf::parse(bytes).map_err(|e| e.to_string())?;
    let mut matrices = Named::new();
    for tensor in gguf.tensors() {
        let name = &tensor.name;
        let stored = Quantization::ALL.into_iter().find(|q| q.ggml_type() == tensor.ggml_type);
        let stored = stored.ok_or_else(|| format!("`{name}` is {}", tensor.ggml_type.name()))?;
        let values = dequantize(stored, gguf.data(tensor)).map_err(|e| e.to_string())?;
        // ne order: the length of a row comes first.
        let &[columns, rows] = &tensor.dimensions[..] else {
            return Err(format!("`{name}` has the dimensions {:?}", tensor.dimensions));
        };
        matrices.push((name.clone(), matrix(name, rows, columns, values)?));
    }
    let alpha = gguf.get("adapter.lora.alpha").and_then(t2lc_runtime::gguf::Value::as_f32);
    // To llama.cpp an alpha of 0 is none.
    Ok((matrices, alpha.filter(|alpha| *alpha != 0.0)))
}

fn peft_matrices(bytes: &[u8]) -> Result<Named, String> {
    let (weights, _) = split_peft(bytes).ok_or("its weights are damaged")?;
    let tensors = SafeTensors::deserialize(weights).map_err(|e| e.to_string())?;
    let mut matrices = Named::new();
    for (name, view) in tensors.iter() {
        let stored = match view.dtype() {
            Dtype::F32 => Quantization::F32,
            Dtype::F16 => Quantization::F16,
            Dtype::BF16 => Quantization::Bf16,
            other => return Err(format!("`{name}` is {other:?}")),
        };
        let &[rows, columns] = view.shape() else {
            return Err(format!("`{name}` has the shape {:?}", view.shape()));
        };
        let values = dequantize(stored, view.data()).map_err(|e| e.to_string())?;
        matrices.push((name.to_owned(), matrix(name, rows as u64, columns as u64, values)?));
    }
    Ok(matrices)
}

fn matrix(name: &str, rows: u64, columns: u64, values: Vec<f32>) -> Result<Matrix, String> {
    if rows.checked_mul(columns) != Some(values.len() as u64) {
        return Err(format!("`{name}` has {} values, expected {rows} × {columns}", values.len()));
    }
    let size = |size: u64| usize::try_from(size).map_err(|e| e.to_string());
    Ok(Matrix { rows: size(rows)?, columns: size(columns)?, values })
}

#[cfg(test)]
mod tests {
    use t2lc_runtime::compile::Format;
    use t2lc_runtime::gguf::{GgmlType, GgufWriter, Value};

    use super::{DeltaError, relative_change};

    /// Numbers without a pattern, from -1 to 1.
    fn numbers(seed: u32, count: usize) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            f32::from(u16::try_from(state >> 16).unwrap()) / 32768.0 - 1.0
        };
        (0..count).map(|_| next()).collect()
    }

    /// An adapter of one weight of 5 × 7; `alpha` equals the rank.
    fn adapter(rank: u8, a: &[f32], b: &[f32]) -> Vec<u8> {
        let bytes =
            |values: &[f32]| -> Vec<u8> { values.iter().flat_map(|v| v.to_le_bytes()).collect() };
        let mut writer = GgufWriter::new();
        writer.metadata("adapter.lora.alpha", Value::F32(f32::from(rank))).unwrap();
        let rank = u64::from(rank);
        writer.tensor("w.lora_a", &[7, rank], GgmlType::F32, bytes(a)).unwrap();
        writer.tensor("w.lora_b", &[rank, 5], GgmlType::F32, bytes(b)).unwrap();
        writer.finish().unwrap()
    }

    /// `B A` in f64, 5 × 7.
    fn dense(rank: usize, a: &[f32], b: &[f32]) -> Vec<f64> {
        let element = |row: usize, column: usize| {
            (0..rank).map(|k| f64::from(b[row * rank + k]) * f64::from(a[k * 7 + column])).sum()
        };
        (0..35).map(|index| element(index / 7, index % 7)).collect()
    }

    fn squares(values: impl Iterator<Item = f64>) -> f64 {
        values.map(|value| value * value).sum()
    }

    #[test]
    fn the_change_is_that_of_the_dense_matrices() {
        let (a1, b1) = (numbers(1, 2 * 7), numbers(2, 5 * 2));
        let (a2, b2) = (numbers(3, 3 * 7), numbers(4, 5 * 3));
        let (old, new) = (adapter(2, &a1, &b1), adapter(3, &a2, &b2));
        let (w1, w2) = (dense(2, &a1, &b1), dense(3, &a2, &b2));
        let difference = squares(w1.iter().zip(&w2).map(|(x, y)| y - x));
        let expected = (difference / squares(w1.iter().copied())).sqrt();
        let got = relative_change((Format::Gguf, &old), (Format::Gguf, &new)).unwrap();
        assert!((got - expected).abs() < 1e-12 * expected, "{got} {expected}");
        let same = relative_change((Format::Gguf, &old), (Format::Gguf, &old)).unwrap();
        assert!(same < 1e-7, "{same}");
        let doubled: Vec<f32> = b1.iter().map(|v| 2.0 * v).collect();
        let twice = adapter(2, &a1, &doubled);
        let got = relative_change((Format::Gguf, &old), (Format::Gguf, &twice)).unwrap();
        assert!((got - 1.0).abs() < 1e-12, "{got}");
    }

    #[test]
    fn what_cannot_be_compared_says_why() {
        let a = numbers(1, 7);
        let (old, zero) = (adapter(1, &a, &numbers(2, 5)), adapter(1, &a, &[0.0; 5]));
        let change = |old: &[u8], new: &[u8]| {
            relative_change((Format::Gguf, old), (Format::Gguf, new)).unwrap_err()
        };
        assert!(matches!(change(&zero, &old), DeltaError::Zero));
        assert!(matches!(change(b"x", &old), DeltaError::Adapter { .. }));
        let rank = 5000_u64;
        let mut huge = GgufWriter::new();
        let zeros = || vec![0; 4 * 5000];
        huge.tensor("w.lora_a", &[1, rank], GgmlType::F32, zeros()).unwrap();
        huge.tensor("w.lora_b", &[rank, 1], GgmlType::F32, zeros()).unwrap();
        let error = change(&huge.finish().unwrap(), &old);
        assert!(matches!(&error, DeltaError::Shape { reason, .. } if reason.contains("at most")));
        let error = relative_change((Format::Peft, b"x"), (Format::Gguf, &old)).unwrap_err();
        assert!(matches!(error, DeltaError::Adapter { .. }));
        let got = relative_change((Format::Gguf, &old), (Format::Gguf, &zero)).unwrap();
        assert!((got - 1.0).abs() < 1e-12, "{got}");
    }
}
