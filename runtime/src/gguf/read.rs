//! Reads a GGUF file, version 2 or 3, little-endian.
//!
//! In: the whole file as bytes, usually a memory map; nothing in it is trusted. Out: a [`Gguf`],
//! which owns the metadata and the tensor descriptions and borrows the tensor data.
//!
//! Memory stays proportional to the bytes present: counts are compared with what the rest of the
//! file can hold before anything is allocated. Every tensor of a parsed file lies inside the file.
//! Missing padding after the last tensor is tolerated, as are further bytes after it.

use std::collections::{HashMap, HashSet};

use super::{
    ALIGNMENT_KEY, ARRAY_MAX_LEN, ArrayValue, DEFAULT_ALIGNMENT_BYTES, DIMENSIONS_MAX, GgmlType,
    GgufError, MAGIC, STRING_MAX_BYTES, TensorInfo, VERSION, Value, check_key, check_tensor_name,
    tensor_size_bytes,
};

/// Fewest bytes of a key with its value: length, one byte, type, one byte.
const KEY_MIN_BYTES: u64 = 8 + 1 + 4 + 1;
/// Fewest bytes of a tensor description: length, one byte, count, one dimension, type, offset.
const TENSOR_MIN_BYTES: u64 = 8 + 1 + 4 + 8 + 4 + 8;
/// Most elements to reserve memory for before any of them is read.
const RESERVED_MAX: usize = 4096;

/// A parsed file.
#[derive(Debug, Clone)]
pub struct Gguf<'a> {
    version: u32,
    alignment_bytes: u64,
    metadata: Vec<(String, Value)>,
    tensors: Vec<TensorInfo>,
    tensor_by_name: HashMap<String, usize>,
    data: &'a [u8],
}

impl<'a> Gguf<'a> {
    /// Parses a whole file. The tensor data is checked for its place, never for its content.
    ///
    /// # Errors
    /// Any violation of the rules in [`crate::gguf`], with the key or tensor at fault.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, GgufError> {
        let mut cursor = Cursor::new(bytes);
        let header = read_header(&mut cursor)?;
        let metadata = read_metadata(&mut cursor, header.key_count)?;
        let alignment_bytes = alignment_of(&metadata)?;
        let tensors = read_tensor_infos(&mut cursor, header.tensor_count)?;

        let infos_end = cursor.offset_bytes();
        // A start past the end leaves an empty section, which only a file without tensors passes.
        let data_start = infos_end.checked_next_multiple_of(alignment_bytes).unwrap_or(u64::MAX);
        check_padding(bytes, infos_end, data_start, || "the tensor descriptions".to_owned())?;
        let data = slice(bytes, data_start, bytes.len() as u64);
        check_layout(&tensors, data, alignment_bytes)?;

        let tensor_by_name =
            tensors.iter().enumerate().map(|(index, tensor)| (tensor.name.clone(), index));
        Ok(Self {
            version: header.version,
            alignment_bytes,
            tensor_by_name: tensor_by_name.collect(),
            metadata,
            tensors,
            data,
        })
    }

    /// Format version, 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Alignment of tensor data in bytes, a power of two.
    pub fn alignment_bytes(&self) -> u64 {
        self.alignment_bytes
    }

    /// Keys and values in file order.
    pub fn metadata(&self) -> &[(String, Value)] {
        &self.metadata
    }

    /// The value of a key, if the file has it.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.metadata.iter().find_map(|(name, value)| (name == key).then_some(value))
    }

    /// Descriptions of all tensors in file order.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The description of a tensor, if the file has it.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensor_by_name.get(name).and_then(|&index| self.tensors.get(index))
    }

    /// The bytes of one of this file's tensors, without padding; empty for a description whose
    /// place is not inside this file.
    pub fn data(&self, tensor: &TensorInfo) -> &'a [u8] {
        let end = tensor.offset_bytes.checked_add(tensor.size_bytes);
        match end {
            Some(end) if end <= self.data.len() as u64 => {
                slice(self.data, tensor.offset_bytes, end)
            }
            _ => &[],
        }
    }
}

struct Header {
    version: u32,
    tensor_count: u64,
    key_count: u64,
}

