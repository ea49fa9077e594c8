//! The contestants that the options ask for, in the order of the report's columns.
//!
//! In: the options, the pack and the chosen tasks. Out: the base and the prompted base, unless an
//! earlier evaluation has them, then what was asked for: shots, bundles, single adapters, and what
//! is made of a library.

use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;

use anyhow::{Context, anyhow};
use candle_core::Device;
use t2lc::base::describe::describe_base;
use t2lc::evaluate::{AdapterData, Compile, Contestant, Earlier, PromptForm};
use t2lc::taskpack::{Task, TaskPack};
use t2lc::train::arrow::Arrow;
use t2lc::train::library::Library;
use t2lc_runtime::backend::Provider;
use t2lc_runtime::base::BaseModel;
use t2lc_runtime::compile::{CompileOptions, Compiler};
use t2lc_runtime::describe::Description;

use super::adapters::{is_for, library_modules, load_adapter};
use super::{EvalArgs, Failure, NamedPath, say};
use crate::cli::backend::BackendChoice;
use crate::cli::compile::open_bundle;

/// Every contestant that the options ask for.
pub(super) fn all(
    args: &EvalArgs,
    earlier: Option<&Earlier>,
    pack: &TaskPack,
    tasks: &[&Task],
    device: &Device,
    quiet: bool,
) -> Result<Vec<Contestant<'static>>, Failure> {
    let BaseModel { fingerprint, .. } =
        describe_base(&args.base, &[]).map_err(|e| Failure::input("eval.base", e))?;
    let mut all = vec![Contestant::base(), Contestant::prompted()];
    all.extend(args.shots.map(Contestant::shots));
    // What is no adapter answers as it did.
    all.retain(|contestant| earlier.is_none_or(|earlier| !earlier.has(&contestant.name)));
    if !args.no_bundle {
        let compile = compiler(args.bundle.as_deref(), &fingerprint)?;
        all.push(Contestant::compiled(Rc::clone(&compile)));
        // A single task has no other.
        if tasks.len() > 1 {
            all.push(Contestant::other(Rc::clone(&compile), tasks, args.wording, args.seed));
        }
        all.push(Contestant::random(compile, args.seed));
    }
    for NamedPath { name, path } in &args.per_input {
        all.push(Contestant::per_input(name, compiler(Some(path), &fingerprint)?));
    }
    let plain = args.adapter.iter().map(|named| (named, PromptForm::Plain));
    let described = args.adapter_described.iter().map(|named| (named, PromptForm::Described));
    for (NamedPath { name, path }, prompt) in plain.chain(described) {
        let adapter = load_adapter(path, &args.base, &fingerprint)
            .map_err(|error| Failure::input("eval.adapter", error))?;
        all.push(Contestant::shared(name, prompt, adapter));
    }
    if let Some(dir) = &args.library {
        let of_library = of_library(dir, args, pack, tasks, device, quiet)
            .map_err(|error| Failure::input("eval.library", error))?;
        all.extend(of_library);
    }
    Ok(all)
}

/// A bundle as a function from text to adapter, the very file that `compile` writes. The bundle must
/// be for the base of this fingerprint.
fn compiler(bundle: Option<&Path>, fingerprint: &str) -> Result<Compile<'static>, Failure> {
    let bundle = open_bundle(bundle)?;
    let BaseModel { name, fingerprint: expected, .. } = &bundle.manifest.base;
    if !is_for(expected, fingerprint) {
        let error = anyhow!("the bundle is for {name} ({expected}), the base is {fingerprint}");
        return Err(Failure::input("eval.base", error)
            .hint("use the base that the bundle was made for, or another bundle"));
    }
    let backend = BackendChoice::Auto.open(&bundle, Provider::Auto)?;
    let compiler = Compiler::new(bundle, backend.as_ref())?;
    let base = Rc::new(compiler.bundle().manifest.base.clone());
    let compile: Compile<'static> = Rc::new(move |text: &str| -> anyhow::Result<AdapterData> {
        let adapter = compiler.compile(&Description::new(text)?, CompileOptions::default())?;
        let bytes = adapter.gguf_bytes().context("a GGUF adapter has bytes")?;
        Ok(AdapterData::Gguf { bytes: bytes.into(), base: Rc::clone(&base) })
    });
    Ok(compile)
}

/// `average` and `arrow` of the adapters of tasks that are not held out, and `oracle`.
fn of_library(
    dir: &Path,
    args: &EvalArgs,
    pack: &TaskPack,
    tasks: &[&Task],
    device: &Device,
    quiet: bool,
) -> anyhow::Result<Vec<Contestant<'static>>> {
    let base = Rc::new(describe_base(&args.base, &library_modules(dir)?)?);
    let mut library = Library::load(dir, &base)?;
    let data = |adapter| AdapterData::Peft { adapter: Rc::new(adapter), base: Rc::clone(&base) };
    let mut oracle: BTreeMap<String, AdapterData> = BTreeMap::new();
    for (id, adapter) in &library.adapters {
        if tasks.iter().any(|task| task.id == *id) {
            oracle.insert(id.clone(), data(adapter.clone()));
        }
    }
    library.leave_out_held_out(pack);
    let mut of_library = Vec::new();
    if library.adapters.is_empty() {
        say(quiet, "the library has adapters of held-out tasks only: no average, no arrow");
    } else {
        let average = data(library.average()?);
        of_library.push(Contestant::shared("average", PromptForm::Plain, average));
        if args.arrow_top_k > 0 {
            let top_k = args.arrow_top_k.min(library.adapters.len());
            let arrow = Arrow::new(&library, &base, top_k, device)?;
            let arrow = AdapterData::Delta(Rc::new(arrow));
            of_library.push(Contestant::shared("arrow", PromptForm::Plain, arrow));
        }
    }
    if oracle.is_empty() {
        say(quiet, "the library has no adapter of a task that is scored: no oracle");
    } else {
        of_library.push(Contestant::by_task("oracle", oracle));
    }
    Ok(of_library)
}
