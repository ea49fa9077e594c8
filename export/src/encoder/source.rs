//! Where a bundle's text encoder comes from: a model directory, whose graph is built here, or an
//! ONNX file, whose graph is adopted.
//!
//! In: paths. Out: the bytes of `encoder.onnx` and `tokenizer.json`, and a word for what the
//! weights are. An ONNX file lies in a model directory or, as on Hugging Face, in its folder
//! `onnx`; what is not given is looked for beside the file and one folder up.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use t2lc_runtime::bundle::TOKENIZER;
use t2lc_runtime::encode::MAX_TOKENS;
use t2lc_runtime::manifest::ADOPTED_WEIGHTS;

use super::adopt::adopt_encoder;
use super::{Pooling, build_encoder, max_tokens};
use crate::check::MAX_MODEL_BYTES;
use crate::error::ExportError;
use crate::weights::WeightType;

/// The folder of a model directory that says how to pool.
const POOLING: &str = "1_Pooling";
/// The folder of a model directory that ONNX files are in.
const ONNX: &str = "onnx";

/// Where a text encoder comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EncoderSource {
    /// A model directory as sentence-transformers writes it.
    Directory(PathBuf),
    /// A graph that gives hidden states.
    Onnx {
        /// The ONNX file.
        graph: PathBuf,
        /// Its `tokenizer.json`.
        tokenizer: PathBuf,
        /// How its hidden states become one vector.
        pooling: Pooling,
    },
}

/// A text encoder as it goes into a bundle.
pub(crate) struct EncoderFiles {
    /// `encoder.onnx`.
    pub(crate) graph: Vec<u8>,
    /// `tokenizer.json`.
    pub(crate) tokenizer: Vec<u8>,
    /// What the manifest calls the weights.
    pub(crate) weights: String,
    /// Longest input, in tokens.
    pub(crate) max_tokens: usize,
}

impl EncoderSource {
    /// An ONNX file, with what is not given found near it. Where nothing says how to pool, it is the
    /// mean.
    ///
    /// # Errors
    /// A pooling configuration near it that is unreadable or asks for another pooling.
    pub fn onnx(
        graph: &Path,
        tokenizer: Option<&Path>,
        pooling: Option<Pooling>,
    ) -> Result<Self, ExportError> {
        let beside = graph.parent().unwrap_or(Path::new(""));
        let folders = [beside.to_owned(), beside.join("..")];
        let near = |name: &str| folders.iter().find(|folder| folder.join(name).exists());
        let tokenizer = tokenizer
            .map_or_else(|| near(TOKENIZER).unwrap_or(&folders[0]).join(TOKENIZER), Path::to_owned);
        let pooling = match (pooling, near(POOLING)) {
            (Some(pooling), _) => pooling,
            (None, Some(folder)) => Pooling::read(folder, Pooling::Mean)?,
            (None, None) => Pooling::Mean,
        };
        Ok(Self::Onnx { graph: graph.to_owned(), tokenizer, pooling })
    }

    /// The name of the model directory, if it has one.
    pub fn name(&self) -> Option<String> {
        let folder = match self {
            Self::Directory(folder) => folder.clone(),
            Self::Onnx { graph, .. } => {
                let beside = graph.parent().unwrap_or(Path::new(""));
                let folder = if beside.as_os_str().is_empty() { Path::new(".") } else { beside };
                let is_inner = folder.file_name().is_some_and(|name| name == ONNX);
                if is_inner { folder.join("..") } else { folder.to_owned() }
            }
        };
        // `.` and `..` have no name of their own.
        let folder =
            if folder.file_name().is_some() { folder } else { fs::canonicalize(folder).ok()? };
        Some(folder.file_name()?.to_string_lossy().into_owned())
    }

    /// Reads the files; `weights` is the type that those of a model directory are stored in.
    pub(crate) fn read(
        &self,
        weights: WeightType,
        width: usize,
    ) -> Result<EncoderFiles, ExportError> {
        match self {
            Self::Directory(folder) => Ok(EncoderFiles {
                graph: build_encoder(folder, weights)?,
                tokenizer: read_file(&folder.join(TOKENIZER))?,
                weights: weights.to_string(),
                max_tokens: max_tokens(folder)?,
            }),
            Self::Onnx { graph, tokenizer, pooling } => Ok(EncoderFiles {
                graph: adopt_encoder(&read_file(graph)?, *pooling, width)?,
                tokenizer: read_file(tokenizer)?,
                weights: ADOPTED_WEIGHTS.to_owned(),
                max_tokens: MAX_TOKENS,
            }),
        }
    }
}

