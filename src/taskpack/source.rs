//! The files of one source of tasks, read within limits.
//!
//! In: the path that the user named, and paths below it. Out: texts, and a digest of name and
//! content of all that was read, whatever the order of reading. A link may point to another file
//! of the source but not out of it; only plain files are opened, since others may never end.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use t2lc_runtime::digest::{Digest, Hasher};

use super::TaskPackError;
use super::problems::Problems;

/// Largest data file that is read.
pub(super) const MAX_FILE_BYTES: u64 = 512 << 20;
/// What the digest starts with; the number changes with the encoding.
const DIGEST_DOMAIN: &[u8] = b"t2lc/tasks/1\0";

/// A directory, or a single file.
#[derive(Debug)]
pub(super) struct Source {
    path: PathBuf,
    /// The same place without links.
    real: PathBuf,
    /// Name below `path`, with `/`, and digest of each file that was read.
    files: BTreeMap<String, Digest>,
}

impl Source {
    /// The source at `path`.
    pub(super) fn open(path: &Path) -> Result<Self, TaskPackError> {
        match path.canonicalize() {
            Ok(real) => Ok(Self { path: path.to_owned(), real, files: BTreeMap::new() }),
            Err(e) => Err(TaskPackError { problems: vec![format!("{}: {e}", path.display())] }),
        }
    }

    /// The text of a file of at most `limit_bytes`; none if that is a problem.
    pub(super) fn read(
        &mut self,
        path: &Path,
        limit_bytes: u64,
        problems: &mut Problems,
    ) -> Option<String> {
        let bytes = match self.read_bytes(path, limit_bytes) {
            Ok(bytes) => bytes,
            Err(what) => {
                problems.add(path, None, &what);
                return None;
            }
        };
        match String::from_utf8(bytes) {
            Ok(text) => {
                self.files.insert(self.name(path), Digest::of(text.as_bytes()));
                Some(text)
            }
            Err(e) => {
                let valid = &e.as_bytes()[..e.utf8_error().valid_up_to()];
                let line = valid.split(|&byte| byte == b'\n').count();
                problems.add(path, Some(line), "not UTF-8");
                None
            }
        }
    }

    fn read_bytes(&self, path: &Path, limit_bytes: u64) -> Result<Vec<u8>, String> {
        let too_large = |size: u64| format!("{size} bytes, at most {limit_bytes} are read");
        let real = path.canonicalize().map_err(|e| e.to_string())?;
        if !real.starts_with(&self.real) {
            return Err(format!("is a link that leaves `{}`", self.path.display()));
        }
        let metadata = real.metadata().map_err(|e| e.to_string())?;
        if !metadata.is_file() {
            return Err("is not a plain file".into());
        }
        if metadata.len() > limit_bytes {
            return Err(too_large(metadata.len()));
        }
        let mut bytes = Vec::new();
        let file = File::open(&real).map_err(|e| e.to_string())?;
        // The file may have grown since.
        file.take(limit_bytes + 1).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
        let size = bytes.len() as u64;
        if size > limit_bytes { Err(too_large(size)) } else { Ok(bytes) }
    }

    fn name(&self, path: &Path) -> String {
        let below = path.strip_prefix(&self.path).unwrap_or(path);
        let parts: Vec<_> = below
            .components()
            .filter_map(|part| match part {
                Component::Normal(name) => Some(name.to_string_lossy()),
                _ => None,
            })
            .collect();
        // A source that is one file goes by its own name.
        let own = || path.file_name().map(|name| name.to_string_lossy().into_owned());
        if parts.is_empty() { own().unwrap_or_default() } else { parts.join("/") }
    }

    /// Digest of all files that were read.
    pub(super) fn digest(&self) -> Digest {
        let mut hasher = Hasher::new();
        hasher.update(DIGEST_DOMAIN);
        for (name, digest) in &self.files {
            hasher.update_prefixed(name.as_bytes());
            hasher.update(digest.as_bytes());
        }
        hasher.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::{MAX_FILE_BYTES, Problems, Source, TaskPackError};

    #[test]
    fn the_digest_covers_names_and_contents_but_not_the_order() {
        let digest = |files: [(&str, &str); 2], back: bool| {
            let dir = tempfile::tempdir().unwrap();
            let mut source = Source::open(dir.path()).unwrap();
            for (name, text) in files {
                std::fs::write(dir.path().join(name), text).unwrap();
            }
            let mut names = files.map(|(name, _)| name);
            if back {
                names.reverse();
            }
            for name in names {
                let path = dir.path().join(name);
                source.read(&path, 100, &mut Problems::default()).unwrap();
            }
            source.digest()
        };
        let first = digest([("a", "x"), ("b", "y")], false);
        assert_eq!(digest([("a", "x"), ("b", "y")], true), first);
        assert_ne!(digest([("a", "y"), ("b", "x")], false), first);
        assert_ne!(digest([("a", "x"), ("c", "y")], false), first);
    }

    #[test]
    fn too_large_or_broken_files_are_refused_before_they_are_used() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let large = std::fs::File::create(path("large")).unwrap();
        large.set_len(MAX_FILE_BYTES + 1).unwrap();
        std::fs::write(path("bytes"), b"fine\nfine\n\xff\n").unwrap();
        std::fs::create_dir(path("folder")).unwrap();
        let mut source = Source::open(dir.path()).unwrap();
        let mut problems = Problems::default();
        for name in ["large", "bytes", "folder", "missing"] {
            assert_eq!(source.read(&path(name), MAX_FILE_BYTES, &mut problems), None, "{name}");
        }
        let listed = TaskPackError::from(problems).problems;
        assert!(listed[0].contains("large: 536870913 bytes, at most 536870912"), "{}", listed[0]);
        assert!(listed[1].ends_with("bytes:3: not UTF-8"), "{}", listed[1]);
        assert!(listed[2].ends_with("folder: is not a plain file"), "{}", listed[2]);
        assert!(listed[3].contains("missing: "), "{}", listed[3]);
    }

    #[cfg(unix)]
    #[test]
    fn links_stay_inside() {
        use std::os::unix::fs::symlink;
        let (outside, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(outside.path().join("secret"), "secret").unwrap();
        std::fs::write(dir.path().join("plain"), "plain").unwrap();
        symlink(outside.path().join("secret"), dir.path().join("out")).unwrap();
        symlink("plain", dir.path().join("in")).unwrap();
        let mut source = Source::open(dir.path()).unwrap();
        let mut problems = Problems::default();
        let inside = source.read(&dir.path().join("in"), 100, &mut problems);
        assert_eq!(inside.as_deref(), Some("plain"));
        assert_eq!(source.read(&dir.path().join("out"), 100, &mut problems), None);
        let listed = TaskPackError::from(problems).problems;
        assert!(listed[0].contains("out: is a link that leaves"), "{}", listed[0]);
    }
}
