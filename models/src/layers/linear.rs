//! Linear layers.
//!
//! ```text
//! y = x W^T + b                  W^T packed once; several tensors with one input fuse into one W^T
//!
//! W^T      [q columns | k columns | v columns]        b [q | k | v]
//! gated    [gate columns], [up columns]               activation(x gate^T) * (x up^T)
//! ```
//!
//! In training the weight changes with every step, so it is not packed beforehand: products read W where the arena has
//! it.

use super::parameter::{MatrixOrder, Parameter, Parameters, Source};
use crate::arithmetic::ActivationQuantization;
use crate::checkpoint::arena;
use crate::error::Error;
use crate::layers::buffer::Matrix;
use crate::layers::run::{Call, Gradients, Run, Saved, Slot, Values, Version};
use std::ops::Range;
use std::sync::Arc;
use tilewright_kernels::gemm::{Epilogue, Format, Gemm, Lhs, PackedB, Rhs};
use tilewright_kernels::{
    ActivateBackward, Activation, Backend, ColumnSums, Dropout, DropoutMask, GatedBackward, Rows, View,
    ViewMut,
};

mod open;
mod stored;

use stored::StoredWeight;

/// y = x W^T + b.
#[derive(Clone, Debug)]
pub struct Linear {
    backend: Backend,
    inputs: ActivationQuantization,
    weight: Weight,
    /// \[out\].
    bias: Option<arena::Values>,
    /// Tensors of the weight, then of the bias.
    tensors: Vec<LinearTensor>,
}

/// Weight of a linear layer.
#[derive(Clone, Debug)]
enum Weight {
    /// W^T, packed in its type: \[in, out\].
    Packed(PackedB),
    /// W of a model in training.
    Stored(StoredWeight),
}

/// A tensor of the checkpoint, and its place in a linear layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinearTensor {
    /// Name in the checkpoint.
    pub name: String,
    /// Shape in the checkpoint.
    pub shape: Vec<usize>,
    /// Role in the layer.
    pub role: LinearRole,
    /// Outputs that the tensor computes: columns of W^T, or elements of the bias. Gate and up matrix of a gated pair
    /// have the same outputs.
    pub outputs: Range<usize>,
    /// Place in the arena of a model in training.
    pub place: Option<Range<usize>>,
}

/// Role of a tensor in a linear layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinearRole {
    /// Columns of W^T.
    Weight(MatrixOrder),
    /// Gate of a gated pair, \[out, in\].
    Gate,
    /// Up matrix of a gated pair, \[out, in\].
    Up,
    /// Elements of the bias.
    Bias,
}

/// A call on the tape. It saves the matrix x, and the arguments of the activation; dropout's mask is computed again.
#[derive(Debug)]
pub(super) struct LinearCall<'m> {
    layer: &'m Linear,
    pub x: Version,
    pub residual: Option<Version>,
    /// Activation, and its arguments.
    pub activated: Option<(Activation, Version)>,
    mask: Option<DropoutMask>,
    pub out: Version,
}

/// Operations on a product before it is stored.
#[derive(Clone, Copy, Debug, Default)]
struct After {
    activation: Option<Activation>,
    residual: Option<Slot>,
    dropout: f32,
}

