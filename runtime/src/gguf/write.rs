//! Writes a GGUF file, version 3, little-endian, alignment 32.
//!
//! In: metadata and tensors, in the order wanted. Out: the bytes of the file. Equal calls give
//! equal bytes: nothing is sorted by a hash, dated or numbered. `general.architecture` comes
//! first, as readers that look at the first key only expect; everything else keeps its order.
//! Padding is zero and follows the last tensor too, which readers of the whole data section need.

use std::collections::HashSet;

use super::{
    ALIGNMENT_KEY, ARRAY_MAX_LEN, ArrayValue, DEFAULT_ALIGNMENT_BYTES, GgmlType, Gguf, GgufError,
    MAGIC, STRING_MAX_BYTES, VERSION, Value, check_key, check_tensor_name, tensor_size_bytes,
};

/// Key that is written before all others.
const FIRST_KEY: &str = "general.architecture";

/// Collects metadata and tensors, then gives the bytes of the file.
#[derive(Debug, Clone, Default)]
pub struct GgufWriter {
    keys: HashSet<String>,
    metadata: Vec<(String, Value)>,
    names: HashSet<String>,
    tensors: Vec<Tensor>,
}

#[derive(Debug, Clone)]
struct Tensor {
    name: String,
    dimensions: Vec<u64>,
    ggml_type: GgmlType,
    bytes: Vec<u8>,
}

impl GgufWriter {
    /// A file without metadata and tensors.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a key.
    ///
    /// # Errors
    /// If the key is empty, has a NUL byte or was added before, if a string or an array is longer
    /// than readers take, or if it sets an alignment other than 32.
    pub fn metadata(&mut self, key: &str, value: Value) -> Result<(), GgufError> {
        check_key(self.metadata.len(), key)?;
        if self.keys.contains(key) {
            return Err(GgufError::DuplicateKey { key: key.to_owned() });
        }
        check_lengths(key, &value)?;
        if key == ALIGNMENT_KEY && value.as_u32() != Some(DEFAULT_ALIGNMENT_BYTES) {
            return Err(GgufError::WriterAlignment { got: format!("{value:?}") });
        }
        self.keys.insert(key.to_owned());
        self.metadata.push((key.to_owned(), value));
        Ok(())
    }

    /// Adds a tensor: `dimensions` in ne order (contiguous first), `bytes` as the type stores them.
    ///
    /// # Errors
    /// If the name has not 1 to 63 bytes, has a NUL byte or was added before, if the shape is not
    /// allowed for the type, or if `bytes` is not exactly as long as shape and type say.
    pub fn tensor(
        &mut self,
        name: &str,
        dimensions: &[u64],
        ggml_type: GgmlType,
        bytes: Vec<u8>,
    ) -> Result<(), GgufError> {
        check_tensor_name(self.tensors.len(), name)?;
        if self.names.contains(name) {
            return Err(GgufError::DuplicateTensor { tensor: name.to_owned() });
        }
        let expected_bytes = tensor_size_bytes(name, dimensions, ggml_type)?;
        let got_bytes = bytes.len() as u64;
        if got_bytes != expected_bytes {
            return Err(GgufError::TensorBytes {
                tensor: name.to_owned(),
                expected_bytes,
                got_bytes,
            });
        }
        self.names.insert(name.to_owned());
        let (name, dimensions) = (name.to_owned(), dimensions.to_vec());
        self.tensors.push(Tensor { name, dimensions, ggml_type, bytes });
        Ok(())
    }

    /// The bytes of the file.
    ///
    /// # Errors
    /// If an offset overflows, or if the strict reader does not take the result.
    pub fn finish(mut self) -> Result<Vec<u8>, GgufError> {
        // A stable sort by "is not the first key" moves one entry and keeps the rest in order.
        self.metadata.sort_by_key(|(key, _)| key != FIRST_KEY);

        let mut out = Vec::new();
        out.extend(MAGIC);
        out.extend(VERSION.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, value) in &self.metadata {
            write_string(&mut out, key);
            out.extend(value.type_id().to_le_bytes());
            write_value(&mut out, value);
        }
        write_tensor_infos(&mut out, &self.tensors)?;
        pad(&mut out);
        for tensor in self.tensors {
            out.extend(tensor.bytes);
            pad(&mut out);
        }
        Gguf::parse(&out)?;
        Ok(out)
    }
}

