//! The number formats of packed weights.

/// Number format of packed weights.
///
/// ```
/// use tilewright_kernels::gemm::Format;
/// assert!(Format::ALL.iter().any(|format| format.name() == "q4_0" && format.is_grouped()));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// f32: 4 bytes a weight.
    F32,
    /// bf16, rounded to nearest, ties to even: 2 bytes a weight.
    Bf16,
    /// f16, rounded to nearest, ties to even: 2 bytes a weight.
    F16,
    /// int8 with a scale for each output channel, by
    /// [`Quantized::symmetric`](super::Quantized::symmetric): 1 byte a weight.
    Int8,
    /// int8 in groups of 32 k-steps with an f16 scale, as GGUF's `Q8_0`: 1.06 bytes a weight.
    Q8_0,
    /// int4 in groups of 32 k-steps with an f16 scale, as GGUF's `Q4_0`: 0.56 bytes a weight.
    Q4_0,
    /// int4 in groups of 32 k-steps with an f16 scale and an f16 minimum, as GGUF's `Q4_1`: 0.63 bytes a weight.
    Q4_1,
}

impl Format {
    /// All formats.
    pub const ALL: [Self; 7] =
        [Self::F32, Self::Bf16, Self::F16, Self::Int8, Self::Q8_0, Self::Q4_0, Self::Q4_1];

    /// Lower-case name: `"f32"`, `"bf16"`, `"f16"`, `"int8"`, `"q8_0"`, `"q4_0"` or `"q4_1"`.
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

    /// True for groups of 32 k-steps with a scale each.
    pub const fn is_grouped(self) -> bool {
        matches!(self, Self::Q8_0 | Self::Q4_0 | Self::Q4_1)
    }

    /// k-steps that panels are padded to a multiple of: whole multiples of k-groups as the microkernels read them, or
    /// a group.
    pub(super) fn steps(self) -> usize {
        match self {
            Self::F32 => 1,
            Self::Int8 => 64,
            _ => 32,
        }
    }
}
