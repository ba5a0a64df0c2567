//! How the quantised numbers of a group are multiplied: as floats, or as quads of int8.

use super::super::blocks::GROUP;
use super::super::decode::groups;
use super::super::format::{Format, Layout};
use crate::isa::{Dot, Isa, Vector};

/// How q are multiplied.
pub(super) trait Way<I: Isa>: Copy + Send + Sync {
    /// Words of a group: of A, and of each column of B.
    const WORDS: usize;

    /// Stores the q of a vector of A, from k-step `p` of its group on, `signed` or as the other factor of a
    /// signed one.
    ///
    /// # Safety
    /// A group's words are at `to`.
    unsafe fn put(self, isa: I, q: I::V, signed: bool, p: usize, to: *mut f32);

    /// The words of a group of B, for tiles: where they are, or decoded to `to`; and `excess`, of each
    /// column, by which its sums are too large. Those of q4_0 are what they are without the 8 that is stored
    /// more.
    ///
    /// # Safety
    /// A group of that layout stands at `group`; `to` has room for its words, `excess` for NR.
    unsafe fn words(
        self,
        isa: I,
        layout: Layout,
        group: *const u8,
        to: *mut f32,
        excess: *mut f32,
    ) -> *const f32;

    /// Products of words are added to `sums`.
    fn dot(self, a: I::V, b: I::V, sums: I::V) -> I::V;

    /// Sums of no words yet, less the excess.
    fn start(self, isa: I, excess: I::V) -> I::V;

    /// Sums as floats.
    fn float(self, sums: I::V) -> I::V;

    /// Sums of one row, as floats; `sum` is the row's own.
    ///
    /// # Safety
    /// A group of that layout stands at `group`, and a signed one of A at `a`.
    unsafe fn row<const N: usize>(
        self,
        isa: I,
        layout: Layout,
        group: *const u8,
        a: *const f32,
        sum: f32,
    ) -> [I::V; N];
}

/// Floats.
#[derive(Clone, Copy)]
pub(super) struct Floats;

impl Floats {
    /// Writes the q of a group to `to`.
    ///
    /// # Safety
    /// As [`Way::words`].
    #[inline(always)]
    unsafe fn decode<I: Isa, const N: usize>(isa: I, layout: Layout, group: *const u8, to: *mut f32) {
        let offset = I::V::splat(isa, if layout.format == Format::Q4_0 { 8.0 } else { 0.0 });
        // SAFETY: the caller's.
        unsafe {
            groups::<I, N, false>(
                isa,
                layout,
                group,
                0..GROUP,
                #[inline(always)]
                |p, v| {
                    for (j, q) in v.into_iter().enumerate() {
                        (q - offset).store_ptr(to.add(p * I::NR + j * I::V::LANES));
                    }
                },
            );
        }
    }
}

impl<I: Isa> Way<I> for Floats {
    const WORDS: usize = GROUP;

    #[inline(always)]
    unsafe fn put(self, _: I, q: I::V, _: bool, p: usize, to: *mut f32) {
        // SAFETY: the caller's.
        unsafe { q.int_to_float().store_ptr(to.add(p)) };
    }

    #[inline(always)]
    unsafe fn words(self, isa: I, layout: Layout, group: *const u8, to: *mut f32, _: *mut f32) -> *const f32 {
        // SAFETY: the caller's; a panel has two or four vectors.
        unsafe {
            if I::NR == 2 * I::V::LANES {
                Self::decode::<I, 2>(isa, layout, group, to);
            } else {
                Self::decode::<I, 4>(isa, layout, group, to);
            }
        }
        to
    }

    #[inline(always)]
    fn dot(self, a: I::V, b: I::V, sums: I::V) -> I::V {
        a.mul_add(b, sums)
    }

    #[inline(always)]
    fn start(self, isa: I, _: I::V) -> I::V {
        I::V::splat(isa, 0.0)
    }

    #[inline(always)]
    fn float(self, sums: I::V) -> I::V {
        sums
    }

    #[inline(always)]
    unsafe fn row<const N: usize>(
        self,
        isa: I,
        layout: Layout,
        group: *const u8,
        a: *const f32,
        _: f32,
    ) -> [I::V; N] {
        let mut sums = [I::V::splat(isa, 0.0); N];
        // SAFETY: the caller's.
        unsafe {
            groups::<I, N, false>(
                isa,
                layout,
                group,
                0..GROUP,
                #[inline(always)]
                |p, v| {
                    let a = I::V::splat(isa, *a.add(p));
                    for (sum, v) in sums.iter_mut().zip(v) {
                        *sum = a.mul_add(v, *sum);
                    }
                },
            );
        }
        sums
    }
}

/// Quads of int8.
#[derive(Clone, Copy)]
pub(super) struct Quads<D>(pub D);

/// 128 in each byte: what unsigned bytes are more than signed ones, and the bits in which they differ.
const UNSIGNED: u32 = 0x8080_8080;

