//! Products of f32 with a B that is packed on the way.

use super::pack::{pack_panel, packed_a_len};
use super::prepacked::F32Panels;
use super::product::Product;
use super::rhs::of_batch;
use super::tasks::{GemmTask, TaskGrid};
use super::walk::{Blocking, GemmPath, PackedRows, Strip, Strips, walk};
use crate::isa::{Isa, KC, Prefetch, Tile};
use crate::scratch;
use crate::view::View;
use core::ops::Range;

/// Bytes of B that are packed at a time where an unpacked B serves several blocks of rows: far more
/// than a block's A, so that packing A again for each of them is cheap, and well inside an L3 (and if
/// not, each of the blocks of rows needs only about 5 GB/s of it).
const B_BLOCK_BYTES: usize = 16 << 20;

/// k-steps that are packed at a time for a single strip of rows: at most 16 KiB, which stay in L1 from
/// the packing to their only use, and stretches of B long enough for the hardware's prefetchers.
const ONCE_KC: usize = 128;
const _: () = assert!(KC.is_multiple_of(ONCE_KC)); // A is packed in slabs of KC

/// B, or a gated pair, as the caller stores it.
#[derive(Clone, Copy)]
pub(super) struct Unpacked<'a> {
    pub b: View<'a, 3>,
    pub up: Option<View<'a, 3>>,
}

impl Unpacked<'_> {
    /// True if one matrix serves all products of a batch.
    fn is_shared(&self) -> bool {
        self.b.shape()[0] == 1 && self.up.is_none_or(|up| up.shape()[0] == 1)
    }
}

/// Memory of packed panels that tasks fill, each its own panels.
#[derive(Clone, Copy)]
struct KeptPanels {
    floats: *mut f32,
    /// Index of the first panel.
    first: usize,
}

// SAFETY: the tasks of `pack_on_the_fly` write disjoint panels.
unsafe impl Send for KeptPanels {}
// SAFETY: as for `Send`: no two tasks touch one panel.
unsafe impl Sync for KeptPanels {}

