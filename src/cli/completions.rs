//! `t2lc completions` and `t2lc man`, both made from the command line's own definition.

use std::path::Path;

use anyhow::Context;
use clap::CommandFactory;

use super::Cli;
use super::failure::Outcome;
use super::output::print_text;

/// Prints a completion script.
pub(crate) fn completions(shell: clap_complete::Shell) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "t2lc", &mut script);
    print_text(&String::from_utf8_lossy(&script))?;
    Ok(())
}

/// Prints the manual page, or writes one page per verb into `dir`.
pub(crate) fn man(dir: Option<&Path>) -> Outcome {
    let Some(dir) = dir else {
        let mut page = Vec::new();
        clap_mangen::Man::new(Cli::command()).render(&mut page)?;
        print_text(&String::from_utf8_lossy(&page))?;
        return Ok(());
    };
    std::fs::create_dir_all(dir)
        .and_then(|()| clap_mangen::generate_to(Cli::command(), dir))
        .with_context(|| format!("cannot write manual pages to `{}`", dir.display()))?;
    Ok(())
}
