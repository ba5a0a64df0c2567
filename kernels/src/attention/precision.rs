//! Element types of the two products of attention.

/// Element type of the products of [`Attention`](super::Attention). Sums, scores and the softmax are in f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// bf16 if q, k and v are bf16; f32 if they are f32 or f16.
    #[default]
    Stored,
    /// f32, whatever the type of q, k and v.
    F32,
    /// bf16: q, k and v of other types are rounded to nearest, ties to even.
    Bf16,
}
