//! The checked product that all paths compute.

use super::epilogue::{Operations, PanelEpilogue};
use super::lhs::Lhs;
use super::output::CPointer;
use crate::isa::{Isa, L2_BYTES};

/// Bytes of the smallest L1 of current servers: a bound below which C may still be in cache.
const L1_BYTES: usize = 32 << 10;

/// A product whose operands were checked: C = epilogue(alpha A B + beta C).
pub(super) struct Product<'a> {
    pub alpha: f32,
    pub a: Lhs<'a>,
    pub k: usize,
    pub gated: bool,
    pub beta: f32,
    pub operations: Operations<'a>,
    /// \[batch, m, n\] of C.
    pub shape: [usize; 3],
    pub c: CPointer,
    pub c_strides: [usize; 3],
}

// SAFETY: the paths cut C into tasks, which write disjoint blocks through `c`.
unsafe impl Sync for Product<'_> {}

impl Product<'_> {
    /// Columns of C that one panel makes.
    #[inline(always)]
    pub(super) fn width<I: Isa>(&self) -> usize {
        if self.gated { I::NR / 2 } else { I::NR }
    }

    /// True if the lines of C are prefetched during the last k-block: C is larger than L1 or, if its sums are made
    /// in C itself (`direct`), than L2.
    ///
    /// Direct sums in a C that fits L2 are 1% (k = 256) to 4% (k = 64) faster without prefetches.
    #[inline(always)]
    pub(super) fn prefetches_c(&self, direct: bool) -> bool {
        let bytes = self.shape[1] * self.shape[2] * self.c.size();
        self.c_strides[2] == 1 && bytes > if direct { L2_BYTES } else { L1_BYTES }
    }

    /// True if C receives the sums without an epilogue.
    #[inline(always)]
    pub(super) fn is_plain(&self) -> bool {
        self.alpha == 1.0 && self.beta == 0.0 && self.operations.is_empty() && !self.gated
    }

    /// The element of C in this product of the batch, row and column.
    #[inline(always)]
    pub(super) fn c_at(&self, batch: usize, row: usize, column: usize) -> CPointer {
        let [batch_stride, row_stride, column_stride] = self.c_strides;
        self.c.add(batch * batch_stride + row * row_stride + column * column_stride)
    }

    /// The epilogue of the panel that makes the columns of C from `column` on.
    #[inline(always)]
    pub(super) fn finish<I: Isa>(&self, batch: usize, column: usize) -> PanelEpilogue<'_> {
        let n = self.shape[2];
        PanelEpilogue {
            alpha: self.alpha,
            beta: self.beta,
            operations: &self.operations,
            batch,
            column,
            columns: self.width::<I>().min(n - column),
            n,
            gated: self.gated,
            c: self.c.add(batch * self.c_strides[0]),
            c_strides: [self.c_strides[1], self.c_strides[2]],
        }
    }
}
