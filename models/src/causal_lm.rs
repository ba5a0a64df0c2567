//! Causal language models: caches, and logits of the next token.
//!
//! ```text
//! decoder alone       extend(prompt) -> logits, extend(token) -> logits, ..
//! encoder-decoder     encode(sources), extend(start token) -> logits, extend(token) -> logits, ..
//! ```
//!
//! Every sequence has its own [`Cache`]. So sequences of any lengths are extended together without padding, and join
//! or leave at any step. The states of a token have the same bits in one pass over a whole text, after cached tokens,
//! alone, and among other sequences.

use crate::batch::{Batch, below};
use crate::checkpoint::weights::Weights;
use crate::error::Error;
use crate::labels::{self, Loss};
use crate::layers::{
    Cache, Linear, ModelLinear, Parameter, Parameters, Past, Run, Slot, linear_cross_entropy, select_rows,
};
use crate::output::{Each, Output};

/// Rows whose logits an evaluation computes at once: 52 MB for 50257 words.
const ROWS_AT_ONCE: usize = 256;

/// Tokens whose logits are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// Last token of each sequence.
    Last,
    /// All tokens.
    All,
}

/// Causal LM: a model that continues sequences.
pub trait CausalLm: std::fmt::Debug + Send {
    /// Number of logits of a token.
    fn vocab_size(&self) -> usize;

    /// Upper bound of the tokens of a sequence; the source of an encoder-decoder is not counted.
    fn max_tokens(&self) -> usize;

    /// True for an encoder-decoder, whose source is encoded first.
    fn encodes(&self) -> bool {
        false
    }

    /// An empty cache for a sequence of up to `capacity` tokens. For an encoder-decoder, the cache has no source; see
    /// [`encode`](Self::encode).
    fn cache(&self, capacity: usize) -> Cache;

    /// Encodes sources and returns an empty cache of up to `capacity` tokens for each.
    ///
    /// # Errors
    /// [`Error::Input`] if an id or a position lies outside of its table, or the model has no encoder.
    fn encode(&mut self, sources: &Batch, capacity: usize) -> Result<Vec<Cache>, Error> {
        let _ = (sources, capacity);
        Err(Error::Input {
            name: "input_ids",
            why: "given as a source to a model that has no encoder".to_owned(),
        })
    }

    /// Appends each sequence of `tokens` to its cache and writes the wanted logits, \[tokens or sequences,
    /// vocab_size\], to `logits`.
    ///
    /// After an error no cache has changed.
    ///
    /// # Errors
    /// [`Error::Input`] if the model has no head, an id lies outside of the table, the numbers of caches and
    /// sequences differ, a cache has no room, or it lacks the source that the model needs.
    fn extend(
        &mut self,
        tokens: &Batch,
        caches: &mut [&mut Cache],
        want: Want,
        logits: &mut Vec<f32>,
    ) -> Result<(), Error>;
}

/// Checks ids, caches and positions; returns the position of every token. Ids must be below `vocabulary`, positions
/// below `most`.
pub(crate) fn check(
    tokens: &Batch,
    past: &Past<'_, '_>,
    vocabulary: usize,
    most: usize,
) -> Result<Vec<u32>, Error> {
    below("input_ids", &tokens.ids, vocabulary)?;
    below("token_type_ids", &tokens.types, 1)?;
    let sequences = match past {
        Past::None => None,
        Past::Source(starts) => Some(("input_ids", starts.len().saturating_sub(1))),
        Past::Cached(caches) => Some(("caches", caches.len())),
    };
    if let Some((name, found)) = sequences
        && found != tokens.len()
    {
        let why = format!("expected one for each of {} sequences, found {found}", tokens.len());
        return Err(Error::Input { name, why });
    }
    let Some(caches) = past.caches() else {
        below("position", &tokens.positions, most)?;
        return Ok(tokens.positions.clone());
    };
    let refuse = |why| Err(Error::Input { name: "caches", why });
    for (sequence, (ends, cache)) in tokens.starts().windows(2).zip(caches).enumerate() {
        let (new, len) = (ends[1] - ends[0], cache.len());
        let room = cache.capacity().min(most);
        if len + new > room {
            return refuse(format!(
                "sequence {sequence}: no room for {new} tokens after {len}, it holds {room}"
            ));
        }
    }
    let positions = past.positions(tokens, 0).into_owned();
    below("position", &positions, most)?;
    Ok(positions)
}

