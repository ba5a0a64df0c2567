//! Tape of a run: its layer calls, and the backward pass through them.

use super::block::BlockCall;
use super::{Gradients, Values, Version};
use crate::error::Error;
use crate::layers::attention::{AttentionCall, CrossAttentionCall};
use crate::layers::buffer::Matrix;
use crate::layers::linear::LinearCall;
use crate::layers::norm::NormCall;
use crate::layers::rows::{AddCall, DropoutCall, RopeCall, RowsCall, ScaleCall};
use crate::layers::table::EmbeddingCall;
use tilewright_kernels::Activation;

/// Layer calls of a run, in order.
#[derive(Debug)]
pub(super) struct Tape<'m> {
    part: TapePart<'m>,
    pub gradients: Gradients<'m>,
}

/// Calls of a forward pass or of a block.
#[derive(Debug, Default)]
pub(super) struct TapePart<'m> {
    calls: Vec<Call<'m>>,
    uses: Uses,
}

/// A layer call, with what its backward reads.
#[derive(Debug)]
pub(in crate::layers) enum Call<'m> {
    Embedding(EmbeddingCall<'m>),
    Linear(LinearCall<'m>),
    Norm(NormCall<'m>),
    Attention(AttentionCall<'m>),
    CrossAttention(CrossAttentionCall<'m>),
    Rope(RopeCall<'m>),
    Add(AddCall),
    Dropout(DropoutCall),
    Scale(ScaleCall),
    Rows(RowsCall),
    Block(BlockCall<'m>),
}

/// Activations and readers of the matrices, by version.
#[derive(Debug, Default)]
struct Uses {
    /// Number of linear layers that read the matrix; other readers count twice.
    reads: Vec<u32>,
    /// Activation of the matrix, and the version of its arguments.
    activated: Vec<Option<(Activation, Version)>>,
}

/// Parameters and matrices of the forward pass, which the backward pass reads.
#[derive(Clone, Copy, Debug)]
pub(in crate::layers) struct Saved<'t> {
    /// Parameters of the model.
    pub values: Values<'t>,
    matrices: &'t [Matrix],
    uses: &'t Uses,
}

impl<'m> Tape<'m> {
    pub fn new(gradients: Gradients<'m>) -> Self {
        Self { part: TapePart::default(), gradients }
    }

    pub fn record(&mut self, call: Call<'m>) {
        let TapePart { calls, uses } = &mut self.part;
        match &call {
            Call::Linear(linear) => {
                uses.read(linear.x, 1);
                linear.residual.into_iter().for_each(|residual| uses.read(residual, 2));
                if let Some(activated) = linear.activated {
                    uses.activate(linear.out, activated);
                }
            }
            Call::Norm(norm) => uses.read(norm.x, 2),
            Call::Attention(attention) => uses.read(attention.qkv, 2),
            Call::CrossAttention(cross) => [cross.q, cross.kv].map(|v| uses.read(v, 2)).into_iter().collect(),
            Call::Add(add) => [add.a, add.b].map(|v| uses.read(v, 2)).into_iter().collect(),
            Call::Rows(rows) => uses.read(rows.x, 2),
            Call::Block(block) => block.inputs().iter().for_each(|v| uses.read(*v, 2)),
            // They change a matrix in place by factors, in any order.
            Call::Dropout(_) | Call::Scale(_) | Call::Rope(_) | Call::Embedding(_) => {}
        }
        calls.push(call);
    }

    /// Removes the last call.
    pub fn pop(&mut self) -> Option<Call<'m>> {
        self.part.calls.pop()
    }

    /// Begins a part of its own; returns the part so far.
    pub fn begin(&mut self) -> TapePart<'m> {
        core::mem::take(&mut self.part)
    }

    /// Goes back to an earlier part.
    pub fn end(&mut self, part: TapePart<'m>) {
        self.part = part;
    }

    /// Computes the gradients of the arguments of a call, from those of its results.
    pub fn backward(&mut self, call: Call<'m>, values: Values<'_>, matrices: &[Matrix]) -> Result<(), Error> {
        let Self { part, gradients } = self;
        let saved = Saved { values, matrices, uses: &part.uses };
        match call {
            Call::Embedding(call) => call.backward(gradients),
            Call::Linear(call) => call.backward(saved, gradients),
            Call::Norm(call) => call.backward(saved, gradients),
            Call::Attention(call) => call.backward(saved, gradients),
            Call::CrossAttention(call) => call.backward(saved, gradients),
            Call::Rope(call) => call.backward(gradients),
            Call::Dropout(call) => call.backward(gradients),
            Call::Add(call) => {
                call.backward(gradients);
                Ok(())
            }
            Call::Scale(call) => {
                call.backward(gradients);
                Ok(())
            }
            Call::Rows(call) => {
                call.backward(gradients);
                Ok(())
            }
            // The run computes it again.
            Call::Block(_) => Ok(()),
        }
    }
}

impl Uses {
    fn read(&mut self, version: Version, times: u32) {
        if self.reads.len() <= version.0 {
            self.reads.resize(version.0 + 1, 0);
        }
        self.reads[version.0] += times;
    }

    fn activate(&mut self, version: Version, activated: (Activation, Version)) {
        if self.activated.len() <= version.0 {
            self.activated.resize(version.0 + 1, None);
        }
        self.activated[version.0] = Some(activated);
    }
}

impl<'t> Saved<'t> {
    /// Parameters of the model.
    pub fn arena(self) -> &'t [f32] {
        self.values.f32
    }

    /// A matrix of the forward pass.
    pub fn matrix(self, version: Version) -> &'t Matrix {
        &self.matrices[version.0]
    }

    /// Activation of a matrix that one linear layer alone reads, and its arguments. The backward of that layer multiplies
    /// by the derivative as it stores its product, so the gradient of such a matrix is that of its arguments.
    pub fn fused_activation(self, version: Version) -> Option<(Activation, &'t Matrix)> {
        let (activation, arguments) = self.uses.activated.get(version.0).copied().flatten()?;
        (self.uses.reads.get(version.0) == Some(&1)).then(|| (activation, self.matrix(arguments)))
    }
}
