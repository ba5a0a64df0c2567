//! Rows in flight: the steps of a row of a softmax, interleaved with the steps of the next two rows.
//!
//! ```text
//! take           scores: widen x, scale, add the bias
//! exponentials   e^(s - m) and their sum; and meanwhile m of the next row
//! write          e^(s - m) / sum, or (s - m) - ln sum
//! ```

use super::mask::ColumnMask;
use crate::element::Element;
use crate::isa::{Isa, Vector};
use crate::lanes::{
    self, NONE, RowSlices, accumulators, largest, map, maximum, narrow, narrow_pairs, read, total, widen,
    widen_pairs,
};
use crate::math;
use core::f32::consts::LOG2_E;

/// Most rows in flight: while row i waits to be written, the exponentials of row i + 1 are summed up together with the
/// maximum of row i + 2. A maximum or a sum ends in a long dependency chain over the lanes of a vector; the step of
/// another row runs meanwhile.
pub(super) const ROWS_IN_FLIGHT: usize = 3;

/// A row between [`take`] and [`write`].
pub(super) struct RowInFlight<'a, T> {
    /// Index of the row.
    i: usize,
    /// Scores, then exponentials, in f32. If `T` is f32, this is the row itself.
    wide: RowSlices<'a>,
    /// Number of leading columns that the mask's length keeps.
    live: usize,
    /// True if the scores are in the order of [`Element::load_pair`].
    pairs: bool,
    /// Output of the row if `T` is not f32.
    out: Option<&'a mut [T]>,
    /// m, the largest score.
    pub max: f32,
    /// Sum of the exponentials.
    sum: f32,
}

impl<T> RowInFlight<'_, T> {
    #[inline(always)]
    pub fn live(&mut self) -> RowSlices<'_> {
        self.wide.slice(0..self.live)
    }
}

/// Fills the columns of row `i` behind the mask's length; returns the columns before it, and the length.
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

/// Computes the scores of row `i`: in place if `T` is f32, else in the next row of `memory`.
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
    // The order of columns matters only to masks that differ from column to column.
    let pairs = T::IS_BF16 && matches!(mask, ColumnMask::None | ColumnMask::Lengths(_));
    let (wide, out) = match T::f32_row(row) {
        Ok(wide) => (wide, None),
        Err(row) => {
            // `memory` has room for all rows in flight, unless they have no columns.
            let wide = memory.next().unwrap_or_default();
            if pairs {
                widen_pairs(isa, row.input(), &mut wide[..live]);
            } else {
                widen(isa, row.input(), &mut wide[..live]);
            }
            (RowSlices::InPlace(wide), Some(row.into_output()))
        }
    };
    let mut state = RowInFlight { i, wide, live, pairs, out, max: 0.0, sum: 0.0 };
    score(isa, &mut state, scale, mask);
    state
}

/// Replaces x by the score s, -inf if masked. Without scale and bias, x is the score already.
#[inline(always)]
fn score<I: Isa, T>(isa: I, state: &mut RowInFlight<'_, T>, scale: f32, mask: ColumnMask<'_>) {
    let (factor, never) = (I::V::splat(isa, scale), I::V::splat(isa, f32::NEG_INFINITY));
    let i = state.i;
    let mut row = state.live();
    match mask {
        ColumnMask::None | ColumnMask::Lengths(_) if scale == 1.0 => return,
        ColumnMask::None | ColumnMask::Lengths(_) => lanes::scale(isa, &mut row, scale),
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
    state.wide.keep_output();
}

/// m, the largest score of a row, in all lanes.
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

    /// e^(s - m), as exactly as a result needs that is rounded to `T`. If `SCALED`, the result may be multiplied by a
    /// number near 1, the same for the whole row.
    #[inline(always)]
    fn exponential<I: Isa<V = V>, T: Element, const SCALED: bool>(self, isa: I, s: V) -> V
    where
        V: Vector<I>,
    {
        let log2_e = I::V::splat(isa, LOG2_E);
        match T::IS_BF16 {
            // The rounding error of `shift` scales all exponentials of the row alike.
            true if SCALED && I::V::FUSED => math::exp2_coarse(isa, s.mul_add(log2_e, self.shift)),
            true => math::exp2_coarse(isa, (s - self.m) * log2_e),
            false => math::exp_down(isa, s - self.m),
        }
    }
}

/// Largest |m| for which [`Center::exponential`] may scale: the exponents then err by at most 2^-7.
const NEAR: f32 = 65_536.0;

/// Subtracts `max` from a row of scores.
#[cold]
#[inline(never)]
fn subtract(row: &mut [f32], max: f32) {
    for s in row {
        *s -= max;
    }
}

/// Sums up the exponentials of a row, and finds the largest score of the following row. The exponentials replace the
/// scores unless the result is the logarithm.
#[inline(always)]
pub(super) fn exponentials<I: Isa, T: Element>(
    isa: I,
    state: &mut RowInFlight<'_, T>,
    following: Option<&mut RowInFlight<'_, T>>,
    log: bool,
) {
    if T::IS_BF16 && !log && state.max.is_finite() && state.max.abs() > NEAR {
        subtract(state.wide.slice(0..state.live).output(), state.max);
        state.max = 0.0;
    }
    let center = Center::of(isa, state.max);
    let mut sums = accumulators(isa, 0.0);
    let mut maxima = accumulators(isa, f32::NEG_INFINITY);
    let never = f32::NEG_INFINITY;
    let mut row = state.live();
    match following {
        Some(following) if following.live == row.input().len() => {
            if log {
                read(
                    isa,
                    [row.input(), following.live().input()],
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
                    [following.live().input()],
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
            following.max = largest::<I>(maxima);
        }
        following => {
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
            if let Some(following) = following {
                following.max = maximum(isa, following.live().input());
            }
        }
    }
    state.sum = total::<I>(sums);
    if !log {
        state.wide.keep_output();
    }
}

/// Writes a row whose largest score and sum are known; returns the memory of its scores.
#[inline(always)]
pub(super) fn write<'a, I: Isa, T: Element>(
    isa: I,
    mut state: RowInFlight<'a, T>,
    mask: ColumnMask<'_>,
    log: bool,
) -> Option<&'a mut [f32]> {
    let (i, pairs, max, sum, mut out) = (state.i, state.pairs, state.max, state.sum, state.out.take());
    let mut row = state.live();
    // A finite largest score contributes e^0 = 1. Otherwise all columns are masked, or m is not finite.
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
    out.map(|_| state.wide.into_output())
}

/// Writes `f` of a row, which may be in the order of pairs, to `out`, or in place if `out` is `None`.
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

/// Fills a row whose largest score is not finite: NaN in unmasked columns.
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
