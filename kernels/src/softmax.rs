//! Softmax and its logarithm over rows, with a scale and a mask.
//!
//! ```text
//! s_j = scale x_j + bias_j
//! y_j = e^(s_j - m) / sum_k e^(s_k - m)        m = max_k s_k, over the columns that are not masked
//! log: y_j = (s_j - m) - ln sum_k e^(s_k - m)
//! ```
//!
//! x and y are \[rows, n\]. [`Kernel::reference`] defines the edges:
//!
//! - The result ignores x in a masked column, even if it is NaN. y is 0 there, and its logarithm -inf. So a fully
//!   masked row is all 0, or all -inf.
//! - Only a mask masks. An unmasked x of -inf gives y = 0 beside larger scores, and NaN if all unmasked scores are
//!   -inf.
//! - NaN or +inf in an unmasked column makes all unmasked columns NaN.
//! - Without rows or columns nothing is written.
//!
//! The fast form makes three passes over a row: maximum, exponentials and their sum, scaling. Each pass ends in a
//! reduction or starts from one, so up to three rows are in flight (`in_flight.rs`).

mod backward;
mod in_flight;
mod mask;

use crate::backend::Kernel;
use crate::element::{Element, from_f64, to_f64};
use crate::error::Error;
use crate::isa::Isa;
use crate::lanes::maximum;
use crate::rows::{self, RowTask, Rows};
pub use backward::{SoftmaxBackward, softmax_backward};
use in_flight::{ROWS_IN_FLIGHT, exponentials, take, write};
pub use mask::ColumnMask;

/// y = softmax(scale x + mask), or its natural logarithm, for each row.
///
/// y of a masked column is 0 (its logarithm is -inf), even if x is NaN there; so a fully masked row is all 0 (-inf).
/// NaN or +inf in an unmasked column makes all unmasked columns NaN, and so do unmasked scores that are all -inf.
///
/// # Errors
/// [`Error::Shape`] if the shapes differ; [`Error::Invalid`] if a row is not contiguous or a length
/// exceeds n.
///
/// # Numerics
/// Let u = 2^-24, and let e = u max_k (|scale x_k| + 2 |s_k|) be the error of the scores, which is 0 without scale and
/// bias. Then y errs by at most
///
/// ```text
/// softmax      (2 e + (n / 16 + 24 + |s - m|) u) y + 2^-148
/// logarithm    2 e + u (n / 16 + 24 + 2 |y| + |s - m|)
/// ```
///
/// In bf16 the exponentials are [`math::exp2_coarse`](crate::math::exp2_coarse): in both bounds 24 becomes 150 and
/// |s - m| becomes 3 |s - m|; 2^-148 becomes 2^-126. The result is then rounded to bf16.
///
/// ```
/// use tilewright_kernels::{Backend, ColumnMask, Rows, Softmax, ViewMut};
/// let mut x = [5., 5., f32::NAN, 1., 2., 3.];
/// let rows = Rows::InPlace(ViewMut::new(&mut x, [2, 3])?);
/// Backend::best().run(Softmax { mask: ColumnMask::Lengths(&[2, 0]), ..Softmax::new(rows) })?;
/// assert_eq!(x, [0.5, 0.5, 0., 0., 0., 0.]);
/// # Ok::<(), tilewright_kernels::Error>(())
/// ```
#[derive(Debug)]
pub struct Softmax<'a, T = f32> {
    /// x and y, \[rows, n\].
    pub rows: Rows<'a, T>,
    /// Factor of x.
    pub scale: f32,
    /// Columns that the softmax is over, or a bias added to scale * x.
    pub mask: ColumnMask<'a>,
    /// True if y is the natural logarithm of the softmax.
    pub log: bool,
}

impl<'a, T> Softmax<'a, T> {
    /// The softmax of all columns of `rows`.
    pub fn new(rows: Rows<'a, T>) -> Self {
        Self { rows, scale: 1.0, mask: ColumnMask::None, log: false }
    }
}

impl<T> Softmax<'_, T> {
    fn check(&self) -> Result<(), Error> {
        let [rows, n] = self.rows.check("Softmax.rows")?;
        self.mask.check("Softmax.mask", [rows, n])
    }
}

impl<T: Element> Kernel for Softmax<'_, T> {
    type Output = Result<(), Error>;

    crate::backend::compile_here!(T::softmax);

    fn reference(self) -> Self::Output {
        self.check()?;
        let Self { rows, scale, mask, log } = self;
        for (i, mut row) in rows.into_iter().enumerate() {
            let x = to_f64(row.input());
            let y = softmax(&x, scale.into(), &mask.biases(i, x.len()), log);
            from_f64(&y, row.output());
        }
        Ok(())
    }

    fn eval<I: Isa>(self, isa: I) -> Self::Output {
        self.check()?;
        rows::run(isa, self);
        Ok(())
    }
}

/// Softmax of one row, or its natural logarithm, in f64. A `bias` of -inf masks its column.
pub fn softmax(x: &[f64], scale: f64, bias: &[f64], log: bool) -> Vec<f64> {
    // None if masked.
    let score = |(x, &bias): (&f64, &f64)| (bias != f64::NEG_INFINITY).then_some(scale * x + bias);
    let scores: Vec<_> = x.iter().zip(bias).map(score).collect();
    let max = scores.iter().flatten().fold(f64::NEG_INFINITY, |m, &s| m.max(s));
    let sum: f64 = scores.iter().flatten().map(|s| (s - max).exp()).sum();
    let y = |score: Option<f64>| match score {
        None if log => f64::NEG_INFINITY,
        None => 0.0,
        Some(s) if log => s - max - sum.ln(),
        Some(s) => (s - max).exp() / sum,
    };
    scores.into_iter().map(y).collect()
}

impl<T: Element> RowTask for Softmax<'_, T> {
    fn shape(&self) -> [usize; 2] {
        self.rows.shape()
    }

    fn split_at(self, mid: usize) -> (Self, Self) {
        let (low, high) = self.rows.split_at(mid);
        let (low_mask, high_mask) = self.mask.split_at(mid);
        (Self { rows: low, mask: low_mask, ..self }, Self { rows: high, mask: high_mask, ..self })
    }

    fn memory(&self) -> usize {
        let [rows, n] = self.shape();
        if T::f32s(&[]).is_some() { 0 } else { n * rows.min(ROWS_IN_FLIGHT) }
    }

    #[inline(always)]
    fn run<I: Isa>(self, isa: I, memory: &mut [f32]) {
        let Self { rows, scale, mask, log } = self;
        let [_, n] = rows.shape();
        let mut free = memory.chunks_exact_mut(n.max(1));
        let mut rows = rows.into_iter().enumerate();
        let Some(first) = rows.next() else { return };
        let mut current = take(isa, first, &mut free, scale, mask, log);
        let mut next = rows.next().map(
            #[inline(always)]
            |row| take(isa, row, &mut free, scale, mask, log),
        );
        current.max = maximum(isa, current.live().input());
        exponentials(isa, &mut current, next.as_mut(), log);
        let mut free = free.next().into_iter();
        loop {
            let mut following = None;
            if let Some(next) = &mut next {
                following = rows.next().map(
                    #[inline(always)]
                    |row| take(isa, row, &mut free, scale, mask, log),
                );
                exponentials(isa, next, following.as_mut(), log);
            }
            free = write(isa, current, mask, log).into_iter();
            match next {
                Some(row) => (current, next) = (row, following),
                None => return,
            }
        }
    }
}
