//! The variants against golden vectors made from the formulas alone, their gradients against finite
//! differences, and what each of them starts from.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor, Var};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use safetensors::SafeTensors;
use t2lc_export::checkpoint::{Checkpoint, HypernetConfig, NamedTensor, Variant};
use t2lc_runtime::base::{BaseModel, TargetModule};

use super::{Hypernet, Init, stack_embeddings};
use crate::base::peft::PeftAdapter;

const VARIANTS: [Variant; 4] = [Variant::Gated, Variant::L, Variant::M, Variant::S];

/// All linear maps of a small decoder layer; in some of them `out > in`.
const DECODER: [(&str, usize, usize); 7] = [
    ("q_proj", 16, 16),
    ("k_proj", 16, 8),
    ("v_proj", 16, 8),
    ("o_proj", 16, 16),
    ("gate_proj", 16, 24),
    ("up_proj", 16, 24),
    ("down_proj", 24, 16),
];

fn config(
    variant: Variant,
    rank: usize,
    layers: usize,
    shapes: &[(&str, usize, usize)],
) -> HypernetConfig {
    let modules = shapes.iter().map(|&(name, in_features, out_features)| TargetModule {
        name: name.into(),
        in_features,
        out_features,
        permute_heads: None,
    });
    HypernetConfig {
        schema: 1,
        variant,
        rank,
        alpha: 16.0,
        use_rslora: false,
        latent_size: if variant == Variant::Gated { 5 } else { 8 },
        head_in_size: 5,
        task_embedding_size: 12,
        base: BaseModel {
            name: "toy".into(),
            architecture: "llama".into(),
            layers,
            tied_head: true,
            fingerprint: "sha256:0".into(),
            modules: modules.collect(),
        },
    }
}

#[test]
fn golden_vectors_are_reproduced() {
    for (name, variant) in [
        ("gated", Variant::Gated),
        ("t2l_L", Variant::L),
        ("t2l_M", Variant::M),
        ("t2l_S", Variant::S),
    ] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join(format!("fixtures/golden/hypernet/{name}.safetensors"));
        let bytes = std::fs::read(&path).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let mut tensors: BTreeMap<String, NamedTensor> = file
            .iter()
            .map(|(name, view)| {
                let values = view.data().chunks_exact(4);
                let values = values.map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
                (name.to_owned(), NamedTensor { shape: view.shape().to_vec(), values })
            })
            .collect();
        let expected: BTreeMap<String, NamedTensor> =
            tensors.extract_if(.., |name, _| name.starts_with("out.")).collect();
        let task = tensors.remove("in.task_emb").unwrap();
        let shapes = [("q_proj", 16, 16), ("v_proj", 16, 8)];
        let checkpoint = Checkpoint::from_tensors(config(variant, 2, 3, &shapes), tensors).unwrap();
        let net = Hypernet::from_checkpoint(&checkpoint, &Device::Cpu).unwrap();
        let task = Tensor::from_vec(task.values, (1, 12), &Device::Cpu).unwrap();
        for module in net.forward(&task, None).unwrap() {
            let b = module.b_transposed.transpose(2, 3).unwrap();
            for (which, tensor) in [("A", &module.a), ("B", &b)] {
                let got: Vec<f32> = tensor.flatten_all().unwrap().to_vec1().unwrap();
                let want = &expected[&format!("out.{}.{which}", module.name)];
                assert_eq!(tensor.dims()[1..], want.shape[..]);
                let error = got.iter().zip(&want.values).map(|(g, w)| (g - w).abs());
                let error = error.fold(0f32, f32::max);
                assert!(error < 1e-5, "{name} {} {which}: {error}", module.name);
            }
        }
    }
}

fn fresh(config: HypernetConfig, init: Init<'_>) -> Hypernet {
    Hypernet::new(config, init, &mut ChaCha8Rng::seed_from_u64(1), &Device::Cpu).unwrap()
}

fn flat(x: &Tensor) -> Vec<f32> {
    x.flatten_all().unwrap().to_vec1().unwrap()
}

fn largest(x: &Tensor) -> f32 {
    flat(x).iter().fold(0.0, |most, value| value.abs().max(most))
}

