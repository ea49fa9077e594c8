//! Reads a model and plans its execution.
//!
//! In go the bytes of an ONNX file, out comes a [`Plan`]: steps in order, whose operands are
//! constants or slots, numbered places for the values of one run. The first departure from what the
//! exporter writes is an error: another operator set, a value read before it is defined or defined
//! twice, a constant whose bytes do not fill its shape, a name that is empty.
//!
//! A node whose operands are all constants runs here, once. Weights are the exception: what the
//! model has of them, and the nodes that would widen those in 8 and 16 bits, are kept back as a
//! [`Stored`], which becomes a [`Weight`] where it is the right operand of a matrix product.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;

use super::elementwise::Binary;
use super::fault::{Fault, differs};
use super::layout::reshaped;
use super::operator::Operator;
use super::tensor::{Dense, Element, Raw};
use super::weight::{Stored, Weight};
use crate::onnx::{
    DimensionValue, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, refuse_swollen,
};

/// Version of the standard operator set.
const OPSET_VERSION: i64 = 18;

/// Largest model: protobuf messages are below 2 GiB.
const MAX_MODEL_BYTES: usize = (1 << 31) - 1;

/// Most memory for constants, those computed from others included.
const MAX_CONSTANT_BYTES: u64 = 1 << 33;

/// A graph that is ready to run.
#[derive(Debug)]
pub(super) struct Plan {
    /// Inputs; the first slots, in this order.
    pub(super) inputs: Vec<Input>,
    /// Outputs by name.
    pub(super) outputs: Vec<(String, Operand)>,
    /// What to do, in order.
    pub(super) steps: Vec<Step>,
    /// Constants that steps read.
    pub(super) constants: Vec<Dense>,
    /// Number of slots.
    pub(super) slots: usize,
}

/// An input that the caller feeds.
#[derive(Debug)]
pub(super) struct Input {
    /// Its name.
    pub(super) name: String,
    /// Its element type.
    pub(super) element: Element,
    /// Its dimensions.
    pub(super) shape: Vec<Size>,
}

/// Size of a dimension of an input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Size {
    /// Given by the model.
    Fixed(usize),
    /// Given by the caller, the same wherever the name occurs.
    Symbol(String),
}

/// What a step reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operand {
    /// Index into the constants.
    Constant(usize),
    /// Index into the slots.
    Slot(usize),
}

/// One operation of a run.
#[derive(Debug)]
pub(super) struct Step {
    /// Name of the node.
    pub(super) node: String,
    /// Name of its operator.
    pub(super) operator: String,
    /// What it does.
    pub(super) action: Action,
    /// What it reads, in order.
    pub(super) operands: Vec<Operand>,
    /// The slot it fills.
    pub(super) result: usize,
    /// Slots that nothing reads after this step.
    pub(super) last_read: Vec<usize>,
}

/// What a step does.
#[derive(Debug)]
pub(super) enum Action {
    /// Runs an operator.
    Run(Operator),
    /// Multiplies its one operand with a weight.
    Linear(Arc<Weight>),
}

/// Reads, checks and plans a model; up to `threads` threads share what is computed on the way.
///
/// # Errors
/// Bytes that are no model, or one with anything that the module documentation rules out.
pub(super) fn load(bytes: Bytes, threads: usize) -> Result<Plan, Fault> {
    if bytes.len() > MAX_MODEL_BYTES {
        return Err(too_large("the model", MAX_MODEL_BYTES as u64));
    }
    refuse_swollen(&bytes)?;
    let model = ModelProto::decode(bytes)?;
    match model.opset_import.as_slice() {
        [set] if set.domain.is_empty() && set.version == OPSET_VERSION => {}
        sets => {
            let sets: Vec<_> = sets.iter().map(|set| (&set.domain, set.version)).collect();
            return Err(differs("operator set", OPSET_VERSION, format!("{sets:?}")));
        }
    }
    let graph = model.graph.ok_or_else(|| differs("graph", "present", "absent"))?;
    Planner::new(threads).plan(graph)
}

/// What is known of a value while the graph is read.
#[derive(Debug)]
enum Known {
    /// A constant; with its place in the plan, if a step reads it.
    Constant { value: Dense, place: Option<usize> },
    /// A constant that is not read or widened yet.
    Stored(Stored),
    /// Known at run time.
    Slot(usize),
}

#[derive(Debug)]
struct Planner {
    known: HashMap<String, Known>,
    /// Weights by the name of the constant.
    weights: HashMap<String, Arc<Weight>>,
    plan: Plan,
    constant_bytes: u64,
    threads: usize,
}

