//! CPU kernels for transformers. Each stands beside the naive definition that tests hold it to.
//!
//! A kernel is a struct of named arguments, which are views of the caller's memory. [`Backend::run`] computes it with
//! one instruction set:
//!
//! ```
//! use tilewright_kernels::gemm::{Epilogue, Gemm, PackedB, Rhs};
//! use tilewright_kernels::{Activation, Backend, View, ViewMut};
//! let backend = Backend::best();
//! let (x, w, bias) = ([1., 2.], [0.5, -1., 2., 0.25, 1., 0.], [0., 1., 0.]);
//! // y = relu(x W^T + bias). The weight [out, in] is packed once, for any number of rows.
//! let w = PackedB::new(backend, View::new(&w, [3, 2])?.transpose());
//! let mut y = [0.; 3];
//! backend.run(Gemm {
//!     alpha: 1.,
//!     a: View::new(&x, [1, 2])?.into(),
//!     b: Rhs::Packed(&w),
//!     beta: 0.,
//!     c: ViewMut::new(&mut y, [1, 3])?.into(),
//!     epilogue: Epilogue {
//!         column_bias: Some(&bias),
//!         activation: Some(Activation::Relu),
//!         ..Epilogue::default()
//!     },
//! })?;
//! assert_eq!(y, [0., 3.5, 1.]);
//! # Ok::<(), tilewright_kernels::Error>(())
//! ```
//!
//! Matrix products are in [`gemm`], optimizer steps in [`optimizer`], definitions in f64 in [`definition`], elementary functions in [`math`], peaks of the CPU in [`probe`], and the traits of
//! an instruction set in [`isa`]. All other kernels are in this module.
//!
//! Arguments that do not fit are an [`Error`], and nothing is written. An index outside a view panics, as for a slice.
//! A failed allocation aborts the process.
//!
//! # Choosing a backend
//! - [`Backend::from_env`] takes the backend that the environment variable `TILEWRIGHT_ISA` names, or else the best.
//!   Programs should use it, so that their users can force a backend.
//! - [`Backend::best`] takes the fastest backend of this CPU. [`Backend::available`] lists all of them, best first, and
//!   [`Backend::named`] takes one by name.
//! - [`Backend::REFERENCE`] computes the definition of each kernel in f64: slow, and the oracle of every test.
//!
//! Packed weights and KV caches are laid out for the backend that made them. [`Backend::REFERENCE`] reads every layout.
//!
//! # Threads
//! With the feature `rayon`, on by default, a kernel uses the threads of the pool that it is called in. Small kernels,
//! and all kernels without the feature, run on the calling thread.
//!
//! A call from a thread outside of any pool makes rayon hand the work to its global pool: each call wakes threads, and
//! the caller sleeps until they are done. That costs about 30 us a call: on two Zen 4 cores, 2026-11-29, a product of
//! f32 with m, k, n = 128 takes 58 us instead of 29, one of 1 x 768 x 3072 114 us instead of 82, and one of 64 x 64 x
//! 64, which stays on the calling thread, 6 us in both cases. To avoid this, put `pool.install(..)` around a whole forward pass, not around
//! single kernels. Or build the pool with `ThreadPoolBuilder::use_current_thread`, which makes the calling thread one
//! of its threads.
//!
//! # Numerics
//! - f32 results stay within gamma_k * sum |a||b| of the f64 definition, functions within a stated number of ULP.
//! - Results have the same bits for any number of threads. The bits of a row do not depend on its batch, on padding, on
//!   packing, or on prefill against decode.
//! - A mask decides which rows are zero; masked elements never reach a result, even if they are NaN. Other NaN and
//!   infinities propagate.
//! - Reduced precision is never silent: the types of arguments, [`Precision`] or [`gemm::Lhs`] ask for it. Sums of bf16
//!   and f16 are f32; sums of int8 are exact in i32.
//!
//! Each kernel states its bounds under "Numerics".
//!
//! # Safety
//! Every safe function is sound for every argument. Views check bounds and overlaps once, when they are made. A backend
//! exists only where the CPU and the operating system support its instructions. Unsafe functions state their
//! preconditions.

mod activate;
mod activation;
mod attention;
mod backend;
mod binary_cross_entropy;
mod column_sums;
mod compiled;
mod cross_entropy;
pub mod definition;
mod dropout;
mod element;
mod embedding;
mod error;
pub mod gemm;
pub mod isa;
#[cfg(test)]
mod isa_tests;
mod l2_normalize;
mod lanes;
mod large_pages;
mod layer_norm;
mod linear;
mod map;
pub mod math;
mod norm_backward;
pub mod optimizer;
mod parallel;
mod philox;
mod pooling;
pub mod probe;
pub mod random;
mod residual;
mod rms_norm;
mod rope;
mod row_slices;
mod rows;
mod scratch;
mod softmax;
mod view;

pub use activate::{Activate, ActivateBackward, Gated, GatedBackward};
pub use activation::Activation;
pub use attention::{
    Attention, AttentionBackward, CachedAttention, DistanceBias, KvCache, Precision, Sequences, Start, Window,
};
pub use backend::{Backend, Kernel};
pub use binary_cross_entropy::{BceWithLogits, BceWithLogitsBackward};
pub use column_sums::ColumnSums;
pub use cross_entropy::{
    CrossEntropy, CrossEntropyBackward, LinearCrossEntropy, LossSum, NegativeLogLikelihood, Targets,
};
pub use dropout::{Dropout, DropoutMask};
pub use element::Element;
pub use embedding::{Embedding, EmbeddingBackward, Lookup};
pub use error::Error;
pub use half;
pub use l2_normalize::{L2Normalize, L2NormalizeBackward};
pub use layer_norm::{LayerNorm, LayerNormBackward};
pub use linear::LinearBackward;
pub use map::{Function, Map};
pub use philox::{RandomBits, philox4x32_10};
pub use pooling::{Pool, PoolBackward, Pooling};
pub use rms_norm::{RmsNorm, RmsNormBackward};
pub use rope::{Rope, RopeLayout, RopeTable};
pub use rows::Rows;
pub use softmax::{ColumnMask, Softmax, SoftmaxBackward};
pub use view::{AnyView, AnyViewMut, View, ViewMut};
