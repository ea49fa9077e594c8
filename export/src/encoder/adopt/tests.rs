//! Tests of `adopt`: foreign models are built with the crate's own means and then changed.

use prost::Message;
use t2lc_runtime::backend::exact::Exact;
use t2lc_runtime::backend::{Backend, Tensor};
use t2lc_runtime::onnx::{
    AttributeProto, DimensionValue, GraphProto, ModelProto, NodeProto, OperatorSetIdProto,
    TensorProto, ValueInfoProto, attribute_type, data_type,
};

use super::adopt_encoder;
use super::skim::{graph, model};
use super::wire::{Pieces, Value, fields};
use crate::encoder::Pooling;
use crate::error::ExportError;
use crate::graph::{Dim, ElementType, GraphBuilder};

const WIDTH: usize = 3;
const WORDS: [f32; 12] = [0.5, -1.0, 2.0, 0.25, 3.0, -0.5, 1.5, 1.0, -2.0, 4.0, 0.125, 0.75];
const IDS: [[i64; 3]; 2] = [[1, 3, 0], [2, 2, 1]];
const MASK: [[i64; 3]; 2] = [[1, 1, 0], [1, 1, 1]];

/// What a foreign model has besides hidden states.
#[derive(Clone, Copy, PartialEq)]
enum Extra {
    Nothing,
    TokenTypes,
    /// An output of its own, with a weight of its own.
    Output,
}

/// Hidden states that are words from a table, of this element type.
fn foreign(words: ElementType, extra: Extra) -> ModelProto {
    let shape = [Dim::Symbol("texts"), Dim::Symbol("length")];
    let mut builder = GraphBuilder::new();
    let ids = builder.input("input_ids", ElementType::I64, &shape).unwrap();
    builder.input("attention_mask", ElementType::I64, &shape).unwrap();
    let table = match words {
        ElementType::F16 => {
            builder.initializer_f16("words", &[4, WIDTH], &WORDS.map(half::f16::from_f32))
        }
        _ => builder.initializer_f32("words", &[4, WIDTH], &WORDS),
    };
    let mut states = builder.gather(table.unwrap(), ids).unwrap();
    if extra == Extra::TokenTypes {
        let types = builder.input("token_type_ids", ElementType::I64, &shape).unwrap();
        let table = builder.initializer_f32("types", &[2, WIDTH], &WORDS[..6]).unwrap();
        let types = builder.gather(table, types).unwrap();
        states = builder.add(states, types).unwrap();
    }
    let mut outputs = vec![("last_hidden_state".to_owned(), states)];
    if extra == Extra::Output {
        let weight = builder.initializer_f32("pooler", &[WIDTH, 2], &WORDS[..6]).unwrap();
        let pooled = builder.matmul(states, weight).unwrap();
        outputs.insert(0, ("pooler_output".to_owned(), builder.sqrt(pooled).unwrap()));
    }
    let bytes = builder.finish("foreign", &outputs).unwrap();
    ModelProto::decode(bytes.as_slice()).unwrap()
}

fn plain() -> ModelProto {
    foreign(ElementType::F32, Extra::Nothing)
}

fn graph_of(model: &mut ModelProto) -> &mut GraphProto {
    model.graph.as_mut().unwrap()
}

fn adopted(model: &ModelProto, pooling: Pooling) -> ModelProto {
    let bytes = adopt_encoder(&model.encode_to_vec(), pooling, WIDTH).unwrap();
    ModelProto::decode(bytes.as_slice()).unwrap()
}

/// The refusal of the plain model with something changed.
fn refused(change: impl FnOnce(&mut ModelProto)) -> ExportError {
    let mut model = plain();
    change(&mut model);
    adopt_encoder(&model.encode_to_vec(), Pooling::Mean, WIDTH).unwrap_err()
}

