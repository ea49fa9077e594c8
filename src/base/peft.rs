//! Adapters as PEFT directories: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! In: a directory that any program wrote. Out: a [`PeftAdapter`] with the matrices of every target
//! module and layer of a base model, unscaled, in the Hugging Face row order; and back. The update
//! is `ΔW = scale · B A`, where the scale is `alpha / rank`, or `alpha / √rank` with rank-stabilized
//! scaling (`use_rslora`, <https://arxiv.org/abs/2312.03732>).
//!
//! Only plain adapters that cover the whole base are taken: one rank, one alpha, no magnitudes, no
//! biases, no extra modules. Everything that is wrong with a directory is reported at once. Files
//! are not trusted. Equal adapters give equal bytes.
//!
//! Source: PEFT's checkpoint format.

mod settings;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use candle_core::{Device, Tensor};
use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize};
use serde_json::Value;
use t2lc_runtime::atomic::write_directory_atomically;
use t2lc_runtime::base::{BaseModel, TargetModule};
use t2lc_runtime::fold::fold_and_balance;
use t2lc_runtime::generate;
use t2lc_runtime::peft::{CONFIG, WEIGHTS};
use t2lc_runtime::quantize::{Quantization, dequantize};

use super::adapter::{LoraBatch, LoraPair};

/// Largest rank that is believed.
pub const MAX_RANK: usize = 4096;
/// Largest configuration that is read.
const MAX_CONFIG_BYTES: u64 = 1 << 20;
/// Largest tensor file that is read.
const MAX_WEIGHTS_BYTES: u64 = 8 << 30;
/// Most problems that one message names.
const MAX_LISTED: usize = 20;
/// The linear maps of a decoder layer, in the order in which they are listed.
const LAYER_MODULES: [&str; 7] =
    ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

/// An adapter with a pair of matrices for every target module and layer of a base model.
#[derive(Debug, Clone, PartialEq)]
pub struct PeftAdapter {
    /// Rank of every pair.
    pub rank: usize,
    /// Numerator of the scale.
    pub alpha: f32,
    /// Whether the scale divides by the square root of the rank instead of the rank.
    pub use_rslora: bool,
    /// By module name and layer: `lora_a [rank, in]` and `lora_b [out, rank]`, row-major.
    pub matrices: BTreeMap<(String, usize), (Vec<f32>, Vec<f32>)>,
}

impl PeftAdapter {
    /// Reads a directory for the target modules of `base`.
    ///
    /// # Errors
    /// Files that are unreadable, too large or malformed; or, all in one message: settings other
    /// than those of a plain adapter, and tensors that are missing, unknown, of the wrong shape or
    /// type, or not finite.
    pub fn load(dir: &Path, base: &BaseModel) -> Result<Self> {
        let path = dir.join(CONFIG);
        let config: Value = serde_json::from_slice(&read_limited(&path, MAX_CONFIG_BYTES)?)
            .with_context(|| format!("`{}` is not JSON", path.display()))?;
        let path = dir.join(WEIGHTS);
        let bytes = read_limited(&path, MAX_WEIGHTS_BYTES)?;
        let file = SafeTensors::deserialize(&bytes)
            .with_context(|| format!("`{}` is not a safetensors file", path.display()))?;
        let mut problems = Vec::new();
        let mut adapter = Self::without_matrices(&config, &mut problems);
        // Without a rank no shape can be checked.
        if adapter.rank > 0 {
            adapter.read_matrices(&file, base, &mut problems)?;
        }
        ensure!(
            problems.is_empty(),
            "`{}` is not an adapter for the base `{}`:\n  {}",
            dir.display(),
            base.name,
            listed(&problems),
        );
        Ok(adapter)
    }

    /// Writes the directory; one that exists is replaced if it holds nothing but both files.
    ///
    /// # Errors
    /// What [`PeftAdapter::check`] refuses, and a directory that cannot be written or replaced.
    pub fn save(&self, dir: &Path, base: &BaseModel) -> Result<()> {
        self.check(base)?;
        let mut tensors = Vec::with_capacity(2 * self.matrices.len());
        for module in &base.modules {
            for layer in 0..base.layers {
                let (a, b) = self.pair(&module.name, layer)?;
                let [name_a, name_b] = tensor_names(module, layer)?;
                let [shape_a, shape_b] = shapes(self.rank, module);
                tensors.push((name_a, shape_a, little_endian(a)));
                tensors.push((name_b, shape_b, little_endian(b)));
            }
        }
        let views = tensors
            .iter()
            .map(|(name, shape, bytes)| {
                Ok((name, TensorView::new(Dtype::F32, shape.to_vec(), bytes)?))
            })
            .collect::<Result<Vec<_>>>()?;
        let weights = serialize(views, None)?;
        let config = self.config(base);
        let files = [(WEIGHTS, weights.as_slice()), (CONFIG, config.as_slice())];
        Ok(write_directory_atomically(dir, &files, true)?)
    }

