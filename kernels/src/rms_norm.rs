//! Root-mean-square normalisation of rows (Zhang, Sennrich 2019, arXiv:1910.07467).
//!
//! ```text
//! y = x r weight,  r = 1 / sqrt(sum(x^2) / n + eps)
//! ```
//!
//! x, y and residual are \[rows, n\]; weight is \[n\]. A row that holds NaN is NaN. In a row that holds an infinity,
//! infinities become NaN, and finite elements 0. Without rows or columns nothing is written.
//!
//! The sum of squares of each row is formed while the row before it is written. Writing waits for stores, and the sum
//! for its additions; together they take hardly longer than writing alone.

mod backward;

use crate::backend::Kernel;
use crate::element::{Element, from_f64, to_f64};
use crate::error::Error;
use crate::isa::{Isa, Vector};
use crate::lanes::{RowSlices, accumulators, map_with, read, total};
use crate::residual::{IN_RANGE, NormInput};
use crate::rows::{self, PerRow, RowTask, Rows, expect_columns, expect_eps};
use crate::scratch;
use crate::view::ViewMut;
pub use backward::{RmsNormBackward, rms_norm_backward};

/// y = x / sqrt(mean of x^2 + eps) * weight, for each row.
///
/// With a `residual`, the kernel first computes residual += x, rounds it once to its type and stores it. y then
/// normalises the stored residual instead of x.
///
/// # Errors
/// [`Error::Shape`] if the shapes differ; [`Error::Invalid`] if a row is not contiguous or `eps` is
/// negative or NaN.
///
/// # Numerics
/// The error of y is at most (n / 32 + 10) u |y|, u = 2^-24. A row that holds NaN is NaN. In a row that holds an
/// infinity, infinities become NaN, and finite elements 0. The inverse deviation errs by (n / 32 + 8) u of itself.
///
/// ```
/// use tilewright_kernels::{Backend, RmsNorm, Rows, ViewMut};
/// let (mut x, mut residual) = ([1., 3.], [1., -1.]);
/// Backend::best().run(RmsNorm {
///     residual: Some(ViewMut::new(&mut residual, [1, 2])?),
///     weight: Some(&[10., 20.]),
///     ..RmsNorm::new(Rows::InPlace(ViewMut::new(&mut x, [1, 2])?), 0.)
/// })?;
/// assert_eq!((x, residual), ([10., 20.], [2., 2.]));
/// # Ok::<(), tilewright_kernels::Error>(())
/// ```
#[derive(Debug)]
pub struct RmsNorm<'a, T = f32> {
    /// x and y, \[rows, n\].
    pub rows: Rows<'a, T>,
    /// Residual \[rows, n\], replaced by residual + x, which is then normalised.
    pub residual: Option<ViewMut<'a, 2, T>>,
    /// Weight \[n\]; ones if `None`.
    pub weight: Option<&'a [f32]>,
    /// Added to the mean of squares.
    pub eps: f32,
    /// 1 / sqrt(mean of x^2 + eps) of each row, if wanted: \[rows\].
    pub inverse_deviation: Option<&'a mut [f32]>,
}

impl<'a, T> RmsNorm<'a, T> {
    /// The norm of `rows` alone: no residual, weight or output but y.
    pub fn new(rows: Rows<'a, T>, eps: f32) -> Self {
        Self { rows, residual: None, weight: None, eps, inverse_deviation: None }
    }
}

impl<T: Element> Kernel for RmsNorm<'_, T> {
    type Output = Result<(), Error>;

    crate::backend::compile_here!(T::rms_norm);

    fn reference(self) -> Self::Output {
        let Self { rows, residual, weight, eps, inverse_deviation } = self;
        let (input, mut inverse_deviation) = (NormInput { rows, residual }, PerRow(inverse_deviation));
        let [_, n] = check(&input, weight, eps, &inverse_deviation)?;
        let weight = weight.map(to_f64);
        for (i, mut row) in input.define().enumerate().filter(|_| n > 0) {
            let x = to_f64(row.input());
            let (y, r) = rms_norm(&x, weight.as_deref(), eps.into());
            from_f64(&y, row.output());
            inverse_deviation.set(i, r as f32);
        }
        Ok(())
    }

    fn eval<I: Isa>(self, isa: I) -> Self::Output {
        let Self { rows, residual, weight, eps, inverse_deviation } = self;
        let (input, inverse_deviation) = (NormInput { rows, residual }, PerRow(inverse_deviation));
        let [rows, n] = check(&input, weight, eps, &inverse_deviation)?;
        if rows == 0 {
            return Ok(());
        }
        // Ones replace an absent weight: their load is free beside the store.
        scratch::with(n, |ones| {
            let weight = weight.unwrap_or_else(|| {
                ones.fill(1.0);
                ones
            });
            rows::run(isa, Weighted { input, weight, eps, inverse_deviation });
        });
        Ok(())
    }
}

