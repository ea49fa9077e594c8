//! `t2lc pack serve-args`: how to start llama-server with all adapters of a pack, and use them.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use clap::Args;
use serde_json::{Map, Value, json};
use t2lc::pack::check::check;
use t2lc::pack::lock::{self, Lock, LockedBundle};
use t2lc::pack::serve::{ServeError, Serving, shell_line};
use t2lc_runtime::base::UNKNOWN_FINGERPRINT;
use t2lc_runtime::fingerprint::base_fingerprint;
use t2lc_runtime::gguf::Gguf;

use super::super::failure::{Failure, Outcome};
use super::super::output::{print_json, print_text, say};
use super::locked;

/// Most adapters whose requests are printed together: each of them lists them all.
const MAX_REQUESTS: usize = 256;

/// Options of `pack serve-args`.
#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// The lock
    #[arg(long, value_name = "FILE", default_value = lock::FILE)]
    lock: PathBuf,
    /// Directory of the files [default: the one that the lock names]
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
    /// The base, which must be the one that the pack is for [default: its name, to be replaced]
    #[arg(long, value_name = "GGUF")]
    base: Option<PathBuf>,
    /// Show the request for this adapter [default: for the first one, with --json for all]
    #[arg(long, value_name = "NAME")]
    adapter: Option<String>,
    /// Print as JSON
    #[arg(long)]
    pub(super) json: bool,
}

/// Runs the verb.
pub(super) fn run(args: &ServeArgs, quiet: bool) -> Outcome {
    let lock = locked::read(&args.lock)?;
    let directory = locked::directory(&args.lock, &lock, args.directory.as_deref());
    let serving = Serving::new(&lock, &directory)?;
    expect_files(&lock, &directory)?;
    let base = match &args.base {
        Some(base) => checked_base(base, &lock.bundle, quiet)?,
        None => stand_in(&lock.bundle, quiet),
    };
    let command = serving.command(&base);
    if args.json {
        print_json(&json!({
            "schema": 1,
            "command": command,
            "adapters": serving.adapters(),
            "initial": serving.initial(),
            "requests": requests(&serving, args.adapter.as_deref())?,
            "base_request": serving.request(None)?,
        }))?;
    } else {
        print_text(&text(&serving, &command, args.adapter.as_deref())?)?;
    }
    Ok(())
}

/// Refuses files that are not those of the lock: the server would load them, or end.
fn expect_files(lock: &Lock, directory: &Path) -> Outcome {
    let findings = check(lock, directory)?;
    let wrong: Vec<String> =
        findings.iter().filter(|f| !f.is_right()).map(ToString::to_string).collect();
    if wrong.is_empty() {
        return Ok(());
    }
    let shown = directory.display();
    let error = anyhow!("`{shown}` is not what the lock says:\n  {}", wrong.join("\n  "));
    Err(Failure::input("pack.files", error).hint("put the files in place with `t2lc pack build`"))
}

/// The given base, if it is the one of the pack: the server compares names and shapes only.
fn checked_base(path: &Path, bundle: &LockedBundle, quiet: bool) -> Result<String, Failure> {
    let shown = path.display();
    let got = fs::read(path)
        .with_context(|| format!("cannot read `{shown}`"))
        .and_then(|bytes| {
            let base = Gguf::parse(&bytes)
                .with_context(|| format!("`{shown}` is not a sound GGUF file"))?;
            base_fingerprint(&base).with_context(|| format!("`{shown}` has no fingerprint"))
        })
        .map_err(|error| Failure::input("pack.base", error))?
        .to_string();
    let LockedBundle { base, base_fingerprint: expected, .. } = bundle;
    if expected == UNKNOWN_FINGERPRINT {
        say(
            quiet,
            "note: the pack's bundle does not know its base's fingerprint, nothing was compared",
        );
    } else if got != *expected {
        let error = anyhow!(
            "`{shown}` is not the base of the pack: its fingerprint is {got}, \
             the pack is for {expected} (`{base}`)"
        );
        return Err(Failure::input("pack.base", error));
    }
    let text = path.to_str().ok_or_else(|| ServeError::NotText { path: path.to_owned() })?;
    Ok(text.to_owned())
}

/// A file name for a base that was not given.
fn stand_in(bundle: &LockedBundle, quiet: bool) -> String {
    let name = bundle.base.rsplit('/').next().unwrap_or(&bundle.base);
    let file = format!("{name}.gguf");
    say(quiet, &format!("note: put your file of the base in the place of `{file}`, or use --base"));
    file
}

/// The request for an adapter, or for each, by name.
fn requests(serving: &Serving, adapter: Option<&str>) -> Result<Map<String, Value>, Failure> {
    let all = serving.adapters();
    let names: Vec<&str> = match adapter {
        Some(name) => vec![name],
        None => all.iter().map(|served| served.name.as_str()).collect(),
    };
    if names.len() > MAX_REQUESTS {
        let count = names.len();
        let error = anyhow!("at most {MAX_REQUESTS} requests are printed at once, not {count}");
        return Err(Failure::input("pack.serve", error).hint("name one with --adapter"));
    }
    let mut requests = Map::new();
    for name in names {
        requests.insert(name.to_owned(), json!(serving.request(Some(name))?));
    }
    Ok(requests)
}

/// The command, and as comments of the shell what else there is to know.
fn text(
    serving: &Serving,
    command: &[String],
    adapter: Option<&str>,
) -> Result<String, ServeError> {
    let mut text = shell_line(command);
    text.push_str("\n# id and name of each adapter:\n");
    // Writing to a string cannot fail, here and below.
    for served in serving.adapters() {
        let _ = writeln!(text, "# {} {}", served.id, served.name);
    }
    let _ = writeln!(text, "# POST /lora-adapters at the start: {}", json!(serving.initial()));
    let first = || serving.adapters().first().map(|served| served.name.as_str());
    if let Some(name) = adapter.or_else(first) {
        let request = json!(serving.request(Some(name))?);
        let _ = writeln!(text, "# in every request to `{name}`: {request}");
    }
    Ok(text)
}

impl From<ServeError> for Failure {
    fn from(error: ServeError) -> Self {
        let hint = match &error {
            ServeError::Peft { .. } => {
                Some("set `format = \"gguf\"` in pack.toml and run `t2lc pack build`")
            }
            ServeError::Separator { .. } | ServeError::NotText { .. } => {
                Some("rename it, or name a relative path without it with --directory")
            }
            ServeError::TooLong { .. } => {
                Some("divide the pack, or name a shorter path with --directory")
            }
            ServeError::Unknown { .. } => Some("without --adapter, all names are listed"),
            _ => None,
        };
        let failure = Self::input("pack.serve", error);
        match hint {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}
