//! Optimizer steps against their definitions.
//!
//! The errors of the formulas' parts are propagated in f64, from the definition's values: `Value` is a number with a
//! bound of its error.

mod adafactor;

pub use adafactor::Adafactor;

use super::bound::{ETA, U, compare, identical};
use super::tensor::{Random, Values, extent, seed};
use super::{Check, Failure, Worst};
use half::bf16;
use proptest::prelude::*;
use proptest::sample::select;
use tilewright_kernels::Backend;
use tilewright_kernels::optimizer::{
    Adam as AdamKernel, AdamOptions, GlobalNorm as NormKernel, Lamb as LambKernel, Sgd as SgdKernel,
    SgdOptions, Trainable, WeightDecay,
};

/// Adam with every kind of weight decay and correction.
pub struct Adam;

/// Gradient descent with and without momentum.
pub struct Sgd;

/// LAMB on one parameter.
pub struct Lamb;

/// Norms of slices of any magnitude.
pub struct GlobalNorm;

/// A number and a bound of the error of its computed value.
#[derive(Clone, Copy, Debug)]
struct Value {
    exact: f64,
    error: f64,
}

impl Value {
    /// A number that is given exactly.
    fn of(exact: impl Into<f64>) -> Self {
        Self { exact: exact.into(), error: 0.0 }
    }

    /// An option, rounded to f32 once.
    fn option(exact: f64) -> Self {
        Self { exact, error: 0.0 }.rounded()
    }

    /// With one more rounding.
    fn rounded(self) -> Self {
        Self { error: self.error + U * (self.exact.abs() + self.error) + 2.0 * ETA, ..self }
    }

    fn sqrt(self) -> Self {
        // |sqrt(x + e) - sqrt(x)| <= sqrt(e), and <= e / sqrt(x).
        let root = self.exact.sqrt();
        let error = if root > 0.0 { self.error.sqrt().min(self.error / root) } else { self.error.sqrt() };
        Self { exact: root, error }.rounded()
    }
}

impl core::ops::Add for Value {
    type Output = Self;
    fn add(self, b: Self) -> Self {
        Self { exact: self.exact + b.exact, error: self.error + b.error }.rounded()
    }
}

impl core::ops::Mul for Value {
    type Output = Self;
    fn mul(self, b: Self) -> Self {
        let error = self.exact.abs() * b.error + self.error * (b.exact.abs() + b.error);
        Self { exact: self.exact * b.exact, error }.rounded()
    }
}

impl core::ops::Div for Value {
    type Output = Self;
    fn div(self, b: Self) -> Self {
        let exact = self.exact / b.exact;
        // (a + e) / (b + f) - a / b = (e - f a / b) / (b + f)
        let rest = b.exact.abs() - b.error;
        let error = if rest > 0.0 { (self.error + exact.abs() * b.error) / rest } else { f64::INFINITY };
        Self { exact, error }.rounded()
    }
}

/// One step.
#[derive(Clone, Copy, Debug)]
pub struct Params {
    /// Rows and columns of a matrix; other kernels take its elements.
    shape: [usize; 2],
    values: Values,
    scale: f32,
    decay: f64,
    /// Choices of each kernel.
    flags: [bool; 3],
    seed: u64,
}

fn strategy(values: BoxedStrategy<Values>) -> BoxedStrategy<Params> {
    let shape = [prop_oneof![1..5usize, Just(130)].boxed(), extent(1100)];
    let scale = select(vec![1.0, 0.25, 1e-3]);
    (shape, values, scale, select(vec![0.0, 0.01, 0.3]), any::<[bool; 3]>(), seed())
        .prop_map(|(shape, values, scale, decay, flags, seed)| {
            // The definition of 130 wide rows takes too long.
            let shape = if shape[0] > 9 { [shape[0], shape[1] % 70] } else { shape };
            Params { shape, values, scale, decay, flags, seed }
        })
        .boxed()
}

/// Parameters, gradients and moments of a step.
#[derive(Clone)]
struct StepData {
    p: Vec<f32>,
    gradients: Vec<f32>,
    m: Vec<f32>,
    v: Vec<f32>,
    copy: Vec<bf16>,
}

impl StepData {
    fn new(p: &Params) -> Self {
        let random = &mut Random::new(p.seed);
        let n = p.shape[0] * p.shape[1];
        let mut draw = |values: Values| -> Vec<f32> { (0..n).map(|_| values.draw(random)).collect() };
        let (parameters, m, v) = (draw(Values::Unit), draw(Values::Unit), draw(Values::Unit));
        let v = v.into_iter().map(f32::abs).collect();
        Self { p: parameters, gradients: draw(p.values), m, v, copy: vec![bf16::ZERO; n] }
    }

