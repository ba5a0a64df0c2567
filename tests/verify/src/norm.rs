//! Layer norm, RMS norm and L2 normalisation against their definitions.

use super::bound::{ETA, U, compare, identical};
use super::rows::{RowsParams, Stored, conforms, of_type, parameter, values};
use super::tensor::{Layout, Random, Tensor, Values, seed};
use super::{Check, Failure, Worst};
use proptest::prelude::*;
use proptest::sample::select;
use tilewright_kernels::{
    Backend, Element, L2Normalize as L2Kernel, LayerNorm as LayerKernel, RmsNorm as RmsKernel,
};

/// Layer norm, with means far from 0 in relation to sigma, outliers among the first elements, optional residuals.
pub struct LayerNorm;

/// RMS norm, with optional weight and residual.
pub struct RmsNorm;

/// L2 normalisation, in place and out of place.
pub struct L2Normalize;

/// Arguments of one norm.
#[derive(Clone, Debug)]
pub struct Params {
    rows: RowsParams,
    residual: Option<Layout<2>>,
    weight: bool,
    bias: bool,
    /// True if the mean and the inverse deviation are wanted.
    statistics: bool,
    eps: f32,
    values: Values,
    /// Offsets added to all elements, and to the first 64 of a row.
    offsets: [f32; 2],
    seed: u64,
}

fn strategy() -> BoxedStrategy<Params> {
    let residual = prop::option::weighted(0.3, Layout::rows());
    let offsets = (select(vec![0.0, 0.0, 100.0, -3e4]), select(vec![0.0, 0.0, 0.0, 40.0]));
    let eps = select(vec![0.0, 1e-12, 1e-6, 1e-5, 0.5]);
    let given = any::<[bool; 3]>();
    (RowsParams::any(1100), residual, given, eps, Values::any(), offsets, seed())
        .prop_map(|(rows, residual, [weight, bias, statistics], eps, values, offsets, seed)| {
            let offsets = [offsets.0, offsets.1];
            Params { rows, residual, weight, bias, statistics, eps, values, offsets, seed }
        })
        .boxed()
}

/// The data of one norm.
struct NormData {
    stored: Stored,
    x: Tensor<2>,
    residual: Option<Tensor<2>>,
    weight: Option<Vec<f32>>,
    bias: Option<Vec<f32>>,
}

impl NormData {
    fn new(p: &Params) -> Self {
        let random = &mut Random::new(p.seed);
        let n = p.rows.shape[1];
        // Parameters of moderate size keep results in the range of f32 for every x.
        let values = if p.values == Values::Special { Values::Special } else { Values::Unit };
        let stored = p.rows.stored;
        Self {
            stored,
            x: p.rows.input_with(|[_, j]| {
                let head = if j < 64 { p.offsets[1] } else { 0.0 };
                p.values.draw(random) + p.offsets[0] + head
            }),
            residual: (p.residual.as_ref())
                .map(|layout| Tensor::new(p.rows.shape, layout, |_| stored.number(p.values.draw(random)))),
            weight: parameter(p.weight, n, values, random),
            bias: parameter(p.bias, n, values, random),
        }
    }

    /// The numbers to normalise: x, or x plus the residual, rounded to the type.
    fn input(&self) -> Vec<f32> {
        let x = self.x.elements();
        match &self.residual {
            None => x,
            Some(residual) => {
                residual.elements().iter().zip(x).map(|(r, x)| self.stored.round(r + x)).collect()
            }
        }
    }

    /// x and the residual for a run in `T`. A run in f32 of a case of another type gets the rounded sum as x and no
    /// residual, because f32 would not round the sum to the type.
    fn rows<T: Element>(&self) -> (Tensor<2>, Option<Tensor<2, T>>) {
        if self.stored != Stored::F32 && T::NAME == f32::NAME {
            let (input, columns) = (self.input(), self.x.shape()[1]);
            return (
                Tensor::new(self.x.shape(), &Layout::row_major(), |[i, j]| input[i * columns + j]),
                None,
            );
        }
        (self.x.clone(), self.residual.as_ref().map(Tensor::cast))
    }

    /// Column `j` of the weight and the bias.
    fn affine(&self, j: usize) -> (f64, f64) {
        let at = |v: &Option<Vec<f32>>, none| v.as_ref().map_or(none, |v| f64::from(v[j]));
        (at(&self.weight, 1.0), at(&self.bias, 0.0))
    }

    /// Checks that the residual is exactly the sum.
    fn check_residual<T: Element>(&self, residual: Option<&Tensor<2, T>>) -> Result<(), Failure> {
        let Some(residual) = residual else { return Ok(()) };
        residual.gaps_intact()?;
        let (found, expected) = (values(residual), self.input());
        // Only f32 specifies the bits of NaN.
        let nan =
            |x: &[f32]| -> Vec<f32> { x.iter().map(|&x| if x.is_nan() { f32::NAN } else { x }).collect() };
        if T::NAME == f32::NAME {
            identical(&found, &expected)
        } else {
            identical(&nan(&found), &nan(&expected))
        }
    }
}

impl Check for LayerNorm {
    const KERNEL: &'static str = "layer_norm";
    type Params = Params;

    fn strategy() -> BoxedStrategy<Params> {
        strategy()
    }

