//! B of a product.

use super::format::Format;
use super::packed::PackedB;
use crate::view::{AnyView, View};

/// B of a [`Gemm`](super::Gemm).
#[derive(Clone, Copy, Debug)]
pub enum Rhs<'a> {
    /// \[batch, k, n\], or \[1, k, n\] for all products, of f32, bf16 or f16; packed anew in every call.
    Matrix(AnyView<'a, 3>),
    /// Two such matrices, for activation(A gate) * (A up).
    Gated {
        /// Matrix whose product goes through the activation.
        gate: AnyView<'a, 3>,
        /// Matrix whose product multiplies the activated product of `gate`.
        up: AnyView<'a, 3>,
    },
    /// One matrix or gated pair, packed beforehand, for all products of the batch.
    Packed(&'a PackedB),
}

impl Rhs<'_> {
    /// Number format of the weights; f32 for a gated pair of two types.
    pub(super) fn format(&self) -> Format {
        let of = |b: &AnyView<'_, 3>| match b {
            AnyView::F32(_) => Format::F32,
            AnyView::Bf16(_) => Format::Bf16,
            AnyView::F16(_) => Format::F16,
        };
        match self {
            Rhs::Packed(b) => b.format(),
            Rhs::Matrix(b) => of(b),
            Rhs::Gated { gate, up } if of(gate) == of(up) => of(gate),
            Rhs::Gated { .. } => Format::F32,
        }
    }

    #[inline(always)]
    pub(crate) fn is_gated(&self) -> bool {
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

/// [`of_batch`] for an operand of any type.
#[inline(always)]
pub(super) fn any_of_batch(v: AnyView<'_, 3>, batch: usize) -> AnyView<'_, 2> {
    v.at(if v.shape()[0] == 1 { 0 } else { batch })
}
