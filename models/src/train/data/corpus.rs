//! Corpora: documents of tokens by index.

use crate::error::Error;

/// A document: its tokens and where its sentences end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Document {
    /// Ids of the tokens, without special tokens.
    pub tokens: Vec<u32>,
    /// Exclusive ends of the sentences, ascending; the last is the number of tokens. Empty for an empty document.
    pub sentence_ends: Vec<usize>,
}

impl Document {
    /// Tokens of each sentence.
    pub fn sentences(&self) -> impl Iterator<Item = &[u32]> {
        let starts = std::iter::once(0).chain(self.sentence_ends.iter().copied());
        starts.zip(&self.sentence_ends).map(|(start, &end)| &self.tokens[start..end])
    }
}

/// Documents by index.
pub trait Corpus: Send + Sync {
    /// Number of documents.
    fn documents(&self) -> usize;

    /// Number of tokens of a document, without reading it.
    ///
    /// # Panics
    /// If `document` is not below [`documents`](Self::documents).
    fn len_of(&self, document: usize) -> usize;

    /// Reads a document and replaces the content of `into`, whose memory is used again.
    ///
    /// # Errors
    /// If the document cannot be read or is damaged.
    ///
    /// # Panics
    /// If `document` is not below [`documents`](Self::documents).
    fn read(&self, document: usize, into: &mut Document) -> Result<(), Error>;
}

/// A corpus in memory.
///
/// ```
/// use tilewright::train::data::{Corpus, Document, MemoryCorpus};
/// let corpus = MemoryCorpus(vec![Document { tokens: vec![7, 8, 9], sentence_ends: vec![2, 3] }]);
/// let mut document = Document::default();
/// corpus.read(0, &mut document)?;
/// assert_eq!(document.sentences().collect::<Vec<_>>(), [&[7, 8][..], &[9]]);
/// # Ok::<(), tilewright::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryCorpus(pub Vec<Document>);

impl Corpus for MemoryCorpus {
    fn documents(&self) -> usize {
        self.0.len()
    }

    fn len_of(&self, document: usize) -> usize {
        self.0[document].tokens.len()
    }

    fn read(&self, document: usize, into: &mut Document) -> Result<(), Error> {
        let document = &self.0[document];
        into.tokens.clone_from(&document.tokens);
        into.sentence_ends.clone_from(&document.sentence_ends);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_read_into_used_memory() {
        let document = Document { tokens: vec![3, 4, 5], sentence_ends: vec![2, 3] };
        let corpus = MemoryCorpus(vec![Document::default(), document.clone()]);
        assert_eq!((corpus.documents(), corpus.len_of(0), corpus.len_of(1)), (2, 0, 3));
        let mut read = Document { tokens: vec![9; 8], sentence_ends: vec![1, 8] };
        corpus.read(1, &mut read).unwrap();
        assert_eq!(read, document);
        assert_eq!(read.sentences().collect::<Vec<_>>(), [&[3, 4][..], &[5]]);
        corpus.read(0, &mut read).unwrap();
        assert_eq!((read.tokens.len(), read.sentences().count()), (0, 0));
    }
}
