//! Gradients of layer norm, RMS norm and L2 normalisation against their definitions.

use super::bound::{ETA, U, compare};
use super::rows::{RowsParams, Stored, conforms, of_type, parameter};
use super::tensor::{Layout, Random, Tensor, Values, seed};
use super::{Check, Failure, Worst};
use proptest::prelude::*;
use proptest::sample::select;
use tilewright_kernels::{
    Backend, Element, Error, L2NormalizeBackward as L2Kernel, LayerNorm, LayerNormBackward as LayerKernel,
    RmsNorm, RmsNormBackward as RmsKernel, Rows, ViewMut,
};

/// Gradient of layer norm: means far from 0 against sigma, many rows, a gradient of the residual or none.
pub struct LayerNormBackward;

/// Gradient of RMS norm, with and without weight and gradient of the residual.
pub struct RmsNormBackward;

/// Gradient of L2 normalisation, with norms on both sides of eps.
pub struct L2NormalizeBackward;

/// The gradient of one norm.
#[derive(Clone, Debug)]
pub struct Params {
    /// dy and dx.
    rows: RowsParams,
    x: Layout<2>,
    dresidual: Option<Layout<2>>,
    weight: bool,
    /// True for each gradient of a parameter that is wanted.
    wanted: [bool; 2],
    eps: f32,
    values: Values,
    /// Added to all elements of x.
    offset: f32,
    seed: u64,
}

fn strategy() -> BoxedStrategy<Params> {
    let dresidual = prop::option::weighted(0.4, Layout::rows());
    let tall = prop::bool::weighted(0.15);
    let eps = select(vec![0.0, 1e-12, 1e-6, 1e-5, 0.5]);
    let offset = select(vec![0.0, 0.0, 100.0, -3e4]);
    (
        RowsParams::any(1100),
        Layout::rows(),
        dresidual,
        any::<[bool; 3]>(),
        tall,
        eps,
        Values::any(),
        offset,
        seed(),
    )
        .prop_map(|(mut rows, x, dresidual, [weight, a, b], tall, eps, values, offset, seed)| {
            if tall {
                // More rows than one chunk, or one block of chunks, holds.
                rows.shape = [rows.shape[0] * 240, rows.shape[1].min(33)];
            }
            Params { rows, x, dresidual, weight, wanted: [a, b], eps, values, offset, seed }
        })
        .boxed()
}

/// The arguments of one gradient.
struct NormData {
    dy: Tensor<2>,
    x: Tensor<2>,
    dresidual: Option<Tensor<2>>,
    weight: Option<Vec<f32>>,
    /// Gradients of weight and bias from before.
    before: [Vec<f32>; 2],
}

/// dx, and the gradients of weight and bias.
type Gradients = (Vec<f32>, [Vec<f32>; 2]);

impl NormData {
    fn new(p: &Params) -> Self {
        let random = &mut Random::new(p.seed);
        let (shape, stored) = (p.rows.shape, p.rows.stored);
        let n = shape[1];
        // Parameters within reach of f32, whatever x is.
        let values = if p.values == Values::Special { Values::Special } else { Values::Unit };
        Self {
            dy: p.rows.input(p.values, random),
            x: Tensor::new(shape, &p.x, |_| stored.number(p.values.draw(random) + p.offset)),
            dresidual: (p.dresidual.as_ref())
                .map(|layout| Tensor::new(shape, layout, |_| stored.number(p.values.draw(random)))),
            weight: parameter(p.weight, n, values, random),
            before: [(); 2].map(|()| (0..n).map(|_| random.unit()).collect()),
        }
    }

    /// The sums from before, where they are wanted.
    fn wanted<'a>(p: &Params, sums: &'a mut [Vec<f32>; 2]) -> [Option<&'a mut [f32]>; 2] {
        let [weight, bias] = sums;
        [p.wanted[0].then_some(&mut weight[..]), p.wanted[1].then_some(&mut bias[..])]
    }

    /// g of row `i`: dy times the weight.
    fn g(&self, i: usize, j: usize) -> f64 {
        let weight = self.weight.as_ref().map_or(1.0, |weight| f64::from(weight[j]));
        f64::from(self.dy.view().get([i, j])) * weight
    }
}

/// Bounds of the errors of a gradient, in f64.
struct Bounds {
    /// \[rows * n\].
    dx: Vec<f64>,
    /// \[n\], of weight and bias.
    parameters: [Vec<f64>; 2],
}

