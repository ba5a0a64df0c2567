//! Kernels over an element type, compiled in this crate for each type.
//!
//! [`Kernel::run_on`](crate::Kernel::run_on) explains the reason.

use crate::backend::{Backend, Kernel};
use crate::{
    Activate, ActivateBackward, Attention, AttentionBackward, BceWithLogits, BceWithLogitsBackward,
    ColumnSums, CrossEntropy, CrossEntropyBackward, Dropout, Embedding, EmbeddingBackward, Gated,
    GatedBackward, L2Normalize, L2NormalizeBackward, LayerNorm, LayerNormBackward, LinearCrossEntropy,
    NegativeLogLikelihood, Pool, PoolBackward, RmsNorm, RmsNormBackward, Rope, Softmax, SoftmaxBackward,
};
use half::{bf16, f16};

macro_rules! compiled {
    ([$($type:ty),*] $kernels:tt) => {
        compiled!(@trait $kernels);
        $(compiled!(@impl $type, $kernels);)*
    };
    (@trait { $($name:ident: $kernel:ident),* $(,)? }) => {
        /// One function per kernel over elements of a type.
        pub trait Compiled: Sized {
            $(
                /// Runs the kernel.
                fn $name(kernel: $kernel<'_, Self>, backend: Backend) -> <$kernel<'_, Self> as Kernel>::Output
                where
                    Self: crate::Element;
            )*
        }
    };
    (@impl $type:ty, { $($name:ident: $kernel:ident),* $(,)? }) => {
        impl Compiled for $type {
            $(fn $name(kernel: $kernel<'_, Self>, backend: Backend) -> <$kernel<'_, Self> as Kernel>::Output {
                backend.dispatch(kernel)
            })*
        }
    };
}

compiled! {
    [f32, bf16, f16]
    {
        activate: Activate,
        activate_backward: ActivateBackward,
        attention: Attention,
        column_sums: ColumnSums,
        attention_backward: AttentionBackward,
        dropout: Dropout,
        bce_with_logits: BceWithLogits,
        bce_with_logits_backward: BceWithLogitsBackward,
        cross_entropy: CrossEntropy,
        cross_entropy_backward: CrossEntropyBackward,
        embedding: Embedding,
        embedding_backward: EmbeddingBackward,
        gated: Gated,
        gated_backward: GatedBackward,
        l2_normalize: L2Normalize,
        l2_normalize_backward: L2NormalizeBackward,
        layer_norm: LayerNorm,
        layer_norm_backward: LayerNormBackward,
        linear_cross_entropy: LinearCrossEntropy,
        negative_log_likelihood: NegativeLogLikelihood,
        pool: Pool,
        pool_backward: PoolBackward,
        rms_norm: RmsNorm,
        rms_norm_backward: RmsNormBackward,
        rope: Rope,
        softmax: Softmax,
        softmax_backward: SoftmaxBackward,
    }
}
