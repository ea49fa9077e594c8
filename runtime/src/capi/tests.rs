//! Tests of the C interface, called as from C.

#![cfg(unix)]

use std::ffi::{CStr, c_char, c_void};
use std::fs;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::ptr::{self, null, null_mut};
use std::thread;

use super::*;
use crate::digest::Digest;

const NAMES: [&str; 5] =
    ["manifest.json", "encoder.onnx", "hypernet.onnx", "tokenizer.json", "tasks.safetensors"];

fn folder() -> PathBuf {
    concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/smollm2-135m-instruct.t2lc").into()
}

fn chars(text: &str) -> (*const c_char, usize) {
    (text.as_ptr().cast(), text.len())
}

fn string(text: *const c_char) -> String {
    assert!(!text.is_null());
    unsafe { CStr::from_ptr(text) }.to_str().unwrap().to_owned()
}

/// Status, code and message of a failed call; frees its error.
fn told(status: t2lc_status, error: *mut t2lc_error) -> (t2lc_status, String) {
    assert_eq!(t2lc_error_status(error), status);
    assert!(!string(t2lc_error_message(error)).is_empty());
    let code = string(t2lc_error_code(error));
    t2lc_error_free(error);
    assert_eq!(t2lc_error_status(error), T2LC_ERROR_ARGUMENT);
    (status, code)
}

/// Opens the default bundle on one thread.
fn open() -> *mut t2lc_compiler {
    let (mut compiler, mut error) = (null_mut(), null_mut());
    let folder = folder();
    let (path, length) = chars(folder.to_str().unwrap());
    let mut options = open_options();
    options.threads = 1;
    let status = unsafe {
        t2lc_open_directory(path, length, &raw const options, &raw mut compiler, &raw mut error)
    };
    assert_eq!((status, error), (T2LC_OK, null_mut()));
    compiler
}

fn open_options() -> t2lc_open_options {
    let mut options = std::mem::MaybeUninit::<t2lc_open_options>::uninit();
    let size = u32::try_from(size_of::<t2lc_open_options>()).unwrap();
    let status = unsafe { t2lc_open_options_init(options.as_mut_ptr(), size) };
    assert_eq!(status, T2LC_OK);
    unsafe { options.assume_init() }
}

fn compile_options() -> t2lc_compile_options {
    let mut options = std::mem::MaybeUninit::<t2lc_compile_options>::uninit();
    let size = u32::try_from(size_of::<t2lc_compile_options>()).unwrap();
    let status = unsafe { t2lc_compile_options_init(options.as_mut_ptr(), size) };
    assert_eq!(status, T2LC_OK);
    unsafe { options.assume_init() }
}

/// Compiles, or says why not.
fn compile(
    compiler: *const t2lc_compiler,
    text: &str,
    options: Option<&t2lc_compile_options>,
) -> Result<*mut t2lc_adapter, (t2lc_status, String)> {
    let (mut adapter, mut error) = (null_mut(), null_mut());
    let (text, length) = chars(text);
    let options = options.map_or(null(), ptr::from_ref);
    let status =
        unsafe { t2lc_compile(compiler, text, length, options, &raw mut adapter, &raw mut error) };
    if status == T2LC_OK {
        assert!(error.is_null());
        return Ok(adapter);
    }
    assert!(adapter.is_null());
    Err(told(status, error))
}

/// Digest of the adapter of a description, which is freed.
fn content(compiler: *const t2lc_compiler) -> String {
    let adapter = compile(compiler, "summarize legal text", None).unwrap();
    let mut size = 0;
    let bytes = unsafe { t2lc_adapter_file_bytes(adapter, 0, &raw mut size) };
    let bytes = unsafe { std::slice::from_raw_parts(bytes, size) };
    let content = string(t2lc_adapter_content(adapter));
    assert_eq!(Digest::of(bytes).to_string(), content);
    t2lc_adapter_free(adapter);
    content
}

unsafe extern "C" fn size(name: *const c_char, length: usize, _: *mut c_void) -> i64 {
    let name = unsafe { std::slice::from_raw_parts(name.cast::<u8>(), length) };
    let path = folder().join(str::from_utf8(name).unwrap());
    fs::metadata(path).map_or(-1, |found| i64::try_from(found.len()).unwrap())
}

