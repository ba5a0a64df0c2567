//! k-steps of panels as vectors of floats: each of these calls `f(p, row p of the panels)` with `N` vectors,
//! and prefetches what follows in each panel.
//!
//! They are unsafe because the panels must be of that format and layout, for the instruction set, have `N`
//! vectors together, and have the steps; of words and groups, the steps begin with a whole one.

use super::super::blocks::GROUP;
use super::super::format::{Format, Layout};
use crate::element::Element;
use crate::isa::{Isa, Vector};
use crate::scratch::LINE;
use core::ops::Range;
use half::f16;

/// Bytes ahead of what is decoded that are prefetched of each panel, as
/// [`row_times_panels`](crate::isa::tile::row_times_panels) does.
const AHEAD: usize = 1024;

/// bf16 in pairs: a word's shift and mask.
///
/// # Safety
/// As said above; so for all of these.
#[inline(always)]
pub(super) unsafe fn bf16_pairs<I: Isa, const N: usize>(
    isa: I,
    _: Layout,
    panels: Panels,
    steps: Range<usize>,
    mut f: impl FnMut(usize, [I::V; N]),
) {
    let (zero, high) = (I::V::splat(isa, 0.0), I::V::splat_bits(isa, 0xffff_0000));
    for first in steps.clone().step_by(2) {
        let mut words = [zero; N];
        for (j, word) in words.iter_mut().enumerate() {
            // SAFETY: a word of the panels.
            *word = unsafe { I::V::load_ptr(isa, panels.vector(isa, first / 2, j, 4).cast()) };
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

/// f16, k-step by k-step.
#[inline(always)]
pub(super) unsafe fn f16s<I: Isa, const N: usize>(
    isa: I,
    _: Layout,
    panels: Panels,
    steps: Range<usize>,
    mut f: impl FnMut(usize, [I::V; N]),
) {
    for p in steps {
        let mut v = [I::V::splat(isa, 0.0); N];
        for (j, v) in v.iter_mut().enumerate() {
            // SAFETY: numbers of the panels.
            *v = unsafe { f16::load::<I>(isa, panels.vector(isa, p, j, 2).cast()) };
        }
        f(p, v);
    }
}

/// int8, k-step by k-step, without its scale.
#[inline(always)]
pub(super) unsafe fn int8s<I: Isa, const N: usize>(
    isa: I,
    _: Layout,
    panels: Panels,
    steps: Range<usize>,
    mut f: impl FnMut(usize, [I::V; N]),
) {
    for p in steps {
        let mut v = [I::V::splat(isa, 0.0); N];
        for (j, v) in v.iter_mut().enumerate() {
            // SAFETY: numbers of the panels.
            *v = unsafe { I::V::load_i8(isa, panels.vector(isa, p, j, 1).cast()) }.int_to_float();
        }
        f(p, v);
    }
}

/// int8 in words of four, without its scale.
#[inline(always)]
pub(super) unsafe fn int8_quads<I: Isa, const N: usize>(
    isa: I,
    _: Layout,
    panels: Panels,
    steps: Range<usize>,
    mut f: impl FnMut(usize, [I::V; N]),
) {
    let (zero, unit) = (I::V::splat(isa, 0.0), I::V::splat(isa, BYTE_UNIT));
    for first in steps.clone().step_by(4) {
        let mut words = [zero; N];
        for (j, word) in words.iter_mut().enumerate() {
            // SAFETY: a word of the panels.
            *word = unsafe { I::V::load_ptr(isa, panels.vector(isa, first / 4, j, 4).cast()) };
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

/// bf16 or int8 in words of which several of a column stand side by side, number by number.
#[inline(always)]
pub(super) unsafe fn any_words<I: Isa, const N: usize>(
    isa: I,
    layout: Layout,
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
            // SAFETY: the panel's.
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

/// Groups; if not `SCALED`, their numbers as they are stored.
#[inline(always)]
pub(in crate::gemm) unsafe fn groups<I: Isa, const N: usize, const SCALED: bool>(
    isa: I,
    layout: Layout,
    panels: Panels,
    steps: Range<usize>,
    f: impl FnMut(usize, [I::V; N]),
) {
    // SAFETY: the caller's.
    unsafe {
        match layout.format {
            Format::Q8_0 => q8::<I, N, SCALED>(isa, layout, panels, steps, f),
            Format::Q4_0 => q4::<I, N, SCALED, false>(isa, layout, panels, steps, f),
            _ => q4::<I, N, SCALED, true>(isa, layout, panels, steps, f),
        }
    }
}

/// [`groups`] of int8.
#[inline(always)]
pub(super) unsafe fn q8<I: Isa, const N: usize, const SCALED: bool>(
    isa: I,
    layout: Layout,
    panels: Panels,
    steps: Range<usize>,
    mut f: impl FnMut(usize, [I::V; N]),
) {
    let (zero, unit) = (I::V::splat(isa, 0.0), I::V::splat(isa, BYTE_UNIT));
    let (at_once, bytes) = (N * I::V::LANES / I::NR, layout.group_bytes());
    for p in steps.clone().step_by(GROUP) {
        let group = panels.group::<I, SCALED>(isa, at_once, bytes, p / GROUP);
        let mut scales = [unit; N];
        if SCALED {
            // SAFETY: the group's d.
            scales = unsafe { group.halves::<I, N>(isa, 0) };
            for scale in &mut scales {
                *scale = *scale * unit;
            }
        }
        for first in (p..steps.end.min(p + GROUP)).step_by(4) {
            let mut words = [zero; N];
            for (j, word) in words.iter_mut().enumerate() {
                // SAFETY: a word of the group.
                *word = unsafe { I::V::load_ptr(isa, group.word::<I>(1, (first - p) / 4, j)) };
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

/// [`groups`] of half-bytes, with a minimum or without: known to the compiler, which would branch at every
/// vector.
#[inline(always)]
pub(super) unsafe fn q4<I: Isa, const N: usize, const SCALED: bool, const MIN: bool>(
    isa: I,
    layout: Layout,
    panels: Panels,
    steps: Range<usize>,
    mut f: impl FnMut(usize, [I::V; N]),
) {
    let (zero, halves) = (I::V::splat(isa, 0.0), 1 + usize::from(MIN));
    let (at_once, bytes) = (N * I::V::LANES / I::NR, layout.group_bytes());
    for p in steps.clone().step_by(GROUP) {
        let group = panels.group::<I, SCALED>(isa, at_once, bytes, p / GROUP);
        // SAFETY: the group's d and m.
        let (scales, minima) = unsafe {
            (group.halves::<I, N>(isa, 0), if MIN { group.halves::<I, N>(isa, 1) } else { [zero; N] })
        };
        for first in (p..steps.end.min(p + GROUP)).step_by(8) {
            let mut words = [zero; N];
            for (j, word) in words.iter_mut().enumerate() {
                // SAFETY: a word of the group.
                *word = unsafe { I::V::load_ptr(isa, group.word::<I>(halves, (first - p) / 8, j)) };
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
