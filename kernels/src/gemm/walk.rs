//! The walk of one task: loops jr, pc and ir of the diagram in [`gemm`](super), once for all paths.

use super::product::Product;
use super::tasks::GemmTask;
use crate::isa::{A_STRIDE, Isa, KC, Prefetch, Tile};
use core::ops::Range;

/// Loop bounds of a [`walk`].
#[derive(Clone, Copy)]
pub(super) struct Blocking {
    /// k-groups of a whole sum.
    pub k: usize,
    /// k-groups of a k-block.
    pub kc: usize,
    /// Strips of the task's rows.
    pub strips: Strips,
    /// Panels that a strip is multiplied with side by side. The task has a multiple of them.
    pub streams: usize,
    /// Rows of sums of each of these panels.
    pub sum_rows: usize,
    /// True if the microkernel's sums are f32 that need no scale: C may receive them directly.
    pub bare_sums: bool,
}

/// Strips of a task's rows, of equal height: a last strip of two rows would run at a fraction of the speed. Strips
/// that are one row higher come first: AMX configures its tiles anew where the height changes.
#[derive(Clone, Copy)]
pub(super) struct Strips {
    rows: usize,
    /// Rows of a strip in front of the others, or 0.
    first: usize,
    /// Number of the others.
    equal: usize,
}

impl Strips {
    /// Strips of at most `most` rows.
    #[inline(always)]
    pub fn of(rows: usize, most: usize) -> Self {
        Self::after(0, rows, most)
    }

    /// A strip of `first` rows, if not 0, and strips of at most `most` rows.
    #[inline(always)]
    pub fn after(first: usize, rows: usize, most: usize) -> Self {
        Self { rows, first, equal: (rows - first).div_ceil(most) }
    }

    #[inline(always)]
    fn count(self) -> usize {
        usize::from(self.first > 0) + self.equal
    }

    /// Index of strip `i` among the strips of equal height, and their number.
    #[inline(always)]
    fn share(self, i: usize) -> [usize; 2] {
        [i.saturating_sub(usize::from(self.first > 0)), self.equal]
    }

    /// Rows of strip `i`.
    #[inline(always)]
    fn rows(self, i: usize) -> Range<usize> {
        if i == 0 && self.first > 0 {
            return 0..self.first;
        }
        let (rows, i) = (self.rows - self.first, self.share(i)[0]);
        let start = |i: usize| self.first + rows / self.equal * i + i.min(rows % self.equal);
        start(i)..start(i + 1)
    }
}

/// One strip of rows at one k-block of a panel.
pub(super) struct Strip {
    /// Rows of the task.
    pub rows: Range<usize>,
    /// Index among the strips that prefetch the next panel together, and their number.
    pub share: [usize; 2],
    /// k-groups of the block.
    pub k: Range<usize>,
    /// Sums of the first row, in C or in scratch memory.
    pub c: *mut f32,
    /// Distance between the rows of `c`.
    pub c_stride: usize,
}

impl Strip {
    /// True if the sums continue the sums of the k-block before.
    #[inline(always)]
    pub fn accumulates(&self) -> bool {
        self.k.start > 0
    }

    /// The microkernel's arguments for a panel whose k-groups of this block stand at `b`. The strips of the
    /// block together prefetch as many k-groups at `next`.
    #[inline(always)]
    pub fn tile<I: Isa>(&self, a: PackedRows, b: *const f32, next: *const f32) -> Tile {
        let (rows, k, [strip, strips]) = (self.rows.len(), self.k.len(), self.share);
        Tile {
            rows,
            k,
            a: a.at(self.k.start, self.rows.start),
            b,
            b_stride: I::NR,
            c: self.c,
            c_stride: self.c_stride,
            accumulate: self.accumulates(),
            prefetch: Prefetch::share::<I>((next, k * I::NR), [rows, k], strip, strips),
        }
    }
}

/// Rows of A packed to slabs of [`KC`] k-groups.
#[derive(Clone, Copy)]
pub(super) struct PackedRows {
    pub first: *const f32,
    pub rows: usize,
}

impl PackedRows {
    /// Address of k-group `k` of row `row`.
    #[inline(always)]
    pub fn at(self, k: usize, row: usize) -> *const f32 {
        self.first.wrapping_add((k / KC * self.rows + row) * A_STRIDE + k % KC)
    }
}

