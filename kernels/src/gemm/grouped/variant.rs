//! Variants of products of groups: integers multiplied as floats, or as quads of int8.

use super::super::blocks::GROUP;
use super::super::dequantize::{Panels, groups, store};
use super::super::format::Format;
use super::super::layout::PanelLayout;
use crate::isa::{Dot, Isa, Vector};

/// Variant that multiplies the integers q of groups.
pub(super) trait GroupVariant<I: Isa>: Copy + Send + Sync {
    /// k-groups in a group of 32 k-steps, of A and of each column of B.
    const K_GROUPS: usize;

    /// Stores a vector of q of A, from k-step `p` of its group on: as signed numbers, or as the factor that the dot
    /// instruction takes beside signed ones.
    ///
    /// # Safety
    /// `to` is valid for writes of the k-groups of a group, and `p + LANES <= 32`.
    unsafe fn put(self, isa: I, q: I::V, signed: bool, p: usize, to: *mut f32);

    /// Unpacks a group of B for strips, and returns the address of its k-groups: in the panel, or `to`.
    ///
    /// `excess` receives the number by which the integer sums of each column are too large. q4_0 stores each weight
    /// plus 8; the 8 is subtracted here.
    ///
    /// # Safety
    /// - a group of this layout, of `N` vectors, stands at `group`;
    /// - `to` is valid for writes of its k-groups, `excess` for writes of NR floats.
    unsafe fn k_groups<const N: usize>(
        self,
        isa: I,
        group: *const u8,
        to: *mut f32,
        excess: *mut f32,
    ) -> *const f32;

    /// `sums` plus the products of k-groups.
    fn dot(self, a: I::V, b: I::V, sums: I::V) -> I::V;

    /// Initial sums: minus the excess.
    fn start(self, isa: I, excess: I::V) -> I::V;

    /// The sums as floats.
    fn float(self, sums: I::V) -> I::V;

    /// Integer sums of one row and one group, as floats. `sum` is the sum of the row's q in this group.
    ///
    /// # Safety
    /// A group of this layout, of `N` vectors, stands at `group`, and the signed k-groups of a group of A at `a`.
    unsafe fn row<const N: usize>(self, isa: I, group: *const u8, a: *const f32, sum: f32) -> [I::V; N];
}

/// Integers multiplied as floats.
#[derive(Clone, Copy)]
pub(super) struct FloatGroups {
    pub layout: PanelLayout,
}

impl<I: Isa> GroupVariant<I> for FloatGroups {
    const K_GROUPS: usize = GROUP;

    #[inline(always)]
    unsafe fn put(self, _: I, q: I::V, _: bool, p: usize, to: *mut f32) {
        // SAFETY: a vector from float p of the group on (precondition of `put`).
        unsafe { q.int_to_float().store_ptr(to.add(p)) };
    }

