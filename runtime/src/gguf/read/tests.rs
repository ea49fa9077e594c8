//! Tests of `read`.

use super::{Gguf, Value};
use crate::gguf::{ArrayValue, GgmlType, GgufError, GgufWriter};

/// A file put together field by field, valid or not.
#[derive(Default)]
struct Raw(Vec<u8>);

impl Raw {
    fn header(version: u32, tensors: u64, keys: u64) -> Self {
        Self(b"GGUF".to_vec()).u32(version).u64(tensors).u64(keys)
    }

    fn u32(mut self, value: u32) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn u64(mut self, value: u64) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    fn text(self, text: &str) -> Self {
        self.u64(text.len() as u64).bytes(text.as_bytes())
    }

    fn tensor(self, name: &str, dimensions: &[u64], type_id: u32, offset: u64) -> Self {
        let count = u32::try_from(dimensions.len()).unwrap();
        let raw = self.text(name).u32(count);
        dimensions.iter().fold(raw, |raw, &size| raw.u64(size)).u32(type_id).u64(offset)
    }

    fn data(mut self, len: usize) -> Self {
        let start = self.0.len().next_multiple_of(32);
        self.0.resize(start + len, 0);
        self
    }

    fn error(&self) -> GgufError {
        Gguf::parse(&self.0).expect_err("the file breaks a rule")
    }
}

/// A file whose last tensor needs no padding.
fn small_file() -> Vec<u8> {
    let mut writer = GgufWriter::new();
    let architecture = Value::String("llama".into());
    writer.metadata("general.architecture", architecture).unwrap();
    let tokens = ArrayValue::String(vec!["<s>".into(), String::new()]);
    writer.metadata("tokenizer.ggml.tokens", Value::Array(tokens)).unwrap();
    writer.metadata("t2lc.flags", Value::Array(ArrayValue::Bool(vec![true]))).unwrap();
    writer.tensor("odd", &[3], GgmlType::F32, vec![1; 12]).unwrap();
    writer.tensor("even", &[8, 2], GgmlType::F16, vec![2; 32]).unwrap();
    writer.finish().unwrap()
}

#[test]
fn a_file_truncated_anywhere_is_an_error() {
    let bytes = small_file();
    assert!(Gguf::parse(&bytes).is_ok());
    for len in 0..bytes.len() {
        assert!(Gguf::parse(&bytes[..len]).is_err(), "{len} of {} bytes", bytes.len());
    }
}

#[test]
fn any_single_damaged_byte_is_survived() {
    let bytes = small_file();
    for index in 0..bytes.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut damaged = bytes.clone();
            damaged[index] ^= flip;
            if let Ok(file) = Gguf::parse(&damaged) {
                for tensor in file.tensors() {
                    assert_eq!(file.data(tensor).len() as u64, tensor.size_bytes);
                }
            }
        }
    }
}

#[test]
fn only_the_last_padding_may_be_missing() {
    let infos = Raw::header(3, 1, 0).tensor("t", &[1], 0, 0);
    let file = infos.data(4);
    let parsed = Gguf::parse(&file.0).unwrap();
    assert_eq!(parsed.data(&parsed.tensors()[0]), [0; 4]);
    let infos = Raw::header(3, 2, 0).tensor("a", &[1], 0, 0).tensor("b", &[1], 0, 32);
    assert!(matches!(infos.data(4).error(), GgufError::TensorData { end_bytes: 36, .. }));
}

#[test]
fn version_two_has_the_same_layout() {
    let file = Raw::header(2, 1, 0).tensor("t", &[2, 2], 0, 0).data(32);
    let parsed = Gguf::parse(&file.0).unwrap();
    assert_eq!(parsed.version(), 2);
    assert_eq!(parsed.alignment_bytes(), 32);
    assert_eq!(parsed.tensor("t").map(|tensor| tensor.size_bytes), Some(16));
    assert_eq!(parsed.tensor("u"), None);
}

#[test]
fn data_of_a_foreign_description_is_empty() {
    let bytes = small_file();
    let parsed = Gguf::parse(&bytes).unwrap();
    let mut foreign = parsed.tensors()[0].clone();
    foreign.offset_bytes = u64::MAX;
    assert!(parsed.data(&foreign).is_empty());
    foreign.offset_bytes = 32;
    foreign.size_bytes = 1 << 40;
    assert!(parsed.data(&foreign).is_empty());
}

#[test]
fn hostile_headers_are_refused() {
    let text = |raw: Raw| raw.error().to_string();
    assert_eq!(
        text(Raw::default().bytes(b"PK\x03\x04")),
        "file starts with [50, 4b, 03, 04], expected `GGUF`"
    );
    assert_eq!(text(Raw::header(1, 0, 0)), "file has GGUF version 1, expected 2 or 3");
    assert_eq!(text(Raw::header(4, 0, 0)), "file has GGUF version 4, expected 2 or 3");
    assert_eq!(Raw::header(3 << 24, 0, 0).error(), GgufError::BigEndian { got: 3 << 24 });
    let tensors = Raw::header(3, u64::MAX, 0).error();
    assert_eq!(tensors, GgufError::Count { what: "tensors", got: u64::MAX, limit: 0 });
    let keys = Raw::header(3, 0, 1 << 40).data(1 << 10).error();
    assert!(matches!(keys, GgufError::Count { what: "metadata keys", .. }));
}

