//! The row kernels: norms, softmax, activations, RoPE, embeddings, pooling.

use tilewright_kernels::half::{bf16, f16};
use tilewright_kernels::{
    Activate, ActivateBackward, Activation, Backend, ColumnMask, Dropout, DropoutMask, Element, Embedding,
    EmbeddingBackward, Error, Gated, GatedBackward, L2Normalize, L2NormalizeBackward, LayerNorm,
    LayerNormBackward, Lookup, Pool, PoolBackward, Pooling, RandomBits, RmsNorm, RmsNormBackward, Rope,
    RopeLayout, RopeTable, Rows, Softmax, SoftmaxBackward, View, ViewMut,
};

/// Declares one test per kernel, so that each test has a name and tests run in parallel.
macro_rules! conforms {
    ($($kernel:ident)*) => {$(
        #[test]
        fn $kernel() {
            tilewright_suite::conforms(stringify!($kernel));
        }
    )*};
}
conforms!(
    layer_norm rms_norm l2_normalize layer_norm_backward rms_norm_backward l2_normalize_backward
    softmax softmax_backward activate gated activate_backward gated_backward dropout rope
    embedding embedding_backward pool pool_backward
);

/// Asserts that every backend and the definition return an error that starts with `expected`, and leave the output
/// untouched.
fn refused(expected: &str, run: impl Fn(Backend, ViewMut<'_, 2>) -> Result<(), Error>) {
    for &backend in Backend::available() {
        let mut out = [7.0; 8];
        let error = run(backend, ViewMut::new(&mut out, [2, 4]).unwrap()).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{}: {error}, not {expected}", backend.name());
        assert_eq!(out, [7.0; 8], "{expected}: refused, but the output was written");
    }
}

#[test]
fn arguments_that_do_not_fit_are_refused() {
    let data = [1.0; 64];
    let view = |shape| View::new(&data, shape).unwrap();
    let tall = View::new(&data, [4, 2]).unwrap().transpose();
    let activation = Activation::Silu;
    refused("Activate.rows: expected shape [3, 4], found [2, 4]", |backend, out| {
        backend.run(Activate { rows: Rows::Into(view([3, 4]), out), activation })
    });
    refused("Activate.rows: expected rows with unit stride, found strides [1, 2]", |backend, out| {
        backend.run(Activate { rows: Rows::Into(tall, out), activation })
    });
    refused("Gated.up: expected shape [2, 4], found [2, 3]", |backend, out| {
        backend.run(Gated { gate: Rows::InPlace(out), up: view([2, 3]), activation })
    });
    refused("Gated.x: expected shape [2, 8], found [2, 7]", |backend, out| {
        backend.run(Gated::halves(view([2, 7]), out, activation)?)
    });
    refused("ActivateBackward.x: expected shape [2, 4], found [3, 4]", |backend, out| {
        backend.run(ActivateBackward { rows: Rows::InPlace(out), x: view([3, 4]), activation })
    });
    refused("GatedBackward.dy: expected rows with unit stride, found strides [1, 2]", |backend, out| {
        let mut up = [0.0; 8];
        let up = Rows::InPlace(ViewMut::new(&mut up, [2, 4])?);
        backend.run(GatedBackward { gate: Rows::InPlace(out), up, dy: tall, activation })
    });
    refused("GatedBackward.up: expected shape [2, 4], found [2, 3]", |backend, out| {
        let mut up = [0.0; 6];
        let up = Rows::InPlace(ViewMut::new(&mut up, [2, 3])?);
        backend.run(GatedBackward { gate: Rows::InPlace(out), up, dy: view([2, 4]), activation })
    });
    refused("GatedBackward.x: expected shape [2, 6], found [2, 4]", |backend, out| {
        backend.run(GatedBackward::halves(Rows::InPlace(out), view([2, 3]), activation)?)
    });
    refused("GatedBackward.x: expected shape [2, 8], found [2, 4]", |backend, out| {
        backend.run(GatedBackward::halves(Rows::Into(view([2, 8]), out), view([2, 4]), activation)?)
    });
    let dropout = |probability: f32, first_row: u32, backend: Backend, out: ViewMut<'_, 2>| {
        let mask = DropoutMask { probability, first_row, ..DropoutMask::default() };
        backend.run(Dropout { rows: Rows::InPlace(out), residual: None, mask })
    };
    for probability in [-0.1, 1.1, f32::NAN] {
        refused("Dropout.mask: expected a probability from 0 to 1, found", |backend, out| {
            dropout(probability, 0, backend, out)
        });
    }
    refused("Dropout.mask: 2 rows from 4294967295 on, or 4 columns, exceed 2^32", |backend, out| {
        dropout(0.5, u32::MAX, backend, out)
    });
    refused("Dropout.residual: expected shape [2, 4], found [4, 2]", |backend, out| {
        let (rows, residual) = (Rows::InPlace(out), Some(view([4, 2])));
        backend.run(Dropout { rows, residual, mask: DropoutMask::default() })
    });
    refused("RopeTable.sin: expected shape [2, 4], found [2, 3]", |_, _| {
        RopeTable::from_cos_sin(RopeLayout::HalfSplit, view([2, 4]), view([2, 3])).map(|_| ())
    });
    refused("LayerNorm.weight: expected shape [4], found [5]", |backend, out| {
        let (rows, weight) = (Rows::InPlace(out), Some(&data[..5]));
        backend.run(LayerNorm { weight, ..LayerNorm::new(rows, 0.0) })
    });
    refused("LayerNorm.residual: expected shape [2, 4], found [1, 4]", |backend, out| {
        let (mut residual, rows) = ([0.0; 4], Rows::InPlace(out));
        let residual = Some(ViewMut::new(&mut residual, [1, 4])?);
        backend.run(LayerNorm { residual, ..LayerNorm::new(rows, 0.0) })
    });
    refused("LayerNorm.mean: expected shape [2], found [3]", |backend, out| {
        let rows = Rows::InPlace(out);
        backend.run(LayerNorm { mean: Some(&mut [0.0; 3]), ..LayerNorm::new(rows, 0.0) })
    });
    refused("RmsNorm.inverse_deviation: expected shape [2], found [1]", |backend, out| {
        let rows = Rows::InPlace(out);
        backend.run(RmsNorm { inverse_deviation: Some(&mut [0.0]), ..RmsNorm::new(rows, 0.0) })
    });
    refused("RmsNorm.eps: expected a number from 0 up, found -1", |backend, out| {
        backend.run(RmsNorm::new(Rows::InPlace(out), -1.0))
    });
    refused("L2Normalize.eps: expected a number from 0 up, found NaN", |backend, out| {
        backend.run(L2Normalize::new(Rows::InPlace(out), f32::NAN))
    });
    refused("Softmax.mask: length 5 of row 1 exceeds its 4 columns", |backend, out| {
        let (rows, mask) = (Rows::InPlace(out), ColumnMask::Lengths(&[4, 5]));
        backend.run(Softmax { mask, ..Softmax::new(rows) })
    });
    let table = RopeTable::new(RopeLayout::HalfSplit, 8, 4, 1e4);
    let rope = |head_dim: usize, positions: &[u32], backend: Backend, out: ViewMut<'_, 2>| {
        backend.run(Rope::new(Rows::InPlace(out), head_dim, positions, &table))
    };
    refused("Rope.positions: position 8 of row 1 is outside a table of 8", |backend, out| {
        rope(4, &[7, 8], backend, out)
    });
    refused("Rope.positions: expected shape [2], found [1]", |backend, out| rope(4, &[7], backend, out));
    refused("Rope.head_dim: the table rotates 4 columns of heads of 2", |backend, out| {
        rope(2, &[0, 0], backend, out)
    });
    refused("Rope.rows: 4 columns are not whole heads of 5", |backend, out| rope(5, &[0, 0], backend, out));
}

