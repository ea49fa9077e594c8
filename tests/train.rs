//! Training on the real base with a small task pack: a checkpoint that exports, a log that parses,
//! a resumed run that ends with the very bytes of an uninterrupted one, and one that goes on from the
//! default bundle.

#![cfg(feature = "train")]
// The helpers of a test fail as a test does.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;

use candle_core::{Device, Tensor};
use serde_json::Value;
use t2lc::taskpack::TaskPack;
use t2lc::train::batch::BatchOptions;
use t2lc::train::data::{ConditionKind, DataOptions};
use t2lc::train::embed::DescriptionEncoder;
use t2lc::train::nonsense::NonsenseOptions;
use t2lc::train::optimizer::Schedule;
use t2lc::train::reconstruct::{ReconstructionOptions, ReconstructionSpace};
use t2lc::train::run::RunOptions;
use t2lc::train::sft::StepSettings;
use t2lc::train::{AdapterOptions, NetworkOptions, TrainOptions, TrainPaths, train};
use t2lc_export::checkpoint::{Checkpoint, Variant};
use t2lc_runtime::backend::exact::Exact;
use t2lc_runtime::bundle::Bundle;
use t2lc_runtime::describe::Description;
use t2lc_runtime::encode::Encoder;

fn options() -> TrainOptions {
    TrainOptions {
        condition: ConditionKind::Description,
        network: NetworkOptions {
            variant: Variant::L,
            adapter: AdapterOptions {
                rank: 4,
                alpha: 8.0,
                rslora: false,
                modules: vec!["q_proj".into(), "v_proj".into()],
            },
            latent_size: 32,
            head_in_size: 16,
        },
        tune_encoder: 0.0,
        data: DataOptions { max_tokens: 96, descriptions: 0, draws: Vec::new(), described: false },
        batch: BatchOptions { tasks_per_batch: 2, row_tokens: 60, max_examples: 3 },
        loss: StepSettings {
            label_smoothing: 0.1,
            adapter_decay: 1e-3,
            neftune_alpha: 5.0,
            lora_dropout: 0.05,
        },
        nonsense: NonsenseOptions { nonsense_per_batch: 2, nonsense_decay: 10.0 },
        reconstruction: ReconstructionOptions {
            space: ReconstructionSpace::ZScores,
            tasks_per_step: 0,
            descriptions_per_task: 1,
            no_dropout: false,
        },
        run: run_options(),
    }
}

fn run_options() -> RunOptions {
    RunOptions {
        steps: 4,
        accumulate: 1,
        learning_rate: 1e-3,
        warmup_steps: 1,
        schedule: Schedule::Linear,
        weight_decay: 1e-2,
        clip_norm: 1.0,
        seed: 7,
        checkpoint_every: 2,
        validate_every: 4,
        patience: 0,
    }
}

/// A run in `dir`, on the small pack there.
fn paths_in(dir: &Path, run: &str, start: Option<&Path>) -> TrainPaths {
    TrainPaths {
        base: support::parts::base_gguf(),
        encoder: support::parts::encoder_dir(),
        packs: vec![dir.join("pack")],
        warm_start: None,
        start_from: start.map(Path::to_owned),
        library: None,
        run: dir.join(run),
    }
}

fn running() -> AtomicBool {
    AtomicBool::new(false)
}

