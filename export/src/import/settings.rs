//! `args.yaml` and `adapter_config.json`: what the weights mean.
//!
//! In: the parsed files. Out: rank, alpha, the kind of scale, and what was trained towards; or all
//! that is missing, not supported or contradictory, in one error.
//!
//! The reference applies rank-stabilized scaling, `alpha / √rank`, where `use_rslora` says so, and
//! so does [`HypernetConfig::scale`](crate::checkpoint::HypernetConfig::scale). What was trained
//! towards decides what happens to the matrices that the heads give:
//!
//! | `training_task` | `factorized` | `pred_z_score` | matrices |
//! |---|---|---|---|
//! | `sft` | | | as they are, plus `AB_offset` |
//! | `recon` | true | true | times deviation, plus mean |
//! | `recon` | true | false | as they are |
//! | `recon` | false | false | divided by `√delta_w_scaling` each: folded into alpha |
//! | `recon` | false | true | undefined: the reference cannot generate either |
//!
//! Source: the reference implementation of <https://arxiv.org/abs/2506.06105> and PEFT's
//! `LoraConfig`.

use std::fmt;

use serde::Deserialize;
use serde_json::Value;

use super::error::ImportError;
use super::{ADAPTER_FILE, ARGUMENTS_FILE};
use crate::base::brief;

/// What the reference divides products by if `args.yaml` does not say.
const DELTA_W_SCALING: f32 = 10_000.0;

/// Settings of PEFT that change what the matrices mean; each must be missing or say "not used".
const REFUSED: [&str; 8] = [
    "use_dora",
    "use_qalora",
    "lora_bias",
    "modules_to_save",
    "rank_pattern",
    "alpha_pattern",
    "layers_to_transform",
    "layer_replication",
];

/// `args.yaml`, as far as it decides what the weights mean; other keys are not read.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Arguments {
    /// The base: a path, or a name on the hub.
    pub model_dir: Option<String>,
    /// The text encoder; empty if the base itself encodes.
    pub emb_model: Option<String>,
    /// The task encoder asked for; the reference never uses another one than the linear.
    pub encoder_type: Option<String>,
    /// `sft` or `recon`.
    pub training_task: Option<String>,
    /// Whether tasks are numbers instead of descriptions.
    pub use_one_hot_task_emb: Option<bool>,
    /// Whether the network was trained on embeddings of inputs instead of descriptions.
    pub use_inp_as_desc: Option<bool>,
    /// Whether the network generates z-scores (`recon`).
    pub pred_z_score: Option<bool>,
    /// Whether it was trained towards matrices instead of products (`recon`).
    pub factorized: Option<bool>,
    /// Factor on the products that it was trained towards (`recon`).
    pub delta_w_scaling: Option<f32>,
    /// Whether A and B share a head: variants M and S.
    #[serde(rename = "shared_AB_head")]
    pub shared_ab_head: Option<bool>,
    /// Whether a head gives one rank: variant S.
    pub autoreg_gen: Option<bool>,
    /// Whether ranks have embeddings: variant S.
    pub learnable_pos_emb: Option<bool>,
    /// Width of the trunk.
    pub hypernet_latent_size: Option<usize>,
    /// Width of the vector that enters the heads.
    pub head_in_size: Option<usize>,
}

impl Arguments {
    /// Name of the base, the last part of its path: by `args.yaml`, else by `adapter_config.json`.
    pub fn base_name<'a>(&'a self, adapter: &'a Value) -> Option<&'a str> {
        let by_adapter = || adapter.get("base_model_name_or_path").and_then(Value::as_str);
        let path = self.model_dir.as_deref().or_else(by_adapter)?;
        let name = path.trim_end_matches('/').rsplit('/').next()?;
        (!name.is_empty() && !name.contains(char::is_control)).then_some(name)
    }
}

/// What a network was trained towards.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Training {
    /// Answers (supervised fine-tuning).
    Answers,
    /// z-scores of the entries of given adapters.
    ZScores,
    /// Matrices of given adapters.
    Matrices,
    /// Products `B A` of given adapters, times a factor.
    Products {
        /// The factor.
        delta_w_scaling: f32,
    },
}

impl fmt::Display for Training {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answers => f.write_str("sft, on answers"),
            Self::ZScores => f.write_str("recon, towards z-scores of adapters"),
            Self::Matrices => f.write_str("recon, towards matrices of adapters"),
            Self::Products { delta_w_scaling } => {
                write!(f, "recon, towards ΔW of adapters times {delta_w_scaling}")
            }
        }
    }
}

/// The settings that a checkpoint keeps.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Settings {
    pub(super) rank: usize,
    /// With the factor of [`Training::Products`] in it.
    pub(super) alpha: f32,
    pub(super) use_rslora: bool,
    pub(super) training: Training,
    /// As listed by `adapter_config.json`, if it lists them.
    pub(super) target_modules: Option<Vec<String>>,
}