/// Refuses caches without a source.
pub(crate) fn check_sources(past: &Past<'_, '_>) -> Result<(), Error> {
    let caches = past.caches().unwrap_or_default();
    match caches.iter().position(|cache| cache.source.is_none()) {
        Some(sequence) => Err(Error::Input {
            name: "caches",
            why: format!("sequence {sequence}: expected a source, found none"),
        }),
        None => Ok(()),
    }
}

/// Head of a causal LM, if the model has one: from states, \[tokens, H\], to logits, \[tokens, vocab_size\].
#[derive(Debug)]
pub(crate) struct LmHead {
    /// \[H, vocab_size\].
    linear: Option<Linear>,
    /// True if the head shares its weights with the word table.
    tied: bool,
}

impl LmHead {
    pub fn new(linear: Option<Linear>, tied: bool) -> Self {
        Self { linear, tied }
    }

    /// Names of the word table and of the head, without `.weight`, and true if both are one tensor.
    ///
    /// `tied` is the config's `tie_word_embeddings`. If it is true and the file has one of the two tensors, that tensor
    /// is both, as in transformers. If the file has both with different values, they are two tensors.
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

    /// True if the model has a head.
    pub fn exists(&self) -> bool {
        self.linear.is_some()
    }

    /// Refuses a model without a head. Callers check before they append to a cache.
    pub fn check(&self) -> Result<(), Error> {
        self.linear().map(drop)
    }

    fn linear(&self) -> Result<&Linear, Error> {
        let why = || "the model has no head for words".to_owned();
        self.linear.as_ref().ok_or_else(|| Error::Input { name: "logits", why: why() })
    }

    /// Writes the wanted logits, from the states of `tokens`: see [`CausalLm::extend`].
    pub fn logits(
        &self,
        run: &mut Run<'_>,
        want: Want,
        tokens: &Batch,
        states: Slot,
        logits: &mut Vec<f32>,
    ) -> Result<(), Error> {
        let mut wanted = states;
        if want == Want::Last && tokens.tokens() > tokens.len() {
            let last: Vec<usize> = tokens.starts()[1..].iter().map(|end| end - 1).collect();
            select_rows(run, states, &last, Slot::ROWS);
            wanted = Slot::ROWS;
        }
        self.linear()?.outputs(run, wanted, logits)
    }

    /// Output for each row of `states`: `logits`, or `last_hidden_state` if the model has no head.
    pub fn output(&self, run: &Run<'_>, each: Each, states: Slot) -> Result<Output, Error> {
        let (x, mut logits) = (run.matrix(states), Vec::new());
        let Some(linear) = &self.linear else {
            return Ok(Output::new("last_hidden_state", each, x.shape()[0], x.values().to_vec()));
        };
        linear.outputs(run, states, &mut logits)?;
        Ok(Output::new("logits", each, x.shape()[0], logits))
    }

    /// Mean cross-entropy of the words `targets`, one for each row of `states`; `count` is the number of words.
    pub fn loss(&self, run: &mut Run<'_>, states: Slot, targets: &[i64], count: f64) -> Result<Loss, Error> {
        let sum = linear_cross_entropy(run, self.linear()?, states, targets, (1.0 / count) as f32)?;
        let mut loss = Loss::default();
        loss.push("words", sum, 1.0, count);
        if !run.records() {
            self.count_right(run, states, targets, &mut loss)?;
        }
        Ok(loss)
    }

    /// Adds the number of rows whose largest logit is that of the target.
    fn count_right(
        &self,
        run: &mut Run<'_>,
        states: Slot,
        targets: &[i64],
        loss: &mut Loss,
    ) -> Result<(), Error> {
        let (rows, words) = labels::labelled(targets);
        let (mut logits, mut right) = (Vec::new(), Vec::with_capacity(words.len()));
        for (rows, words) in rows.chunks(ROWS_AT_ONCE).zip(words.chunks(ROWS_AT_ONCE)) {
            select_rows(run, states, rows, Slot::ROWS);
            self.linear()?.outputs(run, Slot::ROWS, &mut logits)?;
            let found = logits.chunks(logits.len() / words.len()).map(labels::largest);
            right.extend(found.zip(words).map(|(found, &word)| found as i64 == word));
        }
        loss.push_right("words", right.into_iter());
        Ok(())
    }

    /// The head as a linear layer of the model.
    pub fn linear_layer(&self) -> Option<ModelLinear<'_>> {
        let tied = self.tied;
        self.linear.as_ref().map(|linear| ModelLinear { part: "head", linear, times: 1, tied })
    }
}

impl Parameters for LmHead {
    /// A tied head lists the word table.
    fn parameters(&self) -> Vec<Parameter<'_>> {
        self.linear.parameters()
    }
}
