//! The C interface of llama.cpp v0.5.0, as far as it is used: the structs that cross it by value and
//! a table of its functions.
//!
//! In: the folder of the libraries. Out: an [`Api`], with every function looked up.
//!
//! Source: `include/llama.h`, `ggml/include/ggml.h` and `ggml-backend.h` of that version. Layouts
//! change between versions, so the version is part of the names of the files that are loaded, is
//! checked once more when they are, and sizes and offsets (x86-64, from a C compiler) are asserted
//! below. C enums are `i32`.

use std::error::Error as _;
use std::ffi::{c_char, c_void};
use std::mem::offset_of;
use std::path::Path;

use libloading::Library;

use super::error::LlamaError;

/// The version of llama.cpp that is taken, as its libraries tell it.
pub const VERSION: &str = "0.5.0-dev";
/// Files of the two libraries that are called; they load the others themselves.
const GGML: &str = "libggml.v0.5.0.so";
const LLAMA: &str = "libllama.v0.5.0.so";
/// `GGML_TYPE_F32`
pub(crate) const TYPE_F32: i32 = 0;
/// `LLAMA_FLASH_ATTN_TYPE_DISABLED`
pub(crate) const FLASH_ATTENTION_DISABLED: i32 = 0;
/// `GGML_LOG_LEVEL_WARN`, the first level that explains a failure.
pub(crate) const LOG_WARN: i32 = 3;
/// `GGML_LOG_LEVEL_CONT`: goes on with the line before.
pub(crate) const LOG_CONTINUE: i32 = 5;

macro_rules! opaque {
    ($($name:ident)*) => { $(
        #[repr(C)]
        pub(crate) struct $name {
            _private: [u8; 0],
        }
    )* };
}
opaque!(RawModel RawContext RawVocab RawAdapter RawMemory);

/// `ggml_log_callback`: level, text, user data.
pub(crate) type LogCallback = unsafe extern "C" fn(i32, *const c_char, *mut c_void);

/// `llama_model_params`
#[repr(C)]
pub(crate) struct ModelParams {
    pub(crate) devices: *mut c_void,
    pub(crate) tensor_buft_overrides: *const c_void,
    pub(crate) n_gpu_layers: i32,
    pub(crate) split_mode: i32,
    pub(crate) load_mode: i32,
    pub(crate) lazy_mode: i32,
    pub(crate) main_gpu: i32,
    pub(crate) tensor_split: *const f32,
    pub(crate) progress_callback: *const c_void,
    pub(crate) progress_callback_user_data: *mut c_void,
    pub(crate) kv_overrides: *const c_void,
    pub(crate) vocab_only: bool,
    pub(crate) check_tensors: bool,
    pub(crate) use_extra_bufts: bool,
    pub(crate) no_host: bool,
    pub(crate) no_alloc: bool,
    pub(crate) load_mtp: bool,
}

/// `llama_context_params`
#[repr(C)]
pub(crate) struct ContextParams {
    pub(crate) n_ctx: u32,
    pub(crate) n_batch: u32,
    pub(crate) n_ubatch: u32,
    pub(crate) n_seq_max: u32,
    pub(crate) n_rs_seq: u32,
    pub(crate) n_outputs_max: u32,
    pub(crate) n_outputs_max_per_seq: u32,
    pub(crate) n_threads: i32,
    pub(crate) n_threads_batch: i32,
    pub(crate) ctx_type: i32,
    pub(crate) rope_scaling_type: i32,
    pub(crate) pooling_type: i32,
    pub(crate) attention_type: i32,
    pub(crate) flash_attn_type: i32,
    pub(crate) rope_freq_base: f32,
    pub(crate) rope_freq_scale: f32,
    pub(crate) yarn_ext_factor: f32,
    pub(crate) yarn_attn_factor: f32,
    pub(crate) yarn_beta_fast: f32,
    pub(crate) yarn_beta_slow: f32,
    pub(crate) yarn_orig_ctx: u32,
    pub(crate) defrag_thold: f32,
    pub(crate) cb_eval: *const c_void,
    pub(crate) cb_eval_user_data: *mut c_void,
    pub(crate) type_k: i32,
    pub(crate) type_v: i32,
    pub(crate) abort_callback: *const c_void,
    pub(crate) abort_callback_data: *mut c_void,
    pub(crate) embeddings: bool,
    pub(crate) offload_kqv: bool,
    pub(crate) no_perf: bool,
    pub(crate) op_offload: bool,
    pub(crate) swa_full: bool,
    pub(crate) kv_unified: bool,
    pub(crate) samplers: *mut c_void,
    pub(crate) n_samplers: usize,
    pub(crate) ctx_other: *mut RawContext,
}

/// `llama_batch`; a null `pos`, `n_seq_id` and `seq_id` mean one sequence, positions counted on.
#[repr(C)]
pub(crate) struct Batch {
    pub(crate) n_tokens: i32,
    pub(crate) token: *mut i32,
    pub(crate) embd: *mut f32,
    pub(crate) pos: *mut i32,
    pub(crate) n_seq_id: *mut i32,
    pub(crate) seq_id: *mut *mut i32,
    /// Not 0 where logits are wanted; null: for the last token only.
    pub(crate) logits: *mut i8,
}

