//! `t2lc pack diff`: two locks side by side, as text, as Markdown or as JSON.

use std::fmt::Write;

use serde_json::json;
use t2lc::pack::diff::{Changed, PackDiff, Places, diff};
use t2lc::store::NearTask;

use super::super::failure::Outcome;
use super::super::output::{print_json, print_text};
use super::{DiffArgs, DiffFormat, locked};

/// Runs the verb.
pub(super) fn run(args: &DiffArgs) -> Outcome {
    let (old, new) = (locked::read(&args.old)?, locked::read(&args.new)?);
    let places = Places {
        // Without a store, the directories may be enough.
        store: args.stores.open_any()?,
        old: args.old_dir.clone(),
        new: args.new_dir.clone(),
    };
    let found = diff(&old, &new, &places);
    let format = if args.json { DiffFormat::Json } else { args.format };
    match format {
        DiffFormat::Json => print_found(&found)?,
        DiffFormat::Text => print_text(&text(&found))?,
        DiffFormat::Markdown => print_text(&markdown(&found))?,
    }
    Ok(())
}

fn print_found(found: &PackDiff) -> std::io::Result<()> {
    print_json(&json!({
        "schema": 1, "added": found.added, "removed": found.removed, "changed": found.changed,
        "unchanged": found.unchanged,
    }))
}

fn text(found: &PackDiff) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail, here and below.
    for adapter in &found.added {
        let _ = writeln!(text, "+ {}: {}", adapter.name, one_line(&adapter.version.description));
    }
    for adapter in &found.removed {
        let _ = writeln!(text, "- {}: {}", adapter.name, one_line(&adapter.version.description));
    }
    for adapter in &found.changed {
        let _ = writeln!(text, "~ {}: {}", adapter.name, inputs(adapter));
        for difference in &adapter.inputs {
            let (old, new) = (one_line(&difference.old), one_line(&difference.new));
            let _ = writeln!(text, "    {}: {old} → {new}", difference.input);
        }
        let _ = writeln!(text, "    weights: {}", moved(adapter));
        let (old, new) = (near(&adapter.old.nearest), near(&adapter.new.nearest));
        let _ = writeln!(text, "    nearest: {old} → {new}");
    }
    let _ = writeln!(text, "{}", counts(found));
    text
}

fn markdown(found: &PackDiff) -> String {
    let mut text = String::from("## Adapter pack\n\n");
    let _ = writeln!(text, "{}", counts(found));
    if found.is_empty() {
        return text;
    }
    text.push_str("\n| | adapter | changed | weights | nearest before | nearest after |\n");
    text.push_str("|---|---|---|---|---|---|\n");
    let mut row = |mark: &str, name: &str, cells: [&str; 4]| {
        let cells = cells.map(cell).join(" | ");
        let _ = writeln!(text, "| {mark} | {} | {cells} |", cell(name));
    };
    for adapter in &found.added {
        row("added", &adapter.name, ["", "", "", &near(&adapter.version.nearest)]);
    }
    for adapter in &found.removed {
        row("removed", &adapter.name, ["", "", &near(&adapter.version.nearest), ""]);
    }
    for adapter in &found.changed {
        let (old, new) = (near(&adapter.old.nearest), near(&adapter.new.nearest));
        row("changed", &adapter.name, [&inputs(adapter), &moved(adapter), &old, &new]);
    }
    text
}

fn counts(found: &PackDiff) -> String {
    let (added, removed) = (found.added.len(), found.removed.len());
    let (changed, unchanged) = (found.changed.len(), found.unchanged);
    format!("{added} added, {removed} removed, {changed} changed, {unchanged} unchanged")
}

fn inputs(adapter: &Changed) -> String {
    let names: Vec<String> = adapter.inputs.iter().map(|d| d.input.to_string()).collect();
    if names.is_empty() { "only its bytes".into() } else { names.join(", ") }
}

fn moved(adapter: &Changed) -> String {
    match (adapter.relative_change, &adapter.unknown) {
        (Some(change), _) => format!("{:.2} % of the old ones", 100.0 * change),
        (None, Some(reason)) => format!("unknown, {reason}"),
        (None, None) => "unknown".into(),
    }
}

fn near(nearest: &[NearTask]) -> String {
    let tasks: Vec<String> = nearest
        .iter()
        .map(|near| format!("{} ({:.2})", one_line(&near.task), near.cosine))
        .collect();
    tasks.join(", ")
}

/// Text of a lock, which anybody may have written, without line ends and terminal controls.
fn one_line(text: &str) -> String {
    let parts = text.split(|c: char| c.is_whitespace() || c.is_control());
    parts.filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
}

/// Text that stays inside its cell and means nothing else in Markdown.
fn cell(text: &str) -> String {
    let mut cell = String::new();
    for c in one_line(text).chars() {
        if r"\`*_[]<>|#&".contains(c) {
            cell.push('\\');
        }
        cell.push(c);
    }
    cell
}

#[cfg(test)]
mod tests {
    use super::cell;

    #[test]
    fn a_cell_holds_no_markup() {
        assert_eq!(cell("a|b\n<i>[x](y)"), r"a\|b \<i\>\[x\](y)");
    }
}
