//! `t2lc import`: a checkpoint in the reference's form becomes one of ours, and what is damaged or
//! hostile leaves nothing behind.

use std::fs;

use insta::assert_snapshot;
use serde_json::json;

use crate::Folder;
use crate::support::parts;

const FILES: [&str; 4] = ["hypermod.pt", "args.yaml", "adapter_config.json", "config.json"];
const IMPORT: [&str; 6] = ["import", "t2l", "--base-config", "t2l/config.json", "-o", "run"];

/// A folder with `t2l`, a sound checkpoint, and the configuration of its base.
fn folder_with_checkpoint() -> Folder {
    let (folder, from) = (Folder::new(), parts::fixture("golden/t2l"));
    fs::create_dir(folder.path("t2l")).unwrap();
    for file in FILES {
        fs::copy(from.join(file), folder.path("t2l").join(file)).unwrap();
    }
    folder
}

/// The refusal of the checkpoint with one file changed.
fn refused_file(file: &str, change: impl FnOnce(Vec<u8>) -> Vec<u8>) -> String {
    let folder = folder_with_checkpoint();
    let path = folder.path("t2l").join(file);
    fs::write(&path, change(fs::read(&path).unwrap())).unwrap();
    folder.refused(&IMPORT)
}

/// A text with a part replaced that it must have.
fn replaced(bytes: Vec<u8>, from: &str, to: &str) -> Vec<u8> {
    let text = String::from_utf8(bytes).unwrap();
    assert!(text.contains(from), "{text}");
    text.replace(from, to).into_bytes()
}

