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
//! | [`Run`], [`Slot`], [`Workspace`] | the calls of a forward pass, its matrices, and the tape of its backward pass |

mod attention;
mod buffer;
mod cache;
mod growing;
mod linear;
mod loss;
mod model_linear;
mod norm;
mod parameter;
mod rows;
mod run;
mod table;

pub use attention::{Heads, RelativeBias};
pub use buffer::Matrix;
pub use cache::{Cache, Past};
pub(crate) use growing::Growing;
pub use linear::{Linear, LinearRole, LinearTensor};
pub use loss::IGNORED;
pub(crate) use loss::{
    answer_loss, binary_cross_entropy, cross_entropy, linear_cross_entropy, squared_error,
};
pub use model_linear::ModelLinear;
pub use norm::Norm;
pub(crate) use parameter::parameters_of;
pub use parameter::{MatrixOrder, Parameter, Parameters};
pub(crate) use rows::{add, add_constants, dropout, rope, scale, select_rows};
pub(crate) use run::Blocks;
pub use run::{Run, Slot, StepRandom, Workspace};
pub use table::{EmbeddingTable, Selection};
pub use tilewright_kernels::KvCache;
