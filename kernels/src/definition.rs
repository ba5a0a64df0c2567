//! Definitions in f64: forward and backward of each kernel as plain functions of f64 slices.
//!
//! `Kernel::reference` widens its arguments, calls one of them, and rounds the result. Tests hold the backward functions
//! to finite differences of the forward ones, so that a wrong formula cannot hide in both a kernel and its definition.

use crate::element::Element;

pub use crate::activate::{activate, activate_backward, gated, gated_backward};
pub use crate::column_sums::column_sums;
pub use crate::dropout::dropout;
pub use crate::embedding::{embedding, embedding_backward};
pub use crate::l2_normalize::{l2_normalize, l2_normalize_backward};
pub use crate::layer_norm::{layer_norm, layer_norm_backward};
pub use crate::linear::{linear, linear_backward};
pub use crate::pooling::{pool, pool_backward};
pub use crate::rms_norm::{rms_norm, rms_norm_backward};
pub use crate::rope::{rope, rope_backward};
pub use crate::softmax::{softmax, softmax_backward};

/// The elements in f64, exactly.
pub(crate) fn widen<T: Element>(x: &[T]) -> Vec<f64> {
    x.iter().map(|x| f64::from(x.to_f32())).collect()
}

/// Rounds each number to f32, and then to the type of `out`.
pub(crate) fn round<T: Element>(x: &[f64], out: &mut [T]) {
    for (out, &x) in out.iter_mut().zip(x) {
        *out = T::from_f32(x as f32);
    }
}
