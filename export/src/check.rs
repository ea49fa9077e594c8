//! Checks that a model has only the form every backend computes alike.
//!
//! In goes the bytes of an ONNX file, out comes nothing or the first departure: an operator outside
//! [`ALLOWED_OPERATORS`], another operator set or file format, an element type other than f32, f16,
//! int8 and int64, a value read before it is defined or defined twice, a constant whose bytes do
//! not fill its shape, a subgraph, a size that one protobuf message may not have. Both graph
//! builders run this on what they return.

use std::collections::BTreeSet;

use prost::Message;
use t2lc_runtime::onnx::{
    AttributeProto, DimensionValue, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto,
    attribute_type,
};

use crate::error::ExportError;
use crate::graph::{ElementType, IR_VERSION, OPSET_VERSION};

/// Operators of the standard domain that a model may use, sorted.
pub const ALLOWED_OPERATORS: &[&str] = &[
    "Add",
    "Cast",
    "Div",
    "Erf",
    "Gather",
    "LayerNormalization",
    "MatMul",
    "Max",
    "Mul",
    "ReduceSum",
    "Reshape",
    "Shape",
    "Sigmoid",
    "Slice",
    "Softmax",
    "Sqrt",
    "Sub",
    "Transpose",
    "Unsqueeze",
];

/// Largest model: protobuf messages are below 2 GiB.
pub const MAX_MODEL_BYTES: usize = (1 << 31) - 1;

/// Decodes a model and checks it, see the module documentation.
///
/// # Errors
/// The first departure found, with the node or value it is about.
pub fn check_model(bytes: &[u8]) -> Result<(), ExportError> {
    if bytes.len() > MAX_MODEL_BYTES {
        return Err(ExportError::TooLarge { bytes: bytes.len(), limit: MAX_MODEL_BYTES });
    }
    let model = ModelProto::decode(bytes)?;
    if model.ir_version != IR_VERSION {
        return Err(differs("file format", IR_VERSION, model.ir_version));
    }
    match model.opset_import.as_slice() {
        [set] if set.domain.is_empty() && set.version == OPSET_VERSION => {}
        sets => {
            let got: Vec<String> =
                sets.iter().map(|set| format!("`{}` {}", set.domain, set.version)).collect();
            let expected = format!("`` {OPSET_VERSION}");
            return Err(differs("operator set", expected, got.join(", ")));
        }
    }
    let graph = model.graph.ok_or_else(|| differs("graph", "present", "absent"))?;
    check_graph(&graph)
}

fn check_graph(graph: &GraphProto) -> Result<(), ExportError> {
    let mut defined = BTreeSet::new();
    for tensor in &graph.initializer {
        check_tensor(tensor)?;
        define(&mut defined, &tensor.name)?;
    }
    for input in &graph.input {
        check_type(input)?;
        define(&mut defined, &input.name)?;
    }
    let mut computed = BTreeSet::new();
    for node in &graph.node {
        check_operator(node)?;
        for value in &node.input {
            if !defined.contains(value.as_str()) {
                return Err(undefined(&node.name, value));
            }
        }
        for value in &node.output {
            define(&mut defined, value)?;
            computed.insert(value.as_str());
        }
    }
    if graph.output.is_empty() {
        return Err(differs("number of outputs", "at least 1", 0));
    }
    let mut outputs = BTreeSet::new();
    for output in &graph.output {
        check_type(output)?;
        define(&mut outputs, &output.name)?;
        if !computed.contains(output.name.as_str()) {
            return Err(undefined("graph output", &output.name));
        }
    }
    Ok(())
}

fn check_operator(node: &NodeProto) -> Result<(), ExportError> {
    if !node.domain.is_empty() || !ALLOWED_OPERATORS.contains(&node.op_type.as_str()) {
        return Err(ExportError::OperatorNotAllowed {
            node: node.name.clone(),
            op: node.op_type.clone(),
            domain: node.domain.clone(),
        });
    }
    if node.output.len() != 1 {
        let what = format!("number of outputs of node `{}`", node.name);
        return Err(differs(what, 1, node.output.len()));
    }
    node.attribute.iter().try_for_each(|attribute| check_attribute(node, attribute))
}

fn check_attribute(node: &NodeProto, attribute: &AttributeProto) -> Result<(), ExportError> {
    let what = || format!("attribute `{}` of node `{}`", attribute.name, node.name);
    let complete = match attribute.kind {
        attribute_type::FLOAT => attribute.f.is_some(),
        attribute_type::INT => attribute.i.is_some(),
        attribute_type::INTS => true,
        _ => false,
    };
    if !complete || attribute.g.is_some() || attribute.t.is_some() {
        let expected = "a float, an integer or integers";
        return Err(differs(what(), expected, format!("of kind {}", attribute.kind)));
    }
    if node.op_type == "Cast" && attribute.name == "to" {
        let code = attribute.i.and_then(|code| i32::try_from(code).ok());
        if code.and_then(ElementType::from_code).is_none() {
            let got = format!("{:?}", attribute.i);
            return Err(differs(what(), "f32, f16, int8 or int64", got));
        }
    }
    Ok(())
}

fn check_tensor(tensor: &TensorProto) -> Result<(), ExportError> {
    let element = element_type(&tensor.name, tensor.data_type)?;
    let bytes = tensor.dims.iter().try_fold(element.size_bytes(), |product, size| {
        product.checked_mul(usize::try_from(*size).ok()?)
    });
    let Some(bytes) = bytes else {
        let what = format!("shape of `{}`", tensor.name);
        return Err(differs(what, "non-negative sizes", format!("{:?}", tensor.dims)));
    };
    let elsewhere = !tensor.float_data.is_empty()
        || !tensor.int32_data.is_empty()
        || !tensor.int64_data.is_empty()
        || !tensor.string_data.is_empty();
    if elsewhere {
        let what = format!("data of `{}`", tensor.name);
        return Err(differs(what, "raw bytes", "a typed list"));
    }
    if bytes != tensor.raw_data.len() {
        let what = format!("number of bytes of `{}`", tensor.name);
        return Err(differs(what, bytes, tensor.raw_data.len()));
    }
    Ok(())
}

