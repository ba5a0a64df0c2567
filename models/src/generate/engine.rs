//! Continuous batching: sequences of any lengths run together; each joins and leaves at any step (Yu et al. 2022, "Orca:
//! A distributed serving system for transformer-based generative models").
//!
//! ```text
//! step          1           2           3           4
//! sequence 0    prompt      token       token       end
//! sequence 1    prompt      end
//! sequence 2                            prompt      token      admitted in the place of 1
//! ```
//!
//! One `extend` a step takes the prompts of new sequences and the last token of each running sequence, packed without
//! padding. A sequence has the same tokens alone and among any others.

use super::sequence::{ActiveSequence, Finished, OnToken, Request};
use super::speculation::{self, Drafted, Speculation};
use crate::batch::Batch;
use crate::causal_lm::{CausalLm, Want};
use crate::error::Error;
use crate::layers::Cache;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Counts and times of an engine.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Statistics {
    /// Tokens of prompts and sources.
    pub prefill_tokens: usize,
    /// Time of the steps that admitted sequences.
    pub prefill: Duration,
    /// Tokens generated in the steps that admitted none.
    pub decode_tokens: usize,
    /// Time of the steps that admitted none.
    pub decode: Duration,
    /// Tokens guessed.
    pub guessed: usize,
    /// Guesses that the sampler confirmed.
    pub accepted: usize,
}

/// Runs requests, several at a time.
///
/// ```
/// use std::{ops::ControlFlow, sync::Arc};
/// use tilewright::generate::{Engine, Request, GenerationConfig};
/// use tilewright::{Arithmetic, llama::{Config, Llama}};
/// # use tilewright_kernels::Backend;
/// let config = Config {
///     vocab_size: 50, hidden_size: 16, intermediate_size: 24,
///     num_hidden_layers: 1, num_attention_heads: 2, ..Config::default()
/// };
/// let mut model = Llama::random(config, 1, Arithmetic::f32(Backend::best()))?;
/// let settings = Arc::new(GenerationConfig { max_new_tokens: Some(5), ..GenerationConfig::default() });
/// let mut engine = Engine::new(&mut model, 2)?;
/// for prompt in [vec![3, 1, 4], vec![1, 5], vec![9]] {
///     engine.submit(Request { prompt, settings: settings.clone(), seed: 0 })?;
/// }
/// let finished = engine.run(&mut |_id, _token| ControlFlow::Continue(()))?;
/// assert_eq!(finished.iter().map(|f| (f.id, f.tokens.len())).collect::<Vec<_>>(), [(0, 5), (1, 5), (2, 5)]);
/// # Ok::<(), tilewright::Error>(())
/// ```
#[derive(Debug)]
pub struct Engine<'m> {
    model: &'m mut dyn CausalLm,
    speculation: Speculation<'m>,
    at_once: usize,
    waiting: VecDeque<ActiveSequence>,
    running: Vec<ActiveSequence>,
    finished: Vec<Finished>,
    /// Caches of sequences that ended, for new ones.
    free: Vec<Cache>,
    submitted: usize,
    batch: Batch,
    /// \[sequences or tokens, vocab_size\].
    logits: Vec<f32>,
    statistics: Statistics,
}

impl<'m> Engine<'m> {
    /// An engine that runs up to `at_once` sequences together.
    ///
    /// # Errors
    /// [`Error::Input`] if `at_once` is 0.
    pub fn new(model: &'m mut dyn CausalLm, at_once: usize) -> Result<Self, Error> {
        Self::with_speculation(model, at_once, Speculation::None)
    }

    /// An engine with speculation, which changes no token.
    ///
    /// # Errors
    /// As [`new`](Self::new), and if the draft model does not fit.
    pub fn with_speculation(
        model: &'m mut dyn CausalLm,
        at_once: usize,
        speculation: Speculation<'m>,
    ) -> Result<Self, Error> {
        if at_once == 0 {
            return Err(Error::Input { name: "at_once", why: "expected at least 1, found 0".to_owned() });
        }
        speculation.check(model.vocab_size(), model.encodes())?;
        Ok(Self {
            model,
            speculation,
            at_once,
            waiting: VecDeque::new(),
            running: Vec::new(),
            finished: Vec::new(),
            free: Vec::new(),
            submitted: 0,
            batch: Batch::default(),
            logits: Vec::new(),
            statistics: Statistics::default(),
        })
    }

    /// Queues a request and returns its number; the first is 0.
    ///
    /// # Errors
    /// [`Error::Input`] if the settings contradict each other, or the prompt is empty or leaves no room for a
    /// token.
    pub fn submit(&mut self, request: Request) -> Result<usize, Error> {
        let sequence = ActiveSequence::new(self.submitted, request, &*self.model)?;
        self.waiting.push_back(sequence);
        self.submitted += 1;
        Ok(self.submitted - 1)
    }

    /// True if all requests ended.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    /// Counts and times until now.
    pub fn statistics(&self) -> Statistics {
        self.statistics
    }

    /// Runs until all requests end, and returns the results in the order of their numbers.
    ///
    /// # Errors
    /// As [`step`](Self::step).
    pub fn run(&mut self, watch: OnToken<'_>) -> Result<Vec<Finished>, Error> {
        let mut all = Vec::new();
        while !self.is_idle() {
            all.extend(self.step(watch)?);
        }
        all.sort_unstable_by_key(|finished| finished.id);
        Ok(all)
    }

