//! Packing of both operands in the call: which k-groups they become, and which microkernel multiplies them.
//!
//! ```text
//! packing   A                  B                  k-groups          products
//! Floats    any type           any type           f32               fused multiply-adds
//! Pairs     bf16, or rounded   bf16               pairs of bf16     the dot instruction or tiles of the CPU
//! ```

use super::format::Format;
use super::lhs::{Lhs, with_rows};
use super::pack::{pack_a, pack_panel};
use super::pairs::{interleave, pack_pair_panel, pack_pair_rows};
use super::walk::PackedRows;
use crate::isa::{F32, Isa, K_GROUPS, Microkernel, OuterProduct};
use crate::view::AnyView;
use core::ops::Range;

/// k-groups of A and B that are packed in the call, and their microkernel.
pub(super) trait Packing<I: Isa>: Copy + Send + Sync {
    /// Microkernel of these k-groups.
    type Microkernel: Microkernel<I>;

    fn microkernel(self) -> Self::Microkernel;

    /// k-groups of `k` k-steps, padded for the microkernel.
    fn k_groups(k: usize) -> usize;

    /// Packs rows of A to slabs of KC k-groups. Enters the instruction set by itself.
    ///
    /// # Safety
    /// `to` is valid for writes of [`packed_a_len`](super::pack::packed_a_len) floats for these k-groups.
    unsafe fn pack_rows(self, isa: I, a: Lhs<'_, 2>, to: *mut f32);

    /// Packs the k-groups `groups` of columns of B, `NR` floats a k-group, and fills them up with zeros to `width`
    /// columns.
    ///
    /// # Safety
    /// - `b` has at most `width` columns;
    /// - `to` is valid for writes of `NR` floats for each k-group.
    unsafe fn pack_panel(self, isa: I, b: AnyView<'_, 2>, groups: Range<usize>, to: *mut f32, width: usize);

    /// Orders whole packed k-groups as the microkernel reads them.
    #[inline(always)]
    fn order(self, _: I, _panel: &mut [f32]) {}

    /// As [`pack_rows`](Self::pack_rows), to memory of that length.
    ///
    /// # Panics
    /// If `to` is shorter.
    #[inline(always)]
    fn rows(self, isa: I, a: Lhs<'_, 2>, to: &mut [f32]) -> PackedRows {
        let [rows, k] = a.shape();
        assert!(to.len() >= super::pack::packed_a_len(rows, Self::k_groups(k)));
        // SAFETY: the length was checked.
        unsafe { self.pack_rows(isa, a, to.as_mut_ptr()) };
        PackedRows { first: to.as_ptr(), rows }
    }
}

/// f32 by f32.
#[derive(Clone, Copy)]
pub(super) struct Floats {
    /// Format that rows of [`Lhs::Rounded`] are rounded to; f32 changes nothing.
    pub rounding: Format,
}

impl Floats {
    /// Rows are used as they are stored.
    pub const EXACT: Self = Self { rounding: Format::F32 };
}

impl<I: Isa> Packing<I> for Floats {
    type Microkernel = OuterProduct<F32>;

    #[inline(always)]
    fn microkernel(self) -> OuterProduct<F32> {
        OuterProduct(F32)
    }

    #[inline(always)]
    fn k_groups(k: usize) -> usize {
        k
    }

    #[inline(always)]
    unsafe fn pack_rows(self, isa: I, a: Lhs<'_, 2>, to: *mut f32) {
        // SAFETY: `to` has room for the rows (precondition of `pack_rows`).
        unsafe { pack_a(isa, a, self.rounding, to) };
    }

    #[inline(always)]
    unsafe fn pack_panel(self, isa: I, b: AnyView<'_, 2>, steps: Range<usize>, to: *mut f32, width: usize) {
        // SAFETY: at most `width` columns, and NR floats a k-step (preconditions of `pack_panel`).
        unsafe {
            match b {
                AnyView::F32(b) => pack_panel(isa, b.slice(0, steps), to, width),
                // Functions of their own leave the registers of the loops around them alone.
                AnyView::Bf16(b) => isa.run(
                    #[inline(always)]
                    || pack_panel(isa, b.slice(0, steps), to, width),
                ),
                AnyView::F16(b) => isa.run(
                    #[inline(always)]
                    || pack_panel(isa, b.slice(0, steps), to, width),
                ),
            }
        }
    }
}

/// Pairs of bf16, by the dot instruction or tiles of the CPU.
#[derive(Clone, Copy)]
pub(super) struct Pairs<M>(pub M);

impl<I: Isa, M: Microkernel<I>> Packing<I> for Pairs<M> {
    type Microkernel = M;

    #[inline(always)]
    fn microkernel(self) -> M {
        self.0
    }

    #[inline(always)]
    fn k_groups(k: usize) -> usize {
        k.div_ceil(2).next_multiple_of(K_GROUPS)
    }

    #[inline(always)]
    unsafe fn pack_rows(self, isa: I, a: Lhs<'_, 2>, to: *mut f32) {
        let groups = <Self as Packing<I>>::k_groups(a.shape()[1]);
        isa.run(
            #[inline(always)]
            || {
                // SAFETY: `to` has room for the rows (precondition of `pack_rows`).
                with_rows!(a, a => unsafe { pack_pair_rows(isa, a, groups, to) });
            },
        );
    }

    #[inline(always)]
    unsafe fn pack_panel(self, isa: I, b: AnyView<'_, 2>, groups: Range<usize>, to: *mut f32, width: usize) {
        let AnyView::Bf16(b) = b else { unreachable!("pairs are of bf16") };
        let k = b.shape()[0];
        let b = b.slice(0, k.min(2 * groups.start)..k.min(2 * groups.end));
        isa.run(
            #[inline(always)]
            // SAFETY: at most `width` columns, and NR floats a k-group (preconditions of `pack_panel`).
            || unsafe { pack_pair_panel(isa, b, groups.len(), to, width) },
        );
    }

    #[inline(always)]
    fn order(self, _: I, panel: &mut [f32]) {
        if self.0.depth() > 1 {
            interleave::<I>(panel, self.0.depth());
        }
    }
}