fn check_type(value: &ValueInfoProto) -> Result<(), ExportError> {
    let what = || format!("type of `{}`", value.name);
    let tensor = value.value_type.as_ref().and_then(|value_type| value_type.tensor_type.as_ref());
    let tensor = tensor.ok_or_else(|| differs(what(), "a tensor", "something else"))?;
    element_type(&value.name, tensor.elem_type)?;
    let known = tensor.shape.as_ref().is_some_and(|shape| {
        shape.dim.iter().all(|dim| match &dim.value {
            Some(DimensionValue::Size(size)) => *size > 0,
            Some(DimensionValue::Symbol(name)) => !name.is_empty(),
            None => false,
        })
    });
    if !known {
        return Err(differs(what(), "of sizes or symbols", "of unknown shape"));
    }
    Ok(())
}

fn element_type(name: &str, code: i32) -> Result<ElementType, ExportError> {
    ElementType::from_code(code).ok_or_else(|| ExportError::TensorType {
        name: name.to_owned(),
        expected: "f32, f16, int8 or int64",
        got: format!("code {code}"),
    })
}

fn define<'a>(defined: &mut BTreeSet<&'a str>, name: &'a str) -> Result<(), ExportError> {
    if name.is_empty() || !defined.insert(name) {
        return Err(ExportError::DuplicateName { name: name.to_owned() });
    }
    Ok(())
}

fn undefined(reader: &str, value: &str) -> ExportError {
    ExportError::Undefined { reader: reader.to_owned(), value: value.to_owned() }
}

#[allow(clippy::needless_pass_by_value, reason = "numbers and literals; keeps the calls short")]
fn differs(what: impl Into<String>, expected: impl ToString, got: impl ToString) -> ExportError {
    ExportError::Model { what: what.into(), expected: expected.to_string(), got: got.to_string() }
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use t2lc_runtime::onnx::{ModelProto, OperatorSetIdProto, data_type};

    use super::{ALLOWED_OPERATORS, check_model};
    use crate::error::ExportError;
    use crate::graph::{Dim, ElementType, GraphBuilder};

    fn model() -> ModelProto {
        let mut graph = GraphBuilder::new();
        let x = graph.input("x", ElementType::F32, &[Dim::Symbol("batch"), Dim::Fixed(2)]).unwrap();
        let w = graph.initializer_f32("w", &[2, 3], &[0.5; 6]).unwrap();
        let y = graph.matmul(x, w).unwrap();
        let y = graph.softmax(y).unwrap();
        let bytes = graph.finish("test", &[("y".into(), y)]).unwrap();
        check_model(&bytes).unwrap();
        ModelProto::decode(bytes.as_slice()).unwrap()
    }

    fn refused(change: fn(&mut ModelProto)) -> ExportError {
        let mut model = model();
        change(&mut model);
        check_model(&model.encode_to_vec()).unwrap_err()
    }

    #[test]
    fn the_allow_list_is_sorted() {
        assert!(ALLOWED_OPERATORS.is_sorted());
    }

    #[test]
    fn other_operators_and_domains_are_refused() {
        let error = refused(|m| m.graph.as_mut().unwrap().node[1].op_type = "Loop".into());
        assert!(matches!(error, ExportError::OperatorNotAllowed { op, .. } if op == "Loop"));
        let error = refused(|m| m.graph.as_mut().unwrap().node[0].domain = "com.other".into());
        assert!(matches!(error, ExportError::OperatorNotAllowed { .. }));
        let error = refused(|m| m.opset_import.push(OperatorSetIdProto::default()));
        assert!(matches!(error, ExportError::Model { .. }));
        let error = refused(|m| m.opset_import[0].version = 21);
        assert!(error.to_string().contains("operator set"));
    }

    #[test]
    fn order_and_names_are_checked() {
        let error = refused(|m| m.graph.as_mut().unwrap().node.reverse());
        assert!(matches!(error, ExportError::Undefined { value, .. } if value == "matmul_0"));
        let error = refused(|m| m.graph.as_mut().unwrap().input[0].name = "w".into());
        assert!(matches!(error, ExportError::DuplicateName { name } if name == "w"));
        let error = refused(|m| m.graph.as_mut().unwrap().output[0].name = "x".into());
        assert!(matches!(error, ExportError::Undefined { .. }));
    }

    #[test]
    fn incomplete_constants_and_other_types_are_refused() {
        let error = refused(|m| {
            let raw = &mut m.graph.as_mut().unwrap().initializer[0].raw_data;
            raw.truncate(raw.len() - 1);
        });
        assert!(error.to_string().contains("number of bytes of `w` is 23, expected 24"));
        let error = refused(|m| {
            m.graph.as_mut().unwrap().initializer[0].data_type = data_type::DOUBLE;
        });
        assert!(matches!(error, ExportError::TensorType { .. }));
        let error = refused(|m| m.graph.as_mut().unwrap().initializer[0].dims[0] = -2);
        assert!(matches!(error, ExportError::Model { .. }));
        let error = refused(|m| m.graph.as_mut().unwrap().input[0].value_type = None);
        assert!(matches!(error, ExportError::Model { .. }));
    }

    #[test]
    fn bytes_that_are_no_model_are_refused() {
        assert!(matches!(check_model(&[0xff; 9]), Err(ExportError::Decode(_))));
        assert!(check_model(&[]).is_err());
    }
}
