//! `t2lc pack init`: a pack to start from.

use serde_json::json;
use t2lc_runtime::atomic::write_atomically;
use t2lc_runtime::error::Error;

use super::super::failure::Outcome;
use super::super::output::{print_json, say};
use super::InitArgs;

/// The file, with every setting at its default.
const TEMPLATE: &str = r#"# An adapter pack: `t2lc pack build` makes a file for every [[adapter]].
# `t2lc pack lock` writes pack.lock; commit both. What is commented out is the default.
schema = 1
# include = ["more.toml"]        # files with further [[adapter]] tables

[pack]
# name = "my-pack"
# model = "base.t2lc"            # bundle directory; without it, the one built in
# out = "adapters"               # where the files go
# format = "gguf"                # or "peft"
# quantization = "q8_0"          # f32, f16, bf16, q8_0, q4_0, q4_1, q5_0 or q5_1
# scale = 1.0                    # strength; 1 is as trained

[[adapter]]
name = "legal"
description = "summarize legal text"

# [[adapter]]
# name = "mail"
# description_file = "mail.txt"  # a text beside this file, instead of `description`
# quantization = "f16"
# scale = 0.5
# output = "desk/mail.gguf"      # default: the name and .gguf
"#;

/// Runs the verb.
pub(super) fn run(args: &InitArgs, quiet: bool) -> Outcome {
    write_atomically(&args.file, TEMPLATE.as_bytes(), args.force).map_err(Error::from)?;
    let file = args.file.display();
    if args.json {
        print_json(&json!({"schema": 1, "pack": file.to_string()}))?;
    }
    say(quiet, &format!("wrote {file}; edit it, then run `t2lc pack build`"));
    Ok(())
}
