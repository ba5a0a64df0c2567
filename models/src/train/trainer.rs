//! Steps of a run: gradients of micro-batches, clipping, the optimizer.

use super::cost::operations;
use super::micro_batch::MicroBatch;
use super::optimizer::{Optimizer, OptimizerKind};
use super::schedule::Schedule;
use crate::checkpoint::arena::Arena;
use crate::error::Error;
use crate::labels::{Labels, Loss, Totals};
use crate::layers::{Run, StepRandom, Workspace};
use crate::model::Model;
use rayon::prelude::*;
use tilewright_kernels::Backend;
use tilewright_kernels::optimizer::{GlobalNorm, GradientTree, clip_factor};

/// Settings of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrainerSettings {
    /// Optimizer.
    pub optimizer: OptimizerKind,
    /// Learning rates.
    pub schedule: Schedule,
    /// Norm to which gradients are clipped.
    pub clip: Option<f64>,
    /// True if elements are dropped as the model's config says.
    pub dropout: bool,
    /// True if the backward pass computes the inside of each layer again, which keeps less and takes a third longer.
    pub recompute: bool,
    /// Seed of the run.
    pub seed: u64,
    /// Number of steps in sequence that are skipped if their loss or gradients are not finite. A step beyond it is an
    /// error.
    pub skip_not_finite: u32,
}

/// Loss, gradients and learning rate of a step.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct StepReport {
    /// Number of the step, from 1 up.
    pub step: u64,
    /// Loss of the step: the sum of the losses of its micro-batches, whose terms are divided by the totals of the step.
    pub loss: f64,
    /// Mean of each objective.
    pub parts: Vec<(&'static str, f64)>,
    /// Norm of the gradients before clipping.
    pub gradient_norm: f64,
    /// Learning rate.
    pub learning_rate: f64,
    /// Number of tokens, those of decoders included.
    pub tokens: usize,
    /// Estimate of the step's operations: see [`operations`].
    pub operations: f64,
    /// True if the loss or a gradient was not finite: parameters and states of the optimizer are as before.
    #[serde(skip_serializing_if = "core::ops::Not::not")]
    pub skipped: bool,
}

/// A model in training.
///
/// Steps have the same bits on any number of threads.
///
/// ```
/// # use std::path::Path;
/// # use tilewright::{Arithmetic, Batch, Error, labels::Labels, train::*};
/// # use tilewright::checkpoint::{config::Fields, initial::Initialization, weights::Weights};
/// # use tilewright::gpt2::{Config, Gpt2};
/// # use tilewright_kernels::Backend;
/// # let json = br#"{"vocab_size": 20, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 8}"#;
/// # let fields = Fields::from_bytes(Path::new("config.json"), json)?;
/// let weights = Weights::initial(Initialization::new("gpt2", &fields, 1)?).trainable();
/// let backend = Backend::best();
/// let model = Gpt2::open(Config::read(&fields)?, weights.clone(), Arithmetic::f32(backend), true)?;
/// let settings = TrainerSettings {
///     optimizer: OptimizerKind::AdamW(AdamSettings::default()),
///     schedule: Schedule { peak: 1e-2, warmup: 0, steps: 20, decay: Decay::Constant },
///     clip: Some(1.0),
///     dropout: false,
///     recompute: false,
///     seed: 1,
///     skip_not_finite: 0,
/// };
/// let mut trainer = Trainer::new(Box::new(model), weights.into_arena(), backend, settings);
/// let mut batch = Batch::default();
/// batch.push_ids(&[3, 1, 4, 1, 5])?;
/// let labels = Labels { labels: vec![3, 1, 4, 1, 5], ..Labels::default() };
/// let step = MicroBatch { batch, decoder: None, labels };
/// let first = trainer.step(std::slice::from_ref(&step))?.loss;
/// for _ in 1..20 {
///     trainer.step(std::slice::from_ref(&step))?;
/// }
/// assert!(trainer.evaluate(&[step])?.total < 0.5 * first);
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug)]
pub struct Trainer {
    model: Box<dyn Model>,
    arena: Arena,
    backend: Backend,
    settings: TrainerSettings,
    optimizer: Optimizer,
    gradients: Vec<f32>,
    /// Sums of gradients of a step with the number of micro-batches.
    tree: Option<GradientTree>,
    tree_parts: usize,
    workspace: Workspace,
    /// Number of steps done.
    step: u64,
    /// Number of steps skipped since the last one that was not.
    skipped: u32,
}

