//! The file or directory of one adapter.
//!
//! In: a path, the form, and the bytes that the content digest covers: of a PEFT directory those of
//! the weights and then those of the settings. Out: the files in place, or the same bytes again.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use t2lc_runtime::atomic::{write_atomically, write_directory_atomically};
use t2lc_runtime::compile::Format;
use t2lc_runtime::digest::Digest;
use t2lc_runtime::peft::{CONFIG, WEIGHTS};

use super::PackError;

/// Longest header of a safetensors file that is believed.
const MAX_HEADER_BYTES: u64 = 100 << 20;

/// What lies where an adapter belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    /// The adapter.
    Right,
    /// Nothing.
    Absent,
    /// Something of another size.
    Size {
        /// Its bytes.
        got: u64,
    },
    /// Something of the same size.
    Content {
        /// Its digest.
        got: Digest,
    },
    /// Not a file or directory of the form.
    Kind,
}

/// Compares what lies at `path` with a digest; the size comes first.
pub(super) fn state(
    path: &Path,
    format: Format,
    content: &Digest,
    size_bytes: u64,
) -> Result<State, PackError> {
    let unreadable = |source| PackError::Io { what: "read", path: path.to_owned(), source };
    match size(path, format).map_err(unreadable)? {
        Size::Absent => return Ok(State::Absent),
        Size::Kind => return Ok(State::Kind),
        Size::Bytes(got) if got != size_bytes => return Ok(State::Size { got }),
        Size::Bytes(_) => {}
    }
    let (bytes, first_bytes) = read(path, format, size_bytes).map_err(unreadable)?;
    let got = Digest::of(&bytes);
    Ok(match got == *content {
        true if is_split(format, &bytes, first_bytes) => State::Right,
        true => State::Kind,
        false => State::Content { got },
    })
}

/// The bytes at `path`, if they have the digest.
pub(super) fn load(
    path: &Path,
    format: Format,
    content: &Digest,
    size_bytes: u64,
) -> Option<Vec<u8>> {
    match size(path, format) {
        Ok(Size::Bytes(got)) if got == size_bytes => {}
        _ => return None,
    }
    let (bytes, first_bytes) = read(path, format, size_bytes).ok()?;
    let right = Digest::of(&bytes) == *content && is_split(format, &bytes, first_bytes);
    right.then_some(bytes)
}

/// Whether the first file ends where it should: the digest of both does not tell.
fn is_split(format: Format, bytes: &[u8], first_bytes: usize) -> bool {
    let whole = format == Format::Gguf;
    whole || split_peft(bytes).is_some_and(|(weights, _)| weights.len() == first_bytes)
}

/// Puts an adapter in place, over whatever of its form is there; its directory must exist.
pub(super) fn write(path: &Path, format: Format, bytes: &[u8]) -> Result<(), PackError> {
    match format {
        Format::Peft => {
            let (weights, config) = split_peft(bytes).ok_or_else(|| PackError::Io {
                what: "write",
                path: path.to_owned(),
                source: io::Error::new(io::ErrorKind::InvalidData, "the bytes are no PEFT adapter"),
            })?;
            let files = [(WEIGHTS, weights), (CONFIG, config)];
            write_directory_atomically(path, &files, true)?;
        }
        // The other form there is: one file.
        _ => write_atomically(path, bytes, true)?,
    }
    Ok(())
}

/// Weights and settings of a PEFT adapter; the weights say in their header how long they are.
pub(super) fn split_peft(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    bytes.split_at_checked(usize::try_from(weights_bytes(bytes)?).ok()?)
}

/// How many bytes the weights have that begin a file, by their header.
pub(super) fn weights_bytes(mut file: impl Read) -> Option<u64> {
    let mut length = [0; 8];
    file.read_exact(&mut length).ok()?;
    let header_bytes = u64::from_le_bytes(length);
    let mut header = Vec::new();
    file.take(header_bytes.min(MAX_HEADER_BYTES)).read_to_end(&mut header).ok()?;
    let header: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(&header).ok()?;
    let end_of = |tensor: &serde_json::Value| tensor.get("data_offsets")?.get(1)?.as_u64();
    let end = header.values().filter_map(end_of).max().unwrap_or(0);
    header_bytes.checked_add(8)?.checked_add(end)
}

/// Size of what lies at a path.
enum Size {
    Absent,
    Kind,
    Bytes(u64),
}

fn size(path: &Path, format: Format) -> io::Result<Size> {
    let of_file = |path: &Path| match fs::symlink_metadata(path) {
        Ok(found) if found.is_file() => Ok(Size::Bytes(found.len())),
        Ok(_) => Ok(Size::Kind),
        Err(error) if is_absent(&error) => Ok(Size::Absent),
        Err(error) => Err(error),
    };
    if format == Format::Gguf {
        return of_file(path);
    }
    match fs::symlink_metadata(path) {
        Ok(found) if !found.is_dir() => return Ok(Size::Kind),
        Ok(_) => {}
        Err(error) if is_absent(&error) => return Ok(Size::Absent),
        Err(error) => return Err(error),
    }
    let mut total = 0_u64;
    for name in [WEIGHTS, CONFIG] {
        match of_file(&path.join(name))? {
            Size::Bytes(bytes) => total = total.saturating_add(bytes),
            // A part of it is missing: it is there, and not right.
            Size::Absent => {}
            Size::Kind => return Ok(Size::Kind),
        }
    }
    Ok(Size::Bytes(total))
}

