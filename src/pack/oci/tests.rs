//! Layouts as they are written, and layouts that somebody has tampered with.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use t2lc_runtime::atomic::AtomicWriteError;
use t2lc_runtime::compile::Format;
use t2lc_runtime::digest::Digest;
use tempfile::TempDir;

use super::document::{
    BLOBS, Descriptor, INDEX_FILE, Index, LAYOUT_FILE, Manifest, TITLE, to_json,
};
use super::{Checked, Exported, Source, Tag, check_layout, export, export_statement, is_layout};
use crate::pack::lock::Lock;
use crate::pack::lock::tests::sample;
use crate::pack::{PackError, artifact, statement};
use crate::store::Store;

/// Bytes of the GGUF adapters `a` and `b`.
const SAME: &[u8] = b"same";
/// Bytes of the GGUF adapter `c`.
const OTHER: &[u8] = b"other";

/// The bytes of the PEFT adapter `d`.
fn peft() -> Vec<u8> {
    let header = br#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    let length = (header.len() as u64).to_le_bytes();
    [&length[..], header, &[1, 2, 3, 4], b"{\"r\":1}\n"].concat()
}

/// A pack of four adapters with its files, and an empty store.
struct Pack {
    dir: TempDir,
    lock: Lock,
    contents: Vec<Vec<u8>>,
    store: Store,
}

impl Pack {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let contents = vec![SAME.to_vec(), SAME.to_vec(), OTHER.to_vec(), peft()];
        let mut lock = sample(&[("a", "1"), ("b", "2"), ("c", "3"), ("d", "4")]);
        (lock.adapters[3].format, lock.adapters[3].output) = (Format::Peft, "d".into());
        fs::create_dir(dir.path().join("files")).unwrap();
        for (adapter, bytes) in lock.adapters.iter_mut().zip(&contents) {
            (adapter.content, adapter.size_bytes) = (Digest::of(bytes), bytes.len() as u64);
            let path = dir.path().join("files").join(&adapter.output);
            artifact::write(&path, adapter.format, bytes).unwrap();
        }
        let store = Store::new(dir.path().join("store"));
        Self { dir, lock, contents, store }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn export(&self, name: &str, tag: &str, force: bool) -> Result<Exported, PackError> {
        let directory = self.path("files");
        let source = Source { directory: &directory, store: &self.store };
        export(&self.lock, source, &self.path(name), &tag.parse().unwrap(), force)
    }

    /// A layout `oci`.
    fn exported() -> (Self, PathBuf) {
        let pack = Self::new();
        pack.export("oci", "latest", false).unwrap();
        let root = pack.path("oci");
        (pack, root)
    }

    /// What lies in the pack's directory.
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir.path()).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// Every file below a directory.
fn tree(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let (mut files, mut open) = (BTreeMap::new(), vec![root.to_owned()]);
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                let name = path.strip_prefix(root).unwrap().to_owned();
                files.insert(name, fs::read(path).unwrap());
            }
        }
    }
    files
}

fn check(root: &Path) -> Checked {
    check_layout(root, None).unwrap()
}

fn expect_problem(root: &Path, expected: &str) {
    let problems = check(root).problems;
    assert!(problems.iter().any(|problem| problem.contains(expected)), "{expected}: {problems:?}");
}

fn blob(root: &Path, bytes: &[u8]) -> PathBuf {
    root.join(BLOBS).join(Digest::of(bytes).to_hex())
}

fn index(root: &Path) -> Index {
    serde_json::from_slice(&fs::read(root.join(INDEX_FILE)).unwrap()).unwrap()
}

/// Adds a blob.
fn put(root: &Path, media_type: &str, bytes: &[u8]) -> Descriptor {
    fs::write(blob(root, bytes), bytes).unwrap();
    Descriptor::of(media_type, bytes)
}

/// Changes a manifest and the index, so that all digests are right again.
fn forge(root: &Path, position: usize, change: impl FnOnce(&mut Manifest)) {
    let mut index = index(root);
    let entry = &mut index.manifests[position];
    let mut manifest: Manifest =
        serde_json::from_slice(&fs::read(root.join(entry.place())).unwrap()).unwrap();
    change(&mut manifest);
    let forged = put(root, &entry.media_type, &to_json(&manifest));
    (entry.digest, entry.size) = (forged.digest, forged.size);
    fs::write(root.join(INDEX_FILE), to_json(&index)).unwrap();
}

