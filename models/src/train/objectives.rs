//! Pre-training recipes: from documents of tokens to examples, as published.
//!
//! | recipe | objective | paper |
//! |---|---|---|
//! | BERT | [`MaskedLmNextSentence`] | Devlin et al. 2018 |
//! | RoBERTa | [`FullSentences`] | Liu et al. 2019 |
//! | ALBERT | [`SentenceOrder`] | Lan et al. 2019 |
//! | ELECTRA | [`ReplacedTokens`] | Clark et al. 2020 |
//! | T5 | [`SpanCorruption`] | Raffel et al. 2019 |
//! | BART | [`TextInfilling`] | Lewis et al. 2019 |
//! | GPT-2, LLaMA | [`NextToken`] | Radford et al. 2019 |
//!
//! An objective is a struct of plain settings whose defaults are the paper's. [`Objective::epoch`] checks the settings
//! and counts the examples of an epoch; [`Epoch::example`] makes one of them. An example is a function of
//! (settings, corpus, seed, epoch, index): a run saves no state of a generator, and any thread may make any example.
//!
//! ```
//! use tilewright::train::data::{Document, MemoryCorpus};
//! use tilewright::train::objectives::{Example, NextToken, Objective};
//!
//! let document = Document { tokens: vec![5, 6, 7], sentence_ends: vec![3] };
//! let corpus = MemoryCorpus(vec![document]);
//! let objective = NextToken { vocabulary: 10, end: Some(9), seq: 8, ..NextToken::default() };
//! let epoch = objective.epoch(&corpus, 1, 0)?;
//! let mut example = Example::default();
//! epoch.example(0, &mut example)?;
//! assert_eq!((epoch.len(), &example.ids[..], &example.labels[..]), (1, &[5, 6, 7][..], &[6, 7, 9][..]));
//! # Ok::<(), tilewright::Error>(())
//! ```

mod albert;
mod bart;
mod bert;
mod blocks;
mod causal_lm;
mod electra;
mod masking;
mod roberta;
mod segments;
mod settings;
mod stream;
mod t5;

pub use albert::SentenceOrder;
pub use bart::TextInfilling;
pub use bert::MaskedLmNextSentence;
pub use causal_lm::NextToken;
pub use electra::{ReplacedTokens, discriminator, sample};
pub use masking::Masking;
pub use roberta::FullSentences;
pub use t5::SpanCorruption;

use super::data::Corpus;
use super::random::{Draws, Purpose};
use crate::batch::below;
use crate::error::Error;

/// Label that no loss counts.
pub const IGNORED: i64 = -100;

/// One training example, without padding.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Example {
    /// Inputs of the encoder, or of the only network.
    pub ids: Vec<u32>,
    /// One for each of `ids`: 0 for the first segment, 1 for the second. Empty if the recipe has no segments.
    pub token_types: Vec<u32>,
    /// Inputs of the decoder. Empty if there is no decoder.
    pub decoder_ids: Vec<u32>,
    /// Expected token for each of `decoder_ids`, or for each of `ids` if there is no decoder. Labels are already shifted:
    /// label i is the expected output at position i. [`IGNORED`] where there is none.
    pub labels: Vec<i64>,
    /// Label of the whole sequence. BERT: 1 if the second segment is random. ALBERT: 1 if the segments are swapped.
    pub sequence_label: Option<i64>,
}

impl Example {
    /// Empties the example and keeps its memory.
    pub fn clear(&mut self) {
        self.ids.clear();
        self.token_types.clear();
        self.decoder_ids.clear();
        self.labels.clear();
        self.sequence_label = None;
    }

    /// Number of labels that a loss counts.
    pub fn predictions(&self) -> usize {
        self.labels.iter().filter(|&&label| label != IGNORED).count()
    }
}

/// A pre-training recipe.
pub trait Objective: Send + Sync {
    /// Number of token ids: every id of an example is below it.
    fn vocabulary(&self) -> u32;

    /// Counts the examples of an epoch and shuffles them.
    ///
    /// # Errors
    /// [`Error::Input`] with the name of the setting, if a setting does not fit, or named `corpus` if the corpus has no
    /// tokens or a document's sentences do not cover it. Errors of reading.
    fn epoch<'a>(&'a self, corpus: &'a dyn Corpus, seed: u64, epoch: u32) -> Result<Epoch<'a>, Error>;
}

/// Examples by number, in an order of their own.
trait Examples: Send + Sync {
    fn count(&self) -> usize;

    /// Makes an example in `into`, which is empty.
    fn make(&self, number: usize, into: &mut Example) -> Result<(), Error>;
}

/// Examples of one epoch, in random order.
pub struct Epoch<'a> {
    examples: Box<dyn Examples + 'a>,
    /// Number of the example at each index.
    order: Vec<u32>,
    vocabulary: u32,
}

impl<'a> Epoch<'a> {
    fn new(
        objective: &dyn Objective,
        examples: impl Examples + 'a,
        seed: u64,
        epoch: u32,
    ) -> Result<Self, Error> {
        let count = settings::count(examples.count(), "examples")?;
        if count == 0 {
            return settings::refuse("corpus", "gives no example".into());
        }
        let order = Draws::new(seed, epoch, 0, Purpose::Order).permutation(count);
        Ok(Self { examples: Box::new(examples), order, vocabulary: objective.vocabulary() })
    }

    /// Number of examples.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// True if the epoch has no example.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Makes the example at an index. Equal arguments give equal examples, in any order of calls.
    ///
    /// # Errors
    /// [`Error::Input`] if the corpus holds a token outside of the vocabulary. Errors of reading.
    ///
    /// # Panics
    /// If `index` is not below [`len`](Self::len).
    pub fn example(&self, index: usize, into: &mut Example) -> Result<(), Error> {
        into.clear();
        self.examples.make(self.order[index] as usize, into)?;
        below("corpus: token", &into.ids, self.vocabulary as usize)?;
        below("corpus: token", &into.decoder_ids, self.vocabulary as usize)
    }
}