/// The model with `more` appended to the first field `number` of its graph.
fn extended(bytes: &[u8], number: u32, more: &[u8]) -> Vec<u8> {
    let (mut whole, mut is_done) = (Pieces::default(), false);
    for field in &fields(bytes).unwrap() {
        let Value::Bytes(parts) = field.value else {
            whole.keep(field);
            continue;
        };
        if field.number != model::GRAPH {
            whole.keep(field);
            continue;
        }
        let mut changed = Pieces::default();
        for part in &fields(parts).unwrap() {
            match part.value {
                Value::Bytes(content) if part.number == number && !is_done => {
                    let mut longer = Pieces::default();
                    let content = fields(content).unwrap();
                    for field in &content {
                        longer.keep(field);
                    }
                    for field in &fields(more).unwrap() {
                        longer.keep(field);
                    }
                    changed.nest(number, longer);
                    is_done = true;
                }
                _ => changed.keep(part),
            }
        }
        whole.nest(model::GRAPH, changed);
    }
    assert!(is_done);
    whole.concat()
}

/// An output of a model for two texts.
fn run(model: &ModelProto, output: &str) -> Vec<f32> {
    let graph = Exact::new(1).load("encoder.onnx", &model.encode_to_vec()).unwrap();
    let tensor = |rows: &[[i64; 3]; 2]| {
        let values = rows.as_flattened().to_vec();
        Tensor::I64 { shape: vec![2, 3], values }
    };
    let inputs = [("input_ids", tensor(&IDS)), ("attention_mask", tensor(&MASK))];
    match graph.run(&inputs, &[output]).unwrap().pop() {
        Some(Tensor::F32 { values, .. }) => values,
        other => panic!("{other:?}"),
    }
}

/// Hidden states of two texts, pooled and scaled to length `√3`.
fn pooled(states: &[f32], pooling: Pooling) -> Vec<f32> {
    let text = |(states, mask): (&[f32], &[i64; 3])| -> Vec<f32> {
        let rows = states.chunks_exact(WIDTH).zip(mask);
        let kept: Vec<&[f32]> = match pooling {
            Pooling::Mean => rows.filter(|(_, mask)| **mask == 1).map(|(row, _)| row).collect(),
            Pooling::Cls => rows.take(1).map(|(row, _)| row).collect(),
        };
        let sum: Vec<f32> = (0..WIDTH).map(|i| kept.iter().map(|row| row[i]).sum()).collect();
        let norm = sum.iter().map(|value| value * value).sum::<f32>().sqrt();
        sum.iter().map(|value| value / norm * (WIDTH as f32).sqrt()).collect()
    };
    states.chunks_exact(3 * WIDTH).zip(&MASK).flat_map(text).collect()
}

#[test]
fn hidden_states_are_pooled_and_scaled() {
    for pooling in [Pooling::Mean, Pooling::Cls] {
        let want = pooled(&run(&plain(), "last_hidden_state"), pooling);
        for element in [ElementType::F32, ElementType::F16] {
            let model = adopted(&foreign(element, Extra::Nothing), pooling);
            let got = run(&model, "task_embedding");
            assert_eq!(got.len(), want.len());
            for (got, want) in got.iter().zip(&want) {
                assert!((got - want).abs() < 1e-5, "{pooling} of {element}: {got}, not {want}");
            }
        }
    }
}

#[test]
fn an_only_output_is_taken_whatever_its_name() {
    for name in ["token_embeddings", "1234"] {
        let mut model = plain();
        let graph = graph_of(&mut model);
        graph.output[0].name = name.into();
        graph.node[0].output[0] = name.into();
        let want = run(&adopted(&plain(), Pooling::Mean), "task_embedding");
        assert_eq!(run(&adopted(&model, Pooling::Mean), "task_embedding"), want);
    }
}

