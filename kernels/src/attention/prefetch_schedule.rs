//! Prefetch schedule: memory that the tiles of one group of rows fetch for the next, so that no pass waits for it.

use super::blocks::{BLOCK_KEYS, GROUP_ROWS};
use super::prefetch_span::PrefetchSpan;
use super::query_rows::{AttentionOperands, QueryRows};
use crate::isa::{Isa, LINE_FLOATS, Prefetch};
use crate::parallel::part;
use core::ops::Range;

/// Spans to prefetch, and the position of the next prefetch in them.
pub(super) struct PrefetchSchedule {
    spans: [PrefetchSpan; 4],
    span: usize,
    head: usize,
    row: usize,
    column: usize,
    /// Rows of the span that the last tile prefetches.
    taken: usize,
}

impl PrefetchSchedule {
    /// A schedule over spans, in the order of their use.
    #[inline(always)]
    pub fn new(spans: [PrefetchSpan; 4]) -> Self {
        Self { spans, span: 0, head: 0, row: 0, column: 0, taken: 0 }
    }

    /// Next prefetch of a tile of `rows` rows and `k` k-steps. Four k-steps fetch one cache line of a row for each
    /// prefetch stream of the tile. An exhausted schedule returns `line`, which is in cache.
    #[inline(always)]
    pub fn next<I: Isa>(&mut self, [rows, k]: [usize; 2], line: *const f32) -> Prefetch {
        while let Some(&PrefetchSpan { first, shape: [heads, all, floats], strides }) =
            self.spans.get(self.span)
        {
            if self.column >= floats {
                (self.row, self.column) = (self.row + self.taken, 0);
            }
            if self.row >= all {
                (self.head, self.row) = (self.head + 1, 0);
            }
            if self.head < heads && all > 0 && floats > 0 {
                let at = self.head * strides[0] + self.row * strides[1] + self.column;
                self.taken = k / 4;
                self.column += Prefetch::streams::<I>(rows) * LINE_FLOATS;
                return Prefetch { from: first.wrapping_add(at), stride: LINE_FLOATS, step: strides[1] };
            }
            (self.span, self.head, self.row, self.column) = (self.span + 1, 0, 0, 0);
        }
        Prefetch::none(line)
    }
}

impl QueryRows<'_> {
    /// Prefetch schedule of group `group_index` of `groups` groups, of the rows `rows`, at a block: the outputs of
    /// these rows, the queries of the next group, and part `group_index` of the keys and values of the next block.
    /// After the last block, that is the first block of the next head.
    #[inline(always)]
    pub fn prefetch_schedule(
        &self,
        block: usize,
        rows: Range<usize>,
        [group_index, groups]: [usize; 2],
        out: PrefetchSpan,
    ) -> PrefetchSchedule {
        let AttentionOperands { q, source, layout, kv_heads, group, .. } = *self.inputs;
        let here = [self.sequence.index, self.kv_head];
        let (next, next_block) = if block + 1 < self.blocks().end {
            (here, block + 1)
        } else {
            (source.after(here, [layout.len(), kv_heads]), 0)
        };
        let of_rows = |rows: Range<usize>| rows.start / group..rows.end.div_ceil(group);
        let (at, next_rows) = if rows.end < self.len() {
            (here, rows.end..rows.end + GROUP_ROWS)
        } else {
            (next, 0..GROUP_ROWS)
        };
        let queries = of_rows(next_rows);
        let queries = self.first_query() + queries.start..self.first_query() + queries.end;
        let batch = at[0].min(q.shape()[0] - 1);
        let keys = part(BLOCK_KEYS, groups, group_index);
        let [k, v] = source.span(next, self.sequence.keys.start, next_block, keys);
        let q = PrefetchSpan::of(q.at(batch)).part(at[1] * group..(at[1] + 1) * group, queries);
        PrefetchSchedule::new([out.part(0..group, of_rows(rows)), q, k, v])
    }
}