impl Planner {
    fn new(threads: usize) -> Self {
        Self {
            known: HashMap::new(),
            weights: HashMap::new(),
            plan: Plan {
                inputs: Vec::new(),
                outputs: Vec::new(),
                steps: Vec::new(),
                constants: Vec::new(),
                slots: 0,
            },
            constant_bytes: 0,
            threads,
        }
    }

    fn plan(mut self, graph: GraphProto) -> Result<Plan, Fault> {
        for tensor in graph.initializer {
            let name = tensor.name.clone();
            let known = read_constant(tensor).map_err(|fault| fault.at("constant", &name))?;
            if let Known::Constant { value, .. } = &known {
                self.count(value.size_bytes())?;
            }
            self.define(&name, known)?;
        }
        for input in &graph.input {
            let input = read_input(input)?;
            let slot = self.new_slot();
            self.define(&input.name, Known::Slot(slot))?;
            self.plan.inputs.push(input);
        }
        for node in &graph.node {
            self.add_node(node).map_err(|fault| fault.at(&node.op_type, &node.name))?;
        }
        if graph.output.is_empty() {
            return Err(differs("number of outputs", "at least 1", 0));
        }
        for output in graph.output {
            let operand = self.operand(&output.name)?;
            if self.plan.outputs.iter().any(|(name, _)| *name == output.name) {
                return Err(Fault::Duplicate { name: output.name });
            }
            self.plan.outputs.push((output.name, operand));
        }
        self.find_last_reads();
        Ok(self.plan)
    }

    fn add_node(&mut self, node: &NodeProto) -> Result<(), Fault> {
        let operator = Operator::parse(node)?;
        for name in &node.input {
            if !self.known.contains_key(name) {
                return Err(Fault::Undefined { name: name.clone() });
            }
        }
        let [output] = node.output.as_slice() else {
            return Err(differs("number of results", 1, node.output.len()));
        };
        let known = if let Some(stored) = self.keep_back(&operator, &node.input)? {
            Known::Stored(stored)
        } else if self.is_constant(&node.input) {
            let values = node.input.iter().map(|name| self.constant(name));
            let values = values.collect::<Result<Vec<Dense>, Fault>>()?;
            let value = operator.run(&values.iter().collect::<Vec<_>>(), self.threads)?;
            self.count(value.size_bytes())?;
            Known::Constant { value, place: None }
        } else {
            Known::Slot(self.add_step(node, operator)?)
        };
        self.define(output, known)
    }

    /// The result of a node that widens a weight, if it is one that can wait.
    fn keep_back(&self, operator: &Operator, inputs: &[String]) -> Result<Option<Stored>, Fault> {
        let known: Vec<Option<&Known>> = inputs.iter().map(|name| self.known.get(name)).collect();
        Ok(match (operator, known.as_slice()) {
            (Operator::Cast(Element::F32), [Some(Known::Constant { value, .. })]) => {
                Stored::cast(value)
            }
            (
                Operator::Binary(Binary::Mul),
                [Some(Known::Stored(stored)), Some(Known::Constant { value, .. })],
            ) => stored.scaled(value),
            (
                Operator::Reshape,
                [Some(Known::Stored(stored)), Some(Known::Constant { value, .. })],
            ) => Some(stored.reshaped(reshaped(stored.shape(), value)?)),
            _ => None,
        })
    }

    fn is_constant(&self, inputs: &[String]) -> bool {
        !inputs.iter().any(|name| matches!(self.known.get(name), Some(Known::Slot(_)) | None))
    }

    fn constant(&self, name: &str) -> Result<Dense, Fault> {
        match self.known.get(name) {
            Some(Known::Constant { value, .. }) => Ok(value.clone()),
            Some(Known::Stored(stored)) => stored.widen(),
            _ => Err(Fault::Undefined { name: name.to_owned() }),
        }
    }

    fn add_step(&mut self, node: &NodeProto, operator: Operator) -> Result<usize, Fault> {
        let mut inputs = node.input.as_slice();
        let mut action = None;
        if let (Operator::MatMul, [_, right]) = (&operator, inputs)
            && let Some(weight) = self.weight(right)
        {
            action = Some(Action::Linear(weight));
            inputs = &inputs[..1];
        }
        let operands = inputs.iter().map(|name| self.operand(name));
        let operands = operands.collect::<Result<Vec<Operand>, Fault>>()?;
        let result = self.new_slot();
        self.plan.steps.push(Step {
            node: node.name.clone(),
            operator: node.op_type.clone(),
            action: action.unwrap_or(Action::Run(operator)),
            operands,
            result,
            last_read: Vec::new(),
        });
        Ok(result)
    }

