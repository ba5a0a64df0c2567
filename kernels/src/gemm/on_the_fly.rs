//! Products with a B of any type that is packed on the way.

mod panels;

use super::format::Format;
use super::lhs::Lhs;
use super::pack::packed_a_len;
use super::packing::{Floats, Packing, Pairs};
use super::prepacked::PackedPanels;
use super::product::Product;
use super::tasks::{GemmTask, TaskGrid};
use super::walk::{Blocking, PackedRows, Strips, walk};
use crate::isa::{Isa, K_GROUPS, KC, Microkernel};
use crate::scratch;
use crate::view::{AnyView, View};
use panels::{PackOnce, PackPanels, PanelSource};

/// Bytes of B that are packed at a time where an unpacked B serves several blocks of rows: far more
/// than a block's A, so that packing A again for each of them is cheap, and well inside an L3 (and if
/// not, each of the blocks of rows needs only about 5 GB/s of it).
const B_BLOCK_BYTES: usize = 16 << 20;

/// k-groups that are packed at a time for a single strip of rows: at most 16 KiB, which stay in L1 from
/// the packing to their only use, and stretches of B long enough for the hardware's prefetchers.
const ONCE_KC: usize = 128;
// A is packed in slabs of KC, and microkernels may take multiples of K_GROUPS alone.
const _: () = assert!(KC.is_multiple_of(ONCE_KC) && ONCE_KC.is_multiple_of(K_GROUPS));

/// B, or a gated pair, as the caller stores it.
#[derive(Clone, Copy)]
pub(super) struct Unpacked<'a> {
    pub b: AnyView<'a, 3>,
    pub up: Option<AnyView<'a, 3>>,
}

impl<'a> From<View<'a, 3>> for Unpacked<'a> {
    fn from(b: View<'a, 3>) -> Self {
        Self { b: b.into(), up: None }
    }
}

