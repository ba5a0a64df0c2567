//! Data: raw text, tokenizers trained on it, token shards.
//!
//! | item | content |
//! |---|---|
//! | [`text`] | documents and sentences of text files |
//! | [`shards`] | token shards: a corpus in files, read by position |
//! | [`tokenizer_training`] | tokenizers trained on text |
//! | [`tokenize`], [`TextTokenizer`] | text to token shards |
//! | [`Corpus`], [`Document`] | documents of tokens by index, from which objectives make their batches |

mod corpus;
pub mod shards;
pub mod text;
mod tokenize;
pub mod tokenizer_training;

pub use corpus::{Corpus, Document, MemoryCorpus};
pub use tokenize::{TextTokenizer, Tokenized, tokenize};
