//! Tasks: blocks of C that threads share out (loop ic of the diagram in [`gemm`](super)).

use super::pack::packed_a_len;
use super::product::Product;
use crate::isa::{Isa, L2_BYTES};
use crate::parallel::{self, part};
use core::ops::Range;

/// Fewest multiply-adds that a second thread pays for while the pool is awake: about 5 us on one core. Fewer
/// than 16 rows count as 16, because their time goes into reading B.
const PARALLEL_WORK: usize = 1 << 19;

/// One block of C: rows and panels of one product of the batch.
pub(super) struct GemmTask {
    pub batch: usize,
    pub rows: Range<usize>,
    pub panels: Range<usize>,
}

impl GemmTask {
    /// The task of the whole multiples of `streams` panels in front of panel `end`, and the task of the rest.
    pub(super) fn split_panels(&self, streams: usize, end: usize) -> [Self; 2] {
        let Range { start, end: last } = self.panels;
        let whole = last.min(end).saturating_sub(start) / streams * streams;
        let part = |panels| Self { batch: self.batch, rows: self.rows.clone(), panels };
        [part(start..start + whole), part(start + whole..last)]
    }
}

/// Blocks of C that tasks are cut from.
#[derive(Clone)]
pub(super) struct TaskGrid {
    /// Products of the batch.
    pub batches: Range<usize>,
    /// Blocks of rows, out of `row_blocks`.
    pub blocks: Range<usize>,
    /// Number of blocks that all rows are cut into.
    pub row_blocks: usize,
    /// Panels of B.
    pub panels: Range<usize>,
}

impl Product<'_> {
    /// All blocks of C, with rows cut into `row_blocks`.
    pub(super) fn grid<I: Isa>(&self, row_blocks: usize) -> TaskGrid {
        let [batch, _, n] = self.shape;
        let panels = 0..n.div_ceil(self.width::<I>());
        TaskGrid { batches: 0..batch, blocks: 0..row_blocks, row_blocks, panels }
    }

    /// Number of blocks that the rows are cut into. The packed A of each takes at most about half of an L2 of `l2_bytes`,
    /// which leaves the other half to B, C and prefetches.
    ///
    /// `first` blocks are computed before the others. If more blocks are left than threads, their number is a
    /// multiple of the threads: no thread is idle while others compute the last.
    pub(super) fn row_blocks<I: Isa>(&self, l2_bytes: usize, first: usize, k_groups: usize) -> usize {
        let most_rows = l2_bytes / 2 / size_of::<f32>() / packed_a_len(1, k_groups).max(1);
        let blocks = self.shape[1].div_ceil(most_rows.max(4 * I::MR));
        match parallel::threads() {
            threads if blocks > first + threads => first + (blocks - first).next_multiple_of(threads),
            _ => blocks,
        }
    }

    /// As [`row_blocks`](Self::row_blocks), for packed panels that need no dequantizing: at least one block for each
    /// thread, if it then has four strips of rows (the smallest block of `row_blocks`).
    ///
    /// Threads that share out panels instead each pack all rows. In int8, which quantizes A, two threads took 15%
    /// longer for 128 rows by 768 x 768.
    pub(super) fn row_blocks_of_threads<I: Isa>(&self, k_groups: usize) -> usize {
        let ([batch, m, _], threads) = (self.shape, parallel::threads());
        match self.row_blocks::<I>(L2_BYTES, 0, k_groups) {
            blocks if batch * blocks < threads && m >= threads * 4 * I::MR => threads,
            blocks => blocks,
        }
    }

    /// Calls `f` for the tasks of a grid on the threads of the pool. A row of A, or a column of B, has
    /// `k_groups` k-groups.
    pub(super) fn for_tasks<I: Isa>(
        &self,
        grid: &TaskGrid,
        k_groups: usize,
        f: impl Fn(GemmTask) + Sync + Send,
    ) {
        let TaskGrid { batches, blocks, row_blocks, panels } = grid;
        let m = self.shape[1];
        let cells = batches.len() * blocks.len();
        if cells == 0 {
            return;
        }
        let threads = parallel::threads();
        let sums = cells * (m / row_blocks).max(16) * panels.len() * I::NR;
        let work = sums.saturating_mul(k_groups);
        // Too few blocks of rows are cut into groups of panels, until each thread has a task. More groups would
        // even out threads of unequal speed, but each packs its rows again: 2% of the product for 128 rows and
        // 768 columns.
        let groups =
            if threads == 1 || work < PARALLEL_WORK { 1 } else { threads.div_ceil(cells).min(panels.len()) };
        let task = |i: usize| {
            let (i, group) = (i / groups, part(panels.len(), groups, i % groups));
            f(GemmTask {
                batch: batches.start + i / blocks.len(),
                rows: part(m, *row_blocks, blocks.start + i % blocks.len()),
                panels: panels.start + group.start..panels.start + group.end,
            });
        };
        if work < PARALLEL_WORK {
            (0..cells).for_each(task);
        } else {
            parallel::for_each(cells * groups, &task);
        }
    }
}
