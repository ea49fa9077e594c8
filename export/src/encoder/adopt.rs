//! Adopts a text encoder that exists as an ONNX file: pooling and normalization are appended to its
//! graph.
//!
//! In: a model with the inputs `input_ids` and `attention_mask`, int64 `[batch, tokens]`, and an
//! output of hidden states, f32 or f16 `[batch, tokens, width]`: `last_hidden_state`,
//! `token_embeddings`, or whatever the only one is called. Out: the interface of every encoder
//! here, `input_ids`, `attention_mask` → `task_embedding` f32 `[batch, width]`.
//!
//! An input `token_type_ids` goes away: all tokens have type 0. Other outputs go away, and so do
//! the nodes and constants that only they need. All else is copied field by field as it is in the
//! file, whatever it is: operators of other domains, subgraphs, functions, fields that are newer
//! than this module. Whether a graph runs is for the backend to say; most foreign ones have
//! operators that only tract or ONNX Runtime have, and those of `com.microsoft` only the latter.
//!
//! Refused is what would run and be wrong, or not be whole: data in other files, an operator set in
//! which the appended nodes mean something else, names that are defined twice, other inputs.
//!
//! Appended names start with a prefix that no name of the file starts with.

use std::collections::BTreeSet;

use prost::Message;
use t2lc_runtime::onnx::{
    Dimension, DimensionValue, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorType,
    ValueInfoProto, data_type,
};

use super::pooling::{Pooling, pool};
use crate::check::MAX_MODEL_BYTES;
use crate::error::ExportError;
use crate::graph::{Dim, ElementType, GraphBuilder};

mod foreign;
mod skim;
mod wire;

use foreign::ForeignGraph;
use skim::{Function, graph, model};
use wire::{Field, Pieces, Value, fields};

const IDS: &str = "input_ids";
const MASK: &str = "attention_mask";
const TYPES: &str = "token_type_ids";
const POSITIONS: &str = "position_ids";
/// What exporters call hidden states, the most common name first.
const HIDDEN_STATES: [&str; 2] = ["last_hidden_state", "token_embeddings"];
const EMBEDDING: &str = "task_embedding";
/// Names of the standard operators' domain.
const STANDARD_DOMAINS: [&str; 2] = ["", "ai.onnx"];
/// From this operator set on, `ReduceSum` and `Unsqueeze` take axes as an input, as in ours.
const MIN_OPSET: i64 = 13;
/// From this file format on, constants need not be inputs.
const MIN_IR_VERSION: i64 = 4;
/// Most names that an error lists.
const MAX_LISTED: usize = 8;

/// Appends pooling and normalization to a model whose hidden states have `width` values.
///
/// # Errors
/// Bytes that are not an ONNX model, and everything that the module documentation refuses.
pub fn adopt_encoder(model: &[u8], pooling: Pooling, width: usize) -> Result<Vec<u8>, ExportError> {
    check_size(model.len())?;
    let fields = fields(model)?;
    let bytes = read_header(&fields)?;
    let foreign = ForeignGraph::read(bytes)?;
    check_inputs(&foreign)?;
    let outputs: Vec<&ValueInfoProto> = foreign.outputs().collect();
    let hidden = hidden_states(&outputs)?;
    let element = check_hidden_states(hidden, width)?;
    let prefix = free_prefix(&foreign.names())?;
    let needed = foreign.needed(&hidden.name)?;

    let mut adopted = Pieces::default();
    if needed.reads(TYPES) {
        adopted.add(graph::NODE, &zeros(&prefix));
    }
    foreign.keep(&needed, &[IDS, MASK], &mut adopted);
    let appended = pooling_graph(element, pooling, width, &hidden.name, &prefix)?;
    for node in &appended.node {
        adopted.add(graph::NODE, node);
    }
    for constant in &appended.initializer {
        adopted.add(graph::INITIALIZER, constant);
    }
    for output in &appended.output {
        adopted.add(graph::OUTPUT, output);
    }
    let mut whole = Pieces::default();
    for field in &fields {
        if field.number != model::GRAPH {
            whole.keep(field);
        }
    }
    whole.nest(model::GRAPH, adopted);
    check_size(whole.size_bytes())?;
    Ok(whole.concat())
}

fn check_size(bytes: usize) -> Result<(), ExportError> {
    if bytes > MAX_MODEL_BYTES {
        return Err(ExportError::TooLarge { bytes, limit: MAX_MODEL_BYTES });
    }
    Ok(())
}

