//! The options that make a bundle of a checkpoint, of `export` and `import`, and what they do.

use std::path::{Path, PathBuf};

use anyhow::anyhow;
use clap::Args;
use t2lc_export::checkpoint::Checkpoint;
use t2lc_export::encoder::{EncoderSource, Pooling};
use t2lc_export::error::ExportError;
use t2lc_export::freeze::{Descriptions, FreezeOptions, Provenance, freeze};
use t2lc_export::import::UNKNOWN_LICENCE;
use t2lc_export::weights::WeightType;
use t2lc_runtime::atomic::write_directory_atomically;
use t2lc_runtime::backend::{self, BackendKind, Provider};
use t2lc_runtime::encode::EncodeError;
use t2lc_runtime::error::Error;

use super::failure::{Failure, Outcome};
use super::output::{human_bytes, say};

/// The text encoder of hypernetworks that are trained here, unless another is named.
const ENCODER_NAME: &str = "all-MiniLM-L6-v2";
/// What is added to the name of an encoder that was trained with the hypernetwork.
const TRAINED: &str = " (trained further)";
/// Its licence.
const ENCODER_LICENCE: &str = "Apache-2.0";

/// What goes into a bundle beside the checkpoint.
#[derive(Debug, Clone, Args)]
pub(crate) struct FreezeArgs {
    /// The encoder that was trained with the checkpoint; no option.
    #[arg(skip)]
    pub(crate) trained_encoder: Option<PathBuf>,
    /// Hugging Face directory of the text encoder
    #[arg(long, value_name = "DIR")]
    pub(crate) encoder: Option<PathBuf>,
    /// ONNX file of a text encoder that gives hidden states, instead of its directory
    #[arg(long, value_name = "FILE", conflicts_with_all = ["encoder", "encoder_weights"])]
    pub(crate) encoder_onnx: Option<PathBuf>,
    /// Tokenizer of the ONNX file [default: tokenizer.json beside it or one directory up]
    #[arg(long, value_name = "FILE", requires = "encoder_onnx")]
    pub(crate) tokenizer: Option<PathBuf>,
    /// Pooling for the ONNX file: mean or cls [default: what 1_Pooling near it says, else mean]
    #[arg(long, requires = "encoder_onnx")]
    pub(crate) pooling: Option<Pooling>,
    /// What runs the text encoder here: exact, tract or ort
    #[arg(long, default_value_t = BackendKind::Exact)]
    pub(crate) backend: BackendKind,
    /// What an imported checkpoint was trained on, if known: lines `task<TAB>description`
    #[arg(long, value_name = "FILE")]
    pub(crate) descriptions: Option<PathBuf>,
    /// Name of the bundle [default: the base's name in lower case]
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Version of the bundle [default: 1]
    #[arg(long)]
    pub(crate) bundle_version: Option<String>,
    /// Name of the text encoder [default: all-MiniLM-L6-v2; of an imported checkpoint or an ONNX
    /// file, that of the encoder's directory]
    #[arg(long)]
    pub(crate) encoder_name: Option<String>,
    /// Licence of the text encoder [default: that of all-MiniLM-L6-v2, Apache-2.0; else unknown]
    #[arg(long)]
    pub(crate) encoder_licence: Option<String>,
    /// Weight type of the encoder: f32, f16 or int8 [default: int8]
    #[arg(long)]
    pub(crate) encoder_weights: Option<WeightType>,
    /// Weight type of the hypernetwork: f32, f16 or int8 [default: int8]
    #[arg(long)]
    pub(crate) hypernet_weights: Option<WeightType>,
}

impl FreezeArgs {
    /// Whether there is a text encoder, without which there is no bundle.
    pub(crate) fn has_encoder(&self) -> bool {
        self.encoder.is_some() || self.encoder_onnx.is_some()
    }

