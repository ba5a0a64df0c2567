//! Fused attention.

use half::bf16;
use tilewright_kernels::{
    AnyViewMut, Attention, Backend, CachedAttention, DistanceBias, DropoutMask, Error, KvCache, Precision,
    RandomBits, Sequences, Start, View, ViewMut, Window,
};

#[test]
fn conforms() {
    tilewright_suite::conforms("attention");
}

#[test]
fn gradients_conform() {
    tilewright_suite::conforms("attention_backward");
}

/// The definition and every backend refuse arguments that do not fit each other, and write nothing.
#[test]
fn misfits_are_refused() {
    /// Two batch rows of four query heads and two kv heads, three queries, five keys, width 8.
    fn refused(what: &str, change: impl Fn(&mut Attention<'_>)) {
        let x = [0.5; 2 * 4 * 5 * 8];
        let [q, k] = [[2, 4, 3, 8], [2, 2, 5, 8]].map(|shape| View::new(&x, shape).unwrap());
        for &backend in Backend::available() {
            let mut out = [7.0; 2 * 4 * 3 * 8];
            let mut attention = Attention::new(q, k, k, ViewMut::new(&mut out, [2, 4, 3, 8]).unwrap());
            change(&mut attention);
            match backend.run(attention) {
                Err(Error::Shape { what: found, .. } | Error::Invalid { what: found, .. }) => {
                    assert_eq!(found, what, "{}", backend.name());
                }
                other => panic!("{}: expected {what} to be refused, found {other:?}", backend.name()),
            }
            assert_eq!(out, [7.0; 2 * 4 * 3 * 8]);
        }
    }
    static X: [f32; 1000] = [0.5; 1000];
    let view = |shape| View::new(&X, shape).unwrap();
    refused("Attention.k", |a| a.k = view([2, 2, 5, 7]));
    refused("Attention.k", |a| (a.k, a.v) = (view([2, 3, 5, 8]), view([2, 3, 5, 8])));
    refused("Attention.v", |a| a.v = view([2, 2, 4, 8]));
    refused("Attention.q", |a| a.q = View::with_strides(&X, [2, 4, 3, 8], [1, 2, 8, 24]).unwrap());
    refused("Attention.softcap", |a| a.softcap = Some(0.0));
    refused("Attention.softcap", |a| a.softcap = Some(f32::NAN));
    refused("Attention.bias", |a| a.bias = Some(view([2, 4, 3, 4])));
    refused("Attention.bias", |a| {
        a.bias = Some(View::with_strides(&X, [2, 4, 3, 5], [60, 15, 1, 3]).unwrap());
    });
    static SEEN: [bool; 1000] = [true; 1000];
    refused("Attention.mask", |a| a.mask = Some(View::new(&SEEN, [1, 4, 3, 5]).unwrap()));
    refused("Attention.mask", |a| {
        a.mask = Some(View::with_strides(&SEEN, [2, 4, 3, 5], [60, 15, 1, 3]).unwrap());
    });
    let dropout = |probability, first_row| {
        move |a: &mut Attention<'_>| {
            a.dropout = Some(DropoutMask { probability, first_row, ..DropoutMask::default() });
        }
    };
    refused("Attention.dropout", dropout(1.5, 0));
    refused("Attention.dropout", dropout(f32::NAN, 0));
    refused("Attention.dropout", dropout(0.5, u32::MAX - 6));
    refused("Attention.distance.slopes", |a| a.distance = Some(DistanceBias::Alibi { slopes: &X[..3] }));
    refused("Attention.distance", |a| {
        let table = View::new(&X, [32, 4]).unwrap();
        a.distance = Some(DistanceBias::T5 { table, bidirectional: true, max_distance: 8 });
    });
    refused("Attention.start", |a| a.start = Start::At(usize::MAX));
    refused("Attention.start", |a| a.start = Start::Each(&[0]));
    refused("Attention.start", |a| a.start = Start::Each(&[0, usize::MAX]));
    refused("Attention.sequences", |a| a.sequences = Sequences::KeyLengths(&[5]));
    refused("Attention.sequences", |a| a.sequences = Sequences::KeyLengths(&[5, 6]));
    refused("Attention.q", |a| a.sequences = Sequences::Packed { q: &[0, 3], k: &[0, 5] });
    let packed = |q: &'static [usize], k: &'static [usize]| {
        move |a: &mut Attention<'_>| {
            (a.q, a.k, a.v) = (view([1, 4, 3, 8]), view([1, 2, 5, 8]), view([1, 2, 5, 8]));
            let none = ViewMut::<4>::new(&mut [], [0; 4]).unwrap().into();
            let AnyViewMut::F32(out) = core::mem::replace(&mut a.out, none) else { unreachable!() };
            a.out = out.slice(0, 0..1).into();
            a.sequences = Sequences::Packed { q, k };
        }
    };
    refused("Attention.sequences.k", packed(&[0, 1, 3], &[0, 5]));
    refused("Attention.sequences.q", packed(&[0, 2], &[0, 5]));
    refused("Attention.sequences.k", packed(&[0, 2, 3], &[0, 6, 5]));
}

