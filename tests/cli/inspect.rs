//! `t2lc inspect`: every kind of file and directory as text and as JSON, and what is none of them.

use std::fs;

use insta::assert_snapshot;
use serde_json::json;
use t2lc_runtime::digest::Digest;
use t2lc_runtime::gguf::Gguf;

use crate::support::parts;
use crate::{BUNDLE, DESCRIPTION, Folder, legal};

#[test]
fn an_adapter_as_text_and_as_json() {
    let folder = Folder::with_adapter();
    let ran = folder.run(&["inspect", "legal.gguf"]);
    assert_eq!(ran.report(), "exit 0\n");
    assert!(ran.text().starts_with("kind: gguf\nmetadata:\n"), "{}", ran.text());
    let tensors = Gguf::parse(legal()).unwrap().tensors().len();
    for line in [
        "  adapter.type: lora",
        "  adapter.lora.task_name: summarize legal text",
        "  general.architecture: llama",
        "  general.base_model.0.name: SmolLM2-135M-Instruct",
        &format!("tensors: {tensors}"),
        "  [576,8]  blk.0.attn_q.weight.lora_a  4896  q8_0",
    ] {
        assert!(ran.text().lines().any(|found| found == line), "{line}\n{}", ran.text());
    }

    let found = folder.run(&["inspect", "legal.gguf", "--json"]).json();
    assert_eq!(found["kind"], "gguf");
    assert_eq!(found["version"], 3);
    assert_eq!(found["metadata"]["adapter.lora.task_name"], DESCRIPTION);
    assert_eq!(found["tensors"].as_array().unwrap().len(), tensors);
    let first = json!({
        "name": "blk.0.attn_q.weight.lora_a", "type": "q8_0", "dimensions": [576, 8],
        "size_bytes": 4896,
    });
    assert_eq!(found["tensors"][0], first);
}

#[test]
fn a_bundle_as_text_and_as_json() {
    let (folder, bundle) = (Folder::new(), parts::fixture(BUNDLE));
    let manifest = fs::read(bundle.join("manifest.json")).unwrap();
    let digest = Digest::of(&manifest);
    let ran = folder.run(&["inspect", bundle.to_str().unwrap()]);
    assert_eq!(ran.report(), "exit 0\n");
    let start = format!("digest: {digest}\nkind: bundle\nmanifest:\n");
    assert!(ran.text().starts_with(&start), "{}", ran.text());
    assert!(ran.text().contains("\n    architecture: llama\n"), "{}", ran.text());

    let found = folder.run(&["inspect", bundle.to_str().unwrap(), "--json"]).json();
    assert_eq!(found["kind"], "bundle");
    assert_eq!(found["digest"], json!(digest));
    assert_eq!(
        found["manifest"]["files"]["encoder.onnx"]["sha256"].as_str().map(str::len),
        Some(71)
    );
}

#[test]
fn a_peft_directory_as_text_and_as_json() {
    let folder = Folder::new();
    folder.run_quietly(&["compile", DESCRIPTION, "-o", "legal", "--format", "peft"]);
    let ran = folder.run(&["inspect", "legal"]);
    assert_eq!(ran.report(), "exit 0\n");
    assert!(ran.text().starts_with("config:\n") && ran.text().contains("\nkind: peft\n"));
    let modules =
        "[\"q_proj\",\"k_proj\",\"v_proj\",\"o_proj\",\"gate_proj\",\"up_proj\",\"down_proj\"]";
    let line = format!("\n  target_modules: {modules}\n");
    assert!(ran.text().contains(&line), "{}", ran.text());

    let found = folder.run(&["inspect", "legal", "--json"]).json();
    assert_eq!(found["kind"], "peft");
    assert_eq!(found["config"]["peft_type"], "LORA");
    let first = json!({
        "name": "base_model.model.model.layers.0.mlp.down_proj.lora_A.weight", "type": "F32",
        "shape": [8, 1536],
    });
    assert_eq!(found["tensors"][0], first);
}

#[test]
fn what_is_none_of_these() {
    let folder = Folder::new();
    fs::write(folder.path("notes.txt"), "hello").unwrap();
    fs::write(folder.path("empty"), "").unwrap();
    assert_snapshot!(folder.refused(&["inspect", "notes.txt"]), @r"
    exit 1
    error: `notes.txt` is not a sound GGUF file
      caused by: file starts with [68, 65, 6c, 6c], expected `GGUF`
    ");
    assert_snapshot!(folder.refused(&["inspect", "empty"]), @r"
    exit 1
    error: `empty` is not a sound GGUF file
      caused by: file ends inside the header: 4 bytes needed at byte 0, got 0
    ");
    assert_snapshot!(folder.refused(&["inspect", "."]), @r"
    exit 1
    error: `.` is no bundle, checkpoint or PEFT directory
    ");
    assert_snapshot!(folder.refused(&["inspect", "missing"]), @r"
    exit 1
    error: cannot read `missing`
      caused by: No such file or directory (os error 2)
    ");
    let ran = folder.run(&["inspect", "missing", "--json"]);
    assert_eq!(ran.report(), folder.refused(&["inspect", "missing"]));
    assert_eq!(ran.json()["error"]["code"], "inspect.read");
}
