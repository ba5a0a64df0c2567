//! Attention to caches against attention to views: identical bits for every history of the caches.

use super::attention::{BUCKETS, Distance, Start, quiet};
use super::bound::identical;
use super::stored::Stored;
use super::tensor::{Booleans, Layout, Random, Tensor, Values, extent, seed};
use super::{Check, Failure, Worst};
use core::ops::Range;
use half::{bf16, f16};
use proptest::prelude::*;
use proptest::sample::select;
use tilewright_kernels::{
    Attention, Backend, CachedAttention as Kernel, DistanceBias, Element, Error, KvCache, Precision,
    Sequences, View, ViewMut, Window,
};

/// Attention to caches of any lengths, which several sequences may share, after appends and truncations.
pub struct CachedAttention;

/// Arguments of one attention to caches.
#[derive(Clone, Debug)]
pub struct Params {
    /// kv heads, query heads for each kv head, dk, dv.
    extents: [usize; 4],
    /// Tokens of each cache.
    lens: Vec<usize>,
    /// Index of the cache and number of queries for each sequence.
    sequences: Vec<(usize, usize)>,
    /// True if tokens come before heads in memory.
    rows_first: bool,
    /// Layouts of k and v.
    layouts: [Layout<3>; 2],
    /// Type of k and v.
    stored: Stored,
    bf16: bool,
    start: Start,
    window: Window,
    scale: f32,
    softcap: Option<f32>,
    bias: Option<Layout<4>>,
    mask: Option<Layout<4>>,
    distance: Distance,
    lse: bool,
    /// Index of a token in every cache whose key and value are NaN.
    poison: Option<usize>,
    values: Values,
    seed: u64,
}

/// Upper bound of the multiply-adds of a case: the reference takes a few milliseconds.
const MOST_WORK: usize = 1 << 18;

impl Check for CachedAttention {
    const KERNEL: &'static str = "attention";
    type Params = Params;

    fn strategy() -> BoxedStrategy<Params> {
        strategy()
    }

    fn run(p: &Params, backend: Backend) -> Result<Worst, Failure> {
        let data = CachedData::new(p);
        let random = &mut Random::new(!p.seed);
        for backend in [backend, Backend::REFERENCE] {
            let expected = data.of_views(p, backend)?;
            let whole = data.caches(p, backend, |cache, tokens| append(p, cache, tokens, 0..tokens.len))?;
            identical(&quiet(&data.of_caches(p, backend, &whole)?), &quiet(&expected))?;
            let edited = data.caches(p, backend, |cache, tokens| edit(p, cache, tokens, random))?;
            identical(&quiet(&data.of_caches(p, backend, &edited)?), &quiet(&expected))?;
            // The definition reads every layout.
            let defined = data.of_views(p, Backend::REFERENCE)?;
            identical(&quiet(&data.of_caches(p, Backend::REFERENCE, &edited)?), &quiet(&defined))?;
        }
        Ok(Worst::default())
    }
}

fn strategy() -> BoxedStrategy<Params> {
    let width = || prop_oneof![8 => extent(70), 1 => extent(450)];
    // 14 or more query heads of one kv head fill whole tiles of rows that see equal keys.
    let group = prop_oneof![4 => 1..4usize, 1 => 14..17usize];
    let caches = prop::collection::vec(extent(600), 1..4);
    let sequences = prop::collection::vec((0..3usize, prop_oneof![2 => Just(1), 2 => 0..6usize]), 1..6);
    let shape = ((1..4usize, group, width(), width()), caches, sequences)
        .prop_map(|((kv_heads, group, dk, dv), lens, mut sequences)| {
            sequences.iter_mut().for_each(|(cache, _)| *cache %= lens.len());
            ([kv_heads, group, dk, dv], lens, sequences)
        })
        .prop_filter("takes too long", |([kv_heads, group, dk, dv], lens, sequences)| {
            let scores: usize = sequences.iter().map(|&(cache, queries)| lens[cache] * queries).sum();
            scores * kv_heads * group * (dk + dv) <= MOST_WORK
        });
    let side = || prop::option::weighted(0.5, prop_oneof![2 => Just(0), 1 => 0..20usize, 1 => 0..400usize]);
    let window = (side(), side()).prop_map(|(before, after)| Window { before, after });
    let scores = (
        select(vec![0.125, 1.0, -0.3]),
        prop::option::weighted(0.2, select(vec![0.5, 30.0])),
        [(); 2].map(|()| prop::option::weighted(0.3, Layout::repeated_rows())),
        Distance::any(),
    );
    let stored = prop_oneof![3 => Just(Stored::F32), 1 => Just(Stored::Bf16), 1 => Just(Stored::F16)];
    let layouts = (any::<bool>(), [Layout::rows(), Layout::rows()], stored, any::<bool>());
    let data = (any::<bool>(), prop::option::weighted(0.3, 0..600usize), Values::any(), seed());
    (shape, layouts, Start::any(), window, scores, data)
        .prop_map(|(shape, (rows_first, layouts, stored, bf16), start, window, scores, data)| {
            let (extents, lens, sequences) = shape;
            let (scale, softcap, [bias, mask], distance) = scores;
            let (lse, poison, values, seed) = data;
            Params {
                extents,
                lens,
                sequences,
                rows_first,
                layouts,
                stored,
                bf16,
                start,
                window,
                scale,
                softcap,
                bias,
                mask,
                distance,
                lse,
                poison,
                // The values of `Large` exceed the range of f16.
                values: if stored == Stored::F16 && values == Values::Large { Values::Wide } else { values },
                seed,
            }
        })
        .boxed()
}

