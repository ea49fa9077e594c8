//! Tests of `checkpoint`, and the checkpoints that other tests build on.

use std::fs;
use std::path::PathBuf;

use t2lc_runtime::base::{BaseModel, TargetModule};

use super::{Checkpoint, CheckpointError, HypernetConfig, NamedTensor, SCHEMA, Variant};

fn module(name: &str, in_features: usize, out_features: usize) -> TargetModule {
    TargetModule { name: name.into(), in_features, out_features, permute_heads: None }
}

/// Sizes of the golden files: latent 8 (gated 5), head 5, embedding 12, rank 2, 3 layers.
pub(crate) fn tiny_config(variant: Variant) -> HypernetConfig {
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
            modules: vec![module("q_proj", 16, 16), module("v_proj", 16, 8)],
        },
    }
}

/// A checkpoint of [`tiny_config`] with distinct small weights.
pub(crate) fn tiny(variant: Variant) -> Checkpoint {
    let config = tiny_config(variant);
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 16) as f32 / 65_536.0 - 0.5
    };
    let tensors = config
        .expected_tensors()
        .into_iter()
        .map(|(name, shape)| {
            let values = (0..shape.iter().product::<usize>()).map(|_| next()).collect();
            (name, NamedTensor { shape, values })
        })
        .collect();
    Checkpoint::from_tensors(config, tensors).unwrap()
}

/// A place of its own for one test.
pub(crate) fn scratch(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("t2lc-{name}-{}", std::process::id()));
    fs::remove_dir_all(&dir).ok();
    dir
}

#[test]
fn names_and_shapes_are_those_of_the_reference() {
    let expected = tiny_config(Variant::S).expected_tensors();
    assert_eq!(expected.len(), 49);
    let shape = |name: &str| {
        expected.iter().find(|(n, _)| n == name).map(|(_, shape)| shape.clone()).unwrap()
    };
    assert_eq!(shape("AB_offset.B.v_proj"), [3, 8, 2]);
    assert_eq!(shape("task_encoder.mlp.0.weight"), [4, 12]);
    assert_eq!(shape("mixer.1.weight"), [32, 8]);
    assert_eq!(shape("mlp3.4.weight"), [5, 32]);
    assert_eq!(shape("heads.v_proj.weight"), [16, 5]);
}

#[test]
fn a_gated_hypernetwork_has_no_trunk() {
    let config = tiny_config(Variant::Gated);
    let expected = config.expected_tensors();
    assert_eq!(expected.len(), 10);
    assert!(expected.contains(&("task_encoder.weight".to_owned(), vec![5, 12])));
    assert!(expected.contains(&("gates.v_proj".to_owned(), vec![3, 5])));
    // B alone comes from a head, and there are no z-scores of A.
    assert!(expected.contains(&("heads.v_proj.weight".to_owned(), vec![16, 5])));
    assert!(config.statistic_tensors().is_empty());
    let wide = HypernetConfig { latent_size: 8, ..config };
    let error = wide.validate().unwrap_err();
    assert!(matches!(error, CheckpointError::Field { field: "latent_size", .. }), "{error}");
    assert_eq!("gated".parse(), Ok(Variant::Gated));
    assert_eq!(serde_json::to_string(&Variant::Gated).unwrap(), "\"gated\"");
}

#[test]
fn scale_follows_rslora() {
    let mut config = tiny_config(Variant::L);
    assert!((config.scale() - 4.0 / 2.0_f32.sqrt()).abs() < 1e-6);
    config.use_rslora = false;
    assert!((config.scale() - 2.0).abs() < 1e-6);
}

#[test]
fn saved_bytes_are_reproducible_and_load_back() {
    let checkpoint = tiny(Variant::M);
    let (first, second) = (scratch("save-1"), scratch("save-2"));
    checkpoint.save(&first).unwrap();
    checkpoint.save(&second).unwrap();
    for file in [super::CONFIG_FILE, super::TENSORS_FILE] {
        assert_eq!(fs::read(first.join(file)).unwrap(), fs::read(second.join(file)).unwrap());
    }
    assert_eq!(Checkpoint::load(&first).unwrap(), checkpoint);

    let mut swapped = checkpoint;
    swapped.config.base.modules.swap(0, 1);
    let text = serde_json::to_string(&swapped.config).unwrap();
    fs::write(first.join(super::CONFIG_FILE), text).unwrap();
    assert!(matches!(Checkpoint::load(&first), Err(CheckpointError::ModuleOrder { .. })));
    fs::remove_dir_all(first).unwrap();
    fs::remove_dir_all(second).unwrap();
}