    /// Factor on `B A x`.
    pub fn scale(&self) -> f64 {
        let rank = self.rank as f64;
        f64::from(self.alpha) / if self.use_rslora { rank.sqrt() } else { rank }
    }

    /// The adapter for a batch of one row.
    ///
    /// # Errors
    /// What [`PeftAdapter::check`] refuses, and a device that fails.
    pub fn batch(&self, base: &BaseModel, device: &Device) -> Result<LoraBatch> {
        self.check(base)?;
        let mut pairs = BTreeMap::new();
        for module in &base.modules {
            let mut layers = Vec::with_capacity(base.layers);
            for layer in 0..base.layers {
                let (a, b) = self.pair(&module.name, layer)?;
                let shape = (1, self.rank, module.out_features);
                let transposed = transpose(b, self.rank);
                layers.push(LoraPair {
                    a: Tensor::from_slice(a, (1, self.rank, module.in_features), device)?,
                    b_transposed: Tensor::from_vec(transposed, shape, device)?,
                });
            }
            pairs.insert(module.name.clone(), layers);
        }
        Ok(LoraBatch::new(pairs, self.scale()))
    }

    /// The pairs with the scale folded in and balanced, layer by layer in the order of the base's
    /// modules, as [`t2lc_runtime::write`] takes them.
    ///
    /// # Errors
    /// What [`PeftAdapter::check`] refuses.
    pub fn pairs(&self, base: &BaseModel) -> Result<Vec<generate::LoraPair>> {
        self.check(base)?;
        #[allow(clippy::cast_possible_truncation, reason = "the matrices are f32 too")]
        let scale = self.scale() as f32;
        let mut pairs = Vec::with_capacity(self.matrices.len());
        for layer in 0..base.layers {
            for (index, module) in base.modules.iter().enumerate() {
                let (a, b) = self.pair(&module.name, layer)?;
                let (a, b) = (a.to_vec(), b.to_vec());
                let mut pair = generate::LoraPair { layer, module: index, a, b };
                fold_and_balance(&mut pair, scale);
                pairs.push(pair);
            }
        }
        Ok(pairs)
    }

    /// `lora_a [rank, in]` and `lora_b [out, rank]` of a module.
    ///
    /// # Errors
    /// A module or layer that the adapter does not have.
    pub fn pair(&self, module: &str, layer: usize) -> Result<(&[f32], &[f32])> {
        let pair = self.matrices.get(&(module.to_owned(), layer));
        let (a, b) =
            pair.with_context(|| format!("the adapter has no `{module}` in layer {layer}"))?;
        Ok((a.as_slice(), b.as_slice()))
    }

    /// Checks that the adapter is what [`PeftAdapter::load`] would return for this base.
    ///
    /// # Errors
    /// An unusable rank or alpha; pairs that are missing, too many, of the wrong size or not finite,
    /// all in one message.
    pub fn check(&self, base: &BaseModel) -> Result<()> {
        let mut problems = Vec::new();
        if !(1..=MAX_RANK).contains(&self.rank) {
            problems.push(format!("the rank is {}, expected 1 to {MAX_RANK}", self.rank));
        }
        if !self.alpha.is_finite() {
            problems.push(format!("alpha is {}, expected a finite number", self.alpha));
        }
        for module in &base.modules {
            for layer in 0..base.layers {
                let Ok((a, b)) = self.pair(&module.name, layer) else {
                    problems.push(format!("no `{}` in layer {layer}", module.name));
                    continue;
                };
                for (values, [rows, columns]) in [a, b].into_iter().zip(shapes(self.rank, module)) {
                    let at = format!("`{}` in layer {layer}", module.name);
                    if rows.checked_mul(columns) != Some(values.len()) {
                        let got = values.len();
                        problems.push(format!("{at}: {got} values, expected [{rows}, {columns}]"));
                    }
                    let count = values.iter().filter(|value| !value.is_finite()).count();
                    if count > 0 {
                        problems.push(format!("{at}: {count} values that are not finite"));
                    }
                }
            }
        }
        let known = |(module, layer): &&(String, usize)| {
            *layer < base.layers && base.modules.iter().any(|target| target.name == *module)
        };
        for (module, layer) in self.matrices.keys().filter(|key| !known(key)) {
            problems.push(format!("`{module}` in layer {layer}, which the base does not have"));
        }
        ensure!(
            problems.is_empty(),
            "the adapter does not fit the base `{}`:\n  {}",
            base.name,
            listed(&problems),
        );
        Ok(())
    }

