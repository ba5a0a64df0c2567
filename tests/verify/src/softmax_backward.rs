//! Gradient of softmax and its logarithm against its definition.

use super::bound::{ETA, U};
use super::rows::{RowsParams, conforms, of_type, values};
use super::softmax::{MaskKind, Masks};
use super::tensor::{Layout, Random, Tensor, Values, seed};
use super::{Check, Failure, Worst};
use proptest::prelude::*;
use proptest::sample::select;
use tilewright_kernels::{Backend, ColumnMask, Element, Rows, Softmax, SoftmaxBackward as Kernel};

/// Scales, every kind of mask, rows whose columns are all masked; results of the forward.
pub struct SoftmaxBackward;

/// One gradient.
#[derive(Clone, Debug)]
pub struct Params {
    /// dy and dx.
    rows: RowsParams,
    y: Layout<2>,
    mask: MaskKind,
    scale: f32,
    log: bool,
    values: Values,
    seed: u64,
}

impl Check for SoftmaxBackward {
    const KERNEL: &'static str = "softmax_backward";
    type Params = Params;

    fn strategy() -> BoxedStrategy<Params> {
        let scale = select(vec![1.0, 1.0, 0.125, -0.3]);
        (RowsParams::any(1100), Layout::rows(), MaskKind::any(), scale, any::<bool>(), Values::any(), seed())
            .prop_map(|(rows, y, mask, scale, log, values, seed)| Params {
                rows,
                y,
                mask,
                scale,
                log,
                values,
                seed,
            })
            .boxed()
    }

    fn run(p: &Params, backend: Backend) -> Result<Worst, Failure> {
        let random = &mut Random::new(p.seed);
        let [rows, n] = p.rows.shape;
        let log = p.log;
        // Scores of unit scale give gradients to all columns; special ones give NaN, 0 and -inf.
        let scores = if p.values == Values::Special { Values::Special } else { Values::Unit };
        let masks = Masks::new(p.rows.shape, &p.mask, scores, random);
        let mask = masks.mask(&p.mask)?;
        /// The result of the forward, rounded to the type.
        fn forward<T: Element>(
            p: &Params,
            x: &Tensor<2>,
            mask: ColumnMask<'_>,
        ) -> Result<Tensor<2>, Failure> {
            let Params { scale, log, .. } = *p;
            let (x, mut out) = (x.cast::<T>(), Tensor::new(x.shape(), &p.y, |_| T::default()));
            let rows = Rows::Into(x.view(), out.view_mut());
            Backend::REFERENCE.run(Softmax { scale, mask, log, ..Softmax::new(rows) })?;
            let (y, n) = (values(&out), x.shape()[1]);
            Ok(Tensor::new(x.shape(), &p.y, |[i, j]| y[i * n + j]))
        }
        let x = p.rows.input(scores, random);
        let stored = p.rows.stored;
        let y = of_type!(stored, forward(p, &x, mask))?;
        let dy = p.rows.input(p.values, random);
        fn apply<T: Element>(
            p: &Params,
            dy: &Tensor<2>,
            y: &Tensor<2>,
            mask: ColumnMask<'_>,
            backend: Backend,
        ) -> Result<Vec<f32>, Failure> {
            let Params { scale, log, .. } = *p;
            let y = y.cast::<T>();
            p.rows
                .run::<T>(dy, |rows| backend.run(Kernel { scale, mask, log, ..Kernel::new(rows, y.view()) }))
        }
        let apply = |stored, on| of_type!(stored, apply(p, &dy, &y, mask, on));

        // On the narrowest vectors, 4 lanes in 4 groups, n / 16 + 8 roundings enter the sum, and one each of its terms.
        let k = n as f64 / 16.0 + 9.0;
        let at = |tensor: &Tensor<2>, i: usize, j: usize| f64::from(tensor.view().get([i, j]));
        let term = |i: usize, j: usize| if log { at(&dy, i, j) } else { at(&dy, i, j) * at(&y, i, j) };
        let magnitude =
            |i: usize| (0..n).filter(|&j| masks.counts(&p.mask, i, j)).map(|j| term(i, j).abs()).sum::<f64>();
        let magnitudes: Vec<f64> = (0..rows).map(magnitude).collect();
        let scale = f64::from(p.scale.abs());
        conforms(stored, backend, apply, |index, _| {
            let (i, j) = (index / n, index % n);
            let (y, dy, sum) = (at(&y, i, j), at(&dy, i, j).abs(), magnitudes[i]);
            let bound = if log {
                // An exponential errs by an ULP, its product with the sum, the difference and the scale round.
                U * scale * (3.0 * dy + y.exp() * (k + 7.0) * sum) + ETA * (2.0 + scale * (2.0 + sum))
            } else {
                U * scale * y.abs() * (4.0 * dy + (k + 4.0) * sum)
                    + ETA * (2.0 + scale * (2.0 + y.abs() * (k + n as f64)))
            };
            if bound.is_finite() { bound } else { 0.0 }
        })
    }
}
