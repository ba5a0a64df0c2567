//! Packed numbers become the k-groups that a tile takes: floats, or pairs of i16.
//!
//! A few rows dequantize a block of k-steps of a panel in registers, while they are multiplied with it. Of many
//! rows the first few do so, and leave what they dequantized in L1, where all other strips of rows read it.

mod panels;
mod steps;

use super::format::Format;
use super::layout::{Order, PanelLayout};
use crate::isa::tile::STREAMS;
use crate::isa::{A_STRIDE, Isa, Vector};
use core::ops::Range;
pub(super) use panels::Panels;
pub(super) use steps::groups;

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

/// Most rows that [`small_m`] takes: their sums leave registers for what is dequantized.
#[inline(always)]
pub(super) const fn small_m_rows<I: Isa>() -> usize {
    if I::MR < 14 { 4 } else { 8 }
}

/// Panels that [`small_m`] multiplies with so many rows, side by side, if there are as many: eight sums or more
/// keep two multiply-add units busy, and several streams of memory more lines on their variant. Groups need more
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

/// What [`small_m`] multiplies: `rows` rows of A, `A_STRIDE` apart, with `panels` panels.
#[derive(Clone, Copy)]
pub(super) struct SmallM {
    /// A power of two, at most [`small_m_rows`].
    pub rows: usize,
    pub a: *const f32,
    pub panels: usize,
    pub at: Panels,
    /// SmallMSums, NR to a row.
    pub c: *mut f32,
    /// Floats from a row of sums to the next, and from a panel's to the next panel's.
    pub c_strides: [usize; 2],
    /// Whether the sums start from C rather than from zero.
    pub accumulate: bool,
    /// Where the floats of the steps are left, NR to a step, if they are wanted; of one panel.
    pub keep: Option<*mut f32>,
}

/// A few rows by these k-steps of panels, dequantized in registers. Every sum is the same chain as the tile's.
///
/// # Safety
/// As [`steps`] says; `a` is valid for reads of a float for each step of every row, `c` and
/// `keep` for writes, and `c` for reads if it is accumulated. `panels` is 1 or
/// [`panels_at_once`], and 1 for [`small_m_rows`] rows, which alone keep what is dequantized.
#[inline(always)]
pub(super) unsafe fn small_m<I: Isa>(isa: I, layout: PanelLayout, steps: Range<usize>, with: SmallM) {
    let vectors = I::NR / I::V::LANES;
    // SAFETY: the caller's; a panel has two or four vectors.
    unsafe {
        match (with.rows, vectors, with.panels) {
            _ if with.keep.is_some() => match vectors {
                2 if small_m_rows::<I>() == 8 => small_m_of::<I, 2, 8, true>(isa, layout, steps, with),
                2 => small_m_of::<I, 2, 4, true>(isa, layout, steps, with),
                _ => small_m_of::<I, 4, 4, true>(isa, layout, steps, with),
            },
            (1, 2, 1) => small_m_of::<I, 2, 1, false>(isa, layout, steps, with),
            (2, 2, 1) => small_m_of::<I, 2, 2, false>(isa, layout, steps, with),
            (4, 2, 1) => small_m_of::<I, 2, 4, false>(isa, layout, steps, with),
            (8, 2, 1) => small_m_of::<I, 2, 8, false>(isa, layout, steps, with),
            (1, 2, 2) => small_m_of::<I, 4, 1, false>(isa, layout, steps, with),
            (2, 2, 2) => small_m_of::<I, 4, 2, false>(isa, layout, steps, with),
            (4, 2, 2) => small_m_of::<I, 4, 4, false>(isa, layout, steps, with),
            (1, 2, 4) => small_m_of::<I, 8, 1, false>(isa, layout, steps, with),
            (1, 4, 1) => small_m_of::<I, 4, 1, false>(isa, layout, steps, with),
            (2, 4, 1) => small_m_of::<I, 4, 2, false>(isa, layout, steps, with),
            (4, 4, 1) => small_m_of::<I, 4, 4, false>(isa, layout, steps, with),
            (1, 4, 2) => small_m_of::<I, 8, 1, false>(isa, layout, steps, with),
            (m, _, panels) => unreachable!("{m} rows by {panels} panels"),
        }
    }
}

