//! Directories of this and of other programs, and the same adapter as a GGUF file.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{Device, Tensor};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use safetensors::tensor::{Dtype, TensorView, serialize};
use serde_json::{Value, json};
use t2lc_runtime::base::{BaseModel, TargetModule};
use t2lc_runtime::peft::{CONFIG, WEIGHTS};
use t2lc_runtime::quantize::{Quantization, quantize};
use t2lc_runtime::write::plain_gguf_adapter;

use super::{PeftAdapter, target_modules};
use crate::base::adapter::Delta;
use crate::base::gguf_adapter::load_gguf_adapter;

/// Two layers of two modules; the rows of `q_proj` are interleaved in GGUF files.
pub(crate) fn base() -> BaseModel {
    let module = |name: &str, in_features, out_features, permute_heads| TargetModule {
        name: name.into(),
        in_features,
        out_features,
        permute_heads,
    };
    BaseModel {
        name: "tiny".into(),
        architecture: "llama".into(),
        layers: 2,
        tied_head: true,
        fingerprint: "sha256:0".into(),
        modules: vec![module("q_proj", 4, 8, Some(2)), module("down_proj", 5, 4, None)],
    }
}

/// A random adapter of rank 2 with the scale 1.5.
pub(crate) fn adapter(seed: u64) -> PeftAdapter {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut matrix =
        |count: usize| (0..count).map(|_| rng.random_range(-1.0_f32..1.0)).collect::<Vec<_>>();
    let (base, rank) = (base(), 2);
    let mut matrices = BTreeMap::new();
    for module in &base.modules {
        for layer in 0..base.layers {
            let pair = (matrix(rank * module.in_features), matrix(module.out_features * rank));
            matrices.insert((module.name.clone(), layer), pair);
        }
    }
    PeftAdapter { rank, alpha: 3.0, use_rslora: false, matrices }
}

/// Inputs of `rows · tokens` random vectors.
pub(crate) fn inputs(seed: u64, rows: usize, tokens: usize, width: usize) -> Tensor {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let values = (0..rows * tokens * width).map(|_| rng.random_range(-1.0_f32..1.0));
    Tensor::from_vec(values.collect::<Vec<_>>(), (rows, tokens, width), &Device::Cpu).unwrap()
}

/// Largest difference of two tensors of one shape.
pub(crate) fn distance(left: &Tensor, right: &Tensor) -> f32 {
    assert_eq!(left.dims(), right.dims());
    let values = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let differences = values(left).into_iter().zip(values(right)).map(|(l, r)| (l - r).abs());
    // A NaN is no small difference.
    differences.fold(0.0, |most, next| if next <= most { most } else { next })
}

struct Stored {
    name: String,
    quantization: Quantization,
    shape: [usize; 2],
    values: Vec<f32>,
}

/// The tensors of an adapter, as another program might name and store them.
fn tensors(of: &PeftAdapter, infix: &str, quantization: Quantization) -> Vec<Stored> {
    let base = base();
    let mut tensors = Vec::new();
    for module in &base.modules {
        for layer in 0..base.layers {
            let path = module.hugging_face_path(layer).unwrap();
            let (a, b) = of.pair(&module.name, layer).unwrap();
            let shapes = [[of.rank, module.in_features], [module.out_features, of.rank]];
            for ((side, values), shape) in [("lora_A", a), ("lora_B", b)].into_iter().zip(shapes) {
                let name = format!("base_model.model.{path}.{side}.{infix}weight");
                tensors.push(Stored { name, quantization, shape, values: values.to_vec() });
            }
        }
    }
    tensors
}

fn write(dir: &Path, config: &Value, tensors: &[Stored]) {
    let bytes: Vec<Vec<u8>> = tensors
        .iter()
        .map(|t| match t.quantization {
            // The quantizer refuses the NaN that a test is about.
            Quantization::F32 => t.values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            other => quantize(&t.name, other, t.shape[1], &t.values).unwrap(),
        })
        .collect();
    let views = tensors.iter().zip(&bytes).map(|(tensor, bytes)| {
        let dtype = match tensor.quantization {
            Quantization::F16 => Dtype::F16,
            Quantization::Bf16 => Dtype::BF16,
            _ => Dtype::F32,
        };
        (tensor.name.clone(), TensorView::new(dtype, tensor.shape.to_vec(), bytes).unwrap())
    });
    std::fs::write(dir.join(WEIGHTS), serialize(views, None).unwrap()).unwrap();
    std::fs::write(dir.join(CONFIG), config.to_string()).unwrap();
}

fn config() -> Value {
    json!({"peft_type": "LORA", "r": 2, "lora_alpha": 3, "target_modules": "all-linear",
           "bias": "none", "modules_to_save": null, "rank_pattern": {}, "use_dora": false})
}

#[test]
fn what_is_saved_is_loaded_and_equal_adapters_give_equal_bytes() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("adapter");
    for (alpha, use_rslora) in [(3.0, false), (0.1, true), (1e30, false)] {
        let saved = PeftAdapter { alpha, use_rslora, ..adapter(1) };
        saved.save(&dir, &base()).unwrap();
        let files = || [WEIGHTS, CONFIG].map(|name| std::fs::read(dir.join(name)).unwrap());
        let before = files();
        assert_eq!(PeftAdapter::load(&dir, &base()).unwrap(), saved);
        saved.save(&dir, &base()).unwrap();
        assert_eq!(files(), before);
    }
    let scale = |use_rslora| PeftAdapter { use_rslora, ..adapter(1) }.scale();
    assert!((scale(false) - 1.5).abs() < 1e-12);
    assert!((scale(true) - 3.0 / 2_f64.sqrt()).abs() < 1e-12);
}

