//! The golden networks and what goes into an import of one.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::io::Cursor;
use std::path::PathBuf;

use safetensors::SafeTensors;
use serde_json::{Value, json};
use t2lc_runtime::backend::exact::Exact;
use t2lc_runtime::backend::{Backend, Tensor};
use t2lc_runtime::base::BaseModel;

use super::writer::{Place, StateDict};
use crate::base::from_config;
use crate::checkpoint::tests::tiny_config;
use crate::checkpoint::{NamedTensor, Variant};
use crate::hypernet::build_hypernet;
use crate::import::{Arguments, Companions, ImportError, Imported, ModuleOrder, import};
use crate::weights::WeightType;

pub(crate) const VARIANTS: [Variant; 3] = [Variant::L, Variant::M, Variant::S];

pub(super) fn fixture(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fixtures/golden").join(path)
}

/// A golden file: weights, a task embedding, and the adapter that belongs to it.
pub(super) struct Golden {
    pub(super) tensors: BTreeMap<String, NamedTensor>,
    pub(super) embedding: Vec<f32>,
    /// By name, for example `q_proj.A`.
    pub(super) outputs: BTreeMap<String, NamedTensor>,
}

impl Golden {
    pub(super) fn read(variant: Variant) -> Self {
        let bytes = fs::read(fixture(&format!("hypernet/t2l_{variant}.safetensors"))).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let mut tensors: BTreeMap<String, NamedTensor> = file
            .iter()
            .map(|(name, view)| {
                let (words, _) = view.data().as_chunks::<4>();
                let values = words.iter().map(|word| f32::from_le_bytes(*word)).collect();
                (name.to_owned(), NamedTensor { shape: view.shape().to_vec(), values })
            })
            .collect();
        let embedding = tensors.remove("in.task_emb").unwrap().values;
        let outputs = tensors.extract_if(.., |name, _| name.starts_with("out."));
        let outputs = outputs.map(|(name, tensor)| (name["out.".len()..].to_owned(), tensor));
        let outputs = outputs.collect();
        Self { tensors, embedding, outputs }
    }
}

fn toy_base() -> BaseModel {
    let config = json!({
        "model_type": "llama", "hidden_size": 16, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 24, "num_hidden_layers": 3,
    });
    from_config(&config, "toy").unwrap()
}

/// All that goes into an import.
#[derive(Clone)]
pub(crate) struct Case {
    pub(super) state: StateDict,
    pub(crate) arguments: Arguments,
    pub(super) adapter: Value,
    pub(super) order: ModuleOrder,
}

impl Case {
    /// The golden network in the order of the reference, with the zeros that it keeps.
    pub(crate) fn new(variant: Variant) -> Self {
        let golden = Golden::read(variant).tensors;
        let config = tiny_config(variant);
        let mut state = StateDict::default();
        let (offsets, trained): (Vec<_>, Vec<_>) = config
            .expected_tensors()
            .into_iter()
            .partition(|(name, _)| name.starts_with("AB_offset."));
        for (name, shape) in offsets.into_iter().chain(config.statistic_tensors()).chain(trained) {
            let zeros = vec![0.0; shape.iter().product()];
            let values =
                golden.get(&name).map_or(zeros.as_slice(), |tensor| tensor.values.as_slice());
            state.add(&name, &shape, values);
        }
        let arguments = Arguments {
            model_dir: Some("models/toy/".into()),
            training_task: Some("sft".into()),
            shared_ab_head: Some(variant != Variant::L),
            autoreg_gen: Some(variant == Variant::S),
            learnable_pos_emb: Some(variant == Variant::S),
            hypernet_latent_size: Some(8),
            head_in_size: Some(5),
            ..Arguments::default()
        };
        let adapter = json!({
            "peft_type": "LORA", "r": 2, "lora_alpha": 4, "use_rslora": true, "bias": "none",
            "target_modules": ["q_proj", "v_proj"], "alpha_pattern": {}, "modules_to_save": null,
        });
        Self { state, arguments, adapter, order: ModuleOrder::Recovered }
    }

    pub(crate) fn import(&self) -> Result<Imported, ImportError> {
        self.import_archive(self.state.archive())
    }

    pub(super) fn import_archive(&self, archive: Vec<u8>) -> Result<Imported, ImportError> {
        let companions = Companions {
            arguments: &self.arguments,
            adapter: &self.adapter,
            base: &toy_base(),
            order: &self.order,
        };
        import(Cursor::new(archive), &companions)
    }

    /// The whole error, its causes behind colons.
    pub(super) fn refusal(&self) -> String {
        message(&self.import().unwrap_err())
    }

    /// Gives all values of the tensors with this prefix one value.
    pub(crate) fn fill(&mut self, prefix: &str, value: f32) {
        for (_, place) in self.state.tensors.iter().filter(|(name, _)| name.starts_with(prefix)) {
            let storage = &mut self.state.storages[place.storage];
            storage.bytes = value.to_le_bytes().repeat(storage.elements);
        }
    }

    /// Puts the tensors of `v_proj` with this prefix before those of `q_proj`.
    pub(crate) fn swap_modules(&mut self, prefix: &str) {
        let start = self.state.tensors.iter().position(|(name, _)| name.starts_with(prefix));
        // Variant L has no `out_emb`.
        let Some(start) = start else { return };
        let parts: Vec<_> =
            self.state.tensors.extract_if(.., |(name, _)| name.starts_with(prefix)).collect();
        let (v, q): (Vec<_>, Vec<_>) =
            parts.into_iter().partition(|(name, _)| name.contains("v_proj"));
        drop(self.state.tensors.splice(start..start, v.into_iter().chain(q)));
    }

    /// Stores a tensor in another way.
    pub(super) fn store(
        &mut self,
        name: &str,
        class: &'static str,
        bytes: Vec<u8>,
        strides: &[usize],
    ) {
        let shape = self.state.place(name).shape.clone();
        let storage = self.state.storage(class, bytes, shape.iter().product());
        *self.state.place(name) = Place { storage, offset: 0, shape, strides: strides.to_vec() };
    }
}

pub(super) fn message(error: &ImportError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// What the network generates for the golden embedding, as far off the golden adapter as it is.
pub(super) fn error_of(imported: &Imported, golden: &Golden) -> f32 {
    let onnx = build_hypernet(&imported.checkpoint, WeightType::F32).unwrap();
    let graph = Exact::new(1).load("hypernet", &onnx).unwrap();
    let values = golden.embedding.clone();
    let input = Tensor::F32 { shape: vec![1, values.len()], values };
    let mut largest = 0.0_f32;
    for (name, want) in &golden.outputs {
        let (module, matrix) = name.rsplit_once('.').unwrap();
        let output = format!("{module}.lora_{}", matrix.to_lowercase());
        let outputs = graph.run(&[("task_embedding", input.clone())], &[output.as_str()]).unwrap();
        let [Tensor::F32 { shape, values }] = outputs.as_slice() else { panic!("{name}") };
        assert_eq!(shape[1..], want.shape);
        let differences = values.iter().zip(&want.values).map(|(got, want)| (got - want).abs());
        largest = differences.fold(largest, f32::max);
    }
    largest
}
