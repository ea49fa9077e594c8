//! `t2lc import`: a checkpoint in the reference's form becomes one of ours, which exports to a
//! bundle that compiles; and what is damaged or hostile leaves nothing behind.

use std::collections::BTreeMap;
use std::fs;

use insta::assert_snapshot;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::json;
use t2lc_export::checkpoint::Checkpoint;
use t2lc_runtime::digest::Digest;

use crate::Folder;
use crate::support::parts;

const FILES: [&str; 4] = ["hypermod.pt", "args.yaml", "adapter_config.json", "config.json"];
pub(crate) const FROM_IMPORT: [&str; 3] = ["config.json", "hypernet.safetensors", "origin.json"];
pub(crate) const IMPORT: [&str; 6] =
    ["import", "t2l", "--base-config", "t2l/config.json", "-o", "run"];
const EXPORT: [&str; 12] = [
    "export",
    "run",
    "--encoder",
    "encoder",
    "--encoder-name",
    "constant",
    "--encoder-weights",
    "f32",
    "--hypernet-weights",
    "f32",
    "-o",
    "toy.t2lc",
];

const ENCODER: &str = r#"{"model_type": "bert", "hidden_act": "gelu", "hidden_size": 12,
    "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 4, "vocab_size": 2,
    "max_position_embeddings": 64, "type_vocab_size": 1, "layer_norm_eps": 1e-12}"#;
pub(crate) const TOKENIZER: &str = r#"{"version": "1.0", "truncation": null, "padding": null,
    "added_tokens": [], "normalizer": null, "pre_tokenizer": {"type": "WhitespaceSplit"},
    "post_processor": null, "decoder": null,
    "model": {"type": "WordLevel", "vocab": {"[UNK]": 0, "yes": 1}, "unk_token": "[UNK]"}}"#;

/// A folder with `t2l`, a sound checkpoint, and the configuration of its base.
pub(crate) fn folder_with_checkpoint() -> Folder {
    let (folder, from) = (Folder::new(), parts::fixture("golden/t2l"));
    fs::create_dir(folder.path("t2l")).unwrap();
    for file in FILES {
        fs::copy(from.join(file), folder.path("t2l").join(file)).unwrap();
    }
    folder
}

/// A folder with `run`, an imported checkpoint, and a text encoder whose every answer points in the
/// direction of the golden embedding. Its length is always `√12`; the first layer of the network is
/// scaled by what is missing.
pub(crate) fn folder_with_import() -> Folder {
    let folder = folder_with_checkpoint();
    folder.run_quietly(&IMPORT);
    let answer = golden().remove("in.task_emb").unwrap();
    let mut checkpoint = Checkpoint::load(&folder.path("run")).unwrap();
    let first = checkpoint.tensors.get_mut("task_encoder.mlp.0.weight").unwrap();
    let factor = (answer.iter().map(|value| value * value).sum::<f32>() / 12.0).sqrt();
    first.values.iter_mut().for_each(|value| *value *= factor);
    checkpoint.save(&folder.path("run")).unwrap();

    let dir = folder.path("encoder");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("config.json"), ENCODER).unwrap();
    fs::write(dir.join("tokenizer.json"), TOKENIZER).unwrap();
    fs::write(dir.join("model.safetensors"), encoder_weights(&answer)).unwrap();
    folder
}

/// All zero but for the last shift, which is then the answer.
fn encoder_weights(answer: &[f32]) -> Vec<u8> {
    let mut shapes = vec![
        ("embeddings.word_embeddings.weight".to_owned(), vec![2, 12]),
        ("embeddings.position_embeddings.weight".to_owned(), vec![64, 12]),
        ("embeddings.token_type_embeddings.weight".to_owned(), vec![1, 12]),
    ];
    for (part, rows, columns) in [
        ("attention.self.query", 12, 12),
        ("attention.self.key", 12, 12),
        ("attention.self.value", 12, 12),
        ("attention.output.dense", 12, 12),
        ("intermediate.dense", 4, 12),
        ("output.dense", 12, 4),
    ] {
        shapes.push((format!("encoder.layer.0.{part}.weight"), vec![rows, columns]));
        shapes.push((format!("encoder.layer.0.{part}.bias"), vec![rows]));
    }
    let last = "encoder.layer.0.output.LayerNorm";
    for norm in ["embeddings.LayerNorm", "encoder.layer.0.attention.output.LayerNorm", last] {
        shapes.push((format!("{norm}.weight"), vec![12]));
        shapes.push((format!("{norm}.bias"), vec![12]));
    }
    let zeros = vec![0; 4 * 64 * 12];
    let answer: Vec<u8> = answer.iter().flat_map(|value| value.to_le_bytes()).collect();
    let views = shapes.into_iter().map(|(name, shape)| {
        let bytes = match name.as_str() {
            "encoder.layer.0.output.LayerNorm.bias" => answer.as_slice(),
            _ => &zeros[..4 * shape.iter().product::<usize>()],
        };
        (name, TensorView::new(Dtype::F32, shape, bytes).unwrap())
    });
    safetensors::serialize(views, None).unwrap()
}