/// The argument that an error names.
fn named(result: Result<(), Error>) -> &'static str {
    match result {
        Err(Error::Shape { what, .. } | Error::Invalid { what, .. }) => what,
        other => panic!("expected an error that names an argument, found {other:?}"),
    }
}

/// A cache refuses tokens that do not fit, and stays unchanged.
#[test]
fn misfits_of_caches_are_refused() {
    let x = [0.5; 2 * 4 * 8];
    let view = |shape| View::new(&x, shape).unwrap();
    let q = View::new(&x, [1, 4, 2, 8]).unwrap();
    for &backend in Backend::available() {
        let cache = |precision, capacity| KvCache::new(backend, precision, 2, [8, 4], capacity);
        let mut whole = cache(Precision::F32, 3);
        whole.append(view([2, 2, 8]), view([2, 2, 4])).unwrap();
        assert_eq!(named(whole.append(view([1, 1, 8]), view([2, 1, 4]))), "KvCache.k");
        assert_eq!(named(whole.append(view([2, 1, 4]), view([2, 1, 4]))), "KvCache.k");
        assert_eq!(named(whole.append(view([2, 1, 8]), view([2, 2, 4]))), "KvCache.v");
        assert_eq!(named(whole.append(view([2, 2, 8]), view([2, 2, 4]))), "KvCache.append");
        assert_eq!((whole.len(), whole.capacity()), (2, 3));
        assert_eq!(named(cache(Precision::F32, 1).copy_from(&whole)), "KvCache.append");
        assert_eq!(named(cache(Precision::Bf16, 3).copy_from(&whole)), "KvCache.other");
        let other = KvCache::new(backend, Precision::F32, 1, [8, 4], 3);
        assert_eq!(named(whole.copy_from(&other)), "KvCache.other");

        let refused = |caches: &[&KvCache], starts: &[usize]| {
            let mut out = [7.0; 4 * 2 * 4];
            let to = ViewMut::new(&mut out, [1, 4, 2, 4]).unwrap();
            let what = named(backend.run(CachedAttention::new(q, caches, starts, to)));
            assert_eq!(out, [7.0; 4 * 2 * 4]);
            what
        };
        assert_eq!(refused(&[&whole, &other], &[0, 1, 2]), "CachedAttention.caches");
        assert_eq!(refused(&[&whole, &cache(Precision::Bf16, 3)], &[0, 1, 2]), "CachedAttention.caches");
        assert_eq!(refused(&[&whole], &[0, 1, 2]), "CachedAttention.starts");
        assert_eq!(refused(&[&whole], &[0, 1]), "CachedAttention.starts");
        assert_eq!(refused(&[], &[0]), "CachedAttention.starts");

        let refused = |change: fn(&mut CachedAttention<'_>)| {
            let mut out = [7.0; 4 * 2 * 4];
            let to = ViewMut::new(&mut out, [1, 4, 2, 4]).unwrap();
            let caches = [&whole];
            let mut attention = CachedAttention::new(q, &caches, &[0, 2], to);
            change(&mut attention);
            let what = named(backend.run(attention));
            assert_eq!(out, [7.0; 4 * 2 * 4]);
            what
        };
        assert_eq!(
            refused(|a| a.bias = Some(View::new(&[0.0; 24], [1, 4, 2, 3]).unwrap())),
            "Attention.bias"
        );
        assert_eq!(
            refused(|a| a.mask = Some(View::new(&[true; 24], [1, 4, 2, 3]).unwrap())),
            "Attention.mask"
        );
        assert_eq!(refused(|a| a.start = Start::Each(&[0, 1])), "Attention.start");
        assert_eq!(refused(|a| a.lse = Some(ViewMut::new(&mut [], [0, 4, 2]).unwrap())), "Attention.lse");
    }
}

