//! Gradient of root-mean-square normalisation.
//!
//! ```text
//! z = x r,  g = dy weight
//! dx = r (g - z mean(g z)) + dresidual,  dweight += sum(dy z)
//! ```
//!
//! The algorithm is in `norm_backward.rs`.

use crate::backend::Kernel;
use crate::element::{Element, to_f64};
use crate::error::Error;
use crate::isa::Isa;
use crate::norm_backward::{Names, NormRows};
use crate::rows::{Rows, expect_columns};
use crate::view::View;

/// Gradient of [`RmsNorm`](crate::RmsNorm): dx, and a sum over rows added to dweight.
///
/// x are the rows that were normalised: with a residual, the sums that the forward stored there. The gradient of x is
/// then that of both terms of the sum; `dresidual` adds the gradient that reaches the residual from elsewhere.
///
/// # Errors
/// [`Error::Shape`] if the shapes differ; [`Error::Invalid`] if a row is not contiguous.
///
/// # Numerics
/// Let u = 2^-24 and z = x r. Then dx errs by at most
///
/// ```text
/// u (n / 16 + 20) r (|g| + |z| mean |g z|) + u |dx|,  g = dy weight
/// ```
///
/// and is rounded once more in bf16 and f16. dweight is a sum in f32 whose order is fixed: chunks of 32 rows, then the
/// chunks. So its bits do not depend on threads. A row that holds NaN or an infinity in x makes its dx NaN, and NaN makes
/// dweight NaN.
///
/// ```
/// use tilewright_kernels::{Backend, RmsNormBackward, Rows, View, ViewMut};
/// let (x, dy, mut dx, mut dweight) = ([1., -1.], [3., 1.], [0.; 2], [0.; 2]);
/// let rows = Rows::Into(View::new(&dy, [1, 2])?, ViewMut::new(&mut dx, [1, 2])?);
/// Backend::best().run(RmsNormBackward {
///     dweight: Some(&mut dweight),
///     ..RmsNormBackward::new(rows, View::new(&x, [1, 2])?, &[1.])
/// })?;
/// assert_eq!((dx, dweight), ([2., 2.], [3., -1.]));
/// # Ok::<(), tilewright_kernels::Error>(())
/// ```
#[derive(Debug)]
pub struct RmsNormBackward<'a, T = f32> {
    /// dy and dx, \[rows, n\].
    pub rows: Rows<'a, T>,
    /// Normalised rows, \[rows, n\].
    pub x: View<'a, 2, T>,
    /// Gradient added to dx before its rounding, \[rows, n\].
    pub dresidual: Option<View<'a, 2, T>>,
    /// Weight \[n\]; ones if `None`.
    pub weight: Option<&'a [f32]>,
    /// Inverse deviations r that the forward returned, \[rows\].
    pub inverse_deviation: &'a [f32],
    /// Gradient of the weight, added to, if wanted: \[n\].
    pub dweight: Option<&'a mut [f32]>,
}

impl<'a, T: Element> RmsNormBackward<'a, T> {
    /// dx alone, of a norm without weight.
    pub fn new(rows: Rows<'a, T>, x: View<'a, 2, T>, inverse_deviation: &'a [f32]) -> Self {
        Self { rows, x, dresidual: None, weight: None, inverse_deviation, dweight: None }
    }

    /// Returns the arguments of each row, or an error if shapes differ or rows are not contiguous.
    fn check(
        rows: NormRows<'a, T, false>,
        weight: Option<&[f32]>,
        dweight: Option<&[f32]>,
    ) -> Result<NormRows<'a, T, false>, Error> {
        let [_, n] = rows.check(&Names {
            rows: "RmsNormBackward.rows",
            x: "RmsNormBackward.x",
            dresidual: "RmsNormBackward.dresidual",
            mean: "RmsNormBackward.mean",
            inverse_deviation: "RmsNormBackward.inverse_deviation",
        })?;
        expect_columns("RmsNormBackward.weight", weight, n)?;
        expect_columns("RmsNormBackward.dweight", dweight, n)?;
        Ok(rows)
    }
}

impl<T: Element> Kernel for RmsNormBackward<'_, T> {
    type Output = Result<(), Error>;

    crate::backend::compile_here!(T::rms_norm_backward);

    fn reference(self) -> Self::Output {
        let Self { rows, x, dresidual, weight, inverse_deviation, mut dweight } = self;
        let rows = NormRows { rows, x, dresidual, mean: &[], inverse_deviation };
        let rows = Self::check(rows, weight, dweight.as_deref())?;
        let weight = weight.map(to_f64);
        rows.define([&mut dweight], |x, r, dy| {
            let (dx, dweight) = rms_norm_backward(x, weight.as_deref(), r, dy);
            (dx, [dweight])
        });
        Ok(())
    }

    fn eval<I: Isa>(self, isa: I) -> Self::Output {
        let Self { rows, x, dresidual, weight, inverse_deviation, dweight } = self;
        let rows = NormRows { rows, x, dresidual, mean: &[], inverse_deviation };
        let rows = Self::check(rows, weight, dweight.as_deref())?;
        rows.eval(isa, weight, dweight, None);
        Ok(())
    }
}

/// Gradient of the RMS norm of one row, in f64: dx and dweight.
pub fn rms_norm_backward(
    x: &[f64],
    weight: Option<&[f64]>,
    inverse_deviation: f64,
    dy: &[f64],
) -> (Vec<f64>, Vec<f64>) {
    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).collect::<Vec<_>>();
    let z: Vec<_> = x.iter().map(|x| x * inverse_deviation).collect();
    let g = weight.map_or_else(|| dy.to_vec(), |weight| product(dy, weight));
    let mean = product(&g, &z).iter().sum::<f64>() / x.len() as f64;
    let dx = g.iter().zip(&z).map(|(g, z)| inverse_deviation * (g - z * mean)).collect();
    (dx, product(dy, &z))
}
