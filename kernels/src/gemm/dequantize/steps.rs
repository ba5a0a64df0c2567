//! k-steps of panels as vectors of floats. Each function calls `f(p, row p of the panels)` with `N` vectors for the
//! k-steps p, and prefetches further k-steps of each panel.
//!
//! # Safety
//! Preconditions of each function:
//! - the panels have the function's format and the given layout, of this instruction set;
//! - the panels have `N` vectors together;
//! - the panels have the k-steps, and these begin with a whole k-group or group.

use super::super::blocks::GROUP;
use super::super::format::Format;
use super::super::layout::PanelLayout;
use super::panels::Panels;
use crate::isa::{Isa, MAX_LANES, Vector};
use core::ops::Range;

/// bf16 in pairs: a shift and a mask widen both halves of a k-group.
///
/// # Safety
/// The preconditions at the head of this module hold.
#[inline(always)]
pub(super) unsafe fn bf16_pairs<I: Isa, const N: usize>(
    isa: I,
    _: PanelLayout,
    panels: Panels,
    steps: Range<usize>,
    mut f: impl FnMut(usize, [I::V; N]),
) {
    let high = I::V::splat_bits(isa, 0xffff_0000);
    for first in steps.clone().step_by(2) {
        panels.prefetch::<I, N>(isa, first / 2, 4);
        // SAFETY: k-groups of the panels (module preconditions).
        let k_groups = unsafe { panels.k_groups(isa, first / 2) };
        unpack::<I, N, 2>(
            k_groups,
            first..steps.end,
            &mut f,
            #[inline(always)]
            |i, _, k_group| if i == 0 { k_group.shl_bits::<16>() } else { k_group.and_bits(high) },
        );
    }
}

/// f16, k-step by k-step.
///
/// # Safety
/// The preconditions at the head of this module hold.
#[inline(always)]
pub(super) unsafe fn f16s<I: Isa, const N: usize>(
    isa: I,
    _: PanelLayout,
    panels: Panels,
    steps: Range<usize>,
    mut f: impl FnMut(usize, [I::V; N]),
) {
    for p in steps {
        panels.prefetch::<I, N>(isa, p, 2);
        // SAFETY: numbers of the panels (module preconditions).
        f(p, unsafe { panels.f16s(isa, p) });
    }
}

/// int8, k-step by k-step, without its scale.
///
/// # Safety
/// The preconditions at the head of this module hold.
#[inline(always)]
pub(super) unsafe fn int8s<I: Isa, const N: usize>(
    isa: I,
    _: PanelLayout,
    panels: Panels,
    steps: Range<usize>,
    mut f: impl FnMut(usize, [I::V; N]),
) {
    for p in steps {
        panels.prefetch::<I, N>(isa, p, 1);
        let numbers = panels.row(
            isa,
            p,
            1,
            #[inline(always)]
            // SAFETY: numbers of the panels.
            |at| unsafe { I::V::load_i8(isa, at.cast()) }.int_to_float(),
        );
        f(p, numbers);
    }
}

/// int8 in quads, without its scale.
///
/// # Safety
/// The preconditions at the head of this module hold.
#[inline(always)]
pub(super) unsafe fn int8_quads<I: Isa, const N: usize>(
    isa: I,
    _: PanelLayout,
    panels: Panels,
    steps: Range<usize>,
    mut f: impl FnMut(usize, [I::V; N]),
) {
    let unit = I::V::splat(isa, BYTE_UNIT);
    for first in steps.clone().step_by(4) {
        panels.prefetch::<I, N>(isa, first / 4, 4);
        // SAFETY: k-groups of the panels.
        let k_groups = unsafe { panels.k_groups(isa, first / 4) };
        unpack::<I, N, 4>(
            k_groups,
            first..steps.end,
            &mut f,
            #[inline(always)]
            |i, _, k_group| byte(isa, k_group, i) * unit,
        );
    }
}

