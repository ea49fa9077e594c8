//! Builds ONNX graphs out of the few operator forms that every backend computes alike.
//!
//! Operands go in as [`Value`] handles, each operation returns the handle of its result, and its
//! shape is inferred at once: a graph that does not fit together fails here, not when a device
//! loads it. Dimensions are fixed, or symbolic where the caller chooses them (`batch`, `tokens`).
//! Arithmetic is f32; f16 and int8 occur only as constants, which [`GraphBuilder::cast`] widens.
//!
//! The result is deterministic: names are numbered in order of insertion, initializers are sorted
//! by name, equal anonymous constants are stored once. Operator set 18, file format 8, standard
//! operators only (<https://onnx.ai/onnx/operators/>): the forms measured to work in ONNX Runtime
//! as well as in tract.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use half::f16;
use prost::Message;
use t2lc_runtime::onnx::{
    AttributeProto, Dimension, DimensionValue, GraphProto, ModelProto, NodeProto,
    OperatorSetIdProto, TensorProto, TensorShapeProto, TensorType, TypeProto, ValueInfoProto,
    data_type,
};

use crate::error::ExportError;

mod operators;
mod shape;

pub use shape::Dim;

/// Version of the standard operator set.
pub const OPSET_VERSION: i64 = 18;
/// Version of the file format.
pub const IR_VERSION: i64 = 8;
/// Producer written into every model.
pub const PRODUCER_NAME: &str = "t2lc";

/// Element types that a graph may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ElementType {
    /// 32-bit float.
    F32,
    /// Half-precision float.
    F16,
    /// Signed 8-bit integer.
    I8,
    /// Signed 64-bit integer.
    I64,
}

impl ElementType {
    /// The type with this ONNX code, if a graph may hold it.
    pub fn from_code(code: i32) -> Option<Self> {
        [Self::F32, Self::F16, Self::I8, Self::I64].into_iter().find(|t| t.code() == code)
    }

    /// ONNX code, see [`data_type`].
    pub fn code(self) -> i32 {
        match self {
            Self::F32 => data_type::FLOAT,
            Self::F16 => data_type::FLOAT16,
            Self::I8 => data_type::INT8,
            Self::I64 => data_type::INT64,
        }
    }

    /// Size of an element.
    pub fn size_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
            Self::I8 => 1,
            Self::I64 => 8,
        }
    }
}

impl fmt::Display for ElementType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::I8 => "int8",
            Self::I64 => "int64",
        })
    }
}

/// Handle of an input, a constant or a result; valid in the builder that made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Value(usize);

#[derive(Debug)]
struct Fact {
    name: String,
    element: ElementType,
    shape: Vec<Dim>,
}

#[derive(Debug)]
struct Node {
    op: &'static str,
    inputs: Vec<Value>,
    output: Value,
    attributes: Vec<AttributeProto>,
}

type ConstantKey = (ElementType, Vec<usize>, Vec<u8>);

/// A graph under construction.
#[derive(Debug, Default)]
pub struct GraphBuilder {
    facts: Vec<Fact>,
    names: BTreeSet<String>,
    inputs: Vec<Value>,
    nodes: Vec<Node>,
    initializers: Vec<TensorProto>,
    constants: BTreeMap<ConstantKey, Value>,
}

impl GraphBuilder {
    /// An empty graph.
    pub fn new() -> Self {
        Self::default()
    }

    /// Shape of a value.
    ///
    /// # Errors
    /// [`ExportError::Graph`] for a value of another builder.
    pub fn shape(&self, value: Value) -> Result<&[Dim], ExportError> {
        Ok(&self.fact(value)?.shape)
    }

    /// Declares an input.
    ///
    /// # Errors
    /// [`ExportError::DuplicateName`].
    pub fn input(
        &mut self,
        name: &str,
        element: ElementType,
        shape: &[Dim],
    ) -> Result<Value, ExportError> {
        let value = self.register(name.to_owned(), element, shape.to_vec())?;
        self.inputs.push(value);
        Ok(value)
    }