#[test]
fn equal_packs_are_equal_layouts_in_which_equal_files_are_one_blob() {
    let pack = Pack::new();
    let one = pack.export("one", "latest", false).unwrap();
    assert_eq!(pack.export("two", "latest", false).unwrap(), one);
    let files = tree(&pack.path("one"));
    assert_eq!(tree(&pack.path("two")), files);
    // Three contents of four adapters, one of them in two files; lock, statement, empty config and
    // two manifests.
    assert_eq!((one.files, one.blobs, files.len()), (5, 4 + 5, 4 + 5 + 2));
    let sizes = files.iter().filter(|(name, _)| name.starts_with("blobs"));
    assert_eq!(one.size_bytes, sizes.map(|(_, bytes)| bytes.len() as u64).sum::<u64>());
    assert_eq!(files[Path::new(LAYOUT_FILE)], br#"{"imageLayoutVersion":"1.0.0"}"#);
    let expected = Checked {
        manifest: Some(one.manifest),
        adapters: 4,
        blobs: one.blobs,
        statements: 1,
        problems: Vec::new(),
    };
    assert!(is_layout(&pack.path("one")) && !is_layout(&pack.path("files")));
    assert_eq!(check_layout(&pack.path("one"), Some(&pack.lock)).unwrap(), expected);

    pack.export("three", "v1", false).unwrap();
    let tagged = tree(&pack.path("three"));
    let differ = files.iter().filter(|(name, bytes)| tagged[*name] != **bytes);
    assert_eq!(differ.map(|(name, _)| name.clone()).collect::<Vec<_>>(), [Path::new(INDEX_FILE)]);
}

#[test]
fn a_manifest_names_every_file() {
    let (pack, root) = Pack::exported();
    let entry = &index(&root).manifests[0];
    let manifest: Manifest =
        serde_json::from_slice(&fs::read(root.join(entry.place())).unwrap()).unwrap();
    let config = fs::read(root.join(manifest.config.place())).unwrap();
    assert_eq!(String::from_utf8(config).unwrap(), pack.lock.to_text());
    let titles: Vec<&str> = manifest.layers.iter().map(|layer| layer.title().unwrap()).collect();
    let of_peft = ["d/adapter_model.safetensors", "d/adapter_config.json"];
    assert_eq!(titles, ["a.gguf", "b.gguf", "c.gguf", of_peft[0], of_peft[1]]);
    for layer in &manifest.layers {
        let file = pack.path("files").join(layer.title().unwrap());
        assert_eq!(fs::read(root.join(layer.place())).unwrap(), fs::read(file).unwrap());
    }
    let about = &index(&root).manifests[1];
    let about: Manifest =
        serde_json::from_slice(&fs::read(root.join(about.place())).unwrap()).unwrap();
    assert_eq!(about.subject.map(|subject| subject.digest), Some(entry.digest));
    let directory = pack.path("files");
    let source = Source { directory: &directory, store: &pack.store };
    let alone = export_statement(&pack.lock, source).unwrap();
    assert_eq!(fs::read(root.join(about.layers[0].place())).unwrap(), alone);
}

#[test]
fn the_store_has_what_the_directory_lacks_and_all_that_is_missing_is_named() {
    let (pack, root) = Pack::exported();
    fs::write(pack.path("files/a.gguf"), b"damaged").unwrap();
    fs::remove_dir_all(pack.path("files/d")).unwrap();
    let Err(PackError::Missing { names }) = pack.export("again", "latest", false) else { panic!() };
    assert_eq!(names, ["a", "d"]);
    assert_eq!(pack.names(), ["files", "oci"], "nothing is left of an attempt");
    for bytes in &pack.contents {
        pack.store.put(bytes).unwrap();
    }
    pack.export("again", "latest", false).unwrap();
    assert_eq!(tree(&pack.path("again")), tree(&root));
}

#[test]
fn only_layouts_are_replaced_and_only_if_asked() {
    let (pack, root) = Pack::exported();
    let refused = pack.export("oci", "v2", false);
    assert!(matches!(refused, Err(PackError::Output(AtomicWriteError::AlreadyExists { .. }))));
    fs::write(blob(&root, SAME), b"damaged").unwrap();
    pack.export("oci", "v2", true).unwrap();
    assert_eq!(check(&root).problems, [""; 0]);
    for foreign in ["notes.txt", "blobs/notes.txt", "blobs/sha256/notes.txt"] {
        fs::write(root.join(foreign), "mine").unwrap();
        let Err(PackError::Output(AtomicWriteError::ForeignEntry { name, .. })) =
            pack.export("oci", "v2", true)
        else {
            panic!("{foreign}")
        };
        assert_eq!(name, foreign);
        fs::remove_file(root.join(foreign)).unwrap();
    }
    let refused = pack.export("files", "v2", true);
    assert!(matches!(refused, Err(PackError::Output(AtomicWriteError::ForeignEntry { .. }))));
    let refused = pack.export("missing/oci", "v2", true);
    assert!(matches!(refused, Err(PackError::Output(AtomicWriteError::NoParent { .. }))));
    assert_eq!(pack.names(), ["files", "oci"]);
}

#[test]
fn damaged_layouts_are_found_out() {
    type Damage = fn(&Path);
    fn edit(root: &Path, name: &str, from: &str, to: &str) {
        let text = fs::read_to_string(root.join(name)).unwrap();
        let edited = text.replacen(from, to, 1);
        assert_ne!(edited, text, "`{from}` is not in {name}");
        fs::write(root.join(name), edited).unwrap();
    }
    let cases: [(Damage, &str); 13] = [
        (|root| edit(root, LAYOUT_FILE, "1.0.0", "2.0.0"), "oci-layout: layout version `2.0.0`"),
        (|root| fs::remove_file(root.join(LAYOUT_FILE)).unwrap(), "oci-layout: it is missing"),
        (|root| edit(root, INDEX_FILE, "{", "["), "index.json: it is no index"),
        (|root| edit(root, INDEX_FILE, "sha256:", "sha256:../"), "it is no index: digest is"),
        (|root| edit(root, INDEX_FILE, ":2,", ":3,"), "index.json: schema version 3, expected 2"),
        (|root| edit(root, INDEX_FILE, "\"size\":", "\"size\":1"), "bytes, expected 1"),
        (
            |root| edit(root, INDEX_FILE, "\"size\":", "\"size\":9999999999"),
            "bytes, at most 67108864 are read",
        ),
        (
            |root| File::create(root.join(INDEX_FILE)).unwrap().set_len((64 << 20) + 1).unwrap(),
            "index.json: it has 67108865 bytes, at most 67108864 are read",
        ),
        (|root| edit(root, INDEX_FILE, "image.manifest", "image.other"), "leads to 0 packs"),
        (|root| fs::remove_file(blob(root, SAME)).unwrap(), "it is missing"),
        (|root| fs::write(blob(root, SAME), b"longer").unwrap(), "it has 6 bytes, expected 4"),
        (|root| fs::write(blob(root, SAME), b"some").unwrap(), "its content is sha256:"),
        (
            |root| {
                fs::remove_file(blob(root, SAME)).unwrap();
                fs::create_dir(blob(root, SAME)).unwrap();
            },
            "it is not a regular file",
        ),
    ];
    for (damage, expected) in cases {
        let (_pack, root) = Pack::exported();
        damage(&root);
        expect_problem(&root, expected);
    }
    let (_pack, root) = Pack::exported();
    fs::write(blob(&root, SAME), b"some").unwrap();
    let shown = blob(&root, SAME).display().to_string();
    assert_eq!(check(&root).problems, [format!("{shown}: its content is {}", Digest::of(b"some"))]);
}

#[cfg(unix)]
#[test]
fn symbolic_links_are_not_followed() {
    for name in [BLOBS, "blobs", INDEX_FILE, LAYOUT_FILE] {
        let (pack, root) = Pack::exported();
        fs::rename(root.join(name), pack.path("elsewhere")).unwrap();
        std::os::unix::fs::symlink(pack.path("elsewhere"), root.join(name)).unwrap();
        expect_problem(&root, &format!("{name}: it is a symbolic link"));
    }
}

#[test]
fn a_pack_that_is_not_its_lock_is_found_out() {
    type Forgery = fn(&Path, &mut Manifest);
    let cases: [(Forgery, &str); 9] = [
        (|_, pack| drop(pack.layers.remove(0)), "it has no layer `a.gguf`"),
        (
            |_, pack| {
                pack.layers[0].annotations.insert(TITLE.into(), "../a.gguf".into());
            },
            "its layer `../a.gguf` is of no adapter of the lock",
        ),
        (
            |_, pack| pack.layers.push(pack.layers[0].clone()),
            "another layer is titled `a.gguf` as well",
        ),
        (|_, pack| pack.layers[0].annotations.clear(), "without a title"),
        (|_, pack| pack.layers[0].media_type = "a/b".into(), "`a.gguf` is `a/b`, expected"),
        (|root, pack| pack.layers[0].digest = put(root, "", b"evil").digest, "`a` is sha256:"),
        (
            |_, pack| (pack.layers[0].digest, pack.layers[0].size) = (Digest::of(OTHER), 5),
            "`a` has 5 bytes, the lock says 4",
        ),
        (
            |_, pack| {
                let titles = [3, 4].map(|layer: usize| pack.layers[layer].annotations.clone());
                let [weights, config] = titles;
                (pack.layers[3].annotations, pack.layers[4].annotations) = (config, weights);
            },
            "`d` is sha256:",
        ),
        (
            |root, pack| pack.config = put(root, &pack.config.media_type, b"schema = 1\n"),
            "no lock that can be used: the file has no `t2lc`",
        ),
    ];
    for (forgery, expected) in cases {
        let (_pack, root) = Pack::exported();
        forge(&root, 0, |manifest| forgery(&root, manifest));
        expect_problem(&root, expected);
    }
}

#[test]
fn a_layout_that_leads_to_another_lock_is_found_out() {
    let (mut pack, root) = Pack::exported();
    pack.lock.adapters[1].description = "another".into();
    let problems = check_layout(&root, Some(&pack.lock)).unwrap().problems;
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(problems[0].ends_with("it is not the lock that was given"), "{problems:?}");
    assert!(problems[1].ends_with("`b`: description changed from `another` to `2`"));
}

#[test]
fn statements_may_be_missing_or_of_others_but_not_wrong() {
    let (pack, root) = Pack::exported();
    let mut alone = index(&root);
    let referrer = alone.manifests.pop().unwrap();
    fs::write(root.join(INDEX_FILE), to_json(&alone)).unwrap();
    let found = check(&root);
    assert_eq!((found.statements, found.problems.len()), (0, 0));
    alone.manifests.push(referrer);
    fs::write(root.join(INDEX_FILE), to_json(&alone)).unwrap();

    let digests = [Digest::of(b"x")];
    let wrong = statement::statement(&pack.lock, digests.iter().map(|digest| ("a.gguf", digest)));
    let layer = put(&root, statement::MEDIA_TYPE, &wrong);
    forge(&root, 1, |manifest| manifest.layers.push(layer));
    expect_problem(&root, "the statement is not about the files of the pack");
    let text = String::from_utf8(wrong).unwrap().replace("t2lc:pack-build/1", "https://e.org/1");
    let layer = put(&root, statement::MEDIA_TYPE, text.as_bytes());
    forge(&root, 1, |manifest| manifest.layers[1] = layer);
    let found = check(&root);
    assert_eq!((found.statements, found.problems.len()), (1, 0));
    let layer = put(&root, statement::MEDIA_TYPE, b"{}");
    forge(&root, 1, |manifest| manifest.layers[1] = layer);
    expect_problem(&root, "it is no in-toto statement");
    // One about another manifest says nothing about this pack.
    forge(&root, 1, |manifest| manifest.subject = None);
    let found = check(&root);
    assert_eq!((found.statements, found.problems.len()), (0, 0));
}

#[test]
fn tags_are_those_that_registries_and_clients_take() {
    for text in ["latest", "v1.2-rc_3", "0", "a--b"] {
        assert_eq!(text.parse::<Tag>().unwrap().to_string(), text);
    }
    let long = "x".repeat(129);
    for text in ["", "-a", "a-", "a..b", "a---b", "a/b", "a:b", "é", "a b", &long] {
        assert!(text.parse::<Tag>().is_err(), "{text}");
    }
}
