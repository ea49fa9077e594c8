//! The five stages in order: describe, encode, generate, quantize, write.

use std::borrow::Cow;
use std::fmt;
use std::path::Path;
use std::str::FromStr;

use crate::atomic::{AtomicWriteError, write_atomically, write_directory_atomically};
use crate::backend::Backend;
use crate::bundle::Bundle;
use crate::describe::Description;
use crate::digest::{Digest, Hasher, recipe_digest};
use crate::encode::{Encoder, TaskEmbedding};
use crate::error::Error;
use crate::fold::fold_and_balance;
use crate::generate::{Generator, LoraPair};
use crate::nearest::{Neighbor, Neighborhood, TaskTable};
use crate::peft::{peft_adapter, peft_dtype};
use crate::progress::{Stage, Watch, report, unwatched};
use crate::quantize::Quantization;
use crate::write::{Provenance, VERSION, gguf_adapter};

/// Version of the stages after the backend; part of the recipe. Raised by hand whenever equal
/// inputs may give other bytes than before.
pub const PIPELINE: &str = "2";
/// Name that [`Adapter::files`] gives the file of a GGUF adapter.
pub const GGUF_FILE: &str = "adapter.gguf";
/// How many nearest tasks are reported.
const NEIGHBORS: usize = 3;

/// Form of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Format {
    /// One GGUF file.
    #[default]
    Gguf,
    /// A PEFT directory.
    Peft,
}

impl Format {
    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gguf => "gguf",
            Self::Peft => "peft",
        }
    }

    /// The quantization used where none is asked for: `q8_0` for GGUF, `f32` for PEFT.
    pub fn default_quantization(self) -> Quantization {
        match self {
            Self::Gguf => Quantization::Q8_0,
            Self::Peft => Quantization::F32,
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Format {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "gguf" => Ok(Self::Gguf),
            "peft" => Ok(Self::Peft),
            _ => Err(format!("unknown format `{text}`, expected gguf or peft")),
        }
    }
}

/// What to make of a description.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CompileOptions {
    /// Form of the output.
    pub format: Format,
    /// Tensor type; tensors whose rows are not whole blocks become f16.
    pub quantization: Quantization,
    /// Strength of the adapter; 1 as trained, 0 for none.
    pub scale: f32,
}

impl Default for CompileOptions {
    fn default() -> Self {
        Self { format: Format::Gguf, quantization: Quantization::Q8_0, scale: 1.0 }
    }
}

impl CompileOptions {
    /// Refuses what no description could be compiled with, before any time is spent on one.
    fn check(self) -> Result<(), Error> {
        if !self.scale.is_finite() {
            return Err(Error::Scale { got: self.scale });
        }
        if self.format == Format::Peft {
            peft_dtype(self.quantization)?;
        }
        Ok(())
    }
}

/// A compiled adapter, in memory.
#[derive(Debug, Clone)]
pub struct Adapter {
    /// Digest of everything that went in.
    pub recipe: Digest,
    /// Digest of the bytes that came out: of the GGUF file, or of both PEFT files in order.
    pub content: Digest,
    /// The nearest training tasks, nearest first.
    pub nearest: Vec<Neighbor>,
    /// Whether the description is as close to a training task as unseen real ones are, and no
    /// closer to a text that describes none; true where no training description is known.
    pub familiar: bool,
    /// Tokens of the description.
    pub tokens: usize,
    /// Whether the description was cut to the encoder's limit.
    pub truncated: bool,
    /// Number of tensors.
    pub tensors: usize,
    files: Files,
}

