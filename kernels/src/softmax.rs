//! Softmax and its logarithm over rows, with a scale and a mask.
//!
//! ```text
//! s_j = scale x_j + bias_j
//! y_j = e^(s_j - m) / sum_k e^(s_k - m)        m = max_k s_k, over the columns that are not masked
//! log: y_j = (s_j - m) - ln sum_k e^(s_k - m)
//! ```
//!
//! The edges, which [`Kernel::reference`] defines:
//!
//! - A masked column does not exist: its x is not looked at, even if it is NaN, and its y is 0, its
//!   logarithm -inf. A fully masked row is therefore all 0, or all -inf.
//! - Only a mask masks. An x of -inf that is not masked is a number like any other: y is 0 beside
//!   larger ones, and NaN in a row of nothing else.
//! - NaN or +inf in a column that is not masked makes NaN of all columns that are not.

mod in_flight;
mod mask;

use crate::backend::Kernel;
use crate::element::Element;
use crate::error::Error;
use crate::isa::Isa;
use crate::lanes::maximum;
use crate::rows::{self, RowTask, Rows};
use in_flight::{ROWS_IN_FLIGHT, exponentials, take, write};
pub use mask::ColumnMask;

/// y = softmax(scale x + mask), or its natural logarithm, for each row.
///
/// A masked column is 0 (its logarithm is -inf) whatever x holds there, so a fully masked row is all
/// 0 (-inf). NaN or +inf elsewhere, or nothing but -inf, makes the columns that are not masked NaN.
///
/// # Errors
/// [`Error::Shape`] if the shapes differ; [`Error::Invalid`] if a row is not contiguous or a length
/// exceeds n.
///
/// # Numerics
/// With u = 2^-24 and e = u max_k (|scale x_k| + 2 |s_k|) what the scores are off by, which is 0
/// without scale and bias, the error of y is at most (2 e + (n / 16 + 24 + |s - m|) u) y + 2^-148,
/// and that of its logarithm 2 e + u (n / 16 + 24 + 2 |y| + |s - m|). In bf16, before the result is
/// rounded to it, 24 is 150 in both, for the exponentials are [`math::exp2_coarse`](crate::math::exp2_coarse), |s - m| counts three
/// times, and 2^-148 is 2^-126.
///
/// ```
/// use tilewright_kernels::{Backend, ColumnMask, Rows, Softmax, ViewMut};
/// let mut x = [5., 5., f32::NAN, 1., 2., 3.];
/// let rows = Rows::InPlace(ViewMut::new(&mut x, [2, 3])?);
/// Backend::best().run(Softmax { rows, scale: 1., mask: ColumnMask::Lengths(&[2, 0]), log: false })?;
/// assert_eq!(x, [0.5, 0.5, 0., 0., 0., 0.]);
/// # Ok::<(), tilewright_kernels::Error>(())
/// ```
#[derive(Debug)]
pub struct Softmax<'a, T = f32> {
    /// x and y, \[rows, n\].
    pub rows: Rows<'a, T>,
    /// Multiplies x.
    pub scale: f32,
    /// The columns that count, and what is added to them.
    pub mask: ColumnMask<'a>,
    /// True if y is the logarithm.
    pub log: bool,
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
            let n = row.input().len();
            // None where masked.
            let score = |x: f32, j: usize| match mask.at(i, j) {
                (true, _) => None,
                (false, bias) => Some(f64::from(scale) * f64::from(x) + f64::from(bias)),
            };
            let scores: Vec<_> = (0..n).map(|j| score(row.input()[j].to_f32(), j)).collect();
            let max = scores.iter().flatten().fold(f64::NEG_INFINITY, |m, &s| m.max(s));
            let sum: f64 = scores.iter().flatten().map(|s| (s - max).exp()).sum();
            for (y, score) in row.output().iter_mut().zip(scores) {
                *y = T::from_f32(match score {
                    None if log => f32::NEG_INFINITY,
                    None => 0.0,
                    Some(s) if log => (s - max - sum.ln()) as f32,
                    Some(s) => ((s - max).exp() / sum) as f32,
                });
            }
        }
        Ok(())
    }

    fn eval<I: Isa>(self, isa: I) -> Self::Output {
        self.check()?;
        rows::run(isa, self);
        Ok(())
    }
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
        let mut line = take(isa, first, &mut free, scale, mask, log);
        let mut next = rows.next().map(
            #[inline(always)]
            |row| take(isa, row, &mut free, scale, mask, log),
        );
        line.max = maximum(isa, line.live().input());
        exponentials(isa, &mut line, next.as_mut(), log);
        let mut free = free.next().into_iter();
        loop {
            let mut ahead = None;
            if let Some(next) = &mut next {
                ahead = rows.next().map(
                    #[inline(always)]
                    |row| take(isa, row, &mut free, scale, mask, log),
                );
                exponentials(isa, next, ahead.as_mut(), log);
            }
            free = write(isa, line, mask, log).into_iter();
            match next {
                Some(row) => (line, next) = (row, ahead),
                None => return,
            }
        }
    }
}
