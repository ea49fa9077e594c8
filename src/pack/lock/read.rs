//! Reads `pack.lock`, strictly.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use t2lc_runtime::describe::Description;
use t2lc_runtime::digest::Digest;

use super::{Lock, LockedAdapter, LockedBundle, SCHEMA};
use crate::pack::PackError;
use crate::pack::document::{Fields, Source, read_limited};
use crate::pack::manifest::MAX_ADAPTERS;
use crate::pack::place::{confined, nested, output, refuse_name};
use crate::pack::problems::Problems;
use crate::store::NearTask;

/// Largest lock that is read: every adapter with the longest description, and more.
const MAX_LOCK_BYTES: u64 = 256 << 20;

/// Reads a lock, if there is one.
pub(super) fn read(path: &Path) -> Result<Option<Lock>, PackError> {
    let bytes = match read_limited(path, MAX_LOCK_BYTES) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            return Err(PackError::Io { what: "read", path: path.to_owned(), source });
        }
    };
    let mut problems = Problems::default();
    let lock = Source::parse(path, bytes, &mut problems)
        .and_then(|source| lock(path, &source, &mut problems));
    match lock {
        Some(lock) if problems.is_empty() => Ok(Some(lock)),
        _ => {
            let problems = problems.into_texts();
            Err(PackError::Lock { path: path.to_owned(), problems })
        }
    }
}

fn lock(path: &Path, source: &Source, problems: &mut Problems) -> Option<Lock> {
    let top = source.top();
    top.require("schema", problems);
    let schema = top.count("schema", problems)?;
    if schema != SCHEMA {
        let what = format!("schema {schema}, this version reads schema {SCHEMA}");
        top.complain("schema", &what, problems);
        return None;
    }
    let known = ["schema", "t2lc", "pipeline", "backend", "out", "bundle", "adapter"];
    top.expect_only(&known, problems);
    let t2lc = required(&top, "t2lc", problems);
    let pipeline = required(&top, "pipeline", problems);
    let backend = required(&top, "backend", problems);
    let out = required(&top, "out", problems).and_then(|out| {
        confined(out).map_err(|reason| top.complain("out", &reason, problems)).ok()
    });
    top.require("bundle", problems);
    let bundle = top.table("bundle", "[bundle]", problems);
    let bundle = bundle.and_then(|fields| bundle_of(&fields, problems));
    let tables = top.tables("adapter", "the adapter", problems);
    if tables.len() > MAX_ADAPTERS {
        let what = format!("{} adapters, at most {MAX_ADAPTERS} are read", tables.len());
        problems.add(path, None, &what);
        return None;
    }
    let mut taken = BTreeSet::new();
    let mut adapters = Vec::with_capacity(tables.len());
    for fields in tables {
        let Some(adapter) = adapter_of(&fields, problems) else { continue };
        for (key, value) in [("name", &adapter.name), ("output", &adapter.output)] {
            if !taken.insert((key, value.to_ascii_lowercase())) {
                fields.complain(key, &format!("the {key} `{value}` is there twice"), problems);
            }
        }
        adapters.push(adapter);
    }
    let outputs: BTreeSet<String> =
        adapters.iter().map(|adapter| adapter.output.to_ascii_lowercase()).collect();
    for (output, parent) in nested(&outputs) {
        let what = format!("the output `{output}` lies inside the output `{parent}`");
        problems.add(path, None, &what);
    }
    adapters.sort_by(|a, b| a.name.cmp(&b.name));
    Some(Lock {
        t2lc: t2lc?.to_owned(),
        pipeline: pipeline?.to_owned(),
        backend: backend?.to_owned(),
        out: out?,
        bundle: bundle?,
        adapters,
    })
}

fn bundle_of(fields: &Fields<'_>, problems: &mut Problems) -> Option<LockedBundle> {
    fields.expect_only(&["name", "digest", "base", "base_fingerprint"], problems);
    let name = required(fields, "name", problems);
    let digest = digest(fields, "digest", problems);
    let base = required(fields, "base", problems);
    let base_fingerprint = required(fields, "base_fingerprint", problems);
    Some(LockedBundle {
        name: name?.to_owned(),
        digest: digest?,
        base: base?.to_owned(),
        base_fingerprint: base_fingerprint?.to_owned(),
    })
}

fn adapter_of(fields: &Fields<'_>, problems: &mut Problems) -> Option<LockedAdapter> {
    let known = [
        "name",
        "output",
        "format",
        "quantization",
        "scale",
        "description",
        "description_sha256",
        "recipe",
        "content",
        "size_bytes",
        "familiar",
        "nearest",
    ];
    fields.expect_only(&known, problems);
    for key in known {
        fields.require(key, problems);
    }
    let name = fields.string("name", problems);
    if let Some(Err(reason)) = name.map(refuse_name) {
        fields.complain("name", &reason, problems);
    }
    let format: Option<t2lc_runtime::compile::Format> = fields.parsed("format", problems);
    let output = fields.string("output", problems).and_then(|text| {
        let is_file = format == Some(t2lc_runtime::compile::Format::Gguf);
        output(text, is_file).map_err(|reason| fields.complain("output", &reason, problems)).ok()
    });
    let description = fields.string("description", problems);
    let described = fields.parsed::<Digest>("description_sha256", problems);
    if let Some(text) = description {
        if Description::new(text).ok().is_none_or(|canonical| canonical.as_str() != text) {
            fields.complain("description", "the description is not canonical", problems);
        }
        if described.is_some_and(|digest| digest != Digest::of(text.as_bytes())) {
            let what = "`description_sha256` is not the digest of `description`";
            fields.complain("description_sha256", what, problems);
        }
    }
    let quantization = fields.parsed("quantization", problems);
    let scale = fields.float("scale", problems);
    let recipe = fields.parsed("recipe", problems);
    let content = fields.parsed("content", problems);
    let size_bytes = fields.count("size_bytes", problems);
    let familiar = fields.boolean("familiar", problems);
    let mut nearest = Vec::new();
    for near in fields.inline_tables("nearest", "the nearest task", problems) {
        near.expect_only(&["task", "cosine"], problems);
        let task = required(&near, "task", problems);
        near.require("cosine", problems);
        let cosine = near.float("cosine", problems);
        if let (Some(task), Some(cosine)) = (task, cosine) {
            let cosine = (f64::from(cosine) * 1e4).round() / 1e4;
            nearest.push(NearTask { task: task.to_owned(), cosine });
        }
    }
    Some(LockedAdapter {
        name: name?.to_owned(),
        output: output?,
        format: format?,
        quantization: quantization?,
        scale: scale?,
        description: description?.to_owned(),
        recipe: recipe?,
        content: content?,
        size_bytes: size_bytes?,
        familiar: familiar?,
        nearest,
    })
}

fn required<'a>(fields: &Fields<'a>, key: &str, problems: &mut Problems) -> Option<&'a str> {
    fields.require(key, problems);
    fields.string(key, problems)
}

fn digest(fields: &Fields<'_>, key: &str, problems: &mut Problems) -> Option<Digest> {
    fields.require(key, problems);
    fields.parsed(key, problems)
}
