//! Adapter packs as people and scripts meet them. Goes in: `pack.toml` in a temporary folder, with
//! a store of its own. Comes out, and is checked: exit codes, both streams, the lock, the files and
//! the store.

#![cfg(feature = "embedded-bundle")]
// All of this is test code: what a helper cannot do is a failed test.
#![allow(clippy::unwrap_used)]

#[path = "pack/builds.rs"]
mod builds;
#[path = "pack/comparisons.rs"]
mod comparisons;
#[path = "pack/distribution.rs"]
mod distribution;
#[path = "pack/refusals.rs"]
mod refusals;
#[path = "pack/serving.rs"]
mod serving;
#[path = "pack/shared.rs"]
mod shared;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// The names and descriptions of most tests.
const THREE: [(&str, &str); 3] = [
    ("legal", "summarize legal text"),
    ("french", "translate English to French"),
    ("antonym", "give the opposite of a word"),
];

/// A folder with a pack and a store.
struct Pack(TempDir);

impl Pack {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    /// A pack of these adapters.
    fn of(adapters: &[(&str, &str)]) -> Self {
        let pack = Self::new();
        pack.write("pack.toml", &manifest(adapters));
        pack
    }

    fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    fn lock(&self) -> String {
        String::from_utf8(self.read("pack.lock")).unwrap()
    }

    /// Changes the text of a file.
    fn edit(&self, name: &str, from: &str, to: &str) {
        let text = String::from_utf8(self.read(name)).unwrap();
        let edited = text.replacen(from, to, 1);
        assert_ne!(edited, text, "`{from}` is not in {name}");
        self.write(name, &edited);
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_t2lc"));
        command.args(args).current_dir(self.0.path()).stdin(Stdio::null());
        command.env("T2LC_STORE", self.path("store")).env_remove("T2LC_REMOTE");
        command
    }

    fn spawn(&self, args: &[&str]) -> Child {
        self.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs what must succeed.
    fn done(&self, args: &[&str]) -> Output {
        let output = self.run(args);
        assert_eq!(output.status.code(), Some(0), "{args:?}: {}", stderr(&output));
        output
    }

    /// Runs what must succeed, and gives its JSON.
    fn json(&self, args: &[&str]) -> Value {
        let output = self.done(&[args, &["--json", "-q"]].concat());
        let value: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(value["schema"], 1);
        value
    }

    /// Runs what must be refused with this exit code, and gives what is said.
    fn refused(&self, code: i32, args: &[&str]) -> String {
        let output = self.run(args);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {text}");
        assert_eq!(text.lines().filter(|line| line.starts_with("error: ")).count(), 1, "{text}");
        text
    }

    /// The adapters in the store, by their files.
    fn blobs(&self) -> Vec<PathBuf> {
        files_below(&self.path("store/blobs"))
    }
}

/// `pack.toml` with these adapters.
fn manifest(adapters: &[(&str, &str)]) -> String {
    let adapter = |(name, description): &(&str, &str)| {
        format!("\n[[adapter]]\nname = \"{name}\"\ndescription = \"{description}\"\n")
    };
    let adapters: Vec<String> = adapters.iter().map(adapter).collect();
    format!("schema = 1\n{}", adapters.concat())
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Compiled, restored and unchanged adapters of a report.
fn counts(report: &Value) -> [u64; 3] {
    ["compiled", "restored", "unchanged"].map(|key| report["counts"][key].as_u64().unwrap())
}

/// Every file below a folder that is not temporary, sorted.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                open.push(entry.path());
            } else if !entry.file_name().to_string_lossy().starts_with(".t2lc-") {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    found
}
