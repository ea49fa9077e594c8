//! `t2lc import`: a checkpoint of the reference implementation of Text-to-LoRA → a checkpoint, or a
//! bundle where there is a text encoder.

use std::fs::File;
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, ensure};
use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use serde_json::{Value as Json, json};
use t2lc_export::base::{from_config, from_gguf};
use t2lc_export::checkpoint::{CheckpointError, ORIGIN_FILE, origin_bytes};
use t2lc_export::freeze::Provenance;
use t2lc_export::import::{
    ADAPTER_FILE, ARCHIVE_FILE, ARGUMENTS_FILE, Arguments, Companions, Imported, ModuleOrder,
    import,
};
use t2lc_runtime::atomic::write_directory_atomically;
use t2lc_runtime::base::{BaseModel, UNKNOWN_FINGERPRINT};
use t2lc_runtime::error::Error;
use t2lc_runtime::gguf::Gguf;
use t2lc_runtime::manifest::OriginInfo;

use super::export::known_descriptions;
use super::failure::{Failure, Outcome};
use super::freeze::{FreezeArgs, Target};
use super::output::{human_bytes, print_json, refuse_existing, say};

/// Largest text file that is read.
const MAX_TEXT_BYTES: u64 = 1 << 20;

/// Options of `import`.
#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// Directory with hypermod.pt, args.yaml and adapter_config.json, or one of its checkpoints/it_N
    checkpoint: PathBuf,
    /// config.json of the base; adapters will not know the base's fingerprint
    #[arg(long, value_name = "JSON", required_unless_present = "base", conflicts_with = "base")]
    base_config: Option<PathBuf>,
    /// The base itself
    #[arg(long, value_name = "GGUF")]
    base: Option<PathBuf>,
    /// Which order of the modules is their index: recovered (that of the heads), reversed, or a list
    #[arg(long, value_name = "ORDER", default_value_t = ModuleOrder::Recovered)]
    module_order: ModuleOrder,
    /// Licence of the weights [default: unknown]
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    licence: Option<String>,
    #[command(flatten)]
    freeze: FreezeArgs,
    /// Directory to write: a bundle if there is a text encoder, otherwise a checkpoint
    #[arg(short, long)]
    output: PathBuf,
    /// Overwrite an existing output
    #[arg(long)]
    force: bool,
    /// Print what was recognized as JSON on stdout
    #[arg(long)]
    pub(crate) json: bool,
}

/// Runs the verb.
pub(crate) fn run(args: &ImportArgs, quiet: bool) -> Outcome {
    refuse_existing(&args.output, args.force)?;
    let names = [
        ("--name", args.freeze.name.is_some()),
        ("--encoder-name", args.freeze.encoder_name.is_some()),
    ];
    let name = names.into_iter().find_map(|(option, is_given)| is_given.then_some(option));
    let for_bundles = args.freeze.for_bundles().or(name);
    if let Some(option) = for_bundles.filter(|_| !args.freeze.has_encoder()) {
        let error = anyhow!("{option} is for bundles, which need a text encoder");
        return Err(Failure::environment("usage", error).hint("name it with --encoder"));
    }
    let input = |error: anyhow::Error| Failure::input("import.input", error);
    let settings = settings_dir(&args.checkpoint);
    let arguments = read_arguments(&settings.join(ARGUMENTS_FILE)).map_err(input)?;
    let adapter = read_json(&settings.join(ADAPTER_FILE)).map_err(input)?;
    let name = arguments.base_name(&adapter).ok_or_else(|| {
        input(anyhow!("neither {ARGUMENTS_FILE} nor {ADAPTER_FILE} has a usable name of the base"))
    })?;
    let base = read_base(args, name).map_err(|error| Failure::input("import.base", error))?;
    let path = args.checkpoint.join(ARCHIVE_FILE);
    let refused = || format!("cannot import `{}`", path.display());
    let mut archive = File::open(&path).with_context(refused).map_err(input)?;
    let companions = Companions {
        arguments: &arguments,
        adapter: &adapter,
        base: &base,
        order: &args.module_order,
    };
    let imported = import(&archive, &companions).with_context(refused).map_err(input)?;
    let origin = archive
        .rewind()
        .and_then(|()| imported.origin(&archive, &args.module_order, args.licence.as_deref()))
        .with_context(refused)
        .map_err(input)?;
    let recognized = answer(args, &arguments, &imported, &origin);
    for line in report(args, &arguments, &imported) {
        say(quiet, &line);
    }
    if args.freeze.has_encoder() {
        write_bundle(args, &imported, origin, quiet)?;
    } else {
        write_checkpoint(args, &imported, &origin, quiet)?;
    }
    if args.json {
        print_json(&recognized)?;
    }
    Ok(())
}

fn write_checkpoint(
    args: &ImportArgs,
    imported: &Imported,
    origin: &OriginInfo,
    quiet: bool,
) -> Outcome {
    let input = |error: CheckpointError| Failure::input("import.input", error);
    let [config, weights] = imported.checkpoint.to_files().map_err(input)?;
    let record = origin_bytes(origin).map_err(input)?;
    let files = [config, weights, (ORIGIN_FILE, record)];
    let borrowed: Vec<(&str, &[u8])> = files.iter().map(|(n, b)| (*n, b.as_slice())).collect();
    write_directory_atomically(&args.output, &borrowed, args.force).map_err(Error::from)?;
    let output = args.output.display();
    for (name, bytes) in &files {
        say(quiet, &format!("{output}/{name}: {}", human_bytes(bytes.len())));
    }
    Ok(())
}

