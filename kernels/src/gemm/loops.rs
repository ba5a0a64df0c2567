//! The loops around the register tile; see the head of [`gemm`](super) for their order.

use super::format::Format;
use super::pack::{pack_a, pack_panel, packed_a_len};
use super::product::Product;
use super::rhs::{Rhs, of_batch};
use super::tasks::GemmTask;
use crate::isa::KC;
use crate::isa::tile::{STREAMS, row_panels, row_times_panels, row_times_rows};
use crate::isa::{A_STRIDE, F32, Isa, Prefetch, Tile, Vector};
use crate::parallel::part;
use crate::scratch;
use crate::view::View;
use core::ops::Range;

/// Bytes of B that are packed at a time where an unpacked B serves several blocks of rows: far more
/// than a block's A, so that packing A again for each of them is cheap, and well inside an L3 (and if
/// not, each of the blocks of rows needs only about 5 GB/s of it).
const B_BLOCK_BYTES: usize = 16 << 20;

/// Floats of the largest weight that a shared L3 is taken to keep from one product to the next: 16 MiB.
const L3_FLOATS: usize = 4 << 20;

/// k-steps that are packed at a time for a single strip of rows: at most 16 KiB, which stay in L1 from
/// the packing to their only use, and stretches of B long enough for the hardware's prefetchers.
pub(super) const ONCE_KC: usize = 128;
const _: () = assert!(KC.is_multiple_of(ONCE_KC)); // A is packed in slabs of KC

/// Where a task finds its panels of B.
#[derive(Clone, Copy)]
enum Source<'a> {
    /// Packed panels, the first of which has this index.
    Panels(&'a [f32], usize),
    /// A matrix, or a gated pair, to be packed on the variant; and the memory of packed panels, the first
    /// of which has this index, if other tasks will want them.
    Unpacked(View<'a, 3>, Option<View<'a, 3>>, Option<(Memory, usize)>),
}

/// Memory that tasks write disjoint parts of.
#[derive(Clone, Copy)]
struct Memory(*mut f32);