#[test]
fn arguments_of_gradients_that_do_not_fit_are_refused() {
    let data = [1.0; 64];
    let [x, short] = [[2, 4], [2, 3]].map(|shape| View::new(&data, shape).unwrap());
    let (tall, r) = (View::new(&data, [4, 2]).unwrap().transpose(), &data[..2]);
    refused("LayerNormBackward.x: expected shape [2, 4], found [2, 3]", |backend, out| {
        backend.run(LayerNormBackward { x: short, ..LayerNormBackward::new(Rows::InPlace(out), x, r, r) })
    });
    refused("LayerNormBackward.dresidual: expected shape [2, 4], found [2, 3]", |backend, out| {
        backend.run(LayerNormBackward {
            dresidual: Some(short),
            ..LayerNormBackward::new(Rows::InPlace(out), x, r, r)
        })
    });
    refused("LayerNormBackward.mean: expected shape [2], found [1]", |backend, out| {
        backend
            .run(LayerNormBackward { mean: &r[..1], ..LayerNormBackward::new(Rows::InPlace(out), x, r, r) })
    });
    refused("LayerNormBackward.dweight: expected shape [4], found [2]", |backend, out| {
        backend.run(LayerNormBackward {
            dweight: Some(&mut [0.0; 2]),
            ..LayerNormBackward::new(Rows::InPlace(out), x, r, r)
        })
    });
    refused("LayerNormBackward.dbias: expected shape [4], found [5]", |backend, out| {
        backend.run(LayerNormBackward {
            dbias: Some(&mut [0.0; 5]),
            ..LayerNormBackward::new(Rows::InPlace(out), x, r, r)
        })
    });
    refused("RmsNormBackward.inverse_deviation: expected shape [2], found [1]", |backend, out| {
        backend.run(RmsNormBackward::new(Rows::InPlace(out), x, &r[..1]))
    });
    refused("RmsNormBackward.weight: expected shape [4], found [2]", |backend, out| {
        backend.run(RmsNormBackward { weight: Some(r), ..RmsNormBackward::new(Rows::InPlace(out), x, r) })
    });
    refused("L2NormalizeBackward.x: expected rows with unit stride, found strides [1, 2]", |backend, out| {
        backend.run(L2NormalizeBackward { rows: Rows::InPlace(out), x: tall, eps: 0.0 })
    });
    refused("SoftmaxBackward.y: expected shape [2, 4], found [2, 3]", |backend, out| {
        backend.run(SoftmaxBackward::new(Rows::InPlace(out), short))
    });
    refused("SoftmaxBackward.mask: length 5 of row 0 exceeds its 4 columns", |backend, out| {
        let mask = ColumnMask::Lengths(&[5, 4]);
        backend.run(SoftmaxBackward { mask, ..SoftmaxBackward::new(Rows::InPlace(out), x) })
    });
}