/// Keys that a mask hides never reach a row, also if they are NaN: the row has the bits of one under a bias of -inf.
/// A row whose mask hides all keys is zero, and its log-sum-exp -inf.
#[test]
fn masked_keys_never_reach_a_row() {
    let [heads, rows, keys, dim] = [2, 40, 300, 16];
    let (q, k) = (numbers(heads * rows * dim, 5), numbers(heads * keys * dim, 6));
    // Row 7 sees nothing, row 9 everything; others see two keys in three, another two for each row.
    let sees = |row: usize, key: usize| row != 7 && (row == 9 || !(row + key).is_multiple_of(3));
    let mask: Vec<bool> = (0..rows * keys).map(|i| sees(i / keys, i % keys)).collect();
    let bias: Vec<f32> = mask.iter().map(|&sees| if sees { 0.0 } else { f32::NEG_INFINITY }).collect();
    // Keys that only row 9 sees.
    let (mut mask, mut bias, mut poisoned) = (mask, bias, k.clone());
    for key in [3, 100, 280] {
        for row in (0..rows).filter(|&row| row != 9) {
            mask[row * keys + key] = false;
            bias[row * keys + key] = f32::NEG_INFINITY;
        }
        for head in 0..heads {
            poisoned[(head * keys + key) * dim..][..dim].fill(f32::NAN);
        }
    }
    for &backend in Backend::available() {
        for precision in [Precision::F32, Precision::Bf16] {
            let run = |k: &[f32], masked: bool| {
                let (mut out, mut lse) = (vec![f32::NAN; q.len()], vec![f32::NAN; heads * rows]);
                let k = View::new(k, [1, heads, keys, dim]).unwrap();
                let of_q = [1, heads, rows, dim];
                let (shape, strides) = ([1, heads, rows, keys], [0, 0, keys, 1]);
                let mask = View::with_strides(&mask, shape, strides).unwrap();
                let bias = View::with_strides(&bias, shape, strides).unwrap();
                backend
                    .run(Attention {
                        precision,
                        mask: masked.then_some(mask),
                        bias: (!masked).then_some(bias),
                        lse: Some(ViewMut::new(&mut lse, [1, heads, rows]).unwrap()),
                        ..Attention::new(
                            View::new(&q, of_q).unwrap(),
                            k,
                            k,
                            ViewMut::new(&mut out, of_q).unwrap(),
                        )
                    })
                    .unwrap();
                (out, lse)
            };
            let (clean, (found, lse)) = (run(&k, false), run(&poisoned, true));
            assert_eq!(run(&k, true), clean, "{}", backend.name());
            for row in 0..heads * rows {
                let (found, clean) = (&found[row * dim..][..dim], &clean.0[row * dim..][..dim]);
                match row % rows {
                    7 => assert!(found.iter().all(|&x| x == 0.0) && lse[row] == f32::NEG_INFINITY),
                    9 => assert!(found.iter().all(|x| x.is_nan()) && lse[row].is_nan()),
                    _ => assert_eq!(found, clean, "{} {precision:?}: row {row}", backend.name()),
                }
            }
        }
    }
}

