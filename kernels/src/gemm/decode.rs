//! Packed numbers become the words that a tile takes: floats, or pairs of i16.
//!
//! A few rows decode a block of k-steps of a panel in registers, while they are multiplied with it. Of many
//! rows the first few do so, and leave what they decoded in L1, where all other strips of rows read it.

mod steps;

use super::format::{Format, Layout};
use crate::isa::tile::STREAMS;
use crate::isa::{A_STRIDE, Isa, Vector};
use core::ops::Range;
use steps::numbers;
pub(super) use steps::{Panels, groups};

/// Stores vectors one behind the other.
///
/// # Safety
/// `to` is valid for writes of them.
#[inline(always)]
pub(super) unsafe fn store<I: Isa, const N: usize>(vectors: [I::V; N], to: *mut f32) {
    for (j, v) in vectors.into_iter().enumerate() {
        // SAFETY: the caller's.
        unsafe { v.store_ptr(to.add(j * I::V::LANES)) };
    }
}

/// Most rows that [`rows`] takes: their sums leave registers for what is decoded.
#[inline(always)]
pub(super) const fn few<I: Isa>() -> usize {
    if I::MR < 14 { 4 } else { 8 }
}

/// Panels that [`rows`] multiplies with so many rows, side by side, if there are as many: eight sums or more
/// keep two multiply-add units busy, and several streams of memory more lines on their way. Groups need more
/// registers, for their scales.
#[inline(always)]
pub(super) const fn panels_at_once<I: Isa>(format: Format, rows: usize) -> usize {
    match (rows, I::MR < 14) {
        (1, false) if !format.is_grouped() => STREAMS,
        (1 | 2, false) => 2,
        (4, false) | (1, true) if !format.is_grouped() => 2,
        _ => 1,
    }
}

/// What [`rows`] multiplies: `rows` rows of A, `A_STRIDE` apart, with `panels` panels.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    /// A power of two, at most [`few`].
    pub rows: usize,
    pub a: *const f32,
    pub panels: usize,
    pub at: Panels,
    /// Sums, NR to a row.
    pub c: *mut f32,
    /// Floats from a row of sums to the next, and from a panel's to the next panel's.
    pub c_strides: [usize; 2],
    /// Whether the sums start from C rather than from zero.
    pub accumulate: bool,
    /// Where the floats of the steps are left, NR to a step, if they are wanted; of one panel.
    pub keep: Option<*mut f32>,
}

/// A few rows by these k-steps of panels, decoded in registers. Every sum is the same chain as the tile's.
///
/// # Safety
/// As [`numbers`] and [`groups`]; `a` is valid for reads of a float for each step of every row, `c` and
/// `keep` for writes, and `c` for reads if it is accumulated. `panels` is 1 or
/// [`panels_at_once`], and 1 for [`few`] rows, which alone keep what is decoded.
#[inline(always)]
pub(super) unsafe fn rows<I: Isa>(isa: I, layout: Layout, steps: Range<usize>, with: Rows) {
    let vectors = I::NR / I::V::LANES;
    // SAFETY: the caller's; a panel has two or four vectors.
    unsafe {
        match (with.rows, vectors, with.panels) {
            _ if with.keep.is_some() => match vectors {
                2 if few::<I>() == 8 => rows_of::<I, 2, 8, true>(isa, layout, steps, with),
                2 => rows_of::<I, 2, 4, true>(isa, layout, steps, with),
                _ => rows_of::<I, 4, 4, true>(isa, layout, steps, with),
            },
            (1, 2, 1) => rows_of::<I, 2, 1, false>(isa, layout, steps, with),
            (2, 2, 1) => rows_of::<I, 2, 2, false>(isa, layout, steps, with),
            (4, 2, 1) => rows_of::<I, 2, 4, false>(isa, layout, steps, with),
            (8, 2, 1) => rows_of::<I, 2, 8, false>(isa, layout, steps, with),
            (1, 2, 2) => rows_of::<I, 4, 1, false>(isa, layout, steps, with),
            (2, 2, 2) => rows_of::<I, 4, 2, false>(isa, layout, steps, with),
            (4, 2, 2) => rows_of::<I, 4, 4, false>(isa, layout, steps, with),
            (1, 2, 4) => rows_of::<I, 8, 1, false>(isa, layout, steps, with),
            (1, 4, 1) => rows_of::<I, 4, 1, false>(isa, layout, steps, with),
            (2, 4, 1) => rows_of::<I, 4, 2, false>(isa, layout, steps, with),
            (4, 4, 1) => rows_of::<I, 4, 4, false>(isa, layout, steps, with),
            (1, 4, 2) => rows_of::<I, 8, 1, false>(isa, layout, steps, with),
            (m, _, panels) => unreachable!("{m} rows by {panels} panels"),
        }
    }
}

