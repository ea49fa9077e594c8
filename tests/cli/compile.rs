//! `t2lc compile` where it succeeds: the file, the report, and that equal inputs give equal bytes.

use std::fs;

use insta::assert_snapshot;
use safetensors::SafeTensors;
use serde_json::{Value, json};
use t2lc_runtime::digest::Digest;
use t2lc_runtime::gguf::{self, Gguf};
use t2lc_runtime::peft;
use t2lc_runtime::quantize::{Quantization, dequantize};
use t2lc_runtime::verify::verify_adapter;

use crate::support::parts;
use crate::{BUNDLE, DESCRIPTION, Folder, legal};

/// Unlike any task.
const RANDOM: &str = "qzv xkw plj bnm wqf zzx";

#[test]
fn a_sentence_becomes_a_small_file_and_two_lines_for_people() {
    let folder = Folder::new();
    let ran = folder.run(&["compile", DESCRIPTION, "-o", "legal.gguf"]);
    assert!(ran.stdout.is_empty());
    assert_snapshot!(ran.report(), @r"
    exit 0
    nearest training tasks: [task] ([number]), [task] ([number]), [task] ([number])
    compiled legal.gguf ([number] [unit], q8_0, [digest]) in [number] s
    ");
    assert_eq!(folder.names("."), ["legal.gguf"]);
    let bytes = folder.read("legal.gguf");
    assert!(bytes.len() < 4_000_000, "{} bytes", bytes.len());
    assert!(ran.stderr.contains(&Digest::of(&bytes).to_string()), "{}", ran.stderr);
}

#[test]
fn equal_descriptions_give_equal_bytes_however_they_arrive() {
    let folder = Folder::with_adapter();
    folder.run_quietly(&["compile", DESCRIPTION, "-o", "legal.gguf", "--force"]);
    assert!(folder.read("legal.gguf") == legal(), "a second run differs");

    fs::write(folder.path("description.txt"), format!("{DESCRIPTION}\n")).unwrap();
    folder.run_quietly(&["compile", "-f", "description.txt", "-o", "file.gguf"]);
    assert!(folder.read("file.gguf") == legal(), "from a file it differs");

    let spaced = format!("  {DESCRIPTION}\r\n");
    let ran = folder.run_with_stdin(&["compile", "-", "-o", "stdin.gguf", "-q"], spaced.as_bytes());
    assert_eq!(ran.report(), "exit 0\n");
    assert!(folder.read("stdin.gguf") == legal(), "from stdin it differs");

    let copy = parts::fixture(BUNDLE);
    let bundle = copy.to_str().unwrap();
    folder.run_quietly(&["compile", DESCRIPTION, "-o", "bundle.gguf", "--bundle", bundle]);
    assert!(folder.read("bundle.gguf") == legal(), "from the bundle's folder it differs");
}

#[test]
fn other_backends_are_named_because_their_bytes_are() {
    let folder = Folder::new();
    folder.run_quietly(&["compile", DESCRIPTION, "-o", "exact.gguf", "--backend", "exact"]);
    assert!(folder.read("exact.gguf") == legal(), "auto is not exact");
    folder.run_quietly(&["compile", DESCRIPTION, "-o", "cpu.gguf", "--provider", "cpu"]);
    assert!(folder.read("cpu.gguf") == legal(), "the CPU is not what auto takes");

    let ran = folder.run(&["compile", DESCRIPTION, "-o", "tract.gguf", "--backend", "tract"]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(ran.stderr.starts_with("computed with tract/"), "{}", ran.stderr);
    let bytes = folder.read("tract.gguf");
    let recipe = |bytes: &[u8]| Gguf::parse(bytes).unwrap().get("t2lc.recipe").cloned();
    assert_ne!(recipe(&bytes), recipe(legal()));
}

#[test]
fn stdout_gets_the_file_and_nothing_else() {
    let folder = Folder::new();
    let ran = folder.run(&["compile", DESCRIPTION, "-o", "-"]);
    assert_snapshot!(ran.report(), @r"
    exit 0
    nearest training tasks: [task] ([number]), [task] ([number]), [task] ([number])
    compiled - ([number] [unit], q8_0, [digest]) in [number] s
    ");
    assert!(ran.stdout == legal());
    assert!(folder.names(".").is_empty());
}

#[test]
fn json_says_what_was_made() {
    let folder = Folder::new();
    let ran = folder.run(&["compile", DESCRIPTION, "-o", "legal.gguf", "--json", "-q"]);
    assert_eq!(ran.report(), "exit 0\n");
    let (report, bytes) = (ran.json(), folder.read("legal.gguf"));
    let adapter = Gguf::parse(&bytes).unwrap();
    let metadata = |key: &str| adapter.get(key).and_then(gguf::Value::as_str).unwrap();
    let manifest = fs::read(parts::fixture(BUNDLE).join("manifest.json")).unwrap();
    let expected = [
        ("schema", json!(1)),
        ("output", json!("legal.gguf")),
        ("description", json!(DESCRIPTION)),
        ("recipe", json!(metadata("t2lc.recipe"))),
        ("content", json!(Digest::of(&bytes))),
        ("size_bytes", json!(bytes.len())),
        ("tensors", json!(adapter.tensors().len())),
        ("format", json!("gguf")),
        ("quantization", json!("q8_0")),
        ("scale", json!(1.0)),
        ("backend", json!(metadata("t2lc.backend"))),
        ("bundle", json!(Digest::of(&manifest))),
        ("base", json!(metadata("general.base_model.0.name"))),
        ("familiar", json!(true)),
        ("truncated", json!(false)),
    ];
    for (key, value) in expected {
        assert_eq!(report[key], value, "{key}");
    }
    let nearest = report["nearest"].as_array().unwrap();
    let cosines: Vec<f64> = nearest.iter().map(|task| task["cosine"].as_f64().unwrap()).collect();
    assert!(cosines.len() == 3 && cosines.is_sorted_by(|a, b| a >= b), "{cosines:?}");
    assert!(nearest.iter().all(|task| task["task"].is_string()));
}

#[test]
fn every_quantization_gives_a_sound_adapter() {
    let folder = Folder::new();
    for quantization in Quantization::ALL {
        let name = quantization.name();
        folder.run_quietly(&["compile", DESCRIPTION, "-o", name, "--quant", name]);
        let bytes = folder.read(name);
        let adapter = Gguf::parse(&bytes).unwrap();
        let found = verify_adapter(&adapter);
        assert!(found.is_sound(), "{name}: {:?}", found.problems);
        // Rows of `lora_a` are whole blocks of every type, those of `lora_b` are too short.
        for tensor in adapter.tensors().iter().filter(|tensor| tensor.name.ends_with(".lora_a")) {
            assert_eq!(tensor.ggml_type, quantization.ggml_type(), "{}", tensor.name);
        }
    }
}

#[test]
fn a_peft_adapter_is_a_directory_of_two_files() {
    let folder = Folder::new();
    let args = ["compile", DESCRIPTION, "-o", "legal", "--format", "peft"];
    let ran = folder.run(&args);
    assert!(ran.stdout.is_empty());
    assert_snapshot!(ran.report(), @r"
    exit 0
    nearest training tasks: [task] ([number]), [task] ([number]), [task] ([number])
    compiled legal ([number] [unit], f32, [digest]) in [number] s
    ");
    assert_eq!(folder.names("."), ["legal"]);
    assert_eq!(folder.names("legal"), [peft::CONFIG, peft::WEIGHTS]);
    let read = || [peft::WEIGHTS, peft::CONFIG].map(|name| folder.read(format!("legal/{name}")));
    let files = read();
    assert!(ran.stderr.contains(&Digest::of(&files.concat()).to_string()), "{}", ran.stderr);
    let tensors = SafeTensors::deserialize(&files[0]).unwrap().len();
    assert_eq!(tensors, Gguf::parse(legal()).unwrap().tensors().len());
    let config: Value = serde_json::from_slice(&files[1]).unwrap();
    assert_eq!(config["peft_type"], "LORA");
    assert_eq!(config["lora_alpha"], config["r"]);

    assert_snapshot!(folder.refused(&args), @r"
    exit 2
    error: output `legal` exists, and overwriting was not requested
    hint: use --force to overwrite it
    ");
    folder.run_quietly(&[&args[..], &["--force"]].concat());
    assert!(read() == files, "a second run differs");
    assert_eq!(folder.names("."), ["legal"]);
}

#[test]
fn scale_0_changes_nothing_in_the_base() {
    let folder = Folder::new();
    folder.run_quietly(&["compile", DESCRIPTION, "-o", "legal.gguf", "--scale", "0"]);
    let bytes = folder.read("legal.gguf");
    let adapter = Gguf::parse(&bytes).unwrap();
    assert!(verify_adapter(&adapter).is_sound());
    for tensor in adapter.tensors().iter().filter(|tensor| tensor.name.ends_with(".lora_b")) {
        assert_eq!(tensor.ggml_type, Quantization::F16.ggml_type());
        let values = dequantize(Quantization::F16, adapter.data(tensor)).unwrap();
        assert!(values.iter().all(|value| *value == 0.0), "{}", tensor.name);
    }
}

#[test]
fn quiet_prints_nothing() {
    let folder = Folder::new();
    for args in [["-q", "compile", RANDOM, "-o", "a"], ["compile", RANDOM, "-o", "b", "--quiet"]] {
        let ran = folder.run(&args);
        assert_eq!((ran.report().as_str(), ran.stdout.len()), ("exit 0\n", 0));
    }
    assert!(folder.read("a") == folder.read("b"));
    assert!(folder.read("a") != legal(), "another description gives another adapter");
}

#[test]
fn random_text_warns_and_strict_refuses_it() {
    let folder = Folder::new();
    let args = ["compile", RANDOM, "-o", "random.gguf"];
    assert_snapshot!(folder.refused(&[&args[..], &["--strict"]].concat()), @r"
    exit 1
    nearest training tasks: [task] ([number]), [task] ([number]), [task] ([number])
    warning: the description is unlike anything seen in training; the adapter may not help
    error: the description is unlike anything seen in training
    hint: describe the task in other words, or compile without --strict
    ");
    assert_snapshot!(folder.run(&args).report(), @r"
    exit 0
    nearest training tasks: [task] ([number]), [task] ([number]), [task] ([number])
    warning: the description is unlike anything seen in training; the adapter may not help
    compiled random.gguf ([number] [unit], q8_0, [digest]) in [number] s
    ");
    folder.run_quietly(&["compile", DESCRIPTION, "-o", "legal.gguf", "--strict"]);
    assert!(folder.read("legal.gguf") == legal(), "strict changes the bytes");
}

#[test]
fn a_description_that_is_cut_warns() {
    let folder = Folder::new();
    let long = "word ".repeat(400);
    let ran = folder.run(&["compile", &long, "-o", "long.gguf", "--json"]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let warning = "\nwarning: the description has 402 tokens; the end was not read\n";
    assert!(ran.stderr.contains(warning), "{}", ran.stderr);
    assert_eq!(ran.json()["truncated"], true);
}
