//! Matrix products: order of additions, forms of weights, threads, a whole encoder.

use std::fs;

use half::f16;

use super::{
    X, Y, assert_same, bytes, cast, compute, constant, floats, integers, model, node, noise,
    noise_bytes, run, tensor,
};
use crate::backend::exact::Exact;
use crate::backend::{Backend, Graph, Tensor};
use crate::onnx::data_type;

/// The rule, word for word.
fn plain(a: &[f32], b: &[f32], inner: usize, columns: usize) -> Vec<f32> {
    let mut result = Vec::new();
    for row in a.chunks_exact(inner) {
        for column in 0..columns {
            let mut sum = 0.0_f32;
            for (k, value) in row.iter().enumerate() {
                let product = value * b[k * columns + column];
                sum += product;
            }
            result.push(sum);
        }
    }
    result
}

fn signed(size: usize) -> i64 {
    i64::try_from(size).unwrap()
}

#[test]
fn sums_are_sequential_whatever_the_size() {
    let sizes = [(1, 1, 1), (3, 5, 7), (4, 64, 16), (5, 130, 33), (13, 300, 50), (27, 513, 31)];
    for (rows, inner, columns) in sizes {
        let (a, b) = (noise(rows * inner, 1), noise(inner * columns, 2));
        let x = tensor(&[rows, inner], &a);
        let weight = floats("w", &[signed(inner), signed(columns)], &b);
        let got = compute(&x, vec![node("MatMul", &[X, "w"], Y)], vec![weight]);
        assert_same(&got, &tensor(&[rows, columns], &plain(&a, &b, inner, columns)));
    }
}

#[test]
fn threads_change_nothing() {
    let (rows, inner, columns) = (33, 512, 1000);
    let x = tensor(&[3, 11, inner], &noise(rows * inner, 3));
    let weight = noise(inner * columns, 4);
    let weight = floats("w", &[signed(inner), signed(columns)], &weight);
    let model = model(&x, vec![node("MatMul", &[X, "w"], Y)], vec![weight]);
    let one = run(&model, &x, 1).unwrap();
    assert!(matches!(&one, Tensor::F32 { shape, .. } if *shape == [3, 11, columns]));
    for threads in [0, 2, 3, 8] {
        assert_same(&run(&model, &x, threads).unwrap(), &one);
    }
}

#[test]
fn weights_in_8_bits_are_scaled_before_they_are_multiplied() {
    // 300 rows in groups of 75 and of 1, in one group, and groups beyond a block of rows.
    for (groups, group) in [(4, 75), (300, 1), (1, 300), (2, 270)] {
        let (rows, columns) = (5, 21);
        let inner = groups * group;
        let (x, quantized) = (noise(rows * inner, 5), noise_bytes(inner * columns, 6));
        let scales: Vec<f32> = noise(groups * columns, 7).iter().map(|s| s.abs() / 99.0).collect();
        let mut wide = Vec::new();
        for (i, q) in quantized.iter().enumerate() {
            let (k, column) = (i / columns, i % columns);
            wide.push(f32::from(*q) * scales[k / group * columns + column]);
        }
        let nodes = vec![
            cast("q", "wide", data_type::FLOAT),
            node("Mul", &["wide", "scale"], "scaled"),
            node("Reshape", &["scaled", "shape"], "w"),
            node("MatMul", &[X, "w"], Y),
        ];
        let constants = vec![
            bytes("q", &[signed(groups), signed(group), signed(columns)], &quantized),
            floats("scale", &[signed(groups), 1, signed(columns)], &scales),
            integers("shape", &[signed(inner), -1]),
        ];
        let expected = tensor(&[rows, columns], &plain(&x, &wide, inner, columns));
        let x = tensor(&[rows, inner], &x);
        assert_same(&compute(&x, nodes.clone(), constants.clone()), &expected);

        // Another reader of the matrix gets the same values, node by node.
        let mut nodes = nodes;
        nodes[3] = node("MatMul", &[X, "w"], "product");
        nodes.push(node("Sub", &["w", "wide_by_hand"], "zeros"));
        nodes.push(node("ReduceSum", &["zeros", "first"], "sums"));
        nodes.push(node("Add", &["product", "sums"], Y));
        let mut constants = constants;
        constants.push(floats("wide_by_hand", &[signed(inner), signed(columns)], &wide));
        constants.push(integers("first", &[0]));
        assert_same(&compute(&x, nodes, constants), &expected);
    }
}

