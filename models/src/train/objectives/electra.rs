//! ELECTRA: masked LM of the generator, detection of replaced tokens by the discriminator.
//!
//! ```text
//! tokens         [CLS] the  chef cooked the meal [SEP]
//! ids            [CLS] [MASK] chef [MASK] the meal [SEP]      the example: inputs of the generator
//! labels           .   the    .   cooked  .    .    .         . is ignored
//! sampled              the        ate                         by the generator, for each label
//! discriminator  [CLS] the  chef  ate   the meal [SEP]        1 where the token differs from the original
//! its labels       0    0    0     1     0    0    0
//! ```
//! Clark et al. 2020; google-research/electra, `build_pretraining_dataset.py` (segments), `pretrain/pretrain_helpers.py`
//! (`mask`, `sample_from_softmax`) and `run_pretraining.py` (`_get_fake_data`). Followed as it is:
//! - Positions are drawn with replacement: round(0.15 n) draws predict fewer different tokens, 14% of a sequence of 512.
//!   Each draw masks its token with probability 0.85, so a token drawn twice stays with 0.15^2.
//! - A sentence that follows one of the second segment still joins the first, if it fits below the first's target.
//! - Tokens that exceed the second segment's space are lost. With probability 0.1 there is one segment alone.
//! - Segments are cut once; masks change in each epoch.
//!
//! Two differences: the loss of the official code counts a token that was drawn twice twice, and puts the mean of both
//! sampled ids, rounded down, in its place. Here it counts once and has one sample. And the official code carries a short
//! target length over to the next document; here each example draws its own.

use super::masking::{self, Masking};
use super::settings::{self, refuse};
use super::{Epoch, Example, Examples, IGNORED, Objective};
use crate::error::Error;
use crate::train::data::{Corpus, Document};
use crate::train::random::{Draws, Purpose};
use std::sync::LazyLock;
use tilewright_kernels::{RandomBits, philox4x32_10};

/// Probability of an example of one segment.
const ONE_SEGMENT: f64 = 0.1;

/// Probability that the length of an example is random, and the least such length.
const RANDOM_LENGTH: f64 = 0.05;
const LEAST_LENGTH: usize = 5;

/// ELECTRA's objective. The defaults are the paper's, with the ids of electra-base-discriminator.
#[derive(Clone, Debug)]
pub struct ReplacedTokens {
    /// Most tokens of an example. The small model has 128.
    pub seq: usize,
    /// Share of the tokens that are drawn for prediction. The large model has 0.25.
    pub mask_prob: f64,
    /// Probability that a drawn token becomes the mask.
    pub mask_token_prob: f64,
    /// Masks of successive epochs. The segments are equal in all epochs.
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

impl Default for ReplacedTokens {
    fn default() -> Self {
        Self {
            seq: 512,
            mask_prob: 0.15,
            mask_token_prob: 0.85,
            masking: Masking::Dynamic,
            vocabulary: 30522,
            cls: 101,
            sep: 102,
            mask: 103,
        }
    }
}

impl Objective for ReplacedTokens {
    fn vocabulary(&self) -> u32 {
        self.vocabulary
    }

    fn epoch<'a>(&'a self, corpus: &'a dyn Corpus, seed: u64, epoch: u32) -> Result<Epoch<'a>, Error> {
        settings::ids(self.vocabulary, [("cls", self.cls), ("sep", self.sep), ("mask", self.mask)])?;
        settings::probability("mask_prob", self.mask_prob)?;
        settings::probability("mask_token_prob", self.mask_token_prob)?;
        settings::length("seq", self.seq, LEAST_LENGTH)?;
        self.masking.check()?;
        let texts = Texts::new(self, corpus, seed, self.masking.copy(epoch))?;
        Epoch::new(self, texts, seed, epoch)
    }
}

/// Pieces of documents, in whole sentences.
struct Texts<'a> {
    settings: &'a ReplacedTokens,
    corpus: &'a dyn Corpus,
    seed: u64,
    copy: u32,
    /// Document, first sentence and number of sentences of each text.
    texts: Vec<(u32, u32, u32)>,
}

