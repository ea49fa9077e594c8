//! What `origin.json` says of an import: which file was read, and in which order of the modules.

use std::io::{self, Read};

use t2lc_runtime::digest::Hasher;
use t2lc_runtime::manifest::OriginInfo;

use super::{ARCHIVE_FILE, Imported, ModuleOrder};

/// Name of the form of checkpoint that is imported.
pub const FORMAT: &str = "text-to-lora";
/// Licence of weights whose licence nobody gave.
pub const UNKNOWN_LICENCE: &str = "unknown";

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
        let mut digest = Hasher::new();
        digest.update_from(archive)?;
        let config = &self.checkpoint.config;
        let module_order = match order {
            ModuleOrder::Recovered => "head order",
            ModuleOrder::Reversed => "reverse of head order",
            ModuleOrder::Given(_) => "given",
        };
        Ok(OriginInfo {
            format: FORMAT.to_owned(),
            file: ARCHIVE_FILE.to_owned(),
            sha256: digest.finish(),
            licence: licence.unwrap_or(UNKNOWN_LICENCE).to_owned(),
            variant: config.variant.to_string(),
            module_order: module_order.to_owned(),
            modules: config.base.modules.iter().map(|module| module.name.clone()).collect(),
        })
    }
}