#[test]
fn weights_in_16_bits_are_widened_exactly() {
    let (rows, inner, columns) = (9, 257, 18);
    let x = noise(rows * inner, 8);
    let halves: Vec<f16> = noise(inner * columns, 9).into_iter().map(f16::from_f32).collect();
    let wide: Vec<f32> = halves.iter().map(|half| half.to_f32_const()).collect();
    let raw = halves.iter().flat_map(|half| half.to_le_bytes()).collect();
    let stored = constant("h", data_type::FLOAT16, &[signed(inner), signed(columns)], raw);
    let nodes = vec![cast("h", "w", data_type::FLOAT), node("MatMul", &[X, "w"], Y)];
    let got = compute(&tensor(&[rows, inner], &x), nodes, vec![stored]);
    assert_same(&got, &tensor(&[rows, columns], &plain(&x, &wide, inner, columns)));
}

#[test]
fn leading_dimensions_broadcast() {
    let (a, b) = (noise(2 * 3 * 4 * 5, 10), noise(3 * 5 * 6, 11));
    let mut expected = Vec::new();
    for i in 0..2 {
        for j in 0..3 {
            let left = &a[(i * 3 + j) * 20..][..20];
            expected.extend(plain(left, &b[j * 30..][..30], 5, 6));
        }
    }
    let x = tensor(&[2, 3, 4, 5], &a);
    let right = floats("b", &[3, 5, 6], &b);
    let got = compute(&x, vec![node("MatMul", &[X, "b"], Y)], vec![right]);
    assert_same(&got, &tensor(&[2, 3, 4, 6], &expected));
}

#[test]
fn empty_products_are_zeros() {
    let weight = floats("w", &[0, 3], &[]);
    let got = compute(&tensor(&[2, 0], &[]), vec![node("MatMul", &[X, "w"], Y)], vec![weight]);
    assert_same(&got, &tensor(&[2, 3], &[0.0; 6]));
}

fn encoder(backend: &dyn Backend) -> Box<dyn Graph> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/smollm2-135m-instruct.t2lc");
    let bytes = fs::read(format!("{folder}/encoder.onnx")).unwrap();
    backend.load("encoder.onnx", &bytes).unwrap()
}

fn embed(graph: &dyn Graph) -> Vec<f32> {
    let ids = super::indices(&[1, 4], &[101, 19_802, 7_653, 102]);
    let mask = super::indices(&[1, 4], &[1; 4]);
    let inputs = [("input_ids", ids), ("attention_mask", mask)];
    match graph.run(&inputs, &["task_embedding"]).unwrap().remove(0) {
        Tensor::F32 { values, .. } => values,
        Tensor::I64 { .. } => panic!("integers"),
    }
}

#[test]
fn an_exported_encoder_runs() {
    let embedding = embed(encoder(&Exact::new(1)).as_ref());
    let length = embedding.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>().sqrt();
    assert!((length - (embedding.len() as f64).sqrt()).abs() < 1e-3, "{length}");
    let again = embed(encoder(&Exact::new(3)).as_ref());
    let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&embedding), bits(&again));
}

#[cfg(feature = "tract")]
#[test]
fn an_exported_encoder_agrees_with_tract() {
    let exact = embed(encoder(&Exact::new(1)).as_ref());
    let tract = embed(encoder(&crate::backend::tract::Tract).as_ref());
    assert_eq!(exact.len(), tract.len());
    for (a, b) in exact.iter().zip(&tract) {
        assert!((a - b).abs() < 1e-3, "{a} {b}");
    }
}
