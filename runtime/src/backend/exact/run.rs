//! Runs a planned graph.
//!
//! In go named tensors and the names of outputs, out come those outputs. Every run has slots of its
//! own, so that runs do not meet each other; a slot is emptied after its last reader. Inputs must
//! have the types and sizes that the model names, and sizes of one symbol must agree.

use std::collections::HashMap;
use std::sync::Arc;

use super::fault::{Fault, differs};
use super::graph::{Action, Operand, Plan, Size};
use super::matmul::linear;
use super::tensor::{Dense, Elements};
use super::{BackendError, Graph, ID};
use crate::backend::Tensor;

/// Most memory for the values of one run at any time.
const MAX_LIVE_BYTES: u64 = 1 << 33;

/// A loaded graph.
#[derive(Debug)]
pub(super) struct ExactGraph {
    name: String,
    plan: Plan,
    threads: usize,
}

impl ExactGraph {
    /// A graph that shares large matrix products among up to `threads` threads.
    pub(super) fn new(name: &str, plan: Plan, threads: usize) -> Self {
        Self { name: name.to_owned(), plan, threads }
    }

    fn error(&self, fault: &Fault) -> BackendError {
        BackendError::Run {
            backend: ID.into(),
            graph: self.name.clone(),
            reason: fault.to_string(),
        }
    }

    /// The slots after all steps: those of the outputs are filled.
    fn execute(&self, inputs: &[(&str, Tensor)]) -> Result<Vec<Option<Dense>>, Fault> {
        let mut slots = self.feed(inputs)?;
        let fed = slots.iter().flatten().map(|value| value.size_bytes() as u64);
        let mut live_bytes: u64 = fed.sum();
        for step in &self.plan.steps {
            let fail = |fault: Fault| fault.at(&step.operator, &step.node);
            let result = {
                let operands = step.operands.iter().map(|operand| self.value(*operand, &slots));
                let operands = operands.collect::<Result<Vec<&Dense>, Fault>>().map_err(fail)?;
                let result = match (&step.action, operands.as_slice()) {
                    (Action::Linear(weight), [x]) => {
                        weight.rows().and_then(|rows| linear(x, rows, self.threads))
                    }
                    (Action::Linear(_), _) => Err(differs("number of operands", 1, operands.len())),
                    (Action::Run(operator), operands) => operator.run(operands, self.threads),
                };
                result.map_err(fail)?
            };
            live_bytes += result.size_bytes() as u64;
            if live_bytes > MAX_LIVE_BYTES {
                let what = "the values at this step".to_owned();
                return Err(fail(Fault::TooLarge { what, limit_bytes: MAX_LIVE_BYTES }));
            }
            slots[step.result] = Some(result);
            for slot in &step.last_read {
                let freed = slots[*slot].take().map_or(0, |value| value.size_bytes() as u64);
                live_bytes = live_bytes.saturating_sub(freed);
            }
        }
        Ok(slots)
    }

    fn value<'a>(
        &'a self,
        operand: Operand,
        slots: &'a [Option<Dense>],
    ) -> Result<&'a Dense, Fault> {
        match operand {
            Operand::Constant(place) => Ok(&self.plan.constants[place]),
            Operand::Slot(slot) => slots[slot]
                .as_ref()
                .ok_or_else(|| Fault::Undefined { name: format!("slot {slot}") }),
        }
    }

    /// Empty slots but for the inputs, which are checked.
    fn feed(&self, inputs: &[(&str, Tensor)]) -> Result<Vec<Option<Dense>>, Fault> {
        let mut slots = vec![None; self.plan.slots];
        let mut symbols: HashMap<&str, usize> = HashMap::new();
        for (slot, input) in slots.iter_mut().zip(&self.plan.inputs) {
            let given = inputs.iter().find(|(name, _)| *name == input.name);
            let Some((name, tensor)) = given else {
                return Err(differs(format!("input `{}`", input.name), "given", "absent"));
            };
            let value = match tensor {
                Tensor::F32 { shape, values } => Dense::f32(shape.clone(), values.clone())?,
                Tensor::I64 { shape, values } => Dense::i64(shape.clone(), values.clone())?,
            };
            if value.element() != input.element {
                let what = format!("element type of input `{name}`");
                return Err(differs(what, input.element, value.element()));
            }
            let fits = value.shape().len() == input.shape.len()
                && value.shape().iter().zip(&input.shape).all(|(given, size)| match size {
                    Size::Fixed(size) => size == given,
                    Size::Symbol(symbol) => symbols.entry(symbol).or_insert(*given) == given,
                });
            if !fits {
                let what = format!("shape of input `{name}`");
                let (expected, got) =
                    (format!("{:?}", input.shape), format!("{:?}", value.shape()));
                return Err(differs(what, expected, got));
            }
            *slot = Some(value);
        }
        for (name, _) in inputs {
            if !self.plan.inputs.iter().any(|input| input.name == *name) {
                let names: Vec<&String> = self.plan.inputs.iter().map(|i| &i.name).collect();
                let (expected, got) = (format!("one of {names:?}"), format!("`{name}`"));
                return Err(differs("input", expected, got));
            }
        }
        Ok(slots)
    }
}

impl Graph for ExactGraph {
    fn run(
        &self,
        inputs: &[(&str, Tensor)],
        outputs: &[&str],
    ) -> Result<Vec<Tensor>, BackendError> {
        let operands = outputs.iter().map(|output| {
            let found = self.plan.outputs.iter().find(|(name, _)| name == output);
            found.map(|(_, operand)| *operand).ok_or_else(|| BackendError::MissingOutput {
                graph: self.name.clone(),
                output: (*output).to_owned(),
            })
        });
        let operands = operands.collect::<Result<Vec<Operand>, BackendError>>()?;
        let mut slots = self.execute(inputs).map_err(|fault| self.error(&fault))?;
        let results = operands.iter().enumerate().map(|(i, operand)| {
            let value = match *operand {
                // Moved out, unless it is asked for once more.
                Operand::Slot(slot) if !operands[i + 1..].contains(operand) => slots[slot].take(),
                operand => Some(self.value(operand, &slots)?.clone()),
            };
            let value = value.ok_or_else(|| differs("output", "computed", "absent"))?;
            to_tensor(value).map_err(|fault| fault.at("output", outputs[i]))
        });
        results.collect::<Result<Vec<Tensor>, Fault>>().map_err(|fault| self.error(&fault))
    }
}

/// A result for the caller: every NaN is the same one.
fn to_tensor(value: Dense) -> Result<Tensor, Fault> {
    let (shape, element) = (value.shape().to_vec(), value.element());
    match value.into_elements() {
        Elements::F32(values) => {
            let mut values = Arc::unwrap_or_clone(values);
            for value in &mut values {
                if value.is_nan() {
                    *value = f32::NAN;
                }
            }
            Ok(Tensor::F32 { shape, values })
        }
        Elements::I64(values) => Ok(Tensor::I64 { shape, values: Arc::unwrap_or_clone(values) }),
        _ => Err(differs("element type", "f32 or int64", element)),
    }
}
