//! Every operator that a graph may hold, in every form in which the exporter writes it: tract and
//! ONNX Runtime against `exact`, element by element.
//!
//! `exact` is the oracle because its arithmetic is written down. An operation that is rounded once
//! leaves no choice and has to give the same bits; for the others the table [`BOUNDS`] says how far
//! an engine may be off, in the units of [`distance::Measure`], and why. Each case is one graph
//! whose operands are inputs where the exporter computes them and constants where it stores them,
//! so that engines prepare them as they do in a bundle.
//!
//! `cargo test … --test parity operators -- --nocapture` prints what was measured.

#[path = "operators/distance.rs"]
mod distance;
#[path = "operators/elementwise.rs"]
mod elementwise;
#[path = "operators/layout.rs"]
mod layout;
#[path = "operators/products.rs"]
mod products;
#[path = "operators/reductions.rs"]
mod reductions;
#[path = "operators/sketch.rs"]
mod sketch;

use std::collections::{BTreeMap, BTreeSet};

use prost::Message;
use t2lc_export::check::{ALLOWED_OPERATORS, check_model};
use t2lc_runtime::backend::Backend;
use t2lc_runtime::backend::exact::Exact;
use t2lc_runtime::backend::tract::Tract;
use t2lc_runtime::onnx::ModelProto;

use crate::ort;
use sketch::Case;

/// How far the engines may be from `exact` in one operator.
struct Bound {
    operator: &'static str,
    tract: f64,
    ort: f64,
    why: &'static str,
}

const ROUNDED_ONCE: &str = "one operation, rounded once";
const MOVED: &str = "elements are moved, nothing is rounded";
const OTHER_ORDER: &str = "terms are added in another order, and with fused multiply-adds: \
                           rounding errors of as many terms, which are independent";

/// In the order of [`ALLOWED_OPERATORS`].
const BOUNDS: [Bound; 19] = [
    Bound { operator: "Add", tract: 0.0, ort: 0.0, why: ROUNDED_ONCE },
    Bound { operator: "Cast", tract: 0.0, ort: 0.0, why: ROUNDED_ONCE },
    Bound {
        operator: "Div",
        tract: 1.0,
        ort: 0.0,
        why: "rounded once, but tract multiplies with the reciprocal, which is half a step off: \
              the product is less than a step from the quotient before it is rounded",
    },
    Bound {
        operator: "Erf",
        tract: 32.0,
        ort: 4.0,
        why: "tract has Abramowitz and Stegun's formula 7.1.28, off by up to 3e-7 and with a 16th \
              power that multiplies rounding errors; ONNX Runtime has polynomials for f32",
    },
    Bound { operator: "Gather", tract: 0.0, ort: 0.0, why: MOVED },
    Bound {
        operator: "LayerNormalization",
        tract: 8.0,
        ort: 8.0,
        why: "mean and variance are sums in another order; about ten roundings an element",
    },
    Bound { operator: "MatMul", tract: 2.0, ort: 2.0, why: OTHER_ORDER },
    Bound { operator: "Max", tract: 0.0, ort: 0.0, why: "one of the operands" },
    Bound { operator: "Mul", tract: 0.0, ort: 0.0, why: ROUNDED_ONCE },
    Bound { operator: "ReduceSum", tract: 2.0, ort: 2.0, why: OTHER_ORDER },
    Bound { operator: "Reshape", tract: 0.0, ort: 0.0, why: MOVED },
    Bound { operator: "Shape", tract: 0.0, ort: 0.0, why: "integers" },
    Bound {
        operator: "Sigmoid",
        tract: 8.0,
        ort: 4.0,
        why: "both have quotients of polynomials for a bounded absolute error; tract's argument \
              stops at ±14.5, where it is off by 4.8e-7, four units",
    },
    Bound { operator: "Slice", tract: 0.0, ort: 0.0, why: MOVED },
    Bound {
        operator: "Softmax",
        tract: 8.0,
        ort: 8.0,
        why: "exponentials by polynomials of up to two units, their sum in another order, and the \
              reciprocal of it",
    },
    Bound { operator: "Sqrt", tract: 0.0, ort: 0.0, why: ROUNDED_ONCE },
    Bound { operator: "Sub", tract: 0.0, ort: 0.0, why: ROUNDED_ONCE },
    Bound { operator: "Transpose", tract: 0.0, ort: 0.0, why: MOVED },
    Bound { operator: "Unsqueeze", tract: 0.0, ort: 0.0, why: MOVED },
];

fn cases() -> Vec<Case> {
    let mut cases = elementwise::cases();
    cases.extend(products::cases());
    cases.extend(reductions::cases());
    cases.extend(layout::cases());
    cases
}

#[test]
fn every_operator_has_cases_and_a_bound() {
    let bounded: Vec<&str> = BOUNDS.iter().map(|bound| bound.operator).collect();
    assert_eq!(bounded, ALLOWED_OPERATORS);
    let cases = cases();
    let covered: BTreeSet<&str> = cases.iter().map(|case| case.operator).collect();
    let covered: Vec<&str> = covered.into_iter().collect();
    assert_eq!(covered, ALLOWED_OPERATORS);
    let mut seen = BTreeSet::new();
    for case in &cases {
        let what = format!("{} ({})", case.operator, case.form);
        check_model(&case.onnx).unwrap_or_else(|error| panic!("{what}: {error}"));
        let graph = ModelProto::decode(case.onnx.as_slice()).unwrap().graph.unwrap();
        assert!(graph.node.iter().any(|node| node.op_type == case.operator), "{what}");
        assert!(seen.insert((case.operator, case.form)), "{what} is there twice");
    }
}

#[test]
#[allow(clippy::print_stdout, reason = "the measured table, for people with --nocapture")]
fn tract_and_ort_compute_what_exact_computes() {
    let exact = Exact::default();
    let engines: [(&str, Box<dyn Backend>); 2] =
        [("tract", Box::new(Tract)), ("ort", Box::new(ort()))];
    let mut table: BTreeMap<(&str, &str), [f64; 2]> = BTreeMap::new();
    let mut faults = Vec::new();
    for case in cases() {
        let bound = BOUNDS.iter().find(|bound| bound.operator == case.operator).unwrap();
        let (shape, want) = case.run(&exact);
        let row = table.entry((case.operator, case.measure.unit())).or_default();
        for (column, (name, engine)) in engines.iter().enumerate() {
            let (got_shape, got) = case.run(engine.as_ref());
            assert_eq!(got_shape, shape, "{name}: {} ({})", case.operator, case.form);
            let distance = case.measure.largest(&got, &want);
            row[column] = row[column].max(distance);
            let most = [bound.tract, bound.ort][column];
            if distance > most {
                let (operator, form, unit) = (case.operator, case.form, case.measure.unit());
                let why = bound.why;
                faults.push(format!(
                    "{name}: {operator} ({form}) is {distance:.2} {unit} off, at most {most}: {why}"
                ));
            }
        }
    }
    println!("{:<20}{:<14}{:>10}{:>10}", "operator", "unit", "tract", "ort");
    for ((operator, unit), [tract, ort]) in &table {
        println!("{operator:<20}{unit:<14}{tract:>10.2}{ort:>10.2}");
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}