/// Dropout drops the weights that the mask names: row `sequence * heads + head`, column `query * 65536 + key`. Sequences
/// that are packed or padded to another length keep the same weights, which all are multiplied by 1 / (1 - p).
#[test]
fn dropout_drops_the_elements_that_it_documents() {
    let (heads, rows, keys, dim) = (3, 70, [300, 20], 8);
    let random = RandomBits { seed: 3, step: 4, site: 5 };
    let mask = DropoutMask { probability: 0.25, random, first_row: 6 };
    // Values are unit vectors: outputs are the weights of the first 300 keys.
    let width = keys[0];
    let all = keys[0] + keys[1];
    let (q, k) = (numbers(heads * 2 * rows * dim, 9), numbers(heads * all * dim, 10));
    let key_of = |key: usize| if key < keys[0] { key } else { key - keys[0] };
    let v: Vec<f32> = (0..heads * all * width)
        .map(|i| if key_of(i / width % all) == i % width { 1.0 } else { 0.0 })
        .collect();
    for &backend in Backend::available() {
        for precision in [Precision::F32, Precision::Bf16] {
            let run = |dropout: Option<DropoutMask>| {
                let of_out = [1, heads, 2 * rows, width];
                let (mut out, mut lse) =
                    (vec![f32::NAN; heads * 2 * rows * width], vec![f32::NAN; heads * 2 * rows]);
                backend
                    .run(Attention {
                        precision,
                        sequences: Sequences::Packed { q: &[0, rows, 2 * rows], k: &[0, keys[0], all] },
                        dropout,
                        lse: Some(ViewMut::new(&mut lse, [1, heads, 2 * rows]).unwrap()),
                        ..Attention::new(
                            View::new(&q, [1, heads, 2 * rows, dim]).unwrap(),
                            View::new(&k, [1, heads, all, dim]).unwrap(),
                            View::new(&v, [1, heads, all, width]).unwrap(),
                            ViewMut::new(&mut out, of_out).unwrap(),
                        )
                    })
                    .unwrap();
                (out, lse)
            };
            let ((whole, lse), (dropped, lse_of_dropped)) = (run(None), run(Some(mask)));
            assert_eq!(lse, lse_of_dropped, "{}", backend.name());
            for (i, (&whole, &dropped)) in whole.iter().zip(&dropped).enumerate() {
                let (head, query, key) = (i / width / (2 * rows), i / width % (2 * rows), i % width);
                let (sequence, query) = (query / rows, query % rows);
                let seen = key < keys[sequence];
                let kept = mask.keeps((sequence * heads + head) as u32, (query * 65536 + key) as u32);
                assert_eq!(dropped != 0.0, seen && kept, "{}: {head} {query} {key}", backend.name());
                let scaled = whole / 0.75;
                assert!(dropped == 0.0 || (dropped - scaled).abs() <= 1e-6 * scaled, "{dropped} {scaled}");
            }
        }
    }
}