/// bf16 or int8 where several k-groups of a column stand side by side; reads number by number.
///
/// # Safety
/// The preconditions at the head of this module hold.
#[inline(always)]
pub(super) unsafe fn any_k_groups<I: Isa, const N: usize>(
    isa: I,
    layout: PanelLayout,
    panels: Panels,
    steps: Range<usize>,
    mut f: impl FnMut(usize, [I::V; N]),
) {
    let (lanes, bytes) = (I::V::LANES, layout.panel_bytes(steps.end));
    let vectors = I::NR / lanes;
    for p in steps {
        let mut v = [I::V::splat(isa, 0.0); N];
        for (j, v) in v.iter_mut().enumerate() {
            let panel = panels.first.wrapping_add(j / vectors * panels.stride);
            // SAFETY: the panel has the bytes of these k-steps (module preconditions).
            let bytes = unsafe { core::slice::from_raw_parts(panel, bytes) };
            let mut numbers = [0.0; MAX_LANES];
            for (i, number) in numbers[..lanes].iter_mut().enumerate() {
                *number = layout.read(bytes, p, j % vectors * lanes + i);
            }
            *v = I::V::load(isa, &numbers);
        }
        f(p, v);
    }
}

/// Weights in groups; if not `SCALED`, q as stored.
///
/// # Safety
/// The preconditions at the head of this module hold.
#[inline(always)]
pub(in crate::gemm) unsafe fn groups<I: Isa, const N: usize, const SCALED: bool>(
    isa: I,
    layout: PanelLayout,
    panels: Panels,
    steps: Range<usize>,
    f: impl FnMut(usize, [I::V; N]),
) {
    // SAFETY: the format chooses the function (module preconditions).
    unsafe {
        match layout.format {
            Format::Q8_0 => q8::<I, N, SCALED>(isa, layout, panels, steps, f),
            Format::Q4_0 => q4::<I, N, SCALED, false>(isa, layout, panels, steps, f),
            _ => q4::<I, N, SCALED, true>(isa, layout, panels, steps, f),
        }
    }
}

/// [`groups`] of int8.
///
/// # Safety
/// The preconditions at the head of this module hold.
#[inline(always)]
pub(super) unsafe fn q8<I: Isa, const N: usize, const SCALED: bool>(
    isa: I,
    layout: PanelLayout,
    panels: Panels,
    steps: Range<usize>,
    mut f: impl FnMut(usize, [I::V; N]),
) {
    let unit = I::V::splat(isa, BYTE_UNIT);
    let (at_once, bytes) = (N * I::V::LANES / I::NR, layout.group_bytes());
    for p in steps.clone().step_by(GROUP) {
        let group = panels.group::<I, SCALED>(isa, at_once, bytes, p / GROUP);
        let mut scales = [unit; N];
        if SCALED {
            // SAFETY: the scales d of the group (module preconditions).
            scales = unsafe { group.f16s(isa, 0) };
            for scale in &mut scales {
                *scale = *scale * unit;
            }
        }
        for first in (p..steps.end.min(p + GROUP)).step_by(4) {
            // SAFETY: k-groups of the group.
            let k_groups = unsafe { group.behind(2 * I::NR).k_groups(isa, (first - p) / 4) };
            unpack::<I, N, 4>(
                k_groups,
                first..steps.end,
                &mut f,
                #[inline(always)]
                |i, j, k_group| scales[j] * byte(isa, k_group, i),
            );
        }
    }
}

