//! Adafactor (Shazeer and Stern 2018, arXiv:1804.04235) without first moments, as `transformers` computes it for T5.
//!
//! ```text
//! b = 1 - step^decay_rate        s = g^2 + e1        g = gradient_scale * gradient
//! matrix  R_i = b R_i + (1 - b) mean_j s_ij          C_j = b C_j + (1 - b) mean_i s_ij
//!         u_ij = g_ij / sqrt(R_i / mean(R)) / sqrt(C_j)
//! vector  v = b v + (1 - b) s                        u = g / sqrt(v)
//! p = (1 - lr decay) p - lr u / max(1, rms(u) / clip)
//! lr: given, or min(1e-2, 1 / sqrt(step)); times max(e2, rms(p)) if it scales with the parameter
//! ```
//!
//! R and C of a matrix \[rows, columns\] take rows + columns numbers in place of rows * columns. All means and norms
//! are sums over fixed chunks, in ascending order.

mod factored;
mod full;

use super::{GlobalNorm, Trainable};
use crate::backend::Kernel;
use crate::error::{Error, expect_shape};
use crate::isa::Isa;

/// Hyperparameters of [`Adafactor`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdafactorOptions {
    /// Number of this step, from 1 up.
    pub step: u64,
    /// Learning rate of this step; `None` for the relative step min(1e-2, 1 / sqrt(step)).
    pub learning_rate: Option<f64>,
    /// True if the learning rate is relative to the root mean square of the parameter.
    pub scale_parameter: bool,
    /// e1, added to squared gradients, and e2, the least scale of a parameter.
    pub epsilons: [f64; 2],
    /// Root mean square beyond which an update is scaled down.
    pub clip_threshold: f64,
    /// Exponent of the step in the decay of second moments.
    pub decay_rate: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
}

impl AdafactorOptions {
    /// The defaults of `transformers`: relative steps that scale with the parameter, no weight decay.
    pub fn new(step: u64) -> Self {
        Self {
            step,
            learning_rate: None,
            scale_parameter: true,
            epsilons: [1e-30, 1e-3],
            clip_threshold: 1.0,
            decay_rate: -0.8,
            weight_decay: 0.0,
        }
    }

    /// Factors of the old second moment and of the new squares.
    fn decays(&self) -> [f64; 2] {
        let new = (self.step.max(1) as f64).powf(self.decay_rate);
        [1.0 - new, new]
    }

    /// The learning rate for a parameter of this root mean square.
    fn rate(&self, rms: f64) -> f64 {
        let rate = self.learning_rate.unwrap_or_else(|| (self.step.max(1) as f64).sqrt().recip().min(1e-2));
        if self.scale_parameter { rate * rms.max(self.epsilons[1]) } else { rate }
    }

    /// Factors of the old parameter and of u, for root mean squares of both.
    fn factors(&self, [p, u]: [f64; 2]) -> [f64; 2] {
        let rate = self.rate(p);
        let clip = u / self.clip_threshold;
        // `max` would turn NaN into 1.
        [1.0 - rate * self.weight_decay, -rate / if clip < 1.0 { 1.0 } else { clip }]
    }
}

/// Second moments of one parameter; zeros before the first step.
#[derive(Debug)]
pub enum SecondMoment<'a> {
    /// R \[rows\] and C \[columns\] of a matrix.
    Factored {
        /// R, \[rows\].
        rows: &'a mut [f32],
        /// C, \[columns\].
        columns: &'a mut [f32],
    },
    /// v of any parameter, \[n\].
    Full(&'a mut [f32]),
}

/// One step of Adafactor for one parameter.
///
/// # Errors
/// [`Error::Shape`] if the slices differ in length, or a matrix is not rows times columns.
///
/// # Numerics
/// Each operation of the formula rounds once; means and norms are sums in f32 over fixed chunks, added in ascending
/// order, with the same bits on any number of threads. Gradients beyond 1e18 make moments infinite, as in PyTorch.
///
/// ```
/// use tilewright_kernels::Backend;
/// use tilewright_kernels::optimizer::{Adafactor, AdafactorOptions, SecondMoment, Trainable};
/// let (mut p, mut v) = ([1., -1.], [0.; 2]);
/// let options = AdafactorOptions { learning_rate: Some(0.5), ..AdafactorOptions::new(1) };
/// let of = Trainable::new(&mut p, &[8., 0.5]);
/// Backend::best().run(Adafactor { of, second_moment: SecondMoment::Full(&mut v), options })?;
/// assert!((p[0] - 0.5).abs() < 1e-6 && (p[1] + 1.5).abs() < 1e-6);
/// # Ok::<(), tilewright_kernels::Error>(())
/// ```
#[derive(Debug)]
pub struct Adafactor<'a> {
    /// One parameter and its gradient, \[n\], a matrix in row-major order.
    pub of: Trainable<'a>,
    /// Second moments.
    pub second_moment: SecondMoment<'a>,
    /// Hyperparameters.
    pub options: AdafactorOptions,
}