/// The error names the id and the table's size, and the kernel writes no row, not even the rows before the id.
#[test]
fn ids_outside_their_table_are_refused() {
    let data = [1.0; 64];
    let table = View::new(&data, [3, 4]).unwrap();
    let fine = Lookup { table, ids: &[0, 2] };
    refused("Lookup.ids: id 3 of token 1 is outside a table of 3 entries", |backend, out| {
        backend.run(Embedding::new(&[fine, Lookup { table, ids: &[1, 3] }], out))
    });
    let dy = View::new(&data, [2, 4]).unwrap();
    refused("EmbeddingBackward.ids: id 2 of token 1 is outside a table of 2 entries", |backend, out| {
        backend.run(EmbeddingBackward::new(dy, &[0, 2], out))
    });
    refused("EmbeddingBackward.ids: expected shape [2], found [3]", |backend, out| {
        backend.run(EmbeddingBackward::new(dy, &[0, 1, 0], out))
    });
    refused("EmbeddingBackward.dtable: expected shape [2, 3], found [2, 4]", |backend, out| {
        backend.run(EmbeddingBackward::new(dy.slice(1, 0..3), &[0, 1], out))
    });
    refused("Lookup.ids: expected shape [2], found [1]", |backend, out| {
        backend.run(Embedding::new(&[fine, Lookup { table, ids: &[1] }], out))
    });
    refused("Lookup.table: expected shape [3, 4], found [3, 5]", |backend, out| {
        let wide = View::new(&data, [3, 5])?;
        backend.run(Embedding::new(&[Lookup { table: wide, ids: &[0, 0] }], out))
    });
}

