//! CPU kernels for transformers, each beside the naive definition that tests hold it to.
//!
//! A kernel is a value that holds its arguments, views of the caller's memory; [`Backend::run`] computes it by one
//! instruction set:
//!
//! ```
//! use tilewright_kernels::gemm::{Epilogue, Gemm, PackedB, Rhs};
//! use tilewright_kernels::{Activation, Backend, View, ViewMut};
//! let backend = Backend::best();
//! let (x, w, bias) = ([1., 2.], [0.5, -1., 2., 0.25, 1., 0.], [0., 1., 0.]);
//! // A weight of \[out, in\], packed once for any number of rows.
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
//! - Products of matrices are in [`gemm`], functions of numbers in [`math`], what the CPU can do at most in
//!   [`probe`], and the contract of an instruction set in [`isa`]. All other kernels are here.
//! - [`Backend::REFERENCE`] computes the same by the definition. [`Backend::best`] is the fastest that this CPU has,
//!   [`Backend::from_env`] that or the one that `TILEWRIGHT_ISA` names.
//! - Arguments that do not fit are an [`Error`], and nothing is written. Indices outside a view panic, as those of
//!   slices do; where memory ends, the process does.
//! - With the feature `rayon`, on by default, a kernel uses the threads of the pool that it is called in; without
//!   it, the calling thread.

mod activate;
mod activation;
mod attention;
mod backend;
mod compiled;
mod element;
mod embedding;
mod error;
pub mod gemm;
pub mod isa;
#[cfg(test)]
mod isa_tests;
mod lanes;
mod large_pages;
mod layer_norm;
mod map;
pub mod math;
mod parallel;
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

pub use activate::{Activate, Gated};
pub use activation::Activation;
pub use attention::{Attention, CachedAttention, DistanceBias, KvCache, Precision, Sequences, Start, Window};
pub use backend::{Backend, Kernel};
pub use element::Element;
pub use embedding::{Embedding, Lookup};
pub use error::Error;
pub use half;
pub use layer_norm::LayerNorm;
pub use map::{Function, Map};
pub use pooling::{L2Normalize, Pool, Pooling};
pub use rms_norm::RmsNorm;
pub use rope::{Rope, RopeLayout, RopeTable};
pub use rows::Rows;
pub use softmax::{ColumnMask, Softmax};
pub use view::{AnyView, AnyViewMut, View, ViewMut};
