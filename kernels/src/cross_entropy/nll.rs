//! Negative log-likelihood of given log-probabilities.

use super::{LossSum, Targets, check_losses, with_losses};
use crate::backend::Kernel;
use crate::element::Element;
use crate::error::Error;
use crate::isa::Isa;
use crate::view::View;

/// Sum of -w_y x_y over the rows with a label y: the cross-entropy of log-probabilities x, without smoothing.
///
/// x may have any strides, so that a dimension of classes in the middle of a tensor needs no copy.
///
/// # Errors
/// As [`CrossEntropy`](super::CrossEntropy); [`Error::Invalid`] if the smoothing is not 0.
///
/// # Numerics
/// Losses are exact without weights, and rounded once with them. Their sum is f64, in ascending order.
///
/// ```
/// use tilewright_kernels::{Backend, NegativeLogLikelihood, Targets, View};
/// let x = [-1., -2., -3., -4.];
/// let loss = Backend::best().run(NegativeLogLikelihood {
///     log_probabilities: View::new(&x, [2, 2])?,
///     targets: Targets::new(&[0, 1]),
///     losses: None,
/// })?;
/// assert_eq!(loss.mean(), 2.5);
/// # Ok::<(), tilewright_kernels::Error>(())
/// ```
#[derive(Debug)]
pub struct NegativeLogLikelihood<'a, T = f32> {
    /// x, \[rows, classes\].
    pub log_probabilities: View<'a, 2, T>,
    /// Labels and weights; smoothing must be 0.
    pub targets: Targets<'a>,
    /// Loss of each row, \[rows\], if wanted; 0 without a label.
    pub losses: Option<&'a mut [f32]>,
}

impl<T: Element> NegativeLogLikelihood<'_, T> {
    fn check(&self) -> Result<(), Error> {
        self.targets.check(self.log_probabilities.shape())?;
        if self.targets.smoothing != 0.0 {
            let why = format!("expected 0 for a negative log-likelihood, found {}", self.targets.smoothing);
            return Err(Error::Invalid { what: "Targets.smoothing", why });
        }
        check_losses("NegativeLogLikelihood.losses", self.losses.as_deref(), self.targets.labels.len())
    }
}

impl<T: Element> Kernel for NegativeLogLikelihood<'_, T> {
    type Output = Result<LossSum, Error>;

    crate::backend::compile_here!(T::negative_log_likelihood);

    fn reference(self) -> Self::Output {
        self.gather()
    }

    fn eval<I: Isa>(self, _: I) -> Self::Output {
        self.gather()
    }
}

impl<T: Element> NegativeLogLikelihood<'_, T> {
    /// Both the definition and the fast form: one element of each row is read.
    fn gather(self) -> Result<LossSum, Error> {
        self.check()?;
        let Self { log_probabilities, targets, losses } = self;
        let sum = with_losses(losses, targets.labels.len(), |losses| {
            for (i, loss) in losses.iter_mut().enumerate() {
                if let Some(class) = targets.class(i) {
                    let x = f64::from(log_probabilities.get([i, class]).to_f32());
                    *loss = (-targets.weight(class) * x) as f32;
                }
            }
        });
        Ok(LossSum { sum, weight: targets.total_weight() })
    }
}
