//! Packed numbers become the words that a tile takes: floats, or pairs of i16.
//!
//! A block of k-steps of a panel is decoded to L1 and then read by all strips of rows, so that many rows
//! cost nothing more than f32 would.

use super::blocks::GROUP;
use super::format::{Format, Layout, Order};
use crate::element::Element;
use crate::isa::{A_STRIDE, Isa, Vector};
use core::ops::Range;
use half::{bf16, f16};

/// Writes k-steps of a panel to `to` as floats, NR to a step: int8 without its scale.
///
/// # Safety
/// As [`visit`]; `to` is valid for writes of NR floats for each step.
#[inline(always)]
pub(super) unsafe fn decode<I: Isa>(
    isa: I,
    layout: Layout,
    panel: *const u8,
    steps: Range<usize>,
    to: *mut f32,
) {
    let first = steps.start;
    // SAFETY: the caller's; a panel has two or four vectors.
    unsafe {
        if I::NR == 2 * I::V::LANES {
            visit::<I, 2, true>(
                isa,
                layout,
                panel,
                steps,
                #[inline(always)]
                |p, vectors| store::<I, 2>(vectors, to.add((p - first) * I::NR)),
            );
        } else {
            visit::<I, 4, true>(
                isa,
                layout,
                panel,
                steps,
                #[inline(always)]
                |p, vectors| store::<I, 4>(vectors, to.add((p - first) * I::NR)),
            );
        }
    }
}

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

/// A few rows of A, `A_STRIDE` apart, by one panel, decoded in registers: `sums`, NR to a row, += the rows'
/// steps times the panel's. Every sum is the same chain as the tile's. `m` is a power of two.
///
/// # Safety
/// As [`visit`]; `a` is valid for reads of a float for each step of `m` rows, `sums` for NR floats a row.
#[inline(always)]
pub(super) unsafe fn rows<I: Isa>(
    isa: I,
    layout: Layout,
    panel: *const u8,
    steps: Range<usize>,
    (a, m): (*const f32, usize),
    sums: *mut f32,
) {
    // SAFETY: the caller's; a panel has two or four vectors.
    unsafe {
        match (m, I::NR / I::V::LANES) {
            (1, 2) => rows_of::<I, 2, 1>(isa, layout, panel, steps, a, sums),
            (2, 2) => rows_of::<I, 2, 2>(isa, layout, panel, steps, a, sums),
            (4, 2) => rows_of::<I, 2, 4>(isa, layout, panel, steps, a, sums),
            (8, 2) => rows_of::<I, 2, 8>(isa, layout, panel, steps, a, sums),
            (1, 4) => rows_of::<I, 4, 1>(isa, layout, panel, steps, a, sums),
            (2, 4) => rows_of::<I, 4, 2>(isa, layout, panel, steps, a, sums),
            (4, 4) => rows_of::<I, 4, 4>(isa, layout, panel, steps, a, sums),
            _ => unreachable!("{m} rows are not few"),
        }
    }
}

/// [`rows`] for `R` rows and panels of `N` vectors.
///
/// # Safety
/// As [`rows`].
#[inline(always)]
unsafe fn rows_of<I: Isa, const N: usize, const R: usize>(
    isa: I,
    layout: Layout,
    panel: *const u8,
    steps: Range<usize>,
    a: *const f32,
    sums: *mut f32,
) {
    if R > few::<I>() || N * I::V::LANES != I::NR {
        return;
    }
    let (first, lanes) = (steps.start, I::V::LANES);
    let mut acc = [[I::V::splat(isa, 0.0); N]; R];
    // SAFETY: the caller's.
    unsafe {
        if first > 0 {
            for (j, v) in acc.as_flattened_mut().iter_mut().enumerate() {
                *v = I::V::load_ptr(isa, sums.add(j * lanes));
            }
        }
        visit::<I, N, true>(
            isa,
            layout,
            panel,
            steps,
            #[inline(always)]
            |p, vectors| {
                for (i, row) in acc.iter_mut().enumerate() {
                    let a = I::V::splat(isa, *a.add(i * A_STRIDE + p - first));
                    for (sum, b) in row.iter_mut().zip(vectors) {
                        *sum = a.mul_add(b, *sum);
                    }
                }
            },
        );
        for (j, v) in acc.as_flattened().iter().enumerate() {
            v.store_ptr(sums.add(j * lanes));
        }
    }
}

