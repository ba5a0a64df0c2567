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

use crate::backend::Kernel;
use crate::element::Element;
use crate::error::{Error, expect_shape};
use crate::isa::lanes::{NONE, Row, accumulators, largest, map, maximum, read, total};
use crate::isa::{Isa, Vector};
use crate::math;
use crate::rows::{self, RowKernel, Rows, expect_unit_rows};
use crate::view::View;

/// Which columns of a row a softmax is over.
#[derive(Clone, Copy, Debug)]
pub enum Mask<'a> {
    /// All.
    None,
    /// \[rows\]: the first so many columns of each row.
    Lengths(&'a [usize]),
    /// \[rows, n\]: those that are true.
    Keep(View<'a, 2, bool>),
    /// \[rows, n\]: added to the scaled x; masked where it is -inf.
    Bias(View<'a, 2>),
}

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
/// and that of its logarithm 2 e + u (n / 16 + 24 + 2 |y| + |s - m|).
///
/// ```
/// use tilewright_kernels::{Backend, Mask, Rows, Softmax, ViewMut};
/// let mut x = [5., 5., f32::NAN, 1., 2., 3.];
/// let rows = Rows::InPlace(ViewMut::new(&mut x, [2, 3])?);
/// Backend::best().run(Softmax { rows, scale: 1., mask: Mask::Lengths(&[2, 0]), log: false })?;
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
    pub mask: Mask<'a>,
    /// Whether y is the logarithm.
    pub log: bool,
}

impl<T> Softmax<'_, T> {
    fn check(&self) -> Result<(), Error> {
        let [rows, n] = self.rows.check("Softmax.rows")?;
        match self.mask {
            Mask::None => Ok(()),
            Mask::Lengths(lengths) => {
                expect_shape("Softmax.mask", &[lengths.len()], &[rows])?;
                match lengths.iter().position(|&length| length > n) {
                    None => Ok(()),
                    Some(row) => Err(Error::Invalid {
                        what: "Softmax.mask",
                        why: format!("length {} of row {row} exceeds its {n} columns", lengths[row]),
                    }),
                }
            }
            Mask::Keep(keep) => {
                expect_unit_rows("Softmax.mask", keep.has_unit_rows(), keep.strides())?;
                expect_shape("Softmax.mask", &keep.shape(), &[rows, n])
            }
            Mask::Bias(bias) => {
                expect_unit_rows("Softmax.mask", bias.has_unit_rows(), bias.strides())?;
                expect_shape("Softmax.mask", &bias.shape(), &[rows, n])
            }
        }
    }
}

impl<'a> Mask<'a> {
    /// The mask of the rows before `mid`, and of those from it on.
    fn split_at(self, mid: usize) -> (Self, Self) {
        match self {
            Mask::None => (Mask::None, Mask::None),
            Mask::Lengths(lengths) => {
                let (low, high) = lengths.split_at(mid);
                (Mask::Lengths(low), Mask::Lengths(high))
            }
            Mask::Keep(keep) => {
                let rows = keep.shape()[0];
                (Mask::Keep(keep.slice(0, 0..mid)), Mask::Keep(keep.slice(0, mid..rows)))
            }
            Mask::Bias(bias) => {
                let rows = bias.shape()[0];
                (Mask::Bias(bias.slice(0, 0..mid)), Mask::Bias(bias.slice(0, mid..rows)))
            }
        }
    }