/// Sequences with starts of their own have the bits of calls for each sequence alone, with and without a distance
/// bias, also if positions are as far apart as any.
#[test]
fn each_sequence_has_its_start() {
    let [batch, heads, rows, keys, dim] = [3, 2, 5, 40, 8];
    let (q, k) = (numbers(batch * heads * rows * dim, 7), numbers(batch * heads * keys * dim, 8));
    let (of_q, of_k) = ([batch, heads, rows, dim], [batch, heads, keys, dim]);
    let alibi = DistanceBias::Alibi { slopes: &[0.5, 0.125] };
    for &backend in Backend::available() {
        for starts in [[0, 35, 7], [20, 0, 1 << 40]] {
            for distance in [None, Some(alibi)] {
                let run = |range: core::ops::Range<usize>, start: Start<'_>| {
                    let view = |x, shape| View::new(x, shape).unwrap().slice(0, range.clone());
                    let mut out = vec![f32::NAN; range.len() * heads * rows * dim];
                    let to = ViewMut::new(&mut out, [range.len(), heads, rows, dim]).unwrap();
                    let attention = Attention::new(view(&q, of_q), view(&k, of_k), view(&k, of_k), to);
                    backend.run(Attention { start, distance, window: Window::CAUSAL, ..attention }).unwrap();
                    out
                };
                let alone: Vec<f32> = (0..batch).flat_map(|b| run(b..b + 1, Start::At(starts[b]))).collect();
                assert_eq!(run(0..batch, Start::Each(&starts)), alone, "{}: {starts:?}", backend.name());
            }
        }
    }
}

/// A score of -inf has weight 0, and 0 times an infinite value is NaN, in one block of keys and across blocks.
#[test]
fn infinite_values_under_scores_of_minus_infinity_are_nan() {
    const KEYS: usize = 300;
    for &backend in Backend::available() {
        for key in [0, 100, KEYS - 1] {
            let (mut k, mut v) = (vec![0.5; KEYS], vec![1.0; KEYS]);
            // All keys of one block score -inf; the other block keeps finite scores.
            for (i, k) in k.iter_mut().enumerate() {
                if i / 256 == key / 256 {
                    *k = f32::NEG_INFINITY;
                }
            }
            v[key] = f32::INFINITY;
            let [q, k, v] = [
                View::new(&[1.0], [1, 1, 1, 1]),
                View::new(&k, [1, 1, KEYS, 1]),
                View::new(&v, [1, 1, KEYS, 1]),
            ]
            .map(Result::unwrap);
            let mut out = [7.0];
            let to = ViewMut::new(&mut out, [1, 1, 1, 1]).unwrap();
            backend.run(Attention { start: Start::End, ..Attention::new(q, k, v, to) }).unwrap();
            assert!(out[0].is_nan(), "{}: key {key}: {}", backend.name(), out[0]);
        }
    }
}

/// Numbers in [-1, 1) that bf16 represents exactly.
fn numbers(n: usize, mut state: u32) -> Vec<f32> {
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        bf16::from_f32((state >> 8) as f32 / (1 << 23) as f32 - 1.0).to_f32()
    };
    (0..n).map(|_| next()).collect()
}

/// The root mean square of differences.
fn rms(found: &[f32], exact: &[f64]) -> f64 {
    let squares = found.iter().zip(exact).map(|(&f, &e)| (f64::from(f) - e).powi(2));
    (squares.sum::<f64>() / exact.len() as f64).sqrt()
}

/// bf16 attention errs no more than an exact computation whose only rounding is that of the softmax weights to bf16,
/// which the product with v requires.
#[test]
fn bf16_errs_no_more_than_rounded_weights() {
    let [rows, keys, dim] = [64, 600, 64];
    let (mut q, k, v) = (numbers(rows * dim, 1), numbers(keys * dim, 2), numbers(keys * dim, 3));
    q.iter_mut().for_each(|x| *x *= 8.0);
    let (mut exact, mut naive) = (vec![], vec![]);
    for q in q.chunks(dim) {
        let dot = |k: &[f32]| q.iter().zip(k).map(|(&q, &k)| f64::from(q) * f64::from(k)).sum::<f64>();
        let scores: Vec<f64> = k.chunks(dim).map(|k| dot(k) / (dim as f64).sqrt()).collect();
        let max = scores.iter().fold(f64::NEG_INFINITY, |m, &s| m.max(s));
        let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
        let sum: f64 = weights.iter().sum();
        for d in 0..dim {
            let by = |weight: &dyn Fn(f64) -> f64| {
                weights.iter().zip(v.chunks(dim)).map(|(&w, v)| weight(w) * f64::from(v[d])).sum::<f64>()
                    / sum
            };
            exact.push(by(&|w| w));
            naive.push(by(&|w| bf16::from_f64(w).to_f64()) as f32);
        }
    }
    let allowed = rms(&naive, &exact);
    for &backend in Backend::available() {
        let view = |x, n| View::new(x, [1, 1, n, dim]).unwrap();
        let mut out = vec![f32::NAN; rows * dim];
        let to = ViewMut::new(&mut out, [1, 1, rows, dim]).unwrap();
        let attention = Attention::new(view(&q, rows), view(&k, keys), view(&v, keys), to);
        backend.run(Attention { precision: Precision::Bf16, ..attention }).unwrap();
        let found = rms(&out, &exact);
        assert!(found <= 1.02 * allowed, "{}: {found:e} > {allowed:e}", backend.name());
    }
}

