//! ALBERT: masked LM of n-grams of whole words, and sentence order prediction.
//!
//! ```text
//! words    w0: un ##believ ##able    w1: story    w2: told
//! n-grams  of n = 1, 2, 3 words, p(n) = (1/n) / (1 + 1/2 + 1/3)
//! label of the sequence: 0 if B follows A, 1 if the consecutive segments are swapped
//! ```
//! Lan et al. 2019; google-research/albert, `create_pretraining_data.py`. The module `segments` cuts the pairs; counts
//! and replacements are BERT's. Followed as it is:
//! - n-grams start at the words in random order. An n-gram that exceeds the remaining predictions is shortened word by
//!   word, and skipped if one word is still too long or if a token of it is already predicted. So fewer tokens than
//!   round(0.15 n) may be predicted, and short n-grams are more frequent than p(n) says.
//! - An n-gram at the end of the sequence is shorter, and an n-gram may cross `[SEP]`, which is not a part of it.
//! - A first token that starts no word starts one all the same; after `[SEP]` it continues the last word before it.
//! - A chunk of one sentence has a random second segment and the label 1.

use super::masking::{self, Masking};
use super::segments::{SegmentPairs, SegmentSettings, WrongPair};
use super::settings::{self, at_least};
use super::{Epoch, Example, Examples, Objective};
use crate::error::Error;
use crate::train::data::Corpus;
use crate::train::random::{Draws, Purpose};

/// ALBERT's objective. The defaults are the paper's, with the ids of albert-base-v2.
#[derive(Clone, Debug)]
pub struct SentenceOrder {
    /// Most tokens of an example.
    pub seq: usize,
    /// Probability that the examples of a document are shorter.
    pub short_seq_prob: f64,
    /// Share of the tokens that are predicted.
    pub mask_prob: f64,
    /// Most predictions of an example.
    pub max_predictions: usize,
    /// Most words of an n-gram.
    pub ngram: usize,
    /// True for p(n) ~ 1/n; false for the reversed probabilities.
    pub favor_shorter_ngram: bool,
    /// True for each id that starts a word; `None` if every token is a word.
    pub word_starts: Option<Vec<bool>>,
    /// Copies of the corpus, `dupe_factor` of the official code: each has pairs and masks of its own.
    pub masking: Masking,
    /// Number of token ids.
    pub vocabulary: u32,
    /// First token.
    pub cls: u32,
    /// Token after each segment.
    pub sep: u32,
    /// Token in place of a predicted one.
    pub mask: u32,
}

impl Default for SentenceOrder {
    fn default() -> Self {
        Self {
            seq: 512,
            short_seq_prob: 0.1,
            mask_prob: 0.15,
            max_predictions: 20,
            ngram: 3,
            favor_shorter_ngram: true,
            word_starts: None,
            masking: Masking::Copies(40),
            vocabulary: 30000,
            cls: 2,
            sep: 3,
            mask: 4,
        }
    }
}

impl Objective for SentenceOrder {
    fn vocabulary(&self) -> u32 {
        self.vocabulary
    }

    fn epoch<'a>(&'a self, corpus: &'a dyn Corpus, seed: u64, epoch: u32) -> Result<Epoch<'a>, Error> {
        settings::ids(self.vocabulary, [("cls", self.cls), ("sep", self.sep), ("mask", self.mask)])?;
        settings::probability("mask_prob", self.mask_prob)?;
        at_least("max_predictions", self.max_predictions, 1)?;
        at_least("ngram", self.ngram, 1)?;
        settings::word_starts(self.word_starts.as_deref(), self.vocabulary)?;
        self.masking.check()?;
        let segments = SegmentSettings {
            seq: self.seq,
            short_seq_prob: self.short_seq_prob,
            wrong: WrongPair::Swapped,
            cls: self.cls,
            sep: self.sep,
        };
        segments.check()?;
        let copy = self.masking.copy(epoch);
        let pairs = SegmentPairs::new(corpus, segments, seed, copy)?;
        Epoch::new(self, MaskedPairs { settings: self, pairs, seed, copy }, seed, epoch)
    }
}

struct MaskedPairs<'a> {
    settings: &'a SentenceOrder,
    pairs: SegmentPairs<'a>,
    seed: u64,
    copy: u32,
}

impl Examples for MaskedPairs<'_> {
    fn count(&self) -> usize {
        self.pairs.count()
    }

    fn make(&self, number: usize, into: &mut Example) -> Result<(), Error> {
        self.pairs.make(number, into)?;
        let mut draws = Draws::new(self.seed, self.copy, number as u64, Purpose::Noise);
        let chosen = self.settings.choose_ngrams(&mut draws, &into.ids);
        masking::label(into, &chosen);
        for &i in &chosen {
            let random = |draws: &mut Draws| draws.below(self.settings.vocabulary as usize) as u32;
            into.ids[i] = masking::replace(into.ids[i], self.settings.mask, &mut draws, random);
        }
        Ok(())
    }
}

