//! Is an adapter file sound, and does it fit a base? Stricter than llama.cpp's loader, which
//! checks names and shapes only and aborts or crashes on some files it accepts.
//!
//! The keys that say where an adapter comes from are not demanded: one that no bundle made has no
//! bundle to name. Which of them a file lacks is reported among what was checked.

use std::collections::BTreeMap;

use crate::base::UNKNOWN_FINGERPRINT;
use crate::digest::Digest;
use crate::fingerprint::base_fingerprint;
use crate::gguf::{Gguf, Value};
use crate::quantize::{Quantization, dequantize};
use crate::write::tensors_digest;

/// Keys that say how an adapter was compiled; files of other programs and plain adapters lack them.
const ORIGIN_KEYS: [&str; 3] = ["t2lc.recipe", "t2lc.bundle", "t2lc.backend"];

/// Said in place of a comparison with a base whose fingerprint nobody recorded.
pub const NOT_COMPARED: &str = "base fingerprint unknown, not compared";

/// What was found; sound if there are no problems.
#[derive(Debug, Clone, Default)]
pub struct Verification {
    /// What is wrong, in words, most telling first.
    pub problems: Vec<String>,
    /// What was checked and holds; then, if any, the keys on its origin that the file lacks, and
    /// [`NOT_COMPARED`].
    pub checked: Vec<String>,
}

impl Verification {
    /// Whether nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.problems.is_empty()
    }

    fn expect(&mut self, holds: bool, checked: &str, problem: impl FnOnce() -> String) {
        if holds {
            self.checked.push(checked.to_owned());
        } else {
            self.problems.push(problem());
        }
    }
}

/// Checks a parsed adapter by itself.
pub fn verify_adapter(adapter: &Gguf<'_>) -> Verification {
    let mut found = Verification::default();
    for (key, expected) in [("general.type", "adapter"), ("adapter.type", "lora")] {
        let got = adapter.get(key).and_then(Value::as_str);
        found.expect(got == Some(expected), key, || match got {
            Some(got) => format!("`{key}` is `{got}`, expected `{expected}`"),
            None => format!("`{key}` is missing, expected `{expected}`"),
        });
    }
    let architecture = adapter.get("general.architecture").and_then(Value::as_str);
    found.expect(architecture.is_some(), "general.architecture", || {
        "`general.architecture` is missing".into()
    });
    if let Some(alpha) = adapter.get("adapter.lora.alpha") {
        let usable = alpha.as_f32().is_some_and(f32::is_finite);
        found.expect(usable, "adapter.lora.alpha", || {
            "`adapter.lora.alpha` is not a finite 32-bit float; llama.cpp aborts on other types"
                .into()
        });
    }
    check_pairs(adapter, &mut found);
    check_values(adapter, &mut found);
    match adapter.get("t2lc.tensors.sha256").map(Value::as_str) {
        None => {}
        Some(None) => found.problems.push("`t2lc.tensors.sha256` is not text".into()),
        Some(Some(recorded)) => {
            let got = tensors_digest(adapter).to_string();
            found.expect(recorded == got, "t2lc.tensors.sha256", || {
                format!("the tensors are {got}, the file says {recorded}")
            });
        }
    }
    let absent: Vec<&str> =
        ORIGIN_KEYS.into_iter().filter(|key| adapter.get(key).is_none()).collect();
    if !absent.is_empty() {
        found.checked.push(format!("absent: {}", absent.join(", ")));
    }
    found
}

fn check_pairs(adapter: &Gguf<'_>, found: &mut Verification) {
    let mut sides: BTreeMap<&str, [Option<&crate::gguf::TensorInfo>; 2]> = BTreeMap::new();
    for tensor in adapter.tensors() {
        let split = tensor.name.rsplit_once('.').and_then(|(base, side)| match side {
            "lora_a" => Some((base, 0)),
            "lora_b" => Some((base, 1)),
            _ => None,
        });
        match split {
            Some((base, side)) => sides.entry(base).or_default()[side] = Some(tensor),
            None => found.problems.push(format!("`{}` is not a LoRA matrix", tensor.name)),
        }
    }
    found.expect(!sides.is_empty(), "has tensors", || {
        "the adapter has no tensors; llama.cpp loads it and it changes nothing".into()
    });
    let before = found.problems.len();
    for (base, pair) in &sides {
        let [Some(a), Some(b)] = pair else {
            let missing = if pair[0].is_none() { "lora_a" } else { "lora_b" };
            found.problems.push(format!("`{base}` has no `{missing}`"));
            continue;
        };
        let ([_, rank_a], [rank_b, _]) = (&a.dimensions[..], &b.dimensions[..]) else {
            found.problems.push(format!("the matrices of `{base}` are not two-dimensional"));
            continue;
        };
        if rank_a != rank_b {
            let problem = format!("`{base}`: lora_a has rank {rank_a}, lora_b has rank {rank_b}");
            found.problems.push(problem);
        }
    }
    if found.problems.len() == before {
        found.checked.push("pairs and ranks".into());
    }
}

