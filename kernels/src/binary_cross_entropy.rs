//! Binary cross-entropy of logits, and its gradient.
//!
//! ```text
//! loss = (1 - z) softplus(x) + w z softplus(-x)        softplus(x) = max(x, 0) + ln(1 + e^-|x|)
//! dx   = scale ((1 - z) sigma(x) - w z sigma(-x))      sigma(x) = 1 / (1 + e^-x)
//! ```
//!
//! x and the targets z are \[rows, n\]; w, the weight of positive targets, is \[n\]. This is
//! `torch.nn.BCEWithLogitsLoss` with `pos_weight`, in the form whose terms do not cancel for targets of 0 and 1: a
//! loss or a gradient far below 1 keeps its digits. NaN propagates; an infinite logit makes NaN of 0 * infinity, or
//! an infinity.

use crate::backend::Kernel;
use crate::cross_entropy::LossSum;
use crate::element::Element;
use crate::error::{Error, expect_shape};
use crate::isa::{Isa, Vector};
use crate::lanes::{RowSlices, map_with, sum};
use crate::math;
use crate::rows::{self, RowTask, Rows, expect_columns, expect_unit_rows};
use crate::scratch;
use crate::view::View;

/// Binary cross-entropy of all elements: the sum of the losses, and their number as the weight.
///
/// # Errors
/// [`Error::Shape`] if the shapes differ; [`Error::Invalid`] if a row is not contiguous.
///
/// # Numerics
/// With u = 2^-24, the sum of a row errs by at most u (n / 16 + 20) of the sum of the magnitudes of both terms, and
/// 2^-147 for each of them. Sums of rows are added in f64, from the first row on. In bf16 and f16 too: arithmetic is
/// f32.
///
/// ```
/// use tilewright_kernels::{Backend, BceWithLogits, View};
/// let (x, z) = ([0., 0., -200.], [0., 1., 0.]);
/// let loss = Backend::best().run(BceWithLogits {
///     logits: View::new(&x, [1, 3])?,
///     targets: View::new(&z, [1, 3])?,
///     positive_weight: None,
/// })?;
/// assert!((loss.sum - 2. * 2f64.ln()).abs() < 1e-6);
/// assert_eq!(loss.weight, 3.);
/// # Ok::<(), tilewright_kernels::Error>(())
/// ```
#[derive(Debug)]
pub struct BceWithLogits<'a, T = f32> {
    /// x, \[rows, n\].
    pub logits: View<'a, 2, T>,
    /// z, \[rows, n\]: probabilities of the positive class.
    pub targets: View<'a, 2, T>,
    /// w, \[n\]; ones if `None`.
    pub positive_weight: Option<&'a [f32]>,
}

/// Gradient of [`BceWithLogits`] by the logits, in place or not.
///
/// For the gradient of a mean, `scale` is 1 over the number of elements.
///
/// # Errors
/// As [`BceWithLogits`].
///
/// # Numerics
/// An element errs by at most 10 u (|1 - z| sigma(x) + |w z| sigma(-x)) |scale|, u = 2^-24, and 2^-147 for each
/// factor of the sum. In bf16 and f16 it is then rounded once more.
///
/// ```
/// use tilewright_kernels::{Backend, BceWithLogitsBackward, Rows, View, ViewMut};
/// let (mut x, z) = ([0., 0.], [0., 1.]);
/// Backend::best().run(BceWithLogitsBackward {
///     rows: Rows::InPlace(ViewMut::new(&mut x, [1, 2])?),
///     targets: View::new(&z, [1, 2])?,
///     positive_weight: None,
///     scale: 1.,
/// })?;
/// assert_eq!(x, [0.5, -0.5]);
/// # Ok::<(), tilewright_kernels::Error>(())
/// ```
#[derive(Debug)]
pub struct BceWithLogitsBackward<'a, T = f32> {
    /// Logits, and their gradient, \[rows, n\].
    pub rows: Rows<'a, T>,
    /// z, \[rows, n\]: probabilities of the positive class.
    pub targets: View<'a, 2, T>,
    /// w, \[n\]; ones if `None`.
    pub positive_weight: Option<&'a [f32]>,
    /// Gradient of the result by each loss.
    pub scale: f32,
}