/// The network of the checkpoint, a task embedding, and the adapter that belongs to it.
pub(crate) fn golden() -> BTreeMap<String, Vec<f32>> {
    floats(&fs::read(parts::fixture("golden/hypernet/t2l_M.safetensors")).unwrap())
}

fn floats(bytes: &[u8]) -> BTreeMap<String, Vec<f32>> {
    let file = SafeTensors::deserialize(bytes).unwrap();
    let values = file.iter().map(|(name, view)| {
        let (words, _) = view.data().as_chunks::<4>();
        (name.to_owned(), words.iter().map(|word| f32::from_le_bytes(*word)).collect())
    });
    values.collect()
}

/// `B A` for A `[2, in]` and B `[out, 2]`.
fn product(b: &[f32], a: &[f32]) -> Vec<f32> {
    let (first, second) = a.split_at(a.len() / 2);
    let row = |b: &[f32]| -> Vec<f32> {
        first.iter().zip(second).map(|(x, y)| b[0] * x + b[1] * y).collect()
    };
    b.chunks_exact(2).flat_map(row).collect()
}

/// Checks the adapter in a PEFT directory against the golden one.
pub(crate) fn assert_near_golden(folder: &Folder, adapter: &str) {
    let bytes = folder.read(format!("{adapter}/adapter_model.safetensors"));
    let (golden, made) = (golden(), floats(&bytes));
    let scale = 4.0 / 2.0_f32.sqrt();
    for module in ["q_proj", "v_proj"] {
        let [a, b] = ["A", "B"].map(|side| &golden[&format!("out.{module}.{side}")]);
        let layers = a.chunks_exact(a.len() / 3).zip(b.chunks_exact(b.len() / 3));
        for (layer, (a, b)) in layers.enumerate() {
            let path = format!("base_model.model.model.layers.{layer}.self_attn.{module}");
            let [made_a, made_b] =
                ["A", "B"].map(|side| &made[&format!("{path}.lora_{side}.weight")]);
            let (got, want) = (product(made_b, made_a), product(b, a));
            assert_eq!(got.len(), want.len());
            let largest = want.iter().fold(1.0_f32, |most, value| most.max(value.abs()));
            for (got, want) in got.iter().zip(&want) {
                let error = (got / scale - want).abs() / largest;
                assert!(error < 1e-5, "{path}: {error}");
            }
        }
    }
}

/// The refusal of the checkpoint with one file changed.
fn refused_file(file: &str, change: impl FnOnce(Vec<u8>) -> Vec<u8>) -> String {
    let folder = folder_with_checkpoint();
    let path = folder.path("t2l").join(file);
    fs::write(&path, change(fs::read(&path).unwrap())).unwrap();
    folder.refused(&IMPORT)
}

/// A text with a part replaced that it must have.
fn replaced(bytes: Vec<u8>, from: &str, to: &str) -> Vec<u8> {
    let text = String::from_utf8(bytes).unwrap();
    assert!(text.contains(from), "{text}");
    text.replace(from, to).into_bytes()
}

