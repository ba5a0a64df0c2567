//! Optimizer of a run: its kind, its hyperparameters and its states.

use crate::checkpoint::arena::{Arena, ArenaTensor};
use crate::error::Error;
use std::ops::Range;
use tilewright_kernels::Backend;
use tilewright_kernels::optimizer::{
    Adafactor, AdafactorOptions, Adam, AdamOptions, Lamb, SecondMoment, Sgd, SgdOptions, Trainable,
    WeightDecay,
};

/// Optimizer and its hyperparameters. Weight decay spares biases and norms, the tensors of one dimension.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum OptimizerKind {
    /// AdamW as PyTorch computes it; without `bias_correction`, Adam of BERT's original training.
    AdamW(AdamSettings),
    /// LAMB (You et al. 2019, arXiv:1904.00962), for large batches: ALBERT.
    Lamb(AdamSettings),
    /// Adafactor (Shazeer and Stern 2018, arXiv:1804.04235), whose states of a matrix are a row and a column: T5. Steps
    /// are scaled by the root mean square of a tensor.
    Adafactor {
        /// Weight decay.
        weight_decay: f64,
    },
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

/// An optimizer with its states. Their layout is that of the parameters; Adafactor has, tensor by tensor, the rows and
/// the columns of a matrix, or a value for each element.
#[derive(Clone, Debug)]
pub struct Optimizer {
    kind: OptimizerKind,
    /// Moments: two for Adam and LAMB, one for Adafactor and momentum.
    states: Vec<Vec<f32>>,
}

impl Optimizer {
    /// An optimizer of the parameters in `arena` before its first step.
    pub fn new(kind: OptimizerKind, arena: &Arena) -> Self {
        let count = arena.values().len();
        let states = match kind {
            OptimizerKind::AdamW(_) | OptimizerKind::Lamb(_) => vec![vec![0.0; count]; 2],
            OptimizerKind::Sgd { .. } => vec![vec![0.0; count]],
            OptimizerKind::Adafactor { .. } => {
                let moments = arena.tensors().iter().map(|tensor| moments(tensor).iter().sum::<usize>());
                vec![vec![0.0; moments.sum()]]
            }
        };
        Self { kind, states }
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
        if let OptimizerKind::Adafactor { weight_decay } = self.kind {
            return self.adafactor(
                backend,
                arena,
                gradients,
                gradient_scale,
                step,
                [learning_rate, weight_decay],
            );
        }
        // LAMB's ratio of norms is that of a tensor; the other steps take neighbours together.
        let together = !matches!(self.kind, OptimizerKind::Lamb(_));
        for (range, decays) in ranges(arena.tensors(), together) {
            let of = trainable(arena, gradients, range.clone(), gradient_scale);
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
                OptimizerKind::Adafactor { .. } => {}
            }
        }
        Ok(())
    }

    /// A step of Adafactor, tensor by tensor.
    fn adafactor(
        &mut self,
        backend: Backend,
        arena: &mut Arena,
        gradients: &[f32],
        gradient_scale: f32,
        step: u64,
        [learning_rate, weight_decay]: [f64; 2],
    ) -> Result<(), Error> {
        let mut left = &mut self.states[0][..];
        for tensor in arena.tensors().to_vec() {
            let sizes = moments(&tensor);
            let (own, others) = left.split_at_mut(sizes.iter().sum());
            left = others;
            let second_moment = match sizes {
                [rows, columns] if columns > 0 => {
                    let (rows, columns) = own.split_at_mut(rows);
                    SecondMoment::Factored { rows, columns }
                }
                _ => SecondMoment::Full(own),
            };
            let weight_decay = if tensor.shape.len() > 1 { weight_decay } else { 0.0 };
            let options = AdafactorOptions {
                learning_rate: Some(learning_rate),
                weight_decay,
                ..AdafactorOptions::new(step)
            };
            let of = trainable(arena, gradients, tensor.range, gradient_scale);
            backend.run(Adafactor { of, second_moment, options })?;
        }
        Ok(())
    }
}

/// Parameters of a range, their copy in bf16 if there is one, and their gradients.
fn trainable<'a>(
    arena: &'a mut Arena,
    gradients: &'a [f32],
    range: Range<usize>,
    gradient_scale: f32,
) -> Trainable<'a> {
    let (parameters, rounded) = arena.arrays_mut();
    let bf16 = rounded.map(|rounded| &mut rounded[range.clone()]);
    Trainable { gradient_scale, bf16, ..Trainable::new(&mut parameters[range.clone()], &gradients[range]) }
}

/// Numbers of rows and columns that Adafactor keeps of a matrix; of other tensors the number of elements, and 0.
fn moments(tensor: &ArenaTensor) -> [usize; 2] {
    match tensor.shape[..] {
        [rows, columns] => [rows, columns],
        _ => [tensor.range.len(), 0],
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Every optimizer lowers x^2 + y^2, and its states can be saved and restored.
    #[test]
    fn optimizers_go_down_and_resume() {
        let kinds = [
            OptimizerKind::AdamW(AdamSettings::default()),
            OptimizerKind::AdamW(AdamSettings::BERT),
            OptimizerKind::Lamb(AdamSettings::default()),
            OptimizerKind::Adafactor { weight_decay: 0.0 },
            OptimizerKind::Sgd { momentum: 0.9, weight_decay: 0.0 },
        ];
        for kind in kinds {
            let mut arena = Arena::default();
            arena.push("matrix.weight", &[2, 3], &[1.0, -2.0, 0.5, 1.5, -0.7, 0.9]);
            arena.push("norm.weight", &[2], &[1.0, -1.0]);
            let square = |arena: &Arena| arena.values().iter().map(|v| v * v).sum::<f32>();
            let before = square(&arena);
            let mut optimizer = Optimizer::new(kind, &arena);
            let go = |optimizer: &mut Optimizer, arena: &mut Arena, steps: Range<u64>| {
                for step in steps {
                    let gradients: Vec<f32> = arena.values().iter().map(|v| 2.0 * v).collect();
                    optimizer.step(Backend::PORTABLE, arena, &gradients, 1.0, 0.01, step).unwrap();
                }
            };
            go(&mut optimizer, &mut arena, 1..11);
            let (saved, states) = (arena.clone(), optimizer.states().to_vec());
            go(&mut optimizer, &mut arena, 11..21);
            assert!(square(&arena) < 0.9 * before, "{kind:?}: {} of {before}", square(&arena));
            let (mut again, mut resumed) = (saved, Optimizer::new(kind, &arena));
            resumed.restore(states).unwrap();
            go(&mut resumed, &mut again, 11..21);
            assert_eq!(arena.values(), again.values(), "{kind:?}");
            assert!(resumed.restore(Vec::new()).is_err());
        }
    }

    #[test]
    fn biases_and_norms_do_not_decay() {
        let mut arena = Arena::default();
        arena.push("matrix.weight", &[1, 2], &[1.0, 1.0]);
        arena.push("matrix.bias", &[2], &[1.0, 1.0]);
        let kind = OptimizerKind::AdamW(AdamSettings { weight_decay: 0.5, ..AdamSettings::default() });
        let mut optimizer = Optimizer::new(kind, &arena);
        optimizer.step(Backend::PORTABLE, &mut arena, &[0.0; 4], 1.0, 0.1, 1).unwrap();
        assert_eq!(arena.values(), [0.95, 0.95, 1.0, 1.0]);
    }
}
