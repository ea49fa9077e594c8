//! What runs the bundle's ONNX graphs: one trait, one implementation per runtime.
//!
//! A [`Backend`] loads a graph; a [`Graph`] maps named inputs to named outputs. Float kernels
//! differ between runtimes and CPUs, so a backend has an id that goes into the recipe digest; those
//! of [`exact`] alone give the same bits on every CPU.
//!
//! Where nobody names a backend, [`choose`] does: [`exact`], unless an execution provider is asked for
//! or a graph came from elsewhere.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;

pub mod exact;
#[cfg(feature = "ort")]
pub mod ort;
#[cfg(feature = "tract")]
pub mod tract;

/// A dense tensor, row-major.
#[derive(Debug, Clone, PartialEq)]
pub enum Tensor {
    /// 32-bit floats.
    F32 {
        /// Dimensions, outermost first.
        shape: Vec<usize>,
        /// `shape` product values.
        values: Vec<f32>,
    },
    /// 64-bit integers.
    I64 {
        /// Dimensions, outermost first.
        shape: Vec<usize>,
        /// `shape` product values.
        values: Vec<i64>,
    },
}

/// Why a graph could not be loaded or run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackendError {
    /// This build does not contain the backend.
    #[error("backend `{backend}` is not part of this build")]
    NotBuilt {
        /// The backend asked for.
        backend: BackendKind,
    },
    /// The provider needs another backend.
    #[error("backend `{backend}` has no execution provider `{provider}`")]
    NoProvider {
        /// The backend asked for.
        backend: BackendKind,
        /// The provider asked for.
        provider: Provider,
    },
    /// The shared library of the runtime cannot be used.
    #[error("cannot load ONNX Runtime from `{path}`: {reason}")]
    Library {
        /// Where it was looked for.
        path: String,
        /// What the loader said.
        reason: String,
    },
    /// An execution provider that was asked for by name does not register.
    #[error("execution provider `{provider}` is not available: {reason}")]
    Provider {
        /// The provider asked for.
        provider: Provider,
        /// What the runtime said.
        reason: String,
    },
    /// The graph does not load.
    #[error("{backend} cannot load `{graph}`: {reason}")]
    Load {
        /// The backend's id.
        backend: String,
        /// Name of the graph.
        graph: String,
        /// What the runtime said.
        reason: String,
    },
    /// The graph does not run.
    #[error("{backend} cannot run `{graph}`: {reason}")]
    Run {
        /// The backend's id.
        backend: String,
        /// Name of the graph.
        graph: String,
        /// What the runtime said.
        reason: String,
    },
    /// The graph lacks an output.
    #[error("`{graph}` has no output `{output}`")]
    MissingOutput {
        /// Name of the graph.
        graph: String,
        /// Output asked for.
        output: String,
    },
}

/// A loaded graph. Callable from any thread.
pub trait Graph: Send + Sync {
    /// Runs the graph once; returns the outputs named in `outputs`, in that order.
    ///
    /// # Errors
    /// An unknown name, a shape the graph does not take, a failure of the runtime.
    fn run(&self, inputs: &[(&str, Tensor)], outputs: &[&str])
    -> Result<Vec<Tensor>, BackendError>;
}

/// A runtime that can load graphs.
pub trait Backend: Send + Sync {
    /// Loads an ONNX model, whose memory the graph may keep; `name` is used in errors.
    ///
    /// # Errors
    /// Bytes that are not a model, or one with operations the runtime lacks.
    fn load_shared(&self, name: &str, onnx: Bytes) -> Result<Box<dyn Graph>, BackendError>;

    /// Loads an ONNX model from a copy of it.
    ///
    /// # Errors
    /// As [`Backend::load_shared`].
    fn load(&self, name: &str, onnx: &[u8]) -> Result<Box<dyn Graph>, BackendError> {
        self.load_shared(name, Bytes::copy_from_slice(onnx))
    }

    /// Class of arithmetic, for example `tract/0.23.9`: equal recipes give equal bytes only for
    /// equal ids on equal CPUs, with [`exact`] on any CPU.
    fn id(&self) -> String;
}

/// The backends a build may contain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum BackendKind {
    /// The interpreter of this crate: pure Rust, CPU, the same bits everywhere; in every build.
    Exact,
    /// `tract-onnx`: pure Rust, CPU.
    Tract,
    /// ONNX Runtime, loaded from a shared library at run time.
    Ort,
}

/// ONNX Runtime execution providers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Provider {
    /// The best one that registers, down to `cpu`.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// NVIDIA GPUs.
    Cuda,
    /// Apple's Core ML.
    CoreMl,
    /// Optimized mobile CPU kernels.
    Xnnpack,
    /// Android's neural networks API.
    Nnapi,
    /// Qualcomm's NPU.
    Qnn,
    /// Windows GPUs.
    DirectMl,
}

macro_rules! named {
    ($type:ident, $what:literal, $($variant:ident = $name:literal),+) => {
        impl $type {
            /// Every value, in documentation order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The name on the command line.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }
        }
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }
        impl FromStr for $type {
            type Err = String;
            fn from_str(text: &str) -> Result<Self, String> {
                Self::ALL.iter().copied().find(|v| v.name() == text).ok_or_else(|| {
                    let names: Vec<_> = Self::ALL.iter().map(|v| v.name()).collect();
                    format!("unknown {} `{text}`, expected one of {}", $what, names.join(", "))
                })
            }
        }
    };
}

named!(BackendKind, "backend", Exact = "exact", Tract = "tract", Ort = "ort");
named!(
    Provider,
    "execution provider",
    Auto = "auto",
    Cpu = "cpu",
    Cuda = "cuda",
    CoreMl = "coreml",
    Xnnpack = "xnnpack",
    Nnapi = "nnapi",
    Qnn = "qnn",
    DirectMl = "directml"
);

