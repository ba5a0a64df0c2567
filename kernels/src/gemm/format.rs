//! The number formats of packed weights.

/// What weights are stored as.
///
/// ```
/// use tilewright_kernels::gemm::Format;
/// assert!(Format::ALL.iter().any(|format| format.name() == "q4_0" && format.is_grouped()));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// f32: 4 bytes.
    F32,
    /// bf16, the nearest: 2 bytes.
    Bf16,
    /// f16, the nearest: 2 bytes.
    F16,
    /// int8 with a scale for each output channel, by
    /// [`Quantized::symmetric`](super::Quantized::symmetric): 1 byte.
    Int8,
    /// Groups of 32 k-steps of int8 with an f16 scale, as GGUF's `Q8_0`: 1.06 bytes.
    Q8_0,
    /// Groups of 32 k-steps of int4 with an f16 scale, as GGUF's `Q4_0`: 0.56 bytes.
    Q4_0,
    /// The same with an f16 minimum, as GGUF's `Q4_1`: 0.63 bytes.
    Q4_1,
}

impl Format {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::F32, Self::Bf16, Self::F16, Self::Int8, Self::Q8_0, Self::Q4_0, Self::Q4_1];

    /// `"f32"`, `"bf16"`, `"f16"`, `"int8"`, `"q8_0"`, `"q4_0"` or `"q4_1"`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
            Self::Int8 => "int8",
            Self::Q8_0 => "q8_0",
            Self::Q4_0 => "q4_0",
            Self::Q4_1 => "q4_1",
        }
    }

    /// Whether it is groups of k-steps with a scale each.
    pub const fn is_grouped(self) -> bool {
        matches!(self, Self::Q8_0 | Self::Q4_0 | Self::Q4_1)
    }

    /// k-steps that a panel is filled up to a multiple of: [`WORDS`](crate::isa::WORDS) words, a group.
    pub(super) fn steps(self) -> usize {
        match self {
            Self::F32 => 1,
            Self::Int8 => 64,
            _ => 32,
        }
    }
}