impl<'a> Texts<'a> {
    fn new(
        settings: &'a ReplacedTokens,
        corpus: &'a dyn Corpus,
        seed: u64,
        copy: u32,
    ) -> Result<Self, Error> {
        let mut all = Self { settings, corpus, seed, copy, texts: Vec::new() };
        let mut document = Document::default();
        for number in settings::documents(corpus)? {
            settings::read(corpus, number, &mut document)?;
            let ends = &document.sentence_ends;
            settings::count(ends.len(), "sentences")?;
            let (mut sentence, mut start) = (0, 0);
            while sentence < ends.len() {
                let target = all.target(all.texts.len());
                // The sentence that reaches the target belongs to the text.
                let more = ends[sentence..].partition_point(|&end| end < start + target) + 1;
                let sentences = more.min(ends.len() - sentence);
                all.texts.push((number, sentence as u32, sentences as u32));
                sentence += sentences;
                start = ends[sentence - 1];
            }
        }
        Ok(all)
    }

    /// Tokens of a text.
    fn target(&self, text: usize) -> usize {
        let mut draws = Draws::new(self.seed, 0, text as u64, Purpose::Length);
        if draws.chance(RANDOM_LENGTH) {
            draws.between(LEAST_LENGTH, self.settings.seq)
        } else {
            self.settings.seq
        }
    }

    /// Divides sentences, given by their ends after `start`, into two segments. A sentence joins the first segment while
    /// that stays below its target, and with probability 1/2 if it is the first beyond.
    fn divide(
        &self,
        draws: &mut Draws,
        tokens: &[u32],
        start: usize,
        ends: &[usize],
        target: usize,
    ) -> [Vec<u32>; 2] {
        let most = if draws.chance(ONE_SEGMENT) { usize::MAX } else { target.saturating_sub(3) / 2 };
        let [mut first, mut second] = [const { Vec::new() }; 2];
        let mut start = start;
        for &end in ends {
            let sentence = &tokens[start..end];
            let joins = first.is_empty()
                || first.len() + sentence.len() < most
                || (second.is_empty() && first.len() < most && draws.chance(0.5));
            let segment = if joins { &mut first } else { &mut second };
            segment.extend_from_slice(sentence);
            start = end;
        }
        [first, second]
    }
}

impl Examples for Texts<'_> {
    fn count(&self) -> usize {
        self.texts.len()
    }

    fn make(&self, number: usize, into: &mut Example) -> Result<(), Error> {
        let (document, sentence, sentences) = self.texts[number];
        let (sentence, sentences) = (sentence as usize, sentences as usize);
        let mut text = Document::default();
        settings::read(self.corpus, document, &mut text)?;
        let start = if sentence == 0 { 0 } else { text.sentence_ends[sentence - 1] };
        let ends = &text.sentence_ends[sentence..sentence + sentences];
        let mut draws = Draws::new(self.seed, 0, number as u64, Purpose::Tokens);
        let target = self.target(number);
        let [mut first, mut second] = self.divide(&mut draws, &text.tokens, start, ends, target);
        let ReplacedTokens { seq, cls, sep, .. } = *self.settings;
        first.truncate(seq - 2);
        second.truncate((seq - first.len()).saturating_sub(3));
        into.ids.push(cls);
        into.ids.append(&mut first);
        into.ids.push(sep);
        into.token_types.resize(into.ids.len(), 0);
        if !second.is_empty() {
            into.ids.append(&mut second);
            into.ids.push(sep);
            into.token_types.resize(into.ids.len(), 1);
        }
        self.settings.mask_tokens(&mut Draws::new(self.seed, self.copy, number as u64, Purpose::Noise), into);
        Ok(())
    }
}

impl ReplacedTokens {
    fn mask_tokens(&self, draws: &mut Draws, example: &mut Example) {
        let special = |id: u32| id == self.cls || id == self.sep || id == self.mask;
        let places: Vec<usize> = (0..example.ids.len()).filter(|&i| !special(example.ids[i])).collect();
        example.labels.resize(example.ids.len(), IGNORED);
        if places.is_empty() {
            return;
        }
        // `max_predictions_per_seq` of `configure_pretraining.py`; the official code rounds in f32.
        let most = ((self.mask_prob + 0.005) * self.seq as f64) as usize;
        let n = (example.ids.len() as f32 * self.mask_prob as f32).round_ties_even() as usize;
        let drawn: Vec<usize> = (0..n.min(most).max(1)).map(|_| places[draws.below(places.len())]).collect();
        masking::label(example, &drawn);
        for i in drawn {
            if draws.chance(self.mask_token_prob) {
                example.ids[i] = self.mask;
            }
        }
    }
}

