//! Bundles that are missing, damaged or hostile: each is refused with the file at fault, and no
//! adapter is written.

use std::fs;

use insta::assert_snapshot;
use prost::Message;
use serde_json::{Value, json};
use t2lc_runtime::bundle::{ENCODER, FILES, HYPERNET, MANIFEST, TOKENIZER};
use t2lc_runtime::digest::Digest;
use t2lc_runtime::onnx::{ModelProto, data_type};

use crate::support::parts;
use crate::{BUNDLE, DESCRIPTION, Folder};

const COMPILE: [&str; 6] = ["compile", DESCRIPTION, "-o", "legal.gguf", "--bundle", "copy.t2lc"];

/// What every damaged bundle is met with.
const HINT: &str = "hint: the bundle is damaged or was changed after export; get it again";

/// A folder with `copy.t2lc`, a sound bundle.
pub(crate) fn folder_with_bundle() -> Folder {
    let folder = Folder::new();
    let (from, to) = (parts::fixture(BUNDLE), folder.path("copy.t2lc"));
    fs::create_dir(&to).unwrap();
    for file in FILES.into_iter().chain([MANIFEST]) {
        fs::copy(from.join(file), to.join(file)).unwrap();
    }
    folder
}

/// The refusal of the bundle with a changed manifest.
fn refused_manifest(folder: &Folder, change: impl FnOnce(&mut Value)) -> String {
    let sound = fs::read(parts::fixture(BUNDLE).join(MANIFEST)).unwrap();
    let mut manifest: Value = serde_json::from_slice(&sound).unwrap();
    change(&mut manifest);
    fs::write(folder.path("copy.t2lc").join(MANIFEST), manifest.to_string()).unwrap();
    folder.refused(&COMPILE)
}

/// The refusal of the bundle with another file that the manifest agrees with.
fn refused_file(folder: &Folder, file: &str, bytes: &[u8]) -> String {
    fs::write(folder.path("copy.t2lc").join(file), bytes).unwrap();
    refused_manifest(folder, |manifest| {
        manifest["files"][file] = json!({"size_bytes": bytes.len(), "sha256": Digest::of(bytes)});
    })
}

