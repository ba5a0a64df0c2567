//! A checked product, and what all of its paths ask of it.

use super::epilogue::{Epilogue, PanelEpilogue};
use super::lhs::Lhs;
use super::output::CPointer;
use super::rhs::of_batch;
use crate::isa::Isa;

/// The smallest L1 and L2 of the servers this is for.
const L1_BYTES: usize = 32 << 10;
pub(super) const L2_BYTES: usize = 1 << 20;

/// A checked product: C = epilogue(alpha A B + beta C).
pub(super) struct Product<'a> {
    pub alpha: f32,
    pub a: Lhs<'a>,
    pub k: usize,
    pub gated: bool,
    pub beta: f32,
    pub epilogue: Epilogue<'a>,
    /// \[batch, m, n\] of C.
    pub shape: [usize; 3],
    pub c: CPointer,
    pub c_strides: [usize; 3],
}

// SAFETY: tasks write disjoint blocks through `c`.
unsafe impl Sync for Product<'_> {}

impl<'a> Product<'a> {
    /// Columns of C that a panel makes.
    #[inline(always)]
    pub(super) fn width<I: Isa>(&self) -> usize {
        if self.gated { I::NR / 2 } else { I::NR }
    }

    /// Whether the lines of C are fetched while the last of its sums are made, unless they are where these
    /// stand: what is stored to C lies beyond L1, and sums that are made in C itself beyond L2. (Where C may
    /// still be in L2, these alone are 1% (k = 256) to 4% (k = 64) faster.)
    #[inline(always)]
    pub(super) fn prefetches_c(&self, direct: bool) -> bool {
        let bytes = self.shape[1] * self.shape[2] * self.c.size();
        self.c_strides[2] == 1 && bytes > if direct { L2_BYTES } else { L1_BYTES }
    }

    /// Whether C receives the bare sums.
    #[inline(always)]
    pub(super) fn is_plain(&self) -> bool {
        self.alpha == 1.0 && self.beta == 0.0 && self.epilogue.is_empty() && !self.gated
    }

    /// The element of C in this product of the batch, row and column.
    #[inline(always)]
    pub(super) fn c_at(&self, batch: usize, row: usize, column: usize) -> CPointer {
        let [batch_stride, row_stride, column_stride] = self.c_strides;
        self.c.add(batch * batch_stride + row * row_stride + column * column_stride)
    }

    /// What finishes the columns of C that a panel makes, from `column` on.
    #[inline(always)]
    pub(super) fn finish<I: Isa>(&self, batch: usize, column: usize) -> PanelEpilogue<'a> {
        let n = self.shape[2];
        PanelEpilogue {
            alpha: self.alpha,
            beta: self.beta,
            epilogue: self.epilogue,
            residual: self.epilogue.residual.map(|r| of_batch(r, batch)),
            column,
            columns: self.width::<I>().min(n - column),
            n,
            gated: self.gated,
            c: self.c.add(batch * self.c_strides[0]),
            c_strides: [self.c_strides[1], self.c_strides[2]],
        }
    }
}
