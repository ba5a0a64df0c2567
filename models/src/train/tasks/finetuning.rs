//! Fine-tuning: epochs over examples, an evaluation after each, the best parameters.

use super::evaluation::{Evaluation, evaluate};
use super::examples::Examples;
use super::setup::{TaskModel, TaskSetup};
use crate::checkpoint::arena::Arena;
use crate::error::Error;
use crate::train::checkpoints;
use crate::train::{MicroBatch, StepReport, Trainer, TrainerSettings};
use std::path::Path;
use tilewright_kernels::Backend;

/// Settings of a fine-tuning.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FinetuningSettings {
    /// Upper bound of the epochs.
    pub epochs: u32,
    /// Sequences of a step.
    pub batch: usize,
    /// Sequences that are computed at once.
    pub micro_batch: usize,
    /// Number of epochs in a row without a better evaluation after which the run ends.
    pub patience: Option<u32>,
}

/// A fine-tuning run.
///
/// The parameters have the same bits on any number of threads.
#[derive(Debug)]
pub struct Finetuning {
    setup: TaskSetup,
    trainer: Trainer,
    train: Examples,
    eval: Examples,
    settings: FinetuningSettings,
    /// Seed of the order.
    seed: u64,
    /// Number of epochs done.
    epoch: u32,
    /// Best evaluation, and its epoch.
    best: Option<(u32, Evaluation)>,
}

/// State of a run beside its trainer.
#[derive(Debug, serde::Deserialize, serde::Serialize)]
struct State {
    epoch: u32,
    best: Option<(u32, Evaluation)>,
}

/// Result of an epoch.
#[derive(Clone, Debug, PartialEq)]
pub struct EpochReport {
    /// Number of the epoch, from 1 up.
    pub epoch: u32,
    /// Number of steps so far.
    pub step: u64,
    /// Mean loss of the epoch's steps, without skipped ones.
    pub loss: f64,
    /// Evaluation after the epoch.
    pub evaluation: Evaluation,
    /// True if the evaluation is the best so far.
    pub is_best: bool,
}

impl Finetuning {
    /// A run before its first epoch.
    ///
    /// # Errors
    /// [`Error::Input`] if a setting is 0.
    pub fn new(
        model: TaskModel,
        [train, eval]: [Examples; 2],
        backend: Backend,
        of_trainer: TrainerSettings,
        settings: FinetuningSettings,
    ) -> Result<Self, Error> {
        let FinetuningSettings { epochs, batch, micro_batch, .. } = settings;
        let counts = [("epochs", epochs as usize), ("batch", batch), ("micro-batch", micro_batch)];
        if let Some((name, _)) = counts.into_iter().find(|(_, count)| *count == 0) {
            return Err(Error::Input { name, why: "expected at least 1, found 0".to_owned() });
        }
        let TaskModel { setup, model, arena, .. } = model;
        let (seed, trainer) = (of_trainer.seed, Trainer::new(model, arena, backend, of_trainer));
        Ok(Self { setup, trainer, train, eval, settings, seed, epoch: 0, best: None })
    }

    /// Number of steps of an epoch.
    pub fn steps_of_epoch(&self) -> u64 {
        self.train.len().div_ceil(self.settings.batch) as u64
    }

    /// Number of epochs done.
    pub fn epochs(&self) -> u32 {
        self.epoch
    }

    /// Saves a checkpoint of the run in a directory of `out`. The two newest checkpoints are kept.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn save(&self, out: &Path) -> Result<(), Error> {
        let state = serde_json::json!(State { epoch: self.epoch, best: self.best.clone() });
        checkpoints::save(out, &self.trainer, state, |to| self.setup.save(to, self.arena()))
    }

    /// Takes the state of the newest checkpoint in `out`; false if there is none. The run then has the bits of one that
    /// was never interrupted, if settings and examples are those of the first one.
    ///
    /// # Errors
    /// If a file of the checkpoint is missing or damaged, or is of another model.
    pub fn resume(&mut self, out: &Path) -> Result<bool, Error> {
        let Some((path, state)) = checkpoints::resume(out, &mut self.trainer)? else { return Ok(false) };
        let State { epoch, best } =
            serde_json::from_value(state).map_err(|e| Error::File { path, why: format!("run: {e}") })?;
        (self.epoch, self.best) = (epoch, best);
        Ok(true)
    }

    /// Class, config, tokenizer, labels.
    pub fn setup(&self) -> &TaskSetup {
        &self.setup
    }

    /// Examples of the evaluations.
    pub fn eval(&self) -> &Examples {
        &self.eval
    }

    /// The parameters.
    pub fn arena(&self) -> &Arena {
        self.trainer.arena()
    }

    /// Best evaluation so far, and its epoch.
    pub fn best(&self) -> Option<(u32, &Evaluation)> {
        self.best.as_ref().map(|(epoch, evaluation)| (*epoch, evaluation))
    }

    /// True after the last epoch, or if the last evaluations were not better than the best one before.
    pub fn is_finished(&self) -> bool {
        let since = self.best.as_ref().map_or(0, |(epoch, _)| self.epoch - epoch);
        self.epoch >= self.settings.epochs || self.settings.patience.is_some_and(|most| since >= most)
    }

    /// Trains an epoch and evaluates. `tell` gets each step's report.
    ///
    /// # Errors
    /// See [`Trainer::step`]; errors of `tell`.
    pub fn epoch<E: From<Error>>(
        &mut self,
        mut tell: impl FnMut(&StepReport) -> Result<(), E>,
    ) -> Result<EpochReport, E> {
        let order = self.train.order(self.seed, self.epoch);
        let (mut loss, mut steps) = (0.0, 0.0);
        for of_step in order.chunks(self.settings.batch) {
            let model = self.trainer.model();
            let parts = of_step.chunks(self.settings.micro_batch);
            let parts: Vec<MicroBatch> =
                parts.map(|which| self.train.micro_batch(which, model)).collect::<Result<_, Error>>()?;
            let report = self.trainer.step(&parts)?;
            if !report.skipped {
                loss += report.loss;
                steps += 1.0;
            }
            tell(&report)?;
        }
        self.epoch += 1;
        let arena = self.trainer.arena();
        let evaluation = evaluate(self.trainer.model(), arena, &self.eval, &self.setup)?;
        let is_best = self.best.as_ref().is_none_or(|(_, best)| evaluation.is_better(best, self.setup.task));
        if is_best {
            self.best = Some((self.epoch, evaluation.clone()));
        }
        let step = self.trainer.steps();
        Ok(EpochReport { epoch: self.epoch, step, loss: loss / steps, evaluation, is_best })
    }
}