fn read_header(cursor: &mut Cursor<'_>) -> Result<Header, GgufError> {
    let what = "the header";
    let magic: [u8; 4] = cursor.array(what)?;
    if magic != MAGIC {
        return Err(GgufError::Magic { got: magic });
    }
    let version = u32::from_le_bytes(cursor.array(what)?);
    if version != 0 && version.trailing_zeros() >= 16 {
        return Err(GgufError::BigEndian { got: version });
    }
    if !(2..=VERSION).contains(&version) {
        return Err(GgufError::Version { got: version });
    }
    let tensor_count = u64::from_le_bytes(cursor.array(what)?);
    let key_count = u64::from_le_bytes(cursor.array(what)?);
    for (what, got, item_bytes) in
        [("metadata keys", key_count, KEY_MIN_BYTES), ("tensors", tensor_count, TENSOR_MIN_BYTES)]
    {
        let limit = cursor.remaining_bytes() / item_bytes;
        if got > limit {
            return Err(GgufError::Count { what, got, limit });
        }
    }
    Ok(Header { version, tensor_count, key_count })
}

fn read_metadata(cursor: &mut Cursor<'_>, count: u64) -> Result<Vec<(String, Value)>, GgufError> {
    let mut metadata = Vec::new();
    let mut seen = HashSet::new();
    for _ in 0..count {
        let index = metadata.len();
        let key = cursor.string(&format!("metadata key {index}"))?;
        check_key(index, key)?;
        if !seen.insert(key) {
            return Err(GgufError::DuplicateKey { key: key.to_owned() });
        }
        let what = format!("the value of `{key}`");
        let type_id = u32::from_le_bytes(cursor.array(&what)?);
        metadata.push((key.to_owned(), read_value(cursor, type_id, &what)?));
    }
    Ok(metadata)
}

fn read_value(cursor: &mut Cursor<'_>, type_id: u32, what: &str) -> Result<Value, GgufError> {
    Ok(match type_id {
        0 => Value::U8(u8::from_le_bytes(cursor.array(what)?)),
        1 => Value::I8(i8::from_le_bytes(cursor.array(what)?)),
        2 => Value::U16(u16::from_le_bytes(cursor.array(what)?)),
        3 => Value::I16(i16::from_le_bytes(cursor.array(what)?)),
        4 => Value::U32(u32::from_le_bytes(cursor.array(what)?)),
        5 => Value::I32(i32::from_le_bytes(cursor.array(what)?)),
        6 => Value::F32(f32::from_le_bytes(cursor.array(what)?)),
        7 => Value::Bool(boolean(u8::from_le_bytes(cursor.array(what)?), what)?),
        8 => Value::String(cursor.string(what)?.to_owned()),
        9 => Value::Array(read_array(cursor, what)?),
        10 => Value::U64(u64::from_le_bytes(cursor.array(what)?)),
        11 => Value::I64(i64::from_le_bytes(cursor.array(what)?)),
        12 => Value::F64(f64::from_le_bytes(cursor.array(what)?)),
        got => {
            return Err(GgufError::ValueType { what: what.to_owned(), got });
        }
    })
}

fn read_array(cursor: &mut Cursor<'_>, what: &str) -> Result<ArrayValue, GgufError> {
    let type_id = u32::from_le_bytes(cursor.array(what)?);
    let len = u64::from_le_bytes(cursor.array(what)?);
    if len > ARRAY_MAX_LEN {
        return Err(GgufError::ArrayLength {
            what: what.to_owned(),
            got: len,
            limit: ARRAY_MAX_LEN,
        });
    }
    Ok(match type_id {
        0 => ArrayValue::U8(cursor.take(len, what)?.to_vec()),
        1 => ArrayValue::I8(read_numbers(cursor, len, what, i8::from_le_bytes)?),
        2 => ArrayValue::U16(read_numbers(cursor, len, what, u16::from_le_bytes)?),
        3 => ArrayValue::I16(read_numbers(cursor, len, what, i16::from_le_bytes)?),
        4 => ArrayValue::U32(read_numbers(cursor, len, what, u32::from_le_bytes)?),
        5 => ArrayValue::I32(read_numbers(cursor, len, what, i32::from_le_bytes)?),
        6 => ArrayValue::F32(read_numbers(cursor, len, what, f32::from_le_bytes)?),
        7 => {
            let bytes = cursor.take(len, what)?.iter();
            ArrayValue::Bool(bytes.map(|&byte| boolean(byte, what)).collect::<Result<_, _>>()?)
        }
        8 => ArrayValue::String(read_strings(cursor, len, what)?),
        9 => {
            return Err(GgufError::NestedArray { what: what.to_owned() });
        }
        10 => ArrayValue::U64(read_numbers(cursor, len, what, u64::from_le_bytes)?),
        11 => ArrayValue::I64(read_numbers(cursor, len, what, i64::from_le_bytes)?),
        12 => ArrayValue::F64(read_numbers(cursor, len, what, f64::from_le_bytes)?),
        got => {
            return Err(GgufError::ValueType { what: what.to_owned(), got });
        }
    })
}

