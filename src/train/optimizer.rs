//! AdamW with decoupled weight decay (Loshchilov and Hutter, 2019), global-norm clipping and the
//! schedule: linear warm-up, then by default linear decay to zero, as Text-to-LoRA has it.
//!
//! The moments can be saved and restored, so that a resumed run continues exactly.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use candle_core::{Tensor, Var};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::run::RunOptions;

const BETA1: f32 = 0.9;
const BETA2: f32 = 0.999;
const EPS: f32 = 1e-8;

/// First and second moment of one parameter.
#[derive(Debug, Clone, PartialEq)]
pub struct Moments {
    /// Running mean of the gradient.
    pub mean: Vec<f32>,
    /// Running mean of its square.
    pub square: Vec<f32>,
}

/// The optimizer's state.
#[derive(Debug, Default)]
pub struct AdamW {
    /// Per parameter name.
    pub moments: BTreeMap<String, Moments>,
}

/// What the learning rate does after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    /// Falls to zero in a straight line.
    Linear,
    /// Falls to zero along half a cosine.
    Cosine,
    /// Stays.
    Constant,
}

/// Learning rate at `step` (from 0).
pub fn learning_rate(options: &RunOptions, step: usize) -> f32 {
    let RunOptions { learning_rate: peak, warmup_steps, steps, .. } = *options;
    if step < warmup_steps {
        return peak * (step + 1) as f32 / warmup_steps as f32;
    }
    let left = steps.saturating_sub(step) as f32;
    let left = left / steps.saturating_sub(warmup_steps).max(1) as f32;
    match options.schedule {
        Schedule::Linear => peak * left,
        Schedule::Cosine => peak * 0.5 * (1.0 - (std::f32::consts::PI * left).cos()),
        Schedule::Constant => peak,
    }
}

impl AdamW {
    /// Updates `parameters` in place; returns the norm of the gradient before clipping.
    ///
    /// `step` counts from 0; `learning_rate` is of a parameter. Parameters without a gradient are left
    /// alone.
    ///
    /// # Errors
    /// A gradient that is not f32.
    pub fn update(
        &mut self,
        parameters: &[(String, Var)],
        gradients: &BTreeMap<String, Tensor>,
        step: usize,
        learning_rate: &dyn Fn(&str) -> f32,
        weight_decay: f32,
        clip_norm: f32,
    ) -> Result<f32> {
        let mut found = Vec::new();
        for (name, var) in parameters {
            if let Some(gradient) = gradients.get(name) {
                found.push((name, var, gradient.flatten_all()?.to_vec1::<f32>()?));
            }
        }
        let squares =
            found.iter().map(|(_, _, g)| g.par_iter().map(|x| f64::from(x * x)).sum::<f64>());
        #[allow(clippy::cast_possible_truncation)] // only its magnitude matters
        let norm = squares.sum::<f64>().sqrt() as f32;
        let shrink = if norm > clip_norm { clip_norm / norm } else { 1.0 };
        let power = i32::try_from(step + 1).context("too many steps")?;
        let (correct1, correct2) = (1.0 - BETA1.powi(power), 1.0 - BETA2.powi(power));
        for (name, var, gradient) in found {
            let mut values = var.flatten_all()?.to_vec1::<f32>()?;
            let learning_rate = learning_rate(name);
            let moments = self.moments.entry(name.clone()).or_insert_with(|| Moments {
                mean: vec![0.0; values.len()],
                square: vec![0.0; values.len()],
            });
            values
                .par_iter_mut()
                .zip(&mut moments.mean)
                .zip(&mut moments.square)
                .zip(&gradient)
                .with_min_len(4096)
                .for_each(|(((value, mean), square), gradient)| {
                    let gradient = gradient * shrink;
                    *mean = BETA1 * *mean + (1.0 - BETA1) * gradient;
                    *square = BETA2 * *square + (1.0 - BETA2) * gradient * gradient;
                    let direction = (*mean / correct1) / ((*square / correct2).sqrt() + EPS);
                    *value -= learning_rate * (direction + weight_decay * *value);
                });
            var.set(&Tensor::from_vec(values, var.shape(), var.device())?)?;
        }
        Ok(norm)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use candle_core::{Device, Tensor, Var};

    use super::{AdamW, Schedule, learning_rate};
    use crate::train::run::RunOptions;

    fn options(schedule: Schedule) -> RunOptions {
        RunOptions {
            steps: 100,
            accumulate: 1,
            learning_rate: 1.0,
            warmup_steps: 10,
            schedule,
            weight_decay: 0.0,
            clip_norm: 1.0,
            seed: 0,
            checkpoint_every: 1,
            validate_every: 1,
            patience: 0,
        }
    }

    #[test]
    fn the_schedules_warm_up_and_end_as_they_say() {
        for (schedule, middle, end) in [
            (Schedule::Linear, 0.5, 0.0),
            (Schedule::Cosine, 0.5, 0.0),
            (Schedule::Constant, 1.0, 1.0),
        ] {
            let at = |step| learning_rate(&options(schedule), step);
            for (step, expected) in [(0, 0.1), (9, 1.0), (55, middle), (100, end)] {
                assert!((at(step) - expected).abs() < 1e-6, "{schedule:?} at {step}: {}", at(step));
            }
        }
    }

    fn gradient(x: &Var, factor: f64) -> BTreeMap<String, Tensor> {
        let loss = (x.sqr().unwrap() * factor).unwrap().sum_all().unwrap();
        let gradient = loss.backward().unwrap().get(x).unwrap().clone();
        BTreeMap::from([("x".to_owned(), gradient)])
    }

    #[test]
    fn a_quadratic_is_minimized() {
        let x = Var::new(&[3f32, -2.0], &Device::Cpu).unwrap();
        let parameters = [("x".to_owned(), x.clone())];
        let mut optimizer = AdamW::default();
        for step in 0..400 {
            optimizer.update(&parameters, &gradient(&x, 1.0), step, &|_| 0.05, 0.0, 1.0).unwrap();
        }
        assert!(x.to_vec1::<f32>().unwrap().iter().all(|v| v.abs() < 1e-2));
    }

    #[test]
    fn clipping_reports_the_norm_before() {
        let x = Var::new(&[30f32, 40.0], &Device::Cpu).unwrap();
        let parameters = [("x".to_owned(), x.clone())];
        let gradients = gradient(&x, 0.5);
        let norm = AdamW::default().update(&parameters, &gradients, 0, &|_| 0.1, 0.0, 1.0).unwrap();
        assert!((norm - 50.0).abs() < 1e-3);
    }
}
