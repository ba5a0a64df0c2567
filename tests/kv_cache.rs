//! Promises of KV caches beyond the bits of one call.

use allocation_counter::measure;
use tilewright_kernels::{
    Attention, Backend, CachedAttention, Error, KvCache, Precision, Sequences, Start, View, ViewMut, Window,
};
use tilewright_suite::all_backends;

/// Numbers in [-1, 1).
fn numbers(n: usize) -> Vec<f32> {
    (0..n as u32).map(|i| (i.wrapping_mul(2_654_435_769) >> 8) as f32 / (1 << 23) as f32 - 1.0).collect()
}

/// A cache of 2 heads with 3 tokens and room for 5.
fn cache(backend: Backend, precision: Precision) -> KvCache {
    let mut cache = KvCache::new(backend, precision, 2, [8, 4], 5);
    let x = numbers(2 * 3 * 8);
    cache.append(View::new(&x, [2, 3, 8]).unwrap(), View::new(&x, [2, 3, 4]).unwrap()).unwrap();
    cache
}

/// Every backend refuses a cache of another layout; the definition reads all layouts.
#[test]
fn layouts_of_other_backends_are_refused() {
    let x = numbers(2 * 8);
    let q = View::new(&x, [1, 2, 1, 8]).unwrap();
    for precision in [Precision::F32, Precision::Bf16] {
        let mine = cache(Backend::REFERENCE, precision);
        let mut expected = [0.0; 2 * 4];
        let to = ViewMut::new(&mut expected, [1, 2, 1, 4]).unwrap();
        Backend::REFERENCE.run(CachedAttention::new(q, &[&mine], &[0, 1], to)).unwrap();
        for backend in all_backends() {
            let mut out = [7.0; 2 * 4];
            let to = ViewMut::new(&mut out, [1, 2, 1, 4]).unwrap();
            let refused = backend.run(CachedAttention::new(q, &[&mine], &[0, 1], to));
            let what = "CachedAttention.caches";
            assert!(
                matches!(refused, Err(Error::Invalid { what: w, .. }) if w == what),
                "{}",
                backend.name()
            );
            let theirs = cache(backend, precision);
            let to = ViewMut::new(&mut out, [1, 2, 1, 4]).unwrap();
            Backend::REFERENCE.run(CachedAttention::new(q, &[&theirs], &[0, 1], to)).unwrap();
            assert_eq!(out, expected, "{}", backend.name());
        }
    }
}

/// One query for each of several sequences has the bits of attention to views, on one thread and on four: threads
/// split the blocks of keys, or share the sequences.
#[test]
fn threads_change_no_bit() {
    let (kv_heads, heads, dim) = (3, 9, 64);
    let pool = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    let pools = [pool(1), pool(4)];
    for (sequences, most) in [(1, 2000), (5, 700), (12, 300), (12, 200)] {
        let lens: Vec<usize> = (0..sequences).map(|s| most - s * 13).collect();
        let total: usize = lens.iter().sum();
        let (x, q) = (numbers(kv_heads * total * dim), numbers(heads * sequences * dim));
        let k = View::new(&x, [kv_heads, total, dim]).unwrap();
        let q = View::new(&q, [1, heads, sequences, dim]).unwrap();
        let starts: Vec<usize> = (0..=sequences).collect();
        let mut ends = vec![0];
        ends.extend(lens.iter().scan(0, |end, len| {
            *end += len;
            Some(*end)
        }));
        for backend in all_backends() {
            for precision in [Precision::F32, Precision::Bf16] {
                let mut caches: Vec<KvCache> = lens
                    .iter()
                    .map(|&len| KvCache::new(backend, precision, kv_heads, [dim, dim], len))
                    .collect();
                let results = pools.each_ref().map(|pool| {
                    pool.install(|| {
                        for (cache, ends) in caches.iter_mut().zip(ends.windows(2)) {
                            let tokens = k.slice(1, ends[0]..ends[1]);
                            cache.truncate(0);
                            cache.append(tokens, tokens).unwrap();
                        }
                        let caches: Vec<&KvCache> = caches.iter().collect();
                        let mut out = vec![f32::NAN; heads * sequences * dim];
                        let to = ViewMut::new(&mut out, q.shape()).unwrap();
                        backend.run(CachedAttention::new(q, &caches, &starts, to)).unwrap();
                        out
                    })
                });
                let mut expected = vec![f32::NAN; heads * sequences * dim];
                let to = ViewMut::new(&mut expected, q.shape()).unwrap();
                let attention = Attention {
                    precision,
                    sequences: Sequences::Packed { q: &starts, k: &ends },
                    start: Start::End,
                    ..Attention::new(q, k.into(), k.into(), to)
                };
                backend.run(attention).unwrap();
                for found in results {
                    assert!(found == expected, "{} {precision:?}, {sequences} sequences", backend.name());
                }
            }
        }
    }
}

