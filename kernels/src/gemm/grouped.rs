//! Products of quantized rows and weights in groups. A is quantized in the same groups of 32 k-steps.
//!
//! ```text
//! a = s q_a,   w = d q_b + m,   in each group:
//!
//! sum over groups of  s (d I + m S),    I = sum of q_a q_b,   S = sum of q_a
//! ```
//!
//! I and S are sums of 32 products of small integers: exact in i32 and in f32. I is a sum of quads of int8 where the
//! CPU has a dot instruction for them, and a chain of floats elsewhere. One chain of multiply-adds over groups
//! follows: all variants give a row the same bits.

mod row;
mod tile;
mod variant;

use super::blocks::GROUP;
use super::lhs::with_rows;
use super::pack::packed_a_len;
use super::packed::PackedB;
use super::product::Product;
use super::quantize::Quantized;
use super::tasks::GemmTask;
use super::walk::{Blocking, GemmPath, PackedRows, Strip, Strips, walk};
use crate::element::Element;
use crate::isa::KC;
use crate::isa::tile::STREAMS;
use crate::isa::{A_STRIDE, Isa, L2_BYTES, Vector};
use crate::scratch;
use crate::view::View;
use core::ops::Range;
use row::row;
use tile::{FACTORS, GROUPS, Groups, QuantizedStrip, multiply};
use variant::{FloatGroups, GroupVariant, QuadGroups};

/// Packs and quantizes a row of A; `groups` receives scale and sum of each group.
///
/// # Safety
/// `to` is valid for writes of KC k-groups in each slab, `stride` floats apart, for two floats of `groups` a group.
#[inline(always)]
unsafe fn pack_row<I: Isa, W: GroupVariant<I>, T: Element>(
    isa: I,
    variant: W,
    row: View<'_, 1, T>,
    signed: bool,
    (to, stride): (*mut f32, usize),
    groups: &mut [f32],
) {
    let ([k], lanes, from) = (row.shape(), I::V::LANES, row.as_ptr());
    let zero = I::V::splat(isa, 0.0);
    for (g, group) in groups.chunks_exact_mut(2).enumerate() {
        let first = g * GROUP;
        let mut values = [0.0f32; GROUP];
        let live = GROUP.min(k - first);
        if row.strides()[0] == 1 && live == GROUP {
            for p in (0..GROUP).step_by(lanes) {
                // SAFETY: a vector of the row, whose stride is 1.
                unsafe { T::load::<I>(isa, from.add(first + p)) }.store(&mut values[p..]);
            }
        } else {
            for (p, value) in values[..live].iter_mut().enumerate() {
                *value = row.get([first + p]).to_f32();
            }
        }
        let (mut largest, mut special) = (zero, zero);
        for x in values.chunks_exact(lanes) {
            let v = I::V::load(isa, x);
            largest = v.abs().max(largest);
            special = special + v * zero;
        }
        let quantized = Quantized::of_magnitude(largest.maximum(), special.sum());
        let inverse = I::V::splat(isa, quantized.inverse);
        let (least, most) = (I::V::splat(isa, -127.0), I::V::splat(isa, 127.0));
        let at = to.wrapping_add(g * W::K_GROUPS / KC * stride + g * W::K_GROUPS % KC);
        let mut sum = zero;
        for p in (0..GROUP).step_by(lanes) {
            let q = (I::V::load(isa, &values[p..]) * inverse).round().max(least).min(most);
            sum = sum + q;
            // SAFETY: the k-groups of group g, which lie in one slab (precondition of `pack_row`).
            unsafe { variant.put(isa, q.float_to_int(), signed, p, at) };
        }
        (group[0], group[1]) = (quantized.scale, sum.sum());
    }
}

