//! Which backend runs a bundle: the one that is named, or the one that suits it.

use std::fmt;
use std::str::FromStr;

use t2lc_runtime::backend::{self, Backend, BackendKind, Provider};
use t2lc_runtime::bundle::Bundle;
use t2lc_runtime::error::Error;

use super::failure::Failure;

/// What leaves the choice to the program.
const AUTO: &str = "auto";

/// The value of `--backend`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BackendChoice {
    /// By provider and where the graphs come from.
    Auto,
    /// By name.
    Named(BackendKind),
}

impl BackendChoice {
    /// The backend for a bundle.
    pub(crate) fn kind(self, bundle: &Bundle, provider: Provider) -> BackendKind {
        match self {
            Self::Auto => bundle.suited_backend(provider),
            Self::Named(kind) => kind,
        }
    }

    /// Opens the backend for a bundle.
    pub(crate) fn open(
        self,
        bundle: &Bundle,
        provider: Provider,
    ) -> Result<Box<dyn Backend>, Failure> {
        Ok(backend::open(self.kind(bundle, provider), provider).map_err(Error::from)?)
    }
}

impl fmt::Display for BackendChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str(AUTO),
            Self::Named(kind) => f.write_str(kind.name()),
        }
    }
}

impl FromStr for BackendChoice {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if text == AUTO {
            return Ok(Self::Auto);
        }
        text.parse().map(Self::Named).map_err(|_: String| {
            let names: Vec<_> = BackendKind::ALL.iter().map(|kind| kind.name()).collect();
            format!("unknown backend `{text}`, expected one of {AUTO}, {}", names.join(", "))
        })
    }
}

#[cfg(test)]
mod tests {
    use t2lc_runtime::backend::BackendKind;

    use super::BackendChoice;

    #[test]
    fn names_round_trip() {
        let named = BackendKind::ALL.iter().copied().map(BackendChoice::Named);
        for choice in named.chain([BackendChoice::Auto]) {
            assert_eq!(choice.to_string().parse(), Ok(choice));
        }
        assert_eq!(
            "gpu".parse::<BackendChoice>(),
            Err("unknown backend `gpu`, expected one of auto, exact, tract, ort".to_owned())
        );
    }
}
