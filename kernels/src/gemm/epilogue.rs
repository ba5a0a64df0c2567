//! Epilogue: operations on the sums of a panel before they are stored to C.

mod panel;

use super::output::COutput;
use crate::activation::Activation;
use crate::error::{Error, expect_shape};
use crate::view::{AnyView, AnyViewMut, View};
pub(super) use panel::PanelEpilogue;

/// Operations fused behind the product, in this order:
///
/// ```text
/// v = alpha * sum (+ beta * C) + row_bias[i] + column_bias[j]
/// aux = v                                of a gated pair, of both products
/// v = activation(v)                      or, for a gated pair,  activation(v_gate) * v_up
/// v = v * derivative                     dup = v * activation(gate), if the derivative is of a gated pair
/// C = v + residual[i, j]
/// ```
///
/// Forward and backward pass of a feed-forward block, without a pass of its own over the inside:
///
/// ```
/// use tilewright_kernels::gemm::{Derivative, Epilogue, Gemm, Rhs};
/// use tilewright_kernels::{Activation, Backend, View, ViewMut};
/// // y = relu(x W1^T) W2^T for one row; x, W1 and W2 have 2 x 2 elements or fewer.
/// let (x, w1, w2, dy) = ([1., -1.], [3., 1., 1., 2.], [1., 0., 0., 1.], [5., 7.]);
/// let row = |v| View::<2>::new(v, [1, 2]);
/// let square = |v| View::<2>::new(v, [2, 2]);
/// let (mut inside, mut aux) = ([0.; 2], [0.; 2]);
/// Backend::best().run(Gemm {
///     alpha: 1.,
///     a: row(&x)?.into(),
///     b: Rhs::Matrix(square(&w1)?.transpose().into()),
///     beta: 0.,
///     c: ViewMut::new(&mut inside, [1, 2])?.into(),
///     epilogue: Epilogue {
///         activation: Some(Activation::Relu),
///         aux: Some(ViewMut::new(&mut aux, [1, 2])?.into()),
///         ..Epilogue::default()
///     },
/// })?;
/// assert_eq!((inside, aux), ([2., 0.], [2., -1.]));
/// let mut of_aux = [0.; 2];
/// Backend::best().run(Gemm {
///     alpha: 1.,
///     a: row(&dy)?.into(),
///     b: Rhs::Matrix(square(&w2)?.into()),
///     beta: 0.,
///     c: ViewMut::new(&mut of_aux, [1, 2])?.into(),
///     epilogue: Epilogue {
///         derivative: Some(Derivative::Of { activation: Activation::Relu, aux: row(&aux)?.into() }),
///         ..Epilogue::default()
///     },
/// })?;
/// assert_eq!(of_aux, [5., 0.]);
/// # Ok::<(), tilewright_kernels::Error>(())
/// ```
#[derive(Debug, Default)]
pub struct Epilogue<'a> {
    /// Added to each element of row i: m values.
    pub row_bias: Option<&'a [f32]>,
    /// Added to each element of column j: n values. For a gated pair 2n values, the gate's first.
    pub column_bias: Option<&'a [f32]>,
    /// Receives the biased sums, the argument of the activation, for a backward pass: \[batch, m, n\]. For a gated pair
    /// \[batch, m, 2n\], the gate's first.
    pub aux: Option<AnyViewMut<'a, 3>>,
    /// Applied to the biased sums; of a gated pair, to the gate.
    pub activation: Option<Activation>,
    /// Multiplies by the derivative of an activation.
    pub derivative: Option<Derivative<'a>>,
    /// Added last: \[batch, m, n\], or \[1, m, n\] for all products.
    pub residual: Option<View<'a, 3>>,
}

