//! What can be wrong with an archive.

use std::io;

/// Why the archive `hypermod.pt` is not one that `torch.save` wrote.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// The file cannot be read, or ends inside an entry.
    #[error("cannot read the archive")]
    Read(#[from] io::Error),
    /// The end of the file is not that of an archive.
    #[error(
        "the file does not end as a zip archive: it is cut off, or `torch.save` did not write it"
    )]
    NotZip,
    /// A file that would need the fields of 64-bit archives.
    #[error("the archive has {got} bytes, at most {limit} are read")]
    TooLarge {
        /// Size in bytes.
        got: u64,
        /// Largest size that is read.
        limit: u64,
    },
    /// The directory contradicts the file.
    #[error("the archive's directory is unusable: {reason}")]
    Directory {
        /// What is wrong.
        reason: String,
    },
    /// A name that could mean a place outside of the archive.
    #[error("archive entry `{entry}` has a name that is not plain and relative")]
    Name {
        /// The name, escaped.
        entry: String,
    },
    /// Two entries of one name.
    #[error("archive entry `{entry}` is there twice")]
    Duplicate {
        /// The name.
        entry: String,
    },
    /// Not stored as it is.
    #[error("archive entry `{entry}` is compressed (method {method}), expected to be stored")]
    Compressed {
        /// The name.
        entry: String,
        /// The method's number.
        method: u16,
    },
    /// Encrypted, or something else that is not read.
    #[error("archive entry `{entry}` has flags {flags:#06x}, expected none but 0x0808")]
    Flags {
        /// The name.
        entry: String,
        /// Its flags.
        flags: u16,
    },
    /// A stored entry whose two sizes differ.
    #[error("archive entry `{entry}` has {expected} bytes, but {got} as stored")]
    Sizes {
        /// The name.
        entry: String,
        /// Size of the data.
        expected: u32,
        /// Size in the archive.
        got: u32,
    },
    /// The place of an entry does not start like one.
    #[error("archive entry `{entry}` does not start at byte {at}, as the directory says")]
    Header {
        /// The name.
        entry: String,
        /// Where it should be.
        at: u64,
    },
    /// Two entries share bytes, or one reaches beyond the data.
    #[error("archive entry `{entry}` ends at byte {got}, {what} starts at byte {expected}")]
    Overlap {
        /// The name.
        entry: String,
        /// What it reaches into.
        what: String,
        /// Where that starts.
        expected: u64,
        /// Where the entry ends.
        got: u64,
    },
    /// An entry that declares more bytes than it can need.
    #[error("archive entry `{entry}` has {got} bytes, at most {limit} are read")]
    EntryTooLarge {
        /// The name.
        entry: String,
        /// Its size in bytes.
        got: u64,
        /// Largest size that is read.
        limit: u64,
    },
    /// The data changed since it was written.
    #[error("archive entry `{entry}` has CRC-32 {got:08x}, the directory says {expected:08x}")]
    Checksum {
        /// The name.
        entry: String,
        /// According to the directory.
        expected: u32,
        /// Of the data.
        got: u32,
    },
    /// No such entry.
    #[error("the archive has no entry `{entry}`")]
    Missing {
        /// The name.
        entry: String,
    },
}
