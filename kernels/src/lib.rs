//! CPU kernels for transformers, each beside the naive definition that tests hold it to.

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
mod layer_norm;
pub mod math;
mod parallel;
mod pooling;
pub mod probe;
mod residual;
mod rms_norm;
mod rope;
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
pub use layer_norm::LayerNorm;
pub use pooling::{L2Normalize, Pool, Pooling};
pub use rms_norm::RmsNorm;
pub use rope::{Rope, RopeLayout, RopeTable};
pub use rows::Rows;
pub use softmax::{Mask, Softmax};
pub use view::{View, ViewMut};
