//! Vector operations on single rows of scores, weights and sums, and the merge of partial softmaxes.

use crate::element::Element;
use crate::isa::{Isa, Vector};
use crate::math;
use core::ops::Range;

/// `out` = `f(x)`, vector by vector.
#[inline(always)]
pub(super) fn map<I: Isa, T: Element>(x: &[T], out: &mut [f32], f: impl Fn(&[T]) -> I::V) {
    let mut from = x.chunks_exact(I::V::LANES);
    let mut to = out.chunks_exact_mut(I::V::LANES);
    for (to, from) in to.by_ref().zip(from.by_ref()) {
        f(from).store(to);
    }
    // An empty masked store costs more than all stores of a row.
    let (rest, to) = (from.remainder(), to.into_remainder());
    if !rest.is_empty() {
        f(rest).store_partial(to);
    }
}

/// Largest score in whole vectors, NaN aside.
#[inline(always)]
pub(super) fn largest<I: Isa>(isa: I, scores: &[f32]) -> f32 {
    let mut max = I::V::splat(isa, f32::NEG_INFINITY);
    for cells in scores.chunks_exact(I::V::LANES) {
        max = I::V::load(isa, cells).max(max);
    }
    max.maximum()
}

/// Replaces whole vectors of scores by exp(score - max), and returns their sum.
#[inline(always)]
pub(super) fn exponentials<I: Isa>(isa: I, scores: &mut [f32], max: f32) -> f32 {
    // If all scores are -inf, all weights are 0: -inf - 0 is -inf, but -inf - -inf would be NaN.
    let shift = I::V::splat(isa, finite_shift(max));
    let mut sum = I::V::splat(isa, 0.0);
    for cells in scores.chunks_exact_mut(I::V::LANES) {
        let weight = math::exp_fast(isa, I::V::load(isa, cells) - shift);
        sum = sum + weight;
        weight.store(cells);
    }
    sum.sum()
}

/// `max`, or 0 for -inf.
#[inline(always)]
fn finite_shift(max: f32) -> f32 {
    if max == f32::NEG_INFINITY { 0.0 } else { max }
}

/// Argument along a row of scores: the bias, or the mask.
#[derive(Clone, Copy)]
pub(super) enum KeyRow<'a, T> {
    None,
    /// One element for all keys.
    Same(T),
    /// An element for each key.
    Each(&'a [T]),
}

/// Softcap and biases of a row of scores, applied before the maximum.
pub(super) struct ScoreAdjustment<'a> {
    pub softcap: Option<f32>,
    /// Additive bias; -inf hides a key.
    pub bias: KeyRow<'a, f32>,
    /// Bias by distance of each key.
    pub distance: Option<&'a [f32]>,
}

/// Keys of a row in its window that its bias or its mask hides.
pub(super) struct HiddenKeys<'a> {
    pub bias: KeyRow<'a, f32>,
    pub mask: KeyRow<'a, bool>,
}

impl<T: Copy> KeyRow<'_, T> {
    /// Element of the key at `at`, if there is an argument.
    #[inline(always)]
    fn get(&self, at: usize) -> Option<T> {
        match self {
            KeyRow::None => None,
            KeyRow::Same(x) => Some(*x),
            KeyRow::Each(x) => Some(x[at]),
        }
    }
}

impl KeyRow<'_, bool> {
    /// Sets the scores of keys that the mask hides to -inf.
    #[inline(always)]
    pub fn hide(&self, scores: &mut [f32]) {
        match self {
            KeyRow::None | KeyRow::Same(true) => {}
            KeyRow::Same(false) => scores.fill(f32::NEG_INFINITY),
            KeyRow::Each(mask) => {
                for (score, seen) in scores.iter_mut().zip(*mask) {
                    *score = if *seen { *score } else { f32::NEG_INFINITY };
                }
            }
        }
    }
}

impl HiddenKeys<'_> {
    /// True if the key at `at` is hidden.
    #[inline(always)]
    pub fn contains(&self, at: usize) -> bool {
        self.bias.get(at) == Some(f32::NEG_INFINITY) || self.mask.get(at) == Some(false)
    }
}

impl ScoreAdjustment<'_> {
    /// Adjusts whole vectors of scores, after multiplying them by `scale` if there is one.
    #[inline(always)]
    pub fn apply<I: Isa>(&self, isa: I, scores: &mut [f32], scale: Option<f32>) {
        let lanes = I::V::LANES;
        let hidden = I::V::splat(isa, f32::NEG_INFINITY);
        for (at, cells) in (0..).step_by(lanes).zip(scores.chunks_exact_mut(lanes)) {
            let mut score = I::V::load(isa, cells);
            if let Some(scale) = scale {
                score = score * I::V::splat(isa, scale);
            }
            if let Some(cap) = self.softcap {
                score = math::tanh(isa, score / I::V::splat(isa, cap)) * I::V::splat(isa, cap);
            }
            let bias = match self.bias {
                KeyRow::None => None,
                KeyRow::Same(bias) => Some(I::V::splat(isa, bias)),
                KeyRow::Each(bias) => Some(I::V::load_partial(isa, bias.get(at..).unwrap_or(&[]), 0.0)),
            };
            if let Some(bias) = bias {
                score = score + bias;
            }
            if let Some(distance) = self.distance {
                score = score + I::V::load_partial(isa, distance.get(at..).unwrap_or(&[]), 0.0);
            }
            // Last, so that a hidden key stays hidden even if its score is NaN.
            if let Some(bias) = bias {
                score = hidden.select(bias.eq(hidden), score);
            }
            score.store(cells);
        }
    }
}

