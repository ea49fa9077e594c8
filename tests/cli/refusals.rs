//! Descriptions and options that cannot be compiled: what is said, with which exit code, and that
//! no file is touched.

use std::fs;

use insta::assert_snapshot;
use serde_json::json;

use crate::{DESCRIPTION, Folder};

#[test]
fn descriptions_that_are_none() {
    let folder = Folder::new();
    let compile = |description: &str| folder.refused(&["compile", description, "-o", "x.gguf"]);
    assert_snapshot!(compile(""), @r#"
    exit 1
    error: the description is empty
    hint: describe the task, for example "translate to French"
    "#);
    assert_eq!(compile(" \n\t"), compile(""));
    // Stdin is empty here.
    assert_eq!(compile("-"), compile(""));
    assert_snapshot!(compile(&"x".repeat(100_000)), @r"
    exit 1
    error: the description has 100000 bytes, at most 4096 are allowed
    ");
    assert_snapshot!(compile("ring the\u{7} bell"), @r"
    exit 1
    error: the description contains the control character U+0007
    ");
}

#[test]
fn too_much_on_stdin_is_too_long() {
    let folder = Folder::new();
    let description = "x".repeat(100_000);
    let ran = folder.run_with_stdin(&["compile", "-", "-o", "x.gguf"], description.as_bytes());
    let report = ran.refusal();
    assert!(report.starts_with("exit 1\nerror: the description has "), "{report}");
    assert!(report.ends_with(" bytes, at most 4096 are allowed"), "{report}");
    assert!(folder.names(".").is_empty());
}

#[test]
fn too_much_on_stdin_is_too_long_in_any_script() {
    let folder = Folder::new();
    let description = "é".repeat(50_000);
    let ran = folder.run_with_stdin(&["compile", "-", "-o", "x.gguf"], description.as_bytes());
    assert!(ran.refusal().ends_with("at most 4096 are allowed"), "{}", ran.stderr);
}

#[test]
fn description_files_that_cannot_be_read() {
    let folder = Folder::new();
    fs::write(folder.path("bytes"), b"\xff\xfe").unwrap();
    let compile = |file: &str| folder.refused(&["compile", "--file", file, "-o", "x.gguf"]);
    assert_snapshot!(compile("bytes"), @r"
    exit 1
    error: cannot read a description from `bytes`
      caused by: invalid utf-8 sequence of 1 bytes from index 0
    ");
    assert_snapshot!(compile("missing"), @r"
    exit 1
    error: cannot read a description from `missing`
      caused by: No such file or directory (os error 2)
    ");
    assert_snapshot!(compile("."), @r"
    exit 1
    error: cannot read a description from `.`
      caused by: Is a directory (os error 21)
    ");
}

#[test]
fn arguments_that_are_missing_or_too_many() {
    let folder = Folder::new();
    assert_snapshot!(folder.refused(&["compile", "-o", "x.gguf"]), @r"
    exit 2
    error: the following required arguments were not provided:
      <DESCRIPTION>

    Usage: t2lc compile --output <OUTPUT> <DESCRIPTION>

    For more information, try '--help'.
    ");
    assert_snapshot!(folder.refused(&["compile", DESCRIPTION]), @r"
    exit 2
    error: the following required arguments were not provided:
      --output <OUTPUT>

    Usage: t2lc compile --output <OUTPUT> <DESCRIPTION>

    For more information, try '--help'.
    ");
    assert_snapshot!(folder.refused(&["compile", DESCRIPTION, "-f", "file", "-o", "x.gguf"]), @r"
    exit 2
    error: the argument '[DESCRIPTION]' cannot be used with '--file <FILE>'

    Usage: t2lc compile --output <OUTPUT> <DESCRIPTION>

    For more information, try '--help'.
    ");
    assert_snapshot!(folder.refused(&["compile", DESCRIPTION, "-o", "-", "--format", "peft"]), @r"
    exit 2
    error: `-o -` writes a GGUF file to stdout: no --json and no --format peft
    ");
}

#[test]
fn options_with_unknown_values() {
    let folder = Folder::new();
    let compile = |option: &str, value: &str| {
        folder.refused(&["compile", DESCRIPTION, "-o", "x.gguf", option, value])
    };
    assert_snapshot!(compile("--quant", "q3_k"), @r"
    exit 2
    error: invalid value 'q3_k' for '--quant <TYPE>': unknown quantization `q3_k`, expected one of `f32`, `f16`, `bf16`, `q8_0`, `q4_0`, `q4_1`, `q5_0`, `q5_1`

    For more information, try '--help'.
    ");
    assert_snapshot!(compile("--backend", "gpu"), @r"
    exit 2
    error: invalid value 'gpu' for '--backend <BACKEND>': unknown backend `gpu`, expected one of auto, exact, tract, ort

    For more information, try '--help'.
    ");
    assert_snapshot!(compile("--provider", "gpu"), @r"
    exit 2
    error: invalid value 'gpu' for '--provider <PROVIDER>': unknown execution provider `gpu`, expected one of auto, cpu, cuda, coreml, xnnpack, nnapi, qnn, directml

    For more information, try '--help'.
    ");
    assert_snapshot!(compile("--format", "onnx"), @r"
    exit 2
    error: invalid value 'onnx' for '--format <FORMAT>': unknown format `onnx`, expected gguf or peft

    For more information, try '--help'.
    ");
    assert_snapshot!(compile("--scale", "strong"), @r"
    exit 2
    error: invalid value 'strong' for '--scale <SCALE>': invalid float literal

    For more information, try '--help'.
    ");
}

#[test]
fn options_that_do_not_go_together() {
    let folder = Folder::new();
    let compile = |options: &[&str]| {
        folder.refused(&[&["compile", DESCRIPTION, "-o", "x.gguf"][..], options].concat())
    };
    for backend in ["exact", "tract"] {
        let report = compile(&["--provider", "cuda", "--backend", backend]);
        let expected = format!(
            "exit 2\nerror: backend `{backend}` has no execution provider `cuda`\n\
             hint: use --provider auto to take what is available"
        );
        assert_eq!(report, expected);
    }
    assert_snapshot!(compile(&["--format", "peft", "--quant", "q8_0"]), @r"
    exit 1
    error: a PEFT adapter cannot be `q8_0`, only f32, f16 or bf16
    hint: use --format gguf for block quantizations
    ");
    assert_snapshot!(compile(&["--scale", "nan"]), @r"
    exit 2
    error: scale NaN is not a finite number
    ");
    let report = compile(&["--scale", "1e38"]);
    assert!(report.starts_with("exit 1\nerror: tensor `blk.0.attn_q.weight.lora_b` needs "));
    assert!(report.ends_with(", which overflows the 16-bit floats of `f16`"), "{report}");
}

#[test]
fn a_backend_that_cannot_be_had() {
    let folder = Folder::new();
    let refused = |options: [&str; 2]| {
        let args = [&["compile", DESCRIPTION, "-o", "x.gguf"][..], &options].concat();
        let mut command = folder.command(crate::T2LC, &args);
        let command = command.env("T2LC_ORT_LIBRARY", "/nowhere/libonnxruntime.so");
        crate::Ran::of(command.output().unwrap()).refusal()
    };
    let report = refused(["--backend", "ort"]);
    // Only ONNX Runtime has other providers than the CPU: naming one asks for it.
    assert_eq!(refused(["--provider", "cuda"]), report);
    #[cfg(feature = "ort")]
    assert_snapshot!(report, @r"
    exit 2
    error: cannot load ONNX Runtime from `/nowhere/libonnxruntime.so`: dlopen failed
    hint: set T2LC_ORT_LIBRARY to the ONNX Runtime shared library, or use --backend exact
    ");
    #[cfg(not(feature = "ort"))]
    assert_snapshot!(report, @r"
    exit 2
    error: backend `ort` is not part of this build
    hint: build t2lc with the feature of the same name, or use another --backend
    ");
    assert!(folder.names(".").is_empty());
}

#[cfg(not(feature = "train"))]
#[test]
fn verbs_that_the_build_lacks() {
    let folder = Folder::new();
    for verb in ["train", "eval"] {
        let report = folder.refused(&[verb, "--base", "base.gguf", "--resume"]);
        let expected = "exit 2\nerror: this build has no trainer\n\
                        hint: build it with `cargo build --release --features train`";
        assert_eq!(report, expected);
    }
}

#[cfg(not(all(feature = "train", feature = "llama")))]
#[test]
fn trying_needs_a_build_with_llama_cpp() {
    let folder = Folder::new();
    let report = folder.refused(&["try", DESCRIPTION, "--base", "base.gguf", "--prompt", "Hi"]);
    let expected = "exit 2\nerror: this build cannot run llama.cpp\n\
                    hint: build it with `cargo build --release --features train,llama`";
    assert_eq!(report, expected);
}

#[test]
fn errors_are_json_on_stdout_as_well() {
    let folder = Folder::new();
    let ran = folder.run(&["compile", "", "-o", "x.gguf", "--json"]);
    assert_eq!(ran.report(), folder.refused(&["compile", "", "-o", "x.gguf"]));
    let error = json!({
        "code": "describe.empty",
        "message": "the description is empty",
        "hints": ["describe the task, for example \"translate to French\""],
    });
    assert_eq!(ran.json(), json!({"schema": 1, "error": error}));
}
