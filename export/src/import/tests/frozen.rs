//! An imported network in a bundle: what is compiled with it is the golden adapter.
//!
//! The text encoder has the golden embedding as its answer to every text, but for its length, which
//! is always `√12`; the first layer of the network is scaled by what is missing.

use std::fs;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors, View};
use t2lc_runtime::backend::exact::Exact;
use t2lc_runtime::bundle::Bundle;
use t2lc_runtime::compile::{Adapter, CompileOptions, Format, compile_once};
use t2lc_runtime::describe::Description;
use t2lc_runtime::digest::Digest;
use t2lc_runtime::peft;
use t2lc_runtime::quantize::Quantization;

use super::case::{Case, Golden, VARIANTS};
use crate::checkpoint::Variant;
use crate::checkpoint::tests::scratch;
use crate::encoder::EncoderSource;
use crate::error::ExportError;
use crate::freeze::{Descriptions, FreezeOptions, Provenance, freeze};
use crate::import::Imported;
use crate::weights::WeightType;

const WIDTH: usize = 12;

/// Largest error of an entry, of the largest entry of its matrix or of 1.
const NEAR_GOLDEN: f32 = 1e-5;

const TOKENIZER: &str = r#"{"version": "1.0", "truncation": null, "padding": null,
    "added_tokens": [], "normalizer": null, "pre_tokenizer": {"type": "WhitespaceSplit"},
    "post_processor": null, "decoder": null,
    "model": {"type": "WordLevel", "vocab": {"[UNK]": 0, "yes": 1}, "unk_token": "[UNK]"}}"#;

/// A folder that goes away with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let dir = scratch(&format!("frozen-{name}"));
        fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    fn subfolder(&self, name: &str) -> PathBuf {
        let dir = self.0.join(name);
        fs::create_dir_all(&dir).unwrap();
        dir
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

/// f32 values as the safetensors writer takes them.
struct Floats(Vec<usize>, Vec<u8>);

impl View for Floats {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }
    fn shape(&self) -> &[usize] {
        &self.0
    }
    fn data(&self) -> std::borrow::Cow<'_, [u8]> {
        self.1.as_slice().into()
    }
    fn data_len(&self) -> usize {
        self.1.len()
    }
}

/// Writes an encoder whose every answer points in the direction of `answer`: all its weights are
/// zero but for the last shift.
fn write_encoder(dir: &Path, answer: &[f32]) {
    let width = answer.len();
    let config = format!(
        r#"{{"model_type": "bert", "hidden_act": "gelu", "hidden_size": {width},
        "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 4, "vocab_size": 2,
        "max_position_embeddings": 64, "type_vocab_size": 1, "layer_norm_eps": 1e-12}}"#
    );
    let layer = |part: &str| format!("encoder.layer.0.{part}");
    let mut shapes = vec![
        ("embeddings.word_embeddings.weight".to_owned(), vec![2, width]),
        ("embeddings.position_embeddings.weight".to_owned(), vec![64, width]),
        ("embeddings.token_type_embeddings.weight".to_owned(), vec![1, width]),
    ];
    for (part, rows, columns) in [
        ("attention.self.query", width, width),
        ("attention.self.key", width, width),
        ("attention.self.value", width, width),
        ("attention.output.dense", width, width),
        ("intermediate.dense", 4, width),
        ("output.dense", width, 4),
    ] {
        shapes.push((layer(&format!("{part}.weight")), vec![rows, columns]));
        shapes.push((layer(&format!("{part}.bias")), vec![rows]));
    }
    let last = layer("output.LayerNorm");
    for norm in ["embeddings.LayerNorm".to_owned(), layer("attention.output.LayerNorm"), last] {
        shapes.push((format!("{norm}.weight"), vec![width]));
        shapes.push((format!("{norm}.bias"), vec![width]));
    }
    let tensors = shapes.into_iter().map(|(name, shape)| {
        let zeros = vec![0.0; shape.iter().product()];
        let is_answer = name == "encoder.layer.0.output.LayerNorm.bias";
        let values = if is_answer { answer } else { zeros.as_slice() };
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        (name, Floats(shape, bytes))
    });
    let weights = safetensors::serialize(tensors, None).unwrap();
    fs::write(dir.join("config.json"), config).unwrap();
    fs::write(dir.join("model.safetensors"), weights).unwrap();
    fs::write(dir.join("tokenizer.json"), TOKENIZER).unwrap();
}

/// The golden network, imported, its first layer scaled for embeddings of length `√12`.
fn imported(variant: Variant, golden: &Golden) -> Imported {
    let mut imported = Case::new(variant).import().unwrap();
    let squares: f32 = golden.embedding.iter().map(|value| value * value).sum();
    let factor = (squares / WIDTH as f32).sqrt();
    let first = imported.checkpoint.tensors.get_mut("task_encoder.mlp.0.weight").unwrap();
    first.values.iter_mut().for_each(|value| *value *= factor);
    imported
}

