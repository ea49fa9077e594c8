//! The hypernetwork: in go golden checkpoints of all variants and task embeddings
//! `[batch, 12]`, out come `lora_a [batch, layers, rank, in]` and `lora_b [batch, layers, out, rank]`.

use std::collections::BTreeMap;
use std::fs;

use candle_core::Device;
use safetensors::SafeTensors;
use t2lc::train::hypernet::{Hypernet, stack_embeddings};
use t2lc_export::checkpoint::{Checkpoint, HypernetConfig, NamedTensor, SCHEMA, Variant};
use t2lc_export::hypernet::build_hypernet;
use t2lc_export::weights::WeightType;
use t2lc_runtime::backend::exact::Exact;
use t2lc_runtime::backend::{Backend, BackendError, Graph, Tensor};
use t2lc_runtime::base::{BaseModel, TargetModule};
use t2lc_runtime::bundle::HYPERNET;
use t2lc_runtime::describe::Description;
use t2lc_runtime::encode::Encoder;

use crate::support::parts;
use crate::{EVERY_WEIGHT_TYPE, backends, bundle, floats, ort, relative_error};

const VARIANTS: [(Variant, &str); 4] = [
    (Variant::Gated, "gated"),
    (Variant::L, "t2l_L"),
    (Variant::M, "t2l_M"),
    (Variant::S, "t2l_S"),
];

/// Largest relative error of an output against that of `exact`.
const NEAR_EXACT: f32 = 5e-6;

/// A golden file: weights, one task embedding `[12]`, and what the formulas give for it.
struct Golden {
    checkpoint: Checkpoint,
    embedding: Vec<f32>,
    /// By name, for example `q_proj.lora_a`.
    outputs: BTreeMap<String, NamedTensor>,
}

impl Golden {
    fn read(variant: Variant, file: &str) -> Self {
        let path = parts::fixture(format!("golden/hypernet/{file}.safetensors"));
        let bytes = fs::read(path).unwrap();
        let mut tensors: BTreeMap<String, NamedTensor> = SafeTensors::deserialize(&bytes)
            .unwrap()
            .iter()
            .map(|(name, view)| {
                let (words, rest) = view.data().as_chunks::<4>();
                assert!(rest.is_empty());
                let values = words.iter().map(|word| f32::from_le_bytes(*word)).collect();
                (name.to_owned(), NamedTensor { shape: view.shape().to_vec(), values })
            })
            .collect();
        let embedding = tensors.remove("in.task_emb").unwrap().values;
        let outputs: BTreeMap<String, NamedTensor> =
            tensors.extract_if(.., |name, _| name.starts_with("out.")).collect();
        let outputs = outputs.into_iter().map(|(name, tensor)| (graph_name(&name), tensor));
        let outputs = outputs.collect();
        let checkpoint = Checkpoint::from_tensors(golden_config(variant), tensors).unwrap();
        Self { checkpoint, embedding, outputs }
    }

    /// The golden embedding and two unlike it.
    fn embeddings(&self) -> Vec<Vec<f32>> {
        let reversed = self.embedding.iter().rev().copied().collect();
        let shifted = self.embedding.iter().map(|value| 0.3 - 0.5 * value).collect();
        vec![self.embedding.clone(), reversed, shifted]
    }

    /// Every output of the graph, in its order.
    fn output_names(&self) -> Vec<String> {
        let modules = &self.checkpoint.config.base.modules;
        modules
            .iter()
            .flat_map(|module| ["lora_a", "lora_b"].map(|which| format!("{}.{which}", module.name)))
            .collect()
    }
}

/// `out.q_proj.A` is the graph's `q_proj.lora_a`.
fn graph_name(golden: &str) -> String {
    let (module, matrix) = golden.strip_prefix("out.").unwrap().rsplit_once('.').unwrap();
    format!("{module}.lora_{}", matrix.to_lowercase())
}

fn golden_config(variant: Variant) -> HypernetConfig {
    let module = |name: &str, out_features| TargetModule {
        name: name.into(),
        in_features: 16,
        out_features,
        permute_heads: None,
    };
    HypernetConfig {
        schema: SCHEMA,
        variant,
        rank: 2,
        alpha: 4.0,
        use_rslora: true,
        latent_size: if variant == Variant::Gated { 5 } else { 8 },
        head_in_size: 5,
        task_embedding_size: 12,
        base: BaseModel {
            name: "toy".into(),
            architecture: "llama".into(),
            layers: 3,
            tied_head: true,
            fingerprint: "sha256:00".into(),
            modules: vec![module("q_proj", 16), module("v_proj", 8)],
        },
    }
}

/// Whether an output is the same for all tasks: the A of a gated hypernetwork.
fn is_shared(variant: Variant, output: &str) -> bool {
    variant == Variant::Gated && output.ends_with(".lora_a")
}

