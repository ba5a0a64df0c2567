//! Gradient of softmax and of its logarithm.
//!
//! ```text
//! softmax     dx_j = scale y_j (dy_j - sum_k y_k dy_k)
//! logarithm   dx_j = scale (dy_j - e^(y_j) sum_k dy_k)         sums over the columns that are not masked
//! ```
//!
//! The fast form makes two passes over a row: the sum, and dx. The sum of each row is formed while the row before it is
//! written, as in the norms.

use super::mask::ColumnMask;
use crate::backend::Kernel;
use crate::element::{Element, from_f64, to_f64};
use crate::error::{Error, expect_shape};
use crate::isa::{Isa, Vector};
use crate::lanes::{RowSlices, accumulators, map_with, read_with, total};
use crate::math;
use crate::rows::{self, RowTask, Rows, expect_unit_rows};
use crate::view::View;

/// Gradient of [`Softmax`](crate::Softmax), from its result y.
///
/// dx of a masked column is 0, whatever y and dy are there. The gradient of a bias is dx / scale.
///
/// # Errors
/// [`Error::Shape`] if the shapes differ; [`Error::Invalid`] if a row is not contiguous or a length
/// exceeds n.
///
/// # Numerics
/// Let u = 2^-24. Then dx errs by at most
///
/// ```text
/// softmax     u |scale y| (4 |dy| + (n / 16 + 14) sum |y dy|)
/// logarithm   u |scale| (3 |dy| + e^y (n / 16 + 16) sum |dy|)
/// ```
///
/// and is rounded once more in bf16 and f16. NaN in an unmasked column of y or dy makes all unmasked columns NaN.
///
/// ```
/// use tilewright_kernels::{Backend, Rows, SoftmaxBackward, View, ViewMut};
/// let (y, mut dy) = ([0.25, 0.75], [4., 0.]);
/// let rows = Rows::InPlace(ViewMut::new(&mut dy, [1, 2])?);
/// Backend::best().run(SoftmaxBackward::new(rows, View::new(&y, [1, 2])?))?;
/// assert_eq!(dy, [0.75, -0.75]);
/// # Ok::<(), tilewright_kernels::Error>(())
/// ```
#[derive(Debug)]
pub struct SoftmaxBackward<'a, T = f32> {
    /// dy and dx, \[rows, n\].
    pub rows: Rows<'a, T>,
    /// Result of the forward, \[rows, n\].
    pub y: View<'a, 2, T>,
    /// Factor of x in the forward.
    pub scale: f32,
    /// Mask of the forward.
    pub mask: ColumnMask<'a>,
    /// True if y is the natural logarithm of the softmax.
    pub log: bool,
}

impl<'a, T> SoftmaxBackward<'a, T> {
    /// Gradient of the softmax of all columns.
    pub fn new(rows: Rows<'a, T>, y: View<'a, 2, T>) -> Self {
        Self { rows, y, scale: 1.0, mask: ColumnMask::None, log: false }
    }

    fn check(&self) -> Result<(), Error> {
        let shape = self.rows.check("SoftmaxBackward.rows")?;
        expect_unit_rows("SoftmaxBackward.y", self.y.has_unit_rows(), self.y.strides())?;
        expect_shape("SoftmaxBackward.y", &self.y.shape(), &shape)?;
        self.mask.check("SoftmaxBackward.mask", shape)
    }
}

impl<T: Element> Kernel for SoftmaxBackward<'_, T> {
    type Output = Result<(), Error>;

    crate::backend::compile_here!(T::softmax_backward);

    fn reference(self) -> Self::Output {
        self.check()?;
        let Self { rows, y, scale, mask, log } = self;
        for (i, mut row) in rows.into_iter().enumerate() {
            let (y, dy) = (to_f64(y.row([i, 0])), to_f64(row.input()));
            let dx = softmax_backward(&y, &dy, scale.into(), &mask.biases(i, y.len()), log);
            from_f64(&dx, row.output());
        }
        Ok(())
    }

    fn eval<I: Isa>(self, isa: I) -> Self::Output {
        self.check()?;
        rows::run(isa, self);
        Ok(())
    }
}

/// Gradient of the softmax of one row, or of its logarithm, from its result y, in f64. A `bias` of -inf masks its column.
pub fn softmax_backward(y: &[f64], dy: &[f64], scale: f64, bias: &[f64], log: bool) -> Vec<f64> {
    let live = |j: &usize| bias[*j] != f64::NEG_INFINITY;
    let sum: f64 = (0..y.len()).filter(live).map(|j| if log { dy[j] } else { y[j] * dy[j] }).sum();
    let gradient = |j: usize| match live(&j) {
        false => 0.0,
        true if log => scale * (dy[j] - y[j].exp() * sum),
        true => scale * y[j] * (dy[j] - sum),
    };
    (0..y.len()).map(gradient).collect()
}

