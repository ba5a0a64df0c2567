//! From the logits of a sequence's last token to the next token.
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
    /// Tokens that the decoder was given.
    prompt: usize,
    /// The most tokens, those included.
    longest: usize,
}

impl Processor {
    /// For sequences that start with `prompt` tokens and have at most `longest`.
    pub fn new(settings: Arc<GenerationConfig>, prompt: usize, longest: usize) -> Self {
        Self { settings, prompt, longest }
    }

    /// Changes `scores`, \[vocab_size\], of the token after `ids`, the prompt and what was generated.
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

/// Every token that is there already becomes less probable, once however often it is there.
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

/// Chooses the tokens of one sequence; its random numbers are the seed's, whatever happens elsewhere.
#[derive(Clone, Debug)]
pub struct Sampler {
    processor: Processor,
    random: Random,
    /// Tokens that can be drawn, with their scores.
    candidates: Vec<(f32, u32)>,
}

impl Sampler {
    /// For a sequence that starts with `prompt` tokens and has at most `longest`.
    pub fn new(settings: Arc<GenerationConfig>, seed: u64, prompt: usize, longest: usize) -> Self {
        let processor = Processor::new(settings, prompt, longest);
        Self { processor, random: Random::new(seed), candidates: Vec::new() }
    }

    /// The token after `ids`, the prompt and what was generated. `scores`, \[vocab_size\], are its logits;
    /// they are changed.
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
            // Several of the same score as the k-th all stay.
            let (_, &mut (least, _), _) = kept.select_nth_unstable_by(top_k - 1, |a, b| b.0.total_cmp(&a.0));
            kept.retain(|(score, _)| *score >= least);
        }
        // An order that only scores and ids decide, for the sums and the draw.
        if few || top_p < 1.0 {
            kept.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        }
        let most = kept.iter().map(|c| c.0).fold(f32::NEG_INFINITY, f32::max);
        let weight = |score: f32| f64::from(score - most).exp();
        if top_p < 1.0 {
            let total: f64 = kept.iter().map(|c| weight(c.0)).sum();
            // From the least probable on, as long as together they are within 1 - p; never the first.
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
        // 53 bits: all that an f64 of [0, 1) tells apart.
        let mut left = (self.random.bits() >> 11) as f64 * 2f64.powi(-53) * total;
        let drawn = kept.iter().find(|c| {
            left -= weight(c.0);
            left < 0.0
        });
        // Rounding may leave a little of the last one.
        drawn.or(kept.last()).map(|c| c.1)
    }
}

/// The place of the largest number, the first of several.
pub(crate) fn largest(scores: &[f32]) -> Option<u32> {
    let mut best = (f32::NEG_INFINITY, None);
    for (&score, id) in scores.iter().zip(0..) {
        if score > best.0 {
            best = (score, Some(id));
        }
    }
    best.1
}