/// Checks what is not the graph; gives the bytes of the graph.
fn read_header<'a>(fields: &[Field<'a>]) -> Result<&'a [u8], ExportError> {
    let (mut version, mut sets, mut graphs) = (0, Vec::new(), Vec::new());
    for field in fields {
        match (field.number, field.value) {
            (model::IR_VERSION, Value::Integer(integer)) => version = integer.cast_signed(),
            (model::OPSET_IMPORT, Value::Bytes(bytes)) => {
                sets.push(OperatorSetIdProto::decode(bytes)?);
            }
            (model::GRAPH, Value::Bytes(bytes)) => graphs.push(bytes),
            (model::FUNCTIONS, Value::Bytes(bytes)) => {
                let function = Function::decode(bytes)?;
                if function.is_external() {
                    return Err(external("function", &function.name));
                }
            }
            _ => {}
        }
    }
    if version < MIN_IR_VERSION {
        return Err(differs("file format", format!("at least {MIN_IR_VERSION}"), version));
    }
    let standard = sets.iter().filter(|set| STANDARD_DOMAINS.contains(&set.domain.as_str()));
    match standard.map(|set| set.version).max() {
        Some(version) if version >= MIN_OPSET => {}
        found => {
            let got = found.map_or_else(|| "absent".to_owned(), |version| version.to_string());
            return Err(differs("operator set", format!("at least {MIN_OPSET}"), got));
        }
    }
    match graphs.as_slice() {
        [graph] => Ok(*graph),
        graphs => Err(differs("number of graphs", 1, graphs.len())),
    }
}

fn check_inputs(foreign: &ForeignGraph<'_>) -> Result<(), ExportError> {
    for input in foreign.inputs() {
        match input.name.as_str() {
            IDS | MASK | TYPES => check_token_input(input)?,
            POSITIONS => {
                let expected = "computed in the graph: export the encoder without it";
                return Err(differs(format!("input `{POSITIONS}`"), expected, "to be fed"));
            }
            other => {
                let expected = format!("`{IDS}`, `{MASK}` and perhaps `{TYPES}`");
                return Err(differs("input", expected, format!("`{}`", other.escape_debug())));
            }
        }
    }
    for name in [IDS, MASK] {
        if !foreign.inputs().any(|input| input.name == name) {
            return Err(differs(format!("input `{name}`"), "present", "absent"));
        }
    }
    Ok(())
}

/// Checks an int64 input `[batch, tokens]`, which is fed any number of tokens of one text.
fn check_token_input(input: &ValueInfoProto) -> Result<(), ExportError> {
    let tensor = tensor_type(input)?;
    if tensor.elem_type != data_type::INT64 {
        return Err(ExportError::TensorType {
            name: input.name.clone(),
            expected: "int64",
            got: format!("code {}", tensor.elem_type),
        });
    }
    let Some(shape) = &tensor.shape else { return Ok(()) };
    let fits = match shape.dim.as_slice() {
        [batch, tokens] => matches!(fixed(batch), None | Some(1)) && fixed(tokens).is_none(),
        _ => false,
    };
    if !fits {
        let what = format!("shape of input `{}`", input.name);
        return Err(differs(what, "[batch, tokens], both free", show(&shape.dim)));
    }
    Ok(())
}

/// The output to pool.
fn hidden_states<'a>(outputs: &[&'a ValueInfoProto]) -> Result<&'a ValueInfoProto, ExportError> {
    let find = |name: &str| outputs.iter().copied().find(|output| output.name == name);
    if let Some(output) = HIDDEN_STATES.into_iter().find_map(find) {
        return Ok(output);
    }
    if let [only] = outputs {
        return Ok(*only);
    }
    let names = outputs.iter().take(MAX_LISTED);
    let names: Vec<_> = names.map(|output| format!("`{}`", output.name.escape_debug())).collect();
    let more = if outputs.len() > MAX_LISTED { ", …" } else { "" };
    let expected = format!("`{}`, or a single one", HIDDEN_STATES.join("` or `"));
    Err(differs("list of outputs", expected, format!("[{}{more}]", names.join(", "))))
}

fn check_hidden_states(hidden: &ValueInfoProto, width: usize) -> Result<ElementType, ExportError> {
    let tensor = tensor_type(hidden)?;
    let element = ElementType::from_code(tensor.elem_type);
    let Some(element @ (ElementType::F32 | ElementType::F16)) = element else {
        return Err(ExportError::TensorType {
            name: hidden.name.clone(),
            expected: "f32 or f16",
            got: format!("code {}", tensor.elem_type),
        });
    };
    let Some(shape) = &tensor.shape else { return Ok(element) };
    let fits = match shape.dim.as_slice() {
        [_, _, last] => fixed(last).is_none_or(|size| usize::try_from(size) == Ok(width)),
        _ => false,
    };
    if !fits {
        let what = format!("shape of output `{}`", hidden.name.escape_debug());
        return Err(differs(what, format!("[batch, tokens, {width}]"), show(&shape.dim)));
    }
    Ok(element)
}

