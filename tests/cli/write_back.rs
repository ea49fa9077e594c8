//! `t2lc export --format text-to-lora`: a checkpoint of ours becomes one in the reference's form,
//! which imports as the same; and what it cannot take is refused.

use std::fs;

use insta::assert_snapshot;
use serde_json::{Value, json};

use crate::Folder;
use crate::import::{FROM_IMPORT, IMPORT, folder_with_checkpoint};

const GTE: &str = "Alibaba-NLP/gte-large-en-v1.5";
const FILES: [&str; 3] = ["adapter_config.json", "args.yaml", "hypermod.pt"];
const WRITE_BACK: [&str; 8] =
    ["export", "run", "--format", "text-to-lora", "--encoder-name", GTE, "-o", "back"];

/// A folder with `run`, an imported checkpoint.
fn folder_with_run() -> Folder {
    let folder = folder_with_checkpoint();
    folder.run_quietly(&IMPORT);
    folder
}

#[test]
fn what_was_imported_is_written_back_and_imports_as_the_same() {
    let folder = folder_with_run();
    let ran = folder.run(&WRITE_BACK);
    assert_eq!((ran.code, ran.stdout.len()), (Some(0), 0), "{}", ran.stderr);
    let lines: Vec<&str> = ran.stderr.lines().collect();
    assert_eq!(lines.len(), 6, "{}", ran.stderr);
    for (line, part) in lines.iter().zip([
        "note: Python must number the modules in the order 'q_proj', 'v_proj', ",
        "note: \"Alibaba-NLP/gte-large-en-v1.5\" must be the text encoder of its training",
        "note: `model_dir` is \"toy-7b-v0.2\"",
        "back/hypermod.pt: ",
        "back/args.yaml: ",
        "back/adapter_config.json: ",
    ]) {
        assert!(line.starts_with(part), "{line}");
    }
    assert_eq!(folder.names("back"), FILES);

    let again = ["import", "back", "--base-config", "t2l/config.json", "-o", "again"];
    folder.run_quietly(&again);
    for file in &FROM_IMPORT[..2] {
        let read = |dir: &str| folder.read(format!("{dir}/{file}"));
        assert_eq!(read("again"), read("run"), "{file}");
    }

    // What Python reads, by a reader of YAML of its own.
    let arguments: Value = yaml_serde::from_slice(&folder.read("back/args.yaml")).unwrap();
    assert_eq!(arguments["emb_model"], GTE);
    assert_eq!(arguments["target_modules"], json!(["q_proj", "v_proj"]));
    assert_eq!(arguments["run_name"], "toy-7b-v0.2");
    assert_eq!(arguments["mt_lora_path"], json!(null));
}

#[test]
fn the_same_checkpoint_gives_the_same_bytes() {
    let folder = folder_with_run();
    folder.run_quietly(&WRITE_BACK);
    let read = || FILES.map(|file| folder.read(format!("back/{file}")));
    let first = read();
    let text = folder.refused(&WRITE_BACK);
    assert!(text.contains("hint: use --force to overwrite it"), "{text}");
    folder.run_quietly(&[&WRITE_BACK[..], &["--force"]].concat());
    assert_eq!(read(), first);
}

#[test]
fn names_are_those_that_python_is_told() {
    let folder = folder_with_run();
    let names = ["--model-dir", "models/toy \"7b\" v0.2", "--name", "mine"];
    folder.run_quietly(&[&WRITE_BACK[..], &names].concat());
    let arguments: Value = yaml_serde::from_slice(&folder.read("back/args.yaml")).unwrap();
    assert_eq!(arguments["model_dir"], "models/toy \"7b\" v0.2");
    assert_eq!(arguments["run_name"], "mine");
    let adapter: Value = serde_json::from_slice(&folder.read("back/adapter_config.json")).unwrap();
    assert_eq!(adapter["base_model_name_or_path"], "models/toy \"7b\" v0.2");

    // The reference would look for the settings of a snapshot elsewhere.
    let mut elsewhere = WRITE_BACK;
    elsewhere[5] = "all-MiniLM-L6-v2";
    elsewhere[7] = "my-checkpoint";
    let ran = folder.run(&elsewhere);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(ran.stderr.contains("what comes before `checkpoint` in a path"), "{}", ran.stderr);
    assert!(ran.stderr.contains("the reference has no pooling for it"), "{}", ran.stderr);
}

#[test]
fn what_cannot_be_written_back_is_refused() {
    let folder = folder_with_run();
    let without = [&WRITE_BACK[..4], &WRITE_BACK[6..]].concat();
    assert_snapshot!(folder.refused(&without), @r"
    exit 2
    error: --format text-to-lora needs the name of the text encoder
    hint: name the one that it was trained with, as the reference does: --encoder-name
    ");
    let with_pack = [&WRITE_BACK[..], &["--pack", "pack"]].concat();
    assert_snapshot!(folder.refused(&with_pack), @r"
    exit 2
    error: --pack is for bundles, not for --format text-to-lora
    hint: leave out --pack
    ");
    let nowhere = [&WRITE_BACK[..], &["--model-dir", "/"]].concat();
    assert_snapshot!(folder.refused(&nowhere), @r"
    exit 1
    error: `/` is no name or path of a base: `model_dir` cannot be written
    ");
    let mut other = WRITE_BACK;
    other[3] = "zip";
    let text = folder.refused(&other);
    assert!(text.contains("unknown format `zip`, expected bundle or text-to-lora"), "{text}");
    let ran = folder.run(&["export", "run", "-o", "toy.t2lc"]);
    assert_eq!(ran.code, Some(2));
    assert!(ran.stderr.contains("--encoder <DIR>"), "{}", ran.stderr);

    let weights = folder.path("run/hypernet.safetensors");
    let cut = folder.read("run/hypernet.safetensors");
    fs::write(&weights, &cut[..cut.len() - 4]).unwrap();
    let text = folder.refused(&WRITE_BACK);
    assert!(text.contains("exit 1\nerror: `run/hypernet.safetensors` is not a valid"), "{text}");
}
