//! Activations and gated products against their definitions.

use super::bound::{ETA, U};
use super::math::Claim;
use super::rows::{RowsParams, Stored, conforms_coarsely, of_type, values};
use super::tensor::{Layout, Random, Tensor, Values, seed};
use super::{Check, Failure, Worst};
use proptest::prelude::*;
use proptest::sample::select;
use tilewright_kernels::{
    Activate as ActivateKernel, Activation, Backend, Element, Function, Gated as GatedKernel,
};

/// Every activation, with magnitudes from denormals to saturation.
pub struct Activate;

/// Gated products of two inputs, or of the halves of one input.
pub struct Gated;

/// Arguments of one call.
#[derive(Clone, Debug)]
pub struct Params {
    rows: RowsParams,
    activation: Activation,
    /// Factor that brings values into the range where the activations are curved.
    scale: f32,
    values: Values,
    up: Layout<2>,
    halves: bool,
    seed: u64,
}

fn strategy() -> BoxedStrategy<Params> {
    let scale = select(vec![1.0, 5.0, 20.0]);
    let up = (Layout::rows(), prop::bool::weighted(0.3));
    (RowsParams::any(600), select(Activation::ALL.to_vec()), scale, Values::any(), up, seed())
        .prop_map(|(rows, activation, scale, values, (up, halves), seed)| Params {
            rows,
            activation,
            scale,
            values,
            up,
            halves,
            seed,
        })
        .boxed()
}

/// Error that the claim of a function allows at x; none at infinities.
pub(super) fn allowed(function: Function, x: f64) -> f64 {
    if x.is_finite() { Claim::of(function).error(function.definition(x)) } else { 0.0 }
}

/// Additional error of an activation for bf16, if the kernel interpolates the gate with fewer digits.
pub(super) fn coarse(activation: Activation) -> Option<impl Fn(f64) -> f64> {
    let gelu = matches!(activation, Activation::GeluErf | Activation::GeluTanh);
    gelu.then_some(|x: f64| if x.is_finite() { 2f64.powi(-20) * x.abs() } else { 0.0 })
}

impl Check for Activate {
    const KERNEL: &'static str = "activate";
    type Params = Params;

    fn strategy() -> BoxedStrategy<Params> {
        strategy()
    }

    fn run(p: &Params, backend: Backend) -> Result<Worst, Failure> {
        let random = &mut Random::new(p.seed);
        let x = p.rows.input_with(|_| p.scale * p.values.draw(random));
        fn apply<T: Element>(p: &Params, x: &Tensor<2>, backend: Backend) -> Result<Vec<f32>, Failure> {
            p.rows.run::<T>(x, |rows| backend.run(ActivateKernel { rows, activation: p.activation }))
        }
        let apply = |stored, backend| of_type!(stored, apply(p, &x, backend));
        let elements = &x.elements();
        let error = |x: f64| allowed(Function::Activation(p.activation), x);
        conforms_coarsely(
            p.rows.stored,
            backend,
            apply,
            |i, _| error(f64::from(elements[i])),
            coarse(p.activation).map(|more| {
                move |i: usize, _: &[f32]| {
                    let x = f64::from(elements[i]);
                    error(x) + more(x)
                }
            }),
        )
    }
}

impl Check for Gated {
    const KERNEL: &'static str = "gated";
    type Params = Params;

    fn strategy() -> BoxedStrategy<Params> {
        strategy()
    }

    fn run(p: &Params, backend: Backend) -> Result<Worst, Failure> {
        let random = &mut Random::new(p.seed);
        let [rows, n] = p.rows.shape;
        let gate = p.rows.input_with(|_| p.scale * p.values.draw(random));
        // No infinities: the product of an infinity is NaN for a gate of 0, and infinite for a gate of almost 0.
        let most = if p.rows.stored == Stored::F32 { f32::MAX } else { 6e4 };
        let draw = |x: f32| if x.is_infinite() { most.copysign(x) } else { x };
        let up = Tensor::new([rows, n], &p.up, |_| p.rows.stored.number(draw(p.values.draw(random))));
        fn apply<T: Element>(
            p: &Params,
            gate: &Tensor<2>,
            up: &Tensor<2>,
            backend: Backend,
        ) -> Result<Vec<f32>, Failure> {
            if !p.halves {
                let up = up.cast::<T>();
                return p.rows.run::<T>(gate, |rows| {
                    backend.run(GatedKernel { gate: rows, up: up.view(), activation: p.activation })
                });
            }
            let [rows, n] = p.rows.shape;
            let both = Tensor::new([rows, 2 * n], &p.up, |[i, j]| {
                if j < n { gate.view().get([i, j]) } else { up.view().get([i, j - n]) }
            });
            let (both, nan) = (both.cast::<T>(), T::from_f32(f32::NAN));
            let mut out = Tensor::new([rows, n], &Layout::row_major(), |_| nan);
            backend.run(GatedKernel::halves(both.view(), out.view_mut(), p.activation)?)?;
            out.gaps_intact()?;
            Ok(values(&out))
        }
        let apply = |stored, backend| of_type!(stored, apply(p, &gate, &up, backend));
        let (gates, ups) = (&gate.elements(), &up.elements());
        let error = |x: f64| allowed(Function::Activation(p.activation), x);
        let product = &|i: usize, expected: &[f32], error: f64| {
            // f(gate) is within `error` of the exact value. The rounding of the product adds a relative error of U, or
            // ETA for a denormal. `compare` adds the rounding of the definition.
            let bound = error * f64::from(ups[i].abs()) + U * f64::from(expected[i].abs()) + ETA;
            if bound.is_finite() { bound } else { 0.0 }
        };
        conforms_coarsely(
            p.rows.stored,
            backend,
            apply,
            |i, expected| product(i, expected, error(f64::from(gates[i]))),
            coarse(p.activation).map(|more| {
                move |i: usize, expected: &[f32]| {
                    let gate = f64::from(gates[i]);
                    product(i, expected, error(gate) + more(gate))
                }
            }),
        )
    }
}
