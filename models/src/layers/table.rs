//! Embedding tables: rows that ids select.

use super::parameter::{Parameter, Parameters};
use crate::arithmetic::Arithmetic;
use crate::checkpoint::weights::{NamedTensor, Weights};
use crate::error::Error;
use crate::layers::run::{Call, Gradients, Run, Slot, Version};
use tilewright_kernels::{Backend, Embedding, EmbeddingBackward, Lookup, View, ViewMut};

/// Table of rows that ids select: out\[i\] = weight\[id i\].
#[derive(Clone, Debug)]
pub struct EmbeddingTable {
    /// \[entries, width\].
    pub(super) weight: NamedTensor,
    /// Id whose row does not learn: `padding_idx` of PyTorch.
    padding: Option<u32>,
}

/// Rows of a table.
#[derive(Clone, Copy, Debug)]
pub struct Selection<'m, 'i> {
    /// The table.
    pub table: &'m EmbeddingTable,
    /// Row of each token.
    pub ids: &'i [u32],
}

/// A call on the tape. It saves the ids.
#[derive(Debug)]
pub(super) struct EmbeddingCall<'m> {
    backend: Backend,
    lookups: Vec<(&'m EmbeddingTable, Vec<u32>)>,
    out: Version,
}

impl EmbeddingTable {
    /// Reads `{name}.weight`, \[entries, width\].
    ///
    /// # Errors
    /// See [`Weights::get`].
    pub fn open(weights: &Weights, name: &str, shape: [usize; 2]) -> Result<Self, Error> {
        Ok(Self { weight: weights.tensor(&format!("{name}.weight"), &shape)?, padding: None })
    }

    /// This table, whose row `padding` does not learn.
    #[must_use]
    pub fn with_padding(self, padding: Option<u32>) -> Self {
        Self { padding, ..self }
    }

    /// out\[i\] = the sum of the rows that the selections have for token i, \[tokens, width\].
    ///
    /// # Errors
    /// [`Error::Kernel`] if an id is not in its table, or tables or selections differ in size.
    pub fn sum<'m>(
        run: &mut Run<'m>,
        on: Arithmetic,
        selections: &[Selection<'m, '_>],
        out: Slot,
    ) -> Result<(), Error> {
        let shape = selections.first().map_or([0, 0], |s| [s.ids.len(), s.table.weight.shape[1]]);
        let mut x = run.take(out, shape);
        let lookup = |&Selection { table, ids }| Ok(Lookup { table: table.view(run.arena())?, ids });
        let lookups = selections.iter().map(lookup).collect::<Result<Vec<_>, Error>>()?;
        on.backend.run(Embedding::new(&lookups, x.matrix.view_mut()?))?;
        let out = run.put(x);
        run.record(|| {
            let lookups = selections.iter().map(|s| (s.table, s.ids.to_vec())).collect();
            Call::Embedding(EmbeddingCall { backend: on.backend, lookups, out })
        });
        Ok(())
    }

    /// The table, \[entries, width\]; `arena` has the values of a model in training.
    pub(super) fn view<'v>(&'v self, arena: &'v [f32]) -> Result<View<'v, 2>, Error> {
        Ok(View::new(self.weight.values.get(arena), self.shape())?)
    }

    pub(super) fn shape(&self) -> [usize; 2] {
        [self.weight.shape[0], self.weight.shape[1]]
    }

    /// Gradient of the table, \[entries, width\].
    pub(super) fn gradient<'g>(&self, gradients: &'g mut Gradients<'_>) -> Result<ViewMut<'g, 2>, Error> {
        let place = self.weight.values.place().unwrap_or_default();
        Ok(ViewMut::new(gradients.parameters(place), self.shape())?)
    }
}

impl EmbeddingCall<'_> {
    /// Each row of a table gains the gradients of its tokens.
    pub fn backward(self, gradients: &mut Gradients<'_>) -> Result<(), Error> {
        let Self { backend, lookups, out } = self;
        let Some(dy) = gradients.take(out) else { return Ok(()) };
        for (table, ids) in lookups {
            let (padding, dtable) = (table.padding, table.gradient(gradients)?);
            let kernel = EmbeddingBackward::new(dy.view()?, &ids, dtable);
            backend.run(EmbeddingBackward { padding, ..kernel })?;
        }
        gradients.release(dy);
        Ok(())
    }
}

impl Parameters for EmbeddingTable {
    fn parameters(&self) -> Vec<Parameter<'_>> {
        vec![(&self.weight).into()]
    }
}