    #[inline(always)]
    unsafe fn k_groups<const N: usize>(
        self,
        isa: I,
        group: *const u8,
        to: *mut f32,
        _: *mut f32,
    ) -> *const f32 {
        let offset = I::V::splat(isa, if self.layout.format == Format::Q4_0 { 8.0 } else { 0.0 });
        // SAFETY: a group stands at `group`, and `to` has room for its floats (preconditions of `k_groups`).
        unsafe {
            groups::<I, N, false>(
                isa,
                self.layout,
                Panels::one(group),
                0..GROUP,
                #[inline(always)]
                |p, mut q| {
                    for q in &mut q {
                        *q = *q - offset;
                    }
                    store::<I, N>(q, to.add(p * I::NR));
                },
            );
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
    unsafe fn row<const N: usize>(self, isa: I, group: *const u8, a: *const f32, _: f32) -> [I::V; N] {
        let mut sums = [I::V::splat(isa, 0.0); N];
        // SAFETY: groups stand at `group` and at `a` (preconditions of `row`).
        unsafe {
            groups::<I, N, false>(
                isa,
                self.layout,
                Panels::one(group),
                0..GROUP,
                #[inline(always)]
                |p, q| {
                    let a = I::V::splat(isa, *a.add(p));
                    for (sum, q) in sums.iter_mut().zip(q) {
                        *sum = a.mul_add(q, *sum);
                    }
                },
            );
        }
        sums
    }
}

/// Integers multiplied as quads of int8.
#[derive(Clone, Copy)]
pub(super) struct QuadGroups<D> {
    pub layout: PanelLayout,
    pub dot: D,
}

/// 128 in each byte: the difference between u8 = i8 + 128 and i8, and the bits in which the two differ.
const UNSIGNED: u32 = 0x8080_8080;

/// 8 in each byte.
const EIGHT: u32 = 0x0808_0808;

/// Mask of the low halves of all bytes.
const LOW: u32 = 0x0f0f_0f0f;

impl<D> QuadGroups<D> {
    /// Address of the q of a group, behind its scales and minima.
    #[inline(always)]
    fn numbers<I: Isa>(&self, group: *const u8) -> *const f32 {
        group.wrapping_add(if self.layout.format == Format::Q4_1 { 4 } else { 2 } * I::NR).cast()
    }

    /// Calls `f(quad, vectors of the quad)` for the quads of a group in order, with q as stored.
    ///
    /// # Safety
    /// A group of this layout, of `N` vectors, stands at `group`.
    #[inline(always)]
    unsafe fn visit<I: Isa, const N: usize>(
        &self,
        isa: I,
        group: *const u8,
        mut f: impl FnMut(usize, [I::V; N]),
    ) {
        let (from, low) = (self.numbers::<I>(group), I::V::splat_bits(isa, LOW));
        let mut q = [I::V::splat(isa, 0.0); N];
        if self.layout.format == Format::Q8_0 {
            for quad in 0..GROUP / 4 {
                for (j, q) in q.iter_mut().enumerate() {
                    // SAFETY: quads of the group (precondition of `visit`).
                    *q = unsafe { I::V::load_ptr(isa, from.add(quad * I::NR + j * I::V::LANES)) };
                }
                f(quad, q);
            }
            return;
        }
        for k_group in 0..GROUP / 8 {
            let mut high = q;
            for (j, (q, high)) in q.iter_mut().zip(&mut high).enumerate() {
                // SAFETY: pairs of quads of the group (precondition of `visit`).
                let both = unsafe { I::V::load_ptr(isa, from.add(k_group * I::NR + j * I::V::LANES)) };
                (*q, *high) = (both.and_bits(low), both.shr_bits::<4>().and_bits(low));
            }
            f(2 * k_group, q);
            f(2 * k_group + 1, high);
        }
    }
}

impl<I: Isa, D: Dot<I>> GroupVariant<I> for QuadGroups<D> {
    const K_GROUPS: usize = GROUP / 4;

    #[inline(always)]
    unsafe fn put(self, isa: I, q: I::V, signed: bool, p: usize, to: *mut f32) {
        let bias = I::V::splat_bits(isa, if signed || D::SIGNED { 0 } else { UNSIGNED });
        // SAFETY: LANES bytes from byte p of the group on (precondition of `put`).
        unsafe { q.xor_bits(bias).store_u8(to.cast::<u8>().add(p)) };
    }

    #[inline(always)]
    unsafe fn k_groups<const N: usize>(
        self,
        isa: I,
        group: *const u8,
        to: *mut f32,
        excess: *mut f32,
    ) -> *const f32 {
        let (bias, eight) = (I::V::splat_bits(isa, UNSIGNED), I::V::splat_bits(isa, EIGHT));
        let mut sums = [I::V::splat(isa, 0.0); N];
        // SAFETY: a group stands at `group`; `to` has room for its quads and `excess` for NR floats (preconditions of
        // `k_groups`).
        unsafe {
            self.visit::<I, N>(
                isa,
                group,
                #[inline(always)]
                |quad, mut q| {
                    for (q, sum) in q.iter_mut().zip(&mut sums) {
                        if self.layout.format == Format::Q4_0 {
                            // With bit 7 set, no byte borrows from its neighbour.
                            *q = q.or_bits(bias).sub_bits(eight).xor_bits(bias);
                        }
                        if !D::SIGNED {
                            *sum = self.dot.dot(bias, *q, *sum);
                        }
                    }
                    if self.layout.format != Format::Q8_0 {
                        store::<I, N>(q, to.add(quad * I::NR));
                    }
                },
            );
            store::<I, N>(sums, excess);
        }
        if self.layout.format == Format::Q8_0 { self.numbers::<I>(group) } else { to }
    }

    #[inline(always)]
    fn dot(self, a: I::V, b: I::V, sums: I::V) -> I::V {
        self.dot.dot(a, b, sums)
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
    unsafe fn row<const N: usize>(self, isa: I, group: *const u8, a: *const f32, sum: f32) -> [I::V; N] {
        // Where the instruction needs B unsigned, 128 is added to each q of q8_0. The sums stay exact, as floats too.
        let biased = !D::SIGNED && self.layout.format == Format::Q8_0;
        let bias = I::V::splat_bits(isa, UNSIGNED);
        let excess = I::V::splat(isa, if biased { 128.0 * sum } else { 0.0 });
        let mut sums = [I::V::splat(isa, 0.0); N];
        // SAFETY: groups stand at `group` and at `a` (preconditions of `row`).
        unsafe {
            self.visit::<I, N>(
                isa,
                group,
                #[inline(always)]
                |quad, q| {
                    let a = I::V::splat(isa, *a.add(quad));
                    for (sum, q) in sums.iter_mut().zip(q) {
                        let q = if biased { q.xor_bits(bias) } else { q };
                        *sum = if D::SIGNED { self.dot.dot(a, q, *sum) } else { self.dot.dot(q, a, *sum) };
                    }
                },
            );
        }
        for sum in &mut sums {
            *sum = sum.int_to_float() - excess;
        }
        sums
    }
}
