//! BART (Lewis et al. 2019, arXiv:1910.13461) and Marian (Junczys-Dowmunt et al. 2018,
//! arXiv:1804.00344): the post-norm encoder and decoder of Vaswani et al. 2017 (arXiv:1706.03762).
//!
//! ```text
//! x = LN(word[id] * scale + position[i]); scale = 1, or sqrt(D) if scale_embedding
//! encoder      each layer:  x = LN(x + dense(attention(x)))
//!                           x = LN(x + dense(activation(dense(x))))
//! decoder      each layer:  x = LN(x + dense(causal attention(x)))
//!                           x = LN(x + dense(cross-attention(x, states of the encoder)))
//!                           x = LN(x + dense(activation(dense(x))))
//! logits       head(x) + bias; head = word^T if they are tied
//! class        dense(tanh(dense(x of the last end token)))
//! ```
//!
//! | [`Family`] | positions | norm of embeddings | decoder inputs if none are given |
//! |---|---|---|---|
//! | BART | a table | yes | a start token and the encoder's inputs |
//! | Marian | sinusoids: first all sines, then all cosines | no | none: an error |

use crate::arithmetic::Arithmetic;
use crate::batch::{self, Batch};
use crate::causal_lm::{self, CausalLm, LmHead, Want};
use crate::checkpoint::weights::Weights;
use crate::error::Error;
use crate::layers::{Cache, EmbeddingTable, Linear, ModelLinear, Parameter, Parameters, Past, parameters_of};
use crate::model::{Model, Part};
use crate::output::{Each, Output};
use std::sync::Arc;
use tilewright_kernels::Activation;

mod config;
mod stack;

pub use config::{Config, Family};
use stack::{Stack, Workspace};

/// Class of transformers: the outputs of a BART or Marian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BartClass {
    /// `BartModel`, `MarianModel`: the states of the encoder and of the decoder.
    Bare,
    /// `BartForConditionalGeneration`, `MarianMTModel`: logits of the next token.
    ConditionalGeneration,
    /// `BartForSequenceClassification`: the class of a text.
    SequenceClassification,
}

/// Encoder, decoder and head.
#[derive(Debug)]
pub struct Bart {
    config: Config,
    on: Arithmetic,
    /// model.encoder.
    encoder: Stack,
    /// model.decoder.
    decoder: Stack,
    /// lm_head, \[D, vocab_size\], with final_logits_bias, \[1, vocab_size\]; the decoder's word table if tied.
    lm_head: LmHead,
    /// classification_head.
    classification_head: Option<Classifier>,
    work: Workspace,
}

/// `classification_head`.
#[derive(Debug)]
struct Classifier {
    /// dense, \[D, D\].
    dense: Linear,
    /// out_proj, \[D, classes\].
    out_proj: Linear,
}

impl Parameters for Classifier {
    fn parameters(&self) -> Vec<Parameter<'_>> {
        parameters_of(&[&self.dense, &self.out_proj])
    }
}