    fn trainable<'a>(
        p: &'a mut [f32],
        gradients: &'a [f32],
        copy: &'a mut [bf16],
        scale: f32,
    ) -> Trainable<'a> {
        Trainable { gradient_scale: scale, bf16: Some(copy), ..Trainable::new(p, gradients) }
    }

    /// Parameters and moments one after the other. The copy must be the rounded parameters.
    fn results(&self) -> Result<Vec<f32>, Failure> {
        let rounded: Vec<f32> = self.p.iter().map(|&p| bf16::from_f32(p).to_f32()).collect();
        let copy: Vec<f32> = self.copy.iter().map(|p| p.to_f32()).collect();
        let plain = |x: Vec<f32>| -> Vec<f32> {
            x.into_iter().map(|x| if x.is_nan() { f32::NAN } else { x }).collect()
        };
        identical(&plain(copy), &plain(rounded))?;
        Ok([&self.p[..], &self.m, &self.v].concat())
    }

    /// g of the formulas.
    fn gradient(&self, i: usize, scale: f32) -> Value {
        Value::of(self.gradients[i]) * Value::of(scale)
    }
}

/// Runs a step on the backend and by the definition, and compares all results; `bounds` are the errors of p, m and v.
fn conforms(
    data: &StepData,
    backend: Backend,
    run: impl Fn(&mut StepData, Backend) -> Result<(), Failure>,
    bound: impl Fn(usize) -> [f64; 3],
) -> Result<Worst, Failure> {
    let of = |backend| {
        let mut data = data.clone();
        run(&mut data, backend)?;
        data.results()
    };
    let (found, expected) = (of(backend)?, of(Backend::REFERENCE)?);
    let n = data.p.len();
    let bounds: Vec<[f64; 3]> = (0..n).map(bound).collect();
    compare(&found, &expected, |i| {
        let bound = bounds[i % n][i / n];
        // Special values have no bound: they must be the definition's. An overflow on the way to a finite result
        // does not occur: gradients are below 2^58.
        if bound.is_nan() { 0.0 } else { bound }
    })
}

/// The new m and v of Adam.
fn moments(data: &StepData, i: usize, g: Value, betas: [f64; 2]) -> [Value; 2] {
    let [b1, b2] = betas;
    let m = Value::option(b1) * Value::of(data.m[i]) + Value::option(1.0 - b1) * g;
    let v = Value::option(b2) * Value::of(data.v[i]) + Value::option(1.0 - b2) * g * g;
    [m, v]
}

impl Check for Adam {
    const KERNEL: &'static str = "adam";
    type Params = Params;

    fn strategy() -> BoxedStrategy<Params> {
        strategy(Values::any())
    }

    fn run(p: &Params, backend: Backend) -> Result<Worst, Failure> {
        let data = StepData::new(p);
        let [correct, decoupled, coarse] = p.flags;
        let weight_decay = if decoupled { WeightDecay::Decoupled(p.decay) } else { WeightDecay::L2(p.decay) };
        let options = AdamOptions {
            weight_decay,
            epsilon: if coarse { 1e-6 } else { 1e-8 },
            bias_correction: correct.then_some(7),
            ..AdamOptions::adamw(1e-2, 1)
        };
        let run = |data: &mut StepData, backend: Backend| -> Result<(), Failure> {
            let StepData { p: parameters, gradients, m, v, copy } = data;
            let of = StepData::trainable(parameters, gradients, copy, p.scale);
            backend.run(AdamKernel { of, m, v, options })?;
            Ok(())
        };
        let (keep, l2) = match weight_decay {
            WeightDecay::Decoupled(decay) => (1.0 - options.learning_rate * decay, 0.0),
            WeightDecay::L2(l2) => (1.0, l2),
        };
        let corrections = options.betas.map(|b| if correct { 1.0 - b.powi(7) } else { 1.0 });
        conforms(&data, backend, run, |i| {
            let old = Value::of(data.p[i]);
            let g = data.gradient(i, p.scale) + Value::option(l2) * old;
            let [m, v] = moments(&data, i, g, options.betas);
            let divisor =
                v.sqrt() * Value::option(corrections[1].sqrt().recip()) + Value::option(options.epsilon);
            let rate = Value::option(-options.learning_rate / corrections[0]);
            let new = Value::option(keep) * old + rate * (m / divisor);
            [new.error, m.error, v.error]
        })
    }
}

impl Check for Sgd {
    const KERNEL: &'static str = "sgd";
    type Params = Params;

    fn strategy() -> BoxedStrategy<Params> {
        strategy(Values::any())
    }

