//! `t2lc convert`: PEFT directory → GGUF adapter.

use t2lc::base::describe::describe_base;
use t2lc::base::peft::{self, PeftAdapter};
use t2lc_runtime::atomic::write_atomically;
use t2lc_runtime::error::Error;
use t2lc_runtime::write::plain_gguf_adapter;

use super::ConvertArgs;
use super::failure::{Failure, Outcome};
use super::output::print_text;

/// Runs the verb; prints the path of the adapter.
pub(crate) fn run(args: &ConvertArgs) -> Outcome {
    let input = |error| Failure::input("convert.adapter", error);
    let modules = peft::target_modules(&args.adapter).map_err(input)?;
    let base = describe_base(&args.base, &modules)
        .map_err(|error| Failure::input("convert.base", error))?;
    let adapter = PeftAdapter::load(&args.adapter, &base).map_err(input)?;
    let name = args.adapter.file_name().unwrap_or_default().to_string_lossy();
    let bytes = plain_gguf_adapter(
        &adapter.pairs(&base).map_err(input)?,
        &base,
        adapter.rank,
        args.quant,
        &name,
        &args.licence,
    )
    .map_err(|e| Failure::input("convert.adapter", e))?;
    write_atomically(&args.output, &bytes, args.force).map_err(Error::from)?;
    print_text(&format!("{}\n", args.output.display()))?;
    Ok(())
}
