//! Adapters of a pack in a real llama-server, another one for every request.
//!
//! Goes in: the program, the base and the parts. What is judged: whether `tests/serve.py`, which
//! builds the pack, starts the server and asks it, finds everything in order.

#![cfg(all(feature = "llama", feature = "embedded-bundle"))]

mod support;

use std::path::Path;
use std::process::Command;

use support::parts;

#[test]
fn adapters_are_swapped_per_request() {
    assert!(parts::llama_server_dir().is_dir());
    let output = Command::new("python3")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/serve.py"))
        .arg(env!("CARGO_BIN_EXE_t2lc"))
        .arg(parts::base_gguf())
        .arg(parts::parts_dir())
        // The folder of the parts stays as it was checked.
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .expect("python3 runs");
    let [said, log] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    assert!(output.status.success(), "{}\n{said}\n{log}", output.status);
    assert!(said.lines().filter(|line| line.starts_with("ok: ")).count() > 10, "{said}");
}