    fn run(p: &Params, backend: Backend) -> Result<Worst, Failure> {
        let data = StepData::new(p);
        let [with_momentum, nesterov, damped] = p.flags;
        let options = SgdOptions {
            momentum: 0.9,
            dampening: if damped { 0.5 } else { 0.0 },
            nesterov,
            weight_decay: p.decay,
            ..SgdOptions::new(0.1)
        };
        let run = |data: &mut StepData, backend: Backend| -> Result<(), Failure> {
            let StepData { p: parameters, gradients, m, copy, .. } = data;
            let of = StepData::trainable(parameters, gradients, copy, p.scale);
            backend.run(SgdKernel { of, momentum: with_momentum.then_some(&mut m[..]), options })?;
            Ok(())
        };
        conforms(&data, backend, run, |i| {
            let old = Value::of(data.p[i]);
            let g = data.gradient(i, p.scale) + Value::option(options.weight_decay) * old;
            let rate = Value::option(-options.learning_rate);
            if !with_momentum {
                return [(old + rate * g).error, 0.0, 0.0];
            }
            let kept = Value::option(options.momentum) * Value::of(data.m[i]);
            let b = kept + Value::option(1.0 - options.dampening) * g;
            let direction = if nesterov { g + Value::option(options.momentum) * b } else { b };
            let new = old + rate * direction;
            [new.error, b.error, 0.0]
        })
    }
}

impl Check for Lamb {
    const KERNEL: &'static str = "lamb";
    type Params = Params;

    fn strategy() -> BoxedStrategy<Params> {
        strategy(Values::finite())
    }

    fn run(p: &Params, backend: Backend) -> Result<Worst, Failure> {
        let mut data = StepData::new(p);
        if p.flags[1] {
            // A parameter of norm 0 takes Adam's step.
            data.p.fill(0.0);
        }
        let options = AdamOptions {
            weight_decay: WeightDecay::Decoupled(p.decay),
            epsilon: 1e-6,
            bias_correction: p.flags[0].then_some(3),
            ..AdamOptions::adamw(1e-2, 1)
        };
        let run = |data: &mut StepData, backend: Backend| -> Result<(), Failure> {
            let StepData { p: parameters, gradients, m, v, copy } = data;
            let of = StepData::trainable(parameters, gradients, copy, p.scale);
            backend.run(LambKernel { of, m, v, options })?;
            Ok(())
        };
        let corrections = options.betas.map(|b| if p.flags[0] { 1.0 - b.powi(3) } else { 1.0 });
        let element = |i: usize| {
            let [m, v] = moments(&data, i, data.gradient(i, p.scale), options.betas);
            let divisor =
                v.sqrt() * Value::option(corrections[1].sqrt().recip()) + Value::option(options.epsilon);
            let adam = m * Value::option(corrections[0].recip()) / divisor;
            (Value::option(p.decay) * Value::of(data.p[i]) + adam, m, v)
        };
        let elements: Vec<_> = (0..data.p.len()).map(element).collect();
        // The norm of d errs by the norm of its errors, and by its sum: 70 roundings at most. The norm of p likewise.
        let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
        let d = Value {
            exact: norm(&mut elements.iter().map(|(d, ..)| d.exact)),
            error: norm(&mut elements.iter().map(|(d, ..)| d.error)),
        };
        let widen = |v: Value| Value { error: v.error + 70.0 * U * v.exact + 64.0 * ETA, ..v };
        let of_p = widen(Value::of(norm(&mut data.p.iter().map(|&p| f64::from(p)))));
        let d = widen(d);
        let ratio = if of_p.exact == 0.0 || d.exact == 0.0 { Value::of(1.0) } else { of_p / d };
        let rate = Value::option(-options.learning_rate) * ratio;
        conforms(&data, backend, run, |i| {
            let (d, m, v) = elements[i];
            [(Value::of(data.p[i]) + rate * d).error, m.error, v.error]
        })
    }
}

impl Check for GlobalNorm {
    const KERNEL: &'static str = "global_norm";
    type Params = Params;

    fn strategy() -> BoxedStrategy<Params> {
        strategy(Values::any())
    }

    fn run(p: &Params, backend: Backend) -> Result<Worst, Failure> {
        let random = &mut Random::new(p.seed);
        // Far beyond the squares of f32, too.
        let factor = [1.0, 1e30, 1e-30][random.below(3)];
        let n = 5 * p.shape[0] * p.shape[1];
        let x: Vec<f32> = (0..n)
            .map(|_| {
                let x = p.values.draw(random);
                if p.values == Values::Large { x } else { x * factor }
            })
            .collect();
        let of = |backend: Backend| [backend.run(NormKernel { x: &x }) as f32];
        let expected = of(Backend::REFERENCE);
        // 2048 squares in 16 chains of the narrowest vectors: 128 roundings, of which the root halves the error, and
        // as many as a handful for the ends of chains, the root and its rounding.
        compare(&of(backend), &expected, |_| {
            let bound = 70.0 * U * f64::from(expected[0]) + 8.0 * ETA;
            if bound.is_finite() { bound } else { 0.0 }
        })
    }
}