impl<T: Element> RowTask for SoftmaxBackward<'_, T> {
    fn shape(&self) -> [usize; 2] {
        self.rows.shape()
    }

    fn split_at(self, mid: usize) -> (Self, Self) {
        let (low, high) = self.rows.split_at(mid);
        let (low_y, high_y) = self.y.split_at(0, mid);
        let (low_mask, high_mask) = self.mask.split_at(mid);
        (
            Self { rows: low, y: low_y, mask: low_mask, ..self },
            Self { rows: high, y: high_y, mask: high_mask, ..self },
        )
    }

    /// Two rows of biases, if the mask is of booleans.
    fn memory(&self) -> usize {
        if matches!(self.mask, ColumnMask::Keep(_)) { 2 * self.y.shape()[1] } else { 0 }
    }

    #[inline(always)]
    fn run<I: Isa>(self, isa: I, memory: &mut [f32]) {
        let masked = matches!(self.mask, ColumnMask::Keep(_) | ColumnMask::Bias(_));
        match (self.log, masked) {
            (false, false) => self.write_rows::<I, false, 0>(isa, memory),
            (false, true) => self.write_rows::<I, false, 2>(isa, memory),
            (true, false) => self.write_rows::<I, true, 0>(isa, memory),
            (true, true) => self.write_rows::<I, true, 2>(isa, memory),
        }
    }
}

/// The columns of a row that its length keeps.
struct LiveRow<'a, T> {
    dy: RowSlices<'a, T>,
    y: &'a [T],
}

impl<'a, T: Element> SoftmaxBackward<'a, T> {
    /// Writes all rows. P is 2 if biases mask columns, of a row and of the row after it, else 0.
    #[inline(always)]
    fn write_rows<I: Isa, const LOG: bool, const P: usize>(self, isa: I, memory: &mut [f32]) {
        let Self { rows, y, scale, mask, .. } = self;
        let (mut here, mut ahead) = memory.split_at_mut(memory.len() / 2);
        let cut = |i: usize, row: RowSlices<'a, T>| {
            let y = y.row([i, 0]);
            let ColumnMask::Lengths(lengths) = mask else { return LiveRow { dy: row, y } };
            let (dy, mut masked) = row.split_at(lengths[i]);
            masked.output().fill(T::default());
            LiveRow { dy, y: &y[..lengths[i]] }
        };
        let mut rows = rows.into_iter().enumerate();
        let Some((i, row)) = rows.next() else { return };
        let mut row = cut(i, row);
        mask.fill_biases(i, here);
        let mut sum = sum::<_, _, LOG, P>(isa, row.dy.input(), row.y, [mask.bias_row(i, here); P]);
        for i in 0.. {
            let next = rows.next().map(
                #[inline(always)]
                |(i, row)| cut(i, row),
            );
            let Some(next) = next else {
                let (y, biases) = (row.y, [mask.bias_row(i, here); P]);
                write::<_, _, LOG, P>(isa, &mut row, scale, sum, biases, [y, y]);
                return;
            };
            mask.fill_biases(i + 1, ahead);
            let mut biases = [mask.bias_row(i, here); P];
            let next_biases = [mask.bias_row(i + 1, ahead); P];
            if P == 2 {
                biases[1] = next_biases[1];
            }
            sum = if next.y.len() == row.y.len() {
                write::<_, _, LOG, P>(isa, &mut row, scale, sum, biases, [next.dy.input(), next.y])
            } else {
                let y = row.y;
                write::<_, _, LOG, P>(isa, &mut row, scale, sum, biases, [y, y]);
                self::sum::<_, _, LOG, P>(isa, next.dy.input(), next.y, next_biases)
            };
            row = next;
            core::mem::swap(&mut here, &mut ahead);
        }
    }
}

/// Term of the sum in a column, 0 if the bias masks it.
#[inline(always)]
fn term<I: Isa, const LOG: bool>(isa: I, dy: I::V, y: I::V, bias: Option<I::V>) -> I::V {
    unless_masked(isa, if LOG { dy } else { y * dy }, bias)
}

/// x, or 0 where the bias is -inf.
#[inline(always)]
fn unless_masked<I: Isa>(isa: I, x: I::V, bias: Option<I::V>) -> I::V {
    match bias {
        None => x,
        Some(bias) => I::V::splat(isa, 0.0).select(bias.eq(I::V::splat(isa, f32::NEG_INFINITY)), x),
    }
}

/// Sum of a row; the first of `biases` masks it.
#[inline(always)]
fn sum<I: Isa, T: Element, const LOG: bool, const P: usize>(
    isa: I,
    dy: &[T],
    y: &[T],
    biases: [&[f32]; P],
) -> f32 {
    let mut sums = accumulators(isa, 0.0);
    read_with(
        isa,
        [dy, y],
        biases,
        [0.0; P],
        #[inline(always)]
        |g, [dy, y], biases| sums[g] = sums[g] + term::<I, LOG>(isa, dy, y, biases.first().copied()),
    );
    total::<I>(sums)
}

/// Writes dx of a row with this sum, and returns the sum of the row after it, \[dy, y\]. `biases` mask both.
#[inline(always)]
fn write<I: Isa, T: Element, const LOG: bool, const P: usize>(
    isa: I,
    row: &mut LiveRow<'_, T>,
    scale: f32,
    sum: f32,
    biases: [&[f32]; P],
    [next_dy, next_y]: [&[T]; 2],
) -> f32 {
    let (factor, sum) = (I::V::splat(isa, scale), I::V::splat(isa, sum));
    let mut sums = accumulators(isa, 0.0);
    map_with(
        isa,
        [&mut row.dy],
        biases,
        [row.y, next_dy, next_y],
        0.0,
        #[inline(always)]
        |g, [dy], biases, [y, next_dy, next_y]| {
            sums[g] = sums[g] + term::<I, LOG>(isa, next_dy, next_y, biases.last().copied());
            let dx = if LOG { dy - math::exp(isa, y) * sum } else { y * (dy - sum) };
            [unless_masked(isa, dx * factor, biases.first().copied())]
        },
    );
    total::<I>(sums)
}
