//! Beam search: extends several beams at once and keeps the most probable ones.
//!
//! ```text
//! each step   score(beam, token) = score(beam) + log softmax(logits of the beam)[token]
//!             of the best candidates, those with an end token are finished, the others are the new beams
//! finished    score / length^length_penalty, length in generated tokens; the best num_beams are kept
//! ```
//!
//! Candidates, order and ends follow transformers (`_beam_search`): with e end tokens,
//! max(2, 1 + e) num_beams candidates; only the first num_beams of them can finish a text. transformers
//! computes scores in f32, and so does this module.

use super::sampling::Processor;
use super::settings::{EarlyStopping, GenerationConfig};
use crate::batch::Batch;
use crate::causal_lm::{CausalLm, Want};
use crate::error::Error;
use crate::layers::Cache;
use std::sync::Arc;

/// Result of a beam search.
#[derive(Clone, Debug, PartialEq)]
pub struct Hypothesis {
    /// Generated tokens, with the end token if there is one.
    pub tokens: Vec<u32>,
    /// Log-probability / length^length_penalty.
    pub score: f32,
}

/// Unfinished continuation.
#[derive(Clone, Debug)]
struct Beam {
    /// Prompt and generated tokens.
    ids: Vec<u32>,
    /// Log-probability.
    score: f32,
    /// Index of the cache.
    cache: usize,
}

/// A beam with one more token.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    score: f32,
    beam: usize,
    token: u32,
}

/// Score of an impossible beam, as in transformers: stands for log 0.
const NEVER: f32 = -1e9;

/// Finds the `settings.num_beams` best continuations of `prompt`, best first. For an encoder-decoder `prompt` is
/// the source.
///
/// # Errors
/// [`Error::Input`] if the prompt is empty or leaves no room for a token, or the model refuses it.
pub fn beam_search(
    model: &mut dyn CausalLm,
    prompt: &[u32],
    settings: &Arc<GenerationConfig>,
) -> Result<Vec<Hypothesis>, Error> {
    settings.check().map_err(|why| Error::Input { name: "settings", why })?;
    let (n, vocabulary) = (settings.num_beams, model.vocab_size());
    let mut batch = Batch::default();
    batch.push_ids(prompt)?;
    let start = [if model.encodes() { settings.decoder_start()? } else { 0 }];
    let ids = if model.encodes() { &start } else { prompt };
    let allowed = settings.longest(ids.len());
    let longest = allowed.min(model.max_tokens());
    if ids.len() >= longest {
        let why = format!("{} tokens leave no room, there may be {longest}", ids.len());
        return Err(Error::Input { name: "prompt", why });
    }
    let kept = n * (1 + settings.eos_token_id.len()).max(2);
    if kept > n * vocabulary {
        let why = format!("{n} beams need {kept} candidates; a vocabulary of {vocabulary} tokens has fewer");
        return Err(Error::Input { name: "num_beams", why });
    }
    let mut caches = match model.encodes() {
        true => model.encode(&batch, longest)?,
        false => Vec::new(),
    };
    caches.resize_with(n, || model.cache(longest));
    let mut search = Search {
        processor: Processor::new(settings.clone(), ids.len(), allowed),
        settings,
        prompt: ids.len(),
        longest,
        // All beams start as the prompt; only the first has a possible score.
        beams: vec![Beam { ids: ids.to_vec(), score: NEVER, cache: 0 }; n],
        next: vec![Beam { ids: ids.to_vec(), score: NEVER, cache: 0 }; n],
        finished: Vec::new(),
        scores: Vec::new(),
        candidates: Vec::new(),
        kept,
    };
    search.beams[0].score = 0.0;

    let mut logits = Vec::new();
    batch.clear();
    batch.push_ids(ids)?;
    model.extend(&batch, &mut [&mut caches[0]], Want::Last, &mut logits)?;
    while search.advance(&logits, vocabulary)? {
        search.give_caches(&mut caches)?;
        batch.clear();
        // Tokens, and hence logits, are in the order of the caches.
        for cache in 0..n {
            for beam in search.beams.iter().filter(|beam| beam.cache == cache) {
                batch.push_ids(&beam.ids[beam.ids.len() - 1..])?;
            }
        }
        let mut caches: Vec<&mut Cache> = caches.iter_mut().collect();
        model.extend(&batch, &mut caches, Want::Last, &mut logits)?;
    }
    Ok(search.finished)
}

/// The state of a search.
#[derive(Debug)]
struct Search<'s> {
    settings: &'s GenerationConfig,
    processor: Processor,
    /// Number of tokens of the prompt.
    prompt: usize,
    /// Upper bound of tokens, the prompt included.
    longest: usize,
    /// Best first, as is `next`.
    beams: Vec<Beam>,
    next: Vec<Beam>,
    /// Best first, at most as many as beams.
    finished: Vec<Hypothesis>,
    /// \[vocab_size\]: scores of the tokens after one beam.
    scores: Vec<f32>,
    /// The `kept` best, best first.
    candidates: Vec<Candidate>,
    kept: usize,
}

