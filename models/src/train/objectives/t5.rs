//! T5: span corruption.
//!
//! ```text
//! tokens    a b c d e f g h i j
//! noise         # # #       # #        spans alternate; the first is not noise, the last is
//! inputs    a b X f g h Y </s>         X, Y: sentinels, the last ids of the vocabulary counted down
//! targets   X c d e Y i j </s>
//! decoder   <pad> X c d e Y i j        its inputs: the targets moved by one
//! ```
//! Raffel et al. 2019; google-research/text-to-text-transfer-transformer, `t5/data/preprocessors.py`: `span_corruption`,
//! `random_spans_helper`, `random_spans_noise_mask`, `noise_span_to_unique_sentinel`. A segment of n tokens has
//! s = round(0.15 n) noise tokens in round(s / 3) spans, both at least 1. Lengths of noise spans are a random composition
//! of s, lengths of the others one of n - s. Followed as it is:
//! - Documents are joined without a token between them and cut into segments, 568 tokens for inputs of 512. The last
//!   segment is shorter.
//! - No sentinel follows the last noise span. (The paper's figure shows one.)
//! - A segment of one token is not noise; its target is one sentinel.
//!
//! Differences:
//! - The official code joins 128 documents at a time and uses 65536 tokens of a longer document. Here all documents are
//!   joined, in an order of the epoch, and used whole.
//! - `random_spans_helper` forgets that a short segment has one span at least, and inputs of 5 to 9 tokens are then cut.
//!   Here segments are as long as their inputs allow.
//! - With a large noise density, the official code asks for more spans than there are tokens between them, and fails. Here
//!   the number of spans is limited.

use super::settings::{self, refuse};
use super::stream::Stream;
use super::{Epoch, Example, Examples, Objective};
use crate::error::Error;
use crate::train::data::Corpus;
use crate::train::random::{Draws, Purpose};

/// T5's objective. The defaults are the paper's, with the ids of t5-small's tokenizer.
#[derive(Clone, Debug)]
pub struct SpanCorruption {
    /// Most tokens of the encoder's inputs. [`lengths`](Self::lengths) gives the targets' length.
    pub inputs: usize,
    /// Share of the tokens that are noise.
    pub noise_density: f64,
    /// Mean tokens of a noise span.
    pub mean_noise_span_length: f64,
    /// Number of token ids; the last ones are the sentinels. Models may have a larger, padded vocabulary.
    pub vocabulary: u32,
    /// Number of sentinels.
    pub sentinels: u32,
    /// First input of the decoder.
    pub pad: u32,
    /// Last token of inputs and targets.
    pub eos: u32,
}

impl Default for SpanCorruption {
    fn default() -> Self {
        Self {
            inputs: 512,
            noise_density: 0.15,
            mean_noise_span_length: 3.0,
            vocabulary: 32100,
            sentinels: 100,
            pad: 0,
            eos: 1,
        }
    }
}

impl SpanCorruption {
    /// Tokens of a segment, and of its targets: the longest segment whose inputs fit.
    ///
    /// ```
    /// use tilewright::train::objectives::SpanCorruption;
    /// assert_eq!(SpanCorruption::default().lengths()?, (568, 114));
    /// # Ok::<(), tilewright::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Input`] with the name of a setting that does not fit.
    pub fn lengths(&self) -> Result<(usize, usize), Error> {
        self.check()?;
        // `random_spans_helper` computes in f64, the noise mask in f32.
        let planned = |tokens: usize| self.spans(tokens, tokens as f64 * self.noise_density);
        let inputs = |tokens: usize, (noise, spans): (usize, usize)| tokens - noise + spans + 1;
        let mut tokens = self.inputs - 1;
        while inputs(tokens + 1, planned(tokens + 1)) <= self.inputs {
            tokens += 1;
        }
        while inputs(tokens, self.noise(tokens)) > self.inputs {
            tokens -= 1;
        }
        let (noise, spans) = planned(tokens);
        let (inputs, targets) = (inputs(tokens, (noise, spans)), noise + spans + 1);
        // The official code makes both lengths equal here.
        let equal = self.noise_density == 0.5 && targets > inputs;
        Ok((tokens - usize::from(equal), targets - usize::from(equal)))
    }

    fn check(&self) -> Result<(), Error> {
        settings::ids(self.vocabulary, [("pad", self.pad), ("eos", self.eos)])?;
        settings::length("inputs", self.inputs, 3)?;
        // Density 1 leaves no token that is not noise.
        if !(self.noise_density > 0.0 && self.noise_density <= 0.9) {
            let why = format!("expected a number above 0 and up to 0.9, found {}", self.noise_density);
            return refuse("noise_density", why);
        }
        if !(self.mean_noise_span_length >= 1.0 && self.mean_noise_span_length.is_finite()) {
            let why = format!("expected a finite number from 1 on, found {}", self.mean_noise_span_length);
            return refuse("mean_noise_span_length", why);
        }
        if self.sentinels >= self.vocabulary {
            let why = format!(
                "expected fewer than the vocabulary size {}, found {}",
                self.vocabulary, self.sentinels
            );
            return refuse("sentinels", why);
        }
        Ok(())
    }

    /// Noise tokens and noise spans of a segment of at least two tokens.
    fn noise(&self, tokens: usize) -> (usize, usize) {
        self.spans(tokens, f64::from(tokens as f32 * self.noise_density as f32))
    }

    /// Noise tokens and noise spans, from the product of tokens and density.
    fn spans(&self, tokens: usize, noise: f64) -> (usize, usize) {
        let noise = (noise.round_ties_even() as usize).max(1).min(tokens - 1);
        let spans = (noise as f32 / self.mean_noise_span_length as f32).round_ties_even() as usize;
        (noise, spans.max(1).min(tokens - noise))
    }

