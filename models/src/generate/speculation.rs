//! Speculative decoding: guesses tokens, which the model checks in one step (Leviathan, Kalman and Matias 2023,
//! arXiv:2211.17192). Guesses from the text itself: Saxena 2023, "Prompt lookup decoding".
//!
//! ```text
//! text                  .. a b c
//! guessed                        d e f
//! extend(c d e f)    ->          d e g ..    tokens that the sampler chooses after each
//! the text is now       .. a b c d e g       d and e were guessed; f and the logits after it are dropped
//! ```
//!
//! The sampler chooses every token from logits that are bit-equal to those without speculation. So the text
//! is identical, greedy or drawn. Guesses only decide the number of steps.

use super::sampling::largest;
use crate::batch::Batch;
use crate::causal_lm::{CausalLm, Want};
use crate::error::Error;
use crate::layers::Cache;

/// Longest run of tokens that a lookup compares.
const LONGEST_RUN: usize = 3;

/// Source of guesses.
#[derive(Debug)]
pub enum Speculation<'m> {
    /// No guesses.
    None,
    /// Tokens that followed an earlier occurrence of the last few tokens, in the text or its source.
    Lookup {
        /// Upper bound of the tokens of a guess.
        tokens: usize,
    },
    /// Greedy tokens of a smaller decoder with the same vocabulary.
    Draft {
        /// The decoder.
        model: &'m mut dyn CausalLm,
        /// Upper bound of the tokens of a guess.
        tokens: usize,
    },
}

impl Speculation<'_> {
    /// Refuses a draft model that does not fit a model of `vocabulary` tokens.
    pub(crate) fn check(&self, vocabulary: usize, encodes: bool) -> Result<(), Error> {
        let refuse = |why| Err(Error::Input { name: "draft model", why });
        match self {
            Self::Draft { model, .. } if model.encodes() || encodes => {
                refuse("expected a draft and a model without an encoder, found an encoder-decoder".to_owned())
            }
            Self::Draft { model, .. } if model.vocab_size() != vocabulary => refuse(format!(
                "expected the vocabulary of the model, {vocabulary} tokens, found {}",
                model.vocab_size()
            )),
            _ => Ok(()),
        }
    }
}

/// Guesses at most `most` tokens: those after the last earlier occurrence, in `ids` or `source`, of the longest
/// run that ends `ids`.
pub(crate) fn lookup(ids: &[u32], source: &[u32], most: usize, guess: &mut Vec<u32>) {
    guess.clear();
    for run in (1..=LONGEST_RUN.min(ids.len())).rev() {
        let (before, last) = (&ids[..ids.len() - 1], &ids[ids.len() - run..]);
        // In `ids` itself the tokens after the run may reach to the end.
        for (within, text) in [(before, ids), (source, source)] {
            if let Some(at) = within.windows(run).rposition(|window| window == last) {
                let follows = &text[at + run..];
                guess.extend_from_slice(&follows[..most.min(follows.len())]);
                if !guess.is_empty() {
                    return;
                }
            }
        }
    }
}

/// Cache and guesses of a draft model for one sequence.
#[derive(Debug)]
pub(crate) struct Drafted<'s> {
    pub ids: &'s [u32],
    pub cache: &'s mut Cache,
    pub most: usize,
    pub guess: &'s mut Vec<u32>,
}

/// Lets `model` guess the most probable tokens of all sequences, up to `most` and the room of each cache.
pub(crate) fn draft(
    model: &mut dyn CausalLm,
    mut sequences: Vec<Drafted<'_>>,
    batch: &mut Batch,
    logits: &mut Vec<f32>,
) -> Result<(), Error> {
    let vocabulary = model.vocab_size();
    for s in &mut sequences {
        s.guess.clear();
        // The last token is read again, for its logits.
        s.cache.truncate(s.cache.len().min(s.ids.len() - 1));
        s.most = s.most.min((s.cache.capacity().min(model.max_tokens()) + 1).saturating_sub(s.ids.len()));
    }
    loop {
        sequences.retain(|s| s.guess.len() < s.most);
        if sequences.is_empty() {
            return Ok(());
        }
        batch.clear();
        let mut caches = Vec::with_capacity(sequences.len());
        for s in &mut sequences {
            match s.guess.last() {
                Some(last) => batch.push_ids(&[*last])?,
                None => batch.push_ids(&s.ids[s.cache.len()..])?,
            }
            caches.push(&mut *s.cache);
        }
        model.extend(batch, &mut caches, Want::Last, logits)?;
        for (s, scores) in sequences.iter_mut().zip(logits.chunks_exact(vocabulary)) {
            match largest(scores) {
                Some(id) => s.guess.push(id),
                None => s.most = s.guess.len(),
            }
        }
    }
}
