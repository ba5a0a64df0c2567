//! The loss of a vocabulary projection and its gradients against their definition.

use super::bound::{ETA, FLUSHED, U, compare, gamma, identical};
use super::rows::{Stored, of_type, parameter, values};
use super::tensor::{Layout, Random, Tensor, Values, extent, seed};
use super::{Check, Failure, Worst};
use proptest::prelude::*;
use proptest::sample::select;
use tilewright_kernels::{Backend, Element, LinearCrossEntropy as Kernel, Targets};

/// Chunks of tokens and blocks of the vocabulary that are whole or not, tokens without a label that hold NaN, any
/// subset of the gradients.
pub struct LinearCrossEntropy;

/// One projection.
#[derive(Clone, Debug)]
pub struct Params {
    /// Tokens, d, vocabulary.
    shape: [usize; 3],
    stored: Stored,
    layouts: [Layout<2>; 4],
    bias: bool,
    smoothing: f32,
    scale: f32,
    values: Values,
    seed: u64,
}

/// The arguments of a run.
struct ProjectionData {
    x: Tensor<2>,
    weight: Tensor<2>,
    bias: Option<Vec<f32>>,
    labels: Vec<i64>,
    /// Old gradients of W and the bias.
    dweight: Tensor<2>,
    dbias: Vec<f32>,
}

/// Results of a run, row-major.
struct Results {
    losses: Vec<f32>,
    dx: Vec<f32>,
    dweight: Vec<f32>,
    dbias: Vec<f32>,
}

impl ProjectionData {
    fn new(p: &Params) -> Self {
        let random = &mut Random::new(p.seed);
        let [tokens, d, vocabulary] = p.shape;
        let labels: Vec<i64> =
            (0..tokens)
                .map(|_| {
                    if vocabulary == 0 || random.below(3) == 0 {
                        -100
                    } else {
                        random.below(vocabulary) as i64
                    }
                })
                .collect();
        let mut number = |values: Values| p.stored.number(values.draw(random));
        let x =
            Tensor::new(
                [tokens, d],
                &p.layouts[0],
                |[t, _]| {
                    if labels[t] < 0 { f32::NAN } else { number(p.values) }
                },
            );
        let weight = Tensor::new([vocabulary, d], &p.layouts[1], |_| number(p.values));
        let dweight = Tensor::random([vocabulary, d], &p.layouts[3], Values::Unit, random);
        let bias = parameter(p.bias, vocabulary, Values::Unit, random);
        let dbias = (0..vocabulary).map(|_| random.unit()).collect();
        Self { x, weight, bias, labels, dweight, dbias }
    }

    fn run<T: Element>(&self, p: &Params, backend: Backend) -> Result<Results, Failure> {
        let (x, weight) = (self.x.cast::<T>(), self.weight.cast::<T>());
        let mut dx = Tensor::new(x.shape(), &p.layouts[2], |_| T::from_f32(f32::NAN));
        let (mut dweight, mut dbias) = (self.dweight.clone(), self.dbias.clone());
        let mut losses = vec![f32::NAN; self.labels.len()];
        let targets = Targets { smoothing: p.smoothing, ..Targets::new(&self.labels) };
        let forward = Kernel {
            bias: self.bias.as_deref(),
            scale: p.scale,
            ..Kernel::new(x.view(), weight.view(), targets)
        };
        let alone = backend.run(forward)?;
        let kernel = Kernel {
            bias: self.bias.as_deref(),
            scale: p.scale,
            losses: Some(&mut losses),
            dx: Some(dx.view_mut()),
            dweight: Some(dweight.view_mut()),
            dbias: Some(&mut dbias),
            ..Kernel::new(x.view(), weight.view(), targets)
        };
        let sum = backend.run(kernel)?;
        dx.gaps_intact()?;
        dweight.gaps_intact()?;
        identical(&[alone.sum as f32, alone.weight as f32], &[sum.sum as f32, sum.weight as f32])?;
        Ok(Results { losses, dx: values(&dx), dweight: dweight.elements(), dbias })
    }
}

impl Check for LinearCrossEntropy {
    const KERNEL: &'static str = "linear_cross_entropy";
    type Params = Params;

    fn strategy() -> BoxedStrategy<Params> {
        let shape = (
            prop_oneof![3 => 1..10usize, 1 => 150..500usize],
            extent(40),
            prop_oneof![
                3 => extent(300),
                1 => 1000..1100usize,
            ],
        );
        let layouts = [Layout::rows(), Layout::rows(), Layout::rows(), Layout::rows()];
        let values = select(vec![Values::Unit, Values::Unit, Values::Wide, Values::Tiny]);
        let choices = (any::<bool>(), select(vec![0.0, 0.1]), select(vec![1.0, 0.125]));
        (shape, Stored::any(), layouts, choices, values, seed())
            .prop_map(|((tokens, d, vocabulary), stored, layouts, (bias, smoothing, scale), values, seed)| {
                // The definition takes a millisecond.
                let d = d.min(200_000 / (tokens * vocabulary + 1) + 1);
                Params {
                    shape: [tokens, d, vocabulary],
                    stored,
                    layouts,
                    bias,
                    smoothing,
                    scale,
                    values,
                    seed,
                }
            })
            .boxed()
    }