impl Bart {
    /// Reads the parts of `class` from `weights`, whose names may lack the prefix `model.`.
    ///
    /// # Errors
    /// See [`Weights::get`]; [`Error::Input`] if the config has a size of 0 or another impossible value.
    pub fn open(config: Config, weights: Weights, on: Arithmetic, class: BartClass) -> Result<Self, Error> {
        config.check().map_err(|why| Error::Input { name: "config", why })?;
        let weights = &weights.with_base("model.");
        let (d, words) = (config.d_model, config.decoder_words());
        let (tied, shared) = (config.tie_word_embeddings, config.share_encoder_decoder_embeddings);
        // A shared table has the name of one user or of several.
        let names = ["model.shared", "model.encoder.embed_tokens", "model.decoder.embed_tokens", "lm_head"];
        let [_, of_encoder, of_decoder, of_head] = names;
        let has = |name: &&str| weights.contains(&format!("{name}.weight"));
        let first = |names: &[&'static str]| names.iter().copied().find(has).unwrap_or(names[0]);
        let [of_encoder, of_decoder, of_head] = match (tied, shared) {
            (true, true) => [first(&names); 3],
            (true, false) => [of_encoder, first(&names[2..]), first(&names[2..])],
            (false, _) => [of_encoder, of_decoder, of_head],
        };

        let source_words = EmbeddingTable::open(weights, of_encoder, [config.vocab_size, d])?;
        let target_words = match of_decoder == of_encoder {
            true => None,
            false => Some(EmbeddingTable::open(weights, of_decoder, [words, d])?),
        };
        let lm_head = || {
            let name = "final_logits_bias";
            let bias = weights.contains(name).then(|| weights.tensor(name, &[1, words])).transpose()?;
            let own = match of_head == of_decoder {
                true => None,
                false => Some(EmbeddingTable::open(weights, of_head, [words, d])?),
            };
            let table = own.as_ref().or(target_words.as_ref()).unwrap_or(&source_words);
            Linear::from_table(table, bias, on)
        };
        let lm_head = (class == BartClass::ConditionalGeneration).then(lm_head).transpose()?;
        let classifier = || {
            let linear = |name: &str, out, on| {
                Linear::open(weights, &format!("classification_head.{name}"), [out, d], on)
            };
            let out_proj = linear("out_proj", config.num_labels(), on.exactly())?;
            Ok::<_, Error>(Classifier { dense: linear("dense", d, on)?, out_proj })
        };
        let classification_head =
            (class == BartClass::SequenceClassification).then(classifier).transpose()?;
        let source_words = Arc::new(source_words);
        let target_words = target_words.map_or(source_words.clone(), Arc::new);
        Ok(Self {
            on,
            encoder: Stack::open(&config, weights, on, source_words, false)?,
            decoder: Stack::open(&config, weights, on, target_words, true)?,
            lm_head: LmHead::new(lm_head, tied),
            classification_head,
            config,
            work: Workspace::default(),
        })
    }

    /// A model with random weights, which depend on `seed` alone.
    ///
    /// # Errors
    /// [`Error::Input`] if the config has a size of 0 or another impossible value.
    ///
    /// ```
    /// use tilewright::bart::{Bart, BartClass, Config, Family};
    /// use tilewright::causal_lm::{CausalLm, Want};
    /// use tilewright::{Arithmetic, Batch};
    /// let on = Arithmetic::f32(tilewright_kernels::Backend::best());
    /// let small = Config { vocab_size: 99, d_model: 32, max_position_embeddings: 40, ..Config::of(Family::MARIAN) };
    /// let config = Config { encoder_layers: 2, encoder_ffn_dim: 50, decoder_layers: 1, decoder_ffn_dim: 50, ..small };
    /// let mut marian = Bart::random(config, 0, on, BartClass::ConditionalGeneration)?;
    /// let (mut source, mut start, mut logits) = (Batch::default(), Batch::default(), Vec::new());
    /// source.push(&[37, 5, 0], &[0; 3])?;
    /// start.push(&[98], &[0])?;
    /// let mut caches = marian.encode(&source, 20)?;
    /// marian.extend(&start, &mut [&mut caches[0]], Want::Last, &mut logits)?;
    /// assert_eq!((logits.len(), caches[0].len()), (99, 1));
    /// # Ok::<(), tilewright::Error>(())
    /// ```
    pub fn random(config: Config, seed: u64, on: Arithmetic, class: BartClass) -> Result<Self, Error> {
        Self::open(config, Weights::random(seed), on, class)
    }

    /// Config of the model.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Computes the states of the encoder, \[tokens, D\], in `x` of the workspace.
    fn encoder_states(&mut self, sources: &Batch) -> Result<(), Error> {
        let Self { config, on, encoder, work, .. } = self;
        batch::below("input_ids", &sources.ids, config.vocab_size)?;
        batch::below("token_type_ids", &sources.types, 1)?;
        batch::below("position", &sources.positions, config.max_position_embeddings)?;
        encoder.run(config, *on, sources, &sources.positions, Past::None, work)
    }

    /// A cache for each of `sources`, without tokens. The states of the sources are in `x` of the workspace.
    fn source_caches(&mut self, sources: &Batch, capacity: usize) -> Result<Vec<Cache>, Error> {
        self.decoder.sources(self.config.d_model, sources, capacity, &mut self.work)
    }

    /// Computes the states of the decoder's `tokens`, \[tokens, D\]; also returns the head.
    fn states(&mut self, tokens: &Batch, past: Past<'_, '_>) -> Result<(&[f32], &mut LmHead), Error> {
        let Self { config, on, decoder, lm_head, work, .. } = self;
        let positions =
            causal_lm::check(tokens, &past, config.decoder_words(), config.max_position_embeddings)?;
        causal_lm::check_sources(&past)?;
        decoder.run(config, *on, tokens, &positions, past, work)?;
        Ok((work.x.get(tokens.tokens() * config.d_model), lm_head))
    }

    /// Decoder inputs for a forward pass that was given none, and the place of each token of `batch` in them. As in
    /// transformers, the inputs are a start token and all but the last column of the padded batch; the decoder sees
    /// padding as tokens.
    fn shifted(&self, batch: &Batch) -> Result<(Batch, Vec<usize>), Error> {
        let (mut decoder, mut places) = (Batch::default(), Vec::new());
        for ends in batch.starts().windows(2) {
            let (ids, columns) = (&batch.ids[ends[0]..ends[1]], &batch.positions[ends[0]..ends[1]]);
            let (before, last) = (decoder.tokens(), columns[columns.len() - 1] as usize);
            let mut shifted = vec![self.config.pad_token_id; last + 1];
            shifted[0] = self.config.decoder_start_token_id;
            for (&id, &column) in ids.iter().zip(columns).take(ids.len() - 1) {
                shifted[column as usize + 1] = id;
            }
            decoder.push(&shifted, &vec![0; shifted.len()])?;
            places.extend(columns.iter().map(|&column| before + column as usize));
        }
        Ok((decoder, places))
    }

    /// Runs encoder, decoder and head. The head reads the states at `places`, which index the tokens of `decoder`;
    /// all states if `None`.
    fn outputs(
        &mut self,
        batch: &Batch,
        decoder: &Batch,
        places: Option<&[usize]>,
    ) -> Result<Vec<Output>, Error> {
        if decoder.len() != batch.len() {
            let why = format!("expected {} sequences, found {}", batch.len(), decoder.len());
            return Err(Error::Input { name: "decoder_input_ids", why });
        }
        let d = self.config.d_model;
        let ends = self.classification_head.is_some().then(|| self.ends(batch, decoder)).transpose()?;
        self.encoder_states(batch)?;
        let encoder_states = self.work.x.get(batch.tokens() * d).to_vec();
        let mut sources = self.source_caches(batch, 0)?;
        let mut sources: Vec<_> = sources.iter_mut().collect();
        let (states, _) = self.states(decoder, Past::Sources(&mut sources))?;
        let states = match ends.as_deref().or(places) {
            Some(places) => places.iter().flat_map(|&t| &states[t * d..(t + 1) * d]).copied().collect(),
            None => states.to_vec(),
        };
        let rows = states.len() / d;
        let output = match &self.classification_head {
            None => self.lm_head.output(Each::DecoderToken, rows, &states)?,
            Some(Classifier { dense, out_proj }) => {
                let mut inside = vec![0.0; rows * d];
                dense.activated(&states, Activation::Tanh, &mut inside)?;
                let mut logits = vec![0.0; rows * out_proj.width()];
                out_proj.forward(&inside, &mut logits)?;
                Output::new("logits", Each::Sequence, rows, logits)
            }
        };
        let states = Output::new("encoder_last_hidden_state", Each::Token, batch.tokens(), encoder_states);
        Ok(vec![output, states])
    }

    /// Index of the decoder token in the column of each sequence's last end token.
    fn ends(&self, batch: &Batch, decoder: &Batch) -> Result<Vec<usize>, Error> {
        let end = self.config.eos_token_id;
        let place = |sequence: usize| {
            let [tokens, mut of_decoder] =
                [batch, decoder].map(|batch| batch.starts()[sequence]..batch.starts()[sequence + 1]);
            let Some(last) = tokens.rev().find(|&t| batch.ids[t] == end) else {
                let why = format!(
                    "sequence {sequence}: expected an end token {end}, where the class is read, found none"
                );
                return Err(Error::Input { name: "input_ids", why });
            };
            let column = batch.positions[last];
            of_decoder.find(|&t| decoder.positions[t] == column).ok_or_else(|| {
                let why = format!("sequence {sequence}: expected a token in column {column}, where the inputs end, found none");
                Error::Input { name: "decoder_input_ids", why }
            })
        };
        (0..batch.len()).map(place).collect()
    }
}

impl CausalLm for Bart {
    fn vocab_size(&self) -> usize {
        self.config.decoder_words()
    }

