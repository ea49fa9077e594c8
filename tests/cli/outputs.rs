//! Outputs that exist, cannot be written, or whose writer is killed: the file is there whole or
//! not at all, and nothing else is.

use std::fs;
use std::os::unix::net::UnixListener;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use insta::assert_snapshot;

use crate::{DESCRIPTION, Folder, Ran, T2LC, legal};

/// Compiles to `output`; prints errors only.
fn to(output: &str) -> [&str; 5] {
    ["compile", DESCRIPTION, "-q", "-o", output]
}

/// Compiles to `output` even if it exists; prints errors only.
fn over(output: &str) -> [&str; 6] {
    ["compile", DESCRIPTION, "-q", "--force", "-o", output]
}

#[test]
fn an_output_that_exists_is_kept_unless_over() {
    let folder = Folder::new();
    fs::write(folder.path("notes.txt"), "mine").unwrap();
    assert_snapshot!(folder.refused(&to("notes.txt")), @r"
    exit 2
    error: output `notes.txt` exists, and overwriting was not requested
    hint: use --force to overwrite it
    ");
    assert_eq!(folder.run(&over("notes.txt")).report(), "exit 0\n");
    assert!(folder.read("notes.txt") == legal());
    assert_eq!(folder.names("."), ["notes.txt"]);
}

#[test]
fn outputs_that_have_no_place() {
    let folder = Folder::new();
    fs::create_dir(folder.path("folder")).unwrap();
    fs::write(folder.path("file"), "").unwrap();
    let _socket = UnixListener::bind(folder.path("socket")).unwrap();
    assert_snapshot!(folder.refused(&to("missing/legal.gguf")), @r"
    exit 2
    error: output `missing/legal.gguf` cannot be created: `missing` is not a directory
    ");
    assert_snapshot!(folder.refused(&to("file/legal.gguf")), @r"
    exit 2
    error: output `file/legal.gguf` cannot be created: `file` is not a directory
    ");
    assert_snapshot!(folder.refused(&over("folder")), @r"
    exit 2
    error: output `folder` is a directory, expected a file
    ");
    assert_snapshot!(folder.refused(&over("socket")), @r"
    exit 2
    error: output `socket` is neither a file nor a directory, and is not replaced
    ");
}

#[cfg(target_os = "linux")]
#[test]
fn a_file_system_that_takes_no_files() {
    // Not even the administrator may create a file here.
    let report = Folder::new().refused(&to("/proc/legal.gguf"));
    assert!(report.starts_with("exit 2\n"), "{report}");
    assert!(report.contains("error: output `/proc/legal.gguf` "), "{report}");
    assert!(report.contains(": cannot create a temporary file"), "{report}");
}

#[test]
fn a_peft_directory_with_other_files_is_kept() {
    let folder = Folder::new();
    let peft = |output: &str| folder.refused(&[&over(output)[..], &["--format", "peft"]].concat());
    fs::create_dir(folder.path("adapter")).unwrap();
    fs::write(folder.path("adapter/notes.txt"), "mine").unwrap();
    assert_snapshot!(peft("adapter"), @r"
    exit 2
    error: output directory `adapter` contains `notes.txt`, which is not part of the output
    ");
    assert_snapshot!(peft("adapter/notes.txt"), @r"
    exit 2
    error: output `adapter/notes.txt` is not a directory, expected one
    ");
}

#[test]
fn a_disk_that_fills_up_leaves_nothing_behind() {
    let folder = Folder::new();
    fs::write(folder.path("legal.gguf"), "old").unwrap();
    // Files end at 8 KiB. The shell ignores the signal that says so, and so does what it becomes:
    // writing on is an error, as on a full disk.
    let script = r#"trap "" XFSZ; ulimit -f 8; exec "$0" "$@""#;
    let refused = |args: &[&str]| {
        let before = folder.entries();
        let mut shell = folder.command("bash", &[&["-c", script, T2LC][..], args].concat());
        let report = Ran::of(shell.output().unwrap()).refusal();
        assert_eq!(folder.entries(), before);
        report
    };
    assert_snapshot!(refused(&to("new.gguf")), @r#"
    exit 2
    error: output `new.gguf` was not written: cannot write the bytes
      caused by: File too large (os error 27) at path "[temporary]"
    "#);
    assert_snapshot!(refused(&over("legal.gguf")), @r#"
    exit 2
    error: output `legal.gguf` was not written: cannot write the bytes
      caused by: File too large (os error 27) at path "[temporary]"
    "#);
    assert_snapshot!(refused(&[&to("new")[..], &["--format", "peft"]].concat()), @r"
    exit 2
    error: output `new` was not written: cannot write a file of the directory
      caused by: File too large (os error 27)
    ");
}

#[test]
fn a_killed_compile_leaves_the_old_file_or_the_new_one() {
    let folder = Folder::new();
    // The largest type takes the longest to write.
    let compile = |description, output| {
        ["compile", description, "-o", output, "--force", "-q", "--quant", "f32"]
    };
    let descriptions = [DESCRIPTION, "translate the sentence to French"];
    let adapters = descriptions.map(|description| folder.run(&compile(description, "-")).stdout);
    fs::write(folder.path("legal.gguf"), &adapters[0]).unwrap();
    let temporaries = || {
        let mut names = folder.names(".");
        names.retain(|name| name != "legal.gguf");
        names
    };

    let (mut current, mut while_writing) = (0, 0);
    for round in 0..24 {
        let next = 1 - current;
        let mut command = folder.command(T2LC, &compile(descriptions[next], "legal.gguf"));
        let mut child = command.stdout(Stdio::null()).spawn().unwrap();
        if round % 3 == 0 {
            // As soon as the file is begun.
            while child.try_wait().unwrap().is_none() && temporaries().is_empty() {
                thread::yield_now();
            }
        } else {
            // Anywhere.
            thread::sleep(Duration::from_millis(round * 173 % 400));
        }
        child.kill().unwrap();
        let status = child.wait().unwrap();

        let bytes = folder.read("legal.gguf");
        let found = adapters.iter().position(|adapter| *adapter == bytes);
        let found = found.expect("the file is whole: the old one or the new one");
        assert!(found == next || !status.success(), "round {round}: done, but not written");
        current = found;
        let left = temporaries();
        assert!(left.iter().all(|name| name.starts_with(".t2lc-")), "{left:?}");
        while_writing += left.len();
        for name in left {
            fs::remove_file(folder.path(name)).unwrap();
        }
    }
    assert!(while_writing > 0, "no kill came while the file was written");
    assert_eq!(folder.run(&["verify", "legal.gguf"]).report(), "exit 0\n");
}