#[test]
fn a_fresh_gated_or_l_changes_nothing_and_every_variant_repeats_one_adapter() {
    for variant in VARIANTS {
        let net = fresh(config(variant, 4, 3, &DECODER), Init::FreshLora);
        let tasks = Tensor::randn(0f32, 1.0, (2, 12), &Device::Cpu).unwrap();
        for module in net.forward(&tasks, None).unwrap() {
            let delta = module.b_transposed.transpose(2, 3).unwrap().matmul(&module.a).unwrap();
            let change = largest(&delta);
            assert!(change.is_finite());
            let unchanged = matches!(variant, Variant::Gated | Variant::L);
            assert_eq!(change == 0.0, unchanged, "{variant}: largest ΔW {change}");
            let first_task = module.a.narrow(0, 0, 1).unwrap();
            let spread = largest(&module.a.broadcast_sub(&first_task).unwrap());
            assert!(spread == 0.0, "{variant}: A differs between tasks by {spread}");
            // A gated network has an offset for each layer, the others a bias for all of them.
            let first_layer = module.a.narrow(1, 0, 1).unwrap();
            let spread = largest(&module.a.broadcast_sub(&first_layer).unwrap());
            let apart = variant == Variant::Gated;
            assert_eq!(spread > 0.0, apart, "{variant}: A differs between layers by {spread}");
        }
    }
}

#[test]
fn a_fresh_lora_fills_rows_that_are_longer_than_the_input_with_zeros() {
    for variant in [Variant::M, Variant::S] {
        let net = fresh(config(variant, 4, 2, &[("up_proj", 16, 24)]), Init::FreshLora);
        let tasks = Tensor::ones((1, 12), DType::F32, &Device::Cpu).unwrap();
        let generated = net.forward(&tasks, None).unwrap();
        let [module] = generated.as_slice() else { panic!("one module") };
        assert_eq!(module.a.dims(), [1, 2, 4, 16]);
        assert_eq!(module.b_transposed.dims(), [1, 2, 4, 24]);
        assert!(flat(&module.a).iter().all(|value| *value != 0.0), "{variant}");
        let (b, a) = (flat(&module.b_transposed), flat(&module.a));
        for (b, a) in b.chunks(24).zip(a.chunks(16)) {
            assert_eq!(&b[..16], a, "{variant}: A and B share a bias");
            assert!(b[16..].iter().all(|value| *value == 0.0), "{variant}");
        }
    }
}

/// `A ∘ c` summed over all matrices, where `c` is different everywhere.
fn functional(net: &Hypernet, tasks: &Tensor) -> Tensor {
    let mut sum = Tensor::zeros((), DType::F64, &Device::Cpu).unwrap();
    for (index, module) in net.forward(tasks, None).unwrap().iter().enumerate() {
        for (phase, matrix) in [(0.1, &module.a), (0.7, &module.b_transposed)] {
            let weights: Vec<f64> = (0..matrix.elem_count())
                .map(|i| (i as f64 * 0.83 + phase + index as f64).sin())
                .collect();
            let weights = Tensor::from_vec(weights, matrix.shape(), &Device::Cpu).unwrap();
            sum = (sum + (matrix * weights).unwrap().sum_all().unwrap()).unwrap();
        }
    }
    sum
}

#[test]
fn gradients_agree_with_finite_differences_in_every_parameter() {
    const STEP: f64 = 1e-5;
    for variant in VARIANTS {
        let mut config = config(variant, 2, 2, &[("q_proj", 6, 4), ("up_proj", 4, 7)]);
        if variant != Variant::Gated {
            config.latent_size = 16;
        }
        let mut rng = ChaCha8Rng::seed_from_u64(4);
        let mut net = Hypernet::new(config, Init::Reconstruct, &mut rng, &Device::Cpu).unwrap();
        // In f64 the differences are exact enough to see any fault. Nothing stays zero or one.
        for (name, shape) in net.config.statistic_tensors() {
            let zeros = Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
            net.parameters.insert(name, Var::from_tensor(&zeros).unwrap());
        }
        for var in net.parameters.values_mut() {
            let values: Vec<f64> =
                flat(var).iter().map(|v| f64::from(*v) + rng.random_range(-0.2_f64..0.2)).collect();
            let values = Tensor::from_vec(values, var.shape(), &Device::Cpu).unwrap();
            *var = Var::from_tensor(&values).unwrap();
        }
        let tasks: Vec<f64> = (0..24).map(|_| rng.random_range(-1.0_f64..1.0)).collect();
        let tasks = Tensor::from_vec(tasks, (2, 12), &Device::Cpu).unwrap();
        let gradients = functional(&net, &tasks).backward().unwrap();
        for (name, var) in net.trainable() {
            let gradient = gradients.get(var).unwrap_or_else(|| panic!("{variant}: no {name}"));
            let gradient: Vec<f64> = gradient.flatten_all().unwrap().to_vec1().unwrap();
            assert!(gradient.iter().any(|value| *value != 0.0), "{variant}: {name} is unused");
            let values: Vec<f64> = var.flatten_all().unwrap().to_vec1().unwrap();
            for entry in (0..values.len()).step_by(values.len().div_ceil(5)) {
                let at = |shift: f64| -> f64 {
                    let mut moved = values.clone();
                    moved[entry] += shift;
                    let moved = Tensor::from_vec(moved, var.shape(), &Device::Cpu).unwrap();
                    var.set(&moved).unwrap();
                    functional(&net, &tasks).to_scalar().unwrap()
                };
                let (expected, got) = ((at(STEP) - at(-STEP)) / (2.0 * STEP), gradient[entry]);
                at(0.0);
                assert!(
                    (got - expected).abs() <= 1e-6 * (1.0 + expected.abs()),
                    "{variant} {name}[{entry}]: {got}, expected {expected}"
                );
            }
        }
    }
}