/// Definition of one loss.
pub fn bce_with_logits(x: f64, z: f64, positive_weight: f64) -> f64 {
    let softplus = |x: f64| x.max(0.0) + (-x.abs()).exp().ln_1p();
    (1.0 - z) * softplus(x) + positive_weight * z * softplus(-x)
}

/// Gradient of [`bce_with_logits`] by x.
pub fn bce_with_logits_backward(x: f64, z: f64, positive_weight: f64) -> f64 {
    let sigma = |x: f64| (1.0 + (-x).exp()).recip();
    (1.0 - z) * sigma(x) - positive_weight * z * sigma(-x)
}

/// Returns an error unless targets and weights fit logits of this shape.
fn check<T>(
    [what, what_weight]: [&'static str; 2],
    targets: &View<'_, 2, T>,
    weight: Option<&[f32]>,
    shape: [usize; 2],
) -> Result<(), Error> {
    expect_unit_rows(what, targets.has_unit_rows(), targets.strides())?;
    expect_shape(what, &targets.shape(), &shape)?;
    expect_columns(what_weight, weight, shape[1])
}

impl<T> BceWithLogits<'_, T> {
    fn check(&self) -> Result<[usize; 2], Error> {
        let Self { logits, targets, positive_weight } = self;
        expect_unit_rows("BceWithLogits.logits", logits.has_unit_rows(), logits.strides())?;
        let names = ["BceWithLogits.targets", "BceWithLogits.positive_weight"];
        check(names, targets, *positive_weight, logits.shape())?;
        Ok(logits.shape())
    }
}

impl<T: Element> Kernel for BceWithLogits<'_, T> {
    type Output = Result<LossSum, Error>;

    crate::backend::compile_here!(T::bce_with_logits);

    fn reference(self) -> Self::Output {
        let [rows, n] = self.check()?;
        let mut sum = 0.0;
        for (x, z) in self.logits.rows().zip(self.targets.rows()) {
            for (j, (x, z)) in x.iter().zip(z).enumerate() {
                let weight = self.positive_weight.map_or(1.0, |w| f64::from(w[j]));
                sum += bce_with_logits(x.to_f32().into(), z.to_f32().into(), weight);
            }
        }
        Ok(LossSum { sum, weight: (rows * n) as f64 })
    }

    fn eval<I: Isa>(self, isa: I) -> Self::Output {
        let [rows, n] = self.check()?;
        let Self { logits, targets, positive_weight } = self;
        let sum = scratch::with(rows + n, |memory| {
            let (sums, ones) = memory.split_at_mut(rows);
            sums.fill(0.0);
            let weight = positive_weight.unwrap_or_else(|| {
                ones.fill(1.0);
                ones
            });
            rows::run(isa, RowSums { logits, targets, weight, sums });
            sums.iter().map(|&sum| f64::from(sum)).sum()
        });
        Ok(LossSum { sum, weight: (rows * n) as f64 })
    }
}

/// Sums of the losses of a range of rows.
struct RowSums<'a, T> {
    logits: View<'a, 2, T>,
    targets: View<'a, 2, T>,
    weight: &'a [f32],
    sums: &'a mut [f32],
}

impl<T: Element> RowTask for RowSums<'_, T> {
    fn shape(&self) -> [usize; 2] {
        self.logits.shape()
    }

    fn split_at(self, mid: usize) -> (Self, Self) {
        let Self { logits, targets, weight, sums } = self;
        let (rows, (low, high)) = (logits.shape()[0], sums.split_at_mut(mid));
        (
            Self { logits: logits.slice(0, 0..mid), targets: targets.slice(0, 0..mid), weight, sums: low },
            Self {
                logits: logits.slice(0, mid..rows),
                targets: targets.slice(0, mid..rows),
                weight,
                sums: high,
            },
        )
    }

    /// Losses of one row.
    fn memory(&self) -> usize {
        self.logits.shape()[1]
    }

    #[inline(always)]
    fn run<I: Isa>(self, isa: I, losses: &mut [f32]) {
        let Self { logits, targets, weight, sums } = self;
        let (zero, one) = (I::V::splat(isa, 0.0), I::V::splat(isa, 1.0));
        for ((x, z), row_sum) in logits.rows().zip(targets.rows()).zip(sums) {
            map_with(
                isa,
                [&mut RowSlices::InPlace(losses)],
                [x, z],
                [weight],
                0.0,
                #[inline(always)]
                |_, [_], [x, z], [w]| {
                    let tail = log_1p(isa, math::exp_down(isa, -x.abs()));
                    // As second operands of `max`, NaN pass.
                    let (up, down) = (zero.max(x) + tail, zero.max(-x) + tail);
                    [(one - z).mul_add(up, w * z * down)]
                },
            );
            *row_sum = sum(
                isa,
                losses,
                0.0,
                #[inline(always)]
                |loss| loss,
            );
        }
    }
}

