//! Fused attention against its definition, and the bits of a row alone against the bits of the row among others.

mod backward;
mod data;
mod params;

use super::bound::{compare, gamma, identical};
use super::stored::Stored;
use super::tensor::{Random, Tensor, indices};
use super::{Check, Failure, Worst};
pub use backward::{AttentionBackward, BackwardParams};
use data::{AttentionData, heads_first};
use half::bf16;
pub use params::Params;
use params::strategy;
pub(super) use params::{BUCKETS, Distance, Start};
use proptest::prelude::BoxedStrategy;
use tilewright_kernels::Backend;

/// Attention with masks, biases, grouped heads, packed and padded sequences, strides.
pub struct Attention;

/// Rows of attention, computed among other rows and alone.
pub struct AttentionRows;

/// Keys of a block. Attention finishes a block before it merges the block with others.
const KEYS: usize = 256;

/// Relative errors of the fast and of the coarse exponential, in units of u.
const EXP_ROUNDINGS: usize = 8;
const COARSE_ROUNDINGS: usize = 53;

/// Relative error of a rounding to bf16.
const BF16_ROUNDING: f64 = 1.0 / 256.0;

/// Upper bound of the x for which exp(-x) is a normal f32.
const UNDERFLOW: f64 = 87.0;

impl Check for Attention {
    const KERNEL: &'static str = "attention";
    type Params = Params;

    fn strategy() -> BoxedStrategy<Params> {
        strategy()
    }

    fn run(p: &Params, backend: Backend) -> Result<Worst, Failure> {
        let data = AttentionData::new(p);
        let (mut found, found_lse) = data.run(p, backend, &data.v, p.stored[1])?;
        let (expected, expected_lse) = data.run(p, Backend::REFERENCE, &data.v, Stored::F32)?;
        let (magnitude, _) = data.run(p, Backend::REFERENCE, &data.v.map(f32::abs), Stored::F32)?;
        let rows = data.rows(p);
        // The result is sum w v / sum w. `share` bounds the error of each sum, relative to its sum of magnitudes.
        // Underflow loses less than the smallest normal number for each key.
        let dv = p.extents[6];
        let lost = p.extents[4] as f64 * f64::from(f32::MIN_POSITIVE) * (1.0 + data.largest_value());
        // Dropout multiplies the result by a number that is rounded once; `magnitude` contains the factor.
        let (factor, scaled) = (p.dropout_factor(), if p.dropout.is_some() { gamma(2) } else { 0.0 });
        let bound = |i: usize| {
            let share = rows[i / dv].weights;
            let twice = (2.0 + gamma(4)) * share / (1.0 - share);
            // The product with v may round the weights to bf16; the sum of the weights does not.
            let rounding = if p.is_bf16() { BF16_ROUNDING * (1.0 + share) / (1.0 - share) } else { 0.0 };
            let error = (twice + rounding + scaled) * f64::from(magnitude[i]) + factor * lost;
            let largest = f64::from(expected[i].abs()) + error;
            let stored = p.stored[1].half_ulp(if largest.is_finite() { largest } else { 0.0 });
            if share < 0.5 { error + stored } else { f64::INFINITY }
        };
        for (i, (found, &expected)) in found.iter_mut().zip(&expected).enumerate() {
            // The weight of an infinite value may underflow to 0 in f32, but not in f64.
            if found.is_nan() && expected.is_infinite() && rows[i / dv].score > UNDERFLOW / 2.0 {
                *found = expected;
            }
        }
        let worst = compare(&found, &expected, bound)?;
        // The log-sum-exp is m + ln(sum w). The logarithm errs by 1 ULP, and m by one rounding for each of its terms.
        let lse = |i: usize| {
            let RowBounds { weights, score, .. } = rows[i];
            let rounding = gamma(2) * (f64::from(expected_lse[i].abs()) + score);
            if weights < 0.5 { weights / (1.0 - weights) + rounding } else { f64::INFINITY }
        };
        Ok(worst.max(compare(&found_lse, &expected_lse, lse)?))
    }
}

impl Check for AttentionRows {
    const KERNEL: &'static str = "attention";
    type Params = Params;

    fn strategy() -> BoxedStrategy<Params> {
        strategy()
    }

    fn run(p: &Params, backend: Backend) -> Result<Worst, Failure> {
        let data = AttentionData::new(p);
        let (all, all_lse) = data.run(p, backend, &data.v, p.stored[1])?;
        let [_, kv_heads, group, queries, _, _, dv] = p.extents;
        let heads = kv_heads * group;
        let random = &mut Random::new(!p.seed);
        for _ in 0..3 {
            let Some(sequence) = data.any_sequence(p, random) else { break };
            // The part is one query of the sequence, or all queries from a random one on. With dropout, which counts
            // the queries, it is the sequence.
            let before = if p.dropout.is_some() { 0 } else { random.below(sequence.queries.len()) };
            let from = sequence.queries.start + before;
            let one = random.below(2) == 0 && p.start != Start::End;
            let part = from..if one { from + 1 } else { sequence.queries.end };
            let (alone, alone_lse) = data.alone(p, backend, &sequence, part.clone())?;
            for head in 0..heads {
                let first = (sequence.batch * heads + head) * queries + from;
                let n = part.len();
                identical(&quiet(&alone[head * n * dv..][..n * dv]), &quiet(&all[first * dv..][..n * dv]))?;
                identical(&quiet(&alone_lse[head * n..][..n]), &quiet(&all_lse[first..][..n]))?;
            }
        }
        Ok(Worst::default())
    }
}

