//! Whether a layout is a sound pack. Nothing of it is trusted, and nothing is written.
//!
//! In: a directory, and the lock that it must hold if one is given. Out: what it holds, and
//! everything that is wrong with it. Checked are the layout's version, then size and digest of
//! everything that the index leads to; that the one pack among it has a lock for its config and
//! exactly the lock's files for its layers; and that a statement of ours about it names exactly
//! these files. What others have added to the layout, blobs that nothing leads to and a statement
//! that is missing, because a client has copied the pack without its referrers, are no problems.

use std::collections::BTreeMap;
use std::path::Path;

use t2lc_runtime::digest::Digest;

use super::document::{Descriptor, MANIFEST_TYPE};
use super::files::files;
use super::layout::Layout;
use super::{LOCK_TYPE, PACK_TYPE};
use crate::pack::PackError;
use crate::pack::lock::{Lock, LockedAdapter};
use crate::pack::stale::between_locks;
use crate::pack::statement::{self, subjects};

/// Largest lock or statement that is read: every adapter with the longest description, and more.
const MAX_DOCUMENT_BYTES: u64 = 256 << 20;

/// What a layout holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// Digest of the pack's manifest, if there is one that can be read.
    pub manifest: Option<Digest>,
    /// Adapters of its lock.
    pub adapters: usize,
    /// Blobs that are what their names say.
    pub blobs: usize,
    /// Statements about the pack.
    pub statements: usize,
    /// Everything that is wrong, one text per problem; none if the pack is sound.
    pub problems: Vec<String>,
}

/// Reads all of a layout.
///
/// # Errors
/// A file that is there and cannot be read.
pub fn check_layout(root: &Path, expected: Option<&Lock>) -> Result<Checked, PackError> {
    let mut layout = Layout::new(root);
    let (mut packs, mut referrers) = (Vec::new(), Vec::new());
    for entry in layout.manifests()? {
        if entry.media_type != MANIFEST_TYPE {
            layout.has(&entry)?;
            continue;
        }
        let Some(manifest) = layout.manifest(&entry)? else { continue };
        for blob in manifest.layers.iter().chain([&manifest.config]) {
            layout.has(blob)?;
        }
        match manifest.artifact_type.as_deref() {
            Some(PACK_TYPE) => packs.push(entry),
            Some(statement::MEDIA_TYPE) => referrers.push(entry),
            _ => {}
        }
    }
    let (mut adapters, mut statements) = (0, 0);
    if let [pack] = &packs[..] {
        let titles = layout.titles(pack)?;
        if let Some(lock) = layout.lock(pack, expected)? {
            adapters = lock.adapters.len();
            layout.compare_files(pack, &lock, &titles)?;
        }
        for referrer in &referrers {
            statements += layout.statements(referrer, pack, &titles)?;
        }
    } else {
        let what = format!("it leads to {} packs that can be read, expected one", packs.len());
        layout.problems.add(root, None, &what);
    }
    Ok(Checked {
        manifest: packs.first().map(|pack| pack.digest),
        adapters,
        blobs: layout.sound_blobs(),
        statements,
        problems: layout.problems.into_texts(),
    })
}

/// The files of a pack by title.
type Titles = BTreeMap<String, Descriptor>;

