//! From init to verify, and what an edit costs.

use std::fs;

use t2lc_runtime::digest::Digest;
use t2lc_runtime::gguf::Gguf;
use t2lc_runtime::verify::verify_adapter;

use crate::{Pack, THREE, counts, manifest};

#[test]
fn init_lock_build_verify() {
    let pack = Pack::new();
    pack.done(&["pack", "init"]);
    pack.refused(2, &["pack", "init"]);
    assert_eq!(counts(&pack.json(&["pack", "lock"])), [1, 0, 0]);
    assert!(!pack.path("adapters").exists(), "lock writes no files");
    let lock = pack.lock();
    let report = pack.json(&["pack", "build", "--locked"]);
    assert_eq!(counts(&report), [0, 1, 0]);
    let bytes = pack.read("adapters/legal.gguf");
    assert!(verify_adapter(&Gguf::parse(&bytes).unwrap()).is_sound());
    assert!(lock.contains(&format!("content = \"{}\"", Digest::of(&bytes))));
    assert_eq!(pack.lock(), lock);
    assert_eq!(pack.json(&["pack", "verify"])["sound"], true);
    assert_eq!(counts(&pack.json(&["pack", "build", "--frozen"])), [0, 0, 1]);

    // The same file as `compile` makes.
    pack.done(&["compile", "summarize legal text", "-o", "one.gguf", "--backend", "exact"]);
    assert!(pack.read("one.gguf") == bytes);
}

#[test]
fn the_lock_depends_on_nothing_but_the_pack() {
    let pack = Pack::of(&THREE);
    pack.done(&["pack", "lock", "-j", "1"]);
    let lock = pack.lock();
    assert!(!lock.contains('\r') && !lock.contains(pack.0.path().to_str().unwrap()));
    let [a, b, c] = THREE;
    for text in [manifest(&[c, a, b]), manifest(&[b, c, a]).replace('\n', "\r\n")] {
        let other = Pack::new();
        other.write("pack.toml", &text);
        other.done(&["pack", "lock"]);
        assert_eq!(other.lock(), lock);
        pack.write("pack.toml", &text);
        let report = pack.json(&["pack", "lock"]);
        assert_eq!(counts(&report), [0, 0, 3]);
        assert_eq!(report["lock_written"], false);
        pack.done(&["pack", "build", "--locked", "--dry-run"]);
    }
}

#[test]
fn an_edit_rebuilds_only_what_it_concerns() {
    let pack = Pack::of(&THREE);
    assert_eq!(counts(&pack.json(&["pack", "build"])), [3, 0, 0]);
    let (before, lock) = (pack.read("adapters/french.gguf"), pack.lock());
    pack.edit("pack.toml", "English to French", "English to German");
    let planned = pack.json(&["pack", "build", "--dry-run"]);
    assert_eq!(counts(&planned), [1, 0, 2]);
    assert_eq!(planned["changes"][0]["name"], "french");
    assert_eq!(planned["changes"][0]["inputs"][0]["input"], "description");
    assert!(pack.lock() == lock && pack.read("adapters/french.gguf") == before);
    assert_eq!(counts(&pack.json(&["pack", "build"])), [1, 0, 2]);
    assert!(pack.read("adapters/french.gguf") != before);
    // And back: the store still has it.
    pack.edit("pack.toml", "English to German", "English to French");
    assert_eq!(counts(&pack.json(&["pack", "build"])), [0, 1, 2]);
    assert!(pack.lock() == lock && pack.read("adapters/french.gguf") == before);
    fs::remove_file(pack.path("adapters/legal.gguf")).unwrap();
    assert_eq!(counts(&pack.json(&["pack", "build"])), [0, 1, 2]);
}

#[test]
fn equal_adapters_are_compiled_once() {
    let pack = Pack::of(&[("a", "summarize legal text"), ("b", " summarize legal text ")]);
    pack.done(&["pack", "build"]);
    assert_eq!(pack.blobs().len(), 1);
    assert!(pack.read("adapters/a.gguf") == pack.read("adapters/b.gguf"));
}

#[test]
fn adapters_that_leave_are_named_and_not_touched() {
    let pack = Pack::of(&THREE);
    pack.done(&["pack", "build"]);
    pack.write("pack.toml", &manifest(&THREE[..2]));
    let report = pack.json(&["pack", "build"]);
    assert_eq!(report["orphans"], serde_json::json!(["antonym.gguf"]));
    assert!(pack.path("adapters/antonym.gguf").exists() && !pack.lock().contains("antonym"));
}

#[test]
fn a_pack_of_peft_directories() {
    let pack = Pack::new();
    let text = manifest(&THREE[..1]).replacen('\n', "\npack.format = \"peft\"\n", 1);
    pack.write("pack.toml", &text);
    assert_eq!(counts(&pack.json(&["pack", "build"])), [1, 0, 0]);
    let files = ["adapter_model.safetensors", "adapter_config.json"];
    pack.done(&["compile", THREE[0].1, "-o", "one", "--format", "peft", "--backend", "exact"]);
    for file in files {
        let built = pack.read(&format!("adapters/legal/{file}"));
        assert!(built == pack.read(&format!("one/{file}")), "{file}");
    }
    pack.done(&["pack", "verify"]);
    pack.write(&format!("adapters/legal/{}", files[1]), "{}");
    pack.refused(1, &["pack", "verify"]);
    assert_eq!(counts(&pack.json(&["pack", "build", "--frozen"])), [0, 1, 0]);
    pack.done(&["pack", "verify"]);
}

#[test]
fn overrides_and_other_places() {
    let pack = Pack::new();
    let text = manifest(&THREE[..1]);
    pack.write("pack.toml", &format!("{text}scale = 0.5\noutput = \"a/b.gguf\"\n"));
    pack.done(&["pack", "build", "--out", "elsewhere"]);
    assert!(pack.path("elsewhere/a/b.gguf").exists() && !pack.path("adapters").exists());
    pack.done(&["pack", "verify", "elsewhere"]);
    let report = pack.json(&["pack", "verify", "elsewhere"]);
    assert_eq!(report["adapters"][0]["found"], "right");
    pack.refused(1, &["pack", "verify"]);
    assert!(pack.lock().contains("scale = 0.5\n"));
}
