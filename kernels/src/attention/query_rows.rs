//! Query rows of one task, and the keys that each row sees.

use super::blocks::BLOCK_KEYS;
use super::dropout::WeightDropout;
use super::keys::Sequence;
use super::kv_source::KvSource;
use super::row_ops::{HiddenKeys, KeyRow, ScoreAdjustment};
use super::sequence_layout::{DistanceSpan, SequenceLayout};
use crate::view::{AnyView, View};
use core::ops::Range;

/// Arguments of a call that all tasks share.
#[derive(Clone, Copy)]
pub(super) struct AttentionOperands<'a> {
    pub q: AnyView<'a, 4>,
    pub source: KvSource<'a>,
    pub kv_heads: usize,
    /// Elements of a key.
    pub dk: usize,
    /// Elements of a value.
    pub dv: usize,
    pub scale: f32,
    pub softcap: Option<f32>,
    pub bias: Option<View<'a, 4>>,
    pub mask: Option<View<'a, 4, bool>>,
    pub distances: Option<DistanceTables<'a>>,
    pub layout: SequenceLayout<'a>,
    pub dropout: Option<WeightDropout>,
    /// Query heads that share a head of k and v.
    pub group: usize,
}

/// Bias tables of all heads, `stride` floats apart.
#[derive(Clone, Copy)]
pub(super) struct DistanceTables<'a> {
    pub tables: &'a [f32],
    pub stride: usize,
    pub span: DistanceSpan,
}

impl AttentionOperands<'_> {
    /// True if a softcap or a bias changes the scores.
    #[inline(always)]
    pub fn adjusts(&self) -> bool {
        self.softcap.is_some() || self.bias.is_some() || self.distances.is_some()
    }

    /// True if a bias or a mask may hide keys.
    #[inline(always)]
    pub fn hides(&self) -> bool {
        self.bias.is_some() || self.mask.is_some()
    }

    /// Query and head of a row, both counted from the first of its task.
    #[inline(always)]
    pub fn query_and_head(&self, row: usize) -> (usize, usize) {
        // Called for every row of every block: divisions by 1 took 3% of a short sequence's time.
        if self.group == 1 { (row, 0) } else { (row / self.group, row % self.group) }
    }
}

/// Queries of one sequence that one task computes, for all query heads of one kv head.
///
/// Row `query * group + head` is one query of one head. Neighbouring rows therefore see nearly the same keys.
pub(super) struct QueryRows<'a> {
    pub sequence: Sequence,
    pub kv_head: usize,
    /// Queries, counted from the first of the sequence.
    pub queries: Range<usize>,
    pub inputs: &'a AttentionOperands<'a>,
}

impl<'a> QueryRows<'a> {
    /// Rows of `queries` queries from `[batch, head, query]` on, one item for each sequence.
    pub fn of_queries(
        inputs: &'a AttentionOperands<'a>,
        [batch, head, query]: [usize; 3],
        queries: usize,
    ) -> impl Iterator<Item = Self> {
        let kv_head = head / inputs.group;
        let all = query..query + queries;
        inputs.layout.of_rows(batch, &all).map(move |index| inputs.layout.get(index)).filter_map(
            move |sequence| {
                let Range { start, end } = sequence.queries;
                let queries = all.start.max(start)..all.end.min(end);
                if queries.is_empty() {
                    return None;
                }
                let queries = queries.start - start..queries.end - start;
                Some(Self { sequence, kv_head, queries, inputs })
            },
        )
    }

    /// First query, counted from the first of the batch row.
    pub fn first_query(&self) -> usize {
        self.sequence.queries.start + self.queries.start
    }

    /// Number of rows.
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.queries.len() * self.inputs.group
    }

    /// Query, counted from the first of the sequence, and head of a row.
    #[inline(always)]
    pub fn place(&self, row: usize) -> (usize, usize) {
        let (query, head) = self.inputs.query_and_head(row);
        (self.queries.start + query, self.kv_head * self.inputs.group + head)
    }

    /// Keys from the first to the last in the window of any of `rows`. Neither end decreases from row to row.
    #[inline(always)]
    pub fn visible(&self, rows: &Range<usize>) -> Range<usize> {
        let first = self.sequence.visible(self.place(rows.start).0);
        let last = self.sequence.visible(self.place(rows.end - 1).0);
        first.start..last.end
    }

    /// Part of `argument`, the bias or the mask, for `row` from key `key` on.
    #[inline(always)]
    fn key_row<T: Copy>(&self, argument: Option<View<'a, 4, T>>, row: usize, key: usize) -> KeyRow<'a, T> {
        let (query, head) = self.place(row);
        let at = [self.sequence.index, head, query, 0];
        match argument {
            None => KeyRow::None,
            Some(argument) if argument.has_unit_rows() => KeyRow::Each(&argument.row(at)[key..]),
            Some(argument) => KeyRow::Same(argument.get(at)),
        }
    }

    /// Mask of `row` from key `key` on.
    #[inline(always)]
    pub fn mask(&self, row: usize, key: usize) -> KeyRow<'a, bool> {
        self.key_row(self.inputs.mask, row, key)
    }

    /// Keys that the bias or the mask hides from `row`, counted from `key`.
    #[inline(always)]
    pub fn hidden(&self, row: usize, key: usize) -> HiddenKeys<'a> {
        HiddenKeys { bias: self.key_row(self.inputs.bias, row, key), mask: self.mask(row, key) }
    }

    /// Keys of [`visible`](Self::visible) in the block that starts at key `start`, counted from `start`.
    #[inline(always)]
    pub fn visible_in(&self, start: usize, rows: &Range<usize>) -> Range<usize> {
        let visible = self.visible(rows);
        visible.start.max(start).min(start + BLOCK_KEYS) - start
            ..visible.end.max(start).min(start + BLOCK_KEYS) - start
    }

    /// True if `row` sees a key: one in its window that neither bias nor mask hides.
    pub fn sees_any(&self, row: usize) -> bool {
        let hidden = self.hidden(row, 0);
        self.visible(&(row..row + 1)).any(|key| !hidden.contains(key))
    }

    /// Adjustment of the scores of `row` from key `key` on.
    #[inline(always)]
    pub fn adjustment(&self, row: usize, key: usize) -> ScoreAdjustment<'_> {
        let (query, head) = self.place(row);
        let inputs = self.inputs;
        let position = self.sequence.start + query as isize;
        let distance = match inputs.distances {
            None => None,
            Some(DistanceTables { tables, stride, span }) => {
                let entry = span.entry(&self.sequence, key as isize - position);
                Some(&tables[head * stride..][..stride][entry..])
            }
        };
        ScoreAdjustment { softcap: inputs.softcap, bias: self.key_row(inputs.bias, row, key), distance }
    }

    /// Blocks that any row sees.
    #[inline(always)]
    pub fn blocks(&self) -> Range<usize> {
        let keys = self.visible(&(0..self.len()));
        if keys.is_empty() { 0..0 } else { keys.start / BLOCK_KEYS..keys.end.div_ceil(BLOCK_KEYS) }
    }
}
