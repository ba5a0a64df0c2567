//! Panels and microkernels behind slices, for kernels that multiply inside a larger algorithm.

use super::pack::{copy_block, pack_panel};
use crate::element::{Element, first_bf16_bits};
use crate::isa::{A_STRIDE, Isa, Microkernel, Prefetch, Tile, Vector};
use crate::view::View;

/// Packs `b` (k x n) as panels of `NR` columns, `panel_len` floats apart; zeros fill the last panel.
///
/// # Panics
/// If `k * NR > panel_len`, or `panels` is too short.
#[inline(always)]
pub(crate) fn pack_panels<I: Isa>(isa: I, b: View<'_, 2>, panels: &mut [f32], panel_len: usize) {
    let [k, n] = b.shape();
    assert!(k * I::NR <= panel_len);
    for (panel, column) in (0..n).step_by(I::NR).enumerate() {
        let to = &mut panels[panel * panel_len..][..k * I::NR];
        let columns = b.slice(1, column..n.min(column + I::NR));
        // SAFETY: `to` holds k steps of NR floats, and at most NR columns are packed.
        unsafe { pack_panel(isa, columns, to.as_mut_ptr(), I::NR) };
    }
}

/// Copies the rows of `from`, of any strides, to contiguous rows that are `stride` floats apart.
///
/// # Panics
/// If a row is longer than `stride`, or `to` is too short.
#[inline(always)]
pub(crate) fn copy_rows<I: Isa>(isa: I, from: View<'_, 2>, (to, stride): (&mut [f32], usize)) {
    let [rows, columns] = from.shape();
    assert!(columns <= stride && (rows == 0 || to.len() >= (rows - 1) * stride + columns));
    // SAFETY: `to` holds all rows (checked above).
    unsafe { copy_block(isa, from, to.as_mut_ptr(), stride) };
}

/// Packs a row as pairs of bf16, rounded to nearest, and fills `k_groups` up with zeros.
///
/// # Panics
/// If the row is longer than `2 * k_groups.len()`.
#[inline(always)]
pub(crate) fn pack_pairs<I: Isa, T: Element>(isa: I, row: &[T], k_groups: &mut [f32]) {
    assert!(row.len() <= 2 * k_groups.len());
    let to: *mut u16 = k_groups.as_mut_ptr().cast();
    let whole = row.len() - row.len() % I::V::LANES;
    for at in (0..whole).step_by(I::V::LANES) {
        // SAFETY: `at + LANES <= row.len()`, and the row fits, as asserted.
        unsafe { first_bf16_bits(isa, &row[at..]).store_u16(to.add(at)) };
    }
    for at in whole..2 * k_groups.len() {
        let bits = row.get(at).map_or(0, |x| half::bf16::from_f32(x.to_f32()).to_bits());
        // SAFETY: `at < 2 * k_groups.len()`.
        unsafe { *to.add(at) = bits };
    }
}

/// C = A B, or C += A B, for `rows` rows of A, `A_STRIDE` apart, and one packed panel of B of `k` k-groups:
/// the register tile of [`Microkernel::tile`] with its bounds checked.
///
/// # Panics
/// If `rows` is 0 or more than the microkernel's rows, or if a slice is too short.
#[inline(always)]
pub(crate) fn multiply_panel<I: Isa, M: Microkernel<I>>(
    microkernel: (I, M),
    shape: [usize; 2],
    a: &[f32],
    b: &[f32],
    c: (&mut [f32], usize),
    accumulate: bool,
    prefetch: Prefetch,
) {
    multiply_columns(microkernel, shape, a, (b, I::NR), c, accumulate, prefetch);
}

/// [`multiply_panel`] for `NR` columns of B whose k-steps are any distance apart, if the microkernel is an outer
/// product. Enters the instruction set by itself, so that the tiles of all heights exist once in the program and not
/// once per caller.
///
/// # Panics
/// As [`multiply_panel`].
#[inline(never)]
pub(crate) fn multiply_columns<I: Isa, M: Microkernel<I>>(
    (isa, microkernel): (I, M),
    [rows, k]: [usize; 2],
    a: &[f32],
    (b, b_stride): (&[f32], usize),
    (c, c_stride): (&mut [f32], usize),
    accumulate: bool,
    prefetch: Prefetch,
) {
    assert!((1..=microkernel.rows()).contains(&rows));
    assert!(k == 0 || a.len() >= (rows - 1) * A_STRIDE + k);
    assert!(k == 0 || b.len() >= (k - 1) * b_stride + I::NR);
    assert!(c.len() >= (rows - 1) * c_stride + I::NR);
    let tile = Tile {
        rows,
        k,
        a: a.as_ptr().cast(),
        b: b.as_ptr().cast(),
        b_stride,
        c: c.as_mut_ptr().cast(),
        c_stride,
        accumulate,
        prefetch,
    };
    // SAFETY: `rows` and the lengths of the slices were checked; C is borrowed mutably, so it overlaps
    // neither A nor B.
    isa.run(
        #[inline(always)]
        || unsafe { microkernel.run(isa, tile) },
    );
}
