//! Parameters: tensors of a checkpoint as layers hold them.

use crate::checkpoint::arena::Values;
use crate::checkpoint::weights::NamedTensor;
use std::ops::Range;
use std::sync::Arc;
use tilewright_kernels::gemm::PackedB;

/// A tensor of the checkpoint that a layer holds.
#[derive(Clone, Debug)]
pub struct Parameter<'m> {
    /// Name in the checkpoint.
    pub name: &'m str,
    /// Shape in the checkpoint.
    pub shape: &'m [usize],
    pub(super) source: Source<'m>,
}

/// Memory that holds a parameter.
#[derive(Clone, Debug)]
pub(super) enum Source<'m> {
    /// Values in the checkpoint's order.
    Plain(&'m [f32]),
    /// Place in the arena of a model in training, in the checkpoint's order.
    Arena(Range<usize>),
    /// Columns of a packed W^T, \[in, out\], from `first` on; of the up matrix of a gated pair if `up`.
    Packed { weight: &'m PackedB, up: bool, first: usize, stored: MatrixOrder },
}

impl<'m> Source<'m> {
    /// Values of a tensor in the checkpoint's order.
    pub fn of(values: &'m Values) -> Self {
        match values {
            Values::Own(values) => Self::Plain(values),
            Values::Arena(place) => Self::Arena(place.clone()),
        }
    }
}

/// Order of a linear layer's weight in the checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MatrixOrder {
    /// \[out, in\], as `Linear` of PyTorch: row `j` is column `j` of W^T.
    OutIn,
    /// \[in, out\], as `Conv1D` of transformers: W^T itself.
    InOut,
}

impl Parameter<'_> {
    /// Number of values.
    pub fn count(&self) -> usize {
        self.shape.iter().product()
    }

    /// Values in the checkpoint's order; `arena` holds those of a model in training, and may be empty for others.
    ///
    /// A layer in f32 returns exactly the values that it loaded. A weight packed in a reduced format is dequantized:
    /// the values are those that the layer computes with.
    ///
    /// # Panics
    /// If `arena` is not of the model in training that holds the tensor, and too short.
    pub fn values(&self, arena: &[f32]) -> Vec<f32> {
        match self.source {
            Source::Plain(values) => values.to_vec(),
            Source::Arena(ref place) => arena[place.clone()].to_vec(),
            Source::Packed { weight, up, first, stored } => {
                let columns = self.shape.last().copied().unwrap_or(1).max(1);
                let value = |at: usize| {
                    let (row, column) = (at / columns, at % columns);
                    let (p, j) = match stored {
                        MatrixOrder::OutIn => (column, row),
                        MatrixOrder::InOut => (row, column),
                    };
                    weight.get(up, p, first + j) as f32
                };
                (0..self.count()).map(value).collect()
            }
        }
    }
}

impl<'m> From<&'m NamedTensor> for Parameter<'m> {
    fn from(tensor: &'m NamedTensor) -> Self {
        Self { name: &tensor.name, shape: &tensor.shape, source: Source::of(&tensor.values) }
    }
}

/// A layer or a group of layers that holds parameters.
pub trait Parameters {
    /// Tensors of the checkpoint that the layers hold, layer by layer.
    fn parameters(&self) -> Vec<Parameter<'_>>;
}

/// Parameters of `layers`, in order.
pub(crate) fn parameters_of<'m>(layers: &[&'m dyn Parameters]) -> Vec<Parameter<'m>> {
    layers.iter().flat_map(|layer| layer.parameters()).collect()
}

impl<P: Parameters> Parameters for Option<P> {
    fn parameters(&self) -> Vec<Parameter<'_>> {
        self.iter().flat_map(P::parameters).collect()
    }
}

impl<P: Parameters> Parameters for Vec<P> {
    fn parameters(&self) -> Vec<Parameter<'_>> {
        self.iter().flat_map(P::parameters).collect()
    }
}

impl<P: Parameters> Parameters for Arc<P> {
    fn parameters(&self) -> Vec<Parameter<'_>> {
        (**self).parameters()
    }
}
