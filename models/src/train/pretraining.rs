//! Pre-training runs: a trainer, a corpus and an objective; saved, resumed and evaluated.
//!
//! The examples of a step are a function of (seed, step), and masks of dropout of (seed, step, site, element). So the
//! parameters, the states of the optimizer and the number of the step are all that a run saves, and a resumed run has
//! the bits of one that was never interrupted.

use super::checkpoints;
use super::data::Corpus;
use super::micro_batch::MicroBatch;
use super::objectives::{Epoch, Example, Objective};
use super::trainer::{StepReport, Trainer};
use crate::batch::Batch;
use crate::checkpoint::config::Fields;
use crate::checkpoint::save::save_model;
use crate::error::Error;
use crate::labels::{Labels, Loss};
use std::path::Path;

/// Settings of a run beside those of its trainer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PretrainingSettings {
    /// Sequences of a step.
    pub batch: usize,
    /// Sequences that are computed at once. It decides the order of sums, and so the bits.
    pub micro_batch: usize,
    /// Seed of the order of examples and of their masks.
    pub seed: u64,
}

/// A pre-training run.
pub struct Pretraining<'a> {
    trainer: Trainer,
    objective: &'a dyn Objective,
    corpus: &'a dyn Corpus,
    settings: PretrainingSettings,
    /// Steps of an epoch. Epochs differ in their numbers of examples; the first one decides, so that the epoch of a step
    /// is known without those before it.
    steps_of_epoch: u64,
    /// The epoch of the last step, and its number.
    epoch: Option<(u32, Epoch<'a>)>,
    example: Example,
}

impl<'a> Pretraining<'a> {
    /// A run before its first step.
    ///
    /// # Errors
    /// [`Error::Input`] if a number of sequences is 0, or the objective refuses its settings or the corpus.
    pub fn new(
        trainer: Trainer,
        objective: &'a dyn Objective,
        corpus: &'a dyn Corpus,
        settings: PretrainingSettings,
    ) -> Result<Self, Error> {
        for (name, count) in [("batch", settings.batch), ("micro_batch", settings.micro_batch)] {
            if count == 0 {
                return Err(Error::Input { name, why: "expected at least 1 sequence, found 0".to_owned() });
            }
        }
        let epoch = objective.epoch(corpus, settings.seed, 0)?;
        let steps_of_epoch = (epoch.len() / settings.batch).max(1) as u64;
        let (epoch, example) = (Some((0, epoch)), Example::default());
        Ok(Self { trainer, objective, corpus, settings, steps_of_epoch, epoch, example })
    }

    /// The trainer.
    pub fn trainer(&self) -> &Trainer {
        &self.trainer
    }

    /// Steps of an epoch; sequences of an epoch that do not fill a step are left out.
    pub fn steps_of_epoch(&self) -> u64 {
        self.steps_of_epoch
    }

    /// One step.
    ///
    /// # Errors
    /// See [`Trainer::step`]; errors of reading the corpus.
    pub fn step(&mut self) -> Result<StepReport, Error> {
        let micro_batches = self.micro_batches(self.trainer.steps())?;
        self.trainer.step(&micro_batches)
    }

    /// Micro-batches of the step after `step` steps.
    fn micro_batches(&mut self, step: u64) -> Result<Vec<MicroBatch>, Error> {
        let PretrainingSettings { batch, micro_batch, seed } = self.settings;
        let (number, first) = (step / self.steps_of_epoch, step % self.steps_of_epoch);
        let number = number as u32;
        if self.epoch.as_ref().is_none_or(|(of, _)| *of != number) {
            self.epoch = Some((number, self.objective.epoch(self.corpus, seed, number)?));
        }
        let Self { epoch: Some((_, epoch)), example, .. } = self else { return Ok(Vec::new()) };
        let first = first as usize * batch;
        let indices: Vec<usize> = (first..first + batch).map(|i| i % epoch.len()).collect();
        indices.chunks(micro_batch).map(|part| of_examples(epoch, part, example)).collect()
    }

    /// Mean loss of at most `batches` batches of the first epoch of another corpus, without dropout.
    ///
    /// # Errors
    /// See [`Trainer::evaluate`]; errors of reading the corpus.
    pub fn evaluate(&mut self, corpus: &dyn Corpus, batches: usize) -> Result<Loss, Error> {
        let epoch = self.objective.epoch(corpus, self.settings.seed, 0)?;
        let indices: Vec<usize> = (0..epoch.len()).take(batches * self.settings.batch).collect();
        let parts = indices.chunks(self.settings.micro_batch);
        let parts = parts.map(|part| of_examples(&epoch, part, &mut self.example));
        let parts = parts.collect::<Result<Vec<_>, Error>>()?;
        self.trainer.evaluate(&parts)
    }

    /// Saves a checkpoint of the run in a directory of `out`, with the files of `model` that a model needs beside its
    /// parameters. The two newest checkpoints are kept.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn save(&self, model: &Path, out: &Path) -> Result<(), Error> {
        checkpoints::save(out, &self.trainer, serde_json::Value::Null, |to| {
            save_model(model, to, &Fields::open(model)?, self.trainer.arena())
        })
    }

    /// Takes the state of the newest checkpoint in `out`; false if there is none.
    ///
    /// # Errors
    /// If a file of the checkpoint is missing or damaged, or is of another model.
    pub fn resume(&mut self, out: &Path) -> Result<bool, Error> {
        Ok(checkpoints::resume(out, &mut self.trainer)?.is_some())
    }
}

/// A micro-batch of the examples at `indices`.
fn of_examples(epoch: &Epoch<'_>, indices: &[usize], example: &mut Example) -> Result<MicroBatch, Error> {
    let (mut batch, mut decoder, mut labels) = (Batch::default(), Batch::default(), Labels::default());
    for &index in indices {
        epoch.example(index, example)?;
        match example.token_types.is_empty() {
            true => batch.push_ids(&example.ids)?,
            false => batch.push(&example.ids, &example.token_types)?,
        }
        if !example.decoder_ids.is_empty() {
            decoder.push_ids(&example.decoder_ids)?;
        }
        labels.labels.extend(&example.labels);
        labels.sequences.extend(example.sequence_label);
    }
    labels.next = true;
    Ok(MicroBatch { batch, decoder: (!decoder.is_empty()).then_some(decoder), labels })
}
