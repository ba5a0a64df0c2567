//! The numerics contract, clause by clause, on every backend. The checks of `tilewright verify` hold each kernel to
//! the error bounds of clause 1 and the special values of clause 4.

mod attention;

use half::{bf16, f16};
use tilewright_kernels::gemm::{Format, PackedB, Rhs};
use tilewright_kernels::{
    Activate, Activation, Backend, ColumnMask, Element, Error, Gated, L2Normalize, LayerNorm, RmsNorm, Rope,
    RopeLayout, RopeTable, Rows, Softmax, View, ViewMut,
};
use tilewright_suite::backends;
use tilewright_verify::bound::{U, compare, identical};
use tilewright_verify::gemm::product;
use tilewright_verify::tensor::Random;

/// `n` numbers in [-1, 1).
fn numbers(n: usize, seed: u64) -> Vec<f32> {
    let mut random = Random::new(seed);
    (0..n).map(|_| random.unit()).collect()
}

/// Asserts that `f` gives equal bits in pools of 1 to 4 threads.
fn same_on_any_threads(what: &str, f: impl Fn() -> Vec<f32> + Sync) {
    let in_pool = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
        pool.install(&f)
    };
    let one = in_pool(1);
    for threads in 2..=4 {
        if let Err(difference) = identical(&in_pool(threads), &one) {
            panic!("{what} on {threads} threads instead of one: {difference}");
        }
    }
}

/// Shapes (m, k, n) that are cut in every way: by rows, by panels, by neither.
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

/// A row has the same bits alone and at any place among any number of rows, also if a product of few rows is small
/// enough to go without packing.
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

