//! Stage 3, generate: task embedding → the two matrices of every layer and module.
//!
//! One run of the hypernetwork graph; its outputs `<module>.lora_a [1, layers, rank, in]` and
//! `<module>.lora_b [1, layers, out, rank]` are checked for shape and finiteness and cut by layer.

use crate::backend::{Backend, BackendError, Graph, Tensor};
use crate::base::BaseModel;
use crate::bundle::{Bundle, BundleError, HYPERNET};
use crate::encode::TaskEmbedding;

/// Why no adapter could be generated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GenerateError {
    /// The bundle lacks the graph.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The graph fails.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// An output of the wrong shape.
    #[error("`{output}` has shape {got:?}, expected {expected:?}")]
    Shape {
        /// The output.
        output: String,
        /// Shape according to the manifest.
        expected: Vec<usize>,
        /// Shape that came back.
        got: Vec<usize>,
    },
    /// An output of whole numbers.
    #[error("`{output}` has 64-bit integers, expected 32-bit floats")]
    Type {
        /// The output.
        output: String,
    },
    /// An output with NaN or infinite values.
    #[error("`{output}` has {count} values that are not finite")]
    NotFinite {
        /// The output.
        output: String,
        /// How many.
        count: usize,
    },
}

/// The matrices of one layer and module, in Hugging Face row order, `ΔW = scale · B A`.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraPair {
    /// Layer, from 0.
    pub layer: usize,
    /// Index into the base's modules.
    pub module: usize,
    /// `[rank, in]`
    pub a: Vec<f32>,
    /// `[out, rank]`
    pub b: Vec<f32>,
}

/// The hypernetwork of a bundle.
pub struct Generator {
    graph: Box<dyn Graph>,
    base: BaseModel,
    rank: usize,
}

impl Generator {
    /// Loads the graph.
    ///
    /// # Errors
    /// A graph that the backend refuses.
    pub fn load(bundle: &Bundle, backend: &dyn Backend) -> Result<Self, GenerateError> {
        let graph = backend.load_shared(HYPERNET, bundle.file(HYPERNET)?.clone())?;
        let rank = bundle.manifest.hypernet.rank;
        Ok(Self { graph, base: bundle.manifest.base.clone(), rank })
    }

    /// Generates every pair, layer by layer in the order of the base's modules.
    ///
    /// # Errors
    /// A failure of the graph, or outputs of the wrong shape or with values that are not finite.
    pub fn generate(&self, embedding: &TaskEmbedding) -> Result<Vec<LoraPair>, GenerateError> {
        let input = Tensor::F32 {
            shape: vec![1, embedding.values.len()],
            values: embedding.values.clone(),
        };
        let names: Vec<String> = self
            .base
            .modules
            .iter()
            .flat_map(|m| [format!("{}.lora_a", m.name), format!("{}.lora_b", m.name)])
            .collect();
        let outputs: Vec<&str> = names.iter().map(String::as_str).collect();
        let tensors = self.graph.run(&[("task_embedding", input)], &outputs)?;
        let mut matrices = Vec::with_capacity(tensors.len());
        for (index, (tensor, output)) in tensors.into_iter().zip(&names).enumerate() {
            let module = &self.base.modules[index / 2];
            let (rows, columns) = match index % 2 {
                0 => (self.rank, module.in_features),
                _ => (module.out_features, self.rank),
            };
            let expected = vec![1, self.base.layers, rows, columns];
            matrices.push((checked(tensor, output, expected)?, rows * columns));
        }
        let mut pairs = Vec::with_capacity(self.base.layers * self.base.modules.len());
        for layer in 0..self.base.layers {
            for (module, both) in matrices.chunks_exact(2).enumerate() {
                let of_layer = |(values, size): &(Vec<f32>, usize)| {
                    values[layer * size..(layer + 1) * size].to_vec()
                };
                pairs.push(LoraPair {
                    layer,
                    module,
                    a: of_layer(&both[0]),
                    b: of_layer(&both[1]),
                });
            }
        }
        Ok(pairs)
    }
}

impl std::fmt::Debug for Generator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Generator").field("base", &self.base.name).finish_non_exhaustive()
    }
}

fn checked(tensor: Tensor, output: &str, expected: Vec<usize>) -> Result<Vec<f32>, GenerateError> {
    let Tensor::F32 { shape, values } = tensor else {
        return Err(GenerateError::Type { output: output.into() });
    };
    if shape != expected || values.len() != expected.iter().product::<usize>() {
        return Err(GenerateError::Shape { output: output.into(), expected, got: shape });
    }
    match values.iter().filter(|v| !v.is_finite()).count() {
        0 => Ok(values),
        count => Err(GenerateError::NotFinite { output: output.into(), count }),
    }
}