/// Calls `f(p, row p of the panel)` for k-steps of a panel, as `N` vectors of floats: int8 without its
/// scale, and groups, if not `SCALED`, as they are stored.
///
/// # Safety
/// `panel` is a panel of that layout, for `I`, of `N` vectors, which has the steps. Of words and groups,
/// the steps begin with a whole one.
#[inline(always)]
pub(super) unsafe fn visit<I: Isa, const N: usize, const SCALED: bool>(
    isa: I,
    layout: Layout,
    panel: *const u8,
    steps: Range<usize>,
    mut f: impl FnMut(usize, [I::V; N]),
) {
    let (lanes, zero) = (I::V::LANES, I::V::splat(isa, 0.0));
    let mut v = [zero; N];
    // SAFETY: all of it lies in the panel.
    unsafe {
        match (layout.format, layout.order) {
            (Format::F32, _) => unreachable!("f32 is not decoded"),
            (Format::Bf16, Order::Steps) => {
                for p in steps {
                    for (j, v) in v.iter_mut().enumerate() {
                        *v = bf16::load::<I>(isa, at::<I>(panel, p, j * lanes, 2).cast());
                    }
                    f(p, v);
                }
            }
            (Format::F16, _) => {
                for p in steps {
                    for (j, v) in v.iter_mut().enumerate() {
                        *v = f16::load::<I>(isa, at::<I>(panel, p, j * lanes, 2).cast());
                    }
                    f(p, v);
                }
            }
            (Format::Int8, Order::Steps) => {
                for p in steps {
                    for (j, v) in v.iter_mut().enumerate() {
                        *v = I::V::load_i8(isa, at::<I>(panel, p, j * lanes, 1).cast()).int_to_float();
                    }
                    f(p, v);
                }
            }
            (Format::Bf16, Order::Words(1)) => {
                let high = I::V::splat_bits(isa, 0xffff_0000);
                for p in steps.clone().step_by(2) {
                    let mut odd = [zero; N];
                    for (j, (even, odd)) in v.iter_mut().zip(&mut odd).enumerate() {
                        let word = I::V::load_ptr(isa, at::<I>(panel, p / 2, j * lanes, 4).cast());
                        (*even, *odd) = (word.shl_bits::<16>(), word.and_bits(high));
                    }
                    f(p, v);
                    if p + 1 < steps.end {
                        f(p + 1, odd);
                    }
                }
            }
            (Format::Int8, Order::Words(1)) => {
                for p in steps.clone().step_by(4) {
                    let mut words = [zero; N];
                    for (j, word) in words.iter_mut().enumerate() {
                        *word = I::V::load_ptr(isa, at::<I>(panel, p / 4, j * lanes, 4).cast());
                    }
                    for p in p..steps.end.min(p + 4) {
                        for (v, word) in v.iter_mut().zip(&mut words) {
                            *v = low_byte(isa, *word);
                            *word = word.shr_bits::<8>();
                        }
                        f(p, v);
                    }
                }
            }
            (Format::Bf16 | Format::Int8, Order::Words(_)) => {
                let bytes = core::slice::from_raw_parts(panel, layout.panel_bytes(steps.end));
                for p in steps {
                    for (j, v) in v.iter_mut().enumerate() {
                        let mut numbers = [0.0; MAX_LANES];
                        for (i, number) in numbers[..lanes].iter_mut().enumerate() {
                            *number = layout.read(bytes, p, j * lanes + i);
                        }
                        *v = I::V::load(isa, &numbers);
                    }
                    f(p, v);
                }
            }
            (Format::Q8_0, _) => {
                for p in steps.clone().step_by(GROUP) {
                    let group = panel.add(p / GROUP * layout.group_bytes());
                    let scales = halves::<I, N>(isa, group);
                    let numbers = group.add(2 * I::NR);
                    for first in (p..steps.end.min(p + GROUP)).step_by(4) {
                        let mut words = [zero; N];
                        for (j, word) in words.iter_mut().enumerate() {
                            let at = numbers.cast::<f32>().add((first - p) / 4 * I::NR + j * lanes);
                            *word = I::V::load_ptr(isa, at);
                        }
                        for p in first..steps.end.min(first + 4) {
                            for (j, (v, word)) in v.iter_mut().zip(&mut words).enumerate() {
                                let q = low_byte(isa, *word);
                                *v = if SCALED { scales[j] * q } else { q };
                                *word = word.shr_bits::<8>();
                            }
                            f(p, v);
                        }
                    }
                }
            }
            (Format::Q4_0 | Format::Q4_1, _) => {
                let (low, eight) = (I::V::splat_bits(isa, 15), I::V::splat(isa, 8.0));
                let with_min = layout.format == Format::Q4_1;
                for p in steps.clone().step_by(GROUP) {
                    let group = panel.add(p / GROUP * layout.group_bytes());
                    let scales = halves::<I, N>(isa, group);
                    let minima = if with_min { halves::<I, N>(isa, group.add(2 * I::NR)) } else { [zero; N] };
                    let numbers = group.add(if with_min { 4 } else { 2 } * I::NR);
                    for first in (p..steps.end.min(p + GROUP)).step_by(8) {
                        let mut words = [zero; N];
                        for (j, word) in words.iter_mut().enumerate() {
                            let at = numbers.cast::<f32>().add((first - p) / 8 * I::NR + j * lanes);
                            *word = I::V::load_ptr(isa, at);
                        }
                        for i in 0..8.min(steps.end - first) {
                            // Low halves of the four bytes, then the high ones.
                            for (j, (v, word)) in v.iter_mut().zip(&mut words).enumerate() {
                                let q = word.and_bits(low).int_to_float();
                                *word = word.shr_bits::<8>();
                                // A product of 15 bits is exact: only the sum rounds, fused or not.
                                *v = match (SCALED, with_min) {
                                    (false, _) => q,
                                    (true, false) => scales[j] * (q - eight),
                                    (true, true) => scales[j].mul_add(q, minima[j]),
                                };
                            }
                            if i == 3 {
                                for (j, word) in words.iter_mut().enumerate() {
                                    let at = numbers.cast::<f32>().add((first - p) / 8 * I::NR + j * lanes);
                                    *word = I::V::load_ptr(isa, at).shr_bits::<4>();
                                }
                            }
                            f(first + i, v);
                        }
                    }
                }
            }
        }
    }
}

