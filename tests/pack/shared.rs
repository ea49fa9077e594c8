//! The store between builds: shared, damaged, divided, collected, and builds that are killed.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::{Pack, THREE, counts, files_below, manifest, stderr};

#[test]
fn a_damaged_adapter_is_made_again() {
    let pack = Pack::of(&THREE);
    pack.done(&["pack", "build"]);
    let bytes = pack.read("adapters/legal.gguf");
    for blob in pack.blobs() {
        let mut damaged = fs::read(&blob).unwrap();
        let middle = damaged.len() / 2;
        damaged[middle] ^= 1;
        fs::write(blob, damaged).unwrap();
    }
    fs::remove_dir_all(pack.path("adapters")).unwrap();
    pack.done(&["pack", "build", "--locked"]);
    assert!(pack.read("adapters/legal.gguf") == bytes);
    pack.done(&["pack", "verify"]);
    pack.done(&["store", "verify"]);

    let blob = pack.blobs().remove(0);
    fs::write(&blob, b"?").unwrap();
    let said = pack.refused(1, &["store", "verify"]);
    assert!(said.contains("damaged files were removed"), "{said}");
    assert!(!blob.exists());
    pack.done(&["store", "verify"]);
}

#[test]
fn two_builds_at_once_on_one_store() {
    let pack = Pack::of(&THREE);
    pack.write("other/pack.toml", &manifest(&THREE));
    let second = ["pack", "build", "-f", "other/pack.toml"];
    let builds = [pack.spawn(&["pack", "build"]), pack.spawn(&second)];
    for build in builds {
        let output = build.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
    }
    assert!(pack.read("pack.lock") == pack.read("other/pack.lock"));
    for (name, _) in THREE {
        let files = ["adapters", "other/adapters"].map(|d| pack.read(&format!("{d}/{name}.gguf")));
        assert!(files[0] == files[1], "{name}");
    }
    assert_eq!(pack.blobs().len(), 3);
    pack.done(&["store", "verify"]);
}

#[test]
fn a_killed_build_leaves_old_files_whole_and_goes_on() {
    const ADAPTERS: usize = 60;
    let pack = Pack::of(&THREE[..1]);
    pack.done(&["pack", "build"]);
    let (lock, bytes) = (pack.lock(), pack.read("adapters/legal.gguf"));

    let names: Vec<(String, String)> =
        (0..ADAPTERS).map(|i| (format!("n{i}"), format!("count the words, part {i}"))).collect();
    let mut adapters: Vec<(&str, &str)> =
        names.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    adapters.push(("legal", "summarize legal letters"));
    pack.write("pack.toml", &manifest(&adapters));
    let mut build = pack.spawn(&["pack", "build", "-j", "1", "-q"]);
    while pack.blobs().len() < 4 {
        assert!(build.try_wait().unwrap().is_none(), "the build ended before it could be killed");
        std::thread::sleep(Duration::from_millis(2));
    }
    build.kill().unwrap(); // SIGKILL: no handler runs
    build.wait().unwrap();
    assert!(pack.lock() == lock && pack.read("adapters/legal.gguf") == bytes);
    pack.done(&["pack", "verify"]);

    let [compiled, restored, unchanged] = counts(&pack.json(&["pack", "build"]));
    assert_eq!(compiled + restored, ADAPTERS as u64 + 1);
    // The last one may have been killed between its bytes and its record.
    assert!(restored >= 2 && compiled >= 1 && unchanged == 0, "{compiled} {restored}");
    pack.done(&["pack", "verify"]);
    assert!(pack.read("adapters/legal.gguf") != bytes);
}

#[test]
fn a_pack_divided_among_machines() {
    let pack = Pack::of(&THREE);
    let mut total = 0;
    for shard in ["0/2", "1/2"] {
        let store = format!("store-{}", &shard[..1]);
        let report = pack.json(&["pack", "compile", "--shard", shard, "--store", &store]);
        total += counts(&report)[0];
    }
    assert_eq!(total, 3);
    assert!(!pack.path("pack.lock").exists() && !pack.path("adapters").exists());
    let parts = ["store-0", "store-1"].map(|store| files_below(&pack.path(store)));
    if let Some(store) = (0..2).find(|store| parts[*store].len() < 6) {
        let store = format!("store-{store}");
        let said = pack.refused(1, &["pack", "assemble", "--store", &store]);
        assert!(said.contains("not in the store: `"), "{said}");
        assert!(!pack.path("pack.lock").exists() && !pack.path("adapters").exists());
    }
    for store in ["store-0", "store-1"] {
        merge(&pack.path(store), &pack.path("merged"));
    }
    let report = pack.json(&["pack", "assemble", "--store", "merged"]);
    assert_eq!(counts(&report), [0, 3, 0]);
    pack.done(&["pack", "verify"]);
}

