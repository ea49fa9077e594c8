//! Tests of the exact backend on small models made by hand; here the means to make them.

mod hostile;
mod operators;
mod products;

use prost::Message;

use super::Exact;
use crate::backend::{Backend, BackendError, Tensor};
use crate::onnx::{
    AttributeProto, Dimension, DimensionValue, GraphProto, ModelProto, NodeProto,
    OperatorSetIdProto, TensorProto, TensorShapeProto, TensorType, TypeProto, ValueInfoProto,
    attribute_type, data_type,
};

/// Input and output of every model here.
const X: &str = "x";
const Y: &str = "y";

fn constant(name: &str, data_type: i32, dims: &[i64], raw_data: Vec<u8>) -> TensorProto {
    let (name, dims, raw_data) = (name.to_owned(), dims.to_vec(), raw_data.into());
    TensorProto { dims, data_type, name, raw_data, ..TensorProto::default() }
}

fn floats(name: &str, dims: &[i64], values: &[f32]) -> TensorProto {
    let raw = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    constant(name, data_type::FLOAT, dims, raw)
}

fn integers(name: &str, values: &[i64]) -> TensorProto {
    let raw = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    constant(name, data_type::INT64, &[i64::try_from(values.len()).unwrap()], raw)
}

fn bytes(name: &str, dims: &[i64], values: &[i8]) -> TensorProto {
    let raw = values.iter().map(|value| value.cast_unsigned()).collect();
    constant(name, data_type::INT8, dims, raw)
}

fn node(op_type: &str, inputs: &[&str], output: &str) -> NodeProto {
    NodeProto {
        op_type: op_type.to_owned(),
        input: inputs.iter().map(|name| (*name).to_owned()).collect(),
        output: vec![output.to_owned()],
        name: format!("{output}_node"),
        ..NodeProto::default()
    }
}

fn with_integer(mut node: NodeProto, name: &str, value: i64) -> NodeProto {
    node.attribute.push(AttributeProto {
        name: name.to_owned(),
        i: Some(value),
        kind: attribute_type::INT,
        ..AttributeProto::default()
    });
    node
}

fn with_integers(mut node: NodeProto, name: &str, values: &[i64]) -> NodeProto {
    node.attribute.push(AttributeProto {
        name: name.to_owned(),
        ints: values.to_vec(),
        kind: attribute_type::INTS,
        ..AttributeProto::default()
    });
    node
}

fn cast(input: &str, output: &str, to: i32) -> NodeProto {
    with_integer(node("Cast", &[input], output), "to", to.into())
}

fn value_info(name: &str, elem_type: i32, rank: usize) -> ValueInfoProto {
    let dim = (0..rank)
        .map(|axis| Dimension { value: Some(DimensionValue::Symbol(format!("{name}_{axis}"))) });
    let shape = Some(TensorShapeProto { dim: dim.collect() });
    let tensor_type = Some(TensorType { elem_type, shape });
    ValueInfoProto { name: name.to_owned(), value_type: Some(TypeProto { tensor_type }) }
}

/// A model that computes `y` from `x`, of any sizes.
fn model(x: &Tensor, nodes: Vec<NodeProto>, constants: Vec<TensorProto>) -> ModelProto {
    let input = match x {
        Tensor::F32 { shape, .. } => value_info(X, data_type::FLOAT, shape.len()),
        Tensor::I64 { shape, .. } => value_info(X, data_type::INT64, shape.len()),
    };
    let graph = GraphProto {
        node: nodes,
        initializer: constants,
        input: vec![input],
        output: vec![value_info(Y, data_type::FLOAT, 1)],
        ..GraphProto::default()
    };
    ModelProto {
        graph: Some(graph),
        opset_import: vec![OperatorSetIdProto { domain: String::new(), version: 18 }],
        ..ModelProto::default()
    }
}

fn run(model: &ModelProto, x: &Tensor, threads: usize) -> Result<Tensor, BackendError> {
    let graph = Exact::new(threads).load("test", &model.encode_to_vec())?;
    let mut outputs = graph.run(&[(X, x.clone())], &[Y])?;
    assert_eq!(outputs.len(), 1);
    Ok(outputs.remove(0))
}

fn compute(x: &Tensor, nodes: Vec<NodeProto>, constants: Vec<TensorProto>) -> Tensor {
    run(&model(x, nodes, constants), x, 1).unwrap()
}

fn tensor(shape: &[usize], values: &[f32]) -> Tensor {
    Tensor::F32 { shape: shape.to_vec(), values: values.to_vec() }
}

fn indices(shape: &[usize], values: &[i64]) -> Tensor {
    Tensor::I64 { shape: shape.to_vec(), values: values.to_vec() }
}

/// Compares shape and bits, so that the sign of zero and NaN count.
#[track_caller]
fn assert_same(got: &Tensor, expected: &Tensor) {
    match (got, expected) {
        (
            Tensor::F32 { shape: got_shape, values: got },
            Tensor::F32 { shape: expected_shape, values: expected },
        ) => {
            assert_eq!(got_shape, expected_shape);
            let differs = |(a, b): (&f32, &f32)| a.to_bits() != b.to_bits();
            let first = got.iter().zip(expected).position(differs);
            assert_eq!((first, got.len()), (None, expected.len()), "{got:?} {expected:?}");
        }
        (got, expected) => assert_eq!(got, expected),
    }
}

/// Values between -1 and 1 with full mantissas, the same ones every time.
fn noise(count: usize, mut seed: u32) -> Vec<f32> {
    let mut next = || {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f32::from_bits(0x3f80_0000 | (seed >> 9)) * 2.0 - 3.0
    };
    (0..count).map(|_| next()).collect()
}

/// Small integers from the same source.
fn noise_bytes(count: usize, seed: u32) -> Vec<i8> {
    noise(count, seed).iter().map(|value| value.to_bits().to_le_bytes()[1].cast_signed()).collect()
}