/// A visible key reaches a row and a hidden key never does, although weights and values are packed in pairs.
#[test]
fn bf16_pairs_keep_what_is_hidden_apart() {
    let [keys, dim] = [70, 8];
    let x = numbers(keys * dim, 4);
    let narrow = |x: &[f32]| -> Vec<bf16> { x.iter().map(|&x| bf16::from_f32(x)).collect() };
    let q = narrow(&x);
    for &backend in Backend::available() {
        let run = |k: &[bf16], v: &[bf16]| {
            let [q, k, v] = [&q, k, v].map(|x| View::new(x, [1, 1, keys, dim]).unwrap());
            let mut out = vec![bf16::NAN; keys * dim];
            let to = ViewMut::new(&mut out, [1, 1, keys, dim]).unwrap();
            let attention = Attention::new(q, k, v, to);
            backend.run(Attention { window: Window::CAUSAL, ..attention }).unwrap();
            out
        };
        let clean = run(&q, &q);
        for hidden in [1, 16, 33, 69] {
            let mut poisoned = q.clone();
            poisoned[hidden * dim..][..dim].fill(bf16::NAN);
            let seen = hidden * dim;
            assert_eq!(run(&poisoned, &poisoned)[..seen], clean[..seen], "{}: {hidden}", backend.name());
            let of_values = run(&q, &poisoned);
            assert_eq!(of_values[..seen], clean[..seen], "{}: {hidden}", backend.name());
            assert!(of_values[seen..].iter().all(|x| x.is_nan()), "{}: {hidden}", backend.name());
        }
    }
}

/// T5's `max_distance` may exceed `isize::MAX`: every backend agrees with the definition.
#[test]
fn any_max_distance_of_t5_agrees_with_the_definition() {
    let x: Vec<f32> = (0..70 * 4).map(|i| (i % 13) as f32 / 8.0 - 0.75).collect();
    let table: Vec<f32> = (0..32).map(|i| i as f32 / 8.0).collect();
    let view = View::new(&x, [1, 1, 70, 4]).unwrap();
    let table = View::new(&table, [32, 1]).unwrap();
    for max_distance in [isize::MAX as usize, isize::MAX as usize + 1, usize::MAX] {
        for bidirectional in [true, false] {
            let run = |backend: Backend| {
                let mut out = vec![f32::NAN; 70 * 4];
                let to = ViewMut::new(&mut out, [1, 1, 70, 4]).unwrap();
                let distance = Some(DistanceBias::T5 { table, bidirectional, max_distance });
                backend.run(Attention { distance, ..Attention::new(view, view, view, to) }).unwrap();
                out
            };
            let expected = run(Backend::REFERENCE);
            for &backend in Backend::available() {
                for (found, expected) in run(backend).iter().zip(&expected) {
                    assert!((found - expected).abs() < 1e-5, "{} {max_distance}", backend.name());
                }
            }
        }
    }
}
