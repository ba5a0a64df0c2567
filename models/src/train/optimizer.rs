//! Optimizer of a run: its kind, its hyperparameters and its states.

use crate::checkpoint::arena::{Arena, ArenaTensor};
use crate::error::Error;
use std::ops::Range;
use tilewright_kernels::Backend;
use tilewright_kernels::optimizer::{Adam, AdamOptions, Lamb, Sgd, SgdOptions, Trainable, WeightDecay};

/// Optimizer and its hyperparameters. Weight decay spares biases and norms, the tensors of one dimension.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum OptimizerKind {
    /// AdamW as PyTorch computes it; without `bias_correction`, Adam of BERT's original training.
    AdamW(AdamSettings),
    /// LAMB (You et al. 2019, arXiv:1904.00962), for large batches: ALBERT.
    Lamb(AdamSettings),
    /// Gradient descent with momentum.
    Sgd {
        /// Factor of the old momentum.
        momentum: f64,
        /// Weight decay, added to the gradient.
        weight_decay: f64,
    },
}

/// Hyperparameters of the optimizers of Adam's kind.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamSettings {
    /// Decay of the moments.
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// True if the bias of the moments is corrected.
    pub bias_correction: bool,
}

impl Default for AdamSettings {
    /// PyTorch's AdamW.
    fn default() -> Self {
        Self { betas: [0.9, 0.999], epsilon: 1e-8, weight_decay: 0.01, bias_correction: true }
    }
}

impl AdamSettings {
    /// Adam of BERT's original training.
    pub const BERT: Self =
        Self { betas: [0.9, 0.999], epsilon: 1e-6, weight_decay: 0.01, bias_correction: false };

    fn options(&self, learning_rate: f64, step: u64, decays: bool) -> AdamOptions {
        let weight_decay = WeightDecay::Decoupled(if decays { self.weight_decay } else { 0.0 });
        let bias_correction = self.bias_correction.then_some(step);
        AdamOptions { learning_rate, betas: self.betas, epsilon: self.epsilon, weight_decay, bias_correction }
    }
}

/// An optimizer with its states, whose layout is that of the parameters.
#[derive(Clone, Debug)]
pub struct Optimizer {
    kind: OptimizerKind,
    /// Moments: two for Adam and LAMB, one for momentum.
    states: Vec<Vec<f32>>,
}

impl Optimizer {
    /// An optimizer of `count` parameters before its first step.
    pub fn new(kind: OptimizerKind, count: usize) -> Self {
        let states = match kind {
            OptimizerKind::AdamW(_) | OptimizerKind::Lamb(_) => 2,
            OptimizerKind::Sgd { .. } => 1,
        };
        Self { kind, states: vec![vec![0.0; count]; states] }
    }

    /// States, for saving: see [`restore`](Self::restore).
    pub fn states(&self) -> &[Vec<f32>] {
        &self.states
    }

    /// Replaces the states by saved ones.
    ///
    /// # Errors
    /// [`Error::Input`] if their number or length is another.
    pub fn restore(&mut self, states: Vec<Vec<f32>>) -> Result<(), Error> {
        let shape = |states: &[Vec<f32>]| states.iter().map(Vec::len).collect::<Vec<_>>();
        let (expected, found) = (shape(&self.states), shape(&states));
        if expected != found {
            let why = format!("expected states of {expected:?} values, found {found:?}");
            return Err(Error::Input { name: "optimizer", why });
        }
        self.states = states;
        Ok(())
    }

    /// Step `step`, counted from 1, with gradients that are to be multiplied by `gradient_scale`.
    ///
    /// # Errors
    /// [`Error::Kernel`] if `gradients` does not have the layout of the arena.
    pub fn step(
        &mut self,
        backend: Backend,
        arena: &mut Arena,
        gradients: &[f32],
        gradient_scale: f32,
        learning_rate: f64,
        step: u64,
    ) -> Result<(), Error> {
        // LAMB's ratio of norms is that of a tensor; the other steps take neighbours together.
        let together = !matches!(self.kind, OptimizerKind::Lamb(_));
        for (range, decays) in ranges(arena.tensors(), together) {
            let parameters = &mut arena.values_mut()[range.clone()];
            let of = Trainable { gradient_scale, ..Trainable::new(parameters, &gradients[range.clone()]) };
            let mut states = self.states.iter_mut().map(|state| &mut state[range.clone()]);
            let mut state = || states.next().expect("states were made for the kind");
            match self.kind {
                OptimizerKind::AdamW(settings) => {
                    let options = settings.options(learning_rate, step, decays);
                    backend.run(Adam { of, m: state(), v: state(), options })?;
                }
                OptimizerKind::Lamb(settings) => {
                    let options = settings.options(learning_rate, step, decays);
                    backend.run(Lamb { of, m: state(), v: state(), options })?;
                }
                OptimizerKind::Sgd { momentum, weight_decay } => {
                    let weight_decay = if decays { weight_decay } else { 0.0 };
                    let options = SgdOptions { momentum, weight_decay, ..SgdOptions::new(learning_rate) };
                    backend.run(Sgd { of, momentum: Some(state()), options })?;
                }
            }
        }
        Ok(())
    }
}

/// Ranges of parameters that a step treats alike, and true if they decay. `together` joins neighbours.
fn ranges(tensors: &[ArenaTensor], together: bool) -> Vec<(Range<usize>, bool)> {
    let mut found: Vec<(Range<usize>, bool)> = Vec::new();
    for tensor in tensors {
        let (range, decays) = (tensor.range.clone(), tensor.shape.len() > 1);
        match found.last_mut() {
            Some((last, of_last)) if together && *of_last == decays && last.end == range.start => {
                last.end = range.end;
            }
            _ => found.push((range, decays)),
        }
    }
    found
}