fn check<T: Element>(
    input: &NormInput<'_, T>,
    weight: Option<&[f32]>,
    eps: f32,
    inverse_deviation: &PerRow<'_>,
) -> Result<[usize; 2], Error> {
    let shape = input.check("RmsNorm.rows", "RmsNorm.residual")?;
    expect_columns("RmsNorm.weight", weight, shape[1])?;
    expect_eps("RmsNorm.eps", eps)?;
    inverse_deviation.check("RmsNorm.inverse_deviation", shape[0])?;
    Ok(shape)
}

/// RMS norm of one row, in f64: y, and 1 / sqrt(mean of x^2 + eps).
pub fn rms_norm(x: &[f64], weight: Option<&[f64]>, eps: f64) -> (Vec<f64>, f64) {
    let square = x.iter().map(|x| x.powi(2)).sum::<f64>() / x.len() as f64;
    let r = 1.0 / (square + eps).sqrt();
    let y = |(j, x): (usize, &f64)| x * r * weight.map_or(1.0, |w| w[j]);
    (x.iter().enumerate().map(y).collect(), r)
}

/// A checked RMS norm with its weight.
struct Weighted<'a, T> {
    input: NormInput<'a, T>,
    weight: &'a [f32],
    eps: f32,
    inverse_deviation: PerRow<'a>,
}

impl<T: Element> RowTask for Weighted<'_, T> {
    fn shape(&self) -> [usize; 2] {
        self.input.rows.shape()
    }

    fn split_at(self, mid: usize) -> (Self, Self) {
        let Self { input, inverse_deviation, .. } = self;
        let (low, high) = input.split_at(mid);
        let (low_inverse, high_inverse) = inverse_deviation.split_at(mid);
        (
            Self { input: low, inverse_deviation: low_inverse, ..self },
            Self { input: high, inverse_deviation: high_inverse, ..self },
        )
    }

    #[inline(always)]
    fn run<I: Isa>(self, isa: I, _: &mut [f32]) {
        let Self { input, weight, eps, mut inverse_deviation } = self;
        let mut rows = input.into_iter(isa);
        let Some(mut row) = rows.next() else { return };
        let mut squares = sum_of_squares(isa, row.input());
        for i in 0.. {
            let next = rows.next();
            // After the last row, the weight serves as the next row: it has the same length.
            let next_input = next.as_ref().map_or(T::stand_in(weight), RowSlices::input);
            let square = squares / weight.len() as f32 + eps;
            squares = if IN_RANGE.contains(&square) {
                let r = 1.0 / square.sqrt();
                inverse_deviation.set(i, r);
                write(isa, &mut row, weight, r, next_input)
            } else {
                inverse_deviation.set(i, normalize_wide(&mut row, weight, eps));
                sum_of_squares(isa, next_input)
            };
            match next {
                Some(next) => row = next,
                None => return,
            }
        }
    }
}

/// Normalises a row whose sum of squares leaves the range of f32, by r^2 = n / (sum(x^2) + n eps) in f64, in which
/// squares of f32 neither overflow nor underflow. Returns r.
#[cold]
#[inline(never)]
fn normalize_wide<T: Element>(row: &mut RowSlices<'_, T>, weight: &[f32], eps: f32) -> f32 {
    let n = weight.len() as f64;
    let mut squares = n * f64::from(eps);
    for x in row.input() {
        let x = f64::from(x.to_f32());
        squares = x.mul_add(x, squares);
    }
    let r = (n / squares).sqrt();
    for (j, weight) in weight.iter().enumerate() {
        let weighted = f64::from(row.input()[j].to_f32()) * f64::from(*weight);
        row.output()[j] = T::from_f32((weighted * r) as f32);
    }
    r as f32
}

#[inline(always)]
fn sum_of_squares<I: Isa, T: Element>(isa: I, x: &[T]) -> f32 {
    let mut acc = accumulators(isa, 0.0);
    read(
        isa,
        [x],
        0.0,
        #[inline(always)]
        |g, [x]| acc[g] = x.mul_add(x, acc[g]),
    );
    total::<I>(acc)
}

/// Writes `row`, and meanwhile sums the squares of `next`.
#[inline(always)]
fn write<I: Isa, T: Element>(isa: I, row: &mut RowSlices<'_, T>, weight: &[f32], r: f32, next: &[T]) -> f32 {
    let scale = I::V::splat(isa, r);
    let mut acc = accumulators(isa, 0.0);
    map_with(
        isa,
        [row],
        [weight],
        [next],
        0.0,
        #[inline(always)]
        |g, [x], [weight], [next]| {
            acc[g] = next.mul_add(next, acc[g]);
            [x * scale * weight]
        },
    );
    total::<I>(acc)
}
