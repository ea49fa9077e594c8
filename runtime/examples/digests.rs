//! Digests of adapters, for comparing builds and machines.
//!
//! In: a bundle directory, a file with one description per line, the number of threads. Out: one
//! line per description and quantization: the sha256 of the GGUF file that `exact` compiles, the
//! quantization, the description. `tests/exact.sh` runs it in many ways and expects one answer.
//!
//! ```text
//! cargo run --release -p t2lc-runtime --example digests -- BUNDLE DESCRIPTIONS THREADS
//! ```

use std::error::Error;
use std::io::Write;
use std::path::Path;

use t2lc_runtime::backend::exact::Exact;
use t2lc_runtime::bundle::Bundle;
use t2lc_runtime::compile::{CompileOptions, Compiler};
use t2lc_runtime::describe::Description;
use t2lc_runtime::quantize::Quantization;

const QUANTIZATIONS: [Quantization; 3] =
    [Quantization::F32, Quantization::Q8_0, Quantization::Q4_0];

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [bundle, descriptions, threads] = arguments.as_slice() else {
        return Err("expected BUNDLE DESCRIPTIONS THREADS".into());
    };
    let compiler = Compiler::new(Bundle::open(Path::new(bundle))?, &Exact::new(threads.parse()?))?;
    let mut out = std::io::stdout().lock();
    for text in std::fs::read_to_string(descriptions)?.lines() {
        let description = Description::new(text)?;
        let form = |quantization| CompileOptions { quantization, ..CompileOptions::default() };
        let adapters = compiler.compile_each(&description, &QUANTIZATIONS.map(form))?;
        for (quantization, adapter) in QUANTIZATIONS.iter().zip(adapters) {
            writeln!(out, "{} {quantization} {text}", adapter.content)?;
        }
    }
    Ok(())
}