impl Product<'_> {
    /// Computes C with weights in groups and rows that are quantized.
    ///
    /// # Safety
    /// As [`walk`], for all of C; `b` is packed for `I`.
    pub(super) unsafe fn grouped<I: Isa>(&self, isa: I, b: &PackedB) {
        let layout = b.layout();
        // SAFETY: `b` is packed for `I` and nothing else touches C (preconditions of `grouped`); a panel has two or four
        // vectors.
        unsafe {
            match (isa.dot_int8(), I::NR / I::V::LANES) {
                (Some(dot), 2) => self.grouped_by::<I, _, 2>(isa, b, QuadGroups { layout, dot }),
                (Some(dot), _) => self.grouped_by::<I, _, 4>(isa, b, QuadGroups { layout, dot }),
                (None, 2) => self.grouped_by::<I, _, 2>(isa, b, FloatGroups { layout }),
                (None, _) => self.grouped_by::<I, _, 4>(isa, b, FloatGroups { layout }),
            }
        }
    }

    /// Computes C by one variant, with panels of `N` vectors.
    ///
    /// # Safety
    /// As [`grouped`](Self::grouped).
    unsafe fn grouped_by<I: Isa, W: GroupVariant<I>, const N: usize>(&self, isa: I, b: &PackedB, variant: W) {
        let k_groups = self.k.div_ceil(GROUP) * W::K_GROUPS;
        let grid = self.grid::<I>(self.row_blocks::<I>(L2_BYTES, 0, k_groups));
        self.for_tasks::<I>(&grid, k_groups, |task| {
            // SAFETY: tasks are disjoint blocks of C, which the caller of `grouped_by` owns.
            unsafe { self.grouped_task::<I, W, N>(isa, b, variant, &task) };
        });
    }

    /// Computes one block of C.
    ///
    /// # Safety
    /// As [`grouped_by`](Self::grouped_by), for the task's block of C.
    unsafe fn grouped_task<I: Isa, W: GroupVariant<I>, const N: usize>(
        &self,
        isa: I,
        b: &PackedB,
        variant: W,
        task: &GemmTask,
    ) {
        let (m, k) = (task.rows.len(), self.k.div_ceil(GROUP));
        let dequantized = GROUPS * (W::K_GROUPS + FACTORS) * I::NR;
        let floats = [packed_a_len(m, k * W::K_GROUPS), 2 * m * k, dequantized, m.max(STREAMS) * I::NR];
        // A single row needs no blocks: its sums stay in registers.
        let kc = if m == 1 { k.max(1) } else { GROUPS };
        let strips = Strips::of(m, tile::rows::<I>());
        let blocking = |streams| Blocking { k, kc, strips, streams, sum_rows: m, bare_sums: false };
        scratch::with(floats.iter().sum(), |memory| {
            let (a, memory) = memory.split_at_mut(floats[0]);
            let (of_rows, memory) = memory.split_at_mut(floats[1]);
            let (dequantized, sums) = memory.split_at_mut(floats[2]);
            isa.run(
                #[inline(always)]
                // SAFETY: the memory has room for the task.
                || unsafe {
                    let a = self.pack_groups(isa, variant, task, a, of_rows);
                    let panel = b.panels().as_ptr().cast();
                    let row = GroupedGemv::<W, N, 1> { variant, b, a, of_rows, panel };
                    if m == 1 {
                        let [whole, rest] = task.split_panels(STREAMS, usize::MAX);
                        walk(isa, self, &whole, blocking(STREAMS), sums, row.streams::<STREAMS>());
                        walk(isa, self, &rest, blocking(1), sums, row);
                    } else {
                        let path = GroupedStrips::<W, N> { row, groups: Groups::none(), dequantized };
                        walk(isa, self, task, blocking(1), sums, path);
                    }
                },
            );
        });
    }

    /// Packs and quantizes the task's rows of A; `of_rows` receives scale and sum of each group of each row.
    ///
    /// # Safety
    /// `to` has room for [`packed_a_len`] floats, `of_rows` for two of each group of each row.
    #[inline(always)]
    unsafe fn pack_groups<I: Isa, W: GroupVariant<I>>(
        &self,
        isa: I,
        variant: W,
        task: &GemmTask,
        to: &mut [f32],
        of_rows: &mut [f32],
    ) -> PackedRows {
        let a = self.a.of_batch(task.batch).slice(0, task.rows.clone());
        let (rows, floats, to) = (task.rows.len(), 2 * self.k.div_ceil(GROUP), to.as_mut_ptr());
        with_rows!(a, a => for i in 0..rows {
            let to = (to.wrapping_add(i * A_STRIDE), rows * A_STRIDE);
            let of_row = &mut of_rows[i * floats..(i + 1) * floats];
            // SAFETY: row i of every slab (precondition of `pack_groups`).
            unsafe { pack_row::<I, W, _>(isa, variant, a.at(i), rows == 1, to, of_row) };
        });
        PackedRows { first: to, rows }
    }
}

