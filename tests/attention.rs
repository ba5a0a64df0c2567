//! Fused attention.

use tilewright_kernels::{Attention, Backend, DistanceBias, Error, Sequences, Start, View, ViewMut};

#[test]
fn conforms() {
    tilewright_suite::conforms("attention");
}

/// Arguments that do not fit each other are refused by the definition and by every backend, and
/// nothing is written.
#[test]
fn misfits_are_refused() {
    /// Two batch rows of four heads, two of them kv heads, of three queries, five keys, width 8.
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
    refused("Attention.distance.slopes", |a| a.distance = Some(DistanceBias::Alibi { slopes: &X[..3] }));
    refused("Attention.distance", |a| {
        let table = View::new(&X, [32, 4]).unwrap();
        a.distance = Some(DistanceBias::T5 { table, bidirectional: true, max_distance: 8 });
    });
    refused("Attention.start", |a| a.start = Start::At(usize::MAX));
    refused("Attention.sequences", |a| a.sequences = Sequences::KeyLengths(&[5]));
    refused("Attention.sequences", |a| a.sequences = Sequences::KeyLengths(&[5, 6]));
    refused("Attention.q", |a| a.sequences = Sequences::Packed { q: &[0, 3], k: &[0, 5] });
    let packed = |q: &'static [usize], k: &'static [usize]| {
        move |a: &mut Attention<'_>| {
            (a.q, a.k, a.v) = (view([1, 4, 3, 8]), view([1, 2, 5, 8]), view([1, 2, 5, 8]));
            let out = core::mem::replace(&mut a.out, ViewMut::new(&mut [], [0; 4]).unwrap());
            a.out = out.slice(0, 0..1);
            a.sequences = Sequences::Packed { q, k };
        }
    };
    refused("Attention.sequences.k", packed(&[0, 1, 3], &[0, 5]));
    refused("Attention.sequences.q", packed(&[0, 2], &[0, 5]));
    refused("Attention.sequences.k", packed(&[0, 2, 3], &[0, 6, 5]));
}

/// A score of -inf weighs 0, and 0 times an infinite value is NaN, also across blocks of keys.
#[test]
fn infinite_values_under_scores_of_minus_infinity_are_nan() {
    const KEYS: usize = 300;
    for &backend in Backend::available() {
        for key in [0, 100, KEYS - 1] {
            let (mut k, mut v) = (vec![0.5; KEYS], vec![1.0; KEYS]);
            // All of the first block's keys, or some, or none: the others keep finite scores.
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