/// Quantities that bound the errors of a row.
#[derive(Clone, Copy)]
struct RowBounds {
    /// Relative error of weights and of their sums.
    weights: f64,
    /// Magnitude of the terms of scores.
    score: f64,
    /// Magnitude of the terms of scaled products of queries and keys.
    product: f64,
}

impl AttentionData {
    /// The largest magnitude of a finite value.
    fn largest_value(&self) -> f64 {
        largest(self.v.elements().into_iter().map(f64::from))
    }

    /// The bounds of each row, in the order batch, head, query.
    ///
    /// A score s = cap(q . k) + bias + distance has dk + 1 roundings in its product, five more in the cap, whose slope
    /// is at most 1, and one for each sum. The relative error of its weight exp(s - m) has three terms. The first is
    /// the absolute error of s. The second is the sum of the roundings of the differences that lead from s to the
    /// largest score, which telescope to at most u (m - s) <= 2 u max|s|. The third is the error of exp itself. A sum
    /// over n keys in blocks adds at most n roundings, and the roundings of each merge.
    ///
    /// bf16 pairs round twice for each product and count numbers below 2^-126 as zeros. Their scores have six more
    /// roundings: the scale, the conversion to powers of two, and the conversion of the largest score back.
    ///
    /// The bounds of bf16 pairs also hold where bf16 is widened to f32. The scale multiplies the query first there: one
    /// rounding of each product, so dk + 1 in all, against 2 dk + 1. It may leave a denormal number, which errs less
    /// than numbers below 2^-126 that count as zeros.
    fn rows(&self, p: &Params) -> Vec<RowBounds> {
        let [batch, kv_heads, group, queries, keys, dk, _] = p.extents;
        let q = heads_first(self.q.view(), p.rows_first[0]);
        let k = heads_first(self.k.view(), p.rows_first[1]);
        let bias = self.bias.as_ref().map_or(0.0, |b| largest(b.elements().into_iter().map(f64::from)));
        let distance = match p.distance {
            Distance::None => 0.0,
            Distance::Alibi => {
                let position = self.positions.iter().max().unwrap_or(&0);
                (queries + keys + position) as f64 * largest(self.slopes.iter().map(|&x| f64::from(x)))
            }
            Distance::T5 { .. } => 1.0,
        };
        let scale = f64::from(p.scale.abs());
        let (times, more, exp) = if p.is_bf16() { (2, 6, COARSE_ROUNDINGS) } else { (1, 0, EXP_ROUNDINGS) };
        let flushed = if p.is_bf16() {
            let of = |x: &Tensor<4>| largest(x.elements().into_iter().map(f64::from));
            let one = f64::from(f32::MIN_POSITIVE) * (3.0 + of(&self.q) + of(&self.k));
            scale * dk as f64 * one
        } else {
            0.0
        };
        let number = |x: f32| f64::from(if p.is_bf16() { bf16::from_f32(x).to_f32() } else { x });
        let blocks = keys.div_ceil(KEYS);
        indices([batch, kv_heads * group, queries])
            .map(|[b, head, i]| {
                let q = q.row([b, head, i, 0]);
                let product = largest((0..keys).map(|j| {
                    let k = k.row([b, head / group, j, 0]);
                    let sum: f64 = q.iter().zip(k).map(|(&q, &k)| (number(q) * number(k)).abs()).sum();
                    scale * sum
                }));
                let capped = p.softcap.map_or(product, |cap| product.min(f64::from(cap)));
                let score = capped + bias + distance;
                let error = gamma(times * dk + 1) * product + gamma(5) * capped + gamma(2 + more) * score;
                let weights = (error + flushed + gamma(2 + more) * 2.0 * score).exp_m1();
                let roundings = gamma((2 * blocks + 1) * exp + times * keys + 4 * blocks + 2);
                RowBounds { weights: weights + roundings, score, product }
            })
            .collect()
    }
}

/// Replaces every NaN by one NaN, because it is unspecified which NaN an operation returns.
pub(super) fn quiet(x: &[f32]) -> Vec<f32> {
    x.iter().map(|x| if x.is_nan() { f32::NAN } else { *x }).collect()
}

/// The largest finite magnitude.
fn largest(x: impl Iterator<Item = f64>) -> f64 {
    x.map(f64::abs).filter(|x| x.is_finite()).fold(0.0, f64::max)
}
