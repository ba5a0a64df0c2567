//! Operands of the three products for gradients: f32, or pairs of bf16.
//!
//! ```text
//! product           A                         B                      k-groups of
//! dQ   += dS K      dS, a row of scores       K in panels            keys, as P V of the forward call
//! dV^T += dO^T P    transposed rows of dO     P, columns of scores   rows
//! dK^T += Q^T dS    transposed rows of Q      dS, columns of scores  rows
//! ```
//!
//! `Floats` multiplies rows of scores as they are: their distance is that of rows of A, and of k-steps of B.
//! `Pairs` rounds P and dS to bf16, and packs the columns of both to panels.

mod floats;
mod pairs;

use super::super::variant::AttentionVariant;
use crate::isa::{A_STRIDE, Isa};
use core::ops::Range;

/// Rows of a block: k of the products for dV and dK. A tile loads and stores its sums once for 128 k-steps; P and dS of
/// a block take 256 KiB, a quarter of a small L2.
pub(super) const BLOCK_ROWS: usize = 128;

/// Floats of a block of rows of A, `A_STRIDE` apart.
pub(super) const ROWS_LEN: usize = BLOCK_ROWS * A_STRIDE;

/// Packing of the operands of gradients for the k-groups of one microkernel.
pub(super) trait GradientVariant<I: Isa>: AttentionVariant<I> {
    /// Floats of working memory for the columns of one factor, P or dS.
    const COLUMNS_LEN: usize;

    /// Transposes `[rows, width]` elements of packed rows, slabs of KC k-groups that are `ROWS_LEN` floats apart, to
    /// `width` rows of A. Zeros fill them up to a multiple of NR k-groups.
    fn transpose(self, isa: I, from: &[f32], shape: [usize; 2], to: &mut [f32], memory: &mut [f32]);

    /// Makes k-groups of `rows` rows of P and dS, in place where possible: the columns of both as B, and dS as rows
    /// of A.
    fn pack_factors(
        self,
        isa: I,
        factors: [&mut [f32]; 2],
        rows: usize,
        keys: Range<usize>,
        columns: [&mut [f32]; 2],
    );

    /// Least range that holds `rows` and that a product can sum over.
    fn summed_rows(rows: Range<usize>) -> Range<usize>;

    /// Panel `panel` of the columns of a factor as B, for k-groups of `rows`, and the floats between its k-steps.
    fn columns<'m>(
        self,
        factor: &'m [f32],
        columns: &'m [f32],
        panel: usize,
        rows: &Range<usize>,
    ) -> (&'m [f32], usize);

    /// Copies the k-groups of `rows` of a row of A, with zeros for rows that are not `seen`.
    fn mask_rows(self, from: &[f32], rows: &Range<usize>, seen: impl Fn(usize) -> bool, to: &mut [f32]);
}
