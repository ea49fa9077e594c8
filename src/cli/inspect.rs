//! `t2lc inspect`: what is in a file or directory, as text or JSON.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, anyhow};
use serde_json::{Map, Value as Json, json};
use t2lc_export::checkpoint::{Checkpoint, ORIGIN_FILE, TENSORS_FILE, load_origin};
use t2lc_runtime::bundle::{Bundle, MANIFEST};
use t2lc_runtime::error::Error;
use t2lc_runtime::gguf::{Gguf, Value};
use t2lc_runtime::peft;

use super::InspectArgs;
use super::failure::{Failure, Outcome};
use super::output::{print_json, print_text};

/// Longest string and most tensors that the text form prints in full.
const MAX_TEXT: usize = 120;

/// Runs the verb.
pub(crate) fn run(args: &InspectArgs) -> Outcome {
    let found = describe(&args.path)?;
    if args.json {
        let mut found = found;
        found["schema"] = json!(1);
        print_json(&found)?;
    } else {
        let mut text = String::new();
        render(&mut text, &found, 0);
        print_text(&text)?;
    }
    Ok(())
}

fn describe(path: &Path) -> Result<Json, Failure> {
    let unreadable = |error| Failure::input("inspect.read", error);
    if path.join(MANIFEST).is_file() {
        let bundle = Bundle::open(path).map_err(Error::from)?;
        let manifest = serde_json::to_value(&bundle.manifest).context("manifest as JSON")?;
        return Ok(json!({"kind": "bundle", "digest": bundle.digest, "manifest": manifest}));
    }
    if path.join(peft::CONFIG).is_file() {
        let read = |name: &str| {
            let path = path.join(name);
            std::fs::read(&path).with_context(|| format!("cannot read `{}`", path.display()))
        };
        let config: Json = serde_json::from_slice(&read(peft::CONFIG).map_err(unreadable)?)
            .context("adapter_config.json is not JSON")
            .map_err(unreadable)?;
        let weights = read(peft::WEIGHTS).map_err(unreadable)?;
        let tensors = safetensors_list(&weights).map_err(unreadable)?;
        return Ok(json!({"kind": "peft", "config": config, "tensors": tensors}));
    }
    if path.join(TENSORS_FILE).is_file() {
        let checkpoint = Checkpoint::load(path).map_err(|e| unreadable(e.into()))?;
        let config = serde_json::to_value(&checkpoint.config).context("config as JSON")?;
        let parameters: usize = checkpoint.tensors.values().map(|t| t.values.len()).sum();
        let tensors: Map<String, Json> =
            checkpoint.tensors.iter().map(|(name, t)| (name.clone(), json!(t.shape))).collect();
        let mut found = json!({
            "kind": "checkpoint", "config": config, "parameters": parameters, "tensors": tensors,
        });
        if path.join(ORIGIN_FILE).is_file() {
            let origin = load_origin(path, &checkpoint.config).map_err(|e| unreadable(e.into()))?;
            found["origin"] = json!(origin);
        }
        return Ok(found);
    }
    if path.is_dir() {
        let error = anyhow!("`{}` is no bundle, checkpoint or PEFT directory", path.display());
        return Err(Failure::input("inspect.unknown", error));
    }
    let bytes = std::fs::read(path)
        .with_context(|| format!("cannot read `{}`", path.display()))
        .map_err(unreadable)?;
    let gguf = Gguf::parse(&bytes)
        .with_context(|| format!("`{}` is not a sound GGUF file", path.display()))
        .map_err(|error| Failure::input("inspect.gguf", error))?;
    Ok(describe_gguf(&gguf))
}

fn describe_gguf(gguf: &Gguf<'_>) -> Json {
    let metadata: Map<String, Json> =
        gguf.metadata().iter().map(|(key, value)| (key.clone(), metadata_json(value))).collect();
    let tensors: Vec<Json> = gguf
        .tensors()
        .iter()
        .map(|t| {
            json!({
                "name": t.name, "type": t.ggml_type.name(), "dimensions": t.dimensions,
                "size_bytes": t.size_bytes,
            })
        })
        .collect();
    json!({"kind": "gguf", "version": gguf.version(), "metadata": metadata, "tensors": tensors})
}

fn metadata_json(value: &Value) -> Json {
    match value {
        Value::U8(v) => json!(v),
        Value::I8(v) => json!(v),
        Value::U16(v) => json!(v),
        Value::I16(v) => json!(v),
        Value::U32(v) => json!(v),
        Value::I32(v) => json!(v),
        Value::F32(v) => json!(v),
        Value::Bool(v) => json!(v),
        Value::String(v) => json!(v),
        Value::Array(v) => json!(format!("array of {}", v.len())),
        Value::U64(v) => json!(v),
        Value::I64(v) => json!(v),
        Value::F64(v) => json!(v),
    }
}

fn safetensors_list(bytes: &[u8]) -> anyhow::Result<Json> {
    let file = safetensors::SafeTensors::deserialize(bytes)
        .map_err(|e| anyhow!("{} is not a safetensors file: {e}", peft::WEIGHTS))?;
    let mut tensors: Vec<_> = file.iter().collect();
    tensors.sort_by_key(|(name, _)| *name);
    let list = tensors.into_iter().map(|(name, view)| {
        json!({"name": name, "type": format!("{:?}", view.dtype()), "shape": view.shape()})
    });
    Ok(list.collect())
}

/// JSON as indented `key: value` lines; lists of tensors on one line each.
fn render(text: &mut String, value: &Json, depth: usize) {
    let indent = "  ".repeat(depth);
    let mut line = |key: &str, value: &Json| match value {
        Json::Object(_) => {
            let _ = writeln!(text, "{indent}{key}:"); // writing to a String cannot fail
            render(text, value, depth + 1);
        }
        Json::Array(items) if items.iter().any(Json::is_object) => {
            let _ = writeln!(text, "{indent}{key}: {}", items.len());
            for item in items {
                let fields = item.as_object().into_iter().flatten();
                let fields: Vec<String> = fields.map(|(_, v)| plain(v)).collect();
                let _ = writeln!(text, "{indent}  {}", fields.join("  "));
            }
        }
        value => {
            let _ = writeln!(text, "{indent}{key}: {}", plain(value));
        }
    };
    if let Json::Object(fields) = value {
        fields.iter().for_each(|(key, value)| line(&plain(&json!(key)), value));
    }
}

fn printable(c: char) -> Vec<char> {
    if c.is_control() { c.escape_default().collect() } else { vec![c] }
}

fn plain(value: &Json) -> String {
    let text = match value {
        // Files are not trusted: control characters could drive the terminal.
        Json::String(text) => text.chars().flat_map(printable).collect(),
        value => value.to_string(),
    };
    match text.char_indices().nth(MAX_TEXT) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
