//! Adafactor with a second moment for each element.

use super::AdafactorOptions;
use crate::isa::{Isa, Vector};
use crate::lanes::{RowSlices, map};
use crate::optimizer::norm::{block_norm, total};
use crate::optimizer::{BLOCK, Step, Trainable, run};
use crate::rows::{self, RowTask};
use crate::scratch;

/// Steps a parameter of root mean square `rms`.
pub(super) fn step<I: Isa>(isa: I, of: Trainable<'_>, v: &mut [f32], options: &AdafactorOptions, rms: f64) {
    let n = of.parameters.len();
    let [old, new] = options.decays();
    let moment = MomentStep {
        scale: of.gradient_scale,
        old: old as f32,
        new: new as f32,
        epsilon: options.epsilons[0] as f32,
    };
    let norm = scratch::with(n.div_ceil(BLOCK), |norms| {
        rows::run(isa, Moments { gradients: of.gradients, v: &mut *v, norms: &mut *norms, moment });
        total(norms)
    });
    let [keep, factor] = options.factors([rms, norm / (n as f64).sqrt()]);
    let step = FullStep { keep: keep as f32, factor: (factor * f64::from(of.gradient_scale)) as f32 };
    // v passes through: it is read and written with the value that it has.
    run(isa, [of.parameters, v], of.gradients, of.bf16, step);
}

/// The new second moment, and u.
#[derive(Clone, Copy)]
struct MomentStep {
    scale: f32,
    old: f32,
    new: f32,
    epsilon: f32,
}

impl MomentStep {
    #[inline(always)]
    fn apply<I: Isa>(self, isa: I, v: I::V, gradient: I::V) -> [I::V; 2] {
        let c = |x: f32| I::V::splat(isa, x);
        let g = gradient * c(self.scale);
        let v = c(self.new).mul_add(g.mul_add(g, c(self.epsilon)), v * c(self.old));
        [v, g / v.sqrt()]
    }
}

/// First pass: new moments, and the norm of u of each block.
struct Moments<'a> {
    gradients: &'a [f32],
    v: &'a mut [f32],
    norms: &'a mut [f32],
    moment: MomentStep,
}

impl RowTask for Moments<'_> {
    fn shape(&self) -> [usize; 2] {
        [self.norms.len(), BLOCK]
    }

    fn split_at(self, mid: usize) -> (Self, Self) {
        let Self { gradients, v, norms, moment } = self;
        let (gradients, high_gradients) = gradients.split_at(mid * BLOCK);
        let ((v, high_v), (norms, high_norms)) = (v.split_at_mut(mid * BLOCK), norms.split_at_mut(mid));
        (
            Self { gradients, v, norms, moment },
            Self { gradients: high_gradients, v: high_v, norms: high_norms, moment },
        )
    }

    /// u of one block.
    fn memory(&self) -> usize {
        BLOCK
    }

    #[inline(always)]
    fn run<I: Isa>(self, isa: I, memory: &mut [f32]) {
        let Self { gradients, v, norms, moment } = self;
        for ((gradients, v), norm) in gradients.chunks(BLOCK).zip(v.chunks_mut(BLOCK)).zip(norms) {
            let u = &mut memory[..gradients.len()];
            map(
                isa,
                [v, &mut *u].map(RowSlices::InPlace).each_mut(),
                [gradients],
                0.0,
                #[inline(always)]
                |_, [v, _], [gradient]| moment.apply(isa, v, gradient),
            );
            *norm = block_norm(isa, u);
        }
    }
}

/// Second pass.
#[derive(Clone, Copy)]
struct FullStep {
    keep: f32,
    factor: f32,
}

impl Step<2> for FullStep {
    #[inline(always)]
    fn apply<I: Isa>(self, isa: I, [p, v]: [I::V; 2], gradient: I::V) -> [I::V; 2] {
        let c = |x: f32| I::V::splat(isa, x);
        [(gradient / v.sqrt()).mul_add(c(self.factor), p * c(self.keep)), v]
    }
}
