//! `tract-onnx`: pure Rust, on the CPU.
//!
//! A graph is optimized once, when it is loaded, with its batch and token counts left symbolic; it
//! then runs inputs of any length. tract panics on some graphs that it has no code for; what comes
//! with a bundle is not trusted, so such a panic is an error here.

mod widen;

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use tract_onnx::prelude::{
    DatumType, Framework, InferenceModelExt, IntoRunnable, IntoTValue, TValue, TVec,
    Tensor as TractTensor, TypedSimplePlan,
};

use super::{Backend, BackendError, Graph, Tensor};
use crate::onnx::refuse_swollen;
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
        refuse_swollen(&onnx).map_err(|e| fail(e.to_string()))?;
        let loaded = caught(|| {
            // Decoding from the slice and dropping the messages early keeps the peak memory low.
            let mut proto = tract_onnx::pb::ModelProto::decode(onnx).map_err(|e| e.to_string())?;
            let graph = proto.graph.as_mut().ok_or("no graph")?;
            widen_weights(graph);
            let inputs = graph.input.iter().map(|input| input.name.clone()).collect();
            let outputs = graph.output.iter().map(|output| output.name.clone()).collect();
            let model = tract_onnx::onnx().model_for_proto_model(&proto);
            let model = model.map_err(|e| format!("{e:#}"))?;
            drop(proto);
            let plan = model.into_optimized().and_then(IntoRunnable::into_runnable);
            let plan = plan.map_err(|e| format!("{e:#}"))?;
            Ok(TractGraph { name: name.into(), plan, inputs, outputs })
        });
        Ok(Box::new(loaded.map_err(fail)?))
    }

    fn id(&self) -> String {
        ID.into()
    }
}

/// The result, or what a panic said.
fn caught<T>(run: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    // What a panic leaves half done is dropped with the closure: a plan's state is made per run.
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        Err(format!("tract gave up: {}", text.unwrap_or("it did not say why")))
    })
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
        let results = caught(|| self.plan.run(ordered).map_err(|e| format!("{e:#}")));
        let results = results.map_err(|e| self.error(e))?;
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

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::Tract;
    use crate::backend::{Backend, BackendError};
    use crate::onnx::{GraphProto, ModelProto, OperatorSetIdProto, TensorProto};

    #[test]
    fn a_graph_that_tract_panics_on_is_refused() {
        // Texts as raw bytes, which the format does not have.
        let texts = TensorProto {
            name: "texts".into(),
            data_type: 8,
            dims: vec![1],
            raw_data: vec![1].into(),
            ..TensorProto::default()
        };
        let model = ModelProto {
            ir_version: 8,
            opset_import: vec![OperatorSetIdProto { domain: String::new(), version: 17 }],
            graph: Some(GraphProto { initializer: vec![texts], ..GraphProto::default() }),
            ..ModelProto::default()
        };
        match Tract.load_shared("encoder.onnx", model.encode_to_vec().into()) {
            Err(BackendError::Load { reason, .. }) => {
                assert!(reason.starts_with("tract gave up: "), "{reason}");
            }
            other => panic!("{:?}", other.err()),
        }
    }
}
