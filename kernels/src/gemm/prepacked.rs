//! Products of f32 with panels that are packed already: strips of rows, or GEMV.

use super::pack::{pack_a, packed_a_len};
use super::product::Product;
use super::tasks::{GemmTask, TaskGrid};
use super::walk::{Blocking, GemmPath, PackedRows, Strip, Strips, walk};
use crate::isa::tile::{STREAMS, gemv_panels};
use crate::isa::{F32, Isa, KC, Prefetch, Tile};
use crate::scratch;

/// Packed panels of f32.
#[derive(Clone, Copy)]
pub(super) struct F32Panels<'a> {
    pub floats: &'a [f32],
    /// Index of the first panel of `floats`.
    pub first: usize,
}

impl F32Panels<'_> {
    /// Address of a panel of `k` k-steps.
    #[inline(always)]
    fn at<I: Isa>(&self, panel: usize, k: usize) -> *const f32 {
        self.floats[(panel - self.first) * k * I::NR..].as_ptr()
    }
}

impl Product<'_> {
    /// Computes the blocks of C of a grid from packed panels.
    ///
    /// # Safety
    /// As [`walk`]; `b` holds the grid's panels, packed for `I`.
    pub(super) unsafe fn prepacked<I: Isa>(&self, isa: I, b: F32Panels<'_>, grid: &TaskGrid) {
        self.for_tasks::<I>(grid, self.k, |task| {
            let rows = task.rows.len();
            let floats = [packed_a_len(rows, self.k), rows.max(STREAMS) * I::NR];
            scratch::with(floats.iter().sum(), |memory| {
                let (a, sums) = memory.split_at_mut(floats[0]);
                // SAFETY: `a` has room for the rows; tasks are disjoint blocks of C, which the caller of
                // `prepacked` owns.
                unsafe {
                    let a = self.pack_task(isa, &task, a);
                    if rows == 1 {
                        self.gemv(isa, b, &task, a, sums)
                    } else {
                        self.strips(isa, b, &task, a, sums)
                    }
                }
            });
        });
    }

    /// Packs the task's rows of A as f32.
    ///
    /// # Safety
    /// `to` has room for [`packed_a_len`] floats.
    #[inline(always)]
    pub(super) unsafe fn pack_task<I: Isa>(&self, isa: I, task: &GemmTask, to: &mut [f32]) -> PackedRows {
        let a = self.a.of_batch(task.batch).slice(0, task.rows.clone());
        isa.run(
            #[inline(always)]
            // SAFETY: `to` has room (precondition of `pack_task`).
            || unsafe { pack_a(isa, a, to.as_mut_ptr()) },
        );
        PackedRows { first: to.as_ptr(), rows: task.rows.len() }
    }

    /// Computes one block of C, strip by strip.
    ///
    /// # Safety
    /// As [`walk`]; `b` holds the task's panels.
    unsafe fn strips<I: Isa>(
        &self,
        isa: I,
        b: F32Panels<'_>,
        task: &GemmTask,
        a: PackedRows,
        sums: &mut [f32],
    ) {
        let blocking = Blocking {
            k: self.k,
            kc: KC,
            strips: Strips::of(a.rows, I::MR),
            streams: 1,
            sum_rows: a.rows,
            bare_sums: true,
        };
        let path = Prepacked { a, b, k: self.k, panel: a.first };
        isa.run(
            #[inline(always)]
            // SAFETY: the path is of this task (preconditions of `strips`).
            || unsafe { walk(isa, self, task, blocking, sums, path) },
        );
    }

    /// Computes one row of C, reading [`STREAMS`] panels side by side and the rest one by one.
    ///
    /// # Safety
    /// As [`strips`](Self::strips), for a task of one row.
    unsafe fn gemv<I: Isa>(
        &self,
        isa: I,
        b: F32Panels<'_>,
        task: &GemmTask,
        a: PackedRows,
        sums: &mut [f32],
    ) {
        let [streams, rest] = task.split_panels(STREAMS, usize::MAX);
        let blocking = Blocking {
            k: self.k,
            kc: KC,
            strips: Strips::of(1, 1),
            streams: STREAMS,
            sum_rows: 1,
            bare_sums: true,
        };
        let path = Gemv(Prepacked { a, b, k: self.k, panel: a.first });
        isa.run(
            #[inline(always)]
            // SAFETY: the path is of this task, and `sums` has room for STREAMS panels (preconditions of `gemv`).
            || unsafe { walk(isa, self, &streams, blocking, sums, path) },
        );
        if !rest.panels.is_empty() {
            // SAFETY: `a`, `b` and `sums` are of this task (preconditions of `gemv`).
            unsafe { self.strips(isa, b, &rest, a, sums) };
        }
    }
}

/// Strips of rows by packed panels.
struct Prepacked<'a> {
    a: PackedRows,
    b: F32Panels<'a>,
    k: usize,
    /// The panel that is open.
    panel: *const f32,
}

impl<I: Isa> GemmPath<I> for Prepacked<'_> {
    #[inline(always)]
    unsafe fn open_panel(&mut self, _: I, panel: usize) {
        self.panel = self.b.at::<I>(panel, self.k);
    }

    #[inline(always)]
    unsafe fn multiply(&mut self, isa: I, strip: Strip) {
        let b = self.panel.wrapping_add(strip.k.start * I::NR);
        // SAFETY: the strip's rows of A, k-steps of the panel and sums (preconditions of `multiply`).
        unsafe { isa.gemm_tile(strip.tile::<I>(self.a, b, b.wrapping_add(self.k * I::NR))) };
    }
}

/// One row by [`STREAMS`] packed panels.
struct Gemv<'a>(Prepacked<'a>);

impl<I: Isa> GemmPath<I> for Gemv<'_> {
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
            gemv_panels(isa, F32, tile, self.0.k * I::NR);
        }
    }
}
