//! Microkernel of groups: the integer sums of a group are made in registers, scaled and added up there.

use super::super::blocks::GROUP;
use super::super::format::Format;
use super::super::layout::PanelLayout;
use super::variant::GroupVariant;
use crate::element::Element;
use crate::isa::KC;
use crate::isa::{A_STRIDE, Isa, Vector};
use half::f16;

/// Groups of a k-block. They divide a slab of A for each kind of k-group, and as floats of 16 columns they fill half
/// of L1.
pub(super) const GROUPS: usize = 12;
const _: () = assert!(KC.is_multiple_of(GROUPS * GROUP));

/// Rows of NR floats that belong to an unpacked group besides its k-groups: excess of its sums, d and m.
pub(super) const FACTORS: usize = 3;

/// Most rows of a strip. Each row has integer sums and float sums: half the rows of other microkernels (6 on AVX-512)
/// leave registers for A and B.
#[inline(always)]
pub(super) const fn rows<I: Isa>() -> usize {
    (I::MR - 1) / 2
}

/// Decoded groups of a panel, one after the other.
#[derive(Clone, Copy)]
pub(super) struct Groups {
    len: usize,
    k_groups: *const f32,
    /// 32-bit k-groups from one group to the next.
    stride: usize,
    /// [`FACTORS`] times NR floats of each group.
    factors: *const f32,
}

impl Groups {
    /// No groups.
    #[inline(always)]
    pub fn none() -> Self {
        Self { len: 0, k_groups: core::ptr::null(), stride: 0, factors: core::ptr::null() }
    }

    /// Unpacks `len` groups.
    ///
    /// # Safety
    /// - `len` groups of this layout, of `N` vectors, stand at `group`;
    /// - `k_groups` is valid for writes of the k-groups of `len` groups.
    #[inline(always)]
    pub unsafe fn dequantize<I: Isa, W: GroupVariant<I>, const N: usize>(
        isa: I,
        variant: W,
        layout: PanelLayout,
        group: *const u8,
        len: usize,
        k_groups: *mut f32,
        factors: &mut [f32],
    ) -> Self {
        let lanes = I::V::LANES;
        let (mut first, mut stride) = (k_groups.cast_const(), W::K_GROUPS * I::NR);
        for (g, factors) in factors.chunks_exact_mut(FACTORS * I::NR).take(len).enumerate() {
            let to = k_groups.wrapping_add(g * W::K_GROUPS * I::NR);
            let group = group.wrapping_add(g * layout.group_bytes());
            // SAFETY: group g < len and its factors; m stands behind d where the format has one.
            unsafe {
                let at = variant.k_groups::<N>(isa, group, to, factors.as_mut_ptr());
                if at != to && g == 0 {
                    (first, stride) = (at, layout.group_bytes() / size_of::<f32>());
                }
                let scales = if layout.format == Format::Q4_1 { 2 * I::NR } else { I::NR };
                for (j, to) in factors[I::NR..][..scales].chunks_exact_mut(lanes).enumerate() {
                    let v = f16::load::<I>(isa, group.wrapping_add(2 * j * lanes).cast());
                    v.store(to);
                }
            }
        }
        Self { len, k_groups: first, stride, factors: factors.as_ptr() }
    }
}

/// A strip of quantized rows.
#[derive(Clone, Copy)]
pub(super) struct QuantizedStrip<'a> {
    /// Number of rows, at most [`rows`].
    pub rows: usize,
    /// k-groups of the first row, from group `first` on; rows are `A_STRIDE` apart.
    pub k_groups: *const f32,
    /// Scale and sum of each group of each row.
    pub groups: &'a [f32],
    /// Floats of `groups` from one row to the next.
    pub stride: usize,
    /// Index of the first group.
    pub first: usize,
    /// True if `sums` hold the sums of the groups before; false if they are not written yet.
    pub accumulate: bool,
}

