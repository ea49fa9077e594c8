//! Widens a graph's int8 weights before tract sees them.
//!
//! In: the messages of a graph whose int8 weights are stored as `Cast · Mul [· Reshape]` of
//! initializers. Out: the same graph with each of those chains replaced by one f32 initializer of
//! the same values, to the bit. tract would fold the chains itself, but would keep every
//! intermediate result until it is done, at three times the memory.
//!
//! A chain of another form is left as it is, for tract to fold.

use std::collections::HashMap;

use tract_onnx::pb::{GraphProto, NodeProto, TensorProto};

/// ONNX data type codes.
const FLOAT: i32 = 1;
const INT8: i32 = 3;

/// Replaces the chains of weights in `graph`.
pub(super) fn widen_weights(graph: &mut GraphProto) {
    let mut readers: HashMap<String, usize> = HashMap::new();
    let outputs = graph.output.iter().map(|output| &output.name);
    for name in graph.node.iter().flat_map(|node| &node.input).chain(outputs) {
        *readers.entry(name.clone()).or_default() += 1;
    }
    let named = |tensor: TensorProto| (tensor.name.clone(), tensor);
    let mut weights: HashMap<String, TensorProto> =
        std::mem::take(&mut graph.initializer).into_iter().map(named).collect();
    let nodes = std::mem::take(&mut graph.node);
    for node in nodes {
        // A tensor that something else reads as well must stay.
        let owned = node.input.first().is_some_and(|name| readers.get(name) == Some(&1));
        match if owned { fold(&node, &mut weights) } else { None } {
            Some(tensor) => {
                weights.insert(tensor.name.clone(), tensor);
            }
            None => graph.node.push(node),
        }
    }
    graph.initializer = weights.into_values().collect();
    graph.initializer.sort_by(|a, b| a.name.cmp(&b.name));
}

/// The output of a node whose inputs are weights, made from its first input in place.
fn fold(node: &NodeProto, weights: &mut HashMap<String, TensorProto>) -> Option<TensorProto> {
    let output = node.output.first()?;
    let first = node.input.first()?;
    let mut tensor = match node.op_type.as_str() {
        "Cast" if weights.get(first)?.data_type == INT8 => {
            let to = node.attribute.iter().find(|attribute| attribute.name == "to")?;
            // Values may be in another field than the raw data, which is empty then.
            if to.i != i64::from(FLOAT) || !is_complete(weights.get(first)?, 1) {
                return None;
            }
            let mut tensor = weights.remove(first)?;
            tensor.data_type = FLOAT;
            tensor.raw_data = widened(&tensor.raw_data);
            tensor
        }
        "Mul" => {
            let scale = weights.get(node.input.get(1)?)?;
            if !is_scaled_by_axis(weights.get(first)?, scale) {
                return None;
            }
            let scale = scale.clone();
            let mut tensor = weights.remove(first)?;
            scale_rows(&mut tensor, &scale)?;
            tensor
        }
        "Reshape" if weights.get(first)?.data_type == FLOAT => {
            let shape = weights.get(node.input.get(1)?)?;
            let (words, _) = shape.raw_data.as_chunks::<8>();
            let dims: Vec<i64> = words.iter().map(|word| i64::from_le_bytes(*word)).collect();
            if dims.is_empty() || dims.iter().any(|dim| *dim <= 0) {
                return None;
            }
            let mut tensor = weights.remove(first)?;
            tensor.dims = dims;
            tensor
        }
        _ => return None,
    };
    tensor.name.clone_from(output);
    Some(tensor)
}

fn widened(bytes: &[u8]) -> Vec<u8> {
    let mut wide = Vec::with_capacity(bytes.len().saturating_mul(4));
    for byte in bytes {
        wide.extend(f32::from(byte.cast_signed()).to_le_bytes());
    }
    wide
}

/// Whether `scale` has one value per matrix and column: `[.., rows, columns]` by `[.., 1, columns]`.
fn is_scaled_by_axis(tensor: &TensorProto, scale: &TensorProto) -> bool {
    let rank = tensor.dims.len();
    let fits =
        |axis: usize| scale.dims[axis] == if axis + 2 == rank { 1 } else { tensor.dims[axis] };
    let floats = |t: &TensorProto| t.data_type == FLOAT && is_complete(t, 4);
    rank >= 2 && scale.dims.len() == rank && (0..rank).all(fits) && floats(tensor) && floats(scale)
}

/// Whether the raw data has exactly the values that the dimensions promise, of so many bytes each.
fn is_complete(tensor: &TensorProto, value_bytes: usize) -> bool {
    let mut dims = tensor.dims.iter();
    let count = dims.try_fold(1usize, |count, dim| count.checked_mul(usize::try_from(*dim).ok()?));
    count.and_then(|count| count.checked_mul(value_bytes)) == Some(tensor.raw_data.len())
}

