//! Tests of `graph`.

use super::{Dim, ElementType, GraphBuilder, Value};
use crate::check::check_model;
use crate::error::ExportError;

const BATCH: Dim = Dim::Symbol("batch");

fn with_input(shape: &[Dim]) -> (GraphBuilder, Value) {
    let mut graph = GraphBuilder::new();
    let x = graph.input("x", ElementType::F32, shape).unwrap();
    (graph, x)
}

#[test]
fn shapes_are_inferred_with_symbols() {
    let (mut graph, x) = with_input(&[BATCH, Dim::Symbol("tokens"), Dim::Fixed(6)]);
    let w = graph.initializer_f32("w", &[6, 4], &[0.5; 24]).unwrap();
    let y = graph.matmul(x, w).unwrap();
    let y = graph.reshape(y, &[0, 0, 2, -1]).unwrap();
    let y = graph.transpose(y, &[0, 2, 3, 1]).unwrap();
    assert_eq!(
        graph.shape(y).unwrap(),
        [BATCH, Dim::Fixed(2), Dim::Fixed(2), Dim::Symbol("tokens")]
    );
    let y = graph.reduce_sum(y, 1, false).unwrap();
    let y = graph.slice(y, 1, 1, 2).unwrap();
    assert_eq!(graph.shape(y).unwrap(), [BATCH, Dim::Fixed(1), Dim::Symbol("tokens")]);
}

#[test]
fn operands_that_do_not_fit_fail_at_build() {
    let (mut graph, x) = with_input(&[BATCH, Dim::Fixed(6)]);
    let w = graph.initializer_f32("w", &[5, 4], &[0.5; 20]).unwrap();
    let ids = graph.indices(&[1, 2]).unwrap();
    assert!(matches!(graph.matmul(x, w), Err(ExportError::Graph { op: "MatMul", .. })));
    assert!(graph.add(x, w).is_err());
    assert!(graph.add(x, ids).is_err());
    assert!(graph.gather(x, x).is_err());
    assert!(graph.reshape(x, &[6, -1]).is_err());
    assert!(graph.reshape(x, &[0, -1, -1]).is_err());
    assert!(graph.reshape(x, &[0, 4]).is_err());
    assert!(graph.slice(x, 1, 3, 7).is_err());
    assert!(graph.slice(x, 0, 0, 1).is_err());
    assert!(graph.transpose(x, &[0, 0]).is_err());
    assert!(graph.layer_norm(x, w, w, 1e-5).is_err());
    assert!(graph.unsqueeze(x, 3).is_err());
}

#[test]
fn bad_constants_are_refused() {
    let mut graph = GraphBuilder::new();
    assert!(matches!(
        graph.initializer_f32("w", &[2], &[0.0, f32::NAN]),
        Err(ExportError::NonFinite { index: 1, .. })
    ));
    assert!(matches!(
        graph.initializer_i8("w", &[3, usize::MAX], &[0; 3]),
        Err(ExportError::TensorLength { got: 3, .. })
    ));
    graph.initializer_i8("w", &[3], &[0; 3]).unwrap();
    assert!(matches!(
        graph.initializer_i8("w", &[3], &[0; 3]),
        Err(ExportError::DuplicateName { .. })
    ));
}

#[test]
fn equal_constants_are_stored_once_and_bytes_repeat() {
    let build = || {
        let (mut graph, x) = with_input(&[BATCH, Dim::Fixed(2), Dim::Fixed(3)]);
        let y = graph.gelu(x).unwrap();
        let y = graph.gelu(y).unwrap();
        let y = graph.silu(y).unwrap();
        let y = graph.add(x, y).unwrap();
        assert_eq!(graph.initializers.len(), 3);
        graph.finish("test", &[("y".into(), y)]).unwrap()
    };
    let bytes = build();
    assert_eq!(bytes, build());
    check_model(&bytes).unwrap();
}

#[test]
fn outputs_are_results_with_one_name() {
    let (graph, x) = with_input(&[BATCH]);
    assert!(graph.finish("test", &[("y".into(), x)]).is_err());
    let (mut graph, x) = with_input(&[BATCH]);
    let y = graph.sqrt(x).unwrap();
    assert!(graph.finish("test", &[("y".into(), y), ("z".into(), y)]).is_err());
}
