//! The three variants against golden vectors made from the formulas alone, and their fresh state.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{Device, Tensor};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use safetensors::SafeTensors;
use t2lc_export::checkpoint::{Checkpoint, HypernetConfig, NamedTensor, Variant};
use t2lc_runtime::base::{BaseModel, TargetModule};

use super::Hypernet;

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
        latent_size: 8,
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
    for (name, variant) in [("L", Variant::L), ("M", Variant::M), ("S", Variant::S)] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join(format!("fixtures/golden/hypernet/t2l_{name}.safetensors"));
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

#[test]
fn a_fresh_l_changes_nothing_and_a_fresh_m_or_s_repeats_one_adapter() {
    let shapes = [("q_proj", 16, 16), ("v_proj", 16, 8)];
    for variant in [Variant::L, Variant::M, Variant::S] {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let net = Hypernet::new(config(variant, 4, 3, &shapes), &mut rng, &Device::Cpu).unwrap();
        let tasks = Tensor::randn(0f32, 1.0, (2, 12), &Device::Cpu).unwrap();
        for module in net.forward(&tasks, None).unwrap() {
            let b =
                module.b_transposed.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
            assert_eq!(b == 0.0, variant == Variant::L, "{variant:?}: largest B {b}");
            let first = module.a.narrow(0, 0, 1).unwrap().narrow(1, 0, 1).unwrap();
            let spread = module.a.broadcast_sub(&first).unwrap().abs().unwrap();
            let spread = spread.max_all().unwrap().to_scalar::<f32>().unwrap();
            assert!(spread == 0.0, "{variant:?}: A differs between layers or tasks by {spread}");
        }
    }
}

#[test]
fn a_checkpoint_survives_the_disk() {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let toy = config(Variant::S, 4, 3, &[("q_proj", 16, 16)]);
    let net = Hypernet::new(toy, &mut rng, &Device::Cpu).unwrap();
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
