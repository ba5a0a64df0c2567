//! Keys and values of a sequence, for all layers of a model.

use crate::batch::Batch;
use crate::error::Error;
use std::borrow::Cow;
use std::sync::Arc;
use tilewright_kernels::KvCache;

/// Keys and values of a sequence's tokens, for each layer of a model.
#[derive(Clone, Debug)]
pub struct Cache {
    /// Self-attention: keys and values of the tokens so far, one for each layer.
    pub(crate) layers: Vec<KvCache>,
    /// Cross-attention: keys and values of the source, one for each decoder layer; shared by all sequences of
    /// one source.
    pub(crate) source: Option<Arc<[KvCache]>>,
}

impl Cache {
    /// Number of tokens, which is the position of the next one.
    pub fn len(&self) -> usize {
        self.layers.first().map_or(0, KvCache::len)
    }

    /// True if the cache holds no token.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Upper bound of tokens.
    pub fn capacity(&self) -> usize {
        self.layers.first().map_or(0, KvCache::capacity)
    }

    /// Bytes of the keys and values, the source's excluded.
    pub fn bytes(&self) -> usize {
        self.layers.iter().map(KvCache::bytes).sum()
    }

    /// Removes all tokens from index `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.layers.iter_mut().for_each(|layer| layer.truncate(len));
    }

    /// Copies `other`, a cache of the same model and capacity.
    ///
    /// # Errors
    /// [`Error::Kernel`] if model or capacity differ.
    pub fn copy_from(&mut self, other: &Self) -> Result<(), Error> {
        for (layer, other) in self.layers.iter_mut().zip(&other.layers) {
            layer.copy_from(other)?;
        }
        self.source.clone_from(&other.source);
        Ok(())
    }
}

/// Past of a decoder's forward pass: tokens before the new ones, and the place of new keys and values.
#[derive(Debug)]
pub enum Past<'a, 'c> {
    /// No earlier tokens; keys and values of new tokens are not kept. For scoring whole texts, and for training.
    None,
    /// As [`Past::None`], for the decoder of an encoder-decoder. The sources' states are in
    /// [`Slot::SOURCE`](super::Slot::SOURCE), and these are the starts of their sequences.
    Source(&'a [usize]),
    /// The caches hold the tokens so far. Keys and values of new tokens are appended.
    Cached(&'a mut [&'c mut Cache]),
}

impl<'c> Past<'_, 'c> {
    /// Position of each token, before layer `layer` has cached its keys.
    pub(crate) fn positions<'t>(&self, tokens: &'t Batch, layer: usize) -> Cow<'t, [u32]> {
        let mut positions = Cow::Borrowed(&tokens.positions[..]);
        for (ends, cache) in tokens.starts().windows(2).zip(self.caches().unwrap_or_default()) {
            let first = cache.layers[layer].len() as u32;
            positions.to_mut()[ends[0]..ends[1]].iter_mut().for_each(|position| *position += first);
        }
        positions
    }

    /// Caches of the sequences, if tokens are cached.
    pub(crate) fn caches(&self) -> Option<&[&'c mut Cache]> {
        match self {
            Self::None | Self::Source(_) => None,
            Self::Cached(caches) => Some(caches),
        }
    }
}
