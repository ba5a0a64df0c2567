//! Matrix products: bits do not depend on threads, on packing, on neighbours or on blocks.

use super::{narrow, numbers, same_on_any_threads};
use tilewright_kernels::gemm::{Epilogue, Format, Gemm, PackedB, Rhs};
use tilewright_kernels::half::bf16;
use tilewright_kernels::{Backend, ColumnSums, Element, View, ViewMut};
use tilewright_suite::backends;
use tilewright_verify::bound::identical;
use tilewright_verify::gemm::product;

/// Shapes (m, k, n) that threads split in every way: by rows, by panels, not at all.
const GEMMS: [(usize, usize, usize); 6] =
    [(1, 1024, 777), (1, 528, 200), (5, 300, 2000), (130, 513, 515), (700, 768, 100), (31, 100, 33)];

#[test]
fn gemm_does_not_depend_on_threads() {
    for backend in backends() {
        for (m, k, n) in GEMMS {
            let (a, b) = (numbers(m * k, 1), numbers(n * k, 2));
            let a = View::new(&a, [m, k]).unwrap();
            let b = View::new(&b, [n, k]).unwrap().transpose();
            let packed = PackedB::new(backend, b);
            let what = format!("{}: gemm {m}x{k}x{n}", backend.name());
            same_on_any_threads(&what, || product(backend, a, Rhs::Packed(&packed), n).unwrap());
            same_on_any_threads(&what, || product(backend, a, Rhs::Matrix(b.into()), n).unwrap());
        }
    }
}

#[test]
fn gemm_packs_alike_on_any_threads_and_either_way() {
    for backend in backends() {
        for (m, k, n) in GEMMS {
            let (a, b) = (numbers(m * k, 1), numbers(n * k, 2));
            let a = View::new(&a, [m, k]).unwrap();
            let b = View::new(&b, [n, k]).unwrap().transpose();
            let unpacked = product(backend, a, Rhs::Matrix(b.into()), n).unwrap();
            let what = format!("{}: packing {k}x{n}", backend.name());
            same_on_any_threads(&what, || {
                let packed = PackedB::new(backend, b);
                let result = product(backend, a, Rhs::Packed(&packed), n).unwrap();
                identical(&result, &unpacked).unwrap_or_else(|e| panic!("{what} beforehand: {e}"));
                result
            });
        }
    }
}

/// A row has the same bits alone and at any place among any number of rows, also if the product of few rows is small
/// enough to skip packing.
#[test]
fn gemm_rows_do_not_depend_on_their_neighbours() {
    for (k, n) in [(600, 130), (20, 13)] {
        let b = numbers(k * n, 3);
        let b = View::new(&b, [k, n]).unwrap();
        let most = 70;
        let a = numbers(most * k, 4);
        for backend in backends() {
            let packed = PackedB::new(backend, b);
            let row = |i: usize| {
                let a = View::new(&a[i * k..], [1, k]).unwrap();
                product(backend, a, Rhs::Packed(&packed), n).unwrap()
            };
            let alone: Vec<f32> = (0..most).flat_map(row).collect();
            for m in (1..=34).chain([47, most]) {
                let a = View::new(&a, [m, k]).unwrap();
                for rhs in [Rhs::Packed(&packed), Rhs::Matrix(b.into())] {
                    let together = product(backend, a, rhs, n).unwrap();
                    identical(&together, &alone[..m * n])
                        .unwrap_or_else(|e| panic!("{}: {m} rows instead of one: {e}", backend.name()));
                }
            }
        }
    }
}

