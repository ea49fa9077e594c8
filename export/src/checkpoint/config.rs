//! `config.json` of a checkpoint: sizes, and the tensor names and shapes that follow from them.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use t2lc_runtime::base::BaseModel;

use super::error::CheckpointError;

/// Layout of `config.json` that this version reads and writes.
pub const SCHEMA: u32 = 1;

/// Prefix of the targets' mean, followed by `.A.` or `.B.` and the module.
pub const MEAN_PREFIX: &str = "mean_recon_target";
/// Prefix of the targets' deviation, as [`MEAN_PREFIX`].
pub const DEVIATION_PREFIX: &str = "std_recon_target";
/// Added to the deviation wherever it divides or multiplies.
pub const DEVIATION_EPSILON: f32 = 1e-10;

/// Bounds on what a configuration may ask for, far above any model in use. Tensors that default to
/// zeros are allocated from these numbers alone.
const MAX_LAYERS: usize = 1 << 12;
const MAX_MODULES: usize = 1 << 6;
const MAX_RANK: usize = 1 << 12;
const MAX_WIDTH: usize = 1 << 20;
const MAX_ELEMENTS: usize = 1 << 30;

/// How the heads produce the matrices: as in the paper, section 3, or gated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Variant {
    /// One head call gives B with all ranks. What enters it is linear in the task embedding: a
    /// projection of it times a gate for each layer and module. There is no trunk, and A is learned,
    /// one for each layer and module: all tasks share it.
    #[serde(rename = "gated")]
    Gated,
    /// One head call gives A and B with all ranks.
    L,
    /// One head call gives A or B with all ranks.
    M,
    /// One head call gives one rank of A or B.
    S,
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gated => "gated",
            Self::L => "L",
            Self::M => "M",
            Self::S => "S",
        })
    }
}

impl FromStr for Variant {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "gated" => Ok(Self::Gated),
            "L" => Ok(Self::L),
            "M" => Ok(Self::M),
            "S" => Ok(Self::S),
            _ => Err(format!("unknown variant `{text}`, expected gated, L, M or S")),
        }
    }
}

/// Sizes of a hypernetwork and the base model it was trained for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HypernetConfig {
    /// Layout version, [`SCHEMA`].
    pub schema: u32,
    /// Head variant.
    pub variant: Variant,
    /// Rank of the generated adapters.
    pub rank: usize,
    /// `LoRA` alpha.
    pub alpha: f32,
    /// Whether the scale is `alpha / sqrt(rank)` instead of `alpha / rank`.
    pub use_rslora: bool,
    /// Width `W` of the trunk, divisible by 4; without a trunk the same as `head_in_size`.
    pub latent_size: usize,
    /// Width of the vector that enters the heads.
    pub head_in_size: usize,
    /// Width `E` of the task embedding.
    pub task_embedding_size: usize,
    /// Base model; `base.modules` is in type-index order.
    pub base: BaseModel,
}

impl HypernetConfig {
    /// Factor on `B A x`: `alpha / rank`, or `alpha / sqrt(rank)` with rank-stabilized scaling.
    pub fn scale(&self) -> f32 {
        let rank = self.rank as f32;
        self.alpha / if self.use_rslora { rank.sqrt() } else { rank }
    }

    /// Checks that every size is usable and that the whole hypernetwork fits in memory limits.
    ///
    /// # Errors
    /// [`CheckpointError::Schema`] or [`CheckpointError::Field`].
    pub fn validate(&self) -> Result<(), CheckpointError> {
        if self.schema != SCHEMA {
            return Err(CheckpointError::Schema { expected: SCHEMA, got: self.schema });
        }
        check_size("rank", self.rank, MAX_RANK)?;
        check_size("latent_size", self.latent_size, MAX_WIDTH)?;
        check_size("head_in_size", self.head_in_size, MAX_WIDTH)?;
        check_size("task_embedding_size", self.task_embedding_size, MAX_WIDTH)?;
        check_size("base.layers", self.base.layers, MAX_LAYERS)?;
        check_size("base.modules", self.base.modules.len(), MAX_MODULES)?;
        if self.variant != Variant::Gated && !self.latent_size.is_multiple_of(4) {
            return Err(field(
                "latent_size",
                format!("{} is not divisible by 4", self.latent_size),
            ));
        }
        if !(self.alpha.is_finite() && self.alpha > 0.0) {
            return Err(field("alpha", format!("{} is not a positive number", self.alpha)));
        }
        if self.variant == Variant::Gated && self.latent_size != self.head_in_size {
            let reason =
                format!("a gated hypernetwork has no trunk; expected {}", self.head_in_size);
            return Err(field("latent_size", format!("{}: {reason}", self.latent_size)));
        }
        let mut names = BTreeSet::new();
        for module in &self.base.modules {
            check_size("base.modules.in_features", module.in_features, MAX_WIDTH)?;
            check_size("base.modules.out_features", module.out_features, MAX_WIDTH)?;
            let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
            if module.name.is_empty() || !module.name.chars().all(plain) {
                let reason = format!("`{}` is not made of letters, digits and `_`", module.name);
                return Err(field("base.modules.name", reason));
            }
            if !names.insert(module.name.as_str()) {
                return Err(field("base.modules.name", format!("`{}` appears twice", module.name)));
            }
        }
        let total = self
            .expected_tensors()
            .iter()
            .try_fold(0_usize, |sum, (_, shape)| sum.checked_add(checked_elements(shape)?));
        if total.is_none_or(|elements| elements > MAX_ELEMENTS) {
            return Err(field("rank", format!("hypernetwork exceeds {MAX_ELEMENTS} weights")));
        }
        Ok(())
    }

