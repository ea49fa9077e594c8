//! Options as C structs that say their own size, so that later versions can add fields.

use std::ffi::{c_char, c_void};
use std::{ptr, slice};

use super::error::{Failure, t2lc_status};
use super::guard::guard;
use super::text::text;
use crate::backend::exact::Exact;
use crate::backend::{self, Backend, BackendKind, Provider};
use crate::bundle::Bundle;
use crate::compile::{CompileOptions, Format};
use crate::error::Error;
use crate::quantize::Quantization;

/// Exact, which gives the same bytes on every machine, unless bundle or provider need another one.
pub const T2LC_BACKEND_AUTO: u32 = 0;
/// The interpreter in every build.
pub const T2LC_BACKEND_EXACT: u32 = 1;
/// tract, in pure Rust.
pub const T2LC_BACKEND_TRACT: u32 = 2;
/// ONNX Runtime.
pub const T2LC_BACKEND_ORT: u32 = 3;

/// One GGUF file.
pub const T2LC_FORMAT_GGUF: u32 = 0;
/// The two files of a PEFT directory.
pub const T2LC_FORMAT_PEFT: u32 = 1;

/// `q8_0` for GGUF, `f32` for PEFT.
pub const T2LC_QUANTIZATION_DEFAULT: u32 = 0;
/// 32-bit floats.
pub const T2LC_QUANTIZATION_F32: u32 = 1;
/// 16-bit floats.
pub const T2LC_QUANTIZATION_F16: u32 = 2;
/// The upper half of 32-bit floats.
pub const T2LC_QUANTIZATION_BF16: u32 = 3;
/// 8.5 bits a value.
pub const T2LC_QUANTIZATION_Q8_0: u32 = 4;
/// 4.5 bits a value.
pub const T2LC_QUANTIZATION_Q4_0: u32 = 5;
/// 5 bits a value.
pub const T2LC_QUANTIZATION_Q4_1: u32 = 6;
/// 5.5 bits a value.
pub const T2LC_QUANTIZATION_Q5_0: u32 = 7;
/// 6 bits a value.
pub const T2LC_QUANTIZATION_Q5_1: u32 = 8;

/// Stages that the progress callback reports, in this order: description to task embedding.
pub const T2LC_STAGE_ENCODE: u32 = 1;
/// Task embedding to matrices.
pub const T2LC_STAGE_GENERATE: u32 = 2;
/// Matrices, ready to be quantized.
pub const T2LC_STAGE_QUANTIZE: u32 = 3;
/// Matrices to quantized tensors and files.
pub const T2LC_STAGE_WRITE: u32 = 4;

/// Largest struct of a later version that is looked at.
const MAX_STRUCT_BYTES: u32 = 4096;

/// How a bundle is opened. Fill it with `t2lc_open_options_init`, then change fields.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct t2lc_open_options {
    /// `sizeof(t2lc_open_options)` of the caller.
    pub struct_size: u32,
    /// `T2LC_BACKEND_*`.
    pub backend: u32,
    /// Threads of the exact backend; 0 for as many as the system offers, at most 8.
    pub threads: u32,
    /// 0.
    pub reserved: u32,
    /// ONNX Runtime's execution provider by name ("cpu", "coreml", …); NULL for the best one.
    pub provider: *const c_char,
    /// Bytes of `provider`.
    pub provider_length: usize,
}

/// Says how far a compile is, on the thread that called it: done of total in one stage. Returning
/// false cancels. It must not unwind.
pub type t2lc_progress =
    Option<unsafe extern "C" fn(stage: u32, done: u64, total: u64, context: *mut c_void) -> bool>;

/// What is compiled. Fill it with `t2lc_compile_options_init`, then change fields.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct t2lc_compile_options {
    /// `sizeof(t2lc_compile_options)` of the caller.
    pub struct_size: u32,
    /// `T2LC_FORMAT_*`.
    pub format: u32,
    /// `T2LC_QUANTIZATION_*`.
    pub quantization: u32,
    /// Strength of the adapter: 1 as trained, 0 for none.
    pub scale: f32,
    /// NULL for none.
    pub progress: t2lc_progress,
    /// Passed to progress.
    pub context: *mut c_void,
}

/// A struct that begins with its size, by which versions of it are told apart.
///
/// # Safety
/// `repr(C)`, begins with a `u32`, and every pattern of bits is a value.
pub(super) unsafe trait Versioned: Copy {
    /// What an absent struct stands for.
    fn initial() -> Self;
    /// What it is called in messages.
    const NAME: &'static str;
}

// SAFETY: numbers and a pointer, the size first.
unsafe impl Versioned for t2lc_open_options {
    fn initial() -> Self {
        Self {
            struct_size: struct_bytes::<Self>(),
            backend: T2LC_BACKEND_AUTO,
            threads: 0,
            reserved: 0,
            provider: ptr::null(),
            provider_length: 0,
        }
    }
    const NAME: &'static str = "t2lc_open_options";
}

// SAFETY: numbers, a pointer and a function that may be null, the size first.
unsafe impl Versioned for t2lc_compile_options {
    fn initial() -> Self {
        Self {
            struct_size: struct_bytes::<Self>(),
            format: T2LC_FORMAT_GGUF,
            quantization: T2LC_QUANTIZATION_DEFAULT,
            scale: 1.0,
            progress: None,
            context: ptr::null_mut(),
        }
    }
    const NAME: &'static str = "t2lc_compile_options";
}

