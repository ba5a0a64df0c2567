//! Tensors in the types that numbers are stored in.

use super::Failure;
use super::tensor::{GAP, Tensor, indices};
use half::{bf16, f16};
use tilewright_kernels::{Element, View, ViewMut};

/// What numbers are stored as.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Stored {
    F32,
    Bf16,
    F16,
}

impl Stored {
    pub(super) const ALL: [Self; 3] = [Self::F32, Self::Bf16, Self::F16];

    /// The nearest number of the type.
    pub(super) fn round(self, x: f32) -> f32 {
        match self {
            Self::F32 => x,
            Self::Bf16 => bf16::from_f32(x).to_f32(),
            Self::F16 => f16::from_f32(x).to_f32(),
        }
    }

    /// Half of the distance of its neighbours, at a number of this magnitude.
    pub(super) fn half_ulp(self, magnitude: f64) -> f64 {
        match self {
            Self::F32 => 0.0,
            Self::Bf16 => magnitude * 2f64.powi(-8) + 2f64.powi(-134),
            Self::F16 => magnitude * 2f64.powi(-11) + 2f64.powi(-25),
        }
    }
}

/// A tensor's elements in another type, at the same strides.
pub(super) struct Narrow<const D: usize, T> {
    data: Vec<T>,
    /// Whether it is an element.
    element: Vec<bool>,
    gap: T,
    shape: [usize; D],
    strides: [usize; D],
}

impl<const D: usize, T: Element> Narrow<D, T> {
    pub(super) fn new(tensor: &Tensor<D>, narrow: impl Fn(f32) -> T) -> Self {
        let (view, gap) = (tensor.view(), narrow(GAP));
        let (shape, strides) = (view.shape(), view.strides());
        let place = |index: [usize; D]| index.iter().zip(strides).map(|(i, s)| i * s).sum::<usize>();
        let last = indices(shape).map(place).max().map_or(0, |last| last + 1);
        let (mut data, mut element) = (vec![gap; last + 1], vec![false; last + 1]);
        for index in indices(shape) {
            data[place(index)] = narrow(view.get(index));
            element[place(index)] = true;
        }
        Self { data, element, gap, shape, strides }
    }

    pub(super) fn view(&self) -> View<'_, D, T> {
        View::with_strides(&self.data, self.shape, self.strides).expect("made for it")
    }

    pub(super) fn view_mut(&mut self) -> ViewMut<'_, D, T> {
        ViewMut::with_strides(&mut self.data, self.shape, self.strides).expect("made for it")
    }

    /// The elements, if nothing else was written.
    pub(super) fn elements(&self, widen: impl Fn(T) -> f32) -> Result<Vec<f32>, Failure> {
        let bits = |x: T| widen(x).to_bits();
        let mut all = self.data.iter().zip(&self.element);
        if all.any(|(&x, &element)| !element && bits(x) != bits(self.gap)) {
            return Err(Failure::new("wrote outside the view".to_owned()));
        }
        Ok(indices(self.shape).map(|index| widen(self.view().get(index))).collect())
    }
}
