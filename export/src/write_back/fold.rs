//! Biases of heads that generate z-scores → means.
//!
//! The reference's heads have no biases where they generate z-scores, and its loader passes over
//! those that it finds. A bias is the same for every layer and task, so that it can go into the
//! mean: `(z + bias) · (deviation + ε) + mean` is `z · (deviation + ε) + mean'` with
//! `mean' = bias · (deviation + ε) + mean`, here in f64 and rounded once.
//!
//! In: a checkpoint with mean and deviation. Out: the means that change, `[layers, rank, in]` of A
//! and `[layers, out, rank]` of B. Which entry of the bias goes with one of a matrix depends on the
//! variant: a head gives the rows of A, and the rows of B transposed, one after the other.

use std::collections::BTreeMap;

use t2lc_runtime::base::TargetModule;

use super::error::WriteBackError;
use crate::checkpoint::{
    Checkpoint, CheckpointError, DEVIATION_EPSILON, DEVIATION_PREFIX, MEAN_PREFIX, Variant,
};

/// Values of means by the names of their tensors.
pub(super) type Means = BTreeMap<String, Vec<f32>>;

/// The means of all modules whose heads have biases.
pub(super) fn means(checkpoint: &Checkpoint) -> Result<Means, WriteBackError> {
    let mut means = Means::new();
    for module in &checkpoint.config.base.modules {
        let bias = checkpoint.tensors.get(&format!("heads.{}.bias", module.name));
        let bias = bias.map_or(&[][..], |bias| bias.values.as_slice());
        if bias.iter().all(|value| *value == 0.0) {
            continue;
        }
        for matrix in [Matrix::A, Matrix::B] {
            let (name, values) = mean(checkpoint, module, matrix, bias)?;
            means.insert(name, values);
        }
    }
    Ok(means)
}

#[derive(Clone, Copy)]
enum Matrix {
    A,
    B,
}

/// Name and values of one mean with the bias in it.
fn mean(
    checkpoint: &Checkpoint,
    module: &TargetModule,
    matrix: Matrix,
    bias: &[f32],
) -> Result<(String, Vec<f32>), WriteBackError> {
    let letter = match matrix {
        Matrix::A => "A",
        Matrix::B => "B",
    };
    let name = format!("{MEAN_PREFIX}.{letter}.{}", module.name);
    let mean = checkpoint.tensor(&name)?;
    let deviation = checkpoint.tensor(&format!("{DEVIATION_PREFIX}.{letter}.{}", module.name))?;
    let variant = checkpoint.config.variant;
    let places = Places { variant, rank: checkpoint.config.rank, module, matrix };
    let pairs = mean.values.iter().zip(&deviation.values);
    #[allow(clippy::cast_possible_truncation, reason = "rounded to f32 once, here")]
    let sum = |(place, (mean, deviation)): (usize, (&f32, &f32))| {
        let factor = f64::from(*deviation) + f64::from(DEVIATION_EPSILON);
        (f64::from(bias[places.in_bias(place)]) * factor + f64::from(*mean)) as f32
    };
    let values: Vec<f32> = pairs.enumerate().map(sum).collect();
    if let Some(index) = values.iter().position(|value| !value.is_finite()) {
        return Err(CheckpointError::NonFinite { name, index }.into());
    }
    Ok((name, values))
}

/// Where what a head gives ends up.
struct Places<'a> {
    variant: Variant,
    rank: usize,
    module: &'a TargetModule,
    matrix: Matrix,
}

impl Places<'_> {
    /// The place in the bias of an entry of all layers' matrices.
    fn in_bias(&self, place: usize) -> usize {
        let Self { variant, rank, module, matrix } = *self;
        let (inputs, outputs) = (module.in_features, module.out_features);
        // The row of A or of B transposed, and the place in it.
        let (row, column) = match matrix {
            Matrix::A => (place / inputs % rank, place % inputs),
            Matrix::B => (place % rank, place / rank % outputs),
        };
        let (start, row_length) = match (variant, matrix) {
            (Variant::M, _) => (0, inputs.max(outputs)),
            // One row for every rank.
            (Variant::S, _) => (0, 0),
            (_, Matrix::A) => (0, inputs),
            (_, Matrix::B) => (rank * inputs, outputs),
        };
        start + row * row_length + column
    }
}
