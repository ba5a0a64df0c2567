//! Layers: weights in the form that the kernels of a backend take, and calls of these kernels.
//!
//! States of all sequences of a batch are packed, \[tokens, width\]: a row for each token, no padding.

mod attention;
mod buffer;
mod cache;
mod linear;
mod model_linear;
mod norm;
mod parameter;
mod table;

pub use attention::Heads;
pub use buffer::WorkBuffer;
pub use cache::{Cache, Past};
pub use linear::{Linear, LinearRole, LinearTensor};
pub use model_linear::ModelLinear;
pub use norm::Norm;
pub(crate) use parameter::parameters_of;
pub use parameter::{MatrixOrder, Parameter, Parameters};
pub use table::EmbeddingTable;
pub use tilewright_kernels::KvCache;
