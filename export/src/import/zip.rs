//! Zip archives as `torch.save` writes them, read without trust.
//!
//! In: a seekable reader. Out: entries by name, each read whole and checked against its CRC-32.
//! `torch.save` stores entries as they are, so that only stored entries are read: an archive cannot
//! unpack to more than its own size. Names are looked up and never used as paths.
//!
//! Invariants of an opened archive: every name is relative, without `.` and `..`, and there once;
//! every entry lies between the start of the file and its directory, and none overlaps another.
//!
//! Layout, little-endian; the directory says where the entries are, and its end record where it is:
//!
//! ```text
//! entry      "PK\3\4", 22 bytes that the directory repeats, u16 name length, u16 extra length,
//!            name, extra (padding), data, optionally its CRC-32 and sizes once more
//! directory  per entry "PK\1\2", … flags, method, CRC-32, both sizes, lengths, offset, name
//! end        optionally a 64-bit end record; "PK\5\6", …, entries, directory size and offset
//! ```
//!
//! A file below 4 GiB needs none of the 64-bit fields, and larger ones are refused.
//!
//! Source: PKWARE's APPNOTE.TXT, sections 4.3 and 4.4, and what `torch.save` makes of it.

use std::collections::BTreeMap;
use std::io::{self, Read, Seek, SeekFrom};

use super::error::ArchiveError;

/// Largest file whose fields all fit 32 bits.
pub(crate) const MAX_FILE_BYTES: u64 = (1 << 32) - 2;
/// Most entries; a state dict has one per storage.
const MAX_ENTRIES: usize = 1 << 13;
/// Largest directory that is read.
const MAX_DIRECTORY_BYTES: u64 = 1 << 21;

const ENTRY: [u8; 4] = *b"PK\x03\x04";
const DIRECTORY: [u8; 4] = *b"PK\x01\x02";
const END: [u8; 4] = *b"PK\x05\x06";
/// Bytes of an entry before its name.
const ENTRY_BYTES: usize = 30;
/// Bytes of the end record, without a comment.
const END_BYTES: u64 = 22;

/// The data is followed by its CRC-32 and sizes.
const FLAG_DESCRIPTOR: u16 = 1 << 3;
/// The name is UTF-8.
const FLAG_UTF8: u16 = 1 << 11;

/// An opened archive.
pub(super) struct Archive<R> {
    reader: R,
    entries: BTreeMap<String, Entry>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    /// Where the entry's own header starts.
    header_at: u64,
    /// Where the data starts.
    data_at: u64,
    bytes: u64,
    crc: u32,
}

impl<R: Read + Seek> Archive<R> {
    /// Reads the directory and the place of every entry.
    pub(super) fn open(mut reader: R) -> Result<Self, ArchiveError> {
        let file_bytes = reader.seek(SeekFrom::End(0))?;
        if file_bytes > MAX_FILE_BYTES {
            return Err(ArchiveError::TooLarge { got: file_bytes, limit: MAX_FILE_BYTES });
        }
        let end_at = file_bytes.checked_sub(END_BYTES).ok_or(ArchiveError::NotZip)?;
        let end = EndRecord::read(&read_at(&mut reader, end_at, END_BYTES)?, end_at)?;
        let directory = read_at(&mut reader, end.directory_at, end.directory_bytes)?;
        let mut entries = read_directory(&directory, end.entries)?;
        for (name, entry) in &mut entries {
            let header = read_at(&mut reader, entry.header_at, ENTRY_BYTES as u64)?;
            let Some(skip) = entry_skip(&header) else {
                return Err(ArchiveError::Header { entry: name.clone(), at: entry.header_at });
            };
            entry.data_at = entry.header_at + skip;
        }
        check_places(&entries, end.directory_at)?;
        Ok(Self { reader, entries })
    }

    /// The folder that every entry of the archive is in: that of `data.pkl`.
    pub(super) fn root(&self) -> Result<String, ArchiveError> {
        let folder = |name: &String| {
            let (folder, file) = name.rsplit_once('/')?;
            (file == "data.pkl" && !folder.contains('/')).then(|| folder.to_owned())
        };
        let mut found = self.entries.keys().filter_map(folder);
        match (found.next(), found.next()) {
            (Some(folder), None) => Ok(folder),
            (None, _) => Err(ArchiveError::Missing { entry: "<archive>/data.pkl".to_owned() }),
            (Some(_), Some(_)) => Err(ArchiveError::Directory { reason: "two `data.pkl`".into() }),
        }
    }

