//! What can go wrong with llama.cpp.

use std::path::PathBuf;

/// Why llama.cpp could not be loaded, or did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the message of each variant names its fields")]
pub enum LlamaError {
    /// Neither an option nor the environment says where the libraries are.
    #[error("it is not known where the libraries of llama.cpp are")]
    NoFolder,
    /// A library, or a function in it, is missing.
    #[error("cannot load llama.cpp from `{}`: {reason}", .path.display())]
    Library { path: PathBuf, reason: String },
    /// A version with other C layouts.
    #[error("the libraries are llama.cpp {got}, expected {expected}")]
    Version { expected: &'static str, got: String },
    /// A process has one llama.cpp.
    #[error(
        "llama.cpp was loaded from `{}`, and cannot be loaded from `{}` as well",
        .loaded.display(),
        .asked.display()
    )]
    OtherFolder { loaded: PathBuf, asked: PathBuf },
    /// A model that llama.cpp refuses.
    #[error("llama.cpp refuses the model `{}`: {message}", .path.display())]
    Model { path: PathBuf, message: String },
    /// An adapter that cannot be read or handed over.
    #[error("cannot hand an adapter to llama.cpp: {reason}")]
    AdapterFile { reason: String },
    /// An adapter that is not handed to llama.cpp, which might abort.
    #[error("the adapter is not sound: {problems}")]
    UnsoundAdapter { problems: String },
    /// An adapter that llama.cpp refuses.
    #[error("llama.cpp refuses the adapter: {message}")]
    Adapter { message: String },
    /// An adapter of another model.
    #[error("the adapter was loaded for another model")]
    OtherModel,
    /// A context that llama.cpp cannot make.
    #[error("llama.cpp cannot make a context of {tokens} tokens: {message}")]
    Context { tokens: u32, message: String },
    /// Text that llama.cpp cannot turn into tokens, or tokens that it cannot turn into text.
    #[error("llama.cpp cannot convert {what}")]
    Conversion { what: String },
    /// Nothing to compute.
    #[error("there are no tokens to compute")]
    NoTokens,
    /// A sequence that is too long.
    #[error("a sequence of {got} tokens, the context has room for {limit}")]
    TooManyTokens { got: usize, limit: usize },
    /// A token that the model does not know.
    #[error("token {got} is not in the vocabulary of {vocabulary}")]
    Token { got: i32, vocabulary: usize },
    /// A computation that fails.
    #[error("llama.cpp cannot compute the tokens (status {status}): {message}")]
    Decode { status: i32, message: String },
    /// Logits that do not order the tokens.
    #[error("llama.cpp computed a logit that is not a number")]
    NotANumber,
}
