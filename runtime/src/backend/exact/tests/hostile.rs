//! Models that are broken or hostile are errors, never panics.

use super::{
    X, Y, bytes, cast, constant, floats, indices, integers, model, node, run, tensor, with_integer,
    with_integers,
};
use crate::backend::exact::Exact;
use crate::backend::{Backend, BackendError, Tensor};
use crate::onnx::{ModelProto, NodeProto, TensorProto, data_type};

/// Reason why a model of `x [2, 3]` does not load or run.
#[track_caller]
fn reason(nodes: Vec<NodeProto>, constants: Vec<TensorProto>) -> String {
    let x = tensor(&[2, 3], &[0.0; 6]);
    run(&model(&x, nodes, constants), &x, 1).unwrap_err().to_string()
}

fn changed(change: fn(&mut ModelProto)) -> Result<Tensor, BackendError> {
    let x = tensor(&[2, 3], &[0.0; 6]);
    let weight = floats("w", &[3, 2], &[0.5; 6]);
    let mut model = model(&x, vec![node("MatMul", &[X, "w"], Y)], vec![weight]);
    change(&mut model);
    run(&model, &x, 1)
}

#[track_caller]
fn refused(change: fn(&mut ModelProto)) -> String {
    match changed(change).unwrap_err() {
        BackendError::Load { backend, reason, .. } if backend == "exact/1" => reason,
        other => panic!("{other}"),
    }
}

#[test]
fn the_model_that_is_changed_below_runs() {
    assert!(changed(|_| ()).is_ok());
}

#[test]
fn bytes_that_are_no_model() {
    for bytes in [&[0xff; 9][..], &[], &[0x3a, 0xff, 0xff, 0xff, 0xff, 0x07]] {
        assert!(matches!(Exact::new(1).load("test", bytes), Err(BackendError::Load { .. })));
    }
}

#[test]
fn other_operator_sets_and_domains() {
    assert!(refused(|m| m.opset_import[0].version = 21).contains("operator set"));
    assert!(refused(|m| m.opset_import.clear()).contains("operator set"));
    assert!(
        refused(|m| m.graph.as_mut().unwrap().node[0].domain = "other".into())
            .contains("operator domain is other")
    );
    assert!(
        refused(|m| m.graph.as_mut().unwrap().node[0].op_type = "Loop".into())
            .contains("operator is Loop")
    );
    assert!(refused(|m| m.graph = None).contains("graph is absent"));
}

#[test]
fn names_that_are_undefined_or_used_twice() {
    let undefined = refused(|m| m.graph.as_mut().unwrap().node[0].input[0] = "z".into());
    assert!(undefined.contains("MatMul `y_node`: `z` is read"), "{undefined}");
    assert!(refused(|m| m.graph.as_mut().unwrap().node[0].input[0] = Y.into()).contains("`y`"));
    assert!(refused(|m| m.graph.as_mut().unwrap().node[0].output[0] = "w".into()).contains("`w`"));
    assert!(refused(|m| m.graph.as_mut().unwrap().node[0].output[0].clear()).contains("empty"));
    assert!(refused(|m| m.graph.as_mut().unwrap().input[0].name = "w".into()).contains("`w`"));
    assert!(refused(|m| m.graph.as_mut().unwrap().output[0].name = "z".into()).contains("`z`"));
    assert!(refused(|m| m.graph.as_mut().unwrap().output.clear()).contains("number of outputs"));
    assert!(
        refused(|m| {
            let graph = m.graph.as_mut().unwrap();
            graph.output.push(graph.output[0].clone());
        })
        .contains("defined twice")
    );
    // Two nodes that wait for each other.
    let nodes = vec![node("Add", &[X, "b"], "a"), node("Add", &["a", X], "b")];
    assert!(reason(nodes, Vec::new()).contains("`b` is read"));
}

