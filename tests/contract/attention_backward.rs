//! Gradients of attention: they depend neither on threads nor on other sequences, and what a mask hides never reaches
//! them.

use super::{narrow, numbers, same_on_any_threads, widen};
use half::bf16;
use tilewright_kernels::{
    Attention, AttentionBackward, Backend, DistanceBias, DropoutMask, Element, Error, RandomBits, Sequences,
    Start, View, ViewMut, Window,
};
use tilewright_suite::backends;

const D: usize = 40;

/// An attention with all biases whose gradients are sums.
#[derive(Clone, Copy)]
struct Case<'a> {
    /// Batch, kv heads, query heads for each, queries, keys.
    extents: [usize; 5],
    window: Window,
    sequences: Sequences<'a>,
    /// Queries and keys of the longest sequence, if a bias that all sequences and heads share is wanted.
    bias: Option<[usize; 2]>,
    dropout: Option<DropoutMask>,
}

/// Dropout of one weight in four.
const DROPOUT: DropoutMask =
    DropoutMask { probability: 0.25, random: RandomBits { seed: 3, step: 1, site: 2 }, first_row: 7 };

/// Elements of q, k and v.
struct Inputs<T> {
    q: Vec<T>,
    k: Vec<T>,
    v: Vec<T>,
    dout: Vec<T>,
}

impl<T: Element> Inputs<T> {
    fn new([batch, kv_heads, group, queries, keys]: [usize; 5]) -> Self {
        let (n, kv) = (batch * kv_heads * group * queries * D, batch * kv_heads * keys * D);
        let [q, dout] = [1, 2].map(|seed| narrow(&numbers(n, seed)));
        let [k, v] = [3, 4].map(|seed| narrow(&numbers(kv, seed)));
        Self { q, k, v, dout }
    }
}

/// Gradients of q, k, v, the bias and T5's table.
fn run<T: Element>(backend: Backend, case: Case<'_>, inputs: &Inputs<T>) -> [Vec<f32>; 5] {
    let [batch, kv_heads, group, queries, keys] = case.extents;
    let heads = kv_heads * group;
    let (shape, kv) = ([batch, heads, queries, D], [batch, kv_heads, keys, D]);
    let qkv = [
        View::new(&inputs.q, shape).unwrap(),
        View::new(&inputs.k, kv).unwrap(),
        View::new(&inputs.v, kv).unwrap(),
    ];
    let sequences = match case.sequences {
        Sequences::Packed { q, .. } => q.len() - 1,
        _ => batch,
    };
    let [rows, columns] = case.bias.unwrap_or([0, 0]);
    let (values, slopes) = (numbers(rows * columns, 5), numbers(32 * heads, 6));
    let bias = case
        .bias
        .map(|_| View::with_strides(&values, [sequences, heads, rows, columns], [0, 0, columns, 1]).unwrap());
    let table = View::new(&slopes, [32, heads]).unwrap();
    let distance = case.bias.map(|_| DistanceBias::T5 { table, bidirectional: true, max_distance: 128 });
    let (mut out, mut lse) = (vec![T::default(); inputs.q.len()], vec![0.0; inputs.q.len() / D]);
    let (start, window) = (Start::End, case.window);
    backend
        .run(Attention {
            bias,
            distance,
            start,
            window,
            sequences: case.sequences,
            dropout: case.dropout,
            lse: Some(ViewMut::new(&mut lse, [batch, heads, queries]).unwrap()),
            ..Attention::new(qkv[0], qkv[1], qkv[2], ViewMut::new(&mut out, shape).unwrap())
        })
        .unwrap();
    let [mut dq, mut dk, mut dv] =
        [&inputs.q, &inputs.k, &inputs.v].map(|x| vec![T::from_f32(f32::NAN); x.len()]);
    let (mut dbias, mut dtable) = (vec![0.5; rows * columns], vec![0.25; 32 * heads]);
    let wanted = case.bias.is_some();
    let backward = AttentionBackward::new(
        qkv,
        (View::new(&out, shape).unwrap(), View::new(&lse, [batch, heads, queries]).unwrap()),
        View::new(&inputs.dout, shape).unwrap(),
        [
            ViewMut::new(&mut dq, shape).unwrap(),
            ViewMut::new(&mut dk, kv).unwrap(),
            ViewMut::new(&mut dv, kv).unwrap(),
        ],
    );
    backend
        .run(AttentionBackward {
            bias,
            distance,
            start,
            window,
            sequences: case.sequences,
            dropout: case.dropout,
            dbias: wanted.then(|| ViewMut::new(&mut dbias, [1, 1, rows, columns]).unwrap()),
            dtable: wanted.then(|| ViewMut::new(&mut dtable, [32, heads]).unwrap()),
            ..backward
        })
        .unwrap();
    [widen(&dq), widen(&dk), widen(&dv), dbias, dtable]
}

