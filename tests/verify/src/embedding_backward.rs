//! Gradients of embeddings and pooling against their definitions.

use super::bound::{ETA, U, compare, gamma};
use super::rows::{Stored, conforms, of_type, values};
use super::tensor::{Layout, Random, Tensor, Values, extent, seed};
use super::{Check, Failure, Worst};
use proptest::prelude::*;
use tilewright_kernels::{
    Backend, Element, EmbeddingBackward as EmbeddingKernel, PoolBackward as PoolKernel, Pooling,
};

/// Ids that occur often or not at all, with a padding id or none.
pub struct EmbeddingBackward;

/// Ragged sequences, some of them empty.
pub struct PoolBackward;

/// One call of [`EmbeddingBackward`] or [`PoolBackward`].
#[derive(Clone, Debug)]
pub struct Params {
    /// Tokens to embed, or sequences to pool.
    rows: usize,
    columns: usize,
    /// Entries of the table.
    entries: usize,
    padding: bool,
    mean: bool,
    stored: Stored,
    dy: Layout<2>,
    out: Layout<2>,
    values: Values,
    seed: u64,
}

fn strategy() -> BoxedStrategy<Params> {
    let extents = (0..40usize, extent(600), 1..20usize);
    let kinds = (any::<[bool; 2]>(), Stored::any());
    (extents, kinds, Layout::rows(), Layout::rows(), Values::any(), seed())
        .prop_map(|((rows, columns, entries), ([padding, mean], stored), dy, out, values, seed)| Params {
            rows,
            columns,
            entries,
            padding,
            mean,
            stored,
            dy,
            out,
            values,
            seed,
        })
        .boxed()
}

impl Params {
    fn dy(&self, random: &mut Random) -> Tensor<2> {
        let number = |_| self.stored.number(self.values.draw(random));
        Tensor::new([self.rows, self.columns], &self.dy, number)
    }
}

impl Check for EmbeddingBackward {
    const KERNEL: &'static str = "embedding_backward";
    type Params = Params;

    fn strategy() -> BoxedStrategy<Params> {
        strategy()
    }

    fn run(p: &Params, backend: Backend) -> Result<Worst, Failure> {
        let random = &mut Random::new(p.seed);
        let dy = p.dy(random);
        let ids: Vec<u32> = (0..p.rows).map(|_| random.below(p.entries) as u32).collect();
        let before = Tensor::new([p.entries, p.columns], &p.out, |_| random.unit());
        fn apply<T: Element>(
            p: &Params,
            dy: &Tensor<2>,
            ids: &[u32],
            before: &Tensor<2>,
            backend: Backend,
        ) -> Result<Vec<f32>, Failure> {
            let (dy, mut table) = (dy.cast::<T>(), before.clone());
            backend.run(EmbeddingKernel {
                padding: p.padding.then_some(0),
                ..EmbeddingKernel::new(dy.view(), ids, table.view_mut())
            })?;
            table.gaps_intact()?;
            Ok(values(&table))
        }
        let (magnitudes, empty) = (dy.map(f32::abs), before.map(f32::abs));
        let magnitudes = apply::<f32>(p, &magnitudes, &ids, &empty, Backend::REFERENCE)?;
        let apply = |backend| of_type!(p.stored, apply(p, &dy, &ids, &before, backend));
        compare(&apply(backend)?, &apply(Backend::REFERENCE)?, |i| {
            let count = ids.iter().filter(|&&id| id as usize == i / p.columns).count();
            let bound = gamma(count) * f64::from(magnitudes[i]);
            if bound.is_finite() { bound } else { 0.0 }
        })
    }
}

impl Check for PoolBackward {
    const KERNEL: &'static str = "pool_backward";
    type Params = Params;

    fn strategy() -> BoxedStrategy<Params> {
        strategy()
    }

    fn run(p: &Params, backend: Backend) -> Result<Worst, Failure> {
        let random = &mut Random::new(p.seed);
        let dy = p.dy(random);
        let mut offsets = vec![0];
        for s in 0..p.rows {
            // One sequence in four is empty.
            let length = if random.below(4) == 0 { 0 } else { random.below(6) };
            offsets.push(offsets[s] + length);
        }
        fn apply<T: Element>(
            p: &Params,
            dy: &Tensor<2>,
            offsets: &[usize],
            backend: Backend,
        ) -> Result<Vec<f32>, Failure> {
            let (dy, nan) = (dy.cast::<T>(), T::from_f32(f32::NAN));
            let mut out = Tensor::new([offsets[p.rows], p.columns], &p.out, |_| nan);
            let pooling = if p.mean { Pooling::Mean } else { Pooling::Cls };
            backend.run(PoolKernel { pooling, ..PoolKernel::new(dy.view(), offsets, out.view_mut()) })?;
            out.gaps_intact()?;
            Ok(values(&out))
        }
        let apply = |stored, backend| of_type!(stored, apply(p, &dy, &offsets, backend));
        conforms(p.stored, backend, apply, |i, expected| U * f64::from(expected[i].abs()) + ETA)
    }
}
