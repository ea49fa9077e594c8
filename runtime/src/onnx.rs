//! The ONNX messages this project reads and writes.
//!
//! A model is one [`ModelProto`]: its [`GraphProto`] holds nodes in execution order, initializers
//! (constants) and typed graph inputs and outputs. Field numbers are those of `onnx.proto`
//! (<https://github.com/onnx/onnx/blob/main/onnx/onnx.proto>), wire format proto2: repeated
//! numbers are unpacked except where the schema says `packed`, and scalars with field presence are
//! [`Option`], so that an attribute whose value is 0 is still written. Fields that are not listed
//! here are skipped on reading; decoding never panics and recursion is limited by the decoder.
//!
//! Tensor bytes are little-endian and row-major in [`TensorProto::raw_data`]; decoded from [`Bytes`],
//! they are not copied.

use bytes::Bytes;

pub mod field;
mod swollen;

pub use swollen::{Swollen, refuse_swollen};

/// Codes of [`TensorProto::data_type`] and [`TensorType::elem_type`].
pub mod data_type {
    /// 32-bit float.
    pub const FLOAT: i32 = 1;
    /// Signed 8-bit integer.
    pub const INT8: i32 = 3;
    /// Signed 32-bit integer.
    pub const INT32: i32 = 6;
    /// Signed 64-bit integer.
    pub const INT64: i32 = 7;
    /// Boolean, one byte an element.
    pub const BOOL: i32 = 9;
    /// IEEE half-precision float.
    pub const FLOAT16: i32 = 10;
    /// 64-bit float.
    pub const DOUBLE: i32 = 11;
}

/// Codes of [`AttributeProto::kind`]: which of the value fields is in use.
pub mod attribute_type {
    /// [`super::AttributeProto::f`].
    pub const FLOAT: i32 = 1;
    /// [`super::AttributeProto::i`].
    pub const INT: i32 = 2;
    /// [`super::AttributeProto::s`].
    pub const STRING: i32 = 3;
    /// [`super::AttributeProto::t`].
    pub const TENSOR: i32 = 4;
    /// [`super::AttributeProto::g`].
    pub const GRAPH: i32 = 5;
    /// [`super::AttributeProto::floats`].
    pub const FLOATS: i32 = 6;
    /// [`super::AttributeProto::ints`].
    pub const INTS: i32 = 7;
    /// [`super::AttributeProto::strings`].
    pub const STRINGS: i32 = 8;
}

/// A file: one graph and the operator sets it is written in.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ModelProto {
    /// Version of the file format.
    #[prost(int64, tag = "1")]
    pub ir_version: i64,
    /// Program that wrote the file.
    #[prost(string, tag = "2")]
    pub producer_name: String,
    /// Version of that program.
    #[prost(string, tag = "3")]
    pub producer_version: String,
    /// Reverse-DNS namespace of the model.
    #[prost(string, tag = "4")]
    pub domain: String,
    /// Version of the model.
    #[prost(int64, tag = "5")]
    pub model_version: i64,
    /// Documentation.
    #[prost(string, tag = "6")]
    pub doc_string: String,
    /// The graph.
    #[prost(message, optional, tag = "7")]
    pub graph: Option<GraphProto>,
    /// Operator sets in use, one entry a domain.
    #[prost(message, repeated, tag = "8")]
    pub opset_import: Vec<OperatorSetIdProto>,
    /// Free key-value pairs.
    #[prost(message, repeated, tag = "14")]
    pub metadata_props: Vec<StringStringEntryProto>,
}

/// Version of one operator domain.
#[derive(Clone, PartialEq, prost::Message)]
pub struct OperatorSetIdProto {
    /// Domain; empty for the standard operators.
    #[prost(string, tag = "1")]
    pub domain: String,
    /// Version of the operator set.
    #[prost(int64, tag = "2")]
    pub version: i64,
}

/// One metadata pair.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StringStringEntryProto {
    /// Key.
    #[prost(string, tag = "1")]
    pub key: String,
    /// Value.
    #[prost(string, tag = "2")]
    pub value: String,
}

/// Nodes in topological order, constants, inputs and outputs.
#[derive(Clone, PartialEq, prost::Message)]
pub struct GraphProto {
    /// Operations in execution order.
    #[prost(message, repeated, tag = "1")]
    pub node: Vec<NodeProto>,
    /// Name of the graph.
    #[prost(string, tag = "2")]
    pub name: String,
    /// Constants, by name.
    #[prost(message, repeated, tag = "5")]
    pub initializer: Vec<TensorProto>,
    /// Documentation.
    #[prost(string, tag = "10")]
    pub doc_string: String,
    /// Inputs that the caller feeds.
    #[prost(message, repeated, tag = "11")]
    pub input: Vec<ValueInfoProto>,
    /// Outputs in order.
    #[prost(message, repeated, tag = "12")]
    pub output: Vec<ValueInfoProto>,
    /// Types of intermediate values.
    #[prost(message, repeated, tag = "13")]
    pub value_info: Vec<ValueInfoProto>,
}

/// One operation.
#[derive(Clone, PartialEq, prost::Message)]
pub struct NodeProto {
    /// Names of the values it reads; empty for an omitted optional input.
    #[prost(string, repeated, tag = "1")]
    pub input: Vec<String>,
    /// Names of the values it defines.
    #[prost(string, repeated, tag = "2")]
    pub output: Vec<String>,
    /// Name of the node.
    #[prost(string, tag = "3")]
    pub name: String,
    /// Operator, for example `MatMul`.
    #[prost(string, tag = "4")]
    pub op_type: String,
    /// Attributes, by name.
    #[prost(message, repeated, tag = "5")]
    pub attribute: Vec<AttributeProto>,
    /// Documentation.
    #[prost(string, tag = "6")]
    pub doc_string: String,
    /// Domain of the operator; empty for the standard operators.
    #[prost(string, tag = "7")]
    pub domain: String,
}

