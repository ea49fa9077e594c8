//! The Text-to-LoRA hypernetwork: task embedding → `lora_a`, `lora_b` of every layer and module.
//!
//! Input: task embeddings `[tasks, E]`. Output per target module: A `[tasks, layers, rank, in]` and
//! Bᵀ `[tasks, layers, rank, out]`. Text-to-LoRA (arXiv 2506.06105), section 3 and appendix E; the
//! three variants differ in how much one call of a head produces: L both matrices, M one matrix,
//! S one rank of one matrix. Parameters start as Bias-HyperInit: head weights zero, head biases
//! from a fresh LoRA, so that training starts from the base model (L) or next to it (M, S).

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use candle_core::{Device, IndexOp, Tensor, Var};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use t2lc_export::checkpoint::{Checkpoint, HypernetConfig, NamedTensor, Variant};

/// Probability that training drops a trunk activation.
const DROPOUT: f32 = 0.05;

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
    /// Parameters by checkpoint name. `AB_offset.*` are held but not trained.
    pub parameters: BTreeMap<String, Var>,
}

impl Hypernet {
    /// Fresh parameters.
    ///
    /// # Errors
    /// A configuration that is invalid, or a variant that cannot adapt a module (`M` and `S` need
    /// `out ≤ in`, because their bias comes from a fresh `lora_a`).
    pub fn new(config: HypernetConfig, rng: &mut ChaCha8Rng, device: &Device) -> Result<Self> {
        config.validate()?;
        let mut parameters = BTreeMap::new();
        let expected: BTreeMap<String, Vec<usize>> =
            config.expected_tensors().into_iter().collect();
        for (name, shape) in &expected {
            let values = initial_values(&config, &expected, name, shape, rng)?;
            let tensor = Tensor::from_vec(values, shape.as_slice(), device)?;
            parameters.insert(name.clone(), Var::from_tensor(&tensor)?);
        }
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
        self.parameters.iter().filter(|(name, _)| !name.starts_with("AB_offset"))
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
        Forward { net: self, noise }.run(tasks)
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
            let (a, b) = match variant {
                Variant::L => {
                    let trunk = self.residual("mlp2", &trunk)?;
                    let both = self.head(&module.name, &trunk)?;
                    (
                        both.narrow(2, 0, rank * inputs)?,
                        both.narrow(2, rank * inputs, rank * outputs)?,
                    )
                }
                Variant::M | Variant::S => {
                    let widest = inputs.max(outputs);
                    let mut matrix = |which: &str, width: usize| -> Result<Tensor> {
                        let output = self.get(&format!("out_emb.{}.{which}", module.name))?;
                        let output = self.layer_norm("out_emb_norm", output)?;
                        let trunk = self.residual("mlp2", &trunk.broadcast_add(&output)?)?;
                        let rows = if variant == Variant::M {
                            self.head(&module.name, &trunk)?
                        } else {
                            let ranks =
                                self.layer_norm("pos_emb.1", self.get("pos_emb.0.weight")?)?;
                            let ranks = self.residual("mlp2", &ranks)?;
                            let per_rank = trunk.unsqueeze(2)?.broadcast_add(&ranks)?;
                            self.head(&module.name, &per_rank)?
                        };
                        let rows = rows.reshape((count, layers, rank, widest))?;
                        Ok(rows.narrow(3, 0, width)?)
                    };
                    (matrix("A", inputs)?, matrix("B", outputs)?)
                }
            };
            let offset_a = self.get(&format!("AB_offset.A.{}", module.name))?;
            let offset_b = self.get(&format!("AB_offset.B.{}", module.name))?.transpose(1, 2)?;
            let a = a.contiguous()?.reshape((count, layers, rank, inputs))?;
            let b = b.contiguous()?.reshape((count, layers, rank, outputs))?;
            generated.push(GeneratedModule {
                name: module.name.clone(),
                a: a.broadcast_add(offset_a)?,
                b_transposed: b.broadcast_add(&offset_b.contiguous()?)?,
            });
        }
        Ok(generated)
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

/// Bias-HyperInit for heads, PyTorch's defaults for everything else.
fn initial_values(
    config: &HypernetConfig,
    expected: &BTreeMap<String, Vec<usize>>,
    name: &str,
    shape: &[usize],
    rng: &mut ChaCha8Rng,
) -> Result<Vec<f32>> {
    let count: usize = shape.iter().product();
    let is_norm = |name: &str| {
        let prefix = name.rsplit_once('.').map_or("", |(prefix, _)| prefix);
        expected.get(&format!("{prefix}.weight")).is_some_and(|s| s.len() == 1)
    };
    if let Some(rest) = name.strip_prefix("heads.") {
        let module = rest.rsplit_once('.').map_or(rest, |(module, _)| module);
        if rest.ends_with(".weight") {
            return Ok(vec![0.0; count]);
        }
        return head_bias(config, module, count, rng);
    }
    if name.starts_with("AB_offset") {
        return Ok(vec![0.0; count]);
    }
    let embedding = name.starts_with("out_emb.")
        || matches!(
            name,
            "layer_depth_encoder.0.weight" | "layer_type_encoder.0.weight" | "pos_emb.0.weight"
        );
    if embedding {
        return Ok((0..count).map(|_| normal(rng)).collect());
    }
    if is_norm(name) {
        return Ok(vec![if name.ends_with(".weight") { 1.0 } else { 0.0 }; count]);
    }
    let weight = name.strip_suffix(".bias").map(|p| format!("{p}.weight"));
    let fan_in = weight.as_ref().map_or(Some(shape), |w| expected.get(w).map(Vec::as_slice));
    let fan_in = fan_in.and_then(|s| s.get(1)).copied().unwrap_or(1);
    Ok(uniform(count, fan_in, rng))
}

/// The bias that makes every head emit a freshly initialized LoRA.
fn head_bias(
    config: &HypernetConfig,
    module: &str,
    count: usize,
    rng: &mut ChaCha8Rng,
) -> Result<Vec<f32>> {
    let target = config.base.modules.iter().find(|m| m.name == module);
    let target = target.with_context(|| format!("head of unknown module `{module}`"))?;
    let (inputs, outputs) = (target.in_features, target.out_features);
    let fresh = uniform(config.rank * inputs, inputs, rng);
    if config.variant == Variant::L {
        return Ok(fresh.into_iter().chain(std::iter::repeat(0.0)).take(count).collect());
    }
    ensure!(
        outputs <= inputs,
        "variants M and S cannot adapt `{module}`: {outputs} out > {inputs} in"
    );
    let spread = match config.variant {
        Variant::S => (2.0 * config.rank as f32).sqrt(),
        _ => 2f32.sqrt(),
    };
    Ok(fresh.into_iter().take(count).map(|x| x / spread).collect())
}

fn uniform(count: usize, fan_in: usize, rng: &mut ChaCha8Rng) -> Vec<f32> {
    let bound = (fan_in as f32).sqrt().recip();
    (0..count).map(|_| rng.random_range(-bound..bound)).collect()
}

/// Standard normal by Box and Muller.
fn normal(rng: &mut ChaCha8Rng) -> f32 {
    let radius = (-2.0 * (1.0 - rng.random::<f32>()).ln()).sqrt();
    radius * (std::f32::consts::TAU * rng.random::<f32>()).cos()
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
