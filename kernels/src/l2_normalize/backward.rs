//! Gradient of L2 normalisation.
//!
//! ```text
//! q = 1 / max(|x|, eps),  z = x q
//! dx = q (dy - z sum(dy z))        if |x| >= eps
//! dx = q dy                        if |x| < eps
//! ```

use crate::backend::Kernel;
use crate::element::{Element, from_f64, to_f64};
use crate::error::{Error, expect_shape};
use crate::isa::{Isa, Vector};
use crate::lanes::{RowSlices, accumulators, map, read, total};
use crate::residual::IN_RANGE;
use crate::rows::{self, RowTask, Rows, expect_eps, expect_unit_rows};
use crate::view::View;

/// Gradient of [`L2Normalize`](crate::L2Normalize).
///
/// # Errors
/// [`Error::Shape`] if the shapes differ; [`Error::Invalid`] if a row is not contiguous or `eps` is
/// negative or NaN.
///
/// # Numerics
/// Let u = 2^-24, and q = 1 / max(|x|, eps), z = x q. Then dx errs by at most
/// u (n / 8 + 30) q (|dy| + |z| sum |dy z|) + u |dx|, and is rounded once more in bf16 and f16. Where |x| is within that
/// rounding of eps, it may count as either less or more. A row that holds NaN or an infinity in x is NaN.
///
/// ```
/// use tilewright_kernels::{Backend, L2NormalizeBackward, Rows, View, ViewMut};
/// let (x, mut dy) = ([3., 4.], [5., 10.]);
/// let rows = Rows::InPlace(ViewMut::new(&mut dy, [1, 2])?);
/// Backend::best().run(L2NormalizeBackward { rows, x: View::new(&x, [1, 2])?, eps: 1e-12 })?;
/// // dx is orthogonal to x.
/// assert!((dy[0] + 0.32).abs() < 1e-6 && (dy[1] - 0.24).abs() < 1e-6);
/// # Ok::<(), tilewright_kernels::Error>(())
/// ```
#[derive(Debug)]
pub struct L2NormalizeBackward<'a, T = f32> {
    /// dy and dx, \[rows, n\].
    pub rows: Rows<'a, T>,
    /// Normalised rows, \[rows, n\].
    pub x: View<'a, 2, T>,
    /// Least divisor.
    pub eps: f32,
}

impl<T> L2NormalizeBackward<'_, T> {
    fn check(&self) -> Result<(), Error> {
        let shape = self.rows.check("L2NormalizeBackward.rows")?;
        expect_unit_rows("L2NormalizeBackward.x", self.x.has_unit_rows(), self.x.strides())?;
        expect_shape("L2NormalizeBackward.x", &self.x.shape(), &shape)?;
        expect_eps("L2NormalizeBackward.eps", self.eps)
    }
}

impl<T: Element> Kernel for L2NormalizeBackward<'_, T> {
    type Output = Result<(), Error>;

    crate::backend::compile_here!(T::l2_normalize_backward);

    fn reference(self) -> Self::Output {
        self.check()?;
        for (mut row, x) in self.rows.into_iter().zip(self.x.rows()) {
            let (x, dy) = (to_f64(x), to_f64(row.input()));
            from_f64(&l2_normalize_backward(&x, self.eps.into(), &dy), row.output());
        }
        Ok(())
    }

    fn eval<I: Isa>(self, isa: I) -> Self::Output {
        self.check()?;
        rows::run(isa, self);
        Ok(())
    }
}

/// Gradient of the L2 normalisation of one row, in f64.
pub fn l2_normalize_backward(x: &[f64], eps: f64, dy: &[f64]) -> Vec<f64> {
    let norm = x.iter().map(|x| x.powi(2)).sum::<f64>().sqrt();
    if norm < eps {
        return dy.iter().map(|dy| dy / eps).collect();
    }
    let dot: f64 = x.iter().zip(dy).map(|(x, dy)| x / norm * dy).sum();
    x.iter().zip(dy).map(|(x, dy)| (dy - x / norm * dot) / norm).collect()
}

impl<T: Element> RowTask for L2NormalizeBackward<'_, T> {
    fn shape(&self) -> [usize; 2] {
        self.rows.shape()
    }

    fn split_at(self, mid: usize) -> (Self, Self) {
        let (low, high) = self.rows.split_at(mid);
        let (low_x, high_x) = self.x.split_at(0, mid);
        (Self { rows: low, x: low_x, ..self }, Self { rows: high, x: high_x, ..self })
    }

    #[inline(always)]
    fn run<I: Isa>(self, isa: I, _: &mut [f32]) {
        for (mut row, x) in self.rows.into_iter().zip(self.x.rows()) {
            let (mut squares, mut products) = (accumulators(isa, 0.0), accumulators(isa, 0.0));
            read(
                isa,
                [row.input(), x],
                0.0,
                #[inline(always)]
                |g, [dy, x]| {
                    squares[g] = x.mul_add(x, squares[g]);
                    products[g] = dy.mul_add(x, products[g]);
                },
            );
            let (square, product) = (total::<I>(squares), total::<I>(products));
            if !(IN_RANGE.contains(&square) && product.is_finite()) {
                write_wide(&mut row, x, self.eps);
                continue;
            }
            let norm = square.sqrt();
            let q = 1.0 / norm.max(self.eps);
            let dot = if norm < self.eps { 0.0 } else { product * q };
            let (q, dot) = (I::V::splat(isa, q), I::V::splat(isa, dot));
            map(
                isa,
                [&mut row],
                [x],
                0.0,
                #[inline(always)]
                |_, [dy], [x]| [(dy - x * q * dot) * q],
            );
        }
    }
}

/// Writes a row whose sums leave the range of f32, all in f64.
#[cold]
#[inline(never)]
fn write_wide<T: Element>(row: &mut RowSlices<'_, T>, x: &[T], eps: f32) {
    let wide = |x: &T| f64::from(x.to_f32());
    let (mut square, mut product) = (0.0f64, 0.0f64);
    for (dy, x) in row.input().iter().zip(x) {
        square += wide(x) * wide(x);
        product += wide(dy) * wide(x);
    }
    let (norm, eps) = (square.sqrt(), f64::from(eps));
    let below = norm < eps;
    for (j, x) in x.iter().enumerate() {
        let dy = wide(&row.input()[j]);
        let dx = if below { dy / eps } else { (dy - wide(x) / norm * (product / norm)) / norm };
        row.output()[j] = T::from_f32(dx as f32);
    }
}
