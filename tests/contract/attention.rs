//! Attention: rows depend neither on threads nor on other rows, and a row without visible keys is zero.

use super::{numbers, same_on_any_threads};
use half::bf16;
use tilewright_kernels::{Attention, Backend, Element, Precision, Sequences, Start, View, ViewMut, Window};
use tilewright_suite::backends;

/// Batch, kv heads, query heads for each kv head, queries, keys: shapes that threads split by heads, by rows, and by
/// keys.
const ATTENTIONS: [[usize; 5]; 5] =
    [[1, 1, 1, 700, 700], [2, 3, 1, 65, 300], [1, 1, 4, 1, 3000], [1, 2, 2, 5, 1500], [1, 12, 1, 128, 128]];

/// Attention over 64 dimensions with random inputs; log-sum-exps follow the outputs.
fn run<T: Element>(
    backend: Backend,
    [batch, kv_heads, group, queries, keys]: [usize; 5],
    window: Window,
    precision: Precision,
) -> Vec<f32> {
    const D: usize = 64;
    let heads = kv_heads * group;
    let numbers = |n: usize, seed| -> Vec<T> { numbers(n, seed).into_iter().map(T::from_f32).collect() };
    let q = numbers(batch * heads * queries * D, 9);
    let (k, v) = (numbers(batch * kv_heads * keys * D, 10), numbers(batch * kv_heads * keys * D, 11));
    let shape = [batch, heads, queries, D];
    let (mut rows, mut lse) = (vec![T::from_f32(f32::NAN); q.len()], vec![f32::NAN; q.len() / D]);
    backend
        .run(Attention {
            window,
            start: Start::End,
            precision,
            lse: Some(ViewMut::new(&mut lse, [batch, heads, queries]).unwrap()),
            ..Attention::new(
                View::new(&q, shape).unwrap(),
                View::new(&k, [batch, kv_heads, keys, D]).unwrap(),
                View::new(&v, [batch, kv_heads, keys, D]).unwrap(),
                ViewMut::new(&mut rows, shape).unwrap(),
            )
        })
        .unwrap();
    rows.into_iter().map(T::to_f32).chain(lse).collect()
}

#[test]
fn does_not_depend_on_threads() {
    for backend in backends() {
        for shape in ATTENTIONS {
            for window in [Window::ALL, Window::CAUSAL, Window { before: Some(100), after: Some(7) }] {
                let what = format!("{}: attention {shape:?} {window:?}", backend.name());
                let stored = Precision::Stored;
                same_on_any_threads(&what, || run::<f32>(backend, shape, window, stored));
                let of_bf16 = || run::<bf16>(backend, shape, window, stored);
                same_on_any_threads(&format!("{what} of bf16"), of_bf16);
            }
        }
    }
}

/// The last rows of a prompt equal the rows of a step after all earlier rows, in f32 and in bf16.
#[test]
fn rows_do_not_depend_on_others() {
    const D: usize = 64;
    for backend in backends() {
        for precision in [Precision::Stored, Precision::Bf16] {
            let shape = [1, 1, 1, 300, 300];
            let all = run::<f32>(backend, shape, Window::CAUSAL, precision);
            let q = numbers(300 * D, 9);
            let (k, v) = (numbers(300 * D, 10), numbers(300 * D, 11));
            for first in [0, 17, 299] {
                let (n, end) = (1, first + 1);
                let mut out = vec![f32::NAN; n * D];
                let keys = |x| View::new(x, [1, 1, 300, D]).unwrap().slice(2, 0..end);
                backend
                    .run(Attention {
                        precision,
                        ..Attention::new(
                            View::new(&q[first * D..], [1, 1, n, D]).unwrap(),
                            keys(&k),
                            keys(&v),
                            ViewMut::new(&mut out, [1, 1, n, D]).unwrap(),
                        )
                    })
                    .unwrap();
                assert_eq!(out, all[first * D..][..n * D], "{}: row {first}", backend.name());
            }
        }
    }
}

/// A row without visible keys is zero and its log-sum-exp is -inf, for any content of the keys.
#[test]
fn to_nothing_is_zero() {
    let [queries, keys, dim] = [20, 300, 16];
    let q = numbers(queries * dim, 12);
    let poison = vec![f32::NAN; keys * dim];
    for &backend in Backend::available() {
        let (mut out, mut lse) = (vec![f32::NAN; q.len()], vec![f32::NAN; queries]);
        let k = View::new(&poison, [1, 1, keys, dim]).unwrap();
        backend
            .run(Attention {
                sequences: Sequences::KeyLengths(&[0]),
                lse: Some(ViewMut::new(&mut lse, [1, 1, queries]).unwrap()),
                ..Attention::new(
                    View::new(&q, [1, 1, queries, dim]).unwrap(),
                    k,
                    k,
                    ViewMut::new(&mut out, [1, 1, queries, dim]).unwrap(),
                )
            })
            .unwrap();
        assert!(out.iter().all(|&x| x == 0.0), "{}: {out:?}", backend.name());
        assert!(lse.iter().all(|&x| x == f32::NEG_INFINITY), "{}: {lse:?}", backend.name());
    }
}