impl Unpacked<'_> {
    /// True if one matrix serves all products of a batch.
    fn is_shared(&self) -> bool {
        self.b.shape()[0] == 1 && self.up.is_none_or(|up| up.shape()[0] == 1)
    }

    /// True if bf16 multiplies bf16: the operands' own types, or the rounding of A, ask for it.
    fn is_bf16_by_bf16(&self, a: Lhs<'_>) -> bool {
        let is_bf16 = |b: AnyView<'_, 3>| matches!(b, AnyView::Bf16(_));
        matches!(a, Lhs::Exact(AnyView::Bf16(_)) | Lhs::Rounded(_))
            && is_bf16(self.b)
            && self.up.is_none_or(is_bf16)
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
    /// True if packed panels of `b` serve more than one task, of `blocks` blocks of rows: they are kept then.
    pub(super) fn keeps_panels(&self, b: Unpacked<'_>, blocks: usize) -> bool {
        self.k > 0 && (blocks > 1 || (self.shape[0] > 1 && b.is_shared()))
    }

    /// Computes C with panels that are packed on the way, in the k-groups that the operands' types ask for.
    ///
    /// # Safety
    /// As [`walk`], for all of C.
    pub(super) unsafe fn pack_on_the_fly<I: Isa>(&self, isa: I, b: Unpacked<'_>, format: Format) {
        // SAFETY: C is the caller's (precondition of `pack_on_the_fly`).
        unsafe {
            match isa.bf16() {
                Some(pairs) if b.is_bf16_by_bf16(self.a) => self.pack_by(isa, Pairs(pairs), b),
                _ => self.pack_by(isa, Floats { rounding: format }, b),
            }
        }
    }

    /// Computes C with panels that are packed on the way.
    ///
    /// # Safety
    /// As [`walk`], for all of C.
    unsafe fn pack_by<I: Isa, P: Packing<I>>(&self, isa: I, packing: P, b: Unpacked<'_>) {
        let k = P::k_groups(self.k);
        let all = self.grid::<I>(self.row_blocks::<I>(packing.microkernel().l2_bytes(), 1, k));
        if !self.keeps_panels(b, all.row_blocks) {
            // SAFETY: the grid is all of C, which the caller owns.
            return unsafe { self.pack_for_tasks(isa, packing, b, &all) };
        }
        let ([batch, ..], panels, blocks) = (self.shape, all.panels.end, all.row_blocks);
        let at_once = (B_BLOCK_BYTES / size_of::<f32>() / (k * I::NR)).clamp(1, panels);
        let shared = b.is_shared();
        for s in 0..if shared { 1 } else { batch } {
            for jc in (0..panels).step_by(at_once) {
                let panels = jc..panels.min(jc + at_once);
                let grid =
                    |batches, blocks| TaskGrid { batches, blocks, panels: panels.clone(), ..all.clone() };
                scratch::with(panels.len() * k * I::NR, |memory| {
                    // The first block of rows packs the panels for all others.
                    let kept = KeptPanels { floats: memory.as_mut_ptr(), first: jc };
                    // SAFETY: each grid is another part of C; `memory` has room for the grids' panels, which the
                    // first of them packs.
                    unsafe {
                        self.pack_and_keep(isa, packing, b, kept, &grid(s..s + 1, 0..1));
                        let packed = PackedPanels { floats: memory, first: jc };
                        self.prepacked(isa, packing, packed, &grid(s..s + 1, 1..blocks));
                        if shared {
                            self.prepacked(isa, packing, packed, &grid(1..batch, 0..blocks));
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
    unsafe fn pack_and_keep<I: Isa, P: Packing<I>>(
        &self,
        isa: I,
        packing: P,
        b: Unpacked<'_>,
        kept: KeptPanels,
        grid: &TaskGrid,
    ) {
        let k = P::k_groups(self.k);
        self.for_tasks::<I>(grid, k, |task| {
            let rows = task.rows.len();
            scratch::with(packed_a_len(rows, k) + rows * I::NR, |memory| {
                let (a, sums) = memory.split_at_mut(packed_a_len(rows, k));
                let panel_floats = k * I::NR;
                // The whole struct is captured, which is what may be sent.
                let KeptPanels { floats, first } = { kept };
                let to = floats.wrapping_add((task.panels.start - first) * panel_floats);
                // SAFETY: tasks are disjoint blocks of C; `a`, `sums` and `to` have room for the task.
                unsafe {
                    let a = packing.rows(isa, self.rows_of(&task), a);
                    self.pack_panels(isa, packing, b, &task, a, (to, panel_floats), sums);
                }
            });
        });
    }

    /// Computes the blocks of C of a grid; each task packs the panel it is at.
    ///
    /// # Safety
    /// As [`walk`].
    unsafe fn pack_for_tasks<I: Isa, P: Packing<I>>(
        &self,
        isa: I,
        packing: P,
        b: Unpacked<'_>,
        grid: &TaskGrid,
    ) {
        let k = P::k_groups(self.k);
        self.for_tasks::<I>(grid, k, |task| {
            let rows = task.rows.len();
            let once = rows <= packing.microkernel().rows();
            let steps = if once { ONCE_KC } else { k };
            let floats = [packed_a_len(rows, k), steps * I::NR, rows * I::NR];
            scratch::with(floats.iter().sum(), |memory| {
                let (a, memory) = memory.split_at_mut(floats[0]);
                let (panel, sums) = memory.split_at_mut(floats[1]);
                // SAFETY: tasks are disjoint blocks of C; `a`, `panel` and `sums` have room for the task.
                unsafe {
                    let a = packing.rows(isa, self.rows_of(&task), a);
                    if once {
                        self.pack_once(isa, packing, b, &task, a, panel, sums);
                    } else {
                        self.pack_panels(isa, packing, b, &task, a, (panel.as_mut_ptr(), 0), sums);
                    }
                }
            });
        });
    }

    /// Computes one block of C; packs each panel whole, for all strips of rows.
    ///
    /// # Safety
    /// As [`walk`]; `to` is valid for writes of the panels, `stride` floats apart.
    #[allow(clippy::too_many_arguments, reason = "memory of three kinds")]
    unsafe fn pack_panels<I: Isa, P: Packing<I>>(
        &self,
        isa: I,
        packing: P,
        b: Unpacked<'_>,
        task: &GemmTask,
        a: PackedRows,
        (to, stride): (*mut f32, usize),
        sums: &mut [f32],
    ) {
        let blocking = Blocking {
            k: P::k_groups(self.k),
            kc: packing.microkernel().kc(),
            strips: Strips::of(a.rows, packing.microkernel().rows()),
            streams: 1,
            sum_rows: a.rows,
            bare_sums: true,
        };
        let source = PanelSource { packing, product: self, b, batch: task.batch };
        let path = PackPanels::new(source, a, (to, stride), task.panels.clone());
        isa.run(
            #[inline(always)]
            || {
                packing.microkernel().session(
                    #[inline(always)]
                    // SAFETY: the path is of this task (preconditions of `pack_panels`).
                    || unsafe { walk(isa, self, task, blocking, sums, path) },
                );
            },
        );
    }

    /// Computes one block of C of a single strip, which uses once what it packs: [`ONCE_KC`] k-groups at a time.
    ///
    /// # Safety
    /// As [`walk`]; `block` has room for `ONCE_KC` k-groups.
    #[allow(clippy::too_many_arguments, reason = "memory of three kinds")]
    pub(super) unsafe fn pack_once<I: Isa, P: Packing<I>>(
        &self,
        isa: I,
        packing: P,
        b: Unpacked<'_>,
        task: &GemmTask,
        a: PackedRows,
        block: &mut [f32],
        sums: &mut [f32],
    ) {
        let blocking = Blocking {
            k: P::k_groups(self.k),
            kc: ONCE_KC,
            strips: Strips::of(a.rows, packing.microkernel().rows()),
            streams: 1,
            sum_rows: a.rows,
            bare_sums: true,
        };
        let source = PanelSource { packing, product: self, b, batch: task.batch };
        let path = PackOnce::new(source, a, block);
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