/// [`rows`] for `R` rows and `N` vectors, of one panel or several.
///
/// # Safety
/// As [`rows`].
#[inline(always)]
unsafe fn rows_of<I: Isa, const N: usize, const R: usize, const KEEP: bool>(
    isa: I,
    layout: Layout,
    steps: Range<usize>,
    with: Rows,
) {
    let (first, lanes) = (steps.start, I::V::LANES);
    let vectors = I::NR / lanes;
    let panels = N / vectors;
    let most = panels_at_once::<I>(Format::Bf16, R);
    // What this instruction set never asks for is not compiled for it.
    if R > few::<I>() || panels == 0 || panels > most || (panels == 2 && most == 4 && R > 1) {
        return;
    }
    let sum = |i: usize, j: usize| {
        let [row, panel] = with.c_strides;
        with.c.wrapping_add(j / vectors * panel + i * row + j % vectors * lanes)
    };
    let mut acc = [[I::V::splat(isa, 0.0); N]; R];
    // SAFETY: the caller's.
    unsafe {
        if with.accumulate {
            for (i, row) in acc.iter_mut().enumerate() {
                for (j, v) in row.iter_mut().enumerate() {
                    *v = I::V::load_ptr(isa, sum(i, j));
                }
            }
        }
        let keep = with.keep.unwrap_or(with.c);
        visit::<I, N>(
            isa,
            layout,
            with.at,
            steps,
            #[inline(always)]
            |p, vectors| {
                for (i, row) in acc.iter_mut().enumerate() {
                    let a = I::V::splat(isa, *with.a.add(i * A_STRIDE + p - first));
                    for (sum, b) in row.iter_mut().zip(vectors) {
                        *sum = a.mul_add(b, *sum);
                    }
                }
                if KEEP {
                    store::<I, N>(vectors, keep.add((p - first) * I::NR));
                }
            },
        );
        for (i, row) in acc.iter().enumerate() {
            for (j, v) in row.iter().enumerate() {
                v.store_ptr(sum(i, j));
            }
        }
    }
}

/// Calls `f(p, row p of the panels)` for k-steps of panels, as `N` vectors of floats.
///
/// # Safety
/// As [`numbers`] or [`groups`].
#[inline(always)]
unsafe fn visit<I: Isa, const N: usize>(
    isa: I,
    layout: Layout,
    panels: Panels,
    steps: Range<usize>,
    f: impl FnMut(usize, [I::V; N]),
) {
    // SAFETY: the caller's.
    unsafe {
        match (layout.format.is_grouped(), N * I::V::LANES / I::NR) {
            (false, _) => numbers::<I, N>(isa, layout, panels, steps, f),
            // No more than `panels_at_once` says.
            (true, 1 | 2) => groups::<I, N, true>(isa, layout, panels, steps, f),
            (true, _) => {}
        }
    }
}

/// Writes k-steps of a panel of int8 to `to` as words: pairs of i16, NR words to a pair.
///
/// # Safety
/// As [`numbers`]; the order is that of k-steps, and there are as many as words.
#[inline(always)]
pub(super) unsafe fn decode_pairs<I: Isa>(isa: I, panel: *const i8, words: Range<usize>, to: *mut f32) {
    let low = I::V::splat_bits(isa, 0xffff);
    for (i, word) in words.enumerate() {
        for j in (0..I::NR).step_by(I::V::LANES) {
            // SAFETY: two steps of the panel, and a word of `to`.
            unsafe {
                let at = panel.add(2 * word * I::NR + j);
                let (first, second) = (I::V::load_i8(isa, at), I::V::load_i8(isa, at.add(I::NR)));
                first.and_bits(low).or_bits(second.shl_bits::<16>()).store_ptr(to.add(i * I::NR + j));
            }
        }
    }
}