#[test]
fn offsets_that_do_not_cut_the_tokens_are_refused() {
    let data = [1.0; 64];
    let x = View::new(&data, [5, 4]).unwrap();
    for offsets in [[0, 3, 4], [1, 3, 5], [0, 6, 5]] {
        refused("Pool.offsets: expected offsets that rise from 0 to 5", |backend, out| {
            backend.run(Pool::new(x, &offsets, out))
        });
    }
    let dy = x.slice(0, 0..3);
    refused(
        "PoolBackward.offsets: expected offsets that rise from 0 to 2, found [0, 1, 1, 3]",
        |backend, out| backend.run(PoolBackward::new(dy, &[0, 1, 1, 3], out)),
    );
    refused("PoolBackward.offsets: expected shape [4], found [1]", |backend, out| {
        backend.run(PoolBackward::new(dy, &[0], out))
    });
    refused("Pool.offsets: expected shape [3], found [2]", |backend, out| {
        backend.run(Pool { pooling: Pooling::Cls, ..Pool::new(x, &[0, 5], out) })
    });
}

/// Norms of numbers whose squares overflow or underflow f32 are in range.
#[test]
fn extreme_magnitudes_are_normalised() {
    for &backend in Backend::available() {
        for magnitude in [3e38f32, 1e30, 1e-30, 1e-44] {
            let x: Vec<f32> = (0..100).map(|i| if i % 2 == 0 { magnitude } else { -magnitude }).collect();
            let run = |kernel: fn(Backend, Rows<'_>) -> Result<(), Error>| {
                let mut y = x.clone();
                kernel(backend, Rows::InPlace(ViewMut::new(&mut y, [1, 100]).unwrap())).unwrap();
                y[0]
            };
            let layer = run(|backend, rows| backend.run(LayerNorm::new(rows, 0.0)));
            let rms = run(|backend, rows| backend.run(RmsNorm::new(rows, 0.0)));
            let l2 = run(|backend, rows| backend.run(L2Normalize::new(rows, 0.0)));
            assert_eq!((layer, rms, l2), (1.0, 1.0, 0.1), "{} at {magnitude:e}", backend.name());
        }
    }
}

/// Columns of [`extreme_rows`].
const COLUMNS: usize = 100;

/// Rows beyond the range of the fast formulas, between two ordinary rows. Half of each number is exact.
fn extreme_rows<T: Element>() -> Vec<T> {
    let (huge, tiny, ulp) = match T::NAME {
        "f16" => (6e4, 2f32.powi(-22), 2f32.powi(-10)),
        "bf16" => (2f32.powi(127), 2f32.powi(-130), 2f32.powi(-7)),
        _ => (3e38, 2f32.powi(-146), 2f32.powi(-23)),
    };
    let row = |f: &dyn Fn(usize) -> f32| (0..COLUMNS).map(|i| T::from_f32(f(i))).collect::<Vec<_>>();
    [
        row(&|i| ((i as f32).sin() * 64.0).round() / 64.0),
        row(&|i| [huge, -tiny, 5.0][i % 3]),
        row(&|i| 1.0 + (i % 3) as f32 * ulp),
        row(&|i| if i % 2 == 0 { huge } else { -huge }),
        row(&|i| if i % 4 == 0 { tiny } else { -tiny }),
        row(&|i| ((i as f32).cos() * 64.0).round() / 64.0),
    ]
    .concat()
}

/// A norm of rows, with a residual or without.
type Norm<T> = fn(Backend, Rows<'_, T>, Option<ViewMut<'_, 2, T>>) -> Result<(), Error>;

