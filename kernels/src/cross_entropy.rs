//! Cross-entropy of logits against class labels, with PyTorch's label smoothing and class weights.
//!
//! ```text
//! l_ij = ln p_ij = (x_ij - m_i) - ln s_i        m_i = max_j x_ij,  s_i = sum_j e^(x_ij - m_i)
//! loss_i = -(1 - e) w_y l_iy - (e / C) sum_j w_j l_ij        y the label of row i, e the smoothing, C the classes
//! ```
//!
//! Logits are \[rows, classes\]. Szegedy et al., "Rethinking the Inception Architecture", 2015, arXiv:1512.00567,
//! section 7, introduce label smoothing; weights follow `torch.nn.CrossEntropyLoss`. The definitions decide the edges:
//!
//! - A row without a label has loss 0 and gradient 0, even if its logits are NaN.
//! - A logit of NaN or +infinity makes the loss and the gradient of its row NaN, and so do logits that are all
//!   -infinity. A logit of -infinity beside finite ones has probability 0.
//!
//! A row takes two passes, m and then s. The loss of a row does not depend on other rows.

mod backward;
mod definition;
mod linear;
mod nll;

pub use backward::CrossEntropyBackward;
pub use definition::{
    cross_entropy, cross_entropy_backward, linear_cross_entropy, linear_cross_entropy_backward,
};
pub use linear::LinearCrossEntropy;
pub use nll::NegativeLogLikelihood;

use crate::backend::Kernel;
use crate::element::Element;
use crate::error::{Error, expect_shape};
use crate::isa::{Isa, Vector};
use crate::lanes::{maximum, sum};
use crate::math;
use crate::rows::{self, RowTask, expect_columns, expect_unit_rows};
use crate::scratch;
use crate::view::View;

/// Label of each row, and the weights of a cross-entropy.
///
/// ```
/// use tilewright_kernels::Targets;
/// let targets = Targets::new(&[2, -100, 0]);
/// assert_eq!(targets.total_weight(), 2.); // -100 stands for no label
/// let weights = Some(&[0.5, 1., 4.][..]);
/// assert_eq!(Targets { weights, ..targets }.total_weight(), 4.5);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Targets<'a> {
    /// \[rows\]: a class, or [`ignored`](Self::ignored).
    pub labels: &'a [i64],
    /// Label of rows without a class: -100 in PyTorch and Hugging Face's data.
    pub ignored: i64,
    /// Share of the target that is spread over all classes, from 0 to 1.
    pub smoothing: f32,
    /// Weight of each class, \[classes\]; ones if `None`.
    pub weights: Option<&'a [f32]>,
}

impl<'a> Targets<'a> {
    /// Labels with -100 ignored, without smoothing and weights.
    pub fn new(labels: &'a [i64]) -> Self {
        Self { labels, ignored: -100, smoothing: 0.0, weights: None }
    }

    /// Sum of the weights of all labels: the number of rows with a label, if classes have no weights. The divisor of
    /// a mean, and known before any logit.
    ///
    /// # Panics
    /// If a label has no weight.
    pub fn total_weight(&self) -> f64 {
        (0..self.labels.len()).filter_map(|i| self.class(i)).map(|class| self.weight(class)).sum()
    }

    /// Returns an error unless labels and weights fit logits of this shape.
    pub(crate) fn check(&self, [rows, classes]: [usize; 2]) -> Result<(), Error> {
        expect_shape("Targets.labels", &[self.labels.len()], &[rows])?;
        expect_columns("Targets.weights", self.weights, classes)?;
        if !(0.0..=1.0).contains(&self.smoothing) {
            let why = format!("expected a number from 0 to 1, found {}", self.smoothing);
            return Err(Error::Invalid { what: "Targets.smoothing", why });
        }
        let outside = |&label: &i64| {
            label != self.ignored && usize::try_from(label).map_or(true, |label| label >= classes)
        };
        match self.labels.iter().position(outside) {
            None => Ok(()),
            Some(row) => {
                let label = self.labels[row];
                let why = format!("label {label} of row {row} is outside of {classes} classes");
                Err(Error::Invalid { what: "Targets.labels", why })
            }
        }
    }

    /// Class of a row; `None` if it has no label.
    #[inline(always)]
    fn class(&self, row: usize) -> Option<usize> {
        let label = self.labels[row];
        (label != self.ignored).then_some(label as usize)
    }

    /// Weight of a class.
    #[inline(always)]
    fn weight(&self, class: usize) -> f64 {
        self.weights.map_or(1.0, |weights| f64::from(weights[class]))
    }

