//! Adam (Kingma and Ba 2014, arXiv:1412.6980) with decoupled weight decay (Loshchilov and Hutter 2017,
//! arXiv:1711.05101).
//!
//! ```text
//! g = gradient_scale * gradient + l2 p
//! m = b1 m + (1 - b1) g        v = b2 v + (1 - b2) g^2
//! p = (1 - lr decay) p - lr / c1 m / (sqrt(v) / sqrt(c2) + eps)        c1 = 1 - b1^step, c2 = 1 - b2^step
//! ```
//!
//! l2 or decay is the weight decay, the other 0. Without bias correction c1 = c2 = 1, which is the step of BERT's
//! `optimization.py`: p -= lr (m / (sqrt(v) + eps) + decay p).

use super::{Step, Trainable, run};
use crate::backend::Kernel;
use crate::error::{Error, expect_shape};
use crate::isa::{Isa, Vector};

/// Weight decay of an optimizer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum WeightDecay {
    /// The step shrinks the parameter by the learning rate times this: AdamW, BERT.
    Decoupled(f64),
    /// Added to the gradient, times the parameter: the L2 regularisation of PyTorch's `Adam`.
    L2(f64),
}

/// Hyperparameters of [`Adam`] and [`Lamb`](super::Lamb).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamOptions {
    /// Learning rate of this step.
    pub learning_rate: f64,
    /// Decay of m and of v.
    pub betas: [f64; 2],
    /// Added to sqrt(v).
    pub epsilon: f64,
    /// Weight decay.
    pub weight_decay: WeightDecay,
    /// Number of this step, from 1 up, if the bias of m and v is corrected; `None` if not.
    pub bias_correction: Option<u64>,
}

impl AdamOptions {
    /// PyTorch's `AdamW` with its defaults, in step `step`, counted from 1.
    pub fn adamw(learning_rate: f64, step: u64) -> Self {
        let weight_decay = WeightDecay::Decoupled(0.01);
        Self { learning_rate, betas: [0.9, 0.999], epsilon: 1e-8, weight_decay, bias_correction: Some(step) }
    }

    /// Adam of BERT's original training, for parameters other than biases and layer norms, whose decay is 0.
    pub fn bert(learning_rate: f64) -> Self {
        let weight_decay = WeightDecay::Decoupled(0.01);
        Self { learning_rate, betas: [0.9, 0.999], epsilon: 1e-6, weight_decay, bias_correction: None }
    }

    /// Factors of the old parameter in its own step and in the gradient.
    fn decay(&self) -> [f64; 2] {
        match self.weight_decay {
            WeightDecay::Decoupled(decay) => [1.0 - self.learning_rate * decay, 0.0],
            WeightDecay::L2(l2) => [1.0, l2],
        }
    }

    /// 1 / c1 and 1 / sqrt(c2).
    pub(super) fn corrections(&self) -> [f64; 2] {
        let Some(step) = self.bias_correction else { return [1.0; 2] };
        // Beyond 2^31 steps the powers are 0.
        let step = i32::try_from(step).unwrap_or(i32::MAX);
        let [c1, c2] = self.betas.map(|beta| 1.0 - beta.powi(step));
        [c1.recip(), c2.sqrt().recip()]
    }
}

/// Definition of [`Adam`] for one element: the new p, m and v.
pub fn adam([p, m, v]: [f64; 3], gradient: f64, options: &AdamOptions) -> [f64; 3] {
    let [keep, l2] = options.decay();
    let ([b1, b2], [correct_m, correct_v]) = (options.betas, options.corrections());
    let g = gradient + l2 * p;
    let m = b1 * m + (1.0 - b1) * g;
    let v = b2 * v + (1.0 - b2) * g * g;
    let p = keep * p - options.learning_rate * correct_m * m / (v.sqrt() * correct_v + options.epsilon);
    [p, m, v]
}

