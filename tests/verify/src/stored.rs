//! Storage types of tensors.

use super::Failure;
use super::tensor::Tensor;
use half::{bf16, f16};
use tilewright_kernels::{AnyView, AnyViewMut, Element};

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

    /// Half of the distance between neighbouring numbers of the type at this magnitude; infinite past the largest number.
    pub(super) fn half_ulp(self, magnitude: f64) -> f64 {
        match self {
            Self::F32 => 0.0,
            Self::Bf16 if magnitude > f64::from(bf16::MAX) => f64::INFINITY,
            Self::F16 if magnitude > f64::from(f16::MAX) => f64::INFINITY,
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

/// A tensor in all types, of which a kernel takes one.
pub(super) struct AnyTensor<const D: usize>(Tensor<D>, Tensor<D, bf16>, Tensor<D, f16>);

impl<const D: usize> AnyTensor<D> {
    /// The elements of `t`, rounded to each type.
    pub(super) fn of(t: &Tensor<D>) -> Self {
        Self(t.clone(), t.cast(), t.cast())
    }

    pub(super) fn view(&self, stored: Stored) -> AnyView<'_, D> {
        match stored {
            Stored::F32 => self.0.view().into(),
            Stored::Bf16 => self.1.view().into(),
            Stored::F16 => self.2.view().into(),
        }
    }

    pub(super) fn view_mut(&mut self, stored: Stored) -> AnyViewMut<'_, D> {
        match stored {
            Stored::F32 => self.0.view_mut().into(),
            Stored::Bf16 => self.1.view_mut().into(),
            Stored::F16 => self.2.view_mut().into(),
        }
    }

    /// As [`written`], of one type.
    pub(super) fn written(&self, stored: Stored) -> Result<Vec<f32>, Failure> {
        match stored {
            Stored::F32 => written(&self.0),
            Stored::Bf16 => written(&self.1),
            Stored::F16 => written(&self.2),
        }
    }
}
