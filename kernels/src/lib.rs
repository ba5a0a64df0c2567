//! CPU kernels for transformers, each beside the naive definition that tests hold it to.

mod activation;
mod backend;
mod error;
pub mod gemm;
pub mod isa;
mod layer_norm;
pub mod math;
mod parallel;
mod residual;
mod rms_norm;
mod rows;
mod scratch;
mod view;

pub use activation::Activation;
pub use backend::{Backend, Kernel};
pub use error::Error;
pub use layer_norm::LayerNorm;
pub use rms_norm::RmsNorm;
pub use rows::Rows;
pub use view::{View, ViewMut};
