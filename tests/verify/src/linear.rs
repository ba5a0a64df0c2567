//! The backward pass of a linear layer, and sums of columns, against their definitions.

use super::bound::{ETA, compare, gamma};
use super::gemm::lost;
use super::rows::Stored;
use super::stored::{AnyTensor, written};
use super::tensor::{Layout, Random, Tensor, Values, extent, seed};
use super::{Check, Failure, Worst};
use half::{bf16, f16};
use proptest::prelude::*;
use tilewright_kernels::definition::{column_sums, linear_backward};
use tilewright_kernels::gemm::{Format, PackedB, Rhs};
use tilewright_kernels::{
    Backend, ColumnSums as ColumnSumsKernel, Element, LinearBackward as LinearBackwardKernel,
};

/// Sums of columns, added to old values.
pub struct ColumnSums;

/// All gradients of a linear layer, or some of them.
pub struct LinearBackward;

/// One call of [`ColumnSums`].
#[derive(Clone, Debug)]
pub struct SumsParams {
    shape: [usize; 2],
    stored: Stored,
    x: Layout<2>,
    values: Values,
    seed: u64,
}

/// Bound of a column's sum: gamma_{36 + rows / 256} times the sum of magnitudes, infinite if that is no number.
fn sum_bound(rows: usize, magnitude: f64) -> f64 {
    let bound = gamma(37 + rows / 256) * magnitude + ETA;
    if bound.is_finite() { bound } else { 0.0 }
}

/// The elements in f64, mapped.
fn wide(x: &[f32], f: fn(f64) -> f64) -> Vec<f64> {
    x.iter().map(|&x| f(f64::from(x))).collect()
}

impl Check for ColumnSums {
    const KERNEL: &'static str = "column_sums";
    type Params = SumsParams;

    fn strategy() -> BoxedStrategy<SumsParams> {
        (extent(600), extent(600), Stored::any(), Layout::rows(), Values::any(), seed())
            .prop_map(|(rows, columns, stored, x, values, seed)| SumsParams {
                shape: [rows, columns],
                stored,
                x,
                values,
                seed,
            })
            .boxed()
    }

    fn run(p: &SumsParams, backend: Backend) -> Result<Worst, Failure> {
        let random = &mut Random::new(p.seed);
        let x = Tensor::new(p.shape, &p.x, |_| p.stored.number(p.values.draw(random)));
        let old: Vec<f32> = (0..p.shape[1]).map(|_| p.values.draw(random)).collect();
        fn apply<T: Element>(x: &Tensor<2>, old: &[f32], backend: Backend) -> Result<Vec<f32>, Failure> {
            let (x, mut sums) = (x.cast::<T>(), old.to_vec());
            backend.run(ColumnSumsKernel { x: x.view(), sums: &mut sums })?;
            Ok(sums)
        }
        let apply = |backend| match p.stored {
            Stored::F32 => apply::<f32>(&x, &old, backend),
            Stored::Bf16 => apply::<bf16>(&x, &old, backend),
            Stored::F16 => apply::<f16>(&x, &old, backend),
        };
        let magnitudes = column_sums(&wide(&x.elements(), f64::abs), p.shape[1]);
        compare(&apply(backend)?, &apply(Backend::REFERENCE)?, |j| {
            sum_bound(p.shape[0], magnitudes[j] + f64::from(old[j].abs()))
        })
    }
}

/// One call of [`LinearBackward`].
#[derive(Clone, Debug)]
pub struct Params {
    /// Rows, inputs, outputs.
    shape: [usize; 3],
    /// Types of dY and x, of the weight, and of dX.
    stored: [Stored; 3],
    packed: bool,
    /// Gradients that are asked for: of x, of the weight, of the bias.
    wanted: [bool; 3],
    dy: Layout<2>,
    x: Layout<2>,
    weight: Layout<2>,
    dx: Layout<2>,
    dweight: Layout<2>,
    values: Values,
    seed: u64,
}

/// Multiply-adds of a product: a few milliseconds of the reference.
const MOST_WORK: usize = 1 << 18;

impl Check for LinearBackward {
    const KERNEL: &'static str = "linear_backward";
    type Params = Params;

    fn strategy() -> BoxedStrategy<Params> {
        let shape = [extent(300), extent(150), extent(300)]
            .prop_filter("takes too long", |shape| shape.iter().product::<usize>() <= MOST_WORK);
        let inputs = (Layout::rows(), Layout::any(), prop_oneof![Layout::any(), Layout::rows()]);
        let outputs = (Layout::distinct(), Layout::distinct());
        let stored = [Stored::any(), Stored::any(), Stored::any()];
        (shape, stored, any::<[bool; 4]>(), inputs, outputs, Values::any(), seed())
            .prop_map(
                |(shape, stored, [packed, wanted @ ..], (dy, x, weight), (dx, dweight), values, seed)| {
                    // f16 would overflow in the reference's rounding, and not in the bound.
                    let values = if values == Values::Large && stored.contains(&Stored::F16) {
                        Values::Wide
                    } else {
                        values
                    };
                    Params { shape, stored, packed, wanted, dy, x, weight, dx, dweight, values, seed }
                },
            )
            .boxed()
    }

