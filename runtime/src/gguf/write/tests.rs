//! Tests of `write`.

use proptest::prelude::*;

use super::{GgufWriter, Value};
use crate::gguf::{ArrayValue, GgmlType, Gguf, GgufError};

#[test]
fn a_tiny_file_has_exactly_these_bytes() {
    let mut writer = GgufWriter::new();
    writer.metadata("k", Value::F32(1.0)).unwrap();
    writer.metadata("general.architecture", Value::String("llama".into())).unwrap();
    writer.metadata("n", Value::Array(ArrayValue::U16(vec![1, 2]))).unwrap();
    writer.tensor("t", &[2, 1], GgmlType::F16, vec![1, 2, 3, 4]).unwrap();

    let mut expected = Vec::new();
    expected.extend(b"GGUF\x03\0\0\0\x01\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0");
    expected.extend(b"\x14\0\0\0\0\0\0\0general.architecture\x08\0\0\0");
    expected.extend(b"\x05\0\0\0\0\0\0\0llama");
    expected.extend(b"\x01\0\0\0\0\0\0\0k\x06\0\0\0\0\0\x80\x3f");
    expected.extend(b"\x01\0\0\0\0\0\0\0n\x09\0\0\0\x02\0\0\0");
    expected.extend(b"\x02\0\0\0\0\0\0\0\x01\0\x02\0");
    expected.extend(b"\x01\0\0\0\0\0\0\0t\x02\0\0\0\x02\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0");
    expected.extend(b"\x01\0\0\0\0\0\0\0\0\0\0\0");
    expected.resize(expected.len().next_multiple_of(32), 0);
    expected.extend([1, 2, 3, 4]);
    expected.resize(expected.len() + 28, 0);
    assert_eq!(writer.finish().unwrap(), expected);
}

#[test]
fn what_readers_refuse_is_not_written() {
    let mut writer = GgufWriter::new();
    writer.metadata("a", Value::U8(1)).unwrap();
    assert!(matches!(
        writer.metadata("a", Value::U8(1)),
        Err(GgufError::DuplicateKey { key }) if key == "a"
    ));
    assert_eq!(writer.metadata("", Value::U8(1)), Err(GgufError::EmptyKey { index: 1 }));
    writer.metadata("general.alignment", Value::U32(64)).unwrap_err();
    writer.metadata("general.alignment", Value::U64(32)).unwrap_err();
    writer.metadata("general.alignment", Value::U32(32)).unwrap();

    let mut tensor = |name: &str, dimensions: &[u64], len: usize| {
        writer.tensor(name, dimensions, GgmlType::Q8_0, vec![0; len])
    };
    tensor("t", &[32], 34).unwrap();
    assert!(matches!(tensor("t", &[32], 34), Err(GgufError::DuplicateTensor { .. })));
    assert_eq!(
        tensor("u", &[32], 33).unwrap_err().to_string(),
        "tensor `u` has 33 bytes of data, expected 34"
    );
    assert!(matches!(tensor("u", &[8], 34), Err(GgufError::RowLength { .. })));
    assert!(matches!(
        tensor(&"n".repeat(64), &[32], 34),
        Err(GgufError::TensorName { got_bytes: 64, .. })
    ));
    tensor(&"n".repeat(63), &[32], 34).unwrap();
    assert_eq!(Gguf::parse(&writer.finish().unwrap()).unwrap().tensors().len(), 2);
}

#[test]
fn an_empty_file_is_a_file() {
    let bytes = GgufWriter::new().finish().unwrap();
    assert_eq!(bytes.len(), 32);
    assert!(Gguf::parse(&bytes).unwrap().metadata().is_empty());
}

fn array() -> impl Strategy<Value = ArrayValue> {
    use proptest::collection::vec;
    prop_oneof![
        vec(any::<u8>(), 0..9).prop_map(ArrayValue::U8),
        vec(any::<i8>(), 0..9).prop_map(ArrayValue::I8),
        vec(any::<u16>(), 0..9).prop_map(ArrayValue::U16),
        vec(any::<i16>(), 0..9).prop_map(ArrayValue::I16),
        vec(any::<u32>(), 0..9).prop_map(ArrayValue::U32),
        vec(any::<i32>(), 0..9).prop_map(ArrayValue::I32),
        vec(any::<f32>(), 0..9).prop_map(ArrayValue::F32),
        vec(any::<bool>(), 0..9).prop_map(ArrayValue::Bool),
        vec(".{0,12}", 0..9).prop_map(ArrayValue::String),
        prop_oneof![
            vec(any::<u64>(), 0..9).prop_map(ArrayValue::U64),
            vec(any::<i64>(), 0..9).prop_map(ArrayValue::I64),
            vec(any::<f64>(), 0..9).prop_map(ArrayValue::F64),
        ],
    ]
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<u8>().prop_map(Value::U8),
        any::<i8>().prop_map(Value::I8),
        any::<u16>().prop_map(Value::U16),
        any::<i16>().prop_map(Value::I16),
        any::<u32>().prop_map(Value::U32),
        any::<i32>().prop_map(Value::I32),
        any::<f32>().prop_map(Value::F32),
        any::<bool>().prop_map(Value::Bool),
        ".{0,40}".prop_map(Value::String),
        prop_oneof![
            array().prop_map(Value::Array),
            any::<u64>().prop_map(Value::U64),
            any::<i64>().prop_map(Value::I64),
            any::<f64>().prop_map(Value::F64),
        ],
    ]
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        values in proptest::collection::vec(value(), 0..8),
        shapes in proptest::collection::vec((1_u64..4, 1_u64..4, any::<bool>()), 0..5),
        seed in any::<u8>(),
    ) {
        let mut writer = GgufWriter::new();
        for (index, value) in values.iter().enumerate() {
            writer.metadata(&format!("key.{index}"), value.clone()).unwrap();
        }
        let mut written = Vec::new();
        for (index, &(blocks, rows, quantized)) in shapes.iter().enumerate() {
            let (ggml_type, columns, row_bytes) = if quantized {
                (GgmlType::Q8_0, 32 * blocks, 34 * blocks)
            } else {
                (GgmlType::F32, blocks, 4 * blocks)
            };
            let bytes: Vec<u8> =
                (0..rows * row_bytes).map(|at| seed.wrapping_add(at.to_le_bytes()[0])).collect();
            let dimensions = [columns, rows];
            writer
                .tensor(&format!("t.{index}"), &dimensions, ggml_type, bytes.clone())
                .unwrap();
            written.push((dimensions, ggml_type, bytes));
        }
        let file = writer.clone().finish().unwrap();
        prop_assert_eq!(&file, &writer.finish().unwrap());

        let parsed = Gguf::parse(&file).unwrap();
        let read: Vec<Value> =
            parsed.metadata().iter().map(|(_, value)| value.clone()).collect();
        prop_assert_eq!(read, values);
        prop_assert_eq!(parsed.tensors().len(), written.len());
        for (index, (dimensions, ggml_type, bytes)) in written.iter().enumerate() {
            let tensor = parsed.tensor(&format!("t.{index}")).unwrap();
            prop_assert_eq!(&tensor.dimensions[..], &dimensions[..]);
            prop_assert_eq!(tensor.ggml_type, *ggml_type);
            prop_assert_eq!(parsed.data(tensor), &bytes[..]);
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(
        tensors in 0_u64..3,
        keys in 0_u64..3,
        tail in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend(tensors.to_le_bytes());
        bytes.extend(keys.to_le_bytes());
        bytes.extend(tail);
        let _ = Gguf::parse(&bytes);
    }
}
