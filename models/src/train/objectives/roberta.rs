//! RoBERTa: masked LM of full sentences.
//!
//! ```text
//! ids      <s> s0 s1 <mask> s3 </s> t0 t1 <mask> t3 </s>       </s> ends a document, and the example
//! labels    .   .  .   s2   .   .   .  .    t2   .   .         . is ignored
//! ```
//! Liu et al. 2019, "full sentences"; facebookresearch/fairseq, `mask_tokens_dataset.py` and `tasks/masked_lm.py`. The
//! module `blocks` packs the sentences. A sequence of n tokens predicts floor(0.15 n + u) of them, u uniform in \[0, 1);
//! 80% become `<mask>`, 10% stay, 10% are random. So a short sequence may have no prediction.
//!
//! fairseq may predict `<s>` and `</s>` too ([`mask_special`](FullSentences::mask_special)); by default special tokens are
//! never predicted, and n counts them all the same. Random tokens are never special. fairseq's weights exclude the first
//! four ids alone, so its random token is `<mask>` once in 50261 draws.
//!
//! fairseq puts `</s>` after each line of its text files. Here it follows documents, as in the paper.

use super::blocks::Blocks;
use super::masking::{self, Masking};
use super::settings::{self, refuse};
use super::{Epoch, Example, Examples, Objective};
use crate::error::Error;
use crate::train::data::Corpus;
use crate::train::random::{Draws, Purpose};

/// RoBERTa's objective. The defaults are the paper's, with the ids of roberta-base.
#[derive(Clone, Debug)]
pub struct FullSentences {
    /// Most tokens of an example.
    pub seq: usize,
    /// Share of the tokens that are predicted.
    pub mask_prob: f64,
    /// Share of the predicted tokens that stay.
    pub leave_unmasked_prob: f64,
    /// Share of the predicted tokens that become random tokens.
    pub random_token_prob: f64,
    /// Masks of successive epochs. The blocks are equal in all epochs.
    pub masking: Masking,
    /// True if special tokens are predicted like others, as in fairseq.
    pub mask_special: bool,
    /// Number of token ids.
    pub vocabulary: u32,
    /// First token.
    pub bos: u32,
    /// Token after each document, and last token.
    pub eos: u32,
    /// Token in place of a predicted one.
    pub mask: u32,
    /// Ids that no random token takes and, unless [`mask_special`](Self::mask_special), that are never predicted.
    pub special: Vec<u32>,
}

impl Default for FullSentences {
    fn default() -> Self {
        Self {
            seq: 512,
            mask_prob: 0.15,
            leave_unmasked_prob: 0.1,
            random_token_prob: 0.1,
            masking: Masking::Dynamic,
            mask_special: false,
            vocabulary: 50265,
            bos: 0,
            eos: 2,
            mask: 50264,
            special: vec![0, 1, 2, 3, 50264],
        }
    }
}

impl Objective for FullSentences {
    fn vocabulary(&self) -> u32 {
        self.vocabulary
    }

    fn epoch<'a>(&'a self, corpus: &'a dyn Corpus, seed: u64, epoch: u32) -> Result<Epoch<'a>, Error> {
        settings::ids(self.vocabulary, [("bos", self.bos), ("eos", self.eos), ("mask", self.mask)])?;
        settings::probability("mask_prob", self.mask_prob)?;
        settings::probability("leave_unmasked_prob", self.leave_unmasked_prob)?;
        settings::probability("random_token_prob", self.random_token_prob)?;
        settings::probability(
            "leave_unmasked_prob + random_token_prob",
            self.leave_unmasked_prob + self.random_token_prob,
        )?;
        settings::length("seq", self.seq, 3)?;
        self.masking.check()?;
        let mut special = self.special.clone();
        special.sort_unstable();
        special.dedup();
        if let Some(&last) = special.last() {
            settings::ids(self.vocabulary, [("special", last)])?;
        }
        if special.len() == self.vocabulary as usize && self.random_token_prob > 0.0 {
            return refuse(
                "special",
                format!("all {} ids are special: no random token is left", special.len()),
            );
        }
        let blocks = Blocks::across(corpus, self.seq - 2, self.eos)?;
        let copy = self.masking.copy(epoch);
        Epoch::new(self, MaskedBlocks { settings: self, special, blocks, seed, copy }, seed, epoch)
    }
}

struct MaskedBlocks<'a> {
    settings: &'a FullSentences,
    /// Ascending.
    special: Vec<u32>,
    blocks: Blocks<'a>,
    seed: u64,
    copy: u32,
}

