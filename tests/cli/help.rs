//! Help, version, completion scripts and manual pages: what the program says about itself.

use std::fs;

use insta::assert_snapshot;

use crate::Folder;

#[test]
fn the_help_is_a_page() {
    let ran = Folder::new().run(&["--help"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
    // Only a build without the trainer or llama.cpp says more; the verbs are the same.
    assert_snapshot!(ran.text().replace(" (not in this build)", ""), @r"
    Compile a sentence into a LoRA adapter for llama.cpp

    Usage: t2lc [OPTIONS] <COMMAND>

    Commands:
      compile   Turn a task description into an adapter
      try       Answer a prompt without and with the adapter for a description
      inspect   Show what is in an adapter, a bundle, a checkpoint or a PEFT directory
      verify    Check an adapter or a bundle, and whether an adapter fits a base
      pack      Build many adapters from one file, reproducibly
      store     Look after the store of compiled adapters
      import    Read a checkpoint of the reference implementation of Text-to-LoRA
      export    Freeze a checkpoint and a text encoder into a bundle
      train     Train a hypernetwork on a frozen base
      eval      Score a bundle on the held-out tasks of a task pack
      baseline  Make the adapters that a hypernetwork is measured against
      convert   Turn a PEFT adapter into a GGUF file for llama.cpp
      help      Print this message or the help of the given subcommand(s)

    Options:
      -q, --quiet    Print errors only
      -h, --help     Print help
      -V, --version  Print version
    ");
}

#[test]
fn the_help_of_compile_is_a_page() {
    let ran = Folder::new().run(&["compile", "--help"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
    assert_snapshot!(ran.text(), @r#"
    Turn a task description into an adapter

    Usage: t2lc compile [OPTIONS] --output <OUTPUT> [DESCRIPTION]

    Arguments:
      [DESCRIPTION]  What the adapter should do, in a sentence; `-` reads it from stdin

    Options:
      -f, --file <FILE>          Read the description from a file
      -o, --output <OUTPUT>      Where to write the adapter; `-` is stdout
          --bundle <DIR>         Bundle directory [default: the one built in]
          --format <FORMAT>      Form of the output: gguf or peft [default: gguf]
          --quant <TYPE>         Tensor type: f32, f16, bf16, q8_0, q4_0, q4_1, q5_0 or q5_1 [default:
                                 q8_0, for peft f32]
          --backend <BACKEND>    What runs the networks: auto, exact, tract or ort [default: auto]
          --provider <PROVIDER>  Execution provider of the ort backend: auto, cpu, cuda, coreml,
                                 xnnpack, nnapi, qnn, directml [default: auto]
          --scale <SCALE>        Strength of the adapter; 1 is as trained [default: 1]
          --force                Overwrite an existing output
          --strict               Refuse a description that is unlike anything seen in training
          --json                 Print the result as JSON on stdout
      -q, --quiet                Print errors only
      -h, --help                 Print help
      -V, --version              Print version

    Example: t2lc compile "summarize legal text" -o legal.gguf
    "#);
}

#[test]
fn the_help_of_verify_is_a_page() {
    let ran = Folder::new().run(&["verify", "--help"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
    assert_snapshot!(ran.text(), @r"
    Check an adapter or a bundle, and whether an adapter fits a base

    Usage: t2lc verify [OPTIONS] <PATH>

    Arguments:
      <PATH>  An adapter (GGUF file) or a bundle directory

    Options:
          --base <GGUF>   The base the adapter is to be applied to
          --rebuild       Compile the adapter anew from what it says of itself, and compare
          --bundle <DIR>  Bundle directory for --rebuild [default: the one built in]
          --json          Print as JSON
      -q, --quiet         Print errors only
      -h, --help          Print help
      -V, --version       Print version

    Example: t2lc verify legal.gguf --base SmolLM2-135M-Instruct.Q4_1.gguf
    ");
}

#[test]
fn no_verb_and_no_such_verb_are_usage_errors() {
    let folder = Folder::new();
    let ran = folder.run(&[]);
    assert_eq!((ran.code, ran.stdout.len()), (Some(2), 0));
    assert!(ran.stderr.contains("Usage: t2lc [OPTIONS] <COMMAND>"), "{}", ran.stderr);
    assert_snapshot!(folder.refused(&["frobnicate"]), @r"
    exit 2
    error: unrecognized subcommand 'frobnicate'

    Usage: t2lc [OPTIONS] <COMMAND>

    For more information, try '--help'.
    ");
}

#[test]
fn the_version_is_that_of_the_package() {
    let ran = Folder::new().run(&["--version"]);
    assert_eq!(ran.report(), "exit 0\n");
    assert_eq!(ran.text(), concat!("t2lc ", env!("CARGO_PKG_VERSION"), "\n"));
}

#[test]
fn every_common_shell_has_completions() {
    let folder = Folder::new();
    for shell in ["bash", "zsh", "fish"] {
        let ran = folder.run(&["completions", shell]);
        assert_eq!(ran.report(), "exit 0\n");
        assert!(ran.text().contains("compile") && ran.text().contains("quant"), "{shell}");
    }
}

#[test]
fn the_manual_is_one_page_on_stdout_or_one_per_verb_in_a_folder() {
    let folder = Folder::new();
    let ran = folder.run(&["man"]);
    assert_eq!(ran.report(), "exit 0\n");
    assert!(ran.text().contains("\n.TH t2lc 1"), "{}", ran.text());

    fs::create_dir(folder.path("man1")).unwrap();
    folder.run_quietly(&["man", "--dir", "man1"]);
    let verbs = [
        "-baseline",
        "-compile",
        "-convert",
        "-eval",
        "-export",
        "-import",
        "-inspect",
        "-pack",
        "-pack-assemble",
        "-pack-build",
        "-pack-compile",
        "-pack-diff",
        "-pack-export",
        "-pack-init",
        "-pack-lock",
        "-pack-serve-args",
        "-pack-verify",
        "-store",
        "-store-gc",
        "-store-list",
        "-store-verify",
        "-train",
        "-try",
        "-verify",
        "",
    ];
    let mut pages = verbs.map(|verb| format!("t2lc{verb}.1")).to_vec();
    // Without the trainer, `baseline` has no kinds.
    if cfg!(feature = "train") {
        let kinds = ["arrow", "average", "hyperdecoder", "lora", "multi-task"];
        pages.extend(kinds.map(|kind| format!("t2lc-baseline-{kind}.1")));
    }
    pages.sort();
    assert_eq!(folder.names("man1"), pages);
    let page = String::from_utf8(folder.read("man1/t2lc-compile.1")).unwrap();
    assert!(page.contains("legal.gguf"), "{page}");
}
