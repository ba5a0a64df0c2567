//! Tokens guessed ahead, which the model then checks in one step: Leviathan, Kalman and Matias 2023,
//! arXiv:2211.17192; guesses from the text itself: Saxena 2023, "Prompt lookup decoding".
//!
//! ```text
//! text                  .. a b c
//! guessed                        d e f
//! extend(c d e f)    ->          d e g ..    what the sampler chooses after each
//! the text is now       .. a b c d e g       d and e as guessed; f and what follows it is forgotten
//! ```
//!
//! The sampler chooses every token, from the logits that it would have had without a guess: the text is
//! the same to the last bit, whether it is greedy or drawn. Guesses only decide how many steps it takes.

use super::sampling::largest;
use crate::batch::Batch;
use crate::causal_lm::{CausalLm, Want};
use crate::error::Error;
use crate::layers::Cache;

/// The longest run of tokens that a lookup asks to be the same.
const LONGEST_RUN: usize = 3;

/// Where guesses come from.
#[derive(Debug)]
pub enum Speculation<'m> {
    /// There are none.
    None,
    /// Tokens that followed an earlier occurrence of the last few tokens, in the text or its source.
    Lookup {
        /// The most tokens of a guess.
        tokens: usize,
    },
    /// A smaller decoder of the same vocabulary.
    Draft {
        /// The decoder.
        model: &'m mut dyn CausalLm,
        /// The most tokens of a guess.
        tokens: usize,
    },
}

impl Speculation<'_> {
    /// Refuses a model that cannot guess for a model of `vocabulary` tokens.
    pub(crate) fn check(&self, vocabulary: usize, encodes: bool) -> Result<(), Error> {
        let refuse = |why| Err(Error::Input { name: "draft model", why });
        match self {
            Self::Draft { model, .. } if model.encodes() || encodes => {
                refuse("only decoders without encoder can guess, and for such".to_owned())
            }
            Self::Draft { model, .. } if model.vocab_size() != vocabulary => refuse(format!(
                "expected the vocabulary of the model, {vocabulary} tokens, found {}",
                model.vocab_size()
            )),
            _ => Ok(()),
        }
    }
}

/// Tokens that followed an earlier occurrence of the longest repeated end of `ids`, in `ids` or `source`: at most `most`
/// tokens, after the last place of the run.
pub(crate) fn lookup(ids: &[u32], source: &[u32], most: usize, guess: &mut Vec<u32>) {
    guess.clear();
    for run in (1..=LONGEST_RUN.min(ids.len())).rev() {
        let (before, last) = (&ids[..ids.len() - 1], &ids[ids.len() - run..]);
        // In `ids` itself what follows may reach to the end.
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

/// Lets `model` guess the most probable tokens of all sequences, as many as each asks for and has room for.
pub(crate) fn draft(
    model: &mut dyn CausalLm,
    mut sequences: Vec<Drafted<'_>>,
    batch: &mut Batch,
    logits: &mut Vec<f32>,
) -> Result<(), Error> {
    let vocabulary = model.vocab_size();
    for s in &mut sequences {
        s.guess.clear();
        // At least the last token is read again, for its logits.
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