    /// Makes inputs, targets and the decoder's inputs of a segment.
    fn corrupt(&self, tokens: &[u32], draws: &mut Draws, into: &mut Example) {
        let mut sentinel = self.vocabulary;
        let mut next_sentinel = || {
            sentinel -= 1;
            sentinel
        };
        let Example { ids, decoder_ids, labels, .. } = into;
        decoder_ids.push(self.pad);
        if let &[token] = tokens {
            ids.push(token);
            decoder_ids.push(next_sentinel());
        } else {
            let (noise, spans) = self.noise(tokens.len());
            let noisy = composition(noise, spans, draws);
            let kept = composition(tokens.len() - noise, spans, draws);
            let mut rest = tokens;
            for (noisy, kept) in noisy.into_iter().zip(kept) {
                let sentinel = next_sentinel();
                ids.extend_from_slice(&rest[..kept]);
                ids.push(sentinel);
                decoder_ids.push(sentinel);
                decoder_ids.extend_from_slice(&rest[kept..kept + noisy]);
                rest = &rest[kept + noisy..];
            }
        }
        ids.push(self.eos);
        labels.extend(decoder_ids[1..].iter().chain([&self.eos]).map(|&id| i64::from(id)));
    }
}

/// Splits `n` items into `parts` parts of at least one item, each split with equal probability: `parts` - 1 of the
/// n - 1 gaps are cuts.
fn composition(n: usize, parts: usize, draws: &mut Draws) -> Vec<usize> {
    let mut cuts: Vec<usize> = (1..n).collect();
    draws.choose(&mut cuts, parts - 1);
    cuts.truncate(parts - 1);
    cuts.sort_unstable();
    cuts.push(n);
    let mut before = 0;
    cuts.into_iter().map(|cut| cut - std::mem::replace(&mut before, cut)).collect()
}

impl Objective for SpanCorruption {
    fn vocabulary(&self) -> u32 {
        self.vocabulary
    }

    fn epoch<'a>(&'a self, corpus: &'a dyn Corpus, seed: u64, epoch: u32) -> Result<Epoch<'a>, Error> {
        let (length, _) = self.lengths()?;
        let (_, spans) = self.noise(length);
        if spans > self.sentinels as usize {
            let why =
                format!("expected at least {spans} for inputs of {}, found {}", self.inputs, self.sentinels);
            return refuse("sentinels", why);
        }
        let mut documents = settings::documents(corpus)?;
        Draws::new(seed, epoch, 0, Purpose::Documents).shuffle(&mut documents);
        let stream = Stream::new(corpus, documents, None, None);
        Epoch::new(self, Segments { settings: self, stream, length: length as u64, seed, epoch }, seed, epoch)
    }
}

struct Segments<'a> {
    settings: &'a SpanCorruption,
    stream: Stream<'a>,
    /// Tokens of a segment.
    length: u64,
    seed: u64,
    epoch: u32,
}

impl Examples for Segments<'_> {
    fn count(&self) -> usize {
        self.stream.tokens().div_ceil(self.length) as usize
    }

    fn make(&self, number: usize, into: &mut Example) -> Result<(), Error> {
        let start = number as u64 * self.length;
        let mut tokens = Vec::with_capacity(self.length as usize);
        self.stream.read(start..self.stream.tokens().min(start + self.length), &mut tokens)?;
        let mut draws = Draws::new(self.seed, self.epoch, number as u64, Purpose::Noise);
        self.settings.corrupt(&tokens, &mut draws, into);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn lengths_are_those_of_the_official_code() {
        let lengths = |inputs, noise_density, mean_noise_span_length| {
            let settings =
                SpanCorruption { inputs, noise_density, mean_noise_span_length, ..SpanCorruption::default() };
            settings.lengths().unwrap()
        };
        assert_eq!(lengths(512, 0.15, 3.0), (568, 114));
        // The smallest inputs: one token, a sentinel and </s>.
        assert!(lengths(3, 0.15, 3.0).0 >= 2);
    }

    #[test]
    fn compositions_are_uniform() {
        let (mut counts, n) = (HashMap::new(), 12_000);
        for index in 0..n {
            let parts = composition(5, 3, &mut Draws::new(1, 0, index, Purpose::Noise));
            assert_eq!(parts.iter().sum::<usize>(), 5);
            *counts.entry(parts).or_insert(0) += 1;
        }
        // 6 compositions of 2000 each; the standard error is 41.
        assert_eq!(counts.len(), 6);
        assert!(counts.values().all(|&count: &i32| count.abs_diff(2000) < 165), "{counts:?}");
        let mut draws = Draws::new(1, 0, 0, Purpose::Noise);
        assert_eq!(composition(4, 4, &mut draws), [1; 4]);
        assert_eq!(composition(4, 1, &mut draws), [4]);
    }

    #[test]
    fn short_segments() {
        let settings = SpanCorruption::default();
        let corrupt = |tokens: &[u32]| {
            let mut example = Example::default();
            settings.corrupt(tokens, &mut Draws::new(1, 0, 0, Purpose::Noise), &mut example);
            (example.ids, example.decoder_ids, example.labels)
        };
        assert_eq!(corrupt(&[7]), (vec![7, 1], vec![0, 32099], vec![32099, 1]));
        assert_eq!(corrupt(&[7, 8]), (vec![7, 32099, 1], vec![0, 32099, 8], vec![32099, 8, 1]));
        assert_eq!(corrupt(&[7, 8, 9]), (vec![7, 8, 32099, 1], vec![0, 32099, 9], vec![32099, 9, 1]));
    }
}
