//! Fused attention against its definition, and a row's bits against the same row alone.

use super::bound::{compare, gamma, identical};
use super::stored::{Stored, written};
use super::tensor::{Layout, Random, Tensor, Values, extent, indices, seed};
use super::{Check, Failure, Worst};
use core::ops::Range;
use half::{bf16, f16};
use proptest::prelude::*;
use proptest::sample::select;
use tilewright_kernels::{
    Attention as Kernel, Backend, DistanceBias, Element, Precision, Sequences, Start, View, ViewMut, Window,
};

/// Any attention: masks, biases, grouped heads, packed and padded sequences, strides.
pub struct Attention;

/// A row of any attention, computed with others and alone.
pub struct AttentionRows;

/// One attention.
#[derive(Clone, Debug)]
pub struct Params {
    /// batch, kv heads, query heads for each, queries, keys, dk, dv.
    extents: [usize; 7],
    /// Whether rows come before heads in memory: of q, of k and v, of out.
    rows_first: [bool; 3],
    layouts: [Layout<4>; 4],
    sequences: Kind,
    start: Start,
    window: Window,
    scale: f32,
    softcap: Option<f32>,
    bias: Option<Layout<4>>,
    /// Whether the bias hides one key in four.
    hides: bool,
    distance: Distance,
    lse: bool,
    /// What q, k and v are stored as, and what out is.
    stored: [Stored; 2],
    precision: Precision,
    /// A key, counted from its batch row's first, that is NaN, and so is its value.
    poison: Option<usize>,
    values: Values,
    seed: u64,
}

/// How batch rows divide into sequences; where, the seed decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Rows,
    KeyLengths,
    /// This many, end to end.
    Packed(usize),
}

/// A bias by distance; its numbers come from the seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Distance {
    None,
    Alibi,
    T5 { bidirectional: bool },
}

/// Multiply-adds of a case: a few milliseconds of the reference.
const MOST_WORK: usize = 1 << 19;

/// T5's buckets, and the distance from which on they are all the same: the models' own numbers.
pub(super) const BUCKETS: usize = 32;
const MAX_DISTANCE: usize = 128;

/// Keys of a block, which is finished before it is merged with the others.
const KEYS: usize = 256;

/// Relative error of the fast exponential, in units of u, and of the coarse one.
const EXP_ROUNDINGS: usize = 8;
const COARSE_ROUNDINGS: usize = 53;

/// Relative error of a number that is rounded to bf16.
const BF16_ROUNDING: f64 = 1.0 / 256.0;

/// exp(-x) is a normal number of f32 for every x up to here.
const UNDERFLOW: f64 = 87.0;

impl Check for Attention {
    const KERNEL: &'static str = "attention";
    type Params = Params;

    fn strategy() -> BoxedStrategy<Params> {
        strategy()
    }