/// An adapter of rank 2 on [`WARM`] with a scale of its own.
fn trained_adapter() -> PeftAdapter {
    let mut matrices = BTreeMap::new();
    for (name, inputs, outputs) in WARM {
        for layer in 0..3_usize {
            let values = |count: usize, seed: f32| -> Vec<f32> {
                (0..count).map(|i| (i as f32 * 0.7 + seed + layer as f32).sin()).collect()
            };
            let pair = (values(2 * inputs, 0.1), values(outputs * 2, 0.5));
            matrices.insert((name.to_owned(), layer), pair);
        }
    }
    PeftAdapter { rank: 2, alpha: 4.0, use_rslora: true, matrices }
}

const WARM: [(&str, usize, usize); 2] = [("q_proj", 16, 16), ("up_proj", 16, 24)];

#[test]
fn a_warm_start_generates_the_adapter_under_the_networks_scale() {
    let adapter = trained_adapter();
    for variant in VARIANTS {
        let net = fresh(config(variant, 2, 3, &WARM), Init::Offset(&adapter));
        let tasks = Tensor::randn(0f32, 1.0, (2, 12), &Device::Cpu).unwrap();
        let ratio = adapter.scale() / f64::from(net.config.scale());
        for module in net.forward(&tasks, None).unwrap() {
            for layer in 0..3 {
                let (a, b) = adapter.pair(&module.name, layer).unwrap();
                let of = |x: &Tensor| {
                    flat(
                        &x.narrow(0, 1, 1)
                            .unwrap()
                            .narrow(1, layer, 1)
                            .unwrap()
                            .squeeze(0)
                            .unwrap(),
                    )
                };
                assert_eq!(of(&module.a), a, "{variant}");
                for (got, want) in of(&module.b_transposed.transpose(2, 3).unwrap()).iter().zip(b) {
                    assert!((f64::from(*got) - ratio * f64::from(*want)).abs() < 1e-6);
                }
            }
        }
    }
}

#[test]
fn a_warm_start_from_an_adapter_that_does_not_fit_is_refused() {
    let refused = |adapter: &PeftAdapter, rank: usize| {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let config = config(Variant::L, rank, 3, &WARM);
        let net = Hypernet::new(config, Init::Offset(adapter), &mut rng, &Device::Cpu);
        format!("{:#}", net.unwrap_err())
    };
    let text = refused(&trained_adapter(), 4);
    assert!(text.contains("rank 2, expected the network's, 4"), "{text}");
    let mut adapter = trained_adapter();
    adapter.matrices.remove(&("up_proj".to_owned(), 1));
    let text = refused(&adapter, 2);
    assert!(text.contains("up_proj"), "{text}");
}

