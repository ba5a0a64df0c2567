//! Panels as they are read: several at once, row by row.

use crate::element::Element;
use crate::isa::LINE;
use crate::isa::{Isa, Vector};
use half::f16;

/// Bytes ahead of what is dequantized that are prefetched of each panel. Half as many are as good but for groups of
/// int8, one row of which takes 2% longer then from L3 and 7% from memory.
const AHEAD: usize = 2048;

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

    /// These panels from a byte of theirs on.
    #[inline(always)]
    pub fn behind(self, bytes: usize) -> Self {
        Self { first: self.first.wrapping_add(bytes), ..self }
    }

    /// Where the columns of vector `j` stand in row `p` of numbers, or k-groups, of `size` bytes.
    #[inline(always)]
    fn place<I: Isa>(self, p: usize, j: usize, size: usize) -> *const u8 {
        let vectors = I::NR / I::V::LANES;
        let column = j % vectors * I::V::LANES;
        self.first.wrapping_add(j / vectors * self.stride + (p * I::NR + column) * size)
    }

    /// Prefetches what follows row `p`.
    #[inline(always)]
    pub fn prefetch<I: Isa, const N: usize>(self, isa: I, p: usize, size: usize) {
        for j in 0..N {
            if (j * I::V::LANES * size).is_multiple_of(LINE) {
                isa.prefetch(self.place::<I>(p, j, size).wrapping_add(AHEAD).cast());
            }
        }
    }

    /// `load` of where each vector's columns stand in row `p`.
    #[inline(always)]
    pub fn row<I: Isa, const N: usize>(
        self,
        isa: I,
        p: usize,
        size: usize,
        load: impl Fn(*const u8) -> I::V,
    ) -> [I::V; N] {
        // Not an array's `map`, which is not inlined into functions of an instruction set.
        let mut v = [I::V::splat(isa, 0.0); N];
        for (j, v) in v.iter_mut().enumerate() {
            *v = load(self.place::<I>(p, j, size));
        }
        v
    }

    /// Row `p` of k-groups.
    ///
    /// # Safety
    /// There are so many, for `N` vectors; so for `halves`.
    #[inline(always)]
    pub unsafe fn k_groups<I: Isa, const N: usize>(self, isa: I, p: usize) -> [I::V; N] {
        self.row(
            isa,
            p,
            4,
            #[inline(always)]
            // SAFETY: the caller's.
            |at| unsafe { I::V::load_ptr(isa, at.cast()) },
        )
    }

    /// Row `p` of f16.
    #[inline(always)]
    pub unsafe fn f16s<I: Isa, const N: usize>(self, isa: I, p: usize) -> [I::V; N] {
        self.row(
            isa,
            p,
            2,
            #[inline(always)]
            // SAFETY: the caller's.
            |at| unsafe { f16::load::<I>(isa, at.cast()) },
        )
    }

    /// Their groups of this index. `PREFETCH`: what follows them is wanted soon.
    #[inline(always)]
    pub fn group<I: Isa, const PREFETCH: bool>(
        self,
        isa: I,
        panels: usize,
        bytes: usize,
        index: usize,
    ) -> Self {
        let first = self.first.wrapping_add(index * bytes);
        for q in 0..if PREFETCH { panels } else { 0 } {
            for line in (0..bytes).step_by(LINE) {
                isa.prefetch(first.wrapping_add(q * self.stride + AHEAD + line).cast());
            }
        }
        Self { first, ..self }
    }
}
