//! B of a product.

use super::format::Format;
use super::packed::PackedB;
use crate::view::View;

/// B of a [`Gemm`](super::Gemm).
#[derive(Clone, Copy, Debug)]
pub enum Rhs<'a> {
    /// \[batch, k, n\], or \[1, k, n\] for all products; packed anew in every call.
    Matrix(View<'a, 3>),
    /// Two such matrices, for activation(A gate) * (A up).
    Gated {
        /// Matrix whose product goes through the activation.
        gate: View<'a, 3>,
        /// Matrix whose product multiplies the activated product of `gate`.
        up: View<'a, 3>,
    },
    /// One matrix or gated pair, packed beforehand, for all products of the batch.
    Packed(&'a PackedB),
}

impl Rhs<'_> {
    /// Number format of the weights.
    pub(super) fn format(&self) -> Format {
        match self {
            Rhs::Packed(b) => b.format(),
            _ => Format::F32,
        }
    }

    #[inline(always)]
    pub(super) fn is_gated(&self) -> bool {
        match self {
            Rhs::Matrix(_) => false,
            Rhs::Gated { .. } => true,
            Rhs::Packed(b) => b.is_gated(),
        }
    }
}

/// Matrix `batch` of an operand, or its only one if that serves all products.
#[inline(always)]
pub(super) fn of_batch<T>(v: View<'_, 3, T>, batch: usize) -> View<'_, 2, T> {
    v.at(if v.shape()[0] == 1 { 0 } else { batch })
}