#[test]
fn does_not_depend_on_threads() {
    fn check<T: Element>() {
        for backend in backends() {
            for extents in
                [[1, 1, 1, 300, 1300], [2, 3, 1, 65, 300], [1, 2, 2, 70, 700], [1, 12, 1, 128, 128]]
            {
                for window in [Window::ALL, Window::CAUSAL, Window { before: Some(100), after: Some(7) }] {
                    let biased = Some([extents[3], extents[4]]);
                    for (bias, dropout) in [(None, None), (biased, None), (None, Some(DROPOUT))] {
                        let case = Case { extents, window, sequences: Sequences::Rows, bias, dropout };
                        let inputs = Inputs::<T>::new(extents);
                        let what = format!("{}: gradients {extents:?} {window:?}", backend.name());
                        same_on_any_threads(&what, || run(backend, case, &inputs).concat());
                    }
                }
            }
        }
    }
    check::<f32>();
    check::<bf16>();
}

/// A sequence has the same gradients alone, packed among others, and with padding.
#[test]
fn does_not_depend_on_other_sequences() {
    fn check<T: Element>() {
        let (q, k) = ([0, 40, 40, 190, 200], [0, 9, 20, 620, 640]);
        let extents = [1, 1, 2, 200, 640];
        for (backend, dropout) in
            backends().into_iter().flat_map(|backend| [(backend, None), (backend, Some(DROPOUT))])
        {
            let inputs = Inputs::<T>::new(extents);
            let packed = Case {
                extents,
                window: Window::CAUSAL,
                sequences: Sequences::Packed { q: &q, k: &k },
                bias: None,
                dropout,
            };
            let all = run(backend, packed, &inputs);
            for s in 0..4 {
                let [rows, keys] = [&q, &k].map(|ends: &[usize; 5]| ends[s]..ends[s + 1]);
                let of_head =
                    |x: &[T], head: usize, n: usize, rows: &core::ops::Range<usize>, padding: usize| {
                        let mut part = x[(head * n + rows.start) * D..(head * n + rows.end) * D].to_vec();
                        part.extend((0..padding * D).map(|_| T::from_f32(f32::NAN)));
                        part
                    };
                for padding in [0, 70] {
                    let of_rows = |x: &[T]| [0, 1].map(|head| of_head(x, head, 200, &rows, 0)).concat();
                    let alone = Inputs {
                        q: of_rows(&inputs.q),
                        dout: of_rows(&inputs.dout),
                        k: of_head(&inputs.k, 0, 640, &keys, padding),
                        v: of_head(&inputs.v, 0, 640, &keys, padding),
                    };
                    let length = [keys.len()];
                    let case = Case {
                        extents: [1, 1, 2, rows.len(), keys.len() + padding],
                        window: Window::CAUSAL,
                        sequences: Sequences::KeyLengths(&length),
                        bias: None,
                        dropout: dropout
                            .map(|mask| DropoutMask { first_row: mask.first_row + (s * 2) as u32, ..mask }),
                    };
                    let found = run(backend, case, &alone);
                    let what = format!("{}: sequence {s}, padding {padding}", backend.name());
                    for head in 0..2 {
                        let expected = &all[0][(head * 200 + rows.start) * D..][..rows.len() * D];
                        assert_eq!(&found[0][head * rows.len() * D..][..rows.len() * D], expected, "{what}");
                    }
                    for gradient in [1, 2] {
                        let (found, padded) = found[gradient].split_at(keys.len() * D);
                        assert_eq!(found, &all[gradient][keys.start * D..keys.end * D], "{what}");
                        assert!(padded.iter().all(|x| x.to_bits() == 0), "{what}: padding");
                    }
                }
            }
        }
    }
    check::<f32>();
    check::<bf16>();
}

