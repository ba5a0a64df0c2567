//! Tape of a run: its layer calls, and the backward pass through them.

use super::{Gradients, Version};
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
    calls: Vec<Call<'m>>,
    pub gradients: Gradients<'m>,
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
    pub arena: &'t [f32],
    matrices: &'t [Matrix],
    uses: &'t Uses,
}

impl<'m> Tape<'m> {
    pub fn new(gradients: Gradients<'m>) -> Self {
        Self { calls: Vec::new(), gradients, uses: Uses::default() }
    }

    pub fn record(&mut self, call: Call<'m>) {
        match &call {
            Call::Linear(linear) => {
                self.uses.read(linear.x, 1);
                linear.residual.into_iter().for_each(|residual| self.uses.read(residual, 2));
                if let Some(activated) = linear.activated {
                    self.uses.activate(linear.out, activated);
                }
            }
            Call::Norm(norm) => self.uses.read(norm.x, 2),
            Call::Attention(attention) => self.uses.read(attention.qkv, 2),
            Call::CrossAttention(cross) => {
                [cross.q, cross.kv].map(|v| self.uses.read(v, 2)).into_iter().collect()
            }
            Call::Add(add) => [add.a, add.b].map(|v| self.uses.read(v, 2)).into_iter().collect(),
            Call::Rows(rows) => self.uses.read(rows.x, 2),
            // They change a matrix in place by factors, in any order.
            Call::Dropout(_) | Call::Scale(_) | Call::Rope(_) | Call::Embedding(_) => {}
        }
        self.calls.push(call);
    }

    pub fn backward(self, arena: &[f32], matrices: &[Matrix]) -> Result<(), Error> {
        let Self { calls, mut gradients, uses, .. } = self;
        let saved = Saved { arena, matrices, uses: &uses };
        for call in calls.into_iter().rev() {
            match call {
                Call::Embedding(call) => call.backward(&mut gradients)?,
                Call::Linear(call) => call.backward(saved, &mut gradients)?,
                Call::Norm(call) => call.backward(saved, &mut gradients)?,
                Call::Attention(call) => call.backward(saved, &mut gradients)?,
                Call::CrossAttention(call) => call.backward(saved, &mut gradients)?,
                Call::Rope(call) => call.backward(&mut gradients)?,
                Call::Add(call) => call.backward(&mut gradients),
                Call::Dropout(call) => call.backward(&mut gradients)?,
                Call::Scale(call) => call.backward(&mut gradients),
                Call::Rows(call) => call.backward(&mut gradients),
            }
        }
        Ok(())
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