/// Reads `len` numbers of `N` bytes.
fn read_numbers<T, const N: usize>(
    cursor: &mut Cursor<'_>,
    len: u64,
    what: &str,
    from_le_bytes: fn([u8; N]) -> T,
) -> Result<Vec<T>, GgufError> {
    // The length is at most `ARRAY_MAX_LEN` and `N` at most 8: the product cannot overflow.
    let (numbers, _) = cursor.take(len * N as u64, what)?.as_chunks::<N>();
    Ok(numbers.iter().map(|&bytes| from_le_bytes(bytes)).collect())
}

fn read_strings(cursor: &mut Cursor<'_>, len: u64, what: &str) -> Result<Vec<String>, GgufError> {
    // Each string takes at least the eight bytes of its length.
    let limit = cursor.remaining_bytes() / 8;
    if len > limit {
        return Err(GgufError::ArrayLength { what: what.to_owned(), got: len, limit });
    }
    let reserved = usize::try_from(len).map_or(RESERVED_MAX, |len| len.min(RESERVED_MAX));
    let mut strings = Vec::with_capacity(reserved);
    for _ in 0..len {
        strings.push(cursor.string(what)?.to_owned());
    }
    Ok(strings)
}

fn boolean(byte: u8, what: &str) -> Result<bool, GgufError> {
    match byte {
        0 => Ok(false),
        1 => Ok(true),
        got => Err(GgufError::Bool { what: what.to_owned(), got }),
    }
}

/// The alignment that the metadata asks for.
fn alignment_of(metadata: &[(String, Value)]) -> Result<u64, GgufError> {
    match metadata.iter().find(|(key, _)| key == ALIGNMENT_KEY) {
        None => Ok(u64::from(DEFAULT_ALIGNMENT_BYTES)),
        Some((_, Value::U32(bytes))) if bytes.is_power_of_two() => Ok(u64::from(*bytes)),
        Some((_, Value::U32(bytes))) => Err(GgufError::Alignment { got: bytes.to_string() }),
        Some((_, value)) => Err(GgufError::Alignment { got: format!("a {}", value.type_name()) }),
    }
}

fn read_tensor_infos(cursor: &mut Cursor<'_>, count: u64) -> Result<Vec<TensorInfo>, GgufError> {
    let mut tensors = Vec::new();
    let mut seen = HashSet::new();
    for _ in 0..count {
        let index = tensors.len();
        let name = cursor.string(&format!("the name of tensor {index}"))?;
        check_tensor_name(index, name)?;
        if !seen.insert(name) {
            return Err(GgufError::DuplicateTensor { tensor: name.to_owned() });
        }
        tensors.push(read_tensor_info(cursor, name)?);
    }
    Ok(tensors)
}

/// Reads what follows a tensor's name.
fn read_tensor_info(cursor: &mut Cursor<'_>, name: &str) -> Result<TensorInfo, GgufError> {
    let what = format!("the description of tensor `{name}`");
    let dimension_count = u64::from(u32::from_le_bytes(cursor.array(&what)?));
    if !(1..=DIMENSIONS_MAX as u64).contains(&dimension_count) {
        let got = dimension_count;
        return Err(GgufError::DimensionCount { tensor: name.to_owned(), got });
    }
    let dimensions = read_numbers(cursor, dimension_count, &what, u64::from_le_bytes)?;
    let type_id = u32::from_le_bytes(cursor.array(&what)?);
    let offset_bytes = u64::from_le_bytes(cursor.array(&what)?);
    let ggml_type = GgmlType::from_id(type_id)
        .ok_or_else(|| GgufError::TensorType { tensor: name.to_owned(), got: type_id })?;
    let size_bytes = tensor_size_bytes(name, &dimensions, ggml_type)?;
    Ok(TensorInfo { name: name.to_owned(), dimensions, ggml_type, offset_bytes, size_bytes })
}

