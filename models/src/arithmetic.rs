//! What a model computes in: decided once, where it is loaded.

use tilewright_kernels::Backend;
use tilewright_kernels::gemm::Format;

/// The backend that a model computes on, and the type of its linear layers.
///
/// | `dtype` | weights | inputs of a linear layer |
/// |---|---|---|
/// | `f32` | as in the file | f32 |
/// | `bf16`, `f16` | rounded to the nearest | rounded to the same type |
/// | `int8` | a scale for each output | quantised in every call, a scale and a zero for each token |
/// | `q8_0`, `q4_0`, `q4_1` | groups of 32 with a scale each | quantised in every call, in the same groups |
///
/// Sums are f32 (of int8: exact), and so is all that is not a product: states and what is added to them,
/// embeddings, norms, softmax. The products of attention are of bf16 where linear layers are of bf16 or int8. Linear layers are those of the encoder, the pooler and the decoder of
/// a masked language model, whose word table also stays as it is for the embeddings. A classifier computes
/// in f32 whatever the dtype: it is a few columns, no time to be won, and it decides.
///
/// ```
/// use tilewright::Arithmetic;
/// use tilewright_kernels::{Backend, gemm::Format};
/// let exact = Arithmetic::f32(Backend::best());
/// let fast = Arithmetic { dtype: Format::Int8, ..exact };
/// assert_eq!((exact.dtype.name(), fast.dtype.name()), ("f32", "int8"));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arithmetic {
    /// Where kernels run.
    pub backend: Backend,
    /// What linear layers keep their weights as.
    pub dtype: Format,
}

/// Bytes that a weight of this type takes, scales of groups included.
pub fn bytes_per_weight(dtype: Format) -> f64 {
    match dtype {
        Format::F32 => 4.0,
        Format::Bf16 | Format::F16 => 2.0,
        Format::Int8 => 1.0,
        Format::Q8_0 => 34.0 / 32.0,
        Format::Q4_0 => 18.0 / 32.0,
        Format::Q4_1 => 20.0 / 32.0,
    }
}

impl Arithmetic {
    /// Nothing is rounded to less than f32.
    pub fn f32(backend: Backend) -> Self {
        Self { backend, dtype: Format::F32 }
    }

    /// The same in f32, for a layer that is not to be rounded.
    #[must_use]
    pub fn exactly(self) -> Self {
        Self::f32(self.backend)
    }
}
