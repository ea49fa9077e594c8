//! Dense tensors inside the interpreter: a shape and row-major elements.
//!
//! Elements are shared, so that a tensor is cheap to clone and to reshape. Every tensor has at most
//! [`MAX_RANK`] dimensions and [`MAX_TENSOR_BYTES`]; the limits are checked before anything is
//! allocated, and a dimension of size 0 counts as 1 there, so that strides always fit as well.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use super::fault::{Fault, differs};
use crate::onnx::{TensorProto, data_type};

/// Largest tensor, in bytes.
pub(super) const MAX_TENSOR_BYTES: usize = 1 << 31;

/// Most dimensions of a tensor.
pub(super) const MAX_RANK: usize = 8;

/// Element types of a graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Element {
    /// 32-bit float.
    F32,
    /// Half-precision float.
    F16,
    /// Signed 8-bit integer.
    I8,
    /// Signed 64-bit integer.
    I64,
}

impl Element {
    /// The type with this ONNX code, see [`data_type`].
    pub(super) fn from_code(code: i64) -> Result<Self, Fault> {
        match i32::try_from(code) {
            Ok(data_type::FLOAT) => Ok(Self::F32),
            Ok(data_type::FLOAT16) => Ok(Self::F16),
            Ok(data_type::INT8) => Ok(Self::I8),
            Ok(data_type::INT64) => Ok(Self::I64),
            _ => Err(differs("element type", "f32, f16, int8 or int64", format!("code {code}"))),
        }
    }

    /// Size of an element.
    pub(super) fn size_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
            Self::I8 => 1,
            Self::I64 => 8,
        }
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::I8 => "int8",
            Self::I64 => "int64",
        })
    }
}

/// Row-major elements.
#[derive(Debug, Clone)]
pub(super) enum Elements {
    /// 32-bit floats.
    F32(Arc<Vec<f32>>),
    /// Half-precision floats, little-endian.
    F16(Bytes),
    /// Signed 8-bit integers.
    I8(Bytes),
    /// Signed 64-bit integers.
    I64(Arc<Vec<i64>>),
}

impl Elements {
    fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::F16(bytes) => bytes.len() / 2,
            Self::I8(bytes) => bytes.len(),
            Self::I64(values) => values.len(),
        }
    }

    fn element(&self) -> Element {
        match self {
            Self::F32(_) => Element::F32,
            Self::F16(_) => Element::F16,
            Self::I8(_) => Element::I8,
            Self::I64(_) => Element::I64,
        }
    }
}

/// A constant as the model has it: little-endian bytes that fill its shape, not copied.
#[derive(Debug, Clone)]
pub(super) struct Raw {
    pub(super) shape: Vec<usize>,
    pub(super) element: Element,
    pub(super) bytes: Bytes,
}

impl Raw {
    /// A constant of a model.
    ///
    /// # Errors
    /// Another element type, sizes below 0 or over the limits, bytes that do not fill the shape or
    /// are kept in a typed list.
    pub(super) fn from_proto(tensor: TensorProto) -> Result<Self, Fault> {
        let element = Element::from_code(tensor.data_type.into())?;
        let elsewhere = !tensor.float_data.is_empty()
            || !tensor.int32_data.is_empty()
            || !tensor.int64_data.is_empty()
            || !tensor.string_data.is_empty();
        if elsewhere {
            return Err(differs("data", "raw bytes", "a typed list"));
        }
        let shape: Option<Vec<usize>> =
            tensor.dims.iter().map(|size| usize::try_from(*size).ok()).collect();
        let shape = shape
            .ok_or_else(|| differs("shape", "non-negative sizes", format!("{:?}", tensor.dims)))?;
        let expected = element_count(&shape, element)? * element.size_bytes();
        let bytes = tensor.raw_data;
        if bytes.len() != expected {
            return Err(differs("number of bytes", expected, bytes.len()));
        }
        Ok(Self { shape, element, bytes })
    }
}

/// A tensor; its elements fill its shape.
#[derive(Debug, Clone)]
pub(super) struct Dense {
    shape: Vec<usize>,
    elements: Elements,
}