impl Adafactor<'_> {
    fn check(&self) -> Result<(), Error> {
        let n = self.of.check()?;
        match &self.second_moment {
            SecondMoment::Full(v) => expect_shape("SecondMoment.Full", &[v.len()], &[n]),
            SecondMoment::Factored { rows, columns } => {
                expect_shape("Trainable.parameters", &[n], &[rows.len().saturating_mul(columns.len())])
            }
        }
    }
}

/// Definition of [`Adafactor`]: the new p and moments, from the old. Moments are R and C of a matrix, or v alone.
pub fn adafactor(
    p: &[f64],
    gradient: &[f64],
    moments: &[Vec<f64>],
    options: &AdafactorOptions,
) -> (Vec<f64>, Vec<Vec<f64>>) {
    let [old, new] = options.decays();
    let squares: Vec<f64> = gradient.iter().map(|g| g * g + options.epsilons[0]).collect();
    let mean = |x: &mut dyn Iterator<Item = f64>, n: usize| x.sum::<f64>() / n as f64;
    let (moments, update): (Vec<Vec<f64>>, Vec<f64>) = match moments {
        [rows, columns] => {
            let (r, c) = (rows.len(), columns.len());
            let row =
                |(i, m): (usize, &f64)| old * m + new * mean(&mut squares[i * c..][..c].iter().copied(), c);
            let column =
                |(j, m): (usize, &f64)| old * m + new * mean(&mut squares[j..].iter().step_by(c).copied(), r);
            let rows: Vec<f64> = rows.iter().enumerate().map(row).collect();
            let columns: Vec<f64> = columns.iter().enumerate().map(column).collect();
            let mean = mean(&mut rows.iter().copied(), r);
            let u = |(k, g): (usize, &f64)| g / (rows[k / c] / mean).sqrt() / columns[k % c].sqrt();
            let update = gradient.iter().enumerate().map(u).collect();
            (vec![rows, columns], update)
        }
        _ => {
            let v: Vec<f64> = moments[0].iter().zip(&squares).map(|(v, s)| old * v + new * s).collect();
            let update = gradient.iter().zip(&v).map(|(g, v)| g / v.sqrt()).collect();
            (vec![v], update)
        }
    };
    let rms = |x: &[f64]| mean(&mut x.iter().map(|x| x * x), x.len()).sqrt();
    let [keep, factor] = options.factors([rms(p), rms(&update)]);
    (p.iter().zip(update).map(|(p, u)| keep * p + factor * u).collect(), moments)
}

impl Kernel for Adafactor<'_> {
    type Output = Result<(), Error>;

    crate::backend::compile_here!();

    fn reference(self) -> Self::Output {
        self.check()?;
        let Self { of, second_moment, options } = self;
        let moments: Vec<&mut [f32]> = match second_moment {
            SecondMoment::Factored { rows, columns } => vec![rows, columns],
            SecondMoment::Full(v) => vec![v],
        };
        let wide = |x: &[f32]| -> Vec<f64> { x.iter().map(|&x| f64::from(x)).collect() };
        let gradient: Vec<f64> =
            of.gradients.iter().map(|&g| f64::from(of.gradient_scale) * f64::from(g)).collect();
        let old: Vec<Vec<f64>> = moments.iter().map(|m| wide(m)).collect();
        let (p, new) = adafactor(&wide(of.parameters), &gradient, &old, &options);
        let round = |to: &mut [f32], new: Vec<f64>| {
            to.iter_mut().zip(new).for_each(|(x, new)| *x = new as f32);
        };
        moments.into_iter().zip(new).for_each(|(moment, new)| round(moment, new));
        round(of.parameters, p);
        of.define_copy();
        Ok(())
    }

    fn eval<I: Isa>(self, isa: I) -> Self::Output {
        self.check()?;
        let Self { of, second_moment, options } = self;
        if of.parameters.is_empty() {
            return Ok(());
        }
        // The root mean square of p is read only if the rate scales with it.
        let rms = match options.scale_parameter {
            true => GlobalNorm { x: of.parameters }.eval(isa) / (of.parameters.len() as f64).sqrt(),
            false => 0.0,
        };
        match second_moment {
            SecondMoment::Factored { rows, columns } => {
                factored::step(isa, of, [rows, columns], &options, rms)
            }
            SecondMoment::Full(v) => full::step(isa, of, v, &options, rms),
        }
        Ok(())
    }
}
