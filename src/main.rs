//! The `t2lc` command line: parses, dispatches to one verb, turns the outcome into an exit code.
//!
//! Exit codes: 0 done; 1 the input is at fault or the answer is no; 2 usage, environment or
//! internal error. Data goes to stdout, everything for people to stderr.

#[allow(clippy::doc_markdown)] // doc comments there are the manual, printed as they are
mod cli;

use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command};

#[cfg(feature = "train")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let Cli { command, quiet } = Cli::parse();
    let json = command.wants_json();
    let outcome = match command {
        Command::Compile(args) => cli::compile::run(&args, quiet),
        #[cfg(all(feature = "train", feature = "llama"))]
        Command::Try(args) => cli::trial::run(&args, quiet),
        #[cfg(not(all(feature = "train", feature = "llama")))]
        Command::Try(_) => Err(cli::failure::Failure::without_llama()),
        Command::Inspect(args) => cli::inspect::run(&args),
        Command::Verify(args) => cli::verify::run(&args),
        Command::Import(args) => cli::import::run(&args, quiet),
        Command::Export(args) => cli::export::run(&args, quiet),
        #[cfg(feature = "train")]
        Command::Train(args) => cli::train::run(&args, quiet),
        #[cfg(feature = "train")]
        Command::Eval(args) => cli::eval::run(&args, quiet),
        #[cfg(feature = "train")]
        Command::Baseline { command } => cli::baseline::run(&command, quiet),
        #[cfg(feature = "train")]
        Command::Convert(args) => cli::convert::run(&args),
        #[cfg(not(feature = "train"))]
        Command::Train(_) | Command::Eval(_) | Command::Baseline(_) | Command::Convert(_) => {
            Err(cli::failure::Failure::without_trainer())
        }
        Command::Pack { command } => cli::pack::run(&command, quiet),
        Command::Store { command } => cli::store::run(&command, quiet),
        Command::Completions { shell } => cli::completions::completions(shell),
        Command::Man { dir } => cli::completions::man(dir.as_deref()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) if failure.is_broken_pipe() => ExitCode::SUCCESS,
        Err(failure) => failure.report(json),
    }
}
