//! Tests of `gte`: its graphs against [`Reference`] on small random weights, and what is refused.

use prost::Message;
use safetensors::Dtype;
use t2lc_runtime::backend::exact::Exact;
use t2lc_runtime::backend::{Backend, Tensor};
use t2lc_runtime::encode::MAX_TOKENS;
use t2lc_runtime::onnx::ModelProto;

use super::reference::Reference;
use super::{ModelDir, embed, largest_difference};
use crate::encoder::{Pooling, build_encoder};
use crate::error::ExportError;
use crate::weights::WeightType;

const HIDDEN: usize = 16;
const HEADS: usize = 2;
const INNER: usize = 24;
const LAYERS: usize = 2;
const VOCABULARY: usize = 23;
const POSITIONS: usize = 40;
const THETA: f64 = 160_000.0;

/// Largest difference of an element from the reference, in units of `√hidden`, its length.
const NEAR: f32 = 2e-5;

/// Texts of 1 to all positions.
const TEXTS: [&[i64]; 4] = [
    &[5],
    &[1, 22, 3],
    &[7, 7, 0, 2, 19, 11, 4],
    &[
        1, 8, 15, 22, 6, 13, 20, 4, 11, 18, 2, 9, 16, 0, 7, 14, 21, 5, 12, 19, 3, 10, 17, 1, 8, 15,
        22, 6, 13, 20, 4, 11, 18, 2, 9, 16, 0, 7, 14, 21,
    ],
];

/// What differs among the models of the family.
#[derive(Debug, Clone, Copy)]
struct Family {
    types: usize,
    factor: Option<f64>,
    prefix: &'static str,
}

const FAMILIES: [Family; 4] = [
    Family { types: 2, factor: Some(2.0), prefix: "" },
    Family { types: 0, factor: Some(8.0), prefix: "new." },
    Family { types: 1, factor: None, prefix: "new." },
    Family { types: 0, factor: None, prefix: "" },
];

impl Family {
    fn config(self) -> String {
        let types = self.types;
        let scaling = self.factor.map_or_else(
            || "null".to_owned(),
            |factor| format!(r#"{{"factor": {factor:.1}, "type": "ntk"}}"#),
        );
        format!(
            r#"{{"model_type": "new", "architectures": ["NewModel"], "hidden_act": "gelu",
            "hidden_size": {HIDDEN}, "num_hidden_layers": {LAYERS}, "num_attention_heads": {HEADS},
            "intermediate_size": {INNER}, "vocab_size": {VOCABULARY}, "type_vocab_size": {types},
            "max_position_embeddings": {POSITIONS}, "layer_norm_eps": 1e-12,
            "layer_norm_type": "layer_norm", "position_embedding_type": "rope",
            "rope_theta": {THETA}, "rope_scaling": {scaling}, "pack_qkv": true,
            "logn_attention_scale": false, "logn_attention_clip1": false}}"#
        )
    }

    /// Names without prefix, shapes, values.
    fn tensors(self) -> Vec<(String, Vec<usize>, Vec<f32>)> {
        let mut shapes = vec![("embeddings.word_embeddings".to_owned(), vec![VOCABULARY, HIDDEN])];
        if self.types > 0 {
            shapes.push(("embeddings.token_type_embeddings".to_owned(), vec![self.types, HIDDEN]));
        }
        let mut norms = vec!["embeddings.LayerNorm".to_owned()];
        let mut biases = Vec::new();
        for layer in 0..LAYERS {
            let name = format!("encoder.layer.{layer}");
            for (part, rows, columns) in [
                ("attention.qkv_proj", 3 * HIDDEN, HIDDEN),
                ("attention.o_proj", HIDDEN, HIDDEN),
                ("mlp.down_proj", HIDDEN, INNER),
            ] {
                shapes.push((format!("{name}.{part}"), vec![rows, columns]));
                biases.push((format!("{name}.{part}.bias"), vec![rows]));
            }
            shapes.push((format!("{name}.mlp.up_gate_proj"), vec![2 * INNER, HIDDEN]));
            norms.extend([format!("{name}.attn_ln"), format!("{name}.mlp_ln")]);
        }
        let mut random = Random(1);
        let mut tensors = Vec::new();
        for (name, shape) in shapes {
            let values = random.values(shape.iter().product(), 0.0, 0.6);
            tensors.push((format!("{name}.weight"), shape, values));
        }
        for (name, shape) in biases {
            let values = random.values(shape[0], 0.0, 0.3);
            tensors.push((name, shape, values));
        }
        for name in norms {
            for (part, middle) in [("weight", 1.0), ("bias", 0.0)] {
                let values = random.values(HIDDEN, middle, 0.3);
                tensors.push((format!("{name}.{part}"), vec![HIDDEN], values));
            }
        }
        tensors
    }

    fn reference(self) -> Reference {
        let wide = |(name, _, values): (String, Vec<usize>, Vec<f32>)| {
            (name, values.into_iter().map(f64::from).collect::<Vec<f64>>())
        };
        Reference {
            tensors: self.tensors().into_iter().map(wide).collect(),
            hidden: HIDDEN,
            heads: HEADS,
            inner: INNER,
            layers: LAYERS,
            theta: THETA,
            factor: self.factor,
        }
    }

    fn dir(self, test: &str) -> ModelDir {
        let mut tensors = self.tensors();
        for (name, _, _) in &mut tensors {
            *name = format!("{}{name}", self.prefix);
        }
        ModelDir::with_values(test, &self.config(), Dtype::F32, &tensors)
    }

    fn model(self, test: &str, pooling: Pooling) -> Vec<u8> {
        let mode = match pooling {
            Pooling::Mean => "pooling_mode_mean_tokens",
            Pooling::Cls => "pooling_mode_cls_token",
        };
        let dir = self.dir(test).with_pooling(&format!(r#"{{"{mode}": true}}"#));
        build_encoder(dir.path(), WeightType::F32).unwrap()
    }
}

/// Numbers that are the same in every run.
struct Random(u64);

impl Random {
    /// Values at most `spread` from `middle`.
    fn values(&mut self, count: usize, middle: f32, spread: f32) -> Vec<f32> {
        let mut next = || {
            // Knuth's generator; its upper half is good enough for weights.
            self.0 = self
                .0
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 40) as f32 / (1_u64 << 23) as f32 - 1.0
        };
        (0..count).map(|_| middle + spread * next()).collect()
    }
}

