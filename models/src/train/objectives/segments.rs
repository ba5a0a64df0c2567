//! Pairs of segments, as BERT and ALBERT cut them from documents.
//!
//! ```text
//! document   s0 s1 s2 s3 s4 s5 ..           sentences
//! chunk     |s0 s1 s2 s3|                   until the target length is reached or the document ends
//! pair      |s0|s1 s2 s3|                   A: a random number of sentences, at least one; B: the others
//!           |s0|t5 t6 t7|                   or B: a random place; s1 s2 s3 are put back for the next chunk
//! ```
//! google-research/bert and google-research/albert, `create_pretraining_data.py`: `create_instances_from_document` and
//! `truncate_seq_pair`. Followed as they are:
//! - A chunk of one sentence always takes a random B, so one-sentence documents and document ends exceed the 50% of
//!   random pairs. In ALBERT too, where the label then says that the order is wrong.
//! - The random document is drawn ten times at most; a corpus of one document pairs it with itself.
//! - The target length is drawn once for a document, not for a pair.

use super::Example;
use super::settings;
use crate::error::Error;
use crate::train::data::{Corpus, Document};
use crate::train::random::{Draws, Purpose};

/// Special tokens of a pair: the first, and both separators.
const SPECIAL: usize = 3;

/// Draws of another document before the pair's own document is accepted.
const TRIES: usize = 10;

/// Wrong pairs besides those of one-sentence chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WrongPair {
    /// BERT: B comes from a random document.
    Random,
    /// ALBERT: A and B are swapped.
    Swapped,
}

/// Settings of the pairs.
#[derive(Clone, Copy)]
pub(super) struct SegmentSettings {
    /// Most tokens of an example, special tokens included.
    pub seq: usize,
    /// Probability that a document has a shorter target length.
    pub short_seq_prob: f64,
    pub wrong: WrongPair,
    pub cls: u32,
    pub sep: u32,
}

impl SegmentSettings {
    pub(super) fn check(&self) -> Result<(), Error> {
        // Short target lengths are drawn from 2 on.
        settings::length("seq", self.seq, SPECIAL + 2)?;
        settings::probability("short_seq_prob", self.short_seq_prob)
    }
}

/// All pairs of a corpus.
pub(super) struct SegmentPairs<'a> {
    corpus: &'a dyn Corpus,
    settings: SegmentSettings,
    seed: u64,
    copy: u32,
    /// Documents with tokens.
    documents: Vec<u32>,
    /// Document and first sentence of each chunk.
    chunks: Vec<(u32, u32)>,
}

/// Sentences of a chunk and the use of its second part.
struct Split {
    /// Exclusive end of the sentences.
    end: usize,
    /// Sentences of A.
    first: usize,
    /// None: B follows A.
    wrong: Option<WrongPair>,
}

impl<'a> SegmentPairs<'a> {
    pub(super) fn new(
        corpus: &'a dyn Corpus,
        settings: SegmentSettings,
        seed: u64,
        copy: u32,
    ) -> Result<Self, Error> {
        let documents = settings::documents(corpus)?;
        let mut pairs = Self { corpus, settings, seed, copy, documents, chunks: Vec::new() };
        let mut document = Document::default();
        for i in 0..pairs.documents.len() {
            let number = pairs.documents[i];
            settings::read(corpus, number, &mut document)?;
            settings::count(document.sentence_ends.len(), "sentences")?;
            let mut sentence = 0;
            while sentence < document.sentence_ends.len() {
                let split = pairs.split(&mut pairs.draws(pairs.chunks.len()), number, &document, sentence);
                pairs.chunks.push((number, sentence as u32));
                sentence = match split.wrong {
                    Some(WrongPair::Random) => sentence + split.first,
                    _ => split.end,
                };
            }
        }
        Ok(pairs)
    }

    pub(super) fn count(&self) -> usize {
        self.chunks.len()
    }

    /// Numbers for the tokens of a pair.
    fn draws(&self, pair: usize) -> Draws {
        Draws::new(self.seed, self.copy, pair as u64, Purpose::Tokens)
    }

    /// Tokens of a document's chunks and of its pairs.
    fn target(&self, document: u32) -> usize {
        let most = self.settings.seq - SPECIAL;
        let mut draws = Draws::new(self.seed, self.copy, u64::from(document), Purpose::Length);
        if draws.chance(self.settings.short_seq_prob) { draws.between(2, most) } else { most }
    }

    /// Cuts the chunk that starts at a sentence.
    fn split(&self, draws: &mut Draws, number: u32, document: &Document, sentence: usize) -> Split {
        let (ends, target) = (&document.sentence_ends, self.target(number));
        let full = start(ends, sentence) + target;
        // The sentence that reaches the target belongs to the chunk.
        let end = ends.len().min(sentence + ends[sentence..].partition_point(|&end| end < full) + 1);
        match end - sentence {
            1 => Split { end, first: 1, wrong: Some(WrongPair::Random) },
            n => {
                let first = draws.between(1, n - 1);
                Split { end, first, wrong: draws.chance(0.5).then_some(self.settings.wrong) }
            }
        }
    }

