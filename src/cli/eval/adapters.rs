//! Adapter files whose target modules are not known beforehand.
//!
//! In: a PEFT directory or a GGUF file. Out: the modules that it adapts, and the adapter as engines
//! take it. A PEFT directory names them in `target_modules` of `adapter_config.json`, by
//! the last part of their path; a GGUF file has the tensor `<weight>.lora_a` for each.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::rc::Rc;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use t2lc::base::describe::describe_base;
use t2lc::base::peft::PeftAdapter;
use t2lc::evaluate::AdapterData;
use t2lc_runtime::base::{TargetModule, UNKNOWN_FINGERPRINT};
use t2lc_runtime::gguf::{Gguf, Value};
use t2lc_runtime::peft::CONFIG;

/// The linear maps of a decoder layer.
const MODULES: [&str; 7] =
    ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];
/// Largest configuration that is read.
const MAX_CONFIG_BYTES: u64 = 1 << 20;

/// Reads an adapter for a base, of this fingerprint, from a PEFT directory or a GGUF file.
pub(super) fn load_adapter(path: &Path, base: &Path, fingerprint: &str) -> Result<AdapterData> {
    if path.is_dir() {
        let base = describe_base(base, &peft_modules(path)?)?;
        let adapter = PeftAdapter::load(path, &base)?;
        return Ok(AdapterData::Peft { adapter: Rc::new(adapter), base: Rc::new(base) });
    }
    let read = || -> Result<AdapterData> {
        let bytes = std::fs::read(path).context("the file cannot be read")?;
        let base = describe_base(base, &gguf_modules(&bytes)?)?;
        if let Some(recorded) = recorded_fingerprint(&bytes)? {
            ensure!(
                is_for(&recorded, fingerprint),
                "it was made for the base {recorded}, the base is {fingerprint}"
            );
        }
        Ok(AdapterData::Gguf { bytes: bytes.into(), base: Rc::new(base) })
    };
    read().with_context(|| format!("cannot use the adapter `{}`", path.display()))
}

/// Whether what was made for the base of one fingerprint, if it knows, is for that of another.
pub(super) fn is_for(recorded: &str, fingerprint: &str) -> bool {
    recorded == fingerprint || recorded == UNKNOWN_FINGERPRINT
}

/// The base that a GGUF file says it is for, if it does.
fn recorded_fingerprint(bytes: &[u8]) -> Result<Option<String>> {
    let gguf = Gguf::parse(bytes).context("the adapter is not a usable GGUF file")?;
    Ok(gguf.get("t2lc.base.fingerprint").and_then(Value::as_str).map(str::to_owned))
}

/// The modules that any adapter of a library adapts.
pub(super) fn library_modules(dir: &Path) -> Result<Vec<String>> {
    let cannot = || format!("cannot read the library `{}`", dir.display());
    let mut modules = BTreeSet::new();
    for entry in std::fs::read_dir(dir).with_context(cannot)? {
        let path = entry.with_context(cannot)?.path();
        if path.join(CONFIG).is_file() {
            modules.extend(peft_modules(&path)?);
        }
    }
    ensure!(!modules.is_empty(), "the library `{}` has no adapter", dir.display());
    Ok(modules.into_iter().collect())
}

/// The modules that a PEFT directory adapts, each once.
fn peft_modules(dir: &Path) -> Result<Vec<String>> {
    #[derive(Deserialize)]
    struct Config {
        target_modules: Vec<String>,
    }
    let path = dir.join(CONFIG);
    let read = || -> Result<Config> {
        Ok(serde_json::from_reader(File::open(&path)?.take(MAX_CONFIG_BYTES))?)
    };
    let config = read()
        .with_context(|| format!("cannot read the target modules from `{}`", path.display()))?;
    let name = |path: &String| path.rsplit('.').next().unwrap_or_default().to_owned();
    let names: BTreeSet<String> = config.target_modules.iter().map(name).collect();
    ensure!(!names.is_empty(), "`{}` has no target modules", path.display());
    Ok(names.into_iter().collect())
}

/// The modules that a GGUF file adapts in the first layer.
fn gguf_modules(bytes: &[u8]) -> Result<Vec<String>> {
    let gguf = Gguf::parse(bytes).context("the adapter is not a usable GGUF file")?;
    let adapts = |name: &&str| {
        let module = TargetModule {
            name: (*name).to_owned(),
            in_features: 0,
            out_features: 0,
            permute_heads: None,
        };
        let weight = module.gguf_name(0);
        weight.is_some_and(|weight| gguf.tensor(&format!("{weight}.lora_a")).is_some())
    };
    let modules: Vec<String> = MODULES.into_iter().filter(adapts).map(str::to_owned).collect();
    ensure!(!modules.is_empty(), "the adapter changes none of {}", MODULES.join(", "));
    Ok(modules)
}

#[cfg(test)]
mod tests {
    use t2lc_runtime::gguf::{GgmlType, GgufWriter};

    use super::{CONFIG, gguf_modules, library_modules, peft_modules};

    #[test]
    fn a_peft_directory_names_its_modules() {
        let dir = tempfile::tempdir().unwrap();
        let write = |task: &str, config: &str| {
            let path = dir.path().join(task);
            std::fs::create_dir_all(&path).unwrap();
            std::fs::write(path.join(CONFIG), config).unwrap();
            path
        };
        let paths = r#"{"r": 8, "target_modules": ["layers.0.self_attn.v_proj", "v_proj"]}"#;
        let first = write("a", paths);
        assert_eq!(peft_modules(&first).unwrap(), ["v_proj"]);
        write("b", r#"{"target_modules": ["q_proj"]}"#);
        std::fs::create_dir(dir.path().join(".runs")).unwrap();
        assert_eq!(library_modules(dir.path()).unwrap(), ["q_proj", "v_proj"]);

        let every = write("c", r#"{"target_modules": "all-linear"}"#);
        let error = format!("{:#}", peft_modules(&every).unwrap_err());
        assert!(error.contains("adapter_config.json") && error.contains("all-linear"), "{error}");
    }

    #[test]
    fn a_library_without_adapters_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let error = library_modules(dir.path()).unwrap_err().to_string();
        assert!(error.ends_with("has no adapter"), "{error}");
    }

    #[test]
    fn a_gguf_file_adapts_the_modules_that_it_has_matrices_for() {
        let file = |tensors: &[&str]| {
            let mut file = GgufWriter::new();
            for name in tensors {
                file.tensor(name, &[1], GgmlType::F32, vec![0; 4]).unwrap();
            }
            file.finish().unwrap()
        };
        let names = ["blk.0.ffn_up.weight.lora_a", "blk.0.attn_q.weight.lora_a"];
        assert_eq!(gguf_modules(&file(&names)).unwrap(), ["q_proj", "up_proj"]);
        let error = gguf_modules(&file(&["blk.1.attn_q.weight.lora_a"])).unwrap_err().to_string();
        assert!(error.starts_with("the adapter changes none of q_proj"), "{error}");
    }
}
