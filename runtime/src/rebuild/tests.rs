//! Tests of `rebuild` with the default bundle's manifest and tokenizer, and made-up networks: what
//! they compute follows from their input, with as much noise as a test wants.

use std::path::Path;
use std::sync::LazyLock;

use bytes::Bytes;

use super::{Demand, Difference, Origin, RebuildError, Rebuilt, rebuild};
use crate::backend::{Backend, BackendError, BackendKind, Graph, Provider, Tensor};
use crate::base::TargetModule;
use crate::bundle::Bundle;
use crate::compile::{CompileOptions, compile_once};
use crate::describe::Description;
use crate::digest::Digest;
use crate::gguf::{Gguf, GgufWriter, Value};
use crate::quantize::Quantization;

static BUNDLE: LazyLock<Bundle> = LazyLock::new(|| {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/smollm2-135m-instruct.t2lc");
    Bundle::open(Path::new(folder)).unwrap()
});

const TEXT: &str = "summarize legal text";
const EXACT: MadeUp = MadeUp { id: "exact/1", noise: 0.0 };
const TRACT: MadeUp = MadeUp { id: "tract/1", noise: 0.0 };

/// A backend whose networks are made up.
#[derive(Clone, Copy)]
struct MadeUp {
    id: &'static str,
    /// Relative error of every value of an adapter.
    noise: f32,
}

impl Backend for MadeUp {
    fn load_shared(&self, _: &str, _: Bytes) -> Result<Box<dyn Graph>, BackendError> {
        Ok(Box::new(*self))
    }

    fn id(&self) -> String {
        self.id.into()
    }
}

impl Graph for MadeUp {
    fn run(
        &self,
        inputs: &[(&str, Tensor)],
        outputs: &[&str],
    ) -> Result<Vec<Tensor>, BackendError> {
        let input = Digest::of(format!("{:?}", inputs[0].1).as_bytes());
        let seed = u64::from_le_bytes(*input.as_bytes().first_chunk().unwrap());
        let manifest = &BUNDLE.manifest;
        let output = |name: &&str| {
            let (shape, size, noise) = match name.split_once('.') {
                None => (vec![1, manifest.encoder.embedding_size], 1.0, 0.0),
                Some((module, matrix)) => {
                    let (layers, rank) = (manifest.base.layers, manifest.hypernet.rank);
                    let is_named = |target: &&TargetModule| target.name == module;
                    let target = manifest.base.modules.iter().find(is_named).unwrap();
                    match matrix {
                        "lora_a" => (vec![1, layers, rank, target.in_features], 1.0, self.noise),
                        _ => (vec![1, layers, target.out_features, rank], 0.3, self.noise),
                    }
                }
            };
            let values = numbers(seed, shape.iter().product(), size, noise);
            Tensor::F32 { shape, values }
        };
        Ok(outputs.iter().map(output).collect())
    }
}

/// Numbers below `size` in magnitude that look random, each with `noise` of its value.
fn numbers(seed: u64, count: usize, size: f32, noise: f32) -> Vec<f32> {
    let mut state = seed | 1;
    let number = |index: usize| {
        // Marsaglia's xorshift64.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let value = (state >> 40) as f32 / 8_388_608.0 - 1.0;
        let sign = if index.is_multiple_of(3) { 1.0 } else { -1.0 };
        size * value * (1.0 + sign * noise)
    };
    (0..count).map(number).collect()
}

fn compiled(text: &str, backend: MadeUp, options: CompileOptions) -> Vec<u8> {
    let description = Description::new(text).unwrap();
    let adapter = compile_once(&BUNDLE, &backend, &description, options).unwrap();
    adapter.gguf_bytes().unwrap().to_vec()
}

fn fresh(backend: MadeUp) -> Vec<u8> {
    compiled(TEXT, backend, CompileOptions::default())
}

fn rebuilt(adapter: &[u8], backend: MadeUp) -> Rebuilt {
    rebuild(adapter, &BUNDLE, &backend).unwrap()
}

fn error(adapter: &[u8], backend: MadeUp) -> String {
    rebuild(adapter, &BUNDLE, &backend).unwrap_err().to_string()
}

/// The same tensors under other keys.
fn with_metadata(adapter: &[u8], change: impl FnOnce(&mut Vec<(String, Value)>)) -> Vec<u8> {
    let file = Gguf::parse(adapter).unwrap();
    let mut metadata = file.metadata().to_vec();
    change(&mut metadata);
    let mut writer = GgufWriter::new();
    for (key, value) in metadata {
        writer.metadata(&key, value).unwrap();
    }
    for tensor in file.tensors() {
        let bytes = file.data(tensor).to_vec();
        writer.tensor(&tensor.name, &tensor.dimensions, tensor.ggml_type, bytes).unwrap();
    }
    writer.finish().unwrap()
}

/// The adapter with another value for a key it has.
fn with(adapter: &[u8], key: &str, value: Value) -> Vec<u8> {
    with_metadata(adapter, |metadata| {
        let entry = metadata.iter_mut().find(|(name, _)| name == key).unwrap();
        entry.1 = value;
    })
}