impl BackendKind {
    /// Whether this build contains the backend.
    pub fn is_built(self) -> bool {
        match self {
            Self::Exact => true,
            Self::Tract => cfg!(feature = "tract"),
            Self::Ort => cfg!(feature = "ort"),
        }
    }
}

/// The backend for a bundle, where nobody names one.
///
/// - Providers other than `auto` and `cpu` are those of [`BackendKind::Ort`].
/// - A graph that was adopted from an ONNX file may have operators that [`BackendKind::Exact`] lacks:
///   it goes to the first of [`BackendKind::Tract`] and [`BackendKind::Ort`] that this build has.
/// - Everything else is for [`BackendKind::Exact`], whose bytes are the same everywhere. Its cold
///   compiles are the fastest at any size, since it computes with weights where they are.
///
/// [`Bundle::suited_backend`](crate::bundle::Bundle::suited_backend) asks this for a bundle.
///
/// ```
/// use t2lc_runtime::backend::{BackendKind, Provider, choose};
/// assert_eq!(choose(false, Provider::Auto), BackendKind::Exact);
/// assert_eq!(choose(false, Provider::Cuda), BackendKind::Ort);
/// ```
pub fn choose(is_adopted: bool, provider: Provider) -> BackendKind {
    choose_from(is_adopted, provider, BackendKind::is_built)
}

fn choose_from(
    is_adopted: bool,
    provider: Provider,
    is_built: impl Fn(BackendKind) -> bool,
) -> BackendKind {
    if !matches!(provider, Provider::Auto | Provider::Cpu) {
        return BackendKind::Ort;
    }
    let mut others = [BackendKind::Tract, BackendKind::Ort].into_iter().filter(|_| is_adopted);
    others.find(|kind| is_built(*kind)).unwrap_or(BackendKind::Exact)
}

/// Backend and provider that a [`Backend::id`] stands for, whatever its version; `None` for an id
/// that no backend has.
pub fn of_id(id: &str) -> Option<(BackendKind, Provider)> {
    let (kind, version) = id.split_once('/')?;
    let kind: BackendKind = kind.parse().ok()?;
    let provider: Provider = match kind {
        BackendKind::Exact | BackendKind::Tract => Provider::Cpu,
        BackendKind::Ort => version.rsplit_once('/')?.1.parse().ok()?,
    };
    (!version.is_empty() && provider != Provider::Auto).then_some((kind, provider))
}

/// Opens a backend.
///
/// # Errors
/// A backend this build lacks, a provider it does not have, a library that does not load.
pub fn open(kind: BackendKind, provider: Provider) -> Result<Box<dyn Backend>, BackendError> {
    match kind {
        BackendKind::Exact => match provider {
            Provider::Auto | Provider::Cpu => Ok(Box::new(exact::Exact::default())),
            provider => Err(BackendError::NoProvider { backend: kind, provider }),
        },
        #[cfg(feature = "tract")]
        BackendKind::Tract => match provider {
            Provider::Auto | Provider::Cpu => Ok(Box::new(tract::Tract)),
            provider => Err(BackendError::NoProvider { backend: kind, provider }),
        },
        #[cfg(feature = "ort")]
        BackendKind::Ort => Ok(Box::new(ort::Ort::open(provider)?)),
        #[allow(unreachable_patterns)] // reachable in builds that lack one of the backends
        backend => {
            let _ = provider;
            Err(BackendError::NotBuilt { backend })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Backend, BackendKind, Provider, choose, choose_from, exact, of_id};

    #[test]
    fn adopted_graphs_need_more_operators() {
        let with = |built: &'static [BackendKind]| {
            move |is_adopted| choose_from(is_adopted, Provider::Auto, |kind| built.contains(&kind))
        };
        let all = with(BackendKind::ALL);
        assert_eq!((all(false), all(true)), (BackendKind::Exact, BackendKind::Tract));
        let without_tract = with(&[BackendKind::Exact, BackendKind::Ort]);
        assert_eq!(
            (without_tract(false), without_tract(true)),
            (BackendKind::Exact, BackendKind::Ort)
        );
        assert_eq!(with(&[BackendKind::Exact])(true), BackendKind::Exact);
    }

    #[test]
    fn providers_decide_first() {
        for provider in Provider::ALL {
            let expected = match provider {
                Provider::Auto | Provider::Cpu => BackendKind::Exact,
                _ => BackendKind::Ort,
            };
            assert_eq!(choose(false, *provider), expected, "{provider}");
        }
        assert_eq!(choose(true, Provider::Cuda), BackendKind::Ort);
    }

    #[test]
    fn ids_name_their_backend() {
        let exact = exact::Exact::default().id();
        assert_eq!(of_id(&exact), Some((BackendKind::Exact, Provider::Cpu)));
        assert_eq!(of_id("tract/0.23.9"), Some((BackendKind::Tract, Provider::Cpu)));
        assert_eq!(of_id("ort/1a2b3c/cuda"), Some((BackendKind::Ort, Provider::Cuda)));
        for id in ["", "exact", "exact/", "magic/1", "ort/1a2b3c", "ort/1a2b3c/auto", "ort/x/y"] {
            assert_eq!(of_id(id), None, "{id}");
        }
    }

    #[test]
    fn names_round_trip() {
        for kind in BackendKind::ALL {
            assert_eq!(kind.name().parse(), Ok(*kind));
        }
        for provider in Provider::ALL {
            assert_eq!(provider.name().parse(), Ok(*provider));
        }
        let error = "gpu".parse::<Provider>().unwrap_err();
        assert!(error.contains("`gpu`") && error.contains("coreml"), "{error}");
    }
}
