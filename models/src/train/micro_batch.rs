//! Micro-batches: tokens and labels that are computed at once.

use crate::batch::Batch;
use crate::labels::Labels;

/// Part of a step that is computed at once. The numbers of the micro-batches of a step fix the order in which their
/// gradients are added.
#[derive(Clone, Debug)]
pub struct MicroBatch {
    /// Tokens.
    pub batch: Batch,
    /// Tokens of the decoder, for an encoder-decoder.
    pub decoder: Option<Batch>,
    /// Labels.
    pub labels: Labels,
}

impl MicroBatch {
    /// Number of tokens, those of the decoder included.
    pub fn tokens(&self) -> usize {
        self.batch.tokens() + self.decoder.as_ref().map_or(0, Batch::tokens)
    }
}