#[test]
fn a_checkpoint_of_the_reference_becomes_one_of_ours() {
    let folder = folder_with_checkpoint();
    let ran = folder.run(&IMPORT);
    assert!(ran.stdout.is_empty());
    assert_snapshot!(ran.report(), @r"
    exit 0
    variant M, rank 2, scale [number], 2667 trained weights
    trained by sft, on answers
    embeddings of 12 values by Alibaba-NLP/gte-large-en-v1.5
    base toy-7b-v0.2: llama, 3 layers
    modules q_proj, v_proj (as the heads in the archive)
    note: `verify` will compare architecture, names and shapes with a base, but not a fingerprint; --base records one
    run/config.json: 544 B
    run/hypernet.safetensors: [number] [unit]
    run/origin.json: 264 B
    ");
    assert_eq!(folder.names("run"), FROM_IMPORT);

    let found = folder.run(&["inspect", "run", "--json"]).json();
    assert_eq!((&found["kind"], &found["config"]["variant"]), (&json!("checkpoint"), &json!("M")));
    assert_eq!(found["config"]["base"]["fingerprint"], "unknown");
    assert_eq!(found["config"]["base"]["modules"][0]["permute_heads"], 4);
    assert_eq!(found["tensors"]["heads.v_proj.weight"], json!([32, 5]));
    let origin = json!({
        "format": "text-to-lora", "file": "hypermod.pt",
        "sha256": Digest::of(&folder.read("t2l/hypermod.pt")), "licence": "unknown",
        "variant": "M", "module_order": "head order", "modules": ["q_proj", "v_proj"],
    });
    assert_eq!(found["origin"], origin);

    // Not over the first without being told to, and with it the same bytes.
    let read = || FROM_IMPORT.map(|file| folder.read(format!("run/{file}")));
    let first = read();
    assert_snapshot!(folder.refused(&IMPORT), @r"
    exit 2
    error: output `run` exists, and overwriting was not requested
    hint: use --force to overwrite it
    ");
    folder.run_quietly(&[&IMPORT[..], &["--force"]].concat());
    assert_eq!(read(), first);
}

#[test]
fn what_was_recognized_is_json_too() {
    let folder = folder_with_checkpoint();
    let reversed = ["--json", "-q", "--module-order", "reversed", "--licence", "Apache-2.0"];
    let reversed = [&IMPORT[..], &reversed].concat();
    let found = folder.run(&reversed).json();
    assert_eq!(found["modules"], json!(["v_proj", "q_proj"]));
    assert_eq!(found["recovered_order"], json!(["q_proj", "v_proj"]));
    assert_eq!(found["module_order"], "reversed");
    assert_eq!(found["origin"]["module_order"], "reverse of head order");
    assert_eq!(found["origin"]["licence"], "Apache-2.0");
    assert_eq!(found["encoder"], "Alibaba-NLP/gte-large-en-v1.5");
    assert_eq!((&found["latent_size"], &found["rank"]), (&json!(8), &json!(2)));

    let other = [&IMPORT[..], &["--force", "--module-order", "q_proj,k_proj"]].concat();
    assert_snapshot!(folder.refused(&other), @r#"
    exit 1
    error: cannot import `t2l/hypermod.pt`
      caused by: module order ["q_proj", "k_proj"] is not an order of the checkpoint's modules ["q_proj", "v_proj"]
    "#);
}

#[test]
fn a_snapshot_of_training_uses_the_settings_of_its_run() {
    let folder = folder_with_checkpoint();
    fs::create_dir_all(folder.path("t2l/checkpoints/it_10")).unwrap();
    let snapshot = "t2l/checkpoints/it_10";
    fs::rename(folder.path("t2l/hypermod.pt"), folder.path(snapshot).join("hypermod.pt")).unwrap();
    folder.run_quietly(&["import", snapshot, "--base-config", "t2l/config.json", "-o", "run"]);
    assert_eq!(folder.names("run"), FROM_IMPORT);
}

#[test]
fn the_base_must_be_named_and_fit() {
    let folder = folder_with_checkpoint();
    let ran = folder.run(&["import", "t2l", "-o", "run"]);
    assert_eq!((ran.code, ran.stdout.len()), (Some(2), 0));
    assert!(ran.stderr.contains("--base-config <JSON>"), "{}", ran.stderr);
    let deep = refused_file("config.json", |config| {
        replaced(config, "\"num_hidden_layers\": 3", "\"num_hidden_layers\": 4")
    });
    assert_snapshot!(deep, @r"
    exit 1
    error: cannot import `t2l/hypermod.pt`
      caused by: the checkpoint is for 3 layers, the base `toy-7b-v0.2` has 4
    ");
    let wide = refused_file("config.json", |config| {
        replaced(config, "\"num_key_value_heads\": 2", "\"num_key_value_heads\": 4")
    });
    assert!(wide.contains("variant M for the base `toy-7b-v0.2`; wrong shape: "), "{wide}");
    assert!(wide.contains("`AB_offset.B.v_proj` [3, 8, 2] instead of [3, 16, 2]"), "{wide}");
}

#[test]
fn damaged_settings_are_named() {
    let task = refused_file("args.yaml", |text| {
        replaced(text, "training_task: sft", "training_task: grpo")
    });
    assert_snapshot!(task, @r#"
    exit 1
    error: cannot import `t2l/hypermod.pt`
      caused by: the settings cannot be used:
      args.yaml: `training_task` is "grpo", expected `sft` or `recon`
    "#);
    let size =
        refused_file("args.yaml", |text| replaced(text, "head_in_size: 5", "head_in_size: five"));
    assert!(size.contains("error: `t2l/args.yaml` is not usable\n  caused by: "), "{size}");
    let adapter = refused_file("adapter_config.json", |_| b"{".to_vec());
    assert!(adapter.contains("error: `t2l/adapter_config.json` is not JSON\n"), "{adapter}");
}

#[test]
fn hostile_archives_are_refused() {
    let cut = refused_file("hypermod.pt", |bytes| bytes[..bytes.len() - 100].to_vec());
    assert_snapshot!(cut, @r"
    exit 1
    error: cannot import `t2l/hypermod.pt`
      caused by: the file does not end as a zip archive: it is cut off, or `torch.save` did not write it
    ");
    // `OrderedDict` becomes another global of the same length; the CRC-32 notices first.
    let call = refused_file("hypermod.pt", |mut bytes| {
        let name = b"ccollections\nOrderedDict\n";
        let at = bytes.windows(name.len()).position(|part| part == name).unwrap();
        bytes[at..at + name.len()].copy_from_slice(b"cposix\nsystem__________\n\n");
        bytes
    });
    assert!(call.contains("archive entry `hypermod/data.pkl` has CRC-32 "), "{call}");
    let names = refused_file("hypermod.pt", |mut bytes| {
        let (from, to) = (b"hypermod/version", b"../../../version");
        let at = bytes.windows(16).rposition(|part| part == from).unwrap();
        bytes[at..at + 16].copy_from_slice(to);
        bytes
    });
    assert_snapshot!(names, @r"
    exit 1
    error: cannot import `t2l/hypermod.pt`
      caused by: archive entry `../../../version` has a name that is not plain and relative
    ");
}

#[test]
fn an_imported_checkpoint_exports_and_compiles() {
    let folder = folder_with_import();
    let ran = folder.run(&EXPORT);
    let notes = "exit 0\n\
        note: no description is known that training did not see, so `compile` will not warn about \
        unfamiliar ones\n\
        note: the licence of the imported weights is unknown; --licence names it\n\
        note: the licence of the text encoder `constant` is unknown; --encoder-licence names it, \
        --encoder-name the encoder\n\
        toy.t2lc/manifest.json: ";
    assert!(ran.report().starts_with(notes), "{}", ran.report());
    let compile = ["compile", "Answer yes or no.", "--bundle", "toy.t2lc", "--backend", "exact"];
    folder.run_quietly(&[&compile[..], &["--strict", "--format", "peft", "-o", "yes"]].concat());

    assert_near_golden(&folder, "yes");
}

#[test]
fn import_and_export_can_be_one_step() {
    let folder = folder_with_import();
    folder.run_quietly(&EXPORT);
    // The checkpoint of `folder_with_import` is another than the archive: it goes the same way.
    folder.run_quietly(&[&IMPORT[..4], &["-o", "plain"]].concat());
    let options = &EXPORT[2..10];
    folder.run_quietly(&[&["export", "plain"], options, &["-o", "two.t2lc"]].concat());
    let ran = folder.run(&[&IMPORT[..4], options, &["-o", "one.t2lc", "--json"]].concat());
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let answer: serde_json::Value = serde_json::from_slice(&ran.stdout).unwrap();
    assert_eq!((&answer["variant"], &answer["output"]), (&json!("M"), &json!("one.t2lc")));
    assert_eq!(folder.names("one.t2lc"), folder.names("two.t2lc"));
    for file in folder.names("one.t2lc") {
        let read = |bundle: &str| folder.read(format!("{bundle}/{file}"));
        assert_eq!(read("one.t2lc"), read("two.t2lc"), "{file}");
    }

    let named = folder.refused(&[&IMPORT[..4], &["-o", "x", "--name", "mine"]].concat());
    assert!(named.starts_with("exit 2\nerror: --name is for bundles"), "{named}");
    let report =
        folder.refused(&[&IMPORT[..4], &["-o", "x", "--descriptions", "none.tsv"]].concat());
    assert_eq!(
        report,
        "exit 2\nerror: --descriptions is for bundles, which need a text encoder\n\
         hint: name it with --encoder"
    );
}

#[test]
fn a_bundle_says_that_its_network_was_imported() {
    let folder = folder_with_import();
    fs::write(folder.path("tasks.tsv"), "lol_022\tSay yes.\n\nlol_1448\tCount.\n").unwrap();
    let options = ["--descriptions", "tasks.tsv", "--licence", "Apache-2.0"];
    folder.run_quietly(&[&EXPORT[..], &options].concat());
    let ran = folder.run(&["inspect", "toy.t2lc"]);
    for line in [
        "  licence: Apache-2.0",
        "  origin:",
        "    file: hypermod.pt",
        "    format: text-to-lora",
        "    licence: unknown",
        "    module_order: head order",
        "    modules: [\"q_proj\",\"v_proj\"]",
        "    variant: M",
    ] {
        assert!(ran.text().lines().any(|found| found == line), "{line}\n{}", ran.text());
    }
    assert!(!ran.text().contains("  training:"), "{}", ran.text());

    let compile = ["compile", "Count.", "--bundle", "toy.t2lc", "-o", "count.gguf", "--json"];
    let found = folder.run(&compile).json();
    assert_eq!(found["nearest"][0]["task"], "lol_022");
    assert_eq!(found["familiar"], true);
}

#[test]
fn a_checkpoint_comes_from_training_or_import() {
    let folder = folder_with_import();
    let pack = parts::fixture("taskpack");
    let with_pack = [&EXPORT[..], &["--pack", pack.to_str().unwrap()]].concat();
    assert_snapshot!(folder.refused(&with_pack), @r"
    exit 1
    error: the checkpoint was imported: it was not trained on a task pack
    hint: leave out --pack; --descriptions takes what it was trained on
    ");
    fs::write(folder.path("run/state.json"), "{}").unwrap();
    assert_snapshot!(folder.refused(&EXPORT), @r"
    exit 1
    error: `run` has both `state.json` and `origin.json`: it cannot be of both
    ");
    fs::remove_file(folder.path("run/state.json")).unwrap();
    let origin = String::from_utf8(folder.read("run/origin.json")).unwrap();
    fs::write(folder.path("run/origin.json"), origin.replace("\"M\"", "\"S\"")).unwrap();
    assert_snapshot!(folder.refused(&EXPORT), @r"
    exit 1
    error: `origin.json` has variant S, `config.json` has M
    ");
    fs::remove_file(folder.path("run/origin.json")).unwrap();
    assert_snapshot!(folder.refused(&EXPORT), @r"
    exit 1
    error: `run` has neither `state.json`, which training writes, nor `origin.json`, which import writes
    ");
}

#[test]
fn bad_lines_of_descriptions_are_listed() {
    let folder = folder_with_import();
    let export = [&EXPORT[..], &["--descriptions", "tasks.tsv"]].concat();
    fs::write(folder.path("tasks.tsv"), "lol_022\tSay yes.\nCount.\nlol_1448\t \n").unwrap();
    assert_snapshot!(folder.refused(&export), @r"
    exit 1
    error: the descriptions in `tasks.tsv` cannot be used:
      line 2: no tab between task and description
      line 3: the description is empty
    ");
    fs::write(folder.path("tasks.tsv"), "\n").unwrap();
    assert_snapshot!(folder.refused(&export), @r"
    exit 1
    error: `tasks.tsv` has no description
    ");
}
