//! `t2lc train` killed in the middle of a run: what is left resumes to the losses and the bytes of
//! a run that nobody killed.

#![cfg(feature = "train")]
// The helpers of a test fail as a test does.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

const STEPS: usize = 6;

fn start(pack: &Path, run: &Path, more: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_t2lc"))
        .args(["--quiet", "train", "--base"])
        .arg(support::parts::base_gguf())
        .arg("--encoder")
        .arg(support::parts::encoder_dir())
        .arg("--pack")
        .arg(pack)
        .arg("--output")
        .arg(run)
        .args(["--rank", "2", "--latent-size", "16", "--head-in-size", "8", "--steps"])
        .arg(STEPS.to_string())
        .args(["--tasks-per-batch", "2", "--row-tokens", "40", "--max-tokens", "64"])
        .args(["--warmup-steps", "1", "--checkpoint-every", "1", "--validate-every", "100"])
        .args(more)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn finish(child: Child) {
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Loss of each step; the last line of a step counts, as a resumed run may repeat one.
fn losses(run: &Path) -> Vec<f64> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let mut losses = vec![f64::NAN; STEPS];
    for line in text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        let step = usize::try_from(line["step"].as_u64().unwrap()).unwrap();
        losses[step - 1] = line["loss"].as_f64().unwrap();
    }
    losses
}

#[test]
fn a_killed_run_resumes_to_the_same_losses_and_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let pack = support::pack::small_pack(dir.path());
    let (whole, killed) = (dir.path().join("whole"), dir.path().join("killed"));
    finish(start(&pack, &whole, &[]));

    let mut child = start(&pack, &killed, &[]);
    let written = |run: &Path| run.join("step-000002").is_dir() || run.join("step-000003").is_dir();
    while !written(&killed) {
        assert!(child.try_wait().unwrap().is_none(), "the run ended before it could be killed");
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap(); // SIGKILL: no handler runs
    child.wait().unwrap();
    assert!(!killed.join(format!("step-{STEPS:06}")).exists(), "the run was not killed in time");

    finish(start(&pack, &killed, &["--resume"]));
    assert_eq!(losses(&whole), losses(&killed));
    let last = format!("step-{STEPS:06}");
    for file in ["hypernet.safetensors", "optimizer.safetensors", "config.json", "state.json"] {
        let read = |run: &Path| fs::read(run.join(&last).join(file)).unwrap();
        assert!(read(&whole) == read(&killed), "{file} differs after a kill");
    }
}