    fn run(p: &Params, backend: Backend) -> Result<Worst, Failure> {
        let data = Data::new(p);
        let (mut found, found_lse) = data.run(p, backend, &data.v, p.stored[1])?;
        let (expected, expected_lse) = data.run(p, Backend::REFERENCE, &data.v, Stored::F32)?;
        let (magnitude, _) = data.run(p, Backend::REFERENCE, &data.v.map(f32::abs), Stored::F32)?;
        let rows = data.rows(p);
        // sum w v / sum w: both sums err, by at most this share of the sum of magnitudes. What is lost
        // to underflow is less than the smallest normal number for each key.
        let dv = p.extents[6];
        let lost = p.extents[4] as f64 * f64::from(f32::MIN_POSITIVE) * (1.0 + data.largest_value());
        let bound = |i: usize| {
            let share = rows[i / dv].weights;
            let twice = (2.0 + gamma(4)) * share / (1.0 - share);
            // Weights may be rounded for their product with v, but not for their own sum.
            let rounding = if p.is_bf16() { BF16_ROUNDING * (1.0 + share) / (1.0 - share) } else { 0.0 };
            let error = (twice + rounding) * f64::from(magnitude[i]) + lost;
            let largest = f64::from(expected[i].abs()) + error;
            let stored = p.stored[1].half_ulp(if largest.is_finite() { largest } else { 0.0 });
            if share < 0.5 { error + stored } else { f64::INFINITY }
        };
        for (i, (found, &expected)) in found.iter_mut().zip(&expected).enumerate() {
            // An infinite value whose weight underflows in f32 but not in f64.
            if found.is_nan() && expected.is_infinite() && rows[i / dv].score > UNDERFLOW / 2.0 {
                *found = expected;
            }
        }
        let worst = compare(&found, &expected, bound)?;
        // m + ln(sum w): the logarithm errs by 1 ULP, and m by a rounding of each of its terms.
        let lse = |i: usize| {
            let Row { weights, score } = rows[i];
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
        let data = Data::new(p);
        let (all, all_lse) = data.run(p, backend, &data.v, p.stored[1])?;
        let [_, kv_heads, group, queries, _, _, dv] = p.extents;
        let heads = kv_heads * group;
        let random = &mut Random::new(!p.seed);
        for _ in 0..3 {
            let Some(sequence) = data.any_sequence(p, random) else { break };
            // One query of the sequence, or all from one on.
            let from = sequence.queries.start + random.below(sequence.queries.len());
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

fn strategy() -> BoxedStrategy<Params> {
    let heads = (prop_oneof![3 => Just(1), 1 => 0..4usize], 1..4usize, 1..4usize);
    // Widths beyond a slab of 384 dimensions are rare.
    let width = || prop_oneof![8 => extent(70), 1 => extent(450)];
    let extents = (heads, extent(100), extent(800), width(), width())
        .prop_map(|((batch, kv_heads, group), queries, keys, dk, dv)| {
            [batch, kv_heads, group, queries, keys, dk, dv]
        })
        .prop_filter("takes too long", |e| e[..5].iter().product::<usize>() * (e[5] + e[6]) <= MOST_WORK);
    let sequences = prop_oneof![
        2 => Just(Kind::Rows),
        1 => Just(Kind::KeyLengths),
        2 => (1..6usize).prop_map(Kind::Packed),
    ];
    let start =
        prop_oneof![1 => Just(Start::At(0)), 1 => (0..300usize).prop_map(Start::At), 2 => Just(Start::End)];
    let side = || prop::option::weighted(0.5, prop_oneof![2 => Just(0), 1 => 0..20usize, 1 => 0..400usize]);
    let window = (side(), side()).prop_map(|(before, after)| Window { before, after });
    let scores = (
        select(vec![0.125, 1.0, -0.3]),
        prop::option::weighted(0.2, select(vec![0.5, 30.0])),
        prop::option::weighted(0.3, Layout::repeated_rows()),
        any::<bool>(),
        Distance::any(),
    );
    let stored = || prop_oneof![2 => Just(Stored::F32), 2 => Just(Stored::Bf16), 1 => Just(Stored::F16)];
    let precision = prop_oneof![
        3 => Just(Precision::Stored),
        1 => Just(Precision::F32),
        2 => Just(Precision::Bf16),
    ];
    let types = prop_oneof![
        1 => Just(([Stored::F32; 2], Precision::Stored)),
        2 => ([stored(), stored()], precision),
    ];
    let layouts = [(); 4].map(|()| Layout::rows());
    let data = (layouts, any::<[bool; 3]>(), prop::option::weighted(0.3, 0..800usize), Values::any(), seed());
    (extents, sequences, (start, window), scores, (any::<bool>(), types), data)
        .prop_map(|(extents, sequences, (start, window), scores, (lse, (stored, precision)), data)| {
            let (scale, softcap, bias, hides, distance) = scores;
            let (layouts, rows_first, poison, values, seed) = data;
            let mut extents = extents;
            if let Kind::Packed(_) = sequences {
                extents[0] = 1;
            }
            Params {
                extents,
                rows_first,
                layouts,
                sequences,
                start,
                window,
                scale,
                softcap,
                bias,
                hides,
                distance,
                lse,
                stored,
                precision,
                poison,
                // f16 holds no larger ones.
                values: if stored.contains(&Stored::F16) && values == Values::Large {
                    Values::Wide
                } else {
                    values
                },
                seed,
            }
        })
        .boxed()
}

impl Distance {
    /// Any of the kinds, or none.
    pub(super) fn any() -> BoxedStrategy<Self> {
        prop_oneof![
            2 => Just(Self::None),
            1 => Just(Self::Alibi),
            1 => any::<bool>().prop_map(|bidirectional| Self::T5 { bidirectional }),
        ]
        .boxed()
    }

    /// The kernel's argument, of the slope of each head and a table \[BUCKETS, heads\].
    pub(super) fn bias<'a>(self, slopes: &'a [f32], table: &'a [f32]) -> Option<DistanceBias<'a>> {
        match self {
            Self::None => None,
            Self::Alibi => Some(DistanceBias::Alibi { slopes }),
            Self::T5 { bidirectional } => Some(DistanceBias::T5 {
                table: View::new(table, [BUCKETS, slopes.len()]).expect("as long as its shape"),
                bidirectional,
                max_distance: MAX_DISTANCE,
            }),
        }
    }
}

impl Params {
    /// Whether products are of bf16.
    fn is_bf16(&self) -> bool {
        match self.precision {
            Precision::Stored => self.stored[0] == Stored::Bf16,
            Precision::F32 => false,
            Precision::Bf16 => true,
        }
    }
}

/// The arguments of one attention.
struct Data {
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    /// Key lengths, or the packed sequences' ends.
    query_ends: Vec<usize>,
    key_ends: Vec<usize>,
    bias: Option<Tensor<4>>,
    slopes: Vec<f32>,
    table: Vec<f32>,
}

/// Where a sequence lies in its batch row.
struct Sequence {
    index: usize,
    batch: usize,
    queries: Range<usize>,
    keys: Range<usize>,
}

/// What of an attention is computed in one call.
struct Part<'a> {
    sequences: Sequences<'a>,
    start: Start,
    bias: Option<View<'a, 4>>,
    /// Of out.
    rows_first: bool,
}

/// What a row's errors are bounded by.
#[derive(Clone, Copy)]
struct Row {
    /// Relative error of weights and of their sums.
    weights: f64,
    /// Magnitude of the terms of scores.
    score: f64,
}

/// The heads and rows of a tensor that may have them in the other order.
fn heads_first<T>(v: View<'_, 4, T>, rows_first: bool) -> View<'_, 4, T> {
    if rows_first { v.permute([0, 2, 1, 3]) } else { v }
}

impl Data {
    fn new(p: &Params) -> Self {
        let [batch, kv_heads, group, queries, keys, dk, dv] = p.extents;
        let random = &mut Random::new(p.seed);
        let shape = |heads: usize, rows: usize, width: usize, rows_first: bool| {
            if rows_first { [batch, rows, heads, width] } else { [batch, heads, rows, width] }
        };
        let poisoned = |x: f32, [_, a, b, _]: [usize; 4]| {
            let key = if p.rows_first[1] { a } else { b };
            if p.poison == Some(key) { f32::NAN } else { x }
        };
        let [q, k, v, _] = &p.layouts;
        let q = Tensor::random(shape(kv_heads * group, queries, dk, p.rows_first[0]), q, p.values, random);
        let [k, v] = [(k, dk), (v, dv)].map(|(layout, width)| {
            let shape = shape(kv_heads, keys, width, p.rows_first[1]);
            Tensor::new(shape, layout, |index| poisoned(p.values.draw(random), index))
        });
        let mut ends = |n: usize, rows: usize| -> Vec<usize> {
            let mut ends: Vec<usize> = (1..n).map(|_| random.below(rows + 1)).collect();
            ends.extend([0, rows]);
            ends.sort_unstable();
            ends
        };
        let (query_ends, key_ends) = match p.sequences {
            Kind::Rows => (vec![], vec![]),
            Kind::KeyLengths => (vec![], (0..batch).map(|_| random.below(keys + 1)).collect()),
            Kind::Packed(n) => (ends(n, queries), ends(n, keys)),
        };
        let [q, k, v] = [q, k, v].map(|x: Tensor<4>| x.map(|x| p.stored[0].round(x)));
        let mut data = Self {
            q,
            k,
            v,
            query_ends,
            key_ends,
            bias: None,
            slopes: (0..kv_heads * group).map(|_| random.unit().abs()).collect(),
            table: (0..BUCKETS * kv_heads * group).map(|_| random.unit()).collect(),
        };
        let most = |ends: &[usize]| ends.windows(2).map(|e| e[1] - e[0]).max().unwrap_or(0);
        let [sequences, rows, columns] = match p.sequences {
            Kind::Packed(n) => [n, most(&data.query_ends), most(&data.key_ends)],
            _ => [batch, queries, keys],
        };
        data.bias = p.bias.as_ref().map(|layout| {
            Tensor::new([sequences, kv_heads * group, rows, columns], layout, |_| {
                if p.hides && random.below(4) == 0 { f32::NEG_INFINITY } else { p.values.draw(random) }
            })
        });
        data
    }

    /// The kernel's argument.
    fn sequences(&self, p: &Params) -> Sequences<'_> {
        match p.sequences {
            Kind::Rows => Sequences::Rows,
            Kind::KeyLengths => Sequences::KeyLengths(&self.key_ends),
            Kind::Packed(_) => Sequences::Packed { q: &self.query_ends, k: &self.key_ends },
        }
    }

    /// The kernel's argument.
    fn distance(&self, p: &Params) -> Option<DistanceBias<'_>> {
        p.distance.bias(&self.slopes, &self.table)
    }

    /// A sequence with queries, if there is one.
    fn any_sequence(&self, p: &Params, random: &mut Random) -> Option<Sequence> {
        let [batch, _, _, queries, keys, _, _] = p.extents;
        let all: Vec<Sequence> = match p.sequences {
            Kind::Packed(n) => (0..n)
                .map(|i| Sequence {
                    index: i,
                    batch: 0,
                    queries: self.query_ends[i]..self.query_ends[i + 1],
                    keys: self.key_ends[i]..self.key_ends[i + 1],
                })
                .collect(),
            _ => (0..batch)
                .map(|i| Sequence {
                    index: i,
                    batch: i,
                    queries: 0..queries,
                    keys: 0..self.key_ends.get(i).copied().unwrap_or(keys),
                })
                .collect(),
        };
        let mut all: Vec<Sequence> = all.into_iter().filter(|s| !s.queries.is_empty()).collect();
        if all.is_empty() { None } else { Some(all.swap_remove(random.below(all.len()))) }
    }

    /// Outputs and log-sum-exps of everything, in the order batch, head, query, dv, of outputs stored as
    /// `out`.
    fn run(
        &self,
        p: &Params,
        backend: Backend,
        v: &Tensor<4>,
        out: Stored,
    ) -> Result<(Vec<f32>, Vec<f32>), Failure> {
        let [batch, kv_heads, group, queries, _, _, dv] = p.extents;
        let heads = kv_heads * group;
        let shape = if p.rows_first[2] { [batch, queries, heads, dv] } else { [batch, heads, queries, dv] };
        let out = (Tensor::new(shape, &p.layouts[3], |_| f32::NAN), out);
        let bias = self.bias.as_ref().map(Tensor::view);
        let all = Part { sequences: self.sequences(p), start: p.start, bias, rows_first: p.rows_first[2] };
        let whole = |v: View<'_, 4>| v.shape().map(|n| 0..n);
        let (q, k) =
            (heads_first(self.q.view(), p.rows_first[0]), heads_first(self.k.view(), p.rows_first[1]));
        self.compute(p, backend, v, (whole(q), whole(k)), all, out)
    }

    /// The queries `part` of one sequence, by themselves and without the padding.
    fn alone(
        &self,
        p: &Params,
        backend: Backend,
        sequence: &Sequence,
        part: Range<usize>,
    ) -> Result<(Vec<f32>, Vec<f32>), Failure> {
        let [_, kv_heads, group, _, _, dk, dv] = p.extents;
        let (heads, n) = (kv_heads * group, part.len());
        let before = part.start - sequence.queries.start;
        let of_batch = sequence.batch..sequence.batch + 1;
        let bias = self.bias.as_ref().map(|bias| {
            let bias = bias.view().slice(0, sequence.index..sequence.index + 1);
            bias.slice(2, before..before + n).slice(3, 0..sequence.keys.len())
        });
        let start = match p.start {
            Start::At(position) => Start::At(position + before),
            Start::End => Start::End,
        };
        let out = Tensor::new([1, heads, n, dv], &Layout::row_major(), |_| f32::NAN);
        let ranges = (
            [of_batch.clone(), 0..heads, part, 0..dk],
            [of_batch, 0..kv_heads, sequence.keys.clone(), 0..dk],
        );
        let alone = Part { sequences: Sequences::Rows, start, bias, rows_first: false };
        self.compute(p, backend, &self.v, ranges, alone, (out, p.stored[1]))
    }

    /// Outputs and log-sum-exps of a part, of these ranges of q and of k, in the order batch, head,
    /// query, dv.
    fn compute(
        &self,
        p: &Params,
        backend: Backend,
        v: &Tensor<4>,
        ranges: ([Range<usize>; 4], [Range<usize>; 4]),
        part: Part<'_>,
        out: (Tensor<4>, Stored),
    ) -> Result<(Vec<f32>, Vec<f32>), Failure> {
        /// Of numbers that are stored as `T`.
        macro_rules! compute {
            ($q:expr, $k:expr, $v:expr) => {{
                let mut q = heads_first($q, p.rows_first[0]);
                let (mut k, mut v) = (heads_first($k, p.rows_first[1]), heads_first($v, p.rows_first[1]));
                for (d, (of_q, of_k)) in ranges.0.into_iter().zip(ranges.1).enumerate() {
                    q = q.slice(d, of_q);
                    k = k.slice(d, of_k.clone());
                    v = if d < 3 { v.slice(d, of_k) } else { v };
                }
                self.store(p, backend, [q, k, v], part, out)
            }};
        }
        macro_rules! narrow {
            ($ty:ty) => {{
                let [q, k, v] = [&self.q, &self.k, v].map(|x| x.cast::<$ty>());
                compute!(q.view(), k.view(), v.view())
            }};
        }
        match p.stored[0] {
            Stored::F32 => compute!(self.q.view(), self.k.view(), v.view()),
            Stored::Bf16 => narrow!(bf16),
            Stored::F16 => narrow!(f16),
        }
    }

    /// The same, of views.
    fn store<T: Element>(
        &self,
        p: &Params,
        backend: Backend,
        inputs: [View<'_, 4, T>; 3],
        part: Part<'_>,
        (mut out, stored): (Tensor<4>, Stored),
    ) -> Result<(Vec<f32>, Vec<f32>), Failure> {
        let rows_first = part.rows_first;
        macro_rules! narrow {
            ($ty:ty) => {{
                let mut narrow = out.cast::<$ty>();
                let lse = self.call(p, backend, inputs, part, narrow.view_mut())?;
                written(&narrow)?;
                let view = heads_first(narrow.view(), rows_first);
                Ok((indices(view.shape()).map(|index| view.get(index).to_f32()).collect(), lse))
            }};
        }
        match stored {
            Stored::F32 => {
                let lse = self.call(p, backend, inputs, part, out.view_mut())?;
                out.gaps_intact()?;
                let view = heads_first(out.view(), rows_first);
                Ok((indices(view.shape()).map(|index| view.get(index)).collect(), lse))
            }
            Stored::Bf16 => narrow!(bf16),
            Stored::F16 => narrow!(f16),
        }
    }

    /// Runs the kernel, and returns the log-sum-exps.
    fn call<T: Element, O: Element>(
        &self,
        p: &Params,
        backend: Backend,
        [q, k, v]: [View<'_, 4, T>; 3],
        part: Part<'_>,
        out: ViewMut<'_, 4, O>,
    ) -> Result<Vec<f32>, Failure> {
        let [batch, heads, queries, _] = q.shape();
        let mut lse = vec![f32::NAN; batch * heads * queries];
        let to_lse = ViewMut::new(&mut lse, [batch, heads, queries])?;
        let out = if part.rows_first { out.permute([0, 2, 1, 3]) } else { out };
        backend.run(Kernel {
            precision: p.precision,
            scale: p.scale,
            softcap: p.softcap,
            bias: part.bias,
            distance: self.distance(p),
            sequences: part.sequences,
            start: part.start,
            window: p.window,
            lse: p.lse.then_some(to_lse),
            ..Kernel::new(q, k, v, out)
        })?;
        Ok(lse)
    }

    /// The largest magnitude of a finite value.
    fn largest_value(&self) -> f64 {
        largest(self.v.elements().into_iter().map(f64::from))
    }

    /// The error bounds of each row, in the order batch, head, query.
    ///
    /// A score s = cap(q . k) + bias + distance has dk + 1 roundings in its product, five more in the
    /// cap, whose slope is at most 1, and one for each sum. Its weight exp(s - m) errs relatively by
    /// what s errs absolutely, by the roundings of the differences that lead from s to the largest
    /// score (which telescope: together at most u (m - s) <= 2 u max|s|), and by those of exp itself.
    /// A sum over n keys in blocks adds at most n roundings, and those of merging each block.
    ///
    /// Pairs of bf16 round twice for each product, and take numbers below 2^-126 for zeros. The scale,
    /// the way to powers of two and that of the largest score back are six more roundings of a score.
    fn rows(&self, p: &Params) -> Vec<Row> {
        let [batch, kv_heads, group, queries, keys, dk, _] = p.extents;
        let q = heads_first(self.q.view(), p.rows_first[0]);
        let k = heads_first(self.k.view(), p.rows_first[1]);
        let bias = self.bias.as_ref().map_or(0.0, |b| largest(b.elements().into_iter().map(f64::from)));
        let distance = match p.distance {
            Distance::None => 0.0,
            Distance::Alibi => {
                (queries + keys + 300) as f64 * largest(self.slopes.iter().map(|&x| f64::from(x)))
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
                Row { weights: weights + roundings, score }
            })
            .collect()
    }
}

/// The same with one kind of NaN: which of them an operation makes of several, nothing says.
pub(super) fn quiet(x: &[f32]) -> Vec<f32> {
    x.iter().map(|x| if x.is_nan() { f32::NAN } else { *x }).collect()
}

/// The largest finite magnitude.
fn largest(x: impl Iterator<Item = f64>) -> f64 {
    x.map(f64::abs).filter(|x| x.is_finite()).fold(0.0, f64::max)
}
