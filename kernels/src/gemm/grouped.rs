//! Products of quantised rows with weights in groups: A is quantised in the same groups of 32 k-steps.
//!
//! ```text
//! a = s q_a,   w = d q_b + m,   in each group:
//!
//! sum over groups of  s (d I + m S),    I = sum of q_a q_b,   S = sum of q_a
//! ```
//!
//! I and S are sums of 32 products of small integers: exact in i32 and in f32. Where the CPU multiplies
//! quads of int8, I is a sum of these; elsewhere it is a chain of floats. What follows is the same, one
//! chain of multiply-adds over groups, so that all ways give a row the same bits.

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
use crate::element::Element;
use crate::isa::KC;
use crate::isa::tile::STREAMS;
use crate::isa::{A_STRIDE, Isa, Vector};
use crate::parallel::part;
use crate::scratch;
use crate::view::View;
use row::row;
use tile::{FACTORS, GROUPS, Groups, QuantizedStrip, multiply};
use variant::{FloatGroups, GroupVariant, QuadGroups};

/// Quantises the groups of a row.
///
/// # Safety
/// `to` is valid for writes of KC words in each slab, `stride` floats apart; `groups` is as long as the
/// row has groups.
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
                // SAFETY: a vector of the row.
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
        let at = to.wrapping_add(g * W::WORDS / KC * stride + g * W::WORDS % KC);
        let mut sum = zero;
        for p in (0..GROUP).step_by(lanes) {
            let q = (I::V::load(isa, &values[p..]) * inverse).round().max(least).min(most);
            sum = sum + q;
            // SAFETY: the group's words, which lie in one slab.
            unsafe { variant.put(isa, q.float_to_int(), signed, p, at) };
        }
        (group[0], group[1]) = (quantized.scale, sum.sum());
    }
}

