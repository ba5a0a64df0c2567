//! How the numbers of a block become words that a tile multiplies.
//!
//! ```text
//! method   words             queries         scores        weights
//! Floats   one f32           times scale     as they are   exp(s - m)
//! Pairs    two of bf16       as they are     times scale   exp(s - m), rounded to bf16
//! ```
//!
//! Pairs along the dimensions of a head are neighbours. Those along keys are of keys as far from each
//! other as a vector has lanes, so that two vectors of weights become one of words lane by lane, on any
//! instruction set:
//!
//! ```text
//! keys      0 .. L-1 | L .. 2L-1          words     0 .. L-1: (key 0, key L), (key 1, key L+1), ..
//! ```
//!
//! Sums of weights are of what is not yet rounded: so they, and the log-sum-exp, are as exact as those
//! of f32, and a weight's rounding, at most 2^-8 of it, is all that an output gains in error.

use super::operand::{Stored, with_stored};
use super::row::{all_finite, exponentials, largest, map};
use super::stage::{pack_staged, place};
use crate::element::{Element, first_bf16_bits, first_lanes};
use crate::gemm::{pack_pairs, pack_panels};
use crate::isa::{Broadcast, F32, Isa, Multiply, Vector, WORDS};
use crate::math;
use core::f32::consts::{LN_2, LOG2_E};
use core::ops::Range;

/// A way to compute a block. A row of its scores, in memory, is of KEYS floats.
pub(super) trait Method<I: Isa>: Copy + Send + Sync {
    /// What multiplies the words.
    type Multiply: Multiply<I>;

    /// Numbers in a word.
    const NUMBERS: usize;

    /// Whether scores are still to be multiplied by the scale.
    const SCALES_SCORES: bool;

    fn multiply(self) -> Self::Multiply;

    /// Words of so many numbers.
    fn words(n: usize) -> usize;

    /// The least range that holds all of `keys`, not none, and whose scores become weights at once.
    fn whole(keys: &Range<usize>) -> Range<usize>;

    /// The least range that holds all of `keys` and that a tile sums over.
    fn summed(keys: &Range<usize>) -> Range<usize>;

    /// Packs a part of a query to as many words.
    fn pack_query<T: Element>(self, isa: I, query: &[T], scale: f32, to: &mut [f32]);

    /// Packs a part of a key to as many words.
    fn pack_row<T: Element>(self, isa: I, row: &[T], to: &mut [f32]);