    fn run(p: &Params, backend: Backend) -> Result<Worst, Failure> {
        let data = ProjectionData::new(p);
        let [tokens, d, vocabulary] = p.shape;
        let run = |backend| of_type!(p.stored, of_data(&data, p, backend));
        let (found, expected) = (run(backend)?, run(Backend::REFERENCE)?);
        let wide = |t: &Tensor<2>| -> Vec<f64> { t.elements().into_iter().map(f64::from).collect() };
        let (x, w) = (wide(&data.x), wide(&data.weight));
        let n = vocabulary as f64;
        let [own, each] = [1.0 - f64::from(p.smoothing), f64::from(p.smoothing) / n];
        let scale = f64::from(p.scale);
        // Magnitudes of the gradient of the logits, and bounds of their errors; bounds of the losses.
        let (mut gradients, mut errors) = (vec![0.0; tokens * vocabulary], vec![0.0; tokens * vocabulary]);
        let mut of_losses = vec![0.0; tokens];
        for t in (0..tokens).filter(|&t| data.labels[t] >= 0) {
            let bias = |j: usize| data.bias.as_ref().map_or(0.0, |b| f64::from(b[j]));
            let terms = |j: usize| (0..d).map(move |k| (t * d + k, j * d + k));
            let logits: Vec<f64> =
                (0..vocabulary).map(|j| terms(j).map(|(a, b)| x[a] * w[b]).sum::<f64>() + bias(j)).collect();
            // Of a logit: a product, and its bias. Sums of bf16 pairs have two roundings for each product, and count
            // numbers below 2^-126 as zeros.
            let (roundings, flushed) = match p.stored {
                Stored::Bf16 => (2 * d, 2.0 * (d as f64 + 1.0) * FLUSHED),
                _ => (d, 0.0),
            };
            let error = |j: usize| {
                let magnitude: f64 = terms(j).map(|(a, b)| (x[a] * w[b]).abs()).sum();
                gamma(roundings) * magnitude
                    + U * (magnitude + bias(j).abs())
                    + 2.0 * (d as f64 + 1.0) * ETA
                    + flushed
            };
            let off = (0..vocabulary).map(error).fold(0.0, f64::max);
            let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = logits.iter().map(|x| (x - max).exp()).sum();
            for (j, logit) in logits.iter().enumerate() {
                let (distance, l) = (max - logit, logit - max - sum.ln());
                let own = if data.labels[t] as usize == j { own } else { 0.0 };
                // As of a cross-entropy of given logits, and twice the error of the logits: of x and of m.
                let log = 2.0 * off + U * (n / 16.0 + 24.0 + 3.0 * l.abs() + distance);
                let smoothed = 2.0 * off + U * (n / 16.0 + 6.0) * distance;
                of_losses[t] += own * log + if each == 0.0 { 0.0 } else { each * (log + smoothed) };
                let (p, target) = (l.exp() * scale, (own + each) * scale);
                let index = t * vocabulary + j;
                gradients[index] = (p - target).abs();
                errors[index] = p * ((2.0 * off).exp_m1() + U * (n / 16.0 + 28.0 + distance))
                    + 4.0 * U * target
                    + 8.0 * ETA * (1.0 + scale)
                    + FLUSHED;
            }
        }
        let finite = |bound: f64| if bound.is_nan() { 0.0 } else { bound };
        let worst = compare(&found.losses, &expected.losses, |t| finite(of_losses[t]))?;
        // Sums of products of a gradient of a logit and an exact factor: the error of the gradient, and the roundings of
        // the sum, one for each term and one for each chunk or block that ends.
        let product = |terms: &mut dyn Iterator<Item = (usize, f64)>, roundings: usize, old: f64| {
            let (mut error, mut magnitude, mut count) = (0.0, old, 0.0);
            for (index, factor) in terms {
                error += errors[index] * factor.abs();
                magnitude += (gradients[index] + errors[index]) * factor.abs();
                count += 1.0;
            }
            finite(error + gamma(roundings) * magnitude + 2.0 * (count + 1.0) * ETA)
        };
        let labelled = |t: &usize| data.labels[*t] >= 0;
        let of_dx = compare(&found.dx, &expected.dx, |i| {
            let (t, k) = (i / d, i % d);
            if !labelled(&t) {
                return 0.0;
            }
            let mut terms = (0..vocabulary).map(|j| (t * vocabulary + j, w[j * d + k]));
            let bound = product(&mut terms, vocabulary + vocabulary / 1024 + 1, 0.0);
            let y = f64::from(expected.dx[i].abs()) + bound;
            // Both results are rounded to the type.
            bound + 2.0 * p.stored.half_ulp(y)
        })?;
        let (roundings, old) = (tokens + tokens / 160 + 2, data.dweight.elements());
        let of_dweight = compare(&found.dweight, &expected.dweight, |i| {
            let (j, k) = (i / d, i % d);
            let mut terms = (0..tokens).filter(labelled).map(|t| (t * vocabulary + j, x[t * d + k]));
            product(&mut terms, roundings, f64::from(old[i].abs()))
        })?;
        let of_dbias = compare(&found.dbias, &expected.dbias, |j| {
            let mut terms = (0..tokens).filter(labelled).map(|t| (t * vocabulary + j, 1.0));
            product(&mut terms, roundings, f64::from(data.dbias[j].abs()))
        })?;
        Ok(worst.max(of_dx).max(of_dweight).max(of_dbias))
    }
}

fn of_data<T: Element>(data: &ProjectionData, p: &Params, backend: Backend) -> Result<Results, Failure> {
    data.run::<T>(p, backend)
}
