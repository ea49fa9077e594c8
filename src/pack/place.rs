//! Names and paths that a pack may use: relative, below its directory, the same on every system.
//!
//! In: text from a file that is not trusted. Out: the path in one spelling, components joined by
//! `/`, or why it is refused. The system is asked about symbolic links only.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Longest path in bytes.
const MAX_PATH_BYTES: usize = 512;
/// Longest name of an adapter in bytes.
const MAX_NAME_BYTES: usize = 128;
/// Names that Windows keeps for devices, whatever the extension.
const DEVICES: [&str; 22] = [
    "con", "prn", "aux", "nul", "com1", "com2", "com3", "com4", "com5", "com6", "com7", "com8",
    "com9", "lpt1", "lpt2", "lpt3", "lpt4", "lpt5", "lpt6", "lpt7", "lpt8", "lpt9",
];

/// A path below a directory, in one spelling; `.` is the directory itself.
pub(super) fn confined(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("the path is empty".into());
    }
    if text.len() > MAX_PATH_BYTES {
        return Err(format!("the path has {} bytes, at most {MAX_PATH_BYTES}", text.len()));
    }
    if text.starts_with(['/', '\\']) || text.as_bytes().get(1) == Some(&b':') {
        return Err(format!("`{text}` is absolute, expected a path below the pack's directory"));
    }
    let forbidden = |c: &char| c.is_control() || r#"\:*?"<>|"#.contains(*c);
    if let Some(c) = text.chars().find(forbidden) {
        let c = c.escape_default();
        return Err(format!("`{text}` contains `{c}`, which not every system allows"));
    }
    let mut parts = Vec::new();
    for part in text.split('/') {
        match part {
            "" => return Err(format!("`{text}` has an empty component")),
            "." => {}
            ".." => return Err(format!("`{text}` leads out of the pack's directory")),
            _ => {
                if let Some(reason) = unusable(part) {
                    return Err(format!("`{text}`: `{part}` {reason}"));
                }
                parts.push(part);
            }
        }
    }
    Ok(if parts.is_empty() { ".".into() } else { parts.join("/") })
}

/// Why a component is no file name on some system.
fn unusable(part: &str) -> Option<&'static str> {
    let stem = part.split('.').next().unwrap_or(part).to_ascii_lowercase();
    if part.ends_with(['.', ' ']) {
        Some("ends in a dot or a space")
    } else if DEVICES.contains(&stem.as_str()) {
        Some("is the name of a device")
    } else if part.starts_with(".t2lc-") {
        Some("is the name of a temporary file")
    } else {
        None
    }
}

/// The path of an output: as [`confined`], but ASCII and no directory itself, with the extension
/// `.gguf` where it is a file.
pub(super) fn output(text: &str, is_file: bool) -> Result<String, String> {
    let path = confined(text)?;
    if !path.is_ascii() {
        return Err(format!("`{path}` is not ASCII, which file systems spell in different ways"));
    }
    if path == "." {
        return Err("the output is the directory itself".into());
    }
    let extension = path.rsplit_once('.').map_or("", |(_, extension)| extension);
    if is_file && !extension.eq_ignore_ascii_case("gguf") {
        return Err(format!("`{path}` does not end in `.gguf`"));
    }
    Ok(path)
}

/// The outputs that lie inside another, each with that other; all in one letter case.
pub(super) fn nested(outputs: &BTreeSet<String>) -> Vec<(&str, &str)> {
    let inside = |output: &'_ String| {
        let mut parents = output.match_indices('/').map(|(end, _)| end);
        parents.find(|end| outputs.contains(&output[..*end]))
    };
    let found = outputs.iter().filter_map(|output| Some((output, inside(output)?)));
    found.map(|(output, end)| (output.as_str(), &output[..end])).collect()
}

/// Why a text is no name of an adapter.
pub(super) fn refuse_name(name: &str) -> Result<(), String> {
    let first = name.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric);
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if !first || !name.bytes().all(plain) || name.len() > MAX_NAME_BYTES {
        let expected = "letters, digits, `-`, `_` and `.`, a letter or digit first";
        return Err(format!("`{name}` is no name: 1 to {MAX_NAME_BYTES} bytes of {expected}"));
    }
    unusable(name).map_or(Ok(()), |reason| Err(format!("`{name}` {reason}")))
}

/// The first symbolic link on the way from `root` (not looked at) to a confined path.
pub(super) fn symlink(root: &Path, confined: &str) -> Option<PathBuf> {
    let mut path = root.to_owned();
    for part in confined.split('/') {
        path.push(part);
        let found = fs::symlink_metadata(&path);
        if found.is_ok_and(|found| found.file_type().is_symlink()) {
            return Some(path);
        }
    }
    None
}

/// `root` and a confined path.
pub(super) fn join(root: &Path, confined: &str) -> PathBuf {
    if confined == "." { root.to_owned() } else { root.join(confined) }
}

#[cfg(test)]
mod tests {
    use super::{confined, output, refuse_name};

    #[test]
    fn one_path_has_one_spelling() {
        assert_eq!(confined("./a/./b.txt").unwrap(), "a/b.txt");
        assert_eq!(confined("./.").unwrap(), ".");
        assert_eq!(confined("größe/ß").unwrap(), "größe/ß");
        assert_eq!(output("a/B.GGUF", true).unwrap(), "a/B.GGUF");
        assert_eq!(output("a/peft.d", false).unwrap(), "a/peft.d");
    }

    #[test]
    fn ways_out_and_names_that_some_system_lacks_are_refused() {
        let long = "x".repeat(600);
        let hostile = [
            "",
            "/etc/passwd",
            "\\\\host\\x",
            "C:x",
            "c:/x",
            "..",
            "a/../../b",
            "a//b",
            "a/",
            "a\\b",
            "a:b",
            "a\0b",
            "a\nb",
            "a.",
            "a ",
            "NUL",
            "com1.gguf",
            ".t2lc-x",
            "a/lpt9/b",
            &long,
        ];
        for text in hostile {
            assert!(confined(text).is_err(), "{text:?}");
        }
        for text in ["pack.toml", ".", "é.gguf", "gguf", "a.gguf/b"] {
            assert!(output(text, true).is_err(), "{text:?}");
        }
        for name in ["", "-a", ".a", "a b", "a/b", "é", "nul", "aux.x", "a.", &long] {
            assert!(refuse_name(name).is_err(), "{name:?}");
        }
        assert_eq!(refuse_name("legal-2.v1_b"), Ok(()));
    }
}
