//! What computes the answers of the base: one trait, one implementation per engine.
//!
//! In: prompts as tokens and an adapter in a form that does not depend on the engine, an
//! [`AdapterData`]. Out: greedy answers as tokens, or log-likelihoods of given ones in nats. An
//! engine may be unable to run an adapter; then nothing is scored with it.

pub(super) mod candle;
#[cfg(feature = "llama")]
pub(super) mod llama;

use std::fmt;
use std::rc::Rc;
use std::str::FromStr;

use anyhow::Result;
use t2lc_runtime::base::BaseModel;

use crate::base::adapter::Delta;
use crate::base::peft::PeftAdapter;

/// The engines, whether a build has them or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum EngineKind {
    /// Our decoder, in f32.
    Candle,
    /// llama.cpp, on the base's own quantized weights.
    LlamaCpp,
}

impl EngineKind {
    /// Every engine.
    pub const ALL: [Self; 2] = [Self::Candle, Self::LlamaCpp];

    /// The name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Candle => "candle",
            Self::LlamaCpp => "llama.cpp",
        }
    }
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for EngineKind {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|kind| kind.name() == text).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            format!("unknown engine `{text}`, expected one of {names}")
        })
    }
}

/// An adapter before an engine has prepared it; cheap to clone.
#[derive(Debug, Clone)]
pub enum AdapterData {
    /// The bytes of a GGUF file, as they ship, and the base that they are for.
    Gguf {
        /// The whole file.
        bytes: Rc<[u8]>,
        /// The base, with the adapted modules.
        base: Rc<BaseModel>,
    },
    /// The matrices of a PEFT directory, and the base that they are for.
    Peft {
        /// Unscaled, in the Hugging Face order.
        adapter: Rc<PeftAdapter>,
        /// The base, with the adapted modules.
        base: Rc<BaseModel>,
    },
    /// Anything that adds to the outputs of our decoder's linear maps, for example a mixture that
    /// depends on the token. Other engines cannot run it.
    Delta(Rc<dyn Delta>),
}

/// Tells whether the answer to a prompt, given by its index, should go on after these tokens.
pub type KeepGoing<'a> = &'a mut dyn FnMut(usize, &[u32]) -> Result<bool>;

/// Computes answers of one base.
pub trait Engine {
    /// An adapter that is ready to be used.
    type Prepared;

    /// Which engine it is.
    fn kind(&self) -> EngineKind;

    /// Makes an adapter ready; `None` where this engine cannot run adapters of its form.
    ///
    /// # Errors
    /// An adapter that is malformed or does not fit the base.
    fn prepare(&self, adapter: &AdapterData) -> Result<Option<Self::Prepared>>;

    /// The greedy answer to every prompt, all of them under one adapter: at most `max_new_tokens`,
    /// without the token that ends it. An answer also ends where `keep_going` says so.
    ///
    /// # Errors
    /// An empty prompt, a token that the base does not know, an error of `keep_going`.
    fn answers(
        &self,
        prompts: &[Vec<u32>],
        adapter: Option<&Self::Prepared>,
        max_new_tokens: usize,
        keep_going: KeepGoing<'_>,
    ) -> Result<Vec<Vec<u32>>>;

    /// For every prompt, the sums of the log-probabilities of its choices' tokens, in nats. A choice
    /// has the end of turn as its last token.
    ///
    /// # Errors
    /// An empty prompt, a token that the base does not know.
    fn log_likelihoods(
        &self,
        prompts: &[Vec<u32>],
        choices: &[Vec<Vec<u32>>],
        adapter: Option<&Self::Prepared>,
    ) -> Result<Vec<Vec<f64>>>;
}

#[cfg(test)]
mod tests {
    use super::EngineKind;

    #[test]
    fn names_round_trip() {
        for kind in EngineKind::ALL {
            assert_eq!(kind.name().parse(), Ok(kind));
        }
        let error = "vllm".parse::<EngineKind>().unwrap_err();
        assert_eq!(error, "unknown engine `vllm`, expected one of candle, llama.cpp");
    }
}