/// Adds the products of a strip and a k-block of groups to `sums`, NR for each row, or sets them.
///
/// # Safety
/// The rows have the groups of `b`, and a panel has `N` vectors.
#[inline(always)]
pub(super) unsafe fn multiply<I: Isa, W: GroupVariant<I>, const N: usize>(
    isa: I,
    variant: W,
    format: Format,
    a: QuantizedStrip<'_>,
    b: Groups,
    sums: &mut [f32],
) {
    assert!(sums.len() == a.rows * I::NR && I::NR == N * I::V::LANES);
    macro_rules! of_rows {
        ($($rows:literal)*) => {
            match (a.rows, format == Format::Q4_1) {
                $(
                    // SAFETY: `a.rows` is the constant of this arm (otherwise preconditions of `multiply`).
                    ($rows, false) => unsafe { tile::<I, W, N, $rows, false>(isa, variant, a, b, sums) },
                    // SAFETY: `a.rows` is the constant of this arm (otherwise preconditions of `multiply`).
                    ($rows, true) => unsafe { tile::<I, W, N, $rows, true>(isa, variant, a, b, sums) },
                )*
                _ => unreachable!("a strip has at most {} rows", rows::<I>()),
            }
        };
    }
    of_rows!(1 2 3 4 5 6);
}

/// [`multiply`] for `R` rows, with minima or without.
///
/// # Safety
/// The preconditions of [`multiply`], with `a.rows == R`.
#[inline(always)]
unsafe fn tile<I: Isa, W: GroupVariant<I>, const N: usize, const R: usize, const MIN: bool>(
    isa: I,
    variant: W,
    a: QuantizedStrip<'_>,
    b: Groups,
    sums: &mut [f32],
) {
    if R > rows::<I>() {
        return;
    }
    let (lanes, zero) = (I::V::LANES, I::V::splat(isa, 0.0));
    assert!(a.groups.len() >= (R - 1) * a.stride + 2 * (a.first + b.len));
    let of_rows = a.groups.as_ptr().wrapping_add(2 * a.first);
    let mut acc = [[zero; N]; R];
    if a.accumulate {
        for (row, sums) in acc.iter_mut().zip(sums.chunks_exact(I::NR)) {
            for (v, sum) in row.iter_mut().zip(sums.chunks_exact(lanes)) {
                *v = I::V::load(isa, sum);
            }
        }
    }
    for g in 0..b.len {
        // Loops: methods of arrays are not inlined into target-feature functions.
        //
        // SAFETY: factors and k-groups of group g < b.len, and k-groups of R rows (preconditions of `tile`).
        unsafe {
            let (a_at, b_at) = (a.k_groups.add(g * W::K_GROUPS), b.k_groups.add(g * b.stride));
            let excess = b.factors.add(g * FACTORS * I::NR);
            let (d, m) = (excess.add(I::NR), excess.add(2 * I::NR));
            let mut integers = [[zero; N]; R];
            for j in 0..N {
                let start = variant.start(isa, I::V::load_ptr(isa, excess.add(j * lanes)));
                for row in &mut integers {
                    row[j] = start;
                }
            }
            for k_group in 0..W::K_GROUPS {
                let mut b = [zero; N];
                for (j, b) in b.iter_mut().enumerate() {
                    *b = I::V::load_ptr(isa, b_at.add(k_group * I::NR + j * lanes));
                }
                for (i, row) in integers.iter_mut().enumerate() {
                    let a = I::V::splat(isa, *a_at.add(i * A_STRIDE + k_group));
                    for (sum, b) in row.iter_mut().zip(b) {
                        *sum = variant.dot(a, b, *sum);
                    }
                }
            }
            for i in 0..R {
                let of_row = of_rows.add(i * a.stride + 2 * g);
                let (scale, sum) = (I::V::splat(isa, *of_row), I::V::splat(isa, *of_row.add(1)));
                for j in 0..N {
                    let d = I::V::load_ptr(isa, d.add(j * lanes));
                    let q = variant.float(integers[i][j]);
                    let of_group = match MIN {
                        true => d.mul_add(q, I::V::load_ptr(isa, m.add(j * lanes)) * sum),
                        false => d * q,
                    };
                    acc[i][j] = scale.mul_add(of_group, acc[i][j]);
                }
            }
        }
    }
    for (row, sums) in acc.iter().zip(sums.chunks_exact_mut(I::NR)) {
        for (v, sum) in row.iter().zip(sums.chunks_exact_mut(lanes)) {
            v.store(sum);
        }
    }
}
