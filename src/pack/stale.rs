//! What differs between a lock and a plan, or between two locks, and which input is to blame.
//!
//! In: two sides, each a list of adapters sorted by name with everything that goes into them. Out:
//! one [`Change`] per adapter that is not the same on both, sorted by name.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;
use t2lc_runtime::digest::Digest;

use super::lock::Lock;
use super::plan::Plan;

/// Longest value of an input that a message shows, in characters.
const MAX_CHARS: usize = 60;

/// Something that goes into an adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Input {
    /// The description.
    Description,
    /// The bundle.
    Bundle,
    /// Form of the file.
    Format,
    /// Tensor type.
    Quantization,
    /// Strength.
    Scale,
    /// The backend.
    Backend,
    /// The compile pipeline.
    Pipeline,
    /// The program's version.
    T2lc,
    /// Where the file goes.
    Output,
    /// The recipe itself, though nothing it is made of: the lock was edited.
    Recipe,
}

impl fmt::Display for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Description => "description",
            Self::Bundle => "bundle",
            Self::Format => "format",
            Self::Quantization => "quantization",
            Self::Scale => "scale",
            Self::Backend => "backend",
            Self::Pipeline => "pipeline",
            Self::T2lc => "t2lc",
            Self::Output => "output",
            Self::Recipe => "recipe",
        })
    }
}

/// An input that is not the same on both sides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Which one.
    pub input: Input,
    /// What it was.
    pub old: String,
    /// What it is.
    pub new: String,
}

/// How an adapter differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// It is only on the new side.
    Added,
    /// It is only on the old side.
    Removed,
    /// Other inputs.
    Changed(Vec<Difference>),
}

/// An adapter that is not the same on both sides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Its name.
    pub name: String,
    /// How it differs.
    pub kind: Kind,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.name;
        match &self.kind {
            Kind::Added => write!(f, "`{name}`: added"),
            Kind::Removed => write!(f, "`{name}`: removed"),
            Kind::Changed(differences) => {
                let show = |d: &Difference| {
                    format!("{} changed from `{}` to `{}`", d.input, short(&d.old), short(&d.new))
                };
                let texts: Vec<String> = differences.iter().map(show).collect();
                write!(f, "`{name}`: {}", texts.join(", "))
            }
        }
    }
}

/// A value as a message shows it: on one line, and not too long.
fn short(text: &str) -> String {
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if line.chars().count() <= MAX_CHARS {
        return line;
    }
    line.chars().take(MAX_CHARS - 1).chain(['…']).collect()
}

/// What goes into one adapter, in the order of the messages.
type Inputs = Vec<(Input, String)>;

/// One side: inputs and recipe by name.
type Side<'a> = BTreeMap<&'a str, (Inputs, Digest)>;

/// What has changed since the lock was written.
pub fn since_lock(lock: &Lock, plan: &Plan) -> Vec<Change> {
    compare(&of_lock(lock), &of_plan(plan))
}

/// What has changed from one lock to another.
pub fn between_locks(old: &Lock, new: &Lock) -> Vec<Change> {
    compare(&of_lock(old), &of_lock(new))
}

fn of_lock(lock: &Lock) -> Side<'_> {
    let bundle = lock.bundle.digest.to_string();
    let shared = [&bundle, &lock.backend, &lock.pipeline, &lock.t2lc, &lock.out];
    let shared = shared.map(String::as_str);
    let side = lock.adapters.iter().map(|adapter| {
        let scale = format!("{:?}", adapter.scale);
        let own = [
            adapter.description.as_str(),
            adapter.format.name(),
            adapter.quantization.name(),
            scale.as_str(),
            adapter.output.as_str(),
        ];
        (adapter.name.as_str(), (inputs(shared, own), adapter.recipe))
    });
    side.collect()
}