unsafe extern "C" fn read(
    name: *const c_char,
    name_length: usize,
    offset: u64,
    into: *mut u8,
    length: usize,
    _: *mut c_void,
) -> bool {
    let name = unsafe { std::slice::from_raw_parts(name.cast::<u8>(), name_length) };
    let bytes = fs::read(folder().join(str::from_utf8(name).unwrap())).unwrap();
    let from = usize::try_from(offset).unwrap();
    unsafe { ptr::copy_nonoverlapping(bytes[from..].as_ptr(), into, length) };
    true
}

#[test]
fn four_ways_to_open_give_the_same_bytes() {
    let by_directory = open();
    let expected = content(by_directory);
    assert_eq!(string(t2lc_compiler_backend(by_directory)), "exact/1");
    assert!(string(t2lc_compiler_manifest(by_directory)).contains("\"base\""));
    let digest = string(t2lc_compiler_bundle_digest(by_directory));
    t2lc_compiler_free(by_directory);

    let loaded = NAMES.map(|name| (name, fs::read(folder().join(name)).unwrap()));
    let files = loaded.each_ref().map(|(name, bytes)| t2lc_file_bytes {
        name: name.as_ptr().cast(),
        name_length: name.len(),
        bytes: bytes.as_ptr(),
        size: bytes.len(),
    });
    // One file after the other in one, as in an app's archive.
    let archive = tempfile::NamedTempFile::new().unwrap();
    let mut all = b"before".to_vec();
    let ranges = loaded.each_ref().map(|(name, bytes)| {
        let offset = all.len() as u64;
        all.extend(bytes);
        t2lc_file_range {
            name: name.as_ptr().cast(),
            name_length: name.len(),
            descriptor: archive.as_file().as_raw_fd(),
            offset,
            size: bytes.len() as u64,
        }
    });
    fs::write(archive.path(), &all).unwrap();
    let reader = t2lc_reader {
        struct_size: u32::try_from(size_of::<t2lc_reader>()).unwrap(),
        size: Some(size),
        read: Some(read),
        context: null_mut(),
    };
    let opened = |call: &dyn Fn(*mut *mut t2lc_compiler) -> t2lc_status| {
        let mut compiler = null_mut();
        assert_eq!(call(&raw mut compiler), T2LC_OK);
        assert_eq!(content(compiler), expected);
        assert_eq!(string(t2lc_compiler_bundle_digest(compiler)), digest);
        t2lc_compiler_free(compiler);
    };
    opened(&|out| unsafe { t2lc_open_bytes(files.as_ptr(), 5, null(), out, null_mut()) });
    opened(&|out| unsafe { t2lc_open_ranges(ranges.as_ptr(), 5, null(), out, null_mut()) });
    opened(&|out| unsafe { t2lc_open_reader(&raw const reader, null(), out, null_mut()) });

    let refused = |count: usize, change: &dyn Fn(&mut [t2lc_file_range; 5])| {
        let mut ranges = ranges;
        change(&mut ranges);
        let (mut compiler, mut error) = (null_mut(), null_mut());
        let out = (&raw mut compiler, &raw mut error);
        let status = unsafe { t2lc_open_ranges(ranges.as_ptr(), count, null(), out.0, out.1) };
        assert!(compiler.is_null());
        told(status, error)
    };
    assert_eq!(refused(4, &|_| ()), (T2LC_ERROR_BUNDLE, "bundle.missing".into()));
    let beyond = refused(5, &|ranges| ranges[1].offset += 1 << 40);
    assert_eq!(beyond, (T2LC_ERROR_BUNDLE, "bundle.missing".into()));
    let shifted = refused(5, &|ranges| ranges[1].offset -= 1);
    assert_eq!(shifted, (T2LC_ERROR_BUNDLE, "bundle.digest".into()));
    let closed = refused(5, &|ranges| ranges[1].descriptor = -1);
    assert_eq!(closed, (T2LC_ERROR_ARGUMENT, "argument.descriptor".into()));
}

