//! Precision: the element type of both products of attention.

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
