//! The default backend: `tract-onnx`, pure Rust, on the CPU.
//!
//! Graphs are optimized for the shapes they are called with; the last plan is kept, so calls of
//! equal shape pay for that once.

use std::io::Cursor;
use std::sync::{Arc, Mutex, PoisonError};

use tract_onnx::prelude::{
    DatumType, Framework, InferenceFact, InferenceModel, InferenceModelExt, IntoRunnable, IntoTValue,
    TValue, TVec, Tensor as TractTensor, TypedSimplePlan,
};

use super::{Backend, BackendError, Graph, Tensor};

/// Version of the arithmetic; part of the recipe digest.
const ID: &str = "tract/0.23.9";

/// The `tract` backend.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tract;

impl Backend for Tract {
    fn load(&self, name: &str, onnx: &[u8]) -> Result<Box<dyn Graph>, BackendError> {
        let mut reader = Cursor::new(onnx);
        let model = tract_onnx::onnx().model_for_read(&mut reader).map_err(|e| {
            BackendError::Load { backend: self.id(), graph: name.into(), reason: format!("{e:#}") }
        })?;
        Ok(Box::new(TractGraph { name: name.into(), model, plan: Mutex::new(None) }))
    }

    fn id(&self) -> String {
        ID.into()
    }
}

/// A plan and the input shapes it is for.
type ShapedPlan = (Vec<Vec<usize>>, Arc<TypedSimplePlan>);

struct TractGraph {
    name: String,
    model: InferenceModel,
    plan: Mutex<Option<ShapedPlan>>,
}

impl TractGraph {
    fn error(&self, reason: impl std::fmt::Display) -> BackendError {
        BackendError::Run {
            backend: ID.into(),
            graph: self.name.clone(),
            reason: format!("{reason:#}"),
        }
    }

    /// Index of a model input or output among `outlets`, by name.
    fn input_names(&self) -> Result<Vec<&str>, BackendError> {
        let outlets = self.model.input_outlets().map_err(|e| self.error(e))?;
        Ok(outlets.iter().map(|o| self.model.node(o.node).name.as_str()).collect())
    }

    fn plan_for(&self, inputs: &[TractTensor]) -> Result<Arc<TypedSimplePlan>, BackendError> {
        let shapes: Vec<Vec<usize>> = inputs.iter().map(|t| t.shape().to_vec()).collect();
        let mut kept = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, plan)) = kept.as_ref().filter(|(of, _)| *of == shapes) {
            return Ok(Arc::clone(plan));
        }
        let mut model = self.model.clone();
        for (index, input) in inputs.iter().enumerate() {
            let fact = InferenceFact::dt_shape(input.datum_type(), input.shape());
            model.set_input_fact(index, fact).map_err(|e| self.error(e))?;
        }
        let plan = model.into_optimized().and_then(|m| m.into_runnable());
        let plan = plan.map_err(|e| self.error(e))?;
        *kept = Some((shapes, Arc::clone(&plan)));
        Ok(plan)
    }
}

impl Graph for TractGraph {
    fn run(&self, inputs: &[(&str, Tensor)], outputs: &[&str]) -> Result<Vec<Tensor>, BackendError> {
        let ordered = self.input_names()?.into_iter().map(|name| {
            let given = inputs.iter().find(|(n, _)| *n == name);
            let (_, tensor) = given.ok_or_else(|| self.error(format!("no input `{name}` given")))?;
            match tensor {
                Tensor::F32 { shape, values } => TractTensor::from_shape(shape, values),
                Tensor::I64 { shape, values } => TractTensor::from_shape(shape, values),
            }
            .map_err(|e| self.error(e))
        });
        let ordered = ordered.collect::<Result<Vec<_>, _>>()?;
        let plan = self.plan_for(&ordered)?;
        let values: TVec<TValue> = ordered.into_iter().map(IntoTValue::into_tvalue).collect();
        let results = plan.run(values).map_err(|e| self.error(e))?;
        let outlets = self.model.output_outlets().map_err(|e| self.error(e))?;
        outputs
            .iter()
            .map(|&output| {
                let index = outlets.iter().position(|&o| {
                    let label = self.model.outlet_label(o);
                    label.unwrap_or(&self.model.node(o.node).name) == output
                });
                let result = index.and_then(|i| results.get(i));
                let result = result.ok_or_else(|| BackendError::MissingOutput {
                    graph: self.name.clone(),
                    output: output.into(),
                })?;
                self.read(result, output)
            })
            .collect()
    }
}

impl TractGraph {
    fn read(&self, result: &TValue, output: &str) -> Result<Tensor, BackendError> {
        if result.datum_type() != DatumType::F32 {
            return Err(self.error(format!("output `{output}` is {:?}", result.datum_type())));
        }
        let view = result.to_plain_array_view::<f32>().map_err(|e| self.error(e))?;
        Ok(Tensor::F32 { shape: result.shape().to_vec(), values: view.iter().copied().collect() })
    }
}
