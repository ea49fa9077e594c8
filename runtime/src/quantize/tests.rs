//! Tests of `quantize`.

use std::fs;

use proptest::prelude::*;

use super::{Quantization, QuantizeError, dequantize, quantize};

fn golden(name: &str) -> Vec<u8> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/golden/quant");
    fs::read(format!("{folder}/{name}")).unwrap()
}

fn golden_input() -> Vec<f32> {
    dequantize(Quantization::F32, &golden("input.64x1024.f32")).unwrap()
}

#[test]
fn bytes_equal_those_of_ggml() {
    let values = golden_input();
    assert_eq!(values.len(), 64 * 1024);
    for quantization in Quantization::ALL {
        let file = match quantization {
            Quantization::F32 => "input.64x1024.f32".to_owned(),
            other => format!("{}.bin", other.name().to_uppercase()),
        };
        let got = quantize("golden", quantization, 1024, &values).unwrap();
        let expected = golden(&file);
        let first = got.iter().zip(&expected).position(|(got, expected)| got != expected);
        assert_eq!((first, got.len()), (None, expected.len()), "{quantization}");
    }
}

#[test]
fn names_round_trip_and_match_the_tensor_type() {
    for quantization in Quantization::ALL {
        let name = quantization.to_string();
        assert_eq!(name.parse(), Ok(quantization));
        assert_eq!(serde_json::to_value(quantization).unwrap(), name.as_str());
        let ggml_type = quantization.ggml_type();
        assert_eq!(ggml_type.block_len(), quantization.block_len() as u64);
        assert_eq!(ggml_type.block_bytes(), quantization.block_bytes() as u64);
    }
    for name in ["Q8_0", "q4_K", "", "f32 "] {
        let error = name.parse::<Quantization>().unwrap_err();
        assert_eq!(error, QuantizeError::Name { got: name.into() });
    }
}

#[test]
fn short_rows_fall_back_to_f16() {
    assert_eq!(Quantization::Q8_0.for_row_length(8), Quantization::F16);
    assert_eq!(Quantization::Q5_1.for_row_length(48), Quantization::F16);
    assert_eq!(Quantization::Q8_0.for_row_length(576), Quantization::Q8_0);
    assert_eq!(Quantization::F32.for_row_length(8), Quantization::F32);
}

#[test]
fn what_cannot_be_stored_is_named() {
    let error = |quantization, row_length, values: &[f32]| {
        quantize("t", quantization, row_length, values).unwrap_err().to_string()
    };
    assert_eq!(
        error(Quantization::F32, 2, &[0.0, f32::NAN]),
        "tensor `t` has the value NaN at index 1, expected a finite number"
    );
    assert_eq!(
        error(Quantization::Q8_0, 8, &[0.0; 8]),
        "tensor `t` has rows of 8 values, expected a positive multiple of 32 for `q8_0`"
    );
    assert_eq!(
        error(Quantization::F16, 3, &[0.0; 4]),
        "tensor `t` has 4 values, expected a multiple of its row length 3"
    );
    assert_eq!(
        error(Quantization::F16, 1, &[1.0, -65520.0]),
        "tensor `t` needs -65520 at index 1, which overflows the 16-bit floats of `f16`"
    );
    let overflow =
        |quantization, values: &[f32]| match quantize("t", quantization, values.len(), values) {
            Err(QuantizeError::Overflow { index, .. }) => Some(index),
            _ => None,
        };
    assert_eq!(overflow(Quantization::Bf16, &[0.0, f32::MAX]), Some(1));
    let mut values = [0.0; 64];
    values[40] = 1e9;
    assert_eq!(overflow(Quantization::Q4_0, &values), Some(32));
    assert_eq!(overflow(Quantization::F16, &[65504.0]), None);
    assert!(matches!(
        quantize("t", Quantization::F32, 0, &[]),
        Err(QuantizeError::RowLength { got: 0, .. })
    ));
    assert_eq!(quantize("t", Quantization::Q4_1, 32, &[]), Ok(Vec::new()));
    assert!(matches!(
        dequantize(Quantization::Q8_0, &[0; 33]),
        Err(QuantizeError::ByteCount { block_bytes: 34, got_bytes: 33, .. })
    ));
}

/// Largest error that a block's format allows: one step, and the rounding of its `f16` parts.
fn tolerance(quantization: Quantization, block: &[f32]) -> f32 {
    let amax = block.iter().fold(0.0_f32, |amax, value| amax.max(value.abs()));
    let min = block.iter().copied().fold(f32::INFINITY, f32::min);
    let max = block.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let step = match quantization {
        Quantization::F32 => return 0.0,
        Quantization::F16 => amax / 2048.0,
        Quantization::Bf16 => amax / 256.0,
        Quantization::Q8_0 => amax / 127.0,
        Quantization::Q4_0 => amax / 8.0,
        Quantization::Q4_1 => (max - min) / 15.0 + amax / 2048.0,
        Quantization::Q5_0 => amax / 16.0,
        Quantization::Q5_1 => (max - min) / 31.0 + amax / 2048.0,
    };
    step * 1.01 + 1e-5
}

proptest! {
    #[test]
    fn the_error_is_at_most_one_step(
        factor in proptest::sample::select(vec![1e-3_f32, 0.01, 0.1, 1.0, 10.0, 100.0, 1e3]),
        unit in proptest::collection::vec(-1.0_f32..1.0, 64),
    ) {
        let values: Vec<f32> = unit.iter().map(|value| value * factor).collect();
        for quantization in Quantization::ALL {
            let bytes = quantize("t", quantization, 64, &values).unwrap();
            let read = dequantize(quantization, &bytes).unwrap();
            prop_assert_eq!(read.len(), values.len());
            for (block, read) in values.chunks(32).zip(read.chunks(32)) {
                let tolerance = tolerance(quantization, block);
                for (value, read) in block.iter().zip(read) {
                    let error = (value - read).abs();
                    prop_assert!(
                        error <= tolerance,
                        "{} as {}: {} becomes {}", quantization, tolerance, value, read
                    );
                }
            }
        }
    }
}
