//! The hypernetwork: task embedding → `lora_a`, `lora_b` of every layer and module.
//!
//! Input: task embeddings `[tasks, E]`. Output per target module: A `[tasks, layers, rank, in]` and
//! Bᵀ `[tasks, layers, rank, out]`. L, M and S are those of Text-to-LoRA (arXiv 2506.06105), section
//! 3 and appendix E, which differ in how much one call of a head produces: L both matrices, M one
//! matrix, S one rank of one matrix. [`Init`] says what the parameters start as.
//!
//! An adapter is what the heads give, times the targets' deviation plus their mean where the
//! hypernetwork learned to reconstruct z-scores, plus `AB_offset`.
//!
//! The gated one is not of that paper. For layer `l` of module `m`, A is `AB_offset.A_{l,m}`, the same
//! for all tasks, and Bᵀ is `H_m (g_{l,m} ⊙ z) + AB_offset.Bᵀ_{l,m}`, where `z` is a fixed projection of
//! the embedding (`hypernet/spread.rs`) and the gates `g` are fixed as well, ±1/√features at random;
//! heads `H` and offsets are learned. So ΔW is affine in the embedding, and half-way between two
//! tasks it is the mean of theirs: with an A for each task there would be products of the A of one
//! and the B of another, which mean nothing. Gates of different layers are nearly orthogonal, and so
//! are `z` of different tasks, which is meant to keep a step for one task from moving the others.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use candle_core::{Device, IndexOp, Tensor, Var};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use t2lc_export::checkpoint::{
    Checkpoint, DEVIATION_EPSILON, DEVIATION_PREFIX, HypernetConfig, MEAN_PREFIX, NamedTensor,
    Variant,
};
use t2lc_runtime::base::TargetModule;

pub(super) mod init;
mod spread;
mod target_adapter;

pub use init::Init;
pub use target_adapter::TargetAdapter;

/// Probability that training drops an activation of the trunk, or of the projection if gated.
const DROPOUT: f32 = 0.05;

/// Prefix of the adapter that is added to every generated one.
const OFFSET_PREFIX: &str = "AB_offset";

/// A and Bᵀ of one target module.
#[derive(Debug, Clone)]
pub struct GeneratedModule {
    /// Short module name, for example `q_proj`.
    pub name: String,
    /// `[tasks, layers, rank, in]`
    pub a: Tensor,
    /// `[tasks, layers, rank, out]`, that is `lora_b` transposed.
    pub b_transposed: Tensor,
}

/// The hypernetwork with trainable parameters.
#[derive(Debug)]
pub struct Hypernet {
    /// Sizes and the base it is for.
    pub config: HypernetConfig,
    /// Parameters by checkpoint name. The targets' mean and deviation are held but not trained, nor
    /// is `AB_offset.*` or, if gated, the task encoder and the gates instead.
    pub parameters: BTreeMap<String, Var>,
}

impl Hypernet {
    /// Fresh parameters.
    ///
    /// # Errors
    /// A configuration that is invalid, or an offset that does not fit it.
    pub fn new(
        config: HypernetConfig,
        init: Init<'_>,
        rng: &mut ChaCha8Rng,
        device: &Device,
    ) -> Result<Self> {
        config.validate()?;
        let parameter = |(name, tensor): (String, NamedTensor)| {
            let tensor = Tensor::from_vec(tensor.values, tensor.shape, device)?;
            Ok((name, Var::from_tensor(&tensor)?))
        };
        let values = init::initial_values(&config, init, rng)?;
        let parameters = values.into_iter().map(parameter).collect::<Result<_>>()?;
        Ok(Self { config, parameters })
    }

    /// Parameters of a checkpoint.
    ///
    /// # Errors
    /// Only if the device refuses the memory: a [`Checkpoint`] is complete.
    pub fn from_checkpoint(checkpoint: &Checkpoint, device: &Device) -> Result<Self> {
        let parameter = |(name, tensor): (&String, &NamedTensor)| {
            let tensor = Tensor::from_slice(&tensor.values, tensor.shape.as_slice(), device)?;
            Ok((name.clone(), Var::from_tensor(&tensor)?))
        };
        let parameters = checkpoint.tensors.iter().map(parameter).collect::<Result<_>>()?;
        Ok(Self { config: checkpoint.config.clone(), parameters })
    }

