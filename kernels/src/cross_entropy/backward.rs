//! Gradient of the cross-entropy by its logits, together with the loss.
//!
//! ```text
//! dx_ij = scale (p_ij sum_k t_k - t_j)        t_j = (1 - e) w_y [j = y] + (e / C) w_j
//! ```
//!
//! The third pass over a row computes its exponentials again: that is cheaper than to store and load them, and each
//! element is rounded once to its type.

use super::{
    LossSum, Normalizer, Targets, check_losses, cross_entropy, cross_entropy_backward, first, store,
    with_losses,
};
use crate::backend::Kernel;
use crate::element::Element;
use crate::error::Error;
use crate::isa::{Isa, Vector};
use crate::lanes::{NONE, RowSlices, map};
use crate::math;
use crate::rows::{self, RowTask, Rows};

/// Gradient of [`CrossEntropy`](super::CrossEntropy) by the logits, in place or not, and the loss itself.
///
/// The rows hold logits, and receive scale * (softmax - target); rows without a label receive 0. For the gradient of
/// a mean, `scale` is 1 / [`Targets::total_weight`]. The loss costs no further pass: training needs no
/// [`CrossEntropy`](super::CrossEntropy) beside this kernel.
///
/// # Errors
/// As [`CrossEntropy`](super::CrossEntropy).
///
/// # Numerics
/// Let u = 2^-24, and t = sum t_k and t_j as in the formula of the gradient, times scale. An element errs by at most
/// u ((C / 16 + 28 + |x_j - m|) p_j t + 4 t_j) + 2^-147 (1 + t). In bf16 and f16 it is then rounded once more. The
/// losses are those of [`CrossEntropy`](super::CrossEntropy), bit by bit.
///
/// ```
/// use tilewright_kernels::{Backend, CrossEntropyBackward, Rows, Targets, ViewMut};
/// let mut x = [0., 0., f32::NAN, f32::NAN];
/// let loss = Backend::best().run(CrossEntropyBackward {
///     rows: Rows::InPlace(ViewMut::new(&mut x, [2, 2])?),
///     targets: Targets::new(&[1, -100]),
///     scale: 1.,
///     losses: None,
/// })?;
/// assert_eq!((x, loss.weight), ([0.5, -0.5, 0., 0.], 1.));
/// # Ok::<(), tilewright_kernels::Error>(())
/// ```
#[derive(Debug)]
pub struct CrossEntropyBackward<'a, T = f32> {
    /// Logits, and their gradient, \[rows, classes\].
    pub rows: Rows<'a, T>,
    /// Labels, smoothing and weights.
    pub targets: Targets<'a>,
    /// Gradient of the result by each loss.
    pub scale: f32,
    /// Loss of each row, \[rows\], if wanted; 0 without a label.
    pub losses: Option<&'a mut [f32]>,
}

impl<T> CrossEntropyBackward<'_, T> {
    fn check(&self) -> Result<[usize; 2], Error> {
        let shape = self.rows.check("CrossEntropyBackward.rows")?;
        self.targets.check(shape)?;
        check_losses("CrossEntropyBackward.losses", self.losses.as_deref(), shape[0])?;
        Ok(shape)
    }
}

impl<T: Element> Kernel for CrossEntropyBackward<'_, T> {
    type Output = Result<LossSum, Error>;

    crate::backend::compile_here!(T::cross_entropy_backward);

    fn reference(self) -> Self::Output {
        let [rows, classes] = self.check()?;
        let Self { rows: slices, targets, scale, losses } = self;
        let mut slices: Vec<_> = slices.into_iter().collect();
        let logits: Vec<f64> =
            slices.iter().flat_map(|row| row.input().iter().map(|x| f64::from(x.to_f32()))).collect();
        let defined = cross_entropy(&logits, &targets);
        let dlogits = cross_entropy_backward(&logits, &targets, &vec![f64::from(scale); rows]);
        for (row, dlogits) in slices.iter_mut().zip(dlogits.chunks(classes.max(1))) {
            row.output().iter_mut().zip(dlogits).for_each(|(dx, &defined)| *dx = T::from_f32(defined as f32));
        }
        Ok(LossSum { sum: store(losses, &defined), weight: targets.total_weight() })
    }

    fn eval<I: Isa>(self, isa: I) -> Self::Output {
        let [rows, classes] = self.check()?;
        let Self { rows: slices, targets, scale, losses } = self;
        let spread = targets.spread(classes);
        let sum = with_losses(losses, rows, |losses| {
            rows::run(isa, RowGradients { rows: slices, targets, spread, scale: f64::from(scale), losses });
        });
        Ok(LossSum { sum, weight: targets.total_weight() })
    }
}

/// Gradients and losses of a range of rows.
struct RowGradients<'a, T> {
    rows: Rows<'a, T>,
    targets: Targets<'a>,
    spread: f64,
    scale: f64,
    losses: &'a mut [f32],
}

impl<T: Element> RowTask for RowGradients<'_, T> {
    fn shape(&self) -> [usize; 2] {
        self.rows.shape()
    }

    fn split_at(self, mid: usize) -> (Self, Self) {
        let Self { rows, targets, spread, scale, losses } = self;
        let ((low, high), (low_targets, high_targets)) = (rows.split_at(mid), targets.split_at(mid));
        let (low_losses, high_losses) = losses.split_at_mut(mid);
        (
            Self { rows: low, targets: low_targets, spread, scale, losses: low_losses },
            Self { rows: high, targets: high_targets, spread, scale, losses: high_losses },
        )
    }

    #[inline(always)]
    fn run<I: Isa>(self, isa: I, _: &mut [f32]) {
        let Self { rows, targets, spread, scale, losses } = self;
        for (i, (mut row, loss)) in rows.into_iter().zip(losses).enumerate() {
            let Some(class) = targets.class(i) else {
                row.output().fill(T::default());
                continue;
            };
            let normalizer = Normalizer::of(isa, row.input());
            *loss = normalizer.loss(isa, row.input(), class, &targets, spread);
            write(isa, &mut row, class, normalizer, &targets, spread, scale);
        }
    }
}

/// Writes the gradient of a row with label `class`.
#[inline(always)]
fn write<I: Isa, T: Element>(
    isa: I,
    row: &mut RowSlices<'_, T>,
    class: usize,
    normalizer: Normalizer,
    targets: &Targets<'_>,
    spread: f64,
    scale: f64,
) {
    let [own, each] = targets.factors(class, row.input().len());
    // scale sum_k t_k / s
    let factor = I::V::splat(isa, (scale * (own + each * spread) / f64::from(normalizer.sum)) as f32);
    let m = I::V::splat(isa, normalizer.max);
    // The pass may overwrite the logit of the label: take it before.
    let logit = I::V::splat(isa, row.input()[class].to_f32());
    let target = I::V::splat(isa, (scale * (own + each * targets.weight(class))) as f32);
    let at_label = first(math::exp_down(isa, logit - m).mul_add(factor, -target));
    let each = I::V::splat(isa, (scale * each) as f32);
    match targets.weights {
        Some(weights) if targets.smoothing != 0.0 => map(
            isa,
            [row],
            [weights],
            0.0,
            #[inline(always)]
            |_, [x], [w]| [math::exp_down(isa, x - m).mul_add(factor, -(each * w))],
        ),
        _ => map(
            isa,
            [row],
            NONE,
            0.0,
            #[inline(always)]
            |_, [x], []| [math::exp_down(isa, x - m).mul_add(factor, -each)],
        ),
    }
    row.output()[class] = T::from_f32(at_label);
}