#[test]
fn nodes_of_another_form() {
    assert!(
        refused(|m| m.graph.as_mut().unwrap().node[0].output.push("z".into()))
            .contains("number of results")
    );
    assert!(
        refused(|m| m.graph.as_mut().unwrap().node[0].input.push("w".into()))
            .contains("number of operands")
    );
    assert!(
        reason(vec![with_integer(node("Sqrt", &[X], Y), "axis", 0)], Vec::new())
            .contains("attribute is `axis`")
    );
    assert!(reason(vec![node("Cast", &[X], Y)], Vec::new()).contains("code 0"));
    assert!(reason(vec![cast(X, Y, data_type::DOUBLE)], Vec::new()).contains("code 11"));
    assert!(reason(vec![cast(X, Y, data_type::INT8)], Vec::new()).contains("type of the result"));
    let twice = with_integer(with_integer(node("Softmax", &[X], Y), "axis", 1), "axis", 1);
    assert!(reason(vec![twice], Vec::new()).contains("attribute is `axis`"));
    let other_kind = with_integers(node("Softmax", &[X], Y), "axis", &[1]);
    assert!(reason(vec![other_kind], Vec::new()).contains("kind of attribute `axis`"));
    let other_axis = with_integer(node("Softmax", &[X], Y), "axis", 0);
    assert!(reason(vec![other_axis], Vec::new()).contains("the last one"));
    let nodes = vec![with_integer(node("Gather", &[X, "i"], Y), "axis", 1)];
    assert!(reason(nodes, vec![integers("i", &[0])]).contains("axis is 1"));
}

#[test]
fn constants_that_lie_about_their_size() {
    let short = refused(|m| {
        let raw = &mut m.graph.as_mut().unwrap().initializer[0].raw_data;
        raw.truncate(raw.len() - 1);
    });
    assert!(short.contains("constant `w`: number of bytes is 23, expected 24"), "{short}");
    for dims in [vec![1 << 62, 4], vec![i64::MAX; 9], vec![0, i64::MAX, i64::MAX], vec![1; 1000]] {
        let x = tensor(&[1], &[0.0]);
        let lie = constant("c", data_type::INT8, &dims, Vec::new());
        let model = model(&x, vec![node("Shape", &["c"], Y)], vec![lie]);
        assert!(matches!(run(&model, &x, 1), Err(BackendError::Load { .. })));
    }
    assert!(
        refused(|m| m.graph.as_mut().unwrap().initializer[0].dims[0] = -2).contains("non-negative")
    );
    assert!(
        refused(|m| m.graph.as_mut().unwrap().initializer[0].data_type = data_type::DOUBLE)
            .contains("code 11")
    );
    assert!(
        refused(|m| m.graph.as_mut().unwrap().initializer[0].float_data.push(1.0))
            .contains("typed list")
    );
    assert!(
        refused(|m| m.graph.as_mut().unwrap().input[0].value_type = None)
            .contains("type of input `x`")
    );
}

#[test]
fn results_that_would_not_fit_into_memory() {
    // 2^20 by 2^20 elements from 8 MiB of constants, at load.
    let zeros = constant("c", data_type::FLOAT, &[1 << 20, 1], vec![0; 4 << 20]);
    let row = constant("r", data_type::FLOAT, &[1, 1 << 20], vec![0; 4 << 20]);
    let nodes = vec![node("Add", &["c", "r"], Y)];
    assert!(reason(nodes, vec![zeros.clone(), row.clone()]).contains("takes more than"));
    let nodes = vec![node("MatMul", &["c", "r"], Y)];
    assert!(reason(nodes, vec![zeros.clone(), row]).contains("takes more than"));
    // 1 MiB per row, gathered by 2^20 indices, which cost no constant bytes beyond themselves.
    let table = constant("t", data_type::INT8, &[1, 1 << 20], vec![0; 1 << 20]);
    let ids = constant("i", data_type::INT64, &[1 << 20], vec![0; 8 << 20]);
    let nodes = vec![node("Gather", &["t", "i"], Y)];
    assert!(reason(nodes, vec![table, ids]).contains("takes more than"));
    let x = indices(&[1], &[0]);
    let nodes = vec![node("Unsqueeze", &["c", "axes"], Y)];
    let constants = vec![zeros, integers("axes", &[0, 1, 2, 3, 4, 5, 6, 7])];
    let error = run(&model(&x, nodes, constants), &x, 1).unwrap_err().to_string();
    assert!(error.contains("number of dimensions"), "{error}");
}

#[test]
fn operands_that_do_not_fit() {
    let pair = || vec![floats("c", &[2], &[1.0; 2])];
    assert!(reason(vec![node("Add", &[X, "c"], Y)], pair()).contains("do not fit together"));
    assert!(reason(vec![node("MatMul", &[X, "c"], Y)], pair()).contains("number of dimensions"));
    let square = vec![floats("c", &[2, 2], &[1.0; 4])];
    assert!(reason(vec![node("MatMul", &[X, "c"], Y)], square).contains("do not fit together"));
    let norm = node("LayerNormalization", &[X, "c", "c"], Y);
    assert!(reason(vec![norm], pair()).contains("do not fit together"));
    let ids = || vec![integers("c", &[2, 2, 2])];
    assert!(reason(vec![node("Add", &[X, "c"], Y)], ids()).contains("element type is int64"));
    assert!(reason(vec![node("Gather", &[X, X], Y)], Vec::new()).contains("element type is f32"));
    assert!(reason(vec![node("ReduceSum", &[X, "c"], Y)], ids()).contains("one axis"));
    let narrow = vec![bytes("c", &[2, 3], &[1; 6])];
    assert!(reason(vec![node("Add", &[X, "c"], Y)], narrow).contains("element type is int8"));
}

