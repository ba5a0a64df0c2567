//! Backward pass of a linear layer, y = x W^T + bias: two products and the sums of columns.
//!
//! ```text
//! dX = dY W        dW += dY^T X        dbias += column sums of dY
//! ```

use crate::backend::Kernel;
use crate::column_sums::{ColumnSums, column_sums};
use crate::error::{Error, expect_shape};
use crate::gemm::{Gemm, Lhs, Rhs};
use crate::isa::Isa;
use crate::rows::expect_unit_rows;
use crate::view::{AnyView, AnyViewMut, ViewMut, with_any};

/// Gradients of y = x W^T + bias: of x, overwritten, and of W and the bias, accumulated.
///
/// It runs two [`Gemm`]s and a [`ColumnSums`]. For a dX that is multiplied by a [`Derivative`](crate::gemm::Derivative),
/// leave out `dx` and run that [`Gemm`] yourself.
///
/// # Errors
/// Nothing is written if the call fails:
/// - [`Error::Shape`] if shapes do not fit each other;
/// - [`Error::Invalid`] if a row of dY is not contiguous and `dbias` is asked for; if the weight is a gated pair, or
///   packed for another backend.
///
/// # Numerics
/// As [`Gemm`] and [`ColumnSums`]: sums are f32. bf16 that is stored on both sides of a product may use the bf16
/// instruction of the CPU, whose products are exact. Bits do not depend on threads; a row of dX does not depend on other
/// rows.
///
/// ```
/// use tilewright_kernels::{Backend, LinearBackward, View, ViewMut, gemm::Rhs};
/// let (x, w, dy) = ([1., 2., 3., 4.], [1., 0., 0., 2.], [1., 1., 0., 1.]);
/// let (mut dx, mut dweight, mut dbias) = ([0.; 4], [100.; 4], [100.; 2]);
/// Backend::best().run(LinearBackward {
///     dy: View::new(&dy, [2, 2])?.into(),
///     x: View::new(&x, [2, 2])?.into(),
///     weight: Rhs::Matrix(View::new(&w, [2, 2])?.into()),
///     dx: Some(ViewMut::new(&mut dx, [2, 2])?.into()),
///     dweight: Some(ViewMut::new(&mut dweight, [2, 2])?),
///     dbias: Some(&mut dbias),
/// })?;
/// assert_eq!(dx, [1., 2., 0., 2.]);
/// assert_eq!((dweight, dbias), ([101., 102., 104., 106.], [101., 102.]));
/// # Ok::<(), tilewright_kernels::Error>(())
/// ```
#[derive(Debug)]
pub struct LinearBackward<'a> {
    /// Gradient of y, \[rows, out\].
    pub dy: AnyView<'a, 2>,
    /// Input of the layer, \[rows, in\].
    pub x: AnyView<'a, 2>,
    /// Weight of the layer, \[out, in\]: B of dX = dY W. Packed, it is not the packed weight of the forward pass, which
    /// is its transpose.
    pub weight: Rhs<'a>,
    /// Gradient of x, \[rows, in\], overwritten.
    pub dx: Option<AnyViewMut<'a, 2>>,
    /// Gradient of the weight, \[out, in\], accumulated into.
    pub dweight: Option<ViewMut<'a, 2>>,
    /// Gradient of the bias, \[out\], accumulated into.
    pub dbias: Option<&'a mut [f32]>,
}

/// y = x weight^T + bias for x \[rows, in\] and weight \[out, in\], where `bias` has one element for each output.
pub fn linear(x: &[f64], weight: &[f64], bias: &[f64]) -> Vec<f64> {
    let out = bias.len();
    let inputs = weight.len() / out.max(1);
    let dot = |x: &[f64], w: &[f64]| x.iter().zip(w).map(|(x, w)| x * w).sum::<f64>();
    let of_row = |x| weight.chunks(inputs).zip(bias).map(move |(w, bias)| dot(x, w) + bias);
    if inputs == 0 { Vec::new() } else { x.chunks(inputs).flat_map(of_row).collect() }
}

