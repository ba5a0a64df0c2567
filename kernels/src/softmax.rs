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

mod mask;

use crate::backend::Kernel;
use crate::element::Element;
use crate::error::Error;
use crate::isa::lanes::{
    NONE, Row, accumulators, largest, map, maximum, narrow, narrow_pairs, read, total, widen, widen_pairs,
};
use crate::isa::{Isa, Vector};
use crate::math;
use crate::rows::{self, RowKernel, Rows};
use core::f32::consts::LOG2_E;
pub use mask::Mask;

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
/// rounded to it, 24 is 150 in both, for the exponentials are [`math::exp2_coarse`], |s - m| counts three
/// times, and 2^-148 is 2^-126.
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
        let [rows, n] = self.shape();
        if T::f32s(&[]).is_some() { 0 } else { n * rows.min(ON_THEIR_WAY) }
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

/// Rows that are on their way: one is written, of the next the exponentials are summed up, and meanwhile
/// the largest score of that after it is found. So none waits for what a step ends in, a maximum or a sum
/// over the lanes, which is a long chain of single operations: another row's step is between.
const ON_THEIR_WAY: usize = 3;

/// A row on its way.
struct Line<'a, T> {
    /// Which of the rows it is.
    i: usize,
    /// Its scores, then its exponentials; of rows of f32, the row itself.
    wide: Row<'a>,
    /// The columns that the mask does not cut off.
    live: usize,
    /// Whether the scores are in the order of [`Element::load_pair`].
    pairs: bool,
    /// Where other rows go.
    out: Option<&'a mut [T]>,
    /// The largest score.
    max: f32,
    /// Of the exponentials.
    sum: f32,
}

impl<T> Line<'_, T> {
    #[inline(always)]
    fn live(&mut self) -> Row<'_> {
        self.wide.slice(0..self.live)
    }
}

/// Row `i` with its columns cut to the mask's length, of which there are so many; the others are written.
#[inline(always)]
fn cut<'a, T: Element>(row: Row<'a, T>, mask: Mask<'_>, i: usize, log: bool) -> (Row<'a, T>, usize) {
    let n = row.input().len();
    let Mask::Lengths(lengths) = mask else { return (row, n) };
    let (row, mut masked) = row.split_at(lengths[i]);
    masked.output().fill(T::from_f32(if log { f32::NEG_INFINITY } else { 0.0 }));
    (row, lengths[i])
}

/// Row `i` with its scores; of another type than f32, in `memory` for one row.
#[inline(always)]
fn take<'a, I: Isa, T: Element>(
    isa: I,
    (i, row): (usize, Row<'a, T>),
    memory: &mut impl Iterator<Item = &'a mut [f32]>,
    scale: f32,
    mask: Mask<'_>,
    log: bool,
) -> Line<'a, T> {
    let (row, live) = cut(row, mask, i, log);
    // Any order will do where columns are alike.
    let pairs = T::IS_BF16 && matches!(mask, Mask::None | Mask::Lengths(_));
    let (wide, out) = match T::f32_row(row) {
        Ok(wide) => (wide, None),
        Err(row) => {
            // There is memory for all rows on their way, unless they have no columns.
            let wide = memory.next().unwrap_or_default();
            if pairs {
                widen_pairs(isa, row.input(), &mut wide[..live]);
            } else {
                widen(isa, row.input(), &mut wide[..live]);
            }
            (Row::InPlace(wide), Some(row.into_output()))
        }
    };
    let mut line = Line { i, wide, live, pairs, out, max: 0.0, sum: 0.0 };
    score(isa, &mut line, scale, mask);
    line
}

