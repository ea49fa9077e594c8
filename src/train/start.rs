//! A bundle that training goes on from.
//!
//! In: the bundle's directory. Out: the weights of its hypernetwork, as the bundle holds them, and
//! what the new run's checkpoints must say of it: its digest and the licences of what it was trained
//! on, which the new weights inherit.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use t2lc_export::checkpoint::{Checkpoint, StartRecord};
use t2lc_export::thaw::{thaw, thaw_encoder};
use t2lc_runtime::backend::exact::Exact;
use t2lc_runtime::bundle::Bundle;
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
        if self.embeds_alike(&published.embed(PROBE)?)? {
            return Ok(None);
        }
        let other = || {
            let name = &self.bundle.manifest.encoder.name;
            format!("the bundle that the run starts from has another text encoder, {name}")
        };
        let encoder = TunedEncoder::load(dir, published.device())?;
        let layers = thaw_encoder(&self.bundle, &encoder.shapes()).with_context(other)?;
        encoder.set(layers)?;
        let embedding = encoder.embed(&[&published.tokens(PROBE)?])?.flatten_all()?.to_vec1()?;
        ensure!(self.embeds_alike(&embedding)?, other());
        Ok(Some(encoder))
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
