//! A foreign graph: which of its parts an output needs, and the graph without the others.
//!
//! In: the bytes of a graph. [`ForeignGraph::read`] knows the names of everything in it, and that
//! nothing is defined twice. [`ForeignGraph::needed`] goes back from an output: the nodes without
//! which it cannot be computed, and the values that these read. A subgraph may read whatever is
//! around it, so that every name in the subgraphs of a needed node counts as read. The nodes may
//! come in any order. Parts that stay, stay in their order and as they are.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message;
use t2lc_runtime::onnx::ValueInfoProto;

use super::skim::{Annotation, Named, Node, SparseTensor, Tensor, graph};
use super::wire::{Field, Pieces, Value, fields};
use super::{differs, external};
use crate::error::ExportError;

/// Most inputs, outputs and attributes of a node.
const MAX_NODE_FIELDS: usize = 4096;

/// The parts of a graph, in the order of the file.
#[derive(Debug)]
pub(super) struct ForeignGraph<'a> {
    parts: Vec<(Field<'a>, Part)>,
}

#[derive(Debug)]
enum Part {
    Node(Node),
    /// A constant, by name.
    Constant(String),
    Input(ValueInfoProto),
    Output(ValueInfoProto),
    /// The type of a value, by name.
    TypeOf(String),
    /// Constants that say how another is quantized.
    Annotation(Vec<String>),
    /// Nothing that names a value.
    Other,
}

/// What an output needs.
#[derive(Debug)]
pub(super) struct Needed<'a> {
    /// By part.
    parts: Vec<bool>,
    values: BTreeSet<&'a str>,
}

impl Needed<'_> {
    /// Whether a value is read.
    pub(super) fn reads(&self, value: &str) -> bool {
        self.values.contains(value)
    }
}

impl<'a> ForeignGraph<'a> {
    /// Reads a graph.
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, ExportError> {
        let parts = fields(bytes)?.into_iter().map(|field| Ok((field, Part::read(&field)?)));
        let graph = Self { parts: parts.collect::<Result<_, ExportError>>()? };
        graph.check_names()?;
        Ok(graph)
    }

    /// The inputs that a caller feeds: not those that are constants, as files of old list them.
    pub(super) fn inputs(&self) -> impl Iterator<Item = &ValueInfoProto> {
        let constants: BTreeSet<&str> = self.constants().collect();
        let inputs = self.parts.iter().filter_map(|(_, part)| match part {
            Part::Input(input) => Some(input),
            _ => None,
        });
        inputs.filter(move |input| !constants.contains(input.name.as_str()))
    }

    /// The outputs.
    pub(super) fn outputs(&self) -> impl Iterator<Item = &ValueInfoProto> {
        self.parts.iter().filter_map(|(_, part)| match part {
            Part::Output(output) => Some(output),
            _ => None,
        })
    }

    /// Every name in the graph, some of them more than once.
    pub(super) fn names(&self) -> Vec<&str> {
        let mut names = Vec::new();
        for (_, part) in &self.parts {
            match part {
                Part::Node(node) => {
                    names.extend(node.input.iter().chain(&node.output).map(String::as_str));
                    names.push(&node.name);
                    node.names_in_subgraphs(&mut names);
                }
                Part::Constant(name) | Part::TypeOf(name) => names.push(name),
                Part::Input(value) | Part::Output(value) => names.push(&value.name),
                Part::Annotation(constants) => names.extend(constants.iter().map(String::as_str)),
                Part::Other => {}
            }
        }
        names
    }

    /// What the result `output` of a node needs.
    pub(super) fn needed<'b>(&'b self, output: &'b str) -> Result<Needed<'b>, ExportError> {
        let mut makers = BTreeMap::new();
        for (index, (_, part)) in self.parts.iter().enumerate() {
            if let Part::Node(node) = part {
                makers.extend(results(node).map(|name| (name, index)));
            }
        }
        if !makers.contains_key(output) {
            return Err(undefined("graph output", output));
        }
        let mut given: BTreeSet<&str> = self.constants().collect();
        given.extend(self.inputs().map(|input| input.name.as_str()));

        let mut needed = Needed { parts: vec![false; self.parts.len()], values: BTreeSet::new() };
        let mut open = vec![output];
        for (_, part) in &self.parts {
            if let Part::Annotation(constants) = part {
                open.extend(constants.iter().map(String::as_str));
            }
        }
        while let Some(value) = open.pop() {
            if !needed.values.insert(value) {
                continue;
            }
            let Some(&index) = makers.get(value) else { continue };
            let (Part::Node(node), false) = (&self.parts[index].1, needed.parts[index]) else {
                continue;
            };
            needed.parts[index] = true;
            // An empty name stands for an operand that is left out.
            for name in node.input.iter().filter(|name| !name.is_empty()) {
                if !makers.contains_key(name.as_str()) && !given.contains(name.as_str()) {
                    return Err(undefined(&node.name, name));
                }
                open.push(name);
            }
            node.names_in_subgraphs(&mut open);
        }
        Ok(needed)
    }

