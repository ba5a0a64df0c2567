//! Documents as one stream of tokens.
//!
//! ```text
//! [start] document 0 [end] [start] document 1 [end] ..        start, end: optional tokens
//! ```

use super::settings;
use crate::error::Error;
use crate::train::data::{Corpus, Document};
use std::ops::Range;

/// Documents in an order, joined by optional tokens.
pub(super) struct Stream<'a> {
    corpus: &'a dyn Corpus,
    /// Documents with tokens.
    documents: Vec<u32>,
    /// End of each document in the stream.
    ends: Vec<u64>,
    start: Option<u32>,
    end: Option<u32>,
}

impl<'a> Stream<'a> {
    /// Joins documents, each of which has tokens.
    pub(super) fn new(
        corpus: &'a dyn Corpus,
        documents: Vec<u32>,
        start: Option<u32>,
        end: Option<u32>,
    ) -> Self {
        let extra = start.iter().len() + end.iter().len();
        let mut sum = 0;
        let add = |&document: &u32| {
            sum += (corpus.len_of(document as usize) + extra) as u64;
            sum
        };
        let ends = documents.iter().map(add).collect();
        Self { corpus, documents, ends, start, end }
    }

    /// Number of tokens.
    pub(super) fn tokens(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }

    /// Number of documents.
    pub(super) fn documents(&self) -> usize {
        self.documents.len()
    }

    /// Range of the document at a place in the order.
    pub(super) fn range(&self, place: usize) -> Range<u64> {
        (if place == 0 { 0 } else { self.ends[place - 1] })..self.ends[place]
    }

    /// Place in the order of the document that holds a token.
    pub(super) fn place_of(&self, token: u64) -> usize {
        self.ends.partition_point(|&end| end <= token)
    }

    /// Reads the document at a place in the order.
    pub(super) fn document(&self, place: usize, into: &mut Document) -> Result<(), Error> {
        settings::read(self.corpus, self.documents[place], into)
    }

    /// Appends a range of tokens.
    pub(super) fn read(&self, range: Range<u64>, into: &mut Vec<u32>) -> Result<(), Error> {
        let mut document = Document::default();
        let mut place = self.place_of(range.start);
        let (mut at, before) = (range.start, self.start.iter().len());
        while at < range.end {
            self.document(place, &mut document)?;
            let whole = self.range(place);
            let to = range.end.min(whole.end) - whole.start;
            let (from, to) = ((at - whole.start) as usize, to as usize);
            // Tokens before, in and after the document.
            let within = |i: usize| i.saturating_sub(before).min(document.tokens.len());
            into.extend(self.start.filter(|_| from == 0));
            into.extend_from_slice(&document.tokens[within(from)..within(to)]);
            into.extend(self.end.filter(|_| to > before + document.tokens.len()));
            at = whole.end.min(range.end);
            place += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::data::MemoryCorpus;

    #[test]
    fn every_range_is_a_part_of_the_whole() {
        let document =
            |tokens: &[u32]| Document { tokens: tokens.to_vec(), sentence_ends: vec![tokens.len()] };
        let corpus = MemoryCorpus(vec![document(&[1, 2, 3]), document(&[4]), document(&[5, 6])]);
        for (start, end) in [(None, None), (Some(8), None), (None, Some(9)), (Some(8), Some(9))] {
            let stream = Stream::new(&corpus, vec![2, 0, 1], start, end);
            let mut whole = Vec::new();
            for tokens in [&[5, 6][..], &[1, 2, 3], &[4]] {
                whole.extend(start);
                whole.extend_from_slice(tokens);
                whole.extend(end);
            }
            assert_eq!(stream.tokens(), whole.len() as u64);
            for from in 0..=whole.len() {
                for to in from..=whole.len() {
                    let mut found = Vec::new();
                    stream.read(from as u64..to as u64, &mut found).unwrap();
                    assert_eq!(found, whole[from..to], "{from}..{to} {start:?} {end:?}");
                }
            }
        }
    }
}