#[test]
fn other_outputs_go_with_what_only_they_need() {
    let mut model = foreign(ElementType::F32, Extra::Output);
    let pooler: Vec<ValueInfoProto> = ["matmul_1", "last_hidden_state"]
        .map(|name| ValueInfoProto { name: name.into(), value_type: None })
        .into();
    graph_of(&mut model).value_info = pooler;
    let mut model = adopted(&model, Pooling::Mean);
    let found = graph_of(&mut model);
    let names = |values: &[ValueInfoProto]| -> Vec<String> {
        values.iter().map(|value| value.name.clone()).collect()
    };
    assert_eq!(names(&found.output), ["task_embedding"]);
    assert_eq!(names(&found.input), ["input_ids", "attention_mask"]);
    assert_eq!(names(&found.value_info), ["last_hidden_state"]);
    assert!(found.node.iter().all(|node| node.op_type != "MatMul"));
    assert!(found.initializer.iter().all(|tensor| tensor.name != "pooler"));
    assert!(found.initializer.iter().any(|tensor| tensor.name == "words"));
}

#[test]
fn all_tokens_have_type_0() {
    let mut model = adopted(&foreign(ElementType::F32, Extra::TokenTypes), Pooling::Mean);
    let found = graph_of(&mut model);
    let first = &found.node[0];
    assert_eq!(first.op_type, "Sub");
    assert_eq!(first.output, ["token_type_ids"]);
    assert_eq!(first.input, ["input_ids", "input_ids"]);
    let inputs: Vec<&str> = found.input.iter().map(|input| input.name.as_str()).collect();
    assert_eq!(inputs, ["input_ids", "attention_mask"]);

    // Nobody reads them here.
    let mut model = plain();
    let found = graph_of(&mut model);
    let types = ValueInfoProto { name: "token_type_ids".into(), ..found.input[0].clone() };
    found.input.push(types);
    let found = adopted(&model, Pooling::Mean);
    assert!(found.graph.unwrap().node.iter().all(|node| node.op_type != "Sub"));
}

#[test]
fn names_that_are_appended_are_new() {
    let mut model = plain();
    graph_of(&mut model).node[0].name = "task_embedding/unsqueeze_1".into();
    let mut model = adopted(&model, Pooling::Mean);
    let found = graph_of(&mut model);
    let mut made: Vec<&str> =
        found.node.iter().flat_map(|node| &node.output).map(String::as_str).collect();
    let rest = made.split_off(1);
    assert_eq!(made, ["last_hidden_state"]);
    for name in rest {
        assert!(name == "task_embedding" || name.starts_with("task_embedding1/"), "{name}");
    }
    assert!(matches!(
        refused(|model| graph_of(model).initializer[0].name = "task_embedding".into()),
        ExportError::DuplicateName { name } if name == "task_embedding"
    ));
}

#[test]
fn what_is_not_known_is_copied() {
    // Field 1000.
    let note = [&[0xc2, 0x3e, 4][..], b"node"].concat();
    let bytes = plain().encode_to_vec();
    for number in [graph::NODE, graph::INITIALIZER, graph::INPUT] {
        let bytes = extended(&bytes, number, &note);
        let bytes = adopt_encoder(&bytes, Pooling::Mean, WIDTH).unwrap();
        assert!(bytes.windows(note.len()).any(|part| part == note), "field {number}");
    }
    let mut bytes = bytes;
    bytes.extend(&note);
    let bytes = adopt_encoder(&bytes, Pooling::Mean, WIDTH).unwrap();
    assert!(bytes.windows(note.len()).any(|part| part == note));
    ModelProto::decode(bytes.as_slice()).unwrap();
}

#[test]
fn subgraphs_keep_what_they_read() {
    let mut model = foreign(ElementType::F32, Extra::Output);
    let graph = graph_of(&mut model);
    // A branch that reads `matmul_1`, which otherwise only the other output needs.
    let branch = GraphProto {
        name: "branch".into(),
        node: vec![NodeProto {
            input: vec!["matmul_1".into()],
            output: vec!["inner".into()],
            op_type: "Identity".into(),
            ..NodeProto::default()
        }],
        output: vec![ValueInfoProto { name: "inner".into(), value_type: None }],
        ..GraphProto::default()
    };
    let attribute = AttributeProto {
        name: "then_branch".into(),
        g: Some(branch),
        kind: attribute_type::GRAPH,
        ..AttributeProto::default()
    };
    let maker = graph.node.iter_mut().find(|node| node.output == ["last_hidden_state"]).unwrap();
    maker.attribute.push(attribute);
    let graph = adopted(&model, Pooling::Mean).graph.unwrap();
    assert!(graph.node.iter().any(|node| node.output == ["matmul_1"]));
    assert!(graph.initializer.iter().any(|tensor| tensor.name == "pooler"));
    assert!(graph.node.iter().all(|node| node.output != ["pooler_output"]));
}

