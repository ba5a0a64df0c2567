//! Storage types of tensors.

use super::Failure;
use super::tensor::Tensor;
use half::{bf16, f16};
use tilewright_kernels::Element;

/// Element type of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// f32.
    F32,
    /// bf16.
    Bf16,
    /// f16.
    F16,
}

impl Stored {
    pub(super) const ALL: [Self; 3] = [Self::F32, Self::Bf16, Self::F16];

    /// Rounds to the nearest number of the type.
    pub fn round(self, x: f32) -> f32 {
        match self {
            Self::F32 => x,
            Self::Bf16 => bf16::from_f32(x).to_f32(),
            Self::F16 => f16::from_f32(x).to_f32(),
        }
    }

    /// Half of the distance between neighbouring numbers of the type at this magnitude.
    pub(super) fn half_ulp(self, magnitude: f64) -> f64 {
        match self {
            Self::F32 => 0.0,
            Self::Bf16 => magnitude * 2f64.powi(-8) + 2f64.powi(-134),
            Self::F16 => magnitude * 2f64.powi(-11) + 2f64.powi(-25),
        }
    }
}

/// The elements of an output as f32. Fails if the kernel wrote into a gap.
pub(super) fn written<const D: usize, T: Element>(out: &Tensor<D, T>) -> Result<Vec<f32>, Failure> {
    out.gaps_intact()?;
    Ok(out.elements().into_iter().map(T::to_f32).collect())
}