/// Makes the discriminator's inputs and labels from a batch of examples: `sampled` has a token for each label that is not
/// [`IGNORED`]. A label is 1 where the sampled token differs from the original, and 0 elsewhere.
///
/// ```
/// use tilewright::train::objectives::discriminator;
/// let (mut ids, mut labels) = (Vec::new(), Vec::new());
/// discriminator(&[1, 103, 6, 103], &[-100, 5, -100, 7], &[5, 8], &mut ids, &mut labels)?;
/// assert_eq!((ids, labels), (vec![1, 5, 6, 8], vec![0.0, 0.0, 0.0, 1.0]));
/// # Ok::<(), tilewright::Error>(())
/// ```
///
/// # Errors
/// [`Error::Input`] if the lengths do not fit.
pub fn discriminator(
    ids: &[u32],
    labels: &[i64],
    sampled: &[u32],
    inputs: &mut Vec<u32>,
    replaced: &mut Vec<f32>,
) -> Result<(), Error> {
    if labels.len() != ids.len() {
        return refuse(
            "labels",
            format!("expected {} values, one for each id, found {}", ids.len(), labels.len()),
        );
    }
    let predictions = labels.iter().filter(|&&label| label != IGNORED).count();
    if sampled.len() != predictions {
        let why = format!("expected {predictions} tokens, one for each label, found {}", sampled.len());
        return refuse("sampled", why);
    }
    inputs.clear();
    replaced.clear();
    let mut sampled = sampled.iter();
    for (&id, &label) in ids.iter().zip(labels) {
        let token = if label == IGNORED { id } else { sampled.next().copied().unwrap_or(id) };
        inputs.push(token);
        replaced.push(if label == IGNORED || i64::from(token) == label { 0.0 } else { 1.0 });
    }
    Ok(())
}

/// Samples a token from the softmax of logits: argmax(logit - ln(-ln u)), where u of token j comes from
/// `random.at(row, j)`. `row` is the position's number in the batch. Equal sums give the lowest token; a token with a NaN
/// logit is never sampled, unless all are NaN: then token 0 is.
///
/// The official code computes the Gumbel noise from f32 numbers and adds 1e-9 inside both logarithms, so its noise ends
/// at 20.7. Here u is (bits + 1/2) / 2^32, and the noise ends at 22.9.
///
/// ```
/// use tilewright::train::objectives::sample;
/// use tilewright_kernels::RandomBits;
/// let random = RandomBits { seed: 1, step: 2, site: 3 };
/// assert_eq!(sample(&[0.0, 100.0, 0.0], random, 7), 1);
/// ```
pub fn sample(logits: &[f32], random: RandomBits, row: u32) -> u32 {
    /// Counters of a span of 64 columns; the layout is the one of [`RandomBits`].
    const COUNTERS: u32 = 16;
    let key = [random.seed as u32, (random.seed >> 32) as u32];
    let (mut best, mut token) = (f64::NEG_INFINITY, None);
    let mut offer = |column: usize, bits: u32| {
        let Some(logit) = logits.get(column).map(|&logit| f64::from(logit)) else { return };
        // Most tokens cannot win: two logarithms are saved.
        if logit + LARGEST_NOISE[(bits >> 24) as usize] < best {
            return;
        }
        let value = logit + gumbel(bits);
        if value > best || (value == best && token.is_none_or(|token| column < token)) {
            (best, token) = (value, Some(column));
        }
    };
    for c0 in 0..logits.len().div_ceil(64) as u32 * COUNTERS {
        let words = philox4x32_10([c0, row, random.site, random.step], key);
        let first = (c0 / COUNTERS * 64 + c0 % COUNTERS) as usize;
        for (word, &bits) in words.iter().enumerate() {
            offer(first + word * COUNTERS as usize, bits);
        }
    }
    token.unwrap_or(0) as u32
}