#[test]
fn data_in_other_files_is_refused_wherever_it_is() {
    let bytes = plain().encode_to_vec();
    // `data_location` 1, and an entry of `external_data`.
    for more in [&[0x70, 1][..], &[0x6a, 0]] {
        let bytes = extended(&bytes, graph::INITIALIZER, more);
        let error = adopt_encoder(&bytes, Pooling::Mean, WIDTH).unwrap_err();
        let text = "model data of constant `words` is in another file, expected ";
        assert!(error.to_string().starts_with(text), "{error}");
    }
    // An attribute of a node whose tensor is elsewhere.
    let attribute = [0x2a, 4, 0x2a, 2, 0x70, 1];
    let bytes = extended(&bytes, graph::NODE, &attribute);
    let error = adopt_encoder(&bytes, Pooling::Mean, WIDTH).unwrap_err();
    assert!(error.to_string().contains("data of node "), "{error}");
}

#[test]
fn other_inputs_are_refused_by_name() {
    let with_input = |name: &'static str| {
        refused(|model| {
            let graph = graph_of(model);
            graph.input.push(ValueInfoProto { name: name.into(), ..graph.input[0].clone() });
        })
        .to_string()
    };
    assert!(with_input("position_ids").starts_with("model input `position_ids` is to be fed"));
    assert!(with_input("pixel_values").starts_with("model input is `pixel_values`, expected "));
}

#[test]
fn constants_may_be_listed_as_inputs() {
    let mut model = plain();
    let graph = graph_of(&mut model);
    graph.input.push(ValueInfoProto { name: "words".into(), value_type: None });
    let graph = adopted(&model, Pooling::Mean).graph.unwrap();
    assert_eq!(graph.input.len(), 2);
}

#[test]
fn inputs_are_checked() {
    let error = refused(|model| drop(graph_of(model).input.remove(1)));
    assert_eq!(error.to_string(), "model input `attention_mask` is absent, expected present");
    let tensor = |model: &mut ModelProto, change: fn(&mut t2lc_runtime::onnx::TensorType)| {
        let value_type = graph_of(model).input[0].value_type.as_mut().unwrap();
        change(value_type.tensor_type.as_mut().unwrap());
    };
    let error = refused(|model| tensor(model, |tensor| tensor.elem_type = data_type::INT32));
    assert!(matches!(error, ExportError::TensorType { name, .. } if name == "input_ids"));
    let error = refused(|model| {
        tensor(model, |tensor| {
            tensor.shape.as_mut().unwrap().dim[1].value = Some(DimensionValue::Size(128));
        });
    });
    assert!(error.to_string().contains("shape of input `input_ids` is [texts, 128]"), "{error}");
    let error = refused(|model| {
        tensor(model, |tensor| drop(tensor.shape.as_mut().unwrap().dim.pop()));
    });
    assert!(error.to_string().contains("is [texts]"), "{error}");
    let error = refused(|model| graph_of(model).input[0].value_type = None);
    assert!(error.to_string().contains("type of `input_ids` is something else"), "{error}");
}

