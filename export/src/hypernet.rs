//! Builds `hypernet.onnx`: the trained hypernetwork as one graph.
//!
//! In goes a [`Checkpoint`]. Out comes a graph `task_embedding` f32 `[batch, E]` → for each module
//! `m`, in type-index order, `m.lora_a` f32 `[batch, layers, rank, in]` and `m.lora_b` f32
//! `[batch, layers, out, rank]`. Inference only, no dropout. The formulas are those of
//! <https://arxiv.org/abs/2506.06105>, section 3 and appendix, as its reference code computes them.
//!
//! All layers of all modules go through the trunk together: row `m · layers + l` belongs to layer
//! `l` of module `m`. A gated hypernetwork has no trunk: its heads take the projected embedding times
//! the gates of each layer and give B, while A is a constant. What does not depend on the input is
//! computed here, in f64, and stored as constants: the depth and type encodings' part of the first
//! mixer layer, the normalized output embeddings (variants M and S) and the rank vectors (variant
//! S). An `AB_offset` that is all zero is left out, but for the A of a gated one; mean and deviation
//! of targets are applied where the checkpoint has them. The task encoder stays f32, the other linear
//! weights have the type asked for.

use crate::check::{MAX_MODEL_BYTES, check_model};
use crate::checkpoint::{Checkpoint, DEVIATION_EPSILON, DEVIATION_PREFIX, MEAN_PREFIX, Variant};
use crate::error::ExportError;
use crate::graph::{Dim, ElementType, GraphBuilder, Value, signed};
use crate::weights::{Matrix, WeightType, store_linear};

/// Epsilon of every layer normalization in the hypernetwork.
const EPSILON: f32 = 1e-5;

/// Builds the graph of a checkpoint.
///
/// # Errors
/// A checkpoint that [`Checkpoint::check`] refuses, weights that do not fit the type, sizes beyond
/// what one model may hold.
pub fn build_hypernet(
    checkpoint: &Checkpoint,
    weights: WeightType,
) -> Result<Vec<u8>, ExportError> {
    checkpoint.check()?;
    let hypernet = Hypernet { graph: GraphBuilder::new(), checkpoint, weights };
    let model = hypernet.build()?;
    check_model(&model)?;
    Ok(model)
}

struct Hypernet<'a> {
    graph: GraphBuilder,
    checkpoint: &'a Checkpoint,
    weights: WeightType,
}

impl<'a> Hypernet<'a> {
    fn build(mut self) -> Result<Vec<u8>, ExportError> {
        let size = self.checkpoint.config.task_embedding_size;
        let shape = [Dim::Symbol("batch"), Dim::Fixed(size)];
        let task = self.graph.input("task_embedding", ElementType::F32, &shape)?;
        let outputs = match self.checkpoint.config.variant {
            Variant::Gated => self.gated_heads(task)?,
            Variant::L => self.joint_heads(task)?,
            Variant::M | Variant::S => self.shared_heads(task)?,
        };
        self.graph.finish("hypernet", &outputs)
    }

    /// Task encoder, mixer and first block: `[batch, rows, W]`.
    fn trunk(&mut self, task: Value) -> Result<Value, ExportError> {
        let task = self.linear(task, "task_encoder.mlp.0", WeightType::F32)?;
        let task = self.norm(task, "task_encoder.mlp.1")?;

        let MixerInput { task_weight, constant, rows } = self.mixer_input()?;
        let (width, wide) = (self.width(), 4 * self.width());
        let matrix = Matrix {
            name: "mixer.1.weight.task",
            values: &task_weight,
            rows: wide,
            columns: width / 2,
        };
        let weight = store_linear(&mut self.graph, matrix, self.weights)?;
        let part = self.graph.matmul(task, weight)?;
        let part = self.graph.unsqueeze(part, 1)?;
        let constant =
            self.graph.initializer_f32("mixer.1.constant", &[1, rows, wide], &constant)?;
        let x = self.graph.add(part, constant)?;
        let x = self.graph.silu(x)?;
        let x = self.linear(x, "mixer.4", self.weights)?;
        let x = self.graph.silu(x)?;
        self.residual(x, "mlp1.mlp")
    }

