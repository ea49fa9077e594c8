//! ONNX Runtime, from a shared library that is loaded at run time.
//!
//! The library is the file that `T2LC_ORT_LIBRARY` or, failing that, `ORT_DYLIB_PATH` names, else
//! the platform's file name (`libonnxruntime.so`, …). A relative path is tried beside the
//! executable first, then as the platform's loader understands it. Version 1.24 or later. A process
//! has one library and one environment, without telemetry and, unless `ORT_LOG` is set, without
//! log lines: what goes wrong comes back as an error.
//!
//! All execution providers are compiled in; the library decides which of them work. A provider
//! counts as working if a session of one addition can be made with it, so drivers and devices are
//! tried too. Operations it lacks run on the CPU. Threads are the library's default: on the CPU
//! their number does not change results.

use std::env;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use ::ort::LoadDynamicError;
use ::ort::environment::Environment;
use ::ort::ep::{self, ExecutionProviderDispatch};
use ::ort::logging::LogLevel;
use ::ort::session::builder::AutoDevicePolicy;
use ::ort::session::{Session, SessionInputValue};
use ::ort::value::TensorRef;
use bytes::Bytes;
use prost::Message;

use super::{Backend, BackendError, Graph, Provider, Tensor};
use crate::onnx::{
    Dimension, DimensionValue, GraphProto, ModelProto, NodeProto, OperatorSetIdProto,
    TensorShapeProto, TensorType, TypeProto, ValueInfoProto, data_type,
};

/// Environment variable that names the shared library.
pub const LIBRARY_VARIABLE: &str = "T2LC_ORT_LIBRARY";
/// The variable that other programs with ONNX Runtime use.
const FALLBACK_VARIABLE: &str = "ORT_DYLIB_PATH";

/// What `auto` tries, fastest first; the CPU comes after them.
const ACCELERATORS: [Provider; 6] = [
    Provider::Cuda,
    Provider::DirectMl,
    Provider::CoreMl,
    Provider::Qnn,
    Provider::Nnapi,
    Provider::Xnnpack,
];

/// The `ort` backend: ONNX Runtime with one execution provider.
#[derive(Debug, Clone)]
pub struct Ort {
    environment: Environment,
    /// Never [`Provider::Auto`].
    provider: Provider,
    id: String,
}

impl Ort {
    /// Opens the library that the environment variables name, else the platform's.
    ///
    /// # Errors
    /// As [`Ort::with_library`].
    pub fn open(provider: Provider) -> Result<Self, BackendError> {
        let set = |name: &str| env::var_os(name).filter(|path| !path.is_empty()).map(PathBuf::from);
        let library = set(LIBRARY_VARIABLE).or_else(|| set(FALLBACK_VARIABLE));
        let library = library.unwrap_or_else(|| {
            format!("{}onnxruntime{}", env::consts::DLL_PREFIX, env::consts::DLL_SUFFIX).into()
        });
        Self::with_library(&library, provider)
    }

    /// Opens one library. [`Provider::Auto`] becomes the first provider that works.
    ///
    /// # Errors
    /// [`BackendError::Library`] if it does not load, is too old, or is not the library that this
    /// process already uses; [`BackendError::Provider`] if a provider that was asked for by name
    /// does not work.
    pub fn with_library(library: &Path, provider: Provider) -> Result<Self, BackendError> {
        let environment = environment(library)?;
        let works = |provider| session(&environment, provider, &probe()).map(drop);
        let provider = match provider {
            Provider::Cpu => Provider::Cpu,
            Provider::Auto => ACCELERATORS
                .into_iter()
                .find(|accelerator| works(*accelerator).is_ok())
                .unwrap_or(Provider::Cpu),
            named => works(named)
                .map(|()| named)
                .map_err(|e| BackendError::Provider { provider: named, reason: e.to_string() })?,
        };
        let id = format!("ort/{}/{provider}", commit(::ort::info()));
        Ok(Self { environment, provider, id })
    }
}