/// Asserts that extreme rows agree with the definition, with a residual and without, and do not change the rows beside
/// them.
fn extreme_rows_conform<T: Element>(unit: f32, norm: Norm<T>) {
    let x = extreme_rows::<T>();
    let shape = [x.len() / COLUMNS, COLUMNS];
    let bits = |y: &[T]| y.iter().map(|y| y.to_f32().to_bits()).collect::<Vec<_>>();
    let run = |backend: Backend, x: &[T]| {
        let mut y = x.to_vec();
        let rows = Rows::InPlace(ViewMut::new(&mut y, [x.len() / COLUMNS, COLUMNS]).unwrap());
        norm(backend, rows, None).unwrap();
        y
    };
    let expected = run(Backend::REFERENCE, &x);
    for &backend in Backend::available() {
        let found = run(backend, &x);
        for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
            let (found, expected) = (found.to_f32(), expected.to_f32());
            // The relative error of a sum of n squares is (n + 8) u, and so is that of the row's scale and shift. Both
            // results are then rounded to the type.
            let n = COLUMNS as f32;
            let bound = (n + 8.0) * f32::EPSILON * (1.0 + expected.abs()) + unit * expected.abs();
            assert!(
                (found - expected).abs() <= bound,
                "{}: element {i}: {found} != {expected}",
                backend.name()
            );
        }
        for (row, alone) in x.chunks_exact(COLUMNS).map(|row| run(backend, row)).enumerate() {
            assert_eq!(
                bits(&found[row * COLUMNS..][..COLUMNS]),
                bits(&alone),
                "{}: row {row}",
                backend.name()
            );
        }
        let half: Vec<T> = x.iter().map(|x| T::from_f32(x.to_f32() / 2.0)).collect();
        let (mut y, mut residual) = (half.clone(), half);
        let rows = Rows::InPlace(ViewMut::new(&mut y, shape).unwrap());
        norm(backend, rows, Some(ViewMut::new(&mut residual, shape).unwrap())).unwrap();
        assert_eq!(bits(&residual), bits(&x), "{}: the residual is the sum", backend.name());
        assert_eq!(bits(&y), bits(&found), "{}: with a residual", backend.name());
    }
}

#[test]
fn extreme_rows_beside_ordinary_ones_are_normalised() {
    fn layer<T: Element>(
        backend: Backend,
        rows: Rows<'_, T>,
        residual: Option<ViewMut<'_, 2, T>>,
    ) -> Result<(), Error> {
        backend.run(LayerNorm { residual, ..LayerNorm::new(rows, 0.0) })
    }
    fn rms<T: Element>(
        backend: Backend,
        rows: Rows<'_, T>,
        residual: Option<ViewMut<'_, 2, T>>,
    ) -> Result<(), Error> {
        backend.run(RmsNorm { residual, ..RmsNorm::new(rows, 0.0) })
    }
    extreme_rows_conform::<f32>(f32::EPSILON, layer);
    extreme_rows_conform::<f32>(f32::EPSILON, rms);
    extreme_rows_conform::<bf16>(2f32.powi(-7), layer);
    extreme_rows_conform::<bf16>(2f32.powi(-7), rms);
    extreme_rows_conform::<f16>(2f32.powi(-10), layer);
    extreme_rows_conform::<f16>(2f32.powi(-10), rms);
}

/// A NaN or an infinity in any column gives the definition's special values in every element.
#[test]
fn special_values_propagate_from_any_column() {
    const N: usize = 150;
    for &backend in Backend::available() {
        for special in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for column in 0..N {
                let mut x: Vec<f32> = (0..N).map(|i| (i as f32).sin()).collect();
                x[column] = special;
                let run = |backend: Backend, kernel: fn(Backend, Rows<'_>) -> Result<(), Error>| {
                    let mut y = x.clone();
                    kernel(backend, Rows::InPlace(ViewMut::new(&mut y, [1, N]).unwrap())).unwrap();
                    y.iter().map(|y| if y.is_finite() { 0.0 } else { *y }).collect::<Vec<_>>()
                };
                type Case = (&'static str, fn(Backend, Rows<'_>) -> Result<(), Error>);
                let kernels: [Case; 4] = [
                    ("layer norm", |backend, rows| backend.run(LayerNorm::new(rows, 1e-12))),
                    ("RMS norm", |backend, rows| backend.run(RmsNorm::new(rows, 1e-6))),
                    ("L2 norm", |backend, rows| backend.run(L2Normalize::new(rows, 1e-12))),
                    ("softmax", |backend, rows| backend.run(Softmax::new(rows))),
                ];
                for (name, kernel) in kernels {
                    let (found, expected) = (run(backend, kernel), run(Backend::REFERENCE, kernel));
                    let same = found.iter().zip(&expected).all(|(f, e)| f == e || (f.is_nan() && e.is_nan()));
                    assert!(same, "{name}, {}: {special} in column {column}", backend.name());
                }
            }
        }
    }
}