    /// Gated: what enters a head is the projected embedding, times the gates of a layer. It gives the
    /// transpose of B row-major; A is the same for every task.
    fn gated_heads(&mut self, task: Value) -> Result<Vec<(String, Value)>, ExportError> {
        let config = &self.checkpoint.config;
        let projected = self.linear(task, "task_encoder", WeightType::F32)?;
        let projected = self.graph.unsqueeze(projected, 1)?;
        let zero = self.graph.scalar(0.0)?;
        let zeros = self.graph.mul(projected, zero)?;
        let zeros = self.graph.slice(zeros, 2, 0, 1)?;
        // [batch, 1, 1, 1]
        let zeros = self.graph.unsqueeze(zeros, 3)?;
        let mut outputs = Vec::new();
        for module in &config.base.modules {
            let name = format!("gates.{}", module.name);
            let shape = [1, config.base.layers, config.head_in_size];
            let gates = self.graph.initializer_f32(&name, &shape, self.values(&name)?)?;
            let rows = self.graph.mul(projected, gates)?;
            let b = self.product(rows, &format!("heads.{}", module.name), self.weights)?;
            let b = self.matrices(b, module.out_features)?;
            self.emit(&mut outputs, &module.name, zeros, b)?;
        }
        Ok(outputs)
    }

    /// Variant L: one head call gives A row-major, then the transpose of B row-major.
    fn joint_heads(&mut self, task: Value) -> Result<Vec<(String, Value)>, ExportError> {
        let config = &self.checkpoint.config;
        let layers = config.base.layers;
        let trunk = self.trunk(task)?;
        let x = self.residual(trunk, "mlp2.mlp")?;
        let x = self.head_input(x)?;
        let mut outputs = Vec::new();
        for (index, module) in config.base.modules.iter().enumerate() {
            let rows = self.graph.slice(x, 1, index * layers, (index + 1) * layers)?;
            let y = self.linear(rows, &format!("heads.{}", module.name), self.weights)?;
            let middle = config.rank * module.in_features;
            let a = self.graph.slice(y, 2, 0, middle)?;
            let a = self.matrices(a, module.in_features)?;
            let end = middle + config.rank * module.out_features;
            let b = self.graph.slice(y, 2, middle, end)?;
            let b = self.matrices(b, module.out_features)?;
            self.emit(&mut outputs, &module.name, a, b)?;
        }
        Ok(outputs)
    }

    /// Variants M and S: the head is applied to an A row and a B row of each layer (and rank), and
    /// each row is cut to the size of its matrix.
    fn shared_heads(&mut self, task: Value) -> Result<Vec<(String, Value)>, ExportError> {
        let config = &self.checkpoint.config;
        let (layers, rank) = (config.base.layers, config.rank);
        let rows = layers * config.base.modules.len();
        let trunk = self.trunk(task)?;
        // [batch, 2 (A, B), rows, W]
        let x = self.graph.unsqueeze(trunk, 1)?;
        let embeddings = self.output_embeddings()?;
        let shape = [1, 2, rows, self.width()];
        let embeddings = self.graph.initializer_f32("out_emb.constant", &shape, &embeddings)?;
        let x = self.graph.add(x, embeddings)?;
        let mut x = self.residual(x, "mlp2.mlp")?;
        let mut rows_per_layer = 1;
        if config.variant == Variant::S {
            let ranks = self.rank_vectors()?;
            let shape = [1, 1, 1, rank, self.width()];
            let ranks = self.graph.initializer_f32("pos_emb.constant", &shape, &ranks)?;
            x = self.graph.unsqueeze(x, 3)?;
            x = self.graph.add(x, ranks)?;
            x = self.graph.reshape(
                x,
                &[0, 2, signed("Reshape", rows * rank)?, signed("Reshape", self.width())?],
            )?;
            rows_per_layer = rank;
        }
        let x = self.head_input(x)?;
        let mut outputs = Vec::new();
        for (index, module) in config.base.modules.iter().enumerate() {
            let step = layers * rows_per_layer;
            let rows = self.graph.slice(x, 2, index * step, (index + 1) * step)?;
            let y = self.linear(rows, &format!("heads.{}", module.name), self.weights)?;
            let longest = module.in_features.max(module.out_features);
            let a = self.graph.slice(y, 1, 0, 1)?;
            let a = self.matrices(a, longest)?;
            let a = self.graph.slice(a, 3, 0, module.in_features)?;
            let b = self.graph.slice(y, 1, 1, 2)?;
            let b = self.matrices(b, longest)?;
            let b = self.graph.slice(b, 3, 0, module.out_features)?;
            self.emit(&mut outputs, &module.name, a, b)?;
        }
        Ok(outputs)
    }

