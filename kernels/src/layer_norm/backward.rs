//! Gradient of layer normalisation.
//!
//! ```text
//! z = (x - mean) r,  g = dy weight
//! dx = r (g - mean(g) - z mean(g z)) + dresidual,  dweight += sum(dy z),  dbias += sum(dy)
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

/// Gradient of [`LayerNorm`](crate::LayerNorm): dx, and sums over rows added to dweight and dbias.
///
/// x are the rows that were normalised: with a residual, the sums that the forward stored there. The gradient of x is
/// then that of both terms of the sum; `dresidual` adds the gradient that reaches the residual from elsewhere.
///
/// # Errors
/// [`Error::Shape`] if the shapes differ; [`Error::Invalid`] if a row is not contiguous.
///
/// # Numerics
/// Let u = 2^-24, and z = (x - mean) r with the exact mean of x: `mean` only needs to be near it. Then dx errs by at
/// most
///
/// ```text
/// u (n / 16 + 20) r (|g| + (1 + |z|) (mean |g| + mean |g z|)) + u |dx|,  g = dy weight
/// ```
///
/// and is rounded once more in bf16 and f16. dweight and dbias are sums in f32 whose order is fixed: chunks of 32 rows,
/// then the chunks. So their bits do not depend on threads. A row that holds NaN or an infinity in x makes its dx and
/// all of dweight NaN.
///
/// ```
/// use tilewright_kernels::{Backend, LayerNorm, LayerNormBackward, Rows, View, ViewMut};
/// let (x, mut y, mut mean, mut inverse_deviation) = ([1., 3., 10., 30.], [0.; 4], [0.; 2], [0.; 2]);
/// let x = View::new(&x, [2, 2])?;
/// Backend::best().run(LayerNorm {
///     mean: Some(&mut mean),
///     inverse_deviation: Some(&mut inverse_deviation),
///     ..LayerNorm::new(Rows::Into(x, ViewMut::new(&mut y, [2, 2])?), 0.)
/// })?;
/// let (dy, mut dx, mut dweight) = ([1., 2., 3., 4.], [0.; 4], [100.; 2]);
/// let rows = Rows::Into(View::new(&dy, [2, 2])?, ViewMut::new(&mut dx, [2, 2])?);
/// Backend::best().run(LayerNormBackward {
///     dweight: Some(&mut dweight),
///     ..LayerNormBackward::new(rows, x, &mean, &inverse_deviation)
/// })?;
/// // Two elements are normalised to -1 and 1, whatever they are.
/// assert_eq!((dx, dweight), ([0.; 4], [96., 106.]));
/// # Ok::<(), tilewright_kernels::Error>(())
/// ```
#[derive(Debug)]
pub struct LayerNormBackward<'a, T = f32> {
    /// dy and dx, \[rows, n\].
    pub rows: Rows<'a, T>,
    /// Normalised rows, \[rows, n\].
    pub x: View<'a, 2, T>,
    /// Gradient added to dx before its rounding, \[rows, n\].
    pub dresidual: Option<View<'a, 2, T>>,
    /// Weight \[n\]; ones if `None`.
    pub weight: Option<&'a [f32]>,
    /// Means that the forward returned, \[rows\].
    pub mean: &'a [f32],
    /// Inverse deviations r that the forward returned, \[rows\].
    pub inverse_deviation: &'a [f32],
    /// Gradient of the weight, added to, if wanted: \[n\].
    pub dweight: Option<&'a mut [f32]>,
    /// Gradient of the bias, added to, if wanted: \[n\].
    pub dbias: Option<&'a mut [f32]>,
}

impl<'a, T: Element> LayerNormBackward<'a, T> {
    /// dx alone, of a norm without weight.
    pub fn new(rows: Rows<'a, T>, x: View<'a, 2, T>, mean: &'a [f32], inverse_deviation: &'a [f32]) -> Self {
        Self { rows, x, dresidual: None, weight: None, mean, inverse_deviation, dweight: None, dbias: None }
    }

    /// Returns the arguments of each row, or an error if shapes differ or rows are not contiguous.
    fn check(
        rows: NormRows<'a, T, true>,
        weight: Option<&[f32]>,
        dweight: Option<&[f32]>,
        dbias: Option<&[f32]>,
    ) -> Result<NormRows<'a, T, true>, Error> {
        let [_, n] = rows.check(&Names {
            rows: "LayerNormBackward.rows",
            x: "LayerNormBackward.x",
            dresidual: "LayerNormBackward.dresidual",
            mean: "LayerNormBackward.mean",
            inverse_deviation: "LayerNormBackward.inverse_deviation",
        })?;
        expect_columns("LayerNormBackward.weight", weight, n)?;
        expect_columns("LayerNormBackward.dweight", dweight, n)?;
        expect_columns("LayerNormBackward.dbias", dbias, n)?;
        Ok(rows)
    }
}

impl<T: Element> Kernel for LayerNormBackward<'_, T> {
    type Output = Result<(), Error>;

    crate::backend::compile_here!(T::layer_norm_backward);

    fn reference(self) -> Self::Output {
        let Self { rows, x, dresidual, weight, mean, inverse_deviation, mut dweight, mut dbias } = self;
        let rows = NormRows { rows, x, dresidual, mean, inverse_deviation };
        let rows = Self::check(rows, weight, dweight.as_deref(), dbias.as_deref())?;
        let weight = weight.map(to_f64);
        rows.define([&mut dweight, &mut dbias], |x, r, dy| {
            let (dx, dweight) = layer_norm_backward(x, weight.as_deref(), r, dy);
            (dx, [dweight, dy.to_vec()])
        });
        Ok(())
    }

    fn eval<I: Isa>(self, isa: I) -> Self::Output {
        let Self { rows, x, dresidual, weight, mean, inverse_deviation, dweight, dbias } = self;
        let rows = NormRows { rows, x, dresidual, mean, inverse_deviation };
        let rows = Self::check(rows, weight, dweight.as_deref(), dbias.as_deref())?;
        rows.eval(isa, weight, dweight, dbias);
        Ok(())
    }
}

/// Gradient of the layer norm of one row, in f64: dx and dweight. dbias is dy.
pub fn layer_norm_backward(
    x: &[f64],
    weight: Option<&[f64]>,
    inverse_deviation: f64,
    dy: &[f64],
) -> (Vec<f64>, Vec<f64>) {
    let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len() as f64;
    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).collect::<Vec<_>>();
    let x_mean = mean(x);
    let z: Vec<_> = x.iter().map(|x| (x - x_mean) * inverse_deviation).collect();
    let g = weight.map_or_else(|| dy.to_vec(), |weight| product(dy, weight));
    let (g_mean, gz_mean) = (mean(&g), mean(&product(&g, &z)));
    let dx = g.iter().zip(&z).map(|(g, z)| inverse_deviation * (g - g_mean - z * gz_mean)).collect();
    (dx, product(dy, &z))
}
