//! RoPE against its definition.

use super::bound::{ETA, U};
use super::rows::{RowsParams, conforms, of_type};
use super::tensor::{Random, Tensor, Values, extent, seed};
use super::{Check, Failure, Worst};
use proptest::prelude::*;
use tilewright_kernels::{Backend, Element, Rope as Kernel, RopeLayout, RopeTable};

/// RoPE in both directions and layouts, with partly rotated and unrotated heads, and positions in any order.
pub struct Rope;

/// Arguments of one rotation.
#[derive(Clone, Debug)]
pub struct Params {
    rows: RowsParams,
    head_dim: usize,
    /// Number of rotated pairs of columns.
    pairs: usize,
    interleaved: bool,
    backward: bool,
    values: Values,
    seed: u64,
}

/// Number of positions in the table.
const POSITIONS: usize = 50;

impl Check for Rope {
    const KERNEL: &'static str = "rope";
    type Params = Params;

    fn strategy() -> BoxedStrategy<Params> {
        let head = (0..5usize, extent(160)).prop_flat_map(|(heads, dim)| {
            let pairs = prop_oneof![2 => Just(dim / 2), 1 => 0..=dim / 2];
            (Just(heads), Just(dim), pairs)
        });
        (RowsParams::any(1), head, any::<[bool; 2]>(), Values::any(), seed())
            .prop_map(|(mut rows, (heads, head_dim, pairs), [interleaved, backward], values, seed)| {
                rows.shape[1] = heads * head_dim;
                Params { rows, head_dim, pairs, interleaved, backward, values, seed }
            })
            .boxed()
    }

    fn run(p: &Params, backend: Backend) -> Result<Worst, Failure> {
        let random = &mut Random::new(p.seed);
        let layout = if p.interleaved { RopeLayout::Interleaved } else { RopeLayout::HalfSplit };
        let table = RopeTable::new(layout, POSITIONS, 2 * p.pairs, 1e4);
        let positions: Vec<u32> = (0..p.rows.shape[0]).map(|_| random.below(POSITIONS) as u32).collect();
        let x = p.rows.input(p.values, random);
        fn apply<T: Element>(
            p: &Params,
            x: &Tensor<2>,
            positions: &[u32],
            table: &RopeTable,
            backend: Backend,
        ) -> Result<Vec<f32>, Failure> {
            p.rows.run::<T>(x, |rows| {
                let forward = Kernel::new(rows, p.head_dim, positions, table);
                backend.run(Kernel { backward: p.backward, ..forward })
            })
        }
        let apply = |stored, backend| of_type!(stored, apply(p, &x, &positions, &table, backend));
        let (elements, n) = (x.elements(), p.rows.shape[1]);
        conforms(p.rows.stored, backend, apply, |i, _| {
            let column = i % n % p.head_dim;
            if column >= 2 * p.pairs {
                return 0.0;
            }
            let (partner, pair) = match layout {
                RopeLayout::Interleaved => (i - column + (column ^ 1), column / 2),
                RopeLayout::HalfSplit if column < p.pairs => (i + p.pairs, column),
                RopeLayout::HalfSplit => (i - p.pairs, column - p.pairs),
            };
            let angle =
                f64::from(positions[i / n]) * 1e4f64.powf(-((2 * pair) as f64) / (2 * p.pairs) as f64);
            let (sin, cos) = angle.sin_cos();
            let magnitude =
                f64::from(elements[i]).abs() * cos.abs() + f64::from(elements[partner]).abs() * sin.abs();
            // The factors here are exact, but the table rounds its factors to f32: 3 roundings instead of 2.
            let bound = 3.0 * U * magnitude + 3.0 * ETA;
            if bound.is_finite() { bound } else { 0.0 }
        })
    }
}