fn write_bundle(
    args: &ImportArgs,
    imported: &Imported,
    origin: OriginInfo,
    quiet: bool,
) -> Outcome {
    let descriptions = known_descriptions(args.freeze.descriptions.as_deref())?;
    let licence = origin.licence.clone();
    let target = Target { path: &args.output, force: args.force, quiet };
    let provenance = Provenance::Imported(origin);
    args.freeze.write_bundle(&imported.checkpoint, &descriptions, provenance, &licence, &target)
}

/// The directory of the settings: a snapshot below `checkpoints` has none of its own.
fn settings_dir(checkpoint: &Path) -> PathBuf {
    let run = checkpoint.join("../..");
    let own = checkpoint.join(ARGUMENTS_FILE).is_file();
    if !own && run.join(ARGUMENTS_FILE).is_file() { run } else { checkpoint.to_owned() }
}

fn read_arguments(path: &Path) -> anyhow::Result<Arguments> {
    let text = read_text(path)?;
    yaml_serde::from_str(&text).with_context(|| format!("`{}` is not usable", path.display()))
}

fn read_json(path: &Path) -> anyhow::Result<Json> {
    let text = read_text(path)?;
    serde_json::from_str(&text).with_context(|| format!("`{}` is not JSON", path.display()))
}

fn read_text(path: &Path) -> anyhow::Result<String> {
    let unreadable = || format!("cannot read `{}`", path.display());
    let file = File::open(path).with_context(unreadable)?;
    let mut text = String::new();
    let length =
        file.take(MAX_TEXT_BYTES + 1).read_to_string(&mut text).with_context(unreadable)?;
    let shown = path.display();
    ensure!(length as u64 <= MAX_TEXT_BYTES, "`{shown}` has more than {MAX_TEXT_BYTES} bytes");
    Ok(text)
}

/// All modules of the base that the options name.
fn read_base(args: &ImportArgs, name: &str) -> anyhow::Result<BaseModel> {
    if let Some(path) = &args.base_config {
        return from_config(&read_json(path)?, name)
            .with_context(|| format!("cannot use `{}`", path.display()));
    }
    let path = args.base.as_ref().context("no base is given")?;
    let bytes = std::fs::read(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    let gguf = Gguf::parse(&bytes)
        .with_context(|| format!("`{}` is not a sound GGUF file", path.display()))?;
    from_gguf(&gguf, name).with_context(|| format!("cannot use `{}`", path.display()))
}

fn modules(imported: &Imported) -> Vec<&str> {
    imported.checkpoint.config.base.modules.iter().map(|module| module.name.as_str()).collect()
}

/// What was recognized, for programs.
fn answer(
    args: &ImportArgs,
    arguments: &Arguments,
    imported: &Imported,
    origin: &OriginInfo,
) -> Json {
    let config = &imported.checkpoint.config;
    json!({
        "schema": 1,
        "output": args.output.display().to_string(),
        "variant": config.variant,
        "rank": config.rank,
        "alpha": config.alpha,
        "use_rslora": config.use_rslora,
        "scale": config.scale(),
        "latent_size": config.latent_size,
        "head_in_size": config.head_in_size,
        "task_embedding_size": config.task_embedding_size,
        "parameters": imported.parameters,
        "training": imported.training.to_string(),
        "encoder": arguments.emb_model,
        "base": config.base.name,
        "base_fingerprint": config.base.fingerprint,
        "layers": config.base.layers,
        "modules": modules(imported),
        "module_order": args.module_order.to_string(),
        "recovered_order": imported.recovered_order,
        "origin": origin,
        "notes": imported.notes,
    })
}

/// What was recognized, for people.
fn report(args: &ImportArgs, arguments: &Arguments, imported: &Imported) -> Vec<String> {
    let config = &imported.checkpoint.config;
    let (variant, rank, scale, base) = (config.variant, config.rank, config.scale(), &config.base);
    let order = match &args.module_order {
        ModuleOrder::Recovered => "as the heads in the archive".to_owned(),
        ModuleOrder::Reversed => "the reverse of the heads in the archive".to_owned(),
        ModuleOrder::Given(_) => {
            format!("as given; the heads in the archive: {}", imported.recovered_order.join(", "))
        }
    };
    let encoder = arguments.emb_model.as_deref().filter(|name| !name.is_empty());
    let mut lines = vec![
        format!(
            "variant {variant}, rank {rank}, scale {scale:.4}, {} trained weights",
            imported.parameters
        ),
        format!("trained by {}", imported.training),
        format!(
            "embeddings of {} values by {}",
            config.task_embedding_size,
            encoder.unwrap_or("an unnamed encoder").escape_debug()
        ),
        format!("base {}: {}, {} layers", base.name, base.architecture, base.layers),
        format!("modules {} ({order})", modules(imported).join(", ")),
    ];
    lines.extend(imported.notes.iter().map(|note| format!("note: {note}")));
    if base.fingerprint == UNKNOWN_FINGERPRINT {
        lines.push(
            "note: `verify` will compare architecture, names and shapes with a base, but not a \
             fingerprint; --base records one"
                .to_owned(),
        );
    }
    lines
}
