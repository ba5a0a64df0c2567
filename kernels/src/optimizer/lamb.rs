//! LAMB (You et al. 2019, arXiv:1904.00962, algorithm 2): Adam's direction, scaled for each parameter.
//!
//! ```text
//! g = gradient_scale * gradient
//! m = b1 m + (1 - b1) g        v = b2 v + (1 - b2) g^2
//! d = m / c1 / (sqrt(v / c2) + eps) + decay p
//! p = p - lr ratio d           ratio = |p| / |d|, or 1 if either norm is 0
//! ```
//!
//! The norms are over one parameter, a matrix or a bias: one call steps one parameter. The first pass updates m and v
//! and sums both norms, the second computes d again, which costs less than to store and load it.

use super::adam::MomentStep;
use super::norm::{block_norm, total};
use super::{AdamOptions, BLOCK, Step, Trainable, WeightDecay, run};
use crate::backend::Kernel;
use crate::error::{Error, expect_shape};
use crate::isa::{Isa, Vector};
use crate::lanes::{RowSlices, map};
use crate::rows::{self, RowTask};
use crate::scratch;

/// One step of LAMB for one parameter.
///
/// # Errors
/// [`Error::Shape`] if the slices differ in length; [`Error::Invalid`] if the weight decay is [`WeightDecay::L2`].
///
/// # Numerics
/// Each operation of the formula rounds once. Both norms are sums as of [`GlobalNorm`](super::GlobalNorm), with the
/// same bits on any number of threads.
///
/// ```
/// use tilewright_kernels::Backend;
/// use tilewright_kernels::optimizer::{AdamOptions, Lamb, Trainable, WeightDecay};
/// let (mut p, mut m, mut v) = ([3., 4.], [0.; 2], [0.; 2]);
/// let options = AdamOptions { weight_decay: WeightDecay::Decoupled(0.), ..AdamOptions::adamw(0.1, 1) };
/// // The step is a tenth of the parameter's norm, 5.
/// Backend::best().run(Lamb { of: Trainable::new(&mut p, &[1., 0.]), m: &mut m, v: &mut v, options })?;
/// assert!((p[0] - 2.5).abs() < 1e-5 && p[1] == 4.);
/// # Ok::<(), tilewright_kernels::Error>(())
/// ```
#[derive(Debug)]
pub struct Lamb<'a> {
    /// One parameter and its gradient, \[n\].
    pub of: Trainable<'a>,
    /// First moments, \[n\]; zeros before the first step.
    pub m: &'a mut [f32],
    /// Second moments, \[n\]; zeros before the first step.
    pub v: &'a mut [f32],
    /// Hyperparameters; the weight decay must be decoupled.
    pub options: AdamOptions,
}

/// Definition of [`Lamb`]: the new p, m and v.
pub fn lamb([p, m, v]: [&[f64]; 3], gradient: &[f64], options: &AdamOptions) -> [Vec<f64>; 3] {
    let ([b1, b2], [correct_m, correct_v]) = (options.betas, options.corrections());
    let decay = decay(options).unwrap_or(0.0);
    let m: Vec<f64> = m.iter().zip(gradient).map(|(m, g)| b1 * m + (1.0 - b1) * g).collect();
    let v: Vec<f64> = v.iter().zip(gradient).map(|(v, g)| b2 * v + (1.0 - b2) * g * g).collect();
    let adam = |i: usize| m[i] * correct_m / (v[i].sqrt() * correct_v + options.epsilon);
    let d: Vec<f64> = (0..p.len()).map(|i| adam(i) + decay * p[i]).collect();
    let norm = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>().sqrt();
    let rate = options.learning_rate * ratio(norm(p), norm(&d));
    [p.iter().zip(&d).map(|(p, d)| p - rate * d).collect(), m, v]
}

/// The decoupled weight decay.
fn decay(options: &AdamOptions) -> Option<f64> {
    match options.weight_decay {
        WeightDecay::Decoupled(decay) => Some(decay),
        WeightDecay::L2(_) => None,
    }
}

/// |p| / |d|, or 1 if either norm is 0.
fn ratio(parameter: f64, direction: f64) -> f64 {
    if parameter == 0.0 || direction == 0.0 { 1.0 } else { parameter / direction }
}

impl Lamb<'_> {
    /// Returns the weight decay, or an error.
    fn check(&self) -> Result<f64, Error> {
        let n = self.of.check()?;
        expect_shape("Lamb.m", &[self.m.len()], &[n])?;
        expect_shape("Lamb.v", &[self.v.len()], &[n])?;
        decay(&self.options).ok_or_else(|| Error::Invalid {
            what: "Lamb.options",
            why: format!("expected a decoupled weight decay, found {:?}", self.options.weight_decay),
        })
    }
}