    /// The parameters as a checkpoint.
    ///
    /// # Errors
    /// Parameters that are not finite.
    pub fn to_checkpoint(&self) -> Result<Checkpoint> {
        let named = |(name, var): (&String, &Var)| {
            let values = var.flatten_all()?.to_vec1()?;
            Ok((name.clone(), NamedTensor { shape: var.dims().to_vec(), values }))
        };
        let tensors = self.parameters.iter().map(named).collect::<Result<_>>()?;
        Ok(Checkpoint::from_tensors(self.config.clone(), tensors)?)
    }

    /// Names of the parameters that training changes.
    pub fn trainable(&self) -> impl Iterator<Item = (&String, &Var)> {
        let fixed: &[&str] = match self.config.variant {
            Variant::Gated => &["task_encoder", "gates", MEAN_PREFIX, DEVIATION_PREFIX],
            _ => &[OFFSET_PREFIX, MEAN_PREFIX, DEVIATION_PREFIX],
        };
        self.parameters
            .iter()
            .filter(|(name, _)| !fixed.iter().any(|prefix| name.starts_with(prefix)))
    }

    /// Sets the task encoder of a gated hypernetwork for what the embeddings of the training
    /// descriptions of each task are like. Where there are not two tasks to tell apart it stays at
    /// random; other variants learn theirs.
    ///
    /// # Errors
    /// Embeddings of a wrong width.
    pub fn spread(&mut self, tasks: &[Vec<Vec<f32>>], rng: &mut ChaCha8Rng) -> Result<()> {
        if self.config.variant != Variant::Gated {
            return Ok(());
        }
        let width = self.config.head_in_size;
        let Some((weight, bias)) = spread::task_encoder(tasks, width, rng)? else { return Ok(()) };
        for (name, value) in [("task_encoder.weight", weight), ("task_encoder.bias", bias)] {
            let var = self.parameters.get(name);
            let var = var.with_context(|| format!("the hypernetwork has no `{name}`"))?;
            var.set(&value.to_device(var.device())?)?;
        }
        Ok(())
    }

    /// Generates the adapters of `tasks [tasks, E]`. Dropout is applied where `noise` is given.
    ///
    /// # Errors
    /// An embedding of the wrong width.
    pub fn forward(
        &self,
        tasks: &Tensor,
        noise: Option<&mut ChaCha8Rng>,
    ) -> Result<Vec<GeneratedModule>> {
        let finish = |module: GeneratedModule| -> Result<GeneratedModule> {
            let GeneratedModule { name, a, b_transposed } = module;
            let a = self.finish("A", &name, &a)?;
            let b_transposed = self.finish("B", &name, &b_transposed)?;
            Ok(GeneratedModule { name, a, b_transposed })
        };
        self.forward_heads(tasks, noise)?.into_iter().map(finish).collect()
    }

    /// What the heads give for `tasks [tasks, E]`, before deviation, mean and offset: the z-scores
    /// of the adapters, for a hypernetwork that reconstructs those.
    ///
    /// # Errors
    /// An embedding of the wrong width.
    pub fn forward_heads(
        &self,
        tasks: &Tensor,
        noise: Option<&mut ChaCha8Rng>,
    ) -> Result<Vec<GeneratedModule>> {
        Forward { net: self, noise }.run(tasks)
    }

    /// Applies deviation, mean and offset to one `matrix` (`A` or `B`) of a module,
    /// `[tasks, layers, rank, width]`.
    fn finish(&self, matrix: &str, module: &str, x: &Tensor) -> Result<Tensor> {
        let stored = |prefix: &str| -> Result<Option<Tensor>> {
            let Some(var) = self.parameters.get(&format!("{prefix}.{matrix}.{module}")) else {
                return Ok(None);
            };
            let trained = prefix == OFFSET_PREFIX && self.config.variant == Variant::Gated;
            // What is not trained needs no gradient.
            let tensor = if trained { var.as_tensor().clone() } else { var.as_detached_tensor() };
            let transposed = matrix == "B";
            Ok(Some(if transposed { tensor.transpose(1, 2)?.contiguous()? } else { tensor }))
        };
        let offset = stored(OFFSET_PREFIX)?
            .with_context(|| format!("the hypernetwork has no offset of `{module}`"))?;
        let x = match (stored(DEVIATION_PREFIX)?, stored(MEAN_PREFIX)?) {
            (Some(deviation), Some(mean)) => {
                let deviation = (deviation + f64::from(DEVIATION_EPSILON))?;
                x.broadcast_mul(&deviation)?.broadcast_add(&mean)?
            }
            _ => x.clone(),
        };
        Ok(x.broadcast_add(&offset)?)
    }
}

