//! GGUF files, the container that llama.cpp loads models and adapters from.
//!
//! In: the bytes of a file ([`Gguf::parse`]) or typed metadata and tensors ([`GgufWriter`]).
//! Out: metadata, tensor descriptions and borrowed tensor data, or the bytes of a file.
//!
//! Layout, little-endian throughout; a string is a `u64` byte length and that many bytes of UTF-8:
//!
//! ```text
//! "GGUF"  u32 version  u64 tensor count  u64 key count
//! keys    string key, u32 value type, value     array = u32 element type, u64 length, elements
//! tensors string name, u32 dimension count, u64 dimensions, u32 ggml type, u64 offset
//! zeros up to a multiple of the alignment; here the data section starts
//! data    every tensor's bytes, zeros up to a multiple of the alignment
//! ```
//!
//! The alignment is the `u32` key `general.alignment`, a power of two, or 32. Dimensions are in ne
//! order, contiguous first: a row-major `[rows, columns]` matrix has the dimensions
//! `[columns, rows]`. Offsets count from the start of the data section and leave no gaps.
//!
//! Reader and writer share one set of rules, those whose violation makes llama.cpp refuse a file,
//! plus a few that keep callers safe: strings are UTF-8, names and keys have no NUL byte,
//! dimensions are not zero, padding is zero.
//!
//! Source: the GGUF specification (`docs/gguf.md` of the ggml project) and the checks of
//! llama.cpp's `gguf.cpp`.

mod ggml_type;
mod read;
mod value;
mod write;

pub use ggml_type::GgmlType;
pub use read::Gguf;
pub use value::{ArrayValue, Value};
pub use write::GgufWriter;

/// First four bytes of a file.
const MAGIC: [u8; 4] = *b"GGUF";
/// Version that the writer emits; the reader also takes version 2, which has the same layout.
const VERSION: u32 = 3;
/// Alignment in bytes where the file does not name one.
const DEFAULT_ALIGNMENT_BYTES: u32 = 32;
/// Key that sets the alignment.
const ALIGNMENT_KEY: &str = "general.alignment";
/// Longest tensor name in bytes; ggml's buffer of 64 includes the terminator.
const TENSOR_NAME_MAX_BYTES: usize = 63;
/// Most dimensions of a tensor.
const DIMENSIONS_MAX: usize = 4;
/// Longest string in bytes.
const STRING_MAX_BYTES: u64 = 1 << 30;
/// Longest array in elements.
const ARRAY_MAX_LEN: u64 = 1 << 30;
/// Most elements, and most bytes, of a tensor: what ggml's signed sizes hold.
const TENSOR_MAX: u64 = u64::MAX >> 1;

/// Name, shape, type and place of one tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Name, 1 to 63 bytes.
    pub name: String,
    /// 1 to 4 sizes in ne order, contiguous first; none is zero.
    pub dimensions: Vec<u64>,
    /// Element type.
    pub ggml_type: GgmlType,
    /// First byte, counted from the start of the data section.
    pub offset_bytes: u64,
    /// Bytes without padding.
    pub size_bytes: u64,
}