    /// Sum of the weights of all `classes`, if smoothing spreads a target over them.
    fn spread(&self, classes: usize) -> f64 {
        match self.weights {
            _ if self.smoothing == 0.0 => 0.0,
            None => classes as f64,
            Some(weights) => weights.iter().map(|&w| f64::from(w)).sum(),
        }
    }

    /// Factors of -l in the loss of a row with label `class`: of the label's own, and of each class' before its
    /// weight.
    #[inline(always)]
    fn factors(&self, class: usize, classes: usize) -> [f64; 2] {
        let smoothing = f64::from(self.smoothing);
        [(1.0 - smoothing) * self.weight(class), smoothing / classes as f64]
    }

    /// The rows before `mid`, and the rows from `mid` on.
    fn split_at(self, mid: usize) -> (Self, Self) {
        let (low, high) = self.labels.split_at(mid);
        (Self { labels: low, ..self }, Self { labels: high, ..self })
    }
}

/// Sum of the losses of all rows.
///
/// Sums of several calls add up, so that a mean over micro-batches of different sizes is right:
///
/// ```
/// use tilewright_kernels::LossSum;
/// let parts = [LossSum { sum: 6., weight: 3. }, LossSum { sum: 1., weight: 1. }];
/// assert_eq!((parts[0] + parts[1]).mean(), 1.75);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LossSum {
    /// Sum of the losses, in f64 from the first row on.
    pub sum: f64,
    /// Sum of the weights of the terms: their number, if they have no weights.
    pub weight: f64,
}

impl LossSum {
    /// Mean loss; NaN without any term, as in PyTorch.
    pub fn mean(self) -> f64 {
        self.sum / self.weight
    }
}

impl core::ops::Add for LossSum {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { sum: self.sum + other.sum, weight: self.weight + other.weight }
    }
}

/// Cross-entropy of given logits: the sum of all losses and their weights.
///
/// # Errors
/// [`Error::Shape`] if the shapes differ; [`Error::Invalid`] if a row is not contiguous, the smoothing is not in
/// \[0, 1\], or a label is outside of the classes. The error names the label and its row.
///
/// # Numerics
/// With u = 2^-24, the loss of a row without smoothing and weights errs by at most
/// u (C / 16 + 24 + 3 |loss| + |x_y - m|). In bf16 and f16 too: arithmetic is f32. With smoothing and weights each -l
/// of the formula errs like such a loss. The sum adds the losses in f64, in ascending order, after rounding each to
/// f32.
///
/// ```
/// use tilewright_kernels::{Backend, CrossEntropy, Targets, View};
/// let logits = [0., 0., 5., 5., 7., 1.];
/// let mut losses = [0.; 3];
/// let loss = Backend::best().run(CrossEntropy {
///     logits: View::new(&logits, [3, 2])?,
///     targets: Targets::new(&[1, 0, -100]),
///     losses: Some(&mut losses),
/// })?;
/// assert_eq!((losses[2], loss.weight), (0., 2.));
/// assert!((loss.mean() - 2f64.ln()).abs() < 1e-6);
/// # Ok::<(), tilewright_kernels::Error>(())
/// ```
#[derive(Debug)]
pub struct CrossEntropy<'a, T = f32> {
    /// x, \[rows, classes\].
    pub logits: View<'a, 2, T>,
    /// Labels, smoothing and weights.
    pub targets: Targets<'a>,
    /// Loss of each row, \[rows\], if wanted; 0 without a label.
    pub losses: Option<&'a mut [f32]>,
}

impl<T> CrossEntropy<'_, T> {
    fn check(&self) -> Result<(), Error> {
        let logits = &self.logits;
        expect_unit_rows("CrossEntropy.logits", logits.has_unit_rows(), logits.strides())?;
        self.targets.check(logits.shape())?;
        check_losses("CrossEntropy.losses", self.losses.as_deref(), logits.shape()[0])
    }
}

/// Returns an error unless `losses`, if given, has an element for each row.
fn check_losses(what: &'static str, losses: Option<&[f32]>, rows: usize) -> Result<(), Error> {
    losses.map_or(Ok(()), |losses| expect_shape(what, &[losses.len()], &[rows]))
}

