//! Tests of `write_back`: what is written is what import reads, in the form that PyTorch has.

use std::borrow::Cow;
use std::fs;
use std::io::Cursor;

use serde_json::{Map, Value, json};
use t2lc_runtime::backend::exact::Exact;
use t2lc_runtime::backend::{Backend, Tensor};

use super::archive::ArchiveWriter;
use super::fold::Means;
use super::state_dict::{Entry, entries};
use super::{Names, WriteBackError, WrittenBack, pickle, training, write_back};
use crate::checkpoint::tests::tiny;
use crate::checkpoint::{Checkpoint, DEVIATION_PREFIX, MEAN_PREFIX, NamedTensor, Variant};
use crate::hypernet::build_hypernet;
use crate::import::tests::case::{Case, VARIANTS};
use crate::import::{Arguments, Companions, Imported, ModuleOrder, Training, import};
use crate::weights::WeightType;

const NAMES: Names<'_> =
    Names { run: "toy", encoder: "Alibaba-NLP/gte-large-en-v1.5", model_dir: None };

/// Largest error of an entry after biases went into means, of the largest entry or of 1.
const FOLDED: f32 = 1e-5;

fn written(checkpoint: &Checkpoint) -> WrittenBack {
    write_back(checkpoint, &NAMES).unwrap()
}

/// `args.yaml`, whose values are JSON.
fn arguments(written: &WrittenBack) -> Map<String, Value> {
    let text = str::from_utf8(&written.files[1].1).unwrap();
    let setting = |line: &str| {
        let (key, value) = line.split_once(": ").unwrap();
        (key.to_owned(), serde_json::from_str(value).unwrap())
    };
    text.lines().map(setting).collect()
}

fn adapter(written: &WrittenBack) -> Value {
    serde_json::from_slice(&written.files[2].1).unwrap()
}

/// Imports what was written of a checkpoint, on the same base.
fn read_back(checkpoint: &Checkpoint, written: &WrittenBack) -> Imported {
    let arguments: Arguments = serde_json::from_value(Value::Object(arguments(written))).unwrap();
    let companions = Companions {
        arguments: &arguments,
        adapter: &adapter(written),
        base: &checkpoint.config.base,
        order: &ModuleOrder::Recovered,
    };
    import(Cursor::new(&written.files[0].1), &companions).unwrap()
}

/// Writes a checkpoint, imports it and writes that: the same checkpoint, the same bytes.
fn assert_comes_back(what: &str, checkpoint: &Checkpoint) -> Imported {
    let first = written(checkpoint);
    let imported = read_back(checkpoint, &first);
    assert_eq!(imported.checkpoint, *checkpoint, "{what}");
    assert!(imported.notes.is_empty(), "{what}: {:?}", imported.notes);
    assert_eq!(written(&imported.checkpoint), first, "{what}");
    imported
}

/// What the heads, offsets and statistics make of one embedding: every matrix, one after the other.
fn generated(checkpoint: &Checkpoint) -> Vec<f32> {
    let onnx = build_hypernet(checkpoint, WeightType::F32).unwrap();
    let graph = Exact::new(1).load("hypernet", &onnx).unwrap();
    let values: Vec<f32> = (0..12_u8).map(|i| f32::from(i) / 4.0 - 1.5).collect();
    let input = Tensor::F32 { shape: vec![1, values.len()], values };
    let mut all = Vec::new();
    for module in &checkpoint.config.base.modules {
        for side in ["a", "b"] {
            let output = format!("{}.lora_{side}", module.name);
            let outputs =
                graph.run(&[("task_embedding", input.clone())], &[output.as_str()]).unwrap();
            let [Tensor::F32 { values, .. }] = outputs.as_slice() else { panic!("{output}") };
            all.extend(values);
        }
    }
    all
}

/// `tiny` with mean and deviation of targets, distinct small values.
fn with_statistics(variant: Variant) -> Checkpoint {
    let Checkpoint { config, mut tensors } = tiny(variant);
    let mut count = 0_u8;
    for (name, shape) in config.statistic_tensors() {
        let mut next = || {
            count = count.wrapping_add(37);
            f32::from(count) / 256.0
        };
        let values = (0..shape.iter().product::<usize>()).map(|_| next()).collect();
        tensors.insert(name, NamedTensor { shape, values });
    }
    Checkpoint::from_tensors(config, tensors).unwrap()
}