/// Derivative of an activation at the pre-activations that a forward product kept as [`Epilogue::aux`]. The product is
/// the gradient dH of the activated values.
///
/// Views are \[batch, m, n\], or \[1, m, n\] for all products.
#[derive(Debug)]
pub enum Derivative<'a> {
    /// C = dH * activation'(aux).
    Of {
        /// Activation of the forward product.
        activation: Activation,
        /// Its arguments.
        aux: AnyView<'a, 3>,
    },
    /// Of activation(gate) * up: C, the gradient of gate, is dH * up * activation'(gate).
    OfGated {
        /// Activation of the gate.
        activation: Activation,
        /// Arguments of the activation: the first half of the columns of aux.
        gate: AnyView<'a, 3>,
        /// The other half.
        up: AnyView<'a, 3>,
        /// Receives the gradient of up, dH * activation(gate): \[batch, m, n\].
        dup: AnyViewMut<'a, 3>,
    },
}

impl Epilogue<'_> {
    /// Returns an error if an operand does not fit a product of this shape.
    pub(super) fn check(&self, [batch, m, n]: [usize; 3], gated: bool) -> Result<(), Error> {
        if let Some(bias) = self.row_bias {
            expect_shape("Epilogue.row_bias", &[bias.len()], &[m])?;
        }
        if let Some(bias) = self.column_bias {
            expect_shape("Epilogue.column_bias", &[bias.len()], &[if gated { 2 * n } else { n }])?;
        }
        if let Some(aux) = &self.aux {
            expect_shape("Epilogue.aux", &aux.shape(), &[batch, m, if gated { 2 * n } else { n }])?;
        }
        let expect = |what, shape: [usize; 3]| {
            let batch = if shape[0] == 1 { 1 } else { batch };
            expect_shape(what, &shape, &[batch, m, n])
        };
        match &self.derivative {
            Some(Derivative::Of { aux, .. }) => expect("Derivative.aux", aux.shape())?,
            Some(Derivative::OfGated { gate, up, dup, .. }) => {
                expect("Derivative.gate", gate.shape())?;
                expect("Derivative.up", up.shape())?;
                expect_shape("Derivative.dup", &dup.shape(), &[batch, m, n])?;
            }
            None => {}
        }
        match &self.residual {
            Some(residual) => expect("Epilogue.residual", residual.shape()),
            None => Ok(()),
        }
    }

    /// The operations as tasks share them.
    #[inline(always)]
    pub(super) fn operations(&mut self) -> Operations<'_> {
        Operations {
            row_bias: self.row_bias,
            column_bias: self.column_bias,
            aux: self.aux.as_mut().map(COutput::of),
            activation: self.activation,
            derivative: self.derivative.as_mut().map(|derivative| match derivative {
                Derivative::Of { activation, aux } => {
                    DerivativeOperands { activation: *activation, at: *aux, gated: None }
                }
                Derivative::OfGated { activation, gate, up, dup } => {
                    let gated = Some((*up, COutput::of(dup)));
                    DerivativeOperands { activation: *activation, at: *gate, gated }
                }
            }),
            residual: self.residual,
        }
    }
}

/// An [`Epilogue`] whose outputs are pointers: tasks write disjoint blocks of them.
#[derive(Clone, Copy)]
pub(super) struct Operations<'a> {
    pub row_bias: Option<&'a [f32]>,
    pub column_bias: Option<&'a [f32]>,
    pub aux: Option<COutput>,
    pub activation: Option<Activation>,
    pub derivative: Option<DerivativeOperands<'a>>,
    pub residual: Option<View<'a, 3>>,
}

/// A [`Derivative`] at `at`: aux, or the gate. A gated pair has up and the output dup besides.
#[derive(Clone, Copy)]
pub(super) struct DerivativeOperands<'a> {
    pub activation: Activation,
    pub at: AnyView<'a, 3>,
    pub gated: Option<(AnyView<'a, 3>, COutput)>,
}

impl Operations<'_> {
    /// True if C receives the sums as they are.
    #[inline(always)]
    pub(super) fn is_empty(&self) -> bool {
        self.row_bias.is_none()
            && self.column_bias.is_none()
            && self.aux.is_none()
            && self.activation.is_none()
            && self.derivative.is_none()
            && self.residual.is_none()
    }
}
