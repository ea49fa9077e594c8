//! Cases of the operators that move elements or convert them: `Cast`, `Gather`, `Reshape`, `Shape`,
//! `Slice`, `Transpose`, `Unsqueeze`.

use t2lc_export::graph::{ElementType, Value};
use t2lc_export::weights::{Matrix, WeightType, gather_rows};

use super::distance::Measure;
use super::sketch::{Axis, BATCH, Case, Sketch, TOKENS, count, fixed};

/// All magnitudes of f32, for elements that nothing is computed with.
const ANY: (i32, i32) = (-149, 126);

/// Integers on both sides of what f32 holds exactly, ties among them.
const INTEGERS: [i64; 14] = [
    0,
    1,
    -1,
    255,
    65_537,
    (1 << 24) - 1,
    (1 << 24) + 1,
    (1 << 24) + 3,
    -(1 << 24) - 1,
    (1 << 40) + (1 << 16) - 1,
    (1 << 53) + 1,
    -(1 << 62) - (1 << 38),
    i64::MAX,
    i64::MIN,
];

pub(super) fn cases() -> Vec<Case> {
    let mut cases = vec![
        cast_integers(),
        rows("Cast", "f16 rows", WeightType::F16),
        rows("Cast", "int8 rows", WeightType::Int8),
        rows("Gather", "f32 rows", WeightType::F32),
        rows("Gather", "f16 rows", WeightType::F16),
        rows("Gather", "int8 rows and scales", WeightType::Int8),
        sizes("Gather", "a size of a shape", 1),
        sizes("Shape", "number of texts", 0),
        sizes("Shape", "number of tokens", 1),
        sizes("Slice", "to a size", 1),
    ];
    cases.extend(reshapes());
    cases.extend(slices());
    cases.extend(transposes());
    cases.extend(unsqueezes());
    cases
}

fn cast_integers() -> Case {
    let mut sketch = Sketch::new("Cast", "int64 input");
    let x = sketch.integers("x", &[BATCH, TOKENS], INTEGERS.to_vec());
    let y = sketch.graph.cast(x, ElementType::F32).unwrap();
    sketch.case(Measure::Steps, y)
}

/// Rows of a table stored as the exporter does, for ids `[batch, tokens]`: `Gather`, then `Cast` of
/// narrow ones, then `Mul` by the scales of int8.
fn rows(operator: &'static str, form: &'static str, weights: WeightType) -> Case {
    const ROWS: u32 = 9;
    const WIDTH: usize = 24;
    let mut sketch = Sketch::new(operator, form);
    let exponents = if weights == WeightType::F32 { ANY } else { (-26, 14) };
    let mut table = sketch.numbers.wide(ROWS as usize * WIDTH, exponents);
    // Largest, smallest and smallest normal numbers of f16, and zeros.
    let halves = [65_504.0, -65_504.0, 2_f32.powi(-24), -3.0 * 2_f32.powi(-24), 2_f32.powi(-14)];
    for (row, value) in table.chunks_exact_mut(WIDTH).zip(halves) {
        row[0] = value;
        row[1] = -0.0;
    }
    let ids = (0..count(&[BATCH, TOKENS])).map(|_| i64::from(sketch.numbers.below(ROWS)));
    let ids = ids.collect();
    let ids = sketch.integers("ids", &[BATCH, TOKENS], ids);
    let matrix = Matrix { name: "table", values: &table, rows: ROWS as usize, columns: WIDTH };
    let y = gather_rows(&mut sketch.graph, matrix, ids, weights).unwrap();
    sketch.case(Measure::Steps, y)
}

/// As many rows of a table as the ids `[batch, tokens]` have in dimension `axis`, which is seen in
/// the sum with an input of that many rows.
fn sizes(operator: &'static str, form: &'static str, axis: usize) -> Case {
    let mut sketch = Sketch::new(operator, form);
    let dimension = [BATCH, TOKENS][axis];
    let ids = sketch.integers("ids", &[BATCH, TOKENS], INTEGERS.to_vec());
    let values = sketch.numbers.wide(dimension.1 * 4, ANY);
    let x = sketch.floats("x", &[dimension, fixed(4)], values);
    let table = sketch.numbers.wide(11 * 4, (-149, 60));
    let table = sketch.constant(&[11, 4], &table);
    let graph = &mut sketch.graph;
    let shape = graph.shape_of(ids).unwrap();
    let place = graph.indices(&[i64::try_from(axis).unwrap()]).unwrap();
    let size = graph.gather(shape, place).unwrap();
    let part = graph.slice_to(table, 0, size, dimension.0).unwrap();
    let y = graph.add(x, part).unwrap();
    sketch.case(Measure::Steps, y)
}

