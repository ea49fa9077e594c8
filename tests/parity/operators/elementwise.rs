//! Cases of the operators that treat every element on its own: all forms in which the exporter
//! broadcasts two operands, square roots, and the functions that its activations are made of.

use t2lc_export::error::ExportError;
use t2lc_export::graph::{GraphBuilder, Value};

use super::distance::Measure;
use super::sketch::{Axis, BATCH, Case, Sketch, TINY, TOKENS, count, fixed};

type Operation = fn(&mut GraphBuilder, Value, Value) -> Result<Value, ExportError>;

/// Operators of two operands, and the exponents of those. Sums and maxima have subnormal operands,
/// products subnormal results; divisors have reciprocals that are normal, because tract computes
/// them.
const BINARY: [(&str, Operation, (i32, i32)); 5] = [
    ("Add", GraphBuilder::add, (-149, 100)),
    ("Sub", GraphBuilder::sub, (-149, 100)),
    ("Mul", GraphBuilder::mul, (-75, 60)),
    ("Div", GraphBuilder::div, (-60, 60)),
    ("Max", GraphBuilder::max, (-149, 126)),
];

/// Which operand is a constant of the graph; the others are its inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Constant {
    Neither,
    Left,
    Right,
}

struct Form {
    name: &'static str,
    left: &'static [Axis],
    right: &'static [Axis],
    constant: Constant,
}

const FORMS: &[Form] = &[
    Form {
        name: "same shape",
        left: &[BATCH, TOKENS, fixed(48)],
        right: &[BATCH, TOKENS, fixed(48)],
        constant: Constant::Neither,
    },
    Form {
        name: "bias of a linear layer",
        left: &[BATCH, TOKENS, fixed(48)],
        right: &[fixed(48)],
        constant: Constant::Right,
    },
    Form {
        name: "positions",
        left: &[BATCH, TOKENS, fixed(48)],
        right: &[TOKENS, fixed(48)],
        constant: Constant::Neither,
    },
    Form {
        name: "mask of the scores",
        left: &[BATCH, fixed(3), TOKENS, TOKENS],
        right: &[BATCH, fixed(1), fixed(1), TOKENS],
        constant: Constant::Neither,
    },
    Form {
        name: "mask of the tokens",
        left: &[BATCH, TOKENS, fixed(48)],
        right: &[BATCH, TOKENS, fixed(1)],
        constant: Constant::Neither,
    },
    Form {
        name: "one number a text",
        left: &[BATCH, fixed(48)],
        right: &[BATCH, fixed(1)],
        constant: Constant::Neither,
    },
    Form {
        name: "task and layers",
        left: &[BATCH, fixed(1), fixed(48)],
        right: &[fixed(1), fixed(5), fixed(48)],
        constant: Constant::Right,
    },
    Form {
        name: "trunk and output embeddings",
        left: &[BATCH, fixed(1), fixed(5), fixed(48)],
        right: &[fixed(1), fixed(2), fixed(5), fixed(48)],
        constant: Constant::Right,
    },
    Form {
        name: "rank vectors",
        left: &[BATCH, fixed(2), fixed(5), fixed(1), fixed(48)],
        right: &[fixed(1), fixed(1), fixed(1), fixed(3), fixed(48)],
        constant: Constant::Right,
    },
    Form {
        name: "statistics of matrices",
        left: &[BATCH, fixed(5), fixed(3), fixed(48)],
        right: &[fixed(1), fixed(5), fixed(3), fixed(48)],
        constant: Constant::Right,
    },
    Form {
        name: "scalar",
        left: &[BATCH, TOKENS, fixed(48)],
        right: &[],
        constant: Constant::Right,
    },
    Form {
        name: "from a scalar",
        left: &[],
        right: &[BATCH, fixed(1), fixed(1), TOKENS],
        constant: Constant::Left,
    },
];

/// Shape of the operands of functions, enough for every magnitude.
const MANY: [Axis; 3] = [BATCH, TOKENS, fixed(300)];