impl Backend for Ort {
    fn load_shared(&self, name: &str, onnx: Bytes) -> Result<Box<dyn Graph>, BackendError> {
        let fail = |reason| BackendError::Load { backend: self.id(), graph: name.into(), reason };
        check_interface(&onnx).map_err(fail)?;
        let session = session(&self.environment, self.provider, &onnx);
        let session = session.map_err(|e| fail(e.to_string()))?;
        Ok(Box::new(OrtGraph { name: name.into(), backend: self.id(), session: session.into() }))
    }

    /// `ort/<commit of the library>/<provider>`; the library does not report its version number.
    fn id(&self) -> String {
        self.id.clone()
    }
}

struct OrtGraph {
    name: String,
    backend: String,
    session: Mutex<Session>,
}

impl OrtGraph {
    fn error(&self, reason: impl fmt::Display) -> BackendError {
        BackendError::Run {
            backend: self.backend.clone(),
            graph: self.name.clone(),
            reason: reason.to_string(),
        }
    }
}

impl Graph for OrtGraph {
    fn run(
        &self,
        inputs: &[(&str, Tensor)],
        outputs: &[&str],
    ) -> Result<Vec<Tensor>, BackendError> {
        let values = inputs.iter().map(|(name, tensor)| {
            view(tensor).map(|value| (*name, value)).map_err(|e| self.error(e))
        });
        let values = values.collect::<Result<Vec<(&str, SessionInputValue<'_>)>, _>>()?;
        let mut session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        let results = session.run(values).map_err(|e| self.error(e))?;
        let mut tensors = Vec::with_capacity(outputs.len());
        for &output in outputs {
            let found = results.iter().find(|(name, _)| *name == output);
            let (_, value) = found.ok_or_else(|| BackendError::MissingOutput {
                graph: self.name.clone(),
                output: output.into(),
            })?;
            let (shape, values) = value.try_extract_tensor::<f32>().map_err(|e| self.error(e))?;
            let shape = shape.iter().map(|size| usize::try_from(*size));
            let shape = shape.collect::<Result<Vec<usize>, _>>().map_err(|e| self.error(e))?;
            tensors.push(Tensor::F32 { shape, values: values.to_vec() });
        }
        Ok(tensors)
    }
}

fn view(tensor: &Tensor) -> ::ort::Result<SessionInputValue<'_>> {
    Ok(match tensor {
        Tensor::F32 { shape, values } => {
            TensorRef::from_array_view((shape.as_slice(), values.as_slice()))?.into()
        }
        Tensor::I64 { shape, values } => {
            TensorRef::from_array_view((shape.as_slice(), values.as_slice()))?.into()
        }
    })
}

/// The library of this process, from its first successful load on.
struct Loaded {
    path: PathBuf,
    /// Or why the library has none.
    environment: Result<Environment, String>,
}

static LOADED: Mutex<Option<Loaded>> = Mutex::new(None);

/// The environment of the library at `path`, loading it if this process has none yet. A load that
/// fails leaves the process free to try another path.
fn environment(path: &Path) -> Result<Environment, BackendError> {
    let fail = |reason| BackendError::Library { path: path.display().to_string(), reason };
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(loaded) = loaded.as_ref() {
        if loaded.path != path {
            let reason = format!("this process already uses `{}`", loaded.path.display());
            return Err(fail(reason));
        }
        return loaded.environment.clone().map_err(fail);
    }
    if path.is_relative() {
        // The loader looks beside the executable and panics where that is unknown.
        env::current_exe().map_err(|e| fail(e.to_string()))?;
    }
    let builder = ::ort::init_from(path).map_err(|e| match e {
        LoadDynamicError::Dlopen { error, .. } => fail(error.to_string()),
        other => fail(other.to_string()),
    })?;
    let environment = builder.with_name("t2lc").with_telemetry(false).build();
    let environment = environment.map_err(|e| e.to_string());
    if let Ok(environment) = &environment
        && env::var_os("ORT_LOG").is_none()
    {
        environment.set_log_level(LogLevel::Fatal);
    }
    *loaded = Some(Loaded { path: path.into(), environment: environment.clone() });
    environment.map_err(fail)
}