/// One forward pass; owns the noise source so that every dropout draws from it in turn.
struct Forward<'a> {
    net: &'a Hypernet,
    noise: Option<&'a mut ChaCha8Rng>,
}

impl Forward<'_> {
    fn run(mut self, tasks: &Tensor) -> Result<Vec<GeneratedModule>> {
        let HypernetConfig { rank, variant, .. } = self.net.config;
        if variant == Variant::Gated {
            return self.gated(tasks);
        }
        let layers = self.net.config.base.layers;
        let count = tasks.dim(0)?;
        let task = self.linear("task_encoder.mlp.0", tasks)?;
        let task = self.layer_norm("task_encoder.mlp.1", &task)?;
        let depth =
            self.layer_norm("layer_depth_encoder.1", self.get("layer_depth_encoder.0.weight")?)?;
        let types =
            self.layer_norm("layer_type_encoder.1", self.get("layer_type_encoder.0.weight")?)?;
        let modules = self.net.config.base.modules.clone();
        let mut generated = Vec::with_capacity(modules.len());
        for (index, module) in modules.iter().enumerate() {
            let per_layer = |x: Tensor| -> Result<Tensor> {
                let width = x.dim(candle_core::D::Minus1)?;
                Ok(x.broadcast_as((count, layers, width))?.contiguous()?)
            };
            let trunk = Tensor::cat(
                &[
                    per_layer(task.unsqueeze(1)?)?,
                    per_layer(depth.unsqueeze(0)?)?,
                    per_layer(types.i(index)?.reshape((1, 1, ()))?)?,
                ],
                2,
            )?;
            let trunk = self.mixer(&trunk)?;
            let trunk = self.residual("mlp1", &trunk)?;
            let (inputs, outputs) = (module.in_features, module.out_features);
            let (a, b) = if variant == Variant::L {
                let trunk = self.residual("mlp2", &trunk)?;
                let both = self.head(&module.name, &trunk)?;
                (both.narrow(2, 0, rank * inputs)?, both.narrow(2, rank * inputs, rank * outputs)?)
            } else {
                let widest = inputs.max(outputs);
                let mut matrix = |which: &str, width: usize| -> Result<Tensor> {
                    let output = self.get(&format!("out_emb.{}.{which}", module.name))?;
                    let output = self.layer_norm("out_emb_norm", output)?;
                    let trunk = self.residual("mlp2", &trunk.broadcast_add(&output)?)?;
                    let rows = if variant == Variant::M {
                        self.head(&module.name, &trunk)?
                    } else {
                        let ranks = self.layer_norm("pos_emb.1", self.get("pos_emb.0.weight")?)?;
                        let ranks = self.residual("mlp2", &ranks)?;
                        let per_rank = trunk.unsqueeze(2)?.broadcast_add(&ranks)?;
                        self.head(&module.name, &per_rank)?
                    };
                    let rows = rows.reshape((count, layers, rank, widest))?;
                    Ok(rows.narrow(3, 0, width)?)
                };
                (matrix("A", inputs)?, matrix("B", outputs)?)
            };
            generated.push(GeneratedModule {
                name: module.name.clone(),
                a: a.contiguous()?.reshape((count, layers, rank, inputs))?,
                b_transposed: b.contiguous()?.reshape((count, layers, rank, outputs))?,
            });
        }
        Ok(generated)
    }

    /// Heads of a projection of the task embedding, times the gates of each layer and module: Bᵀ. A is
    /// the offset alone, here one zero for each task.
    fn gated(mut self, tasks: &Tensor) -> Result<Vec<GeneratedModule>> {
        let (rank, layers) = (self.net.config.rank, self.net.config.base.layers);
        let count = tasks.dim(0)?;
        let projected = self.linear("task_encoder", tasks)?;
        let projected = self.drop(projected)?.unsqueeze(1)?;
        let of_module = |module: &TargetModule| -> Result<GeneratedModule> {
            let gates = self.get(&format!("gates.{}", module.name))?.unsqueeze(0)?;
            let features = projected.broadcast_mul(&gates)?;
            let b = self.linear(&format!("heads.{}", module.name), &features)?;
            let b_transposed = b.reshape((count, layers, rank, module.out_features))?;
            let a = Tensor::zeros((count, 1, 1, 1), b.dtype(), b.device())?;
            Ok(GeneratedModule { name: module.name.clone(), a, b_transposed })
        };
        self.net.config.base.modules.iter().map(of_module).collect()
    }

    fn get(&self, name: &str) -> Result<&Tensor> {
        let var = self.net.parameters.get(name);
        Ok(var.with_context(|| format!("the hypernetwork has no parameter `{name}`"))?.as_tensor())
    }

    /// `x Wᵀ + b`, with the bias where there is one.
    fn linear(&self, name: &str, x: &Tensor) -> Result<Tensor> {
        let weight = self.get(&format!("{name}.weight"))?;
        let (out, inner) = weight.dims2()?;
        let mut shape = x.dims().to_vec();
        let last =
            shape.last_mut().context("a linear map needs an input of at least one dimension")?;
        ensure!(*last == inner, "`{name}` takes {inner} values, got {last}");
        *last = out;
        let y = x.contiguous()?.reshape(((), inner))?.matmul(&weight.t()?)?.reshape(shape)?;
        match self.net.parameters.get(&format!("{name}.bias")) {
            Some(bias) => Ok(y.broadcast_add(bias)?),
            None => Ok(y),
        }
    }

    fn layer_norm(&self, name: &str, x: &Tensor) -> Result<Tensor> {
        let last = candle_core::D::Minus1;
        let centered = x.broadcast_sub(&x.mean_keepdim(last)?)?;
        let deviation = (centered.sqr()?.mean_keepdim(last)? + 1e-5)?.sqrt()?;
        let weight = self.get(&format!("{name}.weight"))?;
        let bias = self.get(&format!("{name}.bias"))?;
        Ok(centered.broadcast_div(&deviation)?.broadcast_mul(weight)?.broadcast_add(bias)?)
    }

    fn drop(&mut self, x: Tensor) -> Result<Tensor> {
        let Some(rng) = self.noise.as_deref_mut() else { return Ok(x) };
        let keep = 1.0 / (1.0 - DROPOUT);
        let mask: Vec<f32> = (0..x.elem_count())
            .map(|_| if rng.random::<f32>() < DROPOUT { 0.0 } else { keep })
            .collect();
        Ok((&x * Tensor::from_vec(mask, x.shape(), x.device())?)?)
    }

    /// Linear, SiLU, dropout, linear, SiLU: the body that all trunk blocks share.
    fn two_layers(&mut self, first: &str, second: &str, x: &Tensor) -> Result<Tensor> {
        let inner = self.linear(first, x)?.silu()?;
        let inner = self.drop(inner)?;
        Ok(self.linear(second, &inner)?.silu()?)
    }

    fn mixer(&mut self, x: &Tensor) -> Result<Tensor> {
        let x = self.drop(x.clone())?;
        let y = self.two_layers("mixer.1", "mixer.4", &x)?;
        self.drop(y)
    }

    fn residual(&mut self, name: &str, x: &Tensor) -> Result<Tensor> {
        let normed = self.layer_norm(&format!("{name}.mlp.0"), x)?;
        let y = self.two_layers(&format!("{name}.mlp.1"), &format!("{name}.mlp.4"), &normed)?;
        Ok((x + self.drop(y)?)?)
    }

    /// The last trunk block, which has no residual path, and the module's head.
    fn head(&mut self, module: &str, x: &Tensor) -> Result<Tensor> {
        let normed = self.layer_norm("mlp3.0", x)?;
        let features = self.two_layers("mlp3.1", "mlp3.4", &normed)?;
        self.linear(&format!("heads.{module}"), &features)
    }
}

/// Embeddings as one tensor `[tasks, E]`.
///
/// # Errors
/// Rows of different widths.
pub fn stack_embeddings(rows: &[&[f32]], device: &Device) -> Result<Tensor> {
    let width = rows.first().map_or(0, |row| row.len());
    ensure!(rows.iter().all(|row| row.len() == width), "embeddings of different widths");
    Ok(Tensor::from_vec(rows.concat(), (rows.len(), width), device)?)
}

#[cfg(test)]
mod tests;