/// Most lanes of any instruction set.
const MAX_LANES: usize = 16;

/// The f16 of all columns of a group.
///
/// # Safety
/// They stand at `from`.
#[inline(always)]
pub(super) unsafe fn halves<I: Isa, const N: usize>(isa: I, from: *const u8) -> [I::V; N] {
    let mut v = [I::V::splat(isa, 0.0); N];
    for (j, v) in v.iter_mut().enumerate() {
        // SAFETY: the caller's.
        *v = unsafe { f16::load::<I>(isa, from.cast::<f16>().add(j * I::V::LANES)) };
    }
    v
}

/// Where the number of k-step `p` and column `j` stands among numbers of `size` bytes.
#[inline(always)]
fn at<I: Isa>(panel: *const u8, p: usize, j: usize, size: usize) -> *const u8 {
    panel.wrapping_add((p * I::NR + j) * size)
}

/// The lowest bytes of words, signed, as floats.
#[inline(always)]
fn low_byte<I: Isa>(isa: I, words: I::V) -> I::V {
    let biased = words.and_bits(I::V::splat_bits(isa, 0xff)).xor_bits(I::V::splat_bits(isa, 0x80));
    biased.int_to_float() - I::V::splat(isa, 128.0)
}

/// Writes k-steps of a panel of int8 to `to` as words: pairs of i16, NR words to a pair.
///
/// # Safety
/// As [`decode`]; the order is that of k-steps, and there are as many as words.
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
