//! The same weights give the same numbers everywhere: candle (training), the interpreter `exact`,
//! tract and ONNX Runtime (compiling) run the hypernetwork and the encoder, and are compared with
//! golden vectors made from the formulas alone, and with an encoder that somebody else exported. So
//! is an encoder of another architecture, on random weights.
//!
//! Among the runtimes `exact` is the oracle: its arithmetic is written down and is the same
//! everywhere. tract and ONNX Runtime are compared with it on whole graphs and, operator by
//! operator, in [`operators`].
//!
//! Two measures of whole graphs: the relative error `max|got - want| / max|want|` of an output, and
//! the cosine of two task embeddings.

#![cfg(all(feature = "train", feature = "tract", feature = "ort"))]
// The helpers of a test fail as a test does.
#![allow(clippy::unwrap_used)]

#[path = "parity/encoder.rs"]
mod encoder;
#[path = "parity/gte.rs"]
mod gte;
#[path = "parity/hypernet.rs"]
mod hypernet;
#[path = "parity/library.rs"]
mod library;
#[path = "parity/operators.rs"]
mod operators;
mod support;

use t2lc_export::weights::WeightType;
use t2lc_runtime::backend::exact::Exact;
use t2lc_runtime::backend::ort::Ort;
use t2lc_runtime::backend::tract::Tract;
use t2lc_runtime::backend::{Backend, Provider, Tensor};
use t2lc_runtime::bundle::Bundle;

use support::parts;

const EVERY_WEIGHT_TYPE: [WeightType; 3] = [WeightType::F32, WeightType::F16, WeightType::Int8];

/// The default bundle, which the repository has: gated, weights of 8 bits.
const BUNDLE: &str = "smollm2-135m-instruct.t2lc";

/// `exact`, tract, ONNX Runtime.
fn backends() -> [Box<dyn Backend>; 3] {
    [Box::new(Exact::default()), Box::new(Tract), Box::new(ort())]
}

fn ort() -> Ort {
    Ort::with_library(&parts::onnxruntime_library(), Provider::Cpu).unwrap()
}

fn bundle() -> Bundle {
    Bundle::open(&parts::fixture(BUNDLE)).unwrap()
}

fn relative_error(got: &[f32], want: &[f32]) -> f32 {
    assert_eq!(got.len(), want.len());
    let largest = want.iter().fold(0_f32, |most, value| most.max(value.abs()));
    let differences = got.iter().zip(want).map(|(a, b)| {
        assert!(a.is_finite() && b.is_finite());
        (a - b).abs()
    });
    differences.fold(0_f32, f32::max) / largest
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum()
    };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

fn floats(tensor: &Tensor) -> (&[usize], &[f32]) {
    match tensor {
        Tensor::F32 { shape, values } => (shape.as_slice(), values.as_slice()),
        Tensor::I64 { shape, .. } => panic!("an output {shape:?} of integers"),
    }
}