fn of_plan(plan: &Plan) -> Side<'_> {
    let bundle = plan.bundle.digest.to_string();
    let shared = [&bundle, &plan.backend, &plan.pipeline, &plan.t2lc, &plan.out];
    let shared = shared.map(String::as_str);
    let side = plan.adapters.iter().map(|adapter| {
        let scale = format!("{:?}", adapter.options.scale);
        let own = [
            adapter.description.as_str(),
            adapter.options.format.name(),
            adapter.options.quantization.name(),
            scale.as_str(),
            adapter.output.as_str(),
        ];
        (adapter.name.as_str(), (inputs(shared, own), adapter.recipe))
    });
    side.collect()
}

fn inputs(
    [bundle, backend, pipeline, t2lc, out]: [&str; 5],
    [description, format, quantization, scale, output]: [&str; 5],
) -> Inputs {
    let output = format!("{out}/{output}");
    let inputs = [
        (Input::Description, description),
        (Input::Bundle, bundle),
        (Input::Format, format),
        (Input::Quantization, quantization),
        (Input::Scale, scale),
        (Input::Backend, backend),
        (Input::Pipeline, pipeline),
        (Input::T2lc, t2lc),
        (Input::Output, output.as_str()),
    ];
    inputs.into_iter().map(|(input, value)| (input, value.to_owned())).collect()
}

fn compare(old: &Side<'_>, new: &Side<'_>) -> Vec<Change> {
    let mut changes = Vec::new();
    for (name, (inputs, recipe)) in new {
        let kind = match old.get(name) {
            None => Kind::Added,
            Some((old_inputs, old_recipe)) => {
                let mut differences = differences(old_inputs, inputs);
                if differences.is_empty() && old_recipe != recipe {
                    let (old, new) = (old_recipe.to_string(), recipe.to_string());
                    differences.push(Difference { input: Input::Recipe, old, new });
                }
                if differences.is_empty() {
                    continue;
                }
                Kind::Changed(differences)
            }
        };
        changes.push(Change { name: (*name).to_owned(), kind });
    }
    let gone = old.keys().filter(|name| !new.contains_key(*name));
    changes.extend(gone.map(|name| Change { name: (*name).to_owned(), kind: Kind::Removed }));
    changes.sort_by(|a, b| a.name.cmp(&b.name));
    changes
}

fn differences(old: &[(Input, String)], new: &[(Input, String)]) -> Vec<Difference> {
    let both = old.iter().zip(new).filter(|((_, old), (_, new))| old != new);
    both.map(|((input, old), (_, new))| Difference {
        input: *input,
        old: old.clone(),
        new: new.clone(),
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use t2lc_runtime::digest::Digest;

    use super::{Change, Input, Kind, between_locks};
    use crate::pack::lock::tests::sample;

    #[test]
    fn every_change_names_its_input() {
        let old = sample(&[("a", "x"), ("b", "y"), ("c", "z")]);
        assert_eq!(between_locks(&old, &old), []);
        let mut new = sample(&[("a", "x2"), ("c", "z"), ("d", "w")]);
        new.adapters[1].scale = 2.0;
        let texts: Vec<String> =
            between_locks(&old, &new).iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "`a`: description changed from `x` to `x2`",
                "`b`: removed",
                "`c`: scale changed from `0.1` to `2.0`",
                "`d`: added",
            ]
        );
    }

    #[test]
    fn what_all_share_changes_all() {
        let old = sample(&[("a", "x"), ("b", "y")]);
        let mut new = old.clone();
        new.backend = "tract/0.23".into();
        new.bundle.digest = Digest::of(b"another");
        let changes = between_locks(&old, &new);
        assert_eq!(changes.len(), 2);
        for Change { kind, .. } in changes {
            let Kind::Changed(differences) = kind else { panic!("{kind:?}") };
            let inputs: Vec<Input> = differences.iter().map(|d| d.input).collect();
            assert_eq!(inputs, [Input::Bundle, Input::Backend]);
        }
        let mut edited = old.clone();
        edited.adapters[0].recipe = Digest::of(b"?");
        let Kind::Changed(differences) = &between_locks(&old, &edited)[0].kind else { panic!() };
        assert_eq!(differences[0].input, Input::Recipe);
    }
}