#[allow(clippy::cast_possible_truncation, reason = "structs of a few dozen bytes")]
const fn struct_bytes<T>() -> u32 {
    size_of::<T>() as u32
}

fn check_size<T: Versioned>(got: u32) -> Result<(), Failure> {
    let least = struct_bytes::<T>();
    if (least..=MAX_STRUCT_BYTES).contains(&got) {
        return Ok(());
    }
    let message = format!("`{}` has {least} bytes, not {got}", T::NAME);
    Err(Failure::argument("options.struct_size", message))
}

/// The options at a pointer; null stands for the defaults. A caller of a later version may pass more
/// bytes, but only zeros: what this version does not know cannot be left out silently.
///
/// # Safety
/// Null, or as many bytes can be read as the struct says.
pub(super) unsafe fn read<T: Versioned>(options: *const T) -> Result<T, Failure> {
    if options.is_null() {
        return Ok(T::initial());
    }
    // SAFETY: a `u32` is the least that such a struct has.
    let size = unsafe { options.cast::<u32>().read_unaligned() };
    check_size::<T>(size)?;
    // SAFETY: the caller says that there are `size` bytes.
    let bytes = unsafe { slice::from_raw_parts(options.cast::<u8>(), size as usize) };
    if bytes[size_of::<T>()..].iter().any(|byte| *byte != 0) {
        let message = format!("`{}` has fields that this version does not know", T::NAME);
        return Err(Failure::argument("options.struct_size", message));
    }
    // SAFETY: long enough, and every pattern of bits is a value.
    Ok(unsafe { options.read_unaligned() })
}

/// Fills in the defaults; `size` is what the caller says of its struct.
unsafe fn init<T: Versioned>(options: *mut T, size: u32) -> Result<(), Failure> {
    if options.is_null() {
        return Err(Failure::null("the options"));
    }
    check_size::<T>(size)?;
    // SAFETY: the caller says that there are `size` bytes, no fewer than those of `T`.
    unsafe {
        options.cast::<u8>().write_bytes(0, size as usize);
        options.write_unaligned(T::initial());
        options.cast::<u32>().write_unaligned(size);
    }
    Ok(())
}

/// Fills in the defaults; `struct_size` is `sizeof(*options)`.
///
/// # Safety
/// `options` is null, or `struct_size` bytes can be written there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn t2lc_open_options_init(
    options: *mut t2lc_open_options,
    struct_size: u32,
) -> t2lc_status {
    // SAFETY: as the caller promises.
    unsafe { guard(ptr::null_mut(), || init(options, struct_size)) }
}

/// Fills in the defaults; `struct_size` is `sizeof(*options)`.
///
/// # Safety
/// `options` is null, or `struct_size` bytes can be written there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn t2lc_compile_options_init(
    options: *mut t2lc_compile_options,
    struct_size: u32,
) -> t2lc_status {
    // SAFETY: as the caller promises.
    unsafe { guard(ptr::null_mut(), || init(options, struct_size)) }
}

/// What a number of the header stands for.
fn pick<T: Copy>(number: u32, values: &[T], code: &'static str) -> Result<T, Failure> {
    let found = usize::try_from(number).ok().and_then(|number| values.get(number));
    found.copied().ok_or_else(|| Failure::argument(code, format!("there is no value {number}")))
}

impl t2lc_open_options {
    /// Opens the backend for a bundle.
    ///
    /// # Safety
    /// `provider` is null or readable.
    pub(super) unsafe fn backend(&self, bundle: &Bundle) -> Result<Box<dyn Backend>, Failure> {
        let kinds =
            [None, Some(BackendKind::Exact), Some(BackendKind::Tract), Some(BackendKind::Ort)];
        let kind = pick(self.backend, &kinds, "options.backend")?;
        if self.reserved != 0 {
            let message = format!("`reserved` is {}, not 0", self.reserved);
            return Err(Failure::argument("options.reserved", message));
        }
        // SAFETY: as the caller promises.
        let name = unsafe { text(self.provider, self.provider_length, "the provider") }?;
        let provider = match name {
            "" => Provider::Auto,
            name => name.parse().map_err(|error| Failure::argument("options.provider", error))?,
        };
        let kind = kind.unwrap_or_else(|| bundle.suited_backend(provider));
        if kind == BackendKind::Exact
            && self.threads != 0
            && matches!(provider, Provider::Auto | Provider::Cpu)
        {
            return Ok(Box::new(Exact::new(self.threads.min(64) as usize)));
        }
        Ok(backend::open(kind, provider).map_err(Error::from)?)
    }
}

impl t2lc_compile_options {
    /// What to make of a description.
    pub(super) fn compile_options(&self) -> Result<CompileOptions, Failure> {
        let format = pick(self.format, &[Format::Gguf, Format::Peft], "options.format")?;
        let quantizations = [
            format.default_quantization(),
            Quantization::F32,
            Quantization::F16,
            Quantization::Bf16,
            Quantization::Q8_0,
            Quantization::Q4_0,
            Quantization::Q4_1,
            Quantization::Q5_0,
            Quantization::Q5_1,
        ];
        let quantization = pick(self.quantization, &quantizations, "options.quantization")?;
        Ok(CompileOptions { format, quantization, scale: self.scale })
    }
}