fn clear_biases(checkpoint: &mut Checkpoint) {
    for module in ["q_proj", "v_proj"] {
        let bias = checkpoint.tensors.get_mut(&format!("heads.{module}.bias")).unwrap();
        bias.values.fill(0.0);
    }
}

#[test]
fn golden_networks_come_back_in_either_order() {
    for variant in VARIANTS {
        let mut case = Case::new(variant);
        for order in ["q_proj,v_proj", "v_proj,q_proj"] {
            let checkpoint = case.import().unwrap().checkpoint;
            let imported = assert_comes_back(&format!("{variant} {order}"), &checkpoint);
            assert_eq!(imported.recovered_order.join(","), order, "{variant}");
            assert_eq!(imported.training, Training::Answers);
            case.swap_modules("heads.");
            case.swap_modules("out_emb.");
        }
    }
}

#[test]
fn networks_that_were_trained_here_come_back() {
    for variant in VARIANTS {
        let mut checkpoint = tiny(variant);
        assert_comes_back(&format!("{variant}"), &checkpoint);
        checkpoint.config.use_rslora = false;
        checkpoint.config.alpha = 0.1;
        assert_comes_back(&format!("{variant} with another scale"), &checkpoint);
    }
}

#[test]
fn what_was_folded_into_alpha_stays_there() {
    let mut case = Case::new(Variant::L);
    case.arguments.training_task = Some("recon".into());
    case.arguments.pred_z_score = Some(false);
    case.fill("AB_offset.", 0.0);
    let products = case.import().unwrap();
    assert_eq!(products.training, Training::Products { delta_w_scaling: 10_000.0 });
    let imported = assert_comes_back("products", &products.checkpoint);
    assert_eq!(imported.training, Training::Answers);
    let adapter = adapter(&written(&products.checkpoint));
    assert_eq!(adapter["lora_alpha"].to_string(), "0.0004");
}

#[test]
fn networks_for_z_scores_come_back_without_biases() {
    for variant in VARIANTS {
        let mut checkpoint = with_statistics(variant);
        clear_biases(&mut checkpoint);
        let imported = assert_comes_back(&format!("{variant}"), &checkpoint);
        assert_eq!(imported.training, Training::ZScores);
        let entries = entries(&checkpoint, Training::ZScores, Means::new());
        assert!(!entries.iter().any(|entry| entry.name == "heads.q_proj.bias"));
    }
}

#[test]
fn biases_of_heads_for_z_scores_go_into_the_mean() {
    for variant in VARIANTS {
        let checkpoint = with_statistics(variant);
        let first = written(&checkpoint);
        assert!(first.notes.iter().any(|note| note.contains("`mean_recon_target`")));
        let folded = read_back(&checkpoint, &first).checkpoint;
        let bias = &folded.tensors["heads.v_proj.bias"].values;
        assert!(bias.iter().all(|value| *value == 0.0), "{variant}: {bias:?}");
        let (want, got) = (generated(&checkpoint), generated(&folded));
        assert_eq!(want.len(), got.len());
        let largest = want.iter().fold(1.0_f32, |most, value| most.max(value.abs()));
        for (got, want) in got.iter().zip(&want) {
            assert!((got - want).abs() / largest < FOLDED, "{variant}: {got}, expected {want}");
        }
        assert_eq!(written(&folded).files, first.files, "{variant}");

        let mut steep = checkpoint;
        steep.tensors.get_mut("heads.q_proj.bias").unwrap().values.fill(f32::MAX);
        steep.tensors.get_mut("std_recon_target.A.q_proj").unwrap().values.fill(2.0);
        let error = write_back(&steep, &NAMES).unwrap_err();
        let text = "tensor `mean_recon_target.A.q_proj` holds NaN or infinity at element 0";
        assert_eq!(error.to_string(), text);
    }
}

