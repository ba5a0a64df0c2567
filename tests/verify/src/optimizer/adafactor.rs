//! Adafactor against its definition.

use super::{Params, StepData, Value, conforms, strategy};
use crate::bound::U;
use crate::tensor::Values;
use crate::{Check, Failure, Worst};
use proptest::prelude::*;
use tilewright_kernels::Backend;
use tilewright_kernels::optimizer::{Adafactor as Kernel, AdafactorOptions, SecondMoment};

/// Adafactor on a vector or a matrix.
pub struct Adafactor;

impl Check for Adafactor {
    const KERNEL: &'static str = "adafactor";
    type Params = Params;

    fn strategy() -> BoxedStrategy<Params> {
        // Squares of `Large` fit f32, sums of 1100 of them too.
        strategy(Values::finite())
    }

    fn run(p: &Params, backend: Backend) -> Result<Worst, Failure> {
        let data = StepData::new(p);
        let [rows, columns] = p.shape;
        let n = rows * columns;
        if n == 0 {
            return Ok(Worst::default());
        }
        let [factored, scaled, first] = p.flags;
        let options = AdafactorOptions {
            scale_parameter: scaled,
            weight_decay: p.decay,
            ..AdafactorOptions::new(if first { 1 } else { 5 })
        };
        // Moments are positive after the first step.
        let old = |i: usize| if first { 0.0 } else { data.v[i] + 0.1 };
        let run = |data: &mut StepData, backend: Backend| -> Result<(), Failure> {
            let StepData { p: parameters, gradients, m, v, copy } = data;
            (0..n).for_each(|i| v[i] = old(i));
            m.fill(0.0);
            let of = StepData::trainable(parameters, gradients, copy, p.scale);
            let second_moment = if factored {
                let (rows, columns) = (&mut v[..rows], &mut m[..columns]);
                columns.iter_mut().enumerate().for_each(|(j, c)| *c = old(j));
                SecondMoment::Factored { rows, columns }
            } else {
                SecondMoment::Full(v)
            };
            backend.run(Kernel { of, second_moment, options })?;
            Ok(())
        };
        let new = if first { 1.0 } else { 5f64.powf(-0.8) };
        let square = |i: usize| {
            let g = data.gradient(i, p.scale);
            g * g
        };
        let moment = |old: f32, mean: Value| {
            Value::option(1.0 - new) * Value::of(old) + Value::option(new) * (mean + Value::option(1e-30))
        };
        // A sum of k squares errs by k / 16 + 8 roundings on the narrowest vectors, or, over rows, by k.
        let mean = |terms: &mut dyn Iterator<Item = usize>, roundings: f64, k: usize| {
            let sum = terms.map(square).fold((0.0, 0.0), |(s, e), v| (s + v.exact, e + v.error));
            let sum = Value { exact: sum.0, error: sum.1 + roundings * U * sum.0 };
            Value { exact: sum.exact / k as f64, error: sum.error / k as f64 }
        };
        let (of_rows, of_columns): (Vec<Value>, Vec<Value>) = if factored {
            let row = |i: usize| {
                let k = columns as f64 / 16.0 + 8.0;
                moment(old(i), mean(&mut (i * columns..(i + 1) * columns), k, columns))
            };
            let column =
                |j: usize| moment(old(j), mean(&mut (j..n).step_by(columns), rows as f64 + 8.0, rows));
            ((0..rows).map(row).collect(), (0..columns).map(column).collect())
        } else {
            ((0..n).map(|i| moment(old(i), square(i))).collect(), Vec::new())
        };
        let total = of_rows.iter().fold((0.0, 0.0), |(s, e), v| (s + v.exact, e + v.error));
        let of_matrix = Value { exact: total.0 / rows as f64, error: total.1 / rows as f64 };
        let update = |k: usize| {
            let g = data.gradient(k, p.scale);
            if factored {
                let (i, j) = (k / columns, k % columns);
                g / of_columns[j].sqrt() / (of_rows[i] / of_matrix).sqrt()
            } else {
                g / of_rows[k].sqrt()
            }
        };
        let updates: Vec<Value> = (0..n).map(update).collect();
        let rms = |x: &mut dyn Iterator<Item = f64>| (x.map(|x| x * x).sum::<f64>() / n as f64).sqrt();
        let rms_u = Value {
            exact: rms(&mut updates.iter().map(|u| u.exact)),
            error: rms(&mut updates.iter().map(|u| u.error)),
        };
        let widen = |v: Value| Value { error: v.error + (columns as f64 / 16.0 + 80.0) * U * v.exact, ..v };
        let (rms_u, rms_p) = (widen(rms_u), widen(Value::of(rms(&mut data.p.iter().map(|&p| f64::from(p))))));
        let clip = if rms_u.exact + rms_u.error < 1.0 {
            Value::of(1.0)
        } else {
            Value { exact: rms_u.exact.max(1.0), error: rms_u.error }
        };
        let relative = if first { 1e-2 } else { 5f64.sqrt().recip().min(1e-2) };
        let rate = match scaled {
            true if rms_p.exact > 1e-3 => Value::option(relative) * rms_p,
            true => Value { exact: relative * 1e-3, error: relative * rms_p.error },
            false => Value::option(relative),
        };
        let keep = Value::of(1.0) + Value::option(-p.decay) * rate;
        conforms(&data, backend, run, |i| {
            let step = updates[i] * (rate / clip);
            let new = keep * Value::of(data.p[i]) + Value { exact: -step.exact, ..step };
            let of_m = if factored && i < columns { of_columns[i].error } else { 0.0 };
            let of_v = if !factored || i < rows { of_rows[i].error } else { 0.0 };
            [new.error, of_m, of_v]
        })
    }
}
