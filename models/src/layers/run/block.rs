//! Blocks: parts of a forward pass that the backward pass may compute again, to keep less.
//!
//! ```text
//! forward      X0 -> block -> X1 -> block -> X2         each block overwrites its matrices; X0, X1, X2 are kept
//! backward                          block again, on the tape; the tape from its end; its matrices are free again
//!                    block again, ..
//! ```

use super::{Call, Run, SLOTS, Slot, Version};
use crate::batch::Batch;
use crate::error::Error;
use crate::layers::cache::Past;

/// Layers of a model, as a run computes them one by one.
pub(crate) trait Blocks: core::fmt::Debug + Sync {
    /// Computes layer `layer`.
    ///
    /// # Errors
    /// See the layers that it computes.
    fn block<'m>(
        &'m self,
        run: &mut Run<'m>,
        tokens: &'m Batch,
        past: &mut Past<'m, '_>,
        layer: usize,
    ) -> Result<(), Error>;

    /// Slots that what follows a layer reads.
    fn live(&self) -> &'static [Slot];
}

/// A block on the tape. It saves the matrices in the slots before it.
#[derive(Debug)]
pub(in crate::layers) struct BlockCall<'m> {
    of: &'m dyn Blocks,
    tokens: &'m Batch,
    /// Starts of the sources' sequences, for a decoder that reads sources.
    source: Option<&'m [usize]>,
    layer: usize,
    inputs: [Version; SLOTS],
    sites: u32,
    /// Matrices in the live slots after it.
    outputs: Vec<Version>,
}

impl BlockCall<'_> {
    /// Matrices before the block.
    pub fn inputs(&self) -> &[Version] {
        &self.inputs
    }
}

impl<'m> Run<'m> {
    /// Computes a layer. A run that [recomputes](Self::recomputing) keeps of its matrices those in live slots.
    pub(crate) fn block(
        &mut self,
        of: &'m dyn Blocks,
        tokens: &'m Batch,
        past: &mut Past<'m, '_>,
        layer: usize,
    ) -> Result<(), Error> {
        if !(self.recomputes && self.records()) {
            return of.block(self, tokens, past, layer);
        }
        let (inputs, sites, first) = (self.current, self.sites, self.used);
        self.block = Some(first);
        let done = of.block(self, tokens, past, layer);
        self.block = None;
        done?;
        let outputs: Vec<Version> = of.live().iter().map(|&slot| self.version(slot)).collect();
        for slot in (0..SLOTS).filter(|slot| !of.live().contains(&Slot(*slot))) {
            self.current[slot] = inputs[slot];
        }
        self.release(first, &outputs);
        let source = if let Past::Source(starts) = past { Some(*starts) } else { None };
        self.record(|| Call::Block(BlockCall { of, tokens, source, layer, inputs, sites, outputs }));
        Ok(())
    }

    /// Computes a block again, and its gradients.
    pub(super) fn repeat(&mut self, block: BlockCall<'m>) -> Result<(), Error> {
        let BlockCall { of, tokens, source, layer, inputs, sites, outputs } = block;
        let first = self.used;
        (self.current, self.sites) = (inputs, sites);
        let Some(outer) = self.tape.as_mut().map(|tape| tape.begin()) else { return Ok(()) };
        let mut past = source.map_or(Past::None, Past::Source);
        of.block(self, tokens, &mut past, layer)?;
        for (slot, output) in of.live().iter().zip(outputs) {
            let version = self.version(*slot);
            if let Some(gradients) = self.gradients()
                && let Some(gradient) = gradients.take(output)
            {
                gradients.set(version, gradient);
            }
        }
        self.backward_to_start()?;
        self.release(first, &[]);
        self.used = first;
        if let Some(tape) = &mut self.tape {
            tape.end(outer);
        }
        Ok(())
    }

    /// Returns the matrices from `first` on, but those to `keep`, to the unused ones.
    fn release(&mut self, first: usize, keep: &[Version]) {
        for version in (first..self.used).filter(|version| !keep.contains(&Version(*version))) {
            let matrix = core::mem::take(&mut self.matrices[version]);
            if let Some(gradients) = self.gradients() {
                gradients.release_matrix(matrix);
            }
        }
    }
}
