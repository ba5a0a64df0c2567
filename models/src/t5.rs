//! T5 (Raffel et al. 2019, arXiv:1910.10683), and T5 1.1 and Flan-T5 (Chung et al. 2022,
//! arXiv:2210.11416): a pre-norm encoder and decoder with relative positions.
//!
//! ```text
//! x = shared[id]
//! each layer:  x = x + o(attention(q, k, v of RMS(x)))            causal in the decoder
//!              x = x + o(attention(q of RMS(x), k, v of source))  in the decoder only
//! 1.0          x = x + wo(relu(wi(RMS(x))))
//! 1.1          x = x + wo(gelu(wi_0(h)) * wi_1(h)), h = RMS(x)
//! logits       lm_head(RMS(x)); in 1.0: shared^T RMS(x) / sqrt(D)
//! ```
//!
//! Positions enter only as a bias of the attention scores: each head has one for each bucket of distances from query
//! to key. All layers of the encoder share one table of biases, and so do all layers of the decoder. Cross-attention
//! has no bias. Dot products are not scaled: the scale is part of the initial weights.

use crate::arithmetic::Arithmetic;
use crate::batch::{self, Batch};
use crate::causal_lm::{self, CausalLm, LmHead, Want};
use crate::checkpoint::weights::Weights;
use crate::error::Error;
use crate::exchange::shifted_labels;
use crate::labels::{self, Labels, Loss};
use crate::layers::{
    Cache, EmbeddingTable, Linear, ModelLinear, Parameters, Past, Run, Selection, Slot, Workspace, scale,
};
use crate::model::{Model, Part};
use crate::output::{Each, Output};

mod config;
mod stack;

pub use config::Config;
use stack::Stack;

/// Class of transformers: the outputs of a T5.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum T5Class {
    /// `T5EncoderModel`: states of the encoder.
    Encoder,
    /// `T5Model`: states of the decoder.
    Bare,
    /// `T5ForConditionalGeneration`: logits of the next token.
    ConditionalGeneration,
}

/// The encoder, and the decoder and head of classes that have them.
#[derive(Debug)]
pub struct T5 {
    config: Config,
    on: Arithmetic,
    /// shared, \[vocab_size, D\].
    shared: EmbeddingTable,
    /// encoder.
    encoder: Stack,
    /// decoder.
    decoder: Option<Stack>,
    /// lm_head, \[D, vocab_size\]; shared if the two are tied.
    lm_head: LmHead,
    work: Workspace,
}

impl T5 {
    /// Reads the parts of `class` from `weights`. The head is `lm_head` if the checkpoint has it. Else it is the word
    /// table, unless the config forbids ties.
    ///
    /// # Errors
    /// See [`Weights::get`]; [`Error::Input`] if the config has a size of 0 or another impossible value.
    pub fn open(config: Config, weights: &Weights, on: Arithmetic, class: T5Class) -> Result<Self, Error> {
        let tied = config.tie_word_embeddings && !weights.contains("lm_head.weight");
        Self::with_head(config, weights, on, class, tied)
    }

    /// A model with random weights, which depend on `seed` alone. Its head is the word table if
    /// the config scales outputs, as in T5 1.0.
    ///
    /// # Errors
    /// [`Error::Input`] if the config has a size of 0 or another impossible value.
    ///
    /// ```
    /// use tilewright::causal_lm::{CausalLm, Want};
    /// use tilewright::t5::{T5Class, Config, T5};
    /// use tilewright::{Arithmetic, Batch};
    /// let on = Arithmetic::f32(tilewright_kernels::Backend::best());
    /// let config = Config { vocab_size: 99, d_model: 24, d_ff: 40, num_heads: 2, d_kv: 8, ..Config::default() };
    /// let mut t5 = T5::random(config, 0, on, T5Class::ConditionalGeneration)?;
    /// let (mut source, mut start, mut logits) = (Batch::default(), Batch::default(), Vec::new());
    /// source.push(&[37, 5, 1], &[0; 3])?;
    /// start.push(&[0], &[0])?;
    /// let mut caches = t5.encode(&source, 20)?;
    /// t5.extend(&start, &mut [&mut caches[0]], Want::Last, &mut logits)?;
    /// assert_eq!((logits.len(), caches[0].len()), (99, 1));
    /// # Ok::<(), tilewright::Error>(())
    /// ```
    pub fn random(config: Config, seed: u64, on: Arithmetic, class: T5Class) -> Result<Self, Error> {
        let tied = config.scale_decoder_outputs;
        Self::with_head(config, &Weights::random(seed), on, class, tied)
    }

