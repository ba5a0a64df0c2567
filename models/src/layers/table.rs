//! Embedding tables: rows that ids select.

use super::parameter::{Parameter, Parameters};
use crate::arithmetic::Arithmetic;
use crate::checkpoint::weights::{NamedTensor, Weights};
use crate::error::Error;
use tilewright_kernels::{Embedding, Lookup, View, ViewMut};

/// Table of rows that ids select: out\[i\] = weight\[id i\].
#[derive(Clone, Debug)]
pub struct EmbeddingTable {
    /// \[entries, width\].
    pub(super) weight: NamedTensor,
}

impl EmbeddingTable {
    /// Reads `{name}.weight`, \[entries, width\].
    ///
    /// # Errors
    /// See [`Weights::get`].
    pub fn open(weights: &Weights, name: &str, shape: [usize; 2]) -> Result<Self, Error> {
        Ok(Self { weight: weights.tensor(&format!("{name}.weight"), &shape)? })
    }

    /// The rows of `ids`, \[ids, width\], in `out`.
    ///
    /// # Errors
    /// [`Error::Kernel`] if an id is not in the table, or `out` is too short.
    pub fn get(&self, on: Arithmetic, ids: &[u32], out: &mut [f32]) -> Result<(), Error> {
        let [_, width] = self.view().shape();
        let lookups = &[Lookup { table: self.view(), ids }];
        Ok(on.backend.run(Embedding::new(lookups, ViewMut::new(out, [ids.len(), width])?))?)
    }

    /// The table, \[entries, width\].
    pub fn view(&self) -> View<'_, 2> {
        let shape = [self.weight.shape[0], self.weight.shape[1]];
        View::new(&self.weight.values, shape).expect("read with this shape")
    }
}

impl Parameters for EmbeddingTable {
    fn parameters(&self) -> Vec<Parameter<'_>> {
        vec![(&self.weight).into()]
    }
}