impl Product<'_> {
    /// True if packed panels of `b` serve more than one task: they are kept then.
    pub(super) fn keeps_panels<I: Isa>(&self, b: Unpacked<'_>) -> bool {
        let blocks = self.row_blocks::<I>(1, self.k);
        self.k > 0 && (blocks > 1 || (self.shape[0] > 1 && b.is_shared()))
    }

    /// Computes C with panels that are packed on the way.
    ///
    /// # Safety
    /// As [`walk`], for all of C.
    pub(super) unsafe fn pack_on_the_fly<I: Isa>(&self, isa: I, b: Unpacked<'_>) {
        let all = self.grid::<I>(self.row_blocks::<I>(1, self.k));
        if !self.keeps_panels::<I>(b) {
            // SAFETY: the grid is all of C, which the caller owns.
            return unsafe { self.pack_for_tasks(isa, b, &all) };
        }
        let ([batch, ..], panels, blocks) = (self.shape, all.panels.end, all.row_blocks);
        let at_once = (B_BLOCK_BYTES / size_of::<f32>() / (self.k * I::NR)).clamp(1, panels);
        let shared = b.is_shared();
        for s in 0..if shared { 1 } else { batch } {
            for jc in (0..panels).step_by(at_once) {
                let panels = jc..panels.min(jc + at_once);
                let grid =
                    |batches, blocks| TaskGrid { batches, blocks, panels: panels.clone(), ..all.clone() };
                scratch::with(panels.len() * self.k * I::NR, |memory| {
                    // The first block of rows packs the panels for all others.
                    let kept = KeptPanels { floats: memory.as_mut_ptr(), first: jc };
                    // SAFETY: each grid is another part of C; `memory` has room for the grids' panels, which the
                    // first of them packs.
                    unsafe {
                        self.pack_and_keep(isa, b, kept, &grid(s..s + 1, 0..1));
                        let packed = F32Panels { floats: memory, first: jc };
                        self.prepacked(isa, packed, &grid(s..s + 1, 1..blocks));
                        if shared {
                            self.prepacked(isa, packed, &grid(1..batch, 0..blocks));
                        }
                    }
                });
            }
        }
    }

    /// Computes the blocks of C of a grid, and packs its panels to `kept`.
    ///
    /// # Safety
    /// As [`walk`]; the grid has one block of rows, and `kept` room for its panels.
    unsafe fn pack_and_keep<I: Isa>(&self, isa: I, b: Unpacked<'_>, kept: KeptPanels, grid: &TaskGrid) {
        self.for_tasks::<I>(grid, self.k, |task| {
            let rows = task.rows.len();
            scratch::with(packed_a_len(rows, self.k) + rows * I::NR, |memory| {
                let (a, sums) = memory.split_at_mut(packed_a_len(rows, self.k));
                let panel_floats = self.k * I::NR;
                // The whole struct is captured, which is what may be sent.
                let KeptPanels { floats, first } = { kept };
                let to = floats.wrapping_add((task.panels.start - first) * panel_floats);
                // SAFETY: tasks are disjoint blocks of C; `a`, `sums` and `to` have room for the task.
                unsafe {
                    let a = self.pack_task(isa, &task, a);
                    self.pack_panels(isa, b, &task, a, (to, panel_floats), sums);
                }
            });
        });
    }

    /// Computes the blocks of C of a grid; each task packs the panel it is at.
    ///
    /// # Safety
    /// As [`walk`].
    unsafe fn pack_for_tasks<I: Isa>(&self, isa: I, b: Unpacked<'_>, grid: &TaskGrid) {
        self.for_tasks::<I>(grid, self.k, |task| {
            let rows = task.rows.len();
            let once = rows <= I::MR;
            let steps = if once { ONCE_KC } else { self.k };
            let floats = [packed_a_len(rows, self.k), steps * I::NR, rows * I::NR];
            scratch::with(floats.iter().sum(), |memory| {
                let (a, memory) = memory.split_at_mut(floats[0]);
                let (panel, sums) = memory.split_at_mut(floats[1]);
                // SAFETY: tasks are disjoint blocks of C; `a`, `panel` and `sums` have room for the task.
                unsafe {
                    let a = self.pack_task(isa, &task, a);
                    if once {
                        self.pack_once(isa, b, &task, a, panel, sums);
                    } else {
                        self.pack_panels(isa, b, &task, a, (panel.as_mut_ptr(), 0), sums);
                    }
                }
            });
        });
    }

    /// Computes one block of C; packs each panel whole, for all strips of rows.
    ///
    /// # Safety
    /// As [`walk`]; `to` is valid for writes of the panels, `stride` floats apart.
    unsafe fn pack_panels<I: Isa>(
        &self,
        isa: I,
        b: Unpacked<'_>,
        task: &GemmTask,
        a: PackedRows,
        (to, stride): (*mut f32, usize),
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
        let source = PanelSource { product: self, b, batch: task.batch };
        let path = PackPanels { source, a, to, stride, first: task.panels.start, panel: to, next: to };
        isa.run(
            #[inline(always)]
            // SAFETY: the path is of this task (preconditions of `pack_panels`).
            || unsafe { walk(isa, self, task, blocking, sums, path) },
        );
    }

    /// Computes one block of C of a single strip, which uses once what it packs: [`ONCE_KC`] k-steps at a time.
    ///
    /// # Safety
    /// As [`walk`]; `block` has room for `ONCE_KC` k-steps.
    pub(super) unsafe fn pack_once<I: Isa>(
        &self,
        isa: I,
        b: Unpacked<'_>,
        task: &GemmTask,
        a: PackedRows,
        block: &mut [f32],
        sums: &mut [f32],
    ) {
        let blocking = Blocking {
            k: self.k,
            kc: ONCE_KC,
            strips: Strips::of(a.rows, I::MR),
            streams: 1,
            sum_rows: a.rows,
            bare_sums: true,
        };
        let source = PanelSource { product: self, b, batch: task.batch };
        let path = PackOnce { source, a, to: block.as_mut_ptr(), panel: 0 };
        isa.run(
            #[inline(always)]
            // SAFETY: the path is of this task (preconditions of `pack_once`).
            || unsafe { walk(isa, self, task, blocking, sums, path) },
        );
    }

    /// Memory of one row that [`pack_once`](Self::pack_once) needs: the block, and the sums.
    pub(super) fn once_floats<I: Isa>() -> [usize; 2] {
        [ONCE_KC * I::NR, I::NR]
    }
}