/// A named attribute of a node; [`AttributeProto::kind`] says which field holds the value.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AttributeProto {
    /// Name, for example `axis`.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Float value.
    #[prost(float, optional, tag = "2")]
    pub f: Option<f32>,
    /// Integer value.
    #[prost(int64, optional, tag = "3")]
    pub i: Option<i64>,
    /// String value, UTF-8.
    #[prost(bytes = "vec", optional, tag = "4")]
    pub s: Option<Vec<u8>>,
    /// Tensor value.
    #[prost(message, optional, tag = "5")]
    pub t: Option<TensorProto>,
    /// Subgraph.
    #[prost(message, optional, tag = "6")]
    pub g: Option<GraphProto>,
    /// List of floats.
    #[prost(float, repeated, packed = "false", tag = "7")]
    pub floats: Vec<f32>,
    /// List of integers.
    #[prost(int64, repeated, packed = "false", tag = "8")]
    pub ints: Vec<i64>,
    /// List of strings.
    #[prost(bytes = "vec", repeated, tag = "9")]
    pub strings: Vec<Vec<u8>>,
    /// Which field holds the value, one of [`attribute_type`]; called `type` in the schema.
    #[prost(int32, tag = "20")]
    pub kind: i32,
}

/// A constant tensor.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TensorProto {
    /// Shape; empty for a scalar.
    #[prost(int64, repeated, packed = "false", tag = "1")]
    pub dims: Vec<i64>,
    /// Element type, one of [`data_type`].
    #[prost(int32, tag = "2")]
    pub data_type: i32,
    /// Elements of a float tensor, where `raw_data` is not used.
    #[prost(float, repeated, tag = "4")]
    pub float_data: Vec<f32>,
    /// Elements of narrow integer and half-precision tensors, where `raw_data` is not used.
    #[prost(int32, repeated, tag = "5")]
    pub int32_data: Vec<i32>,
    /// Elements of a string tensor.
    #[prost(bytes = "vec", repeated, tag = "6")]
    pub string_data: Vec<Vec<u8>>,
    /// Elements of a 64-bit integer tensor, where `raw_data` is not used.
    #[prost(int64, repeated, tag = "7")]
    pub int64_data: Vec<i64>,
    /// Name that nodes refer to.
    #[prost(string, tag = "8")]
    pub name: String,
    /// Elements, little-endian and row-major.
    #[prost(bytes = "bytes", tag = "9")]
    pub raw_data: Bytes,
}

/// Name and type of a graph input or output.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ValueInfoProto {
    /// Name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Type; called `type` in the schema.
    #[prost(message, optional, tag = "2")]
    pub value_type: Option<TypeProto>,
}

/// A type; only tensors are read.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TypeProto {
    /// Element type and shape of a tensor.
    #[prost(message, optional, tag = "1")]
    pub tensor_type: Option<TensorType>,
}

/// Element type and shape of a tensor.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TensorType {
    /// Element type, one of [`data_type`].
    #[prost(int32, tag = "1")]
    pub elem_type: i32,
    /// Shape; `None` if unknown.
    #[prost(message, optional, tag = "2")]
    pub shape: Option<TensorShapeProto>,
}

/// A shape whose dimensions may be symbolic.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TensorShapeProto {
    /// Dimensions, outermost first.
    #[prost(message, repeated, tag = "1")]
    pub dim: Vec<Dimension>,
}

/// One dimension.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Dimension {
    /// Size or name; `None` if unknown.
    #[prost(oneof = "DimensionValue", tags = "1, 2")]
    pub value: Option<DimensionValue>,
}

/// Size or name of a dimension.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum DimensionValue {
    /// Size in elements.
    #[prost(int64, tag = "1")]
    Size(i64),
    /// Name that equal dimensions share, for example `batch`.
    #[prost(string, tag = "2")]
    Symbol(String),
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::{AttributeProto, TensorProto, attribute_type, data_type};

    #[test]
    fn dims_are_written_unpacked() {
        let tensor =
            TensorProto { dims: vec![2, 3], data_type: data_type::INT8, ..TensorProto::default() };
        assert_eq!(tensor.encode_to_vec(), [0x08, 2, 0x08, 3, 0x10, 3]);
    }

    #[test]
    fn packed_dims_of_other_writers_are_read() {
        let tensor = TensorProto::decode([0x0a_u8, 2, 2, 3].as_slice()).unwrap();
        assert_eq!(tensor.dims, [2, 3]);
    }

    #[test]
    fn zero_attributes_are_written() {
        let attribute = AttributeProto {
            name: "axis".into(),
            i: Some(0),
            kind: attribute_type::INT,
            ..AttributeProto::default()
        };
        let bytes = attribute.encode_to_vec();
        assert_eq!(AttributeProto::decode(bytes.as_slice()).unwrap().i, Some(0));
        assert!(bytes.windows(2).any(|pair| pair == [0x18, 0]));
    }

    #[test]
    fn truncated_bytes_are_an_error() {
        assert!(TensorProto::decode([0x4a_u8, 0xff, 0xff, 0x7f].as_slice()).is_err());
    }
}
