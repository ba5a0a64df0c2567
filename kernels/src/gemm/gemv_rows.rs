//! GEMV with an unpacked weight \[out, in\]: columns of B are rows in memory, transposed in registers.

use super::packing::{Floats, Packing};
use super::product::Product;
use super::rhs::of_batch;
use super::walk::{Blocking, GemmPath, Strip, Strips, walk};
use crate::isa::tile::{gemv_rows, row_panels};
use crate::isa::{Isa, L2_BYTES, Prefetch, Tile, Vector};
use crate::scratch;
use crate::view::View;

/// Floats of the largest weight that a shared L3 is taken to keep from one product to the next: 16 MiB.
const L3_FLOATS: usize = 4 << 20;

impl Product<'_> {
    /// True if [`gemv_rows`](Self::gemv_rows) computes this product: one row, and a B that is used once and whose
    /// columns are rows of whole vectors in memory.
    pub(super) fn is_gemv_of_rows<I: Isa>(&self, b: View<'_, 3>) -> bool {
        self.shape[1] == 1
            && self.k > 0
            && self.k.is_multiple_of(I::V::LANES)
            && b.strides()[1] == 1
            && self.a.floats().is_some_and(|a| a.strides()[2] == 1)
            && !self.keeps_panels(b.into(), self.row_blocks::<I>(L2_BYTES, 1, self.k))
    }

    /// Computes C of one row. Panels at the edge of a task are packed.
    ///
    /// # Safety
    /// As [`walk`], for all of C; [`is_gemv_of_rows`](Self::is_gemv_of_rows).
    pub(super) unsafe fn gemv_rows<I: Isa>(&self, isa: I, b: View<'_, 3>) {
        let a = self.a.floats().expect("rows of f32");
        self.for_tasks::<I>(&self.grid::<I>(1), self.k, |task| {
            let streams = row_panels::<I>();
            let [whole, edge] = task.split_panels(streams, self.shape[2] / I::NR);
            let blocking = Blocking {
                k: self.k,
                // Rows of B are read from end to end: with the processor's prefetches started anew every 128
                // k-steps, a weight of 64 MiB took 6.0 ms instead of 3.8.
                kc: self.k,
                strips: Strips::of(1, 1),
                streams,
                sum_rows: 1,
                bare_sums: true,
            };
            let path = GemvRows { a: of_batch(a, task.batch), b: of_batch(b, task.batch), column: 0 };
            scratch::with(streams * I::NR, |sums| {
                isa.run(
                    #[inline(always)]
                    // SAFETY: tasks are disjoint blocks of C; `sums` has room for the panels.
                    || unsafe { walk(isa, self, &whole, blocking, sums, path) },
                );
            });
            if edge.panels.is_empty() {
                return;
            }
            let [block, sums] = Self::once_floats::<I>();
            let a_floats = super::pack::packed_a_len(1, self.k);
            scratch::with(a_floats + block + sums, |memory| {
                let (a, memory) = memory.split_at_mut(a_floats);
                let (block, sums) = memory.split_at_mut(block);
                // SAFETY: the panels that are left; the memory has room for one row of A, a block, and sums.
                unsafe {
                    let a = Floats::EXACT.rows(isa, self.rows_of(&edge), a);
                    self.pack_once(isa, Floats::EXACT, b.into(), &edge, a, block, sums);
                }
            });
        });
    }
}

/// One row by columns of B that are rows in memory.
struct GemvRows<'a> {
    a: View<'a, 2>,
    b: View<'a, 2>,
    /// First column of the panels that are open.
    column: usize,
}

impl<I: Isa> GemmPath<I> for GemvRows<'_> {
    #[inline(always)]
    unsafe fn open_panel(&mut self, _: I, panel: usize) {
        self.column = panel * I::NR;
    }

    #[inline(always)]
    unsafe fn multiply(&mut self, isa: I, strip: Strip) {
        let ([k, n], [_, stride]) = (self.b.shape(), self.b.strides());
        let b = self.b.as_ptr().wrapping_add(self.column * stride + strip.k.start);
        let tile = Tile {
            rows: 1,
            k: strip.k.len(),
            a: self.a.as_ptr().wrapping_add(strip.k.start),
            b,
            b_stride: stride,
            c: strip.c,
            c_stride: I::NR,
            accumulate: strip.accumulates(),
            prefetch: Prefetch::none(b),
        };
        let vectors = row_panels::<I>() * I::NR / I::V::LANES;
        // SAFETY: all of the panels' columns are B's, for `split_panels` ended at the last whole panel; the sums
        // are the strip's (precondition of `multiply`).
        unsafe {
            match n * k > L3_FLOATS {
                true => gemv_rows::<I, true>(isa, tile, vectors),
                false => gemv_rows::<I, false>(isa, tile, vectors),
            }
        }
    }
}