    /// Head outputs of any grouping to `[batch, layers, rank, columns]`.
    fn matrices(&mut self, x: Value, columns: usize) -> Result<Value, ExportError> {
        let config = &self.checkpoint.config;
        let (layers, rank) =
            (signed("Reshape", config.base.layers)?, signed("Reshape", config.rank)?);
        self.graph.reshape(x, &[0, layers, rank, signed("Reshape", columns)?])
    }

    /// Transposes B, applies the targets' statistics and the offsets, and lists both as outputs of
    /// `module`.
    fn emit(
        &mut self,
        outputs: &mut Vec<(String, Value)>,
        module: &str,
        a: Value,
        b: Value,
    ) -> Result<(), ExportError> {
        let a = self.statistics(a, &format!("A.{module}"))?;
        let a = self.offset(a, &format!("AB_offset.A.{module}"))?;
        let b = self.graph.transpose(b, &[0, 1, 3, 2])?;
        let b = self.statistics(b, &format!("B.{module}"))?;
        let b = self.offset(b, &format!("AB_offset.B.{module}"))?;
        outputs.push((format!("{module}.lora_a"), a));
        outputs.push((format!("{module}.lora_b"), b));
        Ok(())
    }

    /// z-scores to matrices: `x · (deviation + ε) + mean`, where the checkpoint has them.
    fn statistics(&mut self, x: Value, matrix: &str) -> Result<Value, ExportError> {
        let name = format!("{DEVIATION_PREFIX}.{matrix}");
        let Some(deviation) = self.checkpoint.tensors.get(&name) else { return Ok(x) };
        let mut shape = vec![1];
        shape.extend(&deviation.shape);
        let factors: Vec<f32> =
            deviation.values.iter().map(|value| value + DEVIATION_EPSILON).collect();
        let factors = self.graph.initializer_f32(&format!("{name}.constant"), &shape, &factors)?;
        let x = self.graph.mul(x, factors)?;
        let name = format!("{MEAN_PREFIX}.{matrix}");
        let mean = self.checkpoint.tensor(&name)?;
        let mean = self.graph.initializer_f32(&name, &shape, &mean.values)?;
        self.graph.add(x, mean)
    }

    fn offset(&mut self, x: Value, name: &str) -> Result<Value, ExportError> {
        let tensor = self.checkpoint.tensor(name)?;
        let whole = self.checkpoint.config.variant == Variant::Gated && name.contains(".A.");
        if !whole && tensor.values.iter().all(|value| *value == 0.0) {
            return Ok(x);
        }
        let mut shape = vec![1];
        shape.extend(&tensor.shape);
        let offset = self.graph.initializer_f32(name, &shape, &tensor.values)?;
        self.graph.add(x, offset)
    }

