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

mod tile;
mod way;

use super::KC;
use super::blocks::GROUP;
use super::decode::halves;
use super::format::{Format, Layout};
use super::loops::{Product, Task, part};
use super::operand::with_rows;
use super::pack::packed_a_len;
use super::packed::PackedB;
use super::quantize::Quantized;
use crate::element::Element;
use crate::isa::{A_STRIDE, Isa, Vector};
use crate::scratch;
use crate::view::View;
use tile::{FACTORS, GROUPS, Groups, Strip, multiply};
use way::{Floats, Quads, Way};

/// A quantised group of a row: s, and S as a float.
#[derive(Clone, Copy)]
struct Group {
    scale: f32,
    sum: f32,
}

/// d and m of a group of B, for all columns.
#[derive(Clone, Copy)]
struct Scales<V, const N: usize> {
    format: Format,
    d: [V; N],
    m: [V; N],
}

impl<V: Copy, const N: usize> Scales<V, N> {
    /// Those of a group.
    ///
    /// # Safety
    /// A group of that layout stands at `group`.
    #[inline(always)]
    unsafe fn load<I: Isa<V = V>>(isa: I, layout: Layout, group: *const u8) -> Self {
        // SAFETY: the caller's.
        unsafe {
            let d = halves::<I, N>(isa, group);
            let m = match layout.format {
                Format::Q4_1 => halves::<I, N>(isa, group.add(2 * I::NR)),
                _ => d,
            };
            Self { format: layout.format, d, m }
        }
    }

    /// acc + s (d I + m S), of the vectors of a group.
    #[inline(always)]
    fn add<I: Isa<V = V>>(&self, isa: I, of_row: Group, integers: [V; N], acc: &mut [V; N])
    where
        V: Vector<I>,
    {
        let (scale, sum) = (I::V::splat(isa, of_row.scale), I::V::splat(isa, of_row.sum));
        let eight = I::V::splat(isa, 8.0 * of_row.sum);
        for j in 0..N {
            let of_group = match self.format {
                Format::Q8_0 => self.d[j] * integers[j],
                Format::Q4_0 => self.d[j] * (integers[j] - eight),
                _ => self.d[j].mul_add(integers[j], self.m[j] * sum),
            };
            acc[j] = scale.mul_add(of_group, acc[j]);
        }
    }
}

