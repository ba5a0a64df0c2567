//! Models that continue sequences: what they remember of one, and how they are asked for the next token.
//!
//! ```text
//! decoder alone       extend(prompt) -> logits, extend(token) -> logits, ..
//! encoder-decoder     encode(sources), extend(start token) -> logits, extend(token) -> logits, ..
//! ```
//!
//! Every sequence has a [`Cache`] of its own, so that sequences of any lengths are extended together
//! without padding, come and go. What a model computes for a token has the same bits whether it comes
//! with a whole text, after one, alone or among other sequences.

use crate::batch::{Batch, below};
use crate::checkpoint::weights::Weights;
use crate::error::Error;
use crate::layers::{Cache, Linear, ModelLinear, Past};
use crate::output::{Each, Output};

/// For which tokens logits are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// The last of each sequence.
    Last,
    /// All.
    All,
}

/// A model that continues sequences.
pub trait CausalLm: std::fmt::Debug + Send {
    /// Number of logits of a token.
    fn vocab_size(&self) -> usize;

    /// The most tokens that a sequence may have; of a decoder, without its source.
    fn max_tokens(&self) -> usize;

    /// True if it continues sources that are encoded first.
    fn encodes(&self) -> bool {
        false
    }

    /// An empty cache of a sequence of up to `capacity` tokens; of an encoder-decoder, without a source.
    fn cache(&self, capacity: usize) -> Cache;

    /// Encodes sources, and returns an empty cache for each, of up to `capacity` tokens.
    ///
    /// # Errors
    /// [`Error::Input`] if an id or a position lies outside of its table, or the model has no encoder.
    fn encode(&mut self, sources: &Batch, capacity: usize) -> Result<Vec<Cache>, Error> {
        let _ = (sources, capacity);
        Err(Error::Input {
            name: "input_ids",
            why: "given as a source to a model without encoder".to_owned(),
        })
    }

    /// Appends each sequence of `tokens` to its cache, and writes the logits that are wanted to `logits`:
    /// \[tokens or sequences, vocab_size\].
    ///
    /// Nothing is appended in case of an error.
    ///
    /// # Errors
    /// [`Error::Input`] if the model has no head, an id lies outside of the table, there is not one cache for
    /// each sequence, or a cache has no room, or no source where the model needs one.
    fn extend(
        &mut self,
        tokens: &Batch,
        caches: &mut [&mut Cache],
        want: Want,
        logits: &mut Vec<f32>,
    ) -> Result<(), Error>;
}

/// Refuses a past that does not fit `tokens`, and tokens that are no ids; returns the position of every token.
pub(crate) fn check(
    tokens: &Batch,
    past: &Past<'_, '_>,
    vocabulary: usize,
    most: usize,
) -> Result<Vec<u32>, Error> {
    below("input_ids", &tokens.ids, vocabulary)?;
    below("token_type_ids", &tokens.types, 1)?;
    let caches = past.caches();
    if matches!(past, Past::None) {
        below("position", &tokens.positions, most)?;
        return Ok(tokens.positions.clone());
    }
    let refuse = |why| Err(Error::Input { name: "caches", why });
    if caches.len() != tokens.len() {
        return refuse(format!(
            "expected one for each of {} sequences, found {}",
            tokens.len(),
            caches.len()
        ));
    }
    let mut positions = tokens.positions.clone();
    if matches!(past, Past::Sources(_)) {
        below("position", &positions, most)?;
        return Ok(positions);
    }
    for (sequence, (ends, cache)) in tokens.starts().windows(2).zip(caches).enumerate() {
        let (new, len) = (ends[1] - ends[0], cache.len());
        let room = cache.capacity().min(most);
        if len + new > room {
            return refuse(format!(
                "sequence {sequence}: no room for {new} tokens after {len}, it holds {room}"
            ));
        }
        positions[ends[0]..ends[1]].iter_mut().for_each(|position| *position += len as u32);
    }
    below("position", &positions, most)?;
    Ok(positions)
}

