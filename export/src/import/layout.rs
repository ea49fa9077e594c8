//! Names and shapes of the tensors → the configuration of the hypernetwork.
//!
//! In: names and shapes in the order of the file, the settings, the base. Out: a [`HypernetConfig`]
//! whose tensors are exactly those of the file; or everything that is missing, unknown or of
//! another shape, in one error.
//!
//! The type index of a module is the iteration order of a Python set in the process that trained
//! the network, which no setting records reliably. The heads were made in that order, and the
//! dict that was pickled kept it: the order of the `heads.<module>.*` keys is the type index, and
//! `out_emb.<module>.*` must agree. `AB_offset` and the statistics are sorted and say nothing.
//!
//! The variant shows in what there is and in the rows of the heads:
//!
//! | `out_emb` | `pos_emb` | rows of a head | variant |
//! |---|---|---|---|
//! | no | no | `rank · (in + out)` | L |
//! | yes | no | `rank · max(in, out)` | M |
//! | yes | yes | `max(in, out)` | S |
//! | yes | no | `max(in, out)` | S with rotary positions, refused |
//! | no | | `in + out` | L by ranks, refused |

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use t2lc_runtime::base::{BaseModel, TargetModule};

use super::error::ImportError;
use super::settings::{Arguments, Settings};
use super::{ADAPTER_FILE, ARGUMENTS_FILE};
use crate::base::with_modules;
use crate::checkpoint::{
    CheckpointError, HypernetConfig, SCHEMA, Variant, check_layout, without_aliases,
};

/// Which order of the modules is the type index.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ModuleOrder {
    /// That of the heads in the file.
    #[default]
    Recovered,
    /// The reverse of that.
    Reversed,
    /// This one.
    Given(Vec<String>),
}

impl fmt::Display for ModuleOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Recovered => f.write_str("recovered"),
            Self::Reversed => f.write_str("reversed"),
            Self::Given(modules) => f.write_str(&modules.join(",")),
        }
    }
}

impl FromStr for ModuleOrder {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "recovered" => Ok(Self::Recovered),
            "reversed" => Ok(Self::Reversed),
            list if list.contains("_proj") => {
                Ok(Self::Given(list.split(',').map(str::to_owned).collect()))
            }
            _ => Err("expected `recovered`, `reversed` or a list as `q_proj,v_proj`".to_owned()),
        }
    }
}

/// A hypernetwork that was recognized.
pub(super) struct Recognized {
    pub(super) config: HypernetConfig,
    /// Modules in the order of the file.
    pub(super) recovered: Vec<String>,
    /// What is worth knowing, for people.
    pub(super) notes: Vec<String>,
}

/// The tensors of a file, in its order.
struct Shapes<'a>(&'a [(&'a str, &'a [usize])]);

/// Recognizes the network and checks the name and shape of every tensor.
pub(super) fn recognize(
    tensors: &[(&str, &[usize])],
    arguments: &Arguments,
    settings: &Settings,
    base: &BaseModel,
    order: &ModuleOrder,
) -> Result<Recognized, ImportError> {
    let shapes = Shapes(tensors);
    let recovered = shapes.modules("heads.");
    if recovered.is_empty() {
        return Err(ImportError::NoHeads);
    }
    let modules = chosen(order, &recovered, &shapes.modules("out_emb."))?;
    let base = with_modules(base, &modules)?;
    let layers = shapes.size(&[("layer_depth_encoder.0.weight", 0)]).unwrap_or(base.layers);
    if layers != base.layers {
        let (expected, base) = (base.layers, base.name);
        return Err(ImportError::Layers { base, expected, got: layers });
    }
    let variant = shapes.variant(&base.modules, settings.rank)?;
    // A size that no tensor gives is wrong here and named below, where its tensors are missing.
    let latent_size = shapes.size(&[
        ("mixer.1.weight", 1),
        ("mixer.0.weight", 1),
        ("mlp1.mlp.0.weight", 0),
        ("mlp3.0.weight", 0),
    ]);
    let head_in_size = shapes.size(&[("mlp3.4.weight", 0), ("mlp3.4.bias", 0)]);
    let task_embedding_size = shapes.size(&[("task_encoder.mlp.0.weight", 1)]);
    let config = HypernetConfig {
        schema: SCHEMA,
        variant,
        rank: settings.rank,
        alpha: settings.alpha,
        use_rslora: settings.use_rslora,
        latent_size: latent_size.unwrap_or(4),
        head_in_size: head_in_size.unwrap_or(1),
        task_embedding_size: task_embedding_size.unwrap_or(1),
        base,
    };
    config.validate()?;
    shapes.check(&config)?;
    compare(&config, arguments, settings, &recovered)?;
    let notes = notes(&shapes, settings, &recovered);
    Ok(Recognized { config, recovered, notes })
}

/// The order that becomes the type index.
fn chosen(
    order: &ModuleOrder,
    heads: &[String],
    embeddings: &[String],
) -> Result<Vec<String>, ImportError> {
    if let ModuleOrder::Given(modules) = order {
        let mut sides = [modules.clone(), heads.to_vec()];
        for side in &mut sides {
            side.sort_unstable();
        }
        if sides[0] != sides[1] {
            let (expected, got) = (heads.to_vec(), modules.clone());
            return Err(ImportError::ModuleOrder { expected, got });
        }
        return Ok(modules.clone());
    }
    if !embeddings.is_empty() && embeddings != heads {
        let (heads, embeddings) = (heads.to_vec(), embeddings.to_vec());
        return Err(ImportError::AmbiguousOrder { heads, embeddings });
    }
    let mut modules = heads.to_vec();
    if *order == ModuleOrder::Reversed {
        modules.reverse();
    }
    Ok(modules)
}

