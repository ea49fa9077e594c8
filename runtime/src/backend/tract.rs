//! `tract-onnx`: pure Rust, on the CPU.
//!
//! A graph is optimized once, when it is loaded, with its batch and token counts left symbolic; it
//! then runs inputs of any length.

mod widen;

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use tract_onnx::prelude::{
    DatumType, Framework, InferenceModelExt, IntoRunnable, IntoTValue, TValue, TVec,
    Tensor as TractTensor, TypedSimplePlan,
};

use super::{Backend, BackendError, Graph, Tensor};
use widen::widen_weights;

/// Version of the arithmetic; part of the recipe digest.
const ID: &str = "tract/0.23.9";

/// The `tract` backend.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tract;

impl Backend for Tract {
    fn load_shared(&self, name: &str, onnx: Bytes) -> Result<Box<dyn Graph>, BackendError> {
        let fail =
            |reason: String| BackendError::Load { backend: self.id(), graph: name.into(), reason };
        let (model, inputs, outputs) = {
            // Decoding from the slice and dropping the messages early keeps the peak memory low.
            let mut proto =
                tract_onnx::pb::ModelProto::decode(onnx).map_err(|e| fail(e.to_string()))?;
            let graph = proto.graph.as_mut().ok_or_else(|| fail("no graph".into()))?;
            widen_weights(graph);
            let inputs = graph.input.iter().map(|input| input.name.clone()).collect();
            let outputs = graph.output.iter().map(|output| output.name.clone()).collect();
            let model = tract_onnx::onnx().model_for_proto_model(&proto);
            (model.map_err(|e| fail(format!("{e:#}")))?, inputs, outputs)
        };
        let plan = model.into_optimized().and_then(IntoRunnable::into_runnable);
        let plan = plan.map_err(|e| fail(format!("{e:#}")))?;
        Ok(Box::new(TractGraph { name: name.into(), plan, inputs, outputs }))
    }

    fn id(&self) -> String {
        ID.into()
    }
}

struct TractGraph {
    name: String,
    plan: Arc<TypedSimplePlan>,
    inputs: Vec<String>,
    outputs: Vec<String>,
}

impl TractGraph {
    fn error(&self, reason: impl std::fmt::Display) -> BackendError {
        BackendError::Run {
            backend: ID.into(),
            graph: self.name.clone(),
            reason: format!("{reason:#}"),
        }
    }

    fn read(&self, result: &TValue, output: &str) -> Result<Tensor, BackendError> {
        if result.datum_type() != DatumType::F32 {
            return Err(self.error(format!("output `{output}` is {:?}", result.datum_type())));
        }
        let view = result.to_plain_array_view::<f32>().map_err(|e| self.error(e))?;
        Ok(Tensor::F32 { shape: result.shape().to_vec(), values: view.iter().copied().collect() })
    }
}

impl Graph for TractGraph {
    fn run(
        &self,
        inputs: &[(&str, Tensor)],
        outputs: &[&str],
    ) -> Result<Vec<Tensor>, BackendError> {
        let ordered = self.inputs.iter().map(|name| {
            let given = inputs.iter().find(|(n, _)| n == name);
            let (_, tensor) =
                given.ok_or_else(|| self.error(format!("no input `{name}` given")))?;
            let tensor = match tensor {
                Tensor::F32 { shape, values } => TractTensor::from_shape(shape, values),
                Tensor::I64 { shape, values } => TractTensor::from_shape(shape, values),
            };
            Ok(tensor.map_err(|e| self.error(e))?.into_tvalue())
        });
        let ordered = ordered.collect::<Result<TVec<TValue>, BackendError>>()?;
        let results = self.plan.run(ordered).map_err(|e| self.error(e))?;
        outputs
            .iter()
            .map(|&output| {
                let index = self.outputs.iter().position(|name| name == output);
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