/// A row and a key that do not see each other share no gradient, even if one of them is NaN.
#[test]
fn hidden_numbers_stay_apart() {
    fn check<T: Element>() {
        let extents = [1, 1, 1, 150, 150];
        let case =
            Case { extents, window: Window::CAUSAL, sequences: Sequences::Rows, bias: None, dropout: None };
        for backend in backends() {
            let inputs = Inputs::<T>::new(extents);
            let clean = run(backend, case, &inputs);
            for place in [0, 1, 33, 130, 149] {
                // A key and its value: rows before it do not see them.
                let mut poisoned = Inputs::<T>::new(extents);
                poisoned.k[place * D..][..D].fill(T::from_f32(f32::NAN));
                poisoned.v[place * D..][..D].fill(T::from_f32(f32::NAN));
                let found = run(backend, case, &poisoned);
                let what = format!("{}: {place}", backend.name());
                assert_eq!(found[0][..place * D], clean[0][..place * D], "{what}");
                assert!(found[0][place * D..].iter().all(|x| x.is_nan()), "{what}");
                // A query: keys after it do not see it.
                let mut poisoned = Inputs::<T>::new(extents);
                poisoned.q[place * D..][..D].fill(T::from_f32(f32::NAN));
                poisoned.dout[place * D..][..D].fill(T::from_f32(f32::NAN));
                let found = run(backend, case, &poisoned);
                for gradient in [1, 2] {
                    let (seen, hidden) = found[gradient].split_at((place + 1) * D);
                    assert_eq!(hidden, &clean[gradient][(place + 1) * D..], "{what}");
                    assert!(seen.iter().all(|x| x.is_nan()), "{what}");
                }
            }
        }
    }
    check::<f32>();
    check::<bf16>();
}

/// The definition and every backend refuse arguments that do not fit each other, and write nothing.
#[test]
fn misfits_of_attention_gradients_are_refused() {
    const N: usize = 2 * 4 * 5 * 8;
    static X: [f32; N] = [0.5; N];
    let view = |shape| View::new(&X, shape).unwrap();
    let refused = |what: &str, change: &dyn Fn(&mut AttentionBackward<'_>)| {
        for &backend in Backend::available() {
            let [mut dq, mut dk, mut dv] = [[7.0; N]; 3];
            let (q, k) = ([2, 4, 3, 8], [2, 2, 5, 8]);
            let mut backward = AttentionBackward::new(
                [view(q), view(k), view(k)],
                (view(q), View::new(&X, [2, 4, 3]).unwrap()),
                view(q),
                [
                    ViewMut::new(&mut dq, q).unwrap(),
                    ViewMut::new(&mut dk, k).unwrap(),
                    ViewMut::new(&mut dv, k).unwrap(),
                ],
            );
            change(&mut backward);
            match backend.run(backward) {
                Err(Error::Shape { what: found, .. } | Error::Invalid { what: found, .. }) => {
                    assert_eq!(found, what, "{}", backend.name());
                }
                other => panic!("{}: expected {what} to be refused, found {other:?}", backend.name()),
            }
            assert_eq!([dq, dk, dv], [[7.0; N]; 3]);
        }
    };
    let none = || ViewMut::<4>::new(&mut [], [0; 4]).unwrap().into();
    let some = || vec![0.0; N].leak();
    refused("Attention.k", &|b| b.k = view([2, 2, 5, 7]));
    refused("Attention.softcap", &|b| b.softcap = Some(-1.0));
    refused("Attention.dropout", &|b| {
        b.dropout = Some(DropoutMask { probability: 1.5, ..DropoutMask::default() });
    });
    refused("AttentionBackward.out", &|b| b.out = view([2, 4, 3, 7]).into());
    refused("AttentionBackward.out", &|b| {
        b.out = View::with_strides(&X, [2, 4, 3, 8], [1, 2, 8, 24]).unwrap().into();
    });
    refused("AttentionBackward.dout", &|b| b.dout = view([2, 4, 2, 8]).into());
    refused("AttentionBackward.lse", &|b| b.lse = View::new(&X, [2, 4, 4]).unwrap());
    refused("AttentionBackward.dq", &|b| b.dq = none());
    refused("AttentionBackward.dk", &|b| b.dk = none());
    refused("AttentionBackward.dv", &|b| b.dv = none());
    refused("AttentionBackward.dbias", &|b| {
        b.dbias = Some(ViewMut::new(some(), [2, 4, 3, 5]).unwrap());
    });
    refused("AttentionBackward.dbias", &|b| {
        b.bias = Some(View::with_strides(&X, [2, 4, 3, 5], [0, 15, 5, 1]).unwrap());
        b.dbias = Some(ViewMut::new(some(), [1, 1, 3, 5]).unwrap());
    });
    refused("AttentionBackward.dtable", &|b| b.dtable = Some(ViewMut::new(some(), [8, 4]).unwrap()));
    refused("AttentionBackward.dtable", &|b| {
        let table = View::new(&X, [8, 4]).unwrap();
        b.distance = Some(DistanceBias::T5 { table, bidirectional: true, max_distance: 16 });
        b.dtable = Some(ViewMut::new(some(), [4, 4]).unwrap());
    });
}
