//! BART: text infilling and sentence permutation.
//!
//! ```text
//! text      <s> a b c . d e f g . h i . </s>
//! permuted  <s> d e f g . h i . a b c . </s>
//! ids       <s> d <mask> . <mask> i . a <mask> b . </s>        spans of 3, 1, 0 and 1 tokens
//! labels    <s> a b c . d e f g . h i . </s>                   the text
//! decoder   </s> <s> a b c . d e f g . h i .                   its inputs: the labels moved by one
//! ```
//! Lewis et al. 2019; facebookresearch/fairseq, `denoising_dataset.py`: `permute_sentences`, `add_whole_word_mask`,
//! `add_insertion_noise`. The module `blocks` cuts blocks of whole sentences that end with their document. Span lengths
//! are drawn from a Poisson distribution until they cover ceil(0.3 n) of the n words; the last one is shortened. Spans
//! start at different random words. Followed as it is:
//! - Spans may overlap; a span that starts inside another leaves no mask, so fewer than 30% of the words are covered.
//! - Masks of empty spans are inserted after all others, anywhere but at the ends. Their number passes through a
//!   quotient and may round up to one more.
//! - Random tokens in place of masks come from 1 up to the vocabulary, special ones included.
//!
//! Differences: sentences are the document's, not runs up to a full stop. Insertions stop when the sequence is full. The
//! Poisson distribution has no end at 1e-7. The paper has lambda 3 and no random tokens; a command that fairseq documents
//! for BART has 3.5 and 0.1.

use super::blocks::Blocks;
use super::settings::{self, at_least, refuse};
use super::{Epoch, Example, Examples, Objective};
use crate::error::Error;
use crate::train::data::{Corpus, Document};
use crate::train::random::{Draws, MAX_MEAN, Purpose};

/// BART's objective. The defaults are the paper's, with the ids of bart-base.
#[derive(Clone, Debug)]
pub struct TextInfilling {
    /// Most tokens of the encoder's and the decoder's inputs.
    pub seq: usize,
    /// Share of the words that spans cover.
    pub mask_ratio: f64,
    /// Share of the masks that are random tokens instead.
    pub random_ratio: f64,
    /// Mean words of a span.
    pub lambda: f64,
    /// Share of the sentences that are permuted.
    pub permute_ratio: f64,
    /// True for each id that starts a word; `None` if every token is a word.
    pub word_starts: Option<Vec<bool>>,
    /// Number of token ids.
    pub vocabulary: u32,
    /// First token.
    pub bos: u32,
    /// Last token, and first input of the decoder.
    pub eos: u32,
    /// Token in place of a span.
    pub mask: u32,
}

impl Default for TextInfilling {
    fn default() -> Self {
        Self {
            seq: 512,
            mask_ratio: 0.3,
            random_ratio: 0.0,
            lambda: 3.0,
            permute_ratio: 1.0,
            word_starts: None,
            vocabulary: 50265,
            bos: 0,
            eos: 2,
            mask: 50264,
        }
    }
}

impl Objective for TextInfilling {
    fn vocabulary(&self) -> u32 {
        self.vocabulary
    }

    fn epoch<'a>(&'a self, corpus: &'a dyn Corpus, seed: u64, epoch: u32) -> Result<Epoch<'a>, Error> {
        settings::ids(self.vocabulary, [("bos", self.bos), ("eos", self.eos), ("mask", self.mask)])?;
        settings::probability("mask_ratio", self.mask_ratio)?;
        settings::probability("random_ratio", self.random_ratio)?;
        settings::probability("permute_ratio", self.permute_ratio)?;
        if !(self.lambda > 0.0 && self.lambda <= MAX_MEAN) {
            let why = format!("expected a number above 0 and up to {MAX_MEAN}, found {}", self.lambda);
            return refuse("lambda", why);
        }
        if self.random_ratio > 0.0 {
            at_least("vocabulary", self.vocabulary as usize, 2)?;
        }
        settings::length("seq", self.seq, 4)?;
        settings::word_starts(self.word_starts.as_deref(), self.vocabulary)?;
        let blocks = Blocks::within(corpus, self.seq - 2)?;
        if blocks.count() == 0 {
            return refuse("corpus", "no document has two tokens".into());
        }
        Epoch::new(self, NoisyBlocks { settings: self, blocks, seed, epoch }, seed, epoch)
    }
}

