//! `t2lc try`: the answers of llama.cpp to a prompt, without and with the adapter for a description.
//!
//! In: a description, a base, a prompt. Out: both greedy answers, side by side where the terminal
//! has room for that. The adapter is the one that `compile` writes; it stays in memory.

mod columns;

use std::io::{self, IsTerminal};
use std::num::NonZero;
use std::path::Path;

use anyhow::{Context as _, anyhow};
use serde_json::json;
use t2lc::base::chat::Chat;
use t2lc::llama::{Context, Model};
use t2lc_runtime::backend::Provider;
use t2lc_runtime::compile::{CompileOptions, compile_once};
use t2lc_runtime::describe::Description;
use t2lc_runtime::error::Error;
use t2lc_runtime::gguf::Gguf;
use t2lc_runtime::verify::verify_against_base;
use terminal_size::{Width, terminal_size};

use super::TryArgs;
use super::backend::BackendChoice;
use super::compile::{open_bundle, report_description};
use super::failure::{Failure, Outcome};
use super::llama;
use super::output::{print_json, print_text, say};

/// Fewest columns of a terminal that gets the answers side by side.
const SIDE_BY_SIDE_COLUMNS: usize = 80;

/// What the model says to the prompt.
struct Answer {
    text: String,
    /// Whether it might have gone on.
    cut: bool,
}

/// Runs the verb.
pub(crate) fn run(args: &TryArgs, quiet: bool) -> Outcome {
    let description = Description::new(&args.description).map_err(Error::from)?;
    let llama = llama::load(args.llama.as_deref())?;
    llama::expect_file(&args.base)?;
    let bundle = open_bundle(args.bundle.as_deref())?;
    let backend = BackendChoice::Auto.open(&bundle, Provider::Auto)?;
    let options = CompileOptions::default();
    let compiled = compile_once(&bundle, backend.as_ref(), &description, options)?;
    report_description(&compiled, quiet);
    let bytes = compiled.gguf_bytes().context("a GGUF adapter has bytes")?;
    expect_base(bytes, &args.base)?;

    let model = llama.model(&args.base)?;
    let chat = Chat::open(&args.base).map_err(|error| Failure::input("try.base", error))?;
    let prompt = chat.prompt(&args.prompt).map_err(|error| Failure::input("try.prompt", error))?;
    let prompt = prompt.into_iter().map(i32::try_from).collect::<Result<Vec<_>, _>>();
    let prompt = prompt.context("token ids of llama.cpp are below 2³¹")?;
    let room = u32::try_from(prompt.len()).ok().and_then(|n| n.checked_add(args.max_tokens));
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    let mut context = model.context(
        room.context("the prompt is too long")?,
        i32::try_from(cores).context("too many cores")?,
    )?;
    let answer = |context: &mut Context<'_>| answer(context, &model, &chat, &prompt, args);
    let base = answer(&mut context)?;
    let loaded = model.adapter_from_bytes(bytes)?;
    context.set_adapter(Some((&loaded, 1.0)))?;
    let adapted = answer(&mut context)?;

    for (name, answer) in [("base", &base), ("adapted", &adapted)] {
        if answer.cut {
            let most = args.max_tokens;
            say(quiet, &format!("{name}: cut after {most} tokens; --max-tokens allows more"));
        }
    }
    if args.json {
        print_json(&json!({
            "schema": 1,
            "description": description.as_str(),
            "prompt": args.prompt,
            "base": base.text,
            "adapted": adapted.text,
            "cut": {"base": base.cut, "adapted": adapted.cut},
            "max_tokens": args.max_tokens,
            "content": compiled.content,
            "nearest": compiled.nearest,
            "familiar": compiled.familiar,
            "truncated": compiled.truncated,
        }))?;
    } else {
        print_text(&page(&base.text, &adapted.text))?;
    }
    Ok(())
}

/// The greedy answer under the context's adapter.
fn answer(
    context: &mut Context<'_>,
    model: &Model,
    chat: &Chat,
    prompt: &[i32],
    args: &TryArgs,
) -> Result<Answer, Failure> {
    let most = usize::try_from(args.max_tokens).context("too many tokens were asked for")?;
    let tokens = context.greedy(prompt, most, &mut |_| true)?;
    let text = model.detokenize(&tokens, false)?;
    let own = text.strip_prefix(chat.answer_prefix()).unwrap_or(&text);
    Ok(Answer { text: own.to_owned(), cut: tokens.len() == most })
}

/// Refuses a base that the adapter is not for: llama.cpp would apply it to any of the same shapes.
fn expect_base(adapter: &[u8], base: &Path) -> Outcome {
    let cannot_use = || format!("cannot use the base `{}`", base.display());
    let wrong = |error: anyhow::Error| Failure::input("try.base", error.context(cannot_use()));
    let bytes = std::fs::read(base).map_err(|error| wrong(error.into()))?;
    let parsed = Gguf::parse(&bytes).map_err(|error| wrong(error.into()))?;
    let adapter = Gguf::parse(adapter).context("a compiled adapter is a GGUF file")?;
    let problems = verify_against_base(&adapter, &parsed).problems;
    if problems.is_empty() {
        return Ok(());
    }
    Err(wrong(anyhow!("{}", problems.join("\n  ")))
        .hint("use the base that the bundle was made for, or name its bundle with --bundle DIR"))
}

/// Both answers as people read them.
fn page(base: &str, adapted: &str) -> String {
    let terminal = io::stdout().is_terminal().then(terminal_size).flatten();
    let columns = terminal.map(|(Width(columns), _)| usize::from(columns));
    let texts = [("base", base), ("adapted", adapted)];
    match columns {
        Some(columns) if columns >= SIDE_BY_SIDE_COLUMNS => columns::side_by_side(columns, texts),
        _ => columns::one_after_the_other(texts),
    }
}