    fn run(p: &Params, backend: Backend) -> Result<Worst, Failure> {
        let [rows, inputs, out] = p.shape;
        let random = &mut Random::new(p.seed);
        let mut tensor = |shape: [usize; 2], layout: &Layout<2>, stored: Stored| {
            Tensor::new(shape, layout, |_| stored.number(p.values.draw(random)))
        };
        let data = Data {
            dy: tensor([rows, out], &p.dy, p.stored[0]),
            x: tensor([rows, inputs], &p.x, p.stored[0]),
            weight: tensor([out, inputs], &p.weight, p.stored[1]),
            dweight: tensor([out, inputs], &p.dweight, Stored::F32),
            dbias: tensor([1, out], &Layout::row_major(), Stored::F32).elements(),
        };
        let (found, expected) = (data.run(p, backend)?, data.run(p, Backend::REFERENCE)?);
        let abs = |t: &Tensor<2>| wide(&t.elements(), f64::abs);
        let [of_x, of_weight, of_bias] =
            linear_backward(&abs(&data.dy), &abs(&data.x), &abs(&data.weight), p.shape);
        // A product of k k-steps, of pairs or not: as the check of `gemm` derives it.
        let product = |k: usize, pairs: bool, magnitude: f64, [a, b]: [&Tensor<2>; 2]| {
            let roundings = if pairs { 2 * k } else { k } + 5;
            let tiny = (k + 8) as f64 * lost(pairs, [a, b].map(|t| t.elements()));
            let bound = gamma(roundings) * magnitude + tiny;
            if bound.is_finite() { bound } else { 0.0 }
        };
        let is_bf16 = |i: usize| p.stored[i] == Stored::Bf16;
        let [dx, dweight, dbias] = &found;
        let [expected_dx, expected_dweight, expected_dbias] = &expected;
        // A dX out of the range of f16 may be infinite, or the largest number.
        let within = |v: &[f32]| -> Vec<f32> {
            let beyond = |i: usize| p.stored[2] == Stored::F16 && expected_dx[i].abs() > 6e4;
            v.iter().enumerate().map(|(i, &x)| if beyond(i) { 0.0 } else { x }).collect()
        };
        let worst = compare(&within(dx), &within(expected_dx), |i| {
            let bound = product(out, is_bf16(0) && is_bf16(1), of_x[i], [&data.dy, &data.weight]);
            let magnitude = f64::from(expected_dx[i].abs()) + bound;
            bound + 2.0 * p.stored[2].half_ulp(if magnitude.is_finite() { magnitude } else { 0.0 })
        })?;
        let old = data.dweight.elements();
        let of_weight = compare(dweight, expected_dweight, |i| {
            let magnitude = of_weight[i] + f64::from(old[i].abs());
            product(rows, is_bf16(0), magnitude, [&data.dy, &data.x])
        })?;
        let of_bias =
            compare(dbias, expected_dbias, |j| sum_bound(rows, of_bias[j] + f64::from(data.dbias[j].abs())))?;
        Ok(worst.max(of_weight).max(of_bias))
    }
}

/// The arguments of one call.
struct Data {
    dy: Tensor<2>,
    x: Tensor<2>,
    weight: Tensor<2>,
    dweight: Tensor<2>,
    dbias: Vec<f32>,
}

impl Data {
    /// dX, dW and dbias; zeros and old values where they are not wanted.
    fn run(&self, p: &Params, backend: Backend) -> Result<[Vec<f32>; 3], Failure> {
        let [dy, x, weight] = [&self.dy, &self.x, &self.weight].map(AnyTensor::of);
        let mut dx = AnyTensor::of(&Tensor::new(self.x.shape(), &p.dx, |_| 0.0));
        let (mut dweight, mut dbias) = (self.dweight.clone(), self.dbias.clone());
        let format = match p.stored[1] {
            Stored::F32 => Format::F32,
            Stored::Bf16 => Format::Bf16,
            Stored::F16 => Format::F16,
        };
        let packed = PackedB::in_format(backend, format, self.weight.view())?;
        let [of_x, of_weight, of_bias] = p.wanted;
        backend.run(LinearBackwardKernel {
            dy: dy.view(p.stored[0]),
            x: x.view(p.stored[0]),
            weight: if p.packed {
                Rhs::Packed(&packed)
            } else {
                Rhs::Matrix(weight.view(p.stored[1]).into())
            },
            dx: of_x.then(|| dx.view_mut(p.stored[2])),
            dweight: of_weight.then(|| dweight.view_mut()),
            dbias: of_bias.then_some(&mut dbias[..]),
        })?;
        Ok([dx.written(p.stored[2])?, written(&dweight)?, dbias])
    }
}