/// [`small_m`] for `R` rows and `N` vectors, of one panel or several.
///
/// # Safety
/// As [`small_m`].
#[inline(always)]
unsafe fn small_m_of<I: Isa, const N: usize, const R: usize, const KEEP: bool>(
    isa: I,
    layout: PanelLayout,
    steps: Range<usize>,
    with: SmallM,
) {
    let panels = N * I::V::LANES / I::NR;
    // What this instruction set never asks for is not compiled for it.
    if R > small_m_rows::<I>() || panels == 0 || panels > panels_at_once::<I>(Format::Bf16, R) {
        return;
    }
    let sums = SmallMSums::<N, R, KEEP> { with, first: steps.start, keep: with.keep.unwrap_or(with.c) };
    macro_rules! by {
        ($walk:expr) => {{
            let mut acc = sums.start(isa);
            $walk(
                isa,
                layout,
                with.at,
                steps,
                #[inline(always)]
                |p, vectors| sums.add(isa, &mut acc, p, vectors),
            );
            sums.store::<I>(&acc);
        }};
    }
    // SAFETY: the caller's.
    unsafe {
        match (layout.format, layout.order) {
            (Format::Bf16, Order::KGroups(1)) => by!(steps::bf16_pairs::<I, N>),
            (Format::F16, _) => by!(steps::f16s::<I, N>),
            (Format::Int8, Order::Steps) => by!(steps::int8s::<I, N>),
            (Format::Int8, Order::KGroups(1)) => by!(steps::int8_quads::<I, N>),
            (Format::Bf16 | Format::Int8, _) => by!(steps::any_k_groups::<I, N>),
            // No more panels than `panels_at_once` says.
            _ if panels > 2 => {}
            (Format::Q8_0, _) => by!(steps::q8::<I, N, true>),
            (Format::Q4_0, _) => by!(steps::q4::<I, N, true, false>),
            (Format::Q4_1, _) => by!(steps::q4::<I, N, true, true>),
            (Format::F32, _) => unreachable!("f32 is not dequantized"),
        }
    }
}

/// How `R` rows are multiplied with `N` vectors, from this k-step on.
#[derive(Clone, Copy)]
struct SmallMSums<const N: usize, const R: usize, const KEEP: bool> {
    with: SmallM,
    first: usize,
    /// Where they are left, if they are kept.
    keep: *mut f32,
}

impl<const N: usize, const R: usize, const KEEP: bool> SmallMSums<N, R, KEEP> {
    /// Where sum `j` of row `i` stands.
    #[inline(always)]
    fn place<I: Isa>(self, i: usize, j: usize) -> *mut f32 {
        let [row, panel] = self.with.c_strides;
        let vectors = I::NR / I::V::LANES;
        self.with.c.wrapping_add(j / vectors * panel + i * row + j % vectors * I::V::LANES)
    }

    /// What the sums start from.
    ///
    /// # Safety
    /// As [`small_m`]; so for the others.
    #[inline(always)]
    unsafe fn start<I: Isa>(self, isa: I) -> [[I::V; N]; R] {
        let mut acc = [[I::V::splat(isa, 0.0); N]; R];
        if self.with.accumulate {
            for (i, row) in acc.iter_mut().enumerate() {
                for (j, v) in row.iter_mut().enumerate() {
                    // SAFETY: the caller's.
                    *v = unsafe { I::V::load_ptr(isa, self.place::<I>(i, j)) };
                }
            }
        }
        acc
    }

    /// Adds the products with k-step `p`.
    #[inline(always)]
    unsafe fn add<I: Isa>(self, isa: I, acc: &mut [[I::V; N]; R], p: usize, vectors: [I::V; N]) {
        for (i, row) in acc.iter_mut().enumerate() {
            // SAFETY: the caller's.
            let a = I::V::splat(isa, unsafe { *self.with.a.add(i * A_STRIDE + p - self.first) });
            for (sum, b) in row.iter_mut().zip(vectors) {
                *sum = a.mul_add(b, *sum);
            }
        }
        if KEEP {
            // SAFETY: the caller's.
            unsafe { store::<I, N>(vectors, self.keep.add((p - self.first) * I::NR)) };
        }
    }

    /// Stores the sums.
    #[inline(always)]
    unsafe fn store<I: Isa>(self, acc: &[[I::V; N]; R]) {
        for (i, row) in acc.iter().enumerate() {
            for (j, v) in row.iter().enumerate() {
                // SAFETY: the caller's.
                unsafe { v.store_ptr(self.place::<I>(i, j)) };
            }
        }
    }
}

/// Writes k-steps of a panel of int8 to `to` as k-groups: pairs of i16, NR k-groups to a pair.
///
/// # Safety
/// As [`steps`] says; the order is that of k-steps, and there are as many as k-groups.
#[inline(always)]
pub(super) unsafe fn widen_pairs<I: Isa>(isa: I, panel: *const i8, k_groups: Range<usize>, to: *mut f32) {
    let low = I::V::splat_bits(isa, 0xffff);
    for (i, k_group) in k_groups.enumerate() {
        for j in (0..I::NR).step_by(I::V::LANES) {
            // SAFETY: two steps of the panel, and a k-group of `to`.
            unsafe {
                let at = panel.add(2 * k_group * I::NR + j);
                let (first, second) = (I::V::load_i8(isa, at), I::V::load_i8(isa, at.add(I::NR)));
                first.and_bits(low).or_bits(second.shl_bits::<16>()).store_ptr(to.add(i * I::NR + j));
            }
        }
    }
}
