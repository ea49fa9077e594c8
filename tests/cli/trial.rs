//! `t2lc try`, and `t2lc eval` with the other engine: the program runs the real llama.cpp.

use insta::assert_snapshot;
use serde_json::json;

use crate::support::parts;
use crate::{Folder, Ran};

const CAPITAL: &str = "name the capital of the country";

/// Runs with the real base and the real libraries.
fn run(folder: &Folder, args: &[&str]) -> Ran {
    let (base, llama) = (parts::base_gguf(), parts::llama_cpp_dir());
    let paths = ["--base", base.to_str().unwrap(), "--llama", llama.to_str().unwrap()];
    folder.run(&[args, &paths].concat())
}

#[test]
fn both_answers_are_printed() {
    let folder = Folder::new();
    let args = ["try", CAPITAL, "--prompt", "Norway", "--max-tokens", "12"];
    let ran = run(&folder, &[&args[..], &["--json", "-q"]].concat());
    assert_eq!(ran.report(), "exit 0\n");
    let said = ran.json();
    assert_eq!((&said["description"], &said["prompt"]), (&json!(CAPITAL), &json!("Norway")));
    assert_eq!(said["nearest"].as_array().map(Vec::len), Some(3));
    assert_eq!((&said["familiar"], &said["max_tokens"]), (&json!(true), &json!(12)));
    let [base, adapted] = ["base", "adapted"].map(|key| said[key].as_str().unwrap());
    assert_ne!(base, adapted);
    assert!(!base.is_empty() && !adapted.is_empty(), "{said}");

    // Stdout is no terminal, so one answer follows the other.
    let ran = run(&folder, &args);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let expected = format!("base:\n{}\n\nadapted:\n{}\n", base.trim_end(), adapted.trim_end());
    assert_eq!(ran.text(), expected);
    assert!(ran.stderr.starts_with("nearest training tasks: "), "{}", ran.stderr);
    let cut = ran.stderr.contains("base: cut after 12 tokens; --max-tokens allows more\n");
    assert_eq!(json!(cut), said["cut"]["base"], "{}", ran.stderr);
    assert!(folder.names(".").is_empty());
}

#[test]
fn an_unfamiliar_description_warns() {
    let args = ["try", "qzv xkw plj bnm wqf zzx", "--prompt", "Norway", "--max-tokens", "1"];
    let ran = run(&Folder::new(), &args);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(ran.stderr.contains("\nwarning: the description is unlike"), "{}", ran.stderr);
}

#[test]
fn libraries_that_cannot_be_had() {
    let folder = Folder::new();
    let args = ["try", CAPITAL, "--base", "base.gguf", "--prompt", "Norway"];
    assert_snapshot!(folder.refused(&args), @r"
    exit 2
    error: it is not known where the libraries of llama.cpp are
    hint: name the folder of its prebuilt libraries with --llama DIR or T2LC_LLAMA; they must be of version 0.5.0-dev (npm package @node-llama-cpp/linux-x64 3.22.1, which tests/parts.sh fetches)
    ");
    let report = folder.refused(&[&args[..], &["--llama", "elsewhere"]].concat());
    let missing = "error: cannot load llama.cpp from `elsewhere/libggml.v0.5.0.so`: there is no \
                   such file\nhint: ";
    assert!(report.contains(missing), "{report}");
    // The environment names the folder where no option does.
    let mut command = folder.command(crate::T2LC, &args);
    let ran = Ran::of(command.env("T2LC_LLAMA", "elsewhere").output().unwrap());
    assert_eq!(ran.refusal(), report);
    let eval = ["eval", "--base", "base.gguf", "--pack", "pack", "--engine", "llama.cpp"];
    let report = folder.refused(&eval);
    assert!(report.contains("where the libraries of llama.cpp are"), "{report}");
}

#[test]
fn bases_that_the_adapter_is_not_for() {
    let folder = Folder::new();
    let llama = parts::llama_cpp_dir();
    let refused = |base: &str| {
        let llama = llama.to_str().unwrap();
        let args = ["try", CAPITAL, "--base", base, "--prompt", "Norway", "--llama", llama, "-q"];
        folder.refused(&args)
    };
    let report = refused(parts::gemma_gguf().to_str().unwrap());
    assert!(report.starts_with("exit 1\nerror: cannot use the base `"), "{report}");
    assert!(report.contains("caused by: the adapter is for architecture `llama`"), "{report}");
    assert!(report.contains("\nhint: use the base that the bundle was made for"), "{report}");
    assert_snapshot!(refused("missing.gguf"), @r"
    exit 1
    error: cannot use the base `missing.gguf`
      caused by: No such file or directory (os error 2)
    ");
    assert_snapshot!(refused("."), @r"
    exit 1
    error: `.` is a directory, llama.cpp reads GGUF files
    ");
}

#[test]
fn tasks_are_scored_in_llama_cpp() {
    let pack = parts::fixture("taskpack");
    let args = ["eval", "--pack", pack.to_str().unwrap(), "--tasks", "word_connotation"];
    let more = ["--examples", "2", "--engine", "llama.cpp", "--json", "-q"];
    let ran = run(&Folder::new(), &[&args[..], &more].concat());
    assert_eq!(ran.report(), "exit 0\n");
    let evaluation = ran.json();
    assert_eq!(evaluation["engine"], "llama.cpp");
    let scores = evaluation["tasks"][0]["scores"].as_array().unwrap();
    let named: Vec<&str> = scores.iter().map(|score| score["name"].as_str().unwrap()).collect();
    // There is no other task whose description could be taken.
    assert_eq!(named, ["base", "prompted", "compiled", "random"]);
    assert!(scores.iter().all(|score| score["score"].is_f64()), "{evaluation}");
}
