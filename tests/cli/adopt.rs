//! `t2lc export --encoder-onnx`: a text encoder that exists as an ONNX file goes into a bundle. Its
//! graph gives hidden states; which operators it has decides what runs it.

use std::fs;

use insta::assert_snapshot;
use t2lc_export::graph::{Dim, ElementType, GraphBuilder};

use crate::Folder;
use crate::import::{TOKENIZER, assert_near_golden, folder_with_import, golden};

const EXPORT: [&str; 8] = [
    "export",
    "run",
    "--encoder-onnx",
    "mini/onnx/model.onnx",
    "--hypernet-weights",
    "f32",
    "-o",
    "toy.t2lc",
];
const COMPILE: [&str; 10] = [
    "compile",
    "Answer yes or no.",
    "--bundle",
    "toy.t2lc",
    "--strict",
    "--format",
    "peft",
    "-o",
    "yes",
    "--backend",
];

/// A folder with `run`, an imported checkpoint, and `mini`, a model directory as on Hugging Face,
/// whose graph gives the golden embedding for every token of type 0.
fn folder_with_onnx(has_types: bool) -> Folder {
    let folder = folder_with_import();
    fs::create_dir_all(folder.path("mini/onnx")).unwrap();
    fs::write(folder.path("mini/tokenizer.json"), TOKENIZER).unwrap();
    let answer = golden().remove("in.task_emb").unwrap();
    fs::write(folder.path("mini/onnx/model.onnx"), encoder(&answer, has_types)).unwrap();
    folder
}

fn encoder(answer: &[f32], has_types: bool) -> Vec<u8> {
    let shape = [Dim::Symbol("batch"), Dim::Symbol("tokens")];
    let width = answer.len();
    let mut graph = GraphBuilder::new();
    let ids = graph.input("input_ids", ElementType::I64, &shape).unwrap();
    graph.input("attention_mask", ElementType::I64, &shape).unwrap();
    let words = graph.initializer_f32("words", &[2, width], &answer.repeat(2)).unwrap();
    let mut states = graph.gather(words, ids).unwrap();
    if has_types {
        let types = graph.input("token_type_ids", ElementType::I64, &shape).unwrap();
        let offsets: Vec<f32> = (0..2 * width).map(|i| if i < width { 0.0 } else { 9.0 }).collect();
        let offsets = graph.initializer_f32("types", &[2, width], &offsets).unwrap();
        let offsets = graph.gather(offsets, types).unwrap();
        states = graph.add(states, offsets).unwrap();
    }
    graph.finish("mini", &[("last_hidden_state".to_owned(), states)]).unwrap()
}

#[test]
fn an_onnx_file_becomes_the_encoder_of_a_bundle() {
    let folder = folder_with_onnx(false);
    let ran = folder.run(&EXPORT);
    let notes = "exit 0\n\
        note: no description is known that training did not see, so `compile` will not warn about \
        unfamiliar ones\n\
        note: the licence of the imported weights is unknown; --licence names it\n\
        note: the licence of the text encoder `mini` is unknown; --encoder-licence names it, \
        --encoder-name the encoder\n\
        toy.t2lc/manifest.json: ";
    assert!(ran.report().starts_with(notes), "{}", ran.report());
    let manifest: serde_json::Value =
        serde_json::from_slice(&folder.read("toy.t2lc/manifest.json")).unwrap();
    let encoder = &manifest["encoder"];
    for (field, value) in [("name", "mini"), ("licence", "unknown"), ("weights", "onnx")] {
        assert_eq!(encoder[field], value);
    }
    folder.run_quietly(&[&COMPILE[..], &["exact"]].concat());
    assert_near_golden(&folder, "yes");

    // The first token is as good as the mean where all are the same.
    let named =
        ["--pooling", "cls", "--encoder-name", "tiny", "--encoder-licence", "MIT", "--force"];
    let ran = folder.run(&[&EXPORT[..], &named].concat());
    assert!(!ran.report().contains("text encoder"), "{}", ran.report());
    folder.run_quietly(&[&COMPILE[..], &["exact", "--force"]].concat());
    assert_near_golden(&folder, "yes");
}

#[test]
fn operators_that_exact_lacks_need_another_backend() {
    let folder = folder_with_onnx(true);
    let report = folder.refused(&EXPORT);
    assert!(report.starts_with("exit 1\nerror: exact/"), "{report}");
    let hint = "hint: exact has only the operators of encoders that t2lc builds; for others use \
                --backend ort or --backend tract, here and for `compile`";
    assert!(report.ends_with(hint), "{report}");

    let ran = folder.run(&[&EXPORT[..], &["--backend", "tract"]].concat());
    let report = ran.report();
    assert!(report.starts_with("exit 0\n"), "{report}");
    assert!(report.contains("\nnote: computed with tract/"), "{report}");
    let note = "\nnote: `compile` runs it with --backend tract, as here\n";
    assert!(report.contains(note), "{report}");
    folder.run_quietly(&[&COMPILE[..], &["tract"]].concat());
    assert_near_golden(&folder, "yes");
}

#[test]
fn files_that_do_not_fit_are_named() {
    let folder = folder_with_onnx(false);
    let graph = folder.path("mini/onnx/model.onnx");
    fs::write(&graph, encoder(&[1.0; 8], false)).unwrap();
    let shapes = "is [batch, tokens, 8], expected [batch, tokens, 12]";
    let error = format!("exit 1\nerror: model shape of output `last_hidden_state` {shapes}");
    assert_eq!(folder.refused(&EXPORT), error);
    fs::write(&graph, "a graph").unwrap();
    let report = folder.refused(&EXPORT);
    assert!(report.starts_with("exit 1\nerror: model is not a valid ONNX file: "), "{report}");
    fs::write(&graph, encoder(&[1.0; 12], false)).unwrap();
    fs::remove_file(folder.path("mini/tokenizer.json")).unwrap();
    assert_snapshot!(folder.refused(&EXPORT), @r"
    exit 1
    error: cannot read `mini/onnx/tokenizer.json`
      caused by: No such file or directory (os error 2)
    ");
}

#[test]
fn an_encoder_is_a_directory_or_a_file() {
    let folder = Folder::new();
    for (options, said) in [
        (&["--encoder", "encoder"][..], "cannot be used with"),
        (&["--encoder-weights", "f16"][..], "cannot be used with"),
        (&["--pooling", "max"][..], "unknown pooling `max`, expected `mean` or `cls`"),
        (&["--backend", "gpu"][..], "unknown backend `gpu`, expected one of exact, tract, ort"),
    ] {
        let report = folder.refused(&[&EXPORT[..], options].concat());
        assert!(report.starts_with("exit 2\n") && report.contains(said), "{report}");
    }
    for options in [&[][..], &["--pooling", "cls"], &["--tokenizer", "tokenizer.json"]] {
        let report = folder.refused(&[&["export", "run", "-o", "toy.t2lc"][..], options].concat());
        assert!(report.starts_with("exit 2\n") && report.contains("--encoder"), "{report}");
    }
}