/// Why bytes are not a GGUF file, or why something cannot be written into one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the message of each variant names its fields")]
pub enum GgufError {
    /// The file ends inside an item.
    #[error(
        "file ends inside {what}: {needed_bytes} bytes needed at byte {offset_bytes}, got \
         {remaining_bytes}"
    )]
    Truncated { what: String, offset_bytes: u64, needed_bytes: u64, remaining_bytes: u64 },
    /// The file is something else.
    #[error("file starts with {got:02x?}, expected `GGUF`")]
    Magic { got: [u8; 4] },
    /// The version is only plausible with its bytes swapped.
    #[error("file is big-endian (version field {got:#010x}), expected little-endian")]
    BigEndian { got: u32 },
    /// A version with another layout.
    #[error("file has GGUF version {got}, expected 2 or 3")]
    Version { got: u32 },
    /// A count in the header that the rest of the file cannot hold.
    #[error("file declares {got} {what}, but its remaining bytes hold at most {limit}")]
    Count { what: &'static str, got: u64, limit: u64 },
    /// A key of no bytes.
    #[error("metadata key {index} is empty")]
    EmptyKey { index: usize },
    /// A key that occurs twice.
    #[error("metadata key `{key}` occurs twice")]
    DuplicateKey { key: String },
    /// A value or element type that the format does not have.
    #[error("{what} has value type {got}, expected 0 to 12")]
    ValueType { what: String, got: u32 },
    /// An array whose elements are arrays.
    #[error("{what} is an array of arrays, expected an array of scalars or strings")]
    NestedArray { what: String },
    /// A boolean that is neither 0 nor 1.
    #[error("{what} has boolean byte {got}, expected 0 or 1")]
    Bool { what: String, got: u8 },
    /// A string longer than the format's readers take.
    #[error("{what} has a string of {got_bytes} bytes, expected at most {limit_bytes}")]
    StringLength { what: String, got_bytes: u64, limit_bytes: u64 },
    /// An array longer than the format's readers take, or than the file holds.
    #[error("{what} has {got} elements, expected at most {limit}")]
    ArrayLength { what: String, got: u64, limit: u64 },
    /// Text that is not UTF-8.
    #[error("{what} is not UTF-8 from its byte {valid_bytes} on")]
    Utf8 { what: String, valid_bytes: usize },
    /// Text that a C string cannot hold.
    #[error("{what} contains a NUL byte")]
    Nul { what: String },
    /// An alignment of the wrong type or size.
    #[error("key `general.alignment` is {got}, expected a u32 that is a power of two")]
    Alignment { got: String },
    /// An alignment that the writer does not produce.
    #[error("key `general.alignment` is {got}, expected 32, the only alignment written")]
    WriterAlignment { got: String },
    /// A tensor name of no bytes, or too many for ggml's buffer.
    #[error("tensor name `{tensor}` has {got_bytes} bytes, expected 1 to 63")]
    TensorName { tensor: String, got_bytes: usize },
    /// A tensor name that occurs twice.
    #[error("tensor `{tensor}` occurs twice")]
    DuplicateTensor { tensor: String },
    /// No dimensions, or too many.
    #[error("tensor `{tensor}` has {got} dimensions, expected 1 to 4")]
    DimensionCount { tensor: String, got: u64 },
    /// A tensor without elements.
    #[error("tensor `{tensor}` has dimensions {dimensions:?}, expected none to be zero")]
    ZeroDimension { tensor: String, dimensions: Vec<u64> },
    /// A type number that ggml does not have, or no longer has.
    #[error("tensor `{tensor}` has unknown ggml type {got}")]
    TensorType { tensor: String, got: u32 },
    /// A row that is no whole number of blocks.
    #[error(
        "tensor `{tensor}` has rows of {got} elements, expected a multiple of {block_len} for \
         type {type_name}"
    )]
    RowLength { tensor: String, got: u64, block_len: u64, type_name: &'static str },
    /// Sizes whose product does not fit.
    #[error("tensor `{tensor}` with dimensions {dimensions:?} is too large")]
    TensorOverflow { tensor: String, dimensions: Vec<u64> },
    /// Data of another size than shape and type say.
    #[error("tensor `{tensor}` has {got_bytes} bytes of data, expected {expected_bytes}")]
    TensorBytes { tensor: String, expected_bytes: u64, got_bytes: u64 },
    /// An offset that overlaps the tensor before, or leaves a gap.
    #[error("tensor `{tensor}` has offset {got_bytes}, expected {expected_bytes}")]
    Offset { tensor: String, expected_bytes: u64, got_bytes: u64 },
    /// A tensor that reaches past the end of the file.
    #[error(
        "tensor `{tensor}` ends at byte {end_bytes} of the data section, which has {data_bytes}"
    )]
    TensorData { tensor: String, end_bytes: u64, data_bytes: u64 },
    /// Padding that is not zero; the index counts from the start of the padding.
    #[error("padding after {what} has {got:#04x} at its byte {index}, expected zero")]
    Padding { what: String, index: usize, got: u8 },
}

/// Checks what a key has to be, apart from unique.
fn check_key(index: usize, key: &str) -> Result<(), GgufError> {
    if key.is_empty() {
        return Err(GgufError::EmptyKey { index });
    }
    if key.contains('\0') {
        return Err(GgufError::Nul { what: format!("metadata key {index}") });
    }
    Ok(())
}

/// Checks what a tensor name has to be, apart from unique.
fn check_tensor_name(index: usize, name: &str) -> Result<(), GgufError> {
    if !(1..=TENSOR_NAME_MAX_BYTES).contains(&name.len()) {
        return Err(GgufError::TensorName { tensor: name.to_owned(), got_bytes: name.len() });
    }
    if name.contains('\0') {
        return Err(GgufError::Nul { what: format!("name of tensor {index}") });
    }
    Ok(())
}