    fn run(p: &Params, backend: Backend) -> Result<Worst, Failure> {
        let data = NormData::new(p);
        /// y, means and inverse deviations.
        fn apply<T: Element>(
            p: &Params,
            data: &NormData,
            backend: Backend,
        ) -> Result<[Vec<f32>; 3], Failure> {
            let (x, mut residual) = data.rows::<T>();
            let [mut mean, mut inverse_deviation] = [(); 2].map(|()| vec![f32::NAN; p.rows.shape[0]]);
            let y = p.rows.run::<T>(&x, |rows| {
                backend.run(LayerKernel {
                    residual: residual.as_mut().map(Tensor::view_mut),
                    weight: data.weight.as_deref(),
                    bias: data.bias.as_deref(),
                    mean: p.statistics.then_some(&mut mean),
                    inverse_deviation: p.statistics.then_some(&mut inverse_deviation),
                    ..LayerKernel::new(rows, p.eps)
                })
            })?;
            data.check_residual(residual.as_ref())?;
            Ok([y, mean, inverse_deviation])
        }
        let apply = |stored, backend| of_type!(stored, apply(p, &data, backend));
        let n = p.rows.shape[1];
        let ([_, mean, inverse], [_, exact_mean, exact_inverse]) =
            (apply(p.rows.stored, backend)?, apply(p.rows.stored, Backend::REFERENCE)?);
        let input = data.input();
        compare(&mean, &exact_mean, |i| {
            let mean = f64::from(exact_mean[i]);
            let squares = input[i * n..][..n].iter().map(|&x| (f64::from(x) - mean).powi(2));
            let sigma = (squares.sum::<f64>() / n as f64).sqrt();
            U * (mean.abs() + (n as f64 / 13.0 + 12.0) * sigma) + ETA
        })?;
        compare(&inverse, &exact_inverse, |i| {
            U * (n as f64 / 20.0 + 16.0) * f64::from(exact_inverse[i]) + ETA
        })?;
        let apply = |stored, backend| apply(stored, backend).map(|[y, ..]| y);
        conforms(p.rows.stored, backend, apply, |i, expected| {
            // With z the normalised x, |z weight| <= |y| + |bias|.
            let (weight, bias) = data.affine(i % n);
            let (y, bias) = (f64::from(expected[i].abs()), bias.abs());
            U * ((n as f64 / 10.0 + 24.0) * (weight.abs() + y + bias) + 2.0 * (y + bias))
                + ETA * (2.0 + weight.abs())
        })
    }
}

impl Check for RmsNorm {
    const KERNEL: &'static str = "rms_norm";
    type Params = Params;

    fn strategy() -> BoxedStrategy<Params> {
        strategy()
    }

    fn run(p: &Params, backend: Backend) -> Result<Worst, Failure> {
        let data = NormData::new(p);
        /// y and inverse deviations.
        fn apply<T: Element>(
            p: &Params,
            data: &NormData,
            backend: Backend,
        ) -> Result<[Vec<f32>; 2], Failure> {
            let (x, mut residual) = data.rows::<T>();
            let mut inverse_deviation = vec![f32::NAN; p.rows.shape[0]];
            let y = p.rows.run::<T>(&x, |rows| {
                backend.run(RmsKernel {
                    residual: residual.as_mut().map(Tensor::view_mut),
                    weight: data.weight.as_deref(),
                    inverse_deviation: p.statistics.then_some(&mut inverse_deviation),
                    ..RmsKernel::new(rows, p.eps)
                })
            })?;
            data.check_residual(residual.as_ref())?;
            Ok([y, inverse_deviation])
        }
        let apply = |stored, backend| of_type!(stored, apply(p, &data, backend));
        let n = p.rows.shape[1];
        let ([_, inverse], [_, exact]) =
            (apply(p.rows.stored, backend)?, apply(p.rows.stored, Backend::REFERENCE)?);
        compare(&inverse, &exact, |i| U * (n as f64 / 32.0 + 8.0) * f64::from(exact[i]) + ETA)?;
        let apply = |stored, backend| apply(stored, backend).map(|[y, _]| y);
        conforms(p.rows.stored, backend, apply, |i, expected| {
            relative(n) * f64::from(expected[i].abs()) + ETA * (2.0 + data.affine(i % n).0.abs())
        })
    }
}

impl Check for L2Normalize {
    const KERNEL: &'static str = "l2_normalize";
    type Params = Params;

    fn strategy() -> BoxedStrategy<Params> {
        strategy()
    }

    fn run(p: &Params, backend: Backend) -> Result<Worst, Failure> {
        let data = NormData::new(p);
        fn apply<T: Element>(p: &Params, x: &Tensor<2>, backend: Backend) -> Result<Vec<f32>, Failure> {
            p.rows.run::<T>(x, |rows| backend.run(L2Kernel::new(rows, p.eps)))
        }
        let apply = |stored, backend| of_type!(stored, apply(p, &data.x, backend));
        let n = p.rows.shape[1];
        conforms(p.rows.stored, backend, apply, |i, expected| {
            relative(n) * f64::from(expected[i].abs()) + ETA
        })
    }
}

/// The relative error of x over a root of a sum of n squares. On the narrowest vectors, 4 lanes in 4 groups,
/// n / 16 + 5 roundings enter the sum of squares, and the root halves their error. A division and an addition precede
/// the root; the root itself, a reciprocal and two products follow.
fn relative(n: usize) -> f64 {
    (n as f64 / 32.0 + 10.0) * U
}
