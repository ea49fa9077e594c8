//! Each fused operation against its composition from candle's own, value and gradient.

use std::sync::Arc;

use candle_core::{Device, Result, Tensor, Var};

use super::{
    Heads, RotaryTable, cross_entropy, frozen_linear, masked_softmax, packed_attention, rms_norm,
    rope, swiglu,
};

fn assert_close(what: &str, a: &Tensor, b: &Tensor) -> Result<()> {
    let largest = b.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?.max(1.0);
    let error = (a - b)?.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?;
    assert!(error / largest < 2e-6, "{what}: error {error}, largest {largest}");
    Ok(())
}

/// Compares `f` and `g` at `x`, and their gradients under a random weighting of the output.
fn compare(
    shape: &[usize],
    f: impl Fn(&Tensor) -> Result<Tensor>,
    g: impl Fn(&Tensor) -> Result<Tensor>,
) -> Result<()> {
    let x = Var::randn(0f32, 1.0, shape, &Device::Cpu)?;
    let (ours, theirs) = (f(x.as_tensor())?, g(x.as_tensor())?);
    assert_close("value", &ours, &theirs)?;
    let weights = Tensor::randn(0f32, 1.0, ours.shape(), &Device::Cpu)?;
    let gradient = |y: Tensor| -> Result<Tensor> {
        let grads = (y * &weights)?.sum_all()?.backward()?;
        Ok(grads.get(x.as_tensor()).expect("x has a gradient").clone())
    };
    assert_close("gradient", &gradient(ours)?, &gradient(theirs)?)
}

#[test]
fn frozen_linear_is_a_matrix_product() -> Result<()> {
    let w = Tensor::randn(0f32, 1.0, (7, 5), &Device::Cpu)?;
    compare(&[3, 4, 5], |x| frozen_linear(x, &w), |x| x.broadcast_matmul(&w.t()?))
}

#[test]
fn rms_norm_matches_its_formula() -> Result<()> {
    let w = Tensor::randn(0f32, 1.0, 33, &Device::Cpu)?;
    compare(&[9, 33], |x| rms_norm(x, &w, 1e-5), |x| super::rms_norm::composed(x, &w, 1e-5))
}

#[test]
fn rope_rotates_each_head() -> Result<()> {
    let table = RotaryTable::new(&[0, 3, 700, 1, 2, 9], 8, 1e4);
    compare(&[2, 3, 24], |x| rope(x, &table, 3), |x| super::rope::composed(x, &table, 3))
}

#[test]
fn masked_softmax_sees_only_what_the_mask_shows() -> Result<()> {
    let (queries, keys) = (4, 6);
    // The last query of the second row is padding: it sees nothing.
    let mask: Vec<u8> = (0..2 * queries * keys)
        .map(|i| u8::from(i % 5 != 1 && i < 2 * queries * keys - keys))
        .collect();
    let mask = Arc::new(mask);
    compare(
        &[2, 3, 2 * queries, keys],
        |x| masked_softmax(x, &mask, queries, 0.3),
        |x| super::softmax::composed(x, &mask, queries, 0.3),
    )
}

#[test]
fn swiglu_gates_both_sides() -> Result<()> {
    let other = Tensor::randn(0f32, 1.0, (5, 6), &Device::Cpu)?;
    compare(&[5, 6], |x| swiglu(x, &other), |x| super::swiglu::composed(x, &other))?;
    compare(&[5, 6], |x| swiglu(&other, x), |x| super::swiglu::composed(&other, x))
}

#[test]
fn cross_entropy_smooths_labels() -> Result<()> {
    let targets = Arc::new(vec![0, 10, 4]);
    compare(
        &[3, 11],
        |x| cross_entropy(x, &targets, 0.1),
        |x| super::cross_entropy::composed(x, &targets, 0.1),
    )
}

/// Attention put together from candle's products, over `[rows, tokens, (4 + 2 + 2) · 8]`.
fn composed_attention(x: &Tensor, mask: &Arc<Vec<u8>>, scale: f32) -> Result<Tensor> {
    let (rows, tokens, _) = x.dims3()?;
    let heads = |start: usize, count: usize| -> Result<Tensor> {
        let part = x.narrow(2, start * 8, count * 8)?.reshape((rows, tokens, count, 8))?;
        part.transpose(1, 2)?.contiguous()
    };
    let q = heads(0, 4)?.reshape((rows, 2, 2 * tokens, 8))?;
    let scores = q.matmul(&heads(4, 2)?.t()?)?;
    let weights = super::softmax::composed(&scores, mask, tokens, scale)?;
    let mixed = weights.matmul(&heads(6, 2)?)?.reshape((rows, 4, tokens, 8))?;
    mixed.transpose(1, 2)?.reshape((rows, tokens, 32))
}

#[test]
fn attention_sees_what_the_mask_shows() -> Result<()> {
    let (rows, tokens) = (3, 5);
    let mut mask: Vec<u8> = (0..rows * tokens * tokens).map(|i| u8::from(i % 3 != 1)).collect();
    mask[..tokens].fill(0); // a token that sees nothing
    let mask = Arc::new(mask);
    let heads = Heads { queries: 4, keys: 2, size: 8, scale: 0.3 };
    let fused = |x: &Tensor| -> Result<Tensor> {
        let part = |start: usize, count: usize| x.narrow(2, start * 8, count * 8);
        packed_attention(&part(0, 4)?, &part(4, 2)?, &part(6, 2)?, &mask, heads)
    };
    compare(&[rows, tokens, 64], fused, |x| composed_attention(x, &mask, 0.3))
}