fn check_lengths(key: &str, value: &Value) -> Result<(), GgufError> {
    let what = || format!("the value of `{key}`");
    let strings = match value {
        Value::String(text) => std::slice::from_ref(text),
        Value::Array(array) => {
            let got = array.len() as u64;
            if got > ARRAY_MAX_LEN {
                let limit = ARRAY_MAX_LEN;
                return Err(GgufError::ArrayLength { what: what(), got, limit });
            }
            array.as_strings().unwrap_or_default()
        }
        _ => &[],
    };
    for text in strings {
        let got_bytes = text.len() as u64;
        if got_bytes > STRING_MAX_BYTES {
            let limit_bytes = STRING_MAX_BYTES;
            return Err(GgufError::StringLength { what: what(), got_bytes, limit_bytes });
        }
    }
    Ok(())
}

fn write_tensor_infos(out: &mut Vec<u8>, tensors: &[Tensor]) -> Result<(), GgufError> {
    let mut offset_bytes = 0_u64;
    for tensor in tensors {
        write_string(out, &tensor.name);
        let count = u32::try_from(tensor.dimensions.len());
        let count = count.expect("at most four dimensions, checked when the tensor was added");
        out.extend(count.to_le_bytes());
        write_numbers(out, &tensor.dimensions, u64::to_le_bytes);
        out.extend(tensor.ggml_type.id().to_le_bytes());
        out.extend(offset_bytes.to_le_bytes());
        offset_bytes = offset_bytes
            .checked_add(tensor.bytes.len() as u64)
            .and_then(|end| end.checked_next_multiple_of(u64::from(DEFAULT_ALIGNMENT_BYTES)))
            .ok_or_else(|| GgufError::TensorOverflow {
                tensor: tensor.name.clone(),
                dimensions: tensor.dimensions.clone(),
            })?;
    }
    Ok(())
}

fn write_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::U8(value) => out.extend(value.to_le_bytes()),
        Value::I8(value) => out.extend(value.to_le_bytes()),
        Value::U16(value) => out.extend(value.to_le_bytes()),
        Value::I16(value) => out.extend(value.to_le_bytes()),
        Value::U32(value) => out.extend(value.to_le_bytes()),
        Value::I32(value) => out.extend(value.to_le_bytes()),
        Value::F32(value) => out.extend(value.to_le_bytes()),
        Value::Bool(value) => out.push(u8::from(*value)),
        Value::String(value) => write_string(out, value),
        Value::Array(value) => {
            out.extend(value.element_type_id().to_le_bytes());
            out.extend((value.len() as u64).to_le_bytes());
            write_elements(out, value);
        }
        Value::U64(value) => out.extend(value.to_le_bytes()),
        Value::I64(value) => out.extend(value.to_le_bytes()),
        Value::F64(value) => out.extend(value.to_le_bytes()),
    }
}

fn write_elements(out: &mut Vec<u8>, array: &ArrayValue) {
    match array {
        ArrayValue::U8(values) => out.extend(values),
        ArrayValue::I8(values) => write_numbers(out, values, i8::to_le_bytes),
        ArrayValue::U16(values) => write_numbers(out, values, u16::to_le_bytes),
        ArrayValue::I16(values) => write_numbers(out, values, i16::to_le_bytes),
        ArrayValue::U32(values) => write_numbers(out, values, u32::to_le_bytes),
        ArrayValue::I32(values) => write_numbers(out, values, i32::to_le_bytes),
        ArrayValue::F32(values) => write_numbers(out, values, f32::to_le_bytes),
        ArrayValue::Bool(values) => out.extend(values.iter().map(|value| u8::from(*value))),
        ArrayValue::String(values) => values.iter().for_each(|text| write_string(out, text)),
        ArrayValue::U64(values) => write_numbers(out, values, u64::to_le_bytes),
        ArrayValue::I64(values) => write_numbers(out, values, i64::to_le_bytes),
        ArrayValue::F64(values) => write_numbers(out, values, f64::to_le_bytes),
    }
}

fn write_numbers<T: Copy, const N: usize>(
    out: &mut Vec<u8>,
    values: &[T],
    to_le_bytes: fn(T) -> [u8; N],
) {
    out.extend(values.iter().flat_map(|value| to_le_bytes(*value)));
}

fn write_string(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// Appends zeros up to a multiple of the alignment.
fn pad(out: &mut Vec<u8>) {
    let alignment = DEFAULT_ALIGNMENT_BYTES as usize;
    out.resize(out.len().next_multiple_of(alignment), 0);
}

#[cfg(test)]
mod tests;