impl Trainer {
    /// A trainer before its first step. `arena` has the parameters of the model.
    pub fn new(model: Box<dyn Model>, arena: Arena, backend: Backend, settings: TrainerSettings) -> Self {
        let count = arena.values().len();
        Self {
            model,
            backend,
            settings,
            optimizer: Optimizer::new(settings.optimizer, &arena),
            gradients: vec![0.0; count],
            tree: None,
            tree_parts: 0,
            workspace: Workspace::default(),
            step: 0,
            skipped: 0,
            arena,
        }
    }

    /// The model.
    pub fn model(&self) -> &dyn Model {
        &*self.model
    }

    /// The parameters.
    pub fn arena(&self) -> &Arena {
        &self.arena
    }

    /// The parameters, to replace their values.
    pub fn arena_mut(&mut self) -> &mut Arena {
        &mut self.arena
    }

    /// Gradients of the next step if it had this micro-batch alone, with the layout of the arena.
    ///
    /// # Errors
    /// See [`Model::loss`].
    pub fn gradients(&mut self, of: &MicroBatch) -> Result<Vec<f32>, Error> {
        let totals = self.totals(core::slice::from_ref(of));
        self.gradients_of(of, 0, totals)?;
        Ok(self.gradients.clone())
    }

    /// Loss of the next step if it had this micro-batch alone, with dropout if the run has it.
    ///
    /// # Errors
    /// See [`Model::loss`].
    pub fn loss(&mut self, of: &MicroBatch) -> Result<Loss, Error> {
        let totals = self.totals(core::slice::from_ref(of));
        self.gradients_of(of, 0, totals)
    }

    /// States of the optimizer.
    pub fn states(&self) -> &[Vec<f32>] {
        self.optimizer.states()
    }

    /// Takes the state of a trainer after `step` steps: all parameters, and the states of the optimizer. The last
    /// `skipped` steps were skipped.
    ///
    /// # Errors
    /// [`Error::Input`] if a length is another.
    pub fn restore(
        &mut self,
        step: u64,
        skipped: u32,
        values: &[f32],
        states: Vec<Vec<f32>>,
    ) -> Result<(), Error> {
        let expected = self.arena.values().len();
        if values.len() != expected {
            let why = format!("expected {expected} values, found {}", values.len());
            return Err(Error::Input { name: "parameters", why });
        }
        self.optimizer.restore(states)?;
        self.arena.set_values(values);
        (self.step, self.skipped) = (step, skipped);
        Ok(())
    }

    /// Number of steps done.
    pub fn steps(&self) -> u64 {
        self.step
    }

    /// Number of steps skipped since the last one that was not.
    pub fn skipped(&self) -> u32 {
        self.skipped
    }

