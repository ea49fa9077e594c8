//! Where the real models and libraries lie that `tests/parts.sh` fetched, and the repository's
//! own fixtures. Goes in: the name of a part. Comes out: a path that exists.
//!
//! The folder is `$T2LC_PARTS`, else `$XDG_CACHE_HOME/t2lc/parts`, else `$HOME/.cache/t2lc/parts`,
//! the same rule as in the script; an empty variable counts as unset in both.

use std::env;
use std::path::{Path, PathBuf};

/// The folder that holds every part.
///
/// # Panics
/// If the folder does not exist.
pub(crate) fn parts_dir() -> PathBuf {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let dir = set("T2LC_PARTS").unwrap_or_else(|| {
        set("XDG_CACHE_HOME")
            .or_else(|| set("HOME").map(|home| home.join(".cache")))
            .expect("one of `T2LC_PARTS`, `XDG_CACHE_HOME` and `HOME` is set")
            .join("t2lc/parts")
    });
    existing(dir)
}

/// SmolLM2-135M-Instruct, `Q4_1`: architecture `llama`, 30 layers, 576 wide, tied head.
pub(crate) fn base_gguf() -> PathBuf {
    part("base/SmolLM2-135M-Instruct.Q4_1.gguf")
}

/// Gemma 3 270M (pretrained), `Q4_K_M`: architecture `gemma3`, 18 layers, 640 wide, tied head.
pub(crate) fn gemma_gguf() -> PathBuf {
    part("gemma/gemma-3-270m-q4_k_m.gguf")
}

/// all-MiniLM-L6-v2 as published: `config.json`, `model.safetensors`, `tokenizer.json`, …
pub(crate) fn encoder_dir() -> PathBuf {
    part("encoder")
}

/// The same encoder as somebody else exported it: int8 `model.onnx`, with `tokenizer.json`.
pub(crate) fn third_party_encoder_dir() -> PathBuf {
    part("encoder-int8")
}

/// The ONNX Runtime shared library.
pub(crate) fn onnxruntime_library() -> PathBuf {
    part("onnxruntime/libonnxruntime.so")
}

/// The llama.cpp libraries, as `t2lc::llama::Llama::load` takes them.
pub(crate) fn llama_cpp_dir() -> PathBuf {
    part("llama.cpp")
}

/// The folder of the Python module that `tests/serve.py` starts llama.cpp's server with.
pub(crate) fn llama_server_dir() -> PathBuf {
    part("llama-server")
}

/// A file or folder below the repository's `fixtures/`.
///
/// # Panics
/// If it does not exist.
pub(crate) fn fixture(path: impl AsRef<Path>) -> PathBuf {
    // A member crate that includes this module has its own manifest folder below the root.
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .find(|dir| dir.join("fixtures").is_dir())
        .expect("the repository root, which has `fixtures/`, is above the crate");
    let path = root.join("fixtures").join(path);
    assert!(path.exists(), "fixture `{}` is missing", path.display());
    path
}

fn part(relative: &str) -> PathBuf {
    existing(parts_dir().join(relative))
}

fn existing(path: PathBuf) -> PathBuf {
    assert!(path.exists(), "`{}` is missing: run tests/parts.sh", path.display());
    path
}
