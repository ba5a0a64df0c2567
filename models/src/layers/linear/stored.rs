//! Weights of a model in training: products with W where the arena has it.
//!
//! | values in the arena | products | sums, gradients of parameters |
//! |---|---|---|
//! | f32 | f32 | f32 |
//! | f32 and bf16 | W of bf16; x and dY rounded to bf16 | f32 |

use crate::error::Error;
use crate::layers::buffer::Matrix;
use crate::layers::parameter::MatrixOrder;
use crate::layers::run::{Gradients, Saved, Values, Version};
use std::ops::Range;
use tilewright_kernels::gemm::{Derivative, Epilogue, Gemm, Lhs, Rhs};
use tilewright_kernels::{AnyView, Backend, View, ViewMut};

/// Weight in the arena of a model in training. For a gated pair, out counts the outputs of both.
#[derive(Clone, Debug)]
pub(super) struct StoredWeight {
    pub place: Range<usize>,
    /// Outputs and inputs.
    pub shape: [usize; 2],
    pub order: MatrixOrder,
    pub gated: bool,
}

impl StoredWeight {
    /// W^T, \[in, out\], or the two matrices of a gated pair.
    pub fn transposed<'a>(&self, values: Values<'a>) -> Result<Rhs<'a>, Error> {
        match values.bf16 {
            Some(values) => self.transposed_of(values),
            None => self.transposed_of(values.f32),
        }
    }

    fn transposed_of<'a, T>(&self, values: &'a [T]) -> Result<Rhs<'a>, Error>
    where
        AnyView<'a, 3>: From<View<'a, 2, T>>,
    {
        let w = self.view(values)?.transpose();
        Ok(if self.gated {
            let (gate, up) = w.split_at(1, self.shape[0] / 2);
            Rhs::Gated { gate: gate.into(), up: up.into() }
        } else {
            Rhs::Matrix(w.into())
        })
    }

    /// W, \[out, in\].
    pub fn view<'a, T>(&self, values: &'a [T]) -> Result<View<'a, 2, T>, Error> {
        let ([out, inputs], values) = (self.shape, &values[self.place.clone()]);
        Ok(match self.order {
            MatrixOrder::OutIn => View::new(values, [out, inputs])?,
            MatrixOrder::InOut => View::new(values, [inputs, out])?.transpose(),
        })
    }

    /// dW += dY^T X, in the order of the weight.
    pub fn add_gradient(
        &self,
        backend: Backend,
        dy: &Matrix,
        x: &Matrix,
        saved: Saved<'_>,
        gradients: &mut Gradients<'_>,
    ) -> Result<(), Error> {
        let [out, inputs] = self.shape;
        let (a, b, shape) = match self.order {
            MatrixOrder::OutIn => (dy, x, [out, inputs]),
            MatrixOrder::InOut => (x, dy, [inputs, out]),
        };
        let (a, place) = (a.view()?.transpose(), self.place.clone());
        let (dweight, a, b) = if saved.values.bf16.is_some() {
            let (dweight, rounded) = gradients.parameters_and_bf16(place, b.values());
            (dweight, Lhs::Rounded(a.into()), View::<2, _>::new(rounded, b.shape())?.into())
        } else {
            (gradients.parameters(place), Lhs::from(a), b.view()?.into())
        };
        let c = ViewMut::new(dweight, shape)?;
        Ok(backend.run(Gemm { beta: 1.0, ..Gemm::new(a, Rhs::Matrix(b), c) })?)
    }

    /// dX = dY W, and what other calls have added to the gradient of x. If this layer alone reads x, which an activation
    /// made, the product is multiplied by the derivative.
    pub fn gradient_of_inputs(
        &self,
        backend: Backend,
        dy: View<'_, 2>,
        x: Version,
        saved: Saved<'_>,
        gradients: &mut Gradients<'_>,
    ) -> Result<Matrix, Error> {
        let shape = saved.matrix(x).shape();
        let (a, b) = match saved.values.bf16 {
            Some(values) => (Lhs::Rounded(dy.into()), Rhs::Matrix(self.view(values)?.into())),
            None => (Lhs::from(dy), Rhs::Matrix(self.view(saved.arena())?.into())),
        };
        let Some((activation, arguments)) = saved.fused_activation(x) else {
            let (old, mut dx) = (gradients.take(x), gradients.matrix(shape));
            let residual = old.as_ref().map(|old| old.view()).transpose()?.map(|old| old.into());
            let epilogue = Epilogue { residual, ..Epilogue::default() };
            backend.run(Gemm { epilogue, ..Gemm::new(a, b, dx.view_mut()?) })?;
            old.into_iter().for_each(|old| gradients.release(old));
            return Ok(dx);
        };
        let mut darguments = gradients.matrix(arguments.shape());
        let (c, derivative) = if arguments.shape() == shape {
            (darguments.view_mut()?, Derivative::Of { activation, aux: arguments.view()?.into() })
        } else {
            let (c, dup) = darguments.view_mut()?.split_at(1, shape[1]);
            let (gate, up) = arguments.view()?.split_at(1, shape[1]);
            (c, Derivative::OfGated { activation, gate: gate.into(), up: up.into(), dup: dup.into() })
        };
        let epilogue = Epilogue { derivative: Some(derivative), ..Epilogue::default() };
        backend.run(Gemm { epilogue, ..Gemm::new(a, b, c) })?;
        Ok(darguments)
    }
}