    fn with_head(
        config: Config,
        weights: &Weights,
        on: Arithmetic,
        class: T5Class,
        tied: bool,
    ) -> Result<Self, Error> {
        config.check().map_err(|why| Error::Input { name: "config", why })?;
        // A checkpoint has the word table under one or several of these names.
        let names = ["shared", "encoder.embed_tokens", "decoder.embed_tokens"];
        let has = |name: &&str| weights.contains(&format!("{name}.weight"));
        let shared = names.into_iter().find(has).unwrap_or(names[0]);
        let (words, d) = (config.vocab_size, config.d_model);
        let head = if tied { format!("{shared}.weight") } else { "lm_head.weight".to_owned() };
        let lm_head = match class {
            T5Class::ConditionalGeneration => Some(Linear::open_as(weights, &head, None, [words, d], on)?),
            T5Class::Encoder | T5Class::Bare => None,
        };
        let decoder = match class {
            T5Class::Encoder => None,
            T5Class::Bare | T5Class::ConditionalGeneration => Some(Stack::open(&config, weights, on, true)?),
        };
        Ok(Self {
            on,
            shared: EmbeddingTable::open(weights, shared, [words, d])?,
            encoder: Stack::open(&config, weights, on, false)?,
            decoder,
            lm_head: LmHead::new(lm_head, tied),
            config,
            work: Workspace::default(),
        })
    }

    /// Config of the model.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Computes the states of the encoder, \[tokens, D\], in [`Slot::SOURCE`].
    fn encoder_states<'m>(&'m self, run: &mut Run<'m>, sources: &'m Batch) -> Result<(), Error> {
        batch::below("input_ids", &sources.ids, self.config.vocab_size)?;
        batch::below("token_type_ids", &sources.types, 1)?;
        without_holes("attention_mask", sources)?;
        let words = Selection { table: &self.shared, ids: sources.ids() };
        EmbeddingTable::sum(run, self.on, &[words], Slot::X)?;
        self.encoder.run(run, sources, Past::None)?;
        run.rename(Slot::Y, Slot::SOURCE);
        Ok(())
    }

    /// Computes the states of the decoder's `tokens`, \[tokens, D\], scaled for the head, in [`Slot::Y`].
    fn states<'m>(&'m self, run: &mut Run<'m>, tokens: &'m Batch, past: Past<'m, '_>) -> Result<(), Error> {
        let Self { config, on, shared, decoder, lm_head, .. } = self;
        let decoder = decoder.as_ref().ok_or_else(no_decoder)?;
        causal_lm::check(tokens, &past, config.vocab_size, self.max_tokens())?;
        causal_lm::check_sources(&past)?;
        without_holes("decoder_attention_mask", tokens)?;
        let words = Selection { table: shared, ids: tokens.ids() };
        EmbeddingTable::sum(run, *on, &[words], Slot::X)?;
        decoder.run(run, tokens, past)?;
        if lm_head.exists() && config.scale_decoder_outputs {
            scale(run, (config.d_model as f64).powf(-0.5) as f32, Slot::Y);
        }
        Ok(())
    }

    fn outputs<'m>(
        &'m self,
        run: &mut Run<'m>,
        batch: &'m Batch,
        decoder: &'m Batch,
    ) -> Result<Vec<Output>, Error> {
        self.encoder_states(run, batch)?;
        let states = run.matrix(Slot::SOURCE).values().to_vec();
        let states = Output::new("encoder_last_hidden_state", Each::Token, batch.tokens(), states);
        self.states(run, decoder, Past::Source(batch.starts()))?;
        Ok(vec![self.lm_head.output(run, Each::DecoderToken, Slot::Y)?, states])
    }

    /// A cache of up to `capacity` tokens for each of `sources`.
    fn source_caches<'m>(
        &'m self,
        run: &mut Run<'m>,
        sources: &'m Batch,
        capacity: usize,
    ) -> Result<Vec<Cache>, Error> {
        let decoder = self.decoder.as_ref().ok_or_else(no_decoder)?;
        self.encoder_states(run, sources)?;
        decoder.sources(run, sources.starts(), capacity)
    }
}