fn tensor_type(value: &ValueInfoProto) -> Result<&TensorType, ExportError> {
    let tensor = value.value_type.as_ref().and_then(|value_type| value_type.tensor_type.as_ref());
    let what = || format!("type of `{}`", value.name.escape_debug());
    tensor.ok_or_else(|| differs(what(), "a tensor", "something else"))
}

fn fixed(dim: &Dimension) -> Option<i64> {
    match dim.value {
        Some(DimensionValue::Size(size)) => Some(size),
        _ => None,
    }
}

fn show(dims: &[Dimension]) -> String {
    let sizes = dims.iter().take(MAX_LISTED).map(|dim| match &dim.value {
        Some(DimensionValue::Size(size)) => size.to_string(),
        Some(DimensionValue::Symbol(name)) => name.escape_debug().to_string(),
        None => "?".to_owned(),
    });
    let more = if dims.len() > MAX_LISTED { ", …" } else { "" };
    format!("[{}{more}]", sizes.collect::<Vec<_>>().join(", "))
}

/// What no name starts with, for the names that are appended.
fn free_prefix(names: &[&str]) -> Result<String, ExportError> {
    if names.contains(&EMBEDDING) {
        return Err(ExportError::DuplicateName { name: EMBEDDING.to_owned() });
    }
    let used: BTreeSet<&str> = names
        .iter()
        .filter_map(|name| Some(name.strip_prefix(EMBEDDING)?.split_once('/')?.0))
        .collect();
    let numbers = (1..=used.len()).map(|number| number.to_string());
    let mut candidates = std::iter::once(String::new()).chain(numbers);
    // One more than there are used ones.
    let free = candidates.find(|number| !used.contains(number.as_str()));
    let free = free.ok_or_else(|| ExportError::DuplicateName { name: EMBEDDING.to_owned() })?;
    Ok(format!("{EMBEDDING}{free}/"))
}

/// `token_type_ids` as a value: zeros of the shape of `input_ids`.
fn zeros(prefix: &str) -> NodeProto {
    NodeProto {
        input: vec![IDS.to_owned(), IDS.to_owned()],
        output: vec![TYPES.to_owned()],
        name: format!("{prefix}{TYPES}"),
        op_type: "Sub".to_owned(),
        ..NodeProto::default()
    }
}

/// The graph that pools the value `hidden`; its own names get the prefix.
fn pooling_graph(
    element: ElementType,
    pooling: Pooling,
    width: usize,
    hidden: &str,
    prefix: &str,
) -> Result<GraphProto, ExportError> {
    let (batch, tokens) = (Dim::Symbol("batch"), Dim::Symbol("tokens"));
    let mut builder = GraphBuilder::new();
    let [states, _] = HIDDEN_STATES;
    let shape = [batch, tokens, Dim::Fixed(width)];
    let value = builder.input(states, element, &shape)?;
    let value = builder.cast(value, ElementType::F32)?;
    let mask = builder.input(MASK, ElementType::I64, &[batch, tokens])?;
    let mask = builder.cast(mask, ElementType::F32)?;
    let embedding = pool(&mut builder, value, mask, pooling, width)?;
    let bytes = builder.finish("pooling", &[(EMBEDDING.to_owned(), embedding)])?;
    let graph = ModelProto::decode(bytes.as_slice())?.graph;
    let mut graph = graph.ok_or_else(|| differs("graph", "present", "absent"))?;
    let rename = |name: &mut String| {
        if name == states {
            hidden.clone_into(name);
        } else if name != MASK && name != EMBEDDING {
            name.insert_str(0, prefix);
        }
    };
    for node in &mut graph.node {
        node.input.iter_mut().chain(&mut node.output).for_each(rename);
        rename(&mut node.name);
    }
    graph.initializer.iter_mut().for_each(|constant| rename(&mut constant.name));
    Ok(graph)
}

fn external(what: &str, name: &str) -> ExportError {
    let expected = "in the model: save it without external data";
    differs(format!("data of {what} `{}`", name.escape_debug()), expected, "in another file")
}

#[allow(clippy::needless_pass_by_value, reason = "numbers and literals; keeps the calls short")]
fn differs(what: impl Into<String>, expected: impl ToString, got: impl ToString) -> ExportError {
    ExportError::Model { what: what.into(), expected: expected.to_string(), got: got.to_string() }
}

#[cfg(test)]
mod tests;
