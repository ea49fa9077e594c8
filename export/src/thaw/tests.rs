//! Tests of `thaw`: what comes out generates what went in.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use prost::Message;
use t2lc_runtime::backend::exact::Exact;
use t2lc_runtime::backend::{Backend, Tensor};
use t2lc_runtime::bundle::{Bundle, ENCODER, HYPERNET};
use t2lc_runtime::manifest::HypernetInfo;
use t2lc_runtime::onnx::ModelProto;

use super::{from_graph, thaw, thaw_encoder};
use crate::checkpoint::tests::{tiny, tiny_config};
use crate::checkpoint::{Checkpoint, DEVIATION_PREFIX, HypernetConfig, NamedTensor, Variant};
use crate::error::ExportError;
use crate::hypernet::build_hypernet;
use crate::weights::WeightType;

/// A checkpoint with a trunk, if any, wide enough for its layers, and weights that are no accident.
fn checkpoint(variant: Variant) -> Checkpoint {
    let mut config = tiny_config(variant);
    if variant != Variant::Gated {
        config.latent_size = 16;
    }
    let wave = |(index, value): (usize, &mut f32)| *value = (index as f32 * 0.7 + 0.3).sin() * 0.5;
    let tensor = |(name, shape): (String, Vec<usize>)| {
        let mut values = vec![0.0; shape.iter().product()];
        values.iter_mut().enumerate().for_each(wave);
        (name, NamedTensor { shape, values })
    };
    let tensors = config.expected_tensors().into_iter().map(tensor).collect();
    Checkpoint::from_tensors(config, tensors).unwrap()
}

fn thawed(checkpoint: &Checkpoint, weights: WeightType) -> Result<Checkpoint, ExportError> {
    let config = &checkpoint.config;
    let graph = build_hypernet(checkpoint, weights)?;
    let info = HypernetInfo {
        variant: config.variant.to_string(),
        weights: weights.to_string(),
        rank: config.rank,
        scale: config.scale(),
    };
    from_graph(Bytes::from(graph), &config.base, &info, config.task_embedding_size)
}

/// All matrices for one embedding.
fn adapter(graph: &[u8], config: &HypernetConfig) -> Vec<f32> {
    let graph = Exact::default().load("hypernet", graph).unwrap();
    let width = config.task_embedding_size;
    let values = (0..width).map(|index| (index as f32 * 1.3).cos()).collect();
    let input = [("task_embedding", Tensor::F32 { shape: vec![1, width], values })];
    let modules = config.base.modules.iter();
    let names =
        modules.flat_map(|module| ["a", "b"].map(|side| format!("{}.lora_{side}", module.name)));
    let matrix = |name: String| match graph.run(&input, &[&name]).unwrap().remove(0) {
        Tensor::F32 { values, .. } => values,
        other @ Tensor::I64 { .. } => panic!("{name} is {other:?}"),
    };
    names.flat_map(matrix).collect()
}

fn assert_near(before: &[f32], after: &[f32], bound: f32) {
    assert_eq!(before.len(), after.len());
    let largest = before.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
    for (before, after) in before.iter().zip(after) {
        assert!((before - after).abs() <= bound * largest, "{before} became {after}");
    }
}

#[test]
fn what_comes_out_generates_what_went_in() {
    let mut with_statistics = checkpoint(Variant::L);
    for (name, shape) in with_statistics.config.statistic_tensors() {
        let value = if name.starts_with(DEVIATION_PREFIX) { 0.25 } else { -0.5 };
        let values = vec![value; shape.iter().product()];
        with_statistics.tensors.insert(name, NamedTensor { shape, values });
    }
    for checkpoint in [checkpoint(Variant::Gated), checkpoint(Variant::L), with_statistics] {
        for weights in [WeightType::F32, WeightType::F16, WeightType::Int8] {
            let graph = build_hypernet(&checkpoint, weights).unwrap();
            let thawed = thawed(&checkpoint, weights).unwrap();
            assert!((thawed.config.scale() - checkpoint.config.scale()).abs() < 1e-6);
            let again = build_hypernet(&thawed, WeightType::F32).unwrap();
            let config = &thawed.config;
            assert_near(&adapter(&graph, config), &adapter(&again, config), 1e-5);
        }
    }
}

#[test]
fn the_default_bundle_thaws() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/smollm2-135m-instruct.t2lc");
    let bundle = Bundle::open(&dir).unwrap();
    let thawed = thaw(&bundle).unwrap();
    let again = build_hypernet(&thawed, WeightType::F32).unwrap();
    let (graph, config) = (bundle.file(HYPERNET).unwrap(), &thawed.config);
    assert_near(&adapter(graph, config), &adapter(&again, config), 1e-5);
}

#[test]
fn the_layers_of_an_encoder_thaw() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/smollm2-135m-instruct.t2lc");
    let bundle = Bundle::open(&dir).unwrap();
    let wide = "encoder.layer.5.intermediate.dense";
    let shapes = BTreeMap::from([
        (format!("{wide}.weight"), vec![1536, 384]),
        (format!("{wide}.bias"), vec![1536]),
    ]);
    let layers = thaw_encoder(&bundle, &shapes).unwrap();
    let size = |name: &str| layers[&format!("{wide}.{name}")].values.len();
    assert_eq!((size("weight"), size("bias")), (1536 * 384, 1536));
    // One row of the weight, from the graph's constants.
    let graph = ModelProto::decode(bundle.file(ENCODER).unwrap().clone()).unwrap().graph.unwrap();
    let stored = |name: &str| {
        let name = format!("{wide}.weight{name}");
        graph.initializer.iter().find(|tensor| tensor.name == name).unwrap().raw_data.clone()
    };
    let (bytes, scales) = (stored(""), stored(".scale"));
    let row = 700;
    for input in [0, 63, 64, 383] {
        let byte = f32::from(bytes[input * 1536 + row].cast_signed());
        let scale = &scales[4 * (input / 64 * 1536 + row)..][..4];
        let expected = byte * f32::from_le_bytes(scale.try_into().unwrap());
        let got = layers[&format!("{wide}.weight")].values[row * 384 + input];
        assert_eq!(got.to_bits(), expected.to_bits(), "input {input}");
    }
    let unknown = BTreeMap::from([("encoder.layer.6.x".to_owned(), vec![1])]);
    assert!(matches!(
        thaw_encoder(&bundle, &unknown),
        Err(ExportError::TensorMissing { name }) if name == "encoder.layer.6.x"
    ));
}

#[test]
fn what_cannot_be_taken_apart_is_refused() {
    let field = |error| match error {
        ExportError::UnsupportedConfig { field, .. } => field,
        other => panic!("{other}"),
    };
    assert_eq!(field(thawed(&tiny(Variant::M), WeightType::F32).unwrap_err()), "hypernet.variant");
    // Three layers cannot be told apart by two values each.
    assert_eq!(field(thawed(&tiny(Variant::L), WeightType::F32).unwrap_err()), "base.layers");
    let config = tiny_config(Variant::L);
    let info = HypernetInfo { variant: "L".into(), weights: "f32".into(), rank: 2, scale: 1.0 };
    let foreign = from_graph(Bytes::new(), &config.base, &info, 12).unwrap_err();
    assert!(matches!(foreign, ExportError::TensorMissing { .. }), "{foreign}");
}
