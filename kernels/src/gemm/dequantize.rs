//! Dequantizing packed weights to the k-groups of a microkernel: floats, or pairs of i16.
//!
//! With a small M, weights are dequantized in registers and multiplied at once. With more rows, the first few
//! rows do this too and keep the dequantized k-block in L1, where the other strips of rows read it.

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
/// `to` is valid for writes of `N * LANES` floats.
#[inline(always)]
pub(super) unsafe fn store<I: Isa, const N: usize>(vectors: [I::V; N], to: *mut f32) {
    for (j, v) in vectors.into_iter().enumerate() {
        // SAFETY: j < N (precondition of `store`).
        unsafe { v.store_ptr(to.add(j * I::V::LANES)) };
    }
}

/// Most rows of [`small_m`]: their sums leave registers for dequantizing.
#[inline(always)]
pub(super) const fn small_m_rows<I: Isa>() -> usize {
    if I::MR < 14 { 4 } else { 8 }
}

/// Panels that [`small_m`] multiplies with `rows` rows side by side.
///
/// Eight sums or more keep two multiply-add units busy, and several streams keep more cache lines on their way.
/// Groups need registers for their scales.
#[inline(always)]
pub(super) const fn panels_at_once<I: Isa>(format: Format, rows: usize) -> usize {
    match (rows, I::MR < 14) {
        (1, false) if !format.is_grouped() => STREAMS,
        (1 | 2, false) => 2,
        (4, false) | (1, true) if !format.is_grouped() => 2,
        _ => 1,
    }
}

/// Operands of [`small_m`]: `rows` rows of A, `A_STRIDE` apart, and `panels` panels.
#[derive(Clone, Copy)]
pub(super) struct SmallM {
    /// A power of two, at most [`small_m_rows`].
    pub rows: usize,
    pub a: *const f32,
    pub panels: usize,
    pub at: Panels,
    /// Sums, NR to a row.
    pub c: *mut f32,
    /// Floats from one row of sums to the next, and from the first row of one panel to the first of the next.
    pub c_strides: [usize; 2],
    /// True if the sums start from `c` rather than from zero.
    pub accumulate: bool,
    /// Memory that receives the dequantized k-steps of a single panel, NR floats to a step.
    pub keep: Option<*mut f32>,
}