#[allow(clippy::cast_possible_truncation, reason = "rounding to f32 is what this is for")]
fn narrow(values: &[f64]) -> Vec<f32> {
    values.iter().map(|value| *value as f32).collect()
}

#[test]
fn graphs_compute_what_the_reference_computes() {
    for (index, family) in FAMILIES.into_iter().enumerate() {
        let reference = family.reference();
        for pooling in [Pooling::Mean, Pooling::Cls] {
            let model = family.model(&format!("gte-{index}-{pooling}"), pooling);
            // Together they are padded, all but the longest.
            let together = embed(&model, &TEXTS);
            for (text, together) in TEXTS.iter().zip(&together) {
                let want = narrow(&reference.embed(text, pooling));
                for got in [together, &embed(&model, &[*text])[0]] {
                    let error = largest_difference(got, &want) / (HIDDEN as f32).sqrt();
                    let tokens = text.len();
                    assert!(error <= NEAR, "{family:?} {pooling}, {tokens} tokens: {error}");
                }
            }
        }
    }
}

/// A comparison of equals says little if all models gave the same: each choice has to show.
#[test]
fn poolings_types_scaling_and_order_make_a_difference() {
    let reference = |types, factor| Family { types, factor, prefix: "" }.reference();
    let base = reference(2, Some(2.0));
    let text = TEXTS[2];
    let mut reversed = text.to_vec();
    reversed.reverse();
    let mean = base.embed(text, Pooling::Mean);
    let others = [
        base.embed(text, Pooling::Cls),
        base.embed(&reversed, Pooling::Mean),
        reference(2, None).embed(text, Pooling::Mean),
        Reference { factor: Some(8.0), ..reference(2, None) }.embed(text, Pooling::Mean),
        Reference { theta: 10.0, ..reference(2, Some(2.0)) }.embed(text, Pooling::Mean),
    ];
    for (index, other) in others.iter().enumerate() {
        let difference = largest_difference(&narrow(&mean), &narrow(other));
        assert!(difference > 100.0 * NEAR, "{index}: {difference}");
    }
    let mut untyped = reference(2, Some(2.0));
    untyped.tensors.remove("embeddings.token_type_embeddings.weight").unwrap();
    let other = untyped.embed(text, Pooling::Mean);
    assert!(largest_difference(&narrow(&mean), &narrow(&other)) > 100.0 * NEAR);
}

#[test]
fn the_first_token_is_pooled_where_no_file_says_otherwise() {
    let family = FAMILIES[0];
    let dir = family.dir("gte-default");
    let model = build_encoder(dir.path(), WeightType::F32).unwrap();
    assert_eq!(model, family.model("gte-cls", Pooling::Cls));
}

#[test]
fn narrow_weights_stay_near() {
    let family = FAMILIES[0];
    let dir = family.dir("gte-narrow");
    let [wide, f16, int8] = [WeightType::F32, WeightType::F16, WeightType::Int8]
        .map(|weights| embed(&build_encoder(dir.path(), weights).unwrap(), &[TEXTS[2]]).remove(0));
    let off = |other: &[f32]| largest_difference(&wide, other) / (HIDDEN as f32).sqrt();
    assert!(off(&f16) > 0.0 && off(&f16) < 2e-3, "f16: {}", off(&f16));
    assert!(off(&int8) > 0.0 && off(&int8) < 5e-2, "int8: {}", off(&int8));
}