    /// Whether column `j` of row `i` is masked, and what is added to it.
    #[inline(always)]
    fn at(self, i: usize, j: usize) -> (bool, f32) {
        match self {
            Mask::None => (false, 0.0),
            Mask::Lengths(lengths) => (j >= lengths[i], 0.0),
            Mask::Keep(keep) => (!keep.get([i, j]), 0.0),
            Mask::Bias(bias) => (bias.get([i, j]) == f32::NEG_INFINITY, bias.get([i, j])),
        }
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

impl<T: Element> RowKernel for Softmax<'_, T> {
    fn shape(&self) -> [usize; 2] {
        self.rows.shape()
    }

    fn split_at(self, mid: usize) -> (Self, Self) {
        let (low, high) = self.rows.split_at(mid);
        let (low_mask, high_mask) = self.mask.split_at(mid);
        (Self { rows: low, mask: low_mask, ..self }, Self { rows: high, mask: high_mask, ..self })
    }

    fn memory(&self) -> usize {
        self.rows.memory()
    }

    #[inline(always)]
    fn run<I: Isa>(self, isa: I, memory: &mut [f32]) {
        let Self { rows, scale, mask, log } = self;
        rows.in_f32(
            isa,
            memory,
            #[inline(always)]
            |start, rows| run(isa, rows, start, scale, mask, log),
        );
    }
}

/// The softmax of all rows, the first of which is the mask's row `start`.
///
/// The largest score of each row is found while the row before it is written, as the statistics of norms
/// are.
#[inline(always)]
fn run<I: Isa>(isa: I, rows: Rows<'_>, start: usize, scale: f32, mask: Mask<'_>, log: bool) {
    let mut rows = (start..).zip(rows.into_iter());
    let Some((mut i, first)) = rows.next() else { return };
    let mut row = scored(isa, first, scale, mask, i, log);
    let mut max = maximum(isa, row.input());
    loop {
        let Some((next_i, next)) = rows.next() else {
            softmax(isa, &mut row, max, &[], mask, i, log);
            return;
        };
        let next = scored(isa, next, scale, mask, next_i, log);
        max = softmax(isa, &mut row, max, next.input(), mask, i, log);
        (i, row) = (next_i, next);
    }
}

/// Row `i` with its columns cut to the mask's length, and scores in place of x where they differ.
#[inline(always)]
fn scored<'a, I: Isa>(isa: I, row: Row<'a>, scale: f32, mask: Mask<'_>, i: usize, log: bool) -> Row<'a> {
    let n = row.input().len();
    let live = if let Mask::Lengths(lengths) = mask { lengths[i] } else { n };
    let (mut row, mut masked) = row.split_at(live);
    masked.output().fill(if log { f32::NEG_INFINITY } else { 0.0 });
    if scale == 1.0 && matches!(mask, Mask::None | Mask::Lengths(_)) {
        return row;
    }
    score(isa, &mut row, scale, mask, i);
    Row::InPlace(row.into_output())
}

/// Replaces x by s, -inf where masked.
#[inline(always)]
fn score<I: Isa>(isa: I, row: &mut Row<'_>, scale: f32, mask: Mask<'_>, i: usize) {
    let (factor, never) = (I::V::splat(isa, scale), I::V::splat(isa, f32::NEG_INFINITY));
    match mask {
        Mask::None | Mask::Lengths(_) => map(
            isa,
            [row],
            NONE,
            0.0,
            #[inline(always)]
            |_, [x], []| [x * factor],
        ),
        Mask::Bias(bias) => map(
            isa,
            [row],
            [bias.row([i, 0])],
            0.0,
            #[inline(always)]
            |_, [x], [bias]| [never.select(bias.eq(never), x.mul_add(factor, bias))],
        ),
        Mask::Keep(keep) => {
            for (j, &keep) in keep.row([i, 0]).iter().enumerate() {
                row.output()[j] = if keep { row.input()[j] * scale } else { f32::NEG_INFINITY };
            }
        }
    }
}

/// The softmax of a row of scores, the largest of which is `max`; returns the largest of `next`.
#[inline(always)]
fn softmax<I: Isa>(
    isa: I,
    row: &mut Row<'_>,
    max: f32,
    next: &[f32],
    mask: Mask<'_>,
    i: usize,
    log: bool,
) -> f32 {
    let center = I::V::splat(isa, max);
    let mut sums = accumulators(isa, 0.0);
    if log {
        read(
            isa,
            [row.input()],
            f32::NEG_INFINITY,
            #[inline(always)]
            |g, [s]| sums[g] = sums[g] + math::exp_down(isa, s - center),
        );
    } else {
        map(
            isa,
            [row],
            NONE,
            f32::NEG_INFINITY,
            #[inline(always)]
            |g, [s], []| {
                let e = math::exp_down(isa, s - center);
                sums[g] = sums[g] + e;
                [e]
            },
        );
    }
    let sum = total::<I>(sums);
    // The largest score alone contributes e^0, unless there is none or it is not finite.
    if !(0.5..=f32::MAX).contains(&sum) {
        undefined(row.output(), mask, i, log);
        return maximum(isa, next);
    }
    if log {
        let mut lanes = [0.0];
        math::log(isa, I::V::splat(isa, sum)).store_partial(&mut lanes);
        let logarithm = I::V::splat(isa, lanes[0]);
        write(
            isa,
            row,
            next,
            #[inline(always)]
            |s| (s - center) - logarithm,
        )
    } else {
        let factor = I::V::splat(isa, 1.0 / sum);
        write(
            isa,
            &mut Row::InPlace(row.output()),
            next,
            #[inline(always)]
            |e| e * factor,
        )
    }
}

/// Applies `f` to the row; returns the largest of `next`.
#[inline(always)]
fn write<I: Isa>(isa: I, row: &mut Row<'_>, next: &[f32], f: impl Fn(I::V) -> I::V) -> f32 {
    if next.len() != row.input().len() {
        map(
            isa,
            [row],
            NONE,
            0.0,
            #[inline(always)]
            |_, [x], []| [f(x)],
        );
        return maximum(isa, next);
    }
    let mut acc = accumulators(isa, f32::NEG_INFINITY);
    map(
        isa,
        [row],
        [next],
        f32::NEG_INFINITY,
        #[inline(always)]
        |g, [x], [s]| {
            acc[g] = acc[g].max(s);
            [f(x)]
        },
    );
    largest::<I>(acc)
}

/// A row without a finite largest score: NaN, but for what is masked.
#[cold]
#[inline(never)]
fn undefined(out: &mut [f32], mask: Mask<'_>, i: usize, log: bool) {
    for (j, y) in out.iter_mut().enumerate() {
        *y = match mask.at(i, j) {
            (false, _) => f32::NAN,
            (true, _) if log => f32::NEG_INFINITY,
            (true, _) => 0.0,
        };
    }
}
