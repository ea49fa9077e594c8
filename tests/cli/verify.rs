//! `t2lc verify`: sound and damaged adapters, bundles, and bases that an adapter is not for.

use std::fs;

use insta::assert_snapshot;
use serde_json::{Deserializer, Value, json};

use crate::support::parts;
use crate::{BUNDLE, Folder, legal};

#[test]
fn a_sound_adapter() {
    let folder = Folder::with_adapter();
    let ran = folder.run(&["verify", "legal.gguf"]);
    assert_eq!(ran.report(), "exit 0\n");
    assert_snapshot!(ran.text(), @"legal.gguf: sound (general.type, adapter.type, general.architecture, adapter.lora.alpha, has tensors, pairs and ranks, types and finite values, t2lc.tensors.sha256)");
    let found = folder.run(&["verify", "legal.gguf", "--json"]).json();
    assert_eq!((&found["schema"], &found["sound"]), (&json!(1), &json!(true)));
    assert_eq!(found["problems"], json!([]));
    assert_eq!(found["checked"].as_array().map(Vec::len), Some(8));
}

#[test]
fn a_changed_adapter_differs_from_its_digest() {
    let folder = Folder::new();
    let mut bytes = legal().to_vec();
    // Inside the last matrix, in a bit that leaves any value finite.
    let index = bytes.len() - 1000;
    bytes[index] ^= 1;
    fs::write(folder.path("legal.gguf"), &bytes).unwrap();
    assert_snapshot!(folder.refused(&["verify", "legal.gguf"]), @r"
    exit 1
    error: `legal.gguf` does not verify:
      the tensors are [digest], the file says [digest]
    ");
    let ran = folder.run(&["verify", "legal.gguf", "--json"]);
    assert_eq!(ran.code, Some(1));
    let mut values = Deserializer::from_slice(&ran.stdout).into_iter::<Value>();
    let found = values.next().unwrap().unwrap();
    assert_eq!(found["sound"], false);
    assert_eq!(found["problems"].as_array().map(Vec::len), Some(1));
}

#[test]
fn an_unsound_adapter_is_one_json_value() {
    let folder = Folder::new();
    let mut bytes = legal().to_vec();
    let index = bytes.len() - 1000;
    bytes[index] ^= 1;
    fs::write(folder.path("legal.gguf"), &bytes).unwrap();
    assert_eq!(folder.run(&["verify", "legal.gguf", "--json"]).json()["sound"], false);
}

#[test]
fn a_truncated_adapter_is_no_gguf_file() {
    let folder = Folder::new();
    for length in [legal().len() - 1000, legal().len() / 2, 100, 3, 0] {
        fs::write(folder.path("legal.gguf"), &legal()[..length]).unwrap();
        for verb in ["verify", "inspect"] {
            let report = folder.refused(&[verb, "legal.gguf"]);
            let start = "exit 1\nerror: `legal.gguf` is not a sound GGUF file\n  caused by: ";
            assert!(report.starts_with(start), "{length} bytes: {report}");
        }
    }
}

#[test]
fn a_sound_bundle() {
    let (folder, bundle) = (Folder::new(), parts::fixture(BUNDLE));
    let bundle = bundle.to_str().unwrap();
    let ran = folder.run(&["verify", bundle]);
    assert_eq!(ran.report(), "exit 0\n");
    let checked = "digest of encoder.onnx, digest of hypernet.onnx, digest of tokenizer.json, \
                   digest of tasks.safetensors";
    assert_eq!(ran.text(), format!("{bundle}: sound ({checked})\n"));
}

#[test]
fn the_right_base_and_a_wrong_one() {
    let folder = Folder::with_adapter();
    let (right, wrong) = (parts::base_gguf(), parts::gemma_gguf());
    let ran = folder.run(&["verify", "legal.gguf", "--base", right.to_str().unwrap()]);
    assert_eq!(ran.report(), "exit 0\n");
    assert!(
        ran.text().ends_with(", architecture, tensor names, tensor shapes, base fingerprint)\n")
    );

    let report = folder.refused(&["verify", "legal.gguf", "--base", wrong.to_str().unwrap()]);
    let start = "exit 1\nerror: `legal.gguf` does not verify:\n  \
                 the adapter is for architecture `llama` (base `SmolLM2-135M-Instruct`), \
                 but this base is `gemma3` (`Gemma 3 270m`)\n";
    assert!(report.starts_with(start), "{report}");
    assert!(report.contains("\n  the base's fingerprint is [digest], "), "{report}");
}

#[test]
fn what_is_neither_adapter_nor_bundle() {
    let folder = Folder::with_adapter();
    fs::write(folder.path("notes.txt"), "hello").unwrap();
    assert_snapshot!(folder.refused(&["verify", "notes.txt"]), @r"
    exit 1
    error: `notes.txt` is not a sound GGUF file
      caused by: file starts with [68, 65, 6c, 6c], expected `GGUF`
    ");
    assert_snapshot!(folder.refused(&["verify", "."]), @r"
    exit 1
    error: `.` is no bundle: it has no manifest.json
    ");
    assert_snapshot!(folder.refused(&["verify", "legal.gguf", "--base", "missing"]), @r"
    exit 1
    error: cannot read `missing`
      caused by: No such file or directory (os error 2)
    ");
    let report = folder.refused(&["verify", "legal.gguf", "--base", "legal.gguf"]);
    assert!(report.contains("  the base has no fingerprint: file has no norm vector"), "{report}");
}