#[test]
fn a_killed_shard_is_run_again() {
    const ADAPTERS: usize = 60;
    let names: Vec<(String, String)> =
        (0..ADAPTERS).map(|i| (format!("n{i}"), format!("count the vowels, part {i}"))).collect();
    let adapters: Vec<(&str, &str)> =
        names.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    let pack = Pack::of(&adapters);
    let compile = |shard| ["pack", "compile", "--shard", shard, "-j", "1", "-q"];
    let plan = || pack.json(&["pack", "compile", "--shard", "1/3", "--dry-run"]);
    let of_shard = plan();
    let records: Vec<PathBuf> = of_shard["adapters"]
        .as_array()
        .unwrap()
        .iter()
        .map(|adapter| {
            let hex = adapter["recipe"].as_str().unwrap().strip_prefix("sha256:").unwrap();
            pack.path("store/recipes/sha256").join(&hex[..2]).join(&hex[2..])
        })
        .collect();

    let others = ["0/3", "2/3"].map(|shard| pack.spawn(&compile(shard)));
    let mut killed = pack.spawn(&compile("1/3"));
    while !records.iter().any(|record| record.exists()) {
        assert!(killed.try_wait().unwrap().is_none(), "the shard ended before it could be killed");
        std::thread::sleep(Duration::from_millis(2));
    }
    killed.kill().unwrap(); // SIGKILL: no handler runs
    killed.wait().unwrap();
    for shard in others {
        let output = shard.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
    }

    let left = plan();
    let missing: Vec<&str> = left["adapters"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|adapter| adapter["action"] == "compiled")
        .map(|adapter| adapter["name"].as_str().unwrap())
        .collect();
    assert!((1..records.len()).contains(&missing.len()), "{missing:?} of {}", records.len());
    let said = pack.refused(1, &["pack", "assemble"]);
    let expected = format!("{} adapters are not in the store: ", missing.len());
    assert!(said.contains(&expected), "{said}");
    assert!(missing.iter().all(|name| said.contains(&format!("`{name}`"))), "{said}");
    assert!(!pack.path("pack.lock").exists() && !pack.path("adapters").exists());

    let again = pack.json(&["pack", "compile", "--shard", "1/3"]);
    let [compiled, _, unchanged] = counts(&again).map(|count| usize::try_from(count).unwrap());
    assert_eq!((compiled, unchanged), (missing.len(), records.len() - missing.len()));
    assert_eq!(counts(&pack.json(&["pack", "assemble"])), [0, ADAPTERS as u64, 0]);
    pack.done(&["pack", "verify"]);
    let whole = Pack::of(&adapters);
    whole.done(&["pack", "build"]);
    assert_eq!(pack.lock(), whole.lock());
    for (name, _) in adapters {
        let file = format!("adapters/{name}.gguf");
        assert!(pack.read(&file) == whole.read(&file), "{name}");
    }
}

/// Copies every file of a store into another.
fn merge(from: &Path, to: &Path) {
    for file in files_below(from) {
        let copy = to.join(file.strip_prefix(from).unwrap());
        fs::create_dir_all(copy.parent().unwrap()).unwrap();
        fs::copy(&file, copy).unwrap();
    }
}

#[test]
fn collecting_keeps_what_packs_need() {
    let pack = Pack::of(&THREE);
    pack.done(&["pack", "build"]);
    pack.write("pack.toml", &manifest(&THREE[..2]));
    pack.done(&["pack", "lock"]);
    assert_eq!(pack.json(&["store", "list"])["adapters"].as_array().unwrap().len(), 3);
    let keep = ["store", "gc", "--keep-packs", "pack.lock"];
    let planned = pack.json(&[&keep[..], &["--dry-run"]].concat());
    assert_eq!(planned["removed"]["adapters"], 1);
    assert_eq!(planned["kept"], 2);
    assert_eq!(pack.blobs().len(), 3);
    assert_eq!(pack.json(&keep)["removed"], planned["removed"]);
    assert_eq!(pack.blobs().len(), 2);
    pack.refused(1, &["store", "gc", "--keep-packs", "missing.lock"]);
    assert_eq!(pack.json(&["store", "gc", "--older-than-days", "1"])["kept"], 2);
    assert_eq!(pack.run(&["store", "gc"]).status.code(), Some(2));
    pack.done(&["pack", "build", "--frozen"]);
}

#[cfg(feature = "remote")]
#[test]
fn another_machine_exports_from_the_shared_store() {
    let pack = Pack::of(&THREE);
    let remote = format!("file://{}", pack.path("bucket").display());
    pack.done(&["pack", "build", "--remote", &remote]);
    pack.done(&["pack", "export", "--oci", "here.oci"]);
    fs::remove_dir_all(pack.path("adapters")).unwrap();
    let elsewhere = ["pack", "export", "--oci", "there.oci", "--store", "empty"];
    let said = pack.refused(1, &elsewhere);
    assert!(said.contains("legal"), "{said}");
    pack.done(&[&elsewhere[..], &["--remote", &remote]].concat());
    let index = |layout: &str| pack.read(&format!("{layout}/index.json"));
    assert!(index("here.oci") == index("there.oci"));
    pack.done(&["pack", "verify", "there.oci", "--lock", "pack.lock"]);
}