    /// Stores a named f32 constant.
    ///
    /// # Errors
    /// A length that does not fit the shape, NaN or infinity, a name in use.
    pub fn initializer_f32(
        &mut self,
        name: &str,
        shape: &[usize],
        values: &[f32],
    ) -> Result<Value, ExportError> {
        if let Some(index) = values.iter().position(|value| !value.is_finite()) {
            return Err(ExportError::NonFinite { name: name.to_owned(), index, element: "f32" });
        }
        let raw = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.store(name.to_owned(), ElementType::F32, shape, raw)
    }

    /// Stores a named f16 constant.
    ///
    /// # Errors
    /// A length that does not fit the shape, NaN or infinity, a name in use.
    pub fn initializer_f16(
        &mut self,
        name: &str,
        shape: &[usize],
        values: &[f16],
    ) -> Result<Value, ExportError> {
        if let Some(index) = values.iter().position(|value| !value.is_finite()) {
            return Err(ExportError::NonFinite { name: name.to_owned(), index, element: "f16" });
        }
        let raw = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.store(name.to_owned(), ElementType::F16, shape, raw)
    }

    /// Stores a named int8 constant.
    ///
    /// # Errors
    /// A length that does not fit the shape, a name in use.
    pub fn initializer_i8(
        &mut self,
        name: &str,
        shape: &[usize],
        values: &[i8],
    ) -> Result<Value, ExportError> {
        let raw = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.store(name.to_owned(), ElementType::I8, shape, raw)
    }

    /// An anonymous f32 scalar.
    ///
    /// # Errors
    /// [`ExportError::NonFinite`].
    pub fn scalar(&mut self, value: f32) -> Result<Value, ExportError> {
        if !value.is_finite() {
            let name = "scalar".to_owned();
            return Err(ExportError::NonFinite { name, index: 0, element: "f32" });
        }
        self.constant(ElementType::F32, &[], value.to_le_bytes().to_vec())
    }

    /// An anonymous int64 vector.
    ///
    /// # Errors
    /// None in practice: its generated name is free unless the caller took it.
    pub fn indices(&mut self, values: &[i64]) -> Result<Value, ExportError> {
        let raw = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.constant(ElementType::I64, &[values.len()], raw)
    }

    /// Names the outputs and encodes the model.
    ///
    /// # Errors
    /// An output that is not the result of an operation or is named twice, a name in use, a model
    /// over the limit of [`crate::check::MAX_MODEL_BYTES`].
    pub fn finish(
        mut self,
        graph_name: &str,
        outputs: &[(String, Value)],
    ) -> Result<Vec<u8>, ExportError> {
        let mut renamed = Vec::new();
        for (name, value) in outputs {
            if renamed.contains(value) || !self.nodes.iter().any(|node| node.output == *value) {
                let reason = format!("`{name}` is no result, or has another name already");
                return Err(invalid("output", reason));
            }
            renamed.push(*value);
            if name.is_empty() || !self.names.insert(name.clone()) {
                return Err(ExportError::DuplicateName { name: name.clone() });
            }
            if let Some(fact) = self.facts.get_mut(value.0) {
                fact.name.clone_from(name);
            }
        }
        let nodes = self.nodes.iter().map(|node| self.encode_node(node));
        let node = nodes.collect::<Result<Vec<_>, _>>()?;
        let input = self.inputs.iter().map(|value| self.describe(*value));
        let input = input.collect::<Result<Vec<_>, _>>()?;
        let output = outputs.iter().map(|(_, value)| self.describe(*value));
        let output = output.collect::<Result<Vec<_>, _>>()?;
        let mut initializer = std::mem::take(&mut self.initializers);
        initializer.sort_by(|a, b| a.name.cmp(&b.name));
        let graph = GraphProto {
            node,
            name: graph_name.to_owned(),
            initializer,
            input,
            output,
            ..GraphProto::default()
        };
        let model = ModelProto {
            ir_version: IR_VERSION,
            producer_name: PRODUCER_NAME.to_owned(),
            graph: Some(graph),
            opset_import: vec![OperatorSetIdProto {
                domain: String::new(),
                version: OPSET_VERSION,
            }],
            ..ModelProto::default()
        };
        let (bytes, limit) = (model.encoded_len(), crate::check::MAX_MODEL_BYTES);
        if bytes > limit {
            return Err(ExportError::TooLarge { bytes, limit });
        }
        Ok(model.encode_to_vec())
    }

