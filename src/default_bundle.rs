//! The bundle built into the program: SmolLM2-135M-Instruct.

/// Names and bytes of the built-in bundle's files; `None` in a build without it.
pub fn files() -> Option<[(&'static str, &'static [u8]); 5]> {
    #[cfg(feature = "embedded-bundle")]
    {
        macro_rules! file {
            ($name:literal) => {
                ($name, include_bytes!(concat!("../fixtures/smollm2-135m-instruct.t2lc/", $name)))
            };
        }
        Some([
            file!("manifest.json"),
            file!("encoder.onnx"),
            file!("hypernet.onnx"),
            file!("tokenizer.json"),
            file!("tasks.safetensors"),
        ])
    }
    #[cfg(not(feature = "embedded-bundle"))]
    None
}
