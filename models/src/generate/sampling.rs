//! Sampling: from the logits of a sequence's last token to the next token.
//!
//! ```text
//! scores = logits
//! process:  repetition penalty, n-grams, bad words, shortest length, forced tokens, suppressed tokens
//! greedy:   the token of the largest score, the first of several
//! drawn:    scores / temperature, then only those within top-k, then top-p, then min-p;
//!           token t with probability exp(score[t]) / sum exp(score)
//! ```
//!
//! The steps and their order follow transformers.

use super::settings::GenerationConfig;
use crate::error::Error;
use std::sync::Arc;
use tilewright_kernels::random::Random;

/// Changes the scores of a sequence's next token before one is chosen.
#[derive(Clone, Debug)]
pub struct Processor {
    settings: Arc<GenerationConfig>,
    /// Number of tokens of the prompt.
    prompt: usize,
    /// Upper bound of tokens, the prompt included.
    longest: usize,
}

impl Processor {
    /// A processor for sequences of `prompt` tokens that grow to at most `longest`.
    pub fn new(settings: Arc<GenerationConfig>, prompt: usize, longest: usize) -> Self {
        Self { settings, prompt, longest }
    }

    /// Changes `scores`, \[vocab_size\], of the token after `ids` (prompt and generated tokens).
    pub fn apply(&self, ids: &[u32], scores: &mut [f32]) {
        let s = &*self.settings;
        if s.repetition_penalty != 1.0 {
            repetition(ids, s.repetition_penalty, scores);
        }
        if s.no_repeat_ngram_size > 0 && ids.len() >= s.no_repeat_ngram_size {
            let last = &ids[ids.len() + 1 - s.no_repeat_ngram_size..];
            for gram in ids.windows(s.no_repeat_ngram_size).filter(|gram| gram.starts_with(last)) {
                forbid(&gram[last.len()..], scores);
            }
        }
        for word in &s.bad_words_ids {
            if let [before @ .., last] = &word[..]
                && ids.ends_with(before)
                && !(before.is_empty() && s.eos_token_id.contains(last))
            {
                forbid(&[*last], scores);
            }
        }
        if ids.len() < s.min_new_tokens.map_or(s.min_length, |new| self.prompt.saturating_add(new)) {
            forbid(&s.eos_token_id, scores);
        }
        if let Some(bos) = s.forced_bos_token_id
            && ids.len() == 1
        {
            force(&[bos], scores);
        }
        if !s.forced_eos_token_id.is_empty() && ids.len() + 1 == self.longest {
            force(&s.forced_eos_token_id, scores);
        }
        forbid(&s.suppress_tokens, scores);
        let first = self.prompt + usize::from(self.prompt <= 1 && s.forced_bos_token_id.is_some());
        if ids.len() == first {
            forbid(&s.begin_suppress_tokens, scores);
        }
    }
}

/// Repetition penalty: lowers the score of each token that occurs, once regardless of its count.
fn repetition(ids: &[u32], penalty: f32, scores: &mut [f32]) {
    let mut seen = ids.to_vec();
    seen.sort_unstable();
    seen.dedup();
    for id in seen {
        if let Some(score) = scores.get_mut(id as usize) {
            *score = if *score < 0.0 { *score * penalty } else { *score / penalty };
        }
    }
}

fn forbid(ids: &[u32], scores: &mut [f32]) {
    for &id in ids {
        if let Some(score) = scores.get_mut(id as usize) {
            *score = f32::NEG_INFINITY;
        }
    }
}

fn force(ids: &[u32], scores: &mut [f32]) {
    scores.fill(f32::NEG_INFINITY);
    for &id in ids {
        if let Some(score) = scores.get_mut(id as usize) {
            *score = 0.0;
        }
    }
}

/// Chooses the tokens of one sequence. Its random numbers depend on its seed alone.
#[derive(Clone, Debug)]
pub struct Sampler {
    processor: Processor,
    random: Random,
    /// Tokens that can be drawn, with their scores.
    candidates: Vec<(f32, u32)>,
}

impl Sampler {
    /// A sampler for a sequence of `prompt` tokens that grows to at most `longest`.
    pub fn new(settings: Arc<GenerationConfig>, seed: u64, prompt: usize, longest: usize) -> Self {
        let processor = Processor::new(settings, prompt, longest);
        Self { processor, random: Random::new(seed), candidates: Vec::new() }
    }

    /// Chooses the token after `ids` (prompt and generated tokens). `scores`, \[vocab_size\], holds its logits and
    /// is overwritten.
    ///
    /// # Errors
    /// [`Error::Input`] if no token can follow: all scores are NaN or -inf.
    pub fn next(&mut self, ids: &[u32], scores: &mut [f32]) -> Result<u32, Error> {
        self.processor.apply(ids, scores);
        match self.processor.settings.do_sample {
            true => self.draw(scores),
            false => largest(scores),
        }
        .ok_or_else(|| Error::Input {
            name: "logits",
            why: format!("no token can follow after {}: all are NaN or -inf", ids.len()),
        })
    }

    fn draw(&mut self, scores: &[f32]) -> Option<u32> {
        let GenerationConfig { temperature, top_k, top_p, min_p, .. } = *self.processor.settings;
        let kept = &mut self.candidates;
        kept.clear();
        kept.extend(scores.iter().zip(0..).map(|(&score, id)| (score / temperature, id)));
        kept.retain(|(score, _)| *score > f32::NEG_INFINITY);
        let few = (1..kept.len()).contains(&top_k);
        if few {
            // Tokens that tie with the k-th all stay.
            let (_, &mut (least, _), _) = kept.select_nth_unstable_by(top_k - 1, |a, b| b.0.total_cmp(&a.0));
            kept.retain(|(score, _)| *score >= least);
        }
        // Sort by score and id, so that sums and draws are reproducible.
        if few || top_p < 1.0 {
            kept.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        }
        let most = kept.iter().map(|c| c.0).fold(f32::NEG_INFINITY, f32::max);
        let weight = |score: f32| f64::from(score - most).exp();
        if top_p < 1.0 {
            let total: f64 = kept.iter().map(|c| weight(c.0)).sum();
            // Drop the least probable tokens while their sum stays within 1 - p; keep the first always.
            let mut below = 0.0;
            let out = kept.iter().rev().take_while(|c| {
                below += weight(c.0) / total;
                below <= 1.0 - f64::from(top_p)
            });
            let out = out.count().min(kept.len().saturating_sub(1));
            kept.truncate(kept.len() - out);
        }
        kept.retain(|c| weight(c.0) >= f64::from(min_p));
        let total: f64 = kept.iter().map(|c| weight(c.0)).sum();
        // 53 bits: the resolution of an f64 in [0, 1).
        let mut left = (self.random.bits() >> 11) as f64 * 2f64.powi(-53) * total;
        let drawn = kept.iter().find(|c| {
            left -= weight(c.0);
            left < 0.0
        });
        // Rounding may leave a remainder after the last token.
        drawn.or(kept.last()).map(|c| c.1)
    }
}

/// Index of the largest number; the first of equal ones.
pub(crate) fn largest(scores: &[f32]) -> Option<u32> {
    let mut best = (f32::NEG_INFINITY, None);
    for (&score, id) in scores.iter().zip(0..) {
        if score > best.0 {
            best = (score, Some(id));
        }
    }
    best.1
}