fn session(environment: &Environment, provider: Provider, onnx: &[u8]) -> ::ort::Result<Session> {
    // Otherwise the library adds the providers that it deems most efficient on its own; one that
    // cannot choose refuses the setting.
    let builder = Session::builder(environment)?.with_auto_device(AutoDevicePolicy::PreferCPU);
    let builder = builder.unwrap_or_else(::ort::Error::recover);
    let builder = builder.with_deterministic_compute(true)?;
    let provider = execution_provider(provider);
    let mut builder = builder.with_execution_providers(provider.as_slice())?;
    builder.commit_from_memory(onnx)
}

/// How to register a provider; `None` for the CPU, which is always there.
fn execution_provider(provider: Provider) -> Option<ExecutionProviderDispatch> {
    let dispatch = match provider {
        Provider::Auto | Provider::Cpu => return None,
        // TF32 would round inputs to 10 bits of mantissa.
        Provider::Cuda => ep::CUDA::default().with_tf32(false).build(),
        Provider::CoreMl => ep::CoreML::default().build(),
        Provider::Xnnpack => ep::XNNPACK::default().build(),
        Provider::Nnapi => ep::NNAPI::default().build(),
        Provider::Qnn => ep::QNN::default().build(),
        Provider::DirectMl => ep::DirectML::default().build(),
    };
    Some(dispatch.error_on_failure())
}

/// The model `y = x + x` of one float.
fn probe() -> Vec<u8> {
    let value = |name: &str| {
        let dim = vec![Dimension { value: Some(DimensionValue::Size(1)) }];
        let shape = Some(TensorShapeProto { dim });
        let tensor_type = Some(TensorType { elem_type: data_type::FLOAT, shape });
        ValueInfoProto { name: name.into(), value_type: Some(TypeProto { tensor_type }) }
    };
    let node = NodeProto {
        input: vec!["x".into(), "x".into()],
        output: vec!["y".into()],
        op_type: "Add".into(),
        ..NodeProto::default()
    };
    let graph = GraphProto {
        name: "probe".into(),
        node: vec![node],
        input: vec![value("x")],
        output: vec![value("y")],
        ..GraphProto::default()
    };
    let model = ModelProto {
        ir_version: 8,
        graph: Some(graph),
        opset_import: vec![OperatorSetIdProto { domain: String::new(), version: 18 }],
        ..ModelProto::default()
    };
    model.encode_to_vec()
}

/// The commit in a library's build information; the version is not part of that.
fn commit(build_info: &str) -> &str {
    let mut words = build_info.split([' ', ',']);
    let commit = words.find_map(|word| word.strip_prefix("git-commit-id="));
    commit.filter(|commit| !commit.is_empty()).unwrap_or("unknown")
}

/// The part of a model file that [`check_interface`] reads; weights are skipped, not copied.
#[derive(Clone, PartialEq, Message)]
struct ModelInterface {
    #[prost(message, optional, tag = "7")]
    graph: Option<GraphInterface>,
}

#[derive(Clone, PartialEq, Message)]
struct GraphInterface {
    #[prost(message, repeated, tag = "11")]
    input: Vec<ValueInterface>,
    #[prost(message, repeated, tag = "12")]
    output: Vec<ValueInterface>,
}

#[derive(Clone, PartialEq, Message)]
struct ValueInterface {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    value_type: Option<TypeInterface>,
}