/// An input of these dimensions and any elements.
fn any(operator: &'static str, form: &'static str, axes: &[Axis]) -> (Sketch, Value) {
    let mut sketch = Sketch::new(operator, form);
    let values = sketch.numbers.wide(count(axes), ANY);
    let x = sketch.floats("x", axes, values);
    (sketch, x)
}

fn reshapes() -> Vec<Case> {
    let forms: [(&'static str, &[Axis], &[i64]); 6] = [
        ("heads apart", &[BATCH, TOKENS, fixed(48)], &[0, 0, 3, 16]),
        ("heads together", &[BATCH, TOKENS, fixed(3), fixed(16)], &[0, 0, 48]),
        ("matrices", &[BATCH, fixed(5), fixed(48)], &[0, 5, 3, 16]),
        ("ranks", &[BATCH, fixed(2), fixed(5), fixed(3), fixed(8)], &[0, 2, 15, 8]),
        ("what is left, in the middle", &[BATCH, fixed(5), fixed(48)], &[0, -1, 16]),
        ("what is left, at the end", &[BATCH, TOKENS, fixed(48)], &[0, 0, 6, -1]),
    ];
    let case = |(form, axes, target): (&'static str, &[Axis], &[i64])| {
        let (mut sketch, x) = any("Reshape", form, axes);
        let y = sketch.graph.reshape(x, target).unwrap();
        sketch.case(Measure::Steps, y)
    };
    forms.into_iter().map(case).collect()
}

/// Name, shape, axis, first and last entry of a slice.
type SliceForm<'a> = (&'static str, &'a [Axis], usize, (usize, usize));

fn slices() -> Vec<Case> {
    let forms: [SliceForm<'_>; 6] = [
        ("rows of a module", &[BATCH, fixed(10), fixed(48)], 1, (5, 10)),
        ("first matrix", &[BATCH, fixed(5), fixed(96)], 2, (0, 40)),
        ("second matrix", &[BATCH, fixed(5), fixed(96)], 2, (40, 96)),
        ("one of two", &[BATCH, fixed(2), fixed(15), fixed(48)], 1, (1, 2)),
        ("rows of ranks", &[BATCH, fixed(2), fixed(15), fixed(48)], 2, (3, 9)),
        ("columns that are used", &[BATCH, fixed(5), fixed(3), fixed(48)], 3, (0, 30)),
    ];
    let case =
        |(form, axes, axis, (start, end)): (&'static str, &[Axis], usize, (usize, usize))| {
            let (mut sketch, x) = any("Slice", form, axes);
            let y = sketch.graph.slice(x, axis, start, end).unwrap();
            sketch.case(Measure::Steps, y)
        };
    forms.into_iter().map(case).collect()
}

fn transposes() -> Vec<Case> {
    let forms: [(&'static str, &[Axis], &[usize]); 3] = [
        ("heads first", &[BATCH, TOKENS, fixed(3), fixed(16)], &[0, 2, 1, 3]),
        ("keys", &[BATCH, TOKENS, fixed(3), fixed(16)], &[0, 2, 3, 1]),
        ("matrices", &[BATCH, fixed(5), fixed(3), fixed(16)], &[0, 1, 3, 2]),
    ];
    let case = |(form, axes, order): (&'static str, &[Axis], &[usize])| {
        let (mut sketch, x) = any("Transpose", form, axes);
        let y = sketch.graph.transpose(x, order).unwrap();
        sketch.case(Measure::Steps, y)
    };
    forms.into_iter().map(case).collect()
}

fn unsqueezes() -> Vec<Case> {
    let forms: [(&'static str, &[Axis], usize); 6] = [
        ("mask", &[BATCH, TOKENS], 1),
        ("mask, once more", &[BATCH, fixed(1), TOKENS], 1),
        ("mask of columns", &[BATCH, TOKENS], 2),
        ("task", &[BATCH, fixed(48)], 1),
        ("trunk", &[BATCH, fixed(5), fixed(48)], 1),
        ("ranks", &[BATCH, fixed(2), fixed(5), fixed(48)], 3),
    ];
    let case = |(form, axes, axis): (&'static str, &[Axis], usize)| {
        let (mut sketch, x) = any("Unsqueeze", form, axes);
        let y = sketch.graph.unsqueeze(x, axis).unwrap();
        sketch.case(Measure::Steps, y)
    };
    forms.into_iter().map(case).collect()
}