impl Params {
    fn precision(&self) -> Precision {
        if self.bf16 { Precision::Bf16 } else { Precision::F32 }
    }
}

/// Keys \[kv_heads, tokens, dk\] and values \[kv_heads, tokens, dv\] of one cache, or both with heads and tokens
/// exchanged.
struct CacheTokens {
    k: Tensor<3>,
    v: Tensor<3>,
    len: usize,
}

/// The view with heads before tokens.
fn heads_first<'a, T>(p: &Params, x: View<'a, 3, T>) -> View<'a, 3, T> {
    if p.rows_first { x.permute([1, 0, 2]) } else { x }
}

/// Appends a range of the tokens.
fn append(p: &Params, cache: &mut KvCache, tokens: &CacheTokens, range: Range<usize>) -> Result<(), Failure> {
    fn of<T: Element>(
        p: &Params,
        cache: &mut KvCache,
        [k, v]: [View<'_, 3, T>; 2],
        range: Range<usize>,
    ) -> Result<(), Failure> {
        let [k, v] = [k, v].map(|x| heads_first(p, x).slice(1, range.clone()));
        Ok(cache.append(k, v)?)
    }
    let CacheTokens { k, v, .. } = tokens;
    match p.stored {
        Stored::F32 => of(p, cache, [k.view(), v.view()], range),
        Stored::Bf16 => of(p, cache, [k.cast::<bf16>().view(), v.cast().view()], range),
        Stored::F16 => of(p, cache, [k.cast::<f16>().view(), v.cast().view()], range),
    }
}

/// Appends the tokens in parts, appends and truncates other tokens, and copies the cache.
fn edit(p: &Params, cache: &mut KvCache, tokens: &CacheTokens, random: &mut Random) -> Result<(), Failure> {
    // The copy overwrites a cache of other tokens and another capacity.
    let mut copy = cache.clone();
    let most = [1, 7, 40, 600][random.below(4)];
    while cache.len() < tokens.len {
        let len = cache.len();
        match random.below(8) {
            0 => {
                let from = random.below(tokens.len);
                let n = (tokens.len - from).min(cache.capacity() - len).min(random.below(most + 1));
                append(p, cache, tokens, from..from + n)?;
                cache.truncate(len);
            }
            1 => cache.truncate(len - len.min(random.below(most + 1))),
            2 => {
                copy.copy_from(cache)?;
                core::mem::swap(cache, &mut copy);
            }
            3 => *cache = cache.clone(),
            _ => append(p, cache, tokens, len..tokens.len.min(len + 1 + random.below(most)))?,
        }
    }
    Ok(())
}

/// The data of one attention.
struct CachedData {
    q: Tensor<4>,
    tokens: Vec<CacheTokens>,
    /// Index of each sequence's first query, and the number of all queries.
    starts: Vec<usize>,
    /// Position of the first query of each sequence, unless it follows from the keys.
    positions: Vec<usize>,
    bias: Option<Tensor<4>>,
    mask: Option<Booleans<4>>,
    slopes: Vec<f32>,
    table: Vec<f32>,
    /// Capacity of the caches in tokens.
    capacities: Vec<usize>,
}

impl CachedData {
    fn new(p: &Params) -> Self {
        let [kv_heads, group, dk, dv] = p.extents;
        let heads = kv_heads * group;
        let random = &mut Random::new(p.seed);
        let mut draw = |len: usize, width: usize, layout: &Layout<3>| {
            let shape = if p.rows_first { [len, kv_heads, width] } else { [kv_heads, len, width] };
            Tensor::new(shape, layout, |[a, b, _]| {
                let x = p.values.draw(random);
                let token = if p.rows_first { a } else { b };
                p.stored.round(if p.poison == Some(token) { f32::NAN } else { x })
            })
        };
        let tokens = p.lens.iter().map(|&len| CacheTokens {
            k: draw(len, dk, &p.layouts[0]),
            v: draw(len, dv, &p.layouts[1]),
            len,
        });
        let tokens = tokens.collect();
        let mut starts = vec![0];
        starts.extend(p.sequences.iter().scan(0, |end, &(_, queries)| {
            *end += queries;
            Some(*end)
        }));
        let queries = starts[p.sequences.len()];
        let rows = p.sequences.iter().map(|s| s.1).max().unwrap_or(0);
        let columns = p.sequences.iter().map(|s| p.lens[s.0]).max().unwrap_or(0);
        let shape = [p.sequences.len(), heads, rows, columns];
        // One key in four is hidden.
        let hides = move |random: &mut Random| random.below(4) == 0;
        let bias =
            p.bias.as_ref().map(|layout| {
                Tensor::new(shape, layout, |_| {
                    if hides(random) { f32::NEG_INFINITY } else { p.values.draw(random) }
                })
            });
        let mask = p.mask.as_ref().map(|layout| Booleans::new(shape, layout, |_| !hides(random)));
        Self {
            positions: p.start.positions(p.sequences.len(), random),
            bias,
            mask,
            q: Tensor::random([1, heads, queries, dk], &Layout::row_major(), p.values, random),
            tokens,
            starts,
            slopes: (0..heads).map(|_| random.unit().abs()).collect(),
            table: (0..BUCKETS * heads).map(|_| random.unit()).collect(),
            capacities: p.lens.iter().map(|&len| len + [0, 1, 300][random.below(3)]).collect(),
        }
    }

    /// The `distance` argument of the kernels.
    fn distance(&self, p: &Params) -> Option<DistanceBias<'_>> {
        p.distance.bias(&self.slopes, &self.table)
    }

    /// One cache for each of `p.lens`, filled by `fill`.
    fn caches(
        &self,
        p: &Params,
        backend: Backend,
        mut fill: impl FnMut(&mut KvCache, &CacheTokens) -> Result<(), Failure>,
    ) -> Result<Vec<KvCache>, Failure> {
        let [kv_heads, _, dk, dv] = p.extents;
        let all = self.tokens.iter().zip(&self.capacities).map(|(tokens, &capacity)| {
            let mut cache = KvCache::new(backend, p.precision(), kv_heads, [dk, dv], capacity);
            fill(&mut cache, tokens)?;
            Ok(cache)
        });
        all.collect()
    }

    /// Output of attention to caches in the order head, query, dv, and then the log-sum-exps, if they are wanted.
    fn of_caches(&self, p: &Params, backend: Backend, caches: &[KvCache]) -> Result<Vec<f32>, Failure> {
        let caches: Vec<&KvCache> = p.sequences.iter().map(|&(cache, _)| &caches[cache]).collect();
        self.out(p, |out, lse| {
            backend.run(Kernel {
                scale: p.scale,
                softcap: p.softcap,
                bias: self.bias.as_ref().map(Tensor::view),
                mask: self.mask.as_ref().map(Booleans::view),
                distance: self.distance(p),
                start: p.start.kernel(&self.positions),
                window: p.window,
                lse,
                ..Kernel::new(self.q.view(), &caches, &self.starts, out)
            })
        })
    }

    /// Output of attention to views, which hold the keys of all sequences end to end.
    fn of_views(&self, p: &Params, backend: Backend) -> Result<Vec<f32>, Failure> {
        let [kv_heads, _, dk, dv] = p.extents;
        let mut ends = vec![0];
        let (mut k, mut v) = (vec![], vec![]);
        for &(cache, _) in &p.sequences {
            let tokens = &self.tokens[cache];
            ends.push(ends[ends.len() - 1] + tokens.len);
            let [of_k, of_v] = [&tokens.k, &tokens.v].map(|x| heads_first(p, x.view()));
            for token in 0..tokens.len {
                for head in 0..kv_heads {
                    k.extend_from_slice(of_k.row([head, token, 0]));
                    v.extend_from_slice(of_v.row([head, token, 0]));
                }
            }
        }
        let view = |x, width| {
            let shape = [1, ends[p.sequences.len()], kv_heads, width];
            View::new(x, shape).map(|x| x.permute([0, 2, 1, 3]))
        };
        let (k, v) = (view(&k, dk)?, view(&v, dv)?);
        self.out(p, |out, lse| {
            backend.run(Attention {
                precision: p.precision(),
                scale: p.scale,
                softcap: p.softcap,
                bias: self.bias.as_ref().map(Tensor::view),
                mask: self.mask.as_ref().map(Booleans::view),
                distance: self.distance(p),
                sequences: Sequences::Packed { q: &self.starts, k: &ends },
                start: p.start.kernel(&self.positions),
                window: p.window,
                lse,
                ..Attention::new(self.q.view(), k, v, out)
            })
        })
    }

    /// Collects the output and the log-sum-exps that `run` writes.
    fn out(
        &self,
        p: &Params,
        run: impl FnOnce(ViewMut<'_, 4>, Option<ViewMut<'_, 3>>) -> Result<(), Error>,
    ) -> Result<Vec<f32>, Failure> {
        let [_, heads, queries, _] = self.q.shape();
        let shape = [1, heads, queries, p.extents[3]];
        let mut out = vec![f32::NAN; shape.iter().product()];
        let mut lse = vec![f32::NAN; heads * queries];
        let to_lse = ViewMut::new(&mut lse, [1, heads, queries])?;
        run(ViewMut::new(&mut out, shape)?, p.lse.then_some(to_lse))?;
        out.extend(lse);
        Ok(out)
    }
}