/// Bytes of a tensor without padding, after all checks of its shape.
fn tensor_size_bytes(
    tensor: &str,
    dimensions: &[u64],
    ggml_type: GgmlType,
) -> Result<u64, GgufError> {
    let overflow =
        || GgufError::TensorOverflow { tensor: tensor.to_owned(), dimensions: dimensions.to_vec() };
    let Some(&row_length) = dimensions.first().filter(|_| dimensions.len() <= DIMENSIONS_MAX)
    else {
        let got = dimensions.len() as u64;
        return Err(GgufError::DimensionCount { tensor: tensor.to_owned(), got });
    };
    if dimensions.contains(&0) {
        let dimensions = dimensions.to_vec();
        return Err(GgufError::ZeroDimension { tensor: tensor.to_owned(), dimensions });
    }
    let block_len = ggml_type.block_len();
    if !row_length.is_multiple_of(block_len) {
        return Err(GgufError::RowLength {
            tensor: tensor.to_owned(),
            got: row_length,
            block_len,
            type_name: ggml_type.name(),
        });
    }
    let fits = |size: &u64| *size <= TENSOR_MAX;
    let elements = dimensions
        .iter()
        .try_fold(1_u64, |product, &size| product.checked_mul(size).filter(fits))
        .ok_or_else(overflow)?;
    (elements / block_len).checked_mul(ggml_type.block_bytes()).filter(fits).ok_or_else(overflow)
}

#[cfg(test)]
mod tests {
    use super::{ArrayValue, GgmlType, GgufError, Value, tensor_size_bytes};

    #[test]
    fn types_keep_their_numbers() {
        for &ggml_type in GgmlType::ALL {
            assert_eq!(GgmlType::from_id(ggml_type.id()), Some(ggml_type));
        }
        assert!(GgmlType::ALL.is_sorted_by_key(|ggml_type| ggml_type.id()));
        for removed in [4, 5, 31, 32, 33, 36, 37, 38, 43, u32::MAX] {
            assert_eq!(GgmlType::from_id(removed), None, "{removed}");
        }
        assert_eq!(GgmlType::Bf16.id(), 30);
        assert_eq!(GgmlType::Q6K.name(), "q6_K");
        assert_eq!((GgmlType::Q8_0.block_len(), GgmlType::Q8_0.block_bytes()), (32, 34));
    }

    #[test]
    fn accessors_do_not_convert_silently() {
        assert_eq!(Value::U32(7).as_u32(), Some(7));
        assert_eq!(Value::U64(7).as_u32(), None);
        assert_eq!(Value::I16(7).as_u64(), Some(7));
        assert_eq!(Value::I64(-1).as_u64(), None);
        assert_eq!(Value::F64(1.0).as_f32(), None);
        assert_eq!(Value::String("a".into()).as_str(), Some("a"));
        let array = ArrayValue::String(vec!["a".into()]);
        assert_eq!((array.len(), array.is_empty()), (1, false));
        assert_eq!(Value::Array(array).as_str(), None);
    }

    #[test]
    fn sizes_are_exact_or_refused() {
        let size = |dimensions: &[u64], ggml_type| tensor_size_bytes("t", dimensions, ggml_type);
        assert_eq!(size(&[64, 3], GgmlType::Q4_0), Ok(2 * 3 * 18));
        assert_eq!(size(&[7], GgmlType::F16), Ok(14));
        assert!(matches!(size(&[], GgmlType::F32), Err(GgufError::DimensionCount { got: 0, .. })));
        assert!(matches!(
            size(&[1; 5], GgmlType::F32),
            Err(GgufError::DimensionCount { got: 5, .. })
        ));
        assert!(matches!(size(&[4, 0], GgmlType::F32), Err(GgufError::ZeroDimension { .. })));
        assert!(matches!(
            size(&[8, 2], GgmlType::Q8_0),
            Err(GgufError::RowLength { got: 8, block_len: 32, .. })
        ));
        for dimensions in [&[u64::MAX, 2][..], &[1 << 32, 1 << 31], &[1 << 62]] {
            assert!(matches!(
                size(dimensions, GgmlType::F32),
                Err(GgufError::TensorOverflow { .. })
            ));
        }
    }
}
