//! Opens bundles: from a directory, from memory, from ranges of open files, through callbacks.

use std::ffi::{CString, c_char, c_void};
use std::io;
use std::path::Path;
use std::ptr;
use std::sync::Arc;

use super::error::{Failure, t2lc_error, t2lc_status};
use super::guard::{Output, guard, look};
use super::options::{read, t2lc_open_options};
use super::registry::Registry;
use super::text::{c_text, files, text};
use crate::bundle::{Bundle, BundleReader};
use crate::compile::Compiler;
use crate::error::Error;

/// An opened bundle, ready to compile.
#[derive(Debug)]
pub struct t2lc_compiler {
    _private: [u8; 0],
}

/// A file of a bundle in memory.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct t2lc_file_bytes {
    /// Its name in the bundle.
    pub name: *const c_char,
    /// Bytes of `name`.
    pub name_length: usize,
    /// Its content.
    pub bytes: *const u8,
    /// Bytes of the content.
    pub size: usize,
}

/// A file of a bundle as a range of an open file, as Android's asset manager gives it for a stored asset.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct t2lc_file_range {
    /// Its name in the bundle.
    pub name: *const c_char,
    /// Bytes of `name`.
    pub name_length: usize,
    /// Readable and mappable; may be closed after the call.
    pub descriptor: i32,
    /// Where it begins.
    pub offset: u64,
    /// Its bytes.
    pub size: u64,
}

/// The caller's own way to the files of a bundle; called on the thread of the call.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct t2lc_reader {
    /// `sizeof(t2lc_reader)` of the caller.
    pub struct_size: u32,
    /// Size of a file in bytes, -1 if there is none.
    pub size: Option<
        unsafe extern "C" fn(name: *const c_char, name_length: usize, context: *mut c_void) -> i64,
    >,
    /// Fills `into` with `length` bytes from `offset`; false if it cannot.
    pub read: Option<
        unsafe extern "C" fn(
            name: *const c_char,
            name_length: usize,
            offset: u64,
            into: *mut u8,
            length: usize,
            context: *mut c_void,
        ) -> bool,
    >,
    /// Passed to both.
    pub context: *mut c_void,
}

// SAFETY: functions that may be null and a pointer, the size first.
unsafe impl super::options::Versioned for t2lc_reader {
    fn initial() -> Self {
        Self { struct_size: 0, size: None, read: None, context: ptr::null_mut() }
    }
    const NAME: &'static str = "t2lc_reader";
}

static COMPILERS: Registry<t2lc_compiler, Open> = Registry::new();

/// A compiler and its texts.
pub(super) struct Open {
    pub(super) compiler: Compiler,
    manifest: CString,
    digest: CString,
    backend: CString,
}

/// The compiler of a handle.
pub(super) fn opened(handle: *const t2lc_compiler) -> Result<Arc<Open>, Failure> {
    COMPILERS.get(handle).ok_or_else(|| Failure::handle("a compiler"))
}

/// Loads the graphs of a bundle that `bundle` opens.
///
/// # Safety
/// As the functions of the header say of their options and outputs.
unsafe fn open(
    options: *const t2lc_open_options,
    compiler: *mut *mut t2lc_compiler,
    error: *mut *mut t2lc_error,
    bundle: impl FnOnce() -> Result<Bundle, Failure>,
) -> t2lc_status {
    let call = || {
        // SAFETY: as the caller promises, here and below.
        let out = unsafe { Output::new(compiler) }?;
        let options = unsafe { read(options) }?;
        let bundle = bundle()?;
        let backend = unsafe { options.backend(&bundle) }?;
        let manifest = c_text(bundle.manifest_json());
        let digest = c_text(&bundle.digest.to_string());
        let compiler = Compiler::new(bundle, backend.as_ref())?;
        let backend = c_text(compiler.backend_id());
        out.put(COMPILERS.insert(Open { compiler, manifest, digest, backend }));
        Ok(())
    };
    // SAFETY: as the caller promises.
    unsafe { guard(error, call) }
}

/// Opens a bundle; options may be NULL. Every file's size and digest is checked against the
/// manifest. From a directory: the files are mapped into memory, not read, and must stay as they are.
///
/// # Safety
/// Pointers are null or valid for their lengths.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn t2lc_open_directory(
    path: *const c_char,
    path_length: usize,
    options: *const t2lc_open_options,
    compiler: *mut *mut t2lc_compiler,
    error: *mut *mut t2lc_error,
) -> t2lc_status {
    // SAFETY: as the caller promises.
    unsafe {
        open(options, compiler, error, || {
            let path = text(path, path_length, "the path")?;
            if path.is_empty() {
                // It would be the current directory.
                return Err(Failure::argument("argument.path", "the path is empty".into()));
            }
            Ok(Bundle::open(Path::new(path)).map_err(Error::from)?)
        })
    }
}

/// From memory: the bytes are copied.
///
/// # Safety
/// Pointers are null or valid for their lengths.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn t2lc_open_bytes(
    files: *const t2lc_file_bytes,
    count: usize,
    options: *const t2lc_open_options,
    compiler: *mut *mut t2lc_compiler,
    error: *mut *mut t2lc_error,
) -> t2lc_status {
    // SAFETY: as the caller promises.
    unsafe {
        open(options, compiler, error, || {
            let mut named = Vec::new();
            for file in self::files(files, count)? {
                let name = text(file.name, file.name_length, "the name of a file")?;
                named.push((name, super::text::list(file.bytes, file.size, "a file")?));
            }
            Ok(Bundle::from_bytes(&named).map_err(Error::from)?)
        })
    }
}

