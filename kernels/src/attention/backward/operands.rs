//! Operands that the files of a backward pass share: of a call, of a head, of a block of keys, and sums of a block.

use super::super::query_rows::{AttentionOperands, QueryRows};
use super::variant::GradientVariant;
use super::weights::RowStatistics;
use crate::isa::Isa;
use crate::view::{AnyView, View, ViewMut};
use core::ops::Range;

/// Arguments of a call that all tasks share.
pub(super) struct BackwardOperands<'a> {
    pub inputs: AttentionOperands<'a>,
    pub k: AnyView<'a, 4>,
    pub v: AnyView<'a, 4>,
    pub out: AnyView<'a, 4>,
    pub lse: View<'a, 3>,
    pub dout: AnyView<'a, 4>,
    /// True if q, k, v and dout are rounded to bf16.
    pub bf16: bool,
}

/// Floats between the sums of dQ of neighbouring rows: dk in whole panels.
pub(super) fn query_stride<I: Isa>(dk: usize) -> usize {
    dk.next_multiple_of(I::NR)
}

/// Takes the first `len` floats of `memory`.
#[inline(always)]
pub(super) fn take<'m>(memory: &mut &'m mut [f32], len: usize) -> &'m mut [f32] {
    let (part, rest) = core::mem::take(memory).split_at_mut(len);
    *memory = rest;
    part
}

/// One kv head of one sequence, and what its tasks share.
pub(super) struct OneHead<'a, I, M> {
    pub isa: I,
    pub variant: M,
    pub operands: &'a BackwardOperands<'a>,
    /// Rows of all query heads of the group.
    pub rows: &'a QueryRows<'a>,
    /// D of each row.
    pub deltas: &'a [f32],
}

impl<I: Isa, M: GradientVariant<I>> OneHead<'_, I, M> {
    /// Index of a row in the operands' views.
    #[inline(always)]
    pub fn index(&self, row: usize) -> [usize; 4] {
        row_index(self.rows, row)
    }

    /// Log-sum-exp and D of a row.
    #[inline(always)]
    pub fn statistics(&self, row: usize) -> RowStatistics {
        let [batch, head, query, _] = self.index(row);
        // One NaN for all: the rounding of pairs keeps it.
        let quiet = |x: f32| if x.is_nan() { f32::NAN } else { x };
        let lse = self.operands.lse.get([batch, head, query]);
        RowStatistics { lse: quiet(lse), delta: quiet(self.deltas[row]) }
    }

    /// True if a row sees a key, counted from the first of the sequence.
    pub fn sees(&self, row: usize, key: usize) -> bool {
        self.rows.visible(&(row..row + 1)).contains(&key)
            && !self.rows.hidden(row, 0).contains(key)
            && self.statistics(row).lse != f32::NEG_INFINITY
    }

    /// Sums by distance of a row's head, from the distance of key `key` on; empty if they are not wanted.
    #[inline(always)]
    pub fn distances<'s>(&self, sums: &'s mut ViewMut<'_, 3>, row: usize, key: usize) -> &'s mut [f32] {
        if sums.is_empty() {
            return &mut [];
        }
        let (query, head) = self.rows.inputs.query_and_head(row);
        let sequence = &self.rows.sequence;
        let distance = key as isize - (sequence.start + query as isize);
        // A sequence has an entry for the distance from each of its queries to each of its keys.
        &mut sums.row_mut([0, head, 0])[(distance - sequence.distances().start) as usize..]
    }
}

/// Index of a row in views of \[batch, heads, queries, ..\].
#[inline(always)]
pub(super) fn row_index(rows: &QueryRows<'_>, row: usize) -> [usize; 4] {
    let (query, head) = rows.place(row);
    [rows.sequence.batch, head, rows.sequence.queries.start + query, 0]
}

/// Block of keys in the operands' formats. Ranges of keys count from `start`.
pub(super) struct KeyBlock<'a> {
    /// First key of the block in its sequence.
    pub start: usize,
    /// Keys from the first to the last that any row sees.
    pub keys: Range<usize>,
    /// K^T and V^T in panels of NR keys, from panel `first_panel` on.
    pub transposed: [&'a [f32]; 2],
    pub first_panel: usize,
    /// K in panels of NR columns, `panel_len` floats apart, from key `first_key` on.
    pub panels: &'a [f32],
    pub panel_len: usize,
    pub first_key: usize,
    /// True if all elements of `panels` are finite; `None` until a strip asks.
    pub finite: Option<bool>,
}

/// Sums of a block of keys, and of the rows of its chunk.
pub(super) struct BlockSums<'a, 'g> {
    /// dK^T and dV^T: rows of BLOCK_KEYS floats.
    pub keys: [&'a mut [f32]; 2],
    /// dQ of all rows, [`query_stride`] floats apart.
    pub queries: &'a mut [f32],
    /// Gradient of the bias, of the keys of the block.
    pub bias: Option<ViewMut<'g, 4>>,
    /// Sums by distance: \[1, heads, distances\].
    pub distances: ViewMut<'g, 3>,
}
