//! The program as people and scripts meet it. Goes in: arguments, stdin, files in a temporary
//! folder. Comes out, and is checked: the exit code, both streams, and the files that are there
//! afterwards.
//!
//! Exit 0: done. Exit 1: the input is at fault or the answer is no. Exit 2: usage or environment.
//! Whatever is refused gets one line `error: …` and leaves every file as it was.

#![cfg(all(unix, feature = "tract", feature = "embedded-bundle"))]
// All of this is test code: what a helper cannot do is a failed test.
#![allow(clippy::unwrap_used)]

#[path = "cli/adopt.rs"]
mod adopt;
#[path = "cli/bundles.rs"]
mod bundles;
#[path = "cli/compile.rs"]
mod compile;
#[path = "cli/help.rs"]
mod help;
#[path = "cli/import.rs"]
mod import;
#[path = "cli/inspect.rs"]
mod inspect;
#[path = "cli/outputs.rs"]
mod outputs;
#[path = "cli/pipes.rs"]
mod pipes;
#[path = "cli/refusals.rs"]
mod refusals;
mod support;
#[cfg(all(feature = "train", feature = "llama"))]
#[path = "cli/trial.rs"]
mod trial;
#[path = "cli/verify.rs"]
mod verify;
#[path = "cli/write_back.rs"]
mod write_back;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::SystemTime;

use t2lc_runtime::digest::Digest;
use tempfile::TempDir;

/// The program.
const T2LC: &str = env!("CARGO_BIN_EXE_t2lc");
/// A description that the bundle knows its way around with.
const DESCRIPTION: &str = "summarize legal text";
/// The fixture that is also the built-in bundle.
const BUNDLE: &str = "smollm2-135m-instruct.t2lc";

/// A temporary folder that commands run in, so that they can name files without their folder.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    /// A folder with `legal.gguf`, a sound adapter.
    fn with_adapter() -> Self {
        let folder = Self::new();
        fs::write(folder.path("legal.gguf"), legal()).unwrap();
        folder
    }

    fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.path().join(name)
    }

    fn read(&self, name: impl AsRef<Path>) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    /// Names of the entries of a subfolder (`.` for the folder itself), sorted.
    fn names(&self, subfolder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(subfolder)).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Every entry below the folder, with its size in bytes and the time of its last change; of
    /// folders only their names.
    fn entries(&self) -> BTreeMap<PathBuf, Option<(u64, SystemTime)>> {
        let mut found = BTreeMap::new();
        let mut open = vec![self.0.path().to_owned()];
        while let Some(folder) = open.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let entry = entry.unwrap();
                let metadata = entry.metadata().unwrap();
                if metadata.is_dir() {
                    open.push(entry.path());
                    found.insert(entry.path(), None);
                } else {
                    let state = (metadata.len(), metadata.modified().unwrap());
                    found.insert(entry.path(), Some(state));
                }
            }
        }
        found
    }

    /// A command in this folder, with nothing to read on stdin and nothing from the environment
    /// that changes what is printed.
    fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(args).current_dir(self.0.path()).stdin(Stdio::null()).env("COLUMNS", "100");
        for variable in ["CLICOLOR_FORCE", "RUST_BACKTRACE", "T2LC_LLAMA", "T2LC_ORT_LIBRARY"] {
            command.env_remove(variable);
        }
        command
    }

    fn run(&self, args: &[&str]) -> Ran {
        Ran::of(self.command(T2LC, args).output().unwrap())
    }

    fn run_with_stdin(&self, args: &[&str], stdin: &[u8]) -> Ran {
        let mut command = self.command(T2LC, args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // What is too long is not read to its end: a closed pipe is no failure of the test.
        let _ = child.stdin.take().unwrap().write_all(stdin);
        Ran::of(child.wait_with_output().unwrap())
    }

    /// Runs what must be done without a word.
    fn run_quietly(&self, args: &[&str]) {
        let ran = self.run(&[args, &["-q"]].concat());
        assert_eq!((ran.report().as_str(), ran.stdout.as_slice()), ("exit 0\n", &b""[..]));
    }

    /// Runs what must be refused, and gives its report. Every file stays as it was.
    fn refused(&self, args: &[&str]) -> String {
        let before = self.entries();
        let report = self.run(args).refusal();
        assert_eq!(self.entries(), before, "{args:?} changed files");
        report
    }
}

/// What a command did.
struct Ran {
    /// `None` if a signal ended it.
    code: Option<i32>,
    stdout: Vec<u8>,
    stderr: String,
}

impl Ran {
    fn of(output: Output) -> Self {
        let Output { status, stdout, stderr } = output;
        Self { code: status.code(), stdout, stderr: String::from_utf8(stderr).unwrap() }
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap()
    }

    /// Stdout, which must be one JSON value and nothing else.
    fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.stdout).unwrap()
    }

    /// The exit code and stderr, with what differs from run to run or bundle to bundle masked.
    fn report(&self) -> String {
        let code = self.code.map_or_else(|| "by a signal".to_owned(), |code| code.to_string());
        format!("exit {code}\n{}", masked(&self.stderr))
    }

    /// The report of a refusal: exit 1 or 2, nothing on stdout, one error.
    fn refusal(&self) -> String {
        let report = self.report();
        assert!(matches!(self.code, Some(1 | 2)), "{report}");
        assert!(self.stdout.is_empty(), "{report}");
        let errors = self.stderr.lines().filter(|line| line.starts_with("error: ")).count();
        assert_eq!(errors, 1, "{report}");
        report
    }
}

/// The adapter for [`DESCRIPTION`], compiled once with every option at its default.
fn legal() -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    BYTES.get_or_init(|| {
        let ran = Folder::new().run(&["compile", DESCRIPTION, "-o", "-", "-q"]);
        assert_eq!(ran.report(), "exit 0\n");
        ran.stdout
    })
}

fn masked(text: &str) -> String {
    let lines = text.lines().map(|line| {
        let Some(tasks) = line.strip_prefix("nearest training tasks: ") else {
            return line.split(' ').map(masked_word).collect::<Vec<_>>().join(" ");
        };
        let tasks = tasks.split(", ").map(|task| {
            let (_, cosine) = task.split_once(' ').unwrap();
            format!("[task] {}", masked_word(cosine))
        });
        format!("nearest training tasks: {}", tasks.collect::<Vec<_>>().join(", "))
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn masked_word(word: &str) -> String {
    let inner = word.trim_matches(['(', ')', ',', '"']);
    let mask = if inner.parse::<Digest>().is_ok() {
        "[digest]"
    } else if inner.contains('.') && inner.parse::<f64>().is_ok() {
        "[number]"
    } else if matches!(inner, "KiB" | "MiB") {
        "[unit]"
    } else if inner.contains("/.t2lc-") {
        "[temporary]"
    } else {
        return word.to_owned();
    };
    word.replacen(inner, mask, 1)
}