/// 8 in each byte.
const EIGHT: u32 = 0x0808_0808;

/// The low halves of all bytes.
const LOW: u32 = 0x0f0f_0f0f;

impl<D> Quads<D> {
    /// The quads of vector `j` of a group: `f(quad, words)`.
    ///
    /// # Safety
    /// A group of that layout stands at `group`.
    #[inline(always)]
    unsafe fn quads<I: Isa>(
        isa: I,
        layout: Layout,
        group: *const u8,
        j: usize,
        mut f: impl FnMut(usize, I::V),
    ) {
        let at = j * I::V::LANES;
        // SAFETY: the caller's.
        unsafe {
            if layout.format == Format::Q8_0 {
                for quad in 0..GROUP / 4 {
                    f(quad, I::V::load_ptr(isa, numbers::<I>(layout, group).add(quad * I::NR + at)));
                }
                return;
            }
            let low = I::V::splat_bits(isa, LOW);
            for word in 0..GROUP / 8 {
                let both = I::V::load_ptr(isa, numbers::<I>(layout, group).add(word * I::NR + at));
                f(2 * word, both.and_bits(low));
                f(2 * word + 1, both.shr_bits::<4>().and_bits(low));
            }
        }
    }
}

/// The numbers of a group, behind its scales and minima.
#[inline(always)]
fn numbers<I: Isa>(layout: Layout, group: *const u8) -> *const f32 {
    group.wrapping_add(if layout.format == Format::Q4_1 { 4 } else { 2 } * I::NR).cast()
}

impl<I: Isa, D: Dot<I>> Way<I> for Quads<D> {
    const WORDS: usize = GROUP / 4;

    #[inline(always)]
    unsafe fn put(self, isa: I, q: I::V, signed: bool, p: usize, to: *mut f32) {
        let bias = I::V::splat_bits(isa, if signed || D::SIGNED { 0 } else { UNSIGNED });
        // SAFETY: the caller's.
        unsafe { q.xor_bits(bias).store_u8(to.cast::<u8>().add(p)) };
    }

    #[inline(always)]
    unsafe fn words(
        self,
        isa: I,
        layout: Layout,
        group: *const u8,
        to: *mut f32,
        excess: *mut f32,
    ) -> *const f32 {
        let zero = I::V::splat(isa, 0.0);
        let (bias, eight) = (I::V::splat_bits(isa, UNSIGNED), I::V::splat_bits(isa, EIGHT));
        // SAFETY: the caller's.
        unsafe {
            for j in 0..I::NR / I::V::LANES {
                let mut sum = zero;
                Self::quads(
                    isa,
                    layout,
                    group,
                    j,
                    #[inline(always)]
                    |quad, words: I::V| {
                        // No byte borrows from its neighbour.
                        let words = match layout.format {
                            Format::Q4_0 => words.or_bits(bias).sub_bits(eight).xor_bits(bias),
                            _ => words,
                        };
                        if layout.format != Format::Q8_0 {
                            words.store_ptr(to.add(quad * I::NR + j * I::V::LANES));
                        }
                        if !D::SIGNED {
                            sum = self.0.dot(bias, words, sum);
                        }
                    },
                );
                sum.store_ptr(excess.add(j * I::V::LANES));
            }
            if layout.format == Format::Q8_0 { numbers::<I>(layout, group) } else { to }
        }
    }

    #[inline(always)]
    fn dot(self, a: I::V, b: I::V, sums: I::V) -> I::V {
        self.0.dot(a, b, sums)
    }

    #[inline(always)]
    fn start(self, isa: I, excess: I::V) -> I::V {
        I::V::splat(isa, 0.0).sub_bits(excess)
    }

    #[inline(always)]
    fn float(self, sums: I::V) -> I::V {
        sums.int_to_float()
    }

    #[inline(always)]
    unsafe fn row<const N: usize>(
        self,
        isa: I,
        layout: Layout,
        group: *const u8,
        a: *const f32,
        sum: f32,
    ) -> [I::V; N] {
        let bias = I::V::splat_bits(isa, UNSIGNED);
        // Where B has to be unsigned and is not, 128 is added to each of its numbers: exact, as floats too.
        let biased = !D::SIGNED && layout.format == Format::Q8_0;
        let excess = I::V::splat(isa, if biased { 128.0 * sum } else { 0.0 });
        let mut sums = [I::V::splat(isa, 0.0); N];
        for (j, sum) in sums.iter_mut().enumerate() {
            // SAFETY: the caller's.
            unsafe {
                Self::quads(
                    isa,
                    layout,
                    group,
                    j,
                    #[inline(always)]
                    |quad, words: I::V| {
                        let a = I::V::splat(isa, *a.add(quad));
                        let words = if biased { words.xor_bits(bias) } else { words };
                        *sum =
                            if D::SIGNED { self.0.dot(a, words, *sum) } else { self.0.dot(words, a, *sum) };
                    },
                );
            }
            *sum = sum.int_to_float() - excess;
        }
        sums
    }
}