    /// Makes the ids, token types and sequence label of a pair.
    pub(super) fn make(&self, pair: usize, into: &mut Example) -> Result<(), Error> {
        let (number, sentence) = (self.chunks[pair].0, self.chunks[pair].1 as usize);
        let mut document = Document::default();
        settings::read(self.corpus, number, &mut document)?;
        let mut draws = self.draws(pair);
        let split = self.split(&mut draws, number, &document, sentence);
        let ends = &document.sentence_ends;
        let middle = ends[sentence + split.first - 1];
        let a = &document.tokens[start(ends, sentence)..middle];
        let mut other = Document::default();
        let (mut a, mut b) = match split.wrong {
            Some(WrongPair::Random) => {
                let enough = self.target(number).saturating_sub(a.len());
                let b = self.random_segment(&mut draws, number, enough, &mut other)?;
                (a, b)
            }
            wrong => {
                let b = &document.tokens[middle..ends[split.end - 1]];
                if wrong.is_some() { (b, a) } else { (a, b) }
            }
        };
        truncate(&mut a, &mut b, self.settings.seq - SPECIAL, &mut draws);
        let SegmentSettings { cls, sep, .. } = self.settings;
        for part in [&[cls][..], a, &[sep], b, &[sep]] {
            into.ids.extend_from_slice(part);
        }
        into.token_types.resize(a.len() + 2, 0);
        into.token_types.resize(into.ids.len(), 1);
        into.sequence_label = Some(i64::from(split.wrong.is_some()));
        Ok(())
    }

    /// Sentences from a random one of another document on, until there are `enough` tokens; at least one sentence.
    fn random_segment<'b>(
        &self,
        draws: &mut Draws,
        own: u32,
        enough: usize,
        other: &'b mut Document,
    ) -> Result<&'b [u32], Error> {
        let mut number = own;
        for _ in 0..TRIES {
            number = self.documents[draws.below(self.documents.len())];
            if number != own {
                break;
            }
        }
        settings::read(self.corpus, number, other)?;
        let ends = &other.sentence_ends;
        let sentence = draws.below(ends.len());
        let from = start(ends, sentence);
        let last = ends[sentence..].partition_point(|&end| end < from + enough);
        let to = ends[(sentence + last).min(ends.len() - 1)];
        Ok(&other.tokens[from..to])
    }
}

/// First token of a sentence.
fn start(ends: &[usize], sentence: usize) -> usize {
    if sentence == 0 { 0 } else { ends[sentence - 1] }
}

