//! Where the files of a bundle come from, and how their bytes are held.
//!
//! Files on disk are mapped into memory, not read: of 40 MB of weights, pages that are not used are
//! never loaded, and the system may drop those that were. A mapping shows the file as it is, so it
//! must not be shortened while it is open (a read past the new end would stop the process) nor be
//! written to. Bundles are written under another name and renamed, so what is in place stays as it is.

#![allow(unsafe_code, reason = "memory maps")]

use std::fs::File;
use std::io;

use bytes::Bytes;
use memmap2::MmapOptions;

/// The caller's own way to the files of a bundle.
pub trait BundleReader {
    /// Bytes of a file; `None` if there is none.
    fn size_bytes(&mut self, name: &str) -> Option<u64>;

    /// Fills `into` with a file from its start.
    ///
    /// # Errors
    /// Whatever keeps it from doing so.
    fn read(&mut self, name: &str, into: &mut [u8]) -> io::Result<()>;
}

/// A file of a bundle inside an open file, such as an app's archive of assets.
#[derive(Debug, Clone, Copy)]
pub struct FileRange<'a> {
    /// Its name in the bundle.
    pub name: &'a str,
    /// The open file.
    pub file: &'a File,
    /// Where it begins.
    pub offset: u64,
    /// Its bytes.
    pub size_bytes: u64,
}

/// Maps a range of a file, which must lie within it.
pub(super) fn map(file: &File, offset: u64, size_bytes: u64) -> io::Result<Bytes> {
    let end = offset.checked_add(size_bytes);
    let length = file.metadata()?.len();
    if end.is_none_or(|end| end > length) {
        let reason = format!("{size_bytes} bytes from {offset} of a file of {length}");
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, reason));
    }
    let Ok(size) = usize::try_from(size_bytes) else {
        return Err(io::Error::new(io::ErrorKind::OutOfMemory, "more than can be addressed"));
    };
    if size == 0 {
        // Systems refuse to map nothing.
        return Ok(Bytes::new());
    }
    // SAFETY: the range lies within the file, and it is up to whoever placed the bundle that it is
    // not changed while it is open, as the documentation of the module says.
    let map = unsafe { MmapOptions::new().offset(offset).len(size).map(file) }?;
    Ok(Bytes::from_owner(map))
}
