//! Where compiled adapters are kept: the store of this machine, and one that machines share.

use std::path::PathBuf;

use clap::Args;
use t2lc::pack::PackError;
use t2lc::store::Store;

/// Options that name the stores.
#[derive(Debug, Args)]
pub(crate) struct StoreArgs {
    /// Directory of the store [default: what T2LC_STORE says, or t2lc/store in the user's cache]
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
    /// Store behind it that machines share, for example s3://bucket/adapters or file:///srv/adapters
    /// [default: what T2LC_REMOTE says]
    #[arg(long, value_name = "URL")]
    remote: Option<String>,
}

impl StoreArgs {
    /// The store, with the shared one behind it if there is one.
    pub(super) fn open(&self) -> Result<Store, PackError> {
        let store = Store::locate(self.store.as_deref())?;
        Ok(store.locate_remote(self.remote.as_deref())?)
    }

    /// The store, where one is a help and not needed; a failure counts only if it was asked for.
    pub(super) fn open_any(&self) -> Result<Option<Store>, PackError> {
        match self.open() {
            Ok(store) => Ok(Some(store)),
            Err(_) if self.store.is_none() && self.remote.is_none() => Ok(None),
            Err(error) => Err(error),
        }
    }
}
