//! Tasks: sequences, kv heads and chunks of keys that a thread computes; the sum over chunks.

use super::super::blocks::BLOCK_KEYS;
use super::super::query_rows::QueryRows;
use super::block;
use super::gradients::Gradients;
use super::operands::{BackwardOperands, query_stride};
use super::variant::GradientVariant;
use crate::element::{Element, store_first_lanes};
use crate::isa::{Isa, Vector};
use crate::view::{AnyViewMut, View, ViewMut, with_any_mut};
use crate::{parallel, scratch};
use core::ops::Range;

/// Least keys of a chunk. Each chunk sums dQ in a buffer of its own: at 512 keys, writing and adding it is 1% of the
/// operations on the chunk, counted, not timed.
const MIN_CHUNK_KEYS: usize = 512;

/// Most chunks of a sequence, which bound the memory for sums of dQ to 16 times that of dQ.
const MAX_CHUNKS: usize = 16;

/// Multiply-adds of the forward call below which a second thread costs more than it saves.
const PARALLEL_WORK: usize = 1 << 20;

/// Rows of dQ that one task sums over the chunks.
const SUM_ROWS: usize = 256;

/// Keys of a chunk, for a sequence of `keys` keys.
fn chunk_keys(keys: usize) -> usize {
    keys.div_ceil(MAX_CHUNKS).next_multiple_of(BLOCK_KEYS).max(MIN_CHUNK_KEYS)
}

/// Tasks of one call.
#[derive(Clone, Copy)]
pub(super) struct BackwardTasks<'a, I, M> {
    isa: I,
    variant: M,
    operands: &'a BackwardOperands<'a>,
    /// True if threads divide the work.
    parallel: bool,
}

impl<'a, I: Isa, M: GradientVariant<I>> BackwardTasks<'a, I, M> {
    pub fn new(isa: I, variant: M, operands: &'a BackwardOperands<'a>) -> Self {
        let inputs = &operands.inputs;
        let [batch, heads, queries, _] = inputs.q.shape();
        let keys = inputs.layout.longest()[1];
        let work = (batch * heads * queries).saturating_mul(keys).saturating_mul(inputs.dk + inputs.dv);
        Self { isa, variant, operands, parallel: parallel::threads() > 1 && work >= PARALLEL_WORK }
    }

    /// Computes the gradients of `sequences`.
    pub fn sequences(self, sequences: Range<usize>, gradients: Gradients<'_>) {
        let Range { start, end } = sequences;
        if sequences.len() > 1 {
            let mid = start + sequences.len() / 2;
            return gradients.split_sequences(&self.operands.inputs.layout, &sequences, mid).run(
                self.parallel,
                |low| self.sequences(start..mid, low),
                |high| self.sequences(mid..end, high),
            );
        }
        if !sequences.is_empty() {
            self.heads(start, 0..self.operands.inputs.kv_heads, gradients);
        }
    }

    /// Computes the gradients of the kv heads `heads` of one sequence.
    fn heads(self, sequence: usize, heads: Range<usize>, gradients: Gradients<'_>) {
        let Range { start, end } = heads;
        if heads.len() > 1 {
            let mid = start + heads.len() / 2;
            return gradients.split_heads(self.operands.inputs.group, mid - start).run(
                self.parallel,
                |low| self.heads(sequence, start..mid, low),
                |high| self.heads(sequence, mid..end, high),
            );
        }
        if !heads.is_empty() {
            self.head(sequence, start, gradients);
        }
    }