#[test]
fn tensors_are_in_the_order_of_the_reference() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/golden/t2l/hypermod.pt");
    let archive = fs::read(path).unwrap();
    let checkpoint = Case::new(Variant::M).import().unwrap().checkpoint;
    let entries = entries(&checkpoint, training(&checkpoint), Means::new());
    assert_eq!(entries.len(), 54);
    // Where the pickle that Python wrote has the name, with its length before it.
    let place = |name: &str| {
        let length = u32::try_from(name.len()).unwrap();
        let text = [&b"X"[..], &length.to_le_bytes(), name.as_bytes()].concat();
        archive.windows(text.len()).position(|part| part == text)
    };
    let places: Vec<usize> = entries.iter().map(|entry| place(&entry.name).unwrap()).collect();
    assert!(places.is_sorted(), "{places:?}");
    for (kind, first) in ["AB_offset", MEAN_PREFIX, DEVIATION_PREFIX].into_iter().zip([0, 4, 8]) {
        let names: Vec<&str> = entries[first..first + 4].iter().map(|e| e.name.as_str()).collect();
        let expected = ["A.q_proj", "A.v_proj", "B.q_proj", "B.v_proj"];
        assert_eq!(names, expected.map(|matrix| format!("{kind}.{matrix}")));
    }
}