#[test]
fn tables_end_where_the_runtime_stops_reading() {
    let config = FAMILIES[0].config();
    for (positions, expected) in [(8192, MAX_TOKENS), (POSITIONS, POSITIONS)] {
        let from = format!("_position_embeddings\": {POSITIONS}");
        let config = config.replace(&from, &format!("_position_embeddings\": {positions}"));
        let dir = ModelDir::with_values("gte-table", &config, Dtype::F32, &FAMILIES[0].tensors());
        let model = build_encoder(dir.path(), WeightType::F32).unwrap();
        let graph = ModelProto::decode(model.as_slice()).unwrap().graph.unwrap();
        let expected = i64::try_from(expected).unwrap();
        for name in ["rotary.cos", "rotary.sin"] {
            let table = graph.initializer.iter().find(|tensor| tensor.name == name).unwrap();
            assert_eq!(table.dims, [expected, 8]);
        }
        // Further than that the graph fails.
        let graph = Exact::default().load("encoder", &model).unwrap();
        for (tokens, fits) in [(expected, true), (expected + 1, false)] {
            let shape = vec![1, usize::try_from(tokens).unwrap()];
            let values = vec![1; shape[1]];
            let input = Tensor::I64 { shape, values };
            let inputs = [("input_ids", input.clone()), ("attention_mask", input)];
            assert_eq!(graph.run(&inputs, &["task_embedding"]).is_ok(), fits, "{tokens}");
        }
    }
}

#[test]
fn the_bytes_are_the_same_each_time() {
    let dir = FAMILIES[1].dir("gte-repeat");
    for weights in [WeightType::F32, WeightType::F16, WeightType::Int8] {
        let first = build_encoder(dir.path(), weights).unwrap();
        assert_eq!(first, build_encoder(dir.path(), weights).unwrap());
    }
}

#[test]
fn other_variants_are_refused_by_field() {
    let config = FAMILIES[0].config();
    for (from, to, expected) in [
        ("\"gelu\"", "\"gelu_new\"", "hidden_act"),
        ("\"layer_norm\"", "\"rms_norm\"", "layer_norm_type"),
        ("\"rope\"", "\"absolute\"", "position_embedding_type"),
        ("\"ntk\"", "\"linear\"", "rope_scaling.type"),
        ("\"ntk\"", "\"ntk\", \"mixed_b\": 0.625", "rope_scaling.mixed_b"),
        ("\"factor\": 2.0", "\"factor\": 0.5", "rope_scaling.factor"),
        ("\"factor\": 2.0, ", "", "rope_scaling.factor"),
        ("\"rope_theta\": 160000", "\"rope_theta\": 0", "rope_theta"),
        ("\"pack_qkv\": true", "\"pack_qkv\": false", "pack_qkv"),
        ("_scale\": false", "_scale\": true", "logn_attention_scale"),
        ("_clip1\": false", "_clip1\": true", "logn_attention_clip1"),
        ("_heads\": 2", "_heads\": 3", "num_attention_heads"),
        ("_heads\": 2", "_heads\": 0", "num_attention_heads"),
        // Heads of one element, which has no partner to turn with.
        ("_heads\": 2", "_heads\": 16", "num_attention_heads"),
        ("intermediate_size\": 24", "intermediate_size\": 0", "intermediate_size"),
    ] {
        let changed = config.replace(from, to);
        assert_ne!(changed, config, "{from}");
        let dir = ModelDir::with_values("gte-config", &changed, Dtype::F32, &[]);
        let error = build_encoder(dir.path(), WeightType::F32).unwrap_err();
        assert!(
            matches!(&error, ExportError::UnsupportedConfig { field, .. } if *field == expected),
            "{to}: {error}"
        );
    }
}

#[test]
fn sizes_that_no_file_can_have_are_errors() {
    for field in ["intermediate_size\": 24", "hidden_size\": 16"] {
        let (name, _) = field.split_once(' ').unwrap();
        let huge = format!("{name} {}", usize::MAX - 3);
        let config = FAMILIES[0].config().replace(field, &huge);
        let dir = ModelDir::with_values("gte-huge", &config, Dtype::F32, &FAMILIES[0].tensors());
        let error = build_encoder(dir.path(), WeightType::F32).unwrap_err();
        let refused = matches!(
            error,
            ExportError::TensorShape { .. }
                | ExportError::UnsupportedConfig { field: "num_attention_heads", .. }
        );
        assert!(refused, "{field}: {error}");
    }
}

#[test]
fn missing_tensors_are_named_with_their_prefix() {
    for prefix in ["", "new."] {
        let family = Family { prefix, ..FAMILIES[0] };
        let all = family.tensors();
        for index in 0..all.len() {
            let mut tensors = all.clone();
            for (name, _, _) in &mut tensors {
                *name = format!("{prefix}{name}");
            }
            let missing = tensors.remove(index).0;
            // Without the table of words nothing tells the prefix.
            let words = "embeddings.word_embeddings.weight";
            let missing = if missing.ends_with(words) { words.to_owned() } else { missing };
            let config = family.config();
            let dir = ModelDir::with_values("gte-missing", &config, Dtype::F32, &tensors);
            let error = build_encoder(dir.path(), WeightType::F32).unwrap_err();
            assert!(
                matches!(&error, ExportError::TensorMissing { name } if *name == missing),
                "{missing}: {error}"
            );
        }
    }
}