/// Dropped elements vanish, even NaN; p = 0 keeps all elements as they are, and p = 1 none.
#[test]
fn dropout_at_its_edges() {
    let random = RandomBits { seed: 1, step: 2, site: 3 };
    for &backend in Backend::available() {
        for n in [1, 63, 64, 100, 200] {
            let run = |x: &[f32], residual: Option<&[f32]>, probability: f32| {
                let mut y = vec![7.0; n];
                let rows = Rows::Into(View::new(x, [1, n]).unwrap(), ViewMut::new(&mut y, [1, n]).unwrap());
                let residual = residual.map(|r| View::new(r, [1, n]).unwrap());
                let mask = DropoutMask { probability, random, first_row: 5 };
                backend.run(Dropout { rows, residual, mask }).unwrap();
                (y, (0..n).map(|j| mask.keeps(0, j as u32)).collect::<Vec<_>>())
            };
            let (x, residual): (Vec<f32>, Vec<f32>) = (0..n).map(|j| (j as f32, 0.5 * j as f32)).unzip();
            assert_eq!(run(&x, None, 0.0).0, x);
            assert_eq!(run(&x, None, 1.0).0, vec![0.0; n]);
            let nan = vec![f32::NAN; n];
            assert_eq!(run(&nan, Some(&residual), 1.0).0, residual);
            let (y, kept) = run(&nan, Some(&residual), 0.5);
            for j in 0..n {
                assert!(if kept[j] { y[j].is_nan() } else { y[j] == residual[j] }, "{}", backend.name());
            }
        }
    }
}

/// Rows have the masks of the batch that they are a part of, wherever it is cut.
#[test]
fn parts_of_a_batch_have_its_mask() {
    const SHAPE: [usize; 2] = [9, 100];
    let random = RandomBits { seed: 4, step: 0, site: 1 };
    let run = |backend: Backend, first: usize, end: usize| {
        let mut x = vec![1.0; (end - first) * SHAPE[1]];
        let rows = Rows::InPlace(ViewMut::new(&mut x, [end - first, SHAPE[1]]).unwrap());
        let mask = DropoutMask { probability: 0.3, random, first_row: 7 + first as u32 };
        backend.run(Dropout { rows, residual: None, mask }).unwrap();
        x
    };
    for &backend in Backend::available() {
        let whole = run(backend, 0, SHAPE[0]);
        for cut in 1..SHAPE[0] {
            let parts = [run(backend, 0, cut), run(backend, cut, SHAPE[0])].concat();
            assert_eq!(parts, whole, "{}", backend.name());
        }
    }
}

/// The share of kept elements among 10^8, on the fastest backend. Its standard deviation is sqrt(p (1 - p) / n).
#[test]
fn dropout_keeps_elements_as_often_as_asked() {
    const SHAPE: [usize; 2] = [10_000, 10_000];
    let mut ones = vec![1.0f32; SHAPE[0] * SHAPE[1]];
    for (step, probability) in [0.1f32, 0.5, 0.9].into_iter().enumerate() {
        ones.fill(1.0);
        let random = RandomBits { seed: 2026, step: step as u32, site: 0 };
        let rows = Rows::InPlace(ViewMut::new(&mut ones, SHAPE).unwrap());
        let mask = DropoutMask { probability, random, first_row: 0 };
        Backend::best().run(Dropout { rows, residual: None, mask }).unwrap();
        let (n, p) = (ones.len() as f64, f64::from(probability));
        let kept = ones.iter().filter(|&&x| x != 0.0).count() as f64;
        let deviations = (kept - n * (1.0 - p)) / (n * p * (1.0 - p)).sqrt();
        assert!(deviations.abs() <= 4.0, "p = {p}: {kept} of {n} kept, {deviations:.2} deviations off");
    }
}