/// Gradients of x, weight and bias of [`linear`].
pub fn linear_backward(
    dy: &[f64],
    x: &[f64],
    weight: &[f64],
    [rows, inputs, out]: [usize; 3],
) -> [Vec<f64>; 3] {
    let (mut dx, mut dweight) = (vec![0.0; rows * inputs], vec![0.0; out * inputs]);
    for i in 0..rows {
        for o in 0..out {
            for j in 0..inputs {
                dx[i * inputs + j] += dy[i * out + o] * weight[o * inputs + j];
                dweight[o * inputs + j] += dy[i * out + o] * x[i * inputs + j];
            }
        }
    }
    [dx, dweight, column_sums(dy, out)]
}

impl<'a> LinearBackward<'a> {
    /// Returns rows, inputs and outputs, or an error if the arguments do not fit each other.
    fn check(&self) -> Result<[usize; 3], Error> {
        let ([rows, out], [_, inputs]) = (self.dy.shape(), self.x.shape());
        expect_shape("LinearBackward.x", &self.x.shape(), &[rows, inputs])?;
        if self.weight.is_gated() {
            let why = "expected one matrix, found a gated pair".to_owned();
            return Err(Error::Invalid { what: "LinearBackward.weight", why });
        }
        match self.weight {
            Rhs::Packed(w) => expect_shape("LinearBackward.weight", &[w.k(), w.n()], &[out, inputs])?,
            Rhs::Matrix(w) => expect_shape("LinearBackward.weight", &w.shape(), &[1, out, inputs])?,
            Rhs::Gated { .. } => {}
        }
        if let Some(dx) = &self.dx {
            expect_shape("LinearBackward.dx", &dx.shape(), &[rows, inputs])?;
        }
        if let Some(dweight) = &self.dweight {
            expect_shape("LinearBackward.dweight", &dweight.shape(), &[out, inputs])?;
        }
        if let Some(dbias) = &self.dbias {
            expect_shape("LinearBackward.dbias", &[dbias.len()], &[out])?;
            expect_unit_rows("LinearBackward.dy", self.dy.has_unit_rows(), self.dy.strides())?;
        }
        Ok([rows, inputs, out])
    }
}

impl Kernel for LinearBackward<'_> {
    type Output = Result<(), Error>;

    crate::backend::compile_here!();

    fn reference(self) -> Result<(), Error> {
        let [rows, inputs, out] = self.check()?;
        let wide = |v: AnyView<'_, 2>| -> Vec<f64> {
            let [m, n] = v.shape();
            (0..m * n).map(|i| f64::from(v.get([i / n, i % n]))).collect()
        };
        let weight: Vec<f64> = match self.weight {
            Rhs::Packed(w) => (0..out * inputs).map(|i| w.get(false, i / inputs, i % inputs)).collect(),
            Rhs::Matrix(w) | Rhs::Gated { gate: w, .. } => wide(w.at(0)),
        };
        let [of_x, of_weight, of_bias] =
            linear_backward(&wide(self.dy), &wide(self.x), &weight, [rows, inputs, out]);
        if let Some(mut dx) = self.dx {
            of_x.iter().enumerate().for_each(|(i, &d)| dx.set([i / inputs, i % inputs], d as f32));
        }
        if let Some(mut dweight) = self.dweight {
            for (i, d) in of_weight.into_iter().enumerate() {
                let at = [i / inputs, i % inputs];
                dweight.set(at, (f64::from(dweight.as_view().get(at)) + d) as f32);
            }
        }
        for (sum, d) in self.dbias.into_iter().flatten().zip(of_bias) {
            *sum = (f64::from(*sum) + d) as f32;
        }
        Ok(())
    }

    fn eval<I: Isa>(self, isa: I) -> Result<(), Error> {
        self.check()?;
        let Self { dy, x, weight, dx, dweight, dbias } = self;
        let product = |a: AnyView<'_, 2>, b: Rhs<'_>, beta: f32, c: AnyViewMut<'_, 2>| {
            Gemm { beta, ..Gemm::new(Lhs::Exact(a.into()), b, c) }.eval(isa)
        };
        // dX first: it alone can be refused, for a weight that is packed for another backend.
        if let Some(dx) = dx {
            product(dy, weight, 0.0, dx)?;
        }
        if let Some(dweight) = dweight {
            product(dy.transpose(), Rhs::Matrix(x.into()), 1.0, dweight.into())?;
        }
        if let Some(sums) = dbias {
            with_any!(dy, x => ColumnSums { x, sums }.eval(isa))?;
        }
        Ok(())
    }
}
