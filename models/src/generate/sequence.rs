//! A sequence from its request to its end.

use super::sampling::Sampler;
use super::settings::GenerationConfig;
use crate::causal_lm::CausalLm;
use crate::error::Error;
use crate::layers::Cache;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Request to continue a text.
#[derive(Clone, Debug)]
pub struct Request {
    /// Tokens of the prompt; for an encoder-decoder, of the source.
    pub prompt: Vec<u32>,
    /// Sampling and limits. The engine runs no beams: see [`beam_search`](super::beam_search).
    pub settings: Arc<GenerationConfig>,
    /// Seed of the sequence's random numbers.
    pub seed: u64,
}

/// Reason for the end of a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// End token, which is the last token.
    Eos,
    /// Length limit of the settings.
    Length,
    /// Length limit of the model.
    Capacity,
    /// Stopped by the [`OnToken`] callback, as at a stop string.
    Stop,
}

impl FinishReason {
    /// `eos`, `length`, `capacity` or `stop`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Eos => "eos",
            Self::Length => "length",
            Self::Capacity => "capacity",
            Self::Stop => "stop",
        }
    }
}

/// Result of a request.
#[derive(Clone, Debug)]
pub struct Finished {
    /// The number that [`Engine::submit`](super::Engine::submit) returned.
    pub id: usize,
    /// Generated tokens.
    pub tokens: Vec<u32>,
    /// Reason for the end.
    pub finish: FinishReason,
    /// Time from submission to the first token.
    pub first_token: Duration,
    /// Time from submission to the last token.
    pub total: Duration,
}

/// Callback for every token: (request number, token). `Break` ends the sequence.
pub type OnToken<'w> = &'w mut dyn FnMut(usize, u32) -> ControlFlow<()>;

/// A running sequence.
#[derive(Debug)]
pub(super) struct ActiveSequence {
    pub(super) id: usize,
    /// Tokens of the source; empty for a model without an encoder.
    pub(super) source: Vec<u32>,
    /// Tokens of the decoder: the prompt, then generated tokens.
    pub(super) ids: Vec<u32>,
    /// Number of tokens of the prompt.
    pub(super) prompt: usize,
    /// Upper bound of tokens, and the reason for an end at that bound.
    pub(super) longest: (usize, FinishReason),
    pub(super) settings: Arc<GenerationConfig>,
    pub(super) sampler: Sampler,
    /// Cache of the model, once the sequence is admitted.
    pub(super) cache: Option<Cache>,
    /// Cache of the draft model.
    pub(super) draft: Option<Cache>,
    /// Guessed tokens after `ids`.
    pub(super) guess: Vec<u32>,
    pub(super) submitted: Instant,
    pub(super) first_token: Option<Duration>,
    pub(super) end: Option<FinishReason>,
}

impl ActiveSequence {
    /// A sequence for `request`, whose number is `id`.
    pub(super) fn new(id: usize, request: Request, model: &dyn CausalLm) -> Result<Self, Error> {
        let Request { prompt, settings, seed } = request;
        settings.check().map_err(|why| Error::Input { name: "settings", why })?;
        let (source, ids) = match model.encodes() {
            true => (prompt, vec![settings.decoder_start()?]),
            false => (Vec::new(), prompt),
        };
        let (prompt, allowed) = (ids.len(), settings.longest(ids.len()));
        if prompt == 0 || model.encodes() && source.is_empty() {
            return Err(Error::Input { name: "prompt", why: "has no tokens".to_owned() });
        }
        let longest = match model.max_tokens() {
            most if most < allowed => (most, FinishReason::Capacity),
            _ => (allowed, FinishReason::Length),
        };
        if prompt >= longest.0 {
            let why = format!("{prompt} tokens leave no room, there may be {}", longest.0);
            return Err(Error::Input { name: "prompt", why });
        }
        Ok(Self {
            id,
            source,
            ids,
            prompt,
            longest,
            sampler: Sampler::new(settings.clone(), seed, prompt, allowed),
            settings,
            cache: None,
            draft: None,
            guess: Vec::new(),
            submitted: Instant::now(),
            first_token: None,
            end: None,
        })
    }

    /// Adds a token for each row of logits until a guess is wrong; returns the number of right guesses.
    pub(super) fn choose<'r>(
        &mut self,
        rows: &mut impl Iterator<Item = &'r mut [f32]>,
        watch: OnToken<'_>,
    ) -> Result<usize, Error> {
        let mut right = 0;
        for row in rows {
            let token = self.sampler.next(&self.ids, row)?;
            self.ids.push(token);
            self.first_token.get_or_insert_with(|| self.submitted.elapsed());
            let stop = watch(self.id, token).is_break();
            let guessed = self.guess.get(right) == Some(&token);
            right += usize::from(guessed);
            self.end = if self.settings.eos_token_id.contains(&token) {
                Some(FinishReason::Eos)
            } else if stop {
                Some(FinishReason::Stop)
            } else if self.ids.len() >= self.longest.0 {
                Some(self.longest.1)
            } else {
                None
            };
            if self.end.is_some() || !guessed {
                break;
            }
        }
        if let Some(cache) = &mut self.cache {
            // The cache holds wrong guesses and lacks the last token.
            cache.truncate(cache.len().min(self.ids.len() - 1));
        }
        self.guess.clear();
        Ok(right)
    }

    /// Result of the sequence.
    pub(super) fn finished(mut self) -> Finished {
        self.ids.drain(..self.prompt);
        Finished {
            id: self.id,
            tokens: self.ids,
            finish: self.end.unwrap_or(FinishReason::Stop),
            first_token: self.first_token.unwrap_or_default(),
            total: self.submitted.elapsed(),
        }
    }
}