#[test]
fn deviation_mean_and_offset_are_applied_to_what_the_heads_give() {
    let mut net = fresh(config(Variant::M, 2, 3, &[("v_proj", 16, 8)]), Init::Reconstruct);
    let mut constants = Vec::new();
    let mut shapes = net.config.statistic_tensors();
    shapes.extend(net.config.expected_tensors().into_iter().filter(|(n, _)| n.starts_with("AB_")));
    for (name, shape) in shapes {
        let count: usize = shape.iter().product();
        let values: Vec<f32> = (0..count).map(|i| (i as f32 + name.len() as f32).cos()).collect();
        let tensor = Tensor::from_vec(values.clone(), shape, &Device::Cpu).unwrap();
        net.parameters.insert(name.clone(), Var::from_tensor(&tensor).unwrap());
        constants.push((name, values));
    }
    let constant = |name: &str| &constants.iter().find(|(n, _)| n == name).unwrap().1;
    let tasks = Tensor::randn(0f32, 1.0, (1, 12), &Device::Cpu).unwrap();
    let heads = net.forward_heads(&tasks, None).unwrap().remove(0);
    // Trained parameters are all but the constants.
    assert!(net.trainable().all(|(name, _)| constants.iter().all(|(n, _)| n != name)));
    // The statistics survive a checkpoint.
    let net = Hypernet::from_checkpoint(&net.to_checkpoint().unwrap(), &Device::Cpu).unwrap();
    let module = net.forward(&tasks, None).unwrap().remove(0);
    let rows = |x: &Tensor| flat(&x.transpose(2, 3).unwrap());
    for (matrix, heads, got) in [
        ("A", flat(&heads.a), flat(&module.a)),
        ("B", rows(&heads.b_transposed), rows(&module.b_transposed)),
    ] {
        let [deviation, mean, offset] = ["std_recon_target", "mean_recon_target", "AB_offset"]
            .map(|prefix| constant(&format!("{prefix}.{matrix}.v_proj")));
        for (index, (head, got)) in heads.iter().zip(&got).enumerate() {
            let want = head * deviation[index] + mean[index] + offset[index];
            assert!((got - want).abs() < 1e-5, "{matrix}[{index}]: {got}, expected {want}");
        }
    }
}

#[test]
fn a_gated_network_learns_heads_and_offsets_alone() {
    let net = fresh(config(Variant::Gated, 2, 3, &[("v_proj", 16, 8)]), Init::FreshLora);
    let learned: Vec<&str> = net.trainable().map(|(name, _)| name.as_str()).collect();
    assert_eq!(learned, ["AB_offset.A.v_proj", "AB_offset.B.v_proj", "heads.v_proj.weight"]);
    let gates = flat(&net.parameters["gates.v_proj"]);
    assert!(gates.iter().all(|gate| (gate.abs() - 0.2_f32.sqrt()).abs() < 1e-6), "{gates:?}");
    assert!(gates.iter().any(|gate| *gate < 0.0) && gates.iter().any(|gate| *gate > 0.0));
}

#[test]
fn a_gated_network_spreads_the_descriptions_it_is_shown() {
    let mut rng = ChaCha8Rng::seed_from_u64(6);
    let mut text = || (0..12).map(|_| rng.random_range(0.5_f32..1.5)).collect::<Vec<f32>>();
    let tasks: Vec<Vec<Vec<f32>>> = (0..40).map(|_| vec![text(), text()]).collect();
    for variant in VARIANTS {
        let mut net = fresh(config(variant, 2, 3, &[("v_proj", 16, 8)]), Init::FreshLora);
        let before: Vec<Vec<f32>> = net.parameters.values().map(|var| flat(var)).collect();
        net.spread(&tasks, &mut ChaCha8Rng::seed_from_u64(7)).unwrap();
        let changed: Vec<&str> = net
            .parameters
            .iter()
            .zip(&before)
            .filter_map(|((name, var), before)| (flat(var) != *before).then_some(name.as_str()))
            .collect();
        if variant != Variant::Gated {
            assert!(changed.is_empty(), "{variant}: {changed:?}");
            continue;
        }
        assert_eq!(changed, ["task_encoder.bias", "task_encoder.weight"]);
        let rows: Vec<&[f32]> = tasks.iter().flatten().map(Vec::as_slice).collect();
        let texts = stack_embeddings(&rows, &Device::Cpu).unwrap();
        let weight = net.parameters["task_encoder.weight"].as_tensor();
        let projected = texts.matmul(&weight.t().unwrap()).unwrap();
        let projected = projected.broadcast_add(&net.parameters["task_encoder.bias"]).unwrap();
        assert!(largest(&projected.mean(0).unwrap()) < 1e-4);
        let square = flat(&projected).iter().map(|z| z * z).sum::<f32>() / (80.0 * 5.0);
        assert!((0.5..1.1).contains(&square), "mean square {square}");
    }
}

#[test]
fn a_checkpoint_survives_the_disk() {
    let net = fresh(config(Variant::S, 4, 3, &[("q_proj", 16, 16)]), Init::FreshLora);
    let dir = tempfile::tempdir().unwrap();
    net.to_checkpoint().unwrap().save(dir.path()).unwrap();
    let back =
        Hypernet::from_checkpoint(&Checkpoint::load(dir.path()).unwrap(), &Device::Cpu).unwrap();
    assert_eq!(back.config, net.config);
    for (name, var) in &net.parameters {
        let (a, b) = (var.flatten_all().unwrap(), back.parameters[name].flatten_all().unwrap());
        assert_eq!(a.to_vec1::<f32>().unwrap(), b.to_vec1::<f32>().unwrap(), "{name}");
    }
}