#[test]
fn a_checkpoint_of_the_reference_becomes_one_of_ours() {
    let folder = folder_with_checkpoint();
    let ran = folder.run(&IMPORT);
    assert!(ran.stdout.is_empty());
    assert_snapshot!(ran.report(), @r"
    exit 0
    variant M, rank 2, scale [number], 2667 trained weights
    trained by sft, on answers
    embeddings of 12 values by Alibaba-NLP/gte-large-en-v1.5
    base toy-7b-v0.2: llama, 3 layers
    modules q_proj, v_proj (as the heads in the archive)
    note: `verify` will compare architecture, names and shapes with a base, but not a fingerprint; --base records one
    run/config.json: 544 B
    run/hypernet.safetensors: [number] [unit]
    ");
    assert_eq!(folder.names("run"), ["config.json", "hypernet.safetensors"]);

    let found = folder.run(&["inspect", "run", "--json"]).json();
    assert_eq!((&found["kind"], &found["config"]["variant"]), (&json!("checkpoint"), &json!("M")));
    assert_eq!(found["config"]["base"]["fingerprint"], "unknown");
    assert_eq!(found["config"]["base"]["modules"][0]["permute_heads"], 4);
    assert_eq!(found["tensors"]["heads.v_proj.weight"], json!([32, 5]));

    // Not over the first without being told to, and with it the same bytes.
    let first = (folder.read("run/config.json"), folder.read("run/hypernet.safetensors"));
    assert_snapshot!(folder.refused(&IMPORT), @r"
    exit 2
    error: output `run` exists, and overwriting was not requested
    hint: use --force to overwrite it
    ");
    folder.run_quietly(&[&IMPORT[..], &["--force"]].concat());
    assert_eq!((folder.read("run/config.json"), folder.read("run/hypernet.safetensors")), first);
}

#[test]
fn what_was_recognized_is_json_too() {
    let folder = folder_with_checkpoint();
    let reversed = [&IMPORT[..], &["--json", "-q", "--module-order", "reversed"]].concat();
    let found = folder.run(&reversed).json();
    assert_eq!(found["modules"], json!(["v_proj", "q_proj"]));
    assert_eq!(found["recovered_order"], json!(["q_proj", "v_proj"]));
    assert_eq!(found["module_order"], "reversed");
    assert_eq!(found["encoder"], "Alibaba-NLP/gte-large-en-v1.5");
    assert_eq!((&found["latent_size"], &found["rank"]), (&json!(8), &json!(2)));

    let other = [&IMPORT[..], &["--force", "--module-order", "q_proj,k_proj"]].concat();
    assert_snapshot!(folder.refused(&other), @r#"
    exit 1
    error: cannot import `t2l/hypermod.pt`
      caused by: module order ["q_proj", "k_proj"] is not an order of the checkpoint's modules ["q_proj", "v_proj"]
    "#);
}

#[test]
fn a_snapshot_of_training_uses_the_settings_of_its_run() {
    let folder = folder_with_checkpoint();
    fs::create_dir_all(folder.path("t2l/checkpoints/it_10")).unwrap();
    let snapshot = "t2l/checkpoints/it_10";
    fs::rename(folder.path("t2l/hypermod.pt"), folder.path(snapshot).join("hypermod.pt")).unwrap();
    folder.run_quietly(&["import", snapshot, "--base-config", "t2l/config.json", "-o", "run"]);
    assert_eq!(folder.names("run").len(), 2);
}

#[test]
fn the_base_must_be_named_and_fit() {
    let folder = folder_with_checkpoint();
    let ran = folder.run(&["import", "t2l", "-o", "run"]);
    assert_eq!((ran.code, ran.stdout.len()), (Some(2), 0));
    assert!(ran.stderr.contains("--base-config <JSON>"), "{}", ran.stderr);
    let deep = refused_file("config.json", |config| {
        replaced(config, "\"num_hidden_layers\": 3", "\"num_hidden_layers\": 4")
    });
    assert_snapshot!(deep, @r"
    exit 1
    error: cannot import `t2l/hypermod.pt`
      caused by: the checkpoint is for 3 layers, the base `toy-7b-v0.2` has 4
    ");
    let wide = refused_file("config.json", |config| {
        replaced(config, "\"num_key_value_heads\": 2", "\"num_key_value_heads\": 4")
    });
    assert!(wide.contains("variant M for the base `toy-7b-v0.2`; wrong shape: "), "{wide}");
    assert!(wide.contains("`AB_offset.B.v_proj` [3, 8, 2] instead of [3, 16, 2]"), "{wide}");
}

#[test]
fn damaged_settings_are_named() {
    let task = refused_file("args.yaml", |text| {
        replaced(text, "training_task: sft", "training_task: grpo")
    });
    assert_snapshot!(task, @r#"
    exit 1
    error: cannot import `t2l/hypermod.pt`
      caused by: the settings cannot be used:
      args.yaml: `training_task` is "grpo", expected `sft` or `recon`
    "#);
    let size =
        refused_file("args.yaml", |text| replaced(text, "head_in_size: 5", "head_in_size: five"));
    assert!(size.contains("error: `t2l/args.yaml` is not usable\n  caused by: "), "{size}");
    let adapter = refused_file("adapter_config.json", |_| b"{".to_vec());
    assert!(adapter.contains("error: `t2l/adapter_config.json` is not JSON\n"), "{adapter}");
}

#[test]
fn hostile_archives_are_refused() {
    let cut = refused_file("hypermod.pt", |bytes| bytes[..bytes.len() - 100].to_vec());
    assert_snapshot!(cut, @r"
    exit 1
    error: cannot import `t2l/hypermod.pt`
      caused by: the file does not end as a zip archive: it is cut off, or `torch.save` did not write it
    ");
    // `OrderedDict` becomes another global of the same length; the CRC-32 notices first.
    let call = refused_file("hypermod.pt", |mut bytes| {
        let name = b"ccollections\nOrderedDict\n";
        let at = bytes.windows(name.len()).position(|part| part == name).unwrap();
        bytes[at..at + name.len()].copy_from_slice(b"cposix\nsystem__________\n\n");
        bytes
    });
    assert!(call.contains("archive entry `hypermod/data.pkl` has CRC-32 "), "{call}");
    let names = refused_file("hypermod.pt", |mut bytes| {
        let (from, to) = (b"hypermod/version", b"../../../version");
        let at = bytes.windows(16).rposition(|part| part == from).unwrap();
        bytes[at..at + 16].copy_from_slice(to);
        bytes
    });
    assert_snapshot!(names, @r"
    exit 1
    error: cannot import `t2l/hypermod.pt`
      caused by: archive entry `../../../version` has a name that is not plain and relative
    ");
}