    /// Size of an entry's data.
    pub(super) fn size(&self, name: &str) -> Option<u64> {
        self.entries.get(name).map(|entry| entry.bytes)
    }

    /// The data of an entry of at most `limit` bytes.
    pub(super) fn read(&mut self, name: &str, limit: u64) -> Result<Vec<u8>, ArchiveError> {
        let entry = self.entries.get(name).copied();
        let entry = entry.ok_or_else(|| ArchiveError::Missing { entry: name.to_owned() })?;
        if entry.bytes > limit {
            let (entry, got) = (name.to_owned(), entry.bytes);
            return Err(ArchiveError::EntryTooLarge { entry, got, limit });
        }
        let bytes = read_at(&mut self.reader, entry.data_at, entry.bytes)?;
        let got = crc32(&bytes);
        if got != entry.crc {
            let (entry, expected) = (name.to_owned(), entry.crc);
            return Err(ArchiveError::Checksum { entry, expected, got });
        }
        Ok(bytes)
    }
}

struct EndRecord {
    entries: usize,
    directory_at: u64,
    directory_bytes: u64,
}

impl EndRecord {
    /// Reads the record; what the directory says must lie before it.
    fn read(bytes: &[u8], end_at: u64) -> Result<Self, ArchiveError> {
        let mut fields = Fields(bytes);
        if fields.array::<4>() != Some(END) {
            return Err(ArchiveError::NotZip);
        }
        let read = |fields: &mut Fields<'_>| {
            let disks = [fields.u16()?, fields.u16()?];
            let entries = [fields.u16()?, fields.u16()?];
            let (bytes, at) = (fields.u32()?, fields.u32()?);
            let comment = fields.u16()?;
            Some((disks, entries, u64::from(bytes), u64::from(at), comment))
        };
        let Some((disks, [here, entries], directory_bytes, directory_at, comment)) =
            read(&mut fields)
        else {
            return Err(ArchiveError::NotZip);
        };
        let damaged = |reason: String| Err(ArchiveError::Directory { reason });
        if disks != [0, 0] || here != entries || comment != 0 {
            return damaged("several volumes, or a comment".into());
        }
        let entries = usize::from(entries);
        if entries > MAX_ENTRIES {
            return damaged(format!("{entries} entries, at most {MAX_ENTRIES} are read"));
        }
        // Both come from 32-bit fields: the sum cannot overflow.
        let directory_end = directory_at + directory_bytes;
        if directory_end > end_at || directory_bytes > MAX_DIRECTORY_BYTES {
            return damaged(format!(
                "{directory_bytes} bytes at byte {directory_at}, its end record is at byte {end_at}"
            ));
        }
        Ok(Self { entries, directory_at, directory_bytes })
    }
}

/// The entries of a directory; where their data starts is not known yet.
fn read_directory(bytes: &[u8], count: usize) -> Result<BTreeMap<String, Entry>, ArchiveError> {
    let mut fields = Fields(bytes);
    let mut entries = BTreeMap::new();
    for index in 0..count {
        let Some(record) = DirectoryRecord::read(&mut fields) else {
            let reason = format!("entry {index} of {count} is cut off or malformed");
            return Err(ArchiveError::Directory { reason });
        };
        let (name, entry) = record.checked()?;
        if entries.insert(name.clone(), entry).is_some() {
            return Err(ArchiveError::Duplicate { entry: name });
        }
    }
    if !fields.0.is_empty() {
        let reason = format!("{} bytes after the last entry", fields.0.len());
        return Err(ArchiveError::Directory { reason });
    }
    Ok(entries)
}

struct DirectoryRecord<'a> {
    flags: u16,
    method: u16,
    crc: u32,
    packed_bytes: u32,
    bytes: u32,
    header_at: u32,
    name: &'a [u8],
}

impl<'a> DirectoryRecord<'a> {
    fn read(fields: &mut Fields<'a>) -> Option<Self> {
        fields.array::<4>().filter(|signature| *signature == DIRECTORY)?;
        fields.take(4)?; // versions
        let (flags, method) = (fields.u16()?, fields.u16()?);
        fields.take(4)?; // time and date
        let (crc, packed_bytes, bytes) = (fields.u32()?, fields.u32()?, fields.u32()?);
        let lengths = [fields.u16()?, fields.u16()?, fields.u16()?];
        fields.take(8)?; // volume and attributes
        let header_at = fields.u32()?;
        let [name, extra, comment] = lengths.map(usize::from);
        let name = fields.take(name)?;
        fields.take(extra + comment)?;
        Some(Self { flags, method, crc, packed_bytes, bytes, header_at, name })
    }

