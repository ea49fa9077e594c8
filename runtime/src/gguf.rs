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

mod read;
mod write;

pub use read::Gguf;
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

/// A metadata value.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "each variant is named after its content")]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(String),
    Array(ArrayValue),
    U64(u64),
    I64(i64),
    F64(f64),
}

impl Value {
    /// The text of a string; `None` for any other type.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(value) => Some(value),
            _ => None,
        }
    }

    /// The value of a `u32`; `None` for any other type, however small the number.
    pub fn as_u32(&self) -> Option<u32> {
        match self {
            Self::U32(value) => Some(*value),
            _ => None,
        }
    }

    /// The value of an integer of any width that is not negative; `None` otherwise.
    pub fn as_u64(&self) -> Option<u64> {
        match self {
            Self::U8(value) => Some(u64::from(*value)),
            Self::U16(value) => Some(u64::from(*value)),
            Self::U32(value) => Some(u64::from(*value)),
            Self::U64(value) => Some(*value),
            Self::I8(value) => u64::try_from(*value).ok(),
            Self::I16(value) => u64::try_from(*value).ok(),
            Self::I32(value) => u64::try_from(*value).ok(),
            Self::I64(value) => u64::try_from(*value).ok(),
            _ => None,
        }
    }

    /// The value of an `f32`; `None` for any other type, an `f64` included.
    pub fn as_f32(&self) -> Option<f32> {
        match self {
            Self::F32(value) => Some(*value),
            _ => None,
        }
    }

    /// The file format's name of the value's type, for example `u32` or `array`.
    pub fn type_name(&self) -> &'static str {
        self.kind().1
    }

    fn type_id(&self) -> u32 {
        self.kind().0
    }

    fn kind(&self) -> (u32, &'static str) {
        match self {
            Self::U8(_) => (0, "u8"),
            Self::I8(_) => (1, "i8"),
            Self::U16(_) => (2, "u16"),
            Self::I16(_) => (3, "i16"),
            Self::U32(_) => (4, "u32"),
            Self::I32(_) => (5, "i32"),
            Self::F32(_) => (6, "f32"),
            Self::Bool(_) => (7, "bool"),
            Self::String(_) => (8, "string"),
            Self::Array(_) => (9, "array"),
            Self::U64(_) => (10, "u64"),
            Self::I64(_) => (11, "i64"),
            Self::F64(_) => (12, "f64"),
        }
    }
}

/// A metadata array: elements of one type, which an empty array has too. Arrays do not nest.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "each variant is named after its elements")]
pub enum ArrayValue {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    F32(Vec<f32>),
    Bool(Vec<bool>),
    String(Vec<String>),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F64(Vec<f64>),
}

impl ArrayValue {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.kind().1
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The elements of an array of strings; `None` for any other element type.
    pub fn as_strings(&self) -> Option<&[String]> {
        match self {
            Self::String(values) => Some(values),
            _ => None,
        }
    }

    fn element_type_id(&self) -> u32 {
        self.kind().0
    }

    fn kind(&self) -> (u32, usize) {
        match self {
            Self::U8(values) => (0, values.len()),
            Self::I8(values) => (1, values.len()),
            Self::U16(values) => (2, values.len()),
            Self::I16(values) => (3, values.len()),
            Self::U32(values) => (4, values.len()),
            Self::I32(values) => (5, values.len()),
            Self::F32(values) => (6, values.len()),
            Self::Bool(values) => (7, values.len()),
            Self::String(values) => (8, values.len()),
            Self::U64(values) => (10, values.len()),
            Self::I64(values) => (11, values.len()),
            Self::F64(values) => (12, values.len()),
        }
    }
}

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

macro_rules! ggml_types {
    ($($variant:ident $id:literal $name:literal $block_len:literal $block_bytes:literal;)*) => {
        /// Element type of a tensor: values are stored in blocks of `block_len` elements.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum GgmlType {
            $(
                #[doc = concat!(
                    "`", $name, "`, id ", $id, ": ", $block_len, " elements in ", $block_bytes,
                    " bytes."
                )]
                $variant,
            )*
        }

        impl GgmlType {
            /// Every type, by rising id.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The type with ggml's number `id`; `None` if it is unknown or was removed.
            pub fn from_id(id: u32) -> Option<Self> {
                match id {
                    $($id => Some(Self::$variant),)*
                    _ => None,
                }
            }

            /// Id, name, elements per block, bytes per block.
            const fn row(self) -> (u32, &'static str, u64, u64) {
                match self {
                    $(Self::$variant => ($id, $name, $block_len, $block_bytes),)*
                }
            }
        }
    };
}

ggml_types! {
    F32 0 "f32" 1 4;
    F16 1 "f16" 1 2;
    Q4_0 2 "q4_0" 32 18;
    Q4_1 3 "q4_1" 32 20;
    Q5_0 6 "q5_0" 32 22;
    Q5_1 7 "q5_1" 32 24;
    Q8_0 8 "q8_0" 32 34;
    Q8_1 9 "q8_1" 32 36;
    Q2K 10 "q2_K" 256 84;
    Q3K 11 "q3_K" 256 110;
    Q4K 12 "q4_K" 256 144;
    Q5K 13 "q5_K" 256 176;
    Q6K 14 "q6_K" 256 210;
    Q8K 15 "q8_K" 256 292;
    Iq2Xxs 16 "iq2_xxs" 256 66;
    Iq2Xs 17 "iq2_xs" 256 74;
    Iq3Xxs 18 "iq3_xxs" 256 98;
    Iq1S 19 "iq1_s" 256 50;
    Iq4Nl 20 "iq4_nl" 32 18;
    Iq3S 21 "iq3_s" 256 110;
    Iq2S 22 "iq2_s" 256 82;
    Iq4Xs 23 "iq4_xs" 256 136;
    I8 24 "i8" 1 1;
    I16 25 "i16" 1 2;
    I32 26 "i32" 1 4;
    I64 27 "i64" 1 8;
    F64 28 "f64" 1 8;
    Iq1M 29 "iq1_m" 256 56;
    Bf16 30 "bf16" 1 2;
    Tq1_0 34 "tq1_0" 256 54;
    Tq2_0 35 "tq2_0" 256 66;
    Mxfp4 39 "mxfp4" 32 17;
    Nvfp4 40 "nvfp4" 64 36;
    Q1_0 41 "q1_0" 128 18;
    Q2_0 42 "q2_0" 64 18;
}

impl GgmlType {
    /// ggml's number of the type, as stored in the file.
    pub const fn id(self) -> u32 {
        self.row().0
    }

    /// ggml's name of the type, for example `q8_0`.
    pub const fn name(self) -> &'static str {
        self.row().1
    }

    /// Elements per block; a row's length must be a multiple of it.
    pub const fn block_len(self) -> u64 {
        self.row().2
    }

    /// Bytes per block.
    pub const fn block_bytes(self) -> u64 {
        self.row().3
    }
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
