//! Tests of `hypernet`.

use prost::Message;
use t2lc_runtime::onnx::{DimensionValue, GraphProto, ModelProto};

use super::build_hypernet;
use crate::checkpoint::tests::tiny;
use crate::checkpoint::{Checkpoint, NamedTensor, Variant};
use crate::weights::WeightType;

fn graph(checkpoint: &Checkpoint, weights: WeightType) -> GraphProto {
    let bytes = build_hypernet(checkpoint, weights).unwrap();
    assert_eq!(bytes, build_hypernet(checkpoint, weights).unwrap());
    ModelProto::decode(bytes.as_slice()).unwrap().graph.unwrap()
}

fn outputs(graph: &GraphProto) -> Vec<(String, Vec<i64>)> {
    let sizes = |output: &t2lc_runtime::onnx::ValueInfoProto| {
        let tensor = output.value_type.as_ref()?.tensor_type.as_ref()?;
        let dims = &tensor.shape.as_ref()?.dim;
        let size = |value: &Option<DimensionValue>| match value {
            Some(DimensionValue::Size(size)) => *size,
            _ => -1,
        };
        Some(dims.iter().map(|dim| size(&dim.value)).collect::<Vec<i64>>())
    };
    graph.output.iter().map(|value| (value.name.clone(), sizes(value).unwrap())).collect()
}

#[test]
fn outputs_are_in_module_order_and_bytes_repeat() {
    for variant in [Variant::Gated, Variant::L, Variant::M, Variant::S] {
        for weights in [WeightType::F32, WeightType::F16, WeightType::Int8] {
            let graph = graph(&tiny(variant), weights);
            let expected = [
                ("q_proj.lora_a".to_owned(), vec![-1, 3, 2, 16]),
                ("q_proj.lora_b".to_owned(), vec![-1, 3, 16, 2]),
                ("v_proj.lora_a".to_owned(), vec![-1, 3, 2, 16]),
                ("v_proj.lora_b".to_owned(), vec![-1, 3, 8, 2]),
            ];
            assert_eq!(outputs(&graph), expected);
            assert!(graph.initializer.is_sorted_by(|a, b| a.name < b.name));
        }
    }
}

#[test]
fn zero_offsets_are_left_out() {
    let mut checkpoint = tiny(Variant::M);
    let offsets = |graph: &GraphProto| {
        graph.initializer.iter().filter(|t| t.name.starts_with("AB_offset.")).count()
    };
    assert_eq!(offsets(&graph(&checkpoint, WeightType::F32)), 4);
    checkpoint.tensors.get_mut("AB_offset.A.v_proj").unwrap().values.fill(0.0);
    assert_eq!(offsets(&graph(&checkpoint, WeightType::F32)), 3);
}

#[test]
fn mean_and_deviation_are_two_operations_per_matrix_and_absent_otherwise() {
    let plain = tiny(Variant::L);
    let mut checkpoint = plain.clone();
    for (name, shape) in checkpoint.config.statistic_tensors() {
        let values = vec![0.25; shape.iter().product()];
        checkpoint.tensors.insert(name, NamedTensor { shape, values });
    }
    let (without, with) = (graph(&plain, WeightType::F32), graph(&checkpoint, WeightType::F32));
    let count =
        |graph: &GraphProto, op: &str| graph.node.iter().filter(|n| n.op_type == op).count();
    for op in ["Mul", "Add"] {
        assert_eq!(count(&with, op), count(&without, op) + 4, "{op}");
    }
    assert_eq!(with.node.len(), without.node.len() + 8);
    assert!(!without.initializer.iter().any(|t| t.name.contains("recon_target")));
    assert_eq!(outputs(&with), outputs(&without));
}

#[test]
fn the_task_encoder_stays_f32() {
    for (variant, encoder) in
        [(Variant::S, "task_encoder.mlp.0.weight"), (Variant::Gated, "task_encoder.weight")]
    {
        let graph = graph(&tiny(variant), WeightType::Int8);
        let code = |name: &str| {
            graph.initializer.iter().find(|t| t.name == name).map(|t| t.data_type).unwrap()
        };
        assert_eq!(code(encoder), t2lc_runtime::onnx::data_type::FLOAT);
        assert_eq!(code("heads.v_proj.weight"), t2lc_runtime::onnx::data_type::INT8);
    }
}

#[test]
fn a_damaged_checkpoint_is_refused() {
    let mut checkpoint = tiny(Variant::L);
    checkpoint.tensors.remove("mlp3.0.bias");
    assert!(build_hypernet(&checkpoint, WeightType::F32).is_err());
}