#[test]
fn hostile_metadata_is_refused() {
    let key = |key: &str| Raw::header(3, 0, 1).text(key);
    let room = [0; 32];
    assert_eq!(key("").bytes(&room).error(), GgufError::EmptyKey { index: 0 });
    assert!(matches!(key("a\0b").bytes(&room).error(), GgufError::Nul { .. }));
    assert!(matches!(key("a").u32(13).u64(0).error(), GgufError::ValueType { got: 13, .. }));
    assert!(matches!(key("a").u32(7).bytes(&[2; 9]).error(), GgufError::Bool { got: 2, .. }));
    let array = |type_id, len| key("a").u32(9).u32(type_id).u64(len);
    assert!(matches!(array(9, 1).bytes(&room).error(), GgufError::NestedArray { .. }));
    assert!(matches!(array(13, 0).error(), GgufError::ValueType { got: 13, .. }));
    assert!(matches!(array(4, 1 << 30).error(), GgufError::Truncated { .. }));
    assert!(matches!(array(8, 1 << 30).error(), GgufError::ArrayLength { limit: 0, .. }));
    assert!(matches!(array(0, u64::MAX).error(), GgufError::ArrayLength { .. }));
    assert!(matches!(key("a").u32(8).u64(9).error(), GgufError::Truncated { .. }));
    let long = key("a").u32(8).u64(u64::MAX).error();
    assert!(matches!(long, GgufError::StringLength { got_bytes: u64::MAX, .. }));
    let text = key("a").u32(8).u64(2).bytes(b"a\xff").error();
    assert_eq!(text.to_string(), "the value of `a` is not UTF-8 from its byte 1 on");
    let twice = Raw::header(3, 0, 2).text("a").u32(4).u32(1).text("a").u32(4).u32(1);
    assert_eq!(twice.error(), GgufError::DuplicateKey { key: "a".into() });
    for bytes in [0, 3, 48] {
        let alignment = key("general.alignment").u32(4).u32(bytes).error();
        assert_eq!(alignment, GgufError::Alignment { got: bytes.to_string() });
    }
    let alignment = key("general.alignment").u32(10).u64(32).error();
    assert_eq!(alignment, GgufError::Alignment { got: "a u64".into() });
}

#[test]
fn hostile_tensors_are_refused() {
    let one = |dimensions: &[u64], type_id, offset| {
        Raw::header(3, 1, 0).tensor("t", dimensions, type_id, offset).data(64).error()
    };
    assert!(matches!(one(&[], 0, 0), GgufError::DimensionCount { got: 0, .. }));
    assert!(matches!(one(&[1; 5], 0, 0), GgufError::DimensionCount { got: 5, .. }));
    assert!(matches!(one(&[0], 0, 0), GgufError::ZeroDimension { .. }));
    assert!(matches!(one(&[1], 4, 0), GgufError::TensorType { got: 4, .. }));
    assert!(matches!(one(&[8], 8, 0), GgufError::RowLength { got: 8, .. }));
    assert!(matches!(one(&[u64::MAX, 3], 0, 0), GgufError::TensorOverflow { .. }));
    assert!(matches!(one(&[1 << 60], 0, 0), GgufError::TensorData { .. }));
    assert!(matches!(one(&[17], 0, 0), GgufError::TensorData { end_bytes: 68, .. }));
    assert!(matches!(one(&[1], 0, 32), GgufError::Offset { expected_bytes: 0, .. }));

    let two = |name: &str, offset| {
        let first = Raw::header(3, 2, 0).tensor("t", &[9], 0, 0);
        first.tensor(name, &[1], 0, offset).data(96).error()
    };
    assert_eq!(two("t", 64), GgufError::DuplicateTensor { tensor: "t".into() });
    for offset in [0, 32, 36, 96, u64::MAX] {
        let expected =
            GgufError::Offset { tensor: "u".into(), expected_bytes: 64, got_bytes: offset };
        assert_eq!(two("u", offset), expected);
    }
    for name in ["", &"n".repeat(64)] {
        let raw = Raw::header(3, 1, 0).tensor(name, &[1], 0, 0).data(64);
        assert!(matches!(raw.error(), GgufError::TensorName { .. }));
    }
    let mut raw = Raw::header(3, 1, 0).tensor("t", &[1], 0, 0).data(32);
    *raw.0.last_mut().unwrap() = 1;
    let text = raw.error().to_string();
    assert_eq!(text, "padding after tensor `t` has 0x01 at its byte 27, expected zero");
}
