//! Dropout against its definition, mask included.

use super::bound::{ETA, U};
use super::rows::{RowsParams, conforms, of_type};
use super::tensor::{Layout, Random, Tensor, Values, seed};
use super::{Check, Failure, Worst};
use proptest::prelude::*;
use proptest::sample::select;
use tilewright_kernels::{Backend, Dropout as Kernel, DropoutMask, Element, RandomBits};

/// Probabilities from 0 to 1, any seed, step, site and first row, with and without residual.
pub struct Dropout;

/// One call.
#[derive(Clone, Debug)]
pub struct Params {
    rows: RowsParams,
    residual: Option<Layout<2>>,
    mask: DropoutMask,
    values: Values,
    seed: u64,
}

impl Check for Dropout {
    const KERNEL: &'static str = "dropout";
    type Params = Params;

    fn strategy() -> BoxedStrategy<Params> {
        let rest = 1.0 - f32::EPSILON / 2.0;
        let probability = prop_oneof![select(vec![0.0, 1e-10, 0.1, 0.5, 0.9, rest, 1.0]), 0.0..1.0f32];
        let random = any::<(u64, u32, u32)>().prop_map(|(seed, step, site)| RandomBits { seed, step, site });
        let mask = (probability, random, 0..=u32::MAX - 9)
            .prop_map(|(probability, random, first_row)| DropoutMask { probability, random, first_row });
        let residual = prop::option::weighted(0.7, Layout::rows());
        (RowsParams::any(600), residual, mask, Values::any(), seed())
            .prop_map(|(rows, residual, mask, values, seed)| Params { rows, residual, mask, values, seed })
            .boxed()
    }

    fn run(p: &Params, backend: Backend) -> Result<Worst, Failure> {
        let random = &mut Random::new(p.seed);
        let x = p.rows.input(p.values, random);
        let number = |_| p.rows.stored.number(p.values.draw(random));
        let residual = p.residual.as_ref().map(|layout| Tensor::new(p.rows.shape, layout, number));
        fn apply<T: Element>(
            p: &Params,
            x: &Tensor<2>,
            residual: Option<&Tensor<2>>,
            backend: Backend,
        ) -> Result<Vec<f32>, Failure> {
            let residual = residual.map(Tensor::cast::<T>);
            let residual = residual.as_ref().map(Tensor::view);
            p.rows.run::<T>(x, |rows| backend.run(Kernel { rows, residual, mask: p.mask }))
        }
        let apply = |stored, backend| of_type!(stored, apply(p, &x, residual.as_ref(), backend));
        let (x, n) = (x.elements(), p.rows.shape[1]);
        conforms(p.rows.stored, backend, apply, |i, expected| {
            if !p.mask.keeps((i / n) as u32, (i % n) as u32) {
                return 0.0;
            }
            let scaled = f64::from(x[i].abs()) / (1.0 - f64::from(p.mask.probability));
            if scaled > f64::from(f32::MAX) {
                // The product overflows, and the residual may bring the sum back into range.
                return f64::INFINITY;
            }
            // The factor and the product are rounded, then the sum.
            U * (2.0 * scaled + f64::from(expected[i].abs())) + 2.0 * ETA
        })
    }
}
