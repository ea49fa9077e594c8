//! A bundle that training goes on from.
//!
//! In: the bundle's directory. Out: the weights of its hypernetwork, as the bundle holds them, and
//! what the new run's checkpoints must say of it: its digest and the licences of what it was trained
//! on, which the new weights inherit.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use t2lc_export::checkpoint::{Checkpoint, StartRecord};
use t2lc_export::encoder::build_encoder;
use t2lc_export::thaw::{thaw, thaw_encoder};
use t2lc_export::weights::WeightType;
use t2lc_runtime::backend::exact::Exact;
use t2lc_runtime::bundle::{Bundle, ENCODER};
use t2lc_runtime::describe::Description;
use t2lc_runtime::encode::Encoder;

use super::embed::DescriptionEncoder;
use super::tuned_encoder::TunedEncoder;

/// What the two encoders must agree on, whatever their weights are stored in.
const PROBE: &str = "Answer with the capital of the country.";
/// Cosine of its embeddings, at least; those of int8 weights have 0.999.
const LEAST_COSINE: f32 = 0.99;

/// A bundle that training goes on from.
#[derive(Debug)]
pub struct Start {
    /// Its hypernetwork.
    pub checkpoint: Checkpoint,
    /// What checkpoints of the run say of it.
    pub record: StartRecord,
    bundle: Bundle,
}

impl Start {
    /// Opens a bundle directory.
    ///
    /// # Errors
    /// No usable bundle, or one whose hypernetwork cannot be taken out of its graph.
    pub fn open(dir: &Path) -> Result<Self> {
        let unusable = || format!("cannot start from `{}`", dir.display());
        let bundle = Bundle::open(dir).with_context(unusable)?;
        let checkpoint = thaw(&bundle).with_context(unusable)?;
        let data_licences = match (&bundle.manifest.training, &bundle.manifest.origin) {
            (Some(training), _) => training.data_licences.clone(),
            (None, origin) => origin.iter().map(|origin| origin.licence.clone()).collect(),
        };
        let record = StartRecord { bundle: bundle.digest, data_licences };
        Ok(Self { checkpoint, record, bundle })
    }

    /// The bundle's encoder, if it is `published` trained further; `None` if it is `published` itself.
    ///
    /// # Errors
    /// A bundle whose encoder is another one: what the hypernetwork learned would mean nothing to
    /// either.
    pub fn trained_encoder(
        &self,
        published: &DescriptionEncoder,
        dir: &Path,
    ) -> Result<Option<TunedEncoder>> {
        let other = || {
            let name = &self.bundle.manifest.encoder.name;
            format!("the bundle that the run starts from has another text encoder, {name}")
        };
        if self.holds(dir)? {
            return Ok(None);
        }
        let encoder = TunedEncoder::load(dir, published.device())?;
        let layers = match thaw_encoder(&self.bundle, &encoder.shapes()) {
            Ok(layers) => layers,
            // A graph that was not built here was not trained here either.
            Err(_) if self.embeds_alike(&published.embed(PROBE)?)? => return Ok(None),
            Err(error) => return Err(error).with_context(other),
        };
        encoder.set(layers)?;
        let embedding = encoder.embed(&[&published.tokens(PROBE)?])?.flatten_all()?.to_vec1()?;
        ensure!(self.embeds_alike(&embedding)?, other());
        Ok(Some(encoder))
    }

    /// Whether the bundle's encoder was built of this directory.
    fn holds(&self, dir: &Path) -> Result<bool> {
        let weights = self.bundle.manifest.encoder.weights.parse::<WeightType>();
        let Ok(weights) = weights else { return Ok(false) };
        Ok(build_encoder(dir, weights)? == *self.bundle.file(ENCODER)?)
    }

    /// Whether [`PROBE`] has this embedding in the bundle, or nearly.
    fn embeds_alike(&self, given: &[f32]) -> Result<bool> {
        let own = Encoder::load(&self.bundle, &Exact::default())?;
        let own = own.encode(&Description::new(PROBE)?)?.values;
        // Both have the length √E.
        let product: f32 = own.iter().zip(given).map(|(own, given)| own * given).sum();
        Ok(own.len() == given.len() && product >= LEAST_COSINE * own.len() as f32)
    }
}