#[derive(Debug, Clone)]
enum Files {
    Gguf(Vec<u8>),
    Peft(Vec<(&'static str, Vec<u8>)>),
}

impl Adapter {
    /// Bytes of all files together.
    pub fn size_bytes(&self) -> usize {
        match &self.files {
            Files::Gguf(bytes) => bytes.len(),
            Files::Peft(files) => files.iter().map(|(_, bytes)| bytes.len()).sum(),
        }
    }

    /// The GGUF file, or `None` for a PEFT directory.
    pub fn gguf_bytes(&self) -> Option<&[u8]> {
        match &self.files {
            Files::Gguf(bytes) => Some(bytes),
            Files::Peft(_) => None,
        }
    }

    /// Names and bytes of all files, in the order of [`Adapter::content`]; a GGUF file is called
    /// [`GGUF_FILE`].
    pub fn files(&self) -> Vec<(&'static str, &[u8])> {
        match &self.files {
            Files::Gguf(bytes) => vec![(GGUF_FILE, bytes)],
            Files::Peft(files) => {
                files.iter().map(|(name, bytes)| (*name, bytes.as_slice())).collect()
            }
        }
    }

    /// The bytes that [`Adapter::content`] is the digest of: the GGUF file, or the weights and then
    /// the settings of a PEFT directory.
    pub fn content_bytes(&self) -> Cow<'_, [u8]> {
        match &self.files {
            Files::Gguf(bytes) => Cow::Borrowed(bytes),
            Files::Peft(files) => {
                Cow::Owned(files.iter().flat_map(|(_, bytes)| bytes).copied().collect())
            }
        }
    }

    /// Writes the file or directory under a temporary name, syncs it and renames it.
    ///
    /// # Errors
    /// An output that exists (without `overwrite`) or cannot be written; nothing is left behind.
    pub fn write_to(&self, path: &Path, overwrite: bool) -> Result<(), AtomicWriteError> {
        match &self.files {
            Files::Gguf(bytes) => write_atomically(path, bytes, overwrite),
            Files::Peft(files) => {
                let files: Vec<_> = files.iter().map(|(n, b)| (*n, b.as_slice())).collect();
                write_directory_atomically(path, &files, overwrite)
            }
        }
    }
}

/// Compiles descriptions with one bundle and one backend.
#[derive(Debug)]
pub struct Compiler {
    bundle: Bundle,
    encoder: Encoder,
    generator: Generator,
    tasks: TaskTable,
    backend: String,
}

impl Compiler {
    /// Loads the graphs of a bundle.
    ///
    /// # Errors
    /// Files that are not what the manifest promises, graphs that the backend refuses.
    pub fn new(bundle: Bundle, backend: &dyn Backend) -> Result<Self, Error> {
        Ok(Self {
            encoder: Encoder::load(&bundle, backend)?,
            generator: Generator::load(&bundle, backend)?,
            tasks: TaskTable::load(&bundle)?,
            backend: backend.id(),
            bundle,
        })
    }

    /// The bundle.
    pub fn bundle(&self) -> &Bundle {
        &self.bundle
    }

    /// Compiles one description.
    ///
    /// # Errors
    /// A graph that fails or returns values that are not finite, a scale that is not finite, a
    /// quantization the format does not have.
    pub fn compile(
        &self,
        description: &Description,
        options: CompileOptions,
    ) -> Result<Adapter, Error> {
        self.compile_watched(description, options, &mut unwatched)
    }

    /// Compiles one description, and tells `watch` how far it is.
    ///
    /// # Errors
    /// As [`Compiler::compile`], and [`Error::Cancelled`] if `watch` says stop.
    pub fn compile_watched(
        &self,
        description: &Description,
        options: CompileOptions,
        watch: Watch<'_>,
    ) -> Result<Adapter, Error> {
        options.check()?;
        let (encoded, pairs) = self.generate(description, watch)?;
        self.request(description, options).assemble(encoded, pairs, watch)
    }

    /// The `count` training tasks that a description is nearest to; it is encoded, not compiled.
    ///
    /// # Errors
    /// A failure of the encoder.
    pub fn nearest(&self, description: &Description, count: usize) -> Result<Similarity, Error> {
        let embedding = self.encoder.encode(description)?;
        let nearest = self.tasks.nearest(&embedding.values, count.max(1));
        let familiar = is_familiar(&self.bundle, &nearest);
        Ok(Similarity { nearest: nearest.tasks.into_iter().take(count).collect(), familiar })
    }

    /// Class of arithmetic of the backend.
    pub fn backend_id(&self) -> &str {
        &self.backend
    }

    /// Compiles one description in several forms; the graphs run once.
    ///
    /// # Errors
    /// As [`Compiler::compile`].
    pub fn compile_each(
        &self,
        description: &Description,
        options: &[CompileOptions],
    ) -> Result<Vec<Adapter>, Error> {
        options.iter().try_for_each(|options| options.check())?;
        let (encoded, pairs) = self.generate(description, &mut unwatched)?;
        let of = |options: &CompileOptions| {
            let request = self.request(description, *options);
            request.assemble(encoded.clone(), pairs.clone(), &mut unwatched)
        };
        options.iter().map(of).collect()
    }

    fn generate(
        &self,
        description: &Description,
        watch: Watch<'_>,
    ) -> Result<(Encoded, Vec<LoraPair>), Error> {
        report(watch, Stage::Encode, 0, 1)?;
        let embedding = self.encoder.encode(description)?;
        report(watch, Stage::Encode, 1, 1)?;
        report(watch, Stage::Generate, 0, 1)?;
        let pairs = self.generator.generate(&embedding)?;
        report(watch, Stage::Generate, 1, 1)?;
        let nearest = self.tasks.nearest(&embedding.values, NEIGHBORS);
        Ok((Encoded { embedding, nearest }, pairs))
    }