/// Gumbel noise of 32 bits.
fn gumbel(bits: u32) -> f64 {
    let u = (f64::from(bits) + 0.5) / 2f64.powi(32);
    -(-u.ln()).ln()
}

/// Upper bound of the noise of bits with these 8 high bits.
static LARGEST_NOISE: LazyLock<[f64; 256]> =
    LazyLock::new(|| std::array::from_fn(|high| gumbel((high as u32) << 24 | 0xff_ffff) + 1e-9));

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::data::MemoryCorpus;

    #[test]
    fn samples_are_the_definition() {
        for n in [1, 5, 16, 63, 64, 65, 1000] {
            let random = RandomBits { seed: 5 << 33 | 8, step: 9, site: 4 };
            for row in 0..20 {
                let logits: Vec<f32> =
                    (0..n).map(|j| ((j * 7919 + row as usize * 31) % 97) as f32 / 20.0).collect();
                let value = |j: usize| f64::from(logits[j]) + gumbel(random.at(row, j as u32));
                let expected = (0..n).max_by(|&a, &b| value(a).total_cmp(&value(b))).unwrap();
                assert_eq!(sample(&logits, random, row), expected as u32, "{n} {row}");
            }
        }
    }

    #[test]
    fn samples_follow_the_softmax() {
        let p = [0.5f32, 0.25, 0.15, 0.1, 0.0];
        let (logits, n) = (p.map(f32::ln), 20_000);
        let mut counts = [0; 5];
        for row in 0..n {
            counts[sample(&logits, RandomBits { seed: 3, step: 1, site: 0 }, row) as usize] += 1;
        }
        for (count, p) in counts.iter().zip(p.map(f64::from)) {
            let (share, error) = (f64::from(*count) / f64::from(n), (p * (1.0 - p) / f64::from(n)).sqrt());
            assert!((share - p).abs() <= 4.0 * error, "{share}, expected {p}");
        }
    }

    #[test]
    fn logits_that_are_not_finite() {
        let random = RandomBits::default();
        assert_eq!(sample(&[f32::NAN, f32::NAN], random, 0), 0);
        assert_eq!(sample(&[f32::NAN, f32::NEG_INFINITY, 1.0], random, 0), 2);
        assert_eq!(sample(&[f32::NAN, f32::NEG_INFINITY], random, 0), 1);
        assert_eq!(sample(&[1.0, f32::INFINITY, f32::INFINITY], random, 0), 1);
        assert_eq!(sample(&[], random, 0), 0);
    }

    #[test]
    fn lengths_that_do_not_fit_are_refused() {
        let refused = |labels: &[i64], sampled: &[u32]| {
            let (mut ids, mut replaced) = (Vec::new(), Vec::new());
            discriminator(&[1, 2], labels, sampled, &mut ids, &mut replaced).unwrap_err().to_string()
        };
        assert_eq!(refused(&[1], &[1]), "labels: expected 2 values, one for each id, found 1");
        assert_eq!(refused(&[1, -100], &[]), "sampled: expected 1 tokens, one for each label, found 0");
        assert_eq!(refused(&[-100, -100], &[1]), "sampled: expected 0 tokens, one for each label, found 1");
    }

    #[test]
    fn special_tokens_are_never_predicted() {
        let settings =
            ReplacedTokens { seq: 16, mask_prob: 1.0, vocabulary: 110, ..ReplacedTokens::default() };
        let tokens = vec![101, 102, 103, 7, 8, 101, 102];
        let corpus = MemoryCorpus(vec![
            Document { sentence_ends: vec![3, 7], tokens },
            Document { tokens: vec![102, 103], sentence_ends: vec![2] },
        ]);
        for e in 0..50 {
            let epoch = settings.epoch(&corpus, 1, e).unwrap();
            for index in 0..epoch.len() {
                let mut example = Example::default();
                epoch.example(index, &mut example).unwrap();
                assert!(example.ids.len() <= 16);
                assert_eq!(example.token_types.len(), example.ids.len());
                let labels = example.labels.iter().filter(|&&label| label != IGNORED);
                assert!(labels.clone().all(|&label| label == 7 || label == 8), "{example:?}");
                // The second document has special tokens alone.
                assert_eq!(labels.count() > 0, example.ids.len() > 6, "{example:?}");
            }
        }
    }
}
