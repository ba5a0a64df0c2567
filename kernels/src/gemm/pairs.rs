//! Packing of bf16 to k-groups of two k-steps.
//!
//! ```text
//!                       memory                      how
//! rows of A             unit stride along k         copied
//!                       unit stride along m         two k-steps to pairs, transposed in registers
//! panels of B           unit stride along n         two k-steps to pairs
//!                       unit stride along k         stored pairs, transposed in registers
//! any other strides                                 one by one
//! ```

use super::pack::prefetch_behind;
use crate::element::Element;
use crate::isa::{A_STRIDE, Isa, KC, Vector, bf16_bits};
use crate::view::View;
use half::bf16;

/// Rounds `LANES` elements at `p` to bf16. The lower half of a lane holds the bits.
///
/// # Safety
/// `p` is valid for reads of `LANES` elements.
#[inline(always)]
unsafe fn bits<I: Isa, T: Element>(isa: I, p: *const T) -> I::V {
    // SAFETY: `p` is valid for reads of LANES elements (precondition of `bits`).
    unsafe {
        match T::IS_BF16 {
            true => I::V::load_u16(isa, p.cast()),
            false => bf16_bits(isa, T::load::<I>(isa, p)),
        }
    }
}

/// Pairs of `LANES` elements of an even k-step at `even`, and of the next k-step `step` elements further on.
///
/// # Safety
/// `even` and `even + step` are valid for reads of `LANES` elements.
#[inline(always)]
unsafe fn pairs<I: Isa, T: Element>(isa: I, even: *const T, step: usize) -> I::V {
    // SAFETY: both are valid for reads of LANES elements (precondition of `pairs`).
    unsafe { bits(isa, even).or_bits(bits(isa, even.add(step)).shl_bits::<16>()) }
}

/// The pair of k-steps `2 group` and `2 group + 1` at `index` of the other dimension, 0 past the end of k.
#[inline(always)]
fn pair<T: Element>(v: View<'_, 2, T>, k_dim: usize, group: usize, index: usize) -> u32 {
    let half = |p: usize| {
        let at = if k_dim == 0 { [p, index] } else { [index, p] };
        if p < v.shape()[k_dim] { u32::from(bf16::from_f32(v.get(at).to_f32()).to_bits()) } else { 0 }
    };
    half(2 * group) | half(2 * group + 1) << 16
}

/// Packs rows of A (rows x k) to slabs of `KC` k-groups, each `rows * A_STRIDE` floats; zeros fill them up to
/// `groups` k-groups.
///
/// # Safety
/// `to` is valid for writes of [`packed_a_len`](super::pack::packed_a_len) floats for `groups` k-groups.
#[inline(always)]
pub(super) unsafe fn pack_pair_rows<I: Isa, T: Element>(
    isa: I,
    a: View<'_, 2, T>,
    groups: usize,
    to: *mut f32,
) {
    let [rows, k] = a.shape();
    for (slab, first) in (0..groups).step_by(KC).enumerate() {
        let block = a.slice(1, k.min(2 * first)..k.min(2 * (first + KC)));
        let to = to.wrapping_add(slab * rows * A_STRIDE);
        // SAFETY: the slab lies inside the memory (precondition of `pack_pair_rows`).
        unsafe { pack_slab(isa, block, KC.min(groups - first), to) };
    }
}