    fn read_matrices(
        &mut self,
        file: &SafeTensors<'_>,
        base: &BaseModel,
        problems: &mut Vec<String>,
    ) -> Result<()> {
        let mut found = BTreeMap::new();
        let mut names = file.names();
        names.sort_unstable();
        for name in names {
            if found.insert(without_adapter_name(name), file.tensor(name)?).is_some() {
                problems.push(format!("`{name}` is there with and without `.default`"));
            }
        }
        let mut missing: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for module in &base.modules {
            for layer in 0..base.layers {
                let [name_a, name_b] = tensor_names(module, layer)?;
                let [shape_a, shape_b] = shapes(self.rank, module);
                let mut take = |side: &str, name: String, shape: [usize; 2]| {
                    let Some(view) = found.remove(&name) else {
                        let what = format!("{}.{side}", module.name);
                        missing.entry(what).or_default().push(layer.to_string());
                        return None;
                    };
                    let values = matrix(&view, shape);
                    values.map_err(|e| problems.push(format!("`{name}` {e:#}"))).ok()
                };
                let a = take("lora_A", name_a, shape_a);
                let b = take("lora_B", name_b, shape_b);
                if let (Some(a), Some(b)) = (a, b) {
                    self.matrices.insert((module.name.clone(), layer), (a, b));
                }
            }
        }
        for (what, layers) in missing {
            problems.push(format!("no `{what}` in the layers {}", layers.join(", ")));
        }
        let unknown = found.keys();
        problems.extend(unknown.map(|name| format!("`{name}` is no matrix of a target module")));
        Ok(())
    }
}

/// Short names of the modules that the matrices of a directory are for, in the order of a decoder
/// layer. The configuration is not asked: it may hold a pattern instead of names.
///
/// # Errors
/// A tensor file that is unreadable, too large, malformed or without LoRA matrices.
pub fn target_modules(dir: &Path) -> Result<Vec<String>> {
    let path = dir.join(WEIGHTS);
    let bytes = read_limited(&path, MAX_WEIGHTS_BYTES)?;
    let file = SafeTensors::deserialize(&bytes)
        .with_context(|| format!("`{}` is not a safetensors file", path.display()))?;
    let module = |name: &str| -> Option<String> {
        let (module, _) = name.split_once(".lora_")?;
        module.rsplit('.').next().map(str::to_owned)
    };
    let found: BTreeSet<String> = file.names().into_iter().filter_map(module).collect();
    ensure!(!found.is_empty(), "`{}` has no LoRA matrices", path.display());
    let mut modules: Vec<String> = found.into_iter().collect();
    // Stable: names of no known map follow, by name.
    modules.sort_by_key(|name| {
        LAYER_MODULES.iter().position(|known| known == name).unwrap_or(usize::MAX)
    });
    Ok(modules)
}

/// The problems as lines of one message; the first ones where there are very many.
pub(crate) fn listed(problems: &[String]) -> String {
    let mut lines: Vec<String> = problems.iter().take(MAX_LISTED).cloned().collect();
    if problems.len() > MAX_LISTED {
        lines.push(format!("and {} more", problems.len() - MAX_LISTED));
    }
    lines.join("\n  ")
}

fn read_limited(path: &Path, limit_bytes: u64) -> Result<Vec<u8>> {
    let failed = || format!("cannot read `{}`", path.display());
    let found = std::fs::metadata(path).with_context(failed)?;
    ensure!(found.is_file(), "`{}` is not a file", path.display());
    let got = found.len();
    ensure!(
        got <= limit_bytes,
        "`{}` has {got} bytes, at most {limit_bytes} are read",
        path.display()
    );
    std::fs::read(path).with_context(failed)
}

/// Names of both tensors of a module, without an adapter's name.
fn tensor_names(module: &TargetModule, layer: usize) -> Result<[String; 2]> {
    let path = module.hugging_face_path(layer);
    let path = path.with_context(|| format!("unknown target module `{}`", module.name))?;
    Ok(["lora_A", "lora_B"].map(|side| format!("base_model.model.{path}.{side}.weight")))
}

/// Shapes of both tensors of a module.
fn shapes(rank: usize, module: &TargetModule) -> [[usize; 2]; 2] {
    [[rank, module.in_features], [module.out_features, rank]]
}

/// Some writers put the adapter's name, `default`, before `weight`.
fn without_adapter_name(name: &str) -> String {
    let stem = name.strip_suffix(".default.weight");
    stem.map_or_else(|| name.to_owned(), |stem| format!("{stem}.weight"))
}

/// The values of a tensor of this shape.
fn matrix(view: &TensorView<'_>, shape: [usize; 2]) -> Result<Vec<f32>> {
    ensure!(view.shape() == shape, "has the shape {:?}, expected {shape:?}", view.shape());
    let stored = match view.dtype() {
        Dtype::F32 => Quantization::F32,
        Dtype::F16 => Quantization::F16,
        Dtype::BF16 => Quantization::Bf16,
        other => bail!("has the type {other}, expected F32, F16 or BF16"),
    };
    let values = dequantize(stored, view.data())?;
    let count = values.iter().filter(|value| !value.is_finite()).count();
    ensure!(count == 0, "has {count} values that are not finite");
    Ok(values)
}

fn little_endian(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// `[out, rank]` → `[rank, out]`.
pub(crate) fn transpose(b: &[f32], rank: usize) -> Vec<f32> {
    (0..rank).flat_map(|r| b.iter().skip(r).step_by(rank).copied()).collect()
}

#[cfg(test)]
pub(crate) mod tests;
