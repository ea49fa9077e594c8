//! What `origin.json` says of an import: which file was read, and in which order of the modules.

use std::io::{self, Read};

use t2lc_runtime::digest::{Digest, Hasher};
use t2lc_runtime::manifest::OriginInfo;

use super::{ARCHIVE_FILE, Imported, ModuleOrder};

/// Name of the form of checkpoint that is imported.
pub const FORMAT: &str = "text-to-lora";
/// Licence of weights whose licence nobody gave.
pub const UNKNOWN_LICENCE: &str = "unknown";

const CHUNK_BYTES: usize = 1 << 16;

impl Imported {
    /// Where the network comes from: `archive` is the file that was imported, from its start.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn origin(
        &self,
        archive: impl Read,
        order: &ModuleOrder,
        licence: Option<&str>,
    ) -> io::Result<OriginInfo> {
        let config = &self.checkpoint.config;
        let module_order = match order {
            ModuleOrder::Recovered => "head order",
            ModuleOrder::Reversed => "reverse of head order",
            ModuleOrder::Given(_) => "given",
        };
        Ok(OriginInfo {
            format: FORMAT.to_owned(),
            file: ARCHIVE_FILE.to_owned(),
            sha256: digest(archive)?,
            licence: licence.unwrap_or(UNKNOWN_LICENCE).to_owned(),
            variant: config.variant.to_string(),
            module_order: module_order.to_owned(),
            modules: config.base.modules.iter().map(|module| module.name.clone()).collect(),
        })
    }
}

/// The digest of a file that may be larger than what should be in memory.
fn digest(mut file: impl Read) -> io::Result<Digest> {
    let (mut hasher, mut chunk) = (Hasher::new(), vec![0; CHUNK_BYTES]);
    loop {
        match file.read(&mut chunk) {
            Ok(0) => return Ok(hasher.finish()),
            Ok(count) => hasher.update(&chunk[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
