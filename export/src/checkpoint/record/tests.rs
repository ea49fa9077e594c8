//! Tests of `record`.

use std::fs;
use std::path::PathBuf;

use t2lc_runtime::digest::Digest;
use t2lc_runtime::manifest::OriginInfo;

use super::{CheckpointRecord, ORIGIN_FILE, STATE_FILE, origin_bytes};
use crate::checkpoint::tests::{scratch, tiny_config};
use crate::checkpoint::{CheckpointError, StartRecord, Variant};

const STATE: &str = r#"{"step": 40, "best": null, "stale": 0, "identity": {"data":
    "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "options": {"run": {"seed": 7, "steps": 50}}}}"#;

fn origin() -> OriginInfo {
    OriginInfo {
        format: "text-to-lora".into(),
        file: "hypermod.pt".into(),
        sha256: Digest::of(b"weights"),
        licence: "unknown".into(),
        variant: "M".into(),
        module_order: "head order".into(),
        modules: vec!["q_proj".into(), "v_proj".into()],
    }
}

fn json(start: &StartRecord) -> String {
    serde_json::to_string(start).unwrap()
}

fn empty_dir(name: &str) -> PathBuf {
    let dir = scratch(name);
    fs::create_dir_all(&dir).unwrap();
    dir
}

#[test]
fn either_file_says_where_a_checkpoint_comes_from() {
    let (dir, config) = (empty_dir("record-either"), tiny_config(Variant::M));
    fs::write(dir.join(ORIGIN_FILE), origin_bytes(&origin()).unwrap()).unwrap();
    let read = CheckpointRecord::load(&dir, &config).unwrap();
    assert_eq!(read, CheckpointRecord::Imported(origin()));

    fs::remove_file(dir.join(ORIGIN_FILE)).unwrap();
    fs::write(dir.join(STATE_FILE), STATE).unwrap();
    let CheckpointRecord::Trained(run) = CheckpointRecord::load(&dir, &config).unwrap() else {
        panic!("the record of a run");
    };
    assert_eq!((run.data, run.steps, run.seed), (Digest::of(b""), 40, 7));
    fs::remove_dir_all(dir).unwrap();
}

#[test]
fn a_run_says_which_bundle_it_went_on_from() {
    let (dir, config) = (empty_dir("record-start"), tiny_config(Variant::M));
    let start = StartRecord { bundle: Digest::of(b"bundle"), data_licences: vec!["MIT".into()] };
    for (written, expected) in [("null".to_owned(), None), (json(&start), Some(start))] {
        let state =
            STATE.replace(r#""options""#, &format!(r#""start_from": {written}, "options""#));
        fs::write(dir.join(STATE_FILE), state).unwrap();
        let CheckpointRecord::Trained(run) = CheckpointRecord::load(&dir, &config).unwrap() else {
            panic!("the record of a run");
        };
        assert_eq!(run.start, expected);
    }
    fs::remove_dir_all(dir).unwrap();
}

#[test]
fn neither_file_and_both_are_refused() {
    let (dir, config) = (empty_dir("record-number"), tiny_config(Variant::M));
    let refused = || CheckpointRecord::load(&dir, &config).unwrap_err();
    assert!(matches!(refused(), CheckpointError::NoRecord { .. }));
    fs::write(dir.join(STATE_FILE), STATE).unwrap();
    fs::write(dir.join(ORIGIN_FILE), origin_bytes(&origin()).unwrap()).unwrap();
    assert!(matches!(refused(), CheckpointError::TwoRecords { .. }));
    fs::remove_dir_all(dir).unwrap();
}

#[test]
fn an_origin_that_is_none_or_of_other_weights_is_refused() {
    let (dir, config) = (empty_dir("record-other"), tiny_config(Variant::M));
    let refused = |bytes: &[u8]| {
        fs::write(dir.join(ORIGIN_FILE), bytes).unwrap();
        CheckpointRecord::load(&dir, &config).unwrap_err()
    };
    assert!(matches!(refused(b"{"), CheckpointError::Config { .. }));
    let large = vec![b' '; (1 << 20) + 1];
    assert!(matches!(refused(&large), CheckpointError::Read { .. }));
    let variant = OriginInfo { variant: "S".into(), ..origin() };
    let text = refused(&origin_bytes(&variant).unwrap()).to_string();
    assert_eq!(text, "`origin.json` has variant S, `config.json` has M");
    let swapped = vec!["v_proj".to_owned(), "q_proj".to_owned()];
    let swapped = OriginInfo { modules: swapped, ..origin() };
    let text = refused(&origin_bytes(&swapped).unwrap()).to_string();
    let expected = r#"modules ["v_proj", "q_proj"], `config.json` has ["q_proj", "v_proj"]"#;
    assert!(text.ends_with(expected), "{text}");
    fs::remove_dir_all(dir).unwrap();
}