#[test]
fn what_is_wrong_is_told_and_the_compiler_lives_on() {
    let compiler = open();
    let expected = content(compiler);
    let refused = |text: &str, change: &dyn Fn(&mut t2lc_compile_options)| {
        let mut options = compile_options();
        change(&mut options);
        let (status, code) = compile(compiler, text, Some(&options)).unwrap_err();
        assert_eq!(content(compiler), expected);
        (status, code)
    };
    let argument = |code: &str| (T2LC_ERROR_ARGUMENT, code.to_owned());
    let description = |code: &str| (T2LC_ERROR_DESCRIPTION, code.to_owned());
    assert_eq!(refused("", &|_| ()), description("describe.empty"));
    assert_eq!(refused(&"long ".repeat(2000), &|_| ()), description("describe.too_long"));
    assert_eq!(refused("x", &|options| options.format = 2), argument("options.format"));
    assert_eq!(refused("x", &|options| options.quantization = 9), argument("options.quantization"));
    assert_eq!(refused("x", &|options| options.scale = f32::NAN), argument("options.scale"));
    for size in [4, 5000] {
        let said = refused("x", &|options| options.struct_size = size);
        assert_eq!(said, argument("options.struct_size"));
    }
    let peft_in_blocks = |options: &mut t2lc_compile_options| {
        (options.format, options.quantization) = (T2LC_FORMAT_PEFT, T2LC_QUANTIZATION_Q4_0);
    };
    let failed = (T2LC_ERROR_COMPILE, "write.quantization".into());
    assert_eq!(refused("x", &peft_in_blocks), failed);

    let mut adapter = null_mut();
    let call = |text: &[u8], compiler, adapter| {
        let mut error = null_mut();
        let pointer = if text.is_empty() { null() } else { text.as_ptr().cast() };
        let length = text.len().max(1);
        let status =
            unsafe { t2lc_compile(compiler, pointer, length, null(), adapter, &raw mut error) };
        told(status, error)
    };
    assert_eq!(call(b"\xff", compiler, &raw mut adapter), argument("argument.utf8"));
    assert_eq!(call(b"", compiler, &raw mut adapter), argument("argument.null"));
    assert_eq!(call(b"x", compiler, null_mut()), argument("argument.null"));
    assert_eq!(call(b"x", null_mut(), &raw mut adapter), argument("argument.handle"));
    t2lc_compiler_free(compiler);
    t2lc_compiler_free(compiler);
    assert_eq!(call(b"x", compiler, &raw mut adapter), argument("argument.handle"));
    assert!(t2lc_compiler_manifest(compiler).is_null());
    // A handle of another kind is none.
    assert_eq!(t2lc_adapter_file_count(compiler.cast()), 0);

    let open = |path: &str, change: &dyn Fn(&mut t2lc_open_options)| {
        let (path, length) = chars(path);
        let (mut none, mut error) = (null_mut(), null_mut());
        let mut options = open_options();
        change(&mut options);
        let out = (&raw mut none, &raw mut error);
        let status = unsafe { t2lc_open_directory(path, length, &raw const options, out.0, out.1) };
        assert!(none.is_null());
        told(status, error)
    };
    let folder = folder();
    let folder = folder.to_str().unwrap();
    assert_eq!(open("", &|_| ()), argument("argument.path"));
    assert_eq!(open("/nowhere", &|_| ()), (T2LC_ERROR_BUNDLE, "bundle.missing".into()));
    assert_eq!(open(folder, &|options| options.backend = 4), argument("options.backend"));
    assert_eq!(open(folder, &|options| options.reserved = 1), argument("options.reserved"));
    let on_a_gpu = |options: &mut t2lc_open_options| {
        options.backend = T2LC_BACKEND_EXACT;
        (options.provider, options.provider_length) = chars("cuda");
    };
    assert_eq!(open(folder, &on_a_gpu), (T2LC_ERROR_BACKEND, "backend.provider".into()));
}

#[test]
fn a_later_caller_may_pass_more_but_only_zeros() {
    #[repr(C)]
    struct Later {
        now: t2lc_compile_options,
        more: u64,
    }
    let mut later = Later { now: compile_options(), more: 0 };
    later.now.struct_size = u32::try_from(size_of::<Later>()).unwrap();
    assert!(unsafe { options::read((&raw const later).cast::<t2lc_compile_options>()) }.is_ok());
    later.more = 1;
    assert!(unsafe { options::read((&raw const later).cast::<t2lc_compile_options>()) }.is_err());
}