#[test]
fn directories_of_other_programs_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let mut expected = adapter(2);
    // Values that 16 bits hold exactly.
    for (a, b) in expected.matrices.values_mut() {
        for value in a.iter_mut().chain(b) {
            *value = (*value * 64.0).round() / 64.0;
        }
    }
    for quantization in [Quantization::F32, Quantization::F16, Quantization::Bf16] {
        for infix in ["", "default."] {
            write(dir.path(), &config(), &tensors(&expected, infix, quantization));
            let got = PeftAdapter::load(dir.path(), &base()).unwrap();
            assert_eq!(got, expected, "{quantization} {infix}");
            assert_eq!(target_modules(dir.path()).unwrap(), ["q_proj", "down_proj"]);
        }
    }
}

#[test]
fn everything_wrong_with_the_tensors_is_said_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut wrong = tensors(&adapter(3), "", Quantization::F32);
    // In order: q_proj of layers 0 and 1, A before B, then down_proj.
    wrong[0].values[3] = f32::NAN;
    wrong[2].values[0] = f32::INFINITY;
    wrong[5].shape = [2, 4];
    wrong[7].name = "base_model.model.lm_head.lora_B.weight".into();
    write(dir.path(), &config(), &wrong);
    let error = PeftAdapter::load(dir.path(), &base()).unwrap_err().to_string();
    let layers = "base_model.model.model.layers";
    for expected in [
        format!("`{layers}.0.self_attn.q_proj.lora_A.weight` has 1 values that are not finite"),
        format!("`{layers}.1.self_attn.q_proj.lora_A.weight` has 1 values that are not finite"),
        format!("`{layers}.0.mlp.down_proj.lora_B.weight` has the shape [2, 4], expected [4, 2]"),
        "no `down_proj.lora_B` in the layers 1".into(),
        "`base_model.model.lm_head.lora_B.weight` is no matrix of a target module".into(),
    ] {
        assert!(error.contains(&format!("\n  {expected}")), "{expected} not in {error}");
    }
    assert_eq!(error.lines().count(), 6, "{error}");
}

#[test]
fn adapters_that_are_not_plain_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let plain = tensors(&adapter(4), "", Quantization::F32);
    let mut settings = config();
    for (key, value) in [
        ("use_dora", json!(true)),
        ("modules_to_save", json!(["lm_head"])),
        ("bias", json!("all")),
        ("rank_pattern", json!({"q_proj": 4})),
        ("alpha_pattern", json!({"q_proj": 4})),
        ("peft_type", json!("LOHA")),
        ("lora_alpha", json!("many")),
    ] {
        settings[key] = value;
    }
    write(dir.path(), &settings, &plain);
    let error = PeftAdapter::load(dir.path(), &base()).unwrap_err().to_string();
    for expected in [
        "`peft_type` is \"LOHA\", expected \"LORA\"",
        "`bias` is \"all\", expected \"none\"",
        "`use_dora` is true, expected it not to be used",
        "`modules_to_save` is [\"lm_head\"], expected it not to be used",
        "`rank_pattern` is {\"q_proj\":4}, expected it not to be used",
        "`alpha_pattern` is {\"q_proj\":4}, expected it not to be used",
        "`lora_alpha` is \"many\", expected a finite number",
    ] {
        assert!(error.contains(&format!("\n  {expected}")), "{expected} not in {error}");
    }
    for rank in [json!(null), json!(0), json!(1 << 20), json!(-2)] {
        let mut settings = config();
        settings["r"] = rank;
        write(dir.path(), &settings, &plain);
        let error = PeftAdapter::load(dir.path(), &base()).unwrap_err().to_string();
        assert!(error.contains("expected a rank of 1 to 4096"), "{error}");
    }
}

#[test]
fn what_does_not_fit_the_base_is_not_used() {
    let home = tempfile::tempdir().unwrap();
    let mut wrong = adapter(5);
    wrong.matrices.remove(&("q_proj".to_owned(), 1));
    wrong.matrices.insert(("lm_head".into(), 0), (Vec::new(), Vec::new()));
    wrong.matrices.get_mut(&("q_proj".to_owned(), 0)).unwrap().1.pop();
    wrong.matrices.get_mut(&("down_proj".to_owned(), 0)).unwrap().0[2] = f32::NAN;
    let error = wrong.save(&home.path().join("adapter"), &base()).unwrap_err().to_string();
    assert_eq!(
        error,
        "the adapter does not fit the base `tiny`:\n  \
         `q_proj` in layer 0: 15 values, expected [8, 2]\n  \
         no `q_proj` in layer 1\n  \
         `down_proj` in layer 0: 1 values that are not finite\n  \
         `lm_head` in layer 0, which the base does not have"
    );
    assert!(wrong.batch(&base(), &Device::Cpu).is_err());
    assert!(wrong.pairs(&base()).is_err());
}

#[test]
fn the_gguf_file_of_an_adapter_does_the_same() {
    let (base, adapter) = (base(), adapter(6));
    let pairs = adapter.pairs(&base).unwrap();
    let bytes =
        plain_gguf_adapter(&pairs, &base, adapter.rank, Quantization::F32, "six", "MIT").unwrap();
    let file = load_gguf_adapter(&bytes, &base, &Device::Cpu).unwrap();
    let direct = adapter.batch(&base, &Device::Cpu).unwrap();
    for module in &base.modules {
        for layer in 0..base.layers {
            let x = inputs(7, 1, 3, module.in_features);
            let delta =
                |of: &dyn Delta| of.delta(layer, &module.name, &x).unwrap().expect("adapted");
            assert!(distance(&delta(&file), &delta(&direct)) < 1e-5, "{} {layer}", module.name);
        }
    }
}
