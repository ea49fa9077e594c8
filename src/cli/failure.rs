//! How a verb fails: an exit code, a stable code for programs, an error chain and hints.

use std::process::ExitCode;

use serde_json::json;
use t2lc_runtime::error::Error;
use t2lc_runtime::rebuild::RebuildError;

use super::output::{print_json, say};

/// Code of a failure to print.
const OUTPUT: &str = "io";

/// A verb's failure.
#[derive(Debug)]
pub(crate) struct Failure {
    /// 1: the input is at fault or the answer is no. 2: usage, environment or internal.
    exit: u8,
    /// Stable name for programs.
    code: &'static str,
    error: anyhow::Error,
    hints: Vec<String>,
    /// Whether the verb has printed its own JSON.
    answered: bool,
}

/// What a verb returns.
pub(crate) type Outcome = Result<(), Failure>;

impl Failure {
    /// The input is at fault, or the answer is no.
    pub(crate) fn input(code: &'static str, error: impl Into<anyhow::Error>) -> Self {
        Self { exit: 1, code, error: error.into(), hints: Vec::new(), answered: false }
    }

    /// Usage, environment, or an internal error.
    pub(crate) fn environment(code: &'static str, error: impl Into<anyhow::Error>) -> Self {
        Self { exit: 2, code, error: error.into(), hints: Vec::new(), answered: false }
    }

    /// Adds advice.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// The verb has already printed this answer as JSON.
    pub(crate) fn answered(mut self, answered: bool) -> Self {
        self.answered = answered;
        self
    }

    /// A verb that only a build with the trainer has.
    #[cfg(not(feature = "train"))]
    pub(crate) fn without_trainer() -> Self {
        Self::environment("train.not_built", anyhow::anyhow!("this build has no trainer"))
            .hint("build it with `cargo build --release --features train`")
    }

    /// A verb or an engine that only a build with the trainer and llama.cpp has.
    #[cfg(not(all(feature = "train", feature = "llama")))]
    pub(crate) fn without_llama() -> Self {
        Self::environment("llama.not_built", anyhow::anyhow!("this build cannot run llama.cpp"))
            .hint("build it with `cargo build --release --features train,llama`")
    }

    /// Whether the reader of our output has gone away, which is no failure. A server that hangs up
    /// is one.
    pub(crate) fn is_broken_pipe(&self) -> bool {
        let broken = |cause: &(dyn std::error::Error + 'static)| {
            let io = cause.downcast_ref::<std::io::Error>();
            io.is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
        };
        self.code == OUTPUT && self.error.chain().any(broken)
    }

    /// Prints the failure and gives the exit code.
    pub(crate) fn report(&self, json: bool) -> ExitCode {
        let mut causes: Vec<String> = Vec::new();
        for cause in self.error.chain().map(ToString::to_string) {
            // Wrappers that repeat their cause add nothing.
            if causes.last() != Some(&cause) {
                causes.push(cause);
            }
        }
        if json && !self.answered {
            let error =
                json!({"code": self.code, "message": causes.join(": "), "hints": self.hints});
            // Nothing is left to report a failing stdout to.
            let _ = print_json(&json!({"schema": 1, "error": error}));
        }
        say(false, &format!("error: {}", causes.first().map_or("unknown", String::as_str)));
        for cause in causes.iter().skip(1) {
            say(false, &format!("  caused by: {cause}"));
        }
        for hint in &self.hints {
            say(false, &format!("hint: {hint}"));
        }
        ExitCode::from(self.exit)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let code = error.code();
        let input = ["describe", "bundle", "encode", "generate", "quantize", "write"];
        let stage = code.split_once('.').map_or(code, |(stage, _)| stage);
        // A graph that a backend refuses came with the bundle.
        let failure = if input.contains(&stage) || code == "backend.load" {
            Self::input(code, error)
        } else {
            Self::environment(code, error)
        };
        match code {
            "describe.empty" => {
                failure.hint("describe the task, for example \"translate to French\"")
            }
            "bundle.size" | "bundle.digest" => {
                failure.hint("the bundle is damaged or was changed after export; get it again")
            }
            "bundle.schema" => failure.hint("the bundle needs another version of t2lc"),
            "backend.load" => failure.hint(
                "another --backend may take the graph: one that was an ONNX file before needs ort \
                 or tract",
            ),
            "backend.library" => failure.hint(
                "set T2LC_ORT_LIBRARY to the ONNX Runtime shared library, or use --backend exact",
            ),
            "backend.provider" => failure.hint("use --provider auto to take what is available"),
            "backend.not_built" => failure
                .hint("build t2lc with the feature of the same name, or use another --backend"),
            "output.exists" => failure.hint("use --force to overwrite it"),
            "write.quantization" => failure.hint("use --format gguf for block quantizations"),
            _ => failure,
        }
    }
}

#[cfg(feature = "llama")]
impl From<t2lc::llama::LlamaError> for Failure {
    fn from(error: t2lc::llama::LlamaError) -> Self {
        use t2lc::llama::{FOLDER_VARIABLE, LlamaError, VERSION};
        match error {
            LlamaError::NoFolder | LlamaError::Library { .. } | LlamaError::Version { .. } => {
                Self::environment("llama.library", error).hint(format!(
                    "name the folder of its prebuilt libraries with --llama DIR or \
                     {FOLDER_VARIABLE}; they must be of version {VERSION} (npm package \
                     @node-llama-cpp/linux-x64 3.22.1, which tests/parts.sh fetches)"
                ))
            }
            LlamaError::Model { .. } => Self::input("llama.model", error),
            LlamaError::TooManyTokens { .. } => Self::input("llama.tokens", error),
            LlamaError::Adapter { .. } | LlamaError::UnsoundAdapter { .. } => {
                Self::input("llama.adapter", error)
            }
            _ => Self::environment("llama.failed", error),
        }
    }
}

impl From<RebuildError> for Failure {
    fn from(error: RebuildError) -> Self {
        match error {
            RebuildError::Compile(error) => error.into(),
            RebuildError::NotCompiled => Self::input("rebuild.not_compiled", error),
            RebuildError::OtherBundle { .. } => Self::input("rebuild.bundle", error)
                .hint("name the bundle that it was compiled with: --bundle DIR"),
            RebuildError::OtherPipeline { .. } => Self::input("rebuild.pipeline", error)
                .hint("rebuild it with the version of t2lc that it was compiled with"),
            RebuildError::UnknownBackend { .. } | RebuildError::OtherBackend { .. } => {
                Self::input("rebuild.backend", error)
                    .hint("rebuild it with a t2lc that has this version of the backend")
            }
            _ => Self::input("rebuild.record", error),
        }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::environment("internal", error)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::environment(OUTPUT, error)
    }
}
