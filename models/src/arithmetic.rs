//! Backend and types of a model's arithmetic, chosen when the model is loaded.

use tilewright_kernels::Backend;
use tilewright_kernels::gemm::Format;

/// The backend that a model computes on, and the type of its linear layers.
///
/// | `dtype` | weights | inputs of a linear layer, if they are rounded |
/// |---|---|---|
/// | `f32` | as in the file | f32 |
/// | `bf16`, `f16` | rounded to the nearest | rounded to the same type |
/// | `int8` | a scale for each output | quantized in every call, with a scale and a zero point for each token |
/// | `q8_0`, `q4_0`, `q4_1` | groups of 32 with a scale each | quantized in every call, to int8 in the same groups |
///
/// By default, inputs of grouped weights stay f32, as the authors of such files intend. Inputs of all other types are
/// rounded.
///
/// Sums are f32; sums of int8 are exact. Everything outside of products is f32: states, residuals, embeddings, norms,
/// softmax. The products of attention are bf16 if linear layers are bf16 or int8, else f32. Linear layers are the
/// layers of encoders and decoders, the pooler, and the head of a language model. The word table of the embeddings is
/// f32. A classifier computes in f32 for every dtype: it has few columns, so f32 costs little, and its output is the
/// decision.
///
/// # Accuracy
/// Effect of each type on all-MiniLM-L6-v2, on an AVX-512 CPU (`tilewright verify --model all-minilm-l6-v2`, 200
/// sentences). Errors of `last_hidden_state` are shares of its largest value; cosines compare mean-pooled sentences
/// with f32.
///
/// | `dtype` | worst error | mean error | worst cosine | mean cosine |
/// |---|---|---|---|---|
/// | `f32` | 6.3e-7 | 4.5e-8 | 1.000000 | 1.000000 |
/// | `f16` | 4.1e-4 | 3.1e-5 | 1.000000 | 1.000000 |
/// | `bf16` | 3.2e-3 | 2.6e-4 | 0.999960 | 0.999989 |
/// | `q8_0` | 8.3e-3 | 7.4e-4 | 0.999675 | 0.999867 |
/// | `int8` | 4.2e-2 | 2.4e-3 | 0.996579 | 0.998804 |
/// | `q4_1` | 1.3e-1 | 1.1e-2 | 0.936480 | 0.972225 |
/// | `q4_0` | 1.7e-1 | 1.1e-2 | 0.927531 | 0.969468 |
///
/// A small model may not bear rounded inputs with weights in groups: SmolLM2-135M loses the thread of some texts.
///
/// ```
/// use tilewright::Arithmetic;
/// use tilewright_kernels::{Backend, gemm::Format};
/// let exact = Arithmetic::f32(Backend::best());
/// let fast = Arithmetic::new(Backend::best(), Format::Int8);
/// assert_eq!((exact.dtype.name(), fast.dtype.name()), ("f32", "int8"));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arithmetic {
    /// Backend that runs the kernels.
    pub backend: Backend,
    /// Type of the packed weights of linear layers.
    pub dtype: Format,
    /// Activation quantization of linear layers.
    pub inputs: ActivationQuantization,
}

/// Activation quantization: rounding of a linear layer's inputs before the product.
///
/// ```
/// use tilewright::{Arithmetic, ActivationQuantization};
/// use tilewright_kernels::{Backend, gemm::Format};
/// let on = Arithmetic::new(Backend::best(), Format::Q4_0);
/// let faster = Arithmetic { inputs: ActivationQuantization::Rounded, ..on };
/// assert_eq!([on.inputs, faster.inputs], ActivationQuantization::ALL);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActivationQuantization {
    /// Inputs stay f32.
    Exact,
    /// Inputs are rounded, as the table of [`Arithmetic`] says. This is faster (with weights in groups 1.5 to 2 times)
    /// and less accurate.
    Rounded,
}

impl ActivationQuantization {
    /// Both values.
    pub const ALL: [Self; 2] = [Self::Exact, Self::Rounded];

    /// `"exact"` or `"rounded"`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Rounded => "rounded",
        }
    }

    /// Default for weights of this type.
    pub fn of(dtype: Format) -> Self {
        if dtype.is_grouped() { Self::Exact } else { Self::Rounded }
    }
}

/// Bytes of a weight of this type, scales of groups included.
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
    /// f32 without any rounding to other types.
    pub fn f32(backend: Backend) -> Self {
        Self::new(backend, Format::F32)
    }

    /// Linear layers of this type, with the type's default activation quantization.
    pub fn new(backend: Backend, dtype: Format) -> Self {
        Self { backend, dtype, inputs: ActivationQuantization::of(dtype) }
    }

    /// This arithmetic in f32, for a layer that must not round.
    #[must_use]
    pub fn exactly(self) -> Self {
        Self::f32(self.backend)
    }
}
