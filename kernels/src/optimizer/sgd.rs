//! Stochastic gradient descent with momentum, as `torch.optim.SGD` computes it (Sutskever et al. 2013, "On the
//! importance of initialization and momentum in deep learning").
//!
//! ```text
//! g = gradient_scale * gradient + decay p
//! b = momentum b + (1 - dampening) g
//! p -= lr b                            Nesterov: p -= lr (g + momentum b); without momentum: p -= lr g
//! ```

use super::{Step, Trainable, run};
use crate::backend::Kernel;
use crate::error::{Error, expect_shape};
use crate::isa::{Isa, Vector};

/// Hyperparameters of [`Sgd`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SgdOptions {
    /// Learning rate of this step.
    pub learning_rate: f64,
    /// Factor of the old momentum.
    pub momentum: f64,
    /// 1 less the factor of the gradient in the momentum. PyTorch takes 0 in the first step, whatever the others.
    pub dampening: f64,
    /// True if the step looks ahead by the new momentum.
    pub nesterov: bool,
    /// Weight decay, added to the gradient times the parameter.
    pub weight_decay: f64,
}

impl SgdOptions {
    /// No momentum, no weight decay.
    pub fn new(learning_rate: f64) -> Self {
        Self { learning_rate, momentum: 0.0, dampening: 0.0, nesterov: false, weight_decay: 0.0 }
    }
}

/// Definition of [`Sgd`] with momentum for one element: the new p and b.
pub fn sgd([p, b]: [f64; 2], gradient: f64, options: &SgdOptions) -> [f64; 2] {
    let g = gradient + options.weight_decay * p;
    let b = options.momentum * b + (1.0 - options.dampening) * g;
    let direction = if options.nesterov { g + options.momentum * b } else { b };
    [p - options.learning_rate * direction, b]
}

/// One step of gradient descent, in one pass.
///
/// # Errors
/// [`Error::Shape`] if the slices differ in length.
///
/// # Numerics
/// Each operation of the formula rounds once, and so do the factors that the options become.
///
/// ```
/// use tilewright_kernels::Backend;
/// use tilewright_kernels::optimizer::{Sgd, SgdOptions, Trainable};
/// let (mut p, mut b) = ([1.], [2.]);
/// let options = SgdOptions { momentum: 0.5, ..SgdOptions::new(0.25) };
/// Backend::best().run(Sgd { of: Trainable::new(&mut p, &[3.]), momentum: Some(&mut b), options })?;
/// assert_eq!((p, b), ([0.], [4.]));
/// # Ok::<(), tilewright_kernels::Error>(())
/// ```
#[derive(Debug)]
pub struct Sgd<'a> {
    /// Parameters and gradients, \[n\].
    pub of: Trainable<'a>,
    /// b, \[n\], zeros before the first step; `None` for plain descent, which ignores the options' momentum.
    pub momentum: Option<&'a mut [f32]>,
    /// Hyperparameters.
    pub options: SgdOptions,
}

impl Sgd<'_> {
    fn check(&self) -> Result<(), Error> {
        let n = self.of.check()?;
        self.momentum.as_ref().map_or(Ok(()), |b| expect_shape("Sgd.momentum", &[b.len()], &[n]))
    }
}

/// Plain descent has the momentum of its own gradient alone.
fn without_momentum(options: SgdOptions) -> SgdOptions {
    SgdOptions { momentum: 0.0, dampening: 0.0, nesterov: false, ..options }
}

impl Kernel for Sgd<'_> {
    type Output = Result<(), Error>;

    crate::backend::compile_here!();

    fn reference(self) -> Self::Output {
        self.check()?;
        let Self { of, mut momentum, options } = self;
        for (i, p) in of.parameters.iter_mut().enumerate() {
            let gradient = f64::from(of.gradient_scale) * f64::from(of.gradients[i]);
            let old = f64::from(*p);
            match &mut momentum {
                Some(b) => [*p, b[i]] = sgd([old, b[i].into()], gradient, &options).map(|x| x as f32),
                None => *p = sgd([old, 0.0], gradient, &without_momentum(options))[0] as f32,
            }
        }
        of.define_copy();
        Ok(())
    }

    fn eval<I: Isa>(self, isa: I) -> Self::Output {
        self.check()?;
        let Self { of, momentum, options } = self;
        match momentum {
            Some(b) => {
                let step = SgdStep::new(options, of.gradient_scale);
                run(isa, [of.parameters, b], of.gradients, of.bf16, step);
            }
            None => {
                let step = SgdStep::new(without_momentum(options), of.gradient_scale);
                run(isa, [of.parameters], of.gradients, of.bf16, step);
            }
        }
        Ok(())
    }
}

/// Factors of one step.
#[derive(Clone, Copy)]
struct SgdStep {
    scale: f32,
    weight_decay: f32,
    momentum: f32,
    undamped: f32,
    nesterov: bool,
    learning_rate: f32,
}

impl SgdStep {
    fn new(options: SgdOptions, scale: f32) -> Self {
        Self {
            scale,
            weight_decay: options.weight_decay as f32,
            momentum: options.momentum as f32,
            undamped: (1.0 - options.dampening) as f32,
            nesterov: options.nesterov,
            learning_rate: options.learning_rate as f32,
        }
    }

    #[inline(always)]
    fn gradient<I: Isa>(self, isa: I, p: I::V, gradient: I::V) -> I::V {
        let c = |x: f32| I::V::splat(isa, x);
        p.mul_add(c(self.weight_decay), gradient * c(self.scale))
    }
}

impl Step<2> for SgdStep {
    #[inline(always)]
    fn apply<I: Isa>(self, isa: I, [p, b]: [I::V; 2], gradient: I::V) -> [I::V; 2] {
        let c = |x: f32| I::V::splat(isa, x);
        let g = self.gradient(isa, p, gradient);
        let b = c(self.undamped).mul_add(g, b * c(self.momentum));
        let direction = if self.nesterov { c(self.momentum).mul_add(b, g) } else { b };
        [c(-self.learning_rate).mul_add(direction, p), b]
    }
}

impl Step<1> for SgdStep {
    #[inline(always)]
    fn apply<I: Isa>(self, isa: I, [p]: [I::V; 1], gradient: I::V) -> [I::V; 1] {
        [I::V::splat(isa, -self.learning_rate).mul_add(self.gradient(isa, p, gradient), p)]
    }
}
