//! Cross-entropies and their gradients against their definitions.

use super::bound::{ETA, U, compare, identical};
use super::rows::{RowsParams, Stored, conforms, of_type, parameter};
use super::tensor::{Random, Tensor, Values, seed};
use super::{Check, Failure, Worst};
use proptest::prelude::*;
use proptest::sample::select;
use tilewright_kernels::{
    Backend, BceWithLogits as BceKernel, BceWithLogitsBackward as BceBackwardKernel,
    CrossEntropy as ForwardKernel, CrossEntropyBackward as BackwardKernel, Element, Rows, Targets,
    definition,
};

/// Losses of given logits: smoothing, class weights, rows without a label.
pub struct CrossEntropy;

/// Gradients of given logits, in place or not, beside the same losses.
pub struct CrossEntropyBackward;

/// Sum of binary cross-entropies, with and without weights of positive targets.
pub struct BceWithLogits;

/// Gradients of binary cross-entropies, in place or not.
pub struct BceWithLogitsBackward;

/// One cross-entropy.
#[derive(Clone, Debug)]
pub struct Params {
    rows: RowsParams,
    smoothing: f32,
    weights: bool,
    scale: f32,
    values: Values,
    seed: u64,
}

fn strategy() -> BoxedStrategy<Params> {
    let smoothing = select(vec![0.0, 0.0, 0.1, 1.0]);
    let scale = select(vec![1.0, 0.03125, -3.0, 0.0]);
    (RowsParams::any(1100), smoothing, any::<bool>(), scale, Values::any(), seed())
        .prop_map(|(rows, smoothing, weights, scale, values, seed)| Params {
            rows,
            smoothing,
            weights,
            scale,
            values,
            seed,
        })
        .boxed()
}

/// The arguments of one cross-entropy.
struct LossData {
    x: Tensor<2>,
    labels: Vec<i64>,
    weights: Option<Vec<f32>>,
    smoothing: f32,
}

/// Label of rows without a class.
const IGNORED: i64 = -7;

impl LossData {
    fn new(p: &Params) -> Self {
        let random = &mut Random::new(p.seed);
        let [rows, classes] = p.rows.shape;
        let x = p.rows.input(p.values, random);
        let mut label =
            || if classes == 0 || random.below(4) == 0 { IGNORED } else { random.below(classes) as i64 };
        let labels = (0..rows).map(|_| label()).collect();
        let weights = parameter(p.weights, classes, Values::Unit, random);
        let weights = weights.map(|weights| weights.into_iter().map(f32::abs).collect());
        Self { x, labels, weights, smoothing: p.smoothing }
    }

    fn targets(&self) -> Targets<'_> {
        Targets {
            labels: &self.labels,
            ignored: IGNORED,
            smoothing: self.smoothing,
            weights: self.weights.as_deref(),
        }
    }

    /// Runs the forward kernel in `T`; returns the losses and their sum.
    fn losses<T: Element>(&self, backend: Backend) -> Result<Vec<f32>, Failure> {
        let x = self.x.cast::<T>();
        let mut losses = vec![f32::NAN; self.labels.len()];
        let (logits, targets) = (x.view(), self.targets());
        let sum = backend.run(ForwardKernel { logits, targets, losses: Some(&mut losses) })?;
        let alone = backend.run(ForwardKernel { logits, targets, losses: None })?;
        identical(&[alone.sum as f32, alone.weight as f32], &[sum.sum as f32, sum.weight as f32])?;
        losses.push(sum.sum as f32);
        Ok(losses)
    }

    /// Factors of the target's terms in row `i`: the label's own, and each class' by its weight; zeros without a
    /// label.
    fn target(&self, i: usize, j: usize) -> [f64; 2] {
        let weight = |j: usize| self.weights.as_ref().map_or(1.0, |w| f64::from(w[j]));
        let (label, smoothing) = (self.labels[i], f64::from(self.smoothing));
        if label == IGNORED {
            return [0.0; 2];
        }
        let own = if label as usize == j { (1.0 - smoothing) * weight(j) } else { 0.0 };
        [own, smoothing / self.x.shape()[1] as f64 * weight(j)]
    }

    /// Distance of each logit of row `i` from the largest, and its log-probability.
    fn row(&self, i: usize) -> Vec<[f64; 2]> {
        let x = self.x.view().row([i, 0]);
        let max = x.iter().fold(f64::NEG_INFINITY, |m, &x| m.max(f64::from(x)));
        let sum: f64 = x.iter().map(|&x| (f64::from(x) - max).exp()).sum();
        x.iter().map(|&x| [max - f64::from(x), f64::from(x) - max - sum.ln()]).collect()
    }

    /// Bounds of the errors of all losses, and of their sum.
    ///
    /// s errs by n / 16 + 4 roundings on the narrowest vectors, by 2 u of each exponential, and by the rounding of
    /// each x - m, u |x - m|, which weighted by p is at most u ln n: 24 u in all for the rows of tests. Its logarithm
    /// errs by that and 2 u of itself. The distances m - x of a smoothed target are a sum of n terms.
    fn bounds(&self) -> Vec<f64> {
        let n = self.x.shape()[1] as f64;
        let bound = |i: usize| {
            let of_class = |(j, [distance, l]): (usize, [f64; 2])| {
                let [own, each] = self.target(i, j);
                let log = n / 16.0 + 24.0 + 3.0 * l.abs() + distance;
                let sum = (n / 16.0 + 6.0) * distance;
                U * ((if own == 0.0 { 0.0 } else { own * log })
                    + if each == 0.0 { 0.0 } else { each * (log + sum) })
            };
            self.row(i).into_iter().enumerate().map(of_class).sum::<f64>()
        };
        let mut bounds: Vec<f64> = (0..self.labels.len()).map(bound).collect();
        let losses = definition::cross_entropy(&self.logits(), &self.targets());
        let roundings: f64 = losses.iter().map(|loss| U * loss.abs()).sum();
        bounds.push(bounds.iter().sum::<f64>() + roundings);
        bounds.into_iter().map(|bound| if bound.is_finite() { bound } else { 0.0 }).collect()
    }

    fn logits(&self) -> Vec<f64> {
        self.x.elements().into_iter().map(f64::from).collect()
    }
}

