//! Tests of `import`. In go archives made of the golden networks, by a writer of our own and by one
//! in Python; out come these networks to the bit, and the golden adapters.

pub(crate) mod case;
mod frozen;
mod hostile;
mod writer;

use std::fs;

use half::{bf16, f16};
use serde_json::{Value, json};
use t2lc_runtime::base::UNKNOWN_FINGERPRINT;

use super::{Arguments, ImportError, Imported, ModuleOrder, Training, pickle};
use crate::checkpoint::{NamedTensor, Variant};
use case::{Case, Golden, VARIANTS, error_of, fixture};
use writer::{Place, StateDict};

fn bits(tensor: &NamedTensor) -> Vec<u32> {
    tensor.values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn every_variant_is_recognized_and_copied_to_the_bit() {
    for variant in VARIANTS {
        let (golden, imported) = (Golden::read(variant), Case::new(variant).import().unwrap());
        let config = &imported.checkpoint.config;
        let sizes = (config.latent_size, config.head_in_size, config.task_embedding_size);
        assert_eq!((config.variant, config.rank, sizes), (variant, 2, (8, 5, 12)));
        assert!((config.scale() - 4.0 / 2.0_f32.sqrt()).abs() < 1e-6);
        let modules: Vec<_> = config
            .base
            .modules
            .iter()
            .map(|m| (m.name.as_str(), m.in_features, m.out_features, m.permute_heads))
            .collect();
        assert_eq!(modules, [("q_proj", 16, 16, Some(4)), ("v_proj", 16, 8, None)]);
        assert_eq!((config.base.layers, config.base.name.as_str()), (3, "toy"));
        assert_eq!(config.base.fingerprint, UNKNOWN_FINGERPRINT);

        let tensors = &imported.checkpoint.tensors;
        assert!(tensors.keys().eq(golden.tensors.keys()), "{variant}");
        for (name, want) in &golden.tensors {
            let got = &tensors[name];
            assert_eq!((&got.shape, bits(got)), (&want.shape, bits(want)), "{variant} {name}");
        }
        let trained = golden.tensors.iter().filter(|(name, _)| !name.starts_with("AB_offset."));
        let trained: usize = trained.map(|(_, tensor)| tensor.values.len()).sum();
        assert_eq!((imported.parameters, imported.training), (trained, Training::Answers));
        assert_eq!((imported.recovered_order.len(), imported.notes.len()), (2, 0));
    }
}

#[test]
fn an_imported_network_generates_the_golden_adapter() {
    for variant in VARIANTS {
        let imported = Case::new(variant).import().unwrap();
        let error = error_of(&imported, &Golden::read(variant));
        assert!(error < 1e-5, "{variant}: {error}");
    }
}

#[test]
fn what_python_wrote_is_read() {
    let golden = Golden::read(Variant::M);
    let archive = fs::read(fixture("t2l/hypermod.pt")).unwrap();
    let imported = Case::new(Variant::M).import_archive(archive).unwrap();
    assert_eq!(imported.recovered_order, ["q_proj", "v_proj"]);
    assert_eq!(imported.checkpoint.tensors, golden.tensors);
    assert!(error_of(&imported, &golden) < 1e-5);
}

#[test]
fn the_order_of_the_heads_is_the_type_index_unless_another_is_asked_for() {
    for variant in VARIANTS {
        let golden = Golden::read(variant);
        let mut case = Case::new(variant);
        case.swap_modules("heads.");
        case.swap_modules("out_emb.");
        let names = |imported: &Imported| -> Vec<String> {
            let modules = &imported.checkpoint.config.base.modules;
            modules.iter().map(|module| module.name.clone()).collect()
        };
        let swapped = case.import().unwrap();
        assert_eq!(swapped.recovered_order, ["v_proj", "q_proj"]);
        assert_eq!(names(&swapped), ["v_proj", "q_proj"]);
        // The names in `adapter_config.json` are in the other order.
        assert_eq!(swapped.notes.len(), 1, "{:?}", swapped.notes);
        assert!(error_of(&swapped, &golden) > 1e-2, "{variant}: the order changes nothing");
        for order in ["reversed", "q_proj,v_proj"] {
            case.order = order.parse().unwrap();
            assert_eq!(case.order.to_string(), order);
            let imported = case.import().unwrap();
            assert_eq!(imported.recovered_order, ["v_proj", "q_proj"]);
            assert_eq!(names(&imported), ["q_proj", "v_proj"]);
            assert!(error_of(&imported, &golden) < 1e-5, "{variant} {order}");
        }
    }
    assert!("random".parse::<ModuleOrder>().is_err());
}

#[test]
fn an_order_that_cannot_be_told_or_is_none_is_refused() {
    let mut case = Case::new(Variant::S);
    case.swap_modules("out_emb.");
    let text = case.refusal();
    assert!(text.contains("[\"q_proj\", \"v_proj\"], but `out_emb` in the order"), "{text}");
    case.order = ModuleOrder::Reversed;
    assert_eq!(case.refusal(), text);
    case.order = ModuleOrder::Given(vec!["q_proj".into(), "v_proj".into()]);
    assert!(case.import().is_ok());
    for order in ["q_proj", "q_proj,k_proj", "q_proj,q_proj", "q_proj,v_proj,v_proj"] {
        case.order = order.parse().unwrap();
        let error = case.import().unwrap_err();
        assert!(matches!(error, ImportError::ModuleOrder { .. }), "{order}: {error}");
    }
}

#[test]
fn both_names_of_the_mixer_are_read() {
    let mut case = Case::new(Variant::L);
    for part in ["weight", "bias"] {
        case.state.rename(&format!("mixer.1.{part}"), &format!("mixer.0.{part}"));
        case.state.rename(&format!("mixer.4.{part}"), &format!("mixer.3.{part}"));
    }
    let expected = Case::new(Variant::L).import().unwrap();
    assert_eq!(case.import().unwrap(), expected);
}

#[test]
fn narrow_and_wide_floats_strides_and_shared_storages_are_read() {
    let golden = Golden::read(Variant::L).tensors;
    let mut case = Case::new(Variant::L);
    let values = |name: &str| golden[name].values.clone();

    let half = values("mlp3.1.weight");
    let bytes = half.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect();
    case.store("mlp3.1.weight", "HalfStorage", bytes, &[8, 1]);
    let brain = values("mlp3.4.weight");
    let bytes = brain.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect();
    case.store("mlp3.4.weight", "BFloat16Storage", bytes, &[32, 1]);
    let double = values("mlp1.mlp.1.weight");
    let bytes = double.iter().flat_map(|v| f64::from(*v).to_le_bytes()).collect();
    case.store("mlp1.mlp.1.weight", "DoubleStorage", bytes, &[8, 1]);
    // `[8, 32]`, column by column.
    let rows = values("mixer.4.weight");
    let columns = (0..32_usize).flat_map(|column| (0..8).map(move |row| 32 * row + column));
    let bytes = columns.flat_map(|place| rows[place].to_le_bytes()).collect();
    case.store("mixer.4.weight", "FloatStorage", bytes, &[1, 8]);
    // One storage, the two vectors in turn.
    let (scale, shift) = (values("mlp3.0.weight"), values("mlp3.0.bias"));
    let pairs = scale.iter().zip(&shift).flat_map(|(a, b)| [a.to_le_bytes(), b.to_le_bytes()]);
    let shared = case.state.storage("FloatStorage", pairs.flatten().collect(), 16);
    for (offset, part) in ["weight", "bias"].into_iter().enumerate() {
        *case.state.place(&format!("mlp3.0.{part}")) =
            Place { storage: shared, offset, shape: vec![8], strides: vec![2] };
    }

    let got = case.import().unwrap().checkpoint.tensors;
    for (name, want) in &golden {
        let rounded: Vec<f32> = match name.as_str() {
            "mlp3.1.weight" => half.iter().map(|v| f16::from_f32(*v).to_f32()).collect(),
            "mlp3.4.weight" => brain.iter().map(|v| bf16::from_f32(*v).to_f32()).collect(),
            _ => want.values.clone(),
        };
        assert_eq!(got[name].values, rounded, "{name}");
    }
}

#[test]
fn numbers_of_every_length_are_read() {
    for number in [0, 255, 256, 65_535, 65_536, 0x7FFF_FFFF, 0x8000_0000, 0x00FF_FFFF_FFFF] {
        let mut state = StateDict::default();
        let storage = state.storage("FloatStorage", Vec::new(), number);
        let place = Place { storage, offset: number, shape: vec![1; 5], strides: vec![number; 5] };
        state.tensors.push(("x".into(), place));
        let read = pickle::read(&state.pickle()).unwrap();
        assert_eq!(read.storages[0].elements, number);
        let view = &read.tensors[0].1;
        assert_eq!((view.offset, &view.strides), (number, &vec![number; 5]));
    }
}

#[test]
fn statistics_count_for_z_scores_only() {
    let mut case = Case::new(Variant::M);
    case.fill("std_recon_target.", 0.25);
    case.fill("mean_recon_target.", -0.5);
    let plain = case.import().unwrap();
    assert_eq!(plain.checkpoint.tensors, Golden::read(Variant::M).tensors);
    assert!(plain.notes[0].contains("are left out"), "{:?}", plain.notes);

    case.arguments.training_task = Some("recon".into());
    case.arguments.pred_z_score = Some(true);
    case.arguments.factorized = Some(true);
    let scores = case.import().unwrap();
    assert_eq!(scores.training, Training::ZScores);
    assert_eq!(scores.parameters, plain.parameters);
    assert_eq!(scores.checkpoint.tensors["std_recon_target.B.v_proj"].values, [0.25; 48]);
    assert_eq!(scores.checkpoint.tensors["mean_recon_target.A.q_proj"].values, [-0.5; 96]);

    case.fill("std_recon_target.", 0.0);
    let text = case.refusal();
    assert!(text.starts_with("`std_recon_target` is missing or zero"), "{text}");
}

#[test]
fn the_factor_on_products_goes_into_alpha() {
    let mut case = Case::new(Variant::L);
    case.arguments.training_task = Some("recon".into());
    case.arguments.pred_z_score = Some(false);
    let text = case.refusal();
    assert!(text.starts_with("`AB_offset` is not zero"), "{text}");

    case.fill("AB_offset.", 0.0);
    let products = case.import().unwrap();
    assert_eq!(products.training, Training::Products { delta_w_scaling: 10_000.0 });
    let scale = products.checkpoint.config.scale();
    assert!((scale * 1e4 - 4.0 / 2.0_f32.sqrt()).abs() < 1e-5, "{scale}");
    case.arguments.delta_w_scaling = Some(4.0);
    let alpha = case.import().unwrap().checkpoint.config.alpha;
    assert!((alpha - 1.0).abs() < 1e-6, "{alpha}");

    case.arguments.factorized = Some(true);
    let matrices = case.import().unwrap();
    assert_eq!(matrices.training, Training::Matrices);
    assert!((matrices.checkpoint.config.alpha - 4.0).abs() < 1e-6);
}

#[test]
fn heads_without_biases_and_files_without_offsets_get_zeros() {
    let mut case = Case::new(Variant::S);
    for module in ["q_proj", "v_proj"] {
        case.state.remove(&format!("heads.{module}.bias"));
        case.state.remove(&format!("AB_offset.A.{module}"));
        case.state.remove(&format!("AB_offset.B.{module}"));
    }
    let imported = case.import().unwrap();
    let tensors = &imported.checkpoint.tensors;
    assert_eq!(tensors["heads.v_proj.bias"].values, [0.0; 16]);
    assert_eq!(tensors["AB_offset.B.v_proj"].values, [0.0; 48]);
    assert_eq!(imported.notes, ["the file has no `AB_offset`: taken as zeros"]);
}

#[test]
fn every_fault_of_the_settings_is_in_one_error() {
    let mut case = Case::new(Variant::L);
    case.arguments = Arguments { use_one_hot_task_emb: Some(true), ..Arguments::default() };
    case.adapter = json!({"r": 0, "use_rslora": "yes", "use_dora": true, "bias": "all"});
    let ImportError::Settings { problems } = case.import().unwrap_err() else {
        panic!("an error of the settings");
    };
    let expected = [
        "args.yaml: `training_task` is missing",
        "args.yaml: `use_one_hot_task_emb` is true",
        "adapter_config.json: `bias` is \"all\", expected \"none\"",
        "adapter_config.json: `use_dora` is true",
        "adapter_config.json: `r` is 0",
        "adapter_config.json: `lora_alpha` is missing",
        "adapter_config.json: `use_rslora` is \"yes\"",
    ];
    assert_eq!(problems.len(), expected.len(), "{problems:#?}");
    for (problem, start) in problems.iter().zip(expected) {
        assert!(problem.starts_with(start), "{problem}");
    }
}

#[test]
fn settings_of_another_checkpoint_are_refused() {
    let mut case = Case::new(Variant::M);
    case.arguments = Case::new(Variant::S).arguments;
    case.arguments.head_in_size = Some(512);
    case.adapter["target_modules"] = json!(["q_proj", "k_proj"]);
    let ImportError::Settings { problems } = case.import().unwrap_err() else {
        panic!("an error of the settings");
    };
    let expected = [
        "args.yaml: `autoreg_gen` is true, but the tensors are those of variant M",
        "args.yaml: `head_in_size` is 512, the tensors have 5",
        "adapter_config.json: `target_modules` are [\"q_proj\", \"k_proj\"]",
    ];
    assert_eq!(problems.len(), expected.len(), "{problems:#?}");
    for (problem, start) in problems.iter().zip(expected) {
        assert!(problem.starts_with(start), "{problem}");
    }
    let mut case = Case::new(Variant::M);
    case.arguments.training_task = Some("recon".into());
    assert!(case.refusal().contains("`pred_z_score` is missing"));
    case.arguments.pred_z_score = Some(true);
    assert!(case.refusal().contains("`factorized` is not"));
}

#[test]
fn every_fault_of_the_tensors_is_in_one_error() {
    let mut case = Case::new(Variant::M);
    case.state.remove("mlp2.mlp.4.bias");
    case.state.rename("mlp1.mlp.0.weight", "mlp1.norm.weight");
    case.state.place("mlp3.1.bias").shape = vec![4, 8];
    case.state.place("mlp3.1.bias").strides = vec![8, 1];
    let ImportError::Layout { variant, missing, unexpected, wrong_shape, .. } =
        case.import().unwrap_err()
    else {
        panic!("an error of the layout");
    };
    assert_eq!(variant, Variant::M);
    assert_eq!(missing, ["mlp1.mlp.0.weight", "mlp2.mlp.4.bias"]);
    assert_eq!(unexpected, ["mlp1.norm.weight"]);
    assert_eq!(wrong_shape.len(), 1);
    assert_eq!((wrong_shape[0].name.as_str(), &wrong_shape[0].got), ("mlp3.1.bias", &vec![4, 8]));
    let text = case.refusal();
    assert!(text.contains("variant M for the base `toy`; missing: `mlp1.mlp.0.weight`"), "{text}");

    let mut case = Case::new(Variant::M);
    case.adapter["r"] = json!(4);
    assert!(case.refusal().contains("`AB_offset.A.q_proj` [3, 2, 16] instead of [3, 4, 16]"));
}

#[test]
fn networks_of_other_forms_and_bases_are_refused() {
    let mut rotary = Case::new(Variant::S);
    for name in ["pos_emb.0.weight", "pos_emb.1.weight", "pos_emb.1.bias"] {
        rotary.state.remove(name);
    }
    assert!(rotary.refusal().contains("variant S with rotary positions"));

    let mut by_ranks = Case::new(Variant::L);
    for (name, rows) in [("heads.q_proj.weight", 32), ("heads.v_proj.weight", 24)] {
        by_ranks.state.place(name).shape[0] = rows;
    }
    assert!(by_ranks.refusal().contains("variant L by ranks"));

    let mut shallow = Case::new(Variant::L);
    shallow.state.place("layer_depth_encoder.0.weight").shape[0] = 2;
    assert!(shallow.refusal().contains("is for 2 layers, the base `toy` has 3"));

    let mut other = Case::new(Variant::L);
    other.state.rename("heads.v_proj.weight", "heads.lm_head.weight");
    assert!(other.refusal().contains("its layers have no module `lm_head`"));

    let mut none = Case::new(Variant::L);
    none.state.tensors.retain(|(name, _)| !name.starts_with("heads."));
    assert!(matches!(none.import().unwrap_err(), ImportError::NoHeads));
}

#[test]
fn weights_that_are_not_finite_are_refused() {
    let mut case = Case::new(Variant::L);
    case.fill("mlp3.4.bias", f32::NAN);
    assert_eq!(case.refusal(), "tensor `mlp3.4.bias` holds NaN or infinity at element 0");
}

#[test]
fn bases_have_the_last_name_of_their_path() {
    let name = |model_dir: Option<&str>, adapter: Value| {
        let model_dir = model_dir.map(str::to_owned);
        let arguments = Arguments { model_dir, ..Arguments::default() };
        arguments.base_name(&adapter).map(str::to_owned)
    };
    let adapter = json!({"base_model_name_or_path": "models/other"});
    assert_eq!(name(Some("a/b-v0.2/"), adapter.clone()).as_deref(), Some("b-v0.2"));
    assert_eq!(name(None, adapter).as_deref(), Some("other"));
    assert_eq!(name(None, json!({})), None);
    assert_eq!(name(Some("/"), json!({})), None);
    assert_eq!(name(Some("a/\u{1b}b"), json!({})), None);
}