#[test]
fn a_resumed_run_ends_where_an_uninterrupted_one_does() {
    let dir = tempfile::tempdir().unwrap();
    let paths = |run: &str| paths_in(dir.path(), run, None);
    support::pack::small_pack(dir.path());
    // The optimizer has state of the encoder, too.
    let options = TrainOptions { tune_encoder: 0.1, ..options() };
    let whole = train(&paths("whole"), &options, false, &running()).unwrap().last;
    assert!(whole.ends_with("step-000004"), "{}", whole.display());

    // The interrupted run loses everything after its checkpoint at step 2.
    let interrupted = paths("interrupted");
    fs::create_dir_all(&interrupted.run).unwrap();
    let copy = interrupted.run.join("step-000002");
    fs::rename(paths("whole").run.join("step-000002"), &copy).unwrap();
    let refused = train(&interrupted, &options, false, &running()).unwrap_err().to_string();
    assert!(refused.contains("--resume"), "{refused}");
    let resumed = train(&interrupted, &options, true, &running()).unwrap().last;
    let files = ["hypernet.safetensors", "optimizer.safetensors", "config.json", "state.json"];
    for file in files.into_iter().chain(["encoder/model.safetensors"]) {
        let same = fs::read(whole.join(file)).unwrap() == fs::read(resumed.join(file)).unwrap();
        assert!(same, "{file} differs after resuming");
    }

    let log = fs::read_to_string(paths("whole").run.join("metrics.jsonl")).unwrap();
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 4);
    assert!(lines.iter().all(|line| line["loss"].as_f64().unwrap().is_finite()));
    assert!(lines[3]["validation_loss"]["sibling"].as_f64().unwrap() > 0.0);
    let resumed = fs::read_to_string(interrupted.run.join("metrics.jsonl")).unwrap();
    assert_eq!(resumed.lines().count(), 2, "a resumed run logs its own steps only");

    let checkpoint = Checkpoint::load(&whole).unwrap();
    assert_eq!(checkpoint.config.base.layers, 30);
    assert_eq!(checkpoint.config.base.modules[0].permute_heads, Some(9));

    let other = TrainOptions { run: RunOptions { seed: 8, ..run_options() }, ..options };
    let refused = train(&paths("whole"), &other, true, &running()).unwrap_err().to_string();
    assert!(refused.contains("other options"), "{refused}");
}

/// The default bundle's sizes, two steps on the small pack.
fn default_options() -> TrainOptions {
    let modules = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];
    let modules = modules.map(str::to_owned).to_vec();
    let adapter = AdapterOptions { rank: 8, alpha: 16.0, modules, ..options().network.adapter };
    let variant = Variant::Gated;
    let network = NetworkOptions { variant, adapter, head_in_size: 384, ..options().network };
    let loss = StepSettings { label_smoothing: 0.0, neftune_alpha: 0.0, ..options().loss };
    let run = RunOptions { steps: 2, ..run_options() };
    TrainOptions { network, loss, run, ..options() }
}

#[test]
fn a_gated_network_is_trained_frozen_and_trained_on() {
    let dir = tempfile::tempdir().unwrap();
    support::pack::small_pack(dir.path());
    let pack = dir.path().join("pack");
    let frozen = dir.path().join("gated.t2lc");
    let paths = |run: &str, start: Option<&Path>| paths_in(dir.path(), run, start);
    let network = NetworkOptions { variant: Variant::Gated, ..options().network };
    let options = TrainOptions { network, ..options() };
    let first = train(&paths("first", None), &options, false, &running()).unwrap().last;
    let done = Command::new(env!("CARGO_BIN_EXE_t2lc"))
        .args(["export", "--quiet", "--encoder"])
        .args([&support::parts::encoder_dir(), Path::new("--pack"), &pack, &first])
        .args([Path::new("--output"), &frozen])
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert_eq!(Bundle::open(&frozen).unwrap().manifest.hypernet.variant, "gated");

    let second = train(&paths("second", Some(&frozen)), &options, false, &running()).unwrap().last;
    let [before, after] = [first, second].map(|dir| Checkpoint::load(&dir).unwrap().tensors);
    for (name, tensor) in &before {
        let learned = name.starts_with("heads.") || name.starts_with("AB_offset.");
        assert_eq!(*tensor != after[name], learned, "{name}");
    }
}

