//! The numerics contract, clause by clause, on every backend. The checks of `tilewright verify` hold each kernel to
//! the error bounds of clause 1 and the special values of clause 4.

mod attention;
mod attention_backward;
mod gemm;
mod row_gradients;

use half::{bf16, f16};
use tilewright_kernels::gemm::{Format, PackedB};
use tilewright_kernels::{
    Activate, ActivateBackward, Activation, Backend, BceWithLogitsBackward, ColumnMask, CrossEntropyBackward,
    Dropout, DropoutMask, Element, Error, Gated, GatedBackward, L2Normalize, LayerNorm, RmsNorm, Rope,
    RopeLayout, RopeTable, Rows, Softmax, Targets, View, ViewMut,
};
use tilewright_suite::backends;
use tilewright_verify::bound::{U, compare, identical};
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

/// Runs a kernel on rows. The last argument is a vector over the columns, of which the kernel makes its parameters.
type RunRows<T> = fn(Backend, Rows<'_, T>, &[f32]) -> Result<(), Error>;

fn row_kernels<T: Element>() -> [(&'static str, RunRows<T>); 13] {
    [
        ("layer norm", |backend, rows, p| {
            let [m, n] = rows.shape();
            let mut residual = vec![T::from_f32(0.5); m * n];
            let residual = Some(ViewMut::new(&mut residual, [m, n])?);
            backend.run(LayerNorm { residual, weight: Some(p), bias: Some(p), ..LayerNorm::new(rows, 1e-12) })
        }),
        ("RMS norm", |backend, rows, p| backend.run(RmsNorm { weight: Some(p), ..RmsNorm::new(rows, 1e-6) })),
        ("L2 norm", |backend, rows, _| backend.run(L2Normalize::new(rows, 1e-12))),
        ("softmax", |backend, rows, p| {
            let bias = View::with_strides(p, rows.shape(), [0, 1])?;
            backend.run(Softmax { scale: 0.125, mask: ColumnMask::Bias(bias), ..Softmax::new(rows) })
        }),
        ("log-softmax", |backend, rows, _| backend.run(Softmax { log: true, ..Softmax::new(rows) })),
        ("cross-entropy backward", |backend, rows, _| {
            let [m, n] = rows.shape();
            let labels = vec![n as i64 / 2; m];
            let targets = Targets { smoothing: 0.1, ..Targets::new(&labels) };
            backend.run(CrossEntropyBackward { rows, targets, scale: 0.5, losses: None }).map(|_| ())
        }),
        ("BCE backward", |backend, rows, p| {
            let z: Vec<T> = p.iter().map(|&x| T::from_f32(x.abs())).collect();
            let targets = View::with_strides(&z, rows.shape(), [0, 1])?;
            backend.run(BceWithLogitsBackward { rows, targets, positive_weight: Some(p), scale: 0.5 })
        }),
        ("GELU", |backend, rows, _| backend.run(Activate { rows, activation: Activation::GeluErf })),
        ("SwiGLU", |backend, gate, p| {
            let up: Vec<T> = p.iter().map(|&x| T::from_f32(x)).collect();
            let up = View::with_strides(&up, gate.shape(), [0, 1])?;
            backend.run(Gated { gate, up, activation: Activation::Silu })
        }),
        ("GELU backward", |backend, rows, p| {
            let x = narrow::<T>(p);
            let x = View::with_strides(&x, rows.shape(), [0, 1])?;
            backend.run(ActivateBackward { rows, x, activation: Activation::GeluErf })
        }),
        ("SwiGLU backward, dgate", |backend, gate, p| {
            let (mut up, dy) = (narrow::<T>(&p.repeat(gate.shape()[0])), narrow::<T>(p));
            let dy = View::with_strides(&dy, gate.shape(), [0, 1])?;
            let up = Rows::InPlace(ViewMut::new(&mut up, gate.shape())?);
            backend.run(GatedBackward { gate, up, dy, activation: Activation::Silu })
        }),
        ("SwiGLU backward, dup", |backend, up, p| {
            let (mut gate, dy) = (narrow::<T>(&p.repeat(up.shape()[0])), narrow::<T>(p));
            let dy = View::with_strides(&dy, up.shape(), [0, 1])?;
            let gate = Rows::InPlace(ViewMut::new(&mut gate, up.shape())?);
            backend.run(GatedBackward { gate, up, dy, activation: Activation::Silu })
        }),
        ("RoPE", |backend, rows, _| {
            let [tokens, head_dim] = rows.shape();
            let table = RopeTable::new(RopeLayout::HalfSplit, 8, head_dim, 1e4);
            backend.run(Rope::new(rows, head_dim, &vec![7; tokens], &table))
        }),
    ]
}

/// Dropout, whose mask depends on the number of the row: not one of [`row_kernels`].
fn dropout<T: Element>() -> (&'static str, RunRows<T>) {
    ("dropout", |backend, rows, p| {
        let residual = narrow::<T>(p);
        let residual = Some(View::with_strides(&residual, rows.shape(), [0, 1])?);
        let mask = DropoutMask { probability: 0.3, ..DropoutMask::default() };
        backend.run(Dropout { rows, residual, mask })
    })
}

/// Rounds numbers to a type.
fn narrow<T: Element>(x: &[f32]) -> Vec<T> {
    x.iter().map(|&x| T::from_f32(x)).collect()
}
fn widen<T: Element>(x: &[T]) -> Vec<f32> {
    x.iter().map(|x| x.to_f32()).collect()
}

/// Rows and columns: below and above the size that one thread computes alone, with columns that fill no vector or more
/// than a block of widened rows.
const ROWS: [[usize; 2]; 5] = [[1, 100], [9, 33], [300, 768], [4001, 129], [40, 5000]];

#[test]
fn rows_do_not_depend_on_threads() {
    fn check<T: Element>() {
        for backend in backends() {
            for [rows, n] in ROWS {
                let (x, p) = (narrow::<T>(&numbers(rows * n, 9)), numbers(n, 10));
                for (kernel, run) in row_kernels::<T>().into_iter().chain([dropout()]) {
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

/// A residual in bf16 or f16 is rounded, or overflows, once: sums of half the largest f16, and of larger numbers.
#[test]
fn residuals_are_rounded_once() {
    fn check<T: Element>(ends: [f32; 3]) {
        let [a, b, sum] = ends;
        for &backend in Backend::available() {
            let (mut x, mut h) = (narrow::<T>(&[a, 0.0, -a]), narrow::<T>(&[b, 1.0, -b]));
            let rows = Rows::InPlace(ViewMut::new(&mut x, [1, 3]).unwrap());
            let residual = Some(ViewMut::new(&mut h, [1, 3]).unwrap());
            backend.run(RmsNorm { residual, ..RmsNorm::new(rows, 0.0) }).unwrap();
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

/// Clause 4: the error bound of layer norm does not contain the mean.
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
            backend.run(LayerNorm::new(rows, 1e-12)).unwrap();
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

/// Clause 4: only a mask makes zero rows; NaN and infinities in unmasked elements propagate.
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
                backend.run(Softmax { mask, log, ..Softmax::new(rows) }).unwrap();
                compare(&x, &expected, |_| U).unwrap_or_else(|e| panic!("{}, case {i}: {e}", backend.name()));
            }
        }
    }
}

/// For bf16, softmax computes exponentials of scores up to 2^16 in one step, and of larger scores in two.
#[test]
fn softmax_of_bf16_bears_large_scores() {
    // Multiples of 1/4, so that their sums with the scores are exact.
    let n = 77;
    let bias: Vec<f32> = (0..n).map(|j| (j * 29 % 53) as f32 / -4.0).collect();
    for base in [0.0, 60_928.0, -60_928.0, 65_536.0, 131_072.0, -131_072.0, 262_144.0] {
        let run = |backend: Backend| {
            let mut x = vec![bf16::from_f32(base); n];
            let bias = View::new(&bias, [1, n]).expect("n numbers");
            let rows = Rows::InPlace(ViewMut::new(&mut x, [1, n]).expect("n numbers"));
            backend.run(Softmax { mask: ColumnMask::Bias(bias), ..Softmax::new(rows) }).expect("fits");
            widen(&x)
        };
        let expected = run(Backend::REFERENCE);
        for backend in backends() {
            for (j, (found, expected)) in run(backend).into_iter().zip(&expected).enumerate() {
                // Results that differ lie on two sides of a tie, so they are neighbours in bf16.
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

/// Sizes beyond any memory are errors: products of these sizes would wrap, and buffers would be too small.
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

/// A part of an empty view lies in the view's slice, for any strides.
#[test]
fn parts_of_empty_views_are_empty_slices() {
    let data = [1.0f32; 4];
    let stride = 0usize.wrapping_sub(data.as_ptr() as usize) / size_of::<f32>();
    let view = View::with_strides(&data, [2, 0], [stride, 1]).expect("an empty view");
    let row = view.slice(0, 1..2).row([0, 0]);
    assert_eq!((row.len(), row.as_ptr()), (0, data.as_ptr()));
}

/// Clause 5: the requested backend runs, or none.
#[test]
fn a_backend_is_had_by_its_name_or_not_at_all() {
    for backend in backends() {
        assert_eq!(Backend::named(backend.name()), Ok(backend));
    }
    let refusal = Backend::named("mmx").unwrap_err().to_string();
    assert!(Backend::available().iter().all(|b| refusal.contains(b.name())), "{refusal}");
}
