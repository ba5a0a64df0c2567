//! Paths that pack panels of B: whole, for all strips of rows, or block by block for a single strip.

use super::super::packing::Packing;
use super::super::product::Product;
use super::super::rhs::any_of_batch;
use super::super::walk::{GemmPath, PackedRows, Strip};
use super::Unpacked;
use crate::isa::{Isa, K_GROUPS, Microkernel, Prefetch, Tile};
use crate::view::with_any;
use core::ops::Range;

/// k-groups of a row-major B that are packed for all kept panels before the next: rows of B, which lie on other pages
/// for each k-step, are read from end to end, and their addresses translated once and not once a panel.
const ROW_GROUPS: usize = 64;
// Packed k-groups may be ordered in multiples of K_GROUPS alone.
const _: () = assert!(ROW_GROUPS.is_multiple_of(K_GROUPS));

/// B of one product of a batch.
#[derive(Clone, Copy)]
pub(super) struct PanelSource<'a, P> {
    pub packing: P,
    pub product: &'a Product<'a>,
    pub b: Unpacked<'a>,
    pub batch: usize,
}

impl<P: Copy> PanelSource<'_, P> {
    /// Columns of C that a panel makes.
    #[inline(always)]
    fn columns<I: Isa>(&self, panel: usize) -> Range<usize> {
        let width = self.product.width::<I>();
        panel * width..self.product.shape[2].min((panel + 1) * width)
    }

    /// Packs these k-groups of a panel to `to`, `NR` floats a k-group.
    ///
    /// # Safety
    /// `to` is valid for writes of `NR` floats for each k-group.
    #[inline(always)]
    unsafe fn pack<I: Isa>(&self, isa: I, panel: usize, groups: Range<usize>, to: *mut f32)
    where
        P: Packing<I>,
    {
        let (width, columns) = (self.product.width::<I>(), self.columns::<I>(panel));
        for (half, b) in [Some(self.b.b), self.b.up].into_iter().flatten().enumerate() {
            let b = any_of_batch(b, self.batch).slice(1, columns.clone());
            let to = to.wrapping_add(half * width);
            // SAFETY: a half of each k-group's NR floats (precondition of `pack`).
            unsafe { self.packing.pack_panel(isa, b, groups.clone(), to, width) };
        }
        // SAFETY: `to` has NR floats for each k-group (precondition of `pack`), which were written.
        self.packing.order(isa, unsafe { core::slice::from_raw_parts_mut(to, groups.len() * I::NR) });
    }

    /// True if the columns of a k-step are neighbours in memory.
    #[inline(always)]
    fn is_row_major(&self) -> bool {
        self.b.b.strides()[2] == 1
    }

    /// Address in B of the next panel, if its columns follow each other in memory: the microkernel prefetches it. A
    /// row-major B is prefetched where it is packed.
    #[inline(always)]
    fn next<I: Isa>(&self, panel: usize) -> Option<*const f32> {
        if self.is_row_major() {
            return None;
        }
        let end = self.columns::<I>(panel).end;
        with_any!(any_of_batch(self.b.b, self.batch), b => {
            Some(b.as_ptr().wrapping_add(end * b.strides()[1]).cast())
        })
    }
}

/// Strips of rows by panels that are packed whole.
pub(super) struct PackPanels<'a, P> {
    source: PanelSource<'a, P>,
    a: PackedRows,
    /// Memory of the task's panels, and floats from one to the next: 0 if they are not kept.
    to: *mut f32,
    stride: usize,
    /// The task's panels.
    panels: Range<usize>,
    /// The panel that is open.
    panel: *const f32,
    /// Memory to prefetch: the next panel, in B or packed.
    next: *const f32,
}

impl<'a, P> PackPanels<'a, P> {
    /// `stride` is 0 if each panel overwrites the one before.
    #[inline(always)]
    pub fn new(
        source: PanelSource<'a, P>,
        a: PackedRows,
        (to, stride): (*mut f32, usize),
        panels: Range<usize>,
    ) -> Self {
        Self { source, a, to, stride, panels, panel: to, next: to }
    }

    /// Memory of a panel.
    #[inline(always)]
    fn at(&self, panel: usize) -> *mut f32 {
        self.to.wrapping_add((panel - self.panels.start) * self.stride)
    }

    /// Packs the panels, in blocks of `at_once` k-groups.
    ///
    /// # Safety
    /// The panels are the task's, whose memory has room for them.
    #[inline(always)]
    unsafe fn pack<I: Isa>(&self, isa: I, panels: Range<usize>, at_once: usize)
    where
        P: Packing<I>,
    {
        let groups = P::k_groups(self.source.product.k);
        for first in (0..groups).step_by(at_once.max(1)) {
            for panel in panels.clone() {
                let to = self.at(panel).wrapping_add(first * I::NR);
                // SAFETY: the k-groups of the panel (precondition of `pack`).
                unsafe { self.source.pack(isa, panel, first..groups.min(first + at_once), to) };
            }
        }
    }
}

impl<I: Isa, P: Packing<I>> GemmPath<I> for PackPanels<'_, P> {
    #[inline(always)]
    unsafe fn open_panel(&mut self, isa: I, panel: usize) {
        // SAFETY: `to` has room for the task's panels, or for one if they are not kept (precondition of `pack_panels`).
        unsafe {
            if self.stride == 0 || !self.source.is_row_major() {
                self.pack(isa, panel..panel + 1, P::k_groups(self.source.product.k));
            } else if panel == self.panels.start {
                self.pack(isa, self.panels.clone(), ROW_GROUPS);
            }
        }
        self.panel = self.at(panel);
        self.next = self.source.next::<I>(panel).unwrap_or(self.at(panel + 1));
    }

    #[inline(always)]
    unsafe fn multiply(&mut self, isa: I, strip: Strip) {
        let [b, next] = [self.panel, self.next].map(|p| p.wrapping_add(strip.k.start * I::NR));
        // SAFETY: the strip's rows of A, k-steps of the panel and sums (preconditions of `multiply`).
        unsafe { self.source.packing.microkernel().run(isa, strip.tile::<I>(self.a, b, next).typed()) };
    }
}

/// A single strip of rows by blocks of panels that are packed one by one.
pub(super) struct PackOnce<'a, P> {
    source: PanelSource<'a, P>,
    a: PackedRows,
    /// Memory of a block.
    to: *mut f32,
    /// Index of the panel that is open.
    panel: usize,
}

impl<'a, P> PackOnce<'a, P> {
    #[inline(always)]
    pub fn new(source: PanelSource<'a, P>, a: PackedRows, block: &mut [f32]) -> Self {
        Self { source, a, to: block.as_mut_ptr(), panel: 0 }
    }
}

impl<I: Isa, P: Packing<I>> GemmPath<I> for PackOnce<'_, P> {
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
            || unsafe { self.source.packing.microkernel().run(isa, tile.typed()) },
        );
    }
}