fn without(adapter: &[u8], key: &str) -> Vec<u8> {
    with_metadata(adapter, |metadata| metadata.retain(|(name, _)| name != key))
}

fn text(value: &str) -> Value {
    Value::String(value.into())
}

fn key(key: &str) -> Difference {
    Difference::Key { key: key.into() }
}

#[test]
fn a_fresh_adapter_is_rebuilt_to_the_byte() {
    let long = "summarize legal text in one sentence. ".repeat(80);
    for quantization in Quantization::ALL {
        let options = CompileOptions { quantization, scale: -0.7, ..CompileOptions::default() };
        let adapter = compiled(&long, EXACT, options);
        let parsed = Gguf::parse(&adapter).unwrap();
        let origin = Origin::read(&parsed).unwrap();
        assert_eq!(origin.description.as_str(), long.trim());
        assert_eq!(origin.options, options);
        assert_eq!(origin.backend_kind().unwrap(), (BackendKind::Exact, Provider::Cpu));
        let found = rebuilt(&adapter, EXACT);
        assert!(found.is_same() && found.identical, "{quantization}: {:?}", found.differences);
        assert_eq!((found.demand, found.content), (Demand::Bytes, Digest::of(&adapter)));
        let recorded = parsed.get("t2lc.recipe").and_then(Value::as_str);
        assert_eq!(recorded, Some(found.recipe.to_string().as_str()));
    }
}

#[test]
fn one_bit_of_one_tensor_is_found() {
    for quantization in [Quantization::F32, Quantization::Q4_0] {
        let options = CompileOptions { quantization, ..CompileOptions::default() };
        let mut adapter = compiled(TEXT, EXACT, options);
        // Inside the last matrix, whose rows are too short for blocks.
        let index = adapter.len() - 1000;
        adapter[index] ^= 1;
        let found = rebuilt(&adapter, EXACT);
        assert!(!found.identical);
        let [Difference::Values { tensor, differing, values, error, allowed }] =
            found.differences.as_slice()
        else {
            panic!("{quantization}: {:?}", found.differences);
        };
        assert_eq!(tensor, "blk.29.ffn_down.weight.lora_b");
        assert_eq!((*differing, *values, *allowed), (1, 576 * 8, 0.0));
        assert!(*error > 0.0 && found.largest_error >= *error);
        let said = found.differences[0].to_string();
        assert!(said.contains(" in 1 of 4608 values, relative error "), "{said}");
    }
}

#[test]
fn exact_backends_may_not_round_otherwise_and_others_may() {
    let near = |id| MadeUp { id, noise: 1e-5 };
    let found = rebuilt(&fresh(EXACT), near("exact/1"));
    assert!(!found.is_same() && found.differences.contains(&key("t2lc.tensors.sha256")));

    let found = rebuilt(&fresh(TRACT), near("tract/1"));
    assert!(found.is_same() && !found.identical, "{:?}", found.differences);
    assert_eq!(found.demand, Demand::Tolerance);
    assert!(found.largest_error > 0.0 && found.largest_error < 1e-3, "{}", found.largest_error);

    let far = MadeUp { id: "tract/1", noise: 0.05 };
    let found = rebuilt(&fresh(TRACT), far);
    assert_eq!(found.differences.len(), Gguf::parse(&fresh(TRACT)).unwrap().tensors().len());
    let said = found.differences[0].to_string();
    assert!(said.starts_with("`blk.0.attn_q.weight.lora_a` differs"), "{said}");
    assert!(said.ends_with(", allowed 6.7e-3"), "{said}");
}