/// Packs the rows of one slab.
///
/// # Safety
/// `to + i * A_STRIDE` is valid for writes of `groups` k-groups for each row i.
#[inline(always)]
unsafe fn pack_slab<I: Isa, T: Element>(isa: I, a: View<'_, 2, T>, groups: usize, to: *mut f32) {
    let ([rows, k], [row_stride, k_stride]) = (a.shape(), a.strides());
    let (from, lanes) = (a.as_ptr(), I::V::LANES);
    // Rows and k-groups that vectors have packed.
    let (mut rows_done, mut groups_done) = (0, 0);
    if k_stride == 1 {
        (rows_done, groups_done) = (rows, k / lanes * lanes / 2);
        for i in 0..rows {
            for p in (0..2 * groups_done).step_by(lanes) {
                // SAFETY: p + LANES <= k elements of row i, and as many halves of its k-groups.
                unsafe {
                    bits(isa, from.add(i * row_stride + p))
                        .store_u16(to.add(i * A_STRIDE).cast::<u16>().add(p));
                }
            }
        }
    } else if row_stride == 1 {
        (rows_done, groups_done) = (rows / lanes * lanes, k / 2 / lanes * lanes);
        for g in (0..groups_done).step_by(lanes) {
            for i in (0..rows_done).step_by(lanes) {
                // SAFETY: LANES rows and 2 LANES k-steps inside A, and their k-groups.
                unsafe {
                    isa.transpose_vectors(
                        #[inline(always)]
                        |q| pairs(isa, from.add(i + 2 * (g + q) * k_stride), k_stride),
                        to.add(i * A_STRIDE + g),
                        A_STRIDE,
                    );
                }
            }
        }
    }
    for i in 0..rows {
        for g in if i < rows_done { groups_done } else { 0 }..groups {
            // SAFETY: k-group g < `groups` of row i.
            unsafe { *to.add(i * A_STRIDE + g) = f32::from_bits(pair(a, 1, g, i)) };
        }
    }
}

/// Packs the columns of `b` to `groups` k-groups of `NR` pairs, and fills them up with zeros to `width` columns and all
/// k-groups.
///
/// # Safety
/// - `b` has at most `width` columns and `2 groups` k-steps;
/// - `to + g * NR` is valid for writes of `width` floats for each k-group g < `groups`.
#[inline(always)]
pub(super) unsafe fn pack_pair_panel<I: Isa>(
    isa: I,
    b: View<'_, 2, bf16>,
    groups: usize,
    to: *mut f32,
    width: usize,
) {
    let ([k, n], [k_stride, stride]) = (b.shape(), b.strides());
    let (from, lanes) = (b.as_ptr(), I::V::LANES);
    // Columns and k-groups that vectors have packed.
    let (mut columns_done, mut groups_done) = (0, 0);
    if stride == 1 {
        (columns_done, groups_done) = (n / lanes * lanes, k / 2);
        for g in 0..groups_done {
            for p in [2 * g, 2 * g + 1] {
                prefetch_behind(isa, from.wrapping_add(p * k_stride), n);
            }
            for j in (0..columns_done).step_by(lanes) {
                // SAFETY: LANES columns of two k-steps inside B, and their pairs.
                unsafe {
                    pairs(isa, from.add(2 * g * k_stride + j), k_stride).store_ptr(to.add(g * I::NR + j))
                };
            }
        }
    } else if k_stride == 1 {
        (columns_done, groups_done) = (n / lanes * lanes, k / 2 / lanes * lanes);
        for g in (0..groups_done).step_by(lanes) {
            for j in (0..columns_done).step_by(lanes) {
                // SAFETY: LANES columns of 2 LANES k-steps inside B, and their pairs.
                unsafe {
                    isa.transpose_vectors(
                        #[inline(always)]
                        |q| I::V::load_ptr(isa, from.add(2 * g + (j + q) * stride).cast()),
                        to.add(g * I::NR + j),
                        I::NR,
                    );
                }
            }
        }
    }
    for g in 0..groups {
        for j in if g < groups_done { columns_done } else { 0 }..width {
            let pair = if j < n { pair(b, 0, g, j) } else { 0 };
            // SAFETY: column j < `width` of k-group g < `groups`.
            unsafe { *to.add(g * I::NR + j) = f32::from_bits(pair) };
        }
    }
}

/// Places `depth` consecutive k-groups of each column side by side, in a panel of whole multiples of `depth` k-groups.
#[inline(always)]
pub(super) fn interleave<I: Isa>(panel: &mut [f32], depth: usize) {
    /// Upper bound of `depth * NR`: 2 x 8 on NEON, less elsewhere.
    const MOST: usize = 64;
    for groups in panel.chunks_exact_mut(depth * I::NR) {
        let mut stored = [0.0; MOST];
        let stored = &mut stored[..groups.len()];
        stored.copy_from_slice(groups);
        for (column, to) in groups.chunks_exact_mut(depth).enumerate() {
            for (d, to) in to.iter_mut().enumerate() {
                *to = stored[d * I::NR + column];
            }
        }
    }
}