/// The bytes of a file that is no larger than a model may be.
pub(super) fn read_file(path: &Path) -> Result<Vec<u8>, ExportError> {
    let fail = |source| ExportError::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(fail)?;
    let size = usize::try_from(file.metadata().map_err(fail)?.len()).unwrap_or(usize::MAX);
    let mut bytes = Vec::with_capacity(size.min(MAX_MODEL_BYTES));
    file.take(MAX_MODEL_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(fail)?;
    if bytes.len() > MAX_MODEL_BYTES {
        return Err(ExportError::TooLarge { bytes: bytes.len(), limit: MAX_MODEL_BYTES });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::EncoderSource;
    use crate::encoder::Pooling;
    use crate::error::ExportError;

    /// A folder of its own for one test.
    struct Folder(PathBuf);

    impl Folder {
        fn new(test: &str) -> Self {
            let name = format!("t2lc-encoder-source-{test}-{}", std::process::id());
            let folder = std::env::temp_dir().join(name);
            fs::create_dir_all(folder.join("onnx")).unwrap();
            Self(folder)
        }

        fn write(&self, name: &str, text: &str) -> PathBuf {
            let path = self.0.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            path
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).ok();
        }
    }

    fn parts(source: EncoderSource) -> (PathBuf, Pooling) {
        match source {
            EncoderSource::Onnx { tokenizer, pooling, .. } => (tokenizer, pooling),
            EncoderSource::Directory(folder) => panic!("{}", folder.display()),
        }
    }

    #[test]
    fn what_is_not_given_is_beside_the_graph_or_one_folder_up() {
        let folder = Folder::new("near");
        let graph = folder.0.join("onnx/model.onnx");
        let find = || parts(EncoderSource::onnx(&graph, None, None).unwrap());
        let beside = folder.0.join("onnx/tokenizer.json");
        assert_eq!(find(), (beside.clone(), Pooling::Mean));

        let above = folder.write("tokenizer.json", "{}");
        folder.write("1_Pooling/config.json", r#"{"pooling_mode_cls_token": true}"#);
        let (tokenizer, pooling) = find();
        assert_eq!(tokenizer.canonicalize().unwrap(), above.canonicalize().unwrap());
        assert_eq!(pooling, Pooling::Cls);

        folder.write("onnx/tokenizer.json", "{}");
        assert_eq!(find().0, beside);
        let given = EncoderSource::onnx(&graph, Some(Path::new("other")), Some(Pooling::Mean));
        assert_eq!(parts(given.unwrap()), (PathBuf::from("other"), Pooling::Mean));

        folder.write("1_Pooling/config.json", r#"{"pooling_mode_max_tokens": true}"#);
        let refused = EncoderSource::onnx(&graph, None, None);
        assert!(matches!(refused, Err(ExportError::UnsupportedConfig { .. })), "{refused:?}");
        // Nobody asks the file where the pooling is given.
        EncoderSource::onnx(&graph, None, Some(Pooling::Cls)).unwrap();
    }

    #[test]
    fn the_name_is_that_of_the_model_directory() {
        let folder = Folder::new("name");
        let name = folder.0.file_name().unwrap().to_str().map(str::to_owned);
        assert_eq!(EncoderSource::Directory(folder.0.clone()).name(), name);
        assert_eq!(EncoderSource::Directory(folder.0.join("onnx/..")).name(), name);
        for graph in ["model.onnx", "onnx/model.onnx"] {
            let graph = folder.0.join(graph);
            assert_eq!(EncoderSource::onnx(&graph, None, None).unwrap().name(), name);
        }
        assert!(EncoderSource::Directory(".".into()).name().is_some());
        let here = EncoderSource::onnx(Path::new("model.onnx"), None, Some(Pooling::Mean));
        assert!(here.unwrap().name().is_some());
    }
}
