//! Embeddings and pooling against their definitions.

use super::bound::{ETA, gamma};
use super::rows::{Stored, conforms, of_type, values};
use super::tensor::{Layout, Random, Tensor, Values, extent, seed};
use super::{Check, Failure, Worst};
use proptest::prelude::*;
use tilewright_kernels::{
    Backend, Element, Embedding as EmbeddingKernel, Lookup, Pool as PoolKernel, Pooling,
};

/// Embedding: sums of up to four table lookups.
pub struct Embedding;

/// Pooling of ragged sequences, some of them empty.
pub struct Pool;

/// Arguments of one call of [`Embedding`] or [`Pool`].
#[derive(Clone, Debug)]
pub struct Params {
    /// Number of tables to sum.
    lookups: usize,
    /// Tokens to embed, or sequences to pool.
    rows: usize,
    columns: usize,
    mean: bool,
    stored: Stored,
    input: Layout<2>,
    out: Layout<2>,
    values: Values,
    seed: u64,
}

fn strategy() -> BoxedStrategy<Params> {
    let extents = (0..5usize, 0..12usize, extent(600));
    let kinds = (any::<bool>(), Stored::any());
    (extents, kinds, Layout::rows(), Layout::rows(), Values::any(), seed())
        .prop_map(|((lookups, rows, columns), (mean, stored), input, out, values, seed)| Params {
            lookups,
            rows,
            columns,
            mean,
            stored,
            input,
            out,
            values,
            seed,
        })
        .boxed()
}

impl Check for Embedding {
    const KERNEL: &'static str = "embedding";
    type Params = Params;

    fn strategy() -> BoxedStrategy<Params> {
        strategy()
    }

    fn run(p: &Params, backend: Backend) -> Result<Worst, Failure> {
        let random = &mut Random::new(p.seed);
        let tables: Vec<Tensor<2>> = (0..p.lookups)
            .map(|_| [1 + random.below(20), p.columns])
            .collect::<Vec<_>>()
            .into_iter()
            .map(|shape| Tensor::new(shape, &p.input, |_| p.stored.number(p.values.draw(random))))
            .collect();
        let ids: Vec<Vec<u32>> = (tables.iter())
            .map(|table| (0..p.rows).map(|_| random.below(table.shape()[0]) as u32).collect())
            .collect();
        fn apply<T: Element>(
            p: &Params,
            tables: &[Tensor<2>],
            ids: &[Vec<u32>],
            backend: Backend,
        ) -> Result<Vec<f32>, Failure> {
            let tables: Vec<_> = tables.iter().map(Tensor::cast::<T>).collect();
            let lookups: Vec<_> =
                tables.iter().zip(ids).map(|(table, ids)| Lookup { table: table.view(), ids }).collect();
            let nan = T::from_f32(f32::NAN);
            let mut out = Tensor::new([p.rows, p.columns], &p.out, |_| nan);
            backend.run(EmbeddingKernel::new(&lookups, out.view_mut()))?;
            out.gaps_intact()?;
            Ok(values(&out))
        }
        let magnitudes: Vec<Tensor<2>> = tables.iter().map(|table| table.map(f32::abs)).collect();
        let magnitudes = apply::<f32>(p, &magnitudes, &ids, Backend::REFERENCE)?;
        let apply = |stored, backend| of_type!(stored, apply(p, &tables, &ids, backend));
        conforms(p.stored, backend, apply, |i, _| {
            let bound = gamma(p.lookups.saturating_sub(1)) * f64::from(magnitudes[i]);
            if bound.is_finite() { bound } else { 0.0 }
        })
    }
}

impl Check for Pool {
    const KERNEL: &'static str = "pool";
    type Params = Params;

    fn strategy() -> BoxedStrategy<Params> {
        strategy()
    }

    fn run(p: &Params, backend: Backend) -> Result<Worst, Failure> {
        let random = &mut Random::new(p.seed);
        let mut offsets = vec![0];
        for s in 0..p.rows {
            // One sequence in four is empty.
            let length = if random.below(4) == 0 { 0 } else { random.below(20) };
            offsets.push(offsets[s] + length);
        }
        let shape = [offsets[p.rows], p.columns];
        let x = Tensor::new(shape, &p.input, |_| p.stored.number(p.values.draw(random)));
        let pooling = if p.mean { Pooling::Mean } else { Pooling::Cls };
        fn apply<T: Element>(
            p: &Params,
            x: &Tensor<2>,
            offsets: &[usize],
            pooling: Pooling,
            backend: Backend,
        ) -> Result<Vec<f32>, Failure> {
            let (x, nan) = (x.cast::<T>(), T::from_f32(f32::NAN));
            let mut out = Tensor::new([p.rows, p.columns], &p.out, |_| nan);
            backend.run(PoolKernel { pooling, ..PoolKernel::new(x.view(), offsets, out.view_mut()) })?;
            out.gaps_intact()?;
            Ok(values(&out))
        }
        let magnitudes = apply::<f32>(p, &x.map(f32::abs), &offsets, pooling, Backend::REFERENCE)?;
        let apply = |stored, backend| of_type!(stored, apply(p, &x, &offsets, pooling, backend));
        conforms(p.stored, backend, apply, |i, _| {
            if pooling == Pooling::Cls {
                return 0.0;
            }
            let s = i / p.columns;
            let bound = gamma(offsets[s + 1] - offsets[s] + 1) * f64::from(magnitudes[i]) + ETA;
            if bound.is_finite() { bound } else { 0.0 }
        })
    }
}
