//! The steps that a row takes: its scores, their exponentials and sum, what is written.

use super::mask::ColumnMask;
use crate::element::Element;
use crate::isa::{Isa, Vector};
use crate::lanes::{
    NONE, RowSlices, accumulators, largest, map, maximum, narrow, narrow_pairs, read, total, widen,
    widen_pairs,
};
use crate::math;
use core::f32::consts::LOG2_E;

/// Rows that are on their way: one is written, of the next the exponentials are summed up, and meanwhile
/// the largest score of that after it is found. So none waits for what a step ends in, a maximum or a sum
/// over the lanes, which is a long chain of single operations: another row's step is between.
pub(super) const ROWS_IN_FLIGHT: usize = 3;

/// A row on its way.
pub(super) struct RowInFlight<'a, T> {
    /// Which of the rows it is.
    i: usize,
    /// Its scores, then its exponentials; of rows of f32, the row itself.
    wide: RowSlices<'a>,
    /// The columns that the mask does not cut off.
    live: usize,
    /// True if the scores are in the order of [`Element::load_pair`].
    pairs: bool,
    /// Where other rows go.
    out: Option<&'a mut [T]>,
    /// The largest score.
    pub max: f32,
    /// Of the exponentials.
    sum: f32,
}

impl<T> RowInFlight<'_, T> {
    #[inline(always)]
    pub fn live(&mut self) -> RowSlices<'_> {
        self.wide.slice(0..self.live)
    }
}

/// Cuts row `i` to the mask's length and fills the hidden columns; returns the visible part and its length.
#[inline(always)]
fn cut<'a, T: Element>(
    row: RowSlices<'a, T>,
    mask: ColumnMask<'_>,
    i: usize,
    log: bool,
) -> (RowSlices<'a, T>, usize) {
    let n = row.input().len();
    let ColumnMask::Lengths(lengths) = mask else { return (row, n) };
    let (row, mut masked) = row.split_at(lengths[i]);
    masked.output().fill(T::from_f32(if log { f32::NEG_INFINITY } else { 0.0 }));
    (row, lengths[i])
}

/// Row `i` with its scores; of another type than f32, in `memory` for one row.
#[inline(always)]
pub(super) fn take<'a, I: Isa, T: Element>(
    isa: I,
    (i, row): (usize, RowSlices<'a, T>),
    memory: &mut impl Iterator<Item = &'a mut [f32]>,
    scale: f32,
    mask: ColumnMask<'_>,
    log: bool,
) -> RowInFlight<'a, T> {
    let (row, live) = cut(row, mask, i, log);
    // Any order will do where columns are alike.
    let pairs = T::IS_BF16 && matches!(mask, ColumnMask::None | ColumnMask::Lengths(_));
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
            (RowSlices::InPlace(wide), Some(row.into_output()))
        }
    };
    let mut line = RowInFlight { i, wide, live, pairs, out, max: 0.0, sum: 0.0 };
    score(isa, &mut line, scale, mask);
    line
}

/// Replaces x by s where they differ, -inf where masked.
#[inline(always)]
fn score<I: Isa, T>(isa: I, line: &mut RowInFlight<'_, T>, scale: f32, mask: ColumnMask<'_>) {
    let (factor, never) = (I::V::splat(isa, scale), I::V::splat(isa, f32::NEG_INFINITY));
    let i = line.i;
    let mut row = line.live();
    match mask {
        ColumnMask::None | ColumnMask::Lengths(_) if scale == 1.0 => return,
        ColumnMask::None | ColumnMask::Lengths(_) => map(
            isa,
            [&mut row],
            NONE,
            0.0,
            #[inline(always)]
            |_, [x], []| [x * factor],
        ),
        ColumnMask::Bias(bias) => map(
            isa,
            [&mut row],
            [bias.row([i, 0])],
            0.0,
            #[inline(always)]
            |_, [x], [bias]| [never.select(bias.eq(never), x.mul_add(factor, bias))],
        ),
        ColumnMask::Keep(keep) => {
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
pub(super) fn exponentials<I: Isa, T: Element>(
    isa: I,
    line: &mut RowInFlight<'_, T>,
    ahead: Option<&mut RowInFlight<'_, T>>,
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
pub(super) fn write<'a, I: Isa, T: Element>(
    isa: I,
    mut line: RowInFlight<'a, T>,
    mask: ColumnMask<'_>,
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
    row: &mut RowSlices<'_>,
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
            [&mut RowSlices::InPlace(out)],
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
fn undefined(out: &mut [f32], mask: ColumnMask<'_>, i: usize, log: bool) {
    for (j, y) in out.iter_mut().enumerate() {
        *y = match mask.at(i, j) {
            (false, _) => f32::NAN,
            (true, _) if log => f32::NEG_INFINITY,
            (true, _) => 0.0,
        };
    }
}
