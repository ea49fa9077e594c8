//! Readers that leave early: no failure of the program.

use std::process::Stdio;

use crate::{DESCRIPTION, Folder, Ran, T2LC};

#[test]
fn head_takes_what_it_wants() {
    let folder = Folder::with_adapter();
    // More than a pipe holds, so that the program still writes when the reader is gone.
    let compile = format!("compile -q '{DESCRIPTION}' -o -");
    for verb in ["inspect legal.gguf", "completions bash", "man", &compile] {
        let script = format!("\"$0\" {verb} | head -c 1; exit \"${{PIPESTATUS[0]}}\"");
        let mut shell = folder.command("bash", &["-c", &script, T2LC]);
        let ran = Ran::of(shell.output().unwrap());
        assert_eq!((ran.report().as_str(), ran.stdout.len()), ("exit 0\n", 1), "{verb}");
    }
}

#[test]
fn nobody_reads_stdout() {
    let folder = Folder::with_adapter();
    for args in [
        &["inspect", "legal.gguf"][..],
        &["inspect", "legal.gguf", "--json"],
        &["verify", "legal.gguf"],
        &["completions", "bash"],
        &["man"],
    ] {
        let mut command = folder.command(T2LC, args);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        assert_eq!(Ran::of(child.wait_with_output().unwrap()).report(), "exit 0\n", "{args:?}");
    }
}

#[test]
fn nobody_reads_stderr() {
    let folder = Folder::new();
    let mut command = folder.command(T2LC, &["compile", DESCRIPTION, "-o", "legal.gguf"]);
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stderr.take());
    assert!(child.wait().unwrap().success());
    assert_eq!(folder.names("."), ["legal.gguf"]);
}
