//! Steps of the walk over panels in reduced precision.

use super::super::dequantize::{Panels, SmallM};
use super::super::packed::PackedB;
use super::super::walk::{GemmPath, PackedRows, Strip};
use super::variant::GemmVariant;
use crate::isa::{Isa, Microkernel, Prefetch, Tile, Vector};
use core::ops::Range;

/// Strips of rows by one panel, dequantized block by block where the variant needs it.
#[derive(Clone, Copy)]
pub(super) struct ReducedStrips<'a, M> {
    variant: M,
    b: &'a PackedB,
    a: PackedRows,
    /// Scale and zero point of each row, if A is quantized.
    scales: &'a [f32],
    /// Rows of the strip that dequantizes in registers, or 0.
    small_m: usize,
    /// Memory of a dequantized block.
    dequantized: *mut f32,
    /// The panel that is open, and its k-groups of the open block.
    panel: *const f32,
    block: *const f32,
    /// These k-groups of the next panel, and their length in floats.
    next: (*const f32, usize),
}

impl<'a, M> ReducedStrips<'a, M> {
    pub fn new(
        variant: M,
        b: &'a PackedB,
        a: PackedRows,
        scales: &'a [f32],
        (small_m, dequantized): (usize, *mut f32),
    ) -> Self {
        let panel = b.panels().as_ptr();
        Self { variant, b, a, scales, small_m, dequantized, panel, block: panel, next: (panel, 0) }
    }

    /// The microkernel's arguments. Strips that dequantize nothing prefetch the next panel's k-groups.
    #[inline(always)]
    fn tile<I: Isa>(&self, strip: &Strip) -> Tile
    where
        M: GemmVariant<I>,
    {
        let (rows, k, [share, shares]) = (strip.rows.len(), strip.k.len(), strip.share);
        let prefetch = Prefetch::share::<I>(self.next, [rows.min(I::MR), k], share, shares);
        Tile { prefetch, ..strip.tile::<I>(self.a, self.block, self.block) }
    }
}

impl<I: Isa, M: GemmVariant<I>> GemmPath<I> for ReducedStrips<'_, M> {
    #[inline(always)]
    unsafe fn open_panel(&mut self, _: I, panel: usize) {
        self.panel = self.b.panels().as_ptr().wrapping_add(panel * self.b.panel_stride());
    }

    #[inline(always)]
    unsafe fn open_block(&mut self, isa: I, k: Range<usize>) {
        let [from, to] = [k.start, k.end].map(|k_group| self.b.layout().panel_bytes(k_group * M::STEPS));
        let next = self.panel.wrapping_add(self.b.panel_stride()).wrapping_byte_add(from);
        self.next = (next, (to - from) / size_of::<f32>());
        if M::DEQUANTIZED {
            // SAFETY: the k-groups are the panel's, and `dequantized` has room for them.
            unsafe { self.variant.dequantize(isa, self.panel, k, self.dequantized) };
            self.block = self.dequantized;
        } else {
            self.block = self.panel.wrapping_add(k.start * I::NR);
        }
    }

    #[inline(always)]
    unsafe fn multiply(&mut self, isa: I, strip: Strip) {
        // SAFETY: the strip's rows of A and sums, and k-groups of the panel (preconditions of `multiply`).
        unsafe {
            if strip.rows.start < self.small_m {
                let with = SmallM {
                    rows: strip.rows.len(),
                    a: self.a.at(strip.k.start, strip.rows.start),
                    panels: 1,
                    at: Panels::one(self.panel.cast()),
                    c: strip.c,
                    c_strides: [strip.c_stride, 0],
                    accumulate: strip.accumulates(),
                    keep: Some(self.dequantized),
                };
                self.variant.small_m(isa, self.b.layout(), strip.k, with);
            } else {
                self.variant.microkernel().run(isa, self.tile::<I>(&strip).typed());
            }
        }
    }

    #[inline(always)]
    fn scale(&self, isa: I, panel: usize, rows: Range<usize>, sums: &mut [f32]) {
        if let Some(columns) = self.b.columns(panel) {
            let scales = if M::INTEGERS { &self.scales[2 * rows.start..] } else { &[] };
            scale_sums::<I>(isa, columns, scales, sums);
        }
    }
}

/// One row by several panels side by side that need no dequantizing.
pub(super) struct ReducedGemv<'a, M>(pub ReducedStrips<'a, M>);