struct NoisyBlocks<'a> {
    settings: &'a TextInfilling,
    blocks: Blocks<'a>,
    seed: u64,
    epoch: u32,
}

impl Examples for NoisyBlocks<'_> {
    fn count(&self) -> usize {
        self.blocks.count()
    }

    fn make(&self, number: usize, into: &mut Example) -> Result<(), Error> {
        let (range, stream) = (self.blocks.range(number), &self.blocks.stream);
        let place = stream.place_of(range.start);
        let mut document = Document::default();
        stream.document(place, &mut document)?;
        let offset = stream.range(place).start;
        let (start, end) = ((range.start - offset) as usize, (range.end - offset) as usize);
        let TextInfilling { bos, eos, .. } = *self.settings;
        let text = &document.tokens[start..end];
        into.decoder_ids.extend([eos, bos]);
        into.decoder_ids.extend_from_slice(text);
        into.labels.extend(into.decoder_ids[1..].iter().chain([&eos]).map(|&id| i64::from(id)));

        let mut draws = Draws::new(self.seed, self.epoch, number as u64, Purpose::Noise);
        let ends = document
            .sentence_ends
            .iter()
            .filter(|&&end| end > start)
            .map(|&sentence| sentence.min(end) - start);
        let mut ends: Vec<usize> = ends.collect();
        // Sentences after the block's end became empty.
        ends.dedup();
        into.ids.push(bos);
        self.settings.permute(&mut draws, text, &ends, &mut into.ids);
        into.ids.push(eos);
        self.settings.infill(&mut draws, &mut into.ids);
        Ok(())
    }
}

impl TextInfilling {
    /// Appends the sentences of a text, a random subset of them in random order.
    fn permute(&self, draws: &mut Draws, text: &[u32], ends: &[usize], into: &mut Vec<u32>) {
        let moved = (ends.len() as f64 * self.permute_ratio).ceil() as usize;
        let mut order: Vec<usize> = (0..ends.len()).collect();
        draws.choose(&mut order, moved);
        let chosen = &order[..moved];
        let mut shuffled = chosen.to_vec();
        draws.shuffle(&mut shuffled);
        let mut sources: Vec<usize> = (0..ends.len()).collect();
        for (&place, sentence) in chosen.iter().zip(shuffled) {
            sources[place] = sentence;
        }
        for sentence in sources {
            let start = if sentence == 0 { 0 } else { ends[sentence - 1] };
            into.extend_from_slice(&text[start..ends[sentence]]);
        }
    }

    /// Replaces spans between the first and the last token by masks.
    fn infill(&self, draws: &mut Draws, ids: &mut Vec<u32>) {
        let last = ids.len() - 1;
        let starts_word = |id| settings::starts_word(self.word_starts.as_deref(), id);
        let starts: Vec<bool> = (0..=last).map(|i| i > 0 && i < last && starts_word(ids[i])).collect();
        let mut words: Vec<usize> = (0..=last).filter(|&i| starts[i]).collect();
        // fairseq computes the product in f32.
        let budget = (words.len() as f32 * self.mask_ratio as f32).ceil() as usize;
        let (lengths, inserts) = self.span_lengths(draws, budget);
        draws.choose(&mut words, lengths.len());
        let mut keep = vec![true; ids.len()];
        for (&word, &length) in words.iter().zip(&lengths) {
            ids[word] = self.mask_or_random(draws);
            let mut left = length;
            for i in word + 1..last {
                left -= usize::from(starts[i]);
                if left == 0 {
                    break;
                }
                keep[i] = false;
            }
        }
        let mut keep = keep.into_iter();
        ids.retain(|_| keep.next() == Some(true));
        self.insert(draws, ids, inserts);
    }

    /// Lengths of the spans that are not empty, and the number of empty ones. The lengths add up to the budget.
    fn span_lengths(&self, draws: &mut Draws, budget: usize) -> (Vec<usize>, usize) {
        let (mut lengths, mut empty, mut sum) = (Vec::new(), 0, 0);
        while sum < budget {
            let length = draws.poisson(self.lambda).min(budget - sum);
            sum += length;
            if length > 0 {
                lengths.push(length);
            } else {
                empty += 1;
            }
        }
        (lengths, empty)
    }