/// A product of one row by an unpacked weight, or by a gated pair, has the bits of the packed product.
#[test]
fn gemm_with_one_row_does_not_depend_on_packing() {
    let near = |edges: &[usize]| edges.iter().flat_map(|e| e - 1..e + 2).collect::<Vec<_>>();
    for (n, k) in near(&[4, 8, 16, 32, 48, 64])
        .into_iter()
        .flat_map(|n| near(&[4, 8, 16, 20, 32, 64, 384, 1152]).into_iter().map(move |k| (n, k)))
    {
        // Misaligned rows with gaps of NaN, which would show in a result.
        let stride = k + 3;
        let mut stored = numbers(2 * n * stride + 1, 9);
        for row in stored[1..].chunks_mut(stride) {
            row[k..].fill(f32::NAN);
        }
        let [gate, up] = [1, 1 + n * stride].map(|from| {
            let weight = View::with_strides(&stored[from..], [n, k], [stride, 1]).unwrap();
            weight.transpose()
        });
        let x = numbers(k, 10);
        let a = View::new(&x, [1, 1, k]).unwrap();
        let mut spaced = vec![f32::NAN; 2 * k];
        spaced.iter_mut().step_by(2).zip(&x).for_each(|(to, x)| *to = *x);
        let spaced = View::with_strides(&spaced, [1, 1, k], [2 * k, 2 * k, 2]).unwrap();
        for backend in backends() {
            let run = |a: View<'_, 3>, b: Rhs<'_>| {
                let mut c = vec![f32::NAN; n];
                let (epilogue, to) = (Epilogue::default(), ViewMut::new(&mut c, [1, n]).unwrap().into());
                let a = a.into();
                backend.run(Gemm { alpha: 1.0, a, b, beta: 0.0, c: to, epilogue }).unwrap();
                c
            };
            let what = format!("{}: {k} x {n}", backend.name());
            let packed = PackedB::new(backend, gate);
            identical(&run(a, Rhs::Matrix(gate.into())), &run(a, Rhs::Packed(&packed)))
                .unwrap_or_else(|e| panic!("{what}: {e}"));
            identical(&run(spaced, Rhs::Matrix(gate.into())), &run(a, Rhs::Packed(&packed)))
                .unwrap_or_else(|e| panic!("{what}, of spaced elements: {e}"));
            let packed = PackedB::gated(backend, gate, up).unwrap();
            identical(
                &run(a, Rhs::Gated { gate: gate.into(), up: up.into() }),
                &run(a, Rhs::Packed(&packed)),
            )
            .unwrap_or_else(|e| panic!("{what}, gated: {e}"));
        }
    }
}

/// k-blocks do not change a sum: zeros appended beyond a block boundary change no bit.
#[test]
fn gemm_blocks_of_k_do_not_show() {
    let (m, n) = (20, 40);
    for backend in backends() {
        for k in [383, 384, 385, 767, 768, 769] {
            let (a, b) = (numbers(m * k, 5), numbers(k * n, 6));
            let padded = k + 300;
            let mut wide = vec![0.0; m * padded];
            for (row, from) in wide.chunks_mut(padded).zip(a.chunks(k)) {
                row[..k].copy_from_slice(from);
            }
            let mut tall = b.clone();
            tall.resize(padded * n, 1.0);
            let run = |a: &[f32], b: &[f32], k: usize| {
                let (a, b) = (View::new(a, [m, k]).unwrap(), View::new(b, [k, n]).unwrap());
                product(backend, a, Rhs::Matrix(b.into()), n).unwrap()
            };
            identical(&run(&wide, &tall, padded), &run(&a, &b, k))
                .unwrap_or_else(|e| panic!("{}: k = {k}, then zeros: {e}", backend.name()));
        }
    }
}

/// Every product of a batch equals the product alone, with any operands shared.
#[test]
fn gemm_batches_are_single_products() {
    let (batch, m, k, n) = (3, 17, 130, 50);
    let (a, b) = (numbers(batch * m * k, 7), numbers(batch * k * n, 8));
    for backend in backends() {
        for (a_batch, b_batch) in [(batch, batch), (1, batch), (batch, 1)] {
            let mut c = vec![f32::NAN; batch * m * n];
            backend
                .run(Gemm {
                    alpha: 1.0,
                    a: View::<3>::new(&a, [a_batch, m, k]).unwrap().into(),
                    b: Rhs::Matrix(View::<3>::new(&b, [b_batch, k, n]).unwrap().into()),
                    beta: 0.0,
                    c: ViewMut::<3>::new(&mut c, [batch, m, n]).unwrap().into(),
                    epilogue: Epilogue::default(),
                })
                .unwrap();
            for (i, c) in c.chunks(m * n).enumerate() {
                let a = View::new(&a[i % a_batch * m * k..], [m, k]).unwrap();
                let b = View::new(&b[i % b_batch * k * n..], [k, n]).unwrap();
                let alone = product(backend, a, Rhs::Matrix(b.into()), n).unwrap();
                identical(c, &alone).unwrap_or_else(|e| panic!("{}: product {i}: {e}", backend.name()));
            }
        }
    }
}