impl Layout<'_> {
    /// The files that a pack's manifest lists.
    fn titles(&mut self, pack: &Descriptor) -> Result<Titles, PackError> {
        let mut titles = Titles::new();
        for layer in self.manifest(pack)?.map(|manifest| manifest.layers).unwrap_or_default() {
            let Some(title) = layer.title().map(str::to_owned) else {
                self.complain(&layer, "a layer of the pack, but without a title");
                continue;
            };
            if let Some(other) = titles.insert(title.clone(), layer) {
                self.complain(&other, &format!("another layer is titled `{title}` as well"));
            }
        }
        Ok(titles)
    }

    /// The lock that a pack's manifest has for its config.
    fn lock(
        &mut self,
        pack: &Descriptor,
        expected: Option<&Lock>,
    ) -> Result<Option<Lock>, PackError> {
        let Some(config) = self.manifest(pack)?.map(|manifest| manifest.config) else {
            return Ok(None);
        };
        if config.media_type != LOCK_TYPE {
            let got = &config.media_type;
            self.complain(pack, &format!("its config is `{got}`, expected `{LOCK_TYPE}`"));
        }
        if config.size > MAX_DOCUMENT_BYTES {
            let got = config.size;
            let what = format!("a lock of {got} bytes, at most {MAX_DOCUMENT_BYTES} are read");
            self.complain(&config, &what);
            return Ok(None);
        }
        if !self.has(&config)? {
            return Ok(None);
        }
        let path = self.path(&config);
        let lock = match Lock::read(&path) {
            Ok(Some(lock)) => lock,
            Ok(None) => return Ok(None),
            Err(PackError::Lock { problems, .. }) => {
                let shown = path.display().to_string();
                for problem in problems {
                    let what = problem.strip_prefix(shown.as_str()).unwrap_or(&problem);
                    self.complain(&config, &format!("no lock that can be used{what}"));
                }
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        if let Some(expected) = expected
            && Digest::of(expected.to_text().as_bytes()) != config.digest
        {
            self.complain(&config, "it is not the lock that was given");
            for change in between_locks(expected, &lock) {
                self.complain(&config, &change.to_string());
            }
        }
        Ok(Some(lock))
    }

    /// Compares the files of a pack with those of its lock.
    fn compare_files(
        &mut self,
        pack: &Descriptor,
        lock: &Lock,
        titles: &Titles,
    ) -> Result<(), PackError> {
        let mut foreign: BTreeMap<&str, &Descriptor> =
            titles.iter().map(|(title, layer)| (title.as_str(), layer)).collect();
        for adapter in &lock.adapters {
            let (wanted, mut layers) = (files(adapter), Vec::new());
            for (title, media_type) in &wanted {
                match foreign.remove(title.as_str()) {
                    None => self.complain(pack, &format!("it has no layer `{title}`")),
                    Some(layer) => {
                        let got = &layer.media_type;
                        if got != media_type {
                            let what = format!("`{title}` is `{got}`, expected `{media_type}`");
                            self.complain(pack, &what);
                        }
                        layers.push(layer);
                    }
                }
            }
            if layers.len() == wanted.len() {
                self.compare_content(pack, adapter, &layers)?;
            }
        }
        for title in foreign.keys() {
            self.complain(pack, &format!("its layer `{title}` is of no adapter of the lock"));
        }
        Ok(())
    }

    /// Compares the files of one adapter with its size and digest.
    fn compare_content(
        &mut self,
        pack: &Descriptor,
        adapter: &LockedAdapter,
        layers: &[&Descriptor],
    ) -> Result<(), PackError> {
        let LockedAdapter { name, content, size_bytes, .. } = adapter;
        let got_bytes = layers.iter().fold(0_u64, |sum, layer| sum.saturating_add(layer.size));
        if got_bytes != *size_bytes {
            let what = format!("`{name}` has {got_bytes} bytes, the lock says {size_bytes}");
            self.complain(pack, &what);
            return Ok(());
        }
        let got = match layers {
            [file] => Some(file.digest),
            [weights, config] => {
                if !self.is_weights(weights)? {
                    self.complain(weights, &format!("it is not the weights of `{name}` alone"));
                }
                self.digest_of(&[*weights, *config])?
            }
            several => self.digest_of(several)?,
        };
        if let Some(got) = got.filter(|got| got != content) {
            self.complain(pack, &format!("`{name}` is {got}, the lock says {content}"));
        }
        Ok(())
    }

    /// Compares the statements of a manifest with the files of the pack; gives how many of them are
    /// about it.
    fn statements(
        &mut self,
        referrer: &Descriptor,
        pack: &Descriptor,
        titles: &Titles,
    ) -> Result<usize, PackError> {
        let Some(manifest) = self.manifest(referrer)? else { return Ok(0) };
        if manifest.subject.is_none_or(|subject| subject.digest != pack.digest) {
            return Ok(0);
        }
        let files: BTreeMap<&str, Digest> =
            titles.iter().map(|(title, layer)| (title.as_str(), layer.digest)).collect();
        let mut count = 0;
        for layer in &manifest.layers {
            if layer.media_type != statement::MEDIA_TYPE {
                continue;
            }
            let Some(bytes) = self.document(layer, MAX_DOCUMENT_BYTES)? else { continue };
            match subjects(&bytes) {
                Ok(None) => {}
                Ok(Some(subjects)) => {
                    count += 1;
                    let subjects = subjects.iter().map(|(title, digest)| (title.as_str(), *digest));
                    if !subjects.eq(files.iter().map(|(title, digest)| (*title, *digest))) {
                        self.complain(layer, "the statement is not about the files of the pack");
                    }
                }
                Err(reason) => self.complain(layer, &reason),
            }
        }
        Ok(count)
    }
}
