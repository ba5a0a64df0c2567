//! Causal LM: the next token of packed documents.
//!
//! ```text
//! stream   a0 a1 a2 <end> b0 b1 <end> c0 c1 c2 c3 <end>
//! ids     [a0 a1 a2 <end>] [b0 b1 <end> c0] [c1 c2 c3]           rows of `seq` = 4
//! labels  [a1 a2 <end> b0] [b1 <end> c0 c1] [c2 c3 <end>]
//! ```
//! Radford et al. 2019: documents joined by `<|endoftext|>`, rows that cross documents; karpathy/nanoGPT,
//! `data/openwebtext/prepare.py`, writes the same stream. nanoGPT then draws rows at random offsets. Here the rows of an
//! epoch tile the stream, in which documents have a random order, so an epoch predicts each token but the first once.

use super::settings::{self, refuse};
use super::stream::Stream;
use super::{Epoch, Example, Examples, Objective};
use crate::error::Error;
use crate::train::data::Corpus;
use crate::train::random::{Draws, Purpose};

/// Objective of causal LMs. The defaults are GPT-2's.
#[derive(Clone, Debug)]
pub struct NextToken {
    /// Most tokens of an example.
    pub seq: usize,
    /// Number of token ids.
    pub vocabulary: u32,
    /// Token before each document.
    pub start: Option<u32>,
    /// Token after each document.
    pub end: Option<u32>,
    /// True if rows cross documents. False if each document has rows of its own, the last of which is shorter.
    pub across_documents: bool,
}

impl Default for NextToken {
    fn default() -> Self {
        Self { seq: 1024, vocabulary: 50257, start: None, end: Some(50256), across_documents: true }
    }
}

impl NextToken {
    /// LLaMA's settings: `<s>` before and `</s>` after each document, rows of 2048.
    pub fn llama() -> Self {
        Self { seq: 2048, vocabulary: 32000, start: Some(1), end: Some(2), across_documents: true }
    }
}

impl Objective for NextToken {
    fn vocabulary(&self) -> u32 {
        self.vocabulary
    }

    fn epoch<'a>(&'a self, corpus: &'a dyn Corpus, seed: u64, epoch: u32) -> Result<Epoch<'a>, Error> {
        settings::length("seq", self.seq, 1)?;
        settings::ids(self.vocabulary, [("start", self.start.unwrap_or(0)), ("end", self.end.unwrap_or(0))])?;
        let mut documents = settings::documents(corpus)?;
        Draws::new(seed, epoch, 0, Purpose::Documents).shuffle(&mut documents);
        let stream = Stream::new(corpus, documents, self.start, self.end);
        let mut rows = Rows { seq: self.seq as u64, last_rows: Vec::new(), stream };
        if !self.across_documents {
            let mut sum = 0;
            let ranges = (0..rows.stream.documents()).map(|place| rows.stream.range(place));
            let add = |range: std::ops::Range<u64>| {
                sum += rows.of(range.end - range.start);
                sum
            };
            rows.last_rows = ranges.map(add).collect();
        }
        if rows.count() == 0 {
            return refuse("corpus", "no text has a next token: expected two tokens".into());
        }
        Epoch::new(self, rows, seed, epoch)
    }
}

struct Rows<'a> {
    seq: u64,
    stream: Stream<'a>,
    /// Number of rows up to the end of each document; empty if rows cross documents.
    last_rows: Vec<u64>,
}

impl Rows<'_> {
    /// Rows of a text.
    fn of(&self, tokens: u64) -> u64 {
        (tokens - 1).div_ceil(self.seq)
    }
}

impl Examples for Rows<'_> {
    fn count(&self) -> usize {
        self.last_rows.last().copied().unwrap_or_else(|| self.of(self.stream.tokens())) as usize
    }

    fn make(&self, number: usize, into: &mut Example) -> Result<(), Error> {
        let number = number as u64;
        let place = self.last_rows.partition_point(|&rows| rows <= number);
        let (text, row) = if self.last_rows.is_empty() {
            (0..self.stream.tokens(), number)
        } else {
            (self.stream.range(place), number - if place == 0 { 0 } else { self.last_rows[place - 1] })
        };
        let start = text.start + row * self.seq;
        self.stream.read(start..text.end.min(start + self.seq + 1), &mut into.ids)?;
        into.labels.extend(into.ids[1..].iter().map(|&id| i64::from(id)));
        into.ids.pop();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::data::{Document, MemoryCorpus};

    fn corpus(documents: &[&[u32]]) -> MemoryCorpus {
        let document =
            |tokens: &&[u32]| Document { tokens: tokens.to_vec(), sentence_ends: vec![tokens.len()] };
        MemoryCorpus(documents.iter().map(document).collect())
    }

    fn rows(settings: &NextToken, corpus: &MemoryCorpus) -> Vec<(Vec<u32>, Vec<i64>)> {
        let epoch = settings.epoch(corpus, 2, 1).unwrap();
        let row = |index| {
            let mut example = Example::default();
            epoch.example(index, &mut example).unwrap();
            (example.ids, example.labels)
        };
        let mut rows: Vec<_> = (0..epoch.len()).map(row).collect();
        rows.sort();
        rows
    }

    #[test]
    fn rows_tile_one_document() {
        let settings =
            NextToken { seq: 4, vocabulary: 20, start: None, end: Some(19), across_documents: true };
        let found = rows(&settings, &corpus(&[&[0, 1, 2, 3, 4, 5, 6, 7, 8]]));
        let expected =
            [(vec![0, 1, 2, 3], vec![1, 2, 3, 4]), (vec![4, 5, 6, 7], vec![5, 6, 7, 8]), (vec![8], vec![19])];
        assert_eq!(found, expected);
    }

    #[test]
    fn rows_restart_at_documents() {
        let settings =
            NextToken { seq: 3, vocabulary: 20, start: Some(18), end: None, across_documents: false };
        let found = rows(&settings, &corpus(&[&[0, 1, 2, 3], &[], &[5]]));
        let expected = [(vec![2], vec![3]), (vec![18, 0, 1], vec![0, 1, 2]), (vec![18], vec![5])];
        let mut expected = expected.to_vec();
        expected.sort();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_text_without_a_next_token_is_refused() {
        for across_documents in [true, false] {
            let settings = NextToken { end: None, across_documents, ..NextToken::default() };
            let corpus = corpus(&[&[1]]);
            let error = settings.epoch(&corpus, 0, 0).err().unwrap().to_string();
            assert_eq!(error, "corpus: no text has a next token: expected two tokens");
        }
        // Single tokens have successors only across documents.
        let corpus = corpus(&[&[1], &[2]]);
        let settings = NextToken { end: None, across_documents: false, ..NextToken::default() };
        assert!(settings.epoch(&corpus, 0, 0).is_err());
        let settings = NextToken { across_documents: true, ..settings };
        assert_eq!(settings.epoch(&corpus, 0, 0).unwrap().len(), 1);
    }
}