    fn request<'a>(&'a self, description: &'a Description, options: CompileOptions) -> Request<'a> {
        let (bundle, backend) = (&self.bundle, self.backend.as_str());
        Request { bundle, backend, description, options, version: VERSION }
    }
}

/// Compiles a single description, with only one graph in memory at a time.
///
/// # Errors
/// As [`Compiler::new`] and [`Compiler::compile`].
pub fn compile_once(
    bundle: &Bundle,
    backend: &dyn Backend,
    description: &Description,
    options: CompileOptions,
) -> Result<Adapter, Error> {
    compile_once_as(bundle, backend, description, options, VERSION)
}

/// Compiles as [`compile_once`] does, and names another version of t2lc as the maker.
pub(crate) fn compile_once_as(
    bundle: &Bundle,
    backend: &dyn Backend,
    description: &Description,
    options: CompileOptions,
    version: &str,
) -> Result<Adapter, Error> {
    options.check()?;
    let nearest = TaskTable::load(bundle)?;
    let embedding = Encoder::load(bundle, backend)?.encode(description)?;
    let nearest = nearest.nearest(&embedding.values, NEIGHBORS);
    let pairs = Generator::load(bundle, backend)?.generate(&embedding)?;
    let id = backend.id();
    let request = Request { bundle, backend: &id, description, options, version };
    request.assemble(Encoded { embedding, nearest }, pairs, &mut unwatched)
}

/// [`Adapter::familiar`] of a description.
fn is_familiar(bundle: &Bundle, nearest: &Neighborhood) -> bool {
    nearest.is_familiar(bundle.manifest.familiarity.warn_below)
}

/// The training tasks that a description is nearest to.
#[derive(Debug, Clone, PartialEq)]
pub struct Similarity {
    /// Nearest first.
    pub nearest: Vec<Neighbor>,
    /// As [`Adapter::familiar`].
    pub familiar: bool,
}

/// What is known of a description before its adapter is.
#[derive(Clone)]
struct Encoded {
    embedding: TaskEmbedding,
    nearest: Neighborhood,
}

/// What is compiled, from what.
#[derive(Clone, Copy)]
struct Request<'a> {
    bundle: &'a Bundle,
    /// Id of the backend.
    backend: &'a str,
    description: &'a Description,
    options: CompileOptions,
    /// Version of t2lc that is named as the maker.
    version: &'a str,
}

impl Request<'_> {
    /// Folds, quantizes and writes generated pairs.
    fn assemble(
        self,
        encoded: Encoded,
        mut pairs: Vec<LoraPair>,
        watch: Watch<'_>,
    ) -> Result<Adapter, Error> {
        let Self { bundle, backend, description, options, version } = self;
        let manifest = &bundle.manifest;
        let total = pairs.len();
        report(watch, Stage::Quantize, 0, total)?;
        for (done, pair) in pairs.iter_mut().enumerate() {
            fold_and_balance(pair, manifest.hypernet.scale * options.scale);
            report(watch, Stage::Quantize, done + 1, total)?;
        }
        report(watch, Stage::Write, 0, 1)?;
        let recipe = recipe(&bundle.digest, backend, description, options);
        let files = match options.format {
            Format::Gguf => {
                let provenance = Provenance {
                    bundle,
                    description,
                    recipe,
                    backend,
                    pipeline: PIPELINE,
                    scale: options.scale,
                    version,
                };
                Files::Gguf(gguf_adapter(&pairs, options.quantization, &provenance)?)
            }
            Format::Peft => Files::Peft(peft_adapter(
                &pairs,
                &manifest.base,
                manifest.hypernet.rank,
                options.quantization,
            )?),
        };
        let content = match &files {
            Files::Gguf(bytes) => Digest::of(bytes),
            Files::Peft(files) => {
                let mut hasher = Hasher::new();
                for (_, bytes) in files {
                    hasher.update(bytes);
                }
                hasher.finish()
            }
        };
        let Encoded { embedding, nearest } = encoded;
        report(watch, Stage::Write, 1, 1)?;
        Ok(Adapter {
            recipe,
            content,
            familiar: is_familiar(bundle, &nearest),
            nearest: nearest.tasks,
            tokens: embedding.tokens,
            truncated: embedding.truncated,
            tensors: 2 * pairs.len(),
            files,
        })
    }
}

/// Digest of everything that decides the output's bytes, but for the version of t2lc that a GGUF
/// file names: digest of the bundle, id of the backend, description, options, [`PIPELINE`].
pub fn recipe(
    bundle: &Digest,
    backend: &str,
    description: &Description,
    options: CompileOptions,
) -> Digest {
    recipe_digest(&[
        ("description", description.as_str().as_bytes()),
        ("bundle", bundle.to_string().as_bytes()),
        ("format", options.format.name().as_bytes()),
        ("quantization", options.quantization.name().as_bytes()),
        ("scale", &options.scale.to_le_bytes()),
        ("pipeline", PIPELINE.as_bytes()),
        ("backend", backend.as_bytes()),
    ])
}
