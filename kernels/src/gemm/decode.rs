//! Packed numbers become the words that a tile takes: floats, or pairs of i16.
//!
//! A few rows decode a block of k-steps of a panel in registers, while they are multiplied with it. Of many
//! rows the first few do so, and leave what they decoded in L1, where all other strips of rows read it.

use super::blocks::GROUP;
use super::format::{Format, Layout, Order};
use crate::element::Element;
use crate::isa::tile::STREAMS;
use crate::isa::{A_STRIDE, Isa, Vector};
use crate::scratch::LINE;
use core::ops::Range;
use half::f16;

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
/// keep two multiply-add units busy, and several streams of memory more lines on their way. Groups need the
/// registers for their scales.
#[inline(always)]
pub(super) const fn panels_at_once<I: Isa>(format: Format, rows: usize) -> usize {
    match (rows, I::MR < 14) {
        _ if format.is_grouped() => 1,
        (1, false) => STREAMS,
        (2 | 4, false) | (1, true) => 2,
        _ => 1,
    }
}

/// Bytes ahead of what it decodes that [`rows`] prefetches of each panel, as
/// [`row_times_panels`](crate::isa::tile::row_times_panels) does.
const AHEAD: usize = 1024;

/// What [`rows`] multiplies: `rows` rows of A, `A_STRIDE` apart, with `panels` panels.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    /// A power of two, at most [`few`].
    pub rows: usize,
    pub a: *const f32,
    pub panels: usize,
    pub panel: *const u8,
    /// Bytes from a panel to the next.
    pub panel_stride: usize,
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
    // What this instruction set never asks for is not compiled for it.
    if R > few::<I>() || panels == 0 || (panels > 1 && panels != panels_at_once::<I>(Format::Bf16, R)) {
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
            with,
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
    Rows { panel, panel_stride, .. }: Rows,
    steps: Range<usize>,
    f: impl FnMut(usize, [I::V; N]),
) {
    // SAFETY: the caller's.
    unsafe {
        if !layout.format.is_grouped() {
            numbers::<I, N>(isa, layout, panel, panel_stride, steps, f);
        } else if N * I::V::LANES == I::NR {
            groups::<I, N, true>(isa, layout, panel, steps, f);
        }
    }
}

/// Calls `f(p, row p of the panels)` for k-steps of panels, as `N` vectors of floats: int8 without its scale.
/// Prefetches what follows in each.
///
/// # Safety
/// At `panel` are panels of that layout, for `I`, `stride` bytes apart, which have `N` vectors and the steps.
/// Of words, the steps begin with a whole one.
#[inline(always)]
unsafe fn numbers<I: Isa, const N: usize>(
    isa: I,
    layout: Layout,
    panel: *const u8,
    stride: usize,
    steps: Range<usize>,
    mut f: impl FnMut(usize, [I::V; N]),
) {
    let (lanes, zero) = (I::V::LANES, I::V::splat(isa, 0.0));
    let vectors = I::NR / lanes;
    let at = Places { panel, stride };
    // SAFETY: all of it lies in the panels.
    unsafe {
        match (layout.format, layout.order) {
            (Format::F16, _) => {
                for p in steps {
                    let mut v = [zero; N];
                    for (j, v) in v.iter_mut().enumerate() {
                        *v = f16::load::<I>(isa, at.vector(isa, p, j, 2).cast());
                    }
                    f(p, v);
                }
            }
            (Format::Int8, Order::Steps) => {
                for p in steps {
                    let mut v = [zero; N];
                    for (j, v) in v.iter_mut().enumerate() {
                        *v = I::V::load_i8(isa, at.vector(isa, p, j, 1).cast()).int_to_float();
                    }
                    f(p, v);
                }
            }
            (Format::Bf16, Order::Words(1)) => {
                let high = I::V::splat_bits(isa, 0xffff_0000);
                for p in steps.clone().step_by(2) {
                    let (mut even, mut odd) = ([zero; N], [zero; N]);
                    for (j, (even, odd)) in even.iter_mut().zip(&mut odd).enumerate() {
                        let word = I::V::load_ptr(isa, at.vector(isa, p / 2, j, 4).cast());
                        (*even, *odd) = (word.shl_bits::<16>(), word.and_bits(high));
                    }
                    f(p, even);
                    if p + 1 < steps.end {
                        f(p + 1, odd);
                    }
                }
            }
            (Format::Int8, Order::Words(1)) => {
                for p in steps.clone().step_by(4) {
                    let mut words = [zero; N];
                    for (j, word) in words.iter_mut().enumerate() {
                        *word = I::V::load_ptr(isa, at.vector(isa, p / 4, j, 4).cast());
                    }
                    for p in p..steps.end.min(p + 4) {
                        let mut v = [zero; N];
                        for (v, word) in v.iter_mut().zip(&mut words) {
                            *v = low_byte(isa, *word);
                            *word = word.shr_bits::<8>();
                        }
                        f(p, v);
                    }
                }
            }
            (Format::Bf16 | Format::Int8, Order::Words(_)) => {
                let bytes = layout.panel_bytes(steps.end);
                for p in steps {
                    let mut v = [zero; N];
                    for (j, v) in v.iter_mut().enumerate() {
                        let panel = panel.wrapping_add(j / vectors * stride);
                        let bytes = core::slice::from_raw_parts(panel, bytes);
                        let mut numbers = [0.0; MAX_LANES];
                        for (i, number) in numbers[..lanes].iter_mut().enumerate() {
                            *number = layout.read(bytes, p, j % vectors * lanes + i);
                        }
                        *v = I::V::load(isa, &numbers);
                    }
                    f(p, v);
                }
            }
            _ => unreachable!("{} is not decoded by numbers", layout.format.name()),
        }
    }
}