    /// Admits waiting requests while there is room, then adds a token to every sequence, or several where guesses
    /// are right. Returns the sequences that ended.
    ///
    /// # Errors
    /// See [`CausalLm::extend`].
    pub fn step(&mut self, watch: OnToken<'_>) -> Result<impl Iterator<Item = Finished>, Error> {
        let start = Instant::now();
        let old = self.running.len();
        let new_tokens = self.admit()?;
        let before = self.tokens();
        if let Speculation::None = self.speculation {
            self.extend(0, Want::Last, watch)?;
        } else {
            // Prompts run apart from guesses: a prompt needs the logits of its last token only.
            if old < self.running.len() {
                self.extend(old, Want::Last, watch)?;
            }
            if new_tokens == 0 {
                self.guess()?;
                self.extend(0, Want::All, watch)?;
            }
        }
        let (time, generated) = (start.elapsed(), self.tokens() - before);
        if new_tokens > 0 {
            self.statistics.prefill += time;
            self.statistics.prefill_tokens += new_tokens;
        } else {
            self.statistics.decode += time;
            self.statistics.decode_tokens += generated;
        }
        self.collect();
        Ok(self.finished.drain(..))
    }

    fn tokens(&self) -> usize {
        self.running.iter().map(|s| s.ids.len()).sum()
    }

    /// Gives caches to waiting sequences as long as there is room; returns the number of their tokens.
    fn admit(&mut self) -> Result<usize, Error> {
        let room = self.at_once.saturating_sub(self.running.len()).min(self.waiting.len());
        if room == 0 {
            return Ok(0);
        }
        let mut new: Vec<ActiveSequence> = self.waiting.drain(..room).collect();
        if self.model.encodes() {
            self.batch.clear();
            new.iter().try_for_each(|s| self.batch.push_ids(&s.source))?;
            let capacity = new.iter().map(|s| s.longest.0).max().unwrap_or(0);
            for (s, cache) in new.iter_mut().zip(self.model.encode(&self.batch, capacity)?) {
                s.cache = Some(cache);
            }
        }
        for s in &mut new {
            if s.cache.is_none() {
                let free = self.free.iter().position(|cache| cache.capacity() >= s.longest.0);
                s.cache = Some(match free {
                    Some(at) => self.free.swap_remove(at),
                    None => self.model.cache(s.longest.0),
                });
            }
            if let Speculation::Draft { model, .. } = &self.speculation {
                s.draft = Some(model.cache(s.longest.0.min(model.max_tokens())));
            }
        }
        let tokens = new.iter().map(|s| s.source.len() + s.ids.len()).sum();
        self.running.append(&mut new);
        Ok(tokens)
    }

    /// Fills the guesses of all sequences.
    fn guess(&mut self) -> Result<(), Error> {
        // No guess for the last allowed token: the model's own step yields it.
        let room = |s: &ActiveSequence| s.longest.0 - s.ids.len() - 1;
        match &mut self.speculation {
            Speculation::None => {}
            Speculation::Lookup { tokens } => {
                for s in &mut self.running {
                    let most = room(s).min(*tokens);
                    speculation::lookup(&s.ids, &s.source, most, &mut s.guess);
                }
            }
            Speculation::Draft { model, tokens } => {
                let mut sequences = Vec::with_capacity(self.running.len());
                for s in &mut self.running {
                    let most = room(s).min(*tokens);
                    if let ActiveSequence { ids, draft: Some(cache), guess, .. } = s {
                        sequences.push(Drafted { ids, cache, most, guess });
                    }
                }
                speculation::draft(&mut **model, sequences, &mut self.batch, &mut self.logits)?;
            }
        }
        self.statistics.guessed += self.running.iter().map(|s| s.guess.len()).sum::<usize>();
        Ok(())
    }

    /// Runs the model on the unread tokens and the guesses of the sequences from `first` on, and adds the tokens
    /// that follow.
    fn extend(&mut self, first: usize, want: Want, watch: OnToken<'_>) -> Result<(), Error> {
        self.batch.clear();
        let mut caches = Vec::with_capacity(self.running.len() - first);
        for s in &mut self.running[first..] {
            let Some(cache) = &mut s.cache else { unreachable!("given when it was admitted") };
            let seen = cache.len();
            // The model reads new and guessed tokens as one sequence.
            s.ids.extend_from_slice(&s.guess);
            let pushed = self.batch.push_ids(&s.ids[seen..]);
            s.ids.truncate(s.ids.len() - s.guess.len());
            pushed?;
            caches.push(cache);
        }
        self.model.extend(&self.batch, &mut caches, want, &mut self.logits)?;
        let mut rows = self.logits.chunks_exact_mut(self.model.vocab_size());
        for (s, ends) in self.running[first..].iter_mut().zip(self.batch.starts().windows(2)) {
            let wanted = if want == Want::All { ends[1] - ends[0] } else { 1 };
            // Logits after the last token, and after each guess.
            let mut rows = rows.by_ref().take(wanted).skip(wanted - 1 - s.guess.len());
            self.statistics.accepted += s.choose(&mut rows, watch)?;
            rows.for_each(drop);
        }
        Ok(())
    }

    /// Moves sequences that ended from `running` to `finished`.
    fn collect(&mut self) {
        let (free, finished, keep_caches) = (&mut self.free, &mut self.finished, !self.model.encodes());
        for mut s in self.running.extract_if(.., |s| s.end.is_some()) {
            if let Some(mut cache) = s.cache.take().filter(|_| keep_caches) {
                cache.truncate(0);
                free.push(cache);
            }
            finished.push(s.finished());
        }
    }
}