/// One row by `S` panels side by side.
#[derive(Clone, Copy)]
struct GroupedGemv<'a, W, const N: usize, const S: usize> {
    variant: W,
    b: &'a PackedB,
    a: PackedRows,
    /// Scale and sum of each group of each row.
    of_rows: &'a [f32],
    /// The first panel that is open.
    panel: *const u8,
}

impl<'a, W, const N: usize> GroupedGemv<'a, W, N, 1> {
    /// This path with `S` panels side by side.
    #[inline(always)]
    fn streams<const S: usize>(self) -> GroupedGemv<'a, W, N, S> {
        let Self { variant, b, a, of_rows, panel } = self;
        GroupedGemv { variant, b, a, of_rows, panel }
    }
}

impl<W, const N: usize, const S: usize> GroupedGemv<'_, W, N, S> {
    /// Bytes from one panel to the next.
    #[inline(always)]
    fn panel_bytes(&self) -> usize {
        size_of::<f32>() * self.b.panel_stride()
    }

    #[inline(always)]
    fn open(&mut self, panel: usize) {
        self.panel = self.b.panels().as_ptr().cast::<u8>().wrapping_add(panel * self.panel_bytes());
    }
}

impl<I: Isa, W: GroupVariant<I>, const N: usize, const S: usize> GemmPath<I> for GroupedGemv<'_, W, N, S> {
    #[inline(always)]
    unsafe fn open_panel(&mut self, _: I, panel: usize) {
        self.open(panel);
    }

    #[inline(always)]
    unsafe fn multiply(&mut self, isa: I, strip: Strip) {
        let (layout, panels) = (self.b.layout(), (self.panel, self.panel_bytes()));
        let k_groups = |group: usize| self.a.at(group * W::K_GROUPS, 0);
        // SAFETY: groups of the row and of S panels, and NR sums of each panel (preconditions of `multiply`).
        unsafe {
            let sums = core::slice::from_raw_parts_mut(strip.c, S * I::NR);
            row::<I, W, N, S>(isa, self.variant, layout, self.of_rows, k_groups, panels, sums);
        }
    }
}

/// Strips of rows by one panel, [`GROUPS`] groups at a time.
struct GroupedStrips<'a, W, const N: usize> {
    row: GroupedGemv<'a, W, N, 1>,
    /// The groups of the block that is open.
    groups: Groups,
    /// Memory of its k-groups and factors.
    dequantized: &'a mut [f32],
}

impl<I: Isa, W: GroupVariant<I>, const N: usize> GemmPath<I> for GroupedStrips<'_, W, N> {
    #[inline(always)]
    unsafe fn open_panel(&mut self, _: I, panel: usize) {
        self.row.open(panel);
    }

    #[inline(always)]
    unsafe fn open_block(&mut self, isa: I, k: Range<usize>) {
        let layout = self.row.b.layout();
        let group = self.row.panel.wrapping_add(k.start * layout.group_bytes());
        let (k_groups, factors) = self.dequantized.split_at_mut(GROUPS * W::K_GROUPS * I::NR);
        // SAFETY: groups of the panel; there is room for GROUPS.
        self.groups = unsafe {
            let to = k_groups.as_mut_ptr();
            Groups::dequantize::<_, _, N>(isa, self.row.variant, layout, group, k.len(), to, factors)
        };
    }

    #[inline(always)]
    unsafe fn multiply(&mut self, isa: I, strip: Strip) {
        let (rows, floats) = (&strip.rows, self.row.of_rows.len() / self.row.a.rows);
        let a = QuantizedStrip {
            rows: rows.len(),
            k_groups: self.row.a.at(strip.k.start * W::K_GROUPS, rows.start),
            groups: &self.row.of_rows[rows.start * floats..rows.end * floats],
            stride: floats,
            first: strip.k.start,
            accumulate: strip.accumulates(),
        };
        // SAFETY: the strip's sums, NR to a row (precondition of `multiply`), and k-groups of these groups.
        unsafe {
            let sums = core::slice::from_raw_parts_mut(strip.c, rows.len() * I::NR);
            multiply::<I, W, N>(isa, self.row.variant, self.row.b.format(), a, self.groups, sums);
        }
    }
}
