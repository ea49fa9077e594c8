//! `t2lc verify`: is an adapter or bundle sound, and does an adapter fit a base?

use anyhow::{Context, anyhow};
use serde_json::json;
use t2lc_runtime::bundle::{Bundle, FILES, MANIFEST};
use t2lc_runtime::error::Error;
use t2lc_runtime::fingerprint::base_fingerprint;
use t2lc_runtime::gguf::Gguf;
use t2lc_runtime::verify::{Verification, verify_adapter, verify_against_base};

use super::VerifyArgs;
use super::failure::{Failure, Outcome};
use super::output::{print_json, print_text};

/// Runs the verb.
pub(crate) fn run(args: &VerifyArgs) -> Outcome {
    let found = if args.path.join(MANIFEST).is_file() {
        verify_bundle(args)?
    } else if args.path.is_dir() {
        let error = anyhow!("`{}` is no bundle: it has no {MANIFEST}", args.path.display());
        return Err(Failure::input("verify.unknown", error));
    } else {
        let bytes = read(&args.path)?;
        let adapter = parse(&args.path, &bytes)?;
        let mut found = verify_adapter(&adapter);
        if let Some(base) = &args.base {
            let bytes = read(base)?;
            let against = verify_against_base(&adapter, &parse(base, &bytes)?);
            // What does not fit at all is the first thing to say.
            found.problems.splice(0..0, against.problems);
            found.checked.extend(against.checked);
        }
        found
    };
    let path = args.path.display();
    if args.json {
        let (problems, checked) = (&found.problems, &found.checked);
        print_json(&json!({
            "schema": 1, "path": path.to_string(), "sound": found.is_sound(),
            "problems": problems, "checked": checked,
        }))?;
    } else if found.is_sound() {
        print_text(&format!("{path}: sound ({})\n", found.checked.join(", ")))?;
    }
    if found.is_sound() {
        return Ok(());
    }
    let message = found.problems.join("\n  ");
    let error = anyhow!("`{path}` does not verify:\n  {message}");
    Err(Failure::input("verify.unsound", error).answered(args.json))
}

fn verify_bundle(args: &VerifyArgs) -> Result<Verification, Failure> {
    let bundle = Bundle::open(&args.path).map_err(Error::from)?;
    let checked = FILES.iter().map(|file| format!("digest of {file}")).collect();
    let mut found = Verification { problems: Vec::new(), checked };
    if let Some(base) = &args.base {
        let bytes = read(base)?;
        let got = base_fingerprint(&parse(base, &bytes)?)
            .with_context(|| format!("`{}` has no fingerprint", base.display()))
            .map_err(|error| Failure::input("verify.base", error))?
            .to_string();
        let expected = &bundle.manifest.base.fingerprint;
        if got == *expected {
            found.checked.push("base fingerprint".into());
        } else {
            found.problems.push(format!(
                "the base's fingerprint is {got}, the bundle was made for {expected} (`{}`)",
                bundle.manifest.base.name
            ));
        }
    }
    Ok(found)
}

fn read(path: &std::path::Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path)
        .with_context(|| format!("cannot read `{}`", path.display()))
        .map_err(|error| Failure::input("verify.read", error))
}

fn parse<'a>(path: &std::path::Path, bytes: &'a [u8]) -> Result<Gguf<'a>, Failure> {
    Gguf::parse(bytes)
        .with_context(|| format!("`{}` is not a sound GGUF file", path.display()))
        .map_err(|error| Failure::input("verify.gguf", error))
}
