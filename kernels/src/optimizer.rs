//! Optimizer steps over flat slices of parameters, gradients and states, all f32.
//!
//! | kernel | formula |
//! |---|---|
//! | [`Adam`] | AdamW and Adam as PyTorch computes them, and BERT's Adam without bias correction |
//! | [`Lamb`] | Adam's direction, scaled for each parameter by a ratio of norms |
//! | [`Adafactor`] | second moments factored into rows and columns |
//! | [`Sgd`] | gradient descent, with momentum (Nesterov's too) or without |
//! | [`GlobalNorm`] | norm of all gradients; [`clip_factor`] makes it a factor of them |
//! | [`Add`], [`GradientTree`] | sums of gradients, and their sum over micro-batches in an order of their own |
//!
//! A step reads each slice once, and writes each once where the formula permits. `Trainable` holds the slices that
//! all steps share: a factor of the gradients, so that clipping takes no pass of its own, and a copy of the
//! parameters in bf16, rounded while they are in cache.
//!
//! Hyperparameters are f64, as in PyTorch: 1 - 0.999f32 is off by 5e-5. They become f32 factors once a call.

pub(crate) mod adafactor;
pub(crate) mod adam;
mod gradient_tree;
pub(crate) mod lamb;
mod norm;
pub(crate) mod sgd;

pub use adafactor::{Adafactor, AdafactorOptions, SecondMoment};
pub use adam::{Adam, AdamOptions, WeightDecay};
pub use gradient_tree::{Add, GradientTree};
pub use lamb::Lamb;
pub use norm::{GlobalNorm, clip_factor};
pub use sgd::{Sgd, SgdOptions};

use crate::error::{Error, expect_shape};
use crate::isa::Isa;
use crate::lanes::{RowSlices, map, narrow};
use crate::rows::{self, RowTask};
use half::bf16;

/// Parameters that an optimizer steps, and their gradients: a range of the model's, or all of them.
#[derive(Debug)]
pub struct Trainable<'a> {
    /// Parameters \[n\].
    pub parameters: &'a mut [f32],
    /// Their gradients \[n\].
    pub gradients: &'a [f32],
    /// Factor of the gradients: 1, [`clip_factor`], or 1 over a number of accumulated losses.
    pub gradient_scale: f32,
    /// Receives the new parameters, rounded to nearest, \[n\].
    pub bf16: Option<&'a mut [bf16]>,
}

impl<'a> Trainable<'a> {
    /// Gradients as they are, and no copy in bf16.
    pub fn new(parameters: &'a mut [f32], gradients: &'a [f32]) -> Self {
        Self { parameters, gradients, gradient_scale: 1.0, bf16: None }
    }

    /// Returns n, or an error if the slices differ in length.
    fn check(&self) -> Result<usize, Error> {
        let n = self.parameters.len();
        expect_shape("Trainable.gradients", &[self.gradients.len()], &[n])?;
        if let Some(copy) = &self.bf16 {
            expect_shape("Trainable.bf16", &[copy.len()], &[n])?;
        }
        Ok(n)
    }

    /// Rounds the parameters to their copy: for definitions.
    fn define_copy(self) {
        if let Some(copy) = self.bf16 {
            copy.iter_mut().zip(self.parameters).for_each(|(copy, &mut p)| *copy = bf16::from_f32(p));
        }
    }
}

/// Elements of a block, the unit of work: 8 KiB of each slice, so that the slices of a step stay in L1 between the
/// passes over a block. Partial sums are over blocks, whatever the threads.
const BLOCK: usize = 2048;

/// One step of an element: `W` numbers, the parameter first, from their old values and the gradient.
trait Step<const W: usize>: Copy + Send {
    fn apply<I: Isa>(self, isa: I, old: [I::V; W], gradient: I::V) -> [I::V; W];
}

/// A step over whole slices.
struct Elementwise<'a, S, const W: usize> {
    written: [&'a mut [f32]; W],
    gradients: &'a [f32],
    copy: Option<&'a mut [bf16]>,
    step: S,
}

/// Runs a step on the threads of the pool.
fn run<I: Isa, S: Step<W>, const W: usize>(
    isa: I,
    written: [&mut [f32]; W],
    gradients: &[f32],
    copy: Option<&mut [bf16]>,
    step: S,
) {
    rows::run(isa, Elementwise { written, gradients, copy, step });
}

impl<S: Step<W>, const W: usize> RowTask for Elementwise<'_, S, W> {
    fn shape(&self) -> [usize; 2] {
        [self.gradients.len().div_ceil(BLOCK), BLOCK]
    }

    fn split_at(self, mid: usize) -> (Self, Self) {
        let Self { mut written, gradients, copy, step } = self;
        let mid = mid * BLOCK;
        let mut high: [&mut [f32]; W] = core::array::from_fn(|_| Default::default());
        let low = core::array::from_fn(|i| {
            let (low, rest) = core::mem::take(&mut written[i]).split_at_mut(mid);
            high[i] = rest;
            low
        });
        let (low_gradients, high_gradients) = gradients.split_at(mid);
        let (low_copy, high_copy) = copy.map(|copy| copy.split_at_mut(mid)).unzip();
        (
            Self { written: low, gradients: low_gradients, copy: low_copy, step },
            Self { written: high, gradients: high_gradients, copy: high_copy, step },
        )
    }

    #[inline(always)]
    fn run<I: Isa>(self, isa: I, _: &mut [f32]) {
        let Self { mut written, gradients, mut copy, step } = self;
        for (block, gradients) in gradients.chunks(BLOCK).enumerate() {
            let range = block * BLOCK..block * BLOCK + gradients.len();
            let mut slices = written.each_mut().map(|slice| RowSlices::InPlace(&mut slice[range.clone()]));
            map(
                isa,
                slices.each_mut(),
                [gradients],
                0.0,
                #[inline(always)]
                |_, old, [gradient]| step.apply(isa, old, gradient),
            );
            if let Some(copy) = &mut copy {
                narrow(isa, &written[0][range.clone()], &mut copy[range]);
            }
        }
    }
}