/// Multiplies every row of every matrix by that matrix's scales.
fn scale_rows(tensor: &mut TensorProto, scale: &TensorProto) -> Option<()> {
    let [.., rows, columns] = tensor.dims[..] else { return None };
    let (rows, columns) = (usize::try_from(rows).ok()?, usize::try_from(columns).ok()?);
    let row_bytes = columns.checked_mul(4).filter(|bytes| *bytes > 0)?;
    let matrix_bytes = rows.checked_mul(row_bytes).filter(|bytes| *bytes > 0)?;
    let matrices = tensor.raw_data.chunks_exact_mut(matrix_bytes);
    for (matrix, scales) in matrices.zip(scale.raw_data.chunks_exact(row_bytes)) {
        let (scales, _) = scales.as_chunks::<4>();
        for row in matrix.chunks_exact_mut(row_bytes) {
            let (values, _) = row.as_chunks_mut::<4>();
            for (value, scale) in values.iter_mut().zip(scales) {
                *value = (f32::from_le_bytes(*value) * f32::from_le_bytes(*scale)).to_le_bytes();
            }
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use tract_onnx::pb::{AttributeProto, GraphProto, NodeProto, TensorProto, ValueInfoProto};

    use super::{FLOAT, INT8, widen_weights};

    fn node(op_type: &str, input: &[&str], output: &str) -> NodeProto {
        NodeProto {
            op_type: op_type.into(),
            input: input.iter().map(|name| (*name).to_owned()).collect(),
            output: vec![output.into()],
            ..NodeProto::default()
        }
    }

    fn tensor(name: &str, data_type: i32, dims: &[i64], raw_data: Vec<u8>) -> TensorProto {
        TensorProto {
            name: name.into(),
            data_type,
            dims: dims.into(),
            raw_data,
            ..Default::default()
        }
    }

    fn chain() -> GraphProto {
        let to = AttributeProto { name: "to".into(), i: FLOAT.into(), ..Default::default() };
        let scales: Vec<u8> =
            [0.5f32, 2.0, 10.0, 100.0].iter().flat_map(|s| s.to_le_bytes()).collect();
        let shape: Vec<u8> = [4i64, 2].iter().flat_map(|s| s.to_le_bytes()).collect();
        GraphProto {
            node: vec![
                NodeProto { attribute: vec![to], ..node("Cast", &["w"], "wide") },
                node("Mul", &["wide", "scale"], "scaled"),
                node("Reshape", &["scaled", "shape"], "matrix"),
                node("MatMul", &["x", "matrix"], "y"),
            ],
            initializer: vec![
                tensor("w", INT8, &[2, 2, 2], vec![1, 2, 255, 4, 5, 6, 7, 128]),
                tensor("scale", FLOAT, &[2, 1, 2], scales),
                tensor("shape", 7, &[2], shape),
            ],
            ..GraphProto::default()
        }
    }

    #[test]
    fn a_chain_becomes_one_initializer() {
        let mut graph = chain();
        widen_weights(&mut graph);
        assert_eq!(graph.node.len(), 1);
        let matrix = graph.initializer.iter().find(|t| t.name == "matrix").unwrap();
        assert_eq!((matrix.data_type, &matrix.dims[..]), (FLOAT, &[4, 2][..]));
        let (words, _) = matrix.raw_data.as_chunks::<4>();
        let values: Vec<f32> = words.iter().map(|word| f32::from_le_bytes(*word)).collect();
        assert_eq!(values, [0.5, 4.0, -0.5, 8.0, 50.0, 600.0, 70.0, -12800.0]);
    }

    #[test]
    fn what_something_else_reads_is_left_alone() {
        let mut graph = chain();
        graph.node.push(node("Gather", &["w", "ids"], "row"));
        let before = graph.clone();
        widen_weights(&mut graph);
        assert_eq!(graph.node, before.node);
    }

    #[test]
    fn what_the_graph_returns_is_left_alone() {
        let mut graph = chain();
        let output = ValueInfoProto { name: "wide".into(), ..ValueInfoProto::default() };
        graph.output.push(output);
        widen_weights(&mut graph);
        assert!(graph.node.iter().any(|node| node.op_type == "Mul"));
    }

    #[test]
    fn values_outside_the_raw_data_are_left_alone() {
        let mut graph = chain();
        graph.initializer[0].raw_data.clear();
        graph.initializer[0].int32_data = vec![1; 8];
        widen_weights(&mut graph);
        assert_eq!(graph.node[0].op_type, "Cast");
    }

    #[test]
    fn tensors_that_lie_about_their_size_are_left_alone() {
        let mut graph = chain();
        graph.initializer[0].dims = vec![1 << 62, 2, 2];
        widen_weights(&mut graph);
        assert!(graph.node.iter().any(|node| node.op_type == "Mul"));
    }
}