/// True if the k-groups `k_groups` of all panels, `panel_len` floats apart, hold neither NaN nor infinity.
/// `elements` unpacks a vector of k-groups.
#[inline(always)]
pub(super) fn all_finite<I: Isa, const N: usize>(
    isa: I,
    (panels, panel_len): (&[f32], usize),
    k_groups: Range<usize>,
    elements: impl Fn(I::V) -> [I::V; N],
) -> bool {
    let zero = I::V::splat(isa, 0.0);
    let mut sum = zero;
    for panel in panels.chunks_exact(panel_len) {
        for cells in panel[k_groups.start * I::NR..k_groups.end * I::NR].chunks_exact(I::V::LANES) {
            // 0 times a finite number is 0; 0 times NaN or infinity is NaN.
            for v in elements(I::V::load(isa, cells)) {
                sum = v.mul_add(zero, sum);
            }
        }
    }
    sum.sum() == 0.0
}

/// Merge of the m and l of two partial softmaxes, one row in each lane.
pub(super) struct MergeFactors<V> {
    /// m' = max(m, m_b).
    pub max: V,
    /// l'.
    pub sum: V,
    /// exp(m - m'), the factor of O.
    pub old: V,
    /// exp(m_b - m'), the factor of O_b.
    pub new: V,
}

/// Merges `(m, l)` of two partial softmaxes, for one row in each lane.
#[inline(always)]
pub(super) fn merge<I: Isa>(isa: I, old: (I::V, I::V), new: (I::V, I::V)) -> MergeFactors<I::V> {
    let none = I::V::splat(isa, f32::NEG_INFINITY);
    let max = old.0.max(new.0);
    // As in `exponentials`.
    let shift = I::V::splat(isa, 0.0).select(max.eq(none), max);
    let old_factor = math::exp_fast(isa, old.0 - shift);
    let new_factor = math::exp_fast(isa, new.0 - shift);
    let sum = old.1.mul_add(old_factor, new.1 * new_factor);
    MergeFactors { max, sum, old: old_factor, new: new_factor }
}

/// `out = (old * out + new * values) * factor`; `out` is not read if `old` is `None`.
///
/// With a factor the result is never -0: a block that a row does not see then leaves the bits of the row unchanged.
#[inline(always)]
pub(super) fn combine<I: Isa>(
    isa: I,
    out: &mut [f32],
    old: Option<f32>,
    (values, new): (&[f32], f32),
    factor: Option<f32>,
) {
    // Four loops without branches rather than one with two.
    let (new, zero) = (I::V::splat(isa, new), I::V::splat(isa, 0.0));
    match (old, factor) {
        (None, None) => each(
            isa,
            out,
            values,
            #[inline(always)]
            |_, values| values * new,
        ),
        (None, Some(factor)) => {
            let factor = I::V::splat(isa, factor);
            each(
                isa,
                out,
                values,
                #[inline(always)]
                |_, values| (values * new).mul_add(factor, zero),
            );
        }
        (Some(old), None) => {
            let old = I::V::splat(isa, old);
            each(
                isa,
                out,
                values,
                #[inline(always)]
                |out, values| out.mul_add(old, values * new),
            );
        }
        (Some(old), Some(factor)) => {
            let (old, factor) = (I::V::splat(isa, old), I::V::splat(isa, factor));
            each(
                isa,
                out,
                values,
                #[inline(always)]
                |out, values| out.mul_add(old, values * new).mul_add(factor, zero),
            );
        }
    }
}

/// `out[i] = f(out[i], x[i])`, vector by vector.
#[inline(always)]
fn each<I: Isa>(isa: I, out: &mut [f32], x: &[f32], f: impl Fn(I::V, I::V) -> I::V) {
    let x = &x[..out.len()];
    let mut to = out.chunks_exact_mut(I::V::LANES);
    let mut from = x.chunks_exact(I::V::LANES);
    for (to, from) in to.by_ref().zip(from.by_ref()) {
        f(I::V::load(isa, to), I::V::load(isa, from)).store(to);
    }
    let (to, from) = (to.into_remainder(), from.remainder());
    if !to.is_empty() {
        f(I::V::load_partial(isa, to, 0.0), I::V::load_partial(isa, from, 0.0)).store_partial(to);
    }
}
