//! Low-rank adapters in llama.cpp.
//!
//! In: a GGUF file or its bytes, checked before llama.cpp sees it. Out: an [`Adapter`], which
//! borrows its model. llama.cpp reads the whole file when it loads it; bytes go through a temporary
//! file, so that what was checked is what is loaded.

use std::ffi::{CString, c_char};
use std::io::{self, Write};
use std::path::Path;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use t2lc_runtime::gguf::Gguf;
use t2lc_runtime::verify::verify_adapter;

use super::c_api::RawAdapter;
use super::error::LlamaError;
use super::model::Model;
use super::{c_path, failure, take_log};

/// Largest adapter file that is read.
const MAX_ADAPTER_BYTES: u64 = 8 << 30;
/// Key of adapters that start in the middle of a prompt. llama.cpp aborts where its type is not the
/// expected one, and would apply such an adapter from the start.
const ACTIVATED_KEY: &str = "adapter.alora.invocation_tokens";

/// A low-rank adapter, loaded for one model.
#[derive(Debug)]
pub struct Adapter<'m> {
    // Shared with the contexts that use it, so that it may be dropped before them.
    pub(super) handle: Arc<AdapterHandle<'m>>,
}

#[derive(Debug)]
pub(super) struct AdapterHandle<'m> {
    pub(super) model: &'m Model,
    pub(super) raw: NonNull<RawAdapter>,
}

// SAFETY: an adapter does not change after loading; it is freed under its model's lock.
unsafe impl Send for AdapterHandle<'_> {}
// SAFETY: as above.
unsafe impl Sync for AdapterHandle<'_> {}

impl Model {
    /// Loads a low-rank adapter for this model.
    ///
    /// # Errors
    /// A file that is unreadable or larger than 8 GiB; else as [`Model::adapter_from_bytes`].
    pub fn adapter(&self, path: &Path) -> Result<Adapter<'_>, LlamaError> {
        let failed = |reason: String| LlamaError::AdapterFile {
            reason: format!("`{}`: {reason}", path.display()),
        };
        let size_bytes = std::fs::metadata(path).map_err(|e| failed(e.to_string()))?.len();
        if size_bytes > MAX_ADAPTER_BYTES {
            let reason = format!("{size_bytes} bytes, at most {MAX_ADAPTER_BYTES} are read");
            return Err(failed(reason));
        }
        self.adapter_from_bytes(&std::fs::read(path).map_err(|e| failed(e.to_string()))?)
    }

    /// Loads a low-rank adapter for this model from the bytes of a GGUF file.
    ///
    /// # Errors
    /// What [`verify_adapter`] finds wrong, without calling llama.cpp; llama.cpp's message, if it
    /// refuses the file; a temporary file that cannot be written.
    pub fn adapter_from_bytes(&self, bytes: &[u8]) -> Result<Adapter<'_>, LlamaError> {
        check(bytes)?;
        let failed = |e: io::Error| LlamaError::AdapterFile { reason: e.to_string() };
        let file = tempfile::Builder::new().prefix("t2lc-").suffix(".gguf").tempfile();
        let mut file = file.map_err(failed)?;
        file.write_all(bytes).and_then(|()| file.flush()).map_err(failed)?;
        self.load_adapter(file.path())
    }

    /// Loads a file that was checked.
    fn load_adapter(&self, path: &Path) -> Result<Adapter<'_>, LlamaError> {
        let nul = || LlamaError::AdapterFile { reason: "the path has a NUL byte".into() };
        let c_path = c_path(path).ok_or_else(nul)?;
        take_log();
        let writing = self.writing();
        // SAFETY: the model is alive and nothing reads its list of adapters meanwhile; `c_path`
        // ends in NUL.
        let raw = unsafe { (self.api.llama_adapter_lora_init)(self.raw.as_ptr(), c_path.as_ptr()) };
        drop(writing);
        let raw = NonNull::new(raw).ok_or_else(|| LlamaError::Adapter { message: failure() })?;
        Ok(Adapter { handle: Arc::new(AdapterHandle { model: self, raw }) })
    }
}

impl Adapter<'_> {
    /// A scalar metadata value as llama.cpp prints it; `None` for arrays and absent keys.
    pub fn meta(&self, key: &str) -> Option<String> {
        let key = CString::new(key).ok()?;
        let call = |buffer: *mut c_char, size| {
            // SAFETY: the adapter is alive, `key` ends in NUL, and `buffer` has `size` bytes.
            unsafe {
                (self.handle.model.api.llama_adapter_meta_val_str)(
                    self.handle.raw.as_ptr(),
                    key.as_ptr(),
                    buffer,
                    size,
                )
            }
        };
        let length = usize::try_from(call(ptr::null_mut(), 0)).ok()?;
        let mut bytes = vec![0_u8; length.checked_add(1)?]; // the value and a NUL
        call(bytes.as_mut_ptr().cast(), bytes.len());
        bytes.truncate(length);
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }
}

impl Drop for AdapterHandle<'_> {
    fn drop(&mut self) {
        let _writing = self.model.writing();
        // SAFETY: this is the last handle, so no context holds the adapter, and its model is
        // borrowed and therefore alive.
        unsafe { (self.model.api.llama_adapter_lora_free)(self.raw.as_ptr()) }
    }
}

/// Refuses what llama.cpp might abort on.
fn check(bytes: &[u8]) -> Result<(), LlamaError> {
    let unsound = |problems: String| LlamaError::UnsoundAdapter { problems };
    let adapter = Gguf::parse(bytes).map_err(|error| unsound(error.to_string()))?;
    let mut problems = verify_adapter(&adapter).problems;
    if adapter.get(ACTIVATED_KEY).is_some() {
        problems.push(format!("`{ACTIVATED_KEY}` is there: only plain adapters are applied"));
    }
    if problems.is_empty() { Ok(()) } else { Err(unsound(problems.join("; "))) }
}

#[cfg(test)]
mod tests {
    use t2lc_runtime::gguf::{GgmlType, GgufWriter, Value};

    use super::check;

    fn file(extra: Option<(&str, Value)>) -> Vec<u8> {
        let mut file = GgufWriter::new();
        for (key, value) in [
            ("general.type", "adapter"),
            ("general.architecture", "llama"),
            ("adapter.type", "lora"),
        ] {
            file.metadata(key, Value::String(value.into())).unwrap();
        }
        if let Some((key, value)) = extra {
            file.metadata(key, value).unwrap();
        }
        for (name, dimensions) in [("lora_a", [4, 1]), ("lora_b", [1, 4])] {
            let name = format!("blk.0.attn_q.weight.{name}");
            file.tensor(&name, &dimensions, GgmlType::F32, vec![0; 16]).unwrap();
        }
        file.finish().unwrap()
    }

    #[test]
    fn what_llama_cpp_may_abort_on_is_refused() {
        assert!(check(&file(None)).is_ok());
        assert!(check(&file(Some(("adapter.lora.alpha", Value::F32(1.0))))).is_ok());
        let refusal = |bytes: &[u8]| check(bytes).unwrap_err().to_string();
        let alpha = refusal(&file(Some(("adapter.lora.alpha", Value::U32(1)))));
        assert!(alpha.contains("`adapter.lora.alpha` is not a finite 32-bit float"), "{alpha}");
        let activated = refusal(&file(Some((super::ACTIVATED_KEY, Value::U32(1)))));
        assert!(activated.contains("only plain adapters are applied"), "{activated}");
        let torn = &file(None)[..100];
        assert!(refusal(torn).starts_with("the adapter is not sound: file "), "{}", refusal(torn));
    }
}
