//! The parts of foreign ONNX messages that decide what is kept; the decoder skips the rest, weights
//! above all, without copying it.
//!
//! Field numbers are those of `onnx.proto`
//! (<https://github.com/onnx/onnx/blob/main/onnx/onnx.proto>). Messages nest as deep as the decoder
//! allows, which bounds every recursion here.

/// Numbers of the fields of a model that are looked at.
pub(super) mod model {
    pub(in super::super) const IR_VERSION: u32 = 1;
    pub(in super::super) const GRAPH: u32 = 7;
    pub(in super::super) const OPSET_IMPORT: u32 = 8;
    pub(in super::super) const FUNCTIONS: u32 = 25;
}

/// Numbers of the fields of a graph that are looked at.
pub(super) mod graph {
    pub(in super::super) const NODE: u32 = 1;
    pub(in super::super) const INITIALIZER: u32 = 5;
    pub(in super::super) const INPUT: u32 = 11;
    pub(in super::super) const OUTPUT: u32 = 12;
    pub(in super::super) const VALUE_INFO: u32 = 13;
    pub(in super::super) const QUANTIZATION_ANNOTATION: u32 = 14;
    pub(in super::super) const SPARSE_INITIALIZER: u32 = 15;
}

/// The code of `data_location` for data in another file.
const EXTERNAL: i32 = 1;

/// An operation.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Node {
    #[prost(string, repeated, tag = "1")]
    pub(super) input: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    pub(super) output: Vec<String>,
    #[prost(string, tag = "3")]
    pub(super) name: String,
    #[prost(string, tag = "4")]
    pub(super) op_type: String,
    #[prost(message, repeated, tag = "5")]
    attribute: Vec<Attribute>,
}

/// An attribute, as far as it holds tensors and subgraphs.
#[derive(Clone, PartialEq, prost::Message)]
struct Attribute {
    #[prost(message, optional, tag = "5")]
    t: Option<Tensor>,
    #[prost(message, optional, tag = "6")]
    g: Option<Subgraph>,
    #[prost(message, repeated, tag = "10")]
    tensors: Vec<Tensor>,
    #[prost(message, repeated, tag = "11")]
    graphs: Vec<Subgraph>,
    #[prost(message, optional, tag = "22")]
    sparse_tensor: Option<SparseTensor>,
    #[prost(message, repeated, tag = "23")]
    sparse_tensors: Vec<SparseTensor>,
}

/// The graph of an attribute, which may read values of the graph around it.
#[derive(Clone, PartialEq, prost::Message)]
struct Subgraph {
    #[prost(message, repeated, tag = "1")]
    node: Vec<Node>,
    #[prost(message, repeated, tag = "5")]
    initializer: Vec<Tensor>,
    #[prost(message, repeated, tag = "11")]
    input: Vec<Named>,
    #[prost(message, repeated, tag = "12")]
    output: Vec<Named>,
    #[prost(message, repeated, tag = "15")]
    sparse_initializer: Vec<SparseTensor>,
}

/// A tensor, without its data.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Tensor {
    #[prost(string, tag = "8")]
    pub(super) name: String,
    #[prost(bytes = "vec", repeated, tag = "13")]
    external_data: Vec<Vec<u8>>,
    #[prost(int32, tag = "14")]
    data_location: i32,
}

/// A sparse tensor, without its data; its name is that of its values.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct SparseTensor {
    #[prost(message, optional, tag = "1")]
    pub(super) values: Option<Tensor>,
    #[prost(message, optional, tag = "2")]
    indices: Option<Tensor>,
}

/// What begins with the name of a value.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Named {
    #[prost(string, tag = "1")]
    pub(super) name: String,
}

/// Which tensors hold the scale and the zero point of another.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Annotation {
    #[prost(message, repeated, tag = "2")]
    pub(super) parameters: Vec<Parameter>,
}

/// One of these tensors.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Parameter {
    #[prost(string, tag = "2")]
    pub(super) tensor: String,
}

/// An operator that the model brings along. Its values are its own.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Function {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(message, repeated, tag = "7")]
    node: Vec<Node>,
    #[prost(message, repeated, tag = "11")]
    attribute_proto: Vec<Attribute>,
}

impl Node {
    /// Every name in the subgraphs, and so every value of the graph around them that they read.
    pub(super) fn names_in_subgraphs<'a>(&'a self, names: &mut Vec<&'a str>) {
        for graph in self.attribute.iter().flat_map(|a| a.g.iter().chain(&a.graphs)) {
            let around = graph.input.iter().chain(&graph.output).map(|value| value.name.as_str());
            names.extend(around.chain(graph.initializer.iter().map(|tensor| tensor.name.as_str())));
            for node in &graph.node {
                names.extend(node.input.iter().chain(&node.output).map(String::as_str));
                names.push(&node.name);
                node.names_in_subgraphs(names);
            }
        }
    }

    /// Whether data of the node is in another file.
    pub(super) fn is_external(&self) -> bool {
        self.attribute.iter().any(Attribute::is_external)
    }
}

impl Attribute {
    fn is_external(&self) -> bool {
        self.t.iter().chain(&self.tensors).any(Tensor::is_external)
            || self.sparse_tensor.iter().chain(&self.sparse_tensors).any(SparseTensor::is_external)
            || self.g.iter().chain(&self.graphs).any(Subgraph::is_external)
    }
}

impl Subgraph {
    fn is_external(&self) -> bool {
        self.initializer.iter().any(Tensor::is_external)
            || self.sparse_initializer.iter().any(SparseTensor::is_external)
            || self.node.iter().any(Node::is_external)
    }
}

impl Tensor {
    /// Whether its data is in another file.
    pub(super) fn is_external(&self) -> bool {
        self.data_location == EXTERNAL || !self.external_data.is_empty()
    }
}

impl SparseTensor {
    /// Whether data of it is in another file.
    pub(super) fn is_external(&self) -> bool {
        self.values.iter().chain(&self.indices).any(Tensor::is_external)
    }
}

impl Function {
    /// Whether data of the function is in another file.
    pub(super) fn is_external(&self) -> bool {
        self.node.iter().any(Node::is_external)
            || self.attribute_proto.iter().any(Attribute::is_external)
    }
}
