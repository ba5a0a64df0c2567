//! Gradients of activations and gated products against their definitions.

use super::activate::{allowed, coarse};
use super::bound::{ETA, U};
use super::rows::{RowsParams, Stored, conforms, conforms_coarsely, of_type};
use super::tensor::{Layout, Random, Tensor, Values, seed};
use super::{Check, Failure, Worst};
use proptest::prelude::*;
use proptest::sample::select;
use tilewright_kernels::{
    ActivateBackward as ActivateKernel, Activation, Backend, Element, Function, GatedBackward as GatedKernel,
};

/// Every function, over magnitudes from denormals to its saturation.
pub struct ActivateBackward;

/// Two pairs of rows, or the halves of one.
pub struct GatedBackward;

/// One call.
#[derive(Clone, Debug)]
pub struct Params {
    rows: RowsParams,
    up: RowsParams,
    activation: Activation,
    /// Factor that brings values into the range where the functions bend.
    scale: f32,
    values: Values,
    /// The argument of the forward pass that is only read.
    read: Layout<2>,
    halves: bool,
    seed: u64,
}

fn strategy() -> BoxedStrategy<Params> {
    let scale = select(vec![1.0, 5.0, 20.0]);
    let rows = (RowsParams::any(600), RowsParams::any(1));
    let read = (Layout::rows(), prop::bool::weighted(0.3));
    (rows, select(Activation::ALL.to_vec()), scale, Values::any(), read, seed())
        .prop_map(|((rows, mut up), activation, scale, values, (read, halves), seed)| {
            (up.shape, up.stored) = (rows.shape, rows.stored);
            Params { rows, up, activation, scale, values, read, halves, seed }
        })
        .boxed()
}

impl Params {
    /// Factor of a derivative. An infinite one would make NaN of a derivative of 0, and an infinity of one that is barely
    /// not 0. A factor near the largest number would become infinite by an error of the derivative.
    fn factor(&self, random: &mut Random) -> f32 {
        let most = if self.rows.stored == Stored::F16 { 6e4 } else { 1e38f32 };
        let x = self.values.draw(random);
        if x.is_infinite() { most.copysign(x) } else { x }
    }

    /// Error of dy f'(x).
    fn error(&self, x: f32, dy: f32) -> f64 {
        allowed(Function::Derivative(self.activation), f64::from(x)) * f64::from(dy.abs())
    }
}

impl Check for ActivateBackward {
    const KERNEL: &'static str = "activate_backward";
    type Params = Params;

    fn strategy() -> BoxedStrategy<Params> {
        strategy()
    }

    fn run(p: &Params, backend: Backend) -> Result<Worst, Failure> {
        let random = &mut Random::new(p.seed);
        let number = |x: f32| p.rows.stored.number(x);
        let x = Tensor::new(p.rows.shape, &p.read, |_| number(p.scale * p.values.draw(random)));
        let dy = p.rows.input_with(|_| p.factor(random));
        fn apply<T: Element>(
            p: &Params,
            [dy, x]: [&Tensor<2>; 2],
            backend: Backend,
        ) -> Result<Vec<f32>, Failure> {
            let x = x.cast::<T>();
            p.rows.run::<T>(dy, |rows| {
                backend.run(ActivateKernel { rows, x: x.view(), activation: p.activation })
            })
        }
        let apply = |stored, backend| of_type!(stored, apply(p, [&dy, &x], backend));
        let (x, dy) = (x.elements(), dy.elements());
        conforms(p.rows.stored, backend, apply, |i, expected| {
            p.error(x[i], dy[i]) + U * f64::from(expected[i].abs()) + ETA
        })
    }
}

impl Check for GatedBackward {
    const KERNEL: &'static str = "gated_backward";
    type Params = Params;

    fn strategy() -> BoxedStrategy<Params> {
        strategy()
    }

    fn run(p: &Params, backend: Backend) -> Result<Worst, Failure> {
        let random = &mut Random::new(p.seed);
        let gate = p.rows.input_with(|_| p.scale * p.values.draw(random));
        let up = p.up.input_with(|_| p.factor(random));
        let dy = Tensor::new(p.rows.shape, &p.read, |_| p.rows.stored.number(p.factor(random)));
        /// All of dgate, then all of dup.
        fn apply<T: Element>(
            p: &Params,
            [gate, up, dy]: [&Tensor<2>; 3],
            backend: Backend,
        ) -> Result<Vec<f32>, Failure> {
            let (dy, activation, n) = (dy.cast::<T>(), p.activation, p.rows.shape[1]);
            if p.halves {
                let mut rows = p.rows.clone();
                rows.shape[1] = 2 * n;
                let both =
                    rows.input_with(
                        |[i, j]| {
                            if j < n { gate.view().get([i, j]) } else { up.view().get([i, j - n]) }
                        },
                    );
                let both = rows
                    .run::<T>(&both, |rows| backend.run(GatedKernel::halves(rows, dy.view(), activation)?))?;
                let half = |first: usize| {
                    both.chunks(2 * n.max(1)).flat_map(move |row| row[first..].iter().take(n).copied())
                };
                return Ok(half(0).chain(half(n)).collect());
            }
            let mut dup = Ok(Vec::new());
            let mut results = p.rows.run::<T>(gate, |gate| {
                dup =
                    p.up.run::<T>(up, |up| backend.run(GatedKernel { gate, up, dy: dy.view(), activation }));
                Ok(())
            })?;
            results.extend(dup?);
            Ok(results)
        }
        let apply = |stored, backend| of_type!(stored, apply(p, [&gate, &up, &dy], backend));
        let (gate, up, dy) = (gate.elements(), up.elements(), dy.elements());
        let bound = |i: usize, expected: &[f32], error_of_value: &dyn Fn(f64) -> f64| {
            let rounding = U * f64::from(expected[i].abs()) + ETA;
            match i.checked_sub(gate.len()) {
                // Two products, the first of which may be denormal.
                None => (p.error(gate[i], dy[i]) + ETA) * f64::from(up[i].abs()) + 2.0 * rounding,
                Some(i) => error_of_value(f64::from(gate[i])) * f64::from(dy[i].abs()) + rounding,
            }
        };
        let value = |x: f64| allowed(Function::Activation(p.activation), x);
        let bound = &bound;
        conforms_coarsely(
            p.rows.stored,
            backend,
            apply,
            |i, expected| bound(i, expected, &value),
            coarse(p.activation)
                .map(|more| move |i: usize, expected: &[f32]| bound(i, expected, &|x| value(x) + more(x))),
        )
    }
}
