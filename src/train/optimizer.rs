//! AdamW with decoupled weight decay (Loshchilov and Hutter, 2019), global-norm clipping and the
//! schedule of Text-to-LoRA: linear warm-up, then linear decay to zero.
//!
//! The moments can be saved and restored, so that a resumed run continues exactly.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use candle_core::backprop::GradStore;
use candle_core::{Tensor, Var};
use rayon::prelude::*;

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

/// Learning rate at `step` (from 0) of `steps`.
pub fn learning_rate(peak: f32, step: usize, steps: usize, warmup_steps: usize) -> f32 {
    if step < warmup_steps {
        return peak * (step + 1) as f32 / warmup_steps as f32;
    }
    let left = steps.saturating_sub(step) as f32;
    peak * left / steps.saturating_sub(warmup_steps).max(1) as f32
}

impl AdamW {
    /// Updates `parameters` in place; returns the norm of the gradient before clipping.
    ///
    /// `step` counts from 0. Parameters without a gradient are left alone.
    ///
    /// # Errors
    /// A gradient that is not f32.
    pub fn update<'a>(
        &mut self,
        parameters: impl Iterator<Item = (&'a String, &'a Var)>,
        gradients: &GradStore,
        step: usize,
        learning_rate: f32,
        weight_decay: f32,
        clip_norm: f32,
    ) -> Result<f32> {
        let mut found = Vec::new();
        for (name, var) in parameters {
            if let Some(gradient) = gradients.get(var) {
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
    use candle_core::{Device, Var};

    use super::{AdamW, learning_rate};

    #[test]
    fn the_schedule_warms_up_and_ends_at_zero() {
        assert!((learning_rate(1.0, 0, 100, 10) - 0.1).abs() < 1e-6);
        assert!((learning_rate(1.0, 9, 100, 10) - 1.0).abs() < 1e-6);
        assert!((learning_rate(1.0, 55, 100, 10) - 0.5).abs() < 1e-6);
        assert!(learning_rate(1.0, 100, 100, 10).abs() < 1e-6);
    }

    #[test]
    fn a_quadratic_is_minimized() {
        let x = Var::new(&[3f32, -2.0], &Device::Cpu).unwrap();
        let name = "x".to_owned();
        let mut optimizer = AdamW::default();
        for step in 0..400 {
            let gradients = x.sqr().unwrap().sum_all().unwrap().backward().unwrap();
            let parameters = std::iter::once((&name, &x));
            optimizer.update(parameters, &gradients, step, 0.05, 0.0, 1.0).unwrap();
        }
        assert!(x.to_vec1::<f32>().unwrap().iter().all(|v| v.abs() < 1e-2));
    }

    #[test]
    fn clipping_reports_the_norm_before() {
        let x = Var::new(&[30f32, 40.0], &Device::Cpu).unwrap();
        let gradients = (x.sqr().unwrap() * 0.5).unwrap().sum_all().unwrap().backward().unwrap();
        let name = "x".to_owned();
        let parameters = std::iter::once((&name, &x));
        let norm = AdamW::default().update(parameters, &gradients, 0, 0.1, 0.0, 1.0).unwrap();
        assert!((norm - 50.0).abs() < 1e-3);
    }
}
