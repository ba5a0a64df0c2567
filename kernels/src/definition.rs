//! Definitions in f64: forward and backward of each kernel as plain functions of f64 slices.
//!
//! `Kernel::reference` widens its arguments, calls one of them, and rounds the result. Tests hold the backward functions
//! to finite differences of the forward ones, so that a wrong formula cannot hide in both a kernel and its definition.

pub use crate::activate::{activate, activate_backward, gated, gated_backward};
pub use crate::attention::backward::definition::{
    AttentionGradients, AttentionScores, attention, attention_backward,
};
pub use crate::binary_cross_entropy::{bce_with_logits, bce_with_logits_backward};
pub use crate::column_sums::column_sums;
pub use crate::cross_entropy::{
    cross_entropy, cross_entropy_backward, linear_cross_entropy, linear_cross_entropy_backward,
};
pub use crate::dropout::dropout;
pub use crate::embedding::{embedding, embedding_backward};
pub use crate::l2_normalize::{l2_normalize, l2_normalize_backward};
pub use crate::layer_norm::{layer_norm, layer_norm_backward};
pub use crate::linear::{linear, linear_backward};
pub use crate::optimizer::{adafactor::adafactor, adam::adam, lamb::lamb, sgd::sgd};
pub use crate::pooling::{pool, pool_backward};
pub use crate::rms_norm::{rms_norm, rms_norm_backward};
pub use crate::rope::{rope, rope_backward};
pub use crate::softmax::{softmax, softmax_backward};