/// Names of the entries that start with a prefix.
fn starting<'a>(entries: &'a [Entry<'_>], prefix: &str) -> Vec<&'a str> {
    let names = entries.iter().map(|entry| entry.name.as_str());
    names.filter(|name| name.starts_with(prefix)).collect()
}

#[test]
fn constants_are_sorted_and_heads_are_not() {
    let mut checkpoint = tiny(Variant::S);
    checkpoint.config.base.modules.reverse();
    let entries = entries(&checkpoint, Training::Answers, Means::new());
    assert_eq!(starting(&entries, "AB_offset.B."), ["AB_offset.B.q_proj", "AB_offset.B.v_proj"]);
    let heads = ["v_proj.weight", "v_proj.bias", "q_proj.weight", "q_proj.bias"];
    assert_eq!(starting(&entries, "heads."), heads.map(|name| format!("heads.{name}")));
    let embeddings = ["v_proj.A", "v_proj.B", "q_proj.A", "q_proj.B"];
    assert_eq!(starting(&entries, "out_emb."), embeddings.map(|name| format!("out_emb.{name}")));
}

/// `torch.save(OrderedDict([("a.weight", zeros(2, 3)), ("b", zeros(300))]), …)`, PyTorch 2.15.
const PICKLE_OF_PYTORCH: &[u8] = b"\x80\x02ccollections\nOrderedDict\nq\x00)Rq\x01(\
    X\x08\x00\x00\x00a.weightq\x02ctorch._utils\n_rebuild_tensor_v2\nq\x03((\
    X\x07\x00\x00\x00storageq\x04ctorch\nFloatStorage\nq\x05X\x01\x00\x00\x000q\x06\
    X\x03\x00\x00\x00cpuq\x07K\x06tq\x08QK\x00K\x02K\x03\x86q\tK\x03K\x01\x86q\n\
    \x89h\x00)Rq\x0btq\x0cRq\rX\x01\x00\x00\x00bq\x0eh\x03((h\x04h\x05X\x01\x00\x00\x001q\x0fh\x07\
    M,\x01tq\x10QK\x00M,\x01\x85q\x11K\x01\x85q\x12\x89h\x00)Rq\x13tq\x14Rq\x15u.";

#[test]
fn the_pickle_is_that_of_pytorch() {
    let entry = |name: &str, shape: &[usize]| {
        let values = Cow::Owned(vec![0.0; shape.iter().product()]);
        Entry { name: name.to_owned(), shape: shape.to_vec(), values }
    };
    let made = pickle::pickle(&[entry("a.weight", &[2, 3]), entry("b", &[300])]);
    assert_eq!(made.escape_ascii().to_string(), PICKLE_OF_PYTORCH.escape_ascii().to_string());
}

#[test]
fn data_starts_at_multiples_of_64_bytes() {
    let archive = written(&tiny(Variant::M)).files[0].1.clone();
    let field = |at: usize, bytes: usize| {
        archive[at..at + bytes]
            .iter()
            .rev()
            .fold(0, |number, byte| 256 * number + usize::from(*byte))
    };
    let (mut at, mut names) = (0, Vec::new());
    while archive[at..].starts_with(b"PK\x03\x04") {
        let (size, name, extra) = (field(at + 18, 4), field(at + 26, 2), field(at + 28, 2));
        names.push(String::from_utf8(archive[at + 30..at + 30 + name].to_vec()).unwrap());
        let data_at = at + 30 + name + extra;
        assert_eq!(data_at % 64, 0, "{names:?}");
        at = data_at + size;
    }
    assert!(archive[at..].starts_with(b"PK\x01\x02"));
    assert_eq!(names[..3], ["hypermod/data.pkl", "hypermod/byteorder", "hypermod/data/0"]);
    assert_eq!(names[names.len() - 2..], ["hypermod/data/53", "hypermod/version"]);
}

#[test]
fn settings_are_those_of_the_variant() {
    for (variant, flags) in
        [(Variant::L, [false; 3]), (Variant::M, [true, false, false]), (Variant::S, [true; 3])]
    {
        let written = written(&tiny(variant));
        let arguments = arguments(&written);
        let keys = ["shared_AB_head", "autoreg_gen", "learnable_pos_emb"];
        assert_eq!(keys.map(|key| arguments[key] == true), flags, "{variant}");
        assert_eq!(arguments["training_task"], "sft");
        assert_eq!(arguments["emb_model"], NAMES.encoder);
        assert_eq!(arguments["model_dir"], "toy");
        assert_eq!(arguments["target_modules"], json!(["q_proj", "v_proj"]));
        assert!(str::from_utf8(&written.files[1].1).unwrap().lines().is_sorted());
        let adapter = adapter(&written);
        assert_eq!((&adapter["r"], &adapter["lora_alpha"]), (&json!(2), &json!(4)));
        assert_eq!(adapter["use_rslora"], true);
        assert_eq!(adapter["target_modules"], json!(["q_proj", "v_proj"]));
    }
    let written = written(&with_statistics(Variant::M));
    let arguments = arguments(&written);
    let keys = ["training_task", "factorized", "pred_z_score"];
    assert_eq!(keys.map(|key| &arguments[key]), [&json!("recon"), &json!(true), &json!(true)]);
}

#[test]
fn notes_say_what_python_must_be_told() {
    let notes = written(&tiny(Variant::L)).notes;
    assert_eq!(notes.len(), 3, "{notes:?}");
    assert!(notes[0].contains("`print(list(set(['q_proj', 'v_proj'])))`"), "{}", notes[0]);
    assert!(notes[1].ends_with("of its training, of 12 values"), "{}", notes[1]);
    assert!(notes[2].starts_with("`model_dir` is \"toy\""), "{}", notes[2]);

    let mut wide = tiny(Variant::M).config;
    wide.base.modules[1].out_features = 24;
    let names = Names { encoder: "all-MiniLM-L6-v2", model_dir: Some("org/toy"), ..NAMES };
    let notes = super::notes::notes(&wide, &names, "org/toy", false);
    assert_eq!(notes.len(), 3, "{notes:?}");
    assert!(notes[1].contains("the reference has no pooling for it"), "{}", notes[1]);
    assert!(notes[2].contains("variant M for `v_proj`"), "{}", notes[2]);
}

#[test]
fn what_cannot_be_written_is_refused() {
    let checkpoint = tiny(Variant::L);
    for model_dir in ["", "/", "models/toy\n"] {
        let names = Names { model_dir: Some(model_dir), ..NAMES };
        let error = write_back(&checkpoint, &names).unwrap_err();
        assert!(matches!(error, WriteBackError::BaseName { .. }), "{model_dir:?}: {error}");
    }
    let gated = write_back(&tiny(Variant::Gated), &NAMES).unwrap_err();
    assert_eq!(gated.to_string(), "the reference has no variant `gated`, only L, M and S");
    let mut damaged = checkpoint;
    damaged.tensors.get_mut("mixer.1.bias").unwrap().values[3] = f32::NAN;
    let error = write_back(&damaged, &NAMES).unwrap_err();
    assert_eq!(error.to_string(), "tensor `mixer.1.bias` holds NaN or infinity at element 3");

    let error = ArchiveWriter::for_data(1 << 32).err().unwrap();
    let text = "`hypermod.pt` would have 4294967296 bytes, at most 4294967294 can be written";
    assert_eq!(error.to_string(), text);
}