    /// Appends to `pieces` what is needed, of the inputs those in `inputs`, and no output.
    pub(super) fn keep(&self, needed: &Needed<'_>, inputs: &[&str], pieces: &mut Pieces<'a>) {
        for ((field, part), is_needed) in self.parts.iter().zip(&needed.parts) {
            let keep = match part {
                Part::Node(_) => *is_needed,
                Part::Constant(name) | Part::TypeOf(name) => needed.reads(name),
                Part::Input(input) => inputs.contains(&input.name.as_str()),
                Part::Output(_) => false,
                Part::Annotation(_) | Part::Other => true,
            };
            if keep {
                pieces.keep(field);
            }
        }
    }

    fn constants(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|(_, part)| match part {
            Part::Constant(name) => Some(name.as_str()),
            _ => None,
        })
    }

    /// Refuses names that are empty or defined twice. A constant may be an input, too.
    fn check_names(&self) -> Result<(), ExportError> {
        let [mut constants, mut inputs, mut outputs, mut made]: [BTreeSet<&str>; 4] =
            Default::default();
        for (_, part) in &self.parts {
            match part {
                Part::Constant(name) => define(&mut constants, name)?,
                Part::Input(input) => define(&mut inputs, &input.name)?,
                Part::Output(output) => define(&mut outputs, &output.name)?,
                Part::Node(node) => {
                    results(node).try_for_each(|name| define(&mut made, name))?;
                }
                Part::TypeOf(_) | Part::Annotation(_) | Part::Other => {}
            }
        }
        let given = constants.union(&inputs);
        match given.copied().find(|name| made.contains(name)) {
            Some(name) => Err(ExportError::DuplicateName { name: name.to_owned() }),
            None => Ok(()),
        }
    }
}

impl Part {
    fn read(field: &Field<'_>) -> Result<Self, ExportError> {
        let bytes = match (field.number, field.value) {
            (_, Value::Bytes(bytes)) => bytes,
            (graph::NODE | graph::INITIALIZER | graph::INPUT..=graph::SPARSE_INITIALIZER, _) => {
                let what = format!("field {} of the graph", field.number);
                return Err(differs(what, "a message", "a number"));
            }
            _ => return Ok(Self::Other),
        };
        Ok(match field.number {
            graph::NODE => {
                // A field of two bytes becomes a struct of hundreds.
                let count = fields(bytes)?.len();
                if count > MAX_NODE_FIELDS {
                    let expected = format!("at most {MAX_NODE_FIELDS}");
                    return Err(differs("the fields of a node", &expected, count.to_string()));
                }
                let node = Node::decode(bytes)?;
                if node.is_external() {
                    return Err(external("node", &node.name));
                }
                Self::Node(node)
            }
            graph::INITIALIZER => {
                let tensor = Tensor::decode(bytes)?;
                if tensor.is_external() {
                    return Err(external("constant", &tensor.name));
                }
                Self::Constant(tensor.name)
            }
            graph::SPARSE_INITIALIZER => {
                let tensor = SparseTensor::decode(bytes)?;
                let is_external = tensor.is_external();
                let name = tensor.values.unwrap_or_default().name;
                if is_external {
                    return Err(external("constant", &name));
                }
                Self::Constant(name)
            }
            graph::INPUT => Self::Input(ValueInfoProto::decode(bytes)?),
            graph::OUTPUT => Self::Output(ValueInfoProto::decode(bytes)?),
            graph::VALUE_INFO => Self::TypeOf(Named::decode(bytes)?.name),
            graph::QUANTIZATION_ANNOTATION => {
                let parameters = Annotation::decode(bytes)?.parameters;
                Self::Annotation(parameters.into_iter().map(|each| each.tensor).collect())
            }
            _ => Self::Other,
        })
    }
}

/// The values that a node defines; an empty name stands for one that nobody wants.
fn results(node: &Node) -> impl Iterator<Item = &str> {
    node.output.iter().map(String::as_str).filter(|name| !name.is_empty())
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