/// Outputs of the trainer's hypernetwork in the graph's layout: shape, values.
fn candle_outputs(golden: &Golden, embeddings: &[Vec<f32>]) -> Vec<(Vec<usize>, Vec<f32>)> {
    let net = Hypernet::from_checkpoint(&golden.checkpoint, &Device::Cpu).unwrap();
    let rows: Vec<&[f32]> = embeddings.iter().map(Vec::as_slice).collect();
    let tasks = stack_embeddings(&rows, &Device::Cpu).unwrap();
    let modules = net.forward(&tasks, None).unwrap();
    let matrices = modules.into_iter().flat_map(|module| {
        let b = module.b_transposed.transpose(2, 3).unwrap().contiguous().unwrap();
        [module.a, b]
    });
    matrices
        .map(|matrix| {
            (matrix.dims().to_vec(), matrix.flatten_all().unwrap().to_vec1::<f32>().unwrap())
        })
        .collect()
}

/// Outputs of the graph by name, for a batch of embeddings.
fn named_outputs(graph: &dyn Graph, names: &[String], embeddings: &[Vec<f32>]) -> Vec<Tensor> {
    let shape = vec![embeddings.len(), embeddings[0].len()];
    let input = Tensor::F32 { shape, values: embeddings.concat() };
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    graph.run(&[("task_embedding", input)], &names).unwrap()
}

fn graph_outputs(graph: &dyn Graph, golden: &Golden, embeddings: &[Vec<f32>]) -> Vec<Tensor> {
    named_outputs(graph, &golden.output_names(), embeddings)
}

/// Checks tract and ONNX Runtime against `exact` and returns what that computes; prints the errors.
#[allow(clippy::print_stdout, reason = "what was measured, for people with --nocapture")]
fn assert_near_exact(
    what: &str,
    onnx: &[u8],
    names: &[String],
    embeddings: &[Vec<f32>],
) -> Vec<Tensor> {
    let [exact, tract, ort] = backends().map(|backend| {
        let graph = backend.load(what, onnx).unwrap();
        named_outputs(graph.as_ref(), names, embeddings)
    });
    let mut largest = [0_f32; 2];
    for (i, (name, want)) in names.iter().zip(&exact).enumerate() {
        let (shape, want) = floats(want);
        let others = [("tract", &tract[i]), ("ort", &ort[i])];
        for (most, (engine, got)) in largest.iter_mut().zip(others) {
            let (got_shape, got) = floats(got);
            assert_eq!(got_shape, shape, "{what} {engine} {name}");
            let error = relative_error(got, want);
            assert!(error <= NEAR_EXACT, "{what} {engine} {name}: {error} off exact");
            *most = most.max(error);
        }
    }
    let [tract, ort] = largest;
    println!("{what}: off exact by at most {tract:.1e} in tract, {ort:.1e} in ort");
    exact
}

#[test]
fn hypernet_graphs_compute_what_the_trainer_computes() {
    for (variant, file) in VARIANTS {
        let golden = Golden::read(variant, file);
        let onnx = build_hypernet(&golden.checkpoint, WeightType::F32).unwrap();
        for backend in backends() {
            let graph = backend.load(file, &onnx).unwrap();
            let all = golden.embeddings();
            for embeddings in [&all[..1], &all[..]] {
                let count = embeddings.len();
                let got = graph_outputs(graph.as_ref(), &golden, embeddings);
                let want = candle_outputs(&golden, embeddings);
                assert_eq!(got.len(), want.len());
                for ((name, got), (shape, want)) in
                    golden.output_names().iter().zip(&got).zip(&want)
                {
                    let what = format!("{file} {} {name}, batch {count}", backend.id());
                    let (got_shape, got) = floats(got);
                    assert_eq!(got_shape, shape, "{what}");
                    let error = relative_error(got, want);
                    assert!(error <= 1e-5, "{what}: {error} off candle");

                    let formula = &golden.outputs[name];
                    assert_eq!(got_shape[1..], formula.shape, "{what}");
                    let error = relative_error(&got[..formula.values.len()], &formula.values);
                    assert!(error <= 1e-5, "{what}: {error} off the golden vectors");
                    if count == 3 {
                        let (first, second) = (&got[..got.len() / 3], &got[got.len() / 3..]);
                        let change = relative_error(&second[..first.len()], first);
                        if is_shared(variant, name) {
                            assert!(change == 0.0, "{what}: depends on the task");
                        } else {
                            assert!(change > 1e-2, "{what}: does not depend on the task");
                        }
                    }
                }
            }
        }
    }
}

/// The golden checkpoint as one that generates z-scores: with mean and deviation of its targets.
fn of_z_scores(golden: Golden) -> Golden {
    let Checkpoint { config, mut tensors } = golden.checkpoint;
    for (place, (name, shape)) in config.statistic_tensors().into_iter().enumerate() {
        let count: usize = shape.iter().product();
        let values = (0..count).map(|i| (i as f32 * 0.3 + place as f32).sin()).collect();
        tensors.insert(name, NamedTensor { shape, values });
    }
    let checkpoint = Checkpoint::from_tensors(config, tensors).unwrap();
    Golden { checkpoint, ..golden }
}

