//! Joint pre-training of a generator and a discriminator.
//!
//! ```text
//! generator        masked LM of the masked tokens
//! sampled          a token for each of them: argmax(logits + Gumbel noise), through which no gradient flows
//! discriminator    of the batch with these tokens: which tokens differ from the original ones?
//! loss             masked LM + 50 replaced tokens
//! ```
//!
//! The two share the tables of embeddings and their norm, as in google-research/electra. Tensors of the generator have
//! the prefix `generator.`; the others have the names of `ElectraForPreTraining`.

use super::objectives::{discriminator, sample};
use crate::arithmetic::Arithmetic;
use crate::batch::Batch;
use crate::checkpoint::weights::Weights;
use crate::electra::{Config, open};
use crate::error::Error;
use crate::heads::{EncoderModel, HeadKind};
use crate::labels::{Labels, Loss, Totals};
use crate::layers::{ModelLinear, Run};
use crate::model::{Model, Part};
use crate::output::Output;
use rayon::prelude::*;

/// Prefix of the generator's tensors.
pub const GENERATOR: &str = "generator.";

/// Weight of the discriminator's loss.
const REPLACED_WEIGHT: f64 = 50.0;

/// Generator and discriminator.
#[derive(Debug)]
pub struct ElectraPretraining {
    generator: EncoderModel,
    discriminator: EncoderModel,
}

impl ElectraPretraining {
    /// Opens both from `weights`.
    ///
    /// # Errors
    /// See [`electra::open`](crate::electra::open); [`Error::Input`] if the embeddings differ in width or vocabulary.
    pub fn open(
        generator: Config,
        discriminator: Config,
        weights: &Weights,
        on: Arithmetic,
    ) -> Result<Self, Error> {
        let sizes = |config: &Config| [config.embedding_size, config.bert.vocab_size];
        if sizes(&generator) != sizes(&discriminator) {
            let (expected, found) = (sizes(&discriminator), sizes(&generator));
            let why = format!("generator: expected embeddings [width, words] {expected:?}, found {found:?}");
            return Err(Error::Input { name: "config", why });
        }
        let inside = weights.inside(GENERATOR, "electra.embeddings.");
        Ok(Self {
            discriminator: open(discriminator, weights.clone(), on, HeadKind::PreTraining)?,
            generator: open(generator, inside, on, HeadKind::MaskedLm)?,
        })
    }
}

impl Model for ElectraPretraining {
    /// Outputs of the discriminator.
    fn forward(&mut self, batch: &Batch) -> Result<Vec<Output>, Error> {
        self.discriminator.forward(batch)
    }

    fn loss<'m>(
        &'m self,
        run: &mut Run<'m>,
        batch: &'m Batch,
        _decoder: Option<&'m Batch>,
        labels: &Labels,
    ) -> Result<Loss, Error> {
        let mut loss = self.generator.loss(run, batch, None, labels)?;
        let (logits, random) = (self.generator.masked_word_logits(run)?, run.bits());
        let words = self.discriminator.vocab_size();
        let rows = logits.par_chunks(words).enumerate();
        let sampled: Vec<u32> = rows.map(|(row, logits)| sample(logits, random, row as u32)).collect();
        let (mut ids, mut replaced) = (Vec::new(), Vec::new());
        discriminator(&batch.ids, &labels.labels, &sampled, &mut ids, &mut replaced)?;
        self.discriminator.replaced_loss(run, batch, &ids, &replaced, REPLACED_WEIGHT, labels, &mut loss)?;
        Ok(loss)
    }

    /// All tokens count for the discriminator.
    fn label_counts(&self, batch: &Batch, labels: &Labels) -> Totals {
        Totals { sequences: batch.tokens() as f64, ..labels.counts() }
    }

    fn max_length(&self) -> usize {
        self.discriminator.max_length().min(self.generator.max_length())
    }

    fn parts(&self) -> Vec<Part<'_>> {
        let mut parts = self.discriminator.parts();
        parts.extend(self.generator.parts());
        parts
    }

    fn linear_layers(&self) -> Vec<ModelLinear<'_>> {
        let mut layers = self.discriminator.linear_layers();
        layers.extend(self.generator.linear_layers());
        layers
    }
}
