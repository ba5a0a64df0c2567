//! P and dS of one row of a block.

use super::super::query_rows::QueryRows;
use super::super::row_ops::{HiddenKeys, KeyRow, ScoreAdjustment};
use crate::isa::{Isa, Vector};
use crate::math;
use crate::view::ViewMut;
use core::ops::Range;

/// Statistics of a row.
#[derive(Clone, Copy)]
pub(super) struct RowStatistics {
    /// Log-sum-exp; -inf for a row that sees no key.
    pub lse: f32,
    /// D, the sum of dO O.
    pub delta: f32,
}

/// Replaces scores by m P, P = exp(s - lse), and the products dO V^T by dS = P (m (dO V^T) - D), in whole vectors.
/// `scale` multiplies the scores first. `kept` holds m of each key; without it, m is 1.
#[inline(always)]
pub(super) fn weigh<I: Isa>(
    isa: I,
    scores: &mut [f32],
    products: &mut [f32],
    scale: Option<f32>,
    kept: Option<&[f32]>,
    RowStatistics { lse, delta }: RowStatistics,
) {
    let lanes = I::V::LANES;
    let (lse, delta) = (I::V::splat(isa, lse), I::V::splat(isa, delta));
    let scale = scale.map(|scale| I::V::splat(isa, scale));
    let rows = scores.chunks_exact_mut(lanes).zip(products.chunks_exact_mut(lanes));
    for (at, (scores, products)) in (0..).step_by(lanes).zip(rows) {
        let score = I::V::load(isa, scores);
        let score = match scale {
            Some(scale) => score * scale,
            None => score,
        };
        let weight = math::exp_fast(isa, score - lse);
        let product = I::V::load(isa, products);
        let (kept_weight, product) = match kept {
            Some(kept) => {
                let kept = I::V::load(isa, &kept[at..]);
                (weight * kept, product * kept)
            }
            None => (weight, product),
        };
        kept_weight.store(scores);
        (weight * (product - delta)).store(products);
    }
}

/// Softcap, biases and gradients of biases of one row, where a call has them.
pub(super) struct RowBiases<'a, 'g> {
    pub rows: &'a QueryRows<'a>,
    pub row: usize,
    /// First key of the block, counted from the first of the sequence.
    pub block: usize,
    /// Scale of the scores, if they are not scaled yet.
    pub scale: Option<f32>,
    /// m of the keys from the first of `whole` on, with dropout.
    pub kept: Option<&'a [f32]>,
    /// Gradient of the bias, of the keys of the block: \[1, heads or 1, queries or 1, keys or 1\].
    pub bias: Option<&'a mut ViewMut<'g, 4>>,
    /// Sums by distance from that of the block's first key on.
    pub distances: &'a mut [f32],
}

impl RowBiases<'_, '_> {
    /// As [`weigh`] for the keys `keys` of the block, with softcap and biases. `slopes` holds as many floats.
    #[inline(always)]
    pub fn weigh<I: Isa>(
        self,
        isa: I,
        scores: &mut [f32],
        products: &mut [f32],
        (keys, whole): (&Range<usize>, &Range<usize>),
        slopes: &mut [f32],
        statistics: RowStatistics,
    ) {
        let Self { rows, row, block, scale, kept, bias, distances } = self;
        let inputs = rows.inputs;
        let (scores, products) = (&mut scores[whole.clone()], &mut products[whole.clone()]);
        let slopes = &mut slopes[..scores.len()];
        let scale = match inputs.softcap {
            Some(cap) => {
                cap_scores(isa, scores, slopes, scale, cap);
                None
            }
            None => scale,
        };
        let adjustment = rows.adjustment(row, block + whole.start);
        let hidden = rows.hidden(row, block + whole.start);
        ScoreAdjustment { softcap: None, ..adjustment }.apply(isa, scores, scale);
        weigh(isa, scores, products, None, kept, statistics);
        for x in [&mut *scores, &mut *products, &mut *slopes] {
            clear(isa, &hidden, x);
        }
        let seen = &products[keys.start - whole.start..keys.end - whole.start];
        if let Some(gradient) = bias {
            let [_, heads, queries, columns] = gradient.shape();
            let (query, head) = inputs.query_and_head(row);
            let index = [0, if heads > 1 { head } else { 0 }, if queries > 1 { query } else { 0 }, 0];
            let to = gradient.row_mut(index);
            if columns > 1 {
                add(isa, &mut to[keys.clone()], seen);
            } else if let Some(sum) = to.first_mut() {
                *sum += crate::lanes::sum(
                    isa,
                    seen,
                    0.0,
                    #[inline(always)]
                    |x| x,
                );
            }
        }
        if !distances.is_empty() {
            add(isa, &mut distances[keys.clone()], seen);
        }
        if inputs.softcap.is_some() {
            for (product, slope) in products.iter_mut().zip(slopes) {
                *product *= *slope;
            }
        }
    }
}

/// Replaces scores by cap tanh(scale s / cap), and writes the derivatives by scale s.
#[inline(always)]
fn cap_scores<I: Isa>(isa: I, scores: &mut [f32], slopes: &mut [f32], scale: Option<f32>, cap: f32) {
    let lanes = I::V::LANES;
    let (cap, one) = (I::V::splat(isa, cap), I::V::splat(isa, 1.0));
    let scale = I::V::splat(isa, scale.unwrap_or(1.0));
    for (scores, slopes) in scores.chunks_exact_mut(lanes).zip(slopes.chunks_exact_mut(lanes)) {
        let tanh = math::tanh(isa, I::V::load(isa, scores) * scale / cap);
        (tanh * cap).store(scores);
        ((one - tanh) * (one + tanh)).store(slopes);
    }
}

/// Writes zeros to the elements of hidden keys.
#[inline(always)]
fn clear<I: Isa>(isa: I, hidden: &HiddenKeys<'_>, x: &mut [f32]) {
    let lanes = I::V::LANES;
    match hidden.bias {
        KeyRow::None => {}
        KeyRow::Same(bias) if bias == f32::NEG_INFINITY => x.fill(0.0),
        KeyRow::Same(_) => {}
        KeyRow::Each(bias) => {
            let (zero, none) = (I::V::splat(isa, 0.0), I::V::splat(isa, f32::NEG_INFINITY));
            for (at, cells) in (0..).step_by(lanes).zip(x.chunks_exact_mut(lanes)) {
                let bias = I::V::load_partial(isa, bias.get(at..).unwrap_or(&[]), 0.0);
                zero.select(bias.eq(none), I::V::load(isa, cells)).store(cells);
            }
        }
    }
    match hidden.mask {
        KeyRow::None | KeyRow::Same(true) => {}
        KeyRow::Same(false) => x.fill(0.0),
        KeyRow::Each(mask) => {
            for (x, seen) in x.iter_mut().zip(mask) {
                *x = if *seen { *x } else { 0.0 };
            }
        }
    }
}

/// `sums += x`.
#[inline(always)]
fn add<I: Isa>(isa: I, sums: &mut [f32], x: &[f32]) {
    let lanes = I::V::LANES;
    for (sums, x) in sums.chunks_mut(lanes).zip(x.chunks(lanes)) {
        (I::V::load_partial(isa, sums, 0.0) + I::V::load_partial(isa, x, 0.0)).store_partial(sums);
    }
}