/// One step of Adam, in one pass: 16 bytes read and 12 written for each parameter, 14 with a copy in bf16.
///
/// [`AdamOptions::adamw`] makes it PyTorch's `AdamW`, [`WeightDecay::L2`] its `Adam`, [`AdamOptions::bert`] BERT's.
///
/// # Errors
/// [`Error::Shape`] if the slices differ in length.
///
/// # Numerics
/// Each operation of the formula rounds once, and so do the factors that the options become. The bits of an element
/// depend on nothing but its own numbers and the options.
///
/// ```
/// use tilewright_kernels::Backend;
/// use tilewright_kernels::optimizer::{Adam, AdamOptions, Trainable};
/// let (mut p, mut m, mut v) = ([1., 1.], [0.; 2], [0.; 2]);
/// // The first step has the size of the learning rate, whatever the gradient; decay takes 1% of it.
/// Backend::best().run(Adam {
///     of: Trainable::new(&mut p, &[3., -0.001]),
///     m: &mut m,
///     v: &mut v,
///     options: AdamOptions::adamw(0.1, 1),
/// })?;
/// assert!((p[0] - 0.899).abs() < 1e-5 && (p[1] - 1.099).abs() < 1e-5);
/// # Ok::<(), tilewright_kernels::Error>(())
/// ```
#[derive(Debug)]
pub struct Adam<'a> {
    /// Parameters and gradients, \[n\].
    pub of: Trainable<'a>,
    /// First moments, \[n\]; zeros before the first step.
    pub m: &'a mut [f32],
    /// Second moments, \[n\]; zeros before the first step.
    pub v: &'a mut [f32],
    /// Hyperparameters.
    pub options: AdamOptions,
}

impl Adam<'_> {
    fn check(&self) -> Result<(), Error> {
        let n = self.of.check()?;
        expect_shape("Adam.m", &[self.m.len()], &[n])?;
        expect_shape("Adam.v", &[self.v.len()], &[n])
    }
}

impl Kernel for Adam<'_> {
    type Output = Result<(), Error>;

    crate::backend::compile_here!();

    fn reference(self) -> Self::Output {
        self.check()?;
        let Self { of, m, v, options } = self;
        for (i, p) in of.parameters.iter_mut().enumerate() {
            let gradient = f64::from(of.gradient_scale) * f64::from(of.gradients[i]);
            [*p, m[i], v[i]] = adam([*p, m[i], v[i]].map(f64::from), gradient, &options).map(|x| x as f32);
        }
        of.define_copy();
        Ok(())
    }

    fn eval<I: Isa>(self, isa: I) -> Self::Output {
        self.check()?;
        let Self { of, m, v, options } = self;
        let [correct_m, correct_v] = options.corrections();
        let [keep, l2] = options.decay();
        let step = AdamStep {
            moments: MomentStep::new(&options, of.gradient_scale, l2),
            keep: keep as f32,
            rate: (options.learning_rate * correct_m) as f32,
            correct_v: correct_v as f32,
            epsilon: options.epsilon as f32,
        };
        run(isa, [of.parameters, m, v], of.gradients, of.bf16, step);
        Ok(())
    }
}

/// The new m and v of an element.
#[derive(Clone, Copy)]
pub(super) struct MomentStep {
    scale: f32,
    l2: f32,
    betas: [f32; 2],
    others: [f32; 2],
}

impl MomentStep {
    pub fn new(options: &AdamOptions, scale: f32, l2: f64) -> Self {
        let [betas, others] = [options.betas, options.betas.map(|beta| 1.0 - beta)];
        Self { scale, l2: l2 as f32, betas: betas.map(|x| x as f32), others: others.map(|x| x as f32) }
    }

    #[inline(always)]
    pub fn apply<I: Isa>(self, isa: I, [p, m, v]: [I::V; 3], gradient: I::V) -> [I::V; 2] {
        let c = |x: f32| I::V::splat(isa, x);
        let g = p.mul_add(c(self.l2), gradient * c(self.scale));
        let m = c(self.others[0]).mul_add(g, m * c(self.betas[0]));
        let v = (c(self.others[1]) * g).mul_add(g, v * c(self.betas[1]));
        [m, v]
    }
}

/// Factors of one step.
#[derive(Clone, Copy)]
struct AdamStep {
    moments: MomentStep,
    keep: f32,
    rate: f32,
    correct_v: f32,
    epsilon: f32,
}

impl Step<3> for AdamStep {
    #[inline(always)]
    fn apply<I: Isa>(self, isa: I, old: [I::V; 3], gradient: I::V) -> [I::V; 3] {
        let c = |x: f32| I::V::splat(isa, x);
        let [m, v] = self.moments.apply(isa, old, gradient);
        let direction = m / v.sqrt().mul_add(c(self.correct_v), c(self.epsilon));
        let p = direction.mul_add(c(-self.rate), old[0] * c(self.keep));
        [p, m, v]
    }
}
