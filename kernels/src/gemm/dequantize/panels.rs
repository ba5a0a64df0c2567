//! Reading panels: several side by side, row by row.

use crate::element::Element;
use crate::isa::LINE;
use crate::isa::{Isa, Vector};
use half::f16;

/// Prefetch distance in each panel, in bytes. Half of it is as good, except for one row by groups of int8, which
/// takes 2% longer then from L3 and 7% from memory.
const AHEAD: usize = 2048;

/// Panels side by side, or one group of each.
#[derive(Clone, Copy)]
pub(in crate::gemm) struct Panels {
    pub first: *const u8,
    /// Bytes from one panel to the next.
    pub stride: usize,
}

impl Panels {
    /// A single panel.
    #[inline(always)]
    pub fn one(panel: *const u8) -> Self {
        Self { first: panel, stride: 0 }
    }

    /// The panels from byte `bytes` of each on.
    #[inline(always)]
    pub fn behind(self, bytes: usize) -> Self {
        Self { first: self.first.wrapping_add(bytes), ..self }
    }

    /// Address of the columns of vector `j` in row `p` of numbers, or k-groups, of `size` bytes.
    #[inline(always)]
    fn place<I: Isa>(self, p: usize, j: usize, size: usize) -> *const u8 {
        let vectors = I::NR / I::V::LANES;
        let column = j % vectors * I::V::LANES;
        self.first.wrapping_add(j / vectors * self.stride + (p * I::NR + column) * size)
    }

    /// Prefetches the lines [`AHEAD`] bytes behind row `p`.
    #[inline(always)]
    pub fn prefetch<I: Isa, const N: usize>(self, isa: I, p: usize, size: usize) {
        for j in 0..N {
            if (j * I::V::LANES * size).is_multiple_of(LINE) {
                isa.prefetch(self.place::<I>(p, j, size).wrapping_add(AHEAD).cast());
            }
        }
    }

    /// Row `p` of numbers of `size` bytes: `load(address)` for each vector.
    #[inline(always)]
    pub fn row<I: Isa, const N: usize>(
        self,
        isa: I,
        p: usize,
        size: usize,
        load: impl Fn(*const u8) -> I::V,
    ) -> [I::V; N] {
        // A loop: methods of arrays, such as `map`, are not inlined into target-feature functions.
        let mut v = [I::V::splat(isa, 0.0); N];
        for (j, v) in v.iter_mut().enumerate() {
            *v = load(self.place::<I>(p, j, size));
        }
        v
    }

    /// Row `p` of k-groups.
    ///
    /// # Safety
    /// The panels have row `p` of k-groups, of `N` vectors together.
    #[inline(always)]
    pub unsafe fn k_groups<I: Isa, const N: usize>(self, isa: I, p: usize) -> [I::V; N] {
        self.row(
            isa,
            p,
            4,
            #[inline(always)]
            // SAFETY: a vector of row p (precondition of `k_groups`).
            |at| unsafe { I::V::load_ptr(isa, at.cast()) },
        )
    }

    /// Row `p` of f16, as floats.
    ///
    /// # Safety
    /// The panels have row `p` of f16, of `N` vectors together.
    #[inline(always)]
    pub unsafe fn f16s<I: Isa, const N: usize>(self, isa: I, p: usize) -> [I::V; N] {
        self.row(
            isa,
            p,
            2,
            #[inline(always)]
            // SAFETY: a vector of row p (precondition of `f16s`).
            |at| unsafe { f16::load::<I>(isa, at.cast()) },
        )
    }

    /// Group `index` of each of `panels` panels, of `bytes` bytes each. With `PREFETCH`, the bytes [`AHEAD`] of them are
    /// prefetched.
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