impl Dense {
    /// A tensor of these elements.
    ///
    /// # Errors
    /// A shape over the limits, or of another number of elements.
    pub(super) fn new(shape: Vec<usize>, elements: Elements) -> Result<Self, Fault> {
        let expected = element_count(&shape, elements.element())?;
        if elements.len() != expected {
            let what = format!("number of elements of shape {shape:?}");
            return Err(differs(what, expected, elements.len()));
        }
        Ok(Self { shape, elements })
    }

    /// A tensor of floats.
    ///
    /// # Errors
    /// As [`Dense::new`].
    pub(super) fn f32(shape: Vec<usize>, values: Vec<f32>) -> Result<Self, Fault> {
        Self::new(shape, Elements::F32(Arc::new(values)))
    }

    /// A tensor of 64-bit integers.
    ///
    /// # Errors
    /// As [`Dense::new`].
    pub(super) fn i64(shape: Vec<usize>, values: Vec<i64>) -> Result<Self, Fault> {
        Self::new(shape, Elements::I64(Arc::new(values)))
    }

    /// A constant of a model; elements in 8 and 16 bits stay where they are.
    ///
    /// # Errors
    /// A shape over the limits.
    pub(super) fn from_raw(raw: &Raw) -> Result<Self, Fault> {
        let bytes = &raw.bytes;
        let elements = match raw.element {
            Element::F32 => {
                let (words, _) = bytes.as_chunks::<4>();
                Elements::F32(Arc::new(words.iter().map(|w| f32::from_le_bytes(*w)).collect()))
            }
            Element::F16 => Elements::F16(bytes.clone()),
            Element::I8 => Elements::I8(bytes.clone()),
            Element::I64 => {
                let (words, _) = bytes.as_chunks::<8>();
                Elements::I64(Arc::new(words.iter().map(|w| i64::from_le_bytes(*w)).collect()))
            }
        };
        Self::new(raw.shape.clone(), elements)
    }

    /// The same elements in another shape, not copied.
    ///
    /// # Errors
    /// As [`Dense::new`].
    pub(super) fn with_shape(&self, shape: Vec<usize>) -> Result<Self, Fault> {
        Self::new(shape, self.elements.clone())
    }

    /// Dimensions, outermost first.
    pub(super) fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The elements.
    pub(super) fn elements(&self) -> &Elements {
        &self.elements
    }

    /// The elements, without the shape.
    pub(super) fn into_elements(self) -> Elements {
        self.elements
    }

    /// Type of the elements.
    pub(super) fn element(&self) -> Element {
        self.elements.element()
    }

    /// Size of the elements.
    pub(super) fn size_bytes(&self) -> usize {
        self.elements.len() * self.element().size_bytes()
    }

    /// The elements of a tensor of floats.
    ///
    /// # Errors
    /// Another element type.
    pub(super) fn floats(&self) -> Result<&[f32], Fault> {
        match &self.elements {
            Elements::F32(values) => Ok(values),
            _ => Err(differs("element type", Element::F32, self.element())),
        }
    }

    /// The elements of a tensor of 64-bit integers.
    ///
    /// # Errors
    /// Another element type.
    pub(super) fn integers(&self) -> Result<&[i64], Fault> {
        match &self.elements {
            Elements::I64(values) => Ok(values),
            _ => Err(differs("element type", Element::I64, self.element())),
        }
    }
}

/// Number of elements of a shape.
///
/// # Errors
/// A shape of more than [`MAX_RANK`] dimensions or [`MAX_TENSOR_BYTES`]; sizes of 0 count as 1 for
/// the latter.
pub(super) fn element_count(shape: &[usize], element: Element) -> Result<usize, Fault> {
    if shape.len() > MAX_RANK {
        return Err(differs("number of dimensions", format!("at most {MAX_RANK}"), shape.len()));
    }
    let bytes = shape
        .iter()
        .try_fold(element.size_bytes(), |bytes, size| bytes.checked_mul((*size).max(1)));
    match bytes {
        Some(bytes) if bytes <= MAX_TENSOR_BYTES => Ok(shape.iter().product()),
        _ => {
            let what = format!("a tensor of shape {shape:?}");
            Err(Fault::TooLarge { what, limit_bytes: MAX_TENSOR_BYTES as u64 })
        }
    }
}
