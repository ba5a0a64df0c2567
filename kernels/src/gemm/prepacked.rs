//! Products with panels that are packed already, in f32 or on the fly: strips of rows, or GEMV.

use super::lhs::Lhs;
use super::pack::packed_a_len;
use super::packing::Packing;
use super::product::Product;
use super::tasks::{GemmTask, TaskGrid};
use super::walk::{Blocking, GemmPath, PackedRows, Strip, Strips, walk};
use crate::isa::tile::STREAMS;
use crate::isa::{Isa, KC, Microkernel, Prefetch, Tile};
use crate::scratch;

/// Panels that follow each other in memory.
#[derive(Clone, Copy)]
pub(super) struct PackedPanels<'a> {
    pub floats: &'a [f32],
    /// Index of the first panel of `floats`.
    pub first: usize,
}

impl PackedPanels<'_> {
    /// Address of a panel of `k` k-groups.
    #[inline(always)]
    fn at<I: Isa>(&self, panel: usize, k: usize) -> *const f32 {
        self.floats[(panel - self.first) * k * I::NR..].as_ptr()
    }
}

impl<'a> Product<'a> {
    /// Computes the blocks of C of a grid from packed panels.
    ///
    /// # Safety
    /// As [`walk`]; `b` holds the grid's panels, packed for `I` by `packing`.
    pub(super) unsafe fn prepacked<I: Isa, P: Packing<I>>(
        &self,
        isa: I,
        packing: P,
        b: PackedPanels<'_>,
        grid: &TaskGrid,
    ) {
        let k = P::k_groups(self.k);
        self.for_tasks::<I>(grid, k, |task| {
            let rows = task.rows.len();
            let floats = [packed_a_len(rows, k), rows.max(STREAMS) * I::NR];
            scratch::with(floats.iter().sum(), |memory| {
                let (a, sums) = memory.split_at_mut(floats[0]);
                let a = packing.rows(isa, self.rows_of(&task), a);
                let path = Prepacked { microkernel: packing.microkernel(), a, b, k, panel: a.first };
                // SAFETY: `a` has the task's rows; tasks are disjoint blocks of C, which the caller of `prepacked`
                // owns.
                unsafe {
                    if rows == 1 {
                        self.gemv(isa, path, &task, sums)
                    } else {
                        self.strips(isa, path, &task, sums)
                    }
                }
            });
        });
    }

    /// The task's rows of A.
    #[inline(always)]
    pub(super) fn rows_of(&self, task: &GemmTask) -> Lhs<'a, 2> {
        self.a.of_batch(task.batch).slice(0, task.rows.clone())
    }

    /// Computes one block of C, strip by strip.
    ///
    /// # Safety
    /// As [`walk`]; `b` holds the task's panels.
    unsafe fn strips<I: Isa, M: Microkernel<I>>(
        &self,
        isa: I,
        path: Prepacked<'_, M>,
        task: &GemmTask,
        sums: &mut [f32],
    ) {
        let rows = path.a.rows;
        let blocking = Blocking {
            k: path.k,
            kc: path.microkernel.kc(),
            strips: Strips::of(rows, path.microkernel.rows()),
            streams: 1,
            sum_rows: rows,
            bare_sums: true,
        };
        isa.run(
            #[inline(always)]
            || {
                path.microkernel.session(
                    #[inline(always)]
                    // SAFETY: the path is of this task (preconditions of `strips`).
                    || unsafe { walk(isa, self, task, blocking, sums, path) },
                );
            },
        );
    }

    /// Computes one row of C, reading [`STREAMS`] panels side by side and the rest one by one.
    ///
    /// # Safety
    /// As [`strips`](Self::strips), for a task of one row.
    unsafe fn gemv<I: Isa, M: Microkernel<I>>(
        &self,
        isa: I,
        path: Prepacked<'_, M>,
        task: &GemmTask,
        sums: &mut [f32],
    ) {
        let [streams, rest] = task.split_panels(STREAMS, usize::MAX);
        let blocking = Blocking {
            k: path.k,
            kc: KC,
            strips: Strips::of(1, 1),
            streams: STREAMS,
            sum_rows: 1,
            bare_sums: true,
        };
        isa.run(
            #[inline(always)]
            // SAFETY: the path is of this task, and `sums` has room for STREAMS panels (preconditions of `gemv`).
            || unsafe { walk(isa, self, &streams, blocking, sums, Gemv(path)) },
        );
        if !rest.panels.is_empty() {
            // SAFETY: the path and `sums` are of this task (preconditions of `gemv`).
            unsafe { self.strips(isa, path, &rest, sums) };
        }
    }
}

/// Strips of rows by packed panels.
#[derive(Clone, Copy)]
struct Prepacked<'a, M> {
    microkernel: M,
    a: PackedRows,
    b: PackedPanels<'a>,
    /// k-groups of a panel.
    k: usize,
    /// The panel that is open.
    panel: *const f32,
}

impl<I: Isa, M: Microkernel<I>> GemmPath<I> for Prepacked<'_, M> {
    #[inline(always)]
    unsafe fn open_panel(&mut self, _: I, panel: usize) {
        self.panel = self.b.at::<I>(panel, self.k);
    }

    #[inline(always)]
    unsafe fn multiply(&mut self, isa: I, strip: Strip) {
        let b = self.panel.wrapping_add(strip.k.start * I::NR);
        // SAFETY: the strip's rows of A, k-steps of the panel and sums (preconditions of `multiply`).
        unsafe {
            let tile = strip.tile::<I>(self.a, b, b.wrapping_add(self.k * I::NR));
            self.microkernel.run(isa, tile.typed());
        }
    }
}

/// One row by [`STREAMS`] packed panels.
struct Gemv<'a, M>(Prepacked<'a, M>);

impl<I: Isa, M: Microkernel<I>> GemmPath<I> for Gemv<'_, M> {
    #[inline(always)]
    unsafe fn open_panel(&mut self, isa: I, panel: usize) {
        // SAFETY: the panels are the task's (precondition of `open_panel`).
        unsafe { self.0.open_panel(isa, panel) };
    }

    #[inline(always)]
    unsafe fn multiply(&mut self, isa: I, strip: Strip) {
        let b = self.0.panel.wrapping_add(strip.k.start * I::NR);
        // SAFETY: the row, the k-steps of STREAMS panels, and their sums (preconditions of `multiply`).
        unsafe {
            let tile =
                Tile { c_stride: I::NR, prefetch: Prefetch::none(b), ..strip.tile::<I>(self.0.a, b, b) };
            self.0.microkernel.gemv(isa, tile.typed(), self.0.k * I::NR);
        }
    }
}