/// Freezes an imported network with an encoder that gives this answer.
fn frozen(
    folder: &Folder,
    imported: &Imported,
    answer: &[f32],
    training: Vec<(String, String)>,
) -> Result<Bundle, ExportError> {
    let (encoder, bundle) = (folder.subfolder("encoder"), folder.subfolder("bundle"));
    write_encoder(&encoder, answer);
    let options = FreezeOptions {
        name: "toy".into(),
        version: "1".into(),
        licence: "unknown".into(),
        encoder_name: "constant".into(),
        encoder_licence: "MIT".into(),
        encoder_weights: WeightType::F32,
        hypernet_weights: WeightType::F32,
    };
    let origin = imported.origin(&b"weights"[..], &Case::new(Variant::L).order, None).unwrap();
    let files = freeze(
        &imported.checkpoint,
        &EncoderSource::Directory(encoder),
        &Descriptions { training, ..Descriptions::default() },
        Provenance::Imported(origin),
        &options,
        &Exact::new(1),
    )?;
    for (name, bytes) in files {
        fs::write(bundle.join(name), bytes).unwrap();
    }
    let bundle = Bundle::open(&bundle).unwrap();
    assert_eq!(bundle.manifest.encoder.max_tokens, 64, "as many as there are positions");
    Ok(bundle)
}

fn compiled(bundle: &Bundle) -> Adapter {
    let options =
        CompileOptions { format: Format::Peft, quantization: Quantization::F32, scale: 1.0 };
    let description = Description::new("Answer yes or no.").unwrap();
    compile_once(bundle, &Exact::new(1), &description, options).unwrap()
}

/// Checks a matrix against the golden one times `unit`; gives the power of two that balancing put
/// on it.
fn assert_near(what: &str, file: &SafeTensors<'_>, want: &[f32], unit: f32) -> f32 {
    let (words, _) = file.tensor(what).unwrap().data().as_chunks::<4>();
    let got: Vec<f32> = words.iter().map(|word| f32::from_le_bytes(*word)).collect();
    assert_eq!(got.len(), want.len(), "{what}");
    let sizes = want.iter().map(|value| value.abs()).enumerate();
    let (index, largest) = sizes.max_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
    let power = (got[index] / want[index] / unit).log2().round().exp2();
    for (got, want) in got.iter().zip(want) {
        let error = (got / power / unit - want).abs() / largest.max(1.0);
        assert!(error < NEAR_GOLDEN, "{what}: {error}");
    }
    power
}

#[test]
fn a_frozen_import_compiles_to_the_golden_adapter() {
    for variant in VARIANTS {
        let (golden, folder) = (Golden::read(variant), Folder::new(&format!("golden-{variant}")));
        let imported = imported(variant, &golden);
        let bundle = frozen(&folder, &imported, &golden.embedding, Vec::new()).unwrap();
        let place = folder.0.join("adapter");
        compiled(&bundle).write_to(&place, false).unwrap();
        let bytes = fs::read(place.join(peft::WEIGHTS)).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let scale = imported.checkpoint.config.scale();
        for module in ["q_proj", "v_proj"] {
            let [a, b] = ["A", "B"].map(|side| &golden.outputs[&format!("{module}.{side}")]);
            let layers = a.shape[0];
            let of_layer = |values: &[f32], layer: usize| {
                let size = values.len() / layers;
                values[layer * size..(layer + 1) * size].to_vec()
            };
            for layer in 0..layers {
                let path = format!("base_model.model.model.layers.{layer}.self_attn.{module}");
                let (want_a, want_b) = (of_layer(&a.values, layer), of_layer(&b.values, layer));
                let on_a = assert_near(&format!("{path}.lora_A.weight"), &file, &want_a, 1.0);
                let on_b = assert_near(&format!("{path}.lora_B.weight"), &file, &want_b, scale);
                // Balancing takes from one what it gives to the other.
                assert_eq!((on_a * on_b).to_bits(), 1.0_f32.to_bits(), "{variant} {path}");
            }
        }
    }
}

#[test]
fn without_descriptions_nothing_is_near_and_nothing_warns() {
    let (golden, folder) = (Golden::read(Variant::M), Folder::new("none"));
    let imported = imported(Variant::M, &golden);
    let bundle = frozen(&folder, &imported, &golden.embedding, Vec::new()).unwrap();
    let manifest = &bundle.manifest;
    assert!(manifest.training.is_none());
    let origin = manifest.origin.as_ref().unwrap();
    assert_eq!((origin.format.as_str(), origin.file.as_str()), ("text-to-lora", "hypermod.pt"));
    assert_eq!((origin.sha256, origin.licence.as_str()), (Digest::of(b"weights"), "unknown"));
    assert_eq!((origin.variant.as_str(), origin.module_order.as_str()), ("M", "head order"));
    assert_eq!(origin.modules, ["q_proj", "v_proj"]);
    let adapter = compiled(&bundle);
    assert!(adapter.nearest.is_empty() && adapter.familiar);
}

#[test]
fn descriptions_of_its_training_are_neighbours_that_do_not_warn() {
    let (golden, folder) = (Golden::read(Variant::S), Folder::new("some"));
    let imported = imported(Variant::S, &golden);
    let training = ["lol_022", "lol_1448"].map(|task| (task.to_owned(), "Say yes.".to_owned()));
    let bundle = frozen(&folder, &imported, &golden.embedding, training.to_vec()).unwrap();
    assert!(bundle.manifest.familiarity.warn_below < -0.99);
    let adapter = compiled(&bundle);
    assert_eq!((adapter.nearest.len(), adapter.familiar), (2, true));
    assert!(adapter.nearest[0].cosine > 0.99, "{:?}", adapter.nearest);
}

#[test]
fn an_encoder_of_another_width_is_refused_even_without_descriptions() {
    let (golden, folder) = (Golden::read(Variant::L), Folder::new("width"));
    let imported = imported(Variant::L, &golden);
    let refused = frozen(&folder, &imported, &[1.0; 8], Vec::new());
    assert!(matches!(refused, Err(ExportError::Encode(_))), "{refused:?}");
}