#[test]
fn every_stage_can_be_cancelled() {
    unsafe extern "C" fn until(stage: u32, done: u64, total: u64, context: *mut c_void) -> bool {
        assert!(done <= total);
        stage < unsafe { *context.cast::<u32>() }
    }
    let compiler = open();
    let expected = content(compiler);
    for last in [T2LC_STAGE_ENCODE, T2LC_STAGE_GENERATE, T2LC_STAGE_QUANTIZE, T2LC_STAGE_WRITE] {
        let mut stop = last;
        let mut options = compile_options();
        options.progress = Some(until);
        options.context = (&raw mut stop).cast();
        let failed = compile(compiler, "summarize legal text", Some(&options)).unwrap_err();
        assert_eq!(failed, (T2LC_ERROR_CANCELLED, "compile.cancelled".into()));
        assert_eq!(content(compiler), expected);
    }
    t2lc_compiler_free(compiler);
}

#[test]
fn an_adapter_has_files_and_neighbours() {
    let compiler = open();
    let mut options = compile_options();
    options.format = T2LC_FORMAT_PEFT;
    let adapter = compile(compiler, "Give the antonym of the word.", Some(&options)).unwrap();
    assert_eq!(t2lc_adapter_file_count(adapter), 2);
    assert_eq!(string(t2lc_adapter_file_name(adapter, 0)), "adapter_model.safetensors");
    assert_eq!(string(t2lc_adapter_file_name(adapter, 1)), "adapter_config.json");
    assert!(t2lc_adapter_file_name(adapter, 2).is_null());
    assert!(t2lc_adapter_tokens(adapter) > 3 && !t2lc_adapter_truncated(adapter));
    assert!(string(t2lc_adapter_recipe(adapter)).starts_with("sha256:"));

    let near = t2lc_adapter_similarity(adapter);
    assert_eq!((t2lc_similarity_count(near), t2lc_similarity_familiar(near)), (3, true));
    assert_eq!(string(t2lc_similarity_task(near, 0)), "antonym");
    assert!(t2lc_similarity_cosine(near, 0) > 0.8 && t2lc_similarity_cosine(near, 3).is_nan());
    t2lc_similarity_free(near);
    let (text, length) = chars("Give the antonym of the word.");
    let mut again = null_mut();
    let status = unsafe { t2lc_nearest(compiler, text, length, 5, &raw mut again, null_mut()) };
    assert_eq!((status, t2lc_similarity_count(again)), (T2LC_OK, 5));
    assert_eq!(string(t2lc_similarity_task(again, 0)), "antonym");
    t2lc_similarity_free(again);

    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("adapter");
    let (path, length) = chars(target.to_str().unwrap());
    let write = |overwrite| {
        let mut error = null_mut();
        let status =
            unsafe { t2lc_adapter_write(adapter, path, length, overwrite, &raw mut error) };
        if status == T2LC_OK { None } else { Some(told(status, error)) }
    };
    assert_eq!(write(false), None);
    assert_eq!(write(false), Some((T2LC_ERROR_OUTPUT, "output.exists".into())));
    assert_eq!(write(true), None);
    assert!(target.join("adapter_config.json").is_file());
    t2lc_adapter_free(adapter);
    t2lc_compiler_free(compiler);
}

#[test]
fn a_compiler_may_be_freed_while_others_compile() {
    let compiler = open();
    let expected = content(compiler);
    let number = compiler.addr();
    thread::scope(|scope| {
        let workers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(move || {
                    let compiler: *const t2lc_compiler = ptr::without_provenance(number);
                    let mut contents = Vec::new();
                    // Until it is freed.
                    loop {
                        match compile(compiler, "summarize legal text", None) {
                            Ok(adapter) => {
                                contents.push(string(t2lc_adapter_content(adapter)));
                                t2lc_adapter_free(adapter);
                            }
                            Err(told) => return (contents, told),
                        }
                    }
                })
            })
            .collect();
        thread::sleep(std::time::Duration::from_millis(300));
        t2lc_compiler_free(compiler);
        let mut made = 0;
        for worker in workers {
            let (contents, told) = worker.join().unwrap();
            assert_eq!(told, (T2LC_ERROR_ARGUMENT, "argument.handle".into()));
            assert!(contents.iter().all(|content| *content == expected));
            made += contents.len();
        }
        assert!(made > 0);
    });
}