// SAFETY: see above; whoever makes one sees to it.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl<'a> Product<'a> {
    /// Computes C.
    ///
    /// # Safety
    /// The operands' shapes fit each other; `b` is packed for `I` if it is packed; C is not empty,
    /// valid for writes (for reads if `beta` is not 0), and no one else's.
    pub(super) unsafe fn run<I: Isa>(&self, isa: I, b: Rhs<'_>) {
        if let Rhs::Packed(b) = b
            && b.format() != Format::F32
        {
            // SAFETY: the caller's.
            return unsafe { self.run_reduced(isa, b) };
        }
        if self.is_small::<I>() {
            // SAFETY: the caller's.
            return unsafe { self.small(isa, b) };
        }
        let [batch, _, n] = self.shape;
        let panels = n.div_ceil(self.width::<I>());
        let (b, up) = match b {
            Rhs::Packed(b) => {
                let all = self.row_blocks_of_threads::<I>(self.k);
                return self.tasks(isa, Source::Panels(b.panels(), 0), 0..batch, 0..all, all, 0..panels);
            }
            Rhs::Matrix(b) => (b, None),
            Rhs::Gated { gate, up } => (gate, Some(up)),
        };
        let blocks = self.row_blocks::<I>(1, self.k);
        let shared = b.shape()[0] == 1 && up.is_none_or(|up| up.shape()[0] == 1);
        if self.k == 0 || (blocks == 1 && (batch == 1 || !shared)) {
            return self.tasks(isa, Source::Unpacked(b, up, None), 0..batch, 0..blocks, blocks, 0..panels);
        }
        // The first block of rows packs the panels for all others.
        let at_once = (B_BLOCK_BYTES / size_of::<f32>() / (self.k * I::NR)).clamp(1, panels);
        for s in 0..if shared { 1 } else { batch } {
            for jc in (0..panels).step_by(at_once) {
                let chunk = jc..panels.min(jc + at_once);
                scratch::with(chunk.len() * self.k * I::NR, |memory| {
                    let keep = Some((Memory(memory.as_mut_ptr()), jc));
                    self.tasks(isa, Source::Unpacked(b, up, keep), s..s + 1, 0..1, blocks, chunk.clone());
                    let packed = Source::Panels(memory, jc);
                    self.tasks(isa, packed, s..s + 1, 1..blocks, blocks, chunk.clone());
                    if shared {
                        self.tasks(isa, packed, 1..batch, 0..blocks, blocks, chunk.clone());
                    }
                });
            }
        }
    }

    /// Computes the blocks of C that these products, blocks of rows (of `row_blocks`) and panels make, on
    /// the threads of the pool.
    fn tasks<I: Isa>(
        &self,
        isa: I,
        b: Source<'_>,
        batches: Range<usize>,
        blocks: Range<usize>,
        row_blocks: usize,
        panels: Range<usize>,
    ) {
        self.for_tasks::<I>(batches, blocks, row_blocks, panels, self.k, |task| {
            let rows = task.rows.len();
            let steps =
                if matches!(b, Source::Unpacked(.., None)) { self.k.max(STREAMS * ONCE_KC) } else { 0 };
            let floats = [packed_a_len(rows, self.k), steps * I::NR, rows.max(STREAMS) * I::NR];
            scratch::with(floats.iter().sum(), |memory| {
                let (a, memory) = memory.split_at_mut(floats[0]);
                let (unpacked, sums) = memory.split_at_mut(floats[1]);
                // SAFETY: tasks are disjoint blocks of C, whose owner called `run`.
                isa.run(
                    #[inline(always)]
                    || unsafe { self.block(isa, b, &task, a, unpacked, sums) },
                );
            });
        });
    }

    /// Computes one block of C.
    ///
    /// # Safety
    /// The operands' shapes fit each other; no one else touches the block; the memory has room for
    /// the task's packed A, an unpacked panel (if it has no place of its own), and a tile's width of
    /// sums for each of its rows, or `STREAMS` rows.
    #[inline(always)]
    unsafe fn block<I: Isa>(
        &self,
        isa: I,
        b: Source<'_>,
        task: &GemmTask,
        packed_a: &mut [f32],
        unpacked: &mut [f32],
        sums: &mut [f32],
    ) {
        let a = self.a.of_batch(task.batch).slice(0, task.rows.clone());
        let ([m, k], n, width) = (a.shape(), self.shape[2], self.width::<I>());
        // SAFETY: `packed_a` is that long.
        unsafe { pack_a(isa, a, packed_a.as_mut_ptr()) };
        let unpacked = unpacked.as_mut_ptr();
        let c = self.c.add(task.batch * self.c_strides[0]);
        let c_strides = [self.c_strides[1], self.c_strides[2]];
        let plain = self.is_plain() && c.floats().is_some();
        // Strips of equal height: a last one of two rows would run at a fraction of the speed.
        let strips = m.div_ceil(I::MR);
        // What a single strip packs it uses only once.
        let once = strips == 1 && matches!(b, Source::Unpacked(.., None));
        let once_step = if once { ONCE_KC } else { KC };
        // And a single row needs no memory in between, where columns of B are rows of whole vectors.
        let as_rows = match b {
            Source::Unpacked(b, None, None)
                if m == 1 && k > 0 && k % I::V::LANES == 0 && b.strides()[1] == 1 && a.strides()[1] == 1 =>
            {
                a.floats().map(|a| (a.as_ptr(), of_batch(b, task.batch)))
            }
            _ => None,
        };

        let mut panel = task.panels.start;
        while panel < task.panels.end {
            let column = panel * width;
            let as_rows = as_rows.filter(|_| {
                let end = panel + row_panels::<I>();
                end <= task.panels.end && end * width <= n
            });
            // Rows of B are read from end to end: ONCE_KC steps at a time, with the processor's prefetches
            // started anew as often, a weight of 64 MiB took 6.0 ms instead of 3.8.
            let step = if as_rows.is_some() { k } else { once_step };
            // One row reads several panels side by side.
            let streams = match b {
                Source::Panels(..) if m == 1 && panel + STREAMS <= task.panels.end => STREAMS,
                _ if as_rows.is_some() => row_panels::<I>(),
                _ => 1,
            };
            let columns = column..n.min(column + streams * width);
            // Sums that need nothing more are made in C itself; not those of several K blocks, which
            // would go to and fro between registers and a C that may straddle cache lines.
            let direct = plain && k <= KC && columns.len() == streams * I::NR && c_strides[1] == 1;
            let fetches_c = self.fetches_c(direct);
            let (out, out_stride) = if let Some(floats) = c.floats().filter(|_| direct) {
                let first = floats.wrapping_add(task.rows.start * c_strides[0] + column);
                (first, if streams > 1 { I::NR } else { c_strides[0] })
            } else {
                (sums.as_mut_ptr(), I::NR)
            };
            let (panel_b, next_b) = match b {
                Source::Panels(floats, first) => {
                    let panel_b = floats[(panel - first) * k * I::NR..].as_ptr();
                    (panel_b, panel_b.wrapping_add(k * I::NR))
                }
                Source::Unpacked(b, up, keep) => {
                    let to = match keep {
                        // SAFETY: the place of this panel, which is this task's alone.
                        Some((memory, first)) => unsafe { memory.0.add((panel - first) * k * I::NR) },
                        None => unpacked,
                    };
                    if !once {
                        // SAFETY: k rows of NR floats of memory.
                        unsafe { self.pack(isa, [Some(b), up], task.batch, 0..k, columns.clone(), to) };
                    }
                    let b = of_batch(b, task.batch);
                    (to.cast_const(), b.as_ptr().wrapping_add(columns.end * b.strides()[1]))
                }
            };
            // The sums over no k-steps at all are still to be stored.
            for pc in (0..k.max(1)).step_by(step) {
                let kc = step.min(k - pc);
                let b_at = match (b, as_rows) {
                    (_, Some((_, b))) => b.as_ptr().wrapping_add(column * b.strides()[1] + pc),
                    (Source::Unpacked(b, up, _), None) if once => {
                        // SAFETY: ONCE_KC rows of NR floats of memory.
                        unsafe {
                            self.pack(isa, [Some(b), up], task.batch, pc..pc + kc, columns.clone(), unpacked);
                        }
                        panel_b
                    }
                    _ => panel_b.wrapping_add(pc * I::NR),
                };
                let slab = match as_rows {
                    Some((a, _)) => a,
                    None => packed_a[pc / KC * m * A_STRIDE + pc % KC..].as_ptr(),
                };
                for strip in 0..strips {
                    let rows = part(m, strips, strip);
                    // SAFETY: rows of the slab, and rows of the sums, or of C.
                    let tile = unsafe {
                        Tile {
                            rows: rows.len(),
                            k: kc,
                            a: slab.wrapping_add(rows.start * A_STRIDE),
                            b: b_at,
                            b_stride: I::NR,
                            c: out.add(rows.start * out_stride),
                            c_stride: out_stride,
                            accumulate: pc > 0,
                            prefetch: if once {
                                Prefetch::none(b_at)
                            } else {
                                // Together, the tiles of a panel prefetch the next one, packed or not
                                // (exactly, where its columns follow each other in memory).
                                Prefetch::share::<I>(
                                    (next_b.wrapping_add(pc * I::NR), kc * I::NR),
                                    [rows.len(), kc],
                                    strip,
                                    strips,
                                )
                            },
                        }
                    };
                    // Finished rows go to C in a burst: stores that had to wait for their lines took up
                    // to a tenth of the time of a product whose C is larger than L2, and a quarter at
                    // k = 32.
                    if pc + step >= k && fetches_c {
                        let first = c.add((task.rows.start + rows.start) * c_strides[0] + column);
                        for row in 0..rows.len() {
                            first.add(row * c_strides[0]).prefetch(isa, width);
                        }
                    }
                    // SAFETY: kc x NR floats of B; one row has `STREAMS` panels, k * NR apart, or as many
                    // columns of B as `row_times_rows` takes.
                    unsafe {
                        if let Some((_, b)) = as_rows {
                            let tile = Tile { b_stride: b.strides()[1], ..tile };
                            let vectors = columns.len() / I::V::LANES;
                            match n * k > L3_FLOATS {
                                true => row_times_rows::<I, true>(isa, tile, vectors),
                                false => row_times_rows::<I, false>(isa, tile, vectors),
                            }
                        } else if streams > 1 {
                            row_times_panels(isa, F32, tile, k * I::NR);
                        } else {
                            isa.gemm_tile(tile);
                        }
                    }
                    if pc + step < k || direct {
                        continue;
                    }
                    for q in 0..streams {
                        let column = column + q * width;
                        let finish = self.finish::<I>(task.batch, column);
                        // SAFETY: the strip's sums, of each panel, and its rows and columns of C.
                        unsafe {
                            let sums = tile.c.add(q * I::NR);
                            let sums = core::slice::from_raw_parts_mut(sums, rows.len() * I::NR);
                            finish.rows(isa, sums, task.rows.start + rows.start);
                        }
                    }
                }
            }
            panel += streams;
        }
    }

    /// Packs these k-steps and columns of a matrix or a gated pair to `to`, `NR` floats a step.
    ///
    /// # Safety
    /// `to` is valid for writes of `NR` floats for each k-step; the columns are at most a panel's.
    #[inline(always)]
    unsafe fn pack<I: Isa>(
        &self,
        isa: I,
        pair: [Option<View<'_, 3>>; 2],
        batch: usize,
        steps: Range<usize>,
        columns: Range<usize>,
        to: *mut f32,
    ) {
        let width = self.width::<I>();
        for (half, b) in pair.into_iter().flatten().enumerate() {
            let b = of_batch(b, batch).slice(0, steps.clone()).slice(1, columns.clone());
            // SAFETY: this half of the rows.
            unsafe { pack_panel(isa, b, to.add(half * width), width) };
        }
    }
}
