//! Bundle → checkpoint: the hypernetwork's weights out of its graph, so that training can go on; and
//! those of the text encoder's layers, for a bundle whose encoder was trained as well.
//!
//! In: a [`Bundle`] whose graph `hypernet` built. Out: a [`Checkpoint`] that generates what the
//! bundle does, up to rounding; weights that the bundle holds in f16 or int8 come out as these say.
//! Variants gated and L only: M and S keep just the normalized form of their output embeddings.
//!
//! Of the depth and type encodings of L the graph has only what the first mixer layer makes of them:
//! for module `m` and layer `l` one vector, a sum of a part for `m`, a part for `l` and the bias.
//! Where that sum came from does not matter to what the network computes, so encodings are set anew,
//! as the rows of a cosine transform, which are orthogonal, and the mixer's weights follow from them
//! by projection.

use std::collections::BTreeMap;

use bytes::Bytes;
use half::f16;
use prost::Message;
use t2lc_runtime::base::BaseModel;
use t2lc_runtime::bundle::{Bundle, ENCODER, HYPERNET};
use t2lc_runtime::manifest::{HypernetInfo, Manifest};
use t2lc_runtime::onnx::{ModelProto, TensorProto, data_type, refuse_swollen};

use crate::checkpoint::{
    Checkpoint, DEVIATION_EPSILON, DEVIATION_PREFIX, HypernetConfig, MEAN_PREFIX, NamedTensor,
    SCHEMA, Variant,
};
use crate::error::ExportError;
use crate::hypernet::{narrow, normalized};

/// The hypernetwork of a bundle as a checkpoint. Its alpha is the bundle's scale times the rank.
///
/// # Errors
/// A variant other than gated and L, more layers or modules than encodings of the trunk's width can
/// tell apart, a graph that [`crate::hypernet::build_hypernet`] did not build.
pub fn thaw(bundle: &Bundle) -> Result<Checkpoint, ExportError> {
    let Manifest { base, encoder, hypernet, .. } = &bundle.manifest;
    from_graph(bundle.file(HYPERNET)?.clone(), base, hypernet, encoder.embedding_size)
}

/// Tensors of the bundle's text encoder, of the names and shapes asked for: linear weights
/// `[out, in]` and vectors.
///
/// # Errors
/// An encoder that was not built here from tensors of these names, or has other shapes.
pub fn thaw_encoder(
    bundle: &Bundle,
    shapes: &BTreeMap<String, Vec<usize>>,
) -> Result<BTreeMap<String, NamedTensor>, ExportError> {
    let graph = Graph::decode(bundle.file(ENCODER)?.clone())?;
    let tensor = |(name, shape): (&String, &Vec<usize>)| {
        let values = match shape.as_slice() {
            [out, inner] => graph.linear(name, *inner, *out)?,
            shape => graph.floats(name, shape)?,
        };
        Ok((name.clone(), NamedTensor { shape: shape.clone(), values }))
    };
    shapes.iter().map(tensor).collect()
}

fn from_graph(
    graph: Bytes,
    base: &BaseModel,
    hypernet: &HypernetInfo,
    task_embedding_size: usize,
) -> Result<Checkpoint, ExportError> {
    let graph = Graph::decode(graph)?;
    let config = graph.config(base, hypernet, task_embedding_size)?;
    config.validate()?;
    let mut tensors = match config.variant {
        Variant::Gated => BTreeMap::new(),
        _ => graph.first_mixer_layer(&config)?,
    };
    for (name, shape) in config.expected_tensors() {
        if tensors.contains_key(&name) {
            continue;
        }
        let values = match shape.as_slice() {
            // Left out where it is all zero.
            _ if name.starts_with("AB_offset.") && !graph.0.contains_key(&name) => {
                vec![0.0; shape.iter().product()]
            }
            _ if name.starts_with("gates.") => graph.floats(&name, &shape)?,
            [out, inner] => graph.linear(&name, *inner, *out)?,
            _ => graph.floats(&name, &shape)?,
        };
        tensors.insert(name, NamedTensor { shape, values });
    }
    for (name, shape) in config.statistic_tensors() {
        let (stored, shift) = if name.starts_with(MEAN_PREFIX) {
            (name.clone(), 0.0)
        } else {
            (format!("{name}.constant"), DEVIATION_EPSILON)
        };
        if graph.0.keys().any(|key| key.starts_with(DEVIATION_PREFIX)) {
            let values = graph.floats(&stored, &shape)?.iter().map(|x| x - shift).collect();
            tensors.insert(name, NamedTensor { shape, values });
        }
    }
    Ok(Checkpoint::from_tensors(config, tensors)?)
}