fn check_values(adapter: &Gguf<'_>, found: &mut Verification) {
    let before = found.problems.len();
    for tensor in adapter.tensors() {
        let Some(stored) = Quantization::of(tensor.ggml_type) else {
            let (name, kind) = (&tensor.name, tensor.ggml_type.name());
            found.problems.push(format!("`{name}` is {kind}, which not every llama.cpp can apply"));
            continue;
        };
        match dequantize(stored, adapter.data(tensor)) {
            Ok(values) if values.iter().all(|v| v.is_finite()) => {}
            Ok(_) => found.problems.push(format!("`{}` has NaN or infinite values", tensor.name)),
            Err(e) => found.problems.push(format!("`{}`: {e}", tensor.name)),
        }
    }
    if found.problems.len() == before {
        found.checked.push("types and finite values".into());
    }
}

/// Checks a parsed adapter against the base it is to be applied to.
pub fn verify_against_base(adapter: &Gguf<'_>, base: &Gguf<'_>) -> Verification {
    let mut found = Verification::default();
    let text = |gguf: &Gguf<'_>, key: &str| {
        gguf.get(key).and_then(Value::as_str).unwrap_or("unknown").to_owned()
    };
    let key = "general.architecture";
    let (ours, theirs) = (text(adapter, key), text(base, key));
    found.expect(ours == theirs, "architecture", || {
        let (of, name) = (text(adapter, "general.base_model.0.name"), text(base, "general.name"));
        format!(
            "the adapter is for architecture `{ours}` (base `{of}`), but this base is `{theirs}` (`{name}`)"
        )
    });
    check_shapes(adapter, base, &mut found);
    match adapter.get("t2lc.base.fingerprint").map(Value::as_str) {
        None | Some(Some(UNKNOWN_FINGERPRINT)) => found.checked.push(NOT_COMPARED.into()),
        Some(None) => found.problems.push("`t2lc.base.fingerprint` is not text".into()),
        Some(Some(recorded)) => match (recorded.parse::<Digest>(), base_fingerprint(base)) {
            (Ok(recorded), Ok(got)) => found.expect(recorded == got, "base fingerprint", || {
                format!("the base's fingerprint is {got}, the adapter was made for {recorded}: another model, even if names and shapes agree")
            }),
            (Err(e), _) => found.problems.push(format!("`t2lc.base.fingerprint`: {e}")),
            (_, Err(e)) => found.problems.push(format!("the base has no fingerprint: {e}")),
        },
    }
    found
}

fn check_shapes(adapter: &Gguf<'_>, base: &Gguf<'_>, found: &mut Verification) {
    let (mut missing, mut wrong) = (Vec::new(), Vec::new());
    for tensor in adapter.tensors() {
        let Some((target, side)) = tensor.name.rsplit_once('.') else { continue };
        let Some(weight) = base.tensor(target) else {
            missing.push(target);
            continue;
        };
        // llama.cpp compares two axes and then computes with all of them.
        if weight.dimensions.iter().skip(2).any(|size| *size != 1) {
            let dimensions = &weight.dimensions;
            wrong.push(format!("`{target}` of the base is no matrix, it is {dimensions:?}"));
            continue;
        }
        // lora_a shares the weight's row length, lora_b its number of rows.
        let (axis, what) = if side == "lora_a" { (0, "in") } else { (1, "out") };
        let (got, expected) = (tensor.dimensions.get(axis), weight.dimensions.get(axis));
        if got != expected {
            wrong.push(format!(
                "`{}` has {} {what} features, the base's `{target}` has {}",
                tensor.name,
                got.copied().unwrap_or(0),
                expected.copied().unwrap_or(0)
            ));
        }
    }
    missing.dedup();
    found.expect(missing.is_empty(), "tensor names", || {
        format!("the base lacks {} of the adapted tensors, first `{}`", missing.len(), missing[0])
    });
    found.expect(wrong.is_empty(), "tensor shapes", || {
        format!("{} tensors do not fit the base: {}", wrong.len(), wrong[0])
    });
}

#[cfg(test)]
mod tests {
    use super::verify_against_base;
    use crate::gguf::{GgmlType, Gguf, GgufWriter};

    fn file(tensors: &[(&str, &[u64])]) -> Vec<u8> {
        let mut writer = GgufWriter::new();
        for (name, dimensions) in tensors {
            let count: u64 = dimensions.iter().product();
            let bytes = vec![0; 4 * usize::try_from(count).unwrap()];
            writer.tensor(name, dimensions, GgmlType::F32, bytes).unwrap();
        }
        writer.finish().unwrap()
    }

    #[test]
    fn weights_that_are_no_matrices_have_no_adapter() {
        let adapter = file(&[("w.lora_a", &[4, 2]), ("w.lora_b", &[2, 3])]);
        let adapter = Gguf::parse(&adapter).unwrap();
        for (dimensions, fits) in [(&[4, 3][..], true), (&[4, 3, 1], true), (&[4, 3, 5], false)] {
            let base = file(&[("w", dimensions)]);
            let found = verify_against_base(&adapter, &Gguf::parse(&base).unwrap());
            let wrong = found.problems.iter().any(|problem| problem.contains("is no matrix"));
            assert_eq!(wrong, !fits, "{dimensions:?}: {:?}", found.problems);
        }
    }
}