impl Shapes<'_> {
    /// Modules that have tensors `<prefix><module>.…`, by first appearance.
    fn modules(&self, prefix: &str) -> Vec<String> {
        let mut modules: Vec<String> = Vec::new();
        for (name, _) in self.0 {
            let module = name.strip_prefix(prefix).and_then(|rest| rest.rsplit_once('.'));
            if let Some((module, _)) = module
                && !modules.iter().any(|known| known == module)
            {
                modules.push(module.to_owned());
            }
        }
        modules
    }

    fn find(&self, name: &str) -> Option<&[usize]> {
        self.0.iter().find(|(found, _)| *found == name).map(|(_, shape)| *shape)
    }

    /// The size of the first of these axes that the file has.
    fn size(&self, axes: &[(&str, usize)]) -> Option<usize> {
        axes.iter().find_map(|(name, axis)| self.find(name)?.get(*axis).copied())
    }

    fn has(&self, prefix: &str) -> bool {
        self.0.iter().any(|(name, _)| name.starts_with(prefix))
    }

    /// The variant by the table above; heads of no known size are left for the check of shapes.
    fn variant(&self, modules: &[TargetModule], rank: usize) -> Result<Variant, ImportError> {
        let (shared, ranks) = (self.has("out_emb"), self.has("pos_emb."));
        let rows_are = |rows: fn(usize, usize) -> usize| {
            let fits = |module: &TargetModule| {
                let head = format!("heads.{}.weight", module.name);
                let expected = rows(module.in_features, module.out_features);
                self.size(&[(head.as_str(), 0)]) == Some(expected)
            };
            // With a rank of 1 there is nothing to tell apart by.
            rank > 1 && modules.iter().all(fits)
        };
        let unsupported = |variant| Err(ImportError::Variant { variant });
        match (shared, ranks) {
            (false, true) => unsupported("L by ranks (`pos_emb` without `out_emb`)"),
            (false, false) if rows_are(usize::saturating_add) => {
                unsupported("L by ranks (a head gives one rank of A and B)")
            }
            (false, false) => Ok(Variant::L),
            (true, false) if rows_are(usize::max) => {
                unsupported("S with rotary positions (a head gives one rank, without `pos_emb`)")
            }
            (true, false) => Ok(Variant::M),
            (true, true) => Ok(Variant::S),
        }
    }

    fn check(&self, config: &HypernetConfig) -> Result<(), ImportError> {
        let tensors: BTreeMap<String, &[usize]> =
            self.0.iter().map(|(name, shape)| ((*name).to_owned(), *shape)).collect();
        let tensors = without_aliases(tensors);
        let found = tensors.iter().map(|(name, shape)| (name.as_str(), *shape));
        check_layout(config, found).map_err(|error| match error {
            CheckpointError::Layout { missing, unexpected, wrong_shape } => {
                let (variant, base) = (config.variant, config.base.name.clone());
                ImportError::Layout { variant, base, missing, unexpected, wrong_shape }
            }
            other => other.into(),
        })
    }
}

/// Refuses settings that contradict the tensors; a file that is not of this checkpoint shows here.
fn compare(
    config: &HypernetConfig,
    arguments: &Arguments,
    settings: &Settings,
    recovered: &[String],
) -> Result<(), ImportError> {
    let mut problems = Vec::new();
    let variant = config.variant;
    let shared = variant != Variant::L;
    let by_ranks = variant == Variant::S;
    for (key, got, expected) in [
        ("shared_AB_head", arguments.shared_ab_head, shared),
        ("autoreg_gen", arguments.autoreg_gen, by_ranks),
    ] {
        if let Some(got) = got.filter(|got| *got != expected) {
            problems.push(format!(
                "{ARGUMENTS_FILE}: `{key}` is {got}, but the tensors are those of variant {variant}"
            ));
        }
    }
    // Without the other flags of variant S this one does nothing.
    if by_ranks && arguments.learnable_pos_emb == Some(false) {
        problems.push(format!(
            "{ARGUMENTS_FILE}: `learnable_pos_emb` is false, but `pos_emb` is there"
        ));
    }
    for (key, got, expected) in [
        ("hypernet_latent_size", arguments.hypernet_latent_size, config.latent_size),
        ("head_in_size", arguments.head_in_size, config.head_in_size),
    ] {
        if let Some(got) = got.filter(|got| *got != expected) {
            problems
                .push(format!("{ARGUMENTS_FILE}: `{key}` is {got}, the tensors have {expected}"));
        }
    }
    if let Some(listed) = &settings.target_modules {
        let mut sides = [listed.clone(), recovered.to_vec()];
        for side in &mut sides {
            side.sort_unstable();
        }
        if sides[0] != sides[1] {
            problems.push(format!(
                "{ADAPTER_FILE}: `target_modules` are {listed:?}, the heads are for {recovered:?}"
            ));
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(ImportError::Settings { problems }) }
}

fn notes(shapes: &Shapes<'_>, settings: &Settings, recovered: &[String]) -> Vec<String> {
    let mut notes = Vec::new();
    if settings.target_modules.as_ref().is_some_and(|listed| listed != recovered) {
        notes.push(format!(
            "{ADAPTER_FILE} lists the modules in another order than the heads have, which is the \
             one that counts"
        ));
    }
    if !shapes.has("AB_offset.") {
        notes.push("the file has no `AB_offset`: taken as zeros".to_owned());
    }
    notes
}
