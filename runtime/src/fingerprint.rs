//! Fingerprint of a base model: which weights a GGUF file holds, whatever their quantization.
//!
//! In: a parsed GGUF file of a base model. Out: a [`Digest`]. The norm vectors stay `f32` in every
//! quantization of a model and differ between models, so that the digest over them is equal for
//! all files of one model. llama.cpp itself compares an adapter's names and shapes only; an
//! adapter for another model of the same shape loads and produces garbage.
//!
//! Hashed is the text `t2lc/base-fingerprint/1` and a NUL byte, then every one-dimensional tensor
//! whose name ends in `norm.weight`: name length, name, number of dimensions, dimensions (all
//! numbers little-endian `u64`), then the values as little-endian `f32`. Tensors `blk.N.…` come
//! first, by rising `N` and then by name; the others follow by name.

use crate::digest::{Digest, Hasher};
use crate::gguf::{GgmlType, Gguf, TensorInfo};

/// Domain of the digest; the number changes with the encoding.
const DOMAIN: &[u8] = b"t2lc/base-fingerprint/1\0";
/// How the names of norm vectors end.
const SUFFIX: &str = "norm.weight";

/// Why a file has no fingerprint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the message of each variant names its fields")]
pub enum FingerprintError {
    /// Nothing to hash: an adapter, a vocabulary, or some other file.
    #[error("file has no norm vector (a 1-D tensor `*norm.weight`), expected a base model")]
    NoNorms,
    /// A norm vector that depends on how the file was made.
    #[error("norm vector `{tensor}` has type {got}, expected f32")]
    NotF32 { tensor: String, got: &'static str },
}

/// The fingerprint of a base model's file.
///
/// # Errors
/// If there is no norm vector, or one is not `f32`.
pub fn base_fingerprint(base: &Gguf<'_>) -> Result<Digest, FingerprintError> {
    let is_norm =
        |tensor: &&TensorInfo| tensor.dimensions.len() == 1 && tensor.name.ends_with(SUFFIX);
    let mut norms: Vec<&TensorInfo> = base.tensors().iter().filter(is_norm).collect();
    if norms.is_empty() {
        return Err(FingerprintError::NoNorms);
    }
    norms.sort_unstable_by_key(|tensor| {
        let layer = layer(&tensor.name);
        (layer.is_none(), layer, tensor.name.as_str())
    });

    let mut hasher = Hasher::new();
    hasher.update(DOMAIN);
    for tensor in norms {
        if tensor.ggml_type != GgmlType::F32 {
            let got = tensor.ggml_type.name();
            return Err(FingerprintError::NotF32 { tensor: tensor.name.clone(), got });
        }
        hasher.update_prefixed(tensor.name.as_bytes());
        hasher.update(&(tensor.dimensions.len() as u64).to_le_bytes());
        for size in &tensor.dimensions {
            hasher.update(&size.to_le_bytes());
        }
        hasher.update(base.data(tensor));
    }
    Ok(hasher.finish())
}

/// `N` of a name `blk.N.…`.
fn layer(name: &str) -> Option<u64> {
    let (number, _) = name.strip_prefix("blk.")?.split_once('.')?;
    number.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{FingerprintError, base_fingerprint};
    use crate::digest::Digest;
    use crate::gguf::{GgmlType, Gguf, GgufWriter, Value};

    type Norm = (&'static str, [f32; 2]);

    const NORMS: [Norm; 5] = [
        ("blk.0.attn_norm.weight", [1.0, 2.0]),
        ("blk.0.ffn_norm.weight", [0.5, 0.25]),
        ("blk.2.attn_norm.weight", [3.0, 4.0]),
        ("blk.10.attn_norm.weight", [5.0, 6.0]),
        ("output_norm.weight", [-1.0, 0.0]),
    ];

    fn f32_bytes(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    /// A base model with these norm vectors, and other tensors of one byte and type.
    fn writer(norms: &[Norm], other_type: GgmlType, other_byte: u8) -> GgufWriter {
        let mut writer = GgufWriter::new();
        writer.metadata("general.architecture", Value::String("llama".into())).unwrap();
        let row_bytes = 64 / other_type.block_len() * other_type.block_bytes();
        for (index, (name, values)) in norms.iter().enumerate() {
            writer.tensor(name, &[2], GgmlType::F32, f32_bytes(values)).unwrap();
            let other = vec![other_byte; usize::try_from(row_bytes).unwrap()];
            writer.tensor(&format!("blk.{index}.attn_q.weight"), &[64], other_type, other).unwrap();
        }
        writer
    }

    fn fingerprint(writer: GgufWriter) -> Result<Digest, FingerprintError> {
        base_fingerprint(&Gguf::parse(&writer.finish().unwrap()).unwrap())
    }

    #[test]
    fn the_digest_is_pinned() {
        assert_eq!(
            fingerprint(writer(&NORMS, GgmlType::F16, 0)).unwrap().to_hex(),
            "82dec13d9c21830209074fdfa8538b10280535cdbbe9ff9ca23373698415207c"
        );
    }

    #[test]
    fn only_the_norm_vectors_count() {
        let expected = fingerprint(writer(&NORMS, GgmlType::F16, 0));
        assert_eq!(fingerprint(writer(&NORMS, GgmlType::Q4_0, 7)), expected);
        let mut reversed = NORMS;
        reversed.reverse();
        assert_eq!(fingerprint(writer(&reversed, GgmlType::F16, 0)), expected);
        let mut with_matrix = writer(&NORMS, GgmlType::F16, 0);
        with_matrix.tensor("blk.0.k_norm.weight", &[1, 2], GgmlType::F16, vec![0; 4]).unwrap();
        assert_eq!(fingerprint(with_matrix), expected);
    }

    #[test]
    fn every_norm_vector_counts() {
        let expected = fingerprint(writer(&NORMS, GgmlType::F16, 0));
        for index in 0..NORMS.len() {
            let mut changed = NORMS;
            changed[index].1[1] += 1.0;
            assert_ne!(fingerprint(writer(&changed, GgmlType::F16, 0)), expected, "{index}");
        }
        let mut renamed = NORMS;
        renamed[0].0 = "blk.1.attn_norm.weight";
        assert_ne!(fingerprint(writer(&renamed, GgmlType::F16, 0)), expected);
        assert_ne!(fingerprint(writer(&NORMS[..4], GgmlType::F16, 0)), expected);
    }

    #[test]
    fn files_without_f32_norms_have_none() {
        assert_eq!(fingerprint(writer(&[], GgmlType::F16, 0)), Err(FingerprintError::NoNorms));
        let mut half = writer(&NORMS, GgmlType::F16, 0);
        half.tensor("blk.3.attn_norm.weight", &[2], GgmlType::F16, vec![0; 4]).unwrap();
        assert_eq!(
            fingerprint(half).unwrap_err().to_string(),
            "norm vector `blk.3.attn_norm.weight` has type f16, expected f32"
        );
    }
}
