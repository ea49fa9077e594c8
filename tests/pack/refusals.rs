//! Locks that are stale, files that are not ours, packs that are hostile.

use std::fs;

use crate::{Pack, THREE, manifest};

#[test]
fn a_stale_lock_names_entry_and_input() {
    let pack = Pack::of(&THREE);
    let text = pack.refused(1, &["pack", "build", "--locked"]);
    assert!(text.contains("there is no `pack.lock`"), "{text}");
    pack.done(&["pack", "build"]);
    let lock = pack.lock();
    let edits = [
        ("legal text", "legal letters", "`legal`: description changed from"),
        ("name = \"legal\"", "scale = 0.25\nname = \"legal\"", "`legal`: scale changed from `1.0`"),
        (
            "name = \"legal\"",
            "quantization = \"f16\"\nname = \"legal\"",
            "`legal`: quantization changed from `q8_0` to `f16`",
        ),
        ("name = \"legal\"", "output = \"x.gguf\"\nname = \"legal\"", "`legal`: output changed"),
        ("name = \"legal\"", "name = \"law\"", "`legal`: removed"),
    ];
    for (from, to, expected) in edits {
        pack.write("pack.toml", &manifest(&THREE));
        pack.edit("pack.toml", from, to);
        for flag in ["--locked", "--frozen"] {
            let text = pack.refused(1, &["pack", "build", flag]);
            assert!(text.contains(expected) && !text.contains("french"), "{text}");
        }
        assert_eq!(pack.lock(), lock);
    }
}

#[cfg(feature = "tract")]
#[test]
fn another_backend_makes_every_entry_stale() {
    let pack = Pack::of(&THREE);
    pack.done(&["pack", "lock"]);
    let text = pack.refused(1, &["pack", "build", "--locked", "--backend", "tract"]);
    for (name, _) in THREE {
        assert!(text.contains(&format!("`{name}`: backend changed from `exact/")), "{text}");
    }
}

#[test]
fn other_bytes_than_the_lock_says() {
    let pack = Pack::of(&THREE[..1]);
    pack.done(&["pack", "lock"]);
    let lock = pack.lock();
    let at = lock.find("content = \"sha256:").unwrap() + "content = \"sha256:".len();
    let edited = format!("{}{}{}", &lock[..at], "0".repeat(64), &lock[at + 64..]);
    pack.write("pack.lock", &edited);
    let text = pack.refused(1, &["pack", "build", "--locked"]);
    assert!(text.contains("`legal` came out as"), "{text}");
    assert!(!pack.path("adapters/legal.gguf").exists());
}

#[test]
fn frozen_compiles_nothing_and_names_what_is_missing() {
    let pack = Pack::of(&THREE);
    pack.done(&["pack", "lock"]);
    pack.done(&["pack", "build", "--frozen"]);
    fs::remove_dir_all(pack.path("store")).unwrap();
    pack.done(&["pack", "build", "--frozen"]);
    for name in ["legal", "french"] {
        fs::remove_file(pack.path(format!("adapters/{name}.gguf"))).unwrap();
    }
    for more in [&[][..], &["--dry-run"]] {
        let text = pack.refused(1, &[&["pack", "build", "--frozen"][..], more].concat());
        assert!(text.contains("`french`, `legal`") && !text.contains("antonym"), "{text}");
    }
    pack.done(&["pack", "build", "--locked"]);
    pack.done(&["pack", "verify"]);
}