/// Checks that the tensors follow each other without gaps, inside `data`, padded with zeros.
fn check_layout(
    tensors: &[TensorInfo],
    data: &[u8],
    alignment_bytes: u64,
) -> Result<(), GgufError> {
    let data_bytes = data.len() as u64;
    let mut expected_bytes = 0_u64;
    for TensorInfo { name, dimensions, offset_bytes, size_bytes, .. } in tensors {
        if *offset_bytes != expected_bytes {
            return Err(GgufError::Offset {
                tensor: name.clone(),
                expected_bytes,
                got_bytes: *offset_bytes,
            });
        }
        let overflow =
            || GgufError::TensorOverflow { tensor: name.clone(), dimensions: dimensions.clone() };
        let end_bytes = offset_bytes.checked_add(*size_bytes).ok_or_else(overflow)?;
        let padded_end =
            end_bytes.checked_next_multiple_of(alignment_bytes).ok_or_else(overflow)?;
        if end_bytes > data_bytes {
            return Err(GgufError::TensorData { tensor: name.clone(), end_bytes, data_bytes });
        }
        check_padding(data, end_bytes, padded_end, || format!("tensor `{name}`"))?;
        expected_bytes = padded_end;
    }
    Ok(())
}

/// Checks that the part of `start..end` that exists is zero.
fn check_padding(
    bytes: &[u8],
    start: u64,
    end: u64,
    what: impl Fn() -> String,
) -> Result<(), GgufError> {
    let mut padding = slice(bytes, start, end).iter().enumerate();
    match padding.find(|&(_, &byte)| byte != 0) {
        None => Ok(()),
        Some((index, &got)) => Err(GgufError::Padding { what: what(), index, got }),
    }
}

/// The part of `start..end` that exists.
fn slice(bytes: &[u8], start: u64, end: u64) -> &[u8] {
    let clamp = |at: u64| usize::try_from(at).map_or(bytes.len(), |at| at.min(bytes.len()));
    bytes.get(clamp(start)..clamp(end)).unwrap_or_default()
}

/// A place in the file, and what is left of it.
struct Cursor<'a> {
    rest: &'a [u8],
    file_bytes: u64,
}

impl<'a> Cursor<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, file_bytes: bytes.len() as u64 }
    }

    fn remaining_bytes(&self) -> u64 {
        self.rest.len() as u64
    }

    fn offset_bytes(&self) -> u64 {
        self.file_bytes - self.remaining_bytes()
    }

    fn truncated(&self, what: &str, needed_bytes: u64) -> GgufError {
        GgufError::Truncated {
            what: what.to_owned(),
            offset_bytes: self.offset_bytes(),
            needed_bytes,
            remaining_bytes: self.remaining_bytes(),
        }
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], GgufError> {
        let Some((head, rest)) = self.rest.split_first_chunk() else {
            return Err(self.truncated(what, N as u64));
        };
        self.rest = rest;
        Ok(*head)
    }

    fn take(&mut self, len_bytes: u64, what: &str) -> Result<&'a [u8], GgufError> {
        let split = usize::try_from(len_bytes).ok().and_then(|len| self.rest.split_at_checked(len));
        let Some((head, rest)) = split else {
            return Err(self.truncated(what, len_bytes));
        };
        self.rest = rest;
        Ok(head)
    }

    fn string(&mut self, what: &str) -> Result<&'a str, GgufError> {
        let got_bytes = u64::from_le_bytes(self.array(what)?);
        if got_bytes > STRING_MAX_BYTES {
            let limit_bytes = STRING_MAX_BYTES;
            return Err(GgufError::StringLength { what: what.to_owned(), got_bytes, limit_bytes });
        }
        std::str::from_utf8(self.take(got_bytes, what)?).map_err(|error| GgufError::Utf8 {
            what: what.to_owned(),
            valid_bytes: error.valid_up_to(),
        })
    }
}

#[cfg(test)]
mod tests;