#[test]
fn graphs_apply_mean_and_deviation_of_targets_as_the_trainer_does() {
    // A gated one has none.
    for (variant, file) in VARIANTS.into_iter().filter(|(v, _)| *v != Variant::Gated) {
        let plain = candle_outputs(&Golden::read(variant, file), &[vec![0.5; 12]]);
        let golden = of_z_scores(Golden::read(variant, file));
        let embeddings = golden.embeddings();
        let onnx = build_hypernet(&golden.checkpoint, WeightType::F32).unwrap();
        for backend in backends() {
            let graph = backend.load(file, &onnx).unwrap();
            let got = graph_outputs(graph.as_ref(), &golden, &embeddings);
            let want = candle_outputs(&golden, &embeddings);
            for ((name, got), (shape, want)) in golden.output_names().iter().zip(&got).zip(&want) {
                let (got_shape, got) = floats(got);
                assert_eq!(got_shape, shape);
                let error = relative_error(got, want);
                assert!(error <= 1e-5, "{file} {} {name}: {error} off candle", backend.id());
            }
        }
        let with = candle_outputs(&golden, &[vec![0.5; 12]]);
        assert!(with.iter().zip(&plain).all(|(with, plain)| with.1 != plain.1), "{file}");
    }
}

#[test]
fn runtimes_compute_what_exact_computes_with_every_weight_type() {
    for (variant, file) in VARIANTS {
        let golden = Golden::read(variant, file);
        let (names, embeddings) = (golden.output_names(), golden.embeddings());
        let trained = candle_outputs(&golden, &embeddings);
        // What is lost of the weights; narrow ones lose something.
        let losses = [
            (WeightType::F32, 0.0, 1e-5),
            (WeightType::F16, f32::MIN_POSITIVE, 1e-2),
            (WeightType::Int8, f32::MIN_POSITIVE, 0.2),
        ];
        for (weights, least, most) in losses {
            let onnx = build_hypernet(&golden.checkpoint, weights).unwrap();
            let what = format!("{file} {weights}");
            let exact = assert_near_exact(&what, &onnx, &names, &embeddings);
            for ((name, exact), (shape, trained)) in names.iter().zip(&exact).zip(&trained) {
                let (exact_shape, exact) = floats(exact);
                assert_eq!(exact_shape, shape, "{what} {name}");
                let error = relative_error(exact, trained);
                // What no head gives is stored whole.
                let least = if is_shared(variant, name) { 0.0 } else { least };
                assert!(least <= error && error < most, "{what} {name}: {error} off the weights");
            }
        }
    }
}

#[test]
fn runtimes_compute_what_exact_computes_with_the_bundled_hypernet() {
    let bundle = bundle();
    let encoder = Encoder::load(&bundle, &Exact::default()).unwrap();
    let embed = |text| encoder.encode(&Description::new(text).unwrap()).unwrap().values;
    let embeddings = [
        "Summarize.",
        "Answer multiple-choice science questions with a single letter.",
        "You are given a clause from a contract. Say in plain English what it obliges each party \
         to do, in at most two sentences, without legal terms.",
    ]
    .map(embed);
    let modules = &bundle.manifest.base.modules;
    let matrices = |module: &TargetModule| {
        ["lora_a", "lora_b"].map(|matrix| format!("{}.{matrix}", module.name))
    };
    let names: Vec<String> = modules.iter().flat_map(matrices).collect();
    assert_near_exact("bundled hypernet", bundle.file(HYPERNET).unwrap(), &names, &embeddings);
}

#[test]
fn hypernet_bytes_are_the_same_each_time() {
    for (variant, file) in VARIANTS {
        for weights in EVERY_WEIGHT_TYPE {
            let build =
                || build_hypernet(&Golden::read(variant, file).checkpoint, weights).unwrap();
            assert!(build() == build(), "{file} {weights}");
        }
    }
}

#[test]
fn ort_refuses_what_is_no_model_and_names_what_is_missing() {
    let golden = Golden::read(Variant::L, "t2l_L");
    let onnx = build_hypernet(&golden.checkpoint, WeightType::F32).unwrap();
    let ort = ort();
    for bytes in [b"".as_slice(), b"not a model", &onnx[..onnx.len() / 2]] {
        let error = ort.load("broken", bytes).err().expect("broken bytes are refused");
        assert!(matches!(&error, BackendError::Load { graph, .. } if graph == "broken"), "{error}");
    }
    let graph = ort.load("hypernet", &onnx).unwrap();
    let input = |width: usize| Tensor::F32 { shape: vec![1, width], values: vec![0.5; width] };
    let error = graph.run(&[("task_embedding", input(12))], &["nothing"]).unwrap_err();
    assert!(
        matches!(&error, BackendError::MissingOutput { output, .. } if output == "nothing"),
        "{error}"
    );
    for (name, width) in [("embedding", 12), ("task_embedding", 11)] {
        let error = graph.run(&[(name, input(width))], &["q_proj.lora_a"]).unwrap_err();
        assert!(matches!(error, BackendError::Run { .. }), "{error}");
    }
    let uneven = Tensor::F32 { shape: vec![1, 12], values: vec![0.5; 11] };
    let error = graph.run(&[("task_embedding", uneven)], &["q_proj.lora_a"]).unwrap_err();
    assert!(matches!(error, BackendError::Run { .. }), "{error}");
}
