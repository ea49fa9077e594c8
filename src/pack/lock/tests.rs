//! Locks to text and back.

use std::fs;

use t2lc_runtime::compile::Format;
use t2lc_runtime::digest::Digest;
use t2lc_runtime::quantize::Quantization;

use super::{Lock, LockedAdapter, LockedBundle};
use crate::pack::PackError;
use crate::store::NearTask;

/// A lock of adapters with these names and descriptions.
pub(in crate::pack) fn sample(adapters: &[(&str, &str)]) -> Lock {
    let adapter = |(name, description): &(&str, &str)| LockedAdapter {
        name: (*name).into(),
        output: format!("{name}.gguf"),
        format: Format::Gguf,
        quantization: Quantization::Q8_0,
        scale: 0.1,
        description: (*description).into(),
        recipe: Digest::of(description.as_bytes()),
        content: Digest::of(format!("content of {description}").as_bytes()),
        size_bytes: 7,
        familiar: true,
        nearest: vec![NearTask { task: "law".into(), cosine: 0.8125 }],
    };
    Lock {
        t2lc: "0.1.0".into(),
        pipeline: "1".into(),
        backend: "exact/1".into(),
        out: "adapters".into(),
        bundle: LockedBundle {
            name: "b".into(),
            digest: Digest::of(b"bundle"),
            base: "Base".into(),
            base_fingerprint: "sha256:00".into(),
        },
        adapters: adapters.iter().map(adapter).collect(),
    }
}

fn read(text: &str) -> Result<Option<Lock>, PackError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pack.lock");
    fs::write(&path, text).unwrap();
    Lock::read(&path)
}

#[test]
fn text_and_lock_are_the_same_thing() {
    let mut lock = sample(&[("a", "say \"hi\"\\\n\tthere \u{e9}"), ("b", "x")]);
    lock.adapters[1].nearest.clear();
    let text = lock.to_text();
    assert!(!text.contains('\r') && text.ends_with('\n'));
    assert_eq!(read(&text).unwrap(), Some(lock.clone()));
    // What a version control system may have made of it.
    assert_eq!(read(&text.replace('\n', "\r\n")).unwrap(), Some(lock.clone()));
    assert_eq!(lock.adapter("b").unwrap().description, "x");
    assert_eq!(lock.adapter("c"), None);
}

#[test]
fn the_same_lock_is_not_written_twice() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pack.lock");
    assert_eq!(Lock::read(&path).unwrap(), None);
    let lock = sample(&[("a", "x")]);
    assert!(lock.write(&path).unwrap());
    assert!(!lock.write(&path).unwrap());
    assert!(sample(&[("a", "y")]).write(&path).unwrap());
}

#[test]
fn edited_locks_are_refused_with_their_lines() {
    let text = sample(&[("a", "x"), ("b", "y")]).to_text();
    let cases = [
        ("schema = 1", "schema = 2", "schema 2, this version reads schema 1"),
        ("schema = 1", "schema = 1\nfuture = 1", "unknown key `future`"),
        ("description = \"x\"", "description = \"z\"", "not the digest"),
        ("description = \"x\"", "description = \" x\"", "not canonical"),
        ("output = \"a.gguf\"", "output = \"../a.gguf\"", "leads out of"),
        ("output = \"a.gguf\"", "output = \"B.gguf\"", "is there twice"),
        ("output = \"a.gguf\"", "output = \"b.gguf/a.gguf\"", "lies inside the output `b.gguf`"),
        ("name = \"a\"", "name = \"b\"", "is there twice"),
        ("size_bytes = 7\n", "", "has no `size_bytes`"),
        ("out = \"adapters\"", "out = \"/\"", "is absolute"),
        ("sha256:", "sha265:", "digest is `sha265:"),
        ("[bundle]", "[bundel]", "has no `bundle`"),
    ];
    for (from, to, expected) in cases {
        let edited = text.replacen(from, to, 1);
        assert_ne!(edited, text, "{from}");
        match read(&edited) {
            Err(PackError::Lock { problems, .. }) => {
                let found = problems.iter().any(|problem| problem.contains(expected));
                assert!(found, "{from} → {to}: {problems:?}");
            }
            other => panic!("{from} → {to}: {other:?}"),
        }
    }
}