    /// One step on these micro-batches.
    ///
    /// # Errors
    /// See [`Model::loss`]. [`Error::Input`] if the loss or a gradient is not finite, unless the settings skip the step:
    /// the error names the tensor, and no parameter has changed.
    pub fn step(&mut self, micro_batches: &[MicroBatch]) -> Result<StepReport, Error> {
        let step = self.step + 1;
        let totals = self.totals(micro_batches);
        let mut loss = Loss::default();
        let parts = micro_batches.len();
        if parts > 1 && self.tree_parts != parts {
            self.tree = Some(GradientTree::new(self.gradients.len(), parts));
            self.tree_parts = parts;
        }
        // A step that failed may have left gradients.
        self.tree.iter_mut().for_each(GradientTree::clear);
        for (number, micro_batch) in micro_batches.iter().enumerate() {
            let found = self.gradients_of(micro_batch, number, totals)?;
            add(&mut loss, found);
            if let Some(tree) = self.tree.as_mut().filter(|_| parts > 1) {
                tree.push(self.backend, number, &self.gradients)?;
            }
        }
        if let Some(tree) = self.tree.as_mut().filter(|_| parts > 1) {
            let sum = tree.sum().expect("all parts were pushed");
            self.gradients.copy_from_slice(sum);
            tree.clear();
        }
        let gradient_norm = self.backend.run(GlobalNorm { x: &self.gradients });
        let skipped = !(loss.total.is_finite() && gradient_norm.is_finite());
        if skipped && self.skipped >= self.settings.skip_not_finite {
            return Err(self.not_finite(step, &loss));
        }
        let learning_rate = self.settings.schedule.rate(step);
        if !skipped {
            let scale = self.settings.clip.map_or(1.0, |most| clip_factor(gradient_norm, most));
            let Self { optimizer, backend, arena, gradients, .. } = self;
            optimizer.step(*backend, arena, gradients, scale, learning_rate, step)?;
        }
        self.skipped = if skipped { self.skipped + 1 } else { 0 };
        self.step = step;
        let parts = loss.parts.iter().map(|(name, sum)| (*name, sum.mean())).collect();
        let tokens = micro_batches.iter().map(MicroBatch::tokens).sum();
        let operations = operations(&*self.model, micro_batches);
        let loss = loss.total;
        Ok(StepReport { step, loss, parts, gradient_norm, learning_rate, tokens, operations, skipped })
    }

    /// Computes the gradients of a micro-batch.
    fn gradients_of(&mut self, part: &MicroBatch, number: usize, totals: Totals) -> Result<Loss, Error> {
        self.gradients.par_chunks_mut(1 << 16).for_each(|gradients| gradients.fill(0.0));
        let TrainerSettings { seed, dropout, recompute, .. } = self.settings;
        // Steps and micro-batches beyond 2^32 and 2^16 repeat masks.
        let random = StepRandom { seed, step: self.step as u32, first_site: (number as u32) << 16, dropout };
        let labels = Labels { totals: Some(totals), ..part.labels.clone() };
        let run = Run::recording(&mut self.workspace, &self.arena, &mut self.gradients, random);
        let mut run = run.recomputing(recompute);
        let loss = self.model.loss(&mut run, &part.batch, part.decoder.as_ref(), &labels)?;
        run.backward()?;
        Ok(loss)
    }

    /// Mean loss of batches, without dropout.
    ///
    /// # Errors
    /// See [`Model::loss`].
    pub fn evaluate(&mut self, batches: &[MicroBatch]) -> Result<Loss, Error> {
        let (totals, mut loss) = (self.totals(batches), Loss::default());
        for part in batches {
            let labels = Labels { totals: Some(totals), ..part.labels.clone() };
            let mut run = Run::evaluating(&mut self.workspace, &self.arena);
            add(&mut loss, self.model.loss(&mut run, &part.batch, part.decoder.as_ref(), &labels)?);
        }
        Ok(loss)
    }

    /// Number of labels of all micro-batches.
    fn totals(&self, micro_batches: &[MicroBatch]) -> Totals {
        let counts = micro_batches.iter().map(|part| self.model.label_counts(&part.batch, &part.labels));
        counts.fold(Totals { tokens: 0.0, sequences: 0.0 }, |sum, counts| Totals {
            tokens: sum.tokens + counts.tokens,
            sequences: sum.sequences + counts.sequences,
        })
    }

    fn not_finite(&self, step: u64, loss: &Loss) -> Error {
        let tensor = self.arena.tensors().iter().find(|tensor| {
            let gradients = &self.gradients[tensor.range.clone()];
            gradients.iter().any(|g| !g.is_finite())
        });
        let of = tensor
            .map_or(String::new(), |tensor| format!(", and a gradient of {} is not finite", tensor.name));
        let why = format!("step {step}: the loss is {}{of}", loss.total);
        Error::Input { name: "loss", why }
    }
}

/// Adds the loss of another micro-batch of a step.
fn add(sum: &mut Loss, other: Loss) {
    sum.total += other.total;
    for (sums, others) in [(&mut sum.parts, other.parts), (&mut sum.right, other.right)] {
        for (name, terms) in others {
            match sums.iter_mut().find(|(of, _)| *of == name) {
                Some((_, sum)) => *sum = *sum + terms,
                None => sums.push((name, terms)),
            }
        }
    }
}