impl SentenceOrder {
    /// Positions of the predicted tokens.
    fn choose_ngrams(&self, draws: &mut Draws, ids: &[u32]) -> Vec<usize> {
        // Positions of all words, and where each word starts in them.
        let (mut places, mut words) = (Vec::with_capacity(ids.len()), Vec::with_capacity(ids.len()));
        for (i, &id) in ids.iter().enumerate() {
            if id == self.cls || id == self.sep {
                continue;
            }
            if words.is_empty() || settings::starts_word(self.word_starts.as_deref(), id) {
                words.push(places.len());
            }
            places.push(i);
        }
        let most = masking::predictions(ids.len(), self.mask_prob, self.max_predictions);
        let mut order: Vec<usize> = (0..words.len()).collect();
        draws.shuffle(&mut order);
        words.push(places.len());
        let mut covered = vec![false; places.len()];
        let mut chosen = Vec::with_capacity(most);
        for word in order {
            if chosen.len() >= most {
                break;
            }
            // The longest n-gram of at most the drawn number of words that the remaining predictions cover.
            let ends = (1..=self.draw_words(draws)).rev().map(|n| words[(word + n).min(words.len() - 1)]);
            let Some(ngram) =
                ends.map(|end| words[word]..end).find(|ngram| chosen.len() + ngram.len() <= most)
            else {
                continue;
            };
            if !covered[ngram.clone()].contains(&true) {
                covered[ngram.clone()].fill(true);
                chosen.extend_from_slice(&places[ngram]);
            }
        }
        chosen
    }

    /// Draws the number of words of an n-gram.
    fn draw_words(&self, draws: &mut Draws) -> usize {
        let weight = |n: usize| 1.0 / if self.favor_shorter_ngram { n } else { self.ngram + 1 - n } as f64;
        let mut u = draws.uniform() * (1..=self.ngram).map(weight).sum::<f64>();
        for n in 1..self.ngram {
            u -= weight(n);
            if u < 0.0 {
                return n;
            }
        }
        self.ngram
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draws(index: u64) -> Draws {
        Draws::new(1, 0, index, Purpose::Noise)
    }

    #[test]
    fn ngram_lengths_have_their_probabilities() {
        for (favor_shorter_ngram, p) in [(true, [6.0, 3.0, 2.0]), (false, [2.0, 3.0, 6.0])] {
            let settings = SentenceOrder { favor_shorter_ngram, ..SentenceOrder::default() };
            let (mut counts, n) = ([0; 4], 20_000);
            let mut draws = draws(0);
            (0..n).for_each(|_| counts[settings.draw_words(&mut draws)] += 1);
            for (i, p) in p.iter().map(|p| p / 11.0).enumerate() {
                let (share, error) = (counts[i + 1] as f64 / n as f64, f64::sqrt(p * (1.0 - p) / n as f64));
                assert!((share - p).abs() < 4.0 * error, "{i}: {share}, expected {p}");
            }
        }
    }

    #[test]
    fn words_are_predicted_whole() {
        // Ids from 20 on continue a word.
        let word_starts = Some((0..40).map(|id| id < 20).collect());
        let settings =
            SentenceOrder { vocabulary: 40, word_starts, mask_prob: 0.5, ..SentenceOrder::default() };
        let ids = [2, 10, 20, 21, 11, 12, 22, 3, 13, 14, 23, 3];
        let words: [&[usize]; 5] = [&[1, 2, 3], &[4], &[5, 6], &[8], &[9, 10]];
        for index in 0..200 {
            let chosen = settings.choose_ngrams(&mut draws(index), &ids);
            assert!(!chosen.is_empty() && chosen.len() <= 6);
            for word in words {
                let found = word.iter().filter(|i| chosen.contains(i)).count();
                assert!(found == 0 || found == word.len(), "{chosen:?}");
            }
        }
    }

    #[test]
    fn a_word_longer_than_the_predictions_is_skipped() {
        let word_starts = Some((0..40).map(|id| id < 20).collect());
        let settings = SentenceOrder { vocabulary: 40, word_starts, ..SentenceOrder::default() };
        // Two predictions for 11 tokens: neither word fits.
        for ids in [&[2, 10, 20, 20, 20, 3, 11, 20, 20, 20, 3][..], &[2, 3, 3]] {
            assert!(settings.choose_ngrams(&mut draws(0), ids).is_empty());
        }
    }
}
