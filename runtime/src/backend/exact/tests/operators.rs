//! Every operator on numbers that can be checked by hand.

use prost::Message;

use super::{
    X, Y, assert_same, bytes, cast, compute, floats, indices, integers, model, node, noise, run,
    tensor, value_info, with_integer, with_integers,
};
use crate::backend::{Backend, BackendError, Tensor, exact::Exact};
use crate::onnx::{AttributeProto, NodeProto, attribute_type, data_type};

const NAN: f32 = f32::NAN;

#[test]
fn arithmetic_broadcasts_both_ways() {
    let x = tensor(&[2, 1, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let column = || vec![floats("c", &[2, 1], &[10.0, 20.0])];
    let expected = [
        ("Add", [11.0, 12.0, 13.0, 21.0, 22.0, 23.0, 14.0, 15.0, 16.0, 24.0, 25.0, 26.0]),
        ("Sub", [-9.0, -8.0, -7.0, -19.0, -18.0, -17.0, -6.0, -5.0, -4.0, -16.0, -15.0, -14.0]),
        ("Mul", [10.0, 20.0, 30.0, 20.0, 40.0, 60.0, 40.0, 50.0, 60.0, 80.0, 100.0, 120.0]),
        ("Div", [0.1, 0.2, 0.3, 0.05, 0.1, 0.15, 0.4, 0.5, 0.6, 0.2, 0.25, 0.3]),
        ("Max", [10.0, 10.0, 10.0, 20.0, 20.0, 20.0, 10.0, 10.0, 10.0, 20.0, 20.0, 20.0]),
    ];
    for (operator, expected) in expected {
        let got = compute(&x, vec![node(operator, &[X, "c"], Y)], column());
        assert_same(&got, &tensor(&[2, 2, 3], &expected));
    }
    let got = compute(&x, vec![node("Sub", &["c", X], Y)], column());
    let expected = [9.0, 8.0, 7.0, 19.0, 18.0, 17.0, 6.0, 5.0, 4.0, 16.0, 15.0, 14.0];
    assert_same(&got, &tensor(&[2, 2, 3], &expected));
}

#[test]
fn scalars_and_suffixes_broadcast() {
    let x = tensor(&[2, 2], &[1.0, 2.0, 3.0, 4.0]);
    let cases = [
        (floats("c", &[], &[8.0]), [7.0, 6.0, 5.0, 4.0]),
        (floats("c", &[1, 1], &[8.0]), [7.0, 6.0, 5.0, 4.0]),
        (floats("c", &[2], &[8.0, 9.0]), [7.0, 7.0, 5.0, 5.0]),
        (floats("c", &[1, 2], &[8.0, 9.0]), [7.0, 7.0, 5.0, 5.0]),
        (floats("c", &[2, 2], &[8.0, 9.0, 10.0, 11.0]), [7.0, 7.0, 7.0, 7.0]),
    ];
    for (c, expected) in cases {
        let got = compute(&x, vec![node("Sub", &["c", X], Y)], vec![c.clone()]);
        assert_same(&got, &tensor(&[2, 2], &expected));
        let got = compute(&x, vec![node("Sub", &[X, "c"], Y)], vec![c]);
        assert_same(&got, &tensor(&[2, 2], &expected.map(|value| -value)));
    }
    let got = compute(
        &tensor(&[], &[3.0]),
        vec![node("Mul", &[X, "c"], Y)],
        vec![floats("c", &[], &[4.0])],
    );
    assert_same(&got, &tensor(&[], &[12.0]));
}

#[test]
fn the_maximum_has_a_rule_for_zeros_and_nan() {
    let x = tensor(&[6], &[0.0, -0.0, NAN, 1.0, -f32::NAN, f32::INFINITY]);
    let c = floats("c", &[6], &[-0.0, 0.0, 1.0, NAN, NAN, 1.0]);
    let got = compute(&x, vec![node("Max", &[X, "c"], Y)], vec![c]);
    assert_same(&got, &tensor(&[6], &[-0.0, 0.0, NAN, NAN, NAN, f32::INFINITY]));
}

#[test]
fn every_nan_in_an_output_is_the_same() {
    let x = tensor(&[3], &[f32::INFINITY, f32::from_bits(0xffc1_2345), -1.0]);
    let nodes = vec![
        node("Sub", &[X, X], "difference"),
        node("Sqrt", &[X], "root"),
        node("Add", &["difference", "root"], Y),
    ];
    assert_same(&compute(&x, nodes, Vec::new()), &tensor(&[3], &[NAN; 3]));
}

#[test]
fn functions_of_one_operand() {
    let x = tensor(&[1, 2], &[4.0, 0.0]);
    let got = compute(&x, vec![node("Sqrt", &[X], Y)], Vec::new());
    assert_same(&got, &tensor(&[1, 2], &[2.0, 0.0]));
    let got = compute(&x, vec![node("Sigmoid", &[X], Y)], Vec::new());
    assert_same(&got, &tensor(&[1, 2], &[0.982_013_76, 0.5]));
    let got = compute(&x, vec![node("Erf", &[X], Y)], Vec::new());
    assert_same(&got, &tensor(&[1, 2], &[1.0, 0.0]));
}

#[test]
fn conversions_to_f32() {
    let x = indices(&[3], &[1, -2, 16_777_217]);
    let got = compute(&x, vec![cast(X, Y, data_type::FLOAT)], Vec::new());
    assert_same(&got, &tensor(&[3], &[1.0, -2.0, 16_777_216.0]));
    let x = tensor(&[2], &[0.5, -0.0]);
    assert_same(&compute(&x, vec![cast(X, Y, data_type::FLOAT)], Vec::new()), &x);
    let nodes = vec![cast("b", "wide", data_type::FLOAT), node("Add", &[X, "wide"], Y)];
    let got = compute(&x, nodes, vec![bytes("b", &[2], &[-128, 127])]);
    assert_same(&got, &tensor(&[2], &[-127.5, 127.0]));
}

#[test]
fn sums_over_the_last_axis_have_eight_lanes() {
    let values = noise(2 * 21, 12);
    let sum = |row: &[f32]| {
        let mut lanes = [0.0_f32; 8];
        for (i, value) in row.iter().enumerate() {
            lanes[i % 8] += value;
        }
        let pair = |i: usize| lanes[i] + lanes[i + 1];
        (pair(0) + pair(2)) + (pair(4) + pair(6))
    };
    let x = tensor(&[2, 21], &values);
    let sums = [sum(&values[..21]), sum(&values[21..])];
    let reduce = |keep| with_integer(node("ReduceSum", &[X, "axes"], Y), "keepdims", keep);
    let got = compute(&x, vec![reduce(0)], vec![integers("axes", &[1])]);
    assert_same(&got, &tensor(&[2], &sums));
    let got = compute(&x, vec![reduce(1)], vec![integers("axes", &[-1])]);
    assert_same(&got, &tensor(&[2, 1], &sums));
}

#[test]
fn sums_over_other_axes_are_sequential() {
    let values = noise(2 * 19 * 3, 13);
    let mut expected = vec![0.0_f32; 6];
    for (i, value) in values.iter().enumerate() {
        expected[i / 57 * 3 + i % 3] += value;
    }
    let x = tensor(&[2, 19, 3], &values);
    let reduce = with_integer(node("ReduceSum", &[X, "axes"], Y), "keepdims", 0);
    let got = compute(&x, vec![reduce], vec![integers("axes", &[1])]);
    assert_same(&got, &tensor(&[2, 3], &expected));
}

#[test]
fn softmax_of_known_rows() {
    let softmax = || vec![with_integer(node("Softmax", &[X], Y), "axis", -1)];
    let x = tensor(&[3, 2], &[5.0, 5.0, 1000.0, -1000.0, f32::NEG_INFINITY, 0.0]);
    let got = compute(&x, softmax(), Vec::new());
    assert_same(&got, &tensor(&[3, 2], &[0.5, 0.5, 1.0, 0.0, 0.0, 1.0]));
    let got = compute(&tensor(&[1, 2], &[NAN, 1.0]), softmax(), Vec::new());
    assert_same(&got, &tensor(&[1, 2], &[NAN, NAN]));
    let got = compute(&tensor(&[2, 0], &[]), softmax(), Vec::new());
    assert_same(&got, &tensor(&[2, 0], &[]));
}

fn layer_norm(epsilon: f32) -> NodeProto {
    let mut node = with_integer(node("LayerNormalization", &[X, "s", "b"], Y), "axis", -1);
    node.attribute.push(AttributeProto {
        name: "epsilon".into(),
        f: Some(epsilon),
        kind: attribute_type::FLOAT,
        ..AttributeProto::default()
    });
    node
}

#[test]
fn layer_normalization_by_hand() {
    let x = tensor(&[1, 4], &[1.0, 9.0, 3.0, 7.0]);
    let constants =
        vec![floats("s", &[4], &[1.0, 2.0, 4.0, 8.0]), floats("b", &[4], &[0.0, 1.0, 0.0, -1.0])];
    let got = compute(&x, vec![layer_norm(6.0)], constants);
    // Mean 5; variance (16 + 16 + 4 + 4) / 4 = 10, with epsilon 16, so that the deviation is 4.
    assert_same(&got, &tensor(&[1, 4], &[-1.0, 3.0, -2.0, 3.0]));
}

#[test]
fn shapes_are_copied_and_inferred() {
    let x = tensor(&[2, 3, 4], &noise(24, 14));
    let Tensor::F32 { values, .. } = &x else { panic!("floats") };
    for (target, shape) in
        [(vec![0, 0, 2, -1], vec![2, 3, 2, 2]), (vec![-1], vec![24]), (vec![0, 12], vec![2, 12])]
    {
        let got = compute(&x, vec![node("Reshape", &[X, "t"], Y)], vec![integers("t", &target)]);
        assert_same(&got, &tensor(&shape, values));
    }
    let nodes = vec![node("Unsqueeze", &[X, "axes"], Y)];
    let got = compute(&x, nodes, vec![integers("axes", &[-1, 0])]);
    assert_same(&got, &tensor(&[1, 2, 3, 4, 1], values));
}

#[test]
fn axes_change_places() {
    let x = tensor(&[2, 3], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    let expected = tensor(&[3, 2], &[0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
    let transpose = node("Transpose", &[X], Y);
    assert_same(&compute(&x, vec![transpose.clone()], Vec::new()), &expected);
    let swapped = with_integers(transpose.clone(), "perm", &[1, 0]);
    assert_same(&compute(&x, vec![swapped], Vec::new()), &expected);
    let x = tensor(&[2, 2, 2], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
    let swapped = with_integers(transpose, "perm", &[1, 0, 2]);
    let expected = tensor(&[2, 2, 2], &[0.0, 1.0, 4.0, 5.0, 2.0, 3.0, 6.0, 7.0]);
    assert_same(&compute(&x, vec![swapped], Vec::new()), &expected);
}

#[test]
fn slices_clamp_and_count_from_the_end() {
    let x = tensor(&[2, 3], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    let slice = |start: &[i64], end: &[i64], axes: &[i64]| {
        let constants = vec![integers("s", start), integers("e", end), integers("a", axes)];
        compute(&x, vec![node("Slice", &[X, "s", "e", "a"], Y)], constants)
    };
    assert_same(&slice(&[1], &[3], &[1]), &tensor(&[2, 2], &[1.0, 2.0, 4.0, 5.0]));
    assert_same(&slice(&[-1], &[i64::MAX], &[0]), &tensor(&[1, 3], &[3.0, 4.0, 5.0]));
    assert_same(&slice(&[0, 1], &[1, -1], &[0, -1]), &tensor(&[1, 1], &[1.0]));
    assert_same(&slice(&[2], &[1], &[1]), &tensor(&[2, 0], &[]));
    assert_same(&slice(&[i64::MIN], &[i64::MIN], &[1]), &tensor(&[2, 0], &[]));
}

#[test]
fn rows_of_a_table_up_to_the_number_of_tokens() {
    // As the encoder looks up words in 8 bits and adds as many positions.
    let x = indices(&[1, 3], &[2, 0, -1]);
    let nodes = vec![
        node("Gather", &["table", X], "rows"),
        node("Gather", &["scales", X], "scale"),
        cast("rows", "wide", data_type::FLOAT),
        node("Mul", &["wide", "scale"], "words"),
        node("Shape", &[X], "sizes"),
        with_integer(node("Gather", &["sizes", "one"], "tokens"), "axis", 0),
        node("Slice", &["positions", "zero", "tokens", "zero"], "places"),
        node("Add", &["words", "places"], Y),
    ];
    let constants = vec![
        bytes("table", &[3, 2], &[1, 2, 3, 4, 5, 6]),
        floats("scales", &[3, 1], &[1.0, 10.0, 100.0]),
        floats("positions", &[4, 2], &[0.25, 0.5, 0.25, 0.5, 0.0, 0.0, 9.0, 9.0]),
        integers("one", &[1]),
        integers("zero", &[0]),
    ];
    let expected = tensor(&[1, 3, 2], &[500.25, 600.5, 1.25, 2.5, 500.0, 600.0]);
    assert_same(&compute(&x, nodes, constants), &expected);
}

#[test]
fn constant_nodes_are_computed_once_and_may_be_outputs() {
    let x = tensor(&[1], &[0.0]);
    let nodes = vec![node("Add", &["c", "c"], "twice"), node("Mul", &["twice", "c"], Y)];
    let got = compute(&x, nodes, vec![floats("c", &[2], &[1.5, -2.0])]);
    assert_same(&got, &tensor(&[2], &[4.5, 8.0]));
}

#[test]
fn values_live_until_their_last_reader() {
    let x = tensor(&[2], &[1.0, 2.0]);
    let nodes = vec![
        node("Add", &[X, X], "a"),
        node("Mul", &["a", X], "b"),
        node("Sqrt", &["b"], "unused"),
        node("Add", &["a", "b"], "c"),
        node("Sub", &["c", "a"], Y),
    ];
    let mut model = model(&x, nodes, Vec::new());
    model.graph.as_mut().unwrap().output.push(value_info("a", data_type::FLOAT, 1));
    let graph = Exact::new(1).load("test", &model.encode_to_vec()).unwrap();
    let outputs = graph.run(&[(X, x)], &["a", Y, "a"]).unwrap();
    assert_same(&outputs[0], &tensor(&[2], &[2.0, 4.0]));
    assert_same(&outputs[1], &tensor(&[2], &[2.0, 8.0]));
    assert_same(&outputs[2], &outputs[0]);
}

#[test]
fn callers_errors_are_told() {
    let x = tensor(&[2], &[1.0, 2.0]);
    let model = model(&x, vec![node("Sqrt", &[X], Y)], Vec::new());
    let graph = Exact::default().load("test", &model.encode_to_vec()).unwrap();
    assert!(matches!(
        graph.run(&[(X, x.clone())], &["z"]),
        Err(BackendError::MissingOutput { output, .. }) if output == "z"
    ));
    let reason = |inputs: &[(&str, Tensor)]| graph.run(inputs, &[Y]).unwrap_err().to_string();
    assert!(reason(&[]).contains("input `x` is absent"));
    assert!(reason(&[(X, x.clone()), ("w", x.clone())]).contains("`w`"));
    assert!(reason(&[(X, indices(&[2], &[1, 2]))]).contains("element type"));
    assert!(reason(&[(X, tensor(&[1, 2], &[1.0, 2.0]))]).contains("shape of input `x`"));
    assert!(reason(&[(X, tensor(&[3], &[1.0, 2.0]))]).contains("number of elements"));
    let error = run(&model, &tensor(&[usize::MAX, 2], &[]), 1).unwrap_err().to_string();
    assert!(error.contains("takes more than"), "{error}");
}