impl<T: Element> Kernel for CrossEntropy<'_, T> {
    type Output = Result<LossSum, Error>;

    crate::backend::compile_here!(T::cross_entropy);

    fn reference(self) -> Self::Output {
        self.check()?;
        let logits: Vec<f64> = self.logits.rows().flatten().map(|x| f64::from(x.to_f32())).collect();
        let defined = cross_entropy(&logits, &self.targets);
        Ok(LossSum { sum: store(self.losses, &defined), weight: self.targets.total_weight() })
    }

    fn eval<I: Isa>(self, isa: I) -> Self::Output {
        self.check()?;
        let Self { logits, targets, losses } = self;
        let spread = targets.spread(logits.shape()[1]);
        let sum = with_losses(losses, logits.shape()[0], |losses| {
            rows::run(isa, RowLosses { logits, targets, spread, losses });
        });
        Ok(LossSum { sum, weight: targets.total_weight() })
    }
}

/// Rounds the defined losses to `losses`, if wanted; returns their sum.
fn store(losses: Option<&mut [f32]>, defined: &[f64]) -> f64 {
    if let Some(losses) = losses {
        losses.iter_mut().zip(defined).for_each(|(loss, &defined)| *loss = defined as f32);
    }
    defined.iter().sum()
}

/// Calls `fill` with the losses of all rows, zeros at first: the caller's if it wants them. Returns their sum.
fn with_losses(losses: Option<&mut [f32]>, rows: usize, fill: impl FnOnce(&mut [f32])) -> f64 {
    let filled = |losses: &mut [f32]| {
        losses.fill(0.0);
        fill(losses);
        losses.iter().map(|&loss| f64::from(loss)).sum()
    };
    match losses {
        Some(losses) => filled(losses),
        None => scratch::with(rows, filled),
    }
}

/// Losses of a range of rows.
struct RowLosses<'a, T> {
    logits: View<'a, 2, T>,
    targets: Targets<'a>,
    spread: f64,
    losses: &'a mut [f32],
}

impl<T: Element> RowTask for RowLosses<'_, T> {
    fn shape(&self) -> [usize; 2] {
        self.logits.shape()
    }

    fn split_at(self, mid: usize) -> (Self, Self) {
        let Self { logits, targets, spread, losses } = self;
        let ((low, high), (low_losses, high_losses)) = (targets.split_at(mid), losses.split_at_mut(mid));
        let rows = logits.shape()[0];
        (
            Self { logits: logits.slice(0, 0..mid), targets: low, spread, losses: low_losses },
            Self { logits: logits.slice(0, mid..rows), targets: high, spread, losses: high_losses },
        )
    }

    #[inline(always)]
    fn run<I: Isa>(self, isa: I, _: &mut [f32]) {
        let Self { logits, targets, spread, losses } = self;
        for (i, (x, loss)) in logits.rows().zip(losses).enumerate() {
            if let Some(class) = targets.class(i) {
                *loss = Normalizer::of(isa, x).loss(isa, x, class, &targets, spread);
            }
        }
    }
}

/// m and s of a row.
#[derive(Clone, Copy)]
struct Normalizer {
    max: f32,
    sum: f32,
}

impl Normalizer {
    #[inline(always)]
    fn of<I: Isa, T: Element>(isa: I, x: &[T]) -> Self {
        let max = maximum(isa, x);
        let m = I::V::splat(isa, max);
        let sum = sum(
            isa,
            x,
            f32::NEG_INFINITY,
            #[inline(always)]
            |x| math::exp_down(isa, x - m),
        );
        Self { max, sum }
    }

    /// The loss of the row `x` with label `class`.
    #[inline(always)]
    fn loss<I: Isa, T: Element>(
        self,
        isa: I,
        x: &[T],
        class: usize,
        targets: &Targets<'_>,
        spread: f64,
    ) -> f32 {
        let log = f64::from(first(math::log(isa, I::V::splat(isa, self.sum))));
        let below = |x: T| f64::from(self.max) - f64::from(x.to_f32());
        let [own, each] = targets.factors(class, x.len());
        let loss = own * (log + below(x[class]));
        if each == 0.0 {
            return loss as f32;
        }
        // sum_j w_j (m - x_j)
        let distances = match targets.weights {
            None => {
                let m = I::V::splat(isa, self.max);
                f64::from(sum(
                    isa,
                    x,
                    self.max,
                    #[inline(always)]
                    |x| m - x,
                ))
            }
            Some(weights) => x.iter().zip(weights).map(|(&x, &w)| f64::from(w) * below(x)).sum(),
        };
        (loss + each * (spread * log + distances)) as f32
    }
}

/// The first lane.
#[inline(always)]
fn first<I: Isa, V: Vector<I>>(v: V) -> f32 {
    let mut lanes = [0.0];
    v.store_partial(&mut lanes);
    lanes[0]
}