    /// Inserts masks at random places between the first and the last token, as far as the sequence has space.
    fn insert(&self, draws: &mut Draws, ids: &mut Vec<u32>, masks: usize) {
        let tokens = ids.len() as f64;
        // As fairseq: the share of the tokens, then the number again.
        let masks = (tokens * (masks as f64 / tokens)).ceil() as usize;
        let masks = masks.min(self.seq.saturating_sub(ids.len()));
        if masks == 0 {
            return;
        }
        let mut places: Vec<usize> = (1..ids.len() + masks - 1).collect();
        draws.choose(&mut places, masks);
        let mut result = vec![None; ids.len() + masks];
        // fairseq makes the first ones random tokens: a fixed number, not a draw for each.
        let random = (masks as f64 * self.random_ratio).ceil() as usize;
        for (n, &place) in places[..masks].iter().enumerate() {
            result[place] = Some(if n < random { self.random_token(draws) } else { self.mask });
        }
        let mut rest = ids.iter();
        *ids = result.iter().filter_map(|&inserted| inserted.or_else(|| rest.next().copied())).collect();
    }

    fn mask_or_random(&self, draws: &mut Draws) -> u32 {
        if self.random_ratio > 0.0 && draws.chance(self.random_ratio) {
            self.random_token(draws)
        } else {
            self.mask
        }
    }

    fn random_token(&self, draws: &mut Draws) -> u32 {
        draws.between(1, self.vocabulary as usize - 1) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draws(index: u64) -> Draws {
        Draws::new(1, 0, index, Purpose::Noise)
    }

    #[test]
    fn spans_cover_the_budget() {
        let settings = TextInfilling::default();
        for budget in 0..30 {
            let (lengths, _) = settings.span_lengths(&mut draws(budget as u64), budget);
            assert_eq!(lengths.iter().sum::<usize>(), budget);
            assert!(!lengths.contains(&0));
        }
    }

    #[test]
    fn masked_words_are_whole() {
        // Ids from 20 on continue a word.
        let word_starts = Some((0..50).map(|id| id < 20).collect());
        let settings = TextInfilling { vocabulary: 50, mask: 19, word_starts, ..TextInfilling::default() };
        let text = [0, 3, 20, 21, 4, 5, 22, 6, 7, 23, 24, 25, 8, 2];
        let words: [&[u32]; 6] = [&[3, 20, 21], &[4], &[5, 22], &[6], &[7, 23, 24, 25], &[8]];
        let mut changed = 0;
        for index in 0..300 {
            let mut ids = text.to_vec();
            settings.infill(&mut draws(index), &mut ids);
            changed += usize::from(ids != text);
            assert_eq!((ids[0], ids[ids.len() - 1]), (0, 2));
            for word in words {
                let found = word.iter().filter(|id| ids.contains(id)).count();
                assert!(found == 0 || found == word.len(), "{ids:?}");
            }
            // What remains keeps its order.
            let kept: Vec<u32> = ids.iter().copied().filter(|&id| id != 19).collect();
            let mut rest = text.iter();
            assert!(kept.iter().all(|id| rest.any(|other| other == id)), "{ids:?}");
        }
        assert_eq!(changed, 300);
    }

    #[test]
    fn part_of_the_sentences_is_permuted() {
        let settings = TextInfilling { permute_ratio: 0.5, ..TextInfilling::default() };
        let mut most = 0;
        for index in 0..100 {
            let mut ids = Vec::new();
            settings.permute(&mut draws(index), &[0, 1, 2, 3, 4, 5], &[1, 2, 3, 4, 5, 6], &mut ids);
            most = most.max(ids.iter().enumerate().filter(|&(i, &id)| i as u32 != id).count());
            ids.sort();
            assert_eq!(ids, [0, 1, 2, 3, 4, 5]);
        }
        assert_eq!(most, 3);
    }

    #[test]
    fn the_smallest_texts() {
        let settings = TextInfilling { seq: 4, mask_ratio: 1.0, ..TextInfilling::default() };
        for index in 0..100 {
            for text in [&[0, 2][..], &[0, 7, 2], &[0, 7, 8, 2]] {
                let mut ids = text.to_vec();
                settings.infill(&mut draws(index), &mut ids);
                assert!(ids.len() <= 4 && ids[0] == 0 && ids[ids.len() - 1] == 2, "{ids:?}");
                // A span of two words may start at the last one.
                let kept = ids[1..ids.len() - 1].iter().filter(|&&id| id != settings.mask).count();
                assert!(kept <= text.len() / 4, "{ids:?}");
            }
        }
    }
}