impl Product<'_> {
    /// Computes C with weights in groups and rows that are quantised.
    ///
    /// # Safety
    /// As [`run`](Self::run).
    pub(super) unsafe fn run_grouped<I: Isa>(&self, isa: I, b: &PackedB) {
        let layout = b.layout();
        // SAFETY: the caller's; a panel has two or four vectors.
        unsafe {
            match (isa.bytes(), I::NR / I::V::LANES) {
                (Some(dot), 2) => self.grouped_by::<I, _, 2>(isa, b, QuadGroups { layout, dot }),
                (Some(dot), _) => self.grouped_by::<I, _, 4>(isa, b, QuadGroups { layout, dot }),
                (None, 2) => self.grouped_by::<I, _, 2>(isa, b, FloatGroups { layout }),
                (None, _) => self.grouped_by::<I, _, 4>(isa, b, FloatGroups { layout }),
            }
        }
    }

    /// Computes C in one of the ways, with panels of `N` vectors.
    ///
    /// # Safety
    /// As [`run`](Self::run).
    unsafe fn grouped_by<I: Isa, W: GroupVariant<I>, const N: usize>(&self, isa: I, b: &PackedB, variant: W) {
        let ([batch, ..], groups) = (self.shape, self.k.div_ceil(GROUP));
        let words = groups * W::WORDS;
        let panels = 0..self.shape[2].div_ceil(self.width::<I>());
        let blocks = self.row_blocks::<I>(0, words);
        self.for_tasks::<I>(0..batch, 0..blocks, blocks, panels, words, |task| {
            let rows = task.rows.len();
            let dequantized = GROUPS * (W::WORDS + FACTORS) * I::NR;
            let floats =
                [packed_a_len(rows, words), 2 * rows * groups, dequantized, rows.max(STREAMS) * I::NR];
            scratch::with(floats.iter().sum(), |memory| {
                let (a, memory) = memory.split_at_mut(floats[0]);
                let (of_rows, memory) = memory.split_at_mut(floats[1]);
                let (dequantized, sums) = memory.split_at_mut(floats[2]);
                let memory = [a, of_rows, dequantized, sums];
                // SAFETY: tasks are disjoint blocks of C, whose owner called `run`.
                isa.run(
                    #[inline(always)]
                    || unsafe { self.grouped_block::<I, W, N>(isa, b, variant, &task, memory) },
                );
            });
        });
    }

    /// Computes one block of C.
    ///
    /// # Safety
    /// As [`grouped_by`](Self::grouped_by); no one else touches the block; the memory has room for it.
    #[inline(always)]
    unsafe fn grouped_block<I: Isa, W: GroupVariant<I>, const N: usize>(
        &self,
        isa: I,
        b: &PackedB,
        variant: W,
        task: &GemmTask,
        [packed_a, of_rows, dequantized, sums]: [&mut [f32]; 4],
    ) {
        let (m, width, layout) = (task.rows.len(), self.width::<I>(), b.layout());
        let groups = self.k.div_ceil(GROUP);
        let a = self.a.of_batch(task.batch).slice(0, task.rows.clone());
        let stride = m * A_STRIDE;
        for i in 0..m {
            let to = packed_a.as_mut_ptr().wrapping_add(i * A_STRIDE);
            let of_row = &mut of_rows[2 * i * groups..2 * (i + 1) * groups];
            // SAFETY: row i of every slab.
            unsafe {
                with_rows!(a, v => pack_row::<I, W, _>(isa, variant, v.at(i), m == 1, (to, stride), of_row))
            };
        }
        let slab = |g: usize| packed_a.as_ptr().wrapping_add(g * W::WORDS / KC * stride + g * W::WORDS % KC);
        let strips = m.div_ceil(tile::rows::<I>());
        let panel_bytes = size_of::<f32>() * b.panel_words();
        let mut panel = task.panels.start;
        while panel < task.panels.end {
            let at = b.panels().as_ptr().cast::<u8>().wrapping_add(panel * panel_bytes);
            let group_at = |g: usize| at.wrapping_add(g * layout.group_bytes());
            let streams = if m == 1 && panel + STREAMS <= task.panels.end { STREAMS } else { 1 };
            if m == 1 {
                // SAFETY: the groups of the row and of as many panels, and their sums.
                unsafe {
                    if streams == STREAMS {
                        row::<I, W, N, STREAMS>(isa, variant, layout, of_rows, slab, (at, panel_bytes), sums);
                    } else {
                        row::<I, W, N, 1>(isa, variant, layout, of_rows, slab, (at, panel_bytes), sums);
                    }
                }
            } else {
                sums.fill(0.0);
                let (words, factors) = dequantized.split_at_mut(GROUPS * W::WORDS * I::NR);
                for first in (0..groups).step_by(GROUPS) {
                    let all = first..groups.min(first + GROUPS);
                    // SAFETY: groups of the panel; there is room for as many.
                    let b = unsafe {
                        let (group, to) = (group_at(first), words.as_mut_ptr());
                        Groups::dequantize::<_, _, N>(isa, variant, layout, group, all.len(), to, factors)
                    };
                    for strip in 0..strips {
                        let rows = part(m, strips, strip);
                        let a = QuantizedStrip {
                            rows: rows.len(),
                            words: slab(first).wrapping_add(rows.start * A_STRIDE),
                            groups: &of_rows[2 * rows.start * groups..2 * rows.end * groups],
                            stride: 2 * groups,
                            first,
                        };
                        let sums = &mut sums[rows.start * I::NR..rows.end * I::NR];
                        // SAFETY: the words are those of these groups.
                        unsafe { multiply::<I, W, N>(isa, variant, layout.format, a, b, sums) };
                    }
                }
            }
            for q in 0..streams {
                let finish = self.finish::<I>(task.batch, (panel + q) * width);
                for strip in 0..strips {
                    let rows = part(m, strips, strip);
                    let sums = &mut sums[(rows.start + q) * I::NR..][..rows.len() * I::NR];
                    // SAFETY: the strip's rows and columns of C.
                    unsafe { finish.rows(isa, sums, task.rows.start + rows.start) };
                }
            }
            panel += streams;
        }
    }
}