/// Refuses a mask with holes: the distance of two tokens is computed as the distance of their rows.
fn without_holes(name: &'static str, batch: &Batch) -> Result<(), Error> {
    for (sequence, ends) in batch.starts().windows(2).enumerate() {
        let positions = &batch.positions[ends[0]..ends[1]];
        if let Some(before) = positions.windows(2).find(|two| two[1] != two[0] + 1) {
            let why = format!(
                "hides what is between tokens {} and {} of sequence {sequence}; expected padding at its ends",
                before[0], before[1]
            );
            return Err(Error::Input { name, why });
        }
    }
    Ok(())
}

fn missing_decoder() -> Error {
    Error::Input { name: "decoder_input_ids", why: "missing; expected the tokens of the decoder".to_owned() }
}

fn no_decoder() -> Error {
    Error::Input { name: "decoder_input_ids", why: "given to a model that has no decoder".to_owned() }
}

impl CausalLm for T5 {
    fn vocab_size(&self) -> usize {
        self.config.vocab_size
    }

    /// No limit: relative positions have none.
    fn max_tokens(&self) -> usize {
        usize::MAX
    }

    fn encodes(&self) -> bool {
        true
    }

    fn cache(&self, capacity: usize) -> Cache {
        self.config.heads(self.on).caches(self.decoder.as_ref().map_or(0, Stack::len), capacity)
    }

    fn encode(&mut self, sources: &Batch, capacity: usize) -> Result<Vec<Cache>, Error> {
        let mut work = core::mem::take(&mut self.work);
        let caches = self.source_caches(&mut Run::new(&mut work), sources, capacity);
        self.work = work;
        caches
    }

    fn extend(
        &mut self,
        tokens: &Batch,
        caches: &mut [&mut Cache],
        want: Want,
        logits: &mut Vec<f32>,
    ) -> Result<(), Error> {
        self.lm_head.check()?;
        let mut work = core::mem::take(&mut self.work);
        let mut run = Run::new(&mut work);
        let done = self.states(&mut run, tokens, Past::Cached(caches));
        let done = done.and_then(|()| self.lm_head.logits(&mut run, want, tokens, Slot::Y, logits));
        self.work = work;
        done
    }
}

impl Model for T5 {
    /// Runs a model without a decoder.
    fn forward(&mut self, batch: &Batch) -> Result<Vec<Output>, Error> {
        if self.decoder.is_some() {
            return Err(missing_decoder());
        }
        let mut work = core::mem::take(&mut self.work);
        let mut run = Run::new(&mut work);
        let states = self.encoder_states(&mut run, batch);
        let states = states.map(|()| run.matrix(Slot::SOURCE).values().to_vec());
        self.work = work;
        Ok(vec![Output::new("last_hidden_state", Each::Token, batch.tokens(), states?)])
    }

    fn forward_pair(&mut self, batch: &Batch, decoder: &Batch) -> Result<Vec<Output>, Error> {
        let mut work = core::mem::take(&mut self.work);
        let outputs = self.outputs(&mut Run::new(&mut work), batch, decoder);
        self.work = work;
        outputs
    }