impl<I: Isa, M: GemmVariant<I>> GemmPath<I> for ReducedGemv<'_, M> {
    #[inline(always)]
    unsafe fn open_panel(&mut self, isa: I, panel: usize) {
        // SAFETY: the panels are the task's (precondition of `open_panel`).
        unsafe { self.0.open_panel(isa, panel) };
    }

    #[inline(always)]
    unsafe fn open_block(&mut self, isa: I, k: Range<usize>) {
        // SAFETY: the k-groups are the panel's (precondition of `open_block`).
        unsafe { self.0.open_block(isa, k) };
    }

    #[inline(always)]
    unsafe fn multiply(&mut self, isa: I, strip: Strip) {
        let tile = Tile { c_stride: I::NR, ..self.0.tile::<I>(&strip) };
        // SAFETY: the row, k-groups of STREAMS panels, and their sums (preconditions of `multiply`).
        unsafe { self.0.variant.microkernel().gemv(isa, tile.typed(), self.0.b.panel_stride()) };
    }

    #[inline(always)]
    fn scale(&self, isa: I, panel: usize, rows: Range<usize>, sums: &mut [f32]) {
        self.0.scale(isa, panel, rows, sums);
    }
}

/// All rows of a small M by several panels, dequantized in registers.
pub(super) struct SmallMPanels<'a, M> {
    variant: M,
    b: &'a PackedB,
    a: PackedRows,
    streams: usize,
    panels: Panels,
}

impl<'a, M> SmallMPanels<'a, M> {
    #[inline(always)]
    pub fn new(variant: M, b: &'a PackedB, a: PackedRows, streams: usize) -> Self {
        let panels =
            Panels { first: b.panels().as_ptr().cast(), stride: b.panel_stride() * size_of::<f32>() };
        Self { variant, b, a, streams, panels }
    }
}

impl<I: Isa, M: GemmVariant<I>> GemmPath<I> for SmallMPanels<'_, M> {
    #[inline(always)]
    unsafe fn open_panel(&mut self, _: I, panel: usize) {
        let first = self.b.panels().as_ptr().wrapping_add(panel * self.b.panel_stride());
        self.panels.first = first.cast();
    }

    #[inline(always)]
    unsafe fn multiply(&mut self, isa: I, strip: Strip) {
        let rows = self.a.rows;
        let with = SmallM {
            rows,
            a: self.a.at(strip.k.start, 0),
            panels: self.streams,
            at: self.panels,
            c: strip.c,
            c_strides: [I::NR, rows * I::NR],
            accumulate: strip.accumulates(),
            keep: None,
        };
        // SAFETY: the padded rows, k-groups of the panels, and their sums (preconditions of `multiply`).
        unsafe { self.variant.small_m(isa, self.b.layout(), strip.k, with) };
    }

    #[inline(always)]
    fn scale(&self, isa: I, panel: usize, _: Range<usize>, sums: &mut [f32]) {
        if let Some(columns) = self.b.columns(panel) {
            scale_sums::<I>(isa, columns, &[], sums);
        }
    }
}

/// Sums of int8 become what they stand for: each is corrected by the zero of its row, and multiplied by
/// the scales of its row and of its column; sums of f32, of rows that were not quantized, by the latter.
#[inline(always)]
fn scale_sums<I: Isa>(isa: I, (scales, sums): (&[f32], &[i32]), rows: &[f32], of_rows: &mut [f32]) {
    let lanes = I::V::LANES;
    for (i, row) in of_rows.chunks_exact_mut(I::NR).enumerate() {
        let quantized = (!rows.is_empty()).then(|| (rows[2 * i], rows[2 * i + 1].to_bits()));
        for (j, sum) in row.chunks_exact_mut(lanes).enumerate() {
            let mut v = I::V::load(isa, sum);
            if let Some((scale, zero)) = quantized {
                let column_sums = load_integers(isa, &sums[j * lanes..][..lanes]);
                // Wrapping, like the sums: what they come to fits an i32.
                v = v.sub_bits(column_sums.mul_bits(I::V::splat_bits(isa, zero))).int_to_float();
                v = v * I::V::splat(isa, scale);
            }
            (v * I::V::load(isa, &scales[j * lanes..])).store(sum);
        }
    }
}

/// `LANES` integers.
#[inline(always)]
fn load_integers<I: Isa>(isa: I, from: &[i32]) -> I::V {
    assert!(from.len() >= I::V::LANES);
    // SAFETY: the length was checked, and an i32 is as large as an f32.
    unsafe { I::V::load_ptr(isa, from.as_ptr().cast()) }
}