    /// `x + SiLU(Lin(SiLU(Lin(LN(x)))))`.
    fn residual(&mut self, x: Value, prefix: &str) -> Result<Value, ExportError> {
        let branch = self.perceptron(x, prefix)?;
        self.graph.add(x, branch)
    }

    /// The vector that enters the heads: as the branch of a residual block, without the sum.
    fn head_input(&mut self, x: Value) -> Result<Value, ExportError> {
        self.perceptron(x, "mlp3")
    }

    fn perceptron(&mut self, x: Value, prefix: &str) -> Result<Value, ExportError> {
        let x = self.norm(x, &format!("{prefix}.0"))?;
        let x = self.linear(x, &format!("{prefix}.1"), self.weights)?;
        let x = self.graph.silu(x)?;
        let x = self.linear(x, &format!("{prefix}.4"), self.weights)?;
        self.graph.silu(x)
    }

    fn linear(
        &mut self,
        x: Value,
        prefix: &str,
        weights: WeightType,
    ) -> Result<Value, ExportError> {
        let product = self.product(x, prefix, weights)?;
        let bias = self.vector(&format!("{prefix}.bias"))?;
        self.graph.add(product, bias)
    }

    /// A linear map without its bias.
    fn product(
        &mut self,
        x: Value,
        prefix: &str,
        weights: WeightType,
    ) -> Result<Value, ExportError> {
        let name = format!("{prefix}.weight");
        let values = self.values(&name)?;
        let rows = self.checkpoint.tensor(&name)?.shape.first().copied().unwrap_or(1);
        let columns = values.len() / rows;
        let matrix = Matrix { name: &name, values, rows, columns };
        let weight = store_linear(&mut self.graph, matrix, weights)?;
        self.graph.matmul(x, weight)
    }

    fn norm(&mut self, x: Value, prefix: &str) -> Result<Value, ExportError> {
        let scale = self.vector(&format!("{prefix}.weight"))?;
        let bias = self.vector(&format!("{prefix}.bias"))?;
        self.graph.layer_norm(x, scale, bias, EPSILON)
    }

    fn vector(&mut self, name: &str) -> Result<Value, ExportError> {
        let values = self.values(name)?;
        self.graph.initializer_f32(name, &[values.len()], values)
    }

    /// Splits the first mixer layer by its input `[task, depth, type]`: the columns that the task
    /// meets, and for each row the rest of the product plus the bias.
    fn mixer_input(&self) -> Result<MixerInput, ExportError> {
        let width = self.width();
        let depths =
            self.normalized_rows("layer_depth_encoder.0.weight", "layer_depth_encoder.1")?;
        let types = self.normalized_rows("layer_type_encoder.0.weight", "layer_type_encoder.1")?;
        let weight = self.values("mixer.1.weight")?;
        let bias = self.values("mixer.1.bias")?;
        let rows = types.len() * depths.len();
        let bytes = rows.saturating_mul(bias.len()).saturating_mul(4);
        if bytes > MAX_MODEL_BYTES {
            return Err(ExportError::TooLarge { bytes, limit: MAX_MODEL_BYTES });
        }
        let mut task_weight = Vec::with_capacity(weight.len() / 2);
        for row in weight.chunks_exact(width) {
            task_weight.extend_from_slice(&row[..width / 2]);
        }
        let mut constant = Vec::with_capacity(rows * bias.len());
        for type_vector in &types {
            for depth_vector in &depths {
                let known = [depth_vector.as_slice(), type_vector.as_slice()].concat();
                let columns = weight.chunks_exact(width).map(|row| &row[width / 2..]);
                constant.extend(narrow(&affine(columns, bias, &known)));
            }
        }
        Ok(MixerInput { task_weight, constant, rows })
    }

    /// Normalized output embeddings, repeated for each layer: `[2, rows, W]`, A before B.
    fn output_embeddings(&self) -> Result<Vec<f32>, ExportError> {
        let base = &self.checkpoint.config.base;
        let mut result = Vec::new();
        for matrix in ["A", "B"] {
            for module in &base.modules {
                let name = format!("out_emb.{}.{matrix}", module.name);
                for row in self.normalized_rows(&name, "out_emb_norm")? {
                    result.extend(narrow(&row).repeat(base.layers));
                }
            }
        }
        Ok(result)
    }