/// Where panels are.
#[derive(Clone, Copy)]
struct Places {
    panel: *const u8,
    stride: usize,
}

impl Places {
    /// Where vector `j` of row `p` of numbers, or words, of `size` bytes stands. Prefetches what follows.
    #[inline(always)]
    fn vector<I: Isa>(self, isa: I, p: usize, j: usize, size: usize) -> *const u8 {
        let vectors = I::NR / I::V::LANES;
        let first = j % vectors * I::V::LANES;
        let at = self.panel.wrapping_add(j / vectors * self.stride + (p * I::NR + first) * size);
        if (first * size).is_multiple_of(LINE) {
            isa.prefetch(at.wrapping_add(AHEAD).cast());
        }
        at
    }
}

/// Calls `f(p, row p of the panel)` for k-steps of a panel of groups, as `N` vectors of floats, if not
/// `SCALED` as they are stored.
///
/// # Safety
/// `panel` is a panel of that layout, for `I`, of `N` vectors, which has the steps; they begin with a whole
/// group.
#[inline(always)]
pub(super) unsafe fn groups<I: Isa, const N: usize, const SCALED: bool>(
    isa: I,
    layout: Layout,
    panel: *const u8,
    steps: Range<usize>,
    mut f: impl FnMut(usize, [I::V; N]),
) {
    let (lanes, zero) = (I::V::LANES, I::V::splat(isa, 0.0));
    // SAFETY: all of it lies in the panel.
    unsafe {
        match layout.format {
            Format::Q8_0 => {
                for p in steps.clone().step_by(GROUP) {
                    let group = group_at::<I, SCALED>(isa, layout, panel, p / GROUP);
                    let scales = halves::<I, N>(isa, group);
                    let numbers = group.add(2 * I::NR);
                    for first in (p..steps.end.min(p + GROUP)).step_by(4) {
                        let mut words = [zero; N];
                        for (j, word) in words.iter_mut().enumerate() {
                            let at = numbers.cast::<f32>().add((first - p) / 4 * I::NR + j * lanes);
                            *word = I::V::load_ptr(isa, at);
                        }
                        for p in first..steps.end.min(first + 4) {
                            let mut v = [zero; N];
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
            Format::Q4_0 | Format::Q4_1 => {
                let (low, eight) = (I::V::splat_bits(isa, 15), I::V::splat(isa, 8.0));
                let with_min = layout.format == Format::Q4_1;
                for p in steps.clone().step_by(GROUP) {
                    let group = group_at::<I, SCALED>(isa, layout, panel, p / GROUP);
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
                            let mut v = [zero; N];
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
            _ => unreachable!("{} has no groups", layout.format.name()),
        }
    }
}

/// Where a group stands. `PREFETCH`: what follows it is wanted soon.
#[inline(always)]
fn group_at<I: Isa, const PREFETCH: bool>(
    isa: I,
    layout: Layout,
    panel: *const u8,
    group: usize,
) -> *const u8 {
    let bytes = layout.group_bytes();
    let group = panel.wrapping_add(group * bytes);
    if PREFETCH {
        for line in (0..bytes).step_by(LINE) {
            isa.prefetch(group.wrapping_add(AHEAD + line).cast());
        }
    }
    group
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

/// The lowest bytes of words, signed, as floats.
#[inline(always)]
fn low_byte<I: Isa>(isa: I, words: I::V) -> I::V {
    let biased = words.and_bits(I::V::splat_bits(isa, 0xff)).xor_bits(I::V::splat_bits(isa, 0x80));
    biased.int_to_float() - I::V::splat(isa, 128.0)
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