impl Check for CrossEntropy {
    const KERNEL: &'static str = "cross_entropy";
    type Params = Params;

    fn strategy() -> BoxedStrategy<Params> {
        strategy()
    }

    fn run(p: &Params, backend: Backend) -> Result<Worst, Failure> {
        let data = LossData::new(p);
        let found = data.losses::<f32>(backend)?;
        let expected = data.losses::<f32>(Backend::REFERENCE)?;
        let bounds = data.bounds();
        let worst = compare(&found, &expected, |i| bounds[i])?;
        // Arithmetic is f32 in every type.
        same_but_for_nan(&of_type!(p.rows.stored, data_losses(&data, backend))?, &found)?;
        Ok(worst)
    }
}

fn data_losses<T: Element>(data: &LossData, backend: Backend) -> Result<Vec<f32>, Failure> {
    data.losses::<T>(backend)
}

/// Checks that both hold identical bits, or NaN.
fn same_but_for_nan(found: &[f32], expected: &[f32]) -> Result<(), Failure> {
    let plain =
        |x: &[f32]| -> Vec<f32> { x.iter().map(|x| if x.is_nan() { f32::NAN } else { *x }).collect() };
    identical(&plain(found), &plain(expected))
}

impl Check for CrossEntropyBackward {
    const KERNEL: &'static str = "cross_entropy_backward";
    type Params = Params;

    fn strategy() -> BoxedStrategy<Params> {
        strategy()
    }

    fn run(p: &Params, backend: Backend) -> Result<Worst, Failure> {
        let data = LossData::new(p);
        fn apply<T: Element>(p: &Params, data: &LossData, backend: Backend) -> Result<Vec<f32>, Failure> {
            let mut losses = vec![f32::NAN; data.labels.len()];
            let mut sum = Default::default();
            let run = |rows: Rows<'_, T>| {
                let losses = Some(&mut losses[..]);
                sum =
                    backend.run(BackwardKernel { rows, targets: data.targets(), scale: p.scale, losses })?;
                Ok(())
            };
            let dx = p.rows.run::<T>(&data.x, run)?;
            losses.push(sum.sum as f32);
            same_but_for_nan(&losses, &data.losses::<T>(backend)?)?;
            Ok(dx)
        }
        let apply = |stored, backend| of_type!(stored, apply(p, &data, backend));
        let n = p.rows.shape[1];
        let rows: Vec<_> = (0..p.rows.shape[0]).map(|i| data.row(i)).collect();
        let scale = f64::from(p.scale.abs());
        let target = |i: usize, j: usize| scale * data.target(i, j).iter().sum::<f64>();
        let totals: Vec<f64> = (0..rows.len()).map(|i| (0..n).map(|j| target(i, j)).sum()).collect();
        // Of p: the sum s, the exponential and its argument, the factor t / s and its product. Of the target: its
        // rounding, a product and the difference. A denormal exponential errs by 2 ETA.
        conforms(p.rows.stored, backend, apply, |index, _| {
            let (i, j) = (index / n, index % n);
            let ([distance, l], total, target) = (rows[i][j], totals[i], target(i, j));
            let of_p =
                if l == f64::NEG_INFINITY { 0.0 } else { (n as f64 / 16.0 + 28.0 + distance) * l.exp() };
            let bound = U * (of_p * total + 4.0 * target) + 8.0 * ETA * (1.0 + total);
            if bound.is_finite() { bound } else { 0.0 }
        })
    }
}

