//! `t2lc verify`: is an adapter or bundle sound, does an adapter fit a base, and is an adapter what
//! its bundle makes of its description?

use std::path::Path;

use anyhow::{Context, anyhow};
use serde_json::{Value as Json, json};
use t2lc_runtime::backend;
use t2lc_runtime::base::UNKNOWN_FINGERPRINT;
use t2lc_runtime::bundle::{Bundle, FILES, MANIFEST};
use t2lc_runtime::error::Error;
use t2lc_runtime::fingerprint::base_fingerprint;
use t2lc_runtime::gguf::Gguf;
use t2lc_runtime::peft;
use t2lc_runtime::rebuild::{Origin, Rebuilt, rebuild};
use t2lc_runtime::verify::{NOT_COMPARED, Verification, verify_adapter, verify_against_base};

use super::VerifyArgs;
use super::compile::open_bundle;
use super::failure::{Failure, Outcome};
use super::output::{print_json, print_text};

/// Most problems that the message for people lists; JSON has all of them.
const MAX_LISTED: usize = 8;

/// Runs the verb.
pub(crate) fn run(args: &VerifyArgs) -> Outcome {
    if args.rebuild {
        expect_adapter(&args.path)?;
    }
    let mut rebuilt = None;
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
        if args.rebuild {
            let again = rebuild_adapter(&bytes, &adapter, args.bundle.as_deref())?;
            note_rebuilt(&again, &mut found);
            rebuilt = Some(again);
        }
        found
    };
    let path = args.path.display();
    if args.json {
        let (problems, checked) = (&found.problems, &found.checked);
        let mut answer = json!({
            "schema": 1, "path": path.to_string(), "sound": found.is_sound(),
            "problems": problems, "checked": checked,
        });
        if let Some(rebuilt) = &rebuilt {
            answer["rebuilt"] = rebuilt_json(rebuilt);
        }
        print_json(&answer)?;
    } else if found.is_sound() {
        print_text(&format!("{path}: sound ({})\n", found.checked.join(", ")))?;
    }
    if found.is_sound() {
        return Ok(());
    }
    let mut listed = found.problems;
    let more = listed.len().saturating_sub(MAX_LISTED);
    if more > 0 {
        listed.truncate(MAX_LISTED);
        listed.push(format!("and {more} more, which --json lists"));
    }
    let message = listed.join("\n  ");
    let error = anyhow!("`{path}` does not verify:\n  {message}");
    Err(Failure::input("verify.unsound", error).answered(args.json))
}

/// Refuses what does not say how it was compiled.
fn expect_adapter(path: &Path) -> Outcome {
    let refused = |what: &str| {
        let error = anyhow!("`{}` is {what}: only a GGUF adapter can be rebuilt", path.display());
        Err(Failure::input("verify.rebuild", error))
    };
    if path.join(MANIFEST).is_file() {
        refused("a bundle")
    } else if path.join(peft::CONFIG).is_file() {
        refused("a PEFT directory, which does not say how it was compiled")
    } else {
        Ok(())
    }
}

/// Compiles the adapter anew, with the backend it names and the given bundle or the one built in.
fn rebuild_adapter(
    bytes: &[u8],
    adapter: &Gguf<'_>,
    bundle: Option<&Path>,
) -> Result<Rebuilt, Failure> {
    let (kind, provider) = Origin::read(adapter)?.backend_kind()?;
    let bundle = open_bundle(bundle)?;
    let backend = backend::open(kind, provider).map_err(Error::from)?;
    Ok(rebuild(bytes, &bundle, backend.as_ref())?)
}

/// Adds what a rebuild showed to what was found before.
fn note_rebuilt(rebuilt: &Rebuilt, found: &mut Verification) {
    let id = &rebuilt.backend;
    found.problems.extend(rebuilt.differences.iter().map(ToString::to_string));
    if rebuilt.identical {
        found.checked.push(format!("rebuilt with {id}: the same bytes"));
    } else if rebuilt.is_same() {
        let error = rebuilt.largest_error;
        found.checked.push(format!("rebuilt with {id}: equal but for rounding ({error:.1e})"));
    }
}

fn rebuilt_json(rebuilt: &Rebuilt) -> Json {
    let differences: Vec<String> = rebuilt.differences.iter().map(ToString::to_string).collect();
    json!({
        "same": rebuilt.is_same(),
        "identical": rebuilt.identical,
        "demand": rebuilt.demand.name(),
        "backend": rebuilt.backend,
        "recipe": rebuilt.recipe,
        "content": rebuilt.content,
        "largest_error": rebuilt.largest_error,
        "differences": differences,
    })
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
        if expected == UNKNOWN_FINGERPRINT {
            found.checked.push(NOT_COMPARED.into());
        } else if got == *expected {
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

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path)
        .with_context(|| format!("cannot read `{}`", path.display()))
        .map_err(|error| Failure::input("verify.read", error))
}

fn parse<'a>(path: &Path, bytes: &'a [u8]) -> Result<Gguf<'a>, Failure> {
    Gguf::parse(bytes)
        .with_context(|| format!("`{}` is not a sound GGUF file", path.display()))
        .map_err(|error| Failure::input("verify.gguf", error))
}
