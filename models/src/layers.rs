//! Layers: weights in the form that the kernels of a backend take, and calls of these kernels.
//!
//! States of all sequences of a batch are packed, \[tokens, width\]: a row for each token, no padding.
//!
//! Comments give the shape of a linear layer as \[in, out\], the shape of W^T.
//!
//! | item | content |
//! |---|---|
//! | [`Linear`] | y = x W^T + b; tensors with one input fuse into one W^T |
//! | [`Norm`] | layer norm, RMS norm |
//! | [`EmbeddingTable`] | rows that ids select |
//! | [`Heads`], [`Cache`], [`Past`] | attention, and keys and values of earlier tokens |
//! | [`Parameter`], [`Parameters`] | tensors of the checkpoint that layers hold |
//! | [`ModelLinear`] | a linear layer in a model's list |
//! | [`WorkBuffer`] | working memory |

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