#[test]
fn indices_and_axes_out_of_range() {
    for index in [2, -3, i64::MAX, i64::MIN] {
        let nodes = vec![node("Gather", &[X, "i"], Y)];
        let got = reason(nodes, vec![integers("i", &[0, index])]);
        assert!(got.contains(&format!("index {index} is outside of a table of 2 rows")), "{got}");
    }
    for axis in [2, -3, i64::MAX, i64::MIN] {
        let axes = || vec![integers("a", &[axis]), integers("b", &[0])];
        let got = reason(vec![node("ReduceSum", &[X, "a"], Y)], axes());
        assert!(got.contains("one of 2 dimensions"), "{got}");
        let got = reason(vec![node("Slice", &[X, "b", "b", "a"], Y)], axes());
        assert!(got.contains("one of 2 dimensions"), "{got}");
    }
    let axes = || vec![integers("a", &[1, 1]), integers("b", &[0])];
    assert!(reason(vec![node("Slice", &[X, "a", "a", "a"], Y)], axes()).contains("different"));
    assert!(reason(vec![node("Slice", &[X, "b", "b", "a"], Y)], axes()).contains("starts"));
    assert!(reason(vec![node("Unsqueeze", &[X, "a"], Y)], axes()).contains("different"));
    let scalar = tensor(&[], &[1.0]);
    for operator in ["Softmax", "Gather"] {
        let operands: &[&str] = if operator == "Gather" { &[X, "b"] } else { &[X] };
        let model = model(&scalar, vec![node(operator, operands, Y)], axes());
        assert!(run(&model, &scalar, 1).is_err());
    }
}

#[test]
fn shapes_of_another_size() {
    for target in [vec![4], vec![-1, 4], vec![-1, -1], vec![2, 3, 0], vec![-2, 3], vec![0, -1, 0]] {
        let nodes = vec![node("Reshape", &[X, "t"], Y)];
        let got = reason(nodes, vec![integers("t", &target)]);
        assert!(got.contains("target of a reshape"), "{target:?}: {got}");
    }
    let huge = vec![integers("t", &[i64::MAX, i64::MAX])];
    assert!(reason(vec![node("Reshape", &[X, "t"], Y)], huge).contains("takes more than"));
    for order in [vec![0], vec![0, 0], vec![0, 2], vec![-1, 0], vec![0, -1, 1], vec![0, 1, 2]] {
        let transpose = with_integers(node("Transpose", &[X], Y), "perm", &order);
        assert!(reason(vec![transpose], Vec::new()).contains("permutation"), "{order:?}");
    }
    // A chain of weights whose shapes contradict each other.
    let nodes = vec![
        cast("q", "wide", data_type::FLOAT),
        node("Mul", &["wide", "s"], "scaled"),
        node("Reshape", &["scaled", "t"], "w"),
        node("MatMul", &[X, "w"], Y),
    ];
    let constants = |scale: &[i64], target: &[i64]| {
        let count = usize::try_from(scale.iter().product::<i64>()).unwrap();
        vec![
            bytes("q", &[1, 3, 4], &[1; 12]),
            floats("s", scale, &vec![1.0; count]),
            integers("t", target),
        ]
    };
    let x = tensor(&[2, 3], &[1.0; 6]);
    let got = run(&model(&x, nodes.clone(), constants(&[1, 1, 4], &[3, 4])), &x, 1).unwrap();
    assert_eq!(got, tensor(&[2, 4], &[3.0; 8]));
    // Scales of another form work node by node.
    let got = run(&model(&x, nodes.clone(), constants(&[1, 3, 1], &[3, 4])), &x, 1).unwrap();
    assert_eq!(got, tensor(&[2, 4], &[3.0; 8]));
    assert!(reason(nodes.clone(), constants(&[1, 1, 4], &[4, 3])).contains("do not fit"));
    assert!(reason(nodes.clone(), constants(&[1, 1, 5], &[3, 4])).contains("do not fit"));
    assert!(reason(nodes, constants(&[1, 1, 4], &[3, 5])).contains("target of a reshape"));
}