/// The constants of a graph, by name.
struct Graph(BTreeMap<String, TensorProto>);

impl Graph {
    fn decode(bytes: Bytes) -> Result<Self, ExportError> {
        refuse_swollen(&bytes)?;
        let model = ModelProto::decode(bytes)?;
        let stored = model.graph.map(|graph| graph.initializer).unwrap_or_default();
        Ok(Self(stored.into_iter().map(|tensor| (tensor.name.clone(), tensor)).collect()))
    }

    /// The sizes, from the manifest and from the lengths of biases.
    fn config(
        &self,
        base: &BaseModel,
        hypernet: &HypernetInfo,
        task_embedding_size: usize,
    ) -> Result<HypernetConfig, ExportError> {
        let unsupported = |field, expected: String, got: String| {
            Err(ExportError::UnsupportedConfig { field, expected, got })
        };
        let HypernetInfo { variant, rank, scale, .. } = hypernet;
        let (variant, latent_size, head_in_size) = match variant.parse() {
            Ok(Variant::Gated) => {
                let features = self.length("task_encoder.bias")?;
                (Variant::Gated, features, features)
            }
            Ok(Variant::L) => {
                (Variant::L, self.length("mixer.4.bias")?, self.length("mlp3.4.bias")?)
            }
            _ => return unsupported("hypernet.variant", "gated or L".into(), variant.clone()),
        };
        let rows = base.layers.max(base.modules.len());
        if variant == Variant::L && rows >= latent_size / 4 {
            let most = (latent_size / 4).saturating_sub(1);
            let expected = format!("at most {most} at a trunk of width {latent_size}");
            return unsupported("base.layers", expected, rows.to_string());
        }
        Ok(HypernetConfig {
            schema: SCHEMA,
            variant,
            rank: *rank,
            alpha: scale * *rank as f32,
            use_rslora: false,
            latent_size,
            head_in_size,
            task_embedding_size,
            base: base.clone(),
        })
    }

    /// Encodings of depth and type, their norms, and the mixer layer that reads them.
    fn first_mixer_layer(
        &self,
        config: &HypernetConfig,
    ) -> Result<BTreeMap<String, NamedTensor>, ExportError> {
        let (layers, modules) = (config.base.layers, config.base.modules.len());
        let (width, quarter) = (config.latent_size, config.latent_size / 4);
        let wide = 4 * width;
        let sums = self.floats("mixer.1.constant", &[layers * modules, wide])?;
        let sums: Vec<Vec<f64>> = sums
            .chunks_exact(wide)
            .map(|row| row.iter().copied().map(f64::from).collect())
            .collect();
        let bias = mean(sums.iter(), wide);
        let by_layer = (0..layers).map(|layer| mean(sums.iter().skip(layer).step_by(layers), wide));
        let by_module = sums.chunks_exact(layers).map(|rows| mean(rows.iter(), wide));
        let (depths, depth_weight) = encode(by_layer, &bias, quarter);
        let (types, type_weight) = encode(by_module, &bias, quarter);

        let task = self.linear("mixer.1.weight.task", width / 2, wide)?;
        let mut weight = Vec::with_capacity(wide * width);
        for (out, task) in task.chunks_exact(width / 2).enumerate() {
            weight.extend_from_slice(task);
            for part in [&depth_weight, &type_weight] {
                weight.extend(narrow(&part[out * quarter..(out + 1) * quarter]));
            }
        }
        let mut tensors = BTreeMap::new();
        let mut add = |name: &str, shape: &[usize], values: Vec<f32>| {
            tensors.insert(name.to_owned(), NamedTensor { shape: shape.to_vec(), values });
        };
        add("mixer.1.weight", &[wide, width], weight);
        add("mixer.1.bias", &[wide], narrow(&bias));
        for (name, rows, values) in [("depth", layers, depths), ("type", modules, types)] {
            add(&format!("layer_{name}_encoder.0.weight"), &[rows, quarter], narrow(&values));
            add(&format!("layer_{name}_encoder.1.weight"), &[quarter], vec![1.0; quarter]);
            add(&format!("layer_{name}_encoder.1.bias"), &[quarter], vec![0.0; quarter]);
        }
        Ok(tensors)
    }

