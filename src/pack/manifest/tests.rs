//! Packs as text, in temporary directories.

use std::fs;

use t2lc_runtime::compile::Format;
use t2lc_runtime::quantize::Quantization;
use tempfile::TempDir;

use super::reading::MAX_FILE_BYTES;
use super::{MAX_ADAPTERS, Manifest};
use crate::pack::PackError;

/// A directory with these files.
fn folder(files: &[(&str, &str)]) -> TempDir {
    let dir = TempDir::new().unwrap();
    for (name, text) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    dir
}

fn read(dir: &TempDir) -> Result<Manifest, PackError> {
    Manifest::read(&dir.path().join("pack.toml"), None)
}

/// The problems, without the directory before each.
fn problems(files: &[(&str, &str)]) -> Vec<String> {
    problems_in(&folder(files))
}

fn problems_in(dir: &TempDir) -> Vec<String> {
    let prefix = format!("{}{}", dir.path().display(), std::path::MAIN_SEPARATOR);
    match read(dir) {
        Err(PackError::Manifest { problems, .. }) => {
            problems.iter().map(|problem| problem.replace(&prefix, "")).collect()
        }
        other => panic!("{other:?}"),
    }
}

const LEGAL: &str = "[[adapter]]\nname = \"legal\"\ndescription = \"summarize legal text\"\n";

#[test]
fn a_pack_with_everything() {
    let more = "schema = 1\n[[adapter]]\nname = \"mail\"\ndescription_file = \"mail.txt\"\n\
                quantization = \"f16\"\nscale = 2\noutput = \"./Desk/mail.gguf\"\n";
    let text = format!(
        "schema = 1\ninclude = [\"sub/more.toml\"]\n[pack]\nname = \"desk\"\nmodel = \"m.t2lc\"\n\
         out = \"o/ut\"\nformat = \"gguf\"\nquantization = \"q4_0\"\nscale = 0.5\n{LEGAL}"
    );
    let files =
        [("pack.toml", &*text), ("sub/more.toml", more), ("sub/mail.txt", "answer\r\nmail\r\n")];
    let dir = folder(&files);
    let pack = read(&dir).unwrap();
    assert_eq!((pack.name.as_deref(), pack.out.as_str()), (Some("desk"), "o/ut"));
    assert_eq!(pack.model, Some(dir.path().join("m.t2lc")));
    assert_eq!(pack.lock_path(), dir.path().join("pack.lock"));
    assert_eq!(pack.out_dir(None), dir.path().join("o/ut"));
    let [legal, mail] = &pack.adapters[..] else { panic!("{pack:?}") };
    assert_eq!((legal.output.as_str(), legal.scale), ("legal.gguf", 0.5));
    assert_eq!(legal.quantization, Quantization::Q4_0);
    assert_eq!((mail.output.as_str(), mail.scale), ("Desk/mail.gguf", 2.0));
    assert_eq!((mail.description.as_str(), mail.quantization), ("answer\nmail", Quantization::F16));
}

#[test]
fn line_ends_do_not_matter() {
    let unix = folder(&[("pack.toml", &format!("schema = 1\n{LEGAL}"))]);
    let text = format!("schema = 1\n{LEGAL}").replace('\n', "\r\n");
    let windows = folder(&[("pack.toml", &text)]);
    assert_eq!(read(&unix).unwrap().adapters, read(&windows).unwrap().adapters);
}

#[test]
fn peft_has_other_defaults() {
    let text = format!("schema = 1\npack.format = \"peft\"\n{LEGAL}");
    let pack = read(&folder(&[("pack.toml", &text)])).unwrap();
    assert_eq!((pack.format, pack.adapters[0].output.as_str()), (Format::Peft, "legal"));
    assert_eq!(pack.adapters[0].quantization, Quantization::F32);
    let text = format!("{text}quantization = \"q8_0\"\n");
    let found = problems(&[("pack.toml", &text)]);
    assert_eq!(found, ["pack.toml:6: a PEFT adapter cannot be `q8_0`, only f32, f16 or bf16"]);
}

#[test]
fn everything_wrong_is_said_at_once() {
    let text = "schema = 1\nextra = 1\n[pack]\nscale = inf\nquantization = \"q3\"\n\
                [[adapter]]\nname = \"a\"\ndescription = \"x\"\noutput = \"../a.gguf\"\n\
                [[adapter]]\nname = \"A\"\ndescription = \"\"\n\
                [[adapter]]\nname = \"b\"\ncolour = 3\n\
                [[adapter]]\ndescription = \"x\"\ndescription_file = \"y\"\n\
                [[adapter]]\nname = \"c\"\ndescription_file = \"missing.txt\"\n\
                [[adapter]]\nname = \"../d\"\ndescription = \"x\"\n\
                [[adapter]]\nname = \"e\"\ndescription = \"x\"\noutput = \"/e.gguf\"\n";
    let found = problems(&[("pack.toml", text)]);
    let lines: Vec<&str> = found.iter().map(|p| p.split(": ").next().unwrap()).collect();
    let expected = [2, 4, 5, 9, 12, 11, 15, 14, 16, 18, 21, 23, 28];
    let expected: Vec<String> = expected.iter().map(|line| format!("pack.toml:{line}")).collect();
    let (mut lines, mut expected) =
        (lines, expected.iter().map(String::as_str).collect::<Vec<_>>());
    lines.sort_unstable();
    expected.sort_unstable();
    assert_eq!(lines, expected, "{found:#?}");
    for part in [
        "unknown key `extra`",
        "leads out of",
        "is taken at",
        "is empty",
        "`colour`",
        "both `description`",
        "missing.txt",
        "is absolute",
        "is no name",
    ] {
        assert!(found.iter().any(|problem| problem.contains(part)), "{part}: {found:#?}");
    }
}