/// B of one product of a batch.
#[derive(Clone, Copy)]
struct PanelSource<'a> {
    product: &'a Product<'a>,
    b: Unpacked<'a>,
    batch: usize,
}

impl PanelSource<'_> {
    /// Columns of C that a panel makes.
    #[inline(always)]
    fn columns<I: Isa>(&self, panel: usize) -> Range<usize> {
        let width = self.product.width::<I>();
        panel * width..self.product.shape[2].min((panel + 1) * width)
    }

    /// Packs these k-steps of a panel to `to`, `NR` floats a step.
    ///
    /// # Safety
    /// `to` is valid for writes of `NR` floats for each k-step.
    #[inline(always)]
    unsafe fn pack<I: Isa>(&self, isa: I, panel: usize, steps: Range<usize>, to: *mut f32) {
        let (width, columns) = (self.product.width::<I>(), self.columns::<I>(panel));
        for (half, b) in [Some(self.b.b), self.b.up].into_iter().flatten().enumerate() {
            let b = of_batch(b, self.batch).slice(0, steps.clone()).slice(1, columns.clone());
            // SAFETY: a half of each k-step's NR floats (precondition of `pack`).
            unsafe { pack_panel(isa, b, to.add(half * width), width) };
        }
    }
}

/// Strips of rows by panels that are packed whole.
struct PackPanels<'a> {
    source: PanelSource<'a>,
    a: PackedRows,
    /// Memory of the task's panels, and floats from one to the next.
    to: *mut f32,
    stride: usize,
    /// The task's first panel.
    first: usize,
    /// The panel that is open.
    panel: *const f32,
    /// The next panel in B: exact where its columns follow each other in memory.
    next: *const f32,
}

impl<I: Isa> GemmPath<I> for PackPanels<'_> {
    #[inline(always)]
    unsafe fn open_panel(&mut self, isa: I, panel: usize) {
        let to = self.to.wrapping_add((panel - self.first) * self.stride);
        // SAFETY: `to` has room for the panel (precondition of `pack_panels`).
        unsafe { self.source.pack(isa, panel, 0..self.source.product.k, to) };
        self.panel = to;
        let b = of_batch(self.source.b.b, self.source.batch);
        self.next = b.as_ptr().wrapping_add(self.source.columns::<I>(panel).end * b.strides()[1]);
    }

    #[inline(always)]
    unsafe fn multiply(&mut self, isa: I, strip: Strip) {
        let [b, next] = [self.panel, self.next].map(|p| p.wrapping_add(strip.k.start * I::NR));
        // SAFETY: the strip's rows of A, k-steps of the panel and sums (preconditions of `multiply`).
        unsafe { isa.gemm_tile(strip.tile::<I>(self.a, b, next)) };
    }
}

/// A single strip of rows by blocks of panels that are packed one by one.
struct PackOnce<'a> {
    source: PanelSource<'a>,
    a: PackedRows,
    /// Memory of a block.
    to: *mut f32,
    /// Index of the panel that is open.
    panel: usize,
}

impl<I: Isa> GemmPath<I> for PackOnce<'_> {
    #[inline(always)]
    unsafe fn open_panel(&mut self, _: I, panel: usize) {
        self.panel = panel;
    }

    #[inline(always)]
    unsafe fn open_block(&mut self, isa: I, k: Range<usize>) {
        // SAFETY: `to` has room for the block (precondition of `pack_once`).
        unsafe { self.source.pack(isa, self.panel, k, self.to) };
    }

    #[inline(always)]
    unsafe fn multiply(&mut self, isa: I, strip: Strip) {
        let b = self.to.cast_const();
        let tile = Tile { prefetch: Prefetch::none(b), ..strip.tile::<I>(self.a, b, b) };
        // A function of its own keeps its sums in registers: inlined into the walk, which has no registers left,
        // 14 sums of AVX-512 went to the stack and back, and 14x768x768 took 13% longer (Zen 4).
        isa.run(
            #[inline(always)]
            // SAFETY: the strip's rows of A, the block's k-steps and sums (preconditions of `multiply`).
            || unsafe { isa.gemm_tile(tile) },
        );
    }
}
