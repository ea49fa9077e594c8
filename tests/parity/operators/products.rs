//! Cases of matrix products: linear layers with weights of every type, and attention.
//!
//! The sum of `n` products is rounded `n` times in an order that is each engine's own. The errors
//! are independent and bounded by the sum of absolute products, so their sum grows like `√n`: an
//! element's magnitude is `√n Σ |a · b|`.

use t2lc_export::weights::{Matrix, WeightType, store_linear};

use super::distance::Measure;
use super::sketch::{Axis, BATCH, Case, Sketch, TOKENS, count, fixed};

/// Exponents of operands: products of 2⁻²⁴ to 2²², in f16 as well.
const EXPONENTS: (i32, i32) = (-12, 10);

pub(super) fn cases() -> Vec<Case> {
    let texts = [BATCH, TOKENS, fixed(128)];
    vec![
        linear("task encoder", &[BATCH, fixed(12)], 24, WeightType::F32),
        linear("f32 weight", &texts, 40, WeightType::F32),
        linear("f16 weight", &texts, 40, WeightType::F16),
        linear("int8 weight, two groups", &texts, 40, WeightType::Int8),
        linear("int8 weight, one group", &[BATCH, TOKENS, fixed(100)], 40, WeightType::Int8),
        linear("int8 weight, long sum", &[BATCH, TOKENS, fixed(1536)], 48, WeightType::Int8),
        linear("shared head", &[BATCH, fixed(2), fixed(5), fixed(64)], 33, WeightType::F16),
        batched("scores", [TOKENS, fixed(16), TOKENS]),
        batched("context", [TOKENS, TOKENS, fixed(16)]),
    ]
}

/// `left [..., inner] × W` with the weight stored as the exporter does, `W [columns, inner]`.
fn linear(form: &'static str, left: &[Axis], columns: usize, weights: WeightType) -> Case {
    let mut sketch = Sketch::new("MatMul", form);
    let inner = left[left.len() - 1].1;
    let values = sketch.numbers.wide(count(left), EXPONENTS);
    let weight = sketch.numbers.wide(columns * inner, EXPONENTS);
    let x = sketch.floats("x", left, values.clone());
    let matrix = Matrix { name: "w", values: &weight, rows: columns, columns: inner };
    let stored = store_linear(&mut sketch.graph, matrix, weights).unwrap();
    let y = sketch.graph.matmul(x, stored).unwrap();
    // Rounding to 8 bits at most doubles a weight.
    let rows: Vec<&[f32]> = values.chunks_exact(inner).collect();
    let columns: Vec<&[f32]> = weight.chunks_exact(inner).collect();
    sketch.case(Measure::Magnitudes(magnitudes(&rows, &columns)), y)
}

/// `[batch, heads, rows, inner] × [batch, heads, inner, columns]`, both of them inputs.
fn batched(form: &'static str, [rows, inner, columns]: [Axis; 3]) -> Case {
    let heads = fixed(3);
    let (left_axes, right_axes) = ([BATCH, heads, rows, inner], [BATCH, heads, inner, columns]);
    let mut sketch = Sketch::new("MatMul", form);
    let left = sketch.numbers.wide(count(&left_axes), EXPONENTS);
    let right = sketch.numbers.wide(count(&right_axes), EXPONENTS);
    let a = sketch.floats("a", &left_axes, left.clone());
    let b = sketch.floats("b", &right_axes, right.clone());
    let y = sketch.graph.matmul(a, b).unwrap();
    let (inner, columns) = (inner.1, columns.1);
    let matrices = left.chunks_exact(rows.1 * inner).zip(right.chunks_exact(inner * columns));
    let sizes = matrices.flat_map(|(left, right)| {
        let rows: Vec<&[f32]> = left.chunks_exact(inner).collect();
        let transposed: Vec<Vec<f32>> = (0..columns)
            .map(|column| right.iter().skip(column).step_by(columns).copied().collect())
            .collect();
        let columns: Vec<&[f32]> = transposed.iter().map(Vec::as_slice).collect();
        magnitudes(&rows, &columns)
    });
    let measure = Measure::Magnitudes(sizes.collect());
    sketch.case(measure, y)
}

/// `√n Σ |a · b|` of every row with every column, row by row.
fn magnitudes(rows: &[&[f32]], columns: &[&[f32]]) -> Vec<f64> {
    let magnitude = |row: &[f32], column: &[f32]| {
        let products = row.iter().zip(column).map(|(a, b)| (f64::from(*a) * f64::from(*b)).abs());
        products.sum::<f64>() * (row.len() as f64).sqrt()
    };
    rows.iter().flat_map(|row| columns.iter().map(move |column| magnitude(row, column))).collect()
}