    fn fact(&self, value: Value) -> Result<&Fact, ExportError> {
        self.facts.get(value.0).ok_or_else(|| invalid("graph", "value is of another builder"))
    }

    fn register(
        &mut self,
        name: String,
        element: ElementType,
        shape: Vec<Dim>,
    ) -> Result<Value, ExportError> {
        if name.is_empty() || !self.names.insert(name.clone()) {
            return Err(ExportError::DuplicateName { name });
        }
        self.facts.push(Fact { name, element, shape });
        Ok(Value(self.facts.len() - 1))
    }

    fn node(
        &mut self,
        op: &'static str,
        inputs: &[Value],
        attributes: Vec<AttributeProto>,
        element: ElementType,
        shape: Vec<Dim>,
    ) -> Result<Value, ExportError> {
        let name = format!("{}_{}", op.to_ascii_lowercase(), self.nodes.len());
        let output = self.register(name, element, shape)?;
        self.nodes.push(Node { op, inputs: inputs.to_vec(), output, attributes });
        Ok(output)
    }

    fn constant(
        &mut self,
        element: ElementType,
        shape: &[usize],
        raw: Vec<u8>,
    ) -> Result<Value, ExportError> {
        let key = (element, shape.to_vec(), raw);
        if let Some(value) = self.constants.get(&key) {
            return Ok(*value);
        }
        let name = format!("constant_{}", self.constants.len());
        let value = self.store(name, element, shape, key.2.clone())?;
        self.constants.insert(key, value);
        Ok(value)
    }

    fn store(
        &mut self,
        name: String,
        element: ElementType,
        shape: &[usize],
        raw: Vec<u8>,
    ) -> Result<Value, ExportError> {
        let size = element.size_bytes();
        let expected = shape.iter().try_fold(size, |product, n| product.checked_mul(*n));
        if expected != Some(raw.len()) {
            let expected = expected.map_or(usize::MAX, |bytes| bytes / size);
            return Err(ExportError::TensorLength { name, expected, got: raw.len() / size });
        }
        let dims =
            shape.iter().map(|&n| signed("initializer", n)).collect::<Result<Vec<_>, _>>()?;
        let fixed = shape.iter().copied().map(Dim::Fixed).collect();
        let value = self.register(name.clone(), element, fixed)?;
        let data_type = element.code();
        let tensor =
            TensorProto { dims, data_type, name, raw_data: raw.into(), ..TensorProto::default() };
        self.initializers.push(tensor);
        Ok(value)
    }

    fn encode_node(&self, node: &Node) -> Result<NodeProto, ExportError> {
        let name = self.fact(node.output)?.name.clone();
        let names = node.inputs.iter().map(|value| Ok(self.fact(*value)?.name.clone()));
        Ok(NodeProto {
            input: names.collect::<Result<Vec<String>, ExportError>>()?,
            output: vec![name.clone()],
            name,
            op_type: node.op.to_owned(),
            attribute: node.attributes.clone(),
            ..NodeProto::default()
        })
    }

    fn describe(&self, value: Value) -> Result<ValueInfoProto, ExportError> {
        let fact = self.fact(value)?;
        let mut dim = Vec::with_capacity(fact.shape.len());
        for size in &fact.shape {
            let value = match size {
                Dim::Fixed(size) => DimensionValue::Size(signed("graph", *size)?),
                Dim::Symbol(name) => DimensionValue::Symbol((*name).to_owned()),
            };
            dim.push(Dimension { value: Some(value) });
        }
        let tensor_type =
            TensorType { elem_type: fact.element.code(), shape: Some(TensorShapeProto { dim }) };
        Ok(ValueInfoProto {
            name: fact.name.clone(),
            value_type: Some(TypeProto { tensor_type: Some(tensor_type) }),
        })
    }
}

fn invalid(op: &'static str, reason: impl Into<String>) -> ExportError {
    ExportError::Graph { op, reason: reason.into() }
}

/// A size as ONNX wants it.
pub(crate) fn signed(op: &'static str, size: usize) -> Result<i64, ExportError> {
    i64::try_from(size).map_err(|_| invalid(op, format!("size {size} is too large")))
}

#[cfg(test)]
mod tests;