/// [`groups`] of int4. `MIN` says whether they have a minimum: a constant, which saves a branch at each vector.
///
/// # Safety
/// The preconditions at the head of this module hold.
#[inline(always)]
pub(super) unsafe fn q4<I: Isa, const N: usize, const SCALED: bool, const MIN: bool>(
    isa: I,
    layout: PanelLayout,
    panels: Panels,
    steps: Range<usize>,
    mut f: impl FnMut(usize, [I::V; N]),
) {
    let (zero, halves) = (I::V::splat(isa, 0.0), 1 + usize::from(MIN));
    let (at_once, bytes) = (N * I::V::LANES / I::NR, layout.group_bytes());
    for p in steps.clone().step_by(GROUP) {
        let group = panels.group::<I, SCALED>(isa, at_once, bytes, p / GROUP);
        // SAFETY: scales d and minima m of the group (module preconditions).
        let (scales, minima) =
            unsafe { (group.f16s::<I, N>(isa, 0), if MIN { group.f16s::<I, N>(isa, 1) } else { [zero; N] }) };
        for first in (p..steps.end.min(p + GROUP)).step_by(8) {
            // SAFETY: k-groups of the group.
            let k_groups = unsafe { group.behind(2 * I::NR * halves).k_groups(isa, (first - p) / 8) };
            unpack::<I, N, 8>(
                k_groups,
                first..steps.end,
                &mut f,
                #[inline(always)]
                |i, j, k_group| {
                    let half = half_byte::<I>(k_group, i);
                    // A product of 15 bits is exact: fused or not, only the sum rounds.
                    match (SCALED, MIN) {
                        (false, _) => half.low_four_bits(isa, 0.0),
                        (true, false) => scales[j] * half.low_four_bits(isa, 8.0),
                        (true, true) => scales[j].mul_add(half.low_four_bits(isa, 0.0), minima[j]),
                    }
                },
            );
        }
    }
}

/// Calls `f` with each k-step of k-groups of `W` k-steps, up to the end of `steps`. `number(i, j, k_groups)` is number
/// `i` of the k-groups of vector `j`.
#[inline(always)]
fn unpack<I: Isa, const N: usize, const W: usize>(
    k_groups: [I::V; N],
    steps: Range<usize>,
    f: &mut impl FnMut(usize, [I::V; N]),
    number: impl Fn(usize, usize, I::V) -> I::V + Copy,
) {
    // A loop of known length is unrolled.
    if steps.len() >= W {
        for i in 0..W {
            f(steps.start + i, numbers::<I, N>(k_groups, i, number));
        }
    } else {
        for i in 0..steps.len() {
            f(steps.start + i, numbers::<I, N>(k_groups, i, number));
        }
    }
}

/// Number `i` of each k-group.
#[inline(always)]
fn numbers<I: Isa, const N: usize>(
    mut k_groups: [I::V; N],
    i: usize,
    number: impl Fn(usize, usize, I::V) -> I::V,
) -> [I::V; N] {
    for (j, k_group) in k_groups.iter_mut().enumerate() {
        *k_group = number(i, j, *k_group);
    }
    k_groups
}

/// Unit of the floats of [`byte`].
const BYTE_UNIT: f32 = 1.0 / (1 << 24) as f32;

/// Byte `i` of k-groups, signed, as floats: moved to the top of the k-group, whose sign it then is.
#[inline(always)]
fn byte<I: Isa>(isa: I, k_groups: I::V, i: usize) -> I::V {
    let moved = match i {
        0 => k_groups.shl_bits::<24>(),
        1 => k_groups.shl_bits::<16>(),
        2 => k_groups.shl_bits::<8>(),
        _ => k_groups,
    };
    moved.and_bits(I::V::splat_bits(isa, 0xff00_0000)).int_to_float()
}

/// The k-groups shifted so that they begin with half-byte `i`: the low halves of the four bytes are 0 to 3, the high
/// halves 4 to 7.
#[inline(always)]
fn half_byte<I: Isa>(k_groups: I::V, i: usize) -> I::V
where
    I::V: Vector<I>,
{
    match i {
        0 => k_groups,
        1 => k_groups.shr_bits::<8>(),
        2 => k_groups.shr_bits::<16>(),
        3 => k_groups.shr_bits::<24>(),
        4 => k_groups.shr_bits::<4>(),
        5 => k_groups.shr_bits::<12>(),
        6 => k_groups.shr_bits::<20>(),
        _ => k_groups.shr_bits::<28>(),
    }
}