#[derive(Clone, PartialEq, Message)]
struct TypeInterface {
    #[prost(oneof = "Kind", tags = "1, 4, 5, 7, 8, 9")]
    kind: Option<Kind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Kind {
    #[prost(message, tag = "1")]
    Tensor(TensorType),
    #[prost(bytes = "vec", tag = "4")]
    Sequence(Vec<u8>),
    #[prost(bytes = "vec", tag = "5")]
    Map(Vec<u8>),
    #[prost(bytes = "vec", tag = "7")]
    Opaque(Vec<u8>),
    #[prost(bytes = "vec", tag = "8")]
    SparseTensor(Vec<u8>),
    #[prost(bytes = "vec", tag = "9")]
    Optional(Vec<u8>),
}

/// Refuses models whose inputs and outputs are not all tensors of the types that [`Tensor`] has:
/// the `ort` crate panics on some of the others.
fn check_interface(onnx: &[u8]) -> Result<(), String> {
    let model = ModelInterface::decode(onnx).map_err(|e| e.to_string())?;
    let graph = model.graph.ok_or("the file has no graph")?;
    for value in graph.input.iter().chain(&graph.output) {
        let kind = value.value_type.as_ref().and_then(|value_type| value_type.kind.as_ref());
        match kind {
            Some(Kind::Tensor(TensorType {
                elem_type: data_type::FLOAT | data_type::INT64,
                ..
            })) => {}
            _ => return Err(format!("`{}` is not a tensor of float or int64", value.name)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use prost::Message;

    use super::{
        GraphInterface, Kind, ModelInterface, Ort, TypeInterface, ValueInterface, check_interface,
        commit, execution_provider, probe,
    };
    use crate::backend::{BackendError, Provider};
    use crate::onnx::{TensorType, data_type};

    fn model_of(kind: Option<Kind>) -> Vec<u8> {
        let value_type = Some(TypeInterface { kind });
        let output = vec![ValueInterface { name: "y".into(), value_type }];
        let graph = Some(GraphInterface { input: Vec::new(), output });
        ModelInterface { graph }.encode_to_vec()
    }

    #[test]
    fn a_library_that_does_not_load_is_an_error_each_time() {
        for path in ["/nowhere/libonnxruntime.so", "libt2lc-does-not-exist.so"] {
            let error = Ort::with_library(Path::new(path), Provider::Cpu).unwrap_err();
            assert!(
                matches!(&error, BackendError::Library { path: p, .. } if p == path),
                "{error}"
            );
        }
    }

    #[test]
    fn the_commit_is_found_in_the_build_information() {
        let info = "ORT Build Info: git-branch=HEAD, git-commit-id=fab30a4, build type=Release";
        assert_eq!(commit(info), "fab30a4");
        assert_eq!(commit("ORT Build Info: git-commit-id=, build type=Release"), "unknown");
        assert_eq!(commit(""), "unknown");
    }

    #[test]
    fn every_provider_but_the_cpu_is_registered() {
        for provider in Provider::ALL {
            let registered = execution_provider(*provider).is_some();
            let plain = matches!(provider, Provider::Auto | Provider::Cpu);
            assert_eq!(registered, !plain, "{provider}");
        }
    }

    #[test]
    fn only_float_and_int64_tensors_cross_the_interface() {
        check_interface(&probe()).unwrap();
        for (elem_type, accepted) in [
            (data_type::FLOAT, true),
            (data_type::INT64, true),
            (data_type::FLOAT16, false),
            (data_type::BOOL, false),
            (i32::MAX, false),
        ] {
            let model = model_of(Some(Kind::Tensor(TensorType { elem_type, shape: None })));
            assert_eq!(check_interface(&model).is_ok(), accepted, "{elem_type}");
        }
        let others = [
            None,
            Some(Kind::Sequence(vec![])),
            Some(Kind::Map(vec![])),
            Some(Kind::Opaque(vec![])),
            Some(Kind::SparseTensor(vec![])),
            Some(Kind::Optional(vec![])),
        ];
        for kind in others {
            let error = check_interface(&model_of(kind)).unwrap_err();
            assert!(error.contains("`y`"), "{error}");
        }
    }

    #[test]
    fn the_last_of_two_types_counts() {
        let tensor = Some(Kind::Tensor(TensorType { elem_type: data_type::FLOAT, shape: None }));
        let mut value_type = TypeInterface { kind: tensor }.encode_to_vec();
        // A second member of the union: field 4, length 0.
        value_type.extend([0x22, 0]);
        let decoded = TypeInterface::decode(value_type.as_slice()).unwrap();
        assert_eq!(decoded.kind, Some(Kind::Sequence(vec![])));
    }

    #[test]
    fn bytes_that_are_no_model_are_refused() {
        for bytes in [b"".as_slice(), b"not a model", &[0x3a, 0xff, 0xff, 0xff, 0x7f]] {
            assert!(check_interface(bytes).is_err());
        }
    }
}