/// Of the functions whose values are at most 1.
const OF_ONE: Measure = Measure::Relative { floor: 1.0 };

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (operator, operation, exponents) in BINARY {
        cases.extend(FORMS.iter().map(|form| binary(operator, operation, exponents, form)));
    }
    cases.extend([square(), root("many", &MANY), root("norm of a text", &[BATCH, fixed(1)])]);
    cases.extend([erf(), gelu(), sigmoid(), silu()]);
    cases
}

fn binary(
    operator: &'static str,
    operation: Operation,
    exponents: (i32, i32),
    form: &Form,
) -> Case {
    let mut sketch = Sketch::new(operator, form.name);
    let left = operand(&mut sketch, "left", form.left, exponents, form.constant == Constant::Left);
    let right =
        operand(&mut sketch, "right", form.right, exponents, form.constant == Constant::Right);
    let y = operation(&mut sketch.graph, left, right).unwrap();
    sketch.case(Measure::Steps, y)
}

fn operand(
    sketch: &mut Sketch,
    name: &'static str,
    axes: &[Axis],
    exponents: (i32, i32),
    is_constant: bool,
) -> Value {
    let values = sketch.numbers.wide(count(axes), exponents);
    if !is_constant {
        return sketch.floats(name, axes, values);
    }
    let shape: Vec<usize> = axes.iter().map(|(_, size)| *size).collect();
    sketch.constant(&shape, &values)
}

/// A value times itself, which engines may know a way of their own for.
fn square() -> Case {
    let mut sketch = Sketch::new("Mul", "square");
    let axes = [BATCH, fixed(48)];
    let values = sketch.numbers.wide(count(&axes), (-75, 60));
    let x = sketch.floats("x", &axes, values);
    let y = sketch.graph.mul(x, x).unwrap();
    sketch.case(Measure::Steps, y)
}

fn root(form: &'static str, axes: &[Axis]) -> Case {
    let mut sketch = Sketch::new("Sqrt", form);
    let mut values = sketch.numbers.wide(count(axes), (-149, 126));
    for value in &mut values {
        *value = value.abs();
    }
    values[0] = 0.0;
    let x = sketch.floats("x", axes, values);
    let y = sketch.graph.sqrt(x).unwrap();
    sketch.case(Measure::Steps, y)
}

/// Every other number wide, from subnormal to ±32, the others evenly spread over ±20.
fn arguments(sketch: &mut Sketch) -> (Value, Vec<f32>) {
    let wide = sketch.numbers.wide(count(&MANY), (-149, 4));
    let even = sketch.numbers.even(count(&MANY), 20.0);
    let pairs = wide.iter().zip(&even).enumerate();
    let values: Vec<f32> =
        pairs.map(|(i, (wide, even))| if i % 2 == 0 { *wide } else { *even }).collect();
    (sketch.floats("x", &MANY, values.clone()), values)
}

fn erf() -> Case {
    let mut sketch = Sketch::new("Erf", "alone");
    let (x, _) = arguments(&mut sketch);
    let y = sketch.graph.erf(x).unwrap();
    sketch.case(OF_ONE, y)
}

fn sigmoid() -> Case {
    let mut sketch = Sketch::new("Sigmoid", "alone");
    let (x, _) = arguments(&mut sketch);
    let y = sketch.graph.sigmoid(x).unwrap();
    sketch.case(OF_ONE, y)
}

/// Engines fuse these nodes into one.
fn gelu() -> Case {
    let mut sketch = Sketch::new("Erf", "GELU");
    let (x, values) = arguments(&mut sketch);
    let y = sketch.graph.gelu(x).unwrap();
    sketch.case(of_argument(&values), y)
}

/// Engines fuse these nodes into one.
fn silu() -> Case {
    let mut sketch = Sketch::new("Sigmoid", "SiLU");
    let (x, values) = arguments(&mut sketch);
    let y = sketch.graph.silu(x).unwrap();
    sketch.case(of_argument(&values), y)
}

/// For an argument times a value of at most 1.
fn of_argument(values: &[f32]) -> Measure {
    let magnitudes = values.iter().map(|value| f64::from(*value).abs().max(TINY));
    Measure::Magnitudes(magnitudes.collect())
}