#[test]
fn files_of_others_are_not_replaced() {
    let pack = Pack::of(&THREE);
    pack.write("adapters/legal.gguf", "mine");
    let text = pack.refused(1, &["pack", "build"]);
    assert!(text.contains("legal.gguf") && !text.contains("french"), "{text}");
    assert_eq!(pack.read("adapters/legal.gguf"), b"mine");
    assert!(!pack.path("adapters/french.gguf").exists() && !pack.path("pack.lock").exists());
    pack.done(&["pack", "build", "--force"]);
    // A file that the lock names is ours.
    pack.write("adapters/legal.gguf", "damaged");
    let text = pack.refused(1, &["pack", "verify"]);
    assert!(text.contains("`legal.gguf` has 7 bytes, the lock says"), "{text}");
    pack.done(&["pack", "build"]);
    pack.done(&["pack", "verify"]);
    // In another directory only what is still as the lock says.
    pack.done(&["pack", "build", "--out", "other"]);
    pack.edit("pack.toml", "legal text", "legal letters");
    pack.done(&["pack", "build", "--out", "other"]);
    pack.write("other/legal.gguf", "mine");
    let text = pack.refused(1, &["pack", "build", "--out", "other"]);
    assert!(text.contains("legal.gguf") && !text.contains("french"), "{text}");
    assert_eq!(pack.read("other/legal.gguf"), b"mine");
}

#[test]
fn hostile_packs_are_refused_and_nothing_is_written() {
    let adapter = |more: &str| {
        format!("schema = 1\n[[adapter]]\nname = \"a\"\ndescription = \"x\"\n{more}\n")
    };
    let include = "schema = 1\ninclude = [\"pack.toml\"]\n".to_owned();
    let cases = [
        (adapter("output = \"../a.gguf\""), "pack.toml:5: `../a.gguf` leads out"),
        (adapter("output = \"/a.gguf\""), "pack.toml:5: `/a.gguf` is absolute"),
        (adapter("output = 'C:\\a.gguf'"), "pack.toml:5: "),
        (adapter("output = \"pack.toml\""), "does not end in `.gguf`"),
        (adapter("surprise = 1"), "pack.toml:5: unknown key `surprise`"),
        (adapter("scale = nan"), "pack.toml:5: `scale` is not a finite number"),
        (adapter("[[adapter]]\nname = \"A\"\ndescription = \"y\""), "pack.toml:6: the name `A`"),
        (adapter("[pack]\nmodel = \"/etc\""), "is absolute"),
        (adapter("[pack]\nout = \"..\""), "leads out"),
        ("schema = 9\n".into(), "pack.toml:1: schema 9, this version reads schema 1"),
        ("schema = \n".into(), "is not a usable pack:\n  pack.toml:"),
        (include, "pack.toml:2: `pack.toml` includes itself"),
        (format!("#{}\n", "x".repeat(9 << 20)), "more than"),
    ];
    for (text, expected) in cases {
        let pack = Pack::new();
        pack.write("pack.toml", &text);
        for verb in ["lock", "build", "compile", "assemble"] {
            let said = pack.refused(if expected == "more than" { 2 } else { 1 }, &["pack", verb]);
            assert!(said.contains(expected), "{verb}: {said}");
        }
        assert_eq!(fs::read_dir(pack.0.path()).unwrap().count(), 1, "{expected}");
    }
    let pack = Pack::new();
    pack.refused(2, &["pack", "lock"]);
}

#[cfg(unix)]
#[test]
fn outputs_do_not_pass_through_symbolic_links() {
    let pack = Pack::new();
    let text = format!("{}output = \"sub/a.gguf\"\n", manifest(&THREE[..1]));
    pack.write("pack.toml", &text);
    fs::create_dir_all(pack.path("adapters")).unwrap();
    fs::create_dir_all(pack.path("outside")).unwrap();
    std::os::unix::fs::symlink("../outside", pack.path("adapters/sub")).unwrap();
    let said = pack.refused(1, &["pack", "build", "--force"]);
    assert!(said.contains("symbolic link"), "{said}");
    assert_eq!(fs::read_dir(pack.path("outside")).unwrap().count(), 0);
}

#[test]
fn hostile_locks_are_refused() {
    let pack = Pack::of(&THREE[..1]);
    pack.done(&["pack", "lock"]);
    pack.edit("pack.lock", "output = \"legal.gguf\"", "output = \"../legal.gguf\"");
    for verb in [&["pack", "build"][..], &["pack", "verify"], &["pack", "lock"]] {
        let said = pack.refused(1, verb);
        assert!(said.contains("pack.lock:") && said.contains("leads out"), "{said}");
    }
    pack.refused(1, &["store", "gc", "--keep-packs", "pack.lock"]);
}