/// From ranges of open files, which are mapped. Unix only.
///
/// # Safety
/// Pointers are null or valid for their lengths; descriptors are open.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn t2lc_open_ranges(
    files: *const t2lc_file_range,
    count: usize,
    options: *const t2lc_open_options,
    compiler: *mut *mut t2lc_compiler,
    error: *mut *mut t2lc_error,
) -> t2lc_status {
    // SAFETY: as the caller promises.
    unsafe { open(options, compiler, error, || bundle_of_ranges(self::files(files, count)?)) }
}

#[cfg(unix)]
unsafe fn bundle_of_ranges(ranges: &[t2lc_file_range]) -> Result<Bundle, Failure> {
    use std::fs::File;
    use std::os::fd::BorrowedFd;

    use crate::bundle::FileRange;

    let mut opened = Vec::new();
    for range in ranges {
        // SAFETY: as the caller promises.
        let name = unsafe { text(range.name, range.name_length, "the name of a file") }?;
        let bad = |error: io::Error| {
            let message = format!("the descriptor {} of `{name}`: {error}", range.descriptor);
            Failure::argument("argument.descriptor", message)
        };
        if range.descriptor < 0 {
            return Err(bad(io::ErrorKind::InvalidInput.into()));
        }
        // SAFETY: open, as the caller promises, and not -1; one that is closed fails to be copied.
        let descriptor = unsafe { BorrowedFd::borrow_raw(range.descriptor) };
        let file = File::from(descriptor.try_clone_to_owned().map_err(bad)?);
        opened.push((name, file, range.offset, range.size));
    }
    let ranges: Vec<_> = opened
        .iter()
        .map(|(name, file, offset, size)| FileRange {
            name,
            file,
            offset: *offset,
            size_bytes: *size,
        })
        .collect();
    Ok(Bundle::from_ranges(&ranges).map_err(Error::from)?)
}

#[cfg(not(unix))]
unsafe fn bundle_of_ranges(_ranges: &[t2lc_file_range]) -> Result<Bundle, Failure> {
    let message = "this system has no file descriptors".into();
    Err(Failure::argument("open.unsupported", message))
}

/// Through callbacks, which are called during this call only, on its thread.
///
/// # Safety
/// Pointers are null or valid; the callbacks do as their documentation says and do not unwind.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn t2lc_open_reader(
    reader: *const t2lc_reader,
    options: *const t2lc_open_options,
    compiler: *mut *mut t2lc_compiler,
    error: *mut *mut t2lc_error,
) -> t2lc_status {
    // SAFETY: as the caller promises.
    unsafe {
        open(options, compiler, error, || {
            if reader.is_null() {
                return Err(Failure::null("the reader"));
            }
            let reader = read(reader)?;
            if reader.size.is_none() || reader.read.is_none() {
                return Err(Failure::null("a function of the reader"));
            }
            Ok(Bundle::from_reader(&mut Vouched(reader)).map_err(Error::from)?)
        })
    }
}

/// A reader whose functions and context the caller of `t2lc_open_reader` vouches for; it is made
/// there only.
struct Vouched(t2lc_reader);

impl BundleReader for Vouched {
    fn size_bytes(&mut self, name: &str) -> Option<u64> {
        let t2lc_reader { size, context, .. } = &self.0;
        // SAFETY: the name is valid for the call; the function is vouched for, here and below.
        let size = unsafe { (*size)?(name.as_ptr().cast(), name.len(), *context) };
        u64::try_from(size).ok()
    }

    fn read(&mut self, name: &str, into: &mut [u8]) -> io::Result<()> {
        let read = self.0.read.ok_or(io::ErrorKind::Unsupported)?;
        let (length, context) = (into.len(), self.0.context);
        // SAFETY: `into` is writable for its length.
        let done = unsafe {
            read(name.as_ptr().cast(), name.len(), 0, into.as_mut_ptr(), length, context)
        };
        if done { Ok(()) } else { Err(io::Error::other("the reader says that it cannot")) }
    }
}

/// Frees a compiler; calls that use it still end.
#[unsafe(no_mangle)]
pub extern "C" fn t2lc_compiler_free(compiler: *mut t2lc_compiler) {
    look((), || COMPILERS.remove(compiler));
}

fn text_of(compiler: *const t2lc_compiler, of: impl FnOnce(&Open) -> &CString) -> *const c_char {
    look(ptr::null(), || COMPILERS.get(compiler).map_or(ptr::null(), |open| of(&open).as_ptr()))
}

/// manifest.json of the bundle: base model, encoder, licences. NULL for a handle that is none.
#[unsafe(no_mangle)]
pub extern "C" fn t2lc_compiler_manifest(compiler: *const t2lc_compiler) -> *const c_char {
    text_of(compiler, |open| &open.manifest)
}

/// Digest of the bundle, "sha256:…".
#[unsafe(no_mangle)]
pub extern "C" fn t2lc_compiler_bundle_digest(compiler: *const t2lc_compiler) -> *const c_char {
    text_of(compiler, |open| &open.digest)
}

/// Class of arithmetic, for example "exact/1".
#[unsafe(no_mangle)]
pub extern "C" fn t2lc_compiler_backend(compiler: *const t2lc_compiler) -> *const c_char {
    text_of(compiler, |open| &open.backend)
}