    /// Names and shapes of all tensors, linear weights `[out, in]`; heads and per-module tensors
    /// in module order. Sizes saturate where a configuration that [`HypernetConfig::validate`]
    /// refuses would overflow.
    pub fn expected_tensors(&self) -> Vec<(String, Vec<usize>)> {
        let layers = self.base.layers;
        let mut list = TensorList(Vec::new());
        for module in &self.base.modules {
            let name = &module.name;
            list.add(format!("AB_offset.A.{name}"), &[layers, self.rank, module.in_features]);
            list.add(format!("AB_offset.B.{name}"), &[layers, module.out_features, self.rank]);
        }
        if self.variant == Variant::Gated {
            list.linear("task_encoder", self.task_embedding_size, self.head_in_size);
            for module in &self.base.modules {
                list.add(format!("gates.{}", module.name), &[layers, self.head_in_size]);
            }
        } else {
            self.add_trunk(&mut list);
        }
        for module in &self.base.modules {
            let (inputs, outputs) = (module.in_features, module.out_features);
            let rows = match self.variant {
                Variant::Gated => self.rank.saturating_mul(outputs),
                Variant::L => self.rank.saturating_mul(inputs.saturating_add(outputs)),
                Variant::M => self.rank.saturating_mul(inputs.max(outputs)),
                Variant::S => inputs.max(outputs),
            };
            let head = format!("heads.{}", module.name);
            list.add(format!("{head}.weight"), &[rows, self.head_in_size]);
            if self.variant != Variant::Gated {
                list.add(format!("{head}.bias"), &[rows]);
            }
        }
        list.0
    }

    /// What variants L, M and S have between the task embedding and the heads.
    fn add_trunk(&self, list: &mut TensorList) {
        let width = self.latent_size;
        let wide = width.saturating_mul(4);
        let (task, quarter) = (width / 2, width / 4);
        list.linear("task_encoder.mlp.0", self.task_embedding_size, task);
        list.norm("task_encoder.mlp.1", task);
        list.add("layer_depth_encoder.0.weight", &[self.base.layers, quarter]);
        list.norm("layer_depth_encoder.1", quarter);
        list.add("layer_type_encoder.0.weight", &[self.base.modules.len(), quarter]);
        list.norm("layer_type_encoder.1", quarter);
        list.linear("mixer.1", width, wide);
        list.linear("mixer.4", wide, width);
        for block in ["mlp1.mlp", "mlp2.mlp"] {
            list.norm(&format!("{block}.0"), width);
            list.linear(&format!("{block}.1"), width, wide);
            list.linear(&format!("{block}.4"), wide, width);
        }
        list.norm("mlp3.0", width);
        list.linear("mlp3.1", width, wide);
        list.linear("mlp3.4", wide, self.head_in_size);
        if self.variant == Variant::S {
            list.add("pos_emb.0.weight", &[self.rank, width]);
            list.norm("pos_emb.1", width);
        }
        if self.variant != Variant::L {
            for module in &self.base.modules {
                list.add(format!("out_emb.{}.A", module.name), &[width]);
                list.add(format!("out_emb.{}.B", module.name), &[width]);
            }
            list.norm("out_emb_norm", width);
        }
    }

    /// Names and shapes of the tensors that a hypernetwork has if it generates z-scores: mean and
    /// deviation of its targets, per entry. All or none of them are in a checkpoint; a gated one,
    /// which has one A for all tasks, generates no z-scores.
    pub fn statistic_tensors(&self) -> Vec<(String, Vec<usize>)> {
        let layers = self.base.layers;
        let mut list = TensorList(Vec::new());
        if self.variant == Variant::Gated {
            return list.0;
        }
        for module in &self.base.modules {
            for prefix in [MEAN_PREFIX, DEVIATION_PREFIX] {
                let name = &module.name;
                list.add(format!("{prefix}.A.{name}"), &[layers, self.rank, module.in_features]);
                list.add(format!("{prefix}.B.{name}"), &[layers, module.out_features, self.rank]);
            }
        }
        list.0
    }

    pub(super) fn module_names(&self) -> Vec<String> {
        self.base.modules.iter().map(|module| module.name.clone()).collect()
    }
}

struct TensorList(Vec<(String, Vec<usize>)>);

impl TensorList {
    fn add(&mut self, name: impl Into<String>, shape: &[usize]) {
        self.0.push((name.into(), shape.to_vec()));
    }

    fn linear(&mut self, prefix: &str, inputs: usize, outputs: usize) {
        self.add(format!("{prefix}.weight"), &[outputs, inputs]);
        self.add(format!("{prefix}.bias"), &[outputs]);
    }

    fn norm(&mut self, prefix: &str, width: usize) {
        self.add(format!("{prefix}.weight"), &[width]);
        self.add(format!("{prefix}.bias"), &[width]);
    }
}

pub(super) fn checked_elements(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1_usize, |product, size| product.checked_mul(*size))
}

fn check_size(name: &'static str, size: usize, largest: usize) -> Result<(), CheckpointError> {
    if (1..=largest).contains(&size) {
        return Ok(());
    }
    Err(field(name, format!("{size} is not between 1 and {largest}")))
}

fn field(field: &'static str, reason: String) -> CheckpointError {
    CheckpointError::Field { field, reason }
}