/// Refuses caches that have no source.
pub(crate) fn check_sources(past: &Past<'_, '_>) -> Result<(), Error> {
    match past.caches().iter().position(|cache| cache.source.is_none()) {
        Some(sequence) => {
            Err(Error::Input { name: "caches", why: format!("sequence {sequence}: it has no source") })
        }
        None => Ok(()),
    }
}

/// The head of a language model, or the lack of one: from states of tokens, \[tokens, H\], to logits of words.
#[derive(Debug)]
pub(crate) struct LmHead {
    /// \[H, vocab_size\].
    linear: Option<Linear>,
    /// True if the head shares its weights with the word table.
    tied: bool,
    /// \[sequences, H\]: the states whose logits are wanted, where these are not all.
    rows: Vec<f32>,
}

impl LmHead {
    pub fn new(linear: Option<Linear>, tied: bool) -> Self {
        Self { linear, tied, rows: Vec::new() }
    }

    /// The names, but for `.weight`, of the word table and of the head, where the config says that they are `tied`, and whether they
    /// are: as in transformers, a file that has but one of them has it for both, and both are what they are in
    /// a file in which they differ.
    ///
    /// # Errors
    /// See [`Weights::get`].
    pub fn names<'n>(
        weights: &Weights,
        tied: bool,
        [table, head]: [&'n str; 2],
        shape: [usize; 2],
    ) -> Result<([&'n str; 2], bool), Error> {
        let [of_table, of_head] = [table, head].map(|name| format!("{name}.weight"));
        match (weights.stores(&of_table), weights.stores(&of_head)) {
            _ if !tied => Ok(([table, head], false)),
            (false, true) => Ok(([head, head], true)),
            (true, true) if weights.get(&of_table, &shape)? != weights.get(&of_head, &shape)? => {
                Ok(([table, head], false))
            }
            _ => Ok(([table, table], true)),
        }
    }

    /// True if there is one.
    pub fn exists(&self) -> bool {
        self.linear.is_some()
    }

    /// Refuses a model without head: to be asked before anything is appended to a cache.
    pub fn check(&self) -> Result<(), Error> {
        match self.exists() {
            true => Ok(()),
            false => Err(Error::Input { name: "logits", why: "the model has no head for words".to_owned() }),
        }
    }

    /// Writes the logits that `want` names, from the states of `tokens`, as [`CausalLm::extend`] does.
    pub fn logits(
        &mut self,
        want: Want,
        tokens: &Batch,
        states: &[f32],
        logits: &mut Vec<f32>,
    ) -> Result<(), Error> {
        let Self { linear: Some(linear), rows, .. } = self else { return self.check() };
        let mut wanted = states;
        if want == Want::Last && tokens.tokens() > tokens.len() {
            let width = states.len() / tokens.tokens();
            rows.clear();
            for end in &tokens.starts()[1..] {
                rows.extend_from_slice(&states[(end - 1) * width..end * width]);
            }
            wanted = rows;
        }
        let count = if want == Want::All { tokens.tokens() } else { tokens.len() };
        logits.resize(count * linear.width(), 0.0);
        linear.forward(wanted, logits)
    }

    /// The output of a model for `rows` tokens: logits, or, without head, the states themselves.
    pub fn output(&self, each: Each, rows: usize, states: &[f32]) -> Result<Output, Error> {
        let Some(linear) = &self.linear else {
            return Ok(Output::new("last_hidden_state", each, rows, states.to_vec()));
        };
        let mut logits = vec![0.0; rows * linear.width()];
        linear.forward(states, &mut logits)?;
        Ok(Output::new("logits", each, rows, logits))
    }

    /// Number of weights and biases, without the word table.
    pub fn parameters(&self) -> usize {
        let own = |linear: &Linear| linear.parameters() - if self.tied { linear.multiply_adds() } else { 0 };
        self.linear.as_ref().map_or(0, own)
    }

    /// The linear layer, as one that tokens pass.
    pub fn product(&self) -> Option<ModelLinear<'_>> {
        let tied = self.tied;
        self.linear.as_ref().map(|linear| ModelLinear { part: "head", linear, times: 1, tied })
    }
}
