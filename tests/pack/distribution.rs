//! `t2lc pack export`, and `t2lc pack verify` of what it wrote or somebody has changed.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use t2lc_runtime::digest::Digest;

use crate::{Pack, THREE, files_below, manifest};

/// A pack with its files, exported to `pack.oci`.
fn exported() -> Pack {
    let pack = Pack::of(&THREE);
    pack.done(&["pack", "build"]);
    pack.done(&["pack", "export", "--oci", "pack.oci"]);
    pack
}

/// Name and bytes of every file below a directory.
fn tree(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let named = |path: PathBuf| {
        let bytes = fs::read(&path).unwrap();
        (path.strip_prefix(directory).unwrap().to_owned(), bytes)
    };
    files_below(directory).into_iter().map(named).collect()
}

/// Where the blob of a digest in a document lies.
fn place(digest: &Value) -> String {
    format!("pack.oci/blobs/sha256/{}", digest.as_str().unwrap().strip_prefix("sha256:").unwrap())
}

/// The blob of a descriptor, whose size and digest are recomputed.
fn blob(pack: &Pack, descriptor: &Value) -> Vec<u8> {
    let bytes = pack.read(&place(&descriptor["digest"]));
    assert_eq!(descriptor["digest"], Digest::of(&bytes).to_string());
    assert_eq!(descriptor["size"], bytes.len());
    bytes
}

/// Where clients put the file of a layer.
fn title(layer: &Value) -> &Value {
    &layer["annotations"]["org.opencontainers.image.title"]
}

fn json_blob(pack: &Pack, descriptor: &Value) -> Value {
    serde_json::from_slice(&blob(pack, descriptor)).unwrap()
}

#[test]
fn two_exports_are_the_same_to_the_byte() {
    let pack = exported();
    let report = pack.json(&["pack", "export", "--oci", "again.oci", "--statement", "origin.json"]);
    assert_eq!(tree(&pack.path("again.oci")), tree(&pack.path("pack.oci")));
    assert_eq!(report["adapters"], 3);
    assert_eq!((&report["oci"]["files"], &report["oci"]["tag"]), (&json!(3), &json!("latest")));
    assert_eq!(report["statement"], "origin.json");
    // From the store alone, and another pack of the same entries in another place.
    fs::remove_dir_all(pack.path("adapters")).unwrap();
    pack.done(&["pack", "export", "--oci", "stored.oci"]);
    assert_eq!(tree(&pack.path("stored.oci")), tree(&pack.path("pack.oci")));
    pack.write("other/pack.toml", &manifest(&[THREE[2], THREE[0], THREE[1]]));
    pack.done(&["pack", "build", "-f", "other/pack.toml"]);
    pack.done(&["pack", "export", "--lock", "other/pack.lock", "--oci", "other/pack.oci"]);
    assert_eq!(tree(&pack.path("other/pack.oci")), tree(&pack.path("pack.oci")));

    let found = pack.json(&["pack", "verify", "pack.oci", "--lock", "pack.lock"]);
    assert_eq!((&found["sound"], &found["problems"]), (&json!(true), &json!([])));
    assert_eq!(found["counts"], json!({"adapters": 3, "blobs": 8, "statements": 1}));
    assert_eq!(found["manifest"], report["oci"]["manifest"]);
    // A layout has its own lock.
    fs::remove_file(pack.path("pack.lock")).unwrap();
    let said = String::from_utf8(pack.done(&["pack", "verify", "pack.oci"]).stdout).unwrap();
    assert!(said.starts_with("pack.oci: 3 adapters in 8 blobs as locked, with"), "{said}");
}

#[test]
fn every_digest_leads_to_its_bytes() {
    let pack = exported();
    let version: Value = serde_json::from_slice(&pack.read("pack.oci/oci-layout")).unwrap();
    assert_eq!(version, json!({"imageLayoutVersion": "1.0.0"}));
    let index: Value = serde_json::from_slice(&pack.read("pack.oci/index.json")).unwrap();
    let entries = index["manifests"].as_array().unwrap();
    assert_eq!((&index["schemaVersion"], entries.len()), (&json!(2), 2));
    assert_eq!(entries[0]["annotations"], json!({"org.opencontainers.image.ref.name": "latest"}));
    let artifact = json_blob(&pack, &entries[0]);
    assert_eq!(artifact["artifactType"], "application/vnd.t2lc.pack.v1");
    assert_eq!(artifact["config"]["mediaType"], "application/vnd.t2lc.pack.lock.v1+toml");
    assert!(blob(&pack, &artifact["config"]) == pack.read("pack.lock"));
    let layers = artifact["layers"].as_array().unwrap();
    let titles: Vec<&Value> = layers.iter().map(title).collect();
    assert_eq!(titles, ["antonym.gguf", "french.gguf", "legal.gguf"]);
    for (layer, title) in layers.iter().zip(&titles) {
        assert_eq!(layer["mediaType"], "application/vnd.t2lc.adapter.v1.gguf");
        let recipe = layer["annotations"]["t2lc.recipe"].as_str().unwrap();
        assert!(pack.lock().contains(&format!("recipe = \"{recipe}\"")));
        let file = format!("adapters/{}", title.as_str().unwrap());
        assert!(blob(&pack, layer) == pack.read(&file), "{file}");
    }

    let referrer = json_blob(&pack, &entries[1]);
    for key in ["mediaType", "digest", "size"] {
        assert_eq!(referrer["subject"][key], entries[0][key], "{key}");
    }
    assert_eq!(referrer["artifactType"], "application/vnd.in-toto+json");
    assert_eq!(blob(&pack, &referrer["config"]), b"{}");
    let statement = json_blob(&pack, &referrer["layers"][0]);
    assert_eq!(statement["_type"], "https://in-toto.io/Statement/v1");
    let subjects = statement["subject"].as_array().unwrap();
    assert_eq!(subjects.len(), layers.len());
    for ((subject, layer), title) in subjects.iter().zip(layers).zip(titles) {
        assert_eq!(&subject["name"], title);
        let hex = subject["digest"]["sha256"].as_str().unwrap();
        assert_eq!(layer["digest"], format!("sha256:{hex}"));
    }
    let build = &statement["predicate"]["buildDefinition"];
    assert_eq!(build["externalParameters"]["adapters"][2]["description"], "summarize legal text");
    let bundle = build["resolvedDependencies"][0]["digest"]["sha256"].as_str().unwrap();
    assert!(pack.lock().contains(&format!("digest = \"sha256:{bundle}\"")));
}