impl Bounds {
    /// Pass 1 makes three sums of n terms. On the narrowest vectors, 4 lanes in 4 groups, k = n / 16 + 9 roundings enter
    /// each. z~ = (x - mean) r for the rounded mean of the forward has two roundings, g one. With Z, G and H the means
    /// of |z~|, |g| and |g z~|, and s0, s1, s2 the means of z~, g and g z~:
    ///
    /// ```text
    /// s0                      (k + 2) u Z
    /// s1                      (k + 1) u G
    /// s2                      (k + 3) u H
    /// a = s2 - s0 s1          (k + 5) u H + (k + 3) u (|s0| + Z) G
    /// b = s1 - s0 a           (k + 2) u (G + Z |a|) + |s0| error(a)
    /// r (g - (b + a z~))      r (3 u |g| + |z~| error(a) + error(b) + 4 u |a z~| + 2 u |b|)
    /// ```
    ///
    /// An RMS norm has no mean, and neither s0 nor s1. A term of dweight is dy (z~ - s0); of n rows, at most 32 are
    /// added in a chunk, and then the sums of the chunks.
    fn new(p: &Params, data: &NormData, centered: bool, statistics: &[Vec<f32>; 2]) -> Self {
        let [rows, n] = p.rows.shape;
        let k = n as f64 / 16.0 + 9.0;
        let additions = (rows.min(32) + rows.div_ceil(32) + 2) as f64;
        let mut dx = Vec::new();
        let mut parameters = [(); 2].map(|()| vec![0.0; n]);
        for (sum, before) in parameters.iter_mut().zip(&data.before) {
            sum.iter_mut().zip(before).for_each(|(sum, &old)| *sum = U * additions * f64::from(old.abs()));
        }
        for (i, (&mean, &r)) in statistics[0].iter().zip(&statistics[1]).enumerate() {
            let [mean, r] = [mean, r].map(f64::from);
            let z: Vec<f64> = (0..n).map(|j| (f64::from(data.x.view().get([i, j])) - mean) * r).collect();
            let g: Vec<f64> = (0..n).map(|j| data.g(i, j)).collect();
            let mean = |f: &dyn Fn(usize) -> f64| (0..n).map(f).sum::<f64>() / n as f64;
            let h = mean(&|j| (g[j] * z[j]).abs());
            let (s0, z_mean, g_mean) = match centered {
                true => (mean(&|j| z[j]).abs(), mean(&|j| z[j].abs()), mean(&|j| g[j].abs())),
                false => (0.0, 0.0, 0.0),
            };
            let a = h + s0 * g_mean;
            let a_error = (k + 5.0) * h + (k + 3.0) * (s0 + z_mean) * g_mean;
            let b_error = (k + 2.0) * (g_mean + z_mean * a) + s0 * a_error;
            for (j, z) in z.iter().map(|z| z.abs()).enumerate() {
                let g = g[j].abs();
                let roundings = 3.0 * g + z * a_error + b_error + 4.0 * a * z + 2.0 * (g_mean + s0 * a);
                let denormal = ETA * (2.0 + 8.0 * r * (1.0 + g + g_mean + z * (1.0 + g_mean)));
                dx.push(U * r * roundings + denormal);
                let dy = f64::from(data.dy.view().get([i, j]).abs());
                parameters[0][j] +=
                    U * dy * (3.0 * z + (k + 2.0) * z_mean + s0 + (additions + 1.0) * (z + s0))
                        + ETA * (2.0 + dy);
                parameters[1][j] += U * additions * dy;
            }
        }
        Self { dx, parameters }
    }
}

/// Holds dx, and the gradients of the parameters, to their definitions.
fn check(
    p: &Params,
    backend: Backend,
    bounds: &Bounds,
    apply: impl Fn(Stored, Backend) -> Result<Gradients, Failure>,
) -> Result<Worst, Failure> {
    let finite = |bound: f64| if bound.is_finite() { bound } else { 0.0 };
    let dx = |stored, on| Ok(apply(stored, on)?.0);
    let bound = |i: usize, expected: &[f32]| finite(bounds.dx[i] + U * f64::from(expected[i].abs()));
    let mut worst = conforms(p.rows.stored, backend, dx, bound)?;
    let found = apply(p.rows.stored, backend)?.1;
    let expected = apply(p.rows.stored, Backend::REFERENCE)?.1;
    for ((found, expected), bound) in found.iter().zip(&expected).zip(&bounds.parameters) {
        worst = worst.max(compare(found, expected, |j| finite(bound[j]))?);
    }
    Ok(worst)
}

