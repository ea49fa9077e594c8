//! A small task pack, cut from the real one.

// The helpers of a test fail as a test does.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::parts;

/// Two training tasks and a held-out one, in `dir/pack`.
pub(crate) fn small_pack(dir: &Path) -> PathBuf {
    let pack = dir.join("pack");
    fs::create_dir_all(pack.join("tasks")).unwrap();
    let source = parts::fixture("taskpack");
    let index = fs::read(source.join("tasks.json")).unwrap();
    let mut index: Value = serde_json::from_slice(&index).unwrap();
    let wanted = ["country_to_capital", "antonym", "synonym"];
    let tasks = index["tasks"].as_array_mut().unwrap();
    tasks.retain(|task| wanted.contains(&task["id"].as_str().unwrap()));
    assert_eq!(tasks.len(), wanted.len());
    for task in tasks {
        let file = task["file"].as_str().unwrap();
        fs::copy(source.join(file), pack.join(file)).unwrap();
    }
    fs::write(pack.join("tasks.json"), index.to_string()).unwrap();
    pack
}
