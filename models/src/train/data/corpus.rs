//! Documents of tokens.

use crate::error::Error;

/// A document: its tokens and where its sentences end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Document {
    /// Token ids.
    pub tokens: Vec<u32>,
    /// Exclusive ends of the sentences, ascending; the last is the number of tokens. Empty for an empty document.
    pub sentence_ends: Vec<usize>,
}

/// Documents by index.
pub trait Corpus: Send + Sync {
    /// Number of documents.
    fn documents(&self) -> usize;

    /// Number of tokens of a document, without reading it.
    fn len_of(&self, document: usize) -> usize;

    /// Reads a document.
    ///
    /// # Errors
    /// [`Error`] if the document cannot be read.
    fn read(&self, document: usize, into: &mut Document) -> Result<(), Error>;
}

/// A corpus in memory.
pub struct MemoryCorpus(pub Vec<Document>);

impl Corpus for MemoryCorpus {
    fn documents(&self) -> usize {
        self.0.len()
    }

    fn len_of(&self, document: usize) -> usize {
        self.0[document].tokens.len()
    }

    fn read(&self, document: usize, into: &mut Document) -> Result<(), Error> {
        into.clone_from(&self.0[document]);
        Ok(())
    }
}