/// Drops single tokens of the longer segment, of B if both are equal, from a random side, until both fit.
fn truncate<'t>(a: &mut &'t [u32], b: &mut &'t [u32], most: usize, draws: &mut Draws) {
    while a.len() + b.len() > most {
        let longer = if a.len() > b.len() { &mut *a } else { &mut *b };
        *longer = if draws.chance(0.5) { &longer[1..] } else { &longer[..longer.len() - 1] };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::data::MemoryCorpus;

    const SETTINGS: SegmentSettings =
        SegmentSettings { seq: 16, short_seq_prob: 0.1, wrong: WrongPair::Random, cls: 1, sep: 2 };

    /// Documents whose sentences have these lengths. Tokens are 10000 times the document, plus 100 times the sentence,
    /// plus the place in it, plus 10.
    fn corpus(documents: &[&[usize]]) -> MemoryCorpus {
        let document = |(d, lengths): (usize, &&[usize])| {
            let mut document = Document::default();
            for (s, &length) in lengths.iter().enumerate() {
                document.tokens.extend((0..length).map(|i| (10_000 * d + 100 * s + i + 10) as u32));
                document.sentence_ends.push(document.tokens.len());
            }
            document
        };
        MemoryCorpus(documents.iter().enumerate().map(document).collect())
    }

    fn all(corpus: &MemoryCorpus, settings: SegmentSettings, copy: u32) -> Vec<Example> {
        let pairs = SegmentPairs::new(corpus, settings, 3, copy).unwrap();
        let make = |pair| {
            let mut example = Example::default();
            pairs.make(pair, &mut example).unwrap();
            example
        };
        (0..pairs.count()).map(make).collect()
    }

    /// Both segments of an example.
    fn segments(example: &Example) -> [Vec<u32>; 2] {
        let ids = &example.ids;
        let sep = ids.iter().position(|&id| id == 2).unwrap();
        assert_eq!((ids[0], ids[ids.len() - 1]), (1, 2));
        assert!(example.token_types[..=sep].iter().all(|&t| t == 0));
        assert!(example.token_types[sep + 1..].iter().all(|&t| t == 1));
        assert_eq!(example.token_types.len(), ids.len());
        [ids[1..sep].to_vec(), ids[sep + 1..ids.len() - 1].to_vec()]
    }

    #[test]
    fn one_sentence_documents_take_random_segments() {
        let corpus = corpus(&[&[5], &[4], &[3]]);
        for (copy, wrong) in [(0, WrongPair::Random), (1, WrongPair::Swapped)] {
            let examples = all(&corpus, SegmentSettings { wrong, ..SETTINGS }, copy);
            assert_eq!(examples.len(), 3);
            for example in examples {
                let [a, b] = segments(&example);
                assert_eq!(example.sequence_label, Some(1));
                assert_ne!(a[0] / 10_000, b[0] / 10_000);
            }
        }
    }

    #[test]
    fn one_document_is_its_own_random_document() {
        let corpus = corpus(&[&[4, 4, 4, 4, 4, 4, 4], &[], &[0, 0]]);
        let examples: Vec<Example> = (0..20).flat_map(|copy| all(&corpus, SETTINGS, copy)).collect();
        assert!(examples.iter().any(|e| e.sequence_label == Some(1)));
        assert!(examples.iter().any(|e| e.sequence_label == Some(0)));
    }

    #[test]
    fn true_pairs_follow_each_other_and_swapped_pairs_precede() {
        let corpus = corpus(&[&[3, 4, 2, 5, 1, 1, 6, 2], &[2, 2, 2, 2]]);
        let (mut following, mut swapped) = (0, 0);
        for copy in 0..50 {
            let settings = SegmentSettings { seq: 22, ..SETTINGS };
            // Examples that may be truncated are left out.
            let whole = |wrong| {
                let examples = all(&corpus, SegmentSettings { wrong, ..settings }, copy);
                examples.into_iter().filter(|example| example.ids.len() < 22)
            };
            for example in whole(WrongPair::Random).filter(|e| e.sequence_label == Some(0)) {
                let [a, b] = segments(&example);
                let last = a[a.len() - 1];
                assert_eq!((b[0] / 100, b[0] % 100), (last / 100 + 1, 10), "{a:?} {b:?}");
                following += 1;
            }
            for example in whole(WrongPair::Swapped).filter(|e| e.sequence_label == Some(1)) {
                let [a, b] = segments(&example);
                // Chunks of one sentence take another document.
                if a[0] / 10_000 == b[0] / 10_000 {
                    assert_eq!(a[0] / 100, b[b.len() - 1] / 100 + 1, "{a:?} {b:?}");
                    swapped += 1;
                }
            }
        }
        assert!(following > 20 && swapped > 20, "{following} {swapped}");
    }

    #[test]
    fn every_sentence_is_used() {
        // Sentences of one token fill each example exactly.
        let corpus = corpus(&[&[1; 50], &[1; 20]]);
        for copy in 0..20 {
            let examples = all(&corpus, SETTINGS, copy);
            let used: std::collections::HashSet<u32> = examples.iter().flat_map(|e| e.ids.clone()).collect();
            for sentence in 0..50 {
                assert!(used.contains(&(100 * sentence + 10)), "sentence {sentence}");
            }
        }
    }

    #[test]
    fn pairs_fit_the_length() {
        let corpus = corpus(&[&[40, 1, 30], &[1], &[2, 2, 2, 2, 2, 2, 2, 2]]);
        for seq in 5..20 {
            for copy in 0..20 {
                for example in all(&corpus, SegmentSettings { seq, short_seq_prob: 0.5, ..SETTINGS }, copy) {
                    assert!(example.ids.len() <= seq);
                    assert!(segments(&example).iter().all(|s| !s.is_empty()));
                }
            }
        }
    }

    #[test]
    fn truncation_takes_both_sides_of_the_longer() {
        let tokens: Vec<u32> = (0..30).collect();
        let (mut front, mut back) = (0, 0);
        for index in 0..200 {
            let (mut a, mut b) = (&tokens[..20], &tokens[20..23]);
            truncate(&mut a, &mut b, 10, &mut Draws::new(0, 0, index, Purpose::Tokens));
            assert_eq!((a.len(), b.len()), (7, 3));
            (front, back) = (front + a[0], back + 19 - a[6]);
        }
        // 2600 tokens are dropped, 1300 on each side; the standard error is 25.
        assert_eq!(front + back, 2600);
        assert!(front.abs_diff(1300) < 115, "{front}");
    }

    #[test]
    fn wrong_sentences_are_refused() {
        for ends in [vec![], vec![2], vec![3, 2, 4], vec![5]] {
            let corpus = MemoryCorpus(vec![Document { tokens: vec![1; 4], sentence_ends: ends }]);
            let error = SegmentPairs::new(&corpus, SETTINGS, 0, 0).err().unwrap().to_string();
            assert!(
                error.starts_with("corpus: document 0: expected ascending sentence ends up to 4"),
                "{error}"
            );
        }
    }
}