    /// Computes the gradients of one kv head of one sequence.
    fn head(self, sequence: usize, kv_head: usize, gradients: Gradients<'_>) {
        let inputs = &self.operands.inputs;
        let sequence = inputs.layout.get(sequence);
        let (queries, keys) = (0..sequence.queries.len(), sequence.keys.len());
        let rows = QueryRows { sequence, kv_head, queries, inputs };
        let Gradients { q, k, v, bias, mut distances } = gradients;
        // Keys of the batch row that follow those of the sequence are padding.
        let (k, padding_k) = k.split_at(2, keys);
        let (v, padding_v) = v.split_at(2, keys);
        for padding in [padding_k, padding_v] {
            clear(padding);
        }
        let bias = bias.map(|bias| if bias.shape()[3] > 1 { bias.slice(3, 0..keys) } else { bias });
        let chunks = keys.div_ceil(chunk_keys(keys));
        let sums = [chunks, rows.len(), query_stride::<I>(inputs.dk)];
        let by_distance = [chunks, inputs.group, distances.shape()[2]];
        let [sums_len, distances_len]: [usize; 2] = [sums.iter().product(), by_distance.iter().product()];
        scratch::with(sums_len + distances_len, |memory| {
            let (sums_memory, distances_memory) = memory.split_at_mut(sums_len);
            let of_chunks = Gradients {
                q: ViewMut::new(sums_memory, [chunks, 1, 1, sums[1] * sums[2]])
                    .expect("as long as its shape")
                    .into(),
                k,
                v,
                bias,
                distances: ViewMut::new(distances_memory, by_distance).expect("as long as its shape"),
            };
            self.chunks(&rows, 0..chunks, of_chunks);
            let sums = View::new(sums_memory, sums).expect("as long as its shape");
            self.sum_chunks(&rows, sums, q);
            for (head, chunk) in
                (0..inputs.group).flat_map(|head| (0..chunks).map(move |chunk| (head, chunk)))
            {
                let from = (chunk * inputs.group + head) * by_distance[2];
                let to = distances.row_mut([0, head, 0]);
                for (to, from) in to.iter_mut().zip(&distances_memory[from..]) {
                    *to += from;
                }
            }
        });
    }

    /// Computes the chunks `chunks` of the keys of one head. `gradients` begins with their keys.
    fn chunks(self, rows: &QueryRows<'_>, chunks: Range<usize>, gradients: Gradients<'_>) {
        let (all, Range { start, end }) = (rows.sequence.keys.len(), chunks.clone());
        let key = |chunk: usize| (chunk * chunk_keys(all)).min(all);
        if chunks.len() > 1 {
            let mid = start + chunks.len() / 2;
            let keys = [mid, end].map(|chunk| key(chunk) - key(start));
            return gradients.split_chunks(mid - start, keys).run(
                self.parallel,
                |low| self.chunks(rows, start..mid, low),
                |high| self.chunks(rows, mid..end, high),
            );
        }
        if chunks.is_empty() {
            return;
        }
        scratch::with(block::memory_len::<I, M>(&self.operands.inputs, rows.len()), |memory| {
            self.isa.run(
                #[inline(always)]
                || {
                    let keys = key(start)..key(end);
                    block::chunk((self.isa, self.variant), self.operands, rows, keys, gradients, memory);
                },
            );
        });
    }

    /// Writes dQ, `q` \[1, heads, queries, dk\]: the scaled sums over all chunks \[chunks, rows, columns\].
    fn sum_chunks(self, rows: &QueryRows<'_>, sums: View<'_, 3>, q: AnyViewMut<'_, 4>) {
        let scale = self.operands.inputs.scale;
        let grain = if self.parallel && sums.shape()[0] > 1 { SUM_ROWS } else { usize::MAX };
        with_any_mut!(q, q => parallel::for_each_block(q.permute([2, 1, 0, 3]), grain, &|first, mut q| {
            self.isa.run(
                #[inline(always)]
                || sum_rows(self.isa, rows, sums, scale, first, &mut q),
            );
        }));
    }
}

/// Writes the sums of the queries from `first` on to `q` \[queries, heads, 1, dk\].
#[inline(always)]
fn sum_rows<I: Isa, T: Element>(
    isa: I,
    rows: &QueryRows<'_>,
    sums: View<'_, 3>,
    scale: f32,
    first: usize,
    q: &mut ViewMut<'_, 4, T>,
) {
    let [queries, heads, _, _] = q.shape();
    let scale = I::V::splat(isa, scale);
    for (query, head) in (0..queries).flat_map(|query| (0..heads).map(move |head| (query, head))) {
        let row = (first + query) * rows.inputs.group + head;
        for (part, to) in q.row_mut([query, head, 0, 0]).chunks_mut(I::V::LANES).enumerate() {
            let mut sum = I::V::splat(isa, 0.0);
            for chunk in 0..sums.shape()[0] {
                sum = sum + I::V::load(isa, &sums.row([chunk, row, 0])[part * I::V::LANES..]);
            }
            store_first_lanes(isa, sum * scale, to);
        }
    }
}

/// Writes zeros.
pub(super) fn clear(gradient: AnyViewMut<'_, 4>) {
    with_any_mut!(gradient, gradient => {
        let mut gradient = gradient;
        let [batch, heads, rows, _] = gradient.shape();
        for b in 0..batch {
            for (head, row) in (0..heads).flat_map(|head| (0..rows).map(move |row| (head, row))) {
                gradient.row_mut([b, head, row, 0]).fill(Default::default());
            }
        }
    });
}
