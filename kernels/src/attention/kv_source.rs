//! Sources of keys and values: views, which every call packs, or caches, which hold packed panels.

use super::blocks::BLOCK_KEYS;
use super::cache::KvCache;
use super::keys::{Sequence, Sequences};
use super::prefetch_span::PrefetchSpan;
use crate::error::{Error, expect_shape};
use crate::rows::expect_unit_rows;
use crate::view::AnyView;
use core::ops::Range;

/// Keys and values, and their division into sequences.
#[derive(Clone, Copy, Debug)]
pub(super) enum KvSource<'a> {
    /// k \[batch, kv_heads, keys, dk\] and v \[batch, kv_heads, keys, dv\].
    Views { k: AnyView<'a, 4>, v: AnyView<'a, 4>, sequences: Sequences<'a> },
    /// One cache for each sequence; sequence s has the queries `starts[s]..starts[s + 1]`.
    Caches { caches: &'a [&'a KvCache], starts: &'a [usize] },
}

impl<'a> KvSource<'a> {
    /// Returns \[kv_heads, dv\], or an error if the shapes do not fit q \[batch, heads, queries, dk\]. Without caches,
    /// dv is `out_width`.
    pub fn check(&self, q: [usize; 4], out_width: usize) -> Result<[usize; 2], Error> {
        let [batch, heads, _, dk] = q;
        let invalid = |what, why| Err(Error::Invalid { what, why });
        let (what, kv_heads, dv) = match self {
            Self::Views { k, v, .. } => {
                let ([_, kv_heads, keys, _], dv) = (k.shape(), v.shape()[3]);
                expect_shape("Attention.k", &k.shape(), &[batch, kv_heads, keys, dk])?;
                expect_shape("Attention.v", &v.shape(), &[batch, kv_heads, keys, dv])?;
                for (what, view) in [("Attention.k", k), ("Attention.v", v)] {
                    expect_unit_rows(what, view.has_unit_rows(), view.strides())?;
                }
                ("Attention.k", kv_heads, dv)
            }
            Self::Caches { caches, .. } => {
                let what = "CachedAttention.caches";
                let Some(first) = caches.first() else { return Ok([heads, out_width]) };
                let [kv_heads, _, dv] = first.shape();
                for cache in *caches {
                    expect_shape(what, &cache.shape(), &[kv_heads, dk, dv])?;
                    if cache.is_bf16() != first.is_bf16() {
                        return invalid(
                            what,
                            "expected one precision, found caches of f32 and of bf16".to_owned(),
                        );
                    }
                }
                (what, kv_heads, dv)
            }
        };
        if heads > 0 && (kv_heads == 0 || heads % kv_heads != 0) {
            return invalid(
                what,
                format!("expected a number of heads that divides the {heads} of q, found {kv_heads}"),
            );
        }
        Ok([kv_heads, dv])
    }

    /// Element `d` of a key, counted from the first key of `sequence`.
    pub fn key(&self, sequence: &Sequence, [kv_head, key, d]: [usize; 3]) -> f32 {
        match self {
            Self::Views { k, .. } => k.get([sequence.batch, kv_head, sequence.keys.start + key, d]),
            Self::Caches { caches, .. } => caches[sequence.index].key([kv_head, key, d]),
        }
    }

    /// Element `d` of the value of a key, counted from the first key of `sequence`.
    pub fn value(&self, sequence: &Sequence, [kv_head, key, d]: [usize; 3]) -> f32 {
        match self {
            Self::Views { v, .. } => v.get([sequence.batch, kv_head, sequence.keys.start + key, d]),
            Self::Caches { caches, .. } => caches[sequence.index].value([kv_head, key, d]),
        }
    }

    /// Sequence and kv head that a task reads after the last block of `[sequence, kv_head]`: the next head of the
    /// batch row, or the next cache.
    #[inline(always)]
    pub fn after(&self, [sequence, kv_head]: [usize; 2], [sequences, kv_heads]: [usize; 2]) -> [usize; 2] {
        let wraps = |i: usize, n: usize| if i + 1 < n { (i + 1, false) } else { (0, true) };
        match self {
            Self::Views { sequences: Sequences::Packed { .. }, .. } => [sequence, wraps(kv_head, kv_heads).0],
            Self::Views { .. } => match wraps(kv_head, kv_heads) {
                (head, false) => [sequence, head],
                (head, true) => [(sequence + 1).min(sequences - 1), head],
            },
            Self::Caches { .. } => match wraps(sequence, sequences) {
                (next, false) => [next, kv_head],
                (next, true) => [next, (kv_head + 1).min(kv_heads - 1)],
            },
        }
    }

    /// Memory of the keys `keys` of a block, counted from its first key, and of their values. `first` is the first
    /// key of the sequence.
    #[inline(always)]
    pub fn span(
        &self,
        [sequence, kv_head]: [usize; 2],
        first: usize,
        block: usize,
        keys: Range<usize>,
    ) -> [PrefetchSpan; 2] {
        match *self {
            Self::Views { k, v, sequences } => {
                let batch = if matches!(sequences, Sequences::Packed { .. }) { 0 } else { sequence };
                let first = first + block * BLOCK_KEYS;
                let keys = first + keys.start..first + keys.end;
                [k, v].map(
                    #[inline(always)]
                    |x| PrefetchSpan::of(x.at(batch)).part(kv_head..kv_head + 1, keys.clone()),
                )
            }
            Self::Caches { caches, .. } => caches[sequence].span(kv_head, block, keys),
        }
    }
}