#[test]
fn tolerance_is_for_tensors_only() {
    let adapter = fresh(TRACT);
    let alpha = with(&adapter, "adapter.lora.alpha", Value::F32(16.0));
    assert_eq!(rebuilt(&alpha, TRACT).differences, [key("adapter.lora.alpha")]);
    let extra = with_metadata(&adapter, |metadata| metadata.push(("note".into(), text("hi"))));
    assert_eq!(rebuilt(&extra, TRACT).differences, [key("note")]);
    let quantization = Quantization::F32;
    let options = CompileOptions { quantization, ..CompileOptions::default() };
    let mut not_finite = compiled(TEXT, TRACT, options);
    let start = not_finite.len() - 1000;
    not_finite[start..start + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    let found = rebuilt(&not_finite, TRACT);
    assert_eq!((found.differences.len(), found.largest_error), (1, f64::INFINITY));
}

#[test]
fn a_changed_record_gives_another_recipe() {
    let adapter = fresh(TRACT);
    for changed in [
        with(&adapter, "t2lc.scale", Value::F32(0.999)),
        with(&adapter, "t2lc.description", text("summarize legal texts")),
        with(&adapter, "t2lc.quantization", text("q5_1")),
    ] {
        let found = rebuilt(&changed, TRACT);
        assert!(found.differences.contains(&key("t2lc.recipe")), "{:?}", found.differences);
    }
}

#[test]
fn other_orders_of_equal_parts_are_other_bytes() {
    let adapter = fresh(EXACT);
    let swapped = with_metadata(&adapter, |metadata| metadata.swap(2, 3));
    assert_eq!(rebuilt(&swapped, EXACT).differences, [Difference::Layout]);
    let longer = [&adapter[..], b"more"].concat();
    assert_eq!(rebuilt(&longer, EXACT).differences, [Difference::Layout]);
}

#[test]
fn tensors_of_another_form_are_named() {
    let adapter = fresh(EXACT);
    let file = Gguf::parse(&adapter).unwrap();
    let mut writer = GgufWriter::new();
    for (key, value) in file.metadata() {
        writer.metadata(key, value.clone()).unwrap();
    }
    for (index, tensor) in file.tensors().iter().enumerate() {
        let bytes = file.data(tensor).to_vec();
        let name = if index == 0 { "blk.0.other.lora_a" } else { tensor.name.as_str() };
        let mut dimensions = tensor.dimensions.clone();
        if index == 1 {
            dimensions.reverse();
        }
        writer.tensor(name, &dimensions, tensor.ggml_type, bytes).unwrap();
    }
    let changed = writer.finish().unwrap();
    let form = |tensor: &str| Difference::Form { tensor: tensor.into() };
    let expected = [
        form("blk.0.attn_q.weight.lora_a"),
        form("blk.0.attn_q.weight.lora_b"),
        form("blk.0.other.lora_a"),
    ];
    assert_eq!(rebuilt(&changed, EXACT).differences, expected);
}

#[test]
fn the_version_of_the_maker_decides_nothing() {
    let older = with(&fresh(EXACT), "t2lc.version", text("0.0.9"));
    assert!(rebuilt(&older, EXACT).identical);
}

#[test]
fn files_without_a_record_are_refused() {
    assert!(matches!(rebuild(b"hello", &BUNDLE, &EXACT), Err(RebuildError::Gguf(_))));
    let adapter = fresh(EXACT);
    let foreign = without(&adapter, "t2lc.recipe");
    assert!(matches!(rebuild(&foreign, &BUNDLE, &EXACT), Err(RebuildError::NotCompiled)));
    for key in ["version", "bundle", "backend", "description", "quantization", "scale"] {
        let key = format!("t2lc.{key}");
        let expected = format!("`{key}` of the adapter cannot be used: it is missing");
        assert_eq!(error(&without(&adapter, &key), EXACT), expected);
    }
}

#[test]
fn records_that_are_none_are_refused() {
    let adapter = fresh(EXACT);
    let refused = |key: &str, value: Value| {
        let said = error(&with(&adapter, key, value), EXACT);
        let start = format!("`{key}` of the adapter cannot be used: ");
        said.strip_prefix(&start).unwrap_or_else(|| panic!("{said}")).to_owned()
    };
    assert_eq!(refused("t2lc.scale", Value::F32(f32::NAN)), "it is not a finite 32-bit float");
    assert_eq!(refused("t2lc.scale", Value::F64(1.0)), "it is not a finite 32-bit float");
    assert_eq!(refused("t2lc.description", text(" text ")), "it is not in canonical form");
    assert_eq!(refused("t2lc.description", text("")), "the description is empty");
    assert_eq!(refused("t2lc.backend", Value::U32(1)), "it is of type u32");
    assert!(refused("t2lc.quantization", text("q3")).starts_with("unknown quantization `q3`"));
    let long = refused("t2lc.bundle", text(&"\u{1b}".repeat(5000)));
    assert!(long.starts_with("digest is `\\u{1b}") && long.len() < 1000, "{long}");
}

#[test]
fn other_makers_are_refused() {
    let adapter = fresh(EXACT);
    let mut other = BUNDLE.clone();
    other.digest = Digest::of(b"another");
    let refusal = rebuild(&adapter, &other, &EXACT).unwrap_err();
    let expected = (BUNDLE.digest, other.digest);
    assert!(
        matches!(refusal, RebuildError::OtherBundle { expected: e, got } if (e, got) == expected),
        "{refusal}"
    );
    let said = "the adapter was compiled by t2lc 0.1.0 with pipeline 1, this version has pipeline ";
    let older = without(&with(&adapter, "t2lc.version", text("0.1.0")), "t2lc.pipeline");
    assert!(error(&older, EXACT).starts_with(said), "{}", error(&older, EXACT));
    let newer = with(&adapter, "t2lc.pipeline", text("99"));
    assert!(matches!(rebuild(&newer, &BUNDLE, &EXACT), Err(RebuildError::OtherPipeline { .. })));
    let unknown = with(&adapter, "t2lc.backend", text("abacus/1"));
    assert_eq!(
        error(&unknown, EXACT),
        "the adapter was compiled with the backend `abacus/1`, which is unknown"
    );
    assert_eq!(
        error(&adapter, MadeUp { id: "exact/2", noise: 0.0 }),
        "the adapter was compiled with the backend `exact/1`, this one is `exact/2`"
    );
}
