//! Adapter algebra before quantization: fold the scale, balance A against B, permute rows.
//!
//! llama.cpp multiplies `B A` by `alpha / rank` and knows one alpha per file. Everything is folded
//! into the matrices, so that alpha equals the rank and that factor is 1. Block quantizers keep
//! their scales in f16 and lose precision below about 1e-3, so A and B of a pair are brought to
//! similar size. Balancing multiplies by powers of two: it changes no bit of any mantissa.

use crate::base::TargetModule;
use crate::generate::LoraPair;

/// Folds `scale` into B and balances the pair; `ΔW = scale · B A` becomes `ΔW = B A`.
pub fn fold_and_balance(pair: &mut LoraPair, scale: f32) {
    for value in &mut pair.b {
        *value *= scale;
    }
    let (mut size_a, mut size_b) = (root_mean_square(&pair.a), root_mean_square(&pair.b));
    if size_a == 0.0 || size_b == 0.0 {
        return;
    }
    let mut factor = 1f32; // for A; B gets the inverse
    while size_a * 2.0 < size_b && factor < 65536.0 {
        (size_a, size_b, factor) = (size_a * 2.0, size_b / 2.0, factor * 2.0);
    }
    while size_b * 2.0 < size_a && factor > 1.0 / 65536.0 {
        (size_a, size_b, factor) = (size_a / 2.0, size_b * 2.0, factor / 2.0);
    }
    for value in &mut pair.a {
        *value *= factor;
    }
    for value in &mut pair.b {
        *value /= factor;
    }
}

fn root_mean_square(values: &[f32]) -> f32 {
    (values.iter().map(|v| v * v).sum::<f32>() / values.len().max(1) as f32).sqrt()
}

/// Rows of `lora_b [out, rank]` in the order of the base's GGUF file.
///
/// Where the base's rows are stored interleaved for llama.cpp's rotary layout, row
/// `j·d/2 + i` of a head of `d` rows moves to `2·i + j`; elsewhere the rows stay.
pub fn gguf_rows(b: &[f32], rank: usize, module: &TargetModule) -> Vec<f32> {
    let Some(heads) = module.permute_heads else { return b.to_vec() };
    let head_rows = module.out_features / heads;
    let half = head_rows / 2;
    let mut rows = Vec::with_capacity(b.len());
    for head in 0..heads {
        for i in 0..half {
            for j in 0..2 {
                let row = head * head_rows + j * half + i;
                rows.extend_from_slice(&b[row * rank..(row + 1) * rank]);
            }
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::{fold_and_balance, gguf_rows};
    use crate::base::TargetModule;
    use crate::generate::LoraPair;

    #[test]
    fn balancing_keeps_the_product_to_the_bit() {
        let a = vec![1e-3, -3e-3];
        let b = vec![20.0, 7.5, -1.25];
        let mut pair = LoraPair { layer: 0, module: 0, a: a.clone(), b: b.clone() };
        fold_and_balance(&mut pair, 2.0);
        for (i, b) in b.iter().enumerate() {
            for (j, a) in a.iter().enumerate() {
                assert_eq!((pair.b[i] * pair.a[j]).to_bits(), (2.0 * b * a).to_bits());
            }
        }
        let largest = |v: &[f32]| v.iter().fold(0f32, |m, x| m.max(x.abs()));
        let ratio = largest(&pair.a) / largest(&pair.b);
        assert!((0.1..10.0).contains(&ratio), "{ratio}");
    }

    #[test]
    fn zero_matrices_are_left_alone() {
        let mut pair = LoraPair { layer: 0, module: 0, a: vec![0.5], b: vec![0.0] };
        fold_and_balance(&mut pair, 2.0);
        assert_eq!((pair.a[0], pair.b[0]), (0.5, 0.0));
    }

    #[test]
    fn heads_are_interleaved() {
        let module = TargetModule {
            name: "q_proj".into(),
            in_features: 4,
            out_features: 16,
            permute_heads: Some(2),
        };
        let rows: Vec<f32> = (0..16u8).map(f32::from).collect();
        let expected =
            [0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15].map(|r: u8| f32::from(r));
        assert_eq!(gguf_rows(&rows, 1, &module), expected);
        let plain = TargetModule { permute_heads: None, ..module };
        assert_eq!(gguf_rows(&rows, 1, &plain), rows);
    }
}