#[test]
fn one_error_lists_every_fault() {
    let Checkpoint { config, mut tensors } = tiny(Variant::L);
    tensors.remove("mlp1.mlp.0.weight");
    let moved = tensors.remove("heads.v_proj.bias").unwrap();
    tensors.insert("pos_emb.0.weight".into(), moved.clone());
    tensors.insert("mixer.4.bias".into(), moved);
    let error = Checkpoint::from_tensors(config, tensors).unwrap_err();
    let text = error.to_string();
    let CheckpointError::Layout { missing, unexpected, wrong_shape } = error else {
        panic!("{text}");
    };
    assert_eq!(missing, ["mlp1.mlp.0.weight", "heads.v_proj.bias"]);
    assert_eq!(unexpected, ["pos_emb.0.weight"]);
    assert_eq!(wrong_shape.len(), 1);
    assert_eq!(wrong_shape[0].name, "mixer.4.bias");
    assert!(text.contains("missing: `mlp1.mlp.0.weight`, `heads.v_proj.bias`; unexpected"));
}

#[test]
fn aliases_and_optional_tensors_are_filled_in() {
    let checkpoint = tiny(Variant::L);
    let mut tensors = checkpoint.tensors.clone();
    for (alias, name) in [("mixer.0", "mixer.1"), ("mixer.3", "mixer.4")] {
        for part in ["weight", "bias"] {
            let tensor = tensors.remove(&format!("{name}.{part}")).unwrap();
            tensors.insert(format!("{alias}.{part}"), tensor);
        }
    }
    tensors.retain(|name, _| {
        !name.starts_with("AB_offset.")
            && name != "heads.q_proj.bias"
            && name != "heads.v_proj.bias"
    });
    let loaded = Checkpoint::from_tensors(checkpoint.config.clone(), tensors).unwrap();
    assert_eq!(loaded.tensors["mixer.4.bias"], checkpoint.tensors["mixer.4.bias"]);
    assert!(loaded.tensors["heads.q_proj.bias"].values.iter().all(|value| *value == 0.0));
    assert_eq!(loaded.tensors["AB_offset.B.v_proj"].shape, [3, 8, 2]);
}

/// `tiny` with mean and deviation of targets, each value of them `value`.
fn with_statistics(value: f32) -> Checkpoint {
    let Checkpoint { config, mut tensors } = tiny(Variant::M);
    for (name, shape) in config.statistic_tensors() {
        let values = vec![value; shape.iter().product()];
        tensors.insert(name, NamedTensor { shape, values });
    }
    Checkpoint::from_tensors(config, tensors).unwrap()
}

#[test]
fn mean_and_deviation_of_targets_are_all_there_or_not_at_all() {
    let checkpoint = with_statistics(0.5);
    assert_eq!(checkpoint.tensors["mean_recon_target.A.v_proj"].shape, [3, 2, 16]);
    assert_eq!(checkpoint.tensors["std_recon_target.B.v_proj"].shape, [3, 8, 2]);
    let dir = scratch("statistics");
    checkpoint.save(&dir).unwrap();
    assert_eq!(Checkpoint::load(&dir).unwrap(), checkpoint);
    fs::remove_dir_all(dir).unwrap();

    let Checkpoint { config, mut tensors } = checkpoint;
    tensors.remove("std_recon_target.A.q_proj");
    let error = Checkpoint::from_tensors(config, tensors).unwrap_err();
    let CheckpointError::Layout { missing, unexpected, .. } = error else {
        panic!("an error of the layout");
    };
    assert_eq!(missing, ["std_recon_target.A.q_proj"]);
    assert!(unexpected.is_empty());
    // The reference writes zeros where there are no targets.
    assert_eq!(with_statistics(0.0), tiny(Variant::M));
}

#[test]
fn nan_and_short_tensors_are_refused_by_name() {
    let Checkpoint { config, mut tensors } = tiny(Variant::S);
    tensors.get_mut("mlp3.0.bias").unwrap().values[3] = f32::NAN;
    let error = Checkpoint::from_tensors(config.clone(), tensors.clone()).unwrap_err();
    assert_eq!(error.to_string(), "tensor `mlp3.0.bias` holds NaN or infinity at element 3");
    tensors.get_mut("mlp3.0.bias").unwrap().values.pop();
    let error = Checkpoint::from_tensors(config, tensors).unwrap_err();
    assert!(matches!(error, CheckpointError::Length { got: 7, .. }));
}

#[test]
fn unusable_sizes_are_refused() {
    let refused = |change: fn(&mut HypernetConfig)| {
        let mut config = tiny_config(Variant::L);
        change(&mut config);
        config.validate().unwrap_err()
    };
    assert!(matches!(refused(|c| c.schema = 2), CheckpointError::Schema { got: 2, .. }));
    let changes: [fn(&mut HypernetConfig); 8] = [
        |c| c.rank = 0,
        |c| c.latent_size = 6,
        |c| c.latent_size = usize::MAX,
        |c| c.alpha = f32::NAN,
        |c| c.base.modules.clear(),
        |c| c.base.modules[1].name = "q_proj".into(),
        |c| c.base.modules[1].name = "a.b".into(),
        |c| c.base.layers = 1 << 24,
    ];
    for change in changes {
        assert!(matches!(refused(change), CheckpointError::Field { .. }));
    }
}