#[test]
fn an_encoder_is_trained_with_the_network_and_goes_with_it() {
    let dir = tempfile::tempdir().unwrap();
    support::pack::small_pack(dir.path());
    let pack = dir.path().join("pack");
    let frozen = dir.path().join("tuned.t2lc");
    let paths = |run: &str, start: Option<&Path>| paths_in(dir.path(), run, start);
    let network = NetworkOptions { variant: Variant::Gated, ..options().network };
    let tuned = TrainOptions { network, tune_encoder: 1.0, ..options() };
    let untuned = TrainOptions { tune_encoder: 0.0, ..tuned.clone() };
    let weights = |checkpoint: &Path| {
        let path = checkpoint.join("encoder/model.safetensors");
        candle_core::safetensors::load(path, &Device::Cpu).unwrap()
    };
    let differ = |a: &HashMap<String, Tensor>, b: &HashMap<String, Tensor>| -> f32 {
        let of = |(name, a): (&String, &Tensor)| {
            let difference = (a - &b[name]).unwrap().abs().unwrap().flatten_all().unwrap();
            difference.max(0).unwrap().to_scalar::<f32>().unwrap()
        };
        let changing = |(name, _): &(&String, &Tensor)| !name.contains("position_ids");
        a.iter().filter(changing).map(of).fold(0.0, f32::max)
    };
    let layers = |tensors: &HashMap<String, Tensor>| -> HashMap<String, Tensor> {
        let learned = tensors.iter().filter(|(name, _)| name.starts_with("encoder.layer."));
        learned.map(|(name, tensor)| (name.clone(), tensor.clone())).collect()
    };
    let first = train(&paths("first", None), &tuned, false, &running()).unwrap().last;
    let published = support::parts::encoder_dir().join("model.safetensors");
    let published = candle_core::safetensors::load(published, &Device::Cpu).unwrap();
    let (trained, words) = (weights(&first), "embeddings.word_embeddings.weight");
    assert!(differ(&trained, &published) > 1e-3);
    let table = |tensors: &HashMap<String, Tensor>| {
        HashMap::from([(words.to_owned(), tensors[words].clone())])
    };
    assert!(differ(&table(&trained), &table(&published)) < f32::MIN_POSITIVE);

    let export = |more: &[&Path]| {
        Command::new(env!("CARGO_BIN_EXE_t2lc"))
            .args(["export", "--quiet", "--pack"])
            .args([&pack, &first, Path::new("--output"), &frozen])
            .args(more)
            .output()
            .unwrap()
    };
    let refused = export(&[Path::new("--encoder"), &support::parts::encoder_dir()]);
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(2), "{error}");
    assert!(error.contains("own text encoder"), "{error}");
    let done = export(&[]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let bundle = Bundle::open(&frozen).unwrap();
    assert_eq!(bundle.manifest.encoder.name, "all-MiniLM-L6-v2 (trained further)");
    assert_eq!(bundle.manifest.encoder.licence, "Apache-2.0 AND CC-BY-SA-4.0");
    let refused = export(&[Path::new("--format"), Path::new("text-to-lora"), Path::new("--force")]);
    assert_eq!(refused.status.code(), Some(1));
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(error.contains("encoder of its own"), "{error}");
    // The bundle embeds as what was trained.
    let text = Description::new("Answer with the capital of the country.").unwrap();
    let own = Encoder::load(&bundle, &Exact::default()).unwrap().encode(&text).unwrap().values;
    let trained_encoder = DescriptionEncoder::load(&first.join("encoder"), &Device::Cpu).unwrap();
    let expected = trained_encoder.embed(text.as_str()).unwrap();
    let product: f32 = own.iter().zip(&expected).map(|(a, b)| a * b).sum();
    assert!(product > 0.998 * own.len() as f32, "{product}");

    // A run that starts there keeps the encoder, trained or not; it comes out of 8 bits.
    let kept = train(&paths("kept", Some(&frozen)), &untuned, false, &running()).unwrap().last;
    let nothing = trained.iter().map(|(name, tensor)| (name.clone(), tensor.zeros_like().unwrap()));
    let largest = differ(&layers(&trained), &nothing.collect());
    assert!(differ(&weights(&kept), &trained) < largest / 127.0);
    let again = train(&paths("again", Some(&frozen)), &tuned, false, &running()).unwrap().last;
    assert!(differ(&weights(&again), &weights(&kept)) > 1e-4);
    for (checkpoint, code) in [(kept, 0), (again, 1)] {
        let done = Command::new(env!("CARGO_BIN_EXE_t2lc"))
            .args(["export", "--quiet", "--average"])
            .args([&frozen, &checkpoint, Path::new("--pack"), &pack, Path::new("--output")])
            .arg(dir.path().join(format!("mean-{code}.t2lc")))
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(code), "{error}");
        assert_eq!(code == 1, error.contains("neither encoder"), "{error}");
    }
}