    /// What variant S adds for each rank, the second block of its normalized embedding: `[rank, W]`.
    fn rank_vectors(&self) -> Result<Vec<f32>, ExportError> {
        let width = self.width();
        let scale = self.values("mlp2.mlp.0.weight")?;
        let shift = self.values("mlp2.mlp.0.bias")?;
        let (up, up_bias) = (self.values("mlp2.mlp.1.weight")?, self.values("mlp2.mlp.1.bias")?);
        let (down, down_bias) =
            (self.values("mlp2.mlp.4.weight")?, self.values("mlp2.mlp.4.bias")?);
        let mut result = Vec::new();
        for row in self.normalized_rows("pos_emb.0.weight", "pos_emb.1")? {
            let hidden = normalized(&row, scale, shift);
            let hidden = silu(&affine(up.chunks_exact(width), up_bias, &hidden));
            let hidden = silu(&affine(down.chunks_exact(4 * width), down_bias, &hidden));
            let sum: Vec<f64> = row.iter().zip(&hidden).map(|(x, branch)| x + branch).collect();
            result.extend(narrow(&sum));
        }
        Ok(result)
    }

    /// Rows of the tensor `name`, each normalized with the affine parameters of `norm`.
    fn normalized_rows(&self, name: &str, norm: &str) -> Result<Vec<Vec<f64>>, ExportError> {
        let scale = self.values(&format!("{norm}.weight"))?;
        let shift = self.values(&format!("{norm}.bias"))?;
        let rows = self.values(name)?.chunks_exact(scale.len());
        Ok(rows
            .map(|row| {
                let row: Vec<f64> = row.iter().copied().map(f64::from).collect();
                normalized(&row, scale, shift)
            })
            .collect())
    }

    fn values(&self, name: &str) -> Result<&'a [f32], ExportError> {
        let checkpoint: &'a Checkpoint = self.checkpoint;
        Ok(&checkpoint.tensor(name)?.values)
    }

    fn width(&self) -> usize {
        self.checkpoint.config.latent_size
    }
}

struct MixerInput {
    /// `[4W, W/2]`.
    task_weight: Vec<f32>,
    /// `[rows, 4W]`.
    constant: Vec<f32>,
    rows: usize,
}

pub(crate) fn normalized(x: &[f64], scale: &[f32], shift: &[f32]) -> Vec<f64> {
    let count = x.len() as f64;
    let mean = x.iter().sum::<f64>() / count;
    let variance = x.iter().map(|value| (value - mean) * (value - mean)).sum::<f64>() / count;
    let deviation = (variance + f64::from(EPSILON)).sqrt();
    let parameters = scale.iter().zip(shift);
    x.iter()
        .zip(parameters)
        .map(|(value, (scale, shift))| {
            (value - mean) / deviation * f64::from(*scale) + f64::from(*shift)
        })
        .collect()
}

fn affine<'a>(rows: impl Iterator<Item = &'a [f32]>, bias: &[f32], x: &[f64]) -> Vec<f64> {
    rows.zip(bias)
        .map(|(row, bias)| {
            let product = row.iter().zip(x).map(|(w, value)| f64::from(*w) * value).sum::<f64>();
            product + f64::from(*bias)
        })
        .collect()
}

fn silu(x: &[f64]) -> Vec<f64> {
    x.iter().map(|value| value / (1.0 + (-value).exp())).collect()
}

#[allow(clippy::cast_possible_truncation, reason = "rounding to f32 is what this is for")]
pub(crate) fn narrow(x: &[f64]) -> Vec<f32> {
    x.iter().map(|value| *value as f32).collect()
}

#[cfg(test)]
mod tests;