#[test]
fn outputs_that_collide() {
    let adapter = |name: &str, output: &str| {
        format!("[[adapter]]\nname = \"{name}\"\ndescription = \"x\"\noutput = \"{output}\"\n")
    };
    let text = format!("schema = 1\n{}{}", adapter("a", "x/y.gguf"), adapter("b", "X/Y.gguf"));
    let found = problems(&[("pack.toml", &text)]);
    assert_eq!(found, ["pack.toml:6: output `X/Y.gguf` is taken at pack.toml:2"]);
    let text =
        format!("schema = 1\npack.format = \"peft\"\n{}{}", adapter("a", "x"), adapter("b", "x/y"));
    let found = problems(&[("pack.toml", &text)]);
    assert_eq!(found, ["pack.toml:7: output `x/y` lies inside the output `x`"]);
}

#[test]
fn schemas_other_than_ours() {
    assert_eq!(
        problems(&[("pack.toml", "schema = 2\nfuture = true\n")]),
        ["pack.toml:1: schema 2, this version reads schema 1"]
    );
    assert_eq!(problems(&[("pack.toml", LEGAL)]), ["pack.toml: the file has no `schema`"]);
    assert_eq!(
        problems(&[("pack.toml", "schema = 1\n")]),
        ["pack.toml: the pack has no `[[adapter]]`"]
    );
}

#[test]
fn includes_that_go_in_circles_or_out() {
    let include = |file: &str| format!("schema = 1\ninclude = [\"{file}\"]\n");
    let found = problems(&[
        ("pack.toml", &include("a.toml")),
        ("a.toml", &include("b.toml")),
        ("b.toml", &include("a.toml")),
    ]);
    let cycle = "b.toml:2: `a.toml` includes itself: pack.toml → a.toml → b.toml → a.toml";
    assert_eq!(found, [cycle]);
    let found = problems(&[("pack.toml", &include("pack.toml"))]);
    assert!(found[0].contains("includes itself"), "{found:?}");
    let twice = format!("schema = 1\ninclude = [\"a.toml\", \"./a.toml\"]\n{LEGAL}");
    let found = problems(&[("pack.toml", &twice), ("a.toml", "schema = 1\n")]);
    assert_eq!(found, ["pack.toml:2: `a.toml` is included twice"]);
    for out in ["../x.toml", "/etc/x.toml", ".", "missing.toml"] {
        let found = problems(&[("pack.toml", &include(out))]);
        assert!(found[0].starts_with("pack.toml:2: "), "{found:?}");
    }
    let settings = format!("schema = 1\n[pack]\nout = \"x\"\n{LEGAL}");
    let found = problems(&[("pack.toml", &include("a.toml")), ("a.toml", &settings)]);
    assert!(found[0].starts_with("a.toml:2: unknown key `pack`"), "{found:?}");
}

#[test]
fn includes_without_end_and_files_without_measure() {
    let files: Vec<(String, String)> = (0..20)
        .map(|i| (format!("f{i}.toml"), format!("schema = 1\ninclude = [\"f{}.toml\"]\n", i + 1)))
        .collect();
    let mut files: Vec<(&str, &str)> =
        files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    files.push(("pack.toml", "schema = 1\ninclude = [\"f0.toml\"]\n"));
    let found = problems(&files);
    assert!(found.len() == 1 && found[0].contains("levels deep"), "{found:?}");

    let text = format!("schema = 1\n#{}\n", "x".repeat(usize::try_from(MAX_FILE_BYTES).unwrap()));
    let error = read(&folder(&[("pack.toml", &text)])).unwrap_err();
    assert!(matches!(error, PackError::Io { .. }), "{error}");
    let text = "schema = 1\n[[adapter]]\nname = \"a\"\ndescription_file = \"a.txt\"\n";
    let found = problems(&[("pack.toml", text), ("a.txt", &"x".repeat(20_000))]);
    assert!(found[0].contains("more than 16384 bytes"), "{found:?}");
    let many = "[[adapter]]\n".repeat(MAX_ADAPTERS + 1);
    let found = problems(&[("pack.toml", &format!("schema = 1\n{many}"))]);
    assert!(found.last().unwrap().ends_with("more problems"), "{}", found.len());
}

#[cfg(unix)]
#[test]
fn symbolic_links_lead_nowhere() {
    use std::os::unix::fs::symlink;
    let text = format!(
        "schema = 1\ninclude = [\"l/m.toml\"]\n{LEGAL}output = \"l/x.gguf\"\n\
                        [[adapter]]\nname = \"b\"\ndescription_file = \"secret.txt\"\n"
    );
    let dir = folder(&[("pack.toml", &text), ("real/m.toml", "schema = 1\n")]);
    symlink("/etc/passwd", dir.path().join("secret.txt")).unwrap();
    symlink("real", dir.path().join("l")).unwrap();
    fs::create_dir(dir.path().join("adapters")).unwrap();
    symlink("..", dir.path().join("adapters/l")).unwrap();
    let found = problems_in(&dir);
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(found.iter().all(|problem| problem.contains("symbolic link")), "{found:?}");
}