#[test]
fn a_flipped_bit_is_named() {
    let pack = exported();
    for file in files_below(&pack.path("pack.oci/blobs")) {
        let bytes = fs::read(&file).unwrap();
        let mut damaged = bytes.clone();
        damaged[bytes.len() / 2] ^= 1;
        fs::write(&file, damaged).unwrap();
        let said = pack.refused(1, &["pack", "verify", "pack.oci"]);
        let name = file.file_name().unwrap().to_str().unwrap();
        assert!(said.contains(&format!("{name}: its content is sha256:")), "{said}");
        fs::write(&file, bytes).unwrap();
    }
    pack.done(&["pack", "verify", "pack.oci"]);
    fs::remove_file(files_below(&pack.path("pack.oci/blobs")).remove(0)).unwrap();
    let output = pack.run(&["pack", "verify", "pack.oci", "--json"]);
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &found["sound"]), (Some(1), &json!(false)));
    assert!(found["problems"][0].as_str().unwrap().ends_with(": it is missing"), "{found}");
}

#[test]
fn a_layout_of_another_lock_is_refused() {
    let pack = exported();
    pack.edit("pack.toml", "English to French", "English to German");
    pack.done(&["pack", "lock"]);
    pack.done(&["pack", "verify", "pack.oci"]);
    let said = pack.refused(1, &["pack", "verify", "pack.oci", "--lock", "pack.lock"]);
    assert!(said.contains("it is not the lock that was given"), "{said}");
    assert!(said.contains("`french`: description changed from"), "{said}");
    pack.refused(1, &["pack", "verify", "pack.oci", "--lock", "missing.lock"]);
    // The files in place are of the old lock, those in the store of the new one.
    pack.done(&["pack", "export", "--oci", "new.oci"]);
    pack.done(&["pack", "verify", "new.oci", "--lock", "pack.lock"]);
    let said = pack.refused(1, &["pack", "export", "--oci", "x.oci", "--store", "nowhere"]);
    assert!(said.contains("`french`") && !said.contains("legal"), "{said}");
    assert!(!pack.path("x.oci").exists());
}

#[test]
fn what_exists_is_kept_unless_force() {
    let pack = exported();
    pack.write("origin.json", "mine");
    let both = ["pack", "export", "--oci", "new.oci", "--statement", "origin.json"];
    let said = pack.refused(2, &both);
    assert!(said.contains("`origin.json` exists"), "{said}");
    assert!(!pack.path("new.oci").exists());
    pack.done(&[&both[..], &["--force"]].concat());
    let said = pack.refused(2, &["pack", "export", "--oci", "pack.oci"]);
    assert!(said.contains("`pack.oci` exists"), "{said}");
    pack.done(&["pack", "export", "--oci", "pack.oci", "--tag", "v1", "--force"]);
    assert!(String::from_utf8(pack.read("pack.oci/index.json")).unwrap().contains("\"v1\""));
    let said = pack.refused(2, &["pack", "export", "--oci", "adapters", "--force"]);
    assert!(said.contains("which is not part of the output"), "{said}");
    assert!(pack.path("adapters/legal.gguf").exists());
    let hidden = fs::read_dir(pack.0.path()).unwrap().filter(|entry| {
        entry.as_ref().unwrap().file_name().to_string_lossy().starts_with(".t2lc-")
    });
    assert_eq!(hidden.count(), 0);
    for usage in [&["pack", "export"][..], &["pack", "export", "--oci", "x", "--tag", "a/b"]] {
        assert_eq!(pack.run(usage).status.code(), Some(2));
    }
}

#[test]
fn a_statement_alone_is_the_one_of_the_layout() {
    let pack = exported();
    pack.done(&["pack", "export", "--statement", "origin.json"]);
    let index: Value = serde_json::from_slice(&pack.read("pack.oci/index.json")).unwrap();
    let referrer = json_blob(&pack, &index["manifests"][1]);
    assert!(blob(&pack, &referrer["layers"][0]) == pack.read("origin.json"));
}

#[test]
fn a_peft_adapter_is_two_layers() {
    let pack = Pack::new();
    let text = manifest(&THREE[..1]).replacen('\n', "\npack.format = \"peft\"\n", 1);
    pack.write("pack.toml", &text);
    pack.done(&["pack", "build"]);
    pack.done(&["pack", "export", "--oci", "pack.oci"]);
    let index: Value = serde_json::from_slice(&pack.read("pack.oci/index.json")).unwrap();
    let artifact = json_blob(&pack, &index["manifests"][0]);
    let layers = artifact["layers"].as_array().unwrap();
    assert_eq!(layers.len(), 2);
    for (layer, name) in layers.iter().zip(["adapter_model.safetensors", "adapter_config.json"]) {
        assert_eq!(*title(layer), format!("legal/{name}"));
        assert!(blob(&pack, layer) == pack.read(&format!("adapters/legal/{name}")), "{name}");
    }
    pack.done(&["pack", "verify", "pack.oci", "--lock", "pack.lock"]);
}