/// Steps of a [`walk`] that differ from path to path: where panels of B come from, and which microkernel
/// multiplies them.
pub(super) trait GemmPath<I: Isa> {
    /// Enters `panel`, the first of those side by side (loop jr).
    ///
    /// # Safety
    /// The panels belong to the task.
    unsafe fn open_panel(&mut self, isa: I, panel: usize);

    /// Enters the k-block of these k-groups (loop pc).
    ///
    /// # Safety
    /// `open_panel` was called, and the panel has these k-groups.
    #[inline(always)]
    unsafe fn open_block(&mut self, _: I, _: Range<usize>) {}

    /// Multiplies a strip of rows with the k-block of the panels (loop ir).
    ///
    /// # Safety
    /// `open_block` was called with the strip's k-groups. `strip.c` is valid for writes of `NR` sums in each
    /// row of each panel, and for reads if the strip accumulates; nothing else touches them.
    unsafe fn multiply(&mut self, isa: I, strip: Strip);

    /// Scales finished sums of rows of a panel before the epilogue.
    #[inline(always)]
    fn scale(&self, _: I, _panel: usize, _rows: Range<usize>, _sums: &mut [f32]) {}
}

/// Computes the block of C of a task.
///
/// # Safety
/// - the operands' shapes fit each other, and nothing else touches the task's block of C;
/// - `path` was made for this task, with these strips;
/// - `sums` holds `NR` floats for each of `sum_rows` rows of each of `streams` panels, and for all rows.
#[inline(always)]
pub(super) unsafe fn walk<I: Isa, P: GemmPath<I>>(
    isa: I,
    product: &Product<'_>,
    task: &GemmTask,
    blocking: Blocking,
    sums: &mut [f32],
    mut path: P,
) {
    let Blocking { k, kc, strips, streams, sum_rows, bare_sums } = blocking;
    let (n, width) = (product.shape[2], product.width::<I>());
    let [_, c_row_stride, c_column_stride] = product.c_strides;
    let c = product.c_at(task.batch, task.rows.start, 0);
    let sums = sums.as_mut_ptr();
    // C itself holds sums that need nothing more, except sums of several k-blocks: they would go to and fro
    // between registers and a C that may straddle cache lines.
    let plain = bare_sums && k <= KC && c_column_stride == 1 && product.is_plain();
    for panel in task.panels.clone().step_by(streams) {
        // jr
        let column = panel * width;
        let whole = column + streams * width <= n;
        let direct = c.floats().filter(|_| plain && whole);
        let (first_sum, c_stride) = match direct {
            Some(c) => (c.wrapping_add(column), c_row_stride),
            None => (sums, I::NR),
        };
        let prefetches_c = product.prefetches_c(direct.is_some());
        // SAFETY: the panels are the task's.
        unsafe { path.open_panel(isa, panel) };
        // With k = 0, one empty block: its sums are still to be stored.
        for pc in (0..k.max(1)).step_by(kc) {
            let block = pc..k.min(pc + kc);
            let is_last = block.end == k;
            // SAFETY: the panel is open, and `block` lies in 0..k.
            unsafe { path.open_block(isa, block.clone()) };
            for ir in 0..strips.count() {
                let rows = strips.rows(ir);
                // Finished rows go to C in a burst: stores that had to wait for their lines took up to a tenth
                // of the time of a product whose C is larger than L2, and a quarter at k = 32.
                if is_last && prefetches_c {
                    let first = c.add(rows.start * c_row_stride + column);
                    for row in 0..rows.len() {
                        first.add(row * c_row_stride).prefetch(isa, width);
                    }
                }
                // SAFETY: the block is open. The strip's rows are rows of `sums`, or of C, which only this
                // task touches.
                unsafe {
                    let strip = Strip {
                        rows: rows.clone(),
                        share: strips.share(ir),
                        k: block.clone(),
                        c: first_sum.add(rows.start * c_stride),
                        c_stride,
                    };
                    path.multiply(isa, strip);
                }
                if !is_last || direct.is_some() {
                    continue;
                }
                for q in 0..streams {
                    // SAFETY: the strip's sums of panel q, and its rows and columns of C.
                    unsafe {
                        let first = sums.add((q * sum_rows + rows.start) * I::NR);
                        let sums = core::slice::from_raw_parts_mut(first, rows.len() * I::NR);
                        path.scale(isa, panel + q, rows.clone(), sums);
                        product.finish::<I>(task.batch, column + q * width).rows(
                            isa,
                            sums,
                            task.rows.start + rows.start,
                        );
                    }
                }
            }
        }
    }
}