/// Multiplies few rows with these k-steps of panels, dequantized in registers. Each sum is the chain of the f32
/// microkernel.
///
/// # Safety
/// - the panels have this layout and these k-steps (module [`steps`]);
/// - `a` is valid for reads of a float for each k-step of each row;
/// - `c` is valid for writes of NR sums of each row and panel, and for reads if `accumulate`;
/// - `keep`, if given, is valid for writes of NR floats for each k-step; `rows` is then [`small_m_rows`];
/// - `panels` is 1 or [`panels_at_once`], and 1 if `keep` is given.
#[inline(always)]
pub(super) unsafe fn small_m<I: Isa>(isa: I, layout: PanelLayout, steps: Range<usize>, with: SmallM) {
    let vectors = I::NR / I::V::LANES;
    // SAFETY: each arm has the preconditions of `small_m`, for its rows and vectors; a panel has two or four vectors.
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
/// The preconditions of [`small_m`], with `rows == R` and `N` vectors in all panels together.
#[inline(always)]
unsafe fn small_m_of<I: Isa, const N: usize, const R: usize, const KEEP: bool>(
    isa: I,
    layout: PanelLayout,
    steps: Range<usize>,
    with: SmallM,
) {
    let panels = N * I::V::LANES / I::NR;
    // Combinations that `small_m` never asks for on this instruction set are not compiled.
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
    // SAFETY: the panels have this layout and these k-steps; rows and sums as `SmallM` says (preconditions).
    unsafe {
        match (layout.format, layout.order) {
            (Format::Bf16, Order::KGroups(1)) => by!(steps::bf16_pairs::<I, N>),
            (Format::F16, _) => by!(steps::f16s::<I, N>),
            (Format::Int8, Order::Steps) => by!(steps::int8s::<I, N>),
            (Format::Int8, Order::KGroups(1)) => by!(steps::int8_quads::<I, N>),
            (Format::Bf16 | Format::Int8, _) => by!(steps::any_k_groups::<I, N>),
            // Groups have at most two panels side by side, as `panels_at_once` says.
            _ if panels > 2 => {}
            (Format::Q8_0, _) => by!(steps::q8::<I, N, true>),
            (Format::Q4_0, _) => by!(steps::q4::<I, N, true, false>),
            (Format::Q4_1, _) => by!(steps::q4::<I, N, true, true>),
            (Format::F32, _) => unreachable!("f32 is not dequantized"),
        }
    }
}

/// Sums of `R` rows and `N` vectors, from k-step `first` on.
#[derive(Clone, Copy)]
struct SmallMSums<const N: usize, const R: usize, const KEEP: bool> {
    with: SmallM,
    first: usize,
    /// Memory of the dequantized k-steps, used if `KEEP`.
    keep: *mut f32,
}

impl<const N: usize, const R: usize, const KEEP: bool> SmallMSums<N, R, KEEP> {
    /// Address of vector `j` of the sums of row `i`.
    #[inline(always)]
    fn place<I: Isa>(self, i: usize, j: usize) -> *mut f32 {
        let [row, panel] = self.with.c_strides;
        let vectors = I::NR / I::V::LANES;
        self.with.c.wrapping_add(j / vectors * panel + i * row + j % vectors * I::V::LANES)
    }

    /// Initial sums: zeros, or the sums in memory.
    ///
    /// # Safety
    /// `with.c` is valid for reads of all sums if `accumulate`.
    #[inline(always)]
    unsafe fn start<I: Isa>(self, isa: I) -> [[I::V; N]; R] {
        let mut acc = [[I::V::splat(isa, 0.0); N]; R];
        if self.with.accumulate {
            for (i, row) in acc.iter_mut().enumerate() {
                for (j, v) in row.iter_mut().enumerate() {
                    // SAFETY: i < R and j < N (precondition of `start`).
                    *v = unsafe { I::V::load_ptr(isa, self.place::<I>(i, j)) };
                }
            }
        }
        acc
    }

    /// Adds the products of k-step `p`.
    ///
    /// # Safety
    /// `p` is one of the k-steps of `a` and of `keep`.
    #[inline(always)]
    unsafe fn add<I: Isa>(self, isa: I, acc: &mut [[I::V; N]; R], p: usize, vectors: [I::V; N]) {
        for (i, row) in acc.iter_mut().enumerate() {
            // SAFETY: k-step p of row i < R (precondition of `add`).
            let a = I::V::splat(isa, unsafe { *self.with.a.add(i * A_STRIDE + p - self.first) });
            for (sum, b) in row.iter_mut().zip(vectors) {
                *sum = a.mul_add(b, *sum);
            }
        }
        if KEEP {
            // SAFETY: NR floats of k-step p (precondition of `add`).
            unsafe { store::<I, N>(vectors, self.keep.add((p - self.first) * I::NR)) };
        }
    }

    /// Stores the sums.
    ///
    /// # Safety
    /// `with.c` is valid for writes of all sums.
    #[inline(always)]
    unsafe fn store<I: Isa>(self, acc: &[[I::V; N]; R]) {
        for (i, row) in acc.iter().enumerate() {
            for (j, v) in row.iter().enumerate() {
                // SAFETY: i < R and j < N (precondition of `store`).
                unsafe { v.store_ptr(self.place::<I>(i, j)) };
            }
        }
    }
}

/// Widens int8 of a panel to k-groups of two i16, NR k-groups for each pair of k-steps.
///
/// # Safety
/// - the panel stores int8 k-step by k-step, and has the two k-steps of each of the k-groups;
/// - `to` is valid for writes of NR k-groups for each pair of k-steps.
#[inline(always)]
pub(super) unsafe fn widen_pairs<I: Isa>(isa: I, panel: *const i8, k_groups: Range<usize>, to: *mut f32) {
    let low = I::V::splat_bits(isa, 0xffff);
    for (i, k_group) in k_groups.enumerate() {
        for j in (0..I::NR).step_by(I::V::LANES) {
            // SAFETY: two k-steps of the panel, and a vector of `to` (preconditions of `widen_pairs`).
            unsafe {
                let at = panel.add(2 * k_group * I::NR + j);
                let (first, second) = (I::V::load_i8(isa, at), I::V::load_i8(isa, at.add(I::NR)));
                first.and_bits(low).or_bits(second.shl_bits::<16>()).store_ptr(to.add(i * I::NR + j));
            }
        }
    }
}