/// ln(1 + e) for e in \[0, 1\], to 5 u of itself.
///
/// The quotient ln(s) / (s - 1) of the rounded sum s changes so slowly that the rounding of s cancels: W. Kahan; N.
/// Higham, *Accuracy and Stability of Numerical Algorithms*, 2nd ed., section 1.14.1.
#[inline(always)]
fn log_1p<I: Isa>(isa: I, e: I::V) -> I::V {
    let one = I::V::splat(isa, 1.0);
    let s = one + e;
    e.select(s.eq(one), math::log(isa, s) * (e / (s - one)))
}

impl<T> BceWithLogitsBackward<'_, T> {
    fn check(&self) -> Result<[usize; 2], Error> {
        let Self { rows, targets, positive_weight, .. } = self;
        let shape = rows.check("BceWithLogitsBackward.rows")?;
        let names = ["BceWithLogitsBackward.targets", "BceWithLogitsBackward.positive_weight"];
        check(names, targets, *positive_weight, shape)?;
        Ok(shape)
    }
}

impl<T: Element> Kernel for BceWithLogitsBackward<'_, T> {
    type Output = Result<(), Error>;

    crate::backend::compile_here!(T::bce_with_logits_backward);

    fn reference(self) -> Self::Output {
        self.check()?;
        for (mut row, z) in self.rows.into_iter().zip(self.targets.rows()) {
            for (j, z) in z.iter().enumerate() {
                let weight = self.positive_weight.map_or(1.0, |w| f64::from(w[j]));
                let x = f64::from(row.input()[j].to_f32());
                let dx = f64::from(self.scale) * bce_with_logits_backward(x, z.to_f32().into(), weight);
                row.output()[j] = T::from_f32(dx as f32);
            }
        }
        Ok(())
    }

    fn eval<I: Isa>(self, isa: I) -> Self::Output {
        let [_, n] = self.check()?;
        let Self { rows, targets, positive_weight, scale } = self;
        scratch::with(n, |ones| {
            let weight = positive_weight.unwrap_or_else(|| {
                ones.fill(1.0);
                ones
            });
            rows::run(isa, RowGradients { rows, targets, weight, scale });
        });
        Ok(())
    }
}

/// Gradients of a range of rows.
struct RowGradients<'a, T> {
    rows: Rows<'a, T>,
    targets: View<'a, 2, T>,
    weight: &'a [f32],
    scale: f32,
}

impl<T: Element> RowTask for RowGradients<'_, T> {
    fn shape(&self) -> [usize; 2] {
        self.rows.shape()
    }

    fn split_at(self, mid: usize) -> (Self, Self) {
        let Self { rows, targets, weight, scale } = self;
        let (count, (low, high)) = (targets.shape()[0], rows.split_at(mid));
        (
            Self { rows: low, targets: targets.slice(0, 0..mid), weight, scale },
            Self { rows: high, targets: targets.slice(0, mid..count), weight, scale },
        )
    }

    #[inline(always)]
    fn run<I: Isa>(self, isa: I, _: &mut [f32]) {
        let Self { rows, targets, weight, scale } = self;
        let (zero, one, scale) = (I::V::splat(isa, 0.0), I::V::splat(isa, 1.0), I::V::splat(isa, scale));
        for (mut row, z) in rows.into_iter().zip(targets.rows()) {
            map_with(
                isa,
                [&mut row],
                [z],
                [weight],
                0.0,
                #[inline(always)]
                |_, [x], [z], [w]| {
                    let e = math::exp_down(isa, -x.abs());
                    // sigma(|x|) and sigma(-|x|).
                    let near = one / (one + e);
                    let far = e * near;
                    let positive = zero.lt(x);
                    let (up, down) = (near.select(positive, far), far.select(positive, near));
                    [scale * (one - z).mul_add(up, -(w * z * down))]
                },
            );
        }
    }
}
