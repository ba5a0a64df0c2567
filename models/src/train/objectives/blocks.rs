//! Blocks of whole sentences.
//!
//! ```text
//! documents     s0 s1 s2 s3 | t0 t1 | u0 u1 u2
//! across        [s0 s1 s2] [s3 t0] [t1 u0 u1] [u2]
//! within        [s0 s1 s2] [s3] [t0 t1] [u0 u1] [u2]
//! ```
//! facebookresearch/fairseq, `token_block_utils_fast.pyx`: break modes `complete` and `complete_doc`. A sentence joins the
//! block if the block stays within its size. Followed as it is: `complete_doc` drops blocks of one token.
//!
//! One difference: fairseq lets a sentence that exceeds the size become a longer block, which the trainer then skips. Here
//! the sentence is cut into pieces of the size, so no text is lost and no block is too long.

use super::settings;
use super::stream::Stream;
use crate::error::Error;
use crate::train::data::{Corpus, Document};
use std::ops::Range;

/// Blocks of a stream of documents in the corpus's order.
pub(super) struct Blocks<'a> {
    pub stream: Stream<'a>,
    /// Start and length of each block.
    blocks: Vec<(u64, u32)>,
}

impl<'a> Blocks<'a> {
    /// Blocks that may hold sentences of several documents. `separator` follows each document and counts as a token of
    /// its last sentence; a sentence of `size` tokens may exceed the size by its separator.
    pub(super) fn across(corpus: &'a dyn Corpus, size: usize, separator: u32) -> Result<Self, Error> {
        Self::new(corpus, size, Some(separator))
    }

    /// Blocks that hold sentences of one document.
    pub(super) fn within(corpus: &'a dyn Corpus, size: usize) -> Result<Self, Error> {
        Self::new(corpus, size, None)
    }

    fn new(corpus: &'a dyn Corpus, size: usize, separator: Option<u32>) -> Result<Self, Error> {
        let stream = Stream::new(corpus, settings::documents(corpus)?, None, separator);
        let mut packing = Packing { size, open: 0..0, blocks: Vec::new() };
        let mut document = Document::default();
        for place in 0..stream.documents() {
            stream.document(place, &mut document)?;
            let mut start = 0;
            for &end in &document.sentence_ends {
                while end - start > size {
                    packing.push(size);
                    start += size;
                }
                let last = end == document.tokens.len();
                packing.push(end - start + usize::from(last && separator.is_some()));
                start = end;
            }
            if separator.is_none() {
                packing.close(2);
            }
        }
        packing.close(1);
        Ok(Self { stream, blocks: packing.blocks })
    }

    /// Number of blocks.
    pub(super) fn count(&self) -> usize {
        self.blocks.len()
    }

    /// Tokens of a block in the stream.
    pub(super) fn range(&self, block: usize) -> Range<u64> {
        let (start, tokens) = self.blocks[block];
        start..start + u64::from(tokens)
    }
}

/// Blocks while sentences arrive.
struct Packing {
    size: usize,
    /// The block that still grows.
    open: Range<u64>,
    blocks: Vec<(u64, u32)>,
}

impl Packing {
    fn push(&mut self, tokens: usize) {
        if self.open.end + tokens as u64 - self.open.start > self.size as u64 {
            self.close(1);
        }
        self.open.end += tokens as u64;
    }

    /// Ends the open block, and drops it if it has fewer tokens than `least`.
    fn close(&mut self, least: u64) {
        let tokens = self.open.end - self.open.start;
        if tokens >= least {
            self.blocks.push((self.open.start, tokens as u32));
        }
        self.open.start = self.open.end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::data::MemoryCorpus;

    fn corpus(documents: &[&[usize]]) -> MemoryCorpus {
        let document = |ends: &&[usize]| Document {
            tokens: (0..ends.last().copied().unwrap_or(0) as u32).collect(),
            sentence_ends: ends.to_vec(),
        };
        MemoryCorpus(documents.iter().map(document).collect())
    }

    fn ranges(blocks: &Blocks<'_>) -> Vec<Range<u64>> {
        (0..blocks.count()).map(|i| blocks.range(i)).collect()
    }

    #[test]
    fn sentences_fill_blocks_across_documents() {
        // Sentences of 3, 2, 4 (with separator 5); 2 (3); 6 (7).
        let corpus = corpus(&[&[3, 5, 9], &[], &[2], &[6]]);
        let blocks = Blocks::across(&corpus, 8, 99).unwrap();
        assert_eq!(ranges(&blocks), [0..5, 5..13, 13..20]);
    }

    #[test]
    fn blocks_within_documents_end_with_them() {
        let corpus = corpus(&[&[3, 5, 9], &[1], &[2, 3], &[8, 9]]);
        let blocks = Blocks::within(&corpus, 8).unwrap();
        // The document of one token is dropped, and so is the last sentence, of one token.
        assert_eq!(ranges(&blocks), [0..5, 5..9, 10..13, 13..21]);
    }

    #[test]
    fn long_sentences_are_cut() {
        let corpus = corpus(&[&[19, 20]]);
        assert_eq!(ranges(&Blocks::within(&corpus, 8).unwrap()), [0..8, 8..16, 16..20]);
        assert_eq!(ranges(&Blocks::across(&corpus, 8, 99).unwrap()), [0..8, 8..16, 16..21]);
        // A sentence of the size and its separator.
        let corpus = self::corpus(&[&[8]]);
        assert_eq!(Blocks::across(&corpus, 8, 99).unwrap().range(0), 0..9);
    }
}