#[test]
fn a_bundle_that_is_not_there() {
    let folder = Folder::new();
    assert_snapshot!(folder.refused(&COMPILE), @r"
    exit 1
    error: cannot read `copy.t2lc/manifest.json`
      caused by: No such file or directory (os error 2)
    ");
}

#[test]
fn every_damaged_file_is_named() {
    let folder = folder_with_bundle();
    for file in FILES {
        let path = folder.path("copy.t2lc").join(file);
        let sound = fs::read(&path).unwrap();
        let (all, half) = (sound.len(), sound.len() / 2);

        fs::write(&path, &sound[..half]).unwrap();
        let wrong_size = format!("`{file}` has {half} bytes, the manifest says {all}");
        assert_eq!(folder.refused(&COMPILE), format!("exit 1\nerror: {wrong_size}\n{HINT}"));

        let mut flipped = sound.clone();
        flipped[half] ^= 1;
        fs::write(&path, &flipped).unwrap();
        let wrong_digest = format!("`{file}` is [digest], the manifest says [digest]");
        let expected = format!("exit 1\nerror: {wrong_digest}\n{HINT}");
        for args in [&COMPILE[..], &["verify", "copy.t2lc"], &["inspect", "copy.t2lc"]] {
            assert_eq!(folder.refused(args), expected);
        }

        fs::remove_file(&path).unwrap();
        let missing = format!("cannot read `copy.t2lc/{file}`");
        let cause = "caused by: No such file or directory (os error 2)";
        assert_eq!(folder.refused(&COMPILE), format!("exit 1\nerror: {missing}\n  {cause}"));

        fs::write(&path, &sound).unwrap();
    }
    assert_eq!(folder.run(&["verify", "copy.t2lc"]).report(), "exit 0\n");
}

#[test]
fn manifests_that_are_none() {
    let folder = folder_with_bundle();
    let path = folder.path("copy.t2lc").join(MANIFEST);
    fs::write(&path, "a bundle").unwrap();
    assert_snapshot!(folder.refused(&COMPILE), @r"
    exit 1
    error: `manifest.json` is not a bundle manifest
      caused by: expected value at line 1 column 1
    ");
    fs::write(&path, "[".repeat(100_000)).unwrap();
    assert_snapshot!(folder.refused(&COMPILE), @r"
    exit 1
    error: `manifest.json` is not a bundle manifest
      caused by: recursion limit exceeded at line 1 column 128
    ");
    fs::write(&path, " ".repeat(5 << 20)).unwrap();
    let report = folder.refused(&COMPILE);
    assert!(report.starts_with("exit 1\nerror: `manifest.json`: 5242880 bytes"), "{report}");
    assert_snapshot!(refused_manifest(&folder, |manifest| manifest["schema"] = json!(2)), @r"
    exit 1
    error: `manifest.json` has schema 2, this version reads schema 1
    hint: the bundle needs another version of t2lc
    ");
    assert_snapshot!(refused_manifest(&folder, |manifest| manifest["note"] = json!("")), @r"
    exit 1
    error: `manifest.json` is not a bundle manifest
      caused by: unknown field `note`, expected one of `schema`, `name`, `version`, `licence`, `base`, `encoder`, `hypernet`, `training`, `origin`, `familiarity`, `files`
    ");
}

#[test]
fn manifests_that_name_other_files() {
    let folder = folder_with_bundle();
    let with_file = |name: &str| {
        refused_manifest(&folder, |manifest| {
            manifest["files"][name] = manifest["files"]["tokenizer.json"].clone();
        })
    };
    assert_snapshot!(with_file("../tokenizer.json"), @r"
    exit 1
    error: `manifest.json`: unknown file `../tokenizer.json`
    ");
    assert_snapshot!(with_file("/etc/passwd"), @r"
    exit 1
    error: `manifest.json`: unknown file `/etc/passwd`
    ");
    let without_file = refused_manifest(&folder, |manifest| {
        manifest["files"].as_object_mut().unwrap().remove("tokenizer.json");
    });
    assert_snapshot!(without_file, @r"
    exit 1
    error: the bundle has no file `tokenizer.json`
    ");
}

#[test]
fn manifests_with_impossible_numbers() {
    let folder = folder_with_bundle();
    let with = |pointer: &str, value: Value| {
        refused_manifest(&folder, |manifest| *manifest.pointer_mut(pointer).unwrap() = value)
    };
    assert_snapshot!(with("/hypernet/rank", json!(1_000_000)), @r"
    exit 1
    error: `manifest.json`: 30 layers of rank 1000000
    ");
    assert_snapshot!(with("/hypernet/scale", json!(1e300)), @r"
    exit 1
    error: `manifest.json`: scale inf
    ");
    assert_snapshot!(with("/base/modules/0/permute_heads", json!(7)), @r"
    exit 1
    error: `manifest.json`: `q_proj`: 576 rows, 7 heads
    ");
    assert_snapshot!(with("/base/modules/0/name", json!("mystery")), @r"
    exit 1
    error: `manifest.json`: unknown target module `mystery`
    ");
    let report = with("/base/modules/0/in_features", json!(1_u64 << 62));
    assert!(report.starts_with("exit 1\nerror: `q_proj.lora_a` has shape ["), "{report}");
}

#[test]
fn a_manifest_with_too_many_heads() {
    let folder = folder_with_bundle();
    let report = refused_manifest(&folder, |manifest| {
        manifest["base"]["modules"][0]["permute_heads"] = json!(1_u64 << 63);
    });
    assert!(report.starts_with("exit 1\nerror: `manifest.json`: `q_proj`: "), "{report}");
}

#[test]
fn a_manifest_without_modules() {
    let folder = folder_with_bundle();
    let report = refused_manifest(&folder, |manifest| manifest["base"]["modules"] = json!([]));
    assert!(report.starts_with("exit 1\nerror: `manifest.json`: "), "{report}");
}

#[test]
fn a_manifest_says_how_its_network_came_to_be() {
    let folder = folder_with_bundle();
    let without = |manifest: &mut Value| {
        manifest.as_object_mut().unwrap().remove("training");
    };
    assert_snapshot!(refused_manifest(&folder, without), @r"
    exit 1
    error: `manifest.json`: neither `training` nor `origin`
    ");
    let with_both = |manifest: &mut Value| {
        manifest["training"] = json!({"data": manifest["files"]["encoder.onnx"]["sha256"],
                                      "data_licences": [], "steps": 1, "seed": 0});
        manifest["origin"] = json!({
            "format": "text-to-lora", "file": "hypermod.pt", "licence": "unknown", "variant": "L",
            "sha256": manifest["files"]["encoder.onnx"]["sha256"],
            "module_order": "head order", "modules": ["q_proj", "v_proj"]});
    };
    assert_snapshot!(refused_manifest(&folder, with_both), @r"
    exit 1
    error: `manifest.json`: both `training` and `origin`
    ");
}

#[test]
fn weights_that_are_not_finite() {
    let folder = folder_with_bundle();
    let bytes = fs::read(folder.path("copy.t2lc").join(HYPERNET)).unwrap();
    let mut model = ModelProto::decode(bytes.as_slice()).unwrap();
    let graph = model.graph.as_mut().unwrap();
    for tensor in graph.initializer.iter_mut().filter(|t| t.data_type == data_type::FLOAT) {
        tensor.raw_data = f32::NAN.to_le_bytes().repeat(tensor.raw_data.len() / 4).into();
    }
    let report = refused_file(&folder, HYPERNET, &model.encode_to_vec());
    assert!(report.starts_with("exit 1\nerror: `q_proj.lora_a` has "), "{report}");
    assert!(report.ends_with(" values that are not finite"), "{report}");
}

#[test]
fn graphs_that_are_none() {
    let folder = folder_with_bundle();
    let report = refused_file(&folder, HYPERNET, b"a graph");
    assert!(report.starts_with("exit 1\nerror: exact/"), "{report}");
    assert!(report.contains(" cannot load `hypernet.onnx`: "), "{report}");
}

#[test]
fn encoders_that_are_none() {
    for file in [ENCODER, TOKENIZER] {
        let report = refused_file(&folder_with_bundle(), file, b"an encoder");
        assert!(report.starts_with("exit 1\n") && report.contains(file), "{report}");
    }
}
