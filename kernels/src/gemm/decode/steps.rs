//! k-steps of panels as vectors of floats.

use super::super::blocks::GROUP;
use super::super::format::{Format, Layout, Order};
use crate::element::Element;
use crate::isa::{Isa, Vector};
use crate::scratch::LINE;
use core::ops::Range;
use half::f16;

/// Bytes ahead of what is decoded that are prefetched of each panel, as
/// [`row_times_panels`](crate::isa::tile::row_times_panels) does.
const AHEAD: usize = 1024;

/// Calls `f(p, row p of the panels)` for k-steps of panels, as `N` vectors of floats: int8 without its scale.
/// Prefetches what follows in each.
///
/// # Safety
/// They are panels of that layout, for `I`, which have `N` vectors together, and the steps.
/// Of words, the steps begin with a whole one.
#[inline(always)]
pub(super) unsafe fn numbers<I: Isa, const N: usize>(
    isa: I,
    layout: Layout,
    panels: Panels,
    steps: Range<usize>,
    mut f: impl FnMut(usize, [I::V; N]),
) {
    let (lanes, zero) = (I::V::LANES, I::V::splat(isa, 0.0));
    let vectors = I::NR / lanes;
    // SAFETY: all of it lies in the panels.
    unsafe {
        match (layout.format, layout.order) {
            (Format::F16, _) => {
                for p in steps {
                    let mut v = [zero; N];
                    for (j, v) in v.iter_mut().enumerate() {
                        *v = f16::load::<I>(isa, panels.vector(isa, p, j, 2).cast());
                    }
                    f(p, v);
                }
            }
            (Format::Int8, Order::Steps) => {
                for p in steps {
                    let mut v = [zero; N];
                    for (j, v) in v.iter_mut().enumerate() {
                        *v = I::V::load_i8(isa, panels.vector(isa, p, j, 1).cast()).int_to_float();
                    }
                    f(p, v);
                }
            }
            (Format::Bf16, Order::Words(1)) => {
                let high = I::V::splat_bits(isa, 0xffff_0000);
                for first in steps.clone().step_by(2) {
                    let mut words = [zero; N];
                    for (j, word) in words.iter_mut().enumerate() {
                        *word = I::V::load_ptr(isa, panels.vector(isa, first / 2, j, 4).cast());
                    }
                    of_word::<2>(
                        steps.end - first,
                        #[inline(always)]
                        |i| {
                            let mut v = [zero; N];
                            for (v, word) in v.iter_mut().zip(words) {
                                *v = if i == 0 { word.shl_bits::<16>() } else { word.and_bits(high) };
                            }
                            f(first + i, v);
                        },
                    );
                }
            }
            (Format::Int8, Order::Words(1)) => {
                let unit = I::V::splat(isa, BYTE_UNIT);
                for first in steps.clone().step_by(4) {
                    let mut words = [zero; N];
                    for (j, word) in words.iter_mut().enumerate() {
                        *word = I::V::load_ptr(isa, panels.vector(isa, first / 4, j, 4).cast());
                    }
                    of_word::<4>(
                        steps.end - first,
                        #[inline(always)]
                        |i| {
                            let mut v = [zero; N];
                            for (v, word) in v.iter_mut().zip(words) {
                                *v = byte(isa, word, i) * unit;
                            }
                            f(first + i, v);
                        },
                    );
                }
            }
            (Format::Bf16 | Format::Int8, Order::Words(_)) => {
                let bytes = layout.panel_bytes(steps.end);
                for p in steps {
                    let mut v = [zero; N];
                    for (j, v) in v.iter_mut().enumerate() {
                        let panel = panels.first.wrapping_add(j / vectors * panels.stride);
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

/// Panels side by side, or a group of each.
#[derive(Clone, Copy)]
pub(in crate::gemm) struct Panels {
    pub first: *const u8,
    /// Bytes from one to the next.
    pub stride: usize,
}

impl Panels {
    /// A panel alone.
    #[inline(always)]
    pub fn one(panel: *const u8) -> Self {
        Self { first: panel, stride: 0 }
    }

    /// Where the columns of vector `j` stand in row `p` of numbers, or words, of `size` bytes, `skip` bytes
    /// from the start of their panel.
    #[inline(always)]
    fn place<I: Isa>(self, skip: usize, p: usize, j: usize, size: usize) -> *const u8 {
        let vectors = I::NR / I::V::LANES;
        let column = j % vectors * I::V::LANES;
        self.first.wrapping_add(j / vectors * self.stride + skip + (p * I::NR + column) * size)
    }

    /// That place. Prefetches what follows.
    #[inline(always)]
    fn vector<I: Isa>(self, isa: I, p: usize, j: usize, size: usize) -> *const u8 {
        let at = self.place::<I>(0, p, j, size);
        if (j * I::V::LANES * size).is_multiple_of(LINE) {
            isa.prefetch(at.wrapping_add(AHEAD).cast());
        }
        at
    }

    /// Their groups of this index. `PREFETCH`: what follows them is wanted soon.
    #[inline(always)]
    fn group<I: Isa, const PREFETCH: bool>(self, isa: I, panels: usize, bytes: usize, index: usize) -> Self {
        let first = self.first.wrapping_add(index * bytes);
        for q in 0..if PREFETCH { panels } else { 0 } {
            for line in (0..bytes).step_by(LINE) {
                isa.prefetch(first.wrapping_add(q * self.stride + AHEAD + line).cast());
            }
        }
        Self { first, ..self }
    }

    /// The f16 of all columns of a group that stand behind `skip` others of each.
    ///
    /// # Safety
    /// There are so many, for `N` vectors.
    #[inline(always)]
    pub unsafe fn halves<I: Isa, const N: usize>(self, isa: I, skip: usize) -> [I::V; N] {
        let mut v = [I::V::splat(isa, 0.0); N];
        for (j, v) in v.iter_mut().enumerate() {
            // SAFETY: the caller's.
            *v = unsafe { f16::load::<I>(isa, self.place::<I>(0, skip, j, 2).cast()) };
        }
        v
    }

    /// Where words `w` of vector `j` of a group stand, behind so many f16 of each column.
    #[inline(always)]
    fn word<I: Isa>(self, halves: usize, w: usize, j: usize) -> *const f32 {
        self.place::<I>(2 * I::NR * halves, w, j, 4).cast()
    }
}

/// [`numbers`] of groups, if not `SCALED` as they are stored.
///
/// # Safety
/// As [`numbers`]; the steps begin with a whole group.
#[inline(always)]
pub(in crate::gemm) unsafe fn groups<I: Isa, const N: usize, const SCALED: bool>(
    isa: I,
    layout: Layout,
    panels: Panels,
    steps: Range<usize>,
    mut f: impl FnMut(usize, [I::V; N]),
) {
    let zero = I::V::splat(isa, 0.0);
    // SAFETY: all of it lies in the panels.
    unsafe {
        match layout.format {
            Format::Q8_0 => {
                for p in steps.clone().step_by(GROUP) {
                    let group = panels.group::<I, SCALED>(
                        isa,
                        N * I::V::LANES / I::NR,
                        layout.group_bytes(),
                        p / GROUP,
                    );
                    let unit = I::V::splat(isa, BYTE_UNIT);
                    let mut scales = [unit; N];
                    if SCALED {
                        scales = group.halves::<I, N>(isa, 0);
                        for scale in &mut scales {
                            *scale = *scale * unit;
                        }
                    }
                    for first in (p..steps.end.min(p + GROUP)).step_by(4) {
                        let mut words = [zero; N];
                        for (j, word) in words.iter_mut().enumerate() {
                            *word = I::V::load_ptr(isa, group.word::<I>(1, (first - p) / 4, j));
                        }
                        of_word::<4>(
                            steps.end - first,
                            #[inline(always)]
                            |i| {
                                let mut v = [zero; N];
                                for (j, (v, word)) in v.iter_mut().zip(words).enumerate() {
                                    *v = scales[j] * byte(isa, word, i);
                                }
                                f(first + i, v);
                            },
                        );
                    }
                }
            }
            Format::Q4_0 => half_bytes::<I, N, SCALED, false>(isa, layout, panels, steps, f),
            Format::Q4_1 => half_bytes::<I, N, SCALED, true>(isa, layout, panels, steps, f),
            _ => unreachable!("{} has no groups", layout.format.name()),
        }
    }
}

/// [`groups`] of half-bytes, with a minimum or without: known to the compiler, which would branch at every
/// vector.
///
/// # Safety
/// As [`groups`].
#[inline(always)]
unsafe fn half_bytes<I: Isa, const N: usize, const SCALED: bool, const MIN: bool>(
    isa: I,
    layout: Layout,
    panels: Panels,
    steps: Range<usize>,
    mut f: impl FnMut(usize, [I::V; N]),
) {
    let zero = I::V::splat(isa, 0.0);
    // SAFETY: all of it lies in the panels.
    unsafe {
        for p in steps.clone().step_by(GROUP) {
            let group =
                panels.group::<I, SCALED>(isa, N * I::V::LANES / I::NR, layout.group_bytes(), p / GROUP);
            let scales = group.halves::<I, N>(isa, 0);
            let minima = if MIN { group.halves::<I, N>(isa, 1) } else { [zero; N] };
            let halves = 1 + usize::from(MIN);
            for first in (p..steps.end.min(p + GROUP)).step_by(8) {
                let mut words = [zero; N];
                for (j, word) in words.iter_mut().enumerate() {
                    *word = I::V::load_ptr(isa, group.word::<I>(halves, (first - p) / 8, j));
                }
                of_word::<8>(
                    steps.end - first,
                    #[inline(always)]
                    |i| {
                        let mut v = [zero; N];
                        for (j, (v, word)) in v.iter_mut().zip(words).enumerate() {
                            let half = half_byte::<I>(word, i);
                            // A product of 15 bits is exact: only the sum rounds, fused or not.
                            *v = match (SCALED, MIN) {
                                (false, _) => half.low_four_bits(isa, 0.0),
                                (true, false) => scales[j] * half.low_four_bits(isa, 8.0),
                                (true, true) => scales[j].mul_add(half.low_four_bits(isa, 0.0), minima[j]),
                            };
                        }
                        f(first + i, v);
                    },
                );
            }
        }
    }
}

/// Most lanes of any instruction set.
const MAX_LANES: usize = 16;

/// Calls `f` for the k-steps of a word of `W`, as far as it has any: all of them in a loop that is unrolled.
#[inline(always)]
fn of_word<const W: usize>(live: usize, mut f: impl FnMut(usize)) {
    if live >= W {
        for i in 0..W {
            f(i);
        }
    } else {
        for i in 0..live {
            f(i);
        }
    }
}

/// What the floats of [`byte`] are multiples of.
const BYTE_UNIT: f32 = 1.0 / (1 << 24) as f32;

/// Byte `i` of words, signed, as floats: from the top of the word, where its sign is the word's.
#[inline(always)]
fn byte<I: Isa>(isa: I, words: I::V, i: usize) -> I::V {
    let moved = match i {
        0 => words.shl_bits::<24>(),
        1 => words.shl_bits::<16>(),
        2 => words.shl_bits::<8>(),
        _ => words,
    };
    moved.and_bits(I::V::splat_bits(isa, 0xff00_0000)).int_to_float()
}

/// Words that begin with half-byte `i` of these: low halves of the four bytes, then the high ones.
#[inline(always)]
fn half_byte<I: Isa>(words: I::V, i: usize) -> I::V
where
    I::V: Vector<I>,
{
    match i {
        0 => words,
        1 => words.shr_bits::<8>(),
        2 => words.shr_bits::<16>(),
        3 => words.shr_bits::<24>(),
        4 => words.shr_bits::<4>(),
        5 => words.shr_bits::<12>(),
        6 => words.shr_bits::<20>(),
        _ => words.shr_bits::<28>(),
    }
}