/// Whether nothing is there, be it that a folder on the way is a file.
fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// The bytes, and how many of them are of the first file. At most one byte more than expected, so
/// that a file that grows meanwhile is never right.
fn read(path: &Path, format: Format, size_bytes: u64) -> io::Result<(Vec<u8>, usize)> {
    let limit = size_bytes.saturating_add(1);
    let mut bytes = Vec::new();
    if format == Format::Gguf {
        let first_bytes = File::open(path)?.take(limit).read_to_end(&mut bytes)?;
        return Ok((bytes, first_bytes));
    }
    let mut first_bytes = 0;
    for name in [WEIGHTS, CONFIG] {
        let file = match File::open(path.join(name)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let count = file.take(limit).read_to_end(&mut bytes)?;
        if name == WEIGHTS {
            first_bytes = count;
        }
    }
    Ok((bytes, first_bytes))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use t2lc_runtime::compile::Format;
    use t2lc_runtime::digest::Digest;
    use t2lc_runtime::peft::{CONFIG, WEIGHTS};

    use super::{State, load, split_peft, state, write};

    fn peft() -> (Vec<u8>, Vec<u8>) {
        let header = br#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
        let mut weights = (header.len() as u64).to_le_bytes().to_vec();
        weights.extend_from_slice(header);
        weights.extend_from_slice(&[1, 2, 3, 4]);
        (weights, b"{}\n".to_vec())
    }

    #[test]
    fn weights_and_settings_come_apart_again() {
        let (weights, config) = peft();
        let both = [weights.clone(), config.clone()].concat();
        assert_eq!(split_peft(&both), Some((&weights[..], &config[..])));
        for end in 0..weights.len() {
            assert_eq!(split_peft(&both[..end]), None, "{end}");
        }
        assert_eq!(split_peft(&[0xff; 40]), None);
    }

    #[test]
    fn both_forms_are_written_compared_and_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let (weights, config) = peft();
        for (format, bytes) in
            [(Format::Gguf, b"gguf".to_vec()), (Format::Peft, [weights, config].concat())]
        {
            let path = dir.path().join(format.name());
            let (content, size_bytes) = (Digest::of(&bytes), bytes.len() as u64);
            let found = || state(&path, format, &content, size_bytes).unwrap();
            assert_eq!(found(), State::Absent);
            write(&path, format, &bytes).unwrap();
            write(&path, format, &bytes).unwrap();
            assert_eq!(found(), State::Right);
            assert_eq!(load(&path, format, &content, size_bytes), Some(bytes.clone()));
            let part = if format == Format::Peft { path.join(CONFIG) } else { path.clone() };
            let mut changed = fs::read(&part).unwrap();
            changed[0] ^= 1;
            fs::write(&part, &changed).unwrap();
            assert!(matches!(found(), State::Content { .. }));
            assert_eq!(load(&path, format, &content, size_bytes), None);
            fs::write(&part, b"").unwrap();
            assert!(matches!(found(), State::Size { .. }));
        }
        assert!(dir.path().join("peft").join(WEIGHTS).is_file());
        let content = Digest::of(b"");
        assert_eq!(state(dir.path(), Format::Gguf, &content, 0).unwrap(), State::Kind);
        let below_a_file = dir.path().join("gguf/mail.gguf");
        assert_eq!(state(&below_a_file, Format::Gguf, &content, 0).unwrap(), State::Absent);
    }

    #[test]
    fn the_same_bytes_parted_elsewhere_are_no_adapter() {
        let dir = tempfile::tempdir().unwrap();
        let (weights, config) = peft();
        let both = [weights.clone(), config].concat();
        let (content, size_bytes) = (Digest::of(&both), both.len() as u64);
        for end in [0, weights.len() - 1, weights.len() + 1, both.len()] {
            fs::write(dir.path().join(WEIGHTS), &both[..end]).unwrap();
            fs::write(dir.path().join(CONFIG), &both[end..]).unwrap();
            let found = state(dir.path(), Format::Peft, &content, size_bytes).unwrap();
            assert_eq!(found, State::Kind, "{end}");
            assert_eq!(load(dir.path(), Format::Peft, &content, size_bytes), None);
        }
        fs::remove_file(dir.path().join(CONFIG)).unwrap();
        let found = state(dir.path(), Format::Peft, &content, size_bytes).unwrap();
        assert_eq!(found, State::Kind);
    }
}
