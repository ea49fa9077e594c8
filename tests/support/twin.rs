//! The base in llama.cpp: as published, and as a twin whose weights are the same numbers in F32.
//!
//! llama.cpp multiplies `Q4_1` weights with activations that it rounds to 8 bits, which hides
//! small errors. With F32 weights nothing is rounded but the floats themselves.
//!
//! Goes in: the GGUF file of the base, dequantized by candle. Comes out: a GGUF file of about
//! 540 MB with the same metadata and tensors in the same order, rows included.

use std::fs::{self, File};
use std::io::BufReader;
use std::path::Path;
use std::sync::OnceLock;

use candle_core::Device;
use candle_core::quantized::gguf_file::Content;
use candle_core::quantized::{GgmlDType, QTensor};
use t2lc::llama::{Llama, Model};
use t2lc_runtime::gguf::{GgmlType, Gguf, GgufWriter};

use super::parts;

/// The base as published; loaded once per process.
pub(crate) fn base() -> &'static Model {
    static MODEL: OnceLock<Model> = OnceLock::new();
    MODEL.get_or_init(|| open(&parts::base_gguf()))
}

/// The base with F32 weights; made and loaded once per process.
pub(crate) fn f32_twin() -> &'static Model {
    static MODEL: OnceLock<Model> = OnceLock::new();
    MODEL.get_or_init(|| f32_twin_of(&parts::base_gguf()))
}

/// Gemma 3 270M with F32 weights, about 1.1 GB; made and loaded once per process.
pub(crate) fn gemma_f32_twin() -> &'static Model {
    static MODEL: OnceLock<Model> = OnceLock::new();
    MODEL.get_or_init(|| f32_twin_of(&parts::gemma_gguf()))
}

fn f32_twin_of(base: &Path) -> Model {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("twin.gguf");
    write_f32_twin(base, &path);
    // Statics are never dropped, so the file goes now; what llama.cpp has mapped of it stays.
    open(&path)
}

/// Token ids as llama.cpp takes them.
pub(crate) fn llama_ids(tokens: &[u32]) -> Vec<i32> {
    tokens.iter().map(|&id| i32::try_from(id).expect("ids are below 2³¹")).collect()
}

fn open(path: &Path) -> Model {
    let llama = Llama::load(&parts::llama_cpp_dir()).expect("llama.cpp was fetched");
    llama.model(path).expect("llama.cpp takes the base")
}

/// Writes the file at `base` to the path `twin`, with all its tensors in F32.
///
/// # Panics
/// If a file cannot be read or written.
pub(crate) fn write_f32_twin(base: &Path, twin: &Path) {
    let bytes = fs::read(base).expect("the base can be read");
    let gguf = Gguf::parse(&bytes).expect("the base is a GGUF file");
    let mut reader = BufReader::new(File::open(base).expect("the base can be opened"));
    let content = Content::read(&mut reader).expect("candle reads the base");

    let mut writer = GgufWriter::new();
    for (key, value) in gguf.metadata() {
        writer.metadata(key, value.clone()).expect("what was read can be written");
    }
    for info in gguf.tensors() {
        let stored = content.tensor(&mut reader, &info.name, &Device::Cpu);
        let dense = stored.and_then(|stored| stored.dequantize(&Device::Cpu));
        // A "quantized" tensor of F32 lends its bytes.
        let dense = dense.and_then(|dense| QTensor::quantize(&dense, GgmlDType::F32));
        let dense = dense.unwrap_or_else(|error| panic!("`{}`: {error}", info.name));
        let values = dense.data().expect("the tensor is in memory").into_owned();
        writer
            .tensor(&info.name, &info.dimensions, GgmlType::F32, values)
            .expect("an F32 tensor has the shape that it had");
    }
    fs::write(twin, writer.finish().expect("the twin is a GGUF file"))
        .expect("the twin fits the disk");
}