    fn max_tokens(&self) -> usize {
        self.config.max_position_embeddings
    }

    fn encodes(&self) -> bool {
        true
    }

    fn cache(&self, capacity: usize) -> Cache {
        self.decoder.cache(capacity)
    }

    fn encode(&mut self, sources: &Batch, capacity: usize) -> Result<Vec<Cache>, Error> {
        self.encoder_states(sources)?;
        self.source_caches(sources, capacity)
    }

    fn extend(
        &mut self,
        tokens: &Batch,
        caches: &mut [&mut Cache],
        want: Want,
        logits: &mut Vec<f32>,
    ) -> Result<(), Error> {
        self.lm_head.check()?;
        let (states, lm_head) = self.states(tokens, Past::Cached(caches))?;
        lm_head.logits(want, tokens, states, logits)
    }
}

impl Model for Bart {
    fn forward(&mut self, batch: &Batch) -> Result<Vec<Output>, Error> {
        if !self.config.family.shifts_inputs {
            let why = "missing; expected the tokens of the decoder".to_owned();
            return Err(Error::Input { name: "decoder_input_ids", why });
        }
        // `shifted` allocates up to the largest position.
        batch::below("position", &batch.positions, self.config.max_position_embeddings)?;
        let (decoder, places) = self.shifted(batch)?;
        self.outputs(batch, &decoder, Some(&places))
    }

    fn forward_pair(&mut self, batch: &Batch, decoder: &Batch) -> Result<Vec<Output>, Error> {
        self.outputs(batch, decoder, None)
    }

    fn max_length(&self) -> usize {
        self.config.max_position_embeddings
    }

    fn causal_lm(&mut self) -> Option<&mut dyn CausalLm> {
        if self.lm_head.exists() { Some(self) } else { None }
    }

    fn parts(&self) -> Vec<Part<'_>> {
        let [source, target] = [&self.encoder, &self.decoder].map(|stack| &stack.embed_tokens);
        Part::list([
            ("word embeddings", parameters_of(&[source, target])),
            ("encoder", self.encoder.parameters()),
            ("decoder", self.decoder.parameters()),
            ("head", parameters_of(&[&self.lm_head, &self.classification_head])),
        ])
    }

    /// A source's token passes the encoder and the cross-attention's keys and values; a decoder's token passes the
    /// rest.
    fn linear_layers(&self) -> Vec<ModelLinear<'_>> {
        let encoder = ModelLinear::of("encoder", self.encoder.linear(), 1);
        let decoder = ModelLinear::of("decoder", self.decoder.linear(), 1);
        encoder.chain(decoder).chain(self.lm_head.linear_layer()).collect()
    }
}
