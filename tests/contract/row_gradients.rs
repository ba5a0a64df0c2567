//! Clause 2 for the gradients of row kernels: bits depend neither on threads nor on neighbours.

use super::{ROWS, narrow, numbers, same_on_any_threads, widen};
use half::{bf16, f16};
use tilewright_kernels::{
    Backend, Element, EmbeddingBackward, Error, L2NormalizeBackward, LayerNormBackward, PoolBackward,
    Pooling, RmsNormBackward, Rows, SoftmaxBackward, View, ViewMut,
};
use tilewright_suite::backends;
use tilewright_verify::bound::identical;

/// Replaces dy by dx, given x (or y), a vector over the columns, and sums of two such vectors to add to.
type Gradient<T> = fn(Backend, Rows<'_, T>, View<'_, 2, T>, &[f32], [&mut [f32]; 2]) -> Result<(), Error>;

fn gradients<T: Element>() -> [(&'static str, Gradient<T>); 4] {
    [
        ("layer norm", |backend, rows, x, weight, [dweight, dbias]| {
            // Statistics that depend on the row alone, near those of numbers in [-1, 1).
            let statistics = |f: fn(f32) -> f32| -> Vec<f32> {
                x.rows().map(|row| f(row.first().map_or(0.0, |x| x.to_f32()))).collect()
            };
            let (mean, inverse_deviation) = (statistics(|x| 0.1 * x), statistics(|x| 1.7 + x));
            backend.run(LayerNormBackward {
                dresidual: Some(x),
                weight: Some(weight),
                dweight: Some(dweight),
                dbias: Some(dbias),
                ..LayerNormBackward::new(rows, x, &mean, &inverse_deviation)
            })
        }),
        ("RMS norm", |backend, rows, x, weight, [dweight, _]| {
            let inverse_deviation = vec![1.7; x.shape()[0]];
            backend.run(RmsNormBackward {
                weight: Some(weight),
                dweight: Some(dweight),
                ..RmsNormBackward::new(rows, x, &inverse_deviation)
            })
        }),
        ("L2 norm", |backend, rows, x, _, _| backend.run(L2NormalizeBackward { rows, x, eps: 1e-12 })),
        ("softmax", |backend, rows, y, _, _| backend.run(SoftmaxBackward::new(rows, y))),
    ]
}

#[test]
fn gradients_of_rows_do_not_depend_on_threads() {
    fn check<T: Element>() {
        for backend in backends() {
            for [rows, n] in ROWS {
                let (x, dy) = (narrow::<T>(&numbers(rows * n, 20)), narrow::<T>(&numbers(rows * n, 21)));
                let x = View::new(&x, [rows, n]).unwrap();
                let weight = numbers(n, 22);
                for (kernel, run) in gradients::<T>() {
                    let what = format!("{}: gradient of {kernel} {rows}x{n} in {}", backend.name(), T::NAME);
                    same_on_any_threads(&what, || {
                        let (mut dx, mut dweight, mut dbias) = (dy.clone(), weight.clone(), weight.clone());
                        let dy = Rows::InPlace(ViewMut::new(&mut dx, [rows, n]).unwrap());
                        run(backend, dy, x, &weight, [&mut dweight, &mut dbias]).unwrap();
                        [widen(&dx), dweight, dbias].concat()
                    });
                }
            }
        }
    }
    check::<f32>();
    check::<bf16>();
    check::<f16>();
}

/// A row's dx has the same bits alone and among other rows.
#[test]
fn gradients_of_rows_do_not_depend_on_their_neighbours() {
    fn check<T: Element>() {
        for backend in backends() {
            for n in [1, 31, 100, 777] {
                let rows = 40;
                let (x, dy) = (narrow::<T>(&numbers(rows * n, 23)), narrow::<T>(&numbers(rows * n, 24)));
                let weight = numbers(n, 25);
                for (kernel, run) in gradients::<T>() {
                    let gradient = |x: &[T], dy: &[T]| {
                        let shape = [x.len() / n, n];
                        let (mut dx, mut sums) = (dy.to_vec(), [weight.clone(), weight.clone()]);
                        let dy = Rows::InPlace(ViewMut::new(&mut dx, shape).unwrap());
                        let x = View::new(x, shape).unwrap();
                        run(backend, dy, x, &weight, sums.each_mut().map(Vec::as_mut_slice)).unwrap();
                        widen(&dx)
                    };
                    let together = gradient(&x, &dy);
                    for i in 0..rows {
                        let alone = gradient(&x[i * n..][..n], &dy[i * n..][..n]);
                        identical(&together[i * n..][..n], &alone).unwrap_or_else(|e| {
                            panic!("{}: gradient of {kernel} of {n}, row {i}: {e}", backend.name())
                        });
                    }
                }
            }
        }
    }
    check::<f32>();
    check::<bf16>();
    check::<f16>();
}

/// An id that occurs in most tokens, and others: the order of sums is that of the tokens.
#[test]
fn gradients_of_tables_do_not_depend_on_threads() {
    fn check<T: Element>() {
        for backend in backends() {
            for (tokens, n) in [(7, 5), (300, 768), (4001, 33)] {
                let dy = narrow::<T>(&numbers(tokens * n, 26));
                let dy = View::new(&dy, [tokens, n]).unwrap();
                let ids: Vec<u32> = (0..tokens as u32).map(|t| if t % 3 == 0 { t % 13 } else { 4 }).collect();
                let what =
                    format!("{}: gradient of an embedding {tokens}x{n} in {}", backend.name(), T::NAME);
                same_on_any_threads(&what, || {
                    let mut table = numbers(13 * n, 27);
                    let dtable = ViewMut::new(&mut table, [13, n]).unwrap();
                    backend.run(EmbeddingBackward::new(dy, &ids, dtable)).unwrap();
                    table
                });
            }
        }
    }
    check::<f32>();
    check::<bf16>();
    check::<f16>();
}

#[test]
fn gradients_of_pools_do_not_depend_on_threads() {
    let (n, offsets) = (768, [0, 0, 1, 200, 200, 301, 301]);
    let dy = numbers(6 * n, 28);
    let dy = View::new(&dy, [6, n]).unwrap();
    for (backend, pooling) in backends().into_iter().flat_map(|b| [(b, Pooling::Mean), (b, Pooling::Cls)]) {
        let what = format!("{}: gradient of {pooling:?}", backend.name());
        same_on_any_threads(&what, || {
            let mut dx = vec![f32::NAN; 301 * n];
            let out = ViewMut::new(&mut dx, [301, n]).unwrap();
            backend.run(PoolBackward { pooling, ..PoolBackward::new(dy, &offsets, out) }).unwrap();
            dx
        });
    }
}