/// Decoding allocates nothing.
#[test]
fn decoding_allocates_nothing() {
    let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let x = numbers(4 * 8);
    let (q, k) = (View::new(&x, [1, 4, 1, 8]).unwrap(), View::new(&x, [2, 1, 8]).unwrap());
    for backend in all_backends() {
        for precision in [Precision::F32, Precision::Bf16] {
            let mut cache = KvCache::new(backend, precision, 2, [8, 8], 600);
            let mut out = [0.0; 4 * 8];
            let mut decode = || {
                cache.append(k, k).unwrap();
                let to = ViewMut::new(&mut out, [1, 4, 1, 8]).unwrap();
                backend.run(CachedAttention::new(q, &[&cache], &[0, 1], to)).unwrap();
            };
            one.install(|| {
                decode();
                let steady = measure(|| (0..500).for_each(|_| decode()));
                assert_eq!(steady.count_total, 0, "{}: {steady:?}", backend.name());
            });
        }
    }
}

/// Query heads that share keys and values fill tiles of rows that see equal keys, but fewer keys than the rows of other
/// tiles. NaN in the values of later keys does not reach these rows, also if a k-group holds two keys.
#[test]
fn rows_that_see_the_same_keep_the_rest_apart() {
    let (heads, tokens, dim) = (16, 40, 8);
    let x = numbers(heads * tokens * dim);
    let q = View::new(&x, [1, heads, tokens, dim]).unwrap();
    for backend in all_backends() {
        for precision in [Precision::F32, Precision::Bf16] {
            let run = |v: &[f32]| {
                let k = View::new(&x, [1, 1, tokens, dim]).unwrap();
                let v = View::new(v, [1, 1, tokens, dim]).unwrap();
                let mut outs = [(); 2].map(|()| vec![f32::NAN; heads * tokens * dim]);
                let [to_views, to_cached] = outs.each_mut().map(|out| ViewMut::new(out, q.shape()).unwrap());
                let attention = Attention::new(q, k, v, to_views);
                backend.run(Attention { precision, window: Window::CAUSAL, ..attention }).unwrap();
                let mut cache = KvCache::new(backend, precision, 1, [dim, dim], tokens);
                cache.append(k.at(0), v.at(0)).unwrap();
                let (caches, starts) = ([&cache], [0, tokens]);
                let attention = CachedAttention::new(q, &caches, &starts, to_cached);
                backend.run(CachedAttention { window: Window::CAUSAL, ..attention }).unwrap();
                outs
            };
            let clean = run(&x[..tokens * dim]);
            for hidden in [1, 16, 33, 39] {
                let mut poisoned = x[..tokens * dim].to_vec();
                poisoned[hidden * dim..][..dim].fill(f32::NAN);
                for (found, clean) in run(&poisoned).iter().zip(&clean) {
                    for (found, clean) in found.chunks(tokens * dim).zip(clean.chunks(tokens * dim)) {
                        let seen = hidden * dim;
                        assert_eq!(
                            found[..seen],
                            clean[..seen],
                            "{} {precision:?}: {hidden}",
                            backend.name()
                        );
                        assert!(found[seen..].iter().all(|x| x.is_nan()));
                    }
                }
            }
        }
    }
}

/// A cache without heads, or of empty keys and values, accepts any capacity, because it needs no memory.
#[test]
fn empty_tokens_fit_any_capacity() {
    for backend in all_backends().into_iter().chain([Backend::REFERENCE]) {
        for precision in [Precision::F32, Precision::Bf16] {
            for [kv_heads, dk, dv] in [[0, 8, 4], [2, 0, 0], [0, 0, 0]] {
                let mut cache = KvCache::new(backend, precision, kv_heads, [dk, dv], usize::MAX);
                for tokens in [3, 4] {
                    let k = View::<3>::new(&[], [kv_heads, tokens, dk]).unwrap();
                    let v = View::<3>::new(&[], [kv_heads, tokens, dv]).unwrap();
                    cache.append(k, v).unwrap();
                }
                assert_eq!(cache.len(), 7);
                cache.truncate(1);
                assert_eq!(cache.clone().len(), 1);
            }
        }
    }
}