    /// A linear weight, stored `[in, out]` in any weight type, as `[out, in]`.
    fn linear(&self, name: &str, inner: usize, out: usize) -> Result<Vec<f32>, ExportError> {
        let tensor = self.tensor(name)?;
        let (elements, values): (usize, Vec<f32>) = match tensor.data_type {
            data_type::INT8 => {
                let scales = self.tensor(&format!("{name}.scale"))?;
                let scales = f32_elements(scales);
                // One scale per group of inputs and output.
                let group = (inner * out).checked_div(scales.len()).unwrap_or(0).max(1);
                let scale = |index: usize| scales.get(index / out / group * out + index % out);
                let bytes = tensor.raw_data.iter().enumerate();
                let values = bytes.map(|(index, byte)| {
                    f32::from(byte.cast_signed()) * scale(index).copied().unwrap_or(f32::NAN)
                });
                (tensor.raw_data.len(), values.collect())
            }
            data_type::FLOAT16 => {
                let (halves, _) = tensor.raw_data.as_chunks::<2>();
                let values = halves.iter().map(|half| f16::from_le_bytes(*half).to_f32());
                (tensor.raw_data.len() / 2, values.collect())
            }
            data_type::FLOAT => (tensor.raw_data.len() / 4, f32_elements(tensor)),
            other => return Err(wrong_type(name, "f32, f16 or int8", other)),
        };
        check_length(name, inner * out, elements)?;
        let row = |row: usize| values.iter().skip(row).step_by(out).copied();
        Ok((0..out).flat_map(row).collect())
    }

    /// A tensor that is always f32, as it is stored.
    fn floats(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, ExportError> {
        let tensor = self.tensor(name)?;
        if tensor.data_type != data_type::FLOAT {
            return Err(wrong_type(name, "f32", tensor.data_type));
        }
        let values = f32_elements(tensor);
        check_length(name, shape.iter().product(), values.len())?;
        Ok(values)
    }

    fn length(&self, name: &str) -> Result<usize, ExportError> {
        Ok(self.tensor(name)?.raw_data.len() / 4)
    }

    fn tensor(&self, name: &str) -> Result<&TensorProto, ExportError> {
        self.0.get(name).ok_or_else(|| ExportError::TensorMissing { name: name.to_owned() })
    }
}

/// Orthogonal encodings `[rows, width]`, and the weight `[out, width]` that a layer must have to map
/// the normalized encoding of each row to that row of `targets` minus `bias`.
fn encode(
    targets: impl Iterator<Item = Vec<f64>>,
    bias: &[f64],
    width: usize,
) -> (Vec<f64>, Vec<f64>) {
    let (mut encodings, mut weight) = (Vec::new(), vec![0.0; bias.len() * width]);
    for (row, target) in targets.enumerate() {
        let angle = std::f64::consts::PI * (row + 1) as f64 / width as f64;
        let encoding: Vec<f64> =
            (0..width).map(|place| (angle * (place as f64 + 0.5)).cos()).collect();
        let seen = normalized(&encoding, &vec![1.0; width], &vec![0.0; width]);
        let square: f64 = seen.iter().map(|x| x * x).sum();
        for (out, (target, bias)) in target.iter().zip(bias).enumerate() {
            for (place, seen) in seen.iter().enumerate() {
                weight[out * width + place] += (target - bias) * seen / square;
            }
        }
        encodings.extend(encoding);
    }
    (encodings, weight)
}

/// Mean of rows of `width` values.
fn mean<'a>(rows: impl Iterator<Item = &'a Vec<f64>>, width: usize) -> Vec<f64> {
    let (mut sum, mut count) = (vec![0.0; width], 0.0);
    for row in rows {
        sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
        count += 1.0;
    }
    sum.iter().map(|sum| sum / count).collect()
}

fn f32_elements(tensor: &TensorProto) -> Vec<f32> {
    let (words, _) = tensor.raw_data.as_chunks::<4>();
    words.iter().map(|word| f32::from_le_bytes(*word)).collect()
}

fn check_length(name: &str, expected: usize, got: usize) -> Result<(), ExportError> {
    if expected == got {
        return Ok(());
    }
    Err(ExportError::TensorLength { name: name.to_owned(), expected, got })
}

fn wrong_type(name: &str, expected: &'static str, got: i32) -> ExportError {
    ExportError::TensorType { name: name.to_owned(), expected, got: got.to_string() }
}

#[cfg(test)]
mod tests;
