//! Whether a model would be far larger in memory than in its file.
//!
//! In: the bytes of a model, not trusted. Out: nothing, or [`Swollen`]. An empty node takes two
//! bytes of a file and more than a hundred once it is decoded, so that a file of some megabytes could
//! fill the memory. Here the fields of all messages are counted before any is decoded, and nothing is
//! made of them. Numbers in bulk are one field, as all writers pack them.
//!
//! Source: <https://github.com/onnx/onnx/blob/main/onnx/onnx.proto>, whose messages and field numbers
//! these are, those that only other runtimes read among them.

use super::field::{Value, split_field};

/// Most fields of all messages together: some 100 MB. The largest text encoders have some ten
/// thousand.
const MAX_FIELDS: usize = 1 << 18;

/// A model of far more parts than any has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the model has more than {MAX_FIELDS} parts")]
pub struct Swollen;

/// A message whose fields are counted.
#[derive(Debug, Clone, Copy)]
enum Message {
    Model,
    Function,
    Graph,
    Node,
    Attribute,
    SparseTensor,
    ValueInfo,
    Type,
    TypeOfTensor,
    TypeOfParts,
    /// One that holds no message with a list in it.
    Flat,
}

impl Message {
    /// The message in a field.
    fn inside(self, number: u32) -> Option<Self> {
        Some(match (self, number) {
            (Self::Model, 7) | (Self::Attribute, 6 | 11) => Self::Graph,
            (Self::Model, 25) => Self::Function,
            (Self::Graph, 1) | (Self::Function, 7) => Self::Node,
            (Self::Node, 5) | (Self::Function, 11) => Self::Attribute,
            (Self::Graph, 15) | (Self::Attribute, 22 | 23) => Self::SparseTensor,
            (Self::Graph, 11..=13) | (Self::Function, 12) => Self::ValueInfo,
            (Self::ValueInfo, 2) | (Self::Attribute, 14 | 15) | (Self::TypeOfParts, 1 | 2) => {
                Self::Type
            }
            (Self::Type, 1 | 8) => Self::TypeOfTensor,
            (Self::Type, 4 | 5 | 9) => Self::TypeOfParts,
            (Self::Graph, 5 | 14)
            | (Self::Attribute, 5 | 10)
            | (Self::SparseTensor, 1 | 2)
            | (Self::TypeOfTensor, 2) => Self::Flat,
            _ => return None,
        })
    }
}

/// Refuses a model of too many parts. One that cannot be read this far is left to the decoder.
///
/// # Errors
/// [`Swollen`].
pub fn refuse_swollen(model: &[u8]) -> Result<(), Swollen> {
    let mut count = 0_usize;
    let mut open = vec![(Message::Model, model)];
    while let Some((message, mut rest)) = open.pop() {
        while let Some((field, after)) = split_field(rest) {
            count += 1;
            if count > MAX_FIELDS {
                return Err(Swollen);
            }
            if let (Some(inside), Value::Bytes(bytes)) = (message.inside(field.number), field.value)
            {
                open.push((inside, bytes));
            }
            rest = after;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::{MAX_FIELDS, Swollen, refuse_swollen};
    use crate::onnx::{
        AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto,
    };

    fn model(graph: GraphProto) -> Vec<u8> {
        ModelProto { graph: Some(graph), ..ModelProto::default() }.encode_to_vec()
    }

    #[test]
    fn messages_of_two_bytes_are_counted_wherever_they_are() {
        let many = MAX_FIELDS;
        let attributes = |attribute: Vec<AttributeProto>| GraphProto {
            node: vec![NodeProto { attribute, ..NodeProto::default() }],
            ..GraphProto::default()
        };
        let nodes =
            || GraphProto { node: vec![NodeProto::default(); many], ..GraphProto::default() };
        let subgraph = AttributeProto { g: Some(nodes()), ..AttributeProto::default() };
        let names = NodeProto { input: vec![String::new(); many], ..NodeProto::default() };
        let strings = TensorProto { string_data: vec![vec![]; many], ..TensorProto::default() };
        let graphs = [
            nodes(),
            attributes(vec![AttributeProto::default(); many]),
            attributes(vec![subgraph]),
            GraphProto { node: vec![names], ..GraphProto::default() },
            GraphProto { initializer: vec![strings], ..GraphProto::default() },
            GraphProto { input: vec![ValueInfoProto::default(); many], ..GraphProto::default() },
        ];
        for (index, graph) in graphs.into_iter().enumerate() {
            let model = model(graph);
            assert!(model.len() < 4 * many, "{index}: {} bytes", model.len());
            assert_eq!(refuse_swollen(&model), Err(Swollen), "{index}");
        }
    }

    #[test]
    fn much_data_in_few_parts_is_not_refused() {
        let weights =
            TensorProto { raw_data: vec![0; 3 * MAX_FIELDS].into(), ..TensorProto::default() };
        let floats = TensorProto { float_data: vec![0.5; MAX_FIELDS], ..TensorProto::default() };
        let nodes = vec![NodeProto::default(); MAX_FIELDS / 4];
        let graph =
            GraphProto { node: nodes, initializer: vec![weights, floats], ..GraphProto::default() };
        assert_eq!(refuse_swollen(&model(graph)), Ok(()));
        assert_eq!(refuse_swollen(b"no model"), Ok(()));
        assert_eq!(refuse_swollen(b""), Ok(()));
    }
}
