//! BERT: masked LM and next sentence prediction.
//!
//! ```text
//! ids      [CLS] a1 a2 [MASK] a4 [SEP] b1 b2 [MASK] [SEP]
//! labels     .   .  .    a3   .    .   .  .    b3     .        . is ignored
//! label of the sequence: 0 if B follows A, 1 if B is random
//! ```
//! Devlin et al. 2018; google-research/bert, `create_pretraining_data.py`. The module `segments` cuts the pairs. A
//! sequence of n tokens predicts round(0.15 n) of them, at most 20; 80% become `[MASK]`, 10% stay, 10% are random.
//! Followed as it is:
//! - n counts `[CLS]` and `[SEP]`, which are never predicted; halves round to even.
//! - A random token may be any id, even a special one or the token itself.
//!
//! The official program writes `dupe_factor` = 10 masked copies of the corpus and trains on all of them in random order.
//! Here an epoch is one copy, so [`Masking::Copies`]`(10)` gives ten different epochs and then repeats them.

use super::masking::{self, Masking};
use super::segments::{SegmentPairs, SegmentSettings, WrongPair};
use super::settings::{self, at_least};
use super::{Epoch, Example, Examples, Objective};
use crate::error::Error;
use crate::train::data::Corpus;
use crate::train::random::{Draws, Purpose};

/// BERT's objective. The defaults are the paper's, with the ids of bert-base-uncased.
#[derive(Clone, Debug)]
pub struct MaskedLmNextSentence {
    /// Most tokens of an example. The paper trains 90% of the steps with 128 and the rest with 512.
    pub seq: usize,
    /// Probability that the examples of a document are shorter.
    pub short_seq_prob: f64,
    /// Share of the tokens that are predicted.
    pub mask_prob: f64,
    /// Most predictions of an example.
    pub max_predictions: usize,
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

impl Default for MaskedLmNextSentence {
    fn default() -> Self {
        Self {
            seq: 128,
            short_seq_prob: 0.1,
            mask_prob: 0.15,
            max_predictions: 20,
            masking: Masking::Copies(10),
            vocabulary: 30522,
            cls: 101,
            sep: 102,
            mask: 103,
        }
    }
}

impl Objective for MaskedLmNextSentence {
    fn vocabulary(&self) -> u32 {
        self.vocabulary
    }

    fn epoch<'a>(&'a self, corpus: &'a dyn Corpus, seed: u64, epoch: u32) -> Result<Epoch<'a>, Error> {
        settings::ids(self.vocabulary, [("cls", self.cls), ("sep", self.sep), ("mask", self.mask)])?;
        settings::probability("mask_prob", self.mask_prob)?;
        at_least("max_predictions", self.max_predictions, 1)?;
        self.masking.check()?;
        let segments = SegmentSettings {
            seq: self.seq,
            short_seq_prob: self.short_seq_prob,
            wrong: WrongPair::Random,
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
    settings: &'a MaskedLmNextSentence,
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
        self.settings.mask_tokens(&mut draws, into);
        Ok(())
    }
}

impl MaskedLmNextSentence {
    /// Sets the labels and replaces the predicted tokens.
    fn mask_tokens(&self, draws: &mut Draws, example: &mut Example) {
        let special = |id: u32| id == self.cls || id == self.sep;
        let mut places: Vec<usize> = (0..example.ids.len()).filter(|&i| !special(example.ids[i])).collect();
        let n = masking::predictions(example.ids.len(), self.mask_prob, self.max_predictions);
        draws.choose(&mut places, n);
        places.truncate(n);
        masking::label(example, &places);
        for &i in &places {
            let random = |draws: &mut Draws| draws.below(self.vocabulary as usize) as u32;
            example.ids[i] = masking::replace(example.ids[i], self.mask, draws, random);
        }
    }
}