#[test]
fn training_goes_on_from_a_bundle() {
    let dir = tempfile::tempdir().unwrap();
    let bundle = support::parts::fixture("smollm2-135m-instruct.t2lc");
    let paths = |run: &str, start: Option<&Path>| paths_in(dir.path(), run, start);
    support::pack::small_pack(dir.path());
    let read = |path: PathBuf| fs::read_to_string(path).unwrap();
    let first_loss = |run: &str, start: Option<&Path>| -> f64 {
        let last = train(&paths(run, start), &default_options(), false, &running()).unwrap().last;
        let state: Value = serde_json::from_str(&read(last.join("state.json"))).unwrap();
        let expected = start.map(|dir| Bundle::open(dir).unwrap().digest.to_string());
        assert_eq!(state["identity"]["start_from"]["bundle"].as_str(), expected.as_deref());
        let log = read(dir.path().join(run).join("metrics.jsonl"));
        serde_json::from_str::<Value>(log.lines().next().unwrap()).unwrap()["loss"]
            .as_f64()
            .unwrap()
    };
    // Both tasks are among those that the bundle was trained on.
    let (fresh, trained) = (first_loss("fresh", None), first_loss("on", Some(&bundle)));
    assert!(trained < 0.7 * fresh, "{trained} after training, {fresh} before");

    let export = |run: &str, start: &Path, output: &str| {
        let checkpoint = dir.path().join(run).join("best");
        let mut export = Command::new(env!("CARGO_BIN_EXE_t2lc"));
        export.args(["export", "--quiet", "--average"]).args([start, &checkpoint]);
        // A bundle whose encoder was trained as well hands it on to the run.
        if !checkpoint.join("encoder").is_dir() {
            export.arg("--encoder").arg(support::parts::encoder_dir());
        }
        export.args([Path::new("--pack"), &dir.path().join("pack"), Path::new("--output")]);
        export.arg(dir.path().join(output)).output().unwrap()
    };
    let done = export("on", &bundle, "mean.t2lc");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let manifest = Bundle::open(&dir.path().join("mean.t2lc")).unwrap().manifest;
    assert!(manifest.training.unwrap().averaged);
    for (run, start) in [("fresh", &bundle), ("on", &dir.path().join("mean.t2lc"))] {
        let done = export(run, start, "refused.t2lc");
        let error = String::from_utf8_lossy(&done.stderr).into_owned();
        assert_eq!(done.status.code(), Some(1), "{error}");
        assert!(error.contains("did not start from"), "{error}");
    }

    let refused = |start: &Path, options: &TrainOptions| {
        train(&paths("refused", Some(start)), options, false, &running()).unwrap_err().to_string()
    };
    let other_sizes = refused(&bundle, &options());
    let fitting = "--variant gated --rank 8 --alpha 16 --head-in-size 384 --modules q_proj,k_proj,";
    assert!(other_sizes.contains(fitting), "{other_sizes}");
    let none = refused(dir.path(), &default_options());
    assert!(none.contains("cannot start from"), "{none}");
}

#[test]
fn the_training_data_here_keep_out_what_the_pack_keeps_out() {
    let paths = ["taskpack", "training/tasks", "training/forms"].map(support::parts::fixture);
    let pack = TaskPack::load_all(&paths).unwrap();
    assert!(pack.tasks.len() > 2000, "{}", pack.tasks.len());
}

#[test]
fn scores_of_a_bundle_on_another_base_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut eval = Command::new(env!("CARGO_BIN_EXE_t2lc"));
    eval.arg("eval").arg("--base").arg(support::parts::gemma_gguf());
    eval.arg("--pack").arg(support::pack::small_pack(dir.path()));
    eval.arg("--bundle").arg(support::parts::fixture("smollm2-135m-instruct.t2lc"));
    let done = eval.output().unwrap();
    let error = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(1), "{error}");
    assert!(error.contains("the bundle is for SmolLM2-135M-Instruct"), "{error}");
}

#[test]
fn input_that_cannot_be_trained_on_is_told_from_a_system_that_fails() {
    let dir = tempfile::tempdir().unwrap();
    support::pack::small_pack(dir.path());
    fs::write(dir.path().join("file"), "").unwrap();
    for (pack, run, code) in [("none", "run", 1), ("pack", "file/run", 2)] {
        let mut train = Command::new(env!("CARGO_BIN_EXE_t2lc"));
        train.arg("train").arg("--base").arg(support::parts::base_gguf());
        train.arg("--encoder").arg(support::parts::encoder_dir());
        train.arg("--pack").arg(dir.path().join(pack)).arg("-o").arg(dir.path().join(run));
        let done = train.output().unwrap();
        let error = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(code), "{error}");
    }
}