    /// Packs keys to panels, `panel_len` floats apart. `memory` has [`staged`](super::stage::staged) floats.
    fn pack_keys(self, isa: I, keys: Stored<'_, 2>, panels: &mut [f32], panel_len: usize, memory: &mut [f32]);

    /// Packs values, those of the keys `keys`, to panels, so many floats apart: all that
    /// [`summed`](Self::summed) makes of these, zeros for the others.
    fn pack_values(self, isa: I, values: Stored<'_, 2>, keys: Range<usize>, panels: (&mut [f32], usize));

    /// Writes the value of one key, counted from the panels' first, and leaves those of the others.
    fn put_value<T: Element>(self, isa: I, value: &[T], key: usize, panels: (&mut [f32], usize));

    /// The largest score of a row's `whole` keys, NaN aside; each is multiplied by `factor` first.
    fn largest(self, isa: I, row: &[f32], whole: Range<usize>, factor: f32) -> f32;

    /// Turns scores of a row's `whole` keys into words of weights, in place, and returns the sum of
    /// weights. `max` is what [`largest`](Self::largest) returned, and becomes the natural one.
    fn weigh(self, isa: I, row: &mut [f32], whole: Range<usize>, max: &mut f32, factor: f32) -> f32;

    /// Whether these words of each panel of values, so many floats apart, hold neither NaN nor infinity.
    fn all_finite(self, isa: I, panels: (&[f32], usize), words: Range<usize>) -> bool;

    /// Copies `from`, words of a panel of values from the key `first` on, with zeros for the values of
    /// keys that are not `seen`.
    fn mask_values(self, isa: I, from: &[f32], first: usize, seen: impl Fn(usize) -> bool, to: &mut [f32]);
}

/// Products of f32. Numbers are rounded to bf16 first if that is asked for, but weights never.
#[derive(Clone, Copy)]
pub(super) struct Floats {
    pub rounded: bool,
}

/// Products of pairs of bf16.
#[derive(Clone, Copy)]
pub(super) struct Pairs<M>(pub M);

/// The values of the first `LANES` elements, or of what they are rounded to.
#[inline(always)]
fn widened<I: Isa, T: Element>(isa: I, from: &[T], rounded: bool) -> I::V {
    if rounded && !T::IS_BF16 { first_bf16_bits(isa, from).shl_bits::<16>() } else { first_lanes(isa, from) }
}

impl<I: Isa> Method<I> for Floats {
    type Multiply = Broadcast<F32>;
    const NUMBERS: usize = 1;
    const SCALES_SCORES: bool = false;

    #[inline(always)]
    fn multiply(self) -> Broadcast<F32> {
        Broadcast(F32)
    }

    #[inline(always)]
    fn words(n: usize) -> usize {
        n
    }

    #[inline(always)]
    fn whole(keys: &Range<usize>) -> Range<usize> {
        whole_groups(keys, I::V::LANES)
    }

    #[inline(always)]
    fn summed(keys: &Range<usize>) -> Range<usize> {
        keys.clone()
    }

    #[inline(always)]
    fn pack_query<T: Element>(self, isa: I, query: &[T], factor: f32, to: &mut [f32]) {
        map::<I, T>(
            query,
            to,
            #[inline(always)]
            |part| widened(isa, part, self.rounded) * I::V::splat(isa, factor),
        );
    }

    #[inline(always)]
    fn pack_row<T: Element>(self, isa: I, row: &[T], to: &mut [f32]) {
        map::<I, T>(
            row,
            to,
            #[inline(always)]
            |part| widened(isa, part, self.rounded),
        );
    }

    #[inline(always)]
    fn pack_keys(
        self,
        isa: I,
        keys: Stored<'_, 2>,
        panels: &mut [f32],
        panel_len: usize,
        memory: &mut [f32],
    ) {
        if let (Stored::F32(keys), false) = (keys, self.rounded) {
            return pack_panels(isa, keys.transpose(), panels, panel_len);
        }
        let words = keys.shape()[1];
        with_stored!(keys, keys => pack_staged(
            isa,
            keys,
            [words, 1],
            (panels, panel_len),
            memory,
            #[inline(always)]
            |row, p, to| self.pack_row(isa, &row[p..p + to.len()], to),
        ));
    }

    #[inline(always)]
    fn pack_values(
        self,
        isa: I,
        values: Stored<'_, 2>,
        keys: Range<usize>,
        (panels, panel_len): (&mut [f32], usize),
    ) {
        if let (Stored::F32(values), false) = (values, self.rounded) {
            return pack_panels(isa, values, panels, panel_len);
        }
        with_stored!(values, values => for key in 0..keys.len() {
            self.put_value(isa, values.row([key, 0]), key, (panels, panel_len));
        });
    }

    #[inline(always)]
    fn put_value<T: Element>(
        self,
        isa: I,
        value: &[T],
        key: usize,
        (panels, panel_len): (&mut [f32], usize),
    ) {
        for (panel, part) in value.chunks(I::NR).enumerate() {
            let to = &mut panels[panel * panel_len + key * I::NR..][..I::NR];
            for (at, to) in to.chunks_exact_mut(I::V::LANES).enumerate() {
                let from = part.get(at * I::V::LANES..).unwrap_or(&[]);
                widened(isa, from, self.rounded).store(to);
            }
        }
    }

    #[inline(always)]
    fn largest(self, isa: I, row: &[f32], whole: Range<usize>, _: f32) -> f32 {
        largest(isa, &row[whole])
    }

    #[inline(always)]
    fn weigh(self, isa: I, row: &mut [f32], whole: Range<usize>, max: &mut f32, _: f32) -> f32 {
        exponentials(isa, &mut row[whole], *max)
    }

    #[inline(always)]
    fn all_finite(self, isa: I, panels: (&[f32], usize), words: Range<usize>) -> bool {
        all_finite(
            isa,
            panels,
            words,
            #[inline(always)]
            |v| [v],
        )
    }

    #[inline(always)]
    fn mask_values(self, _: I, from: &[f32], first: usize, seen: impl Fn(usize) -> bool, to: &mut [f32]) {
        let rows = from.chunks_exact(I::NR).zip(to.chunks_exact_mut(I::NR));
        for (key, (from, to)) in rows.enumerate() {
            if seen(first + key) {
                to.copy_from_slice(from);
            } else {
                to.fill(0.0);
            }
        }
    }
}

impl<I: Isa, M: Multiply<I>> Method<I> for Pairs<M> {
    type Multiply = M;
    const NUMBERS: usize = 2;
    const SCALES_SCORES: bool = true;

    #[inline(always)]
    fn multiply(self) -> M {
        self.0
    }

    #[inline(always)]
    fn words(n: usize) -> usize {
        n.div_ceil(2).next_multiple_of(WORDS)
    }

    #[inline(always)]
    fn whole(keys: &Range<usize>) -> Range<usize> {
        whole_groups(keys, 2 * I::V::LANES)
    }

    #[inline(always)]
    fn summed(keys: &Range<usize>) -> Range<usize> {
        whole_groups(keys, 2 * WORDS)
    }

    #[inline(always)]
    fn pack_query<T: Element>(self, isa: I, query: &[T], _: f32, to: &mut [f32]) {
        pack_pairs(isa, query, to);
    }

    #[inline(always)]
    fn pack_row<T: Element>(self, isa: I, row: &[T], to: &mut [f32]) {
        pack_pairs(isa, row, to);
    }

    #[inline(always)]
    fn pack_keys(
        self,
        isa: I,
        keys: Stored<'_, 2>,
        panels: &mut [f32],
        panel_len: usize,
        memory: &mut [f32],
    ) {
        let words = <Self as Method<I>>::words(keys.shape()[1]);
        with_stored!(keys, keys => pack_staged(
            isa,
            keys,
            [words, self.0.depth()],
            (panels, panel_len),
            memory,
            #[inline(always)]
            |row, p, to| {
                let end = row.len().min(2 * (p + to.len()));
                self.pack_row(isa, &row[2 * p..end], to);
            },
        ));
    }

    #[inline(always)]
    fn pack_values(
        self,
        isa: I,
        values: Stored<'_, 2>,
        keys: Range<usize>,
        (panels, panel_len): (&mut [f32], usize),
    ) {
        let (lanes, depth) = (I::V::LANES, self.0.depth());
        let summed = <Self as Method<I>>::summed(&keys);
        with_stored!(values, values => for first in summed.clone().step_by(2 * lanes) {
            for key in first..first + lanes {
                let row = |key: usize| {
                    if keys.contains(&key) { values.row([key - keys.start, 0]) } else { &[] }
                };
                let (low, high) = (row(key), row(key + lanes));
                let word = (first - summed.start) / 2 + key - first;
                for (panel, to) in panels.chunks_mut(panel_len).enumerate() {
                    for column in (0..I::NR).step_by(lanes) {
                        let at = panel * I::NR + column;
                        let low = first_bf16_bits(isa, low.get(at..).unwrap_or(&[]));
                        let high = first_bf16_bits(isa, high.get(at..).unwrap_or(&[]));
                        let words = low.or_bits(high.shl_bits::<16>());
                        if depth == 1 {
                            words.store(&mut to[word * I::NR + column..]);
                            continue;
                        }
                        let mut each = [0.0; 16];
                        words.store(&mut each);
                        for (i, x) in each[..lanes].iter().enumerate() {
                            to[place(I::NR, word, column + i, depth)] = *x;
                        }
                    }
                }
            }
        });
    }

    #[inline(always)]
    fn put_value<T: Element>(
        self,
        isa: I,
        value: &[T],
        key: usize,
        (panels, panel_len): (&mut [f32], usize),
    ) {
        let (lanes, depth) = (I::V::LANES, self.0.depth());
        let (word, high) = (key / (2 * lanes) * lanes + key % lanes, key / lanes % 2 == 1);
        let others = if high { 0xffff } else { 0xffff_0000 };
        for (part, panel) in value.chunks(I::NR).zip(panels.chunks_mut(panel_len)) {
            for column in (0..I::NR).step_by(lanes) {
                let bits = first_bf16_bits(isa, part.get(column..).unwrap_or(&[]));
                let bits = if high { bits.shl_bits::<16>() } else { bits };
                if depth == 1 {
                    let to = &mut panel[word * I::NR + column..];
                    let kept = I::V::load(isa, to).and_bits(I::V::splat_bits(isa, others));
                    kept.or_bits(bits).store(to);
                    continue;
                }
                let mut each = [0.0; 16];
                bits.store(&mut each);
                for (i, x) in each[..lanes].iter().enumerate() {
                    let to = &mut panel[place(I::NR, word, column + i, depth)];
                    *to = f32::from_bits(to.to_bits() & others | x.to_bits());
                }
            }
        }
    }

    #[inline(always)]
    fn largest(self, isa: I, row: &[f32], whole: Range<usize>, factor: f32) -> f32 {
        let factor = I::V::splat(isa, factor);
        let mut max = [I::V::splat(isa, f32::NEG_INFINITY); 2];
        for cells in row[whole].chunks_exact(2 * I::V::LANES) {
            let (a, b) = cells.split_at(I::V::LANES);
            max[0] = (I::V::load(isa, a) * factor).max(max[0]);
            max[1] = (I::V::load(isa, b) * factor).max(max[1]);
        }
        max[0].max(max[1]).maximum()
    }

    /// Scores come in powers of two: `factor` has log2(e) in it.
    #[inline(always)]
    fn weigh(self, isa: I, row: &mut [f32], whole: Range<usize>, max: &mut f32, factor: f32) -> f32 {
        let lanes = I::V::LANES;
        let row = &mut row[..whole.end];
        // As in `exponentials`.
        let shift = I::V::splat(isa, if *max == f32::NEG_INFINITY { 0.0 } else { *max });
        let factor = I::V::splat(isa, factor);
        // Half of the last place that stays: ties go up, which is no further than to even. What it makes
        // of a NaN does not matter: the sum is one.
        let half = I::V::splat_bits(isa, 0x8000);
        let upper = I::V::splat_bits(isa, 0xffff_0000);
        let mut sums = [I::V::splat(isa, 0.0); 2];
        for at in whole.step_by(2 * lanes) {
            let a = math::exp2_coarse(isa, I::V::load(isa, &row[at..]) * factor - shift);
            let b = math::exp2_coarse(isa, I::V::load(isa, &row[at + lanes..]) * factor - shift);
            sums = [sums[0] + a, sums[1] + b];
            let low = a.add_bits(half).shr_bits::<16>();
            low.or_bits(b.add_bits(half).and_bits(upper)).store(&mut row[at / 2..]);
        }
        *max *= LN_2;
        (sums[0] + sums[1]).sum()
    }

    #[inline(always)]
    fn all_finite(self, isa: I, panels: (&[f32], usize), words: Range<usize>) -> bool {
        all_finite(
            isa,
            panels,
            words,
            #[inline(always)]
            |v| [v.and_bits(I::V::splat_bits(isa, 0xffff_0000)), v.shl_bits::<16>()],
        )
    }

    #[inline(always)]
    fn mask_values(self, _: I, from: &[f32], first: usize, seen: impl Fn(usize) -> bool, to: &mut [f32]) {
        let lanes = I::V::LANES;
        for word in 0..to.len() / I::NR {
            let low = first + word / lanes * 2 * lanes + word % lanes;
            let half = |key: usize, mask: u32| if seen(key) { mask } else { 0 };
            let mask = half(low, 0xffff) | half(low + lanes, 0xffff_0000);
            for column in 0..I::NR {
                let at = place(I::NR, word, column, self.0.depth());
                to[at] = f32::from_bits(from[at].to_bits() & mask);
            }
        }
    }
}

/// Runs an expression with the method of an instruction set for bf16, or for f32.
macro_rules! with_method {
    ($isa:expr, $bf16:expr, $method:ident => $body:expr) => {
        match $isa.bf16() {
            Some(multiply) if $bf16 => {
                let $method = $crate::attention::method::Pairs(multiply);
                $body
            }
            _ => {
                let $method = $crate::attention::method::Floats { rounded: $bf16 };
                $body
            }
        }
    };
}
pub(super) use with_method;

/// What scores of pairs are multiplied by, for powers of two, if they are still to be scaled, or not.
#[inline(always)]
pub(super) fn factor(scale: f32) -> f32 {
    scale * LOG2_E
}

/// The least whole groups of `n` that hold all of `keys`; none for none.
#[inline(always)]
fn whole_groups(keys: &Range<usize>, n: usize) -> Range<usize> {
    if keys.is_empty() { keys.clone() } else { keys.start / n * n..keys.end.next_multiple_of(n) }
}
