//! Precision: the element type of both products of attention.

use crate::element::Element;

/// Element type of both products of [`Attention`](super::Attention). Sums, scores and the softmax are f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// bf16 if q, k and v are bf16, else f32.
    #[default]
    Stored,
    /// f32, whatever the type of q, k and v.
    F32,
    /// bf16: q, k and v of other types are rounded to the nearest bf16, ties to even.
    Bf16,
}

impl Precision {
    /// True if q, k and v of type `T` are rounded to bf16.
    pub(super) fn is_bf16<T: Element>(self) -> bool {
        match self {
            Self::Stored => T::IS_BF16,
            Self::F32 => false,
            Self::Bf16 => true,
        }
    }
}
