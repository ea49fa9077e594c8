//! Zip archives as `torch.load` reads them, written in one pass.
//!
//! In: entries, one after the other. Out: the bytes of an archive, the same for the same entries:
//! every entry is stored as it is, of the first day that a zip file can name. The data of an entry
//! starts at a multiple of 64 bytes, as after `torch.save`, so that it can be mapped to memory; an
//! extra field `FB` fills the gap.
//!
//! Layout, little-endian:
//!
//! ```text
//! entry      "PK\3\4", the common fields, extra length, name, extra, data
//! directory  per entry "PK\1\2", version, the common fields, three lengths of nothing, volume and
//!            attributes, offset, name
//! end        "PK\5\6", volumes, entries twice, directory size and offset, no comment
//! common     version needed, flags, method, time, date, CRC-32, both sizes, name length
//! ```
//!
//! A file below 4 GiB needs none of the 64-bit fields, and no larger one is written: import does
//! not read it either, and no network that the reference trained comes near.
//!
//! Source: PKWARE's APPNOTE.TXT, sections 4.3 and 4.4; the archives of PyTorch 2.

use super::error::WriteBackError;
use crate::import::{MAX_ARCHIVE_BYTES, crc32};

/// What an entry's data is aligned to.
const ALIGNMENT: usize = 64;
/// Bytes of an entry before its name.
const ENTRY_BYTES: usize = 30;
/// Bytes of the extra field before its padding.
const EXTRA_BYTES: usize = 4;
/// Room for everything that is not data, in the archive of any network of common size.
const ROOM_BYTES: usize = 1 << 19;

/// Version 1.0 of the format: stored entries need no more.
const VERSION: u16 = 10;
/// 1980-01-01.
const DATE: u16 = (1 << 5) | 1;

/// An archive in the making.
pub(super) struct ArchiveWriter {
    file: Vec<u8>,
    directory: Vec<u8>,
    entries: usize,
}

impl ArchiveWriter {
    /// An archive for about this many bytes of data.
    pub(super) fn for_data(bytes: u64) -> Result<Self, WriteBackError> {
        let capacity = usize::try_from(bytes).ok().filter(|_| bytes <= MAX_ARCHIVE_BYTES);
        let capacity = capacity.ok_or_else(|| too_large("bytes", bytes, MAX_ARCHIVE_BYTES))?;
        let file = Vec::with_capacity(capacity.saturating_add(ROOM_BYTES));
        Ok(Self { file, directory: Vec::new(), entries: 0 })
    }

    /// Adds an entry.
    pub(super) fn add(&mut self, name: &str, data: &[u8]) -> Result<(), WriteBackError> {
        let entry_at = offset(self.file.len())?;
        let common = common(name, data)?;
        let unaligned = self.file.len() + ENTRY_BYTES + name.len() + EXTRA_BYTES;
        let padding = unaligned.next_multiple_of(ALIGNMENT) - unaligned;

        self.file.extend(b"PK\x03\x04");
        self.file.extend(&common);
        self.file.extend(short(EXTRA_BYTES + padding)?);
        self.file.extend(name.as_bytes());
        self.file.extend(b"FB");
        self.file.extend(short(padding)?);
        self.file.extend([b'Z'].repeat(padding));
        self.file.extend(data);

        self.directory.extend(b"PK\x01\x02");
        self.directory.extend(VERSION.to_le_bytes());
        self.directory.extend(&common);
        self.directory.extend([0; 4]); // extra field and comment
        self.directory.extend([0; 8]); // volume and attributes
        self.directory.extend(entry_at);
        self.directory.extend(name.as_bytes());
        self.entries += 1;
        Ok(())
    }

    /// Adds the directory and gives the whole file.
    pub(super) fn finish(self) -> Result<Vec<u8>, WriteBackError> {
        let Self { mut file, directory, entries } = self;
        let (directory_at, directory_bytes) = (offset(file.len())?, offset(directory.len())?);
        let entries = short(entries)?;
        file.extend(directory);
        file.extend(b"PK\x05\x06");
        file.extend([0; 4]); // this volume, that of the directory
        file.extend([entries, entries].concat());
        file.extend([directory_bytes, directory_at].concat());
        file.extend([0; 2]); // no comment
        let bytes = file.len() as u64;
        if bytes > MAX_ARCHIVE_BYTES {
            return Err(too_large("bytes", bytes, MAX_ARCHIVE_BYTES));
        }
        Ok(file)
    }
}

/// The fields that an entry and the directory share.
fn common(name: &str, data: &[u8]) -> Result<Vec<u8>, WriteBackError> {
    let size = offset(data.len())?;
    let mut fields = Vec::new();
    fields.extend(VERSION.to_le_bytes());
    fields.extend([0; 6]); // no flags, stored, midnight
    fields.extend(DATE.to_le_bytes());
    fields.extend(crc32(data).to_le_bytes());
    fields.extend([size, size].concat());
    fields.extend(short(name.len())?);
    Ok(fields)
}

/// A size or place in the file as a field of four bytes.
fn offset(bytes: usize) -> Result<[u8; 4], WriteBackError> {
    let field = u32::try_from(bytes).map(u32::to_le_bytes);
    field.map_err(|_| too_large("bytes", bytes as u64, MAX_ARCHIVE_BYTES))
}

/// A number as a field of two bytes.
fn short(number: usize) -> Result<[u8; 2], WriteBackError> {
    let field = u16::try_from(number).map(u16::to_le_bytes);
    let limit = u64::from(u16::MAX);
    field.map_err(|_| too_large("entries or bytes of a name", number as u64, limit))
}

fn too_large(what: &'static str, got: u64, limit: u64) -> WriteBackError {
    WriteBackError::TooLarge { what, got, limit }
}