const _: () = {
    assert!(size_of::<ModelParams>() == 80);
    assert!(offset_of!(ModelParams, n_gpu_layers) == 16);
    assert!(offset_of!(ModelParams, tensor_split) == 40);
    assert!(offset_of!(ModelParams, vocab_only) == 72);
    assert!(offset_of!(ModelParams, load_mtp) == 77);
    assert!(size_of::<ContextParams>() == 160);
    assert!(offset_of!(ContextParams, n_threads) == 28);
    assert!(offset_of!(ContextParams, flash_attn_type) == 52);
    assert!(offset_of!(ContextParams, defrag_thold) == 84);
    assert!(offset_of!(ContextParams, type_k) == 104);
    assert!(offset_of!(ContextParams, abort_callback) == 112);
    assert!(offset_of!(ContextParams, embeddings) == 128);
    assert!(offset_of!(ContextParams, kv_unified) == 133);
    assert!(offset_of!(ContextParams, ctx_other) == 152);
    assert!(size_of::<Batch>() == 56);
    assert!(offset_of!(Batch, token) == 8);
    assert!(offset_of!(Batch, logits) == 48);
};

/// The libraries, which the function table keeps loaded.
struct Libraries {
    ggml: Library,
    llama: Library,
}

macro_rules! functions {
    ($($library:ident $name:ident($($argument:ty),*) $(-> $result:ty)?;)*) => {
        /// Every C function in use; a field has the name of its symbol.
        pub(crate) struct Api {
            $(pub(crate) $name: unsafe extern "C" fn($($argument),*) $(-> $result)?,)*
            _libraries: Libraries,
        }

        impl Api {
            /// Loads `libggml` and `libllama` from `dir` and looks every function up.
            ///
            /// # Errors
            /// A library or a function that is missing.
            pub(crate) fn open(dir: &Path) -> Result<Self, LlamaError> {
                let libraries = Libraries { ggml: library(dir, GGML)?, llama: library(dir, LLAMA)? };
                Ok(Self {
                    // SAFETY: the declared types are those of the header of the version that the
                    // file names carry, and the pointers live as long as `_libraries`.
                    $($name: unsafe { libraries.$library.get(stringify!($name)) }
                        .map(|symbol| *symbol)
                        .map_err(|error| LlamaError::Library {
                            path: dir.to_owned(),
                            reason: reason(&error),
                        })?,)*
                    _libraries: libraries,
                })
            }
        }
    };
}

/// Loads one library of the folder.
fn library(dir: &Path, file: &str) -> Result<Library, LlamaError> {
    let path = dir.join(file);
    if !path.is_file() {
        return Err(LlamaError::Library { path, reason: "there is no such file".into() });
    }
    // SAFETY: the user names the folder of a llama.cpp build; initializers of such libraries only
    // set up their own tables.
    let library = unsafe { Library::new(&path) };
    library.map_err(|error| LlamaError::Library { path, reason: reason(&error) })
}

/// What the system's loader says; the message alone only says what failed.
fn reason(error: &libloading::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}

functions! {
    ggml ggml_backend_load_all_from_path(*const c_char);
    llama llama_version() -> *const c_char;
    llama llama_log_set(LogCallback, *mut c_void);
    llama llama_backend_init();
    llama llama_model_default_params() -> ModelParams;
    llama llama_model_load_from_file(*const c_char, ModelParams) -> *mut RawModel;
    llama llama_model_free(*mut RawModel);
    llama llama_model_get_vocab(*const RawModel) -> *const RawVocab;
    llama llama_vocab_n_tokens(*const RawVocab) -> i32;
    llama llama_vocab_eos(*const RawVocab) -> i32;
    llama llama_vocab_is_eog(*const RawVocab, i32) -> bool;
    llama llama_tokenize(*const RawVocab, *const c_char, i32, *mut i32, i32, bool, bool) -> i32;
    llama llama_token_to_piece(*const RawVocab, i32, *mut c_char, i32, i32, bool) -> i32;
    llama llama_context_default_params() -> ContextParams;
    llama llama_init_from_model(*mut RawModel, ContextParams) -> *mut RawContext;
    llama llama_free(*mut RawContext);
    llama llama_n_ctx(*const RawContext) -> u32;
    llama llama_get_memory(*const RawContext) -> *mut RawMemory;
    llama llama_memory_clear(*mut RawMemory, bool);
    llama llama_memory_seq_rm(*mut RawMemory, i32, i32, i32) -> bool;
    llama llama_decode(*mut RawContext, Batch) -> i32;
    llama llama_get_logits_ith(*mut RawContext, i32) -> *mut f32;
    llama llama_adapter_lora_init(*mut RawModel, *const c_char) -> *mut RawAdapter;
    llama llama_adapter_lora_free(*mut RawAdapter);
    llama llama_adapter_meta_val_str(*const RawAdapter, *const c_char, *mut c_char, usize) -> i32;
    llama llama_set_adapters_lora(*mut RawContext, *mut *mut RawAdapter, usize, *mut f32) -> i32;
}