/// The arguments of a binary cross-entropy.
struct BceData {
    x: Tensor<2>,
    z: Tensor<2>,
    weight: Option<Vec<f32>>,
}

impl BceData {
    /// Targets of 0 and 1, or, with smoothing, any number between.
    fn new(p: &Params) -> Self {
        let random = &mut Random::new(p.seed);
        let x = p.rows.input(p.values, random);
        let hard = p.smoothing == 0.0;
        let z = p.rows.input_with(|_| {
            let z = random.unit().abs();
            if hard { z.round() } else { z }
        });
        Self { x, z, weight: parameter(p.weights, p.rows.shape[1], Values::Unit, random) }
    }

    /// Both terms of a function of x and -x: (1 - z) f(x) and w z f(-x).
    fn terms(&self, index: usize, f: impl Fn(f64) -> f64) -> f64 {
        let n = self.x.shape()[1];
        let at = [index / n, index % n];
        let (x, z) = (f64::from(self.x.view().get(at)), f64::from(self.z.view().get(at)));
        let weight = self.weight.as_ref().map_or(1.0, |w| f64::from(w[at[1]]));
        (1.0 - z).abs() * f(x) + (weight * z).abs() * f(-x)
    }
}

impl Check for BceWithLogits {
    const KERNEL: &'static str = "bce_with_logits";
    type Params = Params;

    fn strategy() -> BoxedStrategy<Params> {
        strategy()
    }

    fn run(p: &Params, backend: Backend) -> Result<Worst, Failure> {
        let data = BceData::new(p);
        fn apply<T: Element>(data: &BceData, backend: Backend) -> Result<Vec<f32>, Failure> {
            let (x, z) = (data.x.cast::<T>(), data.z.cast::<T>());
            let (logits, targets) = (x.view(), z.view());
            let kernel = BceKernel { logits, targets, positive_weight: data.weight.as_deref() };
            let sum = backend.run(kernel)?;
            Ok(vec![sum.sum as f32, sum.weight as f32])
        }
        let (found, expected) = (apply::<f32>(&data, backend)?, apply::<f32>(&data, Backend::REFERENCE)?);
        let [rows, n] = p.rows.shape;
        // Of each term: 7 u of ln(1 + e^-|x|), then the sum with max(x, 0), two products, 1 - z, and their sum. Then
        // the sum of the row, n / 16 + 5 roundings on the narrowest vectors.
        let softplus = |x: f64| x.max(0.0) + (-x.abs()).exp().ln_1p();
        let terms: f64 = (0..rows * n).map(|i| data.terms(i, softplus)).sum();
        let bound = U * (n as f64 / 16.0 + 20.0) * terms + 8.0 * ETA * (2 * rows * n) as f64;
        let worst = compare(&found, &expected, |i| if i == 0 && bound.is_finite() { bound } else { 0.0 })?;
        same_but_for_nan(&of_type!(p.rows.stored, apply(&data, backend))?, &found)?;
        Ok(worst)
    }
}

impl Check for BceWithLogitsBackward {
    const KERNEL: &'static str = "bce_with_logits_backward";
    type Params = Params;

    fn strategy() -> BoxedStrategy<Params> {
        strategy()
    }

    fn run(p: &Params, backend: Backend) -> Result<Worst, Failure> {
        let data = BceData::new(p);
        fn apply<T: Element>(p: &Params, data: &BceData, backend: Backend) -> Result<Vec<f32>, Failure> {
            let z = data.z.cast::<T>();
            p.rows.run::<T>(&data.x, |rows| {
                let positive_weight = data.weight.as_deref();
                backend.run(BceBackwardKernel { rows, targets: z.view(), positive_weight, scale: p.scale })
            })
        }
        let apply = |stored: Stored, backend| of_type!(stored, apply(p, &data, backend));
        let scale = f64::from(p.scale.abs());
        // Of each term: 2 u of the exponential, a sum, a quotient, a product; then 1 - z, two products, and the sum.
        conforms(p.rows.stored, backend, apply, |i, _| {
            let bound = 10.0 * U * scale * data.terms(i, |x| (1.0 + (-x).exp()).recip());
            if bound.is_finite() { bound + 8.0 * ETA * (1.0 + scale) } else { 0.0 }
        })
    }
}
