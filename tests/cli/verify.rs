//! `t2lc verify`: sound and damaged adapters, bundles, and bases that an adapter is not for.

use std::fs;

use insta::assert_snapshot;
use serde_json::{Deserializer, Value, json};
use t2lc_runtime::digest::Digest;
use t2lc_runtime::gguf::{Gguf, GgufWriter};

use crate::bundles::folder_with_bundle;
use crate::support::parts;
use crate::{BUNDLE, DESCRIPTION, Folder, legal};

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

#[test]
fn a_fresh_adapter_is_rebuilt_to_the_byte() {
    let folder = Folder::with_adapter();
    let ran = folder.run(&["verify", "legal.gguf", "--rebuild"]);
    assert_eq!(ran.report(), "exit 0\n");
    assert!(ran.text().ends_with(", rebuilt with exact/1: the same bytes)\n"), "{}", ran.text());
    let found = folder.run(&["verify", "legal.gguf", "--rebuild", "--json"]).json();
    let rebuilt = &found["rebuilt"];
    assert_eq!((&rebuilt["same"], &rebuilt["identical"]), (&json!(true), &json!(true)));
    assert_eq!((&rebuilt["demand"], &rebuilt["backend"]), (&json!("bytes"), &json!("exact/1")));
    assert_eq!(rebuilt["content"], json!(Digest::of(legal())));
    assert_eq!(rebuilt["differences"], json!([]));
    assert!(folder.run(&["verify", "legal.gguf", "--json"]).json().get("rebuilt").is_none());
}

#[test]
fn every_option_of_a_compile_is_in_the_file() {
    let folder = folder_with_bundle();
    let long = "summarize legal text in one sentence. ".repeat(60);
    let options = ["--quant", "q4_1", "--scale", "-1.3", "--bundle", "copy.t2lc", "--force"];
    for backend in ["exact", "tract"] {
        let args = ["compile", &long, "-o", "long.gguf", "-q", "--backend", backend];
        assert_eq!(folder.run(&[&args[..], &options].concat()).code, Some(0));
        let args = ["verify", "long.gguf", "--rebuild", "--bundle", "copy.t2lc"];
        let ran = folder.run(&args);
        assert_eq!(ran.report(), "exit 0\n");
        assert!(ran.text().contains(&format!(", rebuilt with {backend}/")), "{}", ran.text());
    }
}

#[test]
fn a_flipped_bit_is_not_rebuilt() {
    let folder = Folder::new();
    let mut bytes = legal().to_vec();
    let index = bytes.len() - 1000;
    bytes[index] ^= 1;
    fs::write(folder.path("legal.gguf"), &bytes).unwrap();
    assert_snapshot!(folder.refused(&["verify", "legal.gguf", "--rebuild"]), @r"
    exit 1
    error: `legal.gguf` does not verify:
      the tensors are [digest], the file says [digest]
      `blk.29.ffn_down.weight.lora_b` differs from the rebuilt one in 1 of 4608 values, relative error [number]
    ");
    let ran = folder.run(&["verify", "legal.gguf", "--rebuild", "--json"]);
    assert_eq!(ran.code, Some(1));
    let found = ran.json();
    assert_eq!(found["rebuilt"]["same"], false);
    assert_eq!(found["rebuilt"]["differences"].as_array().map(Vec::len), Some(1));
}

#[test]
fn another_bundle_rebuilds_nothing() {
    let folder = folder_with_bundle();
    fs::write(folder.path("legal.gguf"), legal()).unwrap();
    let path = folder.path("copy.t2lc/manifest.json");
    let mut manifest: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    manifest["version"] = json!("2");
    fs::write(&path, manifest.to_string()).unwrap();
    let args = ["verify", "legal.gguf", "--rebuild", "--bundle", "copy.t2lc"];
    assert_snapshot!(folder.refused(&args), @r"
    exit 1
    error: the adapter was compiled with the bundle [digest], this bundle is [digest]
    hint: name the bundle that it was compiled with: --bundle DIR
    ");
    let ran = folder.run(&[&args[..], &["--json"]].concat());
    assert_eq!(ran.json()["error"]["code"], "rebuild.bundle");
}

#[test]
fn what_does_not_say_how_it_was_made_is_not_rebuilt() {
    let folder = folder_with_bundle();
    let adapter = Gguf::parse(legal()).unwrap();
    let mut foreign = GgufWriter::new();
    for (key, value) in adapter.metadata().iter().filter(|(key, _)| !key.starts_with("t2lc.")) {
        foreign.metadata(key, value.clone()).unwrap();
    }
    for tensor in adapter.tensors() {
        let bytes = adapter.data(tensor).to_vec();
        foreign.tensor(&tensor.name, &tensor.dimensions, tensor.ggml_type, bytes).unwrap();
    }
    fs::write(folder.path("foreign.gguf"), foreign.finish().unwrap()).unwrap();
    assert_eq!(folder.run(&["verify", "foreign.gguf"]).report(), "exit 0\n");
    let refused = |path: &str| folder.refused(&["verify", path, "--rebuild"]);
    assert_snapshot!(refused("foreign.gguf"), @r"
    exit 1
    error: the adapter has no `t2lc.recipe`: t2lc did not compile it from a description
    ");
    assert_snapshot!(refused("copy.t2lc"), @r"
    exit 1
    error: `copy.t2lc` is a bundle: only a GGUF adapter can be rebuilt
    ");
    folder.run_quietly(&["compile", DESCRIPTION, "-o", "legal", "--format", "peft"]);
    assert_snapshot!(refused("legal"), @r"
    exit 1
    error: `legal` is a PEFT directory, which does not say how it was compiled: only a GGUF adapter can be rebuilt
    ");
    let report = folder.refused(&["verify", "copy.t2lc", "--bundle", "copy.t2lc"]);
    assert!(report.contains("--rebuild"), "{report}");
}
