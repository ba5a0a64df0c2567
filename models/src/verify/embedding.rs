//! Embeddings and pooling against their definitions.

use super::bound::{ETA, compare, gamma};
use super::tensor::{Layout, Random, Tensor, Values, extent, seed};
use super::{Check, Failure, Worst};
use proptest::prelude::*;
use tilewright_kernels::{Backend, Embedding as EmbeddingKernel, Lookup, Pool as PoolKernel, Pooling};

/// Up to four tables.
pub struct Embedding;

/// Ragged sequences, empty ones among them.
pub struct Pool;

/// One call of either.
#[derive(Clone, Debug)]
pub struct Params {
    /// Tables to sum.
    lookups: usize,
    /// Tokens to embed; sequences to pool.
    rows: usize,
    columns: usize,
    mean: bool,
    input: Layout<2>,
    out: Layout<2>,
    values: Values,
    seed: u64,
}

fn strategy() -> BoxedStrategy<Params> {
    let extents = (0..5usize, 0..12usize, extent(600));
    (extents, any::<bool>(), Layout::rows(), Layout::rows(), Values::any(), seed())
        .prop_map(|((lookups, rows, columns), mean, input, out, values, seed)| Params {
            lookups,
            rows,
            columns,
            mean,
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
            .map(|_| Tensor::random([1 + random.below(20), p.columns], &p.input, p.values, random))
            .collect();
        let ids: Vec<Vec<u32>> = (tables.iter())
            .map(|table| (0..p.rows).map(|_| random.below(table.shape()[0]) as u32).collect())
            .collect();
        let run = |backend: Backend, tables: &[Tensor<2>]| {
            let lookups: Vec<Lookup<'_>> =
                tables.iter().zip(&ids).map(|(table, ids)| Lookup { table: table.view(), ids }).collect();
            let mut out = Tensor::new([p.rows, p.columns], &p.out, |_| f32::NAN);
            backend.run(EmbeddingKernel { lookups: &lookups, out: out.view_mut() })?;
            out.gaps_intact()?;
            Ok::<_, Failure>(out.elements())
        };
        let magnitudes: Vec<Tensor<2>> = tables.iter().map(|table| table.map(f32::abs)).collect();
        let magnitudes = run(Backend::REFERENCE, &magnitudes)?;
        compare(&run(backend, &tables)?, &run(Backend::REFERENCE, &tables)?, |i| {
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
        let x = Tensor::random([offsets[p.rows], p.columns], &p.input, p.values, random);
        let pooling = if p.mean { Pooling::Mean } else { Pooling::Cls };
        let run = |backend: Backend, x: &Tensor<2>| {
            let mut out = Tensor::new([p.rows, p.columns], &p.out, |_| f32::NAN);
            backend.run(PoolKernel { x: x.view(), offsets: &offsets, pooling, out: out.view_mut() })?;
            out.gaps_intact()?;
            Ok::<_, Failure>(out.elements())
        };
        let magnitudes = run(Backend::REFERENCE, &x.map(f32::abs))?;
        compare(&run(backend, &x)?, &run(Backend::REFERENCE, &x)?, |i| {
            if pooling == Pooling::Cls {
                return 0.0;
            }
            let s = i / p.columns;
            let bound = gamma(offsets[s + 1] - offsets[s] + 1) * f64::from(magnitudes[i]) + ETA;
            if bound.is_finite() { bound } else { 0.0 }
        })
    }
}