/// A product of one row by an unpacked weight, or by a gated pair, has the sums of the packed product.
#[test]
fn gemm_with_one_row_does_not_depend_on_packing() {
    use tilewright_kernels::gemm::{Epilogue, Gemm};
    let near = |edges: &[usize]| edges.iter().flat_map(|e| e - 1..e + 2).collect::<Vec<_>>();
    for (n, k) in near(&[4, 8, 16, 32, 48, 64])
        .into_iter()
        .flat_map(|n| near(&[4, 8, 16, 20, 32, 64, 384, 1152]).into_iter().map(move |k| (n, k)))
    {
        // Misaligned rows with gaps, in which NaN would show.
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

/// Blocks of k do not change a sum: zeros appended beyond a block boundary change no bit.
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

/// Every product of a batch is the product alone, whichever operands are shared.
#[test]
fn gemm_batches_are_single_products() {
    use tilewright_kernels::gemm::{Epilogue, Gemm};
    let (batch, m, k, n) = (3, 17, 130, 50);
    let (a, b) = (numbers(batch * m * k, 7), numbers(batch * k * n, 8));
    for backend in backends() {
        for (a_batch, b_batch) in [(batch, batch), (1, batch), (batch, 1)] {
            let mut c = vec![f32::NAN; batch * m * n];
            backend
                .run(Gemm {
                    alpha: 1.0,
                    a: View::<3>::new(&a, [a_batch, m, k]).unwrap().into(),
                    b: Rhs::Matrix(View::new(&b, [b_batch, k, n]).unwrap()),
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

/// Runs a kernel on rows, with a vector over the columns to make parameters of.
type RunRows<T> = fn(Backend, Rows<'_, T>, &[f32]) -> Result<(), Error>;

fn row_kernels<T: Element>() -> [(&'static str, RunRows<T>); 8] {
    [
        ("layer norm", |backend, rows, p| {
            let [m, n] = rows.shape();
            let mut residual = vec![T::from_f32(0.5); m * n];
            let residual = Some(ViewMut::new(&mut residual, [m, n])?);
            backend.run(LayerNorm { rows, residual, weight: Some(p), bias: Some(p), eps: 1e-12 })
        }),
        ("RMS norm", |backend, rows, p| {
            backend.run(RmsNorm { rows, residual: None, weight: Some(p), eps: 1e-6 })
        }),
        ("L2 norm", |backend, rows, _| backend.run(L2Normalize { rows, eps: 1e-12 })),
        ("softmax", |backend, rows, p| {
            let bias = View::with_strides(p, rows.shape(), [0, 1])?;
            backend.run(Softmax { rows, scale: 0.125, mask: ColumnMask::Bias(bias), log: false })
        }),
        ("log-softmax", |backend, rows, _| {
            backend.run(Softmax { rows, scale: 1.0, mask: ColumnMask::None, log: true })
        }),
        ("GELU", |backend, rows, _| backend.run(Activate { rows, activation: Activation::GeluErf })),
        ("SwiGLU", |backend, gate, p| {
            let up: Vec<T> = p.iter().map(|&x| T::from_f32(x)).collect();
            let up = View::with_strides(&up, gate.shape(), [0, 1])?;
            backend.run(Gated { gate, up, activation: Activation::Silu })
        }),
        ("RoPE", |backend, rows, _| {
            let [tokens, head_dim] = rows.shape();
            let table = RopeTable::new(RopeLayout::HalfSplit, 8, head_dim, 1e4);
            backend.run(Rope { rows, head_dim, positions: &vec![7; tokens], table: &table })
        }),
    ]
}

/// The nearest numbers of a type, and back.
fn narrow<T: Element>(x: &[f32]) -> Vec<T> {
    x.iter().map(|&x| T::from_f32(x)).collect()
}
fn widen<T: Element>(x: &[T]) -> Vec<f32> {
    x.iter().map(|x| x.to_f32()).collect()
}

/// Rows and columns: below and above the size that one thread takes alone; columns that fill no vector, or fill a
/// block of widened rows.
const ROWS: [[usize; 2]; 5] = [[1, 100], [9, 33], [300, 768], [4001, 129], [40, 5000]];

#[test]
fn rows_do_not_depend_on_threads() {
    fn check<T: Element>() {
        for backend in backends() {
            for [rows, n] in ROWS {
                let (x, p) = (narrow::<T>(&numbers(rows * n, 9)), numbers(n, 10));
                for (kernel, run) in row_kernels::<T>() {
                    let what = format!("{}: {kernel} {rows}x{n} in {}", backend.name(), T::NAME);
                    same_on_any_threads(&what, || {
                        let mut y = x.clone();
                        run(backend, Rows::InPlace(ViewMut::new(&mut y, [rows, n]).unwrap()), &p).unwrap();
                        widen(&y)
                    });
                }
            }
        }
    }
    check::<f32>();
    check::<bf16>();
    check::<f16>();
}

/// A row has the same bits alone and among other rows, in place and out of place, at any alignment.
#[test]
fn rows_do_not_depend_on_their_neighbours() {
    fn check<T: Element>() {
        for backend in backends() {
            for n in [1, 3, 31, 100, 777] {
                let (rows, stride) = (50, n + 3);
                let (x, p) = (narrow::<T>(&numbers(rows * stride, 11)), numbers(n, 12));
                for (kernel, run) in row_kernels::<T>() {
                    let mut together = x.clone();
                    let view = ViewMut::with_strides(&mut together, [rows, n], [stride, 1]).unwrap();
                    run(backend, Rows::InPlace(view), &p).unwrap();
                    for i in 0..rows {
                        let (row, mut alone) = (&x[i * stride..][..n], vec![T::from_f32(f32::NAN); n]);
                        let x = View::new(row, [1, n]).unwrap();
                        let y = ViewMut::new(&mut alone, [1, n]).unwrap();
                        run(backend, Rows::Into(x, y), &p).unwrap();
                        let what = || format!("{}: {kernel} of {n} in {}, row {i}", backend.name(), T::NAME);
                        identical(&widen(&together[i * stride..][..n]), &widen(&alone))
                            .unwrap_or_else(|e| panic!("{}: {e}", what()));
                    }
                }
            }
        }
    }
    check::<f32>();
    check::<bf16>();
    check::<f16>();
}

/// Sums of half the largest f16, and of more: a residual in bf16 or f16 is rounded, or overflows, once.
#[test]
fn residuals_are_rounded_once() {
    fn check<T: Element>(ends: [f32; 3]) {
        let [a, b, sum] = ends;
        for &backend in Backend::available() {
            let (mut x, mut h) = (narrow::<T>(&[a, 0.0, -a]), narrow::<T>(&[b, 1.0, -b]));
            let rows = Rows::InPlace(ViewMut::new(&mut x, [1, 3]).unwrap());
            let residual = Some(ViewMut::new(&mut h, [1, 3]).unwrap());
            backend.run(RmsNorm { rows, residual, weight: None, eps: 0.0 }).unwrap();
            assert_eq!(widen(&h), [sum, 1.0, -sum], "{} in {}", backend.name(), T::NAME);
        }
    }
    check::<f16>([32768.0, 32768.0, f32::INFINITY]);
    check::<f16>([2048.0, 1.0, 2048.0]); // a tie, to even
    check::<f16>([2050.0, 1.0, 2052.0]);
    check::<bf16>([256.0, 1.0, 256.0]);
    check::<bf16>([256.0, 1.0 + 2f32.powi(-7), 258.0]);
    check::<bf16>([3e38, 3e38, f32::INFINITY]);
}

/// Clause 4. The bound does not contain the mean.
#[test]
fn layer_norm_centres_first() {
    let (rows, n) = (16, 768);
    let normal = |j: usize, random: &mut Random| {
        // Uniform numbers have a variance of 1/3.
        let z = random.unit() * 3f32.sqrt();
        [100.0 + 0.1 * z, 1e4 + 0.1 * z, if j < 64 { 1e4 } else { 0.1 * z }]
    };
    for case in 0..3 {
        let mut random = Random::new(13);
        let x: Vec<f32> = (0..rows * n).map(|i| normal(i % n, &mut random)[case]).collect();
        let run = |backend: Backend| {
            let mut y = vec![f32::NAN; rows * n];
            let (x, out) = (View::new(&x, [rows, n]).unwrap(), ViewMut::new(&mut y, [rows, n]).unwrap());
            let rows = Rows::Into(x, out);
            backend.run(LayerNorm { rows, residual: None, weight: None, bias: None, eps: 1e-12 }).unwrap();
            y
        };
        let exact = run(Backend::REFERENCE);
        for backend in backends() {
            let bound = |i: usize| U * (n as f64 / 10.0 + 24.0) * (1.0 + f64::from(exact[i].abs()));
            compare(&run(backend), &exact, bound)
                .unwrap_or_else(|e| panic!("{}, case {case}: {e}", backend.name()));
        }
    }
}

/// Clause 4. Only a mask makes zero rows; NaN and infinities in unmasked elements propagate.
#[test]
fn masks_decide_zero_rows() {
    let (nan, inf) = (f32::NAN, f32::INFINITY);
    let all = [-inf; 3];
    let keep = [false; 3];
    let last = [false, false, true];
    let bias = View::new(&all, [1, 3]).unwrap();
    let (keep, last) = (View::new(&keep, [1, 3]).unwrap(), View::new(&last, [1, 3]).unwrap());
    // x, mask, softmax, its logarithm.
    let cases = [
        ([1.0, nan, inf], ColumnMask::Lengths(&[0]), [0.0; 3], [-inf; 3]),
        ([1.0, nan, inf], ColumnMask::Bias(bias), [0.0; 3], [-inf; 3]),
        ([1.0, nan, inf], ColumnMask::Keep(keep), [0.0; 3], [-inf; 3]),
        ([nan, inf, -5.0], ColumnMask::Keep(last), [0.0, 0.0, 1.0], [-inf, -inf, 0.0]),
        ([2.0, nan, 5.0], ColumnMask::Lengths(&[1]), [1.0, 0.0, 0.0], [0.0, -inf, -inf]),
        ([2.0, nan, 5.0], ColumnMask::Lengths(&[2]), [nan, nan, 0.0], [nan, nan, -inf]),
        ([3.0, -inf, 3.0], ColumnMask::None, [0.5, 0.0, 0.5], [0.5f32.ln(), -inf, 0.5f32.ln()]),
        ([-inf; 3], ColumnMask::None, [nan; 3], [nan; 3]),
        ([1.0, inf, 2.0], ColumnMask::None, [nan; 3], [nan; 3]),
    ];
    for &backend in Backend::available() {
        for (i, (x, mask, y, logarithm)) in cases.into_iter().enumerate() {
            for (log, expected) in [(false, y), (true, logarithm)] {
                let mut x = x;
                let rows = Rows::InPlace(ViewMut::new(&mut x, [1, 3]).unwrap());
                backend.run(Softmax { rows, scale: 1.0, mask, log }).unwrap();
                compare(&x, &expected, |_| U).unwrap_or_else(|e| panic!("{}, case {i}: {e}", backend.name()));
            }
        }
    }
}

/// Of bf16, exponentials are made in one step from scores up to 2^16, and in two from larger ones.
#[test]
fn softmax_of_bf16_bears_large_scores() {
    // Multiples of 1/4, so that these sums are exact.
    let n = 77;
    let bias: Vec<f32> = (0..n).map(|j| (j * 29 % 53) as f32 / -4.0).collect();
    for base in [0.0, 60_928.0, -60_928.0, 65_536.0, 131_072.0, -131_072.0, 262_144.0] {
        let run = |backend: Backend| {
            let mut x = vec![bf16::from_f32(base); n];
            let bias = View::new(&bias, [1, n]).expect("n numbers");
            let rows = Rows::InPlace(ViewMut::new(&mut x, [1, n]).expect("n numbers"));
            backend
                .run(Softmax { rows, scale: 1.0, mask: ColumnMask::Bias(bias), log: false })
                .expect("fits");
            widen(&x)
        };
        let expected = run(Backend::REFERENCE);
        for backend in backends() {
            for (j, (found, expected)) in run(backend).into_iter().zip(&expected).enumerate() {
                // Results that differ at all lie on either side of a tie: they are neighbours.
                let off = (found - expected).abs();
                assert!(
                    off <= expected / 128.0,
                    "{}, {base}, column {j}: {found}, {expected}",
                    backend.name()
                );
            }
        }
    }
}

/// Sizes that no memory has are errors: with them, products of sizes would wrap, and buffers be too small.
#[test]
fn views_of_too_many_elements_are_errors() {
    let one = [1.0f32];
    for shape in [[(1 << 59) + 1, 1], [1 << 60, 1], [1, 1 << 62], [1 << 25, 1 << 25], [0, 1 << 62]] {
        let refused = View::with_strides(&one, shape, [0, 0]);
        assert!(matches!(refused, Err(Error::Invalid { what: "View", .. })), "{shape:?}");
    }
    assert!(matches!(ViewMut::<2>::new(&mut [], [usize::MAX, 0]), Err(Error::Invalid { .. })));
    let groups =
        PackedB::from_groups(Backend::best(), Format::Q8_0, &[0; 16], [1, 17_361_641_481_138_401_536]);
    assert!(matches!(groups, Err(Error::Invalid { .. })));
    // Many rows without columns take no memory.
    let rows = Rows::<f32>::InPlace(ViewMut::new(&mut [], [1 << 40, 0]).expect("fewer than 2^48"));
    Backend::best().run(Activate { rows, activation: Activation::Relu }).expect("nothing to do");
}

/// A part of an empty view lies in the view's slice, whatever its strides are.
#[test]
fn parts_of_empty_views_are_empty_slices() {
    let data = [1.0f32; 4];
    let stride = 0usize.wrapping_sub(data.as_ptr() as usize) / size_of::<f32>();
    let view = View::with_strides(&data, [2, 0], [stride, 1]).expect("an empty view");
    let row = view.slice(0, 1..2).row([0, 0]);
    assert_eq!((row.len(), row.as_ptr()), (0, data.as_ptr()));
}

/// Clause 5: the backend that is asked for runs, or none.
#[test]
fn a_backend_is_had_by_its_name_or_not_at_all() {
    for backend in backends() {
        assert_eq!(Backend::named(backend.name()), Ok(backend));
    }
    let refusal = Backend::named("mmx").unwrap_err().to_string();
    assert!(Backend::available().iter().all(|b| refusal.contains(b.name())), "{refusal}");
}