/// Replaces x by s where they differ, -inf where masked.
#[inline(always)]
fn score<I: Isa, T>(isa: I, line: &mut Line<'_, T>, scale: f32, mask: Mask<'_>) {
    let (factor, never) = (I::V::splat(isa, scale), I::V::splat(isa, f32::NEG_INFINITY));
    let i = line.i;
    let mut row = line.live();
    match mask {
        Mask::None | Mask::Lengths(_) if scale == 1.0 => return,
        Mask::None | Mask::Lengths(_) => map(
            isa,
            [&mut row],
            NONE,
            0.0,
            #[inline(always)]
            |_, [x], []| [x * factor],
        ),
        Mask::Bias(bias) => map(
            isa,
            [&mut row],
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
    line.wide.keep_output();
}

/// m, the largest score of a row, as exponentials take it.
#[derive(Clone, Copy)]
struct Center<V> {
    m: V,
    /// -m log2(e).
    shift: V,
}

impl<V: Copy> Center<V> {
    #[inline(always)]
    fn of<I: Isa<V = V>>(isa: I, m: f32) -> Self
    where
        V: Vector<I>,
    {
        Self { m: I::V::splat(isa, m), shift: I::V::splat(isa, -m * LOG2_E) }
    }

    /// e^(s - m), as far as it matters to `T`; if `SCALED`, it may be that times a number which is near 1 and
    /// the same for all of the row.
    #[inline(always)]
    fn exponential<I: Isa<V = V>, T: Element, const SCALED: bool>(self, isa: I, s: V) -> V
    where
        V: Vector<I>,
    {
        let log2_e = I::V::splat(isa, LOG2_E);
        match T::IS_BF16 {
            // What the shift was rounded by is the same for all.
            true if SCALED && I::V::FUSED => math::exp2_coarse(isa, s.mul_add(log2_e, self.shift)),
            true => math::exp2_coarse(isa, (s - self.m) * log2_e),
            false => math::exp_down(isa, s - self.m),
        }
    }
}

/// Largest magnitude of a score that [`Center::exponential`] may scale by: what it is off by is 2^-7 at most.
const NEAR: f32 = 65_536.0;

/// Makes 0 of the largest score.
#[cold]
#[inline(never)]
fn subtract(row: &mut [f32], max: f32) {
    for s in row {
        *s -= max;
    }
}

/// Sums up a row's exponentials, which replace its scores if they are what is asked for, and finds the
/// largest score of the row ahead.
#[inline(always)]
fn exponentials<I: Isa, T: Element>(
    isa: I,
    line: &mut Line<'_, T>,
    ahead: Option<&mut Line<'_, T>>,
    log: bool,
) {
    if T::IS_BF16 && !log && line.max.is_finite() && line.max.abs() > NEAR {
        subtract(line.wide.slice(0..line.live).output(), line.max);
        line.max = 0.0;
    }
    let center = Center::of(isa, line.max);
    let mut sums = accumulators(isa, 0.0);
    let mut maxima = accumulators(isa, f32::NEG_INFINITY);
    let never = f32::NEG_INFINITY;
    let mut row = line.live();
    match ahead {
        Some(ahead) if ahead.live == row.input().len() => {
            if log {
                read(
                    isa,
                    [row.input(), ahead.live().input()],
                    never,
                    #[inline(always)]
                    |g, [s, t]| {
                        sums[g] = sums[g] + center.exponential::<I, T, false>(isa, s);
                        maxima[g] = maxima[g].max(t);
                    },
                );
            } else {
                map(
                    isa,
                    [&mut row],
                    [ahead.live().input()],
                    never,
                    #[inline(always)]
                    |g, [s], [t]| {
                        let e = center.exponential::<I, T, true>(isa, s);
                        sums[g] = sums[g] + e;
                        maxima[g] = maxima[g].max(t);
                        [e]
                    },
                );
            }
            ahead.max = largest::<I>(maxima);
        }
        ahead => {
            if log {
                read(
                    isa,
                    [row.input()],
                    never,
                    #[inline(always)]
                    |g, [s]| sums[g] = sums[g] + center.exponential::<I, T, false>(isa, s),
                );
            } else {
                map(
                    isa,
                    [&mut row],
                    NONE,
                    never,
                    #[inline(always)]
                    |g, [s], []| {
                        let e = center.exponential::<I, T, true>(isa, s);
                        sums[g] = sums[g] + e;
                        [e]
                    },
                );
            }
            if let Some(ahead) = ahead {
                ahead.max = maximum(isa, ahead.live().input());
            }
        }
    }
    line.sum = total::<I>(sums);
    if !log {
        line.wide.keep_output();
    }
}

/// Writes a row of which the largest score and the sum are known; returns the memory that it was in.
#[inline(always)]
fn write<'a, I: Isa, T: Element>(
    isa: I,
    mut line: Line<'a, T>,
    mask: Mask<'_>,
    log: bool,
) -> Option<&'a mut [f32]> {
    let (i, pairs, max, sum, mut out) = (line.i, line.pairs, line.max, line.sum, line.out.take());
    let mut row = line.live();
    // The largest score alone contributes e^0, unless there is none or it is not finite.
    if !(0.5..=f32::MAX).contains(&sum) {
        let row = row.into_output();
        undefined(row, mask, i, log);
        if let Some(out) = &mut out {
            narrow(isa, row, out);
        }
    } else if log {
        let mut lanes = [0.0];
        math::log(isa, I::V::splat(isa, sum)).store_partial(&mut lanes);
        let (center, logarithm) = (I::V::splat(isa, max), I::V::splat(isa, lanes[0]));
        apply(
            isa,
            &mut row,
            (&mut out, pairs),
            #[inline(always)]
            |s| (s - center) - logarithm,
        );
    } else {
        let factor = I::V::splat(isa, 1.0 / sum);
        apply(
            isa,
            &mut row,
            (&mut out, pairs),
            #[inline(always)]
            |e| e * factor,
        );
    }
    out.map(|_| line.wide.into_output())
}

/// Writes `f` of the row, which may be in the order of pairs, to `out` if there is one.
#[inline(always)]
fn apply<I: Isa, T: Element>(
    isa: I,
    row: &mut Row<'_>,
    (out, pairs): (&mut Option<&mut [T]>, bool),
    f: impl Fn(I::V) -> I::V,
) {
    match out {
        None => map(
            isa,
            [row],
            NONE,
            0.0,
            #[inline(always)]
            |_, [x], []| [f(x)],
        ),
        Some(out) if pairs => narrow_pairs(isa, row.input(), out, f),
        Some(out) => map(
            isa,
            [&mut Row::InPlace(out)],
            [row.input()],
            0.0,
            #[inline(always)]
            |_, [_], [x]| [f(x)],
        ),
    }
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
