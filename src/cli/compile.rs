//! `t2lc compile`: description → adapter file.

use std::io::Read;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, anyhow};
use serde_json::json;
use t2lc_runtime::backend::BackendKind;
use t2lc_runtime::bundle::Bundle;
use t2lc_runtime::compile::{Adapter, CompileOptions, Format, compile_once};
use t2lc_runtime::describe::{Description, DescriptionError, MAX_BYTES};
use t2lc_runtime::error::Error;

use super::CompileArgs;
use super::failure::{Failure, Outcome};
use super::output::{human_bytes, print_bytes, print_json, refuse_existing, say};

/// Opens the given bundle, or the one built in.
pub(crate) fn open_bundle(dir: Option<&Path>) -> Result<Bundle, Failure> {
    if let Some(dir) = dir {
        return Ok(Bundle::open(dir).map_err(Error::from)?);
    }
    match t2lc::default_bundle::files() {
        Some(files) => Ok(Bundle::from_static(&files).map_err(Error::from)?),
        None => {
            Err(Failure::environment("bundle.none", anyhow!("this build has no bundle built in"))
                .hint("name one with --bundle DIR"))
        }
    }
}

/// Runs the verb.
pub(crate) fn run(args: &CompileArgs, quiet: bool) -> Outcome {
    let started = Instant::now();
    let description = Description::new(&read_description(args)?).map_err(Error::from)?;
    let to_stdout = args.output.as_os_str() == "-";
    if to_stdout && (args.json || args.format != Format::Gguf) {
        let error = anyhow!("`-o -` writes a GGUF file to stdout: no --json and no --format peft");
        return Err(Failure::environment("usage", error));
    }
    if !to_stdout {
        refuse_existing(&args.output, args.force)?;
    }
    let options = CompileOptions {
        format: args.format,
        quantization: args.quant.unwrap_or_else(|| args.format.default_quantization()),
        scale: args.scale,
    };
    let bundle = open_bundle(args.bundle.as_deref())?;
    let backend = args.backend.open(&bundle, args.provider)?;
    if args.backend.kind(&bundle, args.provider) != BackendKind::Exact {
        let id = backend.id();
        say(quiet, &format!("computed with {id}: another CPU may give other bytes"));
    }
    let adapter = compile_once(&bundle, backend.as_ref(), &description, options)?;
    report_description(&adapter, quiet);
    if args.strict && !adapter.familiar {
        let error = anyhow!("the description is unlike anything seen in training");
        return Err(Failure::input("describe.unfamiliar", error)
            .hint("describe the task in other words, or compile without --strict"));
    }
    if to_stdout {
        print_bytes(adapter.gguf_bytes().context("a GGUF adapter has bytes")?)?;
    } else {
        adapter.write_to(&args.output, args.force).map_err(Error::from)?;
    }
    let output = args.output.display();
    if args.json {
        print_json(&json!({
            "schema": 1,
            "output": output.to_string(),
            "description": description.as_str(),
            "recipe": adapter.recipe,
            "content": adapter.content,
            "size_bytes": adapter.size_bytes(),
            "tensors": adapter.tensors,
            "format": options.format.name(),
            "quantization": options.quantization.name(),
            "scale": options.scale,
            "backend": backend.id(),
            "bundle": bundle.digest,
            "base": bundle.manifest.base.name,
            "nearest": adapter.nearest,
            "familiar": adapter.familiar,
            "truncated": adapter.truncated,
        }))?;
    }
    let (size, quantization) = (human_bytes(adapter.size_bytes()), options.quantization);
    let (content, seconds) = (adapter.content, started.elapsed().as_secs_f64());
    say(quiet, &format!("compiled {output} ({size}, {quantization}, {content}) in {seconds:.2} s"));
    Ok(())
}

/// Says how familiar the description is, and warns.
pub(super) fn report_description(adapter: &Adapter, quiet: bool) {
    let nearest: Vec<String> =
        adapter.nearest.iter().map(|n| format!("{} ({:.2})", n.task, n.cosine)).collect();
    if nearest.is_empty() {
        say(quiet, "no training tasks are known: whether the description is like them is open");
    } else {
        say(quiet, &format!("nearest training tasks: {}", nearest.join(", ")));
    }
    if !adapter.familiar {
        let warning =
            "the description is unlike anything seen in training; the adapter may not help";
        say(quiet, &format!("warning: {warning}"));
    }
    if adapter.truncated {
        let tokens = adapter.tokens;
        say(quiet, &format!("warning: the description has {tokens} tokens; the end was not read"));
    }
}

fn read_description(args: &CompileArgs) -> Result<String, Failure> {
    // One byte more than allowed is enough to know that a text is too long.
    let limit = 4 * MAX_BYTES as u64 + 1;
    let mut bytes = Vec::new();
    let read = match (&args.file, args.description.as_deref()) {
        (None, Some("-")) => std::io::stdin().lock().take(limit).read_to_end(&mut bytes),
        (None, Some(description)) => return Ok(description.to_owned()),
        (Some(path), _) => {
            std::fs::File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes))
        }
        (None, None) => return Err(Failure::environment("usage", anyhow!("no description given"))),
    };
    let from = args.file.as_ref().map_or("stdin".into(), |path| path.display().to_string());
    let unreadable = |error: anyhow::Error| {
        let context = format!("cannot read a description from `{from}`");
        Failure::input("describe.read", error.context(context))
    };
    let length = read.map_err(|error| unreadable(error.into()))?;
    if length as u64 == limit {
        // The text goes on: what was read may end inside a character.
        return Err(Error::from(DescriptionError::TooLong { bytes: length }).into());
    }
    String::from_utf8(bytes).map_err(|error| unreadable(error.into()))
}
