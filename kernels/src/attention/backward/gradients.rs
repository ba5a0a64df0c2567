//! Gradients as views, and their division among tasks.

use super::super::sequence_layout::SequenceLayout;
use crate::parallel;
use crate::view::{AnyViewMut, ViewMut};
use core::ops::Range;

/// Gradients of a range of sequences and kv heads; or of a range of keys of one sequence and kv head, where `q` and
/// `distances` hold sums for each chunk of the keys.
pub(super) struct Gradients<'a> {
    /// \[batch, heads, queries, dk\].
    pub q: AnyViewMut<'a, 4>,
    /// \[batch, kv_heads, keys, dk\].
    pub k: AnyViewMut<'a, 4>,
    /// \[batch, kv_heads, keys, dv\].
    pub v: AnyViewMut<'a, 4>,
    /// Sums over the gradients of scores, each dimension whole or 1: \[sequences, heads, queries, keys\].
    pub bias: Option<ViewMut<'a, 4>>,
    /// Sums over the gradients of scores by distance from query to key, from the least distance of each sequence on:
    /// \[sequences, heads, distances\]. The last dimension is 0 if the sums are not wanted.
    pub distances: ViewMut<'a, 3>,
}

/// Division of gradients along one dimension.
pub(super) struct Halves<'a> {
    pub low: Gradients<'a>,
    pub high: Gradients<'a>,
    /// Gradient of the bias, if both halves add to it: the low half first.
    pub shared: Option<ViewMut<'a, 4>>,
}

/// The parts of a bias gradient before and from `mid` on of `n`, or the whole if it has one index for all.
fn split_bias<'a>(
    bias: Option<ViewMut<'a, 4>>,
    dim: usize,
    [mid, n]: [usize; 2],
) -> (Option<ViewMut<'a, 4>>, Option<ViewMut<'a, 4>>, Option<ViewMut<'a, 4>>) {
    match bias {
        None => (None, None, None),
        // An extent of 1 is whole, too, if there is one index.
        Some(bias) if bias.shape()[dim] != n => (None, None, Some(bias)),
        Some(bias) => {
            let (low, high) = bias.split_at(dim, mid);
            (Some(low), Some(high), None)
        }
    }
}

impl<'a> Gradients<'a> {
    /// Cuts the sequences `sequences` before number `mid`.
    pub fn split_sequences(
        self,
        layout: &SequenceLayout<'_>,
        sequences: &Range<usize>,
        mid: usize,
    ) -> Halves<'a> {
        let count = mid - sequences.start;
        let (first, at) = (layout.get(sequences.start), layout.get(mid));
        let (dim, queries, keys) = if layout.is_packed() {
            (2, at.queries.start - first.queries.start, at.keys.start - first.keys.start)
        } else {
            (0, count, count)
        };
        let (q, high_q) = self.q.split_at(dim, queries);
        let (k, high_k) = self.k.split_at(dim, keys);
        let (v, high_v) = self.v.split_at(dim, keys);
        let (bias, high_bias, shared) = split_bias(self.bias, 0, [count, sequences.len()]);
        let (distances, high_distances) = self.distances.split_at(0, count);
        Halves {
            low: Gradients { q, k, v, bias, distances },
            high: Gradients { q: high_q, k: high_k, v: high_v, bias: high_bias, distances: high_distances },
            shared,
        }
    }

    /// Cuts before kv head `mid`, of `group` query heads each.
    pub fn split_heads(self, group: usize, mid: usize) -> Halves<'a> {
        let heads = self.q.shape()[1];
        let (q, high_q) = self.q.split_at(1, mid * group);
        let (k, high_k) = self.k.split_at(1, mid);
        let (v, high_v) = self.v.split_at(1, mid);
        let (bias, high_bias, shared) = split_bias(self.bias, 1, [mid * group, heads]);
        let (distances, high_distances) = self.distances.split_at(1, mid * group);
        Halves {
            low: Gradients { q, k, v, bias, distances },
            high: Gradients { q: high_q, k: high_k, v: high_v, bias: high_bias, distances: high_distances },
            shared,
        }
    }
    /// Cuts before chunk `mid` of the keys of one sequence, which starts with key `key` of `keys`. The first dimension
    /// of `q` and of `distances` counts chunks.
    pub fn split_chunks(self, mid: usize, [key, keys]: [usize; 2]) -> Halves<'a> {
        let (q, high_q) = self.q.split_at(0, mid);
        let (k, high_k) = self.k.split_at(2, key);
        let (v, high_v) = self.v.split_at(2, key);
        let (bias, high_bias, shared) = split_bias(self.bias, 3, [key, keys]);
        let (distances, high_distances) = self.distances.split_at(0, mid);
        Halves {
            low: Gradients { q, k, v, bias, distances },
            high: Gradients { q: high_q, k: high_k, v: high_v, bias: high_bias, distances: high_distances },
            shared,
        }
    }
}

impl Halves<'_> {
    /// Calls `low` and `high` with the halves; in parallel if `parallel` and if only one of them adds to each element.
    pub fn run(
        self,
        parallel: bool,
        low: impl FnOnce(Gradients<'_>) + Send,
        high: impl FnOnce(Gradients<'_>) + Send,
    ) {
        let Self { low: first, high: second, shared } = self;
        match shared {
            Some(mut bias) => {
                low(Gradients { bias: Some(bias.reborrow()), ..first });
                high(Gradients { bias: Some(bias), ..second });
            }
            None if parallel => parallel::join(|| low(first), || high(second)),
            None => {
                low(first);
                high(second);
            }
        }
    }
}
