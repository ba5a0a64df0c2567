//! Data: raw text, tokenizers trained on it, token shards.
//!
//! | item | content |
//! |---|---|
//! | [`Corpus`], [`Document`] | documents of tokens by index, from which objectives make their batches |

mod corpus;

pub use corpus::{Corpus, Document, MemoryCorpus};