/// The products of a linear layer's backward pass, dX = dY W and dW += dY^T X, in f32 and in bf16.
#[test]
fn gemm_of_a_backward_pass_does_not_depend_on_threads_packing_or_neighbours() {
    fn gradients<T: Element>(what: &str, backend: Backend, format: Format, [rows, k, n]: [usize; 3]) {
        let [x, w, dy] = [(rows * k, 1), (n * k, 2), (rows * n, 3)].map(|(len, seed)| numbers(len, seed));
        let [x, w, dy] = [&x, &w, &dy].map(|v| narrow::<T>(v));
        let x = View::new(&x, [rows, k]).unwrap();
        let w = View::new(&w, [n, k]).unwrap();
        let dy = View::new(&dy, [rows, n]).unwrap();
        let product = |a: View<'_, 2, T>, b: Rhs<'_>, beta: f32, columns: usize| {
            let shape = [a.shape()[0], columns];
            let mut c = numbers(shape[0] * columns, 4);
            let to = ViewMut::new(&mut c, shape).unwrap().into();
            let epilogue = Epilogue::default();
            backend.run(Gemm { alpha: 1.0, a: a.into(), b, beta, c: to, epilogue }).unwrap();
            c
        };
        let dx = |rows| product(dy.slice(0, rows), Rhs::Matrix(w.into()), 0.0, k);
        let dw = |columns| product(dy.slice(1, columns).transpose(), Rhs::Matrix(x.into()), 1.0, k);
        same_on_any_threads(&format!("{what}: dX"), || dx(0..rows));
        same_on_any_threads(&format!("{what}: dW"), || dw(0..n));
        let same = |of: &str, found: &[f32], expected: &[f32]| {
            identical(found, expected).unwrap_or_else(|e| panic!("{what}: {of}: {e}"));
        };
        let (all_dx, all_dw) = (dx(0..rows), dw(0..n));
        same("dX of a row", &dx(rows / 2..rows / 2 + 1), &all_dx[rows / 2 * k..][..k]);
        same("dW of two channels", &dw(0..2), &all_dw[..2 * k]);
        let [w, x] = [w, x].map(|b| PackedB::in_format(backend, format, b).unwrap());
        same("dX of a packed W", &product(dy, Rhs::Packed(&w), 0.0, k), &all_dx);
        same("dW of a packed X", &product(dy.transpose(), Rhs::Packed(&x), 1.0, k), &all_dw);
    }
    for backend in backends() {
        for shape in [[300, 70, 130], [35, 33, 17], [1, 100, 200], [900, 64, 40]] {
            let what = format!("{}: {shape:?}", backend.name());
            gradients::<f32>(&what, backend, Format::F32, shape);
            gradients::<bf16>(&format!("{what} of bf16"), backend, Format::Bf16, shape);
        }
    }
}

#[test]
fn column_sums_do_not_depend_on_threads() {
    fn check<T: Element>() {
        for backend in backends() {
            for [rows, columns] in [[600, 768], [1, 70_000], [5000, 129], [3, 5]] {
                let x = narrow::<T>(&numbers(rows * columns, 13));
                let what = format!("{}: column sums of {rows}x{columns}", backend.name());
                same_on_any_threads(&what, || {
                    let mut sums = numbers(columns, 14);
                    let x = View::new(&x, [rows, columns]).unwrap();
                    backend.run(ColumnSums { x, sums: &mut sums }).unwrap();
                    sums
                });
            }
        }
    }
    check::<f32>();
    check::<bf16>();
}

/// The matrices of a gated pair may have two types: each is widened.
#[test]
fn gemm_with_a_gated_pair_of_two_types() {
    let (m, n, k) = (20, 40, 50);
    let (a, gate, up) = (numbers(m * k, 15), narrow::<bf16>(&numbers(k * n, 16)), numbers(k * n, 17));
    let wide = super::widen(&gate);
    let gate = View::<2, bf16>::new(&gate, [k, n]).unwrap();
    let [wide, up] = [&wide, &up].map(|v| View::<2>::new(v, [k, n]).unwrap());
    let a = View::<2>::new(&a, [m, k]).unwrap();
    for backend in backends() {
        let two = product(backend, a, Rhs::Gated { gate: gate.into(), up: up.into() }, n).unwrap();
        let one = product(backend, a, Rhs::Gated { gate: wide.into(), up: up.into() }, n).unwrap();
        identical(&two, &one).unwrap_or_else(|e| panic!("{}: {e}", backend.name()));
    }
}
