//! The architecture `NewModel` a second time: in go token ids of one text without padding, out
//! comes its embedding, f64.
//!
//! Plain loops, written from the description of the architecture; nothing is shared with the
//! exporter. Where there is a choice, it is made differently: texts are not padded, so there is no
//! mask; points are turned pair by pair; `erf` is a series of positive terms.

use std::collections::BTreeMap;
use std::f64::consts::{FRAC_2_SQRT_PI, SQRT_2};

use crate::encoder::Pooling;

/// Added to the variance in layer normalization.
const EPSILON: f64 = 1e-12;

/// A model: its tensors by their names without prefix, and its sizes.
pub(super) struct Reference {
    pub(super) tensors: BTreeMap<String, Vec<f64>>,
    pub(super) hidden: usize,
    pub(super) heads: usize,
    pub(super) inner: usize,
    pub(super) layers: usize,
    pub(super) theta: f64,
    /// Factor of NTK scaling.
    pub(super) factor: Option<f64>,
}

impl Reference {
    /// Embedding of length `√hidden`.
    pub(super) fn embed(&self, ids: &[i64], pooling: Pooling) -> Vec<f64> {
        let states = self.states(ids);
        let mut pooled = states[0].clone();
        if pooling == Pooling::Mean {
            for state in &states[1..] {
                pooled = sum(&pooled, state);
            }
            for value in &mut pooled {
                *value /= states.len() as f64;
            }
        }
        let norm = dot(&pooled, &pooled).sqrt();
        pooled.iter().map(|value| value / norm * (self.hidden as f64).sqrt()).collect()
    }

    /// The last hidden state of each token.
    fn states(&self, ids: &[i64]) -> Vec<Vec<f64>> {
        let words = self.rows("embeddings.word_embeddings.weight", self.hidden);
        let types = self.tensors.get("embeddings.token_type_embeddings.weight");
        let mut states = Vec::new();
        for id in ids {
            let mut state = words[usize::try_from(*id).unwrap()].clone();
            if let Some(types) = types {
                state = sum(&state, &types[..self.hidden]);
            }
            states.push(self.norm(&state, "embeddings.LayerNorm"));
        }
        for layer in 0..self.layers {
            let name = format!("encoder.layer.{layer}");
            let attended = self.attention(&states, &format!("{name}.attention"));
            for (state, attended) in states.iter_mut().zip(attended) {
                let x = self.norm(&sum(state, &attended), &format!("{name}.attn_ln"));
                let inner = self.feed_forward(&x, &format!("{name}.mlp"));
                *state = self.norm(&sum(&x, &inner), &format!("{name}.mlp_ln"));
            }
        }
        states
    }

    fn attention(&self, states: &[Vec<f64>], name: &str) -> Vec<Vec<f64>> {
        let (hidden, size) = (self.hidden, self.hidden / self.heads);
        let packed: Vec<Vec<f64>> =
            states.iter().map(|state| self.linear(state, &format!("{name}.qkv_proj"))).collect();
        let mut contexts = vec![vec![0.0; hidden]; states.len()];
        for head in 0..self.heads {
            // Queries, keys and values are a third of the packed vector each.
            let part = |third: usize, position: usize| -> &[f64] {
                &packed[position][third * hidden + head * size..][..size]
            };
            let keys: Vec<Vec<f64>> = (0..states.len())
                .map(|position| self.turned(part(1, position), position))
                .collect();
            for (position, context) in contexts.iter_mut().enumerate() {
                let query = self.turned(part(0, position), position);
                let scores: Vec<f64> =
                    keys.iter().map(|key| dot(&query, key) / (size as f64).sqrt()).collect();
                let shares = softmax(&scores);
                for (other, share) in shares.iter().enumerate() {
                    for (i, value) in part(2, other).iter().enumerate() {
                        context[head * size + i] += share * value;
                    }
                }
            }
        }
        contexts.iter().map(|context| self.linear(context, &format!("{name}.o_proj"))).collect()
    }

    /// A query or key with each pair of elements half a head apart turned by its angle.
    fn turned(&self, x: &[f64], position: usize) -> Vec<f64> {
        let (size, half) = (x.len() as f64, x.len() / 2);
        let mut result = x.to_vec();
        for i in 0..half {
            let exponent = 2.0 * i as f64 / size;
            let frequency = match self.factor {
                None => 1.0 / self.theta.powf(exponent),
                Some(f) => 1.0 / (self.theta * f).powf(exponent) / f.powf(2.0 / size),
            };
            let (sin, cos) = (position as f64 * frequency).sin_cos();
            let (x1, x2) = (x[i], x[i + half]);
            result[i] = x1 * cos - x2 * sin;
            result[i + half] = x2 * cos + x1 * sin;
        }
        result
    }

    fn feed_forward(&self, x: &[f64], name: &str) -> Vec<f64> {
        let both = self.linear(x, &format!("{name}.up_gate_proj"));
        let (up, gate) = both.split_at(self.inner);
        let inner: Vec<f64> = up.iter().zip(gate).map(|(up, gate)| gelu(*gate) * up).collect();
        self.linear(&inner, &format!("{name}.down_proj"))
    }

    /// `W x + b`, without `b` where there is none.
    fn linear(&self, x: &[f64], name: &str) -> Vec<f64> {
        let rows = self.rows(&format!("{name}.weight"), x.len());
        let product: Vec<f64> = rows.iter().map(|row| dot(row, x)).collect();
        match self.tensors.get(&format!("{name}.bias")) {
            Some(bias) => sum(&product, bias),
            None => product,
        }
    }

    fn norm(&self, x: &[f64], name: &str) -> Vec<f64> {
        let count = x.len() as f64;
        let mean = x.iter().sum::<f64>() / count;
        let variance = x.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / count;
        let scale = &self.tensors[&format!("{name}.weight")];
        let bias = &self.tensors[&format!("{name}.bias")];
        (0..x.len())
            .map(|i| (x[i] - mean) / (variance + EPSILON).sqrt() * scale[i] + bias[i])
            .collect()
    }

    fn rows(&self, name: &str, width: usize) -> Vec<Vec<f64>> {
        self.tensors[name].chunks_exact(width).map(<[f64]>::to_vec).collect()
    }
}

fn sum(a: &[f64], b: &[f64]) -> Vec<f64> {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn softmax(scores: &[f64]) -> Vec<f64> {
    let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let powers: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
    let total: f64 = powers.iter().sum();
    powers.iter().map(|power| power / total).collect()
}

fn gelu(x: f64) -> f64 {
    x * (1.0 + erf(x / SQRT_2)) / 2.0
}

/// `2/√π · exp(−x²) · Σ 2ⁿ x²ⁿ⁺¹ / (2n + 1)!!`, <https://dlmf.nist.gov/7.6.E2>; ±1 beyond 6.
fn erf(x: f64) -> f64 {
    if x.abs() > 6.0 {
        return x.signum();
    }
    let (mut term, mut total) = (x, x);
    for n in 1..200 {
        term *= 2.0 * x * x / f64::from(2 * n + 1);
        total += term;
    }
    FRAC_2_SQRT_PI * (-x * x).exp() * total
}

#[test]
fn erf_has_its_tabulated_values() {
    // Abramowitz and Stegun, table 7.1.
    for (x, expected) in
        [(0.0, 0.0), (0.5, 0.520_499_877_8), (1.0, 0.842_700_792_9), (2.0, 0.995_322_265_0)]
    {
        assert!((erf(x) - expected).abs() < 1e-10);
        assert!((erf(-x) + expected).abs() < 1e-10);
    }
    assert!((erf(5.9) - 1.0).abs() < 1e-12);
}