impl Linear {
    /// out = x W^T + b for x, \[tokens, in\], and out, \[tokens, out\].
    ///
    /// # Errors
    /// [`Error::Kernel`] if x does not have `in` columns.
    pub fn forward<'m>(&'m self, run: &mut Run<'m>, x: Slot, out: Slot) -> Result<(), Error> {
        self.call(run, x, After::default(), out)
    }

    /// out = activation(x W^T + b).
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn activated<'m>(
        &'m self,
        run: &mut Run<'m>,
        x: Slot,
        activation: Activation,
        out: Slot,
    ) -> Result<(), Error> {
        self.call(run, x, After { activation: Some(activation), ..After::default() }, out)
    }

    /// out = dropout(x W^T + b) + residual, with a residual of out's shape. `dropout` is the probability that an element
    /// is dropped in training.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn added<'m>(
        &'m self,
        run: &mut Run<'m>,
        x: Slot,
        residual: Slot,
        dropout: f32,
        out: Slot,
    ) -> Result<(), Error> {
        self.call(run, x, After { residual: Some(residual), dropout, ..After::default() }, out)
    }

    /// out = x W^T + b, \[tokens, out\], for x, \[tokens, in\]: outputs of the model, which the run does not record.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn outputs(&self, run: &Run<'_>, x: Slot, out: &mut Vec<f32>) -> Result<(), Error> {
        let x = run.matrix(x);
        let shape = [x.shape()[0], self.width()];
        out.resize(shape[0] * shape[1], 0.0);
        self.multiply(run.values(), x, Epilogue::default(), ViewMut::new(out, shape)?)
    }

    fn call<'m>(&'m self, run: &mut Run<'m>, x: Slot, after: After, out: Slot) -> Result<(), Error> {
        let After { activation, residual, dropout } = after;
        let rows = run.matrix(x).shape()[0];
        let mut y = run.take(out, [rows, self.width()]);
        let outputs = if self.is_gated() { 2 * self.width() } else { self.width() };
        let mut arguments = activation.and_then(|_| run.keep([rows, outputs]));
        let mask = if residual.is_some() { run.dropout(dropout) } else { None };
        let added = residual.map(|residual| run.matrix(residual).view()).transpose()?;
        let epilogue = Epilogue {
            activation,
            aux: arguments.as_mut().map(|kept| kept.matrix.view_mut()).transpose()?.map(|v| v.into()),
            residual: added.filter(|_| mask.is_none()).map(|v| v.into()),
            ..Epilogue::default()
        };
        self.multiply(run.values(), run.matrix(x), epilogue, y.matrix.view_mut()?)?;
        if let Some(mask) = mask {
            let rows = Rows::InPlace(y.matrix.view_mut()?);
            self.backend.run(Dropout { rows, residual: added, mask })?;
        }
        let (x, residual) = (run.version(x), residual.map(|residual| run.version(residual)));
        let activated = activation.zip(arguments.map(|kept| run.put(kept)));
        let out = run.put(y);
        run.record(|| Call::Linear(LinearCall { layer: self, x, residual, activated, mask, out }));
        Ok(())
    }

    /// c = x W^T + b, and the epilogue.
    fn multiply(
        &self,
        values: Values<'_>,
        x: &Matrix,
        epilogue: Epilogue<'_>,
        c: ViewMut<'_, 2>,
    ) -> Result<(), Error> {
        let x: View<'_, 3> = x.view()?.into();
        let (b, format) = match &self.weight {
            Weight::Packed(weight) => (Rhs::Packed(weight), weight.format()),
            Weight::Stored(weight) => {
                let format = values.bf16.map_or(Format::F32, |_| Format::Bf16);
                (weight.transposed(values)?, format)
            }
        };
        Ok(self.backend.run(Gemm {
            alpha: 1.0,
            a: match (self.inputs, format) {
                (ActivationQuantization::Exact, _) | (_, Format::F32) => x.into(),
                // A zero point doubles the resolution of inputs that mostly have one sign, as after GELU, at no cost.
                (ActivationQuantization::Rounded, Format::Int8) => Lhs::ZeroPoint(x),
                (ActivationQuantization::Rounded, _) => Lhs::Rounded(x),
            },
            b,
            beta: 0.0,
            c: c.into(),
            epilogue: Epilogue { column_bias: self.bias.as_ref().map(|b| b.get(values.f32)), ..epilogue },
        })?)
    }

    /// Width of the output.
    pub fn width(&self) -> usize {
        match &self.weight {
            Weight::Packed(weight) => weight.n(),
            Weight::Stored(weight) => weight.shape[0] / if weight.gated { 2 } else { 1 },
        }
    }

    /// W, \[out, in\], and b of a model in training. `weights` are the values of the arena in f32 or bf16.
    ///
    /// # Errors
    /// [`Error::Input`] if the weight is packed.
    pub(super) fn weight_and_bias<'v, T>(
        &'v self,
        weights: &'v [T],
        arena: &'v [f32],
    ) -> Result<(View<'v, 2, T>, Option<&'v [f32]>), Error> {
        match &self.weight {
            Weight::Stored(weight) => {
                Ok((weight.view(weights)?, self.bias.as_ref().map(|bias| bias.get(arena))))
            }
            Weight::Packed(_) => Err(not_trainable()),
        }
    }

    /// Places of weight and bias in the arena of a model in training.
    pub(super) fn places(&self) -> (Range<usize>, Option<Range<usize>>) {
        let weight = match &self.weight {
            Weight::Stored(weight) => weight.place.clone(),
            Weight::Packed(_) => 0..0,
        };
        (weight, self.bias.as_ref().and_then(arena::Values::place))
    }

    /// Backend of the layer.
    pub(crate) fn backend(&self) -> Backend {
        self.backend
    }

    fn is_gated(&self) -> bool {
        match &self.weight {
            Weight::Packed(weight) => weight.is_gated(),
            Weight::Stored(weight) => weight.gated,
        }
    }

    /// Tensors of the checkpoint that the layer fuses, and their places: weights, then biases.
    pub fn tensors(&self) -> &[LinearTensor] {
        &self.tensors
    }

    /// Multiply-adds for a token.
    pub fn multiply_adds(&self) -> usize {
        match &self.weight {
            Weight::Packed(weight) => weight.k() * weight.n() * if weight.is_gated() { 2 } else { 1 },
            Weight::Stored(weight) => weight.place.len(),
        }
    }
}