/// Quantises the groups of a row.
///
/// # Safety
/// `to` is valid for writes of KC words in each slab, `stride` floats apart; `groups` is as long as the
/// row has groups.
#[inline(always)]
unsafe fn pack_row<I: Isa, W: Way<I>, T: Element>(
    isa: I,
    way: W,
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
            unsafe { way.put(isa, q.float_to_int(), signed, p, at) };
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
        // SAFETY: the caller's; a panel has two or four vectors.
        unsafe {
            match isa.bytes() {
                Some(dot) if I::NR == 2 * I::V::LANES => self.grouped_by::<I, _, 2>(isa, b, Quads(dot)),
                Some(dot) => self.grouped_by::<I, _, 4>(isa, b, Quads(dot)),
                None if I::NR == 2 * I::V::LANES => self.grouped_by::<I, _, 2>(isa, b, Floats),
                None => self.grouped_by::<I, _, 4>(isa, b, Floats),
            }
        }
    }

    /// Computes C in one of the ways, with panels of `N` vectors.
    ///
    /// # Safety
    /// As [`run`](Self::run).
    unsafe fn grouped_by<I: Isa, W: Way<I>, const N: usize>(&self, isa: I, b: &PackedB, way: W) {
        let ([batch, ..], groups) = (self.shape, self.k.div_ceil(GROUP));
        let words = groups * W::WORDS;
        let panels = 0..self.shape[2].div_ceil(self.width::<I>());
        let blocks = self.row_blocks::<I>(0, words);
        self.for_tasks::<I>(0..batch, 0..blocks, blocks, panels, words, |task| {
            let rows = task.rows.len();
            let decoded = GROUPS * (W::WORDS + FACTORS) * I::NR;
            let floats = [packed_a_len(rows, words), 2 * rows * groups, decoded, rows * I::NR];
            scratch::with(floats.iter().sum(), |memory| {
                let (a, memory) = memory.split_at_mut(floats[0]);
                let (of_rows, memory) = memory.split_at_mut(floats[1]);
                let (decoded, sums) = memory.split_at_mut(floats[2]);
                let memory = [a, of_rows, decoded, sums];
                // SAFETY: tasks are disjoint blocks of C, whose owner called `run`.
                isa.run(
                    #[inline(always)]
                    || unsafe { self.grouped_block::<I, W, N>(isa, b, way, &task, memory) },
                );
            });
        });
    }

    /// Computes one block of C.
    ///
    /// # Safety
    /// As [`grouped_by`](Self::grouped_by); no one else touches the block; the memory has room for it.
    #[inline(always)]
    unsafe fn grouped_block<I: Isa, W: Way<I>, const N: usize>(
        &self,
        isa: I,
        b: &PackedB,
        way: W,
        task: &Task,
        [packed_a, of_rows, decoded, sums]: [&mut [f32]; 4],
    ) {
        let (m, width, layout) = (task.rows.len(), self.width::<I>(), b.layout());
        let (groups, lanes) = (self.k.div_ceil(GROUP), I::V::LANES);
        let a = self.a.of_batch(task.batch).slice(0, task.rows.clone());
        let signed = m == 1 && layout.format != Format::Q8_0;
        let stride = m * A_STRIDE;
        for i in 0..m {
            let to = packed_a.as_mut_ptr().wrapping_add(i * A_STRIDE);
            let of_row = &mut of_rows[2 * i * groups..2 * (i + 1) * groups];
            // SAFETY: row i of every slab.
            unsafe {
                with_rows!(a, v => pack_row::<I, W, _>(isa, way, v.at(i), signed, (to, stride), of_row))
            };
        }
        let slab = |g: usize| packed_a.as_ptr().wrapping_add(g * W::WORDS / KC * stride + g * W::WORDS % KC);
        let of_row = |i: usize, g: usize| {
            let at = 2 * (i * groups + g);
            Group { scale: of_rows[at], sum: of_rows[at + 1] }
        };
        let strips = m.div_ceil(tile::rows::<I>());
        let zero = I::V::splat(isa, 0.0);
        for panel in task.panels.clone() {
            let at = b.panels().as_ptr().cast::<u8>().wrapping_add(4 * panel * b.panel_words());
            let group_at = |g: usize| at.wrapping_add(g * layout.group_bytes());
            sums.fill(0.0);
            if m == 1 {
                let mut acc = [zero; N];
                for g in 0..groups {
                    // SAFETY: group g of the panel and of the row.
                    unsafe {
                        let integers = way.row::<N>(isa, layout, group_at(g), slab(g));
                        Scales::<_, N>::load(isa, layout, group_at(g)).add(
                            isa,
                            of_row(0, g),
                            integers,
                            &mut acc,
                        );
                    }
                }
                for (v, sum) in acc.iter().zip(sums.chunks_exact_mut(lanes)) {
                    v.store(sum);
                }
            } else {
                let (words, factors) = decoded.split_at_mut(GROUPS * W::WORDS * I::NR);
                for first in (0..groups).step_by(GROUPS) {
                    let all = first..groups.min(first + GROUPS);
                    // SAFETY: groups of the panel; there is room for as many.
                    let b = unsafe {
                        let at = group_at(first);
                        Groups::decode(isa, way, layout, at, all.len(), words.as_mut_ptr(), factors)
                    };
                    for strip in 0..strips {
                        let rows = part(m, strips, strip);
                        let a = Strip {
                            rows: rows.len(),
                            words: slab(first).wrapping_add(rows.start * A_STRIDE),
                            groups: &of_rows[2 * rows.start * groups..2 * rows.end * groups],
                            stride: 2 * groups,
                            first,
                        };
                        let sums = &mut sums[rows.start * I::NR..rows.end * I::NR];
                        // SAFETY: the words are those of these groups.
                        unsafe { multiply::<I, W, N>(isa, way, layout.format, a, b, sums) };
                    }
                }
            }
            for strip in 0..strips {
                let rows = part(m, strips, strip);
                let sums = &mut sums[rows.start * I::NR..rows.end * I::NR];
                // SAFETY: the strip's rows and columns of C.
                unsafe {
                    self.finish::<I>(task.batch, panel * width).rows(isa, sums, task.rows.start + rows.start);
                }
            }
        }
    }
}