    /// A constant matrix as a weight; `None` for any other value.
    fn weight(&mut self, name: &str) -> Option<Arc<Weight>> {
        if let Some(weight) = self.weights.get(name) {
            return Some(Arc::clone(weight));
        }
        let Some(Known::Stored(stored)) = self.known.get(name) else { return None };
        let weight = Arc::new(stored.weight()?);
        self.weights.insert(name.to_owned(), Arc::clone(&weight));
        Some(weight)
    }

    /// Where a step finds a value; a constant gets its place in the plan.
    fn operand(&mut self, name: &str) -> Result<Operand, Fault> {
        if let Some(Known::Slot(slot)) = self.known.get(name) {
            return Ok(Operand::Slot(*slot));
        }
        if let Some(Known::Constant { place: Some(place), .. }) = self.known.get(name) {
            return Ok(Operand::Constant(*place));
        }
        let value = self.constant(name)?;
        if let Some(Known::Stored(_)) = self.known.get(name) {
            self.count(value.size_bytes())?;
        }
        let place = self.plan.constants.len();
        self.plan.constants.push(value.clone());
        self.known.insert(name.to_owned(), Known::Constant { value, place: Some(place) });
        Ok(Operand::Constant(place))
    }

    fn define(&mut self, name: &str, known: Known) -> Result<(), Fault> {
        if name.is_empty() || self.known.insert(name.to_owned(), known).is_some() {
            return Err(Fault::Duplicate { name: name.to_owned() });
        }
        Ok(())
    }

    fn new_slot(&mut self) -> usize {
        self.plan.slots += 1;
        self.plan.slots - 1
    }

    fn count(&mut self, bytes: usize) -> Result<(), Fault> {
        self.constant_bytes = self.constant_bytes.saturating_add(bytes as u64);
        if self.constant_bytes > MAX_CONSTANT_BYTES {
            return Err(too_large("the constants", MAX_CONSTANT_BYTES));
        }
        Ok(())
    }

    /// Marks for every slot the last step that touches it; outputs stay to the end.
    fn find_last_reads(&mut self) {
        let mut needed = vec![false; self.plan.slots];
        for (_, operand) in &self.plan.outputs {
            if let Operand::Slot(slot) = operand {
                needed[*slot] = true;
            }
        }
        for step in self.plan.steps.iter_mut().rev() {
            let reads = step.operands.iter().filter_map(|operand| match operand {
                Operand::Slot(slot) => Some(*slot),
                Operand::Constant(_) => None,
            });
            for slot in reads.chain([step.result]) {
                if !std::mem::replace(&mut needed[slot], true) {
                    step.last_read.push(slot);
                }
            }
        }
    }
}

fn read_constant(tensor: TensorProto) -> Result<Known, Fault> {
    match Stored::floats(Raw::from_proto(tensor)?) {
        Ok(stored) => Ok(Known::Stored(stored)),
        Err(raw) => Ok(Known::Constant { value: Dense::from_raw(&raw)?, place: None }),
    }
}

fn read_input(input: &ValueInfoProto) -> Result<Input, Fault> {
    let name = input.name.clone();
    let tensor = input.value_type.as_ref().and_then(|value| value.tensor_type.as_ref());
    let shape = tensor.and_then(|tensor| tensor.shape.as_ref());
    let (Some(tensor), Some(shape)) = (tensor, shape) else {
        return Err(differs(format!("type of input `{name}`"), "a tensor", "something else"));
    };
    let element =
        Element::from_code(tensor.elem_type.into()).map_err(|fault| fault.at("input", &name))?;
    let sizes = shape.dim.iter().map(|dim| match &dim.value {
        Some(DimensionValue::Size(size)) => usize::try_from(*size).ok().map(Size::Fixed),
        Some(DimensionValue::Symbol(symbol)) => Some(Size::Symbol(symbol.clone())),
        None => None,
    });
    match sizes.collect::<Option<Vec<Size>>>() {
        Some(shape) => Ok(Input { name, element, shape }),
        None => Err(differs(format!("shape of input `{name}`"), "sizes or symbols", "unknown")),
    }
}

fn too_large(what: &str, limit_bytes: u64) -> Fault {
    Fault::TooLarge { what: what.to_owned(), limit_bytes }
}