impl LinearCall<'_> {
    /// dW += dY^T X, db += column sums of dY, and dX = dY W; dY is the gradient before activation and dropout.
    pub fn backward(self, saved: Saved<'_>, gradients: &mut Gradients<'_>) -> Result<(), Error> {
        let Self { layer, x, residual, activated, mask, out } = self;
        let Weight::Stored(weight) = &layer.weight else { return Err(not_trainable()) };
        let backend = layer.backend;
        let Some(mut dy) = gradients.take(out) else { return Ok(()) };
        if let Some(residual) = residual {
            gradients.add(residual, dy.clone());
        }
        if let Some(mask) = mask {
            let mut dropped = gradients.matrix(dy.shape());
            let rows = Rows::Into(dy.view()?, dropped.view_mut()?);
            backend.run(Dropout { rows, residual: None, mask })?;
            gradients.release(core::mem::replace(&mut dy, Arc::new(dropped)));
        }
        if let Some((activation, arguments)) = activated
            && saved.fused_activation(out).is_none()
        {
            let arguments = saved.matrix(arguments);
            let mut darguments = gradients.matrix(arguments.shape());
            let (dy_view, of) = (dy.view()?, Rows::Into(arguments.view()?, darguments.view_mut()?));
            if weight.gated {
                backend.run(GatedBackward::halves(of, dy_view, activation)?)?;
            } else {
                let rows = Rows::Into(dy_view, darguments.view_mut()?);
                backend.run(ActivateBackward { rows, x: arguments.view()?, activation })?;
            }
            gradients.release(core::mem::replace(&mut dy, Arc::new(darguments)));
        }
        if let Some(bias) = layer.bias.as_ref().and_then(arena::Values::place) {
            backend.run(ColumnSums { x: dy.view()?, sums: gradients.parameters(bias) })?;
        }
        weight.add_gradient(backend, &dy, saved.matrix(x), saved, gradients)?;
        let dx = weight.gradient_of_inputs(backend, dy.view()?, x, saved, gradients)?;
        gradients.set(x, Arc::new(dx));
        gradients.release(dy);
        Ok(())
    }
}

fn not_trainable() -> Error {
    let why = "of packed weights have no gradients; expected a model in training".to_owned();
    Error::Input { name: "layers", why }
}

impl LinearTensor {
    fn new(name: String, shape: Vec<usize>, role: LinearRole, outputs: Range<usize>) -> Self {
        Self { name, shape, role, outputs, place: None }
    }
}

impl Parameters for Linear {
    fn parameters(&self) -> Vec<Parameter<'_>> {
        let source = |LinearTensor { role, outputs, place, .. }: &LinearTensor| {
            if let Some(place) = place {
                return Source::Arena(place.clone());
            }
            let packed = |up, stored| match &self.weight {
                Weight::Packed(weight) => Source::Packed { weight, up, first: outputs.start, stored },
                Weight::Stored(weight) => Source::Arena(weight.place.clone()),
            };
            match *role {
                LinearRole::Weight(stored) => packed(false, stored),
                LinearRole::Gate => packed(false, MatrixOrder::OutIn),
                LinearRole::Up => packed(true, MatrixOrder::OutIn),
                LinearRole::Bias => {
                    Source::Plain(&self.bias.as_ref().map_or(&[][..], |bias| bias.get(&[]))[outputs.clone()])
                }
            }
        };
        let tensors = self.tensors.iter();
        tensors.map(|t| Parameter { name: &t.name, shape: &t.shape, source: source(t) }).collect()
    }
}