    fn checked(&self) -> Result<(String, Entry), ArchiveError> {
        let shown = String::from_utf8_lossy(self.name).escape_debug().to_string();
        let Some(name) = str::from_utf8(self.name).ok().filter(|name| is_plain(name)) else {
            return Err(ArchiveError::Name { entry: shown });
        };
        if self.method != 0 {
            return Err(ArchiveError::Compressed { entry: shown, method: self.method });
        }
        if self.flags & !(FLAG_DESCRIPTOR | FLAG_UTF8) != 0 {
            return Err(ArchiveError::Flags { entry: shown, flags: self.flags });
        }
        if self.packed_bytes != self.bytes {
            let (expected, got) = (self.bytes, self.packed_bytes);
            return Err(ArchiveError::Sizes { entry: shown, expected, got });
        }
        let (header_at, bytes) = (u64::from(self.header_at), u64::from(self.bytes));
        Ok((name.to_owned(), Entry { header_at, data_at: header_at, bytes, crc: self.crc }))
    }
}

/// Whether a name is relative and stays below the folder that it starts in.
fn is_plain(name: &str) -> bool {
    let plain = |part: &str| {
        let other = |c: char| c.is_control() || c == '\\' || c == ':';
        !matches!(part, "" | "." | "..") && !part.contains(other)
    };
    name.split('/').all(plain)
}

/// Bytes from the start of an entry to its data.
fn entry_skip(header: &[u8]) -> Option<u64> {
    let mut fields = Fields(header);
    fields.array::<4>().filter(|signature| *signature == ENTRY)?;
    fields.take(22)?;
    let lengths = u64::from(fields.u16()?) + u64::from(fields.u16()?);
    Some(ENTRY_BYTES as u64 + lengths)
}

/// Refuses entries that overlap each other or the directory.
fn check_places(entries: &BTreeMap<String, Entry>, directory_at: u64) -> Result<(), ArchiveError> {
    let mut places: Vec<(u64, u64, &str)> = entries
        .iter()
        .map(|(name, entry)| (entry.header_at, entry.data_at + entry.bytes, name.as_str()))
        .collect();
    places.sort_unstable();
    for (index, (_, end, name)) in places.iter().enumerate() {
        let (limit, what) = match places.get(index + 1) {
            Some((next, _, other)) => (*next, format!("`{}`", other.escape_debug())),
            None => (directory_at, "the directory".to_owned()),
        };
        if *end > limit {
            let entry = name.escape_debug().to_string();
            return Err(ArchiveError::Overlap { entry, what, expected: limit, got: *end });
        }
    }
    Ok(())
}

/// Bytes at a place in the file. The caller has checked that they are there: no more is allocated
/// than the file has.
fn read_at(reader: &mut (impl Read + Seek), at: u64, count: u64) -> Result<Vec<u8>, ArchiveError> {
    reader.seek(SeekFrom::Start(at))?;
    let mut bytes = Vec::new();
    reader.take(count).read_to_end(&mut bytes)?;
    if bytes.len() as u64 != count {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    Ok(bytes)
}

/// Little-endian fields, one after the other; `None` where the bytes end.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*head)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }
}

/// The CRC-32 of zip files (polynomial 0xEDB88320, reflected).
pub(crate) fn crc32(bytes: &[u8]) -> u32 {
    static TABLE: [u32; 256] = crc_table();
    let step = |crc: u32, byte: &u8| {
        let [low, ..] = crc.to_le_bytes();
        TABLE[usize::from(low ^ byte)] ^ (crc >> 8)
    };
    !bytes.iter().fold(u32::MAX, step)
}

const fn crc_table() -> [u32; 256] {
    let mut table = [0; 256];
    let (mut index, mut byte) = (0, 0_u32);
    while index < table.len() {
        let (mut value, mut bit) = (byte, 0);
        while bit < 8 {
            let carry = value & 1;
            value >>= 1;
            if carry == 1 {
                value ^= 0xEDB8_8320;
            }
            bit += 1;
        }
        table[index] = value;
        index += 1;
        byte += 1;
    }
    table
}
