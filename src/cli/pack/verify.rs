//! `t2lc pack verify`: are the files those that the lock names?

use anyhow::anyhow;
use serde_json::json;
use t2lc::pack::PackError;
use t2lc::pack::check::check;
use t2lc::pack::lock::Lock;

use super::super::failure::{Failure, Outcome};
use super::super::output::{print_json, print_text};
use super::VerifyArgs;

/// Runs the verb.
pub(super) fn run(args: &VerifyArgs) -> Outcome {
    let missing = || PackError::NoLock { path: args.lock.clone() };
    let lock = Lock::read(&args.lock)?.ok_or_else(missing)?;
    let beside = || args.lock.parent().unwrap_or(&args.lock).join(&lock.out);
    let directory = args.directory.clone().unwrap_or_else(beside);
    let findings = check(&lock, &directory)?;
    let wrong: Vec<String> =
        findings.iter().filter(|f| !f.is_right()).map(ToString::to_string).collect();
    let shown = directory.display();
    if args.json {
        print_json(&json!({
            "schema": 1, "lock": args.lock.display().to_string(), "directory": shown.to_string(),
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