impl Examples for MaskedBlocks<'_> {
    fn count(&self) -> usize {
        self.blocks.count()
    }

    fn make(&self, number: usize, into: &mut Example) -> Result<(), Error> {
        into.ids.push(self.settings.bos);
        self.blocks.stream.read(self.blocks.range(number), &mut into.ids)?;
        if into.ids.last() != Some(&self.settings.eos) {
            into.ids.push(self.settings.eos);
        }
        self.mask_tokens(&mut Draws::new(self.seed, self.copy, number as u64, Purpose::Noise), into);
        Ok(())
    }
}

impl MaskedBlocks<'_> {
    fn mask_tokens(&self, draws: &mut Draws, example: &mut Example) {
        let &FullSentences { mask_prob, leave_unmasked_prob, random_token_prob, .. } = self.settings;
        let masked = |id: u32| self.settings.mask_special || self.special.binary_search(&id).is_err();
        let mut places: Vec<usize> = (0..example.ids.len()).filter(|&i| masked(example.ids[i])).collect();
        let n = (mask_prob * example.ids.len() as f64 + draws.uniform()) as usize;
        draws.choose(&mut places, n);
        places.truncate(n);
        masking::label(example, &places);
        for &i in &places {
            let u = draws.uniform();
            if u >= leave_unmasked_prob + random_token_prob {
                example.ids[i] = self.settings.mask;
            } else if u >= leave_unmasked_prob {
                example.ids[i] = self.random_token(draws);
            }
        }
    }

    /// Draws a token that is not special.
    fn random_token(&self, draws: &mut Draws) -> u32 {
        let mut id = draws.below(self.settings.vocabulary as usize - self.special.len()) as u32;
        for &special in &self.special {
            if id < special {
                break;
            }
            id += 1;
        }
        id
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::data::{Document, MemoryCorpus};

    fn small() -> FullSentences {
        FullSentences {
            seq: 8,
            vocabulary: 10,
            mask: 9,
            special: vec![9, 3, 2, 1, 0, 3],
            ..FullSentences::default()
        }
    }

    #[test]
    fn random_tokens_are_never_special() {
        let corpus = MemoryCorpus(vec![Document { tokens: vec![5; 40], sentence_ends: vec![40] }]);
        let settings = FullSentences { random_token_prob: 0.9, leave_unmasked_prob: 0.0, ..small() };
        let mut found = [0; 10];
        for e in 0..400 {
            let epoch = settings.epoch(&corpus, 1, e).unwrap();
            let mut example = Example::default();
            for index in 0..epoch.len() {
                epoch.example(index, &mut example).unwrap();
                let predicted = example.ids.iter().zip(&example.labels).filter(|&(_, &label)| label != -100);
                predicted.for_each(|(&id, _)| found[id as usize] += 1);
            }
        }
        assert_eq!(found[..4], [0; 4]);
        assert!(found[4..].iter().all(|&n| n > 50), "{found:?}");
    }

    #[test]
    fn a_separator_follows_each_document() {
        let document =
            |tokens: &[u32]| Document { tokens: tokens.to_vec(), sentence_ends: vec![tokens.len()] };
        let corpus = MemoryCorpus(vec![document(&[4, 5]), document(&[6, 7]), document(&[8; 6])]);
        let settings = FullSentences { mask_prob: 0.0, ..small() };
        let epoch = settings.epoch(&corpus, 1, 0).unwrap();
        let mut found: Vec<Vec<u32>> = (0..epoch.len())
            .map(|index| {
                let mut example = Example::default();
                epoch.example(index, &mut example).unwrap();
                example.ids
            })
            .collect();
        found.sort();
        assert_eq!(found, [vec![0, 4, 5, 2, 6, 7, 2], vec![0, 8, 8, 8, 8, 8, 8, 2]]);
    }

    #[test]
    fn sequences_of_special_tokens_have_no_prediction() {
        let corpus = MemoryCorpus(vec![Document { tokens: vec![3; 5], sentence_ends: vec![5] }]);
        let settings = FullSentences { mask_prob: 1.0, ..small() };
        let mut example = Example::default();
        settings.epoch(&corpus, 1, 0).unwrap().example(0, &mut example).unwrap();
        assert_eq!((&example.ids[..], example.predictions()), (&[0, 3, 3, 3, 3, 3, 2][..], 0));
        let settings = FullSentences { mask_special: true, ..settings };
        settings.epoch(&corpus, 1, 0).unwrap().example(0, &mut example).unwrap();
        assert_eq!(example.predictions(), 7);
    }
}
