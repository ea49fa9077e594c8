//! `t2lc train`: task pack → checkpoint.

use t2lc::train::{TrainPaths, train};

use super::TrainArgs;
use super::failure::Outcome;
use super::output::{print_text, say};

/// Runs the verb; prints the directory of the final checkpoint.
pub(crate) fn run(args: &TrainArgs, quiet: bool) -> Outcome {
    let paths = TrainPaths {
        base: args.base.clone(),
        encoder: args.encoder.clone(),
        pack: args.pack.clone(),
        run: args.output.clone(),
    };
    let checkpoint = train(&paths, &args.options, args.resume)?;
    say(quiet, &format!("trained {} steps", args.options.steps));
    print_text(&format!("{}\n", checkpoint.display()))?;
    Ok(())
}
