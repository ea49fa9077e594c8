//! `t2lc pack diff`: what came, went and changed between two locks.

use std::fs;

use crate::{Pack, THREE};

/// A pack locked twice: one adapter changed, one added, one removed, one the same.
fn two_locks() -> Pack {
    let pack = Pack::of(&THREE);
    pack.done(&["pack", "build"]);
    fs::rename(pack.path("pack.lock"), pack.path("old.lock")).unwrap();
    fs::rename(pack.path("adapters"), pack.path("old")).unwrap();
    pack.edit("pack.toml", "English to French", "English to German");
    pack.edit("pack.toml", "\"antonym\"", "\"opposite\"");
    pack.done(&["pack", "build"]);
    pack
}

#[test]
fn a_comparison_names_inputs_weights_and_neighbours() {
    let pack = two_locks();
    let found = pack.json(&["pack", "diff", "old.lock", "pack.lock"]);
    assert_eq!(found["added"][0]["name"], "opposite");
    assert_eq!(found["removed"][0]["name"], "antonym");
    assert_eq!(found["unchanged"], 1);
    let changed = &found["changed"][0];
    assert_eq!(changed["name"], "french");
    assert_eq!(changed["inputs"][0]["input"], "description");
    let moved = changed["relative_change"].as_f64().unwrap();
    assert!(moved > 0.0 && moved < 10.0, "{moved}");
    for side in ["old", "new"] {
        assert_eq!(changed[side]["nearest"].as_array().unwrap().len(), 3);
    }
    // Without the store, the directories are enough.
    let away = ["--store", "nowhere", "--old-dir", "old", "--new-dir", "adapters"];
    let args = [&["pack", "diff", "old.lock", "pack.lock"][..], &away].concat();
    assert_eq!(pack.json(&args)["changed"][0]["relative_change"].as_f64(), Some(moved));
    let away = ["pack", "diff", "old.lock", "pack.lock", "--store", "nowhere"];
    let found = pack.json(&away);
    assert!(found["changed"][0]["relative_change"].is_null());
    assert_eq!(found["changed"][0]["unknown"], "the old adapter is not at hand");
}

#[test]
fn a_comparison_as_text_and_as_markdown() {
    let pack = two_locks();
    let text = |format: &str| {
        let args = ["pack", "diff", "old.lock", "pack.lock", "--format", format];
        String::from_utf8(pack.done(&args).stdout).unwrap()
    };
    let plain = text("text");
    for part in [
        "+ opposite: ",
        "- antonym: ",
        "~ french: description\n",
        "    weights: ",
        "1 added, 1 removed, 1 changed, 1 unchanged\n",
    ] {
        assert!(plain.contains(part), "{part}: {plain}");
    }
    let page = text("markdown");
    let rows = page.lines().filter(|line| line.starts_with("| ")).count();
    assert_eq!(rows, 4, "{page}");
    assert!(page.contains("| changed | french | description | "), "{page}");
    let same = pack.done(&["pack", "diff", "pack.lock", "pack.lock"]);
    assert_eq!(same.stdout, b"0 added, 0 removed, 0 changed, 3 unchanged\n");
    pack.refused(1, &["pack", "diff", "old.lock", "missing.lock"]);
}
