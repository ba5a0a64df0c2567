//! CPU kernels for transformers, each beside the naive definition that tests hold it to.

mod activation;
mod backend;
mod error;
pub mod gemm;
pub mod isa;
pub mod math;
mod parallel;
mod scratch;
mod view;

pub use activation::Activation;
pub use backend::{Backend, Kernel};
pub use error::Error;
pub use view::{View, ViewMut};