impl Kernel for Lamb<'_> {
    type Output = Result<(), Error>;

    crate::backend::compile_here!();

    fn reference(self) -> Self::Output {
        self.check()?;
        let Self { of, m, v, options } = self;
        let wide = |x: &[f32], scale: f32| -> Vec<f64> {
            x.iter().map(|&x| f64::from(x) * f64::from(scale)).collect()
        };
        let old = [wide(of.parameters, 1.0), wide(m, 1.0), wide(v, 1.0)];
        let new = lamb(old.each_ref().map(|x| &x[..]), &wide(of.gradients, of.gradient_scale), &options);
        for (slice, new) in [&mut *of.parameters, m, v].into_iter().zip(new) {
            slice.iter_mut().zip(new).for_each(|(x, new)| *x = new as f32);
        }
        of.define_copy();
        Ok(())
    }

    fn eval<I: Isa>(self, isa: I) -> Self::Output {
        let decay = self.check()?;
        let Self { of, m, v, options } = self;
        let [correct_m, correct_v] = options.corrections().map(|x| x as f32);
        let direction =
            Direction { correct_m, correct_v, epsilon: options.epsilon as f32, decay: decay as f32 };
        let blocks = of.parameters.len().div_ceil(BLOCK);
        let ratio = scratch::with(2 * blocks, |norms| {
            let (p_norms, d_norms) = norms.split_at_mut(blocks);
            let moments = MomentStep::new(&options, of.gradient_scale, 0.0);
            let (p, gradients) = (&*of.parameters, of.gradients);
            rows::run(
                isa,
                Moments { p, gradients, m: &mut *m, v: &mut *v, p_norms, d_norms, moments, direction },
            );
            ratio(total(p_norms), total(d_norms))
        });
        let step = LambStep { direction, rate: (options.learning_rate * ratio) as f32 };
        // m and v pass through: they are read and written with the values that they have.
        run(isa, [of.parameters, m, v], of.gradients, of.bf16, step);
        Ok(())
    }
}

/// d of an element.
#[derive(Clone, Copy)]
struct Direction {
    correct_m: f32,
    correct_v: f32,
    epsilon: f32,
    decay: f32,
}

impl Direction {
    #[inline(always)]
    fn apply<I: Isa>(self, isa: I, [p, m, v]: [I::V; 3]) -> I::V {
        let c = |x: f32| I::V::splat(isa, x);
        let adam = (m * c(self.correct_m)) / v.sqrt().mul_add(c(self.correct_v), c(self.epsilon));
        p.mul_add(c(self.decay), adam)
    }
}

/// First pass: new moments, and the norms of p and d of each block.
struct Moments<'a> {
    p: &'a [f32],
    gradients: &'a [f32],
    m: &'a mut [f32],
    v: &'a mut [f32],
    p_norms: &'a mut [f32],
    d_norms: &'a mut [f32],
    moments: MomentStep,
    direction: Direction,
}

impl RowTask for Moments<'_> {
    fn shape(&self) -> [usize; 2] {
        [self.p_norms.len(), BLOCK]
    }

    fn split_at(self, mid: usize) -> (Self, Self) {
        let Self { p, gradients, m, v, p_norms, d_norms, moments, direction } = self;
        let at = mid * BLOCK;
        let ((p, p_high), (gradients, gradients_high)) = (p.split_at(at), gradients.split_at(at));
        let ((m, m_high), (v, v_high)) = (m.split_at_mut(at), v.split_at_mut(at));
        let (p_norms, p_norms_high) = p_norms.split_at_mut(mid);
        let (d_norms, d_norms_high) = d_norms.split_at_mut(mid);
        (
            Self { p, gradients, m, v, p_norms, d_norms, moments, direction },
            Self {
                p: p_high,
                gradients: gradients_high,
                m: m_high,
                v: v_high,
                p_norms: p_norms_high,
                d_norms: d_norms_high,
                moments,
                direction,
            },
        )
    }

    /// d of one block.
    fn memory(&self) -> usize {
        BLOCK
    }

    #[inline(always)]
    fn run<I: Isa>(self, isa: I, memory: &mut [f32]) {
        let Self { p, gradients, m, v, p_norms, d_norms, moments, direction } = self;
        for (block, p) in p.chunks(BLOCK).enumerate() {
            let range = block * BLOCK..block * BLOCK + p.len();
            let d = &mut memory[..p.len()];
            let mut slices = [&mut m[range.clone()], &mut v[range.clone()], &mut *d].map(RowSlices::InPlace);
            map(
                isa,
                slices.each_mut(),
                [p, &gradients[range]],
                0.0,
                #[inline(always)]
                |_, [m, v, _], [p, gradient]| {
                    let [m, v] = moments.apply(isa, [p, m, v], gradient);
                    [m, v, direction.apply(isa, [p, m, v])]
                },
            );
            p_norms[block] = block_norm(isa, p);
            d_norms[block] = block_norm(isa, d);
        }
    }
}

/// Second pass.
#[derive(Clone, Copy)]
struct LambStep {
    direction: Direction,
    rate: f32,
}

impl Step<3> for LambStep {
    #[inline(always)]
    fn apply<I: Isa>(self, isa: I, old: [I::V; 3], _: I::V) -> [I::V; 3] {
        let [p, m, v] = old;
        [self.direction.apply(isa, old).mul_add(I::V::splat(isa, -self.rate), p), m, v]
    }
}
