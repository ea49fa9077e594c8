//! `t2lc eval`: the score of a bundle on held-out tasks, with its controls.

use anyhow::Context;
use candle_core::Device;
use t2lc::base::chat::Chat;
use t2lc::base::decoder::Decoder;
use t2lc::base::gguf_adapter::load_gguf_adapter;
use t2lc::evaluate::{EvaluateOptions, evaluate};
use t2lc::taskpack::TaskPack;
use t2lc_runtime::backend::{self, BackendKind, Provider};
use t2lc_runtime::compile::{CompileOptions, Compiler};
use t2lc_runtime::describe::Description;
use t2lc_runtime::error::Error;

use super::EvalArgs;
use super::compile::open_bundle;
use super::failure::{Failure, Outcome};
use super::output::{print_json, print_text, say};

/// Runs the verb. Adapters are compiled as `compile` does it, quantization included.
pub(crate) fn run(args: &EvalArgs, quiet: bool) -> Outcome {
    let device = Device::cuda_if_available(0).context("no device")?;
    let pack = TaskPack::load(&args.pack).map_err(|e| Failure::input("eval.pack", e))?;
    let chat = Chat::from_gguf(&args.base)?;
    let decoder = Decoder::from_gguf(&args.base, &device)?;
    let bundle = open_bundle(args.bundle.as_deref())?;
    let backend = backend::open(BackendKind::Tract, Provider::Auto).map_err(Error::from)?;
    let compiler = Compiler::new(bundle, backend.as_ref())?;
    let base = compiler.bundle().manifest.base.clone();
    let mut compile = |text: &str| {
        let description = Description::new(text)?;
        let adapter = compiler.compile(&description, CompileOptions::default())?;
        let bytes = adapter.gguf_bytes().context("a GGUF adapter has bytes")?;
        load_gguf_adapter(bytes, &base, &device)
    };
    let options = EvaluateOptions { examples: args.examples, seed: args.seed, split: args.split };
    let mut progress = |line: &str| say(quiet, line);
    let evaluation = evaluate(&decoder, &chat, &pack, &mut compile, &options, &mut progress)?;
    if args.json {
        print_json(&serde_json::to_value(&evaluation).context("scores as JSON")?)?;
    } else {
        print_text(&evaluation.markdown())?;
    }
    Ok(())
}