    /// A start token, and the labels but the last.
    fn decoder_inputs(&self, _: &Batch, labels: &[&[i64]]) -> Result<Option<Batch>, Error> {
        let Config { decoder_start_token_id: start, pad_token_id: padding, .. } = self.config;
        Ok(Some(shifted_labels(labels, [start, padding])?))
    }

    fn loss<'m>(
        &'m self,
        run: &mut Run<'m>,
        batch: &'m Batch,
        decoder: Option<&'m Batch>,
        of: &Labels,
    ) -> Result<Loss, Error> {
        let decoder = decoder.ok_or_else(missing_decoder)?;
        labels::expect("labels", of.labels.len(), decoder.tokens())?;
        self.encoder_states(run, batch)?;
        self.states(run, decoder, Past::Source(batch.starts()))?;
        self.lm_head.loss(run, Slot::Y, &of.labels, of.tokens(&of.labels))
    }

    /// No limit: relative positions have none.
    fn max_length(&self) -> usize {
        usize::MAX
    }

    fn causal_lm(&mut self) -> Option<&mut dyn CausalLm> {
        if self.lm_head.exists() { Some(self) } else { None }
    }

    fn parts(&self) -> Vec<Part<'_>> {
        let mut parts =
            vec![("word embeddings", self.shared.parameters()), ("encoder", self.encoder.parameters())];
        parts.extend(self.decoder.iter().map(|decoder| ("decoder", decoder.parameters())));
        parts.push(("head", self.lm_head.parameters()));
        Part::list(parts)
    }

    fn linear_layers(&self) -> Vec<ModelLinear<'_>> {
        let decoder = self.decoder.iter().flat_map(|decoder| ModelLinear::of("decoder", decoder.linear(), 1));
        ModelLinear::of("encoder", self.encoder.linear(), 1)
            .chain(decoder)
            .chain(self.lm_head.linear_layer())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tilewright_kernels::Backend;

    fn tiny(class: T5Class) -> T5 {
        let config =
            Config { vocab_size: 9, d_model: 8, d_kv: 3, d_ff: 5, num_heads: 2, ..Config::default() };
        T5::random(config, 0, Arithmetic::f32(Backend::PORTABLE), class).unwrap()
    }

    fn batch(mask: [i64; 4]) -> Batch {
        Batch::from_padded([1, 4], &[5, 6, 7, 8], Some(&mask), None).unwrap()
    }

    /// Padding on either side changes no distance; between tokens it would.
    #[test]
    fn masks_may_have_no_holes() {
        let mut t5 = tiny(T5Class::Bare);
        let (fine, hole) = (batch([0, 1, 1, 0]), batch([1, 0, 1, 1]));
        let mut alone = Batch::default();
        alone.push(&[6, 7], &[0, 0]).unwrap();
        assert_eq!(t5.forward_pair(&fine, &fine).unwrap(), t5.forward_pair(&alone, &alone).unwrap());
        let refused = |found: Result<_, Error>, name| {
            let error = found.map(|_: Vec<Output>| ()).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{name}: ")), "{error}");
        };
        refused(t5.forward_pair(&hole, &fine), "attention_mask");
        refused(t5.forward_pair(&fine, &hole), "decoder_attention_mask");
        refused(t5.forward(&fine), "decoder_input_ids");
        refused(tiny(T5Class::Encoder).forward_pair(&fine, &fine), "decoder_input_ids");
    }

    #[test]
    fn a_refusal_appends_nothing() {
        let (mut t5, mut logits) = (tiny(T5Class::ConditionalGeneration), Vec::new());
        let token = batch([0, 0, 1, 0]);
        let mut without = t5.cache(4);
        assert!(t5.extend(&token, &mut [&mut without], Want::All, &mut logits).is_err());
        assert!(without.is_empty());
        assert!(tiny(T5Class::Bare).causal_lm().is_none());
        assert!(tiny(T5Class::Encoder).encode(&token, 4).is_err());
    }
}