impl Settings {
    /// Reads both files; what is wrong is listed in one error.
    pub(super) fn read(arguments: &Arguments, adapter: &Value) -> Result<Self, ImportError> {
        let mut problems = Vec::new();
        let training = training(arguments, &mut problems);
        if arguments.use_one_hot_task_emb == Some(true) {
            problems.push(format!(
                "{ARGUMENTS_FILE}: `use_one_hot_task_emb` is true: such a network knows tasks by \
                 number and takes no description"
            ));
        }
        let mut adapter = AdapterConfig { config: adapter, problems: &mut problems };
        adapter.refuse_others();
        let rank = adapter.rank();
        let alpha = adapter.alpha();
        let use_rslora = adapter.use_rslora();
        let target_modules = adapter.target_modules();
        match (training, rank, alpha) {
            (Some(training), Some(rank), Some(alpha)) if problems.is_empty() => {
                let alpha = match training {
                    Training::Products { delta_w_scaling } => alpha / delta_w_scaling,
                    Training::Answers | Training::ZScores | Training::Matrices => alpha,
                };
                Ok(Self { rank, alpha, use_rslora, training, target_modules })
            }
            _ => Err(ImportError::Settings { problems }),
        }
    }
}

fn training(arguments: &Arguments, problems: &mut Vec<String>) -> Option<Training> {
    let mut refuse = |problem: String| {
        problems.push(format!("{ARGUMENTS_FILE}: {problem}"));
        None
    };
    let factorized = arguments.factorized.unwrap_or(false);
    match (arguments.training_task.as_deref(), arguments.pred_z_score, factorized) {
        (Some("sft"), _, _) => Some(Training::Answers),
        (Some("recon"), Some(true), true) => Some(Training::ZScores),
        (Some("recon"), Some(false), true) => Some(Training::Matrices),
        (Some("recon"), Some(false), false) => {
            let delta_w_scaling = arguments.delta_w_scaling.unwrap_or(DELTA_W_SCALING);
            if delta_w_scaling.is_finite() && delta_w_scaling > 0.0 {
                return Some(Training::Products { delta_w_scaling });
            }
            refuse(format!("`delta_w_scaling` is {delta_w_scaling}, expected a positive number"))
        }
        (Some("recon"), Some(true), false) => refuse(
            "`pred_z_score` is true and `factorized` is not: what such a network generates is not \
             defined, and the reference refuses it too"
                .to_owned(),
        ),
        (Some("recon"), None, _) => refuse("`pred_z_score` is missing".to_owned()),
        (Some(other), _, _) => {
            refuse(format!("`training_task` is {other:?}, expected `sft` or `recon`"))
        }
        (None, _, _) => refuse("`training_task` is missing, expected `sft` or `recon`".to_owned()),
    }
}

/// `adapter_config.json` and what is wrong with it.
struct AdapterConfig<'a> {
    config: &'a Value,
    problems: &'a mut Vec<String>,
}

impl<'a> AdapterConfig<'a> {
    /// The value of a key; `null` counts as absent.
    fn get(&self, key: &str) -> Option<&'a Value> {
        self.config.get(key).filter(|value| !value.is_null())
    }

    fn refuse(&mut self, key: &str, expected: &str) {
        let got = self.get(key).map_or_else(|| "missing".to_owned(), brief);
        self.problems.push(format!("{ADAPTER_FILE}: `{key}` is {got}, expected {expected}"));
    }

    /// Everything that makes an adapter another one than a plain `LoRA` of all layers.
    fn refuse_others(&mut self) {
        for (key, only) in [("peft_type", "LORA"), ("bias", "none")] {
            if self.get(key).is_some_and(|value| value != only) {
                self.refuse(key, &format!("\"{only}\""));
            }
        }
        for key in REFUSED {
            let is_used = match self.get(key) {
                None | Some(Value::Bool(false)) => false,
                Some(Value::Array(items)) => !items.is_empty(),
                Some(Value::Object(entries)) => !entries.is_empty(),
                Some(_) => true,
            };
            if is_used {
                self.refuse(key, "it not to be used");
            }
        }
    }

    fn rank(&mut self) -> Option<usize> {
        let rank =
            self.get("r").and_then(Value::as_u64).and_then(|rank| usize::try_from(rank).ok());
        let rank = rank.filter(|rank| *rank > 0);
        if rank.is_none() {
            self.refuse("r", "a rank");
        }
        rank
    }

    fn alpha(&mut self) -> Option<f32> {
        let alpha = self.get("lora_alpha").and_then(|value| f32::deserialize(value).ok());
        let alpha = alpha.filter(|alpha| alpha.is_finite() && *alpha > 0.0);
        if alpha.is_none() {
            self.refuse("lora_alpha", "a positive number");
        }
        alpha
    }

    /// Absent in files of older versions of PEFT, which did not have it.
    fn use_rslora(&mut self) -> bool {
        match self.get("use_rslora") {
            None => false,
            Some(Value::Bool(used)) => *used,
            Some(_) => {
                self.refuse("use_rslora", "true or false");
                false
            }
        }
    }

    fn target_modules(&mut self) -> Option<Vec<String>> {
        let listed = self.get("target_modules")?;
        let modules = Vec::<String>::deserialize(listed).ok();
        if modules.is_none() {
            self.refuse("target_modules", "a list of modules");
        }
        modules
    }
}
