//! Metadata values: the thirteen types of the format, arrays with one element type.

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

    pub(super) fn type_id(&self) -> u32 {
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

    pub(super) fn element_type_id(&self) -> u32 {
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
