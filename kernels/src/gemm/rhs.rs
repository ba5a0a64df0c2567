//! B of a product.

use super::format::Format;
use super::packed::PackedB;
use crate::view::View;

/// B of a [`Gemm`].
#[derive(Clone, Copy, Debug)]
pub enum Rhs<'a> {
    /// \[batch, k, n\] or \[1, k, n\] for all; packed anew in every call.
    Matrix(View<'a, 3>),
    /// Two matrices of that shape, for activation(A gate) * (A up).
    Gated {
        /// The matrix whose product goes through the activation.
        gate: View<'a, 3>,
        /// The matrix whose product multiplies it.
        up: View<'a, 3>,
    },
    /// One matrix, or pair, packed beforehand, for the whole batch.
    Packed(&'a PackedB),
}

impl Rhs<'_> {
    /// What the weights are stored as.
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

/// The product `batch` of an operand that may have one for all.
#[inline(always)]
pub(super) fn of_batch<T>(v: View<'_, 3, T>, batch: usize) -> View<'_, 2, T> {
    v.at(if v.shape()[0] == 1 { 0 } else { batch })
}
