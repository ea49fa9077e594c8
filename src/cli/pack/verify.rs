//! `t2lc pack verify`: are the files those that the lock names, or is an OCI layout sound?

use std::path::Path;

use anyhow::anyhow;
use serde_json::json;
use t2lc::pack::PackError;
use t2lc::pack::check::check;
use t2lc::pack::lock;
use t2lc::pack::oci::{check_layout, is_layout};

use super::super::failure::{Failure, Outcome};
use super::super::output::{print_json, print_text};
use super::{VerifyArgs, locked};

/// Runs the verb.
pub(super) fn run(args: &VerifyArgs) -> Outcome {
    match &args.directory {
        Some(directory) if is_layout(directory) => verify_layout(args, directory),
        _ => verify_files(args),
    }
}

fn verify_files(args: &VerifyArgs) -> Outcome {
    let path = args.lock.as_deref().unwrap_or(Path::new(lock::FILE));
    let lock = locked::read(path)?;
    let directory = locked::directory(path, &lock, args.directory.as_deref());
    let findings = check(&lock, &directory)?;
    let wrong: Vec<String> =
        findings.iter().filter(|f| !f.is_right()).map(ToString::to_string).collect();
    let shown = directory.display();
    if args.json {
        print_json(&json!({
            "schema": 1, "lock": path.display().to_string(), "directory": shown.to_string(),
            "sound": wrong.is_empty(), "adapters": findings,
        }))?;
    } else if wrong.is_empty() {
        print_text(&format!("{shown}: {} adapters as locked\n", findings.len()))?;
    }
    if wrong.is_empty() {
        return Ok(());
    }
    let error = anyhow!("`{shown}` is not what the lock says:\n  {}", wrong.join("\n  "));
    Err(Failure::input("pack.files", error)
        .hint("put them right with `t2lc pack build --locked`")
        .answered(args.json))
}

/// A layout carries its own lock; one that is given must be the same.
fn verify_layout(args: &VerifyArgs, directory: &Path) -> Outcome {
    let lock = args.lock.as_deref().map(locked::read).transpose()?;
    let found = check_layout(directory, lock.as_ref())?;
    let (shown, is_sound) = (directory.display(), found.problems.is_empty());
    if args.json {
        print_json(&json!({
            "schema": 1,
            "lock": args.lock.as_ref().map(|path| path.display().to_string()),
            "directory": shown.to_string(),
            "sound": is_sound,
            "manifest": found.manifest,
            "counts": {
                "adapters": found.adapters,
                "blobs": found.blobs,
                "statements": found.statements,
            },
            "problems": found.problems,
        }))?;
    } else if let (true, Some(manifest)) = (is_sound, found.manifest) {
        let statement = if found.statements == 0 { "without" } else { "with" };
        let (adapters, blobs) = (found.adapters, found.blobs);
        print_text(&format!(
            "{shown}: {adapters} adapters in {blobs} blobs as locked, {statement} a statement of \
             their origin, {manifest}\n"
        ))?;
    }
    if is_sound {
        return Ok(());
    }
    let error = PackError::Layout { path: directory.to_owned(), problems: found.problems };
    Err(Failure::from(error).answered(args.json))
}