impl Search<'_> {
    /// Adds a token to every beam; returns true if the search continues.
    fn advance(&mut self, logits: &[f32], vocabulary: usize) -> Result<bool, Error> {
        self.candidates.clear();
        for (b, beam) in self.beams.iter().enumerate() {
            self.scores.clear();
            self.scores.extend_from_slice(&logits[beam.cache * vocabulary..][..vocabulary]);
            log_softmax(&mut self.scores);
            self.processor.apply(&beam.ids, &mut self.scores);
            if self.settings.renormalize_logits {
                log_softmax(&mut self.scores);
            }
            for (&score, token) in self.scores.iter().zip(0..) {
                let score = if score.is_nan() { f32::NEG_INFINITY } else { score + beam.score };
                insert(&mut self.candidates, Candidate { score, beam: b, token }, self.kept);
            }
        }
        let n = self.beams.len();
        let length = self.beams[0].ids.len() + 1;
        if self.candidates[0].score == f32::NEG_INFINITY {
            let why = format!("no token can follow after {}: all are NaN or -inf", length - 1);
            return Err(Error::Input { name: "logits", why });
        }
        let ends = |c: &Candidate| length >= self.longest || self.settings.eos_token_id.contains(&c.token);
        for c in self.candidates[..n].iter().filter(|c| ends(c)) {
            let score = c.score / self.norm(length);
            if score > NEVER {
                let mut tokens = self.beams[c.beam].ids[self.prompt..].to_vec();
                tokens.push(c.token);
                self.finished.push(Hypothesis { tokens, score });
            }
        }
        self.finished.sort_by(|a, b| b.score.total_cmp(&a.score));
        self.finished.truncate(n);

        let all_end = self.candidates.iter().all(ends);
        // A finished candidate becomes a beam only if too few others exist; then it ranks behind them.
        let longest = self.longest;
        for c in &mut self.candidates {
            if length >= longest || self.settings.eos_token_id.contains(&c.token) {
                c.score += NEVER;
            }
        }
        self.candidates.sort_by(|a, b| b.score.total_cmp(&a.score));
        for (c, next) in self.candidates.iter().zip(&mut self.next) {
            let parent = &self.beams[c.beam];
            next.ids.clone_from(&parent.ids);
            next.ids.push(c.token);
            (next.score, next.cache) = (c.score, parent.cache);
        }
        std::mem::swap(&mut self.beams, &mut self.next);

        let (full, early) = (self.finished.len() == n, self.settings.early_stopping);
        let hoped = match early {
            EarlyStopping::Never if self.settings.length_penalty > 0.0 => self.longest,
            _ => length,
        };
        let worst = self.finished.last().filter(|_| full).map_or(NEVER, |worst| worst.score);
        let improves = self.beams[0].score / self.norm(hoped) > worst;
        Ok(improves && !(full && early == EarlyStopping::Full) && !all_end)
    }

    /// Divisor of the score of a text of `length` tokens.
    fn norm(&self, length: usize) -> f32 {
        ((length - self.prompt) as f64).powf(self.settings.length_penalty) as f32
    }

    /// Gives each beam its own cache with the tokens of its parent. The first child keeps the parent's cache;
    /// the others copy it to a free cache.
    fn give_caches(&mut self, caches: &mut [Cache]) -> Result<(), Error> {
        for b in 0..self.beams.len() {
            let from = self.beams[b].cache;
            if self.beams[..b].iter().all(|beam| beam.cache != from) {
                continue;
            }
            let unused = |to: &usize| self.beams.iter().all(|beam| beam.cache != *to);
            let Some(to) = (0..caches.len()).find(unused) else { unreachable!("two beams share a cache") };
            if let Ok([from, to]) = caches.get_disjoint_mut([from, to]) {
                to.copy_from(from)?;
            }
            self.beams[b].cache = to;
        }
        Ok(())
    }
}

/// x - max - log sum exp(x - max).
fn log_softmax(scores: &mut [f32]) {
    let most = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = scores.iter().map(|&x| f64::from(x - most).exp()).sum();
    let log = sum.ln();
    scores.iter_mut().for_each(|x| *x = (f64::from(*x) - f64::from(most) - log) as f32);
}

/// Inserts a candidate into the `most` best, behind candidates of equal score.
fn insert(candidates: &mut Vec<Candidate>, new: Candidate, most: usize) {
    if candidates.len() == most {
        if candidates.last().is_some_and(|last| last.score >= new.score) {
            return;
        }
        candidates.pop();
    }
    let at = candidates.partition_point(|c| c.score >= new.score);
    candidates.insert(at, new);
}