    /// An option that only a bundle has a use for.
    pub(crate) fn for_bundles(&self) -> Option<&'static str> {
        let given = [
            ("--encoder", self.encoder.is_some()),
            ("--encoder-onnx", self.encoder_onnx.is_some()),
            ("--tokenizer", self.tokenizer.is_some()),
            ("--pooling", self.pooling.is_some()),
            ("--descriptions", self.descriptions.is_some()),
            ("--encoder-licence", self.encoder_licence.is_some()),
            ("--bundle-version", self.bundle_version.is_some()),
            ("--encoder-weights", self.encoder_weights.is_some()),
            ("--hypernet-weights", self.hypernet_weights.is_some()),
        ];
        given.into_iter().find_map(|(option, is_given)| is_given.then_some(option))
    }

    /// Freezes a checkpoint and writes the bundle; says what its user should know.
    pub(crate) fn write_bundle(
        &self,
        checkpoint: &Checkpoint,
        descriptions: &Descriptions,
        provenance: Provenance,
        licence: &str,
        target: &Target<'_>,
    ) -> Outcome {
        let encoder = self.encoder()?;
        let (encoder_name, encoder_licence) = self.encoder_identity(&encoder, &provenance, licence);
        let base_name = checkpoint.config.base.name.to_lowercase();
        let options = FreezeOptions {
            name: self.name.clone().unwrap_or(base_name),
            version: self.bundle_version.clone().unwrap_or_else(|| "1".to_owned()),
            licence: licence.to_owned(),
            encoder_name,
            encoder_licence,
            encoder_weights: self.encoder_weights.unwrap_or(WeightType::Int8),
            hypernet_weights: self.hypernet_weights.unwrap_or(WeightType::Int8),
        };
        // A bundle's table and threshold come out of its encoder: unless told otherwise, the same on
        // every machine.
        let backend = backend::open(self.backend, Provider::Cpu).map_err(Error::from)?;
        let mut notes = notes(&provenance, licence);
        notes.extend(self.encoder_notes(&options, &backend.id()));
        let files =
            freeze(checkpoint, &encoder, descriptions, provenance, &options, backend.as_ref())
                .map_err(|error| self.refused(error))?;
        let borrowed: Vec<(&str, &[u8])> = files.iter().map(|(n, b)| (*n, b.as_slice())).collect();
        write_directory_atomically(target.path, &borrowed, target.force).map_err(Error::from)?;
        for note in notes {
            say(target.quiet, &format!("note: {note}"));
        }
        let output = target.path.display();
        for (name, bytes) in &files {
            say(target.quiet, &format!("{output}/{name}: {}", human_bytes(bytes.len())));
        }
        Ok(())
    }

    /// Where the text encoder comes from.
    fn encoder(&self) -> Result<EncoderSource, Failure> {
        let folder = self.trained_encoder.as_ref().or(self.encoder.as_ref());
        match (folder, &self.encoder_onnx) {
            (Some(folder), None) => Ok(EncoderSource::Directory(folder.clone())),
            (None, Some(graph)) => {
                EncoderSource::onnx(graph, self.tokenizer.as_deref(), self.pooling).map_err(input)
            }
            // Callers have asked whether there is one, and both exclude each other.
            _ => Err(Failure::environment("usage", anyhow!("there is no single text encoder"))),
        }
    }

    /// Name and licence of the text encoder; `licence` is the hypernetwork's. Training here is with one
    /// encoder unless told otherwise; of others, no more is known than where they lie.
    fn encoder_identity(
        &self,
        encoder: &EncoderSource,
        provenance: &Provenance,
        licence: &str,
    ) -> (String, String) {
        let is_usual =
            matches!((encoder, provenance), (EncoderSource::Directory(_), Provenance::Trained(_)));
        let name = self.encoder_name.clone().unwrap_or_else(|| {
            let name = if is_usual { Some(ENCODER_NAME.to_owned()) } else { encoder.name() };
            name.unwrap_or_else(|| "unnamed".to_owned())
        });
        let is_known = is_usual && name == ENCODER_NAME;
        let published = if is_known { ENCODER_LICENCE } else { UNKNOWN_LICENCE };
        let (name, usual) = if self.trained_encoder.is_some() {
            // What it learned comes from the same data as the hypernetwork.
            (format!("{name}{TRAINED}"), format!("{published} AND {licence}"))
        } else {
            (name, published.to_owned())
        };
        (name, self.encoder_licence.clone().unwrap_or(usual))
    }

    /// What is not known of a text encoder, and what its backend means for the bundle.
    fn encoder_notes(&self, options: &FreezeOptions, backend_id: &str) -> Vec<String> {
        let mut notes = Vec::new();
        if options.encoder_licence == UNKNOWN_LICENCE {
            notes.push(format!(
                "the licence of the text encoder `{}` is unknown; --encoder-licence names it, \
                 --encoder-name the encoder",
                options.encoder_name.escape_debug()
            ));
        }
        if self.backend != BackendKind::Exact {
            notes.push(format!("computed with {backend_id}: another CPU may give other bytes"));
            if self.encoder_onnx.is_some() {
                let kind = self.backend;
                notes.push(format!("`compile` runs it with --backend {kind}, as here"));
            }
        }
        notes
    }

    /// The failure of freezing, with advice where it is the backend that refuses a graph.
    fn refused(&self, error: ExportError) -> Failure {
        let by_backend =
            matches!(error, ExportError::Backend(_) | ExportError::Encode(EncodeError::Backend(_)));
        let failure = input(error);
        if by_backend && self.backend == BackendKind::Exact && self.encoder_onnx.is_some() {
            return failure.hint(
                "exact has only the operators of encoders that t2lc builds; for others use \
                 --backend ort or --backend tract, here and for `compile`",
            );
        }
        failure
    }
}

/// Where a bundle goes.
pub(crate) struct Target<'a> {
    pub(crate) path: &'a Path,
    pub(crate) force: bool,
    /// Print errors only.
    pub(crate) quiet: bool,
}

/// What is not known of an imported network, and matters for its use.
fn notes(provenance: &Provenance, licence: &str) -> Vec<String> {
    if matches!(provenance, Provenance::Trained(_)) {
        return Vec::new();
    }
    let mut notes = vec![
        "no description is known that training did not see, so `compile` will not warn about \
         unfamiliar ones"
            .to_owned(),
    ];
    if licence == UNKNOWN_LICENCE {
        notes.push("the licence of the imported weights is unknown; --licence names it".to_owned());
    }
    notes
}

fn input(error: impl Into<anyhow::Error>) -> Failure {
    Failure::input("export.input", error)
}