/// Means and inverse deviations of the rows, by the definition of the forward.
fn statistics(
    data: &NormData,
    forward: impl FnOnce(Rows<'_>, [&mut [f32]; 2]) -> Result<(), Error>,
) -> Result<[Vec<f32>; 2], Failure> {
    let [rows, n] = data.x.shape();
    let (mut y, mut mean, mut inverse) = (vec![0.0; rows * n], vec![0.0; rows], vec![0.0; rows]);
    forward(Rows::Into(data.x.view(), ViewMut::new(&mut y, [rows, n])?), [&mut mean, &mut inverse])?;
    Ok([mean, inverse])
}

impl Check for LayerNormBackward {
    const KERNEL: &'static str = "layer_norm_backward";
    type Params = Params;

    fn strategy() -> BoxedStrategy<Params> {
        strategy()
    }

    fn run(p: &Params, backend: Backend) -> Result<Worst, Failure> {
        let data = NormData::new(p);
        let statistics = statistics(&data, |rows, [mean, inverse]| {
            let (mean, inverse_deviation) = (Some(mean), Some(inverse));
            Backend::REFERENCE.run(LayerNorm { mean, inverse_deviation, ..LayerNorm::new(rows, p.eps) })
        })?;
        fn apply<T: Element>(
            p: &Params,
            data: &NormData,
            [mean, inverse]: &[Vec<f32>; 2],
            backend: Backend,
        ) -> Result<Gradients, Failure> {
            let (x, dresidual) = (data.x.cast::<T>(), data.dresidual.as_ref().map(Tensor::cast::<T>));
            let mut sums = data.before.clone();
            let [dweight, dbias] = NormData::wanted(p, &mut sums);
            let dx = p.rows.run::<T>(&data.dy, |rows| {
                backend.run(LayerKernel {
                    dresidual: dresidual.as_ref().map(Tensor::view),
                    weight: data.weight.as_deref(),
                    dweight,
                    dbias,
                    ..LayerKernel::new(rows, x.view(), mean, inverse)
                })
            })?;
            Ok((dx, sums))
        }
        let bounds = Bounds::new(p, &data, true, &statistics);
        check(p, backend, &bounds, |stored, on| of_type!(stored, apply(p, &data, &statistics, on)))
    }
}

impl Check for RmsNormBackward {
    const KERNEL: &'static str = "rms_norm_backward";
    type Params = Params;

    fn strategy() -> BoxedStrategy<Params> {
        strategy()
    }

    fn run(p: &Params, backend: Backend) -> Result<Worst, Failure> {
        let data = NormData::new(p);
        let statistics = statistics(&data, |rows, [_, inverse]| {
            Backend::REFERENCE.run(RmsNorm { inverse_deviation: Some(inverse), ..RmsNorm::new(rows, p.eps) })
        })?;
        fn apply<T: Element>(
            p: &Params,
            data: &NormData,
            inverse: &[f32],
            backend: Backend,
        ) -> Result<Gradients, Failure> {
            let (x, dresidual) = (data.x.cast::<T>(), data.dresidual.as_ref().map(Tensor::cast::<T>));
            let mut sums = data.before.clone();
            let [dweight, _] = NormData::wanted(p, &mut sums);
            let dx = p.rows.run::<T>(&data.dy, |rows| {
                backend.run(RmsKernel {
                    dresidual: dresidual.as_ref().map(Tensor::view),
                    weight: data.weight.as_deref(),
                    dweight,
                    ..RmsKernel::new(rows, x.view(), inverse)
                })
            })?;
            Ok((dx, sums))
        }
        let bounds = Bounds::new(p, &data, false, &statistics);
        check(p, backend, &bounds, |stored, on| of_type!(stored, apply(p, &data, &statistics[1], on)))
    }
}

impl Check for L2NormalizeBackward {
    const KERNEL: &'static str = "l2_normalize_backward";
    type Params = Params;

    fn strategy() -> BoxedStrategy<Params> {
        strategy()
    }

    fn run(p: &Params, backend: Backend) -> Result<Worst, Failure> {
        let mut data = NormData::new(p);
        data.weight = None;
        let [rows, n] = p.rows.shape;
        // Norms within rounding of eps may count as either side: eps is twice the norm of the first row, or below all.
        let norm = |i: usize| {
            let squares = (0..n).map(|j| f64::from(data.x.view().get([i, j])).powi(2));
            squares.sum::<f64>().sqrt()
        };
        let eps = match rows {
            1.. if p.wanted[0] && norm(0).is_finite() => (2.0 * norm(0)) as f32,
            _ => p.eps,
        };
        let clear = |i: usize| (norm(i) / f64::from(eps) - 1.0).abs() > 1e-3 || norm(i) == 0.0;
        let eps = if (0..rows).all(clear) { eps } else { 0.0 };
        fn apply<T: Element>(
            p: &Params,
            data: &NormData,
            eps: f32,
            backend: Backend,
        ) -> Result<Vec<f32>, Failure> {
            let x = data.x.cast::<T>();
            p.rows.run::<T>(&data.dy, |rows| backend.run(L2Kernel { rows, x: x.view(), eps }))
        }
        // The norm errs by (k / 2 + 2) u, and so does q; the sum of dy z by (2 k + 4) u of its magnitude.
        let k = n as f64 / 16.0 + 9.0;
        let mut bounds = Vec::new();
        for i in 0..rows {
            let q = 1.0 / norm(i).max(f64::from(eps));
            let z: Vec<f64> = (0..n).map(|j| (f64::from(data.x.view().get([i, j])) * q).abs()).collect();
            let dot: f64 = z.iter().enumerate().map(|(j, z)| z * data.g(i, j).abs()).sum();
            for (j, z) in z.iter().enumerate() {
                let g = data.g(i, j).abs();
                bounds
                    .push(U * (2.5 * k + 20.0) * q * (g + z * dot) + ETA * (2.0 + 8.0 * q * (1.0 + g + dot)));
            }
        }
        let apply = |stored, on| of_type!(stored, apply(p, &data, eps, on));
        conforms(p.rows.stored, backend, apply, |i, expected| {
            let bound = bounds[i] + U * f64::from(expected[i].abs());
            if bound.is_finite() { bound } else { 0.0 }
        })
    }
}