#[test]
fn the_output_is_checked() {
    let bytes = plain().encode_to_vec();
    let error = adopt_encoder(&bytes, Pooling::Mean, WIDTH + 1).unwrap_err();
    let text = "model shape of output `last_hidden_state` is [texts, length, 3], expected [batch, \
                tokens, 4]";
    assert_eq!(error.to_string(), text);
    let mut two = foreign(ElementType::F32, Extra::Output);
    graph_of(&mut two).output[1].name = "other".into();
    let error = adopt_encoder(&two.encode_to_vec(), Pooling::Mean, WIDTH).unwrap_err();
    assert!(
        error.to_string().starts_with("model list of outputs is [`pooler_output`, `other`]"),
        "{error}"
    );
    let error = refused(|model| graph_of(model).output[0].name = "words".into());
    assert!(matches!(error, ExportError::Undefined { value, .. } if value == "words"));
    let error = refused(|model| graph_of(model).output.clear());
    assert!(error.to_string().starts_with("model list of outputs is []"), "{error}");
    let error = refused(|model| {
        let value_type = graph_of(model).output[0].value_type.as_mut().unwrap();
        value_type.tensor_type.as_mut().unwrap().elem_type = data_type::DOUBLE;
    });
    assert!(matches!(error, ExportError::TensorType { expected: "f32 or f16", .. }));
}

#[test]
fn versions_are_checked() {
    let error = refused(|model| model.opset_import[0].version = 12);
    assert_eq!(error.to_string(), "model operator set is 12, expected at least 13");
    let error = refused(|model| model.opset_import[0].domain = "com.microsoft".into());
    assert!(error.to_string().starts_with("model operator set is absent"), "{error}");
    let error = refused(|model| model.ir_version = 3);
    assert!(error.to_string().starts_with("model file format is 3"), "{error}");
    let error = refused(|model| model.graph = None);
    assert!(error.to_string().starts_with("model number of graphs is 0"), "{error}");

    let mut model = plain();
    model.opset_import[0] = OperatorSetIdProto { domain: "ai.onnx".into(), version: 13 };
    model.opset_import.push(OperatorSetIdProto { domain: "com.microsoft".into(), version: 1 });
    let found = adopted(&model, Pooling::Mean);
    assert_eq!((found.opset_import, found.ir_version), (model.opset_import, model.ir_version));
}

#[test]
fn names_are_checked() {
    let twice = |error: ExportError| -> bool {
        matches!(error, ExportError::DuplicateName { name } if name == "words")
    };
    assert!(twice(refused(|model| {
        let graph = graph_of(model);
        graph.initializer.push(graph.initializer[0].clone());
    })));
    assert!(twice(refused(|model| {
        let again = NodeProto { output: vec!["words".into()], ..NodeProto::default() };
        graph_of(model).node.push(again);
    })));
    let error = refused(|model| graph_of(model).initializer.clear());
    assert!(matches!(error, ExportError::Undefined { value, .. } if value == "words"));
    let error = refused(|model| graph_of(model).initializer.push(TensorProto::default()));
    assert!(matches!(error, ExportError::DuplicateName { name } if name.is_empty()));
}

#[test]
fn no_part_of_a_model_is_taken_for_the_whole() {
    let bytes = foreign(ElementType::F32, Extra::TokenTypes).encode_to_vec();
    for length in 0..bytes.len() {
        let part = adopt_encoder(&bytes[..length], Pooling::Mean, WIDTH);
        assert!(part.is_err(), "{length} of {} bytes", bytes.len());
    }
}

#[test]
fn subgraphs_without_end_are_refused() {
    // Attributes in nodes in graphs in attributes.
    let mut bytes = Vec::new();
    for _ in 0..1000 {
        for key in [0x0a, 0x32, 0x2a] {
            let mut outer = Pieces::default();
            let inner = std::mem::take(&mut bytes);
            let parts = fields(&inner).unwrap();
            let mut pieces = Pieces::default();
            for field in &parts {
                pieces.keep(field);
            }
            outer.nest(key >> 3, pieces);
            bytes = outer.concat();
        }
    }
    let nested = extended(&plain().encode_to_vec(), graph::NODE, &bytes);
    let error = adopt_encoder(&nested, Pooling::Mean, WIDTH).unwrap_err();
    assert!(matches!(error, ExportError::Decode(_)), "{error}");
}
