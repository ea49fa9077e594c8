//! `t2lc pack export`: a pack as an OCI image layout, a statement of its origin, or both.

use std::path::PathBuf;

use clap::{ArgGroup, Args};
use serde_json::json;
use t2lc::pack::lock;
use t2lc::pack::oci::{
    DEFAULT_TAG, PORTABLE_MANIFEST_BYTES, Source, Tag, export, export_statement,
};
use t2lc_runtime::atomic::write_atomically;
use t2lc_runtime::error::Error;

use super::super::failure::Outcome;
use super::super::output::{human_bytes, print_json, refuse_existing, say};
use super::locked;
use super::stored::StoreArgs;

/// What `--help` ends with.
pub(super) const AFTER_HELP: &str = "\
Example: t2lc pack export --oci pack.oci

Clients copy the layout to a registry, oras with the statement and skopeo without:
  oras cp -r --from-oci-layout pack.oci:latest REGISTRY/NAME:latest
  skopeo copy oci:pack.oci:latest docker://REGISTRY/NAME:latest

Nothing is signed. What signs images signs the copy in the registry, `cosign sign` for example;
`cosign attest-blob --statement FILE` signs the statement.";

/// Options of `pack export`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("target").required(true).multiple(true))]
pub(crate) struct ExportArgs {
    /// OCI image layout to write: the lock, every file of the adapters, and the statement
    #[arg(long, value_name = "DIR", group = "target")]
    oci: Option<PathBuf>,
    /// File for the statement alone: in-toto with SLSA provenance, not signed
    #[arg(long, value_name = "FILE", group = "target")]
    statement: Option<PathBuf>,
    /// The lock
    #[arg(long, value_name = "FILE", default_value = lock::FILE)]
    lock: PathBuf,
    /// Directory of the files, asked before the store [default: the one that the lock names]
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
    #[command(flatten)]
    stores: StoreArgs,
    /// Name of the pack in the layout
    #[arg(long, value_name = "TAG", default_value = DEFAULT_TAG)]
    tag: Tag,
    /// Replace a layout or a statement that exists
    #[arg(long)]
    force: bool,
    /// Print as JSON
    #[arg(long)]
    pub(super) json: bool,
}

/// Runs the verb.
pub(super) fn run(args: &ExportArgs, quiet: bool) -> Outcome {
    let lock = locked::read(&args.lock)?;
    let directory = locked::directory(&args.lock, &lock, args.directory.as_deref());
    let store = args.stores.open()?;
    let source = Source { directory: &directory, store: &store };
    if let Some(file) = &args.statement {
        refuse_existing(file, args.force)?;
    }
    let (written, statement) = match &args.oci {
        Some(target) => {
            let exported = export(&lock, source, target, &args.tag, args.force)?;
            let size = human(exported.size_bytes);
            let (files, blobs, manifest) = (exported.files, exported.blobs, exported.manifest);
            let shown = format!("{}:{}", target.display(), args.tag);
            say(quiet, &format!("wrote {shown}: {files} files, {blobs} blobs, {size}, {manifest}"));
            if exported.manifest_bytes > PORTABLE_MANIFEST_BYTES {
                let size = human(exported.manifest_bytes);
                say(quiet, &format!("warning: not every registry takes a manifest of {size}"));
            }
            let written = json!({
                "directory": target.display().to_string(),
                "tag": args.tag.to_string(),
                "manifest": manifest,
                "manifest_bytes": exported.manifest_bytes,
                "files": files,
                "blobs": blobs,
                "size_bytes": exported.size_bytes,
            });
            (Some(written), exported.statement)
        }
        None => (None, export_statement(&lock, source)?),
    };
    if let Some(file) = &args.statement {
        write_atomically(file, &statement, args.force).map_err(Error::from)?;
        say(quiet, &format!("wrote {}, which is not signed", file.display()));
    }
    if args.json {
        print_json(&json!({
            "schema": 1,
            "lock": args.lock.display().to_string(),
            "adapters": lock.adapters.len(),
            "oci": written,
            "statement": args.statement.as_ref().map(|file| file.display().to_string()),
        }))?;
    }
    Ok(())
}

fn human(bytes: u64) -> String {
    human_bytes(usize::try_from(bytes).unwrap_or(usize::MAX))
}
